"""Admits one caller per event-loop iteration, so that a burst cannot block other streams."""

import asyncio


class Turnstile:
    """Create one per event loop. Await `enter()` before work that takes a millisecond or two, such as building a
    request: two hundred callers at once would otherwise do all of it in one iteration.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def enter(self) -> None:
        """Wait for the next iteration that admits this caller. A single caller waits for one iteration."""
        async with self._lock:
            await asyncio.sleep(0)
