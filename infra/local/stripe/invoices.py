"""Endpoints of invoices: create, update, finalize, pay, void, delete and list."""

from stripe import params as param_types

from infra.local.stripe.clock import DAY, HOUR
from infra.local.stripe.discounts import DISCOUNT_PARAMS, replaced
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param
from infra.local.stripe.invoice_lifecycle import (
    collect,
    default_card,
    finalize,
    intent_of,
    make_invoice,
    pay_otherwise,
    report_outcome,
    schedule_finalization,
    void,
)
from infra.local.stripe.invoice_lines import (
    NOT_EDITABLE,
    compute_totals,
    item_id_of,
    pending_items,
    subscription_id_of,
)
from infra.local.stripe.payment_methods import get_card
from infra.local.stripe.payments import declined
from infra.local.stripe.state import State, expandable
from infra.local.stripe.taxes import automatic_tax

UPDATE_PARAMS = "auto_advance default_payment_method description footer metadata"


@endpoint(
    "POST",
    "/v1/invoices",
    param_types.InvoiceCreateParams,
    f"{UPDATE_PARAMS} automatic_tax automatic_tax.enabled collection_method currency customer days_until_due due_date "
    "pending_invoice_items_behavior subscription",
)
def create_invoice(state: State, params: Json) -> Json:
    if "customer" not in params:
        raise missing_param("customer")
    customer = state.get("customer", params["customer"], "customer")
    is_sent = params.get("collection_method") == "send_invoice"
    if is_sent and "days_until_due" not in params and "due_date" not in params:
        raise ApiError(
            "If the collection_method is send_invoice, days_until_due or due_date is needed.", param="days_until_due"
        )
    subscription = (
        state.get_owned("subscription", params["subscription"], customer) if "subscription" in params else None
    )
    if card := params.get("default_payment_method"):
        get_card(state, customer, card)
    currency = params.get("currency") or (subscription or customer)["currency"] or "usd"
    items = []
    if params.get("pending_invoice_items_behavior") == "include":
        items = pending_items(state, customer["id"], currency, None)
    if subscription:
        items = [item for item in items if item["_subscription"] == subscription["id"]]
    due_date = params.get("due_date") or (
        state.now + params["days_until_due"] * DAY if "days_until_due" in params else None
    )
    return make_invoice(
        state,
        customer,
        currency,
        "manual",
        [],
        items,
        subscription,
        auto_advance=params.get("auto_advance", False),
        automatic_tax=automatic_tax(params),
        collection_method=params.get("collection_method", "charge_automatically"),
        due_date=due_date,
        metadata=state.merge_metadata({}, params.get("metadata", {})),
        **{name: params[name] for name in ("default_payment_method", "description", "footer") if name in params},
    )


