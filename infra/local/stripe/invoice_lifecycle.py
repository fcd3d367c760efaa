"""The life of an invoice: a draft, then open with a number, then paid, void or uncollectible.

As at Stripe, the draft of a renewal is finalized an hour after the endpoint acknowledged `invoice.created`, or after 72
hours without that; then the default card pays it. A total under 50 cents is not charged but added to the balance of the
customer. A failed payment of a subscription's invoice is retried after 3, 5 and 7 days.
"""

from collections.abc import Callable
from typing import Any

from infra.local.stripe.clock import DAY, HOUR
from infra.local.stripe.discounts import active_discounts
from infra.local.stripe.errors import Json
from infra.local.stripe.invoice_lines import compute_totals, make_item_line, subscription_id_of
from infra.local.stripe.payments import ask_customer, cancel_intent, charge_card, make_intent
from infra.local.stripe.state import State, scheduled_action
from infra.local.stripe.taxes import automatic_tax, tax_status

MINIMUM = 50  # cents; Stripe's smallest charge in US and Canadian dollars
ACKNOWLEDGED_WITHIN = 72 * HOUR  # how long a draft waits for the endpoint to acknowledge it
RETRIES = (3 * DAY, 5 * DAY, 7 * DAY)
OTHER_PAYMENTS = {"payment_record": "pr", "charge": "ch"}  # the prefixes of their ids

OUTCOME_HANDLERS: list[Callable[[State, Json, bool], None]] = []
"""Called with an invoice that was attempted, paid, voided or given up, and whether no attempt will follow."""


def make_invoice(
    state: State,
    customer: Json,
    currency: str,
    reason: str,
    lines: list[Json],
    items: list[Json],
    subscription: Json | None = None,
    period: tuple[int, int] | None = None,
    **more: Any,
) -> Json:
    """A draft with the lines and the items. Emits its event."""
    invoice_id = state.new_id("in")
    details = subscription and {
        "metadata": dict(subscription["metadata"]),
        "subscription": subscription["id"],
    }
    start, end = period or (state.now, state.now)
    for item in items:
        item["invoice"] = invoice_id
    customer["currency"] = customer["currency"] or currency
    invoice = state.add(
        {
            "id": invoice_id,
            "object": "invoice",
            "account_country": "CA",
            "account_name": "Stand-in",
            "account_tax_ids": None,
            "amount_due": 0,
            "amount_overpaid": 0,
            "amount_paid": 0,
            "amount_paid_off_stripe": 0,
            "amount_remaining": 0,
            "amount_shipping": 0,
            "application": None,
            "attempt_count": 0,
            "attempted": False,
            "auto_advance": False,
            "automatic_tax": {**automatic_tax({}), **tax_status(False, None)},
            "automatically_finalizes_at": None,
            "billing_reason": reason,
            "collection_method": "charge_automatically",
            "created": state.now,
            "currency": currency,
            "custom_fields": None,
            "customer": customer["id"],
            "customer_address": customer["address"],
            "customer_email": customer["email"],
            "customer_name": customer["name"],
            "customer_phone": customer["phone"],
            "customer_shipping": customer["shipping"],
            "customer_tax_exempt": "none",
            "customer_tax_ids": [],
            "default_payment_method": None,
            "default_source": None,
            "default_tax_rates": [],
            "description": None,
            "discounts": active_discounts(state, subscription, customer),
            "due_date": None,
            "effective_at": None,
            "ending_balance": None,
            "footer": None,
            "from_invoice": None,
            "hosted_invoice_url": None,
            "invoice_pdf": None,
            "issuer": {"type": "self"},
            "last_finalization_error": None,
            "latest_revision": None,
            "lines": {},
            "livemode": False,
            "metadata": {},
            "next_payment_attempt": None,
            "number": None,
            "on_behalf_of": None,
            "parent": details
            and {"quote_details": None, "subscription_details": details, "type": "subscription_details"},
            "payment_settings": {"default_mandate": None, "payment_method_options": None},
            "period_end": end,
            "period_start": start,
            "post_payment_credit_notes_amount": 0,
            "pre_payment_credit_notes_amount": 0,
            "receipt_number": None,
            "rendering": None,
            "shipping_cost": None,
            "shipping_details": None,
            "starting_balance": 0,
            "statement_descriptor": None,
            "status": "draft",
            "status_transitions": {
                "finalized_at": None,
                "marked_uncollectible_at": None,
                "paid_at": None,
                "voided_at": None,
            },
            "subtotal": 0,
            "subtotal_excluding_tax": 0,
            "test_clock": None,
            "total": 0,
            "total_discount_amounts": [],
            "total_excluding_tax": 0,
            "total_pretax_credit_amounts": [],
            "total_taxes": [],
            "webhooks_delivered_at": None,
            "_lines": [*(make_item_line(state, item) for item in reversed(items)), *lines],
            "_payments": [],
            **more,
        }
    )
    if invoice["auto_advance"]:
        schedule_finalization(state, invoice)
    compute_totals(state, invoice)
    invoice["_created_event"] = state.emit("invoice.created", invoice)["id"]
    return invoice


