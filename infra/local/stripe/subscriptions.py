"""Subscriptions: what renews at the end of each period, changes price with proration, and ends.

Periods stand on the items and are counted from the anchor. Flexible billing mode, charged automatically, no trials.
A move to another interval, from free to paid, or `billing_cycle_anchor={"type": "now"}` begins a period and charges at
once; every other change of price leaves prorations for the next invoice, or invoices them with `always_invoice`.
"""

from decimal import Decimal
from typing import Any

from stripe import params as kinds

from infra.local.stripe import invoices
from infra.local.stripe.catalog import cents
from infra.local.stripe.clock import HOUR, next_period_end
from infra.local.stripe.customers import method_of
from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json, Refused, missing_param, unsupported
from infra.local.stripe.invoice_items import make_item, make_line, pending
from infra.local.stripe.world import World, later, listing

ENDED = ("canceled", "incomplete_expired")
INCOMPLETE_FOR = 23 * HOUR
COMMON = (
    "cancel_at cancel_at_period_end collection_method default_payment_method description items "
    "items.price items.quantity items.metadata metadata off_session payment_behavior proration_behavior "
    "payment_settings payment_settings.save_default_payment_method"
)


def item_amount(item: Json) -> int:
    return cents(Decimal(item["price"]["unit_amount_decimal"]) * item["quantity"])


def items_of(subscription: Json) -> list[Json]:
    found: list[Json] = subscription["items"]["data"]
    return found


def period_of(subscription: Json) -> tuple[int, int]:
    """The current period; every item has the same."""
    item = items_of(subscription)[0]
    return item["current_period_start"], item["current_period_end"]


def rhythm(price: Json) -> tuple[str, int]:
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def recurring_price(world: World, given: Json, param: str) -> Json:
    """The price that an item's parameters name. Raises Refused for one that does not recur."""
    if "price" not in given:
        raise missing_param(f"{param}[price]")
    price = world.get("price", given["price"], f"{param}[price]")
    if not price["active"]:
        raise Refused(f"The price specified is inactive: {price['id']}.", param=f"{param}[price]")
    if price["type"] != "recurring":
        raise Refused(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            param=f"{param}[price]",
        )
    return price


def make_item_of(world: World, subscription: Json, price: Json, given: Json, period: tuple[int, int]) -> Json:
    return world.add(
        {
            "id": world.new_id("si"),
            "object": "subscription_item",
            "billing_thresholds": None,
            "created": world.now,
            "current_period_end": period[1],
            "current_period_start": period[0],
            "discounts": [],
            "metadata": world.metadata({}, given.get("metadata", {})),
            "price": price,
            "quantity": given.get("quantity", 1),
            "subscription": subscription["id"],
            "tax_rates": [],
        }
    )


