"""The clocks of the local stack: the database's private.clock() and the one of the Stripe stand-in.

Both are moved forward together, a day at a time, and the maintenance jobs run after each day, as the schedules would
run them. The database keeps its offset in its own copy of private.clock(), the stand-in in its state, so both survive a
restart. Everything else keeps the real time: tokens of Auth, signatures of webhooks, timestamps of rows, and the
functions, whose Retry-After header is too long by the offset. `resets_at` is right.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from infra.local.billing import StandIn

DAY_S = 86_400
MAX_DAYS = 366  # a move of a year takes a minute
TOLERANCE_S = 5  # between the clocks: the stand-in's has whole seconds, and reading them takes a moment
# In the order of a day. Imports and reports are left out: they do not depend on the clock.
DAILY_JOBS = (
    "release-stale-holds",
    "apply-pending-turns",
    "expire-credits",
    "reset-monthly-overages",
    "bill-overages",
    "bill-thresholds",
    "cleanup-expired-conversations",
)
LAST_JOBS = ("retry-events", "purge-events", "reconcile")  # once, after the last day

CLOCK = """
create or replace function private.clock() returns timestamptz
language plpgsql volatile set search_path = ''
as $$
begin
  -- Moved by the local stack.
  return coalesce(
    nullif(current_setting('metering.now', true), '')::timestamptz, clock_timestamp() + interval {offset}
  );
end
$$
"""


class JobFailed(Exception):
    """A job failed after the clocks had moved. The sentence names it."""


def database_offset(db_url: str) -> int:
    """By how many seconds the database's clock is ahead of the real time."""
    with psycopg.connect(db_url) as database:
        row = database.execute("select round(extract(epoch from private.clock() - clock_timestamp()))").fetchone()
    assert row is not None
    return int(row[0])


def set_database_offset(db_url: str, seconds: int) -> None:
    """Replace the database's clock by one that is ahead by so many seconds."""
    with psycopg.connect(db_url) as database:
        database.execute(sql.SQL(CLOCK).format(offset=sql.Literal(f"{seconds} seconds")))


def stripe_offset(stand_in: StandIn) -> int:
    """By how many seconds the stand-in's clock is ahead of the real time."""
    clock = stand_in.get("/_clock")
    assert clock is not None
    return int(clock["now"]) - int(time.time())


def align(db_url: str, stand_in: StandIn) -> None:
    """Moves the clock that is behind to the other: one was moved alone, or a move was interrupted between them."""
    database, stripe = database_offset(db_url), stripe_offset(stand_in)
    if database < stripe - TOLERANCE_S:
        set_database_offset(db_url, stripe)
    elif stripe < database - TOLERANCE_S:
        stand_in.control("/_clock", to=int(time.time()) + database)


@dataclass(slots=True)
class Clocks:
    """Both clocks of a running stack. `moved_days` counts the days of a move that is under way."""

    db_url: str
    stand_in: StandIn
    moved_days: int = 0
    days: int = 0
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def show(self) -> dict[str, Any]:
        """The time, how far it is ahead, and the progress of a move."""
        offset = await asyncio.to_thread(database_offset, self.db_url)
        moving = {"day": self.moved_days, "days": self.days} if self.moving.locked() else None
        return {
            "now": (datetime.now(UTC) + timedelta(seconds=offset)).isoformat(),
            "offset_s": offset,
            "moving": moving,
        }

    async def move(self, days: int) -> Mapping[str, Mapping[str, int]]:
        """Moves both clocks by days and runs the jobs. Returns the counts of each job. Raises JobFailed."""
        async with self.moving:
            self.days, self.moved_days = days, 0
            await asyncio.to_thread(align, self.db_url, self.stand_in)  # Stripe's has a button of its own
            offset = await asyncio.to_thread(database_offset, self.db_url)
            counts: dict[str, Counter[str]] = {}
            for self.moved_days in range(1, days + 1):
                offset += DAY_S
                await asyncio.to_thread(set_database_offset, self.db_url, offset)
                # Answers when the webhooks of what happened meanwhile have been delivered, to this process.
                await asyncio.to_thread(self.stand_in.control, "/_clock", to=int(time.time()) + offset)
                jobs = DAILY_JOBS if self.moved_days < days else DAILY_JOBS + LAST_JOBS
                for job in jobs:
                    counts.setdefault(job, Counter()).update(await self._run(job, offset))
            return counts

    async def _run(self, job: str, offset: int) -> dict[str, int]:
        from functions.maintenance.handler import run_job  # only a move of the clocks needs the jobs

        now = datetime.now(UTC) + timedelta(seconds=offset)
        try:
            result = await run_job(job, lambda _: None, {}, now=now)
        except Exception as error:  # whatever a job raises is shown to the person who moved the clocks
            raise JobFailed(
                f"The clocks moved {self.moved_days} of {self.days} days. Then {job} failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        return {name: count for name, count in result.counts.items() if type(count) is int}
