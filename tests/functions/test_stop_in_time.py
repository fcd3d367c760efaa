"""A stop from any process ends an answer within three seconds, for the client that asked and for those that follow it.
A client that follows it in another process is soon a second behind at most.

Time is virtual: the loop's clock jumps to the next timer, so that only the waits of the code count, not the machine.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from functions.chat import limits
from functions.chat.chat import Chat
from functions.chat.providers import Event, Opened, Text
from functions.chat.request import ChatRequest
from functions.common.observe import Observer
from functions.common.vault import Vault
from tests.api import question
from tests.sources import parliament_at

STOP_S = 3.0  # the promise
LAG_S = 1.0  # the promise
SAMPLE_S = 0.05
ROUND_TRIP_S = 0.05  # of a call of the database
TOKEN_S = 0.2  # between two texts of the provider
MOMENTS = [number / 10 * limits.PROGRESS_S for number in range(10)]
USER = str(uuid.uuid4())


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never waits: where nothing is ready, the clock jumps to the next timer."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers = self._scheduled  # type: ignore[attr-defined]
        if timers and not self._ready:  # type: ignore[attr-defined]
            self._now = max(self._now, timers[0].when())
        super()._run_once()  # type: ignore[misc]


class OneHold:
    """A database with one query's hold. Its functions do what the SQL functions of these names do."""

    def __init__(self) -> None:
        self.progress = ""
        self.stop_requested = self.is_closing = self.is_settled = False
        self.followed_to: int | None = None

    async def call(
        self, function: str, params: dict[str, Any], *, parse: Callable[[Any], Any] = lambda result: result, **_: Any
    ) -> Any:
        await asyncio.sleep(ROUND_TRIP_S)
        return parse(getattr(self, function)(**params))

    def admit_query(self, **_: Any) -> dict[str, Any]:
        return {
            "decision": "admitted", "funding": "included", "tier": "pro", "provider": "anthropic", "model": "m",
            "models": {}, "cost_limit_usd": Decimal(1), "keeps_history": False, "history": [], "remaining": 1,
            "resets_at": None, "key": None,
        }  # fmt: skip

    def settle_query(self, p_outcome: str, **_: Any) -> dict[str, Any]:
        assert p_outcome == "stopped"
        self.is_settled = True
        return {"outcome": p_outcome, "charged_usd": Decimal(0), "persisted": False}

    def note_progress(self, p_notes: list[dict[str, Any]], p_is_closing: bool, **_: Any) -> list[dict[str, Any]]:
        (note,) = p_notes
        if note["progress"]:
            self.progress = self.progress[: note["position"]] + note["progress"]
        self.is_closing = self.is_closing or (p_is_closing and self.followed_to is None)
        return [{"hold_id": note["hold_id"], "stop_requested": self.stop_requested, "followed_to": self.followed_to}]

    def stop_query(self, **_: Any) -> bool:
        self.stop_requested = True
        return True

    def follow_query(self, p_from: int, **_: Any) -> dict[str, Any] | None:
        if self.is_settled:
            return {
                "hold_id": "h", "outcome": "stopped", "provider": "anthropic", "model": "m", "funding": "included",
                "tokens_input": 1, "tokens_output": 1, "cache_read_tokens": 0, "cache_write_tokens": 0,
                "cost_usd": Decimal(0), "charged_usd": Decimal(0), "persisted": False, "finish_reason": "stopped",
            }  # fmt: skip
        if self.is_closing:
            return None
        self.followed_to = p_from
        return {"hold_id": "h", "progress": self.progress[p_from:]}

    async def close(self) -> None:
        pass


class Talkative:
    """A provider that writes text for ever."""

    platform = ("anthropic",)

    def get(self, _: str) -> "Talkative":
        return self

    async def stream(self, *_: Any) -> AsyncGenerator[Event, None]:
        yield Opened()
        while True:
            await asyncio.sleep(TOKEN_S)
            yield Text("word ")

    async def close(self) -> None:
        pass


def process(database: OneHold) -> Chat:
    """A process of the chat function."""
    known = {"ENCRYPTION_KEY": "0" * 64}
    parliament = parliament_at("http://127.0.0.1:9")
    vault = Vault(known, lambda: known)
    return Chat(database, Talkative(), parliament, vault, Observer("stop"))  # type: ignore[arg-type]


