"""reconcile, plans: Stripe's live subscriptions and customers against our rows, in both directions.

The lists say what nearly every row must be. The others, and the customers who may have paid for something else than
they subscribed to, are suspects.
Each suspect is read again, at Stripe and then here, so that a change meanwhile is no finding.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from stripe import Customer, InvalidRequestError, Invoice, StripeClient, Subscription

from functions.common import results
from functions.common.billing.invoices import tier_of_line
from functions.common.billing.overage import id_of
from functions.common.billing.payments import read_invoice_payment
from functions.common.billing.records import PriceList, billing_profile
from functions.common.billing.stripe_client import is_missing, iso_time, tier_of
from functions.common.billing.stripe_state import STATUSES, CustomerState, live_subscription, period_of, read_customer
from functions.common.database import Database
from functions.maintenance.findings import Finding
from functions.maintenance.stripe_lists import ChangedPayment, Customers, owner_of

PAGE = 1000
PAGE_TIMEOUT_S = 30.0
# Each suspect costs a few requests to Stripe. So many are one fault, not many.
MAX_SUSPECTS = 500


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """What apply_customer stores of a customer. Times are ISO 8601 (UTC), to the second.

    `pays_at`: the site of the open invoice's page. Stripe makes a new address for each answer, on the same site.
    """

    tier: str
    next_tier: str | None = None
    status: str = "active"
    subscription: str | None = None
    period_start: str | None = None
    period_end: str | None = None
    canceled_at: str | None = None
    past_due_since: str | None = None
    paid_until: str | None = None
    pays_at: str | None = None


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A user with a customer at Stripe, or on another plan than free. `unsubscribed_tier`: the plan without a
    subscription. `sequence`: of the newest state of the customer that was applied."""

    user_id: str
    customer_id: str | None
    sequence: int
    unsubscribed_tier: str
    plan: StoredPlan


@dataclass(frozen=True, slots=True)
class Listed:
    """A live subscription to one of our plans, as Stripe lists it. `tiers`: of its items, normally one.

    `plan`: what follows from it, without the open invoices; None where only read_customer knows. `next_price`: of the
    phase that a schedule starts with the next period.
    """

    id: str
    currency: str
    tiers: tuple[str, ...]
    plan: StoredPlan | None
    next_price: str | None


async def compare_plans(
    database: Database,
    stripe: StripeClient,
    customers: Customers,
    prices: PriceList,
    changed: Mapping[str, ChangedPayment],
    unpaid: Mapping[str, Invoice],
    prorated: Collection[str],
) -> tuple[list[Finding], int]:
    """`customers`, `changed` and `unpaid` are of stripe_lists; `prorated`: customers whose change of plan is not
    invoiced yet. Returns the findings, and how many live subscriptions to our plans were compared."""
    currency = prices["plans"][0]["currency"]
    dearness = {plan["tier"]: Decimal(plan["price_usd"]) for plan in prices["plans"]}
    live, owners, tiers = await _live_subscriptions(stripe)
    owners |= customers.owners
    owed: dict[str | None, list[Invoice]] = defaultdict(list)
    # What these customers have paid for is not what they have subscribed to, or was.
    unclear = {*prorated, *(one.customer_id for one in changed.values() if one.is_returned)}
    for invoice in unpaid.values():
        if invoice.status == "open":
            owed[id_of(invoice.customer)].append(invoice)
        elif invoice.status != "draft":
            unclear.add(id_of(invoice.customer))
    findings = [
        Finding("currency", owners[customer_id], one.id, currency, one.currency)
        for customer_id, subscriptions in live.items()
        for one in subscriptions
        if one.currency != currency
    ]
    findings += [
        Finding("plan doubled", owners[customer_id], customer_id, "one plan", _tiers_of(subscriptions))
        for customer_id, subscriptions in live.items()
        if sum(len(one.tiers) for one in subscriptions) > 1
    ]
    suspects: list[Subscriber] = []
    users: dict[str, str] = {}
    async for row in _subscribers(database):
        customer_id = row.customer_id or ""
        users[customer_id] = row.user_id
        owner = owners.get(customer_id)
        if owner is not None and owner != row.user_id:
            findings.append(
                Finding("customer differs", row.user_id, customer_id, f"user {owner}", f"user {row.user_id}")
            )
            continue
        is_unknown = customers.is_complete and row.customer_id is not None and customer_id not in customers.owners
        expected = _listed_plan(row, live.get(customer_id, []), owed.get(customer_id, []), tiers, dearness)
        if is_unknown or expected is None or customer_id in unclear or _differences(expected, row.plan):
            suspects.append(row)
    for row in suspects[:MAX_SUSPECTS]:
        findings += await _compare(database, stripe, row, dearness)
    unknown = sorted(live.keys() - users.keys())
    for customer_id in unknown[:MAX_SUSPECTS]:
        state = await read_customer(stripe, customer_id)
        if state.subscription is not None:
            findings.append(Finding("plan unknown", None, customer_id, "a user", state.subscription.id))
    linked = {user_id for customer_id, user_id in users.items() if customer_id}
    unlinked = {
        owner: one for one, owner in customers.owners.items() if owner not in linked and one not in customers.left
    }
    findings += await _unlinked(database, unlinked)
    left = sum(max(0, len(some) - MAX_SUSPECTS) for some in (suspects, unknown, unlinked))
    if left:
        findings.append(Finding("plan differs", None, "others", "the same", f"{left:,} that may differ, not read"))
    findings += await _lost_disputes(stripe, changed.values(), live, users)
    return findings, sum(map(len, live.values()))


