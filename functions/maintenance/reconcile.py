"""reconcile: compares the ledger, the counters, the holds and Stripe's invoices. Every finding is an error.

`fix` sets counters to the ledger's values. A person decides on charges, credits and bills.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypedDict

from stripe import InvalidRequestError, InvoiceItem, StripeClient

from functions.common import results
from functions.common.billing.overage import ITEM_ID_KEY, id_of
from functions.common.billing.records import billing_profile
from functions.common.billing.stripe_state import PackSale, pack_sale
from functions.common.database import Database

# Two of the longest months. Older rows were compared when they were new.
WINDOW = timedelta(days=62)
# An item may be created at Stripe later than its row.
PLACEMENT_DELAY = timedelta(days=30)
RECONCILE_TIMEOUT_S = 150.0
PAGE_TIMEOUT_S = 30.0
PAGE = 1000
SHOWN_PER_KIND = 5  # in the printed report
RETURNED = 100

# The kinds of findings: what each means, and what to do.
KINDS = {
    "I1": "more included queries than the quota: find the cause; nothing is charged for them",
    "I2": "more overage than the limit: find the cause, and credit the user the difference",
    "I3": "the credits of a pack do not add up: compare it with the ledger, and with its payment at Stripe",
    "I4": "a counter that differs from the ledger: `reconcile --fix` corrects it",
    "I5": "a query without exactly one end: run release-stale-holds; if it stays, check the row",
    "I6": "a request that was charged twice: refund one charge",
    "I7": "an overage item that differs from the ledger: run bill-overages; if it stays, check both rows",
    "overdue": "run retry-events, bill-overages and apply-pending-turns; if it stays, check it, or bill it by hand",
    "item missing": "an invoice item that Stripe does not have: it was deleted there, or its customer was",
    "item doubled": "two invoice items for one row: delete one at Stripe, or credit its invoice",
    "item differs": "an invoice item that is not what we billed: it was changed at Stripe",
    "item unknown": "an invoice item of ours without a row: was the database restored from a backup?",
    "pack missing": "a pack that was paid and not granted: run retry-events, or resend its event from Stripe",
    "pack differs": "a pack that differs from what was paid: compare both",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `subject` names the row; `user_id` is None where no user is known."""

    kind: str
    user_id: str | None
    subject: str
    expected: str
    found: str


class ReconcileResult(TypedDict):
    """`differences` that are left, counters `repaired`, `items` and `packs` compared with Stripe, the number of
    findings of each kind, the first RETURNED of them, and the lines to print."""

    differences: int
    repaired: int
    items: int
    packs: int
    by_kind: dict[str, int]
    findings: list[dict[str, str | None]]
    report: list[str]


@dataclass(frozen=True, slots=True)
class BilledItem:
    """A row of billed_items: an overage item as we have it."""

    id: str
    user_id: str | None
    amount_cents: int
    stripe_invoice_item_id: str | None
    stripe_invoice_id: str | None


@dataclass(frozen=True, slots=True)
class GrantedPack:
    """A row of sold_packs: a pack as we granted it."""

    user_id: str
    credits: int
    price_paid_usd: Decimal


async def reconcile(
    database: Database, stripe: StripeClient, now: datetime, progress: Callable[[str], None], *, fix: bool = False
) -> ReconcileResult:
    """Compare everything; with `fix`, repair counters first.

    Raises Unavailable where the database, StripeError where Stripe is out of reach.
    """
    ours = await ledger_findings(database)
    progress(f"reconcile: {len(ours):,} differences in the ledger")
    repaired = 0
    if fix:
        for user_id in sorted({one.user_id for one in ours if one.kind == "I4" and one.user_id}):
            params = {"p_user_id": user_id}
            repaired += await database.call("repair_counters", params, timeout_s=PAGE_TIMEOUT_S, parse=results.number)
        if repaired:
            ours = await ledger_findings(database)
    since = now - WINDOW
    items, compared_items = await _compare_items(database, stripe, since)
    progress(f"reconcile: {compared_items:,} invoice items compared with Stripe")
    packs, compared_packs = await _compare_packs(database, stripe, since)
    progress(f"reconcile: {compared_packs:,} packs compared with Stripe's payments")
    findings = [*ours, *items, *packs]
    return {
        "differences": len(findings),
        "repaired": repaired,
        "items": compared_items,
        "packs": compared_packs,
        "by_kind": dict(Counter(one.kind for one in findings)),
        "findings": [asdict(one) for one in findings[:RETURNED]],
        "report": [
            *_report(findings, repaired),
            f"compared with Stripe: {compared_items:,} items, {compared_packs:,} packs",
        ],
    }


async def ledger_findings(database: Database) -> list[Finding]:
    rows = await database.call("reconcile", timeout_s=RECONCILE_TIMEOUT_S, parse=results.records("invariant"))
    return [Finding(row["invariant"], row["user_id"], row["subject"], row["expected"], row["found"]) for row in rows]


