"""bill-overages: bills the overage that no event billed. bill-thresholds: invoices what reached a threshold.

If Stripe refuses one user, the user is counted and the others are still billed. A job that was killed continues with
what is left.
"""

from collections.abc import Callable
from typing import TypedDict

from stripe import APIConnectionError, StripeClient, StripeError

from functions.common import results
from functions.common.billing.events import apply_customer
from functions.common.billing.overage import BillingResult, bill_overage, settle_overage
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


async def bill_overages(
    database: Database, stripe: StripeClient, progress: Callable[[str], None], *, at_threshold: bool = False
) -> BillingCounts:
    """Bill the ended periods of every user who owes overage. `at_threshold`: instead, every user who owes as much as
    the threshold of their plan or their limit allows, at once.

    Raises Unavailable where the database, PaymentUnavailable where Stripe is out of reach; what was billed stays so.
    """
    users = placed = invoiced = 0
    failed: list[str] = []
    after: str | None = None
    while True:
        params = {"p_after": after, "p_limit": PAGE}
        function = "users_at_threshold" if at_threshold else "users_to_bill"
        page = await database.call(function, params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("user_id"))
        if not page:
            break
        for user in page:
            try:
                billed = await _bill(
                    database, stripe, user["user_id"], user["stripe_customer_id"], at_once=at_threshold
                )
            except APIConnectionError as error:
                raise PaymentUnavailable from error
            except StripeError:
                failed.append(user["user_id"])
                continue
            placed += billed.placed
            invoiced += billed.invoiced
        users += len(page)
        after = page[-1]["user_id"]
        progress(f"{function}: {users:,} users, {placed:,} items put at Stripe, {len(failed):,} failed")
    return {
        "users": users,
        "placed": placed,
        "invoiced": invoiced,
        "failed": len(failed),
        "failed_ids": failed[:PAGE],
    }


async def _bill(
    database: Database, stripe: StripeClient, user_id: str, customer_id: str, *, at_once: bool
) -> BillingResult:
    """Bill one user. What became of the invoice is stored now: its events may be late."""
    billed = await bill_overage(database, stripe, user_id, customer_id, at_once=at_once)
    if billed.invoiced:
        sequence = await database.call("next_stripe_sequence", parse=results.number)
        await apply_customer(database, stripe, customer_id, sequence)
        await settle_overage(database, stripe, user_id, sequence)
    return billed
