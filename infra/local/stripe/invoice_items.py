"""Endpoints of invoice items: create, update, delete and list."""

from decimal import Decimal

from stripe import params as param_types

from infra.local.stripe.catalog import cents, decimal_text, make_price
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param, unsupported
from infra.local.stripe.invoice_lines import (
    NOT_EDITABLE,
    compute_totals,
    item_id_of,
    item_pricing,
    make_invoice_item,
    make_item_line,
    subscription_id_of,
)
from infra.local.stripe.state import State
from infra.local.stripe.subscription_items import ENDED


@endpoint(
    "POST",
    "/v1/invoiceitems",
    param_types.InvoiceItemCreateParams,
    "amount currency customer description discountable invoice metadata period price_data pricing quantity "
    "subscription tax_behavior unit_amount_decimal",
)
def create_item(state: State, params: Json) -> Json:
    if "customer" not in params:
        raise missing_param("customer")
    customer = state.get("customer", params["customer"], "customer")
    price = _item_price(state, params)
    subscription = _item_subscription(state, params, customer)
    invoice = _item_invoice(state, params, customer, subscription, price["currency"])
    period = params.get("period")
    if period and period["end"] < period["start"]:
        raise ApiError("The period's end is before its start.", param="period[end]")
    more = {name: params[name] for name in ("description", "discountable", "period") if name in params}
    more.setdefault("description", state.get("product", price["product"])["name"])
    item = make_invoice_item(
        state,
        customer,
        price["currency"],
        price["unit_amount_decimal"],
        params.get("quantity", 1),
        metadata=state.merge_metadata({}, params.get("metadata", {})),
        pricing=item_pricing(price),
        invoice=invoice and invoice["id"],
        _subscription=subscription["id"] if subscription else invoice and subscription_id_of(invoice),
        _made_for_invoice=bool(invoice),
        **more,
    )
    state.emit("invoiceitem.created", item)
    if invoice:
        with state.updating(invoice, "invoice.updated"):
            invoice["_lines"].insert(0, make_item_line(state, item))
            compute_totals(state, invoice)
    return item


def _item_price(state: State, params: Json) -> Json:
    """The one-time price of a new item: the price that it names, or a new one for its amount."""
    sources = [name for name in ("amount", "price_data", "pricing", "unit_amount_decimal") if name in params]
    if params.get("tax_behavior") == "inclusive":
        raise unsupported("items that include their tax", "tax_behavior")
    if len(sources) != 1:
        raise missing_param(
            "amount", f"Exactly one of amount, price_data, pricing and unit_amount_decimal is needed, not {sources}."
        )
    if "amount" in params and "quantity" in params:
        raise ApiError("You may only specify one of these parameters: amount, quantity.", param="amount")
    if params.get("quantity", 1) < 0:
        raise ApiError("Invalid non-negative integer", code="parameter_invalid_integer", param="quantity")
    currency = params.get("currency", "").lower()
    if "pricing" in params:
        price = state.get("price", params["pricing"].get("price"), "pricing[price]")
    elif "price_data" in params:
        price = make_price(state, params["price_data"], inline=True)
    elif not currency:
        raise missing_param("currency")
    else:
        amount = {"unit_amount" if sources == ["amount"] else "unit_amount_decimal": params[sources[0]]}
        product = {"name": params.get("description") or "Invoice item"}
        tax = {"tax_behavior": params["tax_behavior"]} if "tax_behavior" in params else {}
        price = make_price(state, {"currency": currency, "product_data": product, **amount, **tax}, inline=True)
    if price["type"] == "recurring":
        raise ApiError(
            "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`.",
            param="pricing[price]",
        )
    if currency not in ("", price["currency"]):
        raise ApiError(f"The price's currency is {price['currency']}, not {currency}.", param="currency")
    return price


