"""The output of one turn. Any number of readers: each gets it from the start, then live.

A turn does not notice its readers. On Lambda a client that leaves is not noticed either, so the answer is finished and
stored for when the browser comes back.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from functions.chat import limits, wire
from functions.common.errors import AppError, TooManyFollowers
from functions.common.language import Language


class Feed:
    """A growing stream of bytes, and in the end the whole answer."""

    def __init__(self, language: Language = "en") -> None:
        """`language`: of the sentences about errors."""
        loop = asyncio.get_running_loop()
        self._language = language
        self._chunks: list[bytes] = []
        self._promised = False
        self._followers = 0
        self._waiting: set[asyncio.Future[bool]] = set()  # of the readers that have read everything
        self._opened: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[wire.WholeAnswer] = loop.create_future()
        # Retrieve the exceptions, so that asyncio does not warn about a turn that has no reader.
        for future in (self._opened, self._answer):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def write(self, chunk: bytes) -> None:
        """Append a chunk. The first one opens the feed."""
        self._chunks.append(chunk)
        if not self._opened.done():
            self._opened.set_result(None)
        self._wake_readers()

    def close(self, answer: wire.WholeAnswer) -> None:
        """End the feed with the whole answer."""
        self._answer.set_result(answer)
        self._wake_readers()

    def fail(self, error: BaseException) -> None:
        """End the feed without an answer."""
        if not self._opened.done():
            self._opened.set_exception(error)
        self._answer.set_exception(error)
        self._wake_readers()

    @property
    def is_streaming(self) -> bool:
        """Whether a stream was started or promised to a client: an error then becomes a part of it."""
        return bool(self._chunks) or self._promised

    @property
    def lacks_end(self) -> bool:
        """Whether the stream has begun and its last event is missing."""
        return bool(self._chunks) and not self._chunks[-1].endswith(wire.DONE)

    def text_since(self, chunk: int) -> tuple[str, int]:
        """The text from the chunk of that index on, and the number of chunks now."""
        return b"".join(self._chunks[chunk:]).decode(), len(self._chunks)

    async def opened(self) -> None:
        """Wait for the first chunk. Raises the turn's error where it fails before."""
        await asyncio.shield(self._opened)

    async def opened_within(self, seconds: float) -> None:
        """Wait for the first chunk, or promise a stream after `seconds`. Raises the turn's error."""
        try:
            async with asyncio.timeout(seconds):
                await self.opened()
        except TimeoutError:
            self._promised = True

    async def answer(self) -> wire.WholeAnswer:
        """Wait for the whole answer. Raises the turn's error."""
        return await asyncio.shield(self._answer)

    async def read(self, keep_alive_s: float) -> AsyncGenerator[bytes, None]:
        """All chunks so far, then new ones; a comment line after each `keep_alive_s` without one."""
        position = 0
        if self._promised and not self._chunks:
            yield wire.KEEP_ALIVE  # On Lambda a response without a byte hangs.
        while True:
            if position < len(self._chunks):
                chunks = self._chunks[position:]
                position += len(chunks)
                yield b"".join(chunks)
            elif self._answer.done():
                error = None if position or self._answer.cancelled() else self._answer.exception()
                if isinstance(error, AppError):
                    yield wire.refusal(error, self._language)  # after a stream was promised
                return
            elif not await self._changes_within(keep_alive_s):
                yield wire.KEEP_ALIVE

    def follow(self, keep_alive_s: float) -> AsyncIterator[bytes]:
        """`read` for a client that resumes the answer. Raises TooManyFollowers."""
        if self._followers >= limits.FOLLOWERS:
            raise TooManyFollowers
        return self._follow(keep_alive_s)

    async def _follow(self, keep_alive_s: float) -> AsyncIterator[bytes]:
        if self._followers >= limits.FOLLOWERS:  # more clients than that were let in before any of them read
            yield wire.refusal(TooManyFollowers(), self._language)
            return
        self._followers += 1
        try:
            async with aclosing(self.read(keep_alive_s)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._followers -= 1

    async def _changes_within(self, seconds: float) -> bool:
        """Wait for the next change. Returns whether it came in time.

        Every reader waits here for every delta. A future and a timer cost less than an event and a timeout.
        """
        loop = asyncio.get_running_loop()
        changed: asyncio.Future[bool] = loop.create_future()
        self._waiting.add(changed)
        timer = loop.call_later(seconds, _resolve, changed, False)
        try:
            return await changed
        finally:
            timer.cancel()
            self._waiting.discard(changed)

    def _wake_readers(self) -> None:
        for reader in self._waiting:
            _resolve(reader, True)


def _resolve(reader: "asyncio.Future[bool]", changed: bool) -> None:
    if not reader.done():
        reader.set_result(changed)
