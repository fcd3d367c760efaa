"""retry-events: processes events again after a failed delivery.

These are the events that we recorded and did not finish, and those of the last days that Stripe could not deliver.
Processing an event again is harmless.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TypedDict, cast

from stripe import Event, InvalidRequestError, StripeClient, StripeError

from functions.common import results
from functions.common.billing.catalog import portal_configuration
from functions.common.billing.events import HANDLED_EVENTS, StripeEvent, give_up, process_event
from functions.common.billing.stripe_client import is_missing
from functions.common.database import Database
from functions.common.errors import AppError, PaymentUnavailable

PAGE = 100
TYPES_PER_REQUEST = 20  # Stripe refuses more: https://docs.stripe.com/api/events/list#list_events-types
STRIPE_RETRIES_S = 3 * 86400  # how long Stripe repeats a delivery


class RetryCounts(TypedDict):
    """`events` found, `processed` now, `failed` again. `gone`: Stripe no longer stores the event, or has no such
    customer or payment; it is not tried again."""

    events: int
    processed: int
    failed: int
    gone: int


async def retry_events(
    database: Database, stripe: StripeClient, now: datetime, progress: Callable[[str], None]
) -> RetryCounts:
    """Process every unfinished event. Raises Unavailable where the database, PaymentUnavailable where Stripe is out of
    reach."""
    counts = RetryCounts(events=0, processed=0, failed=0, gone=0)
    since = int(now.timestamp()) - STRIPE_RETRIES_S
    try:
        await _retry_recorded(database, stripe, counts, progress)
        await _retry_undelivered(database, stripe, since, counts, progress)
    except StripeError as error:
        raise PaymentUnavailable from error
    progress(_progress(counts))
    return counts


async def _retry_recorded(
    database: Database, stripe: StripeClient, counts: RetryCounts, progress: Callable[[str], None]
) -> None:
    after: str | None = None
    while True:
        params = {"p_after": after, "p_limit": PAGE}
        page = await database.call("unfinished_stripe_events", params, parse=results.records("event_id"))
        if not page:
            return
        for row in page:
            try:
                event = await stripe.v1.events.retrieve_async(row["event_id"])
            except InvalidRequestError as error:
                if not is_missing(error):
                    raise
                if await portal_configuration(stripe) is None:
                    progress("retry-events: STRIPE_SECRET_KEY is of an account without our catalogue")
                    counts["failed"] += 1
                    continue
                await give_up(database, row["event_id"])
                counts["gone"] += 1
                continue
            await _retry(database, stripe, event, counts, progress)
        after = page[-1]["id"]
        progress(_progress(counts))


async def _retry_undelivered(
    database: Database, stripe: StripeClient, since: int, counts: RetryCounts, progress: Callable[[str], None]
) -> None:
    types = sorted(HANDLED_EVENTS)
    for at in range(0, len(types), TYPES_PER_REQUEST):
        some = types[at : at + TYPES_PER_REQUEST]
        listed = await stripe.v1.events.list_async(
            {"delivery_success": False, "created": {"gte": since}, "types": some, "limit": PAGE}
        )
        async for event in listed.auto_paging_iter():
            await _retry(database, stripe, event, counts, progress)


async def _retry(
    database: Database, stripe: StripeClient, event: Event, counts: RetryCounts, progress: Callable[[str], None]
) -> None:
    def report_orphan(event_id: str) -> None:
        progress(f"retry-events: {event_id} is a payment without a user: refund it")

    counts["events"] += 1
    try:
        outcome = await process_event(database, stripe, cast("StripeEvent", event.to_dict()), report_orphan)
        counts["processed"] += outcome == "processed"
        counts["gone"] += outcome == "ignored"
    except Exception as error:  # noqa: BLE001 -- process_event recorded it, and it must not stop the other events
        counts["failed"] += 1
        if not isinstance(error, AppError):
            progress(f"retry-events: {event.id} failed with {type(error).__name__}")


def _progress(counts: RetryCounts) -> str:
    return f"retry-events: {counts['processed']:,} of {counts['events']:,} processed"
