"""The life of a subscription: start, renewal, overdue payment, and end.

Flexible billing mode, charged automatically. A trial is a first period of nothing; it ends with a renewal, or without a
card as `trial_settings` says.
"""

from decimal import Decimal

from infra.local.stripe.clock import DAY, HOUR, next_period_end
from infra.local.stripe.discounts import redeem, use_up
from infra.local.stripe.errors import ApiError, Json, card_declined, missing_param, unsupported
from infra.local.stripe.invoice_lifecycle import (
    OUTCOME_HANDLERS,
    collect,
    default_card,
    finalize,
    intent_of,
    make_invoice,
    void,
)
from infra.local.stripe.invoice_lines import pending_items, subscription_id_of
from infra.local.stripe.schedules import release, start_phase
from infra.local.stripe.state import State, list_object, scheduled_action
from infra.local.stripe.subscription_items import (
    ENDED,
    billing_interval,
    item_amount,
    items_of,
    make_period_line,
    make_subscription_item,
    period_of,
    recurring_price,
)
from infra.local.stripe.taxes import automatic_tax, check_behavior

INCOMPLETE_FOR = 23 * HOUR
TRIAL_NOTICE = 3 * DAY
TRIAL_PARAMS = "trial_end trial_settings trial_settings.end_behavior trial_settings.end_behavior.missing_payment_method"


def start(
    state: State,
    customer: Json,
    params: Json,
    card: Json | None,
    processing: bool = False,
    is_confirmed: bool = False,
) -> Json:
    """A new subscription, and its first invoice charged to the card. `processing`: the payment is delayed.
    `is_confirmed`: the customer confirms the payment if the bank asks.

    Raises ApiError, 402, for a declined card with `payment_behavior=error_if_incomplete`.
    """
    if not params.get("items"):
        raise missing_param("items")
    prices = [recurring_price(state, entry, f"items[{index}]") for index, entry in enumerate(params["items"])]
    if len({(billing_interval(price), price["currency"]) for price in prices}) != 1:
        raise unsupported("prices of several intervals or currencies in one subscription", "items")
    check_currency(state, customer, prices[0]["currency"])
    customer["currency"] = prices[0]["currency"]
    if automatic_tax(params)["enabled"]:
        for price in prices:
            check_behavior(price)
    behavior = params.get("payment_behavior", "allow_incomplete")
    if behavior == "pending_if_incomplete":
        raise ApiError("pending_if_incomplete is for updates.", param="payment_behavior")
    subscription = _make_subscription(state, customer, params, prices)
    items = items_of(subscription)
    due = 0 if subscription["status"] == "trialing" else sum(item_amount(item) for item in items)
    if (
        due
        and behavior == "error_if_incomplete"
        and not processing
        and not (card and card["_works"] and not card["_asks"])
    ):
        del state.objects[subscription["id"]]
        raise card_declined()
    schedule_end(state, subscription, params)
    state.emit("customer.subscription.created", subscription)
    if subscription["status"] == "trialing":
        at = max(state.now, subscription["trial_end"] - TRIAL_NOTICE)
        state.clock.schedule(at, "trial_will_end", subscription["id"])
    lines = [make_period_line(state, subscription, item) for item in items]
    pending = pending_items(state, customer["id"], subscription["currency"], subscription["id"])
    invoice = make_subscription_invoice(state, subscription, "subscription_create", lines, pending)
    finalize(state, invoice)
    if invoice["status"] == "open" and processing:
        intent = intent_of(state, invoice)
        assert intent is not None
        intent["status"] = "processing"
        state.emit("payment_intent.processing", intent)
        set_status(state, subscription, "active")
    elif invoice["status"] == "open" and behavior != "default_incomplete":
        collect(state, invoice, card, is_confirmed=is_confirmed)
    if subscription["status"] == "incomplete":
        state.clock.schedule(state.now + INCOMPLETE_FOR, "expire_incomplete", subscription["id"])
    state.clock.schedule(period_of(subscription)[1], "renew", subscription["id"])
    return subscription


