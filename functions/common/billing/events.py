"""Processes Stripe's events. An event only names what to read; we apply the state that Stripe has when we read it.

Events may therefore arrive in any order, several times and concurrently. The sequence number of claim_stripe_event
decides which reading is newer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, NotRequired, TypedDict

from stripe import InvalidRequestError, StripeClient, StripeError

from functions.common import results
from functions.common.billing.overage import bill_overage, settle_overage
from functions.common.billing.payments import (
    PackPayment,
    buyer_of,
    read_free_pack,
    read_invoice_payment,
    read_pack_payment,
)
from functions.common.billing.stripe_client import is_missing
from functions.common.billing.stripe_state import live_subscription, read_customer
from functions.common.database import Database
from functions.common.errors import PaymentUnavailable

# Event type -> the field of its object that holds the customer's id. docs/billing.md says what each event does.
CUSTOMER_EVENTS: Mapping[str, str] = {
    "customer.subscription.created": "customer",
    "customer.subscription.updated": "customer",
    "customer.subscription.deleted": "customer",
    "customer.subscription.paused": "customer",
    "customer.subscription.resumed": "customer",
    "invoice.created": "customer",
    "invoice.finalized": "customer",
    "invoice.marked_uncollectible": "customer",
    "invoice.paid": "customer",
    "invoice.payment_action_required": "customer",
    "invoice.payment_failed": "customer",
    "invoice.voided": "customer",
    "invoice.finalization_failed": "customer",
    "subscription_schedule.created": "customer",
    "subscription_schedule.updated": "customer",
    "subscription_schedule.released": "customer",
    "subscription_schedule.canceled": "customer",
    "customer.deleted": "id",
}
PAYMENT_EVENTS = frozenset(
    {
        "charge.refunded",
        "charge.refund.updated",
        "refund.failed",
        "refund.updated",
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.closed",
    }
)
SESSION_EVENTS = frozenset(
    {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
    }
)
HANDLED_EVENTS = frozenset({*CUSTOMER_EVENTS, *PAYMENT_EVENTS, *SESSION_EVENTS})
# The draft of a renewal accepts overage for an hour. After the end of a subscription there is no further renewal, and
# while it is paused there is none.
OVERAGE_EVENTS = frozenset({"invoice.created", "customer.subscription.deleted", "customer.subscription.paused"})
# The metadata of the customer of a user whom we deleted. Other users may be unknown because another project uses the
# same account of Stripe.
DELETED = {"account_deleted": "true"}
# Shorter than the time limit of the webhooks function (serverless.yml), so that a timeout is recorded as a failure.
TIMEOUT_S = 22.0


class EventData(TypedDict):
    """`object`: the customer, invoice, charge, … that the event is about."""

    object: Mapping[str, Any]


class StripeEvent(TypedDict):
    """The fields of an event that we read. https://docs.stripe.com/api/events/object

    `account`: the connected account that it is about. Events of our own account have none.
    """

    id: str
    type: str
    data: EventData
    livemode: NotRequired[bool]
    account: NotRequired[str | None]


@dataclass(frozen=True, slots=True)
class Claim:
    """claim_stripe_event: whether the event was processed before, and the sequence number of this reading."""

    processed: bool
    sequence: int


class NotAtStripe(Exception):
    """Stripe has no such customer or payment in this account and mode. No retry can change that."""


async def process_event(
    database: Database, stripe: StripeClient, event: StripeEvent, report_orphan: Callable[[str], None]
) -> Literal["processed", "repeated", "ignored"]:
    """Apply an event within TIMEOUT_S. Repeated: it was processed before. Ignored: it is about a customer or a payment
    that neither our account and mode nor a user has; it is stored once, as NotAtStripe, and not tried again.

    `report_orphan` gets the id of an event of a payment without a user: an operator has to refund it.
    A failure is recorded with the event and raised: PaymentUnavailable, Unavailable or an unexpected error.
    """
    claim = await _claim(database, event)
    if claim.processed:
        return "repeated"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            user_id = await _apply(database, stripe, event, claim.sequence)
    except Exception as error:
        # What a user of ours has, but Stripe does not, is a key of another account or sandbox: an operator repairs it.
        is_final = isinstance(error, NotAtStripe) and not await _is_of_user(database, event)
        failure = {"p_event_id": event["id"], "p_error": type(error).__name__, "p_is_final": is_final}
        await database.call("finish_stripe_event", failure, parse=results.nothing)
        if is_final:
            return "ignored"
        if isinstance(error, StripeError | TimeoutError | NotAtStripe):
            raise PaymentUnavailable from error
        raise
    await database.call("finish_stripe_event", {"p_event_id": event["id"]}, parse=results.nothing)
    if user_id is None and event["type"] in SESSION_EVENTS and _is_paid_sale(event["data"]["object"]):
        report_orphan(event["id"])
    return "processed"


def _is_paid_sale(session: Mapping[str, Any]) -> bool:
    """Whether we sold something with a checkout session. The account may sell other products to other customers."""
    return session.get("payment_status") == "paid" and buyer_of(session.get("metadata") or {}) is not None


async def _is_of_user(database: Database, event: StripeEvent) -> bool:
    """Whether an event is about the customer of a user, or the payment of a pack."""
    thing = event["data"]["object"]
    customer_id = thing.get(CUSTOMER_EVENTS.get(event["type"], "customer"))
    if isinstance(customer_id, str):
        users = await database.call("find_users", {"p_who": customer_id}, parse=results.records("id"))
        if users:
            return True
    payment_id = thing.get("payment_intent")
    if not isinstance(payment_id, str):
        return False
    return bool(await database.call("sold_packs", {"p_payments": [payment_id]}, parse=results.records("id")))


def is_ours(event: StripeEvent, *, live: bool) -> bool:
    """Whether an event is about our own account, in the mode of our key. A missing mode counts as ours."""
    return event.get("account") is None and event.get("livemode", live) == live


async def give_up(database: Database, event_id: str) -> None:
    """Record that an event cannot be applied, now or later."""
    params = {"p_event_id": event_id, "p_error": NotAtStripe.__name__, "p_is_final": True}
    await database.call("finish_stripe_event", params, parse=results.nothing)


async def _claim(database: Database, event: StripeEvent) -> Claim:
    params = {"p_event_id": event["id"], "p_type": event["type"]}
    claim: Claim = await database.call(
        "claim_stripe_event", params, parse=lambda row: Claim(row["processed"], row["sequence"])
    )
    return claim


async def _apply(database: Database, stripe: StripeClient, event: StripeEvent, sequence: int) -> str | None:
    """Returns the id of the user that it is about; None where there is none."""
    kind, thing = event["type"], event["data"]["object"]
    customer_id = thing.get(CUSTOMER_EVENTS[kind]) if kind in CUSTOMER_EVENTS else None
    session_id = None
    payment_id = thing.get("payment_intent") if kind in PAYMENT_EVENTS else None
    if kind in SESSION_EVENTS:
        # Without `mode`: from an endpoint of an old version.
        if thing.get("mode") == "subscription" or thing.get("subscription"):
            customer_id = thing.get("customer")
        else:
            payment_id, session_id = thing.get("payment_intent"), thing["id"]
    if customer_id is not None:
        user_id = await apply_customer(database, stripe, customer_id, sequence)
        if user_id is None:
            await _end_subscription(stripe, customer_id)
        else:
            if kind in OVERAGE_EVENTS:
                await bill_overage(database, stripe, user_id, customer_id)
            # After billing: an earlier run may have put an item on an invoice that was paid before it was stored here.
            await settle_overage(database, stripe, user_id, sequence)
        return user_id
    if payment_id is None:
        return await apply_free_pack(database, stripe, session_id, sequence) if session_id is not None else None
    user_id = await apply_payment(database, stripe, payment_id, sequence)
    if user_id is None and kind in PAYMENT_EVENTS:
        return await _apply_invoice_payment(database, stripe, payment_id, sequence)
    if user_id is None and session_id is not None:
        await _check_session(stripe, session_id)
    return user_id


async def _check_session(stripe: StripeClient, session_id: str) -> None:
    """Raises NotAtStripe for a session that this account does not have: it lists none for such a payment."""
    try:
        await stripe.v1.checkout.sessions.retrieve_async(session_id)
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        raise NotAtStripe from error


async def _apply_invoice_payment(
    database: Database, stripe: StripeClient, payment_id: str, sequence: int
) -> str | None:
    """Refunds and disputes of what paid no pack. Overage whose payment was returned is owed again. A lost dispute of a
    plan ends its subscription."""
    try:
        payment = await read_invoice_payment(stripe, payment_id)
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        raise NotAtStripe from error
    if payment.customer_id is None:
        return None
    if payment.is_lost and payment.subscription_id is not None:
        with suppress(InvalidRequestError):  # it has ended
            await stripe.v1.subscriptions.cancel_async(
                payment.subscription_id, {"invoice_now": False, "prorate": False}
            )
    user_id = await apply_customer(database, stripe, payment.customer_id, sequence)
    if user_id is not None:
        await settle_overage(database, stripe, user_id, sequence, payment.invoice_id)
    return user_id


async def _end_subscription(stripe: StripeClient, customer_id: str) -> None:
    """Cancel what the customer of a deleted user subscribed to on a page that was open meanwhile."""
    customer, live = await live_subscription(stripe, customer_id)
    metadata = getattr(customer, "metadata", None)
    if live is not None and metadata is not None and DELETED.items() <= metadata.to_dict().items():
        await stripe.v1.subscriptions.cancel_async(live.id, {"invoice_now": False, "prorate": False})


async def apply_customer(database: Database, stripe: StripeClient, customer_id: str, sequence: int) -> str | None:
    """Read a customer and store their user's plan. `sequence` must be drawn before the call. Voids the invoices that
    would be paid for nothing.

    Returns the user's id; None where no user has this customer. Raises NotAtStripe.
    """
    try:
        customer = await read_customer(stripe, customer_id)
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        raise NotAtStripe from error
    params = {
        "p_customer_id": customer_id,
        "p_sequence": sequence,
        "p_is_deleted": customer.is_deleted,
        "p_subscription": asdict(customer.subscription) if customer.subscription is not None else None,
        "p_open_invoice_url": customer.open_invoice_url,
    }
    user_id: str | None = await database.call("apply_customer", params, parse=results.text)
    for invoice_id in customer.for_nothing:
        with suppress(InvalidRequestError):  # it was paid or voided meanwhile, or its payment is processing
            await stripe.v1.invoices.void_invoice_async(invoice_id)
    return user_id


async def apply_payment(database: Database, stripe: StripeClient, payment_id: str, sequence: int) -> str | None:
    """Read a payment and store the pack that it paid for, if any. `sequence` must be drawn before the call.

    Returns the user's id; None where it paid for no pack, or the user was deleted. Raises NotAtStripe.
    """
    return await _apply_pack(database, read_pack_payment(stripe, payment_id), sequence)


async def apply_free_pack(database: Database, stripe: StripeClient, session_id: str, sequence: int) -> str | None:
    """Store the pack that a session sold for nothing, with a promotion code. As apply_payment."""
    return await _apply_pack(database, read_free_pack(stripe, session_id), sequence)


async def _apply_pack(
    database: Database, reading: Awaitable[tuple[str, PackPayment] | None], sequence: int
) -> str | None:
    try:
        found = await reading
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        raise NotAtStripe from error
    if found is None:
        return None
    buyer_id, payment = found
    params = {"p_user_id": buyer_id, "p_sequence": sequence, "p_payment": asdict(payment)}
    user_id: str | None = await database.call("apply_pack", params, parse=results.text)
    return user_id
