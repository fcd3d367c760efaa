"""What SQL does alone, a batch at a time: reset-monthly-overages, cleanup-expired-conversations, release-stale-holds,
expire-credits, purge-events.

Each batch is one short transaction. After it the job rests for four times as long as the batch took, so that the
database stays with those who chat (bench/cleanup.py has what it costs them). Killed anywhere and started again, it goes
on with what is left.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from functions.common.database import Database

BATCH_S = 30.0
# Below the function's own time (serverless.yml). What is left waits for the next run.
RUN_S = 600.0
TELL_EVERY_S = 1.0
RESTS = 4  # batches' lengths


Rest = Callable[[float], Awaitable[None]]  # seconds


async def run_batches(
    database: Database, function: str, things: str, progress: Callable[[str], None], rest: Rest = asyncio.sleep
) -> dict[str, int]:
    """Call a SQL function until it returns 0, for at most RUN_S. Returns `{things: how many, "unfinished": 0 or 1}`.

    Raises Unavailable where the database is out of reach; what was done stays so.
    """
    done = 0
    began = told = time.monotonic()
    while True:
        started = time.monotonic()
        batch = await database.call(function, timeout_s=BATCH_S, idempotent=True)
        ended = time.monotonic()
        done += batch
        if not batch or ended - began > RUN_S:
            return {things: done, "unfinished": int(bool(batch))}
        if ended - told >= TELL_EVERY_S:
            progress(f"{function.replace('_', '-')}: {done:,} {things}")
            told = ended
        await rest(RESTS * (ended - started))