def check_currency(state: State, customer: Json, currency: str) -> None:
    """Raises ApiError if a subscription or a pending invoice item of the customer has another currency."""
    held = {
        one["currency"]
        for kind in ("subscription", "invoiceitem")
        for one in state.objects_of(kind)
        if one["customer"] == customer["id"]
        and (one["status"] not in ENDED if kind == "subscription" else one["invoice"] is None)
    } - {currency}
    if held:
        raise ApiError(
            "You cannot combine currencies on a single customer. This customer has an active subscription, "
            f"subscription schedule, discount, quote, or invoice item with currency {min(held)}."
        )
    customer["currency"] = currency


def _make_subscription(state: State, customer: Json, params: Json, prices: list[Json]) -> Json:
    """A new subscription with its items; the caller emits the event."""
    now, trial_end = state.now, _trial_end(state, params)
    period = (now, trial_end or next_period_end(now, *billing_interval(prices[0]), now))
    subscription_id = state.new_id("sub")
    subscription = state.add(
        {
            "id": subscription_id,
            "object": "subscription",
            "application": None,
            "application_fee_percent": None,
            "automatic_tax": automatic_tax(params),
            "billing_cycle_anchor": trial_end or now,
            "billing_cycle_anchor_config": None,
            "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible", "updated_at": now},
            "billing_schedules": [],
            "billing_thresholds": None,
            "cancel_at": None,
            "cancel_at_period_end": False,
            "canceled_at": None,
            "cancellation_details": {"comment": None, "feedback": None, "reason": None},
            "collection_method": "charge_automatically",
            "created": now,
            "currency": prices[0]["currency"],
            "customer": customer["id"],
            "days_until_due": None,
            "default_payment_method": params.get("default_payment_method"),
            "default_source": None,
            "default_tax_rates": [],
            "description": params.get("description") or None,
            "discounts": [],
            "ended_at": None,
            "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
            "items": list_object([], f"/v1/subscription_items?subscription={subscription_id}"),
            "latest_invoice": None,
            "livemode": False,
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "next_pending_invoice_item_invoice": None,
            "on_behalf_of": None,
            "pause_collection": None,
            "payment_settings": {
                "payment_method_options": None,
                "payment_method_types": None,
                "save_default_payment_method": params.get("payment_settings", {}).get(
                    "save_default_payment_method", "off"
                ),
            },
            "pending_invoice_item_interval": None,
            "pending_setup_intent": None,
            "pending_update": None,
            "schedule": None,
            "start_date": now,
            "status": "trialing" if trial_end else "incomplete",
            "test_clock": None,
            "transfer_data": None,
            "trial_end": trial_end,
            "trial_settings": {
                "end_behavior": {
                    "missing_payment_method": "create_invoice",
                    **params.get("trial_settings", {}).get("end_behavior", {}),
                }
            },
            "trial_start": now if trial_end else None,
        }
    )
    subscription["discounts"] = redeem(state, params.get("discounts") or [], customer, subscription=subscription_id)
    items = zip(prices, params["items"], strict=True)
    subscription["items"]["data"] = [
        make_subscription_item(state, subscription, price, entry, period) for price, entry in items
    ]
    return subscription


def _trial_end(state: State, params: Json) -> int | None:
    """When the trial of a new subscription ends; None without one."""
    if "trial_end" in params and "trial_period_days" in params:
        raise ApiError("You may only specify one of these parameters: trial_end, trial_period_days.")
    days = params.get("trial_period_days", 0)
    end = params.get("trial_end", state.now + days * DAY)
    if end in ("now", state.now):
        return None
    if not state.now < end <= state.now + 730 * DAY:
        raise ApiError("A trial ends in the future, in at most 730 days.", param="trial_end")
    return int(end)


@scheduled_action("trial_will_end")
def trial_will_end(state: State, subscription_id: str) -> None:
    """Three days before the end of the trial; at once where it is shorter."""
    subscription = state.objects[subscription_id]
    if subscription["status"] == "trialing":
        state.emit("customer.subscription.trial_will_end", subscription)


def _end_without_card(state: State, subscription: Json) -> bool:
    """End or pause a subscription whose trial ends without a card. Returns whether it did."""
    customer = state.objects[subscription["customer"]]
    if subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]:
        return False
    behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    if behavior == "cancel":
        end(state, subscription, "cancellation_requested")
    elif behavior == "pause":
        set_status(state, subscription, "paused")
        state.emit("customer.subscription.paused", subscription)
    return bool(behavior != "create_invoice")


