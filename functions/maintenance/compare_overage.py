"""reconcile, overage: how invoices ended at Stripe against what we count as paid, voided and owed.

The lists give suspects. Each suspect is read again, at Stripe and then here, so that a change meanwhile is no finding.
"""

from collections.abc import AsyncIterable, Collection, Mapping
from dataclasses import dataclass

from stripe import InvalidRequestError, Invoice, StripeClient

from functions.common import results
from functions.common.billing.invoice_outcome import invoice_outcome
from functions.common.billing.overage import id_of
from functions.common.billing.stripe_client import is_missing
from functions.common.database import Database
from functions.maintenance.findings import Finding


@dataclass(frozen=True, slots=True)
class BilledItem:
    """A row of billed_items: an overage item as we have it."""

    id: str
    user_id: str | None
    amount_cents: int
    stripe_invoice_item_id: str | None
    stripe_invoice_id: str | None
    settled_as: str | None


async def compare_overage(
    database: Database,
    stripe: StripeClient,
    items: Collection[BilledItem],
    payments: Collection[str],
    unpaid: Mapping[str, Invoice],
    credited: Collection[str],
) -> list[Finding]:
    """`payments`: the payment intents that were refunded or disputed, for whatever they were. `unpaid`: the invoices of
    all items' time that are not paid, read before the items. `credited`: those that a balance or a credit paid."""
    suspicious = {one async for one in _invoices_of(stripe, payments)} | set(credited)
    suspects = {
        (item.user_id, item.stripe_invoice_id)
        for item in items
        # Below zero is what gives back, which is not settled.
        if item.amount_cents > 0 and item.user_id is not None and item.stripe_invoice_id is not None
        if item.stripe_invoice_id in suspicious or item.settled_as != _outcome(unpaid.get(item.stripe_invoice_id))
    }
    findings = []
    for user_id, invoice_id in sorted(suspects):
        findings += await _compare(database, stripe, user_id, invoice_id)
    return findings


def _outcome(unpaid: Invoice | None) -> str | None:
    """How an item on this invoice is settled. None as the invoice: it is on one that is paid."""
    if unpaid is None:
        return "paid"
    return "void" if unpaid.status == "void" else None


async def _invoices_of(stripe: StripeClient, payments: Collection[str]) -> AsyncIterable[str]:
    for payment in sorted(payments):
        found = await stripe.v1.invoice_payments.list_async(
            {"payment": {"type": "payment_intent", "payment_intent": payment}, "limit": 1}
        )
        for one in found.data:
            yield str(id_of(one.invoice))


async def _compare(database: Database, stripe: StripeClient, user_id: str, invoice_id: str) -> list[Finding]:
    try:
        expected = await invoice_outcome(stripe, invoice_id)
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        return []  # it was deleted together with its customer
    params = {"p_user_id": user_id, "p_invoice_id": invoice_id}
    rows = await database.call("unsettled_overage", params, parse=results.records("id"))
    return [
        Finding("overage payment", user_id, row["id"], str(expected), str(row["settled_as"]))
        for row in rows
        if row["stripe_invoice_id"] == invoice_id and row["settled_as"] != expected
    ]
