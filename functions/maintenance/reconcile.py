"""reconcile: the ledger, the counters, the holds and Stripe's invoices, compared. Nothing that it finds is right.

`fix` sets counters to what the ledger says. Charges, credits and bills are left to a person.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from stripe import InvalidRequestError, StripeClient

from functions.common.billing.overage import OUR_ID
from functions.common.database import Database

# Two of the longest months. What is older was compared when it was new.
WINDOW = timedelta(days=62)
# What was taken together then may have come to Stripe later.
EARLIER = timedelta(days=30)
RECONCILE_S = 150.0
PAGE = 1000
SHOWN = 5  # of each kind, to people
TOLD = 100

# What each kind of finding means, and what to do about it.
KINDS = {
    "I1": "more included queries than the quota: find out how; nothing is charged for them",
    "I2": "more overage than the limit: find out how, and credit the user what is beyond it",
    "I3": "a pack whose credits do not add up: compare it with the ledger, and with its payment at Stripe",
    "I4": "a counter that is off: `reconcile --fix` sets it right",
    "I5": "a query without its one end: run release-stale-holds; if it stays, look at the row",
    "I6": "a request that was charged twice: refund one",
    "I7": "overage that is not billed as the ledger has it: run bill-overages; if it stays, look at both rows",
    "overdue": "run retry-events and bill-overages; if it stays, look at the event's error, or bill it by hand",
    "item missing": "an invoice item that Stripe does not have: somebody deleted it there, or its customer",
    "item doubled": "two invoice items for one: delete one at Stripe, or credit its invoice",
    "item differs": "an invoice item that is not what we billed: somebody changed it at Stripe",
    "item unknown": "an invoice item that names us and that we do not have: was the database set back?",
    "pack missing": "a pack that was paid and not granted: run retry-events, or send its event again from Stripe",
    "pack differs": "a pack that is not what was paid for: compare both",
}


class Finding(NamedTuple):
    """One difference. `subject`: which row; `user_id` is None where it is nobody's."""

    kind: str
    user_id: str | None
    subject: str
    expected: str
    found: str


async def reconcile(
    database: Database, stripe: StripeClient, now: datetime, progress: Callable[[str], None], *, fix: bool = False
) -> dict[str, Any]:
    """Returns `{"differences", "mended", "items", "packs", "by_kind", "findings", "report"}`: how much is found and not
    mended, rows whose counters were mended, invoice items and packs that were compared, how many findings of each kind,
    the first hundred of them, lines to read.

    Raises Unavailable where the database, StripeError where Stripe is out of reach.
    """
    ours = await _invariants(database)
    progress(f"reconcile: the ledger is read, {len(ours):,} differences")
    mended = 0
    if fix:
        for user_id in sorted({one.user_id for one in ours if one.kind == "I4" and one.user_id}):
            mended += await database.call("mend_counters", {"p_user_id": user_id}, timeout_s=30, idempotent=True)
        if mended:
            ours = await _invariants(database)
    since = now - WINDOW
    items, compared_items = await _items(database, stripe, since)
    progress(f"reconcile: {compared_items:,} invoice items are compared with Stripe's")
    packs, compared_packs = await _packs(database, stripe, since)
    progress(f"reconcile: {compared_packs:,} packs are compared with Stripe's payments")
    findings = [*ours, *items, *packs]
    return {
        "differences": len(findings),
        "mended": mended,
        "items": compared_items,
        "packs": compared_packs,
        "by_kind": dict(Counter(one.kind for one in findings)),
        "findings": [one._asdict() for one in findings[:TOLD]],
        "report": [
            *_report(findings, mended),
            f"compared with Stripe: {compared_items:,} items, {compared_packs:,} packs",
        ],
    }


async def _invariants(database: Database) -> list[Finding]:
    rows = await database.call("reconcile", timeout_s=RECONCILE_S, idempotent=True)
    return [Finding(row["invariant"], row["user_id"], row["subject"], row["expected"], row["found"]) for row in rows]