def start_period_now(state: State, subscription: Json) -> None:
    """Start a new period and charge it: the end of a trial or of a pause."""
    next_end = next_period_end(state.now, *billing_interval(items_of(subscription)[0]["price"]), state.now)
    subscription["billing_cycle_anchor"] = state.now
    for item in items_of(subscription):
        item |= {"current_period_start": state.now, "current_period_end": next_end}
    lines = [make_period_line(state, subscription, item) for item in items_of(subscription)]
    pending = pending_items(state, subscription["customer"], subscription["currency"], subscription["id"])
    state.clock.schedule(next_end, "renew", subscription["id"])
    finalize_and_collect(state, make_subscription_invoice(state, subscription, "subscription_update", lines, pending))


def end_trial(state: State, subscription: Json) -> None:
    """End the trial now; the first period starts and is charged."""
    subscription |= {"status": "active", "trial_end": state.now}
    start_period_now(state, subscription)


def make_subscription_invoice(
    state: State,
    subscription: Json,
    reason: str,
    lines: list[Json],
    items: list[Json],
    period: tuple[int, int] | None = None,
    auto_advance: bool = False,
) -> Json:
    """A draft with the lines and the items, which becomes the latest invoice of the subscription."""
    customer = state.objects[subscription["customer"]]
    invoice = make_invoice(
        state,
        customer,
        subscription["currency"],
        reason,
        lines,
        items,
        subscription,
        period,
        auto_advance=auto_advance,
        automatic_tax=dict(subscription["automatic_tax"]),
    )
    subscription["latest_invoice"] = invoice["id"]
    for line in lines:
        if line["amount"]:
            net = line["amount"] - sum(one["amount"] for one in line["discount_amounts"])
            item = line["parent"]["subscription_item_details"]["subscription_item"]
            state.objects[item]["_net_part"] = str(Decimal(net) / line["amount"])
    use_up(state, subscription, invoice)
    return invoice


def finalize_and_collect(state: State, invoice: Json) -> None:
    if finalize(state, invoice) and invoice["status"] == "open":
        collect(state, invoice, default_card(state, invoice))


@scheduled_action("renew")
def renew(state: State, subscription_id: str) -> None:
    """At the end of a period: start the next one with a draft, or end the subscription."""
    subscription = state.objects[subscription_id]
    start, period_end = period_of(subscription)
    if subscription["status"] in (*ENDED, "incomplete", "paused") or period_end > state.now:
        return
    if subscription["cancel_at"] is not None and subscription["cancel_at"] <= state.now:
        end_at_period_end(state, subscription)
        return
    if subscription["status"] == "trialing" and _end_without_card(state, subscription):
        return
    if start_phase(state, subscription, period_end):
        end(state, subscription, "cancellation_requested", stop_collecting=False)
        return
    interval, count = billing_interval(items_of(subscription)[0]["price"])
    with state.updating(subscription, "customer.subscription.updated"):
        if subscription["status"] == "trialing":
            subscription["status"] = "active"
        next_end = next_period_end(subscription["billing_cycle_anchor"], interval, count, period_end)
        for item in items_of(subscription):
            item |= {"current_period_start": period_end, "current_period_end": next_end}
        lines = [make_period_line(state, subscription, item) for item in items_of(subscription)]
        items = pending_items(state, subscription["customer"], subscription["currency"], subscription_id)
        make_subscription_invoice(
            state,
            subscription,
            "subscription_cycle",
            lines,
            items,
            (start, period_end),
            auto_advance=subscription["pause_collection"] is None,
        )
    state.clock.schedule(next_end, "renew", subscription_id)


@scheduled_action("cancel")
def cancel_when_due(state: State, subscription_id: str) -> None:
    subscription = state.objects[subscription_id]
    at = subscription["cancel_at"]
    if subscription["status"] not in ENDED and at is not None and at <= state.now:
        end_at_period_end(state, subscription)


@scheduled_action("expire_incomplete")
def expire_incomplete(state: State, subscription_id: str) -> None:
    """23 hours without the first payment: end the subscription and void its invoice."""
    subscription = state.objects[subscription_id]
    if subscription["status"] == "incomplete":
        invoice = state.objects[subscription["latest_invoice"]]
        with state.updating(subscription, "customer.subscription.updated"):
            subscription |= {"status": "incomplete_expired", "ended_at": state.now}
        if invoice["status"] == "open":
            void(state, invoice)


