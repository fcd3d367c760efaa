"""bill-overages: bills the overage that no event billed.

If Stripe refuses one user, the user is counted and the others are still billed. A job that was killed continues with
what is left.
"""

from collections.abc import Callable
from typing import TypedDict

from stripe import APIConnectionError, StripeClient, StripeError

from functions.common import results
from functions.common.billing.overage import bill_overage
from functions.common.database import Database
from functions.common.errors import PaymentUnavailable

PAGE = 100
PAGE_TIMEOUT_S = 30.0


class BillingCounts(TypedDict):
    """`users` with something to bill, items `placed` at Stripe, items that are now on an invoice, users whom Stripe
    refused, and the first PAGE of their ids."""

    users: int
    placed: int
    invoiced: int
    failed: int
    failed_ids: list[str]


async def bill_overages(database: Database, stripe: StripeClient, progress: Callable[[str], None]) -> BillingCounts:
    """Bill every user who owes overage.

    Raises Unavailable where the database, PaymentUnavailable where Stripe is out of reach; what was billed stays so.
    """
    users = placed = invoiced = 0
    failed: list[str] = []
    after: str | None = None
    while True:
        params = {"p_after": after, "p_limit": PAGE}
        page = await database.call("users_to_bill", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("user_id"))
        if not page:
            break
        for user in page:
            try:
                billed = await bill_overage(database, stripe, user["user_id"], user["stripe_customer_id"])
            except APIConnectionError as error:
                raise PaymentUnavailable from error
            except StripeError:
                failed.append(user["user_id"])
                continue
            placed += billed.placed
            invoiced += billed.invoiced
        users += len(page)
        after = page[-1]["user_id"]
        progress(f"bill-overages: {users:,} users, {placed:,} items put at Stripe, {len(failed):,} failed")
    return {
        "users": users,
        "placed": placed,
        "invoiced": invoiced,
        "failed": len(failed),
        "failed_ids": failed[:PAGE],
    }