def schedule_finalization(state: State, invoice: Json) -> None:
    """Finalize the draft in an hour."""
    invoice["automatically_finalizes_at"] = state.now + HOUR
    state.clock.schedule(state.now + HOUR, "finalize_invoice", invoice["id"])


@scheduled_action("finalize_invoice")
def finalize_when_acknowledged(state: State, invoice_id: str) -> None:
    """Finalize the draft, unless the endpoint has not acknowledged it yet, or did so less than an hour ago."""
    invoice = state.objects.get(invoice_id)
    if invoice is None or invoice["status"] != "draft" or not invoice["auto_advance"] or "_deleted" in invoice:
        return
    event = state.objects[invoice["_created_event"]]
    undelivered = event["_delivery"]["state"] in ("waiting", "held", "failed")
    if undelivered and state.now < invoice["created"] + ACKNOWLEDGED_WITHIN:
        acknowledged_at = state.now
    else:
        acknowledged_at = invoice["webhooks_delivered_at"] or invoice["created"]
    if acknowledged_at + HOUR > state.now:
        invoice["automatically_finalizes_at"] = acknowledged_at + HOUR
        state.clock.schedule(acknowledged_at + HOUR, "finalize_invoice", invoice_id)
    elif finalize(state, invoice):
        if invoice["status"] == "open" and invoice["collection_method"] == "charge_automatically":
            collect(state, invoice, default_card(state, invoice), automatic=True)
    else:
        schedule_finalization(state, invoice)


def finalize(state: State, invoice: Json) -> bool:
    """Number the invoice and apply the balance of the customer. If nothing is due, it is paid.

    Returns False if the customer's address does not tell the tax, or a test made finalization fail.
    """
    customer = state.objects[invoice["customer"]]
    compute_totals(state, invoice)
    if invoice.get("_unfinalizable") or invoice["automatic_tax"]["status"] == "requires_location_inputs":
        invoice["last_finalization_error"] = {
            "code": "customer_tax_location_invalid",
            "message": "The customer's location isn't recognized, or a test made the finalization fail.",
            "type": "invalid_request_error",
        }
        state.emit("invoice.finalization_failed", invoice)
        return False
    net = invoice["total"] + customer["balance"]
    due = net if net >= MINIMUM else 0
    with state.updating(customer, "customer.updated"):
        customer["balance"] = net - due
        number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}"
        customer["next_invoice_sequence"] += 1
    page = f"{state.settings.public_url}/i/{invoice['id']}"
    invoice |= {
        "amount_due": due,
        "amount_remaining": due,
        "automatically_finalizes_at": None,
        "effective_at": state.now,
        "ending_balance": customer["balance"],
        "hosted_invoice_url": page,
        "invoice_pdf": f"{page}/pdf",
        "last_finalization_error": None,
        "number": number,
        "status": "open",
    }
    invoice["status_transitions"]["finalized_at"] = state.now
    if due:
        _add_payment(state, invoice)
    state.emit("invoice.finalized", invoice)
    if due == 0:
        mark_paid(state, invoice, 0)
    return True


def _add_payment(state: State, invoice: Json) -> None:
    """The payment intent of the invoice, and the invoice payment that links the two."""
    customer = state.objects[invoice["customer"]]
    if invoice["billing_reason"] == "subscription_create":
        description = "Subscription creation"
    else:
        description = "Subscription update" if invoice["parent"] else f"Payment for Invoice {invoice['number']}"
    intent = make_intent(state, invoice["amount_due"], invoice["currency"], customer, description=description)
    _link_payment(state, invoice, "payment_intent", intent["id"], is_default=True)
    state.emit("payment_intent.created", intent)


def _link_payment(state: State, invoice: Json, kind: str, payment_id: str, *, is_default: bool) -> None:
    """Add an open payment of the invoice. As at Stripe, it has the key of its own kind only."""
    payment = state.add(
        {
            "id": state.new_id("inpay"),
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": invoice["amount_due"],
            "created": state.now,
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": is_default,
            "livemode": False,
            "payment": {kind: payment_id, "type": kind},
            "status": "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
        }
    )
    invoice["_payments"].append(payment["id"])


def intent_of(state: State, invoice: Json) -> Json | None:
    """The payment intent of the invoice; None for a draft and for an invoice with nothing due."""
    if not invoice["_payments"]:
        return None
    return state.objects[state.objects[invoice["_payments"][0]]["payment"]["payment_intent"]]