async def _live_subscriptions(
    stripe: StripeClient,
) -> tuple[dict[str, list[Listed]], dict[str, str | None], dict[str, str]]:
    """The live subscriptions to our plans by customer, the user id that each customer's metadata has, and the tier of
    each price that they have."""
    live: dict[str, list[Listed]] = defaultdict(list)
    owners: dict[str, str | None] = {}
    tiers: dict[str, str] = {}
    listed = await stripe.v1.subscriptions.list_async(
        {"limit": 100, "expand": ["data.customer", "data.schedule", "data.latest_invoice"]}
    )
    async for subscription in listed.auto_paging_iter():
        plans = {item.price.id: tier for item in subscription["items"].data if (tier := tier_of(item.price.product))}
        if subscription.status in STATUSES and plans:
            customer = subscription.customer
            assert isinstance(customer, Customer)
            live[customer.id].append(_listed(subscription, *plans.values()))
            owners[customer.id] = owner_of(customer)
            tiers |= plans
    return live, owners, tiers


def _tiers_of(subscriptions: Sequence[Listed]) -> str:
    return ", ".join(f"{' and '.join(one.tiers)} ({one.id})" for one in subscriptions)


def _listed(subscription: Subscription, *plans: str) -> Listed:
    start, end = period_of(subscription)
    status = STATUSES[subscription.status]
    ends_at = subscription.cancel_at or (end if subscription.cancel_at_period_end else None)
    next_prices = _next_prices(subscription, end)
    plan = None
    # What was paid decides while nothing is collected, after a trial, and after a change of plan that billed nothing.
    if (
        len(plans) == 1
        and _billed_tiers(subscription.latest_invoice, end) == {plans[0]}
        and subscription.pause_collection is None
        and (status != "past_due" or subscription.trial_end != start)
        and len(next_prices) <= 1
    ):
        is_ending = ends_at is not None and ends_at <= end
        plan = StoredPlan(
            tier=plans[0],
            status="canceled" if is_ending and status == "active" else status,
            subscription=subscription.id,
            period_start=iso_time(start),
            period_end=iso_time(ends_at if is_ending and ends_at is not None else end),
            canceled_at=iso_time(subscription.canceled_at) if subscription.canceled_at else None,
        )
    return Listed(subscription.id, subscription.currency, plans, plan, next_prices[0] if next_prices else None)


