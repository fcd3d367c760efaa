"""Resuming and stopping a turn from another process: on Lambda every request may run in another one.

A process stores the new output of its running turns in their holds, with one call for all of them, and reads there
which of them have to stop: every two seconds, and every half second for turns that another process reads. Clients that
resume an answer in another process read it from the hold. Before a turn ends its hold, it waits briefly for these
readers; without readers it refuses new ones. A turn shorter than a second and a half stores nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypedDict

from functions.chat import limits, wire
from functions.chat.feed import Feed
from functions.chat.providers import Spent
from functions.common.database import Database
from functions.common.errors import AppError, ProviderError, TooManyFollowers, Unavailable
from functions.common.ids import time_ordered_id
from functions.common.language import Language
from functions.common.observe import Observer


class TurnProgress:
    """The output of one turn, stored in its hold. `stop` is called when the user wants the turn to end."""

    def __init__(self, writer: "ProgressWriter", hold_id: str, feed: Feed, stop: Callable[[], None]) -> None:
        self.hold_id = hold_id
        self._writer = writer
        self._feed = feed
        self._stop = stop
        self._stored_chunks = 0
        self._stored_characters = 0
        self._followed_to: int | None = None
        self._has_started = False
        self._due_at = writer.now() + limits.PROGRESS_S
        writer.turns.add(self)

    def is_due(self, now: float) -> bool:
        """Whether the next call stores this turn: always while another process reads it."""
        return now >= self._due_at or self._followed_to is not None

    def note(self) -> tuple["Note", int]:
        """The output that is not stored yet, and the number of chunks with it."""
        self._has_started = True
        text, chunks = self._feed.text_since(self._stored_chunks)
        return {"hold_id": self.hold_id, "position": self._stored_characters, "progress": text}, chunks

    def stored(self, note: "Note", chunks: int, stop_requested: bool, followed_to: int | None) -> None:
        """The database has stored a note."""
        self._stored_chunks = chunks
        self._stored_characters = note["position"] + len(note["progress"])
        self._followed_to = followed_to
        self._due_at = self._writer.now() + limits.PROGRESS_S
        if stop_requested:
            self._stop()

    async def close(self, patience_s: float) -> None:
        """Store the rest and wait for its readers, at most `patience_s`. Then only the turn's end may be written."""
        self._writer.turns.discard(self)
        if not self._has_started:
            return  # Nothing was stored, so there are no readers.
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._writer.wait_for(self)  # An older note that arrives later would remove the rest.
                if await self._store_rest() is None:
                    return
                while self._followed_to is not None and self._followed_to < self._stored_characters:
                    await asyncio.sleep(limits.FOLLOW_S / 2)
                    await self._store_rest()
                await asyncio.sleep(limits.FOLLOW_S)  # One reader has it all; each other one asks within this time.

    async def _store_rest(self) -> int | None:
        """Returns how many characters another process has read; None where none reads."""
        if not await self._writer.store([self], is_closing=True):
            self._followed_to = None
        return self._followed_to


class Note(TypedDict):
    """New output of a running query. It replaces everything from character `position` on."""

    hold_id: str
    position: int
    progress: str


