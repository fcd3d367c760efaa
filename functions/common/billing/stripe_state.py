"""Reads Stripe's current state. The result depends neither on the event that led here nor on our own rows."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from stripe import StripeClient

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
from functions.common.billing.stripe_client import ITEM_ID_KEY, tier_of

if TYPE_CHECKING:  # each class has hundreds of types, and the client imports those of its answers at run time
    from stripe import (
        Charge,
        Customer,
        Invoice,
        InvoiceItem,
        InvoiceLineItem,
        StripeObject,
        Subscription,
        SubscriptionItem,
    )
    from stripe.checkout import Session
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
CLOSED_DISPUTES = frozenset({"won", "lost", "warning_closed", "prevented"})
# While a dispute is open, the bank has the money. A warning takes none.
MONEY_TAKEN = frozenset({"needs_response", "under_review", "lost"})
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


@dataclass(frozen=True, slots=True)
class PackSale:
    """What a checkout session sold, as its metadata recorded it. `total_cents` is what was charged, `price_cents` the
    same without tax, both after discounts and in cents of `currency`. A total of nothing counts as paid."""

    user_id: str
    pack: str
    credits: int
    currency: str
    price_cents: int
    total_cents: int
    is_paid: bool


@dataclass(frozen=True, slots=True)
class PackPayment:
    """The payment for a pack, as the SQL function apply_pack reads it. `paid_at` is ISO 8601, None until it is paid.

    `price_cents` is without tax; `paid_cents` and `refunded_cents` are with it. A pack that a promotion code made free
    has no payment intent.
    """

    session_id: str
    payment_intent_id: str | None
    pack: str
    credits: int
    paid_at: str | None
    price_cents: int
    paid_cents: int
    refunded_cents: int
    is_disputed: bool
    is_lost: bool


def iso_time(seconds: int) -> str:
    """A Unix time as ISO 8601, which SQL reads."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


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
    is_charged = any(map(_intents_of, invoices))
    refunded = await _refunded_payments(stripe, str(live.customer), since) if is_charged else set()
    bills = []
    for invoice in invoices:
        lines = [_plan_line(tier, line) async for tier, line in _plan_lines_of(stripe, invoice)]
        bills.append(PlanBill(_payment_of(invoice, refunded), tuple(lines)))
    # Prorations only wait after a change of plan.
    if any(line.tier != bought for bill in bills for line in bill.lines if line.end >= end):
        bills += pending_bills(await _pending_prorations(stripe, live))
    return bills


def _payment_of(invoice: "Invoice", refunded: set[str]) -> Payment:
    if invoice.status == "paid":
        return Payment.RETURNED if not refunded.isdisjoint(_intents_of(invoice)) else Payment.PAID
    is_expected = invoice.status == "open" or (invoice.status == "draft" and invoice.auto_advance)
    return Payment.EXPECTED if is_expected else Payment.NONE


async def _refunded_payments(stripe: StripeClient, customer_id: str, since: int) -> set[str]:
    """The payment intents of a customer that were refunded in full."""
    charges = await stripe.v1.charges.list_async({"customer": customer_id, "created": {"gte": since}, "limit": 100})
    return {
        str(charge.payment_intent)
        async for charge in charges.auto_paging_iter()
        if charge.refunded and await _refunded_cents(stripe, charge) == charge.amount
    }


async def _pending_prorations(stripe: StripeClient, live: "Subscription") -> list[PlanLine]:
    """The plans' prorations that wait for the subscription's next invoice."""
    listed = await stripe.v1.invoice_items.list_async({"customer": str(live.customer), "pending": True, "limit": 100})
    found = []
    async for item in listed.auto_paging_iter():
        tier = _tier_of_line(item)
        if tier is not None and item.proration and _subscription_of(item) == live.id:
            net = getattr(item, "net_amount", None)
            cents = item.amount if net is None else net
            found.append(PlanLine(tier, cents, item.period.start, item.period.end, is_free=item.amount == 0))
    return found


def _plan_line(tier: str, line: "InvoiceLineItem") -> PlanLine:
    # Credits for unused time are net of discounts, so what was paid is too.
    return PlanLine(tier, net_cents(line), line.period.start, line.period.end, is_free=line.amount == 0)


def net_cents(line: "InvoiceLineItem") -> int:
    """The amount of an invoice's line after discounts, before tax."""
    return line.amount - sum(one.amount for one in line.discount_amounts or [])


