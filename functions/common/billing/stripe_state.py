"""Reads Stripe's current state. The result depends neither on the event that led here nor on our own rows."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stripe import Charge, Customer, Invoice, InvoiceLineItem, StripeClient, Subscription
from stripe.checkout import Session

from functions.common.billing.stripe_client import ITEM_ID_KEY, tier_of

if TYPE_CHECKING:
    from stripe.params import InvoiceListParams

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
CLOSED_DISPUTES = ("won", "lost", "warning_closed", "prevented")
# An invoice may be created shortly before the period that it bills.
INVOICE_DELAY_S = 86400


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A live subscription, as the SQL function apply_customer reads it. Times are ISO 8601."""

    id: str
    tier: str
    paid_tiers: list[str]
    status: str
    period_start: str
    period_end: str
    canceled_at: str | None
    past_due_since: str | None


@dataclass(frozen=True, slots=True)
class CustomerState:
    """A customer at Stripe; `subscription` is None without a live subscription to one of our plans.

    `open_invoice_url` is the page of the oldest invoice that they have to pay us, None where none is open.
    """

    is_deleted: bool
    subscription: SubscriptionState | None
    open_invoice_url: str | None = None


@dataclass(frozen=True, slots=True)
class PackSale:
    """What a checkout session sold, as its metadata recorded it. `amount_cents` is the session's total."""

    user_id: str
    pack: str
    credits: int
    amount_cents: int
    is_paid: bool


@dataclass(frozen=True, slots=True)
class PackPayment:
    """The payment for a pack, as the SQL function apply_pack reads it. `paid_at` is ISO 8601, None until it is paid."""

    session_id: str
    payment_intent_id: str
    pack: str
    credits: int
    paid_at: str | None
    paid_cents: int
    refunded_cents: int
    is_disputed: bool
    is_lost: bool


def iso_time(seconds: int) -> str:
    """A Unix time as ISO 8601, which SQL reads."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def period_of(subscription: Subscription) -> tuple[int, int]:
    """Start and end of the current period, in seconds since 1970. Stripe stores them on the items."""
    item = subscription["items"].data[0]
    return item.current_period_start, item.current_period_end


def _tier(subscription: Subscription) -> str | None:
    return next((tier for item in subscription["items"].data if (tier := tier_of(item.price.product))), None)


async def live_subscription(stripe: StripeClient, customer_id: str) -> tuple[Customer, Subscription | None]:
    """The customer, and their best live subscription to one of our plans."""
    customer = await stripe.v1.customers.retrieve_async(
        customer_id, {"expand": ["subscriptions", "subscriptions.data.latest_invoice"]}
    )
    found = [] if getattr(customer, "deleted", False) or customer.subscriptions is None else customer.subscriptions.data
    live = [one for one in found if one.status in STATUSES and _tier(one)]
    return customer, max(live, key=lambda one: (RANKS[one.status], one.created, one.id), default=None)


async def read_customer(stripe: StripeClient, customer_id: str) -> CustomerState:
    """What a customer has subscribed to and paid for. Raises StripeError."""
    customer, live = await live_subscription(stripe, customer_id)
    open_url = await open_invoice_url(stripe, customer_id)
    is_deleted = bool(getattr(customer, "deleted", False))
    if live is None:
        return CustomerState(is_deleted, None, open_url)
    tier = _tier(live)
    assert tier is not None
    start, end = period_of(live)
    paid_tiers = await _paid_tiers(stripe, live.id, start, end)
    status = STATUSES[live.status]
    # The portal sets cancel_at, the API either field. A cancellation after this period does not count yet.
    ends_at = live.cancel_at if live.cancel_at is not None else end if live.cancel_at_period_end else None
    if ends_at is not None and ends_at <= end:
        end = ends_at
        status = "canceled" if status == "active" else status
    subscription = SubscriptionState(
        id=live.id,
        tier=tier,
        paid_tiers=paid_tiers,
        status=status,
        period_start=iso_time(start),
        period_end=iso_time(end),
        canceled_at=iso_time(live.canceled_at) if live.canceled_at else None,
        past_due_since=_past_due_since(live) if status == "past_due" else None,
    )
    return CustomerState(is_deleted, subscription, open_url)


async def _paid_tiers(stripe: StripeClient, subscription_id: str, start: int, end: int) -> list[str]:
    """The tiers paid until the end of the period: after a downgrade the user keeps the higher one until then."""
    paid = plan_lines(stripe, {"subscription": subscription_id, "created": {"gte": start - INVOICE_DELAY_S}})
    return sorted({tier async for tier, line in paid if line.amount > 0 and line.period.end >= end})


async def plan_lines(stripe: StripeClient, which: "InvoiceListParams") -> AsyncIterator[tuple[str, InvoiceLineItem]]:
    """The lines of paid invoices that bill one of our plans, each with the plan's tier."""
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


