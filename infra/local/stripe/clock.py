"""The stand-in's clock, in whole seconds since 1970 (UTC), and its agenda of scheduled actions.

The clock follows real time, or is frozen at a given start. Both can be moved forward: each scheduled action then runs
in order, at its own time, and its webhooks are delivered before the next action. An agenda entry is plain data (time,
name of the action, id of the object), so that it can be saved in a file.
"""

import asyncio
import calendar
import heapq
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

HOUR, DAY = 3600, 86400
MAX_STEPS = 100_000  # actions per move, so that a mistyped century cannot hang the stack

Agenda = list[tuple[int, int, str, str]]


class Clock:
    """Frozen at `start`; without one it follows real time."""

    def __init__(self, start: int | None = None) -> None:
        self.frozen = start is not None
        self._frozen_at = start
        self._ahead = 0
        self.agenda: Agenda = []
        self._count = 0
        self._moving = asyncio.Lock()

    @property
    def now(self) -> int:
        return self._frozen_at if self._frozen_at is not None else int(time.time()) + self._ahead

    def schedule(self, at: int, action: str, object_id: str) -> None:
        """Run the action at that time. Actions of the same second run in the order in which they were scheduled."""
        self._count += 1
        heapq.heappush(self.agenda, (at, self._count, action, object_id))

    async def advance(
        self, target: int, run: Callable[[str, str], None], wait_for_webhooks: Callable[[], Awaitable[None]]
    ) -> None:
        """Move forward to `target`, running what is scheduled until then. Never moves back."""
        async with self._moving:
            ahead = target - int(time.time())
            await wait_for_webhooks()
            for _ in range(MAX_STEPS):
                if not self.agenda or self.agenda[0][0] > target:
                    break
                at, _, action, object_id = heapq.heappop(self.agenda)
                self._frozen_at = max(at, self.now)
                run(action, object_id)
                await wait_for_webhooks()
            self._frozen_at = max(target, self.now) if self.frozen else None
            self._ahead = max(self._ahead, ahead)

    def reset(self, start: int | None) -> None:
        """Go back to the start and clear the agenda."""
        self._frozen_at, self._ahead = start, 0
        self.agenda.clear()

    def dump(self) -> dict[str, object]:
        return {"ahead": self.now - int(time.time()), "agenda": self.agenda, "count": self._count}

    def restore(self, saved: dict[str, object]) -> None:
        """Continue from a saved clock. Time that passed since then counts: its actions are overdue and run."""
        self._ahead, self._count = int(str(saved["ahead"])), int(str(saved["count"]))
        self.agenda = [(at, number, action, name) for at, number, action, name in saved["agenda"]]  # type: ignore[attr-defined]
        heapq.heapify(self.agenda)


def add_interval(anchor: int, interval: str, count: int) -> int:
    """The time `count` days, weeks, months or years after the anchor. A day missing in a month becomes its last day."""
    if interval in ("day", "week"):
        return anchor + count * DAY * (7 if interval == "week" else 1)
    start = datetime.fromtimestamp(anchor, UTC)
    months = start.month - 1 + count * (12 if interval == "year" else 1)
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def next_period_end(anchor: int, interval: str, count: int, start: int) -> int:
    """The end of the first period, counted from the anchor, that ends after `start`."""
    number = 1
    while (end := add_interval(anchor, interval, count * number)) <= start:
        number += 1
    return end
