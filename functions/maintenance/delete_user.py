"""delete-user: ends the user's subscription, bills what they owe and deletes their data.

A deletion that was killed can be started again: each step finds out what is left to do. Data is deleted only after the
subscription has ended at Stripe and the overage is billed, or written off explicitly.
"""

from collections.abc import Callable
from typing import TypedDict

from stripe import InvalidRequestError, StripeClient

from functions.common import results
from functions.common.billing.events import apply_customer
from functions.common.billing.overage import bill_overage
from functions.common.billing.records import billing_profile
from functions.common.billing.stripe_state import live_subscription
from functions.common.database import Database

PAGE_TIMEOUT_S = 30.0


class DeletionCounts(TypedDict):
    """`subscriptions` ended at Stripe, `items` put on the last invoice, `conversations` and `users` deleted."""

    subscriptions: int
    items: int
    conversations: int
    users: int


async def delete_user(
    database: Database, stripe: StripeClient, user_id: str, progress: Callable[[str], None], *, write_off: bool = False
) -> DeletionCounts:
    """End a user's subscription, bill their overage, and delete their data. The sums of the ledger are kept.

    `write_off`: their overage is not billed. For a user who does not exist all counts are 0. Safe to repeat: another
    run continues where this one ended. Raises Forbidden where overage is still owed, StripeError, Unavailable.
    """
    counts = DeletionCounts(subscriptions=0, items=0, conversations=0, users=0)
    profile = await billing_profile(database, user_id)
    if profile is None:
        return counts
    customer_id = profile.stripe_customer_id
    if customer_id is not None:
        counts["subscriptions"] = await _cancel(stripe, customer_id)
        sequence = await database.call("next_stripe_sequence", parse=results.number)
        await apply_customer(database, stripe, customer_id, sequence)
        progress(f"delete-user: {counts['subscriptions']} subscriptions ended")
        if not write_off:
            billed = await bill_overage(database, stripe, user_id, customer_id)
            counts["items"] = billed.placed
            progress(f"delete-user: {billed.placed} items billed")
    while True:
        params = {"p_user_id": user_id}
        batch = await database.call("delete_history", params, timeout_s=PAGE_TIMEOUT_S, parse=results.number)
        if not batch:
            break
        counts["conversations"] += batch
        progress(f"delete-user: {counts['conversations']:,} conversations deleted")
    last = {"p_user_id": user_id, "p_write_off": write_off}
    counts["users"] = int(await database.call("delete_user", last, timeout_s=PAGE_TIMEOUT_S, parse=results.flag))
    return counts


async def _cancel(stripe: StripeClient, customer_id: str) -> int:
    """End the live subscriptions at Stripe immediately, without a credit. Returns their number."""
    ended = 0
    while True:
        _, live = await live_subscription(stripe, customer_id)
        if live is None:
            return ended
        try:
            await stripe.v1.subscriptions.cancel_async(live.id, {"invoice_now": False, "prorate": False})
        except InvalidRequestError as error:
            if error.code != "resource_missing":
                raise
        ended += 1