def pay_otherwise(state: State, invoice: Json, kind: str) -> None:
    """Pay an open invoice without its payment intent: by a `payment_record`, which is money received outside Stripe, or
    by a `charge` that has no payment intent."""
    intent = intent_of(state, invoice)
    assert intent is not None
    cancel_intent(state, intent, "automatic")
    (default,) = (state.objects[name] for name in invoice["_payments"])
    default["status"] = "canceled"
    default["status_transitions"]["canceled_at"] = state.now
    _link_payment(state, invoice, kind, state.new_id(OTHER_PAYMENTS[kind]), is_default=False)
    mark_paid(state, invoice, invoice["amount_due"], is_off_stripe=kind == "payment_record")


def default_card(state: State, invoice: Json) -> Json | None:
    """The card that pays the invoice: the first default of the invoice, its subscription and its customer."""
    subscription = state.objects.get(subscription_id_of(invoice) or "", {})
    customer = state.objects[invoice["customer"]]
    own = invoice["default_payment_method"] or subscription.get("default_payment_method")
    card = state.objects.get(own or customer["invoice_settings"]["default_payment_method"] or "")
    return card if card and card["customer"] == invoice["customer"] else None


def collect(
    state: State, invoice: Json, card: Json | None, automatic: bool = False, is_confirmed: bool = False
) -> bool:
    """Attempt to pay an open invoice. Returns whether it is paid. A failed automatic attempt schedules the next.

    `is_confirmed`: the customer is there and confirms a payment that the bank asks about.
    """
    intent = intent_of(state, invoice)
    assert intent is not None
    if automatic or not invoice["attempted"]:
        invoice["attempt_count"] += 1
    invoice |= {"attempted": True, "next_payment_attempt": None}
    customer = state.objects[invoice["customer"]]
    works = card is not None and bool(card["_works"])
    if card is not None and works and card["_asks"] and not is_confirmed:
        ask_customer(state, intent, card)
        state.emit("invoice.payment_action_required", invoice)
    elif card is not None and charge_card(state, intent, card, works):
        mark_paid(state, invoice, invoice["amount_due"])
        return True
    retry = invoice["attempt_count"] - 1
    retries_left = retry < len(RETRIES)
    if invoice["auto_advance"] and invoice["parent"] and retries_left:
        invoice["next_payment_attempt"] = state.now + RETRIES[retry]
        state.clock.schedule(state.now + RETRIES[retry], "retry_invoice", invoice["id"])
    elif invoice["auto_advance"]:
        invoice["auto_advance"] = False
    state.emit("invoice.payment_failed", invoice)
    with state.updating(customer, "customer.updated"):
        customer["delinquent"] = True
    report_outcome(state, invoice, final=automatic and not retries_left)
    return False


def report_outcome(state: State, invoice: Json, final: bool = False) -> None:
    for handle in OUTCOME_HANDLERS:
        handle(state, invoice, final)


@scheduled_action("retry_invoice")
def retry_invoice(state: State, invoice_id: str) -> None:
    invoice = state.objects[invoice_id]
    at = invoice["next_payment_attempt"]
    if invoice["status"] == "open" and invoice["auto_advance"] and at is not None and at <= state.now:
        collect(state, invoice, default_card(state, invoice), automatic=True)


def mark_paid(state: State, invoice: Json, amount: int, is_off_stripe: bool = False) -> None:
    """Mark the invoice paid: `amount` cents by its open payment, if there is one."""
    invoice |= {
        "amount_paid": amount,
        "amount_paid_off_stripe": amount if is_off_stripe else 0,
        "amount_remaining": 0,
        "attempted": True,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status": "paid",
    }
    invoice["status_transitions"]["paid_at"] = state.now
    for payment in (state.objects[name] for name in invoice["_payments"]):
        if payment["status"] == "canceled":
            continue
        payment |= {"status": "paid", "amount_paid": amount}
        payment["status_transitions"]["paid_at"] = state.now
        state.emit("invoice_payment.paid", payment)
    state.emit("invoice.paid", invoice)
    state.emit("invoice.payment_succeeded", invoice)
    customer = state.objects[invoice["customer"]]
    with state.updating(customer, "customer.updated"):
        customer["delinquent"] = False
    report_outcome(state, invoice)


def void(state: State, invoice: Json) -> None:
    """Void an open or uncollectible invoice: restore the balance of the customer and cancel the payment."""
    customer = state.objects[invoice["customer"]]
    with state.updating(customer, "customer.updated"):
        customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
    if intent := intent_of(state, invoice):
        cancel_intent(state, intent, "void_invoice")
    invoice |= {"status": "void", "auto_advance": False, "next_payment_attempt": None}
    invoice["status_transitions"]["voided_at"] = state.now
    state.emit("invoice.voided", invoice)
    report_outcome(state, invoice)
