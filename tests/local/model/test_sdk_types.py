"""Every body and event of the stand-in matches the SDKs' types exactly."""

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from openai.types import Model
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse

from infra.local.model import answer
from tests.local.model.kit import (
    CALLS,
    CLAUDE,
    CLAUDE_TOOL,
    GPT,
    GPT_TOOL,
    QUESTION,
    ask_claude,
    ask_gpt,
    parse_strictly,
    text_of,
)

SHAPES = {
    "text": QUESTION,
    "tools": CALLS,
    "empty": "[fault:empty]",
    "limit": "[fault:max-tokens]",
    "refusal": "[fault:refusal]",
    "failed": "[fault:failed]",
    "flat error": "[fault:error-event flat]",
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_anthropic_event_matches_the_sdks_types(claude: anthropic.AsyncAnthropic, shape: str) -> None:
    messages: Any = [{"role": "user", "content": SHAPES[shape]}]
    more: Any = {"model": CLAUDE, "max_tokens": 500, "messages": messages, "tools": [CLAUDE_TOOL]}
    async with claude.messages.with_streaming_response.create(**more, stream=True) as response:
        assert response.request_id
        raw = [event async for event in anthropic.AsyncStream.raw_events(response.http_response)]
    assert raw[-1].event == ("error" if shape in ("failed", "flat error") else "message_stop")
    for event in raw:
        assert json.loads(event.data)["type"] == event.event
        if event.event == "error":
            assert parse_strictly(ErrorResponse, event.data).error.type == "overloaded_error"
        elif event.event != "ping":
            parse_strictly(RawMessageStreamEvent, event.data)
    if shape not in ("failed", "flat error"):
        parse_strictly(Message, await (await claude.messages.with_raw_response.create(**more)).http_response.aread())


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_openai_event_matches_the_sdks_types(gpt: openai.AsyncOpenAI, shape: str) -> None:
    more: Any = {"model": GPT, "input": SHAPES[shape], "tools": [GPT_TOOL]}
    async with gpt.responses.with_streaming_response.create(**more, stream=True) as response:
        assert response.headers["x-request-id"]
        lines = [line async for line in response.iter_lines()]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    events = [parse_strictly(ResponseStreamEvent, document) for document in data]
    assert [f"event: {event.type}" for event in events] == [line for line in lines if line.startswith("event: ")]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    if shape not in ("failed", "flat error"):
        parse_strictly(Response, (await gpt.responses.with_raw_response.create(**more)).content)


async def test_models_and_counts_match_the_sdks_types(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    assert CLAUDE in [model.id async for model in claude.models.list(limit=2)]
    page = await claude.models.list(limit=1)
    assert (len(page.data), page.has_more) == (1, True)
    assert GPT in [model.id async for model in gpt.models.list()]
    key, bearer = {"x-api-key": "k", "anthropic-version": "2023-06-01"}, {"authorization": "Bearer k"}
    for model in (await plain.get("/v1/models", headers=key)).json()["data"]:
        parse_strictly(ModelInfo, json.dumps(model))
    for model in (await plain.get("/v1/models", headers=bearer)).json()["data"]:
        parse_strictly(Model, json.dumps(model))
    asked = {"messages": [{"role": "user", "content": "Hello"}], "input": "Hello"}
    counted = await plain.post("/v1/messages/count_tokens", headers=key, json=asked)
    assert parse_strictly(MessageTokensCount, counted.content).input_tokens == 5
    counted = await plain.post("/v1/responses/input_tokens", headers=bearer, json={"input": "Hello"})
    assert parse_strictly(InputTokenCountResponse, counted.content).input_tokens == 5


async def test_only_iter_lines_splits_at_a_unicode_line_separator(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    question = "one\u2028two\x85three"
    assert text_of(await ask_claude(claude, question)) == text_of(await ask_gpt(gpt, question)) == answer(question)
    create = gpt.responses.with_streaming_response.create
    async with create(model=GPT, input=question, stream=True) as response:
        lines = [line async for line in response.iter_lines() if line]
    assert not all(line.startswith(("event: ", "data: ")) for line in lines)
    async with create(model=GPT, input=question, stream=True) as response:
        events = [event async for event in anthropic.AsyncStream.raw_events(response.http_response)]
    assert all(json.loads(event.data)["type"] == event.event for event in events)