def start(world: World, customer: Json, params: Json, card: Json | None, processing: bool = False) -> Json:
    """A new subscription with its first invoice, tried with the card. `processing`: the money comes later, or not.

    Raises Refused, 402, for a declined card with `payment_behavior=error_if_incomplete`.
    """
    if not params.get("items"):
        raise missing_param("items")
    prices = [recurring_price(world, given, f"items[{at}]") for at, given in enumerate(params["items"])]
    if len({(rhythm(price), price["currency"]) for price in prices}) != 1:
        raise unsupported("prices of several intervals or currencies in one subscription", "items")
    now = world.now
    behavior = params.get("payment_behavior", "allow_incomplete")
    if behavior == "pending_if_incomplete":
        raise Refused("pending_if_incomplete is for updates.", param="payment_behavior")
    period = (now, next_period_end(now, *rhythm(prices[0]), now))
    subscription_id = world.new_id("sub")
    subscription = world.add(
        {
            "id": subscription_id,
            "object": "subscription",
            "application": None,
            "application_fee_percent": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": now,
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
            "items": listing([], f"/v1/subscription_items?subscription={subscription_id}"),
            "latest_invoice": None,
            "livemode": False,
            "metadata": world.metadata({}, params.get("metadata", {})),
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
            "status": "incomplete",
            "test_clock": None,
            "transfer_data": None,
            "trial_end": None,
            "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
            "trial_start": None,
        }
    )
    for price, given in zip(prices, params["items"], strict=True):
        items_of(subscription).append(make_item_of(world, subscription, price, given, period))
    charged = sum(item_amount(item) for item in items_of(subscription))
    if charged and behavior == "error_if_incomplete" and not processing and not (card and card["_works"]):
        del world.objects[subscription_id]
        raise Refused(
            "Your card was declined.",
            code="card_declined",
            status=402,
            kind="card_error",
            decline_code="generic_decline",
        )
    schedule_end(world, subscription, params)
    world.emit("customer.subscription.created", subscription)
    lines = [line_for(world, subscription, item) for item in items_of(subscription)]
    swept = pending(world, customer["id"], subscription["currency"], subscription_id)
    invoice = invoices.make_invoice(
        world, customer, subscription["currency"], "subscription_create", lines, swept, subscription
    )
    subscription["latest_invoice"] = invoice["id"]
    invoices.finalize(world, invoice)
    if invoice["status"] == "open" and processing:
        intent = invoices.intent_of(world, invoice)
        assert intent is not None
        intent["status"] = "processing"
        world.emit("payment_intent.processing", intent)
        set_status(world, subscription, "active")
    elif invoice["status"] == "open" and behavior != "default_incomplete":
        invoices.collect(world, invoice, card)
    if subscription["status"] == "incomplete":
        world.clock.due(now + INCOMPLETE_FOR, "expire_incomplete", subscription_id)
    world.clock.due(period[1], "renew", subscription_id)
    return subscription


def line_for(world: World, subscription: Json, item: Json) -> Json:
    """The invoice line of an item's current period."""
    price, product = item["price"], world.objects[item["price"]["product"]]
    details = {
        "invoice_item": None,
        "proration": False,
        "proration_details": {"credited_items": None},
        "subscription": subscription["id"],
        "subscription_item": item["id"],
    }
    parent = {"invoice_item_details": None, "subscription_item_details": details, "type": "subscription_item_details"}
    fields = {
        "amount": item_amount(item),
        "currency": price["currency"],
        "description": f"{item['quantity']} × {product['name']} ({price['unit_amount_decimal']}¢ / {rhythm(price)[0]})",
        "metadata": dict(subscription["metadata"]),
        "period": {"start": item["current_period_start"], "end": item["current_period_end"]},
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": item["quantity"],
    }
    return make_line(world, parent, fields, subscription["id"])


# --- time ------------------------------------------------------------------------------------------------------------


@later("renew")
def renew(world: World, subscription_id: str) -> None:
    """The end of a period: the next one begins with a draft, or the subscription ends."""
    subscription = world.objects[subscription_id]
    begun, ended = period_of(subscription)
    if subscription["status"] in (*ENDED, "incomplete") or ended > world.now:
        return
    if subscription["cancel_at"] is not None and subscription["cancel_at"] <= world.now:
        end_at_period_end(world, subscription)
        return
    interval, count = rhythm(items_of(subscription)[0]["price"])
    with world.changing(subscription, "customer.subscription.updated"):
        end = next_period_end(subscription["billing_cycle_anchor"], interval, count, ended)
        for item in items_of(subscription):
            item |= {"current_period_start": ended, "current_period_end": end}
        lines = [line_for(world, subscription, item) for item in items_of(subscription)]
        customer = world.objects[subscription["customer"]]
        swept = pending(world, customer["id"], subscription["currency"], subscription_id)
        invoice = invoices.make_invoice(
            world,
            customer,
            subscription["currency"],
            "subscription_cycle",
            lines,
            swept,
            subscription,
            (begun, ended),
            auto_advance=True,
        )
        subscription["latest_invoice"] = invoice["id"]
    world.clock.due(end, "renew", subscription_id)


