"""Lets one through in each round of the event loop.

What many do at once (building a request takes a millisecond or two) would else be done for all of them in one round,
in which nobody else is heard. Who comes alone waits for nothing but the next round.
"""

import asyncio


class Turnstile:
    """One for each loop. Call it before work that takes long enough to be felt when two hundred do it together."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        async with self._lock:
            await asyncio.sleep(0)