async def plan_lines(stripe: StripeClient, which: "InvoiceListParams") -> "AsyncIterator[tuple[str, InvoiceLineItem]]":
    """The lines of paid invoices that bill one of our plans, each with the plan's tier."""
    invoices = await stripe.v1.invoices.list_async({**which, "status": "paid", "limit": 100})
    async for invoice in invoices.auto_paging_iter():
        async for tier, line in _plan_lines_of(stripe, invoice):
            yield tier, line


async def _plan_lines_of(stripe: StripeClient, invoice: "Invoice") -> "AsyncIterator[tuple[str, InvoiceLineItem]]":
    async for line in _lines_of(stripe, invoice):
        tier = _tier_of_line(line)
        if tier:
            yield tier, line


async def _lines_of(stripe: StripeClient, invoice: "Invoice") -> "AsyncIterator[InvoiceLineItem]":
    lines = invoice.lines
    if lines.has_more:
        assert invoice.id is not None
        lines = await stripe.v1.invoices.line_items.list_async(invoice.id, {"limit": 100})
    async for line in lines.auto_paging_iter():
        yield line


def _tier_of_line(line: "InvoiceLineItem | InvoiceItem") -> str | None:
    details = getattr(line.pricing, "price_details", None)
    return tier_of(details.product) if details else None


def _past_due_since(subscription: "Subscription", unpaid: "Sequence[Invoice]", start: int) -> int:
    """When the oldest unpaid invoice of the subscription became due; without one, the start of the period."""
    own = [one for one in unpaid if _subscription_of(one) == subscription.id]
    if not own and subscription.latest_invoice and not isinstance(subscription.latest_invoice, str):
        own = [subscription.latest_invoice]
    return min((one.status_transitions.finalized_at or one.created for one in own), default=start)


def _subscription_of(thing: "Invoice | InvoiceItem") -> str | None:
    details = thing.parent.subscription_details if thing.parent else None
    return str(details.subscription) if details else None


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
        subscription_id = _subscription_of(invoice)
        if subscription_id is not None and _has_only_plans(invoice):
            if subscription_id not in ended:
                subscription = await stripe.v1.subscriptions.retrieve_async(subscription_id)
                ended[subscription_id] = subscription.status == "canceled"
            if ended[subscription_id]:
                assert invoice.id is not None
                for_nothing.append(invoice.id)
                continue
        is_open = invoice.status == "open" and _is_ours(invoice)
        has_started = invoice.billing_reason != "subscription_create" or subscription_id == live_id
        if (is_open and has_started) or has_overage(invoice):
            owed.append(invoice)
    return sorted(owed, key=lambda one: one.created), tuple(for_nothing)


def _has_only_plans(invoice: "Invoice") -> bool:
    return not invoice.lines.has_more and all(_tier_of_line(line) for line in invoice.lines.data)


def _is_ours(invoice: "Invoice") -> bool:
    return has_overage(invoice) or any(_tier_of_line(line) for line in invoice.lines.data)


def has_overage(invoice: "Invoice") -> bool:
    """Whether the invoice charges for overage."""
    return any(map(_is_overage, [invoice.metadata, *(line.metadata for line in invoice.lines.data)]))


def _is_overage(metadata: "StripeObject | None") -> bool:
    return metadata is not None and ITEM_ID_KEY in metadata.to_dict()


def buyer_of(metadata: Mapping[str, str]) -> str | None:
    """The user id in the metadata of a checkout session; None for what another project of the account sold.

    Checkout writes it beside the plan or the pack (functions/checkout).
    """
    if not {"plan", "pack"} & metadata.keys():
        return None
    try:
        return str(UUID(metadata.get("user_id")))
    except (TypeError, ValueError):
        return None


def pack_sale(session: "Session") -> PackSale | None:
    """What a checkout session sold; None for a session that did not sell one of our packs.

    The metadata is read, because the pack in our table may have changed since the sale.
    """
    metadata = session.metadata.to_dict() if session.metadata is not None else {}
    buyer_id = buyer_of(metadata) if session.mode == "payment" and "pack" in metadata else None
    if buyer_id is None or not re.fullmatch("[0-9]{1,9}", metadata.get("credits", "")):
        return None
    total, details = session.amount_total or 0, session.total_details
    return PackSale(
        user_id=buyer_id,
        pack=metadata["pack"],
        credits=int(metadata["credits"]),
        currency=session.currency or "",
        price_cents=total - (details.amount_tax if details else 0),
        total_cents=total,
        is_paid=session.status == "complete" and session.payment_status != "unpaid",
    )


