"""Invoice items: pending until an invoice of the customer or of their subscription takes them, or put on a draft.

A line's amount is `unit_amount_decimal × quantity` in cents, rounded once. The next invoice of a subscription takes the
customer's pending items, but those that name another subscription.
"""

from decimal import Decimal

from stripe import params as kinds

from infra.local.stripe.catalog import cents, decimal_text, make_price
from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json, Refused, missing_param
from infra.local.stripe.world import World

# An invoice that can no longer change says so with this code.
FINAL = "invoice_not_editable"


def make_item(world: World, customer: Json, currency: str, unit: str, quantity: int, **more: object) -> Json:
    """An invoice item, not announced. `more` replaces fields; `_subscription` is what it has accrued under."""
    subscription = more.get("_subscription")
    return world.add(
        {
            "id": world.new_id("ii"),
            "object": "invoiceitem",
            "amount": cents(Decimal(unit) * quantity),
            "currency": currency,
            "customer": customer["id"],
            "date": world.now,
            "description": None,
            "discountable": True,
            "discounts": [],
            "frozen_fields": [],
            "invoice": None,
            "invoicing_rules": [],
            "livemode": False,
            "metadata": {},
            "net_amount": cents(Decimal(unit) * quantity),
            "parent": subscription
            and {"subscription_details": {"subscription": subscription}, "type": "subscription_details"},
            "period": {"start": world.now, "end": world.now},
            "proration": False,
            "quantity": quantity,
            "quantity_decimal": str(quantity),
            "tax_rates": [],
            "test_clock": None,
            "_subscription": None,
            **more,
        }
    )


def pricing_of(price: Json) -> Json:
    details = {"price": price["id"], "product": price["product"]}
    return {"price_details": details, "type": "price_details", "unit_amount_decimal": price["unit_amount_decimal"]}


def line_of(world: World, item: Json) -> Json:
    """The invoice line that an item makes."""
    details = {
        "invoice_item": item["id"],
        "proration": item["proration"],
        "proration_details": {"credited_items": None},
        "subscription": item["_subscription"],
    }
    parent = {"invoice_item_details": details, "subscription_item_details": None, "type": "invoice_item_details"}
    copied = ("amount", "currency", "description", "discountable", "metadata", "period", "pricing", "quantity")
    return make_line(world, parent, {name: item[name] for name in copied}, item["_subscription"])


def make_line(world: World, parent: Json, fields: Json, subscription: str | None) -> Json:
    return {
        "id": world.new_id("il"),
        "object": "line_item",
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "livemode": False,
        "metadata": {},
        "parent": parent,
        "pretax_credit_amounts": [],
        "quantity_decimal": str(fields["quantity"]),
        "subscription": subscription,
        "subtotal": fields["amount"],
        "taxes": [],
        **fields,
    }


def pending(world: World, customer: str, currency: str, subscription: str | None) -> list[Json]:
    """The customer's items that no invoice has; for a subscription, without those of others."""
    return [
        one
        for one in world.of("invoiceitem")
        if one["customer"] == customer
        and one["invoice"] is None
        and one["currency"] == currency
        and (subscription is None or one["_subscription"] in (None, subscription))
    ]


