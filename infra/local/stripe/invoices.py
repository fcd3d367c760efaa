"""Invoices: draft, then open with a number, then paid; or void, or uncollectible.

A renewal's draft is finalized an hour after the endpoint has acknowledged `invoice.created`, and after 72 hours without
that, as at Stripe; then it is paid by the default card. A total under 50 cents is not charged but added to the
customer's balance. A subscription's invoice that fails is tried again 3, 5 and 7 days later.
"""

from collections.abc import Callable
from typing import Any

from stripe import params as kinds

from infra.local.stripe.clock import DAY, HOUR
from infra.local.stripe.customers import method_of
from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json, Refused, missing_param
from infra.local.stripe.invoice_items import FINAL, line_of, owned, pending
from infra.local.stripe.payments import attempt, cancel_intent, declined, make_intent
from infra.local.stripe.world import World, includable, later, listing

MINIMUM = 50  # cents; what Stripe charges at least in US and Canadian dollars
PATIENCE = 72 * HOUR  # how long a draft waits for the endpoint to acknowledge it
RETRIES = (3 * DAY, 5 * DAY, 7 * DAY)
SHOWN_LINES = 10

OUTCOMES: list[Callable[[World, Json, bool], None]] = []
"""Hear whether an invoice was paid, each time it is tried; (…, final) where nothing will be tried again."""


def subscription_of(invoice: Json) -> str | None:
    """The id of the subscription that an invoice is for."""
    return str(invoice["parent"]["subscription_details"]["subscription"]) if invoice["parent"] else None


def item_of(line: Json) -> str | None:
    """The id of the invoice item that a line comes from."""
    details = line["parent"]["invoice_item_details"]
    return str(details["invoice_item"]) if details else None


def make_invoice(
    world: World,
    customer: Json,
    currency: str,
    reason: str,
    lines: list[Json],
    items: list[Json],
    subscription: Json | None = None,
    period: tuple[int, int] | None = None,
    **more: Any,
) -> Json:
    """A draft with the lines and the pending items, announced."""
    invoice_id = world.new_id("in")
    details = subscription and {
        "metadata": dict(subscription["metadata"]),
        "subscription": subscription["id"],
    }
    start, end = period or (world.now, world.now)
    for item in items:
        item["invoice"] = invoice_id
    customer["currency"] = customer["currency"] or currency
    invoice = world.add(
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
            "automatic_tax": {
                "disabled_reason": None,
                "enabled": False,
                "liability": None,
                "provider": None,
                "status": None,
            },
            "automatically_finalizes_at": None,
            "billing_reason": reason,
            "collection_method": "charge_automatically",
            "created": world.now,
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
            "discounts": [],
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
            "_lines": [*(line_of(world, item) for item in reversed(items)), *lines],
            "_payments": [],
            **more,
        }
    )
    if invoice["auto_advance"]:
        wait(world, invoice)
    reckon(world, invoice)
    invoice["_created_event"] = world.emit("invoice.created", invoice)["id"]
    return invoice


def reckon(world: World, invoice: Json) -> None:
    """What a draft comes to: its lines, and what the customer owes or is owed."""
    lines = invoice["_lines"]
    for line in lines:
        line["invoice"] = invoice["id"]
    total, balance = sum(line["amount"] for line in lines), world.objects[invoice["customer"]]["balance"]
    invoice["lines"] = listing(lines[:SHOWN_LINES], f"/v1/invoices/{invoice['id']}/lines", len(lines) > SHOWN_LINES)
    due = max(0, total + balance)
    invoice |= dict.fromkeys(("total", "subtotal", "subtotal_excluding_tax", "total_excluding_tax"), total)
    invoice |= {"starting_balance": balance, "amount_due": due, "amount_remaining": due}


def wait(world: World, invoice: Json) -> None:
    """Let it be finalized in an hour."""
    invoice["automatically_finalizes_at"] = world.now + HOUR
    world.clock.due(world.now + HOUR, "finalize_invoice", invoice["id"])


