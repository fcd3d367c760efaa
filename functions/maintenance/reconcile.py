"""reconcile: compares the ledger, the counters, the holds and Stripe, in both directions. Every finding is an error.

`fix` sets counters to the ledger's values. A person decides on charges, credits and bills.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypedDict

from stripe import InvalidRequestError, InvoiceItem, StripeClient

from functions.common import results
from functions.common.billing.overage import id_of
from functions.common.billing.records import PriceList
from functions.common.billing.stripe_client import ITEM_ID_KEY, Account, is_missing
from functions.common.database import Database
from functions.maintenance.compare_overage import BilledItem, compare_overage
from functions.maintenance.compare_packs import compare_packs
from functions.maintenance.compare_plans import compare_plans
from functions.maintenance.findings import Finding, report
from functions.maintenance.publish_catalog import publish_catalog
from functions.maintenance.stripe_lists import changed_payments, list_customers, list_invoices

# Two of the longest months. Older rows were compared when they were new.
WINDOW = timedelta(days=62)
# An item may be created at Stripe later than its row.
PLACEMENT_DELAY = timedelta(days=30)
RECONCILE_TIMEOUT_S = 150.0
PAGE_TIMEOUT_S = 30.0
PAGE = 1000
RETURNED = 100


class ReconcileResult(TypedDict):
    """`differences` that are left, counters `repaired`, `items`, `packs` and `plans` compared with Stripe, the number
    of findings of each kind, the first RETURNED of them, and the lines to print."""

    differences: int
    repaired: int
    items: int
    packs: int
    plans: int
    by_kind: dict[str, int]
    findings: list[dict[str, str | None]]
    report: list[str]


async def reconcile(
    database: Database, stripe: Account, now: datetime, progress: Callable[[str], None], *, fix: bool = False
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
    prices: PriceList = await database.call("list_plans", parse=results.record("plans", "packs"))
    currency = prices["plans"][0]["currency"]
    payments = await changed_payments(stripe, since)
    unpaid, credited = await list_invoices(stripe, since - PLACEMENT_DELAY)
    customers = await list_customers(stripe)
    items, billed, prorated = await _compare_items(database, stripe, since, currency, customers.owners)
    items += await compare_overage(database, stripe, billed, payments, unpaid, credited)
    compared_items = len(billed)
    progress(f"reconcile: {compared_items:,} invoice items compared with Stripe")
    packs, compared_packs = await compare_packs(database, stripe, since, payments, prices, customers.left)
    progress(f"reconcile: {compared_packs:,} packs compared with Stripe's payments")
    plans, compared_plans = await compare_plans(database, stripe, customers, prices, payments, unpaid, prorated)
    progress(f"reconcile: {compared_plans:,} plans compared with Stripe's subscriptions")
    findings = [*ours, *items, *packs, *plans, *await _catalogue_findings(stripe, prices)]
    return {
        "differences": len(findings),
        "repaired": repaired,
        "items": compared_items,
        "packs": compared_packs,
        "plans": compared_plans,
        "by_kind": dict(Counter(one.kind for one in findings)),
        "findings": [one.as_json() for one in findings[:RETURNED]],
        "report": [
            *report(findings, repaired),
            f"compared with Stripe: {compared_items:,} items, {compared_packs:,} packs, {compared_plans:,} plans",
        ],
    }


async def _catalogue_findings(stripe: Account, prices: PriceList) -> list[Finding]:
    checked = await publish_catalog(stripe, prices, check=True, collects_tax=stripe.collects_tax)
    return [
        Finding("catalogue", None, line.split()[0], "unchanged", " ".join(line.split()[1:]))
        for line in checked["report"]
        if not line.endswith(" unchanged")
    ]


async def ledger_findings(database: Database) -> list[Finding]:
    """What the SQL functions find: the ledger and the counters, then the records of operators' changes."""
    rows = [
        *await database.call("reconcile", timeout_s=RECONCILE_TIMEOUT_S, parse=results.records("invariant")),
        *await database.call("reconcile_operators", timeout_s=PAGE_TIMEOUT_S, parse=results.records("invariant")),
    ]
    return [Finding(row["invariant"], row["user_id"], row["subject"], row["expected"], row["found"]) for row in rows]


async def _compare_items(
    database: Database, stripe: StripeClient, since: datetime, currency: str, owners: Mapping[str, str | None]
) -> tuple[list[Finding], Collection[BilledItem], Collection[str]]:
    """Also returns our items, and the customers with prorations that are on no invoice."""
    # Stripe's items are read first: each of them has a row. A row that is newer than this list is looked up by its id.
    theirs: dict[str, list[InvoiceItem]] = defaultdict(list)
    prorated: set[str] = set()
    listed = await stripe.v1.invoice_items.list_async({"created": {"gte": int(since.timestamp())}, "limit": 100})
    async for item in listed.auto_paging_iter():
        our_id = item.metadata.to_dict().get(ITEM_ID_KEY) if item.metadata is not None else None
        if our_id is not None:
            theirs[our_id].append(item)
        elif item.proration and item.invoice is None:
            prorated.add(str(id_of(item.customer)))
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
            owner = owners.get(str(id_of(items[0].customer)))
            if owner is not None and user_id is not None and owner != user_id:
                findings.append(Finding("item misplaced", user_id, our_id, f"user {user_id}", f"user {owner}"))
            if items[0].currency != currency:
                findings.append(Finding("currency", user_id, our_id, currency, items[0].currency))
    for row in ours.values():
        item_id = row.stripe_invoice_item_id
        if item_id and row.id not in theirs and not await _exists(stripe, item_id):
            findings.append(Finding("item missing", row.user_id, row.id, item_id, "nothing"))
    return findings, ours.values(), prorated


def _differences(row: BilledItem, item: InvoiceItem) -> Iterable[Finding]:
    invoice = id_of(item.invoice)
    # An id that we have not stored yet is not a difference: the next run of bill-overages stores it.
    pairs = {
        "cents": (row.amount_cents, item.amount),
        "discountable": (False, item.discountable),
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
        if not is_missing(error):
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
                row["settled_as"],
            )
        if not page:
            return
        after = page[-1]["id"]