@dataclass(slots=True)
class Reader:
    """A client: what it read, and when that ended."""

    body: bytes = b""
    ended_at: float = 0.0

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            self.body += chunk
        self.ended_at = asyncio.get_running_loop().time()


async def seconds_to_the_end(*, stopped_here: bool, follower: str, moment: float) -> list[float]:
    """Ask in one process and stop after `moment`. Returns for each reader the seconds from the stop to its end."""
    database, body = OneHold(), ChatRequest.model_validate(question("At length"))
    here, there = process(database), process(database)
    asker, following = Reader(), Reader()
    feed = here.start(USER, body)
    readers = [asyncio.create_task(asker.read(feed.read(limits.KEEP_ALIVE_S)))]
    await asyncio.sleep(2 * limits.PROGRESS_S)
    if follower != "none":
        chunks = await there.resume(USER, body.id, "request")
        assert chunks is not None
        readers.append(asyncio.create_task(following.read(chunks)))
    await asyncio.sleep(2 * limits.PROGRESS_S + moment)
    if follower == "left":
        readers.pop().cancel()
    stopped_at = asyncio.get_running_loop().time()
    assert await (here if stopped_here else there).stop(USER, body.id)
    await asyncio.gather(*readers)
    await here.close()
    await there.close()
    ended = [asker, following][: len(readers)]
    assert all(b'"type":"abort"' in reader.body for reader in ended)
    return [reader.ended_at - stopped_at for reader in ended]


@pytest.mark.parametrize("follower", ["none", "reads", "left"])
@pytest.mark.parametrize("stopped_here", [True, False], ids=["here", "there"])
def test_a_stop_takes_three_seconds_at_most(monkeypatch: pytest.MonkeyPatch, stopped_here: bool, follower: str) -> None:
    """At ten moments between two calls in which the turn asks whether it has to stop."""

    async def at_once(function: Any, *args: Any) -> Any:
        return function(*args)

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # virtual time does not wait for threads
    for moment in MOMENTS:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            waits = runner.run(seconds_to_the_end(stopped_here=stopped_here, follower=follower, moment=moment))
        assert len(waits) == (2 if follower == "reads" else 1)
        assert max(waits) < STOP_S


def test_a_bad_response_does_not_stop_later_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is shared by all turns of a process. After a response of the wrong shape a stop still works."""

    async def at_once(function: Any, *args: Any) -> Any:
        return function(*args)

    answered = OneHold.note_progress
    bad = [None, [{}], "html"]

    def sometimes_bad(self: OneHold, **params: Any) -> Any:
        return bad.pop(0) if bad else answered(self, **params)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(OneHold, "note_progress", sometimes_bad)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        waits = runner.run(seconds_to_the_end(stopped_here=False, follower="none", moment=0))
    assert bad == []
    assert len(waits) == 1
    assert max(waits) < STOP_S


async def words_missing(moment: float) -> list[int]:
    """Ask in one process and resume in another after `moment`.

    Returns how many words of LAG_S ago the follower lacks, at every sample after the turn learned of the follower.
    """
    database, body = OneHold(), ChatRequest.model_validate(question("At length"))
    here, there = process(database), process(database)
    asker, following = Reader(), Reader()
    asking = asyncio.create_task(asker.read(here.start(USER, body).read(limits.KEEP_ALIVE_S)))

    async def follow() -> None:
        await asyncio.sleep(2 * limits.PROGRESS_S + moment)
        chunks = await there.resume(USER, body.id, "request")
        assert chunks is not None
        await following.read(chunks)

    follower = asyncio.create_task(follow())
    asked, missing = [0] * round(LAG_S / SAMPLE_S), []
    for _ in range(150):
        await asyncio.sleep(SAMPLE_S)
        asked.append(asker.body.count(b"word "))
        ago = asked.pop(0)
        if following.body:
            missing.append(ago - following.body.count(b"word "))
    await here.stop(USER, body.id)
    await asyncio.gather(asking, follower)
    await here.close()
    await there.close()
    return missing[round((limits.PROGRESS_S + 2 * limits.PROGRESS_TICK_S) / SAMPLE_S) :]


def test_a_follower_is_a_second_behind_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(function: Any, *args: Any) -> Any:
        return function(*args)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    for moment in MOMENTS:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            missing = runner.run(words_missing(moment))
        assert len(missing) > 50
        assert max(missing) <= 0
