"""The jobs that are one SQL function, called batch by batch: reset-monthly-overages, cleanup-expired-conversations,
release-stale-holds, expire-credits, purge-events, apply-pending-turns.

Each batch is one short transaction. After it the job rests four times as long as the batch took, so that chats keep
most of the database's time (bench/cleanup.py measures the cost for them). A job that was killed continues with the
rows that are left.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from functions.common import results
from functions.common.database import Database

BATCH_TIMEOUT_S = 30.0
# Shorter than the function's own time limit (serverless.yml). The next run continues.
RUN_S = 600.0
PROGRESS_EVERY_S = 1.0
REST_FACTOR = 4  # times the duration of the batch


Rest = Callable[[float], Awaitable[None]]  # seconds


async def run_batches(
    database: Database, function: str, noun: str, progress: Callable[[str], None], rest: Rest = asyncio.sleep
) -> dict[str, int]:
    """Call a SQL function until it returns 0, for at most RUN_S. Returns `{noun: count, "unfinished": 0 or 1}`.

    Raises Unavailable where the database is out of reach; finished batches stay committed.
    """
    total = 0
    run_started = reported = time.monotonic()
    while True:
        started = time.monotonic()
        count = await database.call(function, timeout_s=BATCH_TIMEOUT_S, parse=results.number)
        ended = time.monotonic()
        total += count
        if not count or ended - run_started > RUN_S:
            return {noun: total, "unfinished": int(bool(count))}
        if ended - reported >= PROGRESS_EVERY_S:
            progress(f"{function.replace('_', '-')}: {total:,} {noun}")
            reported = ended
        await rest(REST_FACTOR * (ended - started))