async def _compare_items(database: Database, stripe: StripeClient, since: datetime) -> tuple[list[Finding], int]:
    # Stripe's items are read first: each of them has a row. A row that is newer than this list is looked up by its id.
    theirs: dict[str, list[InvoiceItem]] = defaultdict(list)
    listed = await stripe.v1.invoice_items.list_async({"created": {"gte": int(since.timestamp())}, "limit": 100})
    async for item in listed.auto_paging_iter():
        our_id = item.metadata.to_dict().get(ITEM_ID_KEY) if item.metadata is not None else None
        if our_id is not None:
            theirs[our_id].append(item)
    ours = {row.id: row async for row in _billed_items(database, since - PLACEMENT_DELAY)}
    findings = []
    for our_id, items in theirs.items():
        row, stripe_ids = ours.get(our_id), ", ".join(item.id for item in items)
        user_id = row.user_id if row is not None else None
        if row is None:
            findings.append(Finding("item unknown", None, our_id, "a row", stripe_ids))
        if len(items) > 1:
            findings.append(Finding("item doubled", user_id, our_id, "one", stripe_ids))
        elif row is not None:
            findings += _differences(row, items[0])
    for row in ours.values():
        item_id = row.stripe_invoice_item_id
        if item_id and row.id not in theirs and not await _exists(stripe, item_id):
            findings.append(Finding("item missing", row.user_id, row.id, item_id, "nothing"))
    return findings, len(ours)


def _differences(row: BilledItem, item: InvoiceItem) -> Iterable[Finding]:
    invoice = id_of(item.invoice)
    # An id that we have not stored yet is not a difference: the next run of bill-overages stores it.
    pairs = {
        "cents": (row.amount_cents, item.amount),
        "id": (row.stripe_invoice_item_id or item.id, item.id),
        "invoice": (row.stripe_invoice_id or invoice, invoice),
    }
    for name, (expected, found) in pairs.items():
        if expected != found:
            yield Finding("item differs", row.user_id, f"{row.id}, {name}", str(expected), str(found))


async def _exists(stripe: StripeClient, item_id: str) -> bool:
    """Whether Stripe has the item. It may be older than the listed ones."""
    try:
        await stripe.v1.invoice_items.retrieve_async(item_id)
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        return False
    return True


async def _billed_items(database: Database, since: datetime) -> AsyncIterator[BilledItem]:
    after: str | None = None
    while True:
        params = {"p_since": since.isoformat(), "p_after": after, "p_limit": PAGE}
        page = await database.call("billed_items", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("id"))
        for row in page:
            yield BilledItem(
                row["id"],
                row["user_id"],
                row["amount_cents"],
                row["stripe_invoice_item_id"],
                row["stripe_invoice_id"],
            )
        if not page:
            return
        after = page[-1]["id"]


async def _compare_packs(database: Database, stripe: StripeClient, since: datetime) -> tuple[list[Finding], int]:
    listed = await stripe.v1.checkout.sessions.list_async(
        {"created": {"gte": int(since.timestamp())}, "status": "complete", "limit": 100}
    )
    sales: dict[str, PackSale] = {}
    async for session in listed.auto_paging_iter():
        sale = pack_sale(session)
        if sale is not None and sale.is_paid:
            sales[session.id] = sale
    findings = []
    for session_ids in _pages(list(sales)):
        granted = await _granted_packs(database, session_ids)
        for session_id in session_ids:
            finding = await _compare_pack(database, session_id, sales[session_id], granted.get(session_id))
            if finding is not None:
                findings.append(finding)
    return findings, len(sales)


async def _granted_packs(database: Database, session_ids: list[str]) -> dict[str, GrantedPack]:
    params = {"p_sessions": session_ids}
    rows = await database.call("sold_packs", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("session_id"))
    return {row["session_id"]: GrantedPack(row["user_id"], row["credits"], row["price_paid_usd"]) for row in rows}


async def _compare_pack(
    database: Database, session_id: str, sale: PackSale, granted: GrantedPack | None
) -> Finding | None:
    price = Decimal(sale.amount_cents) / 100
    if granted is None:
        if await billing_profile(database, sale.user_id) is None:
            return None  # the user was deleted
        return Finding("pack missing", sale.user_id, session_id, f"{sale.credits} credits", "nothing")
    if granted != GrantedPack(sale.user_id, sale.credits, price):
        expected = f"{sale.credits} credits for ${price}"
        found = f"{granted.credits} credits for ${granted.price_paid_usd} of {granted.user_id}"
        return Finding("pack differs", sale.user_id, session_id, expected, found)
    return None


def _pages(ids: list[str]) -> Iterable[list[str]]:
    return (ids[at : at + PAGE] for at in range(0, len(ids), PAGE))


def _report(findings: list[Finding], repaired: int) -> list[str]:
    """A line for each kind, followed by its first findings."""
    lines = [f"{repaired} rows had wrong counters and were repaired."] if repaired else []
    kinds = Counter(one.kind for one in findings)
    for kind, meaning in KINDS.items():
        if kinds[kind]:
            lines.append(f"{kinds[kind]:>6,}  {kind}: {meaning}")
            shown = [one for one in findings if one.kind == kind][:SHOWN_PER_KIND]
            lines += [
                f"        {one.subject} (user {one.user_id or 'none'}): expected {one.expected}, found {one.found}"
                for one in shown
            ]
            if kinds[kind] > len(shown):
                lines.append(f"        and {kinds[kind] - len(shown):,} more")
    return lines if findings else [*lines, "Everything adds up."]