@later("finalize_invoice")
def finalize_when_heard(world: World, invoice_id: str) -> None:
    """Finalize a draft, unless the endpoint has not acknowledged it yet, or did so less than an hour ago."""
    invoice = world.objects.get(invoice_id)
    if invoice is None or invoice["status"] != "draft" or not invoice["auto_advance"] or "_deleted" in invoice:
        return
    event = world.objects[invoice["_created_event"]]
    heard = invoice["webhooks_delivered_at"] or invoice["created"]
    if event["_delivery"]["state"] in ("waiting", "held", "failed") and world.now < invoice["created"] + PATIENCE:
        heard = world.now
    if heard + HOUR > world.now:
        invoice["automatically_finalizes_at"] = heard + HOUR
        world.clock.due(heard + HOUR, "finalize_invoice", invoice_id)
    elif finalize(world, invoice):
        if invoice["status"] == "open" and invoice["collection_method"] == "charge_automatically":
            collect(world, invoice, default_card(world, invoice), automatic=True)
    else:
        wait(world, invoice)


def finalize(world: World, invoice: Json) -> bool:
    """Number it and settle the balance. Nothing to pay makes it paid. Returns False where a test let this fail."""
    customer = world.objects[invoice["customer"]]
    reckon(world, invoice)
    if invoice.get("_unfinalizable"):
        invoice["last_finalization_error"] = {
            "code": "customer_tax_location_invalid",
            "message": "This invoice was told not to be finalized.",
            "type": "invalid_request_error",
        }
        world.emit("invoice.finalization_failed", invoice)
        return False
    net = invoice["total"] + customer["balance"]
    due = net if net >= MINIMUM else 0
    with world.changing(customer, "customer.updated"):
        customer["balance"] = net - due
        number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}"
        customer["next_invoice_sequence"] += 1
    page = f"{world.settings.public_url}/i/{invoice['id']}"
    invoice |= {
        "amount_due": due,
        "amount_remaining": due,
        "automatically_finalizes_at": None,
        "effective_at": world.now,
        "ending_balance": customer["balance"],
        "hosted_invoice_url": page,
        "invoice_pdf": f"{page}/pdf",
        "last_finalization_error": None,
        "number": number,
        "status": "open",
    }
    invoice["status_transitions"]["finalized_at"] = world.now
    if due:
        _payment(world, invoice)
    world.emit("invoice.finalized", invoice)
    if due == 0:
        mark_paid(world, invoice, 0)
    return True


def _payment(world: World, invoice: Json) -> None:
    """The payment intent that is to pay the invoice, and what ties the two together."""
    customer = world.objects[invoice["customer"]]
    about = "Subscription update" if invoice["parent"] else f"Payment for Invoice {invoice['number']}"
    about = "Subscription creation" if invoice["billing_reason"] == "subscription_create" else about
    intent = make_intent(world, invoice["amount_due"], invoice["currency"], customer, description=about)
    payment = world.add(
        {
            "id": world.new_id("inpay"),
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": invoice["amount_due"],
            "created": world.now,
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": True,
            "livemode": False,
            "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
            "status": "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
        }
    )
    invoice["_payments"].append(payment["id"])
    world.emit("payment_intent.created", intent)


def intent_of(world: World, invoice: Json) -> Json | None:
    """The payment intent of a finalized invoice that had something to pay."""
    if not invoice["_payments"]:
        return None
    return world.objects[world.objects[invoice["_payments"][-1]]["payment"]["payment_intent"]]


def default_card(world: World, invoice: Json) -> Json | None:
    """The card that pays it: the invoice's own, its subscription's, the customer's."""
    subscription = world.objects.get(subscription_of(invoice) or "", {})
    customer = world.objects[invoice["customer"]]
    own = invoice["default_payment_method"] or subscription.get("default_payment_method")
    card = world.objects.get(own or customer["invoice_settings"]["default_payment_method"] or "")
    return card if card and card["customer"] == invoice["customer"] else None


