"""reconcile, credit packs: payments at Stripe against packs here, in both directions.

All sales are listed, because a pack of any age with credits left needs its sale, and a sale its pack. Refunds and
disputes of the window are read, also those of older packs.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from stripe import InvalidRequestError, StripeClient

from functions.common import results
from functions.common.billing.overage import id_of
from functions.common.billing.payments import PackPayment, PackSale, pack_sale, read_pack_payment
from functions.common.billing.records import PriceList, billing_profile
from functions.common.billing.stripe_client import is_missing
from functions.common.database import Database
from functions.maintenance.findings import Finding

if TYPE_CHECKING:
    from stripe.params.checkout import SessionListParams

PAGE = 1000
PAGE_TIMEOUT_S = 30.0
# Sales that no list has are read one by one. So many are one fault, not many.
MAX_SUSPECTS = 500


@dataclass(frozen=True, slots=True)
class GrantedPack:
    """A pack as we granted it. `is_recorded`: an operator granted it, with a record. `expires_at` None: it
    never does."""

    id: str
    created_at: datetime
    user_id: str
    session_id: str | None
    payment_id: str | None
    credits: int
    price_paid_usd: Decimal
    to_revoke: int
    is_frozen: bool
    is_recorded: bool
    expires_at: datetime | None


async def compare_packs(
    database: Database,
    stripe: StripeClient,
    since: datetime,
    changed: Collection[str],
    prices: PriceList,
    left: Collection[str],
) -> tuple[list[Finding], int]:
    """`changed`: the payments that were refunded or disputed. `left`: customers of deleted users. Returns the findings,
    and how many sales were compared."""
    # Stripe is read first: a payment that is listed there has its pack when we look, unless its event is missing.
    newer = await _sales(stripe, {"gte": int(since.timestamp())}, left)
    sales = newer | await _sales(stripe, {"lt": int(since.timestamp())}, left)
    days = {pack["id"]: pack["expires_after_days"] for pack in prices["packs"]}
    currency = prices["plans"][0]["currency"]
    payments = set(changed)
    findings = []
    for session_ids in _pages(list(sales)):
        granted = {pack.session_id: pack for pack in await _packs(database, p_sessions=session_ids)}
        for session_id in session_ids:
            findings += await _compare_sale(database, session_id, sales[session_id], granted.get(session_id), days)
            sale = sales[session_id]
            # Older ones may be from before a change of the currency.
            if session_id in newer and sale.currency != currency:
                findings.append(Finding("currency", sale.user_id, session_id, currency, sale.currency))
    unlisted: dict[str, GrantedPack] = {}
    async for pack in _packs_to_compare(database, since):
        if pack.session_id is None:
            if not pack.is_recorded:
                findings.append(_unpaid(pack, "a payment, or a grant of an operator"))
        elif pack.session_id not in sales:
            unlisted[pack.session_id] = pack
        if pack.payment_id is not None and (pack.to_revoke or pack.is_frozen):
            payments.add(pack.payment_id)
    findings += await _compare_unlisted(stripe, unlisted, days)
    for payment_ids in _pages(sorted(payments)):
        # Other payments of the account are for plans, or for something else.
        for pack in await _packs(database, p_payments=payment_ids):
            findings += await _compare_refunds(database, stripe, pack)
    return findings, len(sales)


async def _sales(stripe: StripeClient, created: Mapping[str, int], left: Collection[str]) -> dict[str, PackSale]:
    """The paid sales of packs, by the id of the session, without those to deleted users."""
    params = {"created": created, "status": "complete", "limit": 100}
    listed = await stripe.v1.checkout.sessions.list_async(cast("SessionListParams", params))
    sales = {}
    async for session in listed.auto_paging_iter():
        sale = pack_sale(session)
        if sale is not None and sale.is_paid and id_of(session.customer) not in left:
            sales[session.id] = sale
    return sales


async def _compare_unlisted(
    stripe: StripeClient, packs: Mapping[str, GrantedPack], days: Mapping[str, int | None]
) -> list[Finding]:
    """Packs whose sale the lists do not have, by their session."""
    findings = []
    for session_id, pack in list(packs.items())[:MAX_SUSPECTS]:
        sale = await _sale(stripe, session_id)
        if sale is not None:
            findings += _differences(sale, session_id, pack, days)
        else:
            findings.append(_unpaid(pack, f"payment of {session_id}"))
    if len(packs) > MAX_SUSPECTS:
        left = f"{len(packs) - MAX_SUSPECTS:,} that may have none, not read"
        findings.append(Finding("pack unpaid", None, "others", "payments", left))
    return findings


async def _compare_sale(
    database: Database, session_id: str, sale: PackSale, granted: GrantedPack | None, days: Mapping[str, int | None]
) -> list[Finding]:
    if granted is None:
        if await billing_profile(database, sale.user_id) is None:
            return []  # the user was deleted
        return [Finding("pack missing", sale.user_id, session_id, f"{sale.credits} credits", "nothing")]
    return _differences(sale, session_id, granted, days)


def _differences(
    sale: PackSale, session_id: str, granted: GrantedPack, days: Mapping[str, int | None]
) -> list[Finding]:
    """`days`: until each pack on sale expires. Others are not sold any more, and their expiry is not compared."""
    lifetime = days.get(sale.pack)
    expires_at = granted.created_at + timedelta(days=lifetime) if lifetime is not None else None
    if sale.pack in days and granted.expires_at != expires_at:
        texts = [
            f"expires {one.isoformat() if one is not None else 'never'}" for one in (expires_at, granted.expires_at)
        ]
        return [Finding("pack differs", sale.user_id, session_id, *texts)]
    price = Decimal(sale.price_cents) / 100
    if (granted.user_id, granted.credits, granted.price_paid_usd) == (sale.user_id, sale.credits, price):
        return []
    expected = f"{sale.credits} credits for {price}"
    found = f"{granted.credits} credits for {granted.price_paid_usd} of {granted.user_id}"
    return [Finding("pack differs", sale.user_id, session_id, expected, found)]


async def _sale(stripe: StripeClient, session_id: str) -> PackSale | None:
    """What the session sold; None where it is not the paid sale of a pack."""
    try:
        sale = pack_sale(await stripe.v1.checkout.sessions.retrieve_async(session_id))
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        return None
    return sale if sale is not None and sale.is_paid else None


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


async def _packs_to_compare(database: Database, since: datetime) -> AsyncIterator[GrantedPack]:
    after: str | None = None
    while True:
        params = {"p_since": since.isoformat(), "p_after": after, "p_limit": PAGE}
        page = await database.call("packs_to_compare", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("id"))
        for row in page:
            yield _pack(row)
        if not page:
            return
        after = page[-1]["id"]


def _pack(row: Mapping[str, Any]) -> GrantedPack:
    return GrantedPack(
        id=row["id"],
        created_at=datetime.fromisoformat(row["created_at"]),
        user_id=row["user_id"],
        session_id=row["session_id"],
        payment_id=row["payment_id"],
        credits=row["credits"],
        price_paid_usd=row["price_paid_usd"],
        to_revoke=row["to_revoke"],
        is_frozen=row["is_frozen"],
        is_recorded=row["is_recorded"],
        expires_at=_expiry(row["expires_at"]),
    )


def _expiry(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text is not None else None
    except ValueError:  # infinity
        return datetime.max.replace(tzinfo=UTC)


def _pages(ids: list[str]) -> Iterable[list[str]]:
    return (ids[at : at + PAGE] for at in range(0, len(ids), PAGE))
