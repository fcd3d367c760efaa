"""Stripe's present state, in our words. Nothing here depends on which event led to the look, or on what we knew."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stripe import Charge, Customer, Dispute, Invoice, InvoiceLineItem, StripeClient, Subscription

from functions.common.billing.stripe_client import tier_of

if TYPE_CHECKING:
    from stripe.params import InvoiceListParams

# A subscription that exists for the user: what has not been paid at first (incomplete) does not, nor what has ended.
STATUSES = {
    "active": "active",
    "trialing": "active",
    "past_due": "past_due",
    "unpaid": "suspended",
    "paused": "suspended",
}
# Of several, the one that serves the user best.
RANKS = {"active": 3, "trialing": 3, "past_due": 2, "unpaid": 1, "paused": 1}
SETTLED_DISPUTES = ("won", "lost", "warning_closed", "prevented")
# An invoice is made within moments of the start of what it bills.
SLACK_S = 86400


@dataclass(frozen=True, slots=True)
class CustomerLook:
    """A customer: `live` is their subscription at Stripe, `subscription` the same as apply_customer takes it."""

    customer_id: str
    is_deleted: bool
    live: Subscription | None
    subscription: dict[str, Any] | None


def moment(seconds: int) -> str:
    """Stripe's time as SQL reads it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def period_of(subscription: Subscription) -> tuple[int, int]:
    """The current period, in seconds since 1970; it stands on the items."""
    item = subscription["items"].data[0]
    return item.current_period_start, item.current_period_end


def _tier(subscription: Subscription) -> str | None:
    return next((tier for item in subscription["items"].data if (tier := tier_of(item.price.product))), None)


async def live_subscription(stripe: StripeClient, customer_id: str) -> tuple[Customer, Subscription | None]:
    """The customer, and of their subscriptions to our plans the best that is live."""
    customer = await stripe.v1.customers.retrieve_async(
        customer_id, {"expand": ["subscriptions", "subscriptions.data.latest_invoice"]}
    )
    found = [] if getattr(customer, "deleted", False) or customer.subscriptions is None else customer.subscriptions.data
    live = [one for one in found if one.status in STATUSES and _tier(one)]
    return customer, max(live, key=lambda one: (RANKS[one.status], one.created, one.id), default=None)


async def look_at_customer(stripe: StripeClient, customer_id: str) -> CustomerLook:
    """What a customer has subscribed to and paid for."""
    customer, live = await live_subscription(stripe, customer_id)
    is_deleted = bool(getattr(customer, "deleted", False))
    if live is None:
        return CustomerLook(customer_id, is_deleted, None, None)
    start, end = period_of(live)
    paid_tiers = await _paid_tiers(stripe, live.id, start, end)
    status = STATUSES[live.status]
    # The portal sets cancel_at, the API either; what lies beyond this period is not yet near.
    ends_at = live.cancel_at if live.cancel_at is not None else end if live.cancel_at_period_end else None
    if ends_at is not None and ends_at <= end:
        end = ends_at
        status = "canceled" if status == "active" else status
    subscription = {
        "id": live.id,
        "tier": _tier(live),
        "paid_tiers": paid_tiers,
        "status": status,
        "period_start": moment(start),
        "period_end": moment(end),
        "canceled_at": moment(live.canceled_at) if live.canceled_at else None,
        "past_due_since": _failed_at(live) if status == "past_due" else None,
    }
    return CustomerLook(customer_id, is_deleted, live, subscription)


async def _paid_tiers(stripe: StripeClient, subscription_id: str, start: int, end: int) -> list[str]:
    """What has been paid for until the end of the period: after a downgrade it is still the user's."""
    paid = plan_lines(stripe, {"subscription": subscription_id, "created": {"gte": start - SLACK_S}})
    return sorted({tier async for tier, line in paid if line.amount > 0 and line.period.end >= end})


async def plan_lines(stripe: StripeClient, which: "InvoiceListParams") -> AsyncIterator[tuple[str, InvoiceLineItem]]:
    """The lines of paid invoices that are for plans of ours, and the plans' tiers."""
    invoices = await stripe.v1.invoices.list_async({**which, "status": "paid", "limit": 100})
    async for invoice in invoices.auto_paging_iter():
        lines = invoice.lines
        if lines.has_more:
            assert invoice.id is not None
            lines = await stripe.v1.invoices.line_items.list_async(invoice.id, {"limit": 100})
        async for line in lines.auto_paging_iter():
            details = line.pricing and line.pricing.price_details
            tier = tier_of(details.product) if details else None
            if tier:
                yield tier, line


def _failed_at(subscription: Subscription) -> str:
    """When the invoice that was not paid became due."""
    invoice = subscription.latest_invoice
    assert isinstance(invoice, Invoice)
    return moment(invoice.status_transitions.finalized_at or invoice.created)


async def look_at_payment(stripe: StripeClient, payment_intent_id: str) -> tuple[str, dict[str, Any]] | None:
    """Whose pack a payment is for, and how it stands, as apply_pack takes it; None: for no pack of ours."""
    sessions = await stripe.v1.checkout.sessions.list_async({"payment_intent": payment_intent_id, "limit": 1})
    session = sessions.data[0] if sessions.data else None
    sold = session.metadata.to_dict() if session is not None and session.metadata is not None else {}
    if session is None or not {"user_id", "pack", "credits"} <= sold.keys():
        return None
    intent = await stripe.v1.payment_intents.retrieve_async(payment_intent_id, {"expand": ["latest_charge"]})
    disputes: list[Dispute] = (
        await stripe.v1.disputes.list_async({"payment_intent": payment_intent_id, "limit": 100})
    ).data
    charge = intent.latest_charge if isinstance(intent.latest_charge, Charge) else None
    paid = charge if charge is not None and charge.paid and session.payment_status == "paid" else None
    return sold["user_id"], {
        "session_id": session.id,
        "payment_intent_id": payment_intent_id,
        "pack": sold["pack"],
        "credits": int(sold["credits"]),
        "paid_at": moment(paid.created) if paid else None,
        "paid_cents": paid.amount if paid else session.amount_total,
        "refunded_cents": paid.amount_refunded if paid else 0,
        "is_disputed": any(one.status not in SETTLED_DISPUTES for one in disputes),
        "is_lost": any(one.status == "lost" for one in disputes),
    }