async def _items(database: Database, stripe: StripeClient, since: datetime) -> tuple[list[Finding], int]:
    # Stripe's first: what it has was ours before, and what comes to it meanwhile is asked for by itself.
    theirs: dict[str, list[Any]] = defaultdict(list)
    listed = await stripe.v1.invoice_items.list_async({"created": {"gte": int(since.timestamp())}, "limit": 100})
    async for item in listed.auto_paging_iter():
        our_id = item.metadata.to_dict().get(OUR_ID) if item.metadata is not None else None
        if our_id is not None:
            theirs[our_id].append(item)
    ours = {row["id"]: row async for row in _billed(database, since - EARLIER)}
    findings = []
    for our_id, items in theirs.items():
        row, names = ours.get(our_id), ", ".join(item.id for item in items)
        user_id = row["user_id"] if row is not None else None
        if row is None:
            findings.append(Finding("item unknown", None, our_id, "a row", names))
        if len(items) > 1:
            findings.append(Finding("item doubled", user_id, our_id, "one", names))
        elif row is not None:
            findings += _differences(row, items[0])
    for row in ours.values():
        placed = row["stripe_invoice_item_id"]
        if placed and row["id"] not in theirs and not await _is_there(stripe, placed):
            findings.append(Finding("item missing", row["user_id"], row["id"], placed, "nothing"))
    return findings, len(ours)


def _differences(row: dict[str, Any], item: Any) -> Iterable[Finding]:
    invoice = item.invoice if item.invoice is None or isinstance(item.invoice, str) else item.invoice.id
    pairs = {
        "cents": (row["amount_cents"], item.amount),
        "id": (row["stripe_invoice_item_id"] or item.id, item.id),  # not noted yet: the next sweep finds it
        "invoice": (row["stripe_invoice_id"] or invoice, invoice),
    }
    for name, (expected, found) in pairs.items():
        if expected != found:
            yield Finding("item differs", row["user_id"], f"{row['id']}, {name}", str(expected), str(found))


async def _is_there(stripe: StripeClient, item_id: str) -> bool:
    """Whether Stripe has the item: it may be older than what was listed."""
    try:
        await stripe.v1.invoice_items.retrieve_async(item_id)
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        return False
    return True


async def _billed(database: Database, since: datetime) -> AsyncIterator[dict[str, Any]]:
    after: str | None = None
    while True:
        params = {"p_since": since.isoformat(), "p_after": after, "p_limit": PAGE}
        page = await database.call("billed_items", params, timeout_s=30, idempotent=True)
        for row in page:
            yield row
        if not page:
            return
        after = page[-1]["id"]


async def _packs(database: Database, stripe: StripeClient, since: datetime) -> tuple[list[Finding], int]:
    listed = await stripe.v1.checkout.sessions.list_async(
        {"created": {"gte": int(since.timestamp())}, "status": "complete", "limit": 100}
    )
    sold: dict[str, tuple[str, int, Decimal]] = {}
    async for session in listed.auto_paging_iter():
        told = session.metadata.to_dict() if session.metadata is not None else {}
        if (
            session.mode == "payment"
            and session.payment_status == "paid"
            and {"user_id", "pack", "credits"} <= told.keys()
        ):
            sold[session.id] = told["user_id"], int(told["credits"]), Decimal(session.amount_total or 0) / 100
    findings = []
    for names in _chunks(list(sold)):
        granted = await database.call("sold_packs", {"p_sessions": names}, timeout_s=30, idempotent=True)
        rows = {row["session_id"]: row for row in granted}
        for name in names:
            user_id, count, price = sold[name]
            row = rows.get(name)
            if row is None:
                if await database.call("billing_profile", {"p_user_id": user_id}, idempotent=True) is not None:
                    findings.append(Finding("pack missing", user_id, name, f"{count} credits", "nothing"))
            elif (row["user_id"], row["credits"], row["price_paid_usd"]) != (user_id, count, price):
                found = f"{row['credits']} credits for ${row['price_paid_usd']} of {row['user_id']}"
                findings.append(Finding("pack differs", user_id, name, f"{count} credits for ${price}", found))
    return findings, len(sold)


def _chunks(names: list[str]) -> Iterable[list[str]]:
    return (names[at : at + PAGE] for at in range(0, len(names), PAGE))


def _report(findings: list[Finding], mended: int) -> list[str]:
    """A line for each kind, and the first few of it."""
    lines = [f"{mended} rows had counters that were off and are mended."] if mended else []
    kinds = Counter(one.kind for one in findings)
    for kind, meaning in KINDS.items():
        if kinds[kind]:
            lines.append(f"{kinds[kind]:>6,}  {kind}: {meaning}")
            some = [one for one in findings if one.kind == kind][:SHOWN]
            lines += [
                f"        {one.subject} (user {one.user_id or 'none'}): {one.expected} expected, {one.found} found"
                for one in some
            ]
            if kinds[kind] > len(some):
                lines.append(f"        and {kinds[kind] - len(some):,} more")
    return lines if findings else [*lines, "Everything adds up."]