def _past_due_since(subscription: Subscription) -> str:
    """When the unpaid invoice became due."""
    invoice = subscription.latest_invoice
    assert isinstance(invoice, Invoice)
    return iso_time(invoice.status_transitions.finalized_at or invoice.created)


async def open_invoice_url(stripe: StripeClient, customer_id: str) -> str | None:
    """Stripe's page of the oldest open invoice for a plan or for overage; None where none is open.

    Without first invoices: a subscription that was never paid for has never started.
    """
    listed = await stripe.v1.invoices.list_async({"customer": customer_id, "status": "open", "limit": 100})
    found = [
        invoice
        async for invoice in listed.auto_paging_iter()
        if invoice.billing_reason != "subscription_create" and _is_ours(invoice)
    ]
    return min(found, key=lambda one: one.created).hosted_invoice_url if found else None


def _is_ours(invoice: Invoice) -> bool:
    marked = [invoice.metadata, *(line.metadata for line in invoice.lines.data)]
    return any(one is not None and ITEM_ID_KEY in one.to_dict() for one in marked) or any(
        line.pricing and line.pricing.price_details and tier_of(line.pricing.price_details.product)
        for line in invoice.lines.data
    )


def pack_sale(session: Session) -> PackSale | None:
    """What a checkout session sold; None for a session that did not sell one of our packs.

    Checkout writes the metadata (functions/checkout); the pack in our table may have changed since the sale.
    """
    metadata = session.metadata.to_dict() if session.metadata is not None else {}
    if session.mode != "payment" or not {"user_id", "pack", "credits"} <= metadata.keys():
        return None
    return PackSale(
        user_id=metadata["user_id"],
        pack=metadata["pack"],
        credits=int(metadata["credits"]),
        amount_cents=session.amount_total or 0,
        is_paid=session.payment_status == "paid",
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
    disputes = (await stripe.v1.disputes.list_async({"payment_intent": payment_intent_id, "limit": 100})).data
    charge = intent.latest_charge if isinstance(intent.latest_charge, Charge) else None
    paid = charge if charge is not None and charge.paid and sale.is_paid else None
    return sale.user_id, PackPayment(
        session_id=session.id,
        payment_intent_id=payment_intent_id,
        pack=sale.pack,
        credits=sale.credits,
        paid_at=iso_time(paid.created) if paid else None,
        paid_cents=paid.amount if paid else sale.amount_cents,
        refunded_cents=await _refunded_cents(stripe, paid) if paid else 0,
        is_disputed=any(dispute.status not in CLOSED_DISPUTES for dispute in disputes),
        is_lost=any(dispute.status == "lost" for dispute in disputes),
    )


async def _refunded_cents(stripe: StripeClient, charge: Charge) -> int:
    """What was refunded, without refunds that failed later: the bank returned their money to us.
    https://docs.stripe.com/refunds#failed-refunds"""
    if charge.amount_refunded == 0:
        return 0
    refunds = await stripe.v1.refunds.list_async({"charge": charge.id, "limit": 100})
    kept = sum([one.amount async for one in refunds.auto_paging_iter() if one.status not in ("failed", "canceled")])
    return min(kept, charge.amount_refunded)