@later("cancel")
def cancel_when_due(world: World, subscription_id: str) -> None:
    subscription = world.objects[subscription_id]
    at = subscription["cancel_at"]
    if subscription["status"] not in ENDED and at is not None and at <= world.now:
        end_at_period_end(world, subscription)


@later("expire_incomplete")
def expire_incomplete(world: World, subscription_id: str) -> None:
    """A first payment that never came: 23 hours later the subscription is over and its invoice void."""
    subscription = world.objects[subscription_id]
    if subscription["status"] == "incomplete":
        invoice = world.objects[subscription["latest_invoice"]]
        with world.changing(subscription, "customer.subscription.updated"):
            subscription |= {"status": "incomplete_expired", "ended_at": world.now}
        if invoice["status"] == "open":
            invoices.void_invoice(world, {}, invoice["id"])


def set_status(world: World, subscription: Json, status: str) -> None:
    with world.changing(subscription, "customer.subscription.updated"):
        subscription["status"] = status


def invoice_settled(world: World, invoice: Json, final: bool) -> None:
    """What an invoice that was tried, paid, voided or given up means to its subscription."""
    subscription = world.objects.get(invoices.subscription_of(invoice) or "")
    if subscription is None or subscription["status"] in ENDED:
        return
    unpaid = invoice["status"] == "open"
    if final and unpaid:
        end(world, subscription, "payment_failed")
    elif unpaid and subscription["status"] == "active":
        set_status(world, subscription, "past_due")
    elif subscription["status"] == "incomplete":
        if invoice["status"] == "paid":
            set_status(world, subscription, "active")
    elif not unpaid and subscription["status"] == "past_due" and subscription["latest_invoice"] == invoice["id"]:
        set_status(world, subscription, "active")


invoices.OUTCOMES.append(invoice_settled)


def end_at_period_end(world: World, subscription: Json) -> None:
    """The end that was asked for earlier: prorations that are still pending are invoiced."""
    found = pending(world, subscription["customer"], subscription["currency"], subscription["id"])
    if any(one["proration"] and one["_subscription"] == subscription["id"] for one in found):
        invoice = invoices.make_invoice(
            world,
            world.objects[subscription["customer"]],
            subscription["currency"],
            "subscription_cycle",
            [],
            found,
            subscription,
            period_of(subscription),
            auto_advance=True,
        )
        subscription["latest_invoice"] = invoice["id"]
    end(
        world,
        subscription,
        subscription["cancellation_details"]["reason"] or "cancellation_requested",
        stop_collecting=False,
    )


def end(world: World, subscription: Json, reason: str, stop_collecting: bool = True) -> None:
    """End it now: its open invoices are no longer collected, pending items stay pending."""
    subscription |= {
        "status": "canceled",
        "ended_at": world.now,
        "canceled_at": subscription["canceled_at"] or world.now,
    }
    subscription["cancellation_details"]["reason"] = reason
    for invoice in [one for one in world.of("invoice") if invoices.subscription_of(one) == subscription["id"]]:
        if stop_collecting and invoice["status"] == "open":
            invoice |= {"auto_advance": False, "next_payment_attempt": None}
    world.emit("customer.subscription.deleted", subscription)


def schedule_end(world: World, subscription: Json, params: Json) -> None:
    """Apply `cancel_at_period_end` or `cancel_at`: both may also take an earlier request back."""
    _, ended = period_of(subscription)
    cancel_at = params.get("cancel_at")
    if params.get("cancel_at_period_end") and cancel_at:
        raise Refused(
            "You may only specify one of these parameters: cancel_at, cancel_at_period_end.", param="cancel_at"
        )
    if cancel_at in ("min_period_end", "max_period_end", "max_billed_until"):
        cancel_at = ended
    if isinstance(cancel_at, int) and cancel_at <= world.now:
        raise Refused("`cancel_at` must be in the future.", param="cancel_at")
    if params.get("cancel_at_period_end"):
        asked_for(world, subscription, ended, at_period_end=True)
    elif cancel_at:
        asked_for(world, subscription, int(cancel_at), at_period_end=False)
    elif params.get("cancel_at_period_end") is False or cancel_at == "":
        subscription |= {"cancel_at": None, "cancel_at_period_end": False, "canceled_at": None}
        subscription["cancellation_details"]["reason"] = None


