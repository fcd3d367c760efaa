"""What one turn has said so far. Readers come and go: each hears it from its start, then live.

The turn runs by itself and does not notice its readers, as on Lambda, where a client that leaves is not noticed
either: the answer is finished and kept for when the browser comes back.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from functions.chat import wire
from functions.common.errors import AppError


class Feed:
    """A growing stream of bytes and, in the end, the whole answer."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._chunks: list[bytes] = []
        self._promised = False
        self._news = asyncio.Event()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[dict[str, Any]] = loop.create_future()
        # Nobody has to wait for either: a turn whose reader left is no unhandled failure.
        for future in (self._opened, self._answer):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def write(self, chunk: bytes) -> None:
        """Say something; the first word opens the feed."""
        self._chunks.append(chunk)
        if not self._opened.done():
            self._opened.set_result(None)
        self._tell()

    def close(self, answer: dict[str, Any]) -> None:
        """The turn ended with this answer."""
        self._answer.set_result(answer)
        self._tell()

    def fail(self, error: BaseException) -> None:
        """The turn ended without an answer."""
        if not self._opened.done():
            self._opened.set_exception(error)
        self._answer.set_exception(error)
        self._tell()

    @property
    def is_promised(self) -> bool:
        """Whether somebody hears, or has been promised, a stream: then what goes wrong is told in it."""
        return bool(self._chunks) or self._promised

    def said_since(self, chunk: int) -> tuple[str, int]:
        """What has been said from a chunk on, and how many chunks there are by now."""
        return b"".join(self._chunks[chunk:]).decode(), len(self._chunks)

    async def opened(self) -> None:
        """Wait for the first word. Raises the turn's error if there never is one."""
        await asyncio.shield(self._opened)

    async def opened_within(self, seconds: float) -> None:
        """Wait for the first word; after so long, promise a stream in which it will come. Raises the turn's error."""
        try:
            async with asyncio.timeout(seconds):
                await self.opened()
        except TimeoutError:
            self._promised = True

    async def answer(self) -> dict[str, Any]:
        """Wait for the whole answer. Raises the turn's error."""
        return await asyncio.shield(self._answer)

    async def read(self, keep_alive_s: float) -> AsyncIterator[bytes]:
        """Everything said so far, then what follows; a comment line after each `keep_alive_s` of silence."""
        heard = 0
        if self._promised and not self._chunks:
            yield wire.KEEP_ALIVE  # on Lambda a response without a byte hangs
        while True:
            news = self._news
            if heard < len(self._chunks):
                chunks = self._chunks[heard:]
                heard += len(chunks)
                yield b"".join(chunks)
            elif self._answer.done():
                error = None if heard or self._answer.cancelled() else self._answer.exception()
                if isinstance(error, AppError):
                    yield wire.broken_off(error.sentence)  # refused after a stream was promised
                return
            else:
                try:
                    async with asyncio.timeout(keep_alive_s):
                        await news.wait()
                except TimeoutError:
                    yield wire.KEEP_ALIVE

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