def set_status(state: State, subscription: Json, status: str) -> None:
    with state.updating(subscription, "customer.subscription.updated"):
        subscription["status"] = status


def on_invoice_outcome(state: State, invoice: Json, final: bool) -> None:
    """Update the status of the subscription after its invoice was attempted, paid, voided or given up."""
    subscription = state.objects.get(subscription_id_of(invoice) or "")
    if subscription is None or subscription["status"] in ENDED:
        return
    unpaid = invoice["status"] == "open"
    if final and unpaid:
        end(state, subscription, "payment_failed")
    elif unpaid and subscription["status"] == "active":
        set_status(state, subscription, "past_due")
    elif subscription["status"] == "incomplete":
        if invoice["status"] == "paid":
            set_status(state, subscription, "active")
    elif subscription["status"] == "paused" and invoice["status"] == "paid":
        if subscription["latest_invoice"] == invoice["id"]:
            set_status(state, subscription, "active")
            state.emit("customer.subscription.resumed", subscription)
    elif not unpaid and subscription["status"] == "past_due" and subscription["latest_invoice"] == invoice["id"]:
        set_status(state, subscription, "active")


def end_at_period_end(state: State, subscription: Json) -> None:
    """End the subscription as requested earlier. Invoice prorations that are still pending."""
    items = pending_items(state, subscription["customer"], subscription["currency"], subscription["id"])
    if any(item["proration"] and item["_subscription"] == subscription["id"] for item in items):
        make_subscription_invoice(
            state, subscription, "subscription_cycle", [], items, period_of(subscription), auto_advance=True
        )
    end(
        state,
        subscription,
        subscription["cancellation_details"]["reason"] or "cancellation_requested",
        stop_collecting=False,
    )


def end(state: State, subscription: Json, reason: str, stop_collecting: bool = True) -> None:
    """End the subscription now. Pending items stay pending; `stop_collecting`: open invoices are not retried."""
    subscription |= {
        "status": "canceled",
        "ended_at": state.now,
        "canceled_at": subscription["canceled_at"] or state.now,
    }
    subscription["cancellation_details"]["reason"] = reason
    release(state, subscription, "canceled")
    for invoice in state.objects_of("invoice"):
        ours = subscription_id_of(invoice) == subscription["id"]
        if stop_collecting and ours and invoice["status"] == "open":
            invoice |= {"auto_advance": False, "next_payment_attempt": None}
    state.emit("customer.subscription.deleted", subscription)


def schedule_end(state: State, subscription: Json, params: Json) -> None:
    """Apply `cancel_at_period_end` or `cancel_at`. Both can also withdraw an earlier request."""
    _, period_end = period_of(subscription)
    cancel_at = params.get("cancel_at")
    if params.get("cancel_at_period_end") and cancel_at:
        raise ApiError(
            "You may only specify one of these parameters: cancel_at, cancel_at_period_end.", param="cancel_at"
        )
    if cancel_at in ("min_period_end", "max_period_end", "max_billed_until"):
        cancel_at = period_end
    if isinstance(cancel_at, int) and cancel_at <= state.now:
        raise ApiError("`cancel_at` must be in the future.", param="cancel_at")
    if params.get("cancel_at_period_end"):
        request_end(state, subscription, period_end, at_period_end=True)
    elif cancel_at:
        request_end(state, subscription, int(cancel_at), at_period_end=False)
    elif params.get("cancel_at_period_end") is False or cancel_at == "":
        subscription |= {"cancel_at": None, "cancel_at_period_end": False, "canceled_at": None}
        subscription["cancellation_details"]["reason"] = None


def request_end(state: State, subscription: Json, at: int, at_period_end: bool) -> None:
    """Record that the subscription ends at that time. The portal sets only the time, not `cancel_at_period_end`."""
    subscription |= {"cancel_at": at, "cancel_at_period_end": at_period_end, "canceled_at": state.now}
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    if at != period_of(subscription)[1]:
        state.clock.schedule(at, "cancel", subscription["id"])


OUTCOME_HANDLERS.append(on_invoice_outcome)