def asked_for(world: World, subscription: Json, at: int, at_period_end: bool) -> None:
    """Somebody wants it to end then. The portal sets no `cancel_at_period_end`, only the time."""
    subscription |= {"cancel_at": at, "cancel_at_period_end": at_period_end, "canceled_at": world.now}
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    if at != period_of(subscription)[1]:
        world.clock.due(at, "cancel", subscription["id"])


# --- changes of price ------------------------------------------------------------------------------------------------


def change_items(world: World, subscription: Json, given: list[Json], params: Json) -> None:
    """Change prices and quantities. An entry without an `id` adds an item, as at Stripe."""
    behavior = params.get("proration_behavior", "create_prorations")
    if params.get("payment_behavior", "allow_incomplete") not in ("allow_incomplete", "error_if_incomplete"):
        raise unsupported(f"payment_behavior={params['payment_behavior']} in an update", "payment_behavior")
    customer = world.objects[subscription["customer"]]
    old = [(item["id"], item["price"], item["quantity"], item_amount(item)) for item in items_of(subscription)]
    new: dict[str, tuple[Json, int]] = {name: (price, quantity) for name, price, quantity, _ in old}
    added: list[tuple[Json, Json]] = []
    for at, entry in enumerate(given):
        if "id" not in entry:
            price = recurring_price(world, entry, f"items[{at}]")
            if any(price["id"] == held["id"] for held, _ in new.values()):
                raise Refused(
                    f"Cannot add multiple subscription items with the same plan: {price['id']}",
                    param=f"items[{at}][price]",
                )
            added.append((price, entry))
        elif entry["id"] not in new:
            raise Refused(
                f"No such subscription item: '{entry['id']}'",
                code="resource_missing",
                param=f"items[{at}][id]",
                status=404,
            )
        elif entry.get("deleted"):
            del new[entry["id"]]
        else:
            price, quantity = new[entry["id"]]
            price = recurring_price(world, entry, f"items[{at}]") if "price" in entry else price
            new[entry["id"]] = (price, entry.get("quantity", quantity))
    prices = [*(price for price, _ in new.values()), *(price for price, _ in added)]
    if not prices:
        raise Refused("A subscription must have at least one active item.", param="items")
    if {price["currency"] for price in prices} != {subscription["currency"]} or len(
        {rhythm(price) for price in prices}
    ) != 1:
        raise unsupported("prices of several intervals or currencies in one subscription", "items")
    sum_new = sum(cents(Decimal(price["unit_amount_decimal"]) * count) for price, count in new.values()) + sum(
        cents(Decimal(price["unit_amount_decimal"]) * entry.get("quantity", 1)) for price, entry in added
    )
    anew = (
        rhythm(prices[0]) != rhythm(old[0][1])
        or (sum(amount for *_, amount in old) == 0 and sum_new > 0)
        or params.get("billing_cycle_anchor", {}).get("type") == "now"
    )
    card = world.objects.get(
        subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"] or ""
    )
    refuses = params.get("payment_behavior") == "error_if_incomplete" and (anew or behavior == "always_invoice")
    if refuses and sum_new > sum(amount for *_, amount in old) and not (card and card["_works"]):
        raise Refused(
            "Your card was declined.",
            code="card_declined",
            status=402,
            kind="card_error",
            decline_code="generic_decline",
        )
    begun, ended = period_of(subscription)
    changed = [one for one in old if new.get(one[0]) != (one[1], one[2])]
    if behavior != "none":
        for _, price, quantity, amount in changed if not anew else old:
            prorate(world, subscription, price, quantity, -amount, begun, ended, "Unused time on")
    period = (world.now, next_period_end(world.now, *rhythm(prices[0]), world.now)) if anew else (begun, ended)
    if anew:
        subscription["billing_cycle_anchor"] = world.now
    kept = [item for item in items_of(subscription) if item["id"] in new]
    for item in kept:
        item["price"], item["quantity"] = new[item["id"]]
        item |= {"current_period_start": period[0], "current_period_end": period[1]}
    fresh = [make_item_of(world, subscription, price, entry, period) for price, entry in added]
    subscription["items"]["data"] = [*kept, *fresh]
    if behavior != "none" and not anew:
        ids = [one[0] for one in changed]
        for item in [*(item for item in kept if item["id"] in ids), *fresh]:
            prorate(
                world,
                subscription,
                item["price"],
                item["quantity"],
                item_amount(item),
                begun,
                ended,
                "Remaining time on",
            )
    if not anew and (behavior != "always_invoice" or not (changed or fresh)):
        return
    lines = [line_for(world, subscription, item) for item in items_of(subscription)] if anew else []
    swept = pending(world, customer["id"], subscription["currency"], subscription["id"])
    if not lines and not swept:
        return
    invoice = invoices.make_invoice(
        world, customer, subscription["currency"], "subscription_update", lines, swept, subscription
    )
    subscription["latest_invoice"] = invoice["id"]
    if anew:
        world.clock.due(period[1], "renew", subscription["id"])
    if invoices.finalize(world, invoice) and invoice["status"] == "open":
        invoices.collect(world, invoice, invoices.default_card(world, invoice))


