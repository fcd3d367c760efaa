"""reconcile, credit packs: payments at Stripe against packs here, in both directions.

Refunds and disputes of the window are read, also those of older packs.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from stripe import InvalidRequestError, StripeClient

from functions.common import results
from functions.common.billing.overage import id_of
from functions.common.billing.records import billing_profile
from functions.common.billing.stripe_state import PackPayment, PackSale, pack_sale, read_pack_payment
from functions.common.database import Database
from functions.maintenance.findings import Finding

PAGE = 1000
PAGE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class GrantedPack:
    """A pack as we granted it. `is_recorded`: an operator granted it, with a record."""

    id: str
    user_id: str
    session_id: str | None
    payment_id: str | None
    credits: int
    price_paid_usd: Decimal
    to_revoke: int
    is_frozen: bool
    is_recorded: bool


async def compare_packs(
    database: Database, stripe: StripeClient, since: datetime, changed: Collection[str], currency: str
) -> tuple[list[Finding], int]:
    """`changed`: the result of changed_payments. Returns the findings, and how many payments were compared."""
    # Stripe is read first: a payment that is listed there has its pack when we look, unless its event is missing.
    sales = await _sales(stripe, since)
    payments = set(changed)
    findings = []
    for session_ids in _pages(list(sales)):
        granted = {pack.session_id: pack for pack in await _packs(database, p_sessions=session_ids)}
        for session_id in session_ids:
            finding = await _compare_sale(database, session_id, sales[session_id], granted.get(session_id))
            if finding is not None:
                findings.append(finding)
            sale = sales[session_id]
            if sale.currency != currency:
                findings.append(Finding("currency", sale.user_id, session_id, currency, sale.currency))
    async for pack in _packs_since(database, since):
        if pack.session_id is None:
            if not pack.is_recorded:
                findings.append(_unpaid(pack, "a payment, or a grant of an operator"))
        elif pack.session_id not in sales and not await _is_paid(stripe, pack.session_id):
            findings.append(_unpaid(pack, f"payment of {pack.session_id}"))
        elif pack.payment_id is not None and (pack.to_revoke or pack.is_frozen):
            payments.add(pack.payment_id)
    for payment_ids in _pages(sorted(payments)):
        # Other payments of the account are for plans, or for something else.
        for pack in await _packs(database, p_payments=payment_ids):
            findings += await _compare_refunds(database, stripe, pack)
    return findings, len(sales)


async def _sales(stripe: StripeClient, since: datetime) -> dict[str, PackSale]:
    """The paid sales of packs, by the id of the session."""
    listed = await stripe.v1.checkout.sessions.list_async(
        {"created": {"gte": int(since.timestamp())}, "status": "complete", "limit": 100}
    )
    sales = {}
    async for session in listed.auto_paging_iter():
        sale = pack_sale(session)
        if sale is not None and sale.is_paid:
            sales[session.id] = sale
    return sales


async def changed_payments(stripe: StripeClient, since: datetime) -> set[str]:
    """The ids of the payments that were refunded or disputed, for whatever they were."""
    payments = set()
    refunds = await stripe.v1.refunds.list_async({"created": {"gte": int(since.timestamp())}, "limit": 100})
    async for refund in refunds.auto_paging_iter():
        payments.add(id_of(refund.payment_intent))
    disputes = await stripe.v1.disputes.list_async({"created": {"gte": int(since.timestamp())}, "limit": 100})
    async for dispute in disputes.auto_paging_iter():
        payments.add(id_of(dispute.payment_intent))
    return {payment for payment in payments if payment is not None}


async def _compare_sale(
    database: Database, session_id: str, sale: PackSale, granted: GrantedPack | None
) -> Finding | None:
    price = Decimal(sale.price_cents) / 100
    if granted is None:
        if await billing_profile(database, sale.user_id) is None:
            return None  # the user was deleted
        return Finding("pack missing", sale.user_id, session_id, f"{sale.credits} credits", "nothing")
    if (granted.user_id, granted.credits, granted.price_paid_usd) != (sale.user_id, sale.credits, price):
        expected = f"{sale.credits} credits for {price}"
        found = f"{granted.credits} credits for {granted.price_paid_usd} of {granted.user_id}"
        return Finding("pack differs", sale.user_id, session_id, expected, found)
    return None


async def _is_paid(stripe: StripeClient, session_id: str) -> bool:
    """Whether the session sold a pack and was paid. It may be older than the listed ones."""
    try:
        sale = pack_sale(await stripe.v1.checkout.sessions.retrieve_async(session_id))
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        return False
    return sale is not None and sale.is_paid


def _unpaid(pack: GrantedPack, expected: str) -> Finding:
    return Finding("pack unpaid", pack.user_id, pack.id, expected, f"{pack.credits} credits without it")


async def _compare_refunds(database: Database, stripe: StripeClient, pack: GrantedPack) -> list[Finding]:
    assert pack.payment_id is not None
    found = await read_pack_payment(stripe, pack.payment_id)
    if found is None:
        return []  # _compare_sale reports it
    expected = _revoked_and_frozen(pack, found[1])
    if (pack.to_revoke, pack.is_frozen) != expected:  # read again: its event may have arrived meanwhile
        again = await _packs(database, p_payments=[pack.payment_id])
        if again and (again[0].to_revoke, again[0].is_frozen) != expected:
            texts = [
                f"{count} credits to revoke{', frozen' if is_frozen else ''}"
                for count, is_frozen in (expected, (again[0].to_revoke, again[0].is_frozen))
            ]
            return [Finding("pack refund", pack.user_id, pack.id, *texts)]
    return []


def _revoked_and_frozen(pack: GrantedPack, payment: PackPayment) -> tuple[int, bool]:
    """As apply_pack decides it: refunds revoke pro rata, a lost dispute revokes all, an open one freezes."""
    refunded = payment.credits * payment.refunded_cents // payment.paid_cents if payment.paid_cents else 0
    return (payment.credits if payment.is_lost else refunded), payment.is_disputed


async def _packs(database: Database, **params: list[str]) -> list[GrantedPack]:
    rows = await database.call("sold_packs", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("id"))
    return [_pack(row) for row in rows]


async def _packs_since(database: Database, since: datetime) -> AsyncIterator[GrantedPack]:
    after: str | None = None
    while True:
        params = {"p_since": since.isoformat(), "p_after": after, "p_limit": PAGE}
        page = await database.call("packs_since", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("id"))
        for row in page:
            yield _pack(row)
        if not page:
            return
        after = page[-1]["id"]


def _pack(row: Mapping[str, Any]) -> GrantedPack:
    return GrantedPack(
        id=row["id"],
        user_id=row["user_id"],
        session_id=row["session_id"],
        payment_id=row["payment_id"],
        credits=row["credits"],
        price_paid_usd=row["price_paid_usd"],
        to_revoke=row["to_revoke"],
        is_frozen=row["is_frozen"],
        is_recorded=row["is_recorded"],
    )


def _pages(ids: list[str]) -> Iterable[list[str]]:
    return (ids[at : at + PAGE] for at in range(0, len(ids), PAGE))
