"""Reads how an invoice for overage ended: docs/decisions/0035-a-returned-payment-is-owed-again.md."""

from collections import Counter
from typing import TYPE_CHECKING, Literal

from stripe import StripeClient

from functions.common.billing.invoices import intents_of, is_overage, lines_of, net_cents, plan_lines_of
from functions.common.billing.payments import is_returned

if TYPE_CHECKING:  # as in stripe_state.py
    from stripe import Invoice


async def invoice_outcome(
    stripe: StripeClient, invoice_id: str
) -> Literal["paid", "void", "credited", "returned"] | None:
    """How an invoice for overage ended; None while that is owed. Returned: all of a payment of it was refunded, or it
    is disputed or was lost. Credited: a credit paid some of the overage; returned as well if any payment before it was,
    and owed while a credit is for a plan that was not paid, because Stripe does not say what a balance came from.
    Raises StripeError.

    A payment of a plan and of overage is one payment: Stripe does not say which part a refund is for. A total below
    Stripe's smallest charge is added to what the customer owes, and the next invoice collects it. Stripe voids the
    first invoice of a subscription that has not been paid in a day: that forgives nothing.
    """
    invoice = await stripe.v1.invoices.retrieve_async(invoice_id, {"expand": ["payments"]})
    if invoice.status == "void":
        return None if invoice.billing_reason == "subscription_create" else "void"
    if invoice.status != "paid":
        return None
    for intent_id in sorted(intents_of(invoice)):
        intent = await stripe.v1.payment_intents.retrieve_async(intent_id, {"expand": ["latest_charge"]})
        charge = intent.latest_charge
        if charge is not None and not isinstance(charge, str) and await is_returned(stripe, charge):
            return "returned"
    overage = sum([net_cents(line) async for line in lines_of(stripe, invoice) if is_overage(line.metadata)])
    if invoice.amount_paid >= max(invoice.total, overage):
        return "paid"
    if (invoice.ending_balance or 0) > max(0, invoice.starting_balance):
        return "credited" if await _is_collected(stripe, invoice) else None
    if await _has_returned_payment(stripe, invoice):
        return "returned"
    return None if await _has_unpaid_credit(stripe, invoice) else "credited"


async def _is_collected(stripe: StripeClient, carried: "Invoice") -> bool:
    """Whether a later invoice collected what an invoice added to the customer's balance, and was paid. A voided one
    gives it back to the balance."""
    at = _finalized_at(carried)
    listed = await stripe.v1.invoices.list_async(
        {"customer": str(carried.customer), "created": {"gte": carried.created}, "limit": 100}
    )
    collecting = [
        (one.status_transitions.finalized_at, one.status)
        async for one in listed.auto_paging_iter()
        if one.status in ("open", "paid", "uncollectible")
        and one.starting_balance > 0 >= (one.ending_balance or 0)
        and (one.status_transitions.finalized_at or 0) >= at
    ]
    if collecting:
        return min(collecting)[1] == "paid"
    customer = await stripe.v1.customers.retrieve_async(str(carried.customer))
    return (getattr(customer, "balance", 0) or 0) <= 0  # support took it off, or the customer was deleted


async def _has_returned_payment(stripe: StripeClient, credited: "Invoice") -> bool:
    """Whether an earlier payment of an invoice of the customer was returned. Packs are no invoices."""
    until = _finalized_at(credited)
    charges = await stripe.v1.charges.list_async(
        {"customer": str(credited.customer), "created": {"lte": until}, "limit": 100}
    )
    async for charge in charges.auto_paging_iter():
        if charge.paid and (charge.disputed or charge.refunded) and await is_returned(stripe, charge):
            payment = str(charge.payment_intent)
            paid = await stripe.v1.invoice_payments.list_async(
                {"payment": {"type": "payment_intent", "payment_intent": payment}, "limit": 1}
            )
            if paid.data:
                return True
    return False


async def _has_unpaid_credit(stripe: StripeClient, credited: "Invoice") -> bool:
    """Whether a credit that may have paid an invoice takes back a plan's charge that is not paid. A credit has the plan
    and the end of its charge."""
    until = _finalized_at(credited)
    listed = await stripe.v1.invoices.list_async(
        {"customer": str(credited.customer), "created": {"lte": until}, "limit": 100}
    )
    found = [one async for one in listed.auto_paging_iter() if one.status != "draft"]
    found.reverse()  # Stripe lists the newest first
    found.sort(key=_finalized_at)
    paid: Counter[tuple[str, int]] = Counter()
    is_unpaid = False
    for invoice in found:
        if _finalized_at(invoice) > until:
            break
        is_unpaid &= invoice.starting_balance < 0  # otherwise nothing is left of the credits before
        lines = [((tier, line.period.end), line.amount) async for tier, line in plan_lines_of(stripe, invoice)]
        if invoice.status == "paid" and not (is_unpaid and invoice.amount_paid < invoice.total):
            paid.update(charge for charge, cents in lines if cents > 0)
        for credit in [charge for charge, cents in lines if cents < 0 and invoice.status != "void"]:
            is_unpaid |= paid[credit] == 0
            paid[credit] = max(0, paid[credit] - 1)
    return is_unpaid


def _finalized_at(invoice: "Invoice") -> int:
    return invoice.status_transitions.finalized_at or invoice.created