@dataclass(frozen=True, slots=True)
class InvoicePayment:
    """A payment: its customer, the invoice that it paid, and the subscription of that invoice, if it is ours."""

    customer_id: str | None
    invoice_id: str | None
    subscription_id: str | None
    is_lost: bool


async def read_invoice_payment(stripe: StripeClient, payment_intent_id: str) -> InvoicePayment:
    """What a payment paid. `is_lost`: a dispute of it was lost. Raises StripeError."""
    intent = await stripe.v1.payment_intents.retrieve_async(payment_intent_id)
    customer_id = str(intent.customer) if intent.customer else None
    if customer_id is None:
        return InvoicePayment(None, None, None, is_lost=False)
    payments = await stripe.v1.invoice_payments.list_async(
        {"payment": {"type": "payment_intent", "payment_intent": payment_intent_id}, "limit": 1}
    )
    for payment in payments.data:
        invoice = await stripe.v1.invoices.retrieve_async(str(payment.invoice))
        subscription_id = _subscription_of(invoice) if _is_ours(invoice) else None
        disputes = await _disputes(stripe, payment_intent_id)
        return InvoicePayment(customer_id, invoice.id, subscription_id, "lost" in disputes)
    return InvoicePayment(customer_id, None, None, is_lost=False)


async def invoice_outcome(
    stripe: StripeClient, invoice_id: str
) -> Literal["paid", "void", "credited", "returned"] | None:
    """How an invoice for overage ended; None while that is owed. Returned: all of a payment of it was refunded, or it
    is disputed or was lost. Credited: a credit paid some of the overage; returned as well if any payment before it was,
    and owed while a credit is for a plan that was not paid, because Stripe does not say what a balance came from.
    Raises StripeError.

    A payment of a plan and of overage is one payment: Stripe does not say which part a refund is for. A total below
    Stripe's smallest charge is added to what the customer owes, and the next invoice collects it. Stripe voids the
    first invoice of a subscription that has not been paid in a day: that forgives nothing.
    """
    invoice = await stripe.v1.invoices.retrieve_async(invoice_id, {"expand": ["payments"]})
    if invoice.status == "void":
        return None if invoice.billing_reason == "subscription_create" else "void"
    if invoice.status != "paid":
        return None
    for intent_id in sorted(_intents_of(invoice)):
        intent = await stripe.v1.payment_intents.retrieve_async(intent_id, {"expand": ["latest_charge"]})
        charge = intent.latest_charge
        if charge is not None and not isinstance(charge, str) and await _is_returned(stripe, charge):
            return "returned"
    overage = sum([net_cents(line) async for line in _lines_of(stripe, invoice) if _is_overage(line.metadata)])
    if invoice.amount_paid >= max(invoice.total, overage):
        return "paid"
    if (invoice.ending_balance or 0) > max(0, invoice.starting_balance):
        return "credited" if await _is_collected(stripe, invoice) else None
    if await _has_returned_payment(stripe, invoice):
        return "returned"
    return None if await _has_unpaid_credit(stripe, invoice) else "credited"


def _intents_of(invoice: "Invoice") -> set[str]:
    """The payment intents that paid an invoice with expanded payments. What was paid outside Stripe has none."""
    payments = invoice.payments.data if invoice.payments else []
    # Stripe leaves the key out of payments of another type, and the attribute would raise AttributeError.
    found = (getattr(one.payment, "payment_intent", None) for one in payments if one.status == "paid")
    return {str(intent) for intent in found if intent is not None}


async def _is_collected(stripe: StripeClient, carried: "Invoice") -> bool:
    """Whether a later invoice collected what an invoice added to the customer's balance, and was paid. A voided one
    gives it back to the balance."""
    at = _finalized_at(carried)
    listed = await stripe.v1.invoices.list_async(
        {"customer": str(carried.customer), "created": {"gte": carried.created}, "limit": 100}
    )
    collecting = [
        (one.status_transitions.finalized_at, one.status)
        async for one in listed.auto_paging_iter()
        if one.status in ("open", "paid", "uncollectible")
        and one.starting_balance > 0 >= (one.ending_balance or 0)
        and (one.status_transitions.finalized_at or 0) >= at
    ]
    if collecting:
        return min(collecting)[1] == "paid"
    customer = await stripe.v1.customers.retrieve_async(str(carried.customer))
    return (getattr(customer, "balance", 0) or 0) <= 0  # support took it off, or the customer was deleted


