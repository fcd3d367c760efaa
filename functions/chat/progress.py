"""Resuming and stopping a turn from another process: on Lambda every request may run in another one.

Every 0.7 s a turn stores its new output in its hold, and reads there whether it has to stop. Clients that resume the
answer in another process read it from the hold. Before a turn ends its hold, it waits briefly for these readers;
without readers it refuses new ones. A turn shorter than 0.7 s stores nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from functions.chat import limits, wire
from functions.chat.feed import Feed
from functions.chat.providers import Spent
from functions.common.database import Database
from functions.common.errors import AppError, Internal
from functions.common.observe import Observer

END_NOT_RECEIVED = "The end of this answer could not be sent here. Open the conversation again to see what was stored."


class Progress:
    """Stores the output of one turn. `stop` is called when the user wants the turn to end."""

    def __init__(
        self, database: Database, observer: Observer, hold_id: str, feed: Feed, stop: Callable[[], None]
    ) -> None:
        self._database = database
        self._observer = observer
        self._hold_id = hold_id
        self._feed = feed
        self._stop = stop
        self._stored_chunks = 0
        self._stored_characters = 0
        self._has_started = False
        self._task = asyncio.create_task(self._store_repeatedly())

    async def close(self, patience_s: float) -> None:
        """Store the rest and wait for its readers, at most `patience_s`. Then only the turn's end may be written."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self._has_started:
            return  # Nothing was stored, so there are no readers.
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                followed_to = await self._store(is_closing=True)
                if followed_to is None:
                    return
                while followed_to is not None and followed_to < self._stored_characters:
                    await asyncio.sleep(limits.FOLLOW_S / 2)
                    followed_to = await self._store(is_closing=True)
                await asyncio.sleep(limits.FOLLOW_S)  # One reader has it all; each other one asks within this time.

    async def _store_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(limits.PROGRESS_S)
            await self._store()

    async def _store(self, *, is_closing: bool = False) -> int | None:
        """Store the new output. Returns how many characters another process has read; None where none reads."""
        self._has_started = True
        text, chunks = self._feed.text_since(self._stored_chunks)
        params = {
            "p_hold_id": self._hold_id,
            "p_from": self._stored_characters,
            "p_progress": text,
            "p_is_closing": is_closing,
        }
        try:
            hold = await self._database.call("note_progress", params, idempotent=True)
        except AppError as error:
            self._observer.failure("progress not noted", error, hold_id=self._hold_id)
            return None
        self._stored_chunks, self._stored_characters = chunks, self._stored_characters + len(text)
        if hold is None:
            return None
        if hold["stop_requested"]:
            self._stop()
        followed_to: int | None = hold["followed_to"]
        return followed_to


@dataclass(frozen=True, slots=True)
class Running:
    """A turn that runs. `text` is its output since the last call."""

    hold_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Over:
    """A turn that has ended."""

    outcome: str
    spent: Spent
    funding: str
    charged_usd: Decimal
    persisted: bool


async def follow(database: Database, user_id: str, chat_id: str, request_id: str) -> AsyncIterator[bytes] | None:
    """The running answer of a user's chat, from its start and then live; None where there is none."""
    state = await _follow(database, user_id, chat_id)
    while isinstance(state, Running) and not state.text:
        await asyncio.sleep(limits.FOLLOW_S)
        state = await _follow(database, user_id, chat_id, state.hold_id)
    return _relay(database, user_id, chat_id, request_id, state) if isinstance(state, Running) else None


async def _relay(
    database: Database, user_id: str, chat_id: str, request_id: str, state: Running | Over | None
) -> AsyncIterator[bytes]:
    position, silence_s = 0, 0.0
    message = wire.MessageStream("")
    try:
        while isinstance(state, Running):
            if state.text:
                message.replay(state.text)
                yield state.text.encode()
                position, silence_s = position + len(state.text), 0.0
            elif silence_s >= limits.KEEP_ALIVE_S:
                yield wire.KEEP_ALIVE
                silence_s = 0.0
            await asyncio.sleep(limits.FOLLOW_S)
            silence_s += limits.FOLLOW_S
            state = await _follow(database, user_id, chat_id, state.hold_id, position)
    except AppError as error:
        yield message.finish_step() + wire.error_without_metadata(error.sentence)
        return
    yield _ending(message, state, request_id)


def _ending(message: wire.MessageStream, over: Over | None, request_id: str) -> bytes:
    """The last events of a relayed answer. None: its process died."""
    if over is None:
        return message.finish_step() + wire.error_without_metadata(Internal.message)
    metadata = wire.metadata(
        request_id=request_id,
        spent=over.spent,
        funding=over.funding,
        charged_usd=over.charged_usd,
        persisted=over.persisted,
    )
    match over.outcome:
        case "answered" | "stopped" if not message.is_complete:
            # The turn stopped waiting for this reader. The client that asked has the whole answer; history may have it.
            return message.finish_step() + wire.error_without_metadata(END_NOT_RECEIVED)
        case "answered":
            return wire.finish("stop", metadata)
        case "stopped":
            return wire.abort(metadata)
        case _:
            return message.finish_step() + wire.error(Internal.message, metadata)


async def _follow(
    database: Database, user_id: str, chat_id: str, hold_id: str | None = None, position: int = 0
) -> Running | Over | None:
    """The state of a chat's newest turn, or of the turn of `hold_id`; None where none runs, or its process died."""
    params = {"p_user_id": user_id, "p_chat_id": chat_id, "p_hold_id": hold_id, "p_from": position}
    row: Mapping[str, Any] | None = await database.call("follow_query", params, idempotent=True)
    if not row:
        return None
    if "progress" in row:
        return Running(row["hold_id"], row["progress"])
    return Over(row["outcome"], Spent.from_row(row), row["funding"], row["charged_usd"], row["persisted"])
