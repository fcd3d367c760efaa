"""Reads what a customer has at Stripe now: the plan, and the invoices to pay.

The result depends neither on the event that led here nor on our own rows.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stripe import StripeClient

from functions.common.billing.invoices import (
    has_overage,
    intents_of,
    is_ours,
    net_cents,
    plan_lines_of,
    subscription_of,
    tier_of_line,
)
from functions.common.billing.paid_plans import (
    Payment,
    PlanBill,
    PlanLine,
    cheapest,
    dearest,
    paid_tiers,
    pending_bills,
    plan_in_force,
)
from functions.common.billing.payments import refunded_cents
from functions.common.billing.stripe_client import iso_time, tier_of

if TYPE_CHECKING:  # each class has hundreds of types, and the client imports those of its answers at run time
    from stripe import Customer, Invoice, InvoiceLineItem, Subscription, SubscriptionItem

# Our status for each status of a live subscription. Others are not live: incomplete (never paid) and the ended ones.
STATUSES = {
    "active": "active",
    "trialing": "active",
    "past_due": "past_due",
    "unpaid": "suspended",
    "paused": "suspended",
}
# Of several live subscriptions the highest rank counts, which is the best for the user.
RANKS = {"active": 3, "trialing": 3, "past_due": 2, "unpaid": 1, "paused": 1}
# An invoice may be created shortly before the period that it bills.
INVOICE_DELAY_S = 86400
LONGEST_PERIOD_S = 31 * 86400


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A live subscription, as the SQL function apply_customer reads it. Times are ISO 8601.

    `paid_tiers`: the dearer tier in force until the period ends, if there is one; then `tier` follows. `paid_until`:
    until when the tier in force is paid, of a past due subscription.
    """

    id: str
    tier: str
    paid_tiers: list[str]
    status: str
    period_start: str
    period_end: str
    canceled_at: str | None
    past_due_since: str | None
    paid_until: str | None


@dataclass(frozen=True, slots=True)
class CustomerState:
    """A customer at Stripe; `subscription` is None without a live subscription to one of our plans.

    `open_invoice_url` is the page of the oldest invoice that they have to pay us, None where none is open.
    `for_nothing`: the invoices that give nothing if they are paid.
    """

    is_deleted: bool
    subscription: SubscriptionState | None
    open_invoice_url: str | None = None
    for_nothing: tuple[str, ...] = ()


def _plan_item(subscription: "Subscription") -> "SubscriptionItem | None":
    """The item of one of our plans. It may stand beside items of other products, with periods of their own."""
    return next((item for item in subscription["items"].data if tier_of(item.price.product)), None)


def period_of(subscription: "Subscription") -> tuple[int, int]:
    """Start and end of the current period of the plan, in seconds since 1970. Stripe stores them on the items."""
    item = _plan_item(subscription)
    assert item is not None
    return item.current_period_start, item.current_period_end


async def live_subscription(stripe: StripeClient, customer_id: str) -> "tuple[Customer, Subscription | None]":
    """The customer, and their best live subscription to one of our plans."""
    customer = await stripe.v1.customers.retrieve_async(
        customer_id,
        {"expand": ["subscriptions", "subscriptions.data.latest_invoice", "subscriptions.data.schedule"]},
    )
    found = [] if getattr(customer, "deleted", False) or customer.subscriptions is None else customer.subscriptions.data
    live = [one for one in found if one.status in STATUSES and _plan_item(one)]
    return customer, max(live, key=lambda one: (RANKS[one.status], one.created, one.id), default=None)