def prorate(
    world: World, subscription: Json, price: Json, quantity: int, amount: int, begun: int, ended: int, what: str
) -> None:
    """A pending item for the rest of the period, by the second: a credit where the amount is negative."""
    part = cents(Decimal(amount) * (ended - world.now) / (ended - begun))
    if part == 0:
        return
    product = world.objects[price["product"]]
    item = make_item(
        world,
        world.objects[subscription["customer"]],
        subscription["currency"],
        str(part),
        1,
        description=f"{what} {product['name']}",
        discountable=False,
        period={"start": world.now, "end": ended},
        pricing={
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": str(part),
        },
        proration=True,
        _subscription=subscription["id"],
    )
    item |= {"quantity": quantity, "quantity_decimal": str(quantity)}
    world.emit("invoiceitem.created", item)


# --- the API ---------------------------------------------------------------------------------------------------------


def _check(params: Json) -> None:
    if params.get("collection_method", "charge_automatically") != "charge_automatically":
        raise unsupported("subscriptions whose invoices are sent", "collection_method")


@endpoint(
    "POST",
    "/v1/subscriptions",
    kinds.SubscriptionCreateParams,
    f"{COMMON} currency customer billing_mode billing_mode.type",
)
def create_subscription(world: World, params: Json) -> Json:
    _check(params)
    if "customer" not in params:
        raise missing_param("customer")
    if params.get("billing_mode", {}).get("type", "flexible") != "flexible":
        raise unsupported("the classic billing mode", "billing_mode[type]")
    customer = world.get("customer", params["customer"], "customer")
    if own := params.get("default_payment_method"):
        method_of(world, customer, own)
    default = own or customer["invoice_settings"]["default_payment_method"]
    for at, given in enumerate(params.get("items", [])):
        price = recurring_price(world, given, f"items[{at}]")
        costs = Decimal(price["unit_amount_decimal"]) * given.get("quantity", 1) > 0
        if costs and not default and params.get("payment_behavior") != "default_incomplete":
            raise Refused(
                "This customer has no attached payment source or default payment method. Please consider adding a "
                "default payment method.",
                code="resource_missing",
            )
    return start(world, customer, params, world.objects.get(default or ""))