def collect(world: World, invoice: Json, card: Json | None, automatic: bool = False) -> bool:
    """Try to pay an open invoice. Returns whether it is paid."""
    intent = intent_of(world, invoice)
    assert intent is not None
    if automatic or not invoice["attempted"]:
        invoice["attempt_count"] += 1
    invoice |= {"attempted": True, "next_payment_attempt": None}
    customer = world.objects[invoice["customer"]]
    works = card is not None and bool(card["_works"])
    if card is not None and attempt(world, intent, card, works):
        mark_paid(world, invoice, invoice["amount_due"])
        return True
    retry = invoice["attempt_count"] - 1
    more = retry < len(RETRIES)
    if invoice["auto_advance"] and invoice["parent"] and more:
        invoice["next_payment_attempt"] = world.now + RETRIES[retry]
        world.clock.due(world.now + RETRIES[retry], "retry_invoice", invoice["id"])
    elif invoice["auto_advance"]:
        invoice["auto_advance"] = False
    world.emit("invoice.payment_failed", invoice)
    with world.changing(customer, "customer.updated"):
        customer["delinquent"] = True
    for hear in OUTCOMES:
        hear(world, invoice, automatic and not more)
    return False


@later("retry_invoice")
def retry_invoice(world: World, invoice_id: str) -> None:
    invoice = world.objects[invoice_id]
    due = invoice["next_payment_attempt"]
    if invoice["status"] == "open" and invoice["auto_advance"] and due is not None and due <= world.now:
        collect(world, invoice, default_card(world, invoice), automatic=True)


def mark_paid(world: World, invoice: Json, amount: int, off_stripe: int = 0) -> None:
    invoice |= {
        "amount_paid": amount + off_stripe,
        "amount_paid_off_stripe": off_stripe,
        "amount_remaining": 0,
        "attempted": True,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status": "paid",
    }
    invoice["status_transitions"]["paid_at"] = world.now
    for payment in (world.objects[name] for name in invoice["_payments"]):
        if off_stripe:
            payment |= {"status": "canceled"}
            payment["status_transitions"]["canceled_at"] = world.now
            continue
        payment |= {"status": "paid", "amount_paid": amount}
        payment["status_transitions"]["paid_at"] = world.now
        world.emit("invoice_payment.paid", payment)
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)
    customer = world.objects[invoice["customer"]]
    with world.changing(customer, "customer.updated"):
        customer["delinquent"] = False
    for hear in OUTCOMES:
        hear(world, invoice, False)


# --- the API ---------------------------------------------------------------------------------------------------------

CHANGED = "auto_advance default_payment_method description footer metadata"


@endpoint(
    "POST",
    "/v1/invoices",
    kinds.InvoiceCreateParams,
    f"{CHANGED} collection_method currency customer days_until_due due_date pending_invoice_items_behavior "
    "subscription",
)
def create_invoice(world: World, params: Json) -> Json:
    if "customer" not in params:
        raise missing_param("customer")
    customer = world.get("customer", params["customer"], "customer")
    sends = params.get("collection_method") == "send_invoice"
    if sends and "days_until_due" not in params and "due_date" not in params:
        raise Refused(
            "If the collection_method is send_invoice, days_until_due or due_date is needed.", param="days_until_due"
        )
    subscription = owned(world, "subscription", params["subscription"], customer) if "subscription" in params else None
    if card := params.get("default_payment_method"):
        method_of(world, customer, card)
    currency = params.get("currency") or (subscription or customer)["currency"] or "usd"
    found = pending(world, customer["id"], currency, None)
    if subscription:
        found = [one for one in found if one["_subscription"] == subscription["id"]]
    due_date = params.get("due_date") or (
        world.now + params["days_until_due"] * DAY if "days_until_due" in params else None
    )
    return make_invoice(
        world,
        customer,
        currency,
        "manual",
        [],
        found if params.get("pending_invoice_items_behavior") == "include" else [],
        subscription,
        auto_advance=params.get("auto_advance", False),
        collection_method=params.get("collection_method", "charge_automatically"),
        due_date=due_date,
        metadata=world.metadata({}, params.get("metadata", {})),
        **{name: params[name] for name in ("default_payment_method", "description", "footer") if name in params},
    )


