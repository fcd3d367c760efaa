"""retry-events: deals with the events whose delivery failed or never came.

Those that we noted and did not finish, and those of the last days that Stripe could not deliver. Either is harmless
where it has been dealt with meanwhile.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from stripe import InvalidRequestError, StripeClient, StripeError

from functions.common.billing.events import USED, deal_with
from functions.common.database import Database
from functions.common.errors import AppError, PaymentUnavailable

PAGE = 100
UNDELIVERED_S = 3 * 86400  # how long Stripe itself goes on trying


async def retry_events(
    database: Database, stripe: StripeClient, now: datetime, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Returns `{"events", "processed", "failed", "gone"}`: how many were met, dealt with, failed again, and are no
    longer kept by Stripe. Raises Unavailable where the database, PaymentUnavailable where Stripe is out of reach."""
    try:
        return await _retry(database, stripe, int(now.timestamp()) - UNDELIVERED_S, progress)
    except StripeError as error:
        raise PaymentUnavailable from error


async def _retry(
    database: Database, stripe: StripeClient, since: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    counts = {"events": 0, "processed": 0, "failed": 0, "gone": 0}

    async def retry(event: Mapping[str, Any]) -> None:
        counts["events"] += 1
        try:
            counts["processed"] += await deal_with(database, stripe, event)
        except AppError:
            counts["failed"] += 1  # noted with the event

    after: str | None = None
    while True:
        params = {"p_after": after, "p_limit": PAGE}
        page = await database.call("unfinished_stripe_events", params, idempotent=True)
        if not page:
            break
        for noted in page:
            try:
                event = await stripe.v1.events.retrieve_async(noted["event_id"])
            except InvalidRequestError:
                counts["gone"] += 1
                continue
            await retry(event.to_dict())
        after = page[-1]["id"]
        progress(f"retry-events: {counts['processed']:,} of {counts['events']:,} dealt with")

    missed = await stripe.v1.events.list_async(
        {"delivery_success": False, "created": {"gte": since}, "types": sorted(USED), "limit": PAGE}
    )
    async for event in missed.auto_paging_iter():
        await retry(event.to_dict())
    progress(f"retry-events: {counts['processed']:,} of {counts['events']:,} dealt with")
    return counts
