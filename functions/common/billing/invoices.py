"""Reads the lines of Stripe's invoices: which bill our plans and overage, and who paid."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from stripe import StripeClient

from functions.common.billing.stripe_client import ITEM_ID_KEY, tier_of

if TYPE_CHECKING:  # as in stripe_state.py
    from stripe import Invoice, InvoiceItem, InvoiceLineItem, StripeObject
    from stripe.params import InvoiceListParams


async def plan_lines(stripe: StripeClient, which: "InvoiceListParams") -> "AsyncIterator[tuple[str, InvoiceLineItem]]":
    """The lines of paid invoices that bill one of our plans, each with the plan's tier."""
    invoices = await stripe.v1.invoices.list_async({**which, "status": "paid", "limit": 100})
    async for invoice in invoices.auto_paging_iter():
        async for tier, line in plan_lines_of(stripe, invoice):
            yield tier, line


async def plan_lines_of(stripe: StripeClient, invoice: "Invoice") -> "AsyncIterator[tuple[str, InvoiceLineItem]]":
    async for line in lines_of(stripe, invoice):
        tier = tier_of_line(line)
        if tier:
            yield tier, line


async def lines_of(stripe: StripeClient, invoice: "Invoice") -> "AsyncIterator[InvoiceLineItem]":
    lines = invoice.lines
    if lines.has_more:
        assert invoice.id is not None
        lines = await stripe.v1.invoices.line_items.list_async(invoice.id, {"limit": 100})
    async for line in lines.auto_paging_iter():
        yield line


def tier_of_line(line: "InvoiceLineItem | InvoiceItem") -> str | None:
    details = getattr(line.pricing, "price_details", None)
    return tier_of(details.product) if details else None


def net_cents(line: "InvoiceLineItem") -> int:
    """The amount of an invoice's line after discounts, before tax."""
    return line.amount - sum(one.amount for one in line.discount_amounts or [])


def subscription_of(thing: "Invoice | InvoiceItem") -> str | None:
    details = thing.parent.subscription_details if thing.parent else None
    return str(details.subscription) if details else None


def is_ours(invoice: "Invoice") -> bool:
    return has_overage(invoice) or any(tier_of_line(line) for line in invoice.lines.data)


def has_overage(invoice: "Invoice") -> bool:
    """Whether the invoice charges for overage."""
    return any(map(is_overage, [invoice.metadata, *(line.metadata for line in invoice.lines.data)]))


def is_overage(metadata: "StripeObject | None") -> bool:
    return metadata is not None and ITEM_ID_KEY in metadata.to_dict()


def intents_of(invoice: "Invoice") -> set[str]:
    """The payment intents that paid an invoice with expanded payments. What was paid outside Stripe has none."""
    payments = invoice.payments.data if invoice.payments else []
    # Stripe leaves the key out of payments of another type, and the attribute would raise AttributeError.
    found = (getattr(one.payment, "payment_intent", None) for one in payments if one.status == "paid")
    return {str(intent) for intent in found if intent is not None}