def _billed_tiers(invoice: Invoice | str | None, end: int) -> set[str]:
    """The plans that an invoice charges for until a time. Those of $0, as a trial, count if it charges for no other."""
    charged: dict[bool, set[str]] = {True: set(), False: set()}
    for line in invoice.lines.data if isinstance(invoice, Invoice) else []:
        tier = tier_of_line(line)
        if tier is not None and line.period.end >= end and line.amount >= 0:
            charged[line.amount > 0].add(tier)
    return charged[True] or charged[False]


def _next_prices(subscription: Subscription, end: int) -> list[str]:
    """The prices that a schedule starts with the next period."""
    if subscription.schedule is None or isinstance(subscription.schedule, str):
        return []
    phases = [phase for phase in subscription.schedule.phases if phase.start_date == end]
    return [str(id_of(item.price)) for phase in phases for item in phase["items"]]


def _listed_plan(
    row: Subscriber,
    live: Sequence[Listed],
    owed: Sequence[Invoice],
    tiers: Mapping[str, str],
    dearness: Mapping[str, Decimal],
) -> StoredPlan | None:
    """What the row must be by the lists; None where only read_customer knows."""
    pays_at = _site(owed[0].hosted_invoice_url) if owed else None
    if not live:
        return StoredPlan(row.unsubscribed_tier, pays_at=pays_at)
    plan = live[0].plan
    if len(live) > 1 or plan is None:
        return None
    if plan.status == "past_due":
        # An unpaid renewal keeps its plan. After an upgrade, or for a second period, what was paid decides.
        if [one.billing_reason for one in owed] != ["subscription_cycle"]:
            return None
        since = iso_time(owed[0].status_transitions.finalized_at or owed[0].created)
        # Nothing is paid for a plan of $0, whose invoice is for overage.
        plan = replace(plan, past_due_since=since, paid_until=plan.period_start if dearness[plan.tier] else None)
    elif plan.status == "active" and live[0].next_price is not None:
        next_tier = tiers.get(live[0].next_price)
        if next_tier is None:
            return None
        plan = replace(plan, next_tier=next_tier if next_tier != plan.tier else None)
    return replace(plan, pays_at=pays_at)


async def _compare(
    database: Database, stripe: StripeClient, suspect: Subscriber, dearness: Mapping[str, Decimal]
) -> list[Finding]:
    state = await _read(stripe, suspect.customer_id)
    row = await _subscriber(database, suspect.user_id)
    if row is None or (row.customer_id, row.sequence) != (suspect.customer_id, suspect.sequence):
        return []  # deleted, linked anew, or applied meanwhile
    found, expected = row.plan, _expected(state, row.unsubscribed_tier, dearness)
    findings = []
    if state.is_deleted:
        findings.append(Finding("customer missing", row.user_id, f"{row.customer_id}", "at Stripe", "nothing"))
    names = _differences(expected, found)
    if not names:
        return findings
    texts = [", ".join(f"{name} {getattr(one, name) or 'none'}" for name in names) for one in (expected, found)]
    return [*findings, Finding("plan differs", row.user_id, row.customer_id or "no customer", *texts)]


async def _unlinked(database: Database, unlinked: Mapping[str | None, str]) -> list[Finding]:
    """Users without a customer who have one at Stripe, of the customers by the user id in their metadata."""
    findings = []
    for owner, customer_id in list(unlinked.items())[:MAX_SUSPECTS]:
        profile = await billing_profile(database, owner) if owner is not None and _is_uuid(owner) else None
        if profile is not None and profile.stripe_customer_id is None:
            findings.append(Finding("customer missing", owner, customer_id, customer_id, "no customer"))
    return findings