@endpoint("GET", "/v1/invoices/{id}", param_types.InvoiceRetrieveParams)
def retrieve_invoice(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    return state.get("invoice", id)


@endpoint("POST", "/v1/invoices/{id}", param_types.InvoiceUpdateParams, f"{UPDATE_PARAMS} {DISCOUNT_PARAMS}")
def update_invoice(state: State, params: Json, id: str) -> Json:  # noqa: A002
    invoice = state.get("invoice", id)
    if invoice["status"] != "draft" and params.keys() - {
        "metadata",
        "auto_advance",
        "default_payment_method",
        "expand",
    }:
        raise ApiError("Finalized invoices can't be updated in this way", code=NOT_EDITABLE)
    if card := params.get("default_payment_method"):
        get_card(state, state.objects[invoice["customer"]], card)
    with state.updating(invoice, "invoice.updated"):
        for name in {*UPDATE_PARAMS.split()} & params.keys() - {"metadata"}:
            invoice[name] = params[name]
        if "metadata" in params:
            invoice["metadata"] = state.merge_metadata(invoice["metadata"], params["metadata"])
        if "discounts" in params:
            customer = state.objects[invoice["customer"]]
            invoice["discounts"] = replaced(state, invoice["discounts"], params, customer, invoice=id)
            compute_totals(state, invoice)
        if params.get("auto_advance") and invoice["status"] == "draft":
            schedule_finalization(state, invoice)
        if params.get("auto_advance") and invoice["status"] == "open":
            _attempt_in_an_hour(state, invoice)
        if params.get("auto_advance") is False:
            invoice |= {"automatically_finalizes_at": None, "next_payment_attempt": None}
    return invoice


@endpoint("DELETE", "/v1/invoices/{id}", param_types.InvoiceDeleteParams)
def delete_invoice(state: State, params: Json, id: str) -> Json:  # noqa: A002
    invoice = state.get("invoice", id)
    if invoice["status"] != "draft" or invoice["parent"]:
        raise ApiError("You can only delete draft invoices that are not for a subscription.", code=NOT_EDITABLE)
    for item in (state.objects[name] for line in invoice["_lines"] if (name := item_id_of(line))):
        item["invoice"] = None
        if item.get("_made_for_invoice"):
            item["_deleted"] = True
    state.emit("invoice.deleted", invoice)
    invoice["_deleted"] = True
    return state.render_reference(id)


@endpoint(
    "GET",
    "/v1/invoices",
    param_types.InvoiceListParams,
    f"{LIST_PARAMS} collection_method customer status subscription",
)
def list_invoices(state: State, params: Json) -> Json:
    found = [
        invoice
        for invoice in state.objects_of("invoice")
        if all(params.get(name) in (None, invoice[name]) for name in ("collection_method", "customer", "status"))
        and params.get("subscription") in (None, subscription_id_of(invoice))
    ]
    return state.list_page(found, params, "/v1/invoices")


@endpoint("GET", "/v1/invoices/{id}/lines", param_types.InvoiceLineItemListParams, "limit starting_after ending_before")
def list_lines(state: State, params: Json, id: str) -> Json:  # noqa: A002
    lines = state.get("invoice", id)["_lines"]
    return state.list_page(lines[::-1], params, f"/v1/invoices/{id}/lines")


@endpoint("POST", "/v1/invoices/{id}/finalize", param_types.InvoiceFinalizeInvoiceParams, "auto_advance")
def finalize_invoice(state: State, params: Json, id: str) -> Json:  # noqa: A002
    invoice = state.get("invoice", id)
    if invoice["status"] != "draft":
        raise ApiError(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.", code=NOT_EDITABLE
        )
    invoice["auto_advance"] = params.get("auto_advance", invoice["auto_advance"])
    _finalize_or_raise(state, invoice)
    if (
        invoice["status"] == "open"
        and invoice["auto_advance"]
        and invoice["collection_method"] == "charge_automatically"
    ):
        _attempt_in_an_hour(state, invoice)
    return invoice


def _finalize_or_raise(state: State, invoice: Json) -> None:
    if not finalize(state, invoice):
        error = invoice["last_finalization_error"]
        raise ApiError(error["message"], code=error["code"])


def _attempt_in_an_hour(state: State, invoice: Json) -> None:
    invoice["next_payment_attempt"] = state.now + HOUR
    state.clock.schedule(state.now + HOUR, "retry_invoice", invoice["id"])


@endpoint("POST", "/v1/invoices/{id}/pay", param_types.InvoicePayParams, "off_session paid_out_of_band payment_method")
def pay_invoice(state: State, params: Json, id: str) -> Json:  # noqa: A002
    invoice = state.get("invoice", id)
    if invoice["status"] == "draft":
        _finalize_or_raise(state, invoice)
    if invoice["status"] == "paid":
        if invoice["status_transitions"]["finalized_at"] == state.now and not invoice["amount_due"]:
            return invoice
        raise ApiError("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "void":
        raise ApiError("This invoice is void and can't be paid.", code=NOT_EDITABLE)
    intent = intent_of(state, invoice)
    assert intent is not None
    if intent["status"] == "processing":
        raise ApiError("This invoice's payment is being processed.", code="payment_intent_unexpected_state")
    if params.get("paid_out_of_band"):
        pay_otherwise(state, invoice, "payment_record")
        return invoice
    customer = state.objects[invoice["customer"]]
    card = (
        get_card(state, customer, params["payment_method"])
        if "payment_method" in params
        else default_card(state, invoice)
    )
    if card is None:
        raise ApiError(
            "There is no `default_payment_method` set on this Customer or Invoice. Please set a default payment "
            "method first.",
            code="resource_missing",
        )
    if not collect(state, invoice, card):
        raise _card_error(state, intent)
    return invoice


def _card_error(state: State, intent: Json) -> ApiError:
    """402 for a payment attempt that was declined, or that the customer has to confirm."""
    if intent["status"] == "requires_action":
        return ApiError(
            "This payment has to be confirmed by the customer.",
            code="invoice_payment_intent_requires_action",
            status=402,
            kind="card_error",
            payment_intent=state.render(intent, []),
        )
    error = declined(state.objects[intent["latest_charge"]])
    message, code, kind = error.pop("message"), error.pop("code"), error.pop("type")
    return ApiError(message, code=code, status=402, kind=kind, payment_intent=state.render(intent, []), **error)


@endpoint("POST", "/v1/invoices/{id}/void", param_types.InvoiceVoidInvoiceParams)
def void_invoice(state: State, params: Json, id: str) -> Json:  # noqa: A002
    invoice = state.get("invoice", id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise ApiError(f"You can't void an invoice that is {invoice['status']}.", code=NOT_EDITABLE)
    void(state, invoice)
    return invoice


@endpoint("POST", "/v1/invoices/{id}/mark_uncollectible", param_types.InvoiceMarkUncollectibleParams)
def mark_uncollectible(state: State, params: Json, id: str) -> Json:  # noqa: A002
    invoice = state.get("invoice", id)
    if invoice["status"] != "open":
        raise ApiError(f"You can't mark an invoice as uncollectible that is {invoice['status']}.", code=NOT_EDITABLE)
    invoice |= {"status": "uncollectible", "auto_advance": False, "next_payment_attempt": None}
    invoice["status_transitions"]["marked_uncollectible_at"] = state.now
    state.emit("invoice.marked_uncollectible", invoice)
    report_outcome(state, invoice)
    return invoice


@expandable("invoice", "payments")
def payments_of(state: State, invoice: Json) -> Json:
    found = [state.objects[name] for name in state.objects[invoice["id"]]["_payments"]]
    return state.list_page(found, {}, f"/v1/invoices/{invoice['id']}/payments")


@endpoint("GET", "/v1/invoice_payments/{id}", param_types.InvoicePaymentRetrieveParams)
def retrieve_payment(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("invoice_payment", id)


@endpoint("GET", "/v1/invoice_payments", param_types.InvoicePaymentListParams, f"{LIST_PARAMS} invoice payment status")
def list_payments(state: State, params: Json) -> Json:
    by = params.get("payment", {})
    found = [
        payment
        for payment in state.objects_of("invoice_payment")
        if all(params.get(name) in (None, payment[name]) for name in ("invoice", "status"))
        and by.items() <= payment["payment"].items()
    ]
    return state.list_page(found, params, "/v1/invoice_payments")