def _item_subscription(state: State, params: Json, customer: Json) -> Json | None:
    """The subscription that a new item names. Raises ApiError if it has ended."""
    if not params.get("subscription"):
        return None
    subscription = state.get_owned("subscription", params["subscription"], customer)
    if subscription["status"] in ENDED:
        raise ApiError(
            f"The subscription {subscription['id']} has ended: nothing can accrue under it.", param="subscription"
        )
    return subscription


def _item_invoice(state: State, params: Json, customer: Json, subscription: Json | None, currency: str) -> Json | None:
    """The draft that a new item is added to. Raises ApiError if the item does not fit on it."""
    if not params.get("invoice"):
        return None
    invoice = state.get_owned("invoice", params["invoice"], customer)
    if invoice["status"] != "draft":
        raise ApiError(f"Invoice {invoice['id']} is no longer editable.", code=NOT_EDITABLE, param="invoice")
    if invoice["currency"] != currency:
        raise ApiError(f"The invoice's currency is {invoice['currency']}, not {currency}.", param="currency")
    if subscription and subscription_id_of(invoice) != subscription["id"]:
        raise ApiError(
            f"Invoice {invoice['id']} is not for the subscription {subscription['id']}.", param="subscription"
        )
    return invoice


@endpoint(
    "POST",
    "/v1/invoiceitems/{id}",
    param_types.InvoiceItemUpdateParams,
    "description discountable metadata quantity unit_amount_decimal period",
)
def update_item(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    item = state.get("invoiceitem", id)
    invoice = _draft_of(state, item)
    item |= {name: params[name] for name in ("description", "discountable", "period", "quantity") if name in params}
    if "metadata" in params:
        item["metadata"] = state.merge_metadata(item["metadata"], params["metadata"])
    if "unit_amount_decimal" in params:
        item["pricing"]["unit_amount_decimal"] = decimal_text(params["unit_amount_decimal"])
    amount = cents(Decimal(item["pricing"]["unit_amount_decimal"]) * item["quantity"])
    item |= {"amount": amount, "net_amount": amount, "quantity_decimal": str(item["quantity"])}
    if invoice:
        with state.updating(invoice, "invoice.updated"):
            index = [item_id_of(line) for line in invoice["_lines"]].index(id)
            invoice["_lines"][index] = make_item_line(state, item)
            compute_totals(state, invoice)
    return item


@endpoint("GET", "/v1/invoiceitems/{id}", param_types.InvoiceItemRetrieveParams)
def retrieve_item(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("invoiceitem", id)


@endpoint("DELETE", "/v1/invoiceitems/{id}", param_types.InvoiceItemDeleteParams)
def delete_item(state: State, params: Json, id: str) -> Json:  # noqa: A002
    item = state.get("invoiceitem", id)
    invoice = _draft_of(state, item)
    if invoice:
        with state.updating(invoice, "invoice.updated"):
            invoice["_lines"] = [line for line in invoice["_lines"] if item_id_of(line) != id]
            compute_totals(state, invoice)
    state.emit("invoiceitem.deleted", item)
    item["_deleted"] = True
    return state.render_reference(id)


@endpoint("GET", "/v1/invoiceitems", param_types.InvoiceItemListParams, f"{LIST_PARAMS} customer invoice pending")
def list_items(state: State, params: Json) -> Json:
    found = [
        item
        for item in state.objects_of("invoiceitem")
        if all(params.get(name) in (None, item[name]) for name in ("customer", "invoice"))
        and params.get("pending") in (None, item["invoice"] is None)
    ]
    return state.list_page(found, params, "/v1/invoiceitems")


def _draft_of(state: State, item: Json) -> Json | None:
    """The draft that an item is on; None for a pending item. Raises ApiError if its invoice is no longer a draft."""
    if item["invoice"] is None:
        return None
    invoice = state.get("invoice", item["invoice"])
    if invoice["status"] != "draft":
        raise ApiError(
            "This invoice item can't be changed: it is on an invoice that is no longer a draft.", code=NOT_EDITABLE
        )
    return invoice