@endpoint("GET", "/v1/subscriptions/{id}", kinds.SubscriptionRetrieveParams)
def retrieve_subscription(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    return world.get("subscription", id)


@endpoint(
    "POST",
    "/v1/subscriptions/{id}",
    kinds.SubscriptionUpdateParams,
    f"{COMMON} items.id items.deleted billing_cycle_anchor cancellation_details cancellation_details.comment "
    "cancellation_details.feedback",
)
def update_subscription(world: World, params: Json, id: str) -> Json:  # noqa: A002
    subscription = world.get("subscription", id)
    _check(params)
    if subscription["status"] in ENDED and params.keys() - {"metadata", "cancellation_details", "expand"}:
        raise Refused("A canceled subscription can only update its cancellation_details and metadata.")
    if own := params.get("default_payment_method"):
        method_of(world, world.objects[subscription["customer"]], own)
    with world.changing(subscription, "customer.subscription.updated"):
        if "items" in params or "billing_cycle_anchor" in params:
            change_items(world, subscription, params.get("items", []), params)
        if "metadata" in params:
            subscription["metadata"] = world.metadata(subscription["metadata"], params["metadata"])
        if own:
            subscription["default_payment_method"] = own
        if "description" in params:
            subscription["description"] = params["description"] or None
        schedule_end(world, subscription, params)
        subscription["cancellation_details"] |= params.get("cancellation_details", {})
    return subscription


@endpoint(
    "DELETE", "/v1/subscriptions/{id}", kinds.SubscriptionCancelParams, "cancellation_details invoice_now prorate"
)
def cancel_subscription(world: World, params: Json, id: str) -> Json:  # noqa: A002
    subscription = world.get("subscription", id)
    if subscription["status"] in ENDED:
        raise Refused(f"No such subscription: '{id}'", code="resource_missing", param="id", status=404)
    if params.get("prorate"):
        begun, ended = period_of(subscription)
        for item in items_of(subscription):
            prorate(
                world, subscription, item["price"], item["quantity"], -item_amount(item), begun, ended, "Unused time on"
            )
    subscription["cancellation_details"] |= params.get("cancellation_details", {})
    found = pending(world, subscription["customer"], subscription["currency"], id)
    if params.get("invoice_now") and found:
        customer = world.objects[subscription["customer"]]
        invoice = invoices.make_invoice(
            world, customer, subscription["currency"], "subscription_update", [], found, subscription
        )
        subscription["latest_invoice"] = invoice["id"]
        if invoices.finalize(world, invoice) and invoice["status"] == "open":
            invoices.collect(world, invoice, invoices.default_card(world, invoice))
    elif not params.get("invoice_now") and not params.get("prorate"):
        for item in [one for one in found if one["proration"] and one["_subscription"] == id]:
            item["_deleted"] = True
    if subscription["status"] not in ENDED:
        end(world, subscription, "cancellation_requested")
    return subscription


@endpoint("GET", "/v1/subscriptions", kinds.SubscriptionListParams, f"{LISTING} customer price status")
def list_subscriptions(world: World, params: Json) -> Json:
    status = params.get("status")

    def fits(one: Json) -> bool:
        if status == "ended":
            right = one["status"] in ENDED
        else:
            right = (
                one["status"] == status
                if status not in (None, "all")
                else status == "all" or one["status"] not in ENDED
            )
        return (
            right
            and params.get("customer") in (None, one["customer"])
            and params.get("price") in (None, *(item["price"]["id"] for item in items_of(one)))
        )

    return world.page([one for one in world.of("subscription") if fits(one)], params, "/v1/subscriptions")


@endpoint(
    "GET", "/v1/subscription_items", kinds.SubscriptionItemListParams, "limit starting_after ending_before subscription"
)
def list_subscription_items(world: World, params: Json) -> Json:
    found: list[Any] = items_of(world.get("subscription", params["subscription"], "subscription"))
    return world.page(found, params, "/v1/subscription_items")