async def read_customer(stripe: StripeClient, customer_id: str) -> CustomerState:
    """What a customer has subscribed to and paid for. Raises StripeError."""
    customer, live = await live_subscription(stripe, customer_id)
    unpaid, for_nothing = await _unpaid_invoices(stripe, customer_id, live.id if live else None)
    open_url = unpaid[0].hosted_invoice_url if unpaid else None
    is_deleted = bool(getattr(customer, "deleted", False))
    if live is None:
        return CustomerState(is_deleted, None, open_url, for_nothing)
    item = _plan_item(live)
    assert item is not None
    bought = tier_of(item.price.product)
    assert bought is not None
    start, end = period_of(live)
    bills = await _plan_bills(stripe, live, bought, start, end)
    if live.status == "trialing" or item.price.unit_amount == 0:
        bills.append(PlanBill(Payment.PAID, (PlanLine(bought, 0, start, end, is_free=True),)))
    status, past_due_since = STATUSES[live.status], None
    if status == "past_due":
        past_due_since = _past_due_since(live, unpaid, start)
    elif live.pause_collection is not None and status == "active" and not paid_tiers(bills, end):
        # Stripe keeps it active, and collects nothing.
        status, past_due_since = "past_due", start
    paid_until = None
    if status == "suspended":
        tier = dearest([bought, *paid_tiers(bills, end)])
    else:
        tier, paid_until = plan_in_force(bills, bought, start, end, has_failed=status == "past_due")
    scheduled = await _scheduled_tier(stripe, live, item, end) if status == "active" else None
    following = cheapest([tier, scheduled or bought])
    # The portal sets cancel_at, the API either field. A cancellation after this period does not count yet.
    ends_at = live.cancel_at if live.cancel_at is not None else end if live.cancel_at_period_end else None
    if ends_at is not None and ends_at <= end:
        end = ends_at
        status = "canceled" if status == "active" else status
    subscription = SubscriptionState(
        id=live.id,
        tier=following,
        paid_tiers=[tier] if tier != following else [],
        status=status,
        period_start=iso_time(start),
        period_end=iso_time(end),
        canceled_at=iso_time(live.canceled_at) if live.canceled_at else None,
        past_due_since=iso_time(past_due_since) if past_due_since is not None else None,
        paid_until=iso_time(paid_until) if paid_until is not None and status == "past_due" else None,
    )
    return CustomerState(is_deleted, subscription, open_url, for_nothing)


async def _scheduled_tier(stripe: StripeClient, live: "Subscription", item: "SubscriptionItem", end: int) -> str | None:
    """The cheaper plan that a schedule starts with the next period; None without one. The portal schedules downgrades.
    A dearer plan counts once it has started. Raises StripeError."""
    if live.schedule is None or isinstance(live.schedule, str):
        return None
    for phase in live.schedule.phases:
        for new in phase["items"] if phase.start_date == end else []:
            price_id = new.price if isinstance(new.price, str) else new.price.id
            price = await stripe.v1.prices.retrieve_async(price_id)
            tier = tier_of(price.product)
            if tier is not None and (price.unit_amount or 0) < (item.price.unit_amount or 0):
                return tier
    return None


async def _plan_bills(stripe: StripeClient, live: "Subscription", bought: str, start: int, end: int) -> list[PlanBill]:
    """What bills a subscription's plans in the current period and the one before it."""
    since = start - LONGEST_PERIOD_S - INVOICE_DELAY_S
    listed = await stripe.v1.invoices.list_async(
        {"subscription": live.id, "created": {"gte": since}, "limit": 100, "expand": ["data.payments"]}
    )
    invoices = [invoice async for invoice in listed.auto_paging_iter()]
    is_charged = any(map(intents_of, invoices))
    refunded = await _refunded_payments(stripe, str(live.customer), since) if is_charged else set()
    bills = []
    for invoice in invoices:
        lines = [_plan_line(tier, line) async for tier, line in plan_lines_of(stripe, invoice)]
        bills.append(PlanBill(_payment_of(invoice, refunded), tuple(lines)))
    # Prorations only wait after a change of plan.
    if any(line.tier != bought for bill in bills for line in bill.lines if line.end >= end):
        bills += pending_bills(await _pending_prorations(stripe, live))
    return bills


def _payment_of(invoice: "Invoice", refunded: set[str]) -> Payment:
    if invoice.status == "paid":
        return Payment.RETURNED if not refunded.isdisjoint(intents_of(invoice)) else Payment.PAID
    is_expected = invoice.status == "open" or (invoice.status == "draft" and invoice.auto_advance)
    return Payment.EXPECTED if is_expected else Payment.NONE