@endpoint("GET", "/v1/invoices/{id}", kinds.InvoiceRetrieveParams)
def retrieve_invoice(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    return world.get("invoice", id)


@endpoint("POST", "/v1/invoices/{id}", kinds.InvoiceUpdateParams, CHANGED)
def update_invoice(world: World, params: Json, id: str) -> Json:  # noqa: A002
    invoice = world.get("invoice", id)
    if invoice["status"] != "draft" and params.keys() - {
        "metadata",
        "auto_advance",
        "default_payment_method",
        "expand",
    }:
        raise Refused("Finalized invoices can't be updated in this way", code=FINAL)
    if card := params.get("default_payment_method"):
        method_of(world, world.objects[invoice["customer"]], card)
    with world.changing(invoice, "invoice.updated"):
        for name in {*CHANGED.split()} & params.keys() - {"metadata"}:
            invoice[name] = params[name]
        if "metadata" in params:
            invoice["metadata"] = world.metadata(invoice["metadata"], params["metadata"])
        if params.get("auto_advance") and invoice["status"] == "draft":
            wait(world, invoice)
        if params.get("auto_advance") and invoice["status"] == "open":
            invoice["next_payment_attempt"] = world.now + HOUR
            world.clock.due(world.now + HOUR, "retry_invoice", id)
        if params.get("auto_advance") is False:
            invoice |= {"automatically_finalizes_at": None, "next_payment_attempt": None}
    return invoice


@endpoint("DELETE", "/v1/invoices/{id}", kinds.InvoiceDeleteParams)
def delete_invoice(world: World, params: Json, id: str) -> Json:  # noqa: A002
    invoice = world.get("invoice", id)
    if invoice["status"] != "draft" or invoice["parent"]:
        raise Refused("You can only delete draft invoices that are not for a subscription.", code=FINAL)
    for item in (world.objects[name] for line in invoice["_lines"] if (name := item_of(line))):
        item["invoice"] = None
        if item.get("_put"):  # it was made for this invoice, and goes with it
            item["_deleted"] = True
    world.emit("invoice.deleted", invoice)
    invoice["_deleted"] = True
    return world.reference(id)


@endpoint("GET", "/v1/invoices", kinds.InvoiceListParams, f"{LISTING} collection_method customer status subscription")
def list_invoices(world: World, params: Json) -> Json:
    found = [
        one
        for one in world.of("invoice")
        if all(params.get(name) in (None, one[name]) for name in ("collection_method", "customer", "status"))
        and params.get("subscription") in (None, subscription_of(one))
    ]
    return world.page(found, params, "/v1/invoices")


@endpoint("GET", "/v1/invoices/{id}/lines", kinds.InvoiceLineItemListParams, "limit starting_after ending_before")
def list_lines(world: World, params: Json, id: str) -> Json:  # noqa: A002
    lines = world.get("invoice", id)["_lines"]
    return world.page(lines[::-1], params, f"/v1/invoices/{id}/lines")


@endpoint("POST", "/v1/invoices/{id}/finalize", kinds.InvoiceFinalizeInvoiceParams, "auto_advance")
def finalize_invoice(world: World, params: Json, id: str) -> Json:  # noqa: A002
    invoice = world.get("invoice", id)
    if invoice["status"] != "draft":
        raise Refused("This invoice is already finalized, you can't re-finalize a non-draft invoice.", code=FINAL)
    invoice["auto_advance"] = params.get("auto_advance", invoice["auto_advance"])
    if not finalize(world, invoice):
        raise Refused(invoice["last_finalization_error"]["message"], code=invoice["last_finalization_error"]["code"])
    if (
        invoice["status"] == "open"
        and invoice["auto_advance"]
        and invoice["collection_method"] == "charge_automatically"
    ):
        invoice["next_payment_attempt"] = world.now + HOUR
        world.clock.due(world.now + HOUR, "retry_invoice", id)
    return invoice


@endpoint("POST", "/v1/invoices/{id}/pay", kinds.InvoicePayParams, "off_session paid_out_of_band payment_method")
def pay_invoice(world: World, params: Json, id: str) -> Json:  # noqa: A002
    invoice = world.get("invoice", id)
    if invoice["status"] == "draft" and not finalize(world, invoice):
        raise Refused(invoice["last_finalization_error"]["message"], code=invoice["last_finalization_error"]["code"])
    if invoice["status"] == "paid":
        if invoice["status_transitions"]["finalized_at"] == world.now and not invoice["amount_due"]:
            return invoice
        raise Refused("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "void":
        raise Refused("This invoice is void and can't be paid.", code=FINAL)
    intent = intent_of(world, invoice)
    assert intent is not None
    if intent["status"] == "processing":
        raise Refused("This invoice's payment is being processed.", code="payment_intent_unexpected_state")
    if params.get("paid_out_of_band"):
        cancel_intent(world, intent, "automatic")
        mark_paid(world, invoice, 0, off_stripe=invoice["amount_due"])
        return invoice
    customer = world.objects[invoice["customer"]]
    card = (
        method_of(world, customer, params["payment_method"])
        if "payment_method" in params
        else default_card(world, invoice)
    )
    if card is None:
        raise Refused(
            "There is no `default_payment_method` set on this Customer or Invoice. Please set a default payment "
            "method first.",
            code="resource_missing",
        )
    if not collect(world, invoice, card):
        raise card_error(world, intent)
    return invoice


def card_error(world: World, intent: Json) -> Refused:
    """The 402 of a payment that its card declined."""
    error = declined(world.objects[intent["latest_charge"]])
    message, code, kind = error.pop("message"), error.pop("code"), error.pop("type")
    return Refused(message, code=code, status=402, kind=kind, payment_intent=world.shown(intent, []), **error)


@endpoint("POST", "/v1/invoices/{id}/void", kinds.InvoiceVoidInvoiceParams)
def void_invoice(world: World, params: Json, id: str) -> Json:  # noqa: A002
    invoice = world.get("invoice", id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise Refused(f"You can't void an invoice that is {invoice['status']}.", code=FINAL)
    customer = world.objects[invoice["customer"]]
    with world.changing(customer, "customer.updated"):
        customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
    if intent := intent_of(world, invoice):
        cancel_intent(world, intent, "void_invoice")
    invoice |= {"status": "void", "auto_advance": False, "next_payment_attempt": None}
    invoice["status_transitions"]["voided_at"] = world.now
    world.emit("invoice.voided", invoice)
    for hear in OUTCOMES:
        hear(world, invoice, False)
    return invoice


@endpoint("POST", "/v1/invoices/{id}/mark_uncollectible", kinds.InvoiceMarkUncollectibleParams)
def mark_uncollectible(world: World, params: Json, id: str) -> Json:  # noqa: A002
    invoice = world.get("invoice", id)
    if invoice["status"] != "open":
        raise Refused(f"You can't mark an invoice as uncollectible that is {invoice['status']}.", code=FINAL)
    invoice |= {"status": "uncollectible", "auto_advance": False, "next_payment_attempt": None}
    invoice["status_transitions"]["marked_uncollectible_at"] = world.now
    world.emit("invoice.marked_uncollectible", invoice)
    for hear in OUTCOMES:
        hear(world, invoice, False)
    return invoice


@includable("invoice", "payments")
def payments_of(world: World, invoice: Json) -> Json:
    found = [world.objects[name] for name in world.objects[invoice["id"]]["_payments"]]
    return world.page(found, {}, f"/v1/invoices/{invoice['id']}/payments")


@endpoint("GET", "/v1/invoice_payments/{id}", kinds.InvoicePaymentRetrieveParams)
def retrieve_payment(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("invoice_payment", id)


@endpoint("GET", "/v1/invoice_payments", kinds.InvoicePaymentListParams, f"{LISTING} invoice payment status")
def list_payments(world: World, params: Json) -> Json:
    intent = params.get("payment", {}).get("payment_intent")
    found = [
        one
        for one in world.of("invoice_payment")
        if all(params.get(name) in (None, one[name]) for name in ("invoice", "status"))
        and intent in (None, one["payment"]["payment_intent"])
    ]
    return world.page(found, params, "/v1/invoice_payments")