async def _has_returned_payment(stripe: StripeClient, credited: "Invoice") -> bool:
    """Whether an earlier payment of an invoice of the customer was returned. Packs are no invoices."""
    until = _finalized_at(credited)
    charges = await stripe.v1.charges.list_async(
        {"customer": str(credited.customer), "created": {"lte": until}, "limit": 100}
    )
    async for charge in charges.auto_paging_iter():
        if charge.paid and (charge.disputed or charge.refunded) and await _is_returned(stripe, charge):
            payment = str(charge.payment_intent)
            paid = await stripe.v1.invoice_payments.list_async(
                {"payment": {"type": "payment_intent", "payment_intent": payment}, "limit": 1}
            )
            if paid.data:
                return True
    return False


async def _has_unpaid_credit(stripe: StripeClient, credited: "Invoice") -> bool:
    """Whether a credit that may have paid an invoice takes back a plan's charge that is not paid. A credit has the plan
    and the end of its charge."""
    until = _finalized_at(credited)
    listed = await stripe.v1.invoices.list_async(
        {"customer": str(credited.customer), "created": {"lte": until}, "limit": 100}
    )
    found = [one async for one in listed.auto_paging_iter() if one.status != "draft"]
    found.reverse()  # Stripe lists the newest first
    found.sort(key=_finalized_at)
    paid: Counter[tuple[str, int]] = Counter()
    is_unpaid = False
    for invoice in found:
        if _finalized_at(invoice) > until:
            break
        is_unpaid &= invoice.starting_balance < 0  # otherwise nothing is left of the credits before
        lines = [((tier, line.period.end), line.amount) async for tier, line in _plan_lines_of(stripe, invoice)]
        if invoice.status == "paid" and not (is_unpaid and invoice.amount_paid < invoice.total):
            paid.update(charge for charge, cents in lines if cents > 0)
        for credit in [charge for charge, cents in lines if cents < 0 and invoice.status != "void"]:
            is_unpaid |= paid[credit] == 0
            paid[credit] = max(0, paid[credit] - 1)
    return is_unpaid


def _finalized_at(invoice: "Invoice") -> int:
    return invoice.status_transitions.finalized_at or invoice.created


async def _is_returned(stripe: StripeClient, charge: "Charge") -> bool:
    """Whether all of a charge was refunded, or the customer's bank has it."""
    if charge.disputed and MONEY_TAKEN & await _disputes(stripe, str(charge.payment_intent)):
        return True
    return await _refunded_cents(stripe, charge) >= charge.amount


async def _disputes(stripe: StripeClient, payment_intent_id: str) -> set[str]:
    """The statuses of the disputes of a payment."""
    listed = await stripe.v1.disputes.list_async({"payment_intent": payment_intent_id, "limit": 100})
    return {dispute.status for dispute in listed.data}


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
    disputes = await _disputes(stripe, payment_intent_id)
    charge = None if isinstance(intent.latest_charge, str) else intent.latest_charge
    paid = charge if charge is not None and charge.paid and sale.is_paid else None
    return sale.user_id, PackPayment(
        session_id=session.id,
        payment_intent_id=payment_intent_id,
        pack=sale.pack,
        credits=sale.credits,
        paid_at=iso_time(paid.created) if paid else None,
        price_cents=sale.price_cents,
        paid_cents=paid.amount if paid else sale.total_cents,
        refunded_cents=await _refunded_cents(stripe, paid) if paid else 0,
        is_disputed=not disputes <= CLOSED_DISPUTES,
        is_lost="lost" in disputes,
    )


async def read_free_pack(stripe: StripeClient, session_id: str) -> tuple[str, PackPayment] | None:
    """The buyer's user id and the pack of a session without a payment; None where it sold none of our packs.

    Raises StripeError.
    """
    session = await stripe.v1.checkout.sessions.retrieve_async(session_id)
    sale = pack_sale(session)
    if sale is None or not sale.is_paid or session.payment_intent is not None:
        return None
    return sale.user_id, PackPayment(
        session_id=session.id,
        payment_intent_id=None,
        pack=sale.pack,
        credits=sale.credits,
        paid_at=iso_time(session.created),
        price_cents=0,
        paid_cents=0,
        refunded_cents=0,
        is_disputed=False,
        is_lost=False,
    )


async def _refunded_cents(stripe: StripeClient, charge: "Charge") -> int:
    """What was refunded, without refunds that failed later: the bank returned their money to us.
    https://docs.stripe.com/refunds#failed-refunds"""
    if charge.amount_refunded == 0:
        return 0
    refunds = await stripe.v1.refunds.list_async({"charge": charge.id, "limit": 100})
    kept = sum([one.amount async for one in refunds.auto_paging_iter() if one.status not in ("failed", "canceled")])
    return min(kept, charge.amount_refunded)