def _is_uuid(text: str) -> bool:
    """Other projects of the account may have user ids of another form."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _differences(expected: StoredPlan, stored: StoredPlan) -> list[str]:
    """The names of what differs."""
    is_renewed = stored.period_end is not None and stored.period_end == expected.period_start
    if is_renewed and stored.subscription == expected.subscription:
        # The renewal's event has not arrived. Metering counts the next period, and its plan, by itself.
        stored = replace(
            stored,
            tier=stored.next_tier or stored.tier,
            next_tier=None,
            period_start=expected.period_start,
            period_end=expected.period_end,
        )
    names = (one.name for one in fields(StoredPlan))
    return [name for name in names if getattr(expected, name) != getattr(stored, name)]


async def _read(stripe: StripeClient, customer_id: str | None) -> CustomerState:
    if customer_id is None:
        return CustomerState(is_deleted=False, subscription=None)
    try:
        return await read_customer(stripe, customer_id)
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        return CustomerState(is_deleted=True, subscription=None)


def _expected(state: CustomerState, unsubscribed_tier: str, dearness: Mapping[str, Decimal]) -> StoredPlan:
    """What the SQL function apply_customer stores of a state."""
    plan, pays_at = state.subscription, _site(state.open_invoice_url)
    if plan is None:
        return StoredPlan(unsubscribed_tier, pays_at=pays_at)
    tier = max({plan.tier, *plan.paid_tiers}, key=dearness.__getitem__)
    return StoredPlan(
        tier=tier,
        next_tier=plan.tier if plan.tier != tier and plan.status != "canceled" else None,
        status=plan.status,
        subscription=plan.id,
        period_start=plan.period_start,
        period_end=plan.period_end,
        canceled_at=plan.canceled_at,
        past_due_since=plan.past_due_since,
        paid_until=plan.paid_until,
        pays_at=pays_at,
    )


async def _lost_disputes(
    stripe: StripeClient,
    changed: Collection[ChangedPayment],
    live: Mapping[str, Sequence[Listed]],
    users: Mapping[str, str],
) -> list[Finding]:
    """Subscriptions that go on although a dispute of their payment was lost."""
    findings = []
    for one in changed:
        customer_id = one.customer_id
        if not one.is_lost or customer_id is None or customer_id not in live:
            continue
        payment = await read_invoice_payment(stripe, one.id)
        if payment.is_lost and payment.subscription_id in {listed.id for listed in live[customer_id]}:
            _, current = await live_subscription(stripe, customer_id)
            if current is not None and current.id == payment.subscription_id:
                expected, found = f"{current.id} canceled", f"active after the lost dispute of {one.id}"
                findings.append(Finding("plan disputed", users.get(customer_id), customer_id, expected, found))
    return findings


async def _subscribers(database: Database) -> AsyncIterator[Subscriber]:
    after: str | None = None
    while True:
        page = await _page(database, p_after=after, p_limit=PAGE)
        for row in page:
            yield row
        if not page:
            return
        after = page[-1].user_id


async def _subscriber(database: Database, user_id: str) -> Subscriber | None:
    rows = await _page(database, p_user_id=user_id)
    return rows[0] if rows else None


async def _page(database: Database, **params: Any) -> list[Subscriber]:
    rows = await database.call("subscribers", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("user_id"))
    return [_parse(row) for row in rows]


def _parse(row: Mapping[str, Any]) -> Subscriber:
    return Subscriber(
        user_id=row["user_id"],
        customer_id=row["stripe_customer_id"],
        sequence=row["stripe_sequence"],
        unsubscribed_tier=row["unsubscribed_tier"],
        plan=StoredPlan(
            tier=row["tier"],
            next_tier=row["next_tier"],
            status=row["status"],
            subscription=row["stripe_subscription_id"],
            period_start=_time(row["period_start"]),
            period_end=_time(row["period_end"]),
            canceled_at=_time(row["canceled_at"]),
            past_due_since=_time(row["past_due_since"]),
            paid_until=_time(row["paid_until"]),
            pays_at=_site(row["open_invoice_url"]),
        ),
    )


def _time(text: str | None) -> str | None:
    """As iso_time writes it. `infinity` stays."""
    try:
        return iso_time(int(datetime.fromisoformat(text).timestamp())) if text is not None else None
    except ValueError:
        return text


def _site(url: str | None) -> str | None:
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" if url is not None else None
