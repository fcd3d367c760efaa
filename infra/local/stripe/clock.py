"""The fake's own time, in whole seconds since 1970 (UTC), and what is due when.

It runs with the real clock, or stands still where it was given a start, and either way can be moved forward: then
everything that falls due happens in order, each at its own time, and webhooks are delivered before the next. What is
due is data (a time, an action's name, an object's id), so that a state can be kept in a file.
"""

import asyncio
import calendar
import heapq
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

HOUR, DAY = 3600, 86400
MAX_STEPS = 100_000  # of one move: a mistyped century must not hang the stack

Agenda = list[tuple[int, int, str, str]]


class Clock:
    """`start` freezes it there."""

    def __init__(self, start: int | None = None) -> None:
        self.frozen = start is not None
        self._at = start
        self._ahead = 0
        self.agenda: Agenda = []
        self._count = 0
        self._moving = asyncio.Lock()

    @property
    def now(self) -> int:
        return self._at if self._at is not None else int(time.time()) + self._ahead

    def due(self, at: int, action: str, object_id: str) -> None:
        """Let it happen at that time: things of one second in the order in which they were asked for."""
        self._count += 1
        heapq.heappush(self.agenda, (at, self._count, action, object_id))

    async def move(self, to: int, run: Callable[[str, str], None], settled: Callable[[], Awaitable[None]]) -> None:
        """Go to that time, never back. `settled` waits until everybody has heard of what happened."""
        async with self._moving:
            ahead = to - int(time.time())
            await settled()
            for _ in range(MAX_STEPS):
                if not self.agenda or self.agenda[0][0] > to:
                    break
                at, _, action, object_id = heapq.heappop(self.agenda)
                self._at = max(at, self.now)
                run(action, object_id)
                await settled()
            self._at = max(to, self.now) if self.frozen else None
            self._ahead = max(self._ahead, ahead)

    def reset(self, start: int | None) -> None:
        """Back to the beginning, with nothing due."""
        self._at, self._ahead = start, 0
        self.agenda.clear()

    def keep(self) -> dict[str, object]:
        return {"ahead": self.now - int(time.time()), "agenda": self.agenda, "count": self._count}

    def restore(self, kept: dict[str, object]) -> None:
        """Goes on from there: a fake that was off for a day finds a day's work."""
        self._ahead, self._count = int(str(kept["ahead"])), int(str(kept["count"]))
        self.agenda = [(at, number, action, name) for at, number, action, name in kept["agenda"]]  # type: ignore[attr-defined]
        heapq.heapify(self.agenda)


def add_interval(anchor: int, interval: str, count: int) -> int:
    """The time `count` days, weeks, months or years after the anchor; a day that a month lacks becomes its last."""
    if interval in ("day", "week"):
        return anchor + count * DAY * (7 if interval == "week" else 1)
    start = datetime.fromtimestamp(anchor, UTC)
    months = start.month - 1 + count * (12 if interval == "year" else 1)
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def next_period_end(anchor: int, interval: str, count: int, start: int) -> int:
    """The first end after `start` of the periods that the anchor begins."""
    number = 1
    while (end := add_interval(anchor, interval, count * number)) <= start:
        number += 1
    return end
