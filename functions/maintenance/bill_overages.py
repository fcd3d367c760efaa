"""bill-overages: puts on invoices what events missed.

What Stripe refuses for one user is counted and does not keep the others waiting. Killed anywhere and started again it
goes on with what is left.
"""

from collections.abc import Callable
from typing import Any

from stripe import APIConnectionError, StripeClient, StripeError

from functions.common.billing.overage import bill_overage
from functions.common.database import Database
from functions.common.errors import PaymentUnavailable

PAGE = 100
PAGE_S = 30.0


async def bill_overages(database: Database, stripe: StripeClient, progress: Callable[[str], None]) -> dict[str, Any]:
    """Returns `{"users", "placed", "invoiced", "failed", "failed_ids"}`: users with something to bill, items put at
    Stripe, items that now stand on an invoice, users whom Stripe refused, and the first hundred of their ids.

    Raises Unavailable where the database, PaymentUnavailable where Stripe is out of reach; what was billed stays so.
    """
    users = placed = invoiced = 0
    failed: list[str] = []
    after: str | None = None
    while True:
        params = {"p_after": after, "p_limit": PAGE}
        page = await database.call("users_to_bill", params, timeout_s=PAGE_S, idempotent=True)
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
    counts = {"users": users, "placed": placed, "invoiced": invoiced, "failed": len(failed)}
    return {**counts, "failed_ids": failed[:PAGE]}
