"""How a running turn is heard, and stopped, from another process: on Lambda every request may meet one of its own.

The turn notes what it has said in its hold, every 0.7 s, and learns there that it is to stop. Who resumes the answer
reads it from there. Before the hold ends the turn waits a moment for who is still reading; else nobody can begin to.
A turn that takes less notes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from functions.chat import limits, wire
from functions.chat.feed import Feed
from functions.common.database import Database
from functions.common.errors import AppError, Internal
from functions.common.observe import Observer

LAGGED = "The end of this answer was not heard here. Open the conversation again to see what is kept of it."


class Progress:
    """What one turn tells of itself. `stop` is called when the user wants it to end."""

    def __init__(
        self, database: Database, observer: Observer, hold_id: str, feed: Feed, stop: Callable[[], None]
    ) -> None:
        self._database = database
        self._observer = observer
        self._hold_id = hold_id
        self._feed = feed
        self._stop = stop
        self._noted_chunks = 0
        self._noted = 0  # characters
        self._has_begun = False
        self._telling = asyncio.create_task(self._tell())

    async def close(self, patience_s: float) -> None:
        """Note the rest, and wait a moment for who reads it. Nothing may be said after this but the ending."""
        self._telling.cancel()
        await asyncio.gather(self._telling, return_exceptions=True)
        if not self._has_begun:
            return  # there was nothing to read
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                followed_to = await self._note(is_closing=True)
                if followed_to is None:
                    return
                while followed_to is not None and followed_to < self._noted:
                    await asyncio.sleep(limits.FOLLOW_S / 2)
                    followed_to = await self._note(is_closing=True)
                await asyncio.sleep(limits.FOLLOW_S)  # one has read it; others may, and look as often

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(limits.PROGRESS_S)
            await self._note()

    async def _note(self, *, is_closing: bool = False) -> int | None:
        """Note what is new; how far another process has read."""
        self._has_begun = True
        text, chunks = self._feed.said_since(self._noted_chunks)
        params = {
            "p_hold_id": self._hold_id,
            "p_from": self._noted,
            "p_progress": text,
            "p_is_closing": is_closing,
        }
        try:
            noted = await self._database.call("note_progress", params, idempotent=True)
        except AppError as error:
            self._observer.failure("progress not noted", error, hold_id=self._hold_id)
            return None
        self._noted_chunks, self._noted = chunks, self._noted + len(text)
        if noted is None:
            return None
        if noted["stop_requested"]:
            self._stop()
        followed_to: int | None = noted["followed_to"]
        return followed_to


async def follow(database: Database, user_id: str, chat_id: str, request_id: str) -> AsyncIterator[bytes] | None:
    """The running answer of a user's chat, from its start and then live; None where there is none."""
    followed = await _ask(database, user_id, chat_id)
    while followed and followed.get("progress") == "":
        await asyncio.sleep(limits.FOLLOW_S)
        followed = await _ask(database, user_id, chat_id, followed["hold_id"])
    if not followed or "progress" not in followed:
        return None
    return _relay(database, user_id, chat_id, request_id, followed)


async def _relay(
    database: Database, user_id: str, chat_id: str, request_id: str, followed: dict[str, Any] | None
) -> AsyncIterator[bytes]:
    heard, silent = 0, 0.0
    message = wire.MessageStream("")
    try:
        while followed and "progress" in followed:
            if text := followed["progress"]:
                message.overhear(text)
                yield text.encode()
                heard, silent = heard + len(text), 0.0
            elif silent >= limits.KEEP_ALIVE_S:
                yield wire.KEEP_ALIVE
                silent = 0.0
            await asyncio.sleep(limits.FOLLOW_S)
            silent += limits.FOLLOW_S
            followed = await _ask(database, user_id, chat_id, followed["hold_id"], heard)
    except AppError as error:
        yield message.finish_step() + wire.broken_off(error.sentence)
        return
    yield _ending(message, followed, request_id)


def _ending(message: wire.MessageStream, ended: dict[str, Any] | None, request_id: str) -> bytes:
    """The last events of an answer whose query has ended that way."""
    if ended is None:
        return message.finish_step() + wire.broken_off(Internal.message)
    known = wire.metadata(request_id=request_id, **{name: ended[name] for name in wire.KNOWN_AFTERWARDS})
    match ended["outcome"]:
        case "answered" | "stopped" if not message.is_complete:
            # It waited as long as it may. The whole answer is with whoever asked, and where history is kept.
            return message.finish_step() + wire.broken_off(LAGGED)
        case "answered":
            return wire.finish("stop", known)
        case "stopped":
            return wire.abort(known)
        case _:
            return message.finish_step() + wire.error(Internal.message, known)


async def _ask(
    database: Database, user_id: str, chat_id: str, hold_id: str | None = None, heard: int = 0
) -> dict[str, Any] | None:
    params = {"p_user_id": user_id, "p_chat_id": chat_id, "p_hold_id": hold_id, "p_from": heard}
    followed: dict[str, Any] | None = await database.call("follow_query", params, idempotent=True)
    return followed
