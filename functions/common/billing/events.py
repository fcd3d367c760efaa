"""What each event calls for. An event only says where to look: what is applied is Stripe's state at the look.

Any order, any number of times, several at once: see the head of sql/migrations/…_billing.sql.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from stripe import StripeClient, StripeError

from functions.common.billing.look import look_at_customer, look_at_payment
from functions.common.billing.overage import bill_overage
from functions.common.database import Database
from functions.common.errors import PaymentUnavailable

# Event type: where its object names the customer. docs/billing.md says what each does.
OF_CUSTOMERS: Mapping[str, str] = {
    "customer.subscription.created": "customer",
    "customer.subscription.updated": "customer",
    "customer.subscription.deleted": "customer",
    "customer.subscription.paused": "customer",
    "customer.subscription.resumed": "customer",
    "invoice.created": "customer",
    "invoice.paid": "customer",
    "invoice.payment_failed": "customer",
    "invoice.finalization_failed": "customer",
    "customer.deleted": "id",
}
OF_PAYMENTS = frozenset(
    {
        "charge.refunded",
        "charge.refund.updated",
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.closed",
    }
)
OF_SESSIONS = frozenset(
    {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
    }
)
USED = frozenset({*OF_CUSTOMERS, *OF_PAYMENTS, *OF_SESSIONS})
# A renewal's draft takes overage for an hour; a subscription that has ended leaves some that no renewal will take.
BILLS = frozenset({"invoice.created", "customer.subscription.deleted"})
# Below the webhooks' own time (serverless.yml), so that what takes too long is noted as a failure.
WITHIN_S = 22.0


async def deal_with(database: Database, stripe: StripeClient, event: Mapping[str, Any]) -> bool:
    """Bring the effect of an event about, within WITHIN_S; False: it had been already. `event` is Stripe's JSON.

    Raises PaymentUnavailable, Unavailable and whatever else went wrong, which is noted with the event first.
    """
    params = {"p_event_id": event["id"], "p_type": event["type"]}
    claim = await database.call("claim_stripe_event", params, idempotent=True)
    if claim["processed"]:
        return False
    try:
        async with asyncio.timeout(WITHIN_S):
            await _look_and_apply(database, stripe, event, claim["sequence"])
    except Exception as error:
        noted = {"p_event_id": event["id"], "p_error": type(error).__name__}
        await database.call("finish_stripe_event", noted, idempotent=True)
        if isinstance(error, StripeError | TimeoutError):
            raise PaymentUnavailable from error
        raise
    await database.call("finish_stripe_event", {"p_event_id": event["id"]}, idempotent=True)
    return True


async def _look_and_apply(database: Database, stripe: StripeClient, event: Mapping[str, Any], sequence: int) -> None:
    kind, thing = event["type"], event["data"]["object"]
    customer_id = thing.get(OF_CUSTOMERS[kind]) if kind in OF_CUSTOMERS else None
    payment_id = thing.get("payment_intent") if kind in OF_PAYMENTS else None
    if kind in OF_SESSIONS:
        customer_id, payment_id = (
            (thing["customer"], None) if thing["mode"] == "subscription" else (None, thing["payment_intent"])
        )
    if customer_id is not None:
        user_id = await apply_customer(database, stripe, customer_id, sequence)
        if user_id is not None and kind in BILLS:
            await bill_overage(database, stripe, user_id, customer_id)
    elif payment_id is not None:
        await _apply_payment(database, stripe, payment_id, sequence)


async def apply_customer(database: Database, stripe: StripeClient, customer_id: str, sequence: int) -> str | None:
    """Look at a customer and make that their user's plan. `sequence` was drawn before. Returns the user's id."""
    look = await look_at_customer(stripe, customer_id)
    params = {
        "p_customer_id": customer_id,
        "p_sequence": sequence,
        "p_is_deleted": look.is_deleted,
        "p_subscription": look.subscription,
    }
    user_id: str | None = await database.call("apply_customer", params, idempotent=True)
    return user_id


async def _apply_payment(database: Database, stripe: StripeClient, payment_id: str, sequence: int) -> None:
    found = await look_at_payment(stripe, payment_id)
    if found is not None:
        user_id, payment = found
        params = {"p_user_id": user_id, "p_sequence": sequence, "p_payment": payment}
        await database.call("apply_pack", params, idempotent=True)