@endpoint(
    "POST",
    "/v1/invoiceitems",
    kinds.InvoiceItemCreateParams,
    "amount currency customer description discountable invoice metadata period price_data pricing quantity "
    "subscription unit_amount_decimal",
)
def create_item(world: World, params: Json) -> Json:
    from infra.local.stripe import invoices, subscriptions

    if "customer" not in params:
        raise missing_param("customer")
    customer = world.get("customer", params["customer"], "customer")
    ways = [name for name in ("amount", "price_data", "pricing", "unit_amount_decimal") if name in params]
    if len(ways) != 1:
        raise missing_param(
            "amount", f"Exactly one of amount, price_data, pricing and unit_amount_decimal is needed, not {ways}."
        )
    quantity = params.get("quantity", 1)
    if "amount" in params and "quantity" in params:
        raise Refused("You may only specify one of these parameters: amount, quantity.", param="amount")
    if quantity < 0:
        raise Refused("Invalid non-negative integer", code="parameter_invalid_integer", param="quantity")
    currency = params.get("currency", "").lower()
    if "pricing" in params:
        price = world.get("price", params["pricing"].get("price"), "pricing[price]")
    elif "price_data" in params:
        price = make_price(world, params["price_data"], inline=True)
    elif not currency:
        raise missing_param("currency")
    else:
        amount = {"unit_amount" if ways == ["amount"] else "unit_amount_decimal": params[ways[0]]}
        named = {"name": params.get("description") or "Invoice item"}
        price = make_price(world, {"currency": currency, "product_data": named, **amount}, inline=True)
    if price["type"] == "recurring":
        raise Refused(
            "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`.",
            param="pricing[price]",
        )
    if currency not in ("", price["currency"]):
        raise Refused(f"The price's currency is {price['currency']}, not {currency}.", param="currency")
    unit, currency = price["unit_amount_decimal"], price["currency"]
    subscription = params.get("subscription")
    if subscription:
        subscription = owned(world, "subscription", subscription, customer)
        if subscription["status"] in subscriptions.ENDED:
            raise Refused(
                f"The subscription {subscription['id']} has ended: nothing can accrue under it.", param="subscription"
            )
    invoice = params.get("invoice")
    if invoice:
        invoice = owned(world, "invoice", invoice, customer)
        if invoice["status"] != "draft":
            raise Refused(f"Invoice {invoice['id']} is no longer editable.", code=FINAL, param="invoice")
        if invoice["currency"] != currency:
            raise Refused(f"The invoice's currency is {invoice['currency']}, not {currency}.", param="currency")
        if subscription and invoices.subscription_of(invoice) != subscription["id"]:
            raise Refused(
                f"Invoice {invoice['id']} is not for the subscription {subscription['id']}.", param="subscription"
            )
    period = params.get("period")
    if period and period["end"] < period["start"]:
        raise Refused("The period's end is before its start.", param="period[end]")
    more = {name: params[name] for name in ("description", "discountable", "period") if name in params}
    more.setdefault("description", world.get("product", price["product"])["name"])
    item = make_item(
        world,
        customer,
        currency,
        unit,
        quantity,
        metadata=world.metadata({}, params.get("metadata", {})),
        pricing=pricing_of(price),
        invoice=invoice and invoice["id"],
        _subscription=subscription["id"] if subscription else invoice and invoices.subscription_of(invoice),
        _put=bool(invoice),
        **more,
    )
    world.emit("invoiceitem.created", item)
    if invoice:
        with world.changing(invoice, "invoice.updated"):
            invoice["_lines"].insert(0, line_of(world, item))
            invoices.reckon(world, invoice)
    return item


def owned(world: World, kind: str, object_id: str, customer: Json) -> Json:
    """That object, if it is the customer's."""
    thing = world.get(kind, object_id, kind)
    if thing["customer"] != customer["id"]:
        raise Refused(f"The {kind} {object_id} does not belong to the customer {customer['id']}.", param=kind)
    return thing


@endpoint(
    "POST",
    "/v1/invoiceitems/{id}",
    kinds.InvoiceItemUpdateParams,
    "description metadata quantity unit_amount_decimal period",
)
def update_item(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    from infra.local.stripe import invoices

    item = world.get("invoiceitem", id)
    invoice = _open_invoice(world, item)
    item |= {name: params[name] for name in ("description", "period", "quantity") if name in params}
    if "metadata" in params:
        item["metadata"] = world.metadata(item["metadata"], params["metadata"])
    if "unit_amount_decimal" in params:
        item["pricing"]["unit_amount_decimal"] = decimal_text(params["unit_amount_decimal"])
    amount = cents(Decimal(item["pricing"]["unit_amount_decimal"]) * item["quantity"])
    item |= {"amount": amount, "net_amount": amount, "quantity_decimal": str(item["quantity"])}
    if invoice:
        with world.changing(invoice, "invoice.updated"):
            at = [invoices.item_of(line) for line in invoice["_lines"]].index(id)
            invoice["_lines"][at] = line_of(world, item)
            invoices.reckon(world, invoice)
    return item


@endpoint("GET", "/v1/invoiceitems/{id}", kinds.InvoiceItemRetrieveParams)
def retrieve_item(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("invoiceitem", id)


@endpoint("DELETE", "/v1/invoiceitems/{id}", kinds.InvoiceItemDeleteParams)
def delete_item(world: World, params: Json, id: str) -> Json:  # noqa: A002
    from infra.local.stripe import invoices

    item = world.get("invoiceitem", id)
    invoice = _open_invoice(world, item)
    if invoice:
        with world.changing(invoice, "invoice.updated"):
            invoice["_lines"] = [line for line in invoice["_lines"] if invoices.item_of(line) != id]
            invoices.reckon(world, invoice)
    world.emit("invoiceitem.deleted", item)
    item["_deleted"] = True
    return world.reference(id)


@endpoint("GET", "/v1/invoiceitems", kinds.InvoiceItemListParams, f"{LISTING} customer invoice pending")
def list_items(world: World, params: Json) -> Json:
    found = [
        one
        for one in world.of("invoiceitem")
        if all(params.get(name) in (None, one[name]) for name in ("customer", "invoice"))
        and params.get("pending") in (None, one["invoice"] is None)
    ]
    return world.page(found, params, "/v1/invoiceitems")


def _open_invoice(world: World, item: Json) -> Json | None:
    """The draft that an item is on, None for a pending one. Raises Refused where it is on one that is final."""
    if item["invoice"] is None:
        return None
    invoice = world.get("invoice", item["invoice"])
    if invoice["status"] != "draft":
        raise Refused("This invoice item can't be changed: it is on an invoice that is no longer a draft.", code=FINAL)
    return invoice
