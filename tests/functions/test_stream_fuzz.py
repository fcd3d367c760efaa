"""Random provider streams: any style, any cut, any mix, any truncation ends in a valid stream and an honest ledger.

`make test` tries a sample, `make prove` many more. Hypothesis prints the smallest example that fails.
"""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from functions.chat.answer import Answer
from functions.chat.chat import Chat
from functions.chat.providers import Event, Finished, Message, Prompt, Text, ToolCall, ToolCallStarted
from functions.chat.providers.anthropic import Anthropic
from functions.chat.providers.faults import Faults
from functions.chat.providers.openai import OpenAI
from functions.chat.request import ChatRequest
from functions.common.errors import AppError, Internal, ProviderError
from functions.common.surrogates import joined
from infra.local.stack import Stack
from tests.api import question
from tests.chat_kit import chat_environment, running_chat
from tests.conftest import Person
from tests.functions.provider_streams import Response, Written, damaged, plain, responses, written
from tests.journeys.endings_client import Received, check_protocol
from tests.own_keys import store_key
from tests.servers import listening

FULL = bool(os.environ.get("PROVE"))
PROMPT = Prompt("m", "s", "t", [Message("user", "q")], [], True, 100)
sample = settings(max_examples=3_000 if FULL else 60, deadline=None, suppress_health_check=list(HealthCheck))
turns = settings(max_examples=600 if FULL else 25, deadline=None, suppress_health_check=list(HealthCheck))

# Without a connection --------------------------------------------------------------------------------------------


