"""reconcile, plans: Stripe's live subscriptions and customers against our rows, in both directions.

The lists give suspects. Each suspect is read again, at Stripe and then here, so that a change meanwhile is no finding.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stripe import Customer, InvalidRequestError, StripeClient, Subscription

from functions.common import results
from functions.common.billing.stripe_client import tier_of
from functions.common.billing.stripe_state import STATUSES, CustomerState, read_customer
from functions.common.database import Database
from functions.maintenance.findings import Finding

PAGE = 1000
PAGE_TIMEOUT_S = 30.0
# Each suspect costs a few requests to Stripe. So many are one fault, not many.
MAX_SUSPECTS = 500


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A user with a customer at Stripe, or with a plan that has a price."""

    user_id: str
    customer_id: str | None
    subscription_id: str | None
    tier: str
    next_tier: str | None
    status: str
    has_price: bool


async def compare_plans(
    database: Database, stripe: StripeClient, since: datetime, currency: str
) -> tuple[list[Finding], int]:
    """Returns the findings, and how many live subscriptions to our plans were compared."""
    live, owners = await _live_subscriptions(stripe)
    listed = await stripe.v1.customers.list_async({"created": {"gte": int(since.timestamp())}, "limit": 100})
    async for customer in listed.auto_paging_iter():
        owners[customer.id] = _owner(customer)
    findings = [
        Finding("currency", owners[customer_id], one.id, currency, one.currency)
        for customer_id, subscriptions in live.items()
        for one in subscriptions
        if one.currency != currency
    ]
    suspects: list[Subscriber] = []
    unknown = set(live)
    async for row in _subscribers(database):
        unknown.discard(row.customer_id or "")
        owner = owners.get(row.customer_id or "")
        if owner is not None and owner != row.user_id:
            findings.append(
                Finding("customer differs", row.user_id, str(row.customer_id), f"user {owner}", f"user {row.user_id}")
            )
        elif not _agrees(row, live.get(row.customer_id or "", [])):
            suspects.append(row)
    for row in suspects[:MAX_SUSPECTS]:
        findings += await _compare(database, stripe, row)
    for customer_id in sorted(unknown)[:MAX_SUSPECTS]:
        state = await read_customer(stripe, customer_id)
        if state.subscription is not None:
            findings.append(Finding("plan unknown", None, customer_id, "a user", state.subscription.id))
    left = max(0, len(suspects) - MAX_SUSPECTS) + max(0, len(unknown) - MAX_SUSPECTS)
    if left:
        findings.append(Finding("plan differs", None, "others", "the same", f"{left:,} that may differ, not read"))
    return findings, sum(map(len, live.values()))


async def _live_subscriptions(
    stripe: StripeClient,
) -> tuple[dict[str, list[Subscription]], dict[str, str | None]]:
    """The live subscriptions to our plans by customer, and the user id that each customer's metadata has."""
    live, owners = defaultdict(list), {}
    listed = await stripe.v1.subscriptions.list_async({"limit": 100, "expand": ["data.customer"]})
    async for subscription in listed.auto_paging_iter():
        if subscription.status in STATUSES and _tiers(subscription):
            customer = subscription.customer
            assert isinstance(customer, Customer)
            live[customer.id].append(subscription)
            owners[customer.id] = _owner(customer)
    return live, owners


def _owner(customer: Customer) -> str | None:
    metadata = getattr(customer, "metadata", None)
    return metadata.to_dict().get("user_id") if metadata is not None else None


def _tiers(subscription: Subscription) -> set[str]:
    return {tier for item in subscription["items"].data if (tier := tier_of(item.price.product))}


def _agrees(row: Subscriber, live: list[Subscription]) -> bool:
    """Whether the row can be what Stripe lists. Only read_customer knows it exactly."""
    if not live:
        return row.subscription_id is None and not row.has_price
    first = live[0]
    return (
        len(live) == 1
        and first.id == row.subscription_id
        and row.status in (STATUSES[first.status], *(["canceled"] if STATUSES[first.status] == "active" else []))
        and bool(_tiers(first) & {row.tier, row.next_tier})
    )


async def _compare(database: Database, stripe: StripeClient, suspect: Subscriber) -> list[Finding]:
    state = await _read(stripe, suspect.customer_id)
    row = await _subscriber(database, suspect.user_id)
    if row is None or row.customer_id != suspect.customer_id:
        return []  # deleted, or linked anew
    expected, found = _expected(state), f"{row.tier}, {row.status}, {row.subscription_id or 'no subscription'}"
    if state.subscription is None:
        differs = row.subscription_id is not None or row.has_price
    else:
        plan = state.subscription
        differs = (row.subscription_id, row.status) != (plan.id, plan.status) or (
            row.tier not in (plan.tier, *plan.paid_tiers)
        )
    if not differs:
        return []
    return [Finding("plan differs", row.user_id, row.customer_id or "no customer", expected, found)]


async def _read(stripe: StripeClient, customer_id: str | None) -> CustomerState:
    if customer_id is None:
        return CustomerState(is_deleted=False, subscription=None)
    try:
        return await read_customer(stripe, customer_id)
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        return CustomerState(is_deleted=True, subscription=None)


def _expected(state: CustomerState) -> str:
    plan = state.subscription
    if plan is None:
        return "no subscription"
    return f"{' or '.join(sorted({plan.tier, *plan.paid_tiers}))}, {plan.status}, {plan.id}"


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
        subscription_id=row["stripe_subscription_id"],
        tier=row["tier"],
        next_tier=row["next_tier"],
        status=row["status"],
        has_price=row["has_price"],
    )
