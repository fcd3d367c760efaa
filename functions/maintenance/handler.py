"""The jobs by name, for Lambda's events and for the command line: `python -m functions.maintenance <job>`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load, load_vault, variables
from functions.maintenance.rotate_keys import rotate_keys

Progress = Callable[[str], None]
Job = Callable[[Database, Mapping[str, str], Progress], Awaitable[dict[str, Any]]]


async def _rotate_keys(database: Database, known: Mapping[str, str], progress: Progress) -> dict[str, Any]:
    return await rotate_keys(database, load_vault(known), progress)


async def _bill_overages(database: Database, known: Mapping[str, str], progress: Progress) -> dict[str, Any]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.bill_overages import bill_overages

    async with account(known) as stripe:
        return await bill_overages(database, stripe, progress)


async def _retry_events(database: Database, known: Mapping[str, str], progress: Progress) -> dict[str, Any]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.retry_events import retry_events

    async with account(known) as stripe:
        return await retry_events(database, stripe, datetime.now(UTC), progress)


# Stripe's SDK is imported by those jobs alone that need it.
JOBS: Mapping[str, Job] = {
    "bill-overages": _bill_overages,
    "retry-events": _retry_events,
    "rotate-keys": _rotate_keys,
}


async def run(name: str, progress: Progress) -> dict[str, Any]:
    """Run a job; returns its counts. Raises KeyError for an unknown name, SettingsError, and what the job raises."""
    job = JOBS[name]
    known = variables()
    database = Database(load(SupabaseSettings, known))
    try:
        return await job(database, known, progress)
    finally:
        await database.close()


def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """What Lambda calls, with `{"job": "<name>"}`."""
    observer = Observer("maintenance")
    name = event["job"]
    started = time.monotonic()
    try:
        counts = asyncio.run(run(name, lambda _: None))
    except Exception as error:
        observer.failure("job failed", error, job=name)
        raise
    duration_ms = round((time.monotonic() - started) * 1000, 1)
    observer.info("job", job=name, duration_ms=duration_ms, counts={k: v for k, v in counts.items() if type(v) is int})
    return counts