class ProgressWriter:
    """Stores the output of all running turns of this process, with one call per interval."""

    def __init__(self, database: Database, observer: Observer) -> None:
        self.turns: set[TurnProgress] = set()
        self._database = database
        self._observer = observer
        self._in_call: set[TurnProgress] = set()
        self._call_ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def now(self) -> float:
        """The event loop's time."""
        return asyncio.get_running_loop().time()

    def open(self, hold_id: str, feed: Feed, stop: Callable[[], None]) -> TurnProgress:
        """The progress of a turn that starts."""
        progress = TurnProgress(self, hold_id, feed, stop)
        if self._task is None:
            self._task = asyncio.create_task(self._write_repeatedly())
        return progress

    async def wait_for(self, turn: TurnProgress) -> None:
        """Wait for the call that stores the turn, if one does."""
        while turn in self._in_call:
            await self._call_ended.wait()

    async def close(self) -> None:
        """Stop writing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write_repeatedly(self) -> None:
        while self.turns:
            await asyncio.sleep(limits.PROGRESS_TICK_S)
            now = self.now()
            due = [turn for turn in self.turns if turn.is_due(now)]
            for start in range(0, len(due), limits.NOTES_A_CALL):
                self._in_call = self.turns.intersection(due[start : start + limits.NOTES_A_CALL])
                try:
                    await self.store(list(self._in_call))
                except Exception as error:  # noqa: BLE001 -- one bad response must not end it for all later turns
                    self._observer.failure("progress not noted", error)
                finally:
                    self._in_call = set()
                    self._call_ended.set()
                    self._call_ended = asyncio.Event()
        self._task = None

    async def store(self, turns: Sequence[TurnProgress], *, is_closing: bool = False) -> bool:
        """Store the new output of turns. Returns whether all of them were stored."""
        notes = {turn: turn.note() for turn in turns}
        params = {"p_notes": [note for note, _ in notes.values()], "p_is_closing": is_closing}
        try:
            holds = await self._database.call("note_progress", params, parse=_noted, background=True)
        except AppError as error:
            self._observer.failure("progress not noted", error)
            return False
        for turn, (note, chunks) in notes.items():
            if hold := holds.get(turn.hold_id):
                turn.stored(note, chunks, hold.stop_requested, hold.followed_to)
        return len(holds) == len(notes)


@dataclass(frozen=True, slots=True)
class Noted:
    """A hold whose output note_progress has stored."""

    stop_requested: bool
    followed_to: int | None


def _noted(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Noted]:
    return {row["hold_id"]: Noted(row["stop_requested"], row["followed_to"]) for row in rows}


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
    finish_reason: wire.Ending | None


@dataclass(frozen=True, slots=True)
class Follower:
    """A client that reads a user's chat. `id` identifies it in follow_query."""

    database: Database
    user_id: str
    chat_id: str
    request_id: str
    language: Language
    id: str = field(default_factory=time_ordered_id)

    async def state(self, hold_id: str | None = None, position: int = 0) -> Running | Over | None:
        """The chat's newest turn, or that of `hold_id`; None where none runs, or its process died.

        Raises TooManyFollowers.
        """
        params = {
            "p_user_id": self.user_id,
            "p_chat_id": self.chat_id,
            "p_follower": self.id,
            "p_hold_id": hold_id,
            "p_from": position,
        }
        state: Running | Over | None = await self.database.call("follow_query", params, parse=_followed)
        return state


def _followed(row: Mapping[str, Any] | None) -> Running | Over | None:
    if row is None:
        return None
    if "is_full" in row:
        raise TooManyFollowers
    if "progress" in row:
        return Running(row["hold_id"], row["progress"])
    return Over(
        row["outcome"],
        Spent.from_row(row),
        row["funding"],
        row["charged_usd"],
        row["persisted"],
        row["finish_reason"],
    )


async def follow(
    database: Database, user_id: str, chat_id: str, request_id: str, language: Language
) -> AsyncIterator[bytes] | None:
    """The running answer of a user's chat, from its start and then live; None where there is none.

    Raises TooManyFollowers.
    """
    follower = Follower(database, user_id, chat_id, request_id, language)
    state = await follower.state()
    while isinstance(state, Running) and not state.text:
        await asyncio.sleep(limits.FOLLOW_S)
        state = await follower.state(state.hold_id)
    return _relay(follower, state) if isinstance(state, Running) else None


async def _relay(follower: Follower, state: Running | Over | None) -> AsyncIterator[bytes]:
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
            state = await follower.state(state.hold_id, position)
    except AppError as error:
        yield message.finish_step() + wire.broken(error, follower.language)
        return
    yield _ending(message, state, follower)


def _ending(message: wire.MessageStream, over: Over | None, follower: Follower) -> bytes:
    """The last events of a relayed answer. None: its process died."""
    if over is None:
        return message.finish_step() + wire.broken(ProviderError("answer_failed"), follower.language)
    metadata = wire.metadata(
        request_id=follower.request_id,
        spent=over.spent,
        funding=over.funding,
        charged_usd=over.charged_usd,
        persisted=over.persisted,
        finish_reason=over.finish_reason,
    )
    match over.outcome:
        case "answered" | "stopped" if not message.is_complete:
            # The turn stopped waiting for this reader. The client that asked has the whole answer; history may have it.
            return message.finish_step() + wire.broken(Unavailable("end_not_received"), follower.language)
        case "answered":
            return wire.finish(over.finish_reason or "stop", metadata)
        case "stopped":
            return wire.abort(metadata)
        case _:
            # The hold does not say why. After the first text it is nearly always the provider.
            return message.finish_step() + wire.error(ProviderError(), follower.language, metadata)
