"""Reads payments at Stripe: what each one paid for, and whether the payer has it back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from stripe import StripeClient

from functions.common.billing.invoices import is_ours, subscription_of
from functions.common.billing.stripe_client import iso_time

if TYPE_CHECKING:  # as in stripe_state.py
    from stripe import Charge
    from stripe.checkout import Session

CLOSED_DISPUTES = frozenset({"won", "lost", "warning_closed", "prevented"})
# While a dispute is open, the bank has the money. A warning takes none.
MONEY_TAKEN = frozenset({"needs_response", "under_review", "lost"})


@dataclass(frozen=True, slots=True)
class PackSale:
    """What a checkout session sold, as its metadata recorded it. `total_cents` is what was charged, `price_cents` the
    same without tax, both after discounts and in cents of `currency`. A total of nothing counts as paid."""

    user_id: str
    pack: str
    credits: int
    currency: str
    price_cents: int
    total_cents: int
    is_paid: bool


@dataclass(frozen=True, slots=True)
class PackPayment:
    """The payment for a pack, as the SQL function apply_pack reads it. `paid_at` is ISO 8601, None until it is paid.

    `price_cents` is without tax; `paid_cents` and `refunded_cents` are with it. A pack that a promotion code made free
    has no payment intent.
    """

    session_id: str
    payment_intent_id: str | None
    pack: str
    credits: int
    paid_at: str | None
    price_cents: int
    paid_cents: int
    refunded_cents: int
    is_disputed: bool
    is_lost: bool


@dataclass(frozen=True, slots=True)
class InvoicePayment:
    """A payment: its customer, the invoice that it paid, and the subscription of that invoice, if it is ours."""

    customer_id: str | None
    invoice_id: str | None
    subscription_id: str | None
    is_lost: bool


def buyer_of(metadata: Mapping[str, str]) -> str | None:
    """The user id in the metadata of a checkout session; None for what another project of the account sold.

    Checkout writes it beside the plan or the pack (functions/checkout).
    """
    if not {"plan", "pack"} & metadata.keys():
        return None
    try:
        return str(UUID(metadata.get("user_id")))
    except (TypeError, ValueError):
        return None


def pack_sale(session: "Session") -> PackSale | None:
    """What a checkout session sold; None for a session that did not sell one of our packs.

    The metadata is read, because the pack in our table may have changed since the sale.
    """
    metadata = session.metadata.to_dict() if session.metadata is not None else {}
    buyer_id = buyer_of(metadata) if session.mode == "payment" and "pack" in metadata else None
    if buyer_id is None or not re.fullmatch("[0-9]{1,9}", metadata.get("credits", "")):
        return None
    total, details = session.amount_total or 0, session.total_details
    return PackSale(
        user_id=buyer_id,
        pack=metadata["pack"],
        credits=int(metadata["credits"]),
        currency=session.currency or "",
        price_cents=total - (details.amount_tax if details else 0),
        total_cents=total,
        is_paid=session.status == "complete" and session.payment_status != "unpaid",
    )


async def read_pack_payment(stripe: StripeClient, payment_intent_id: str) -> tuple[str, PackPayment] | None:
    """The buyer's user id and the state of their payment; None where it paid for none of our packs.

    Raises StripeError.
    """
    sessions = await stripe.v1.checkout.sessions.list_async({"payment_intent": payment_intent_id, "limit": 1})
    session = sessions.data[0] if sessions.data else None
    sale = pack_sale(session) if session is not None else None
    if session is None or sale is None:
        return None
    intent = await stripe.v1.payment_intents.retrieve_async(payment_intent_id, {"expand": ["latest_charge"]})
    disputes = await disputes_of(stripe, payment_intent_id)
    charge = None if isinstance(intent.latest_charge, str) else intent.latest_charge
    paid = charge if charge is not None and charge.paid and sale.is_paid else None
    return sale.user_id, PackPayment(
        session_id=session.id,
        payment_intent_id=payment_intent_id,
        pack=sale.pack,
        credits=sale.credits,
        paid_at=iso_time(paid.created) if paid else None,
        price_cents=sale.price_cents,
        paid_cents=paid.amount if paid else sale.total_cents,
        refunded_cents=await refunded_cents(stripe, paid) if paid else 0,
        is_disputed=not disputes <= CLOSED_DISPUTES,
        is_lost="lost" in disputes,
    )


async def read_free_pack(stripe: StripeClient, session_id: str) -> tuple[str, PackPayment] | None:
    """The buyer's user id and the pack of a session without a payment; None where it sold none of our packs.

    Raises StripeError.
    """
    session = await stripe.v1.checkout.sessions.retrieve_async(session_id)
    sale = pack_sale(session)
    if sale is None or not sale.is_paid or session.payment_intent is not None:
        return None
    return sale.user_id, PackPayment(
        session_id=session.id,
        payment_intent_id=None,
        pack=sale.pack,
        credits=sale.credits,
        paid_at=iso_time(session.created),
        price_cents=0,
        paid_cents=0,
        refunded_cents=0,
        is_disputed=False,
        is_lost=False,
    )


async def read_invoice_payment(stripe: StripeClient, payment_intent_id: str) -> InvoicePayment:
    """What a payment paid. `is_lost`: a dispute of it was lost. Raises StripeError."""
    intent = await stripe.v1.payment_intents.retrieve_async(payment_intent_id)
    customer_id = str(intent.customer) if intent.customer else None
    if customer_id is None:
        return InvoicePayment(None, None, None, is_lost=False)
    payments = await stripe.v1.invoice_payments.list_async(
        {"payment": {"type": "payment_intent", "payment_intent": payment_intent_id}, "limit": 1}
    )
    for payment in payments.data:
        invoice = await stripe.v1.invoices.retrieve_async(str(payment.invoice))
        subscription_id = subscription_of(invoice) if is_ours(invoice) else None
        disputes = await disputes_of(stripe, payment_intent_id)
        return InvoicePayment(customer_id, invoice.id, subscription_id, "lost" in disputes)
    return InvoicePayment(customer_id, None, None, is_lost=False)


async def is_returned(stripe: StripeClient, charge: "Charge") -> bool:
    """Whether all of a charge was refunded, or the customer's bank has it."""
    if charge.disputed and MONEY_TAKEN & await disputes_of(stripe, str(charge.payment_intent)):
        return True
    return await refunded_cents(stripe, charge) >= charge.amount


async def disputes_of(stripe: StripeClient, payment_intent_id: str) -> set[str]:
    """The statuses of the disputes of a payment."""
    listed = await stripe.v1.disputes.list_async({"payment_intent": payment_intent_id, "limit": 100})
    return {dispute.status for dispute in listed.data}


async def refunded_cents(stripe: StripeClient, charge: "Charge") -> int:
    """What was refunded, without refunds that failed later: the bank returned their money to us.
    https://docs.stripe.com/refunds#failed-refunds"""
    if charge.amount_refunded == 0:
        return 0
    refunds = await stripe.v1.refunds.list_async({"charge": charge.id, "limit": 100})
    kept = sum([one.amount async for one in refunds.auto_paging_iter() if one.status not in ("failed", "canceled")])
    return min(kept, charge.amount_refunded)
