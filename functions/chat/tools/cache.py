"""What was read lately, kept in memory for a while: bounded in entries and in bytes, least recently used goes first."""

import time
from collections import OrderedDict
from collections.abc import Callable


class Cache:
    """Bodies by address. Raw bytes, so that the bound is true and nobody can change what others will read."""

    def __init__(self, entries: int, size: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._entries = entries
        self._size = size
        self._seconds = seconds
        self._now = now
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> bytes | None:
        """What is kept under the key, unless it is too old."""
        if key not in self._kept:
            return None
        until, body = self._kept[key]
        if self._now() >= until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return body

    def put(self, key: str, body: bytes) -> None:
        """Keep a body, and drop what there is no room for any more. One that is larger than all room is not kept."""
        self._drop(key)
        if len(key) + len(body) > self._size:
            return
        self._kept[key] = (self._now() + self._seconds, body)
        self.size += len(key) + len(body)
        while len(self._kept) > self._entries or self.size > self._size:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        if key in self._kept:
            self.size -= len(key) + len(self._kept.pop(key)[1])
