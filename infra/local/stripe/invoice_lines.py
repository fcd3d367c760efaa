"""Invoice lines and the items they are made from.

An invoice item is pending until an invoice of its customer or subscription takes it, or it is added to a draft. The
amount of a line is `unit_amount_decimal × quantity` in cents, rounded once.
"""

from decimal import Decimal

from infra.local.stripe.catalog import cents
from infra.local.stripe.discounts import lower_lines
from infra.local.stripe.errors import Json
from infra.local.stripe.state import State, list_object
from infra.local.stripe.taxes import tax_status, taxes_on, total_taxes

NOT_EDITABLE = "invoice_not_editable"
"""The error code for an invoice that can no longer change."""
SHOWN_LINES = 10


def make_invoice_item(state: State, customer: Json, currency: str, unit: str, quantity: int, **more: object) -> Json:
    """An invoice item; the caller emits the event. `more` replaces fields; `_subscription` is the id it accrues to."""
    subscription, amount = more.get("_subscription"), cents(Decimal(unit) * quantity)
    # A credit is discountable only if the request sets it.
    discountable = more.get("discountable", amount >= 0)
    return state.add(
        {
            "id": state.new_id("ii"),
            "object": "invoiceitem",
            "amount": amount,
            "currency": currency,
            "customer": customer["id"],
            "date": state.now,
            "description": None,
            "discountable": discountable,
            "discounts": [],
            "frozen_fields": [],
            "invoice": None,
            "invoicing_rules": [],
            "livemode": False,
            "metadata": {},
            "net_amount": amount,
            "parent": subscription
            and {"subscription_details": {"subscription": subscription}, "type": "subscription_details"},
            "period": {"start": state.now, "end": state.now},
            "proration": False,
            "quantity": quantity,
            "quantity_decimal": str(quantity),
            "tax_rates": [],
            "test_clock": None,
            "_subscription": None,
            **more,
        }
    )


def item_pricing(price: Json) -> Json:
    details = {"price": price["id"], "product": price["product"]}
    return {"price_details": details, "type": "price_details", "unit_amount_decimal": price["unit_amount_decimal"]}


def make_item_line(state: State, item: Json) -> Json:
    """The invoice line of an item."""
    details = {
        "invoice_item": item["id"],
        "proration": item["proration"],
        "proration_details": {"credited_items": None},
        "subscription": item["_subscription"],
    }
    parent = {"invoice_item_details": details, "subscription_item_details": None, "type": "invoice_item_details"}
    copied = ("amount", "currency", "description", "discountable", "metadata", "period", "pricing", "quantity")
    return make_line(state, parent, {name: item[name] for name in copied}, item["_subscription"])


def make_line(state: State, parent: Json, fields: Json, subscription: str | None) -> Json:
    return {
        "id": state.new_id("il"),
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


def pending_items(state: State, customer: str, currency: str, subscription: str | None) -> list[Json]:
    """The items of the customer on no invoice. With a subscription: without the items of other subscriptions."""
    return [
        item
        for item in state.objects_of("invoiceitem")
        if item["customer"] == customer
        and item["invoice"] is None
        and item["currency"] == currency
        and (subscription is None or item["_subscription"] in (None, subscription))
    ]


def subscription_id_of(invoice: Json) -> str | None:
    """The id of the subscription of an invoice."""
    return str(invoice["parent"]["subscription_details"]["subscription"]) if invoice["parent"] else None


def item_id_of(line: Json) -> str | None:
    """The id of the invoice item of a line."""
    details = line["parent"]["invoice_item_details"]
    return str(details["invoice_item"]) if details else None


def compute_totals(state: State, invoice: Json) -> None:
    """Set the discounts, the taxes and the totals of a draft from its lines, and the address and the balance of the
    customer."""
    lines, customer = invoice["_lines"], state.objects[invoice["customer"]]
    taxed, address, balance = invoice["automatic_tax"]["enabled"], customer["address"], customer["balance"]
    reduced = lower_lines(state, lines, invoice["discounts"])
    for line in lines:
        line["invoice"] = invoice["id"]
        net = line["amount"] - sum(one["amount"] for one in line["discount_amounts"])
        line["taxes"] = taxes_on(address, net) if taxed else []
    subtotal, taxes = sum(line["amount"] for line in lines), total_taxes([line["taxes"] for line in lines])
    untaxed = subtotal - sum(one["amount"] for one in reduced)
    total = untaxed + sum(tax["amount"] for tax in taxes)
    invoice["lines"] = list_object(lines[:SHOWN_LINES], f"/v1/invoices/{invoice['id']}/lines", len(lines) > SHOWN_LINES)
    due = max(0, total + balance)
    invoice["automatic_tax"] |= tax_status(taxed, address)
    invoice |= {"customer_address": address, "total": total, "total_taxes": taxes}
    invoice |= {"subtotal": subtotal, "subtotal_excluding_tax": subtotal, "total_excluding_tax": untaxed}
    invoice["total_discount_amounts"] = reduced
    invoice |= {"starting_balance": balance, "amount_due": due, "amount_remaining": due}
