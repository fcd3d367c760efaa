"""What the tests of the model stand-in share: requests, and readers of the answers."""

import asyncio
from functools import cache
from typing import Any

import anthropic
import httpx2
import openai
from pydantic import BaseModel, TypeAdapter

CLAUDE, GPT = "claude-haiku-5-5", "gpt-5.4-mini"
QUESTION = "What did the House say about ferries?"
CLAUDE_TOOL: Any = {"name": "search", "description": "Searches", "input_schema": {"type": "object"}}
GPT_TOOL: Any = {"type": "function", "name": "search", "parameters": {"type": "object"}, "strict": False}
STALL_TIMEOUT_S = 0.5  # long enough for the first events on a busy machine
CALLS = 'Look: [tool:search {"q": "a ] b", "deep": {"n": [1]}}] [tool:list_members]'


async def ask_claude(
    client: anthropic.AsyncAnthropic, content: Any, events: list[Any] | None = None, **more: Any
) -> list[Any]:
    """The events of a streamed answer. `events` collects them, so that a test has them after an exception."""
    events = [] if events is None else events
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    stream = await client.messages.create(model=CLAUDE, max_tokens=5_000, messages=messages, stream=True, **more)
    async with stream:  # one that fails is else closed when it is collected, during another test
        async for event in stream:
            events.append(event)
    return events


async def ask_gpt(client: openai.AsyncOpenAI, content: Any, events: list[Any] | None = None, **more: Any) -> list[Any]:
    events = [] if events is None else events
    stream = await client.responses.create(model=GPT, input=content, stream=True, **more)
    async with stream:
        async for event in stream:
            events.append(event)
    return events


def text_of(events: list[Any]) -> str:
    return "".join(
        event.delta if event.type == "response.output_text.delta" else event.delta.text
        for event in events
        if event.type == "response.output_text.delta"
        or (event.type == "content_block_delta" and event.delta.type == "text_delta")
    )


adapter = cache(TypeAdapter)  # building one for the SDKs' wide unions takes half a second


def parse_strictly(kind: Any, document: str | bytes) -> Any:
    """Parses with the SDK's own type. Fails for fields that the type does not have."""
    parsed = adapter(kind).validate_json(document, strict=True)
    assert_no_unknown_fields(parsed)
    return parsed


def assert_no_unknown_fields(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, (type(value).__name__, value.model_extra)
        for inner in value.__dict__.values():
            assert_no_unknown_fields(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_no_unknown_fields(inner)


async def newest_entry(plain: httpx2.AsyncClient, **expected: Any) -> dict[str, Any]:
    """The newest log entry, once it has the expected values: the server notices a disconnect with a delay."""
    for _ in range(1000):
        entry = (await plain.get("/_requests")).json()[-1]
        if all(entry[name] == value for name, value in expected.items()):
            return dict(entry)
        await asyncio.sleep(0.01)
    raise AssertionError((entry, expected))
