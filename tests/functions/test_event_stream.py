"""The streamed response, served by uvicorn over a socket."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from functions.chat.event_stream import EventStream
from tests.servers import serve


class Endless:
    """An app that streams until its client leaves."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await EventStream(self.events())(scope, receive, send)
        self.ended.append("response")

    async def events(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b": event\n\n"
                await asyncio.sleep(0.01)
        finally:
            self.ended.append("iterator")


def test_a_disconnect_ends_the_iterator_without_an_error(
    caplog: pytest.LogCaptureFixture, eventually: Callable[..., None]
) -> None:
    app = Endless()
    with caplog.at_level(logging.INFO), serve(app) as url:
        with httpx.stream("GET", url) as response:
            assert response.headers["content-type"] == "text/event-stream"
            assert next(response.iter_bytes()).startswith(b": event")
        eventually(lambda: len(app.ended) == 2)
    assert app.ended == ["iterator", "response"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_all_events_arrive_before_the_end() -> None:
    async def events() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"data: %d\n\n" % number

    with serve(EventStream(events())) as url:
        text = httpx.get(url).text
    assert text == "".join(f"data: {number}\n\n" for number in range(1000))


async def test_a_cancellation_from_outside_is_raised() -> None:
    app, started = Endless(), asyncio.Event()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        started.set()

    task = asyncio.create_task(app({"type": "http"}, receive, send))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert app.ended == ["iterator"]