class Chunks:
    """Answers every request with these chunks."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks

    @asynccontextmanager
    async def post(self, _url: str, _headers: Any, _body: bytes, faults: Faults) -> AsyncIterator[AsyncIterator[bytes]]:
        async def read() -> AsyncIterator[bytes]:
            for chunk in self._chunks:
                yield chunk

        with faults.translated():
            yield read()


async def read(provider: str, chunks: Sequence[bytes]) -> tuple[list[Event], AppError | None]:
    """The events of a response, and its error. Ids of calls become numbers."""
    kind: Any = Anthropic if provider == "anthropic" else OpenAI
    events: list[Event] = []
    try:
        async for event in kind(Chunks(chunks), "http://x", "k").stream(PROMPT):
            events.append(event)  # noqa: PERF401 -- those before an error count
    except AppError as error:
        return events, error
    return events, None


def normal(events: Sequence[Event]) -> list[Any]:
    """The events with ids that depend on the order of calls only."""
    ids: dict[str, int] = {}
    seen: list[Any] = []
    for event in events:
        if isinstance(event, ToolCallStarted):
            seen.append(("started", ids.setdefault(event.id, len(ids)), event.name))
        elif isinstance(event, ToolCall):
            seen.append(("called", ids[event.id], event.name, event.arguments, event.given_id))
        else:
            seen.append(event)
    return seen


def text_of(events: Sequence[Event]) -> str:
    return joined("".join(event.delta for event in events if isinstance(event, Text)))


@pytest.mark.prove
@sample
@given(written())
async def test_any_style_and_cut_is_read_alike(stream: Written) -> None:
    events, error = await read(stream.response.provider, stream.chunks())
    expected, _ = await read(stream.response.provider, plain(stream.response))
    assert error is None
    assert normal(events) == normal(expected)
    assert isinstance(events[-1], Finished)
    if not stream.response.is_mixed:
        assert text_of(events) == stream.response.text


@pytest.mark.prove
@sample
@given(responses())
async def test_single_bytes_are_read_alike(response: Response) -> None:
    (body,) = plain(response)
    events, _ = await read(response.provider, [bytes([byte]) for byte in body])
    assert normal(events) == normal((await read(response.provider, [body]))[0])


@pytest.mark.prove
@sample
@given(written(), st.integers(0, 100_000))
async def test_a_truncated_stream_is_complete_only_after_its_end(stream: Written, at: int) -> None:
    size = at % (len(stream.body) + 1)
    events, error = await read(stream.response.provider, stream.chunks(size))
    if size >= stream.stated:
        assert error is None
        assert isinstance(events[-1], Finished)
    else:
        assert type(error) is ProviderError
        assert not any(isinstance(event, Finished) for event in events)


@pytest.mark.prove
@sample
@given(st.sampled_from(["anthropic", "openai"]), damaged())
async def test_damaged_events_raise_only_errors_of_the_provider(provider: str, chunks: list[bytes]) -> None:
    events, error = await read(provider, chunks)
    assert error is not None or isinstance(events[-1], Finished)
    assert all(isinstance(event.delta, str) for event in events if isinstance(event, Text))


# Whole turns -----------------------------------------------------------------------------------------------------

Db = psycopg.Connection[dict[str, Any]]
AFTERWARDS = {
    "anthropic": Response(
        "anthropic",
        [],
        [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " After the tools."}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        ],
        1,
        False,
    ),
    "openai": Response(
        "openai",
        [],
        [
            {"type": "response.output_text.delta", "delta": " After the tools."},
            {"type": "response.completed", "response": {}},
        ],
        1,
        False,
    ),
}


@dataclass(slots=True)
class Gateway:
    """A provider that answers a question with the chunks of a test, and the results of tools with a text."""

    url: str = ""
    chunks: list[bytes] = field(default_factory=list)
    ends: bool = True  # otherwise the connection is closed without an end of the response
    asked: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(int(length.split(":")[1]))
        self.asked += 1
        provider = "anthropic" if "/messages" in head else "openai"
        chunks = self.chunks if self.asked == 1 else plain(AFTERWARDS[provider])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for chunk in chunks:
            if chunk:
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()
        if self.ends or self.asked > 1:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    async with listening(gateway.serve) as gateway.url:
        yield gateway


@pytest.fixture(scope="module")
async def chat(stack: Stack, gateway: Gateway) -> AsyncIterator[Chat]:
    urls = {"ANTHROPIC_BASE_URL": gateway.url, "OPENAI_BASE_URL": f"{gateway.url}/v1"}
    async with running_chat({**chat_environment(stack), **urls}) as chat:
        yield chat


@pytest.fixture
def owner(stack: Stack, person: Callable[..., Person]) -> Person:
    """Somebody whose own keys pay, so that no quota ends."""
    owner = person("basic")
    for provider in ("anthropic", "openai"):
        store_key(stack, owner, f"sk-own-{uuid.uuid4().hex}", provider)
    return owner


async def ask(chat: Chat, owner: Person, provider: str) -> tuple[Received, str]:
    """The stream of an answer, and the id of its chat."""
    body = question("Well?", provider=provider)
    feed = chat.start(owner.id, ChatRequest.model_validate(body))
    stream = b"".join([chunk async for chunk in feed.read(60)])
    received = Received(status=200, disconnected=False)
    *events, rest = stream.decode().split("\n\n")
    assert rest == ""
    assert events.pop() == "data: [DONE]"
    received.parts, received.done = [json.loads(event.removeprefix("data: ")) for event in events], True
    return received, str(body["id"])


def ledger(db: Db, owner: Person) -> dict[str, Any]:
    """The newest row of the ledger, with the answer that is stored."""
    row = db.execute(
        "select u.outcome, u.is_charged, u.finish_reason, m.content, m.step_ends, m.function_calls, m.function_results"
        " from public.usage_logs u left join public.messages m on m.id = u.message_id"
        " where u.user_id = %s order by u.created_at desc limit 1",
        (owner.id,),
    ).fetchone()
    assert row is not None
    return row


def pieces(answer: Answer) -> list[list[str]]:
    """The steps of an answer: its texts and calls in their order."""
    return [
        [piece if isinstance(piece, str) else f"{piece.id} {piece.name}" for piece in step.pieces()]
        for step in answer.steps
    ]


def sent_pieces(received: Received) -> list[list[str]]:
    """The same of a stream."""
    steps: list[list[str]] = []
    for part in received.parts:
        match part["type"]:
            case "start-step":
                steps.append([])
            case "text-start":
                steps[-1].append("")
            case "text-delta":
                steps[-1][-1] += part["delta"]
            case "tool-input-start":
                steps[-1].append(f"{part['toolCallId']} {part['toolName']}")
    return steps


@pytest.mark.prove
@turns
@given(written(), st.integers(0, 100_000), st.sampled_from(["whole", "cut", "broken"]))
async def test_any_stream_ends_in_a_valid_message_and_an_honest_ledger(
    gateway: Gateway, chat: Chat, owner: Person, stack_db: Db, stream: Written, at: int, how: str
) -> None:
    size = at % (len(stream.body) + 1) if how != "whole" else len(stream.body)
    assume(size > 0 or how != "broken")  # nothing at all is asked for again
    gateway.chunks, gateway.ends, gateway.asked = stream.chunks(size), how != "broken", 0
    received, _ = await ask(chat, owner, stream.response.provider)
    check_protocol(received)
    row = ledger(stack_db, owner)
    assert stack_db.execute("select 1 from public.query_holds where user_id = %s", (owner.id,)).fetchall() == []
    failed = received.kinds[-2:] == ["error", "finish"]
    assert row["is_charged"] == (row["outcome"] == "answered") == (not failed)
    if size < stream.stated:
        assert failed
    if failed:
        assert "Nothing was charged" in received.all_of("error")[0]["errorText"]
        assert received.parts[-1]["messageMetadata"]["persisted"] is False
    else:
        assert received.parts[-1]["messageMetadata"]["persisted"] is True
        assert row["content"] == received.text
        assert "\x00" not in received.text
        answer: Any = row
        assert pieces(Answer.from_row(answer)) == sent_pieces(received)


@pytest.mark.prove
@turns
@given(st.sampled_from(["anthropic", "openai"]), damaged())
async def test_damaged_events_end_in_a_valid_message(
    gateway: Gateway, chat: Chat, owner: Person, stack_db: Db, provider: str, chunks: list[bytes]
) -> None:
    gateway.chunks, gateway.ends, gateway.asked = chunks, True, 0
    received, _ = await ask(chat, owner, provider)
    check_protocol(received)
    row = ledger(stack_db, owner)
    assert stack_db.execute("select 1 from public.query_holds where user_id = %s", (owner.id,)).fetchall() == []
    failed = received.kinds[-2:] == ["error", "finish"]
    assert row["is_charged"] == (row["outcome"] == "answered") == (not failed)
    assert received.parts[-1]["messageMetadata"]["persisted"] is not failed
    assert Internal().sentence("en") not in [part["errorText"] for part in received.all_of("error")]