async def _refunded_payments(stripe: StripeClient, customer_id: str, since: int) -> set[str]:
    """The payment intents of a customer that were refunded in full."""
    charges = await stripe.v1.charges.list_async({"customer": customer_id, "created": {"gte": since}, "limit": 100})
    return {
        str(charge.payment_intent)
        async for charge in charges.auto_paging_iter()
        if charge.refunded and await refunded_cents(stripe, charge) == charge.amount
    }


async def _pending_prorations(stripe: StripeClient, live: "Subscription") -> list[PlanLine]:
    """The plans' prorations that wait for the subscription's next invoice."""
    listed = await stripe.v1.invoice_items.list_async({"customer": str(live.customer), "pending": True, "limit": 100})
    found = []
    async for item in listed.auto_paging_iter():
        tier = tier_of_line(item)
        if tier is not None and item.proration and subscription_of(item) == live.id:
            net = getattr(item, "net_amount", None)
            cents = item.amount if net is None else net
            found.append(PlanLine(tier, cents, item.period.start, item.period.end, is_free=item.amount == 0))
    return found


def _plan_line(tier: str, line: "InvoiceLineItem") -> PlanLine:
    # Credits for unused time are net of discounts, so what was paid is too.
    return PlanLine(tier, net_cents(line), line.period.start, line.period.end, is_free=line.amount == 0)


def _past_due_since(subscription: "Subscription", unpaid: "Sequence[Invoice]", start: int) -> int:
    """When the oldest unpaid invoice of the subscription became due; without one, the start of the period."""
    own = [one for one in unpaid if subscription_of(one) == subscription.id]
    if not own and subscription.latest_invoice and not isinstance(subscription.latest_invoice, str):
        own = [subscription.latest_invoice]
    return min((one.status_transitions.finalized_at or one.created for one in own), default=start)


async def open_invoices(stripe: StripeClient, customer_id: str, live_id: str | None) -> "list[Invoice]":
    """The open invoices for a plan or for overage, oldest first. Also uncollectible ones for overage, which stays owed
    and can be paid on their pages.

    Without those that give nothing: first invoices of other subscriptions than the live one, because what was never
    paid for has never started, and invoices that have only plans of ended subscriptions. One that took overage asks for
    that.
    """
    owed, _ = await _unpaid_invoices(stripe, customer_id, live_id)
    return owed


async def _unpaid_invoices(
    stripe: StripeClient, customer_id: str, live_id: str | None
) -> "tuple[list[Invoice], tuple[str, ...]]":
    """The invoices of open_invoices, and the ids of those that have only plans of ended subscriptions."""
    open_ones, uncollectible = await asyncio.gather(
        stripe.v1.invoices.list_async({"customer": customer_id, "status": "open", "limit": 100}),
        stripe.v1.invoices.list_async({"customer": customer_id, "status": "uncollectible", "limit": 100}),
    )
    found = [invoice async for invoice in open_ones.auto_paging_iter()]
    found += [invoice async for invoice in uncollectible.auto_paging_iter()]
    owed, for_nothing, ended = [], [], {live_id: False}
    for invoice in found:
        subscription_id = subscription_of(invoice)
        if subscription_id is not None and _has_only_plans(invoice):
            if subscription_id not in ended:
                subscription = await stripe.v1.subscriptions.retrieve_async(subscription_id)
                ended[subscription_id] = subscription.status == "canceled"
            if ended[subscription_id]:
                assert invoice.id is not None
                for_nothing.append(invoice.id)
                continue
        is_open = invoice.status == "open" and is_ours(invoice)
        has_started = invoice.billing_reason != "subscription_create" or subscription_id == live_id
        if (is_open and has_started) or has_overage(invoice):
            owed.append(invoice)
    return sorted(owed, key=lambda one: one.created), tuple(for_nothing)


def _has_only_plans(invoice: "Invoice") -> bool:
    return not invoice.lines.has_more and all(tier_of_line(line) for line in invoice.lines.data)
