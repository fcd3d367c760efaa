"""The provider stand-in is checked by the clients that will trust it: both real SDKs, over both HTTP transports.

What each fault looks like through an SDK is written down here, because the chat's error handling rests on it.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import uvicorn
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from openai.types import Model
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import BaseModel, TypeAdapter

from infra.local.model import FAULTS, answer, create_app, tokens

CLAUDE, GPT = "claude-haiku-5-5", "gpt-5.4-mini"
QUESTION = "What did the House say about ferries?"
CLAUDE_TOOL: Any = {"name": "search", "description": "Searches", "input_schema": {"type": "object"}}
GPT_TOOL: Any = {"type": "function", "name": "search", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The stand-in on a real server: what a torn connection looks like is decided by sockets."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on and every reply waits 40 ms for an acknowledgement.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # a request may come before the server is up
        config = uvicorn.Config(create_app(delay=0), lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module", params=["httpx2", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def claude(origin: str, transport: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    http = anthropic.DefaultAsyncHttpxClient() if transport == "httpx2" else anthropic.DefaultAioHttpClient()
    async with anthropic.AsyncAnthropic(
        api_key="sk-ant-fine-1234", base_url=origin, http_client=http, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="module")
async def gpt(origin: str, transport: str) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient() if transport == "httpx2" else openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(
        api_key="sk-fine-5678", base_url=f"{origin}/v1", http_client=http, max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def plain(origin: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=origin) as client:
        await client.delete("/_requests")
        yield client


async def ask_claude(
    client: anthropic.AsyncAnthropic, content: Any, seen: list[Any] | None = None, **more: Any
) -> list[Any]:
    """The events of a streamed answer; `seen` keeps those that came before an exception."""
    seen = [] if seen is None else seen
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    stream = await client.messages.create(model=CLAUDE, max_tokens=500, messages=messages, stream=True, **more)
    async for event in stream:
        seen.append(event)
    return seen


async def ask_gpt(client: openai.AsyncOpenAI, content: Any, seen: list[Any] | None = None, **more: Any) -> list[Any]:
    seen = [] if seen is None else seen
    stream = await client.responses.create(model=GPT, input=content, stream=True, **more)
    async for event in stream:
        seen.append(event)
    return seen


def said(events: list[Any]) -> str:
    return "".join(
        event.delta if event.type == "response.output_text.delta" else event.delta.text
        for event in events
        if event.type == "response.output_text.delta"
        or (event.type == "content_block_delta" and event.delta.type == "text_delta")
    )


adapter = cache(TypeAdapter)  # building one for the SDKs' wide unions takes half a second


def strictly(kind: Any, document: str | bytes) -> Any:
    """Parses with the SDK's own type, and refuses what that type does not know."""
    parsed = adapter(kind).validate_json(document, strict=True)
    unknown(parsed)
    return parsed


def unknown(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, (type(value).__name__, value.model_extra)
        for inner in value.__dict__.values():
            unknown(inner)
    elif isinstance(value, list):
        for inner in value:
            unknown(inner)


async def journal(plain: httpx2.AsyncClient, **expected: Any) -> dict[str, Any]:
    """The newest entry, once it says what is expected: the server learns of a departure a moment after it."""
    for _ in range(200):
        entry = (await plain.get("/_requests")).json()[-1]
        if all(entry[name] == value for name, value in expected.items()):
            return dict(entry)
        await asyncio.sleep(0.01)
    raise AssertionError((entry, expected))


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_anthropic_streams_the_answer_event_by_event(claude: anthropic.AsyncAnthropic) -> None:
    events = await ask_claude(claude, QUESTION)
    kinds = [event.type for event in events]
    deltas = kinds.count("content_block_delta")
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert said(events) == answer(QUESTION)
    assert deltas == len(answer(QUESTION).split())
    start, end = events[0].message, events[-2]
    assert (start.usage.input_tokens, start.usage.cache_read_input_tokens) == (tokens(QUESTION), 0)
    assert start.usage.cache_creation_input_tokens == 0
    assert (start.stop_reason, end.delta.stop_reason) == (None, "end_turn")
    assert end.usage.output_tokens == tokens(answer(QUESTION))


async def test_openai_streams_the_answer_event_by_event(gpt: openai.AsyncOpenAI) -> None:
    events = await ask_gpt(gpt, QUESTION)
    kinds = [event.type for event in events]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(answer(QUESTION).split()),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert said(events) == final.output_text == answer(QUESTION)
    assert (final.usage.input_tokens, final.usage.output_tokens) == (tokens(QUESTION), tokens(answer(QUESTION)))
    assert final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens
    assert final.usage.input_tokens_details.cached_tokens == final.usage.output_tokens_details.reasoning_tokens == 0


async def test_the_sdks_own_accumulators_agree_with_the_answer(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    async with claude.messages.stream(model=CLAUDE, max_tokens=500, messages=messages) as said_by_claude:
        message = await said_by_claude.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == [answer(QUESTION)]
    async with gpt.responses.stream(model=GPT, input=QUESTION) as said_by_gpt:
        assert (await said_by_gpt.get_final_response()).output_text == answer(QUESTION)


async def test_both_answer_without_a_stream(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    message = await claude.messages.create(
        model=CLAUDE, max_tokens=500, messages=[{"role": "user", "content": QUESTION}]
    )
    assert [block.text for block in message.content if block.type == "text"] == [answer(QUESTION)]
    assert (message.stop_reason, message.model) == ("end_turn", CLAUDE)
    assert message._request_id
    assert message._request_id.startswith("req_")
    response = await gpt.responses.create(model=GPT, input=QUESTION)
    assert (response.output_text, response.status) == (answer(QUESTION), "completed")


@pytest.mark.parametrize(
    ("question", "french"),
    [
        ("Qui est la députée de Québec ?", True),
        ("Qu’a dit le ministre sur l’inflation ?", True),
        ("Who represents Québec?", False),
        ("How did Ms. Gérin-Lajoie vote on the bill?", False),
        ("[fault:stall 1] Combien de projets de loi ?", True),
    ],
)
def test_the_answer_is_in_the_language_of_the_question_and_quotes_it(question: str, french: bool) -> None:
    assert ("Réponse factice" in answer(question)) is french
    assert ("stand-in" in answer(question)) is not french
    assert question in answer(question)


@pytest.mark.parametrize(("text", "count"), [("", 1), ("a", 1), ("abcd", 1), ("abcde", 2), ("a" * 400, 100)])
def test_tokens_are_four_characters_each(text: str, count: int) -> None:
    assert tokens(text) == count


async def test_everything_in_the_prompt_is_counted_alike_by_usage_and_by_the_counting_call(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    history: Any = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": [{"type": "text", "text": "An answer"}]},
        {"role": "user", "content": QUESTION},
    ]
    more: Any = {"model": CLAUDE, "messages": history, "system": "Be brief.", "tools": [CLAUDE_TOOL]}
    expected = sum(map(tokens, ["One?", "An answer", QUESTION, "Be brief.", json.dumps([CLAUDE_TOOL])]))
    assert (await claude.messages.count_tokens(**more)).input_tokens == expected
    assert (await claude.messages.create(**more, max_tokens=9)).usage.input_tokens == expected
    history[1] = {"role": "assistant", "content": [{"type": "output_text", "text": "An answer"}]}
    more = {"model": GPT, "input": history, "instructions": "Be brief.", "tools": [GPT_TOOL]}
    counted = await gpt.responses.input_tokens.count(**more)
    created = await gpt.responses.create(**more)
    assert created.usage
    assert counted.input_tokens == created.usage.input_tokens
    assert counted.input_tokens == sum(
        map(tokens, ["One?", "An answer", QUESTION, "Be brief.", json.dumps([GPT_TOOL])])
    )


async def test_a_prompt_that_asks_for_caching_is_partly_read_from_and_written_to_the_cache(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    system: Any = [{"type": "text", "text": "x" * 400, "cache_control": {"type": "ephemeral"}}]
    start = (await ask_claude(claude, "y" * 400, system=system))[0].message.usage
    assert (start.input_tokens, start.cache_read_input_tokens, start.cache_creation_input_tokens) == (50, 100, 50)
    start = (await ask_claude(claude, 'Is "cache_control": {} a secret?'))[0].message.usage
    assert start.cache_read_input_tokens == 0
    usage = (await ask_gpt(gpt, "y" * 800, prompt_cache_key="k"))[-1].response.usage
    assert usage.input_tokens == 200
    assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (100, 50)


async def test_one_http_client_serves_both_sdks(origin: str) -> None:
    for kind in (httpx2.AsyncClient, anthropic.DefaultAioHttpClient, openai.DefaultAioHttpClient):
        async with kind() as http:
            claude = anthropic.AsyncAnthropic(api_key="k", base_url=origin, http_client=http)
            assert said(await ask_claude(claude, QUESTION)) == answer(QUESTION)
            gpt = openai.AsyncOpenAI(api_key="k", base_url=f"{origin}/v1", http_client=http)
            assert said(await ask_gpt(gpt, QUESTION)) == answer(QUESTION)


# --- tools -----------------------------------------------------------------------------------------------------------

CALLS = 'Look: [tool:search {"q": "a ] b", "deep": {"n": [1]}}] [tool:list_members]'


async def test_anthropic_calls_tools_then_answers_from_their_results(claude: anthropic.AsyncAnthropic) -> None:
    messages: Any = [{"role": "user", "content": CALLS}]
    async with claude.messages.stream(model=CLAUDE, max_tokens=500, messages=messages, tools=[CLAUDE_TOOL]) as stream:
        pieces = [event.partial_json async for event in stream if event.type == "input_json"]
        called = await stream.get_final_message()
    assert called.stop_reason == "tool_use"
    uses = [block for block in called.content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in uses] == [
        ("search", {"q": "a ] b", "deep": {"n": [1]}}),
        ("list_members", {}),
    ]
    assert len(pieces) > 4
    results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": f"{use.name} found 7"} for use in uses]
    results[1]["content"] = [{"type": "text", "text": "list_members found 7"}]
    again = [*messages, {"role": "assistant", "content": called.content}, {"role": "user", "content": results}]
    events = await ask_claude(claude, again, tools=[CLAUDE_TOOL])
    assert said(events) == answer(CALLS, ["search found 7", "list_members found 7"])
    assert "“search found 7”" in said(events)


async def test_openai_calls_tools_then_answers_from_their_results(gpt: openai.AsyncOpenAI) -> None:
    events = await ask_gpt(gpt, CALLS, tools=[GPT_TOOL])
    kinds = [event.type for event in events]
    assert kinds.count("response.function_call_arguments.delta") > 4
    called = events[-1].response
    uses = [item for item in called.output if item.type == "function_call"]
    assert [use.name for use in uses] == ["search", "list_members"]
    assert [json.loads(use.arguments) for use in uses] == [{"q": "a ] b", "deep": {"n": [1]}}, {}]
    outputs = [
        {"type": "function_call_output", "call_id": use.call_id, "output": f"{use.name} found 7"} for use in uses
    ]
    again = [{"role": "user", "content": CALLS}, *[use.to_dict() for use in uses], *outputs]
    events = await ask_gpt(gpt, again, tools=[GPT_TOOL])
    assert said(events) == answer(CALLS, ["search found 7", "list_members found 7"])
    async with gpt.responses.stream(model=GPT, input=CALLS, tools=[GPT_TOOL]) as stream:
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["function_call", "function_call"]


async def test_no_tool_is_called_where_none_is_offered_or_allowed(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    assert said(await ask_claude(claude, CALLS)) == answer(CALLS)
    assert said(await ask_claude(claude, CALLS, tools=[CLAUDE_TOOL], tool_choice={"type": "none"})) == answer(CALLS)
    assert said(await ask_gpt(gpt, CALLS)) == answer(CALLS)
    assert said(await ask_gpt(gpt, CALLS, tools=[GPT_TOOL], tool_choice="none")) == answer(CALLS)


NAMES = ("find_mps", "get_bill", "get_bill_votes", "get_bill_debate", "search")
CLAUDE_TOOLS: Any = [{**CLAUDE_TOOL, "name": name} for name in NAMES]
GPT_TOOLS: Any = [{**GPT_TOOL, "name": name} for name in NAMES]


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("Who is my MP? I live at K1A 0A6.", "find_mps", {"postal_code": "K1A 0A6"}),
        ("Qui représente h2x1y4 ?", "find_mps", {"postal_code": "H2X 1Y4"}),
        ("How did V6B-1A1 vote on C-5?", "find_mps", {"postal_code": "V6B 1A1"}),
        ("What is Bill C-5 about?", "get_bill", {"number": "C-5"}),
        ("De quoi parle le projet de loi c-12 ?", "get_bill", {"number": "C-12"}),
        ("Who voted for C-5?", "get_bill_votes", {"number": "C-5"}),
        ("Qui a voté contre S-2 après le débat ?", "get_bill_votes", {"number": "S-2"}),
        ("Show me the votes on c-201", "get_bill_votes", {"number": "C-201"}),
        ("What was said about C-5?", "get_bill_debate", {"number": "C-5"}),
        ("Résume les débats sur C-5", "get_bill_debate", {"number": "C-5"}),
        ("Qu’a-t-on dit du projet de loi C-5 ?", "get_bill_debate", {"number": "C-5"}),
        ("Was the credit in C-5 devoted to ditches?", "get_bill", {"number": "C-5"}),
    ],
)
async def test_without_a_directive_the_tool_that_a_question_seems_to_be_for_is_called_once(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, question: str, name: str, arguments: dict[str, str]
) -> None:
    messages: Any = [{"role": "user", "content": question}]
    message = await claude.messages.create(model=CLAUDE, max_tokens=500, messages=messages, tools=CLAUDE_TOOLS)
    (use,) = message.content
    assert use.type == "tool_use"
    assert (use.name, use.input) == (name, arguments)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "it found 7"}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert said(await ask_claude(claude, messages, tools=CLAUDE_TOOLS)) == answer(question, ["it found 7"])
    (called,) = (await gpt.responses.create(model=GPT, input=question, tools=GPT_TOOLS)).output
    assert called.type == "function_call"
    assert (called.name, json.loads(called.arguments)) == (name, arguments)


@pytest.mark.parametrize(
    "question",
    [
        "Who is the Speaker?",
        "What is C-0, AC-5, C5 or C-5x?",
        "My parcel is K1A 0A66.",
        "[fault:long 9] What is C-5 about?",
        "[fault:openai drop] What is C-5 about?",
    ],
)
async def test_no_tool_is_picked_for_other_questions_nor_beside_a_directive(
    claude: anthropic.AsyncAnthropic, question: str
) -> None:
    messages: Any = [{"role": "user", "content": question}]
    message = await claude.messages.create(model=CLAUDE, max_tokens=500, messages=messages, tools=CLAUDE_TOOLS)
    assert [block.type for block in message.content] == ["text"]


async def test_a_directive_is_all_that_is_called_and_a_tool_that_is_not_offered_is_not(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    question = "Who voted for C-5?"
    others: Any = [tool for tool in CLAUDE_TOOLS if tool["name"] != "get_bill_votes"]
    assert said(await ask_claude(claude, question, tools=others)) == answer(question)
    assert said(await ask_claude(claude, question, tools=CLAUDE_TOOLS, tool_choice={"type": "none"})) == answer(
        question
    )
    output = (await gpt.responses.create(model=GPT, input=f"[tool:search] {question}", tools=GPT_TOOLS)).output
    assert [item.name for item in output if item.type == "function_call"] == ["search"]
    assert len(output) == 1


async def test_a_tool_loop_calls_again_after_every_result(claude: anthropic.AsyncAnthropic) -> None:
    messages: Any = [{"role": "user", "content": '[tool-loop:search {"q": 1}]'}]
    for _ in range(3):
        message = await claude.messages.create(model=CLAUDE, max_tokens=500, messages=messages, tools=[CLAUDE_TOOL])
        (use,) = message.content
        assert use.type == "tool_use"
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "more"}
        messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert said(await ask_claude(claude, messages)) == answer(messages[0]["content"], ["more"] * 3)


async def test_a_history_that_the_real_apis_refuse_is_refused(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    question: Any = {"role": "user", "content": "Hello"}
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}}
    for messages in (
        [],
        [{"role": "user", "content": ""}],
        [question, {"role": "assistant", "content": [call]}, question],
    ):
        with pytest.raises(anthropic.BadRequestError):
            await ask_claude(claude, messages)
    output = {"type": "function_call_output", "call_id": "call_1", "output": "lost"}
    with pytest.raises(openai.BadRequestError, match="every tool call needs one result"):
        await ask_gpt(gpt, [question, output])


# --- what the SDKs' types say ----------------------------------------------------------------------------------------

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
async def test_every_anthropic_event_is_exactly_of_the_sdks_types(claude: anthropic.AsyncAnthropic, shape: str) -> None:
    messages: Any = [{"role": "user", "content": SHAPES[shape]}]
    more: Any = {"model": CLAUDE, "max_tokens": 500, "messages": messages, "tools": [CLAUDE_TOOL]}
    async with claude.messages.with_streaming_response.create(**more, stream=True) as response:
        assert response.request_id
        raw = [event async for event in anthropic.AsyncStream.raw_events(response.http_response)]
    assert raw[-1].event == ("error" if shape in ("failed", "flat error") else "message_stop")
    for event in raw:
        assert json.loads(event.data)["type"] == event.event
        if event.event == "error":
            assert strictly(ErrorResponse, event.data).error.type == "overloaded_error"
        elif event.event != "ping":
            strictly(RawMessageStreamEvent, event.data)
    if shape not in ("failed", "flat error"):
        strictly(Message, await (await claude.messages.with_raw_response.create(**more)).http_response.aread())


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_openai_event_is_exactly_of_the_sdks_types(gpt: openai.AsyncOpenAI, shape: str) -> None:
    more: Any = {"model": GPT, "input": SHAPES[shape], "tools": [GPT_TOOL]}
    async with gpt.responses.with_streaming_response.create(**more, stream=True) as response:
        assert response.headers["x-request-id"]
        lines = [line async for line in response.iter_lines()]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    events = [strictly(ResponseStreamEvent, document) for document in data]
    assert [f"event: {event.type}" for event in events] == [line for line in lines if line.startswith("event: ")]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    if shape not in ("failed", "flat error"):
        strictly(Response, (await gpt.responses.with_raw_response.create(**more)).content)


async def test_models_and_counts_are_exactly_of_the_sdks_types(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    assert CLAUDE in [model.id async for model in claude.models.list(limit=2)]
    page = await claude.models.list(limit=1)
    assert (len(page.data), page.has_more) == (1, True)
    assert GPT in [model.id async for model in gpt.models.list()]
    key, bearer = {"x-api-key": "k", "anthropic-version": "2023-06-01"}, {"authorization": "Bearer k"}
    for model in (await plain.get("/v1/models", headers=key)).json()["data"]:
        strictly(ModelInfo, json.dumps(model))
    for model in (await plain.get("/v1/models", headers=bearer)).json()["data"]:
        strictly(Model, json.dumps(model))
    asked = {"messages": [{"role": "user", "content": "Hello"}], "input": "Hello"}
    counted = await plain.post("/v1/messages/count_tokens", headers=key, json=asked)
    assert strictly(MessageTokensCount, counted.content).input_tokens == 2
    counted = await plain.post("/v1/responses/input_tokens", headers=bearer, json={"input": "Hello"})
    assert strictly(InputTokenCountResponse, counted.content).input_tokens == 2


async def test_a_line_separator_in_a_text_is_torn_by_iter_lines_and_by_nothing_else(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    question = "one\u2028two\x85three"
    assert said(await ask_claude(claude, question)) == said(await ask_gpt(gpt, question)) == answer(question)
    create = gpt.responses.with_streaming_response.create
    async with create(model=GPT, input=question, stream=True) as response:
        lines = [line async for line in response.iter_lines() if line]
    assert not all(line.startswith(("event: ", "data: ")) for line in lines)
    async with create(model=GPT, input=question, stream=True) as response:
        events = [event async for event in anthropic.AsyncStream.raw_events(response.http_response)]
    assert all(json.loads(event.data)["type"] == event.event for event in events)


# --- keys and refusals -----------------------------------------------------------------------------------------------


async def test_a_missing_key_is_refused_in_the_providers_shape(plain: httpx2.AsyncClient) -> None:
    refused = await plain.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    refused = await plain.post("/v1/messages", json={})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    refused = await plain.post("/v1/responses", json={"input": "Hello"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_an_invalid_key_is_refused_on_every_path(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    wrong, false = claude.with_options(api_key="sk-ant-invalid"), gpt.with_options(api_key="sk-invalid")
    with pytest.raises(anthropic.AuthenticationError) as refused:
        await wrong.models.list(limit=1)
    assert (refused.value.type, bool(refused.value.request_id)) == ("authentication_error", True)
    with pytest.raises(anthropic.AuthenticationError):
        await ask_claude(wrong, "Hello")
    with pytest.raises(openai.AuthenticationError) as rejected:
        await false.models.list()
    assert (rejected.value.code, bool(rejected.value.request_id)) == ("invalid_api_key", True)
    with pytest.raises(openai.AuthenticationError):
        await ask_gpt(false, "Hello")


async def test_an_exhausted_balance_refuses_answers_but_not_the_key(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    poor, broke = claude.with_options(api_key="sk-ant-exhausted"), gpt.with_options(api_key="sk-exhausted")
    assert (await poor.models.list(limit=1)).data
    assert (await broke.models.list()).data
    with pytest.raises(anthropic.BadRequestError, match="credit balance is too low") as refused:
        await ask_claude(poor, "Hello")
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.RateLimitError) as rejected:
        await ask_gpt(broke, "Hello")
    assert (rejected.value.code, rejected.value.type) == ("insufficient_quota", "insufficient_quota")


@pytest.mark.parametrize(
    ("status", "of_anthropic", "kind", "of_openai", "code"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error", openai.BadRequestError, None),
        (401, anthropic.AuthenticationError, "authentication_error", openai.AuthenticationError, "invalid_api_key"),
        (
            403,
            anthropic.PermissionDeniedError,
            "permission_error",
            openai.PermissionDeniedError,
            "insufficient_permissions",
        ),
        (404, anthropic.NotFoundError, "not_found_error", openai.NotFoundError, "model_not_found"),
        (413, anthropic.APIStatusError, "request_too_large", openai.APIStatusError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error", openai.RateLimitError, "rate_limit_exceeded"),
        (500, anthropic.InternalServerError, "api_error", openai.InternalServerError, "server_error"),
        (503, anthropic.InternalServerError, "api_error", openai.InternalServerError, "server_is_overloaded"),
        (529, anthropic.InternalServerError, "overloaded_error", openai.InternalServerError, "server_error"),
    ],
)
async def test_a_status_is_refused_in_the_providers_shape(
    claude: anthropic.AsyncAnthropic,
    gpt: openai.AsyncOpenAI,
    status: int,
    of_anthropic: type[anthropic.APIStatusError],
    kind: str,
    of_openai: type[openai.APIStatusError],
    code: str | None,
) -> None:
    with pytest.raises(of_anthropic) as refused:
        await ask_claude(claude, f"[fault:status {status} 7]")
    assert (refused.value.status_code, refused.value.type) == (status, kind)
    assert refused.value.response.headers["retry-after"] == "7"
    with pytest.raises(of_openai) as rejected:
        await ask_gpt(gpt, f"[fault:status {status}]")
    assert (rejected.value.status_code, rejected.value.code) == (status, code)
    assert "retry-after" not in rejected.value.response.headers


async def test_overload_has_each_providers_own_status(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(anthropic.InternalServerError) as refused:
        await ask_claude(claude, "[fault:overloaded]")
    assert (refused.value.status_code, refused.value.type) == (529, "overloaded_error")
    with pytest.raises(openai.InternalServerError) as rejected:
        await ask_gpt(gpt, "[fault:overloaded]")
    assert (rejected.value.status_code, rejected.value.code) == (503, "server_is_overloaded")


@pytest.mark.parametrize(
    "directive", ["[fault:dorp]", "[fault:status 200]", "[fault:stall]", "[fault:stall soon]", "[tool:search {]"]
)
async def test_a_directive_that_cannot_be_followed_is_refused_not_ignored(
    gpt: openai.AsyncOpenAI, directive: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot follow"):
        await ask_gpt(gpt, directive, tools=[GPT_TOOL])


async def test_a_body_that_is_not_json_is_refused(plain: httpx2.AsyncClient) -> None:
    for body in ("{", "[]", '{"input": [3]}'):
        assert (
            await plain.post("/v1/responses", content=body, headers={"authorization": "Bearer k"})
        ).status_code == 400


# --- broken streams: what each looks like through the SDKs -----------------------------------------------------------

TORN = {"httpx2": httpx2.RemoteProtocolError, "aiohttp": httpx2.ReadError}
"""What a torn connection is to each transport. httpx2.TransportError covers both."""


@pytest.fixture
def torn(transport: str) -> type[httpx2.TransportError]:
    return TORN[transport]


async def test_a_torn_connection_is_a_raw_transport_error_to_anthropic_and_a_wrapped_one_to_openai(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, torn: type[httpx2.TransportError]
) -> None:
    seen: list[Any] = []
    with pytest.raises(torn):
        await ask_claude(claude, "[fault:drop]", seen)
    assert said(seen)
    assert answer("[fault:drop]").startswith(said(seen))
    with pytest.raises(openai.APIConnectionError) as wrapped:
        await ask_gpt(gpt, "[fault:drop]", seen := [])
    assert isinstance(wrapped.value.__cause__, torn)
    assert said(seen)


async def test_read_raw_a_torn_connection_is_the_transports_own_error_with_either_sdk(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, torn: type[httpx2.TransportError]
) -> None:
    question: Any = {"role": "user", "content": "[fault:drop]"}
    create = claude.messages.with_streaming_response.create
    with pytest.raises(torn):
        async with create(model=CLAUDE, max_tokens=9, messages=[question], stream=True) as response:
            [line async for line in response.iter_lines()]
    with pytest.raises(torn):
        async with gpt.responses.with_streaming_response.create(
            model=GPT, input="[fault:drop]", stream=True
        ) as answered:
            [line async for line in answered.iter_lines()]


async def test_an_early_end_is_silent(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    events = await ask_claude(claude, "[fault:early-end]")
    assert events[-1].type == "content_block_delta"
    async with claude.messages.stream(
        model=CLAUDE, max_tokens=500, messages=[{"role": "user", "content": "[fault:early-end]"}]
    ) as stream:
        assert (await stream.get_final_message()).stop_reason is None
    events = await ask_gpt(gpt, "[fault:early-end]")
    assert events[-1].type == "response.output_text.delta"
    with pytest.raises(RuntimeError, match=r"response\.completed"):
        async with gpt.responses.stream(model=GPT, input="[fault:early-end]") as answering:
            await answering.get_final_response()


async def test_bad_json_raises_the_parsers_error_which_no_sdk_class_covers(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(json.JSONDecodeError):
        await ask_claude(claude, "[fault:bad-json]", seen := [])
    assert said(seen)
    with pytest.raises(json.JSONDecodeError):
        await ask_gpt(gpt, "[fault:bad-json]", seen := [])
    assert said(seen)


async def test_a_stall_is_a_raw_timeout_to_anthropic_and_a_wrapped_one_to_openai(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        await ask_claude(claude.with_options(timeout=0.1), "[fault:stall 30]", seen := [])
    assert said(seen)
    with pytest.raises(openai.APITimeoutError):
        await ask_gpt(gpt.with_options(timeout=0.1), "[fault:stall 30]", seen := [])
    assert said(seen)


@pytest.mark.parametrize("fault", ["stall-before 30", "stall-before 30] [fault:status 529"])
async def test_a_stall_before_the_first_byte_is_a_wrapped_timeout_to_both(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, fault: str
) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        await ask_claude(claude.with_options(timeout=0.1), f"[fault:{fault}]")
    with pytest.raises(openai.APITimeoutError):
        await ask_gpt(gpt.with_options(timeout=0.1), f"[fault:{fault}]")


async def test_a_short_stall_goes_on_to_the_end(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    question = "[fault:stall 0.05] [fault:stall-before 0.05]"
    began = asyncio.get_running_loop().time()
    assert said(await ask_claude(claude, question)) == answer(question)
    assert said(await ask_gpt(gpt, question)) == answer(question)
    assert asyncio.get_running_loop().time() - began >= 0.2


async def test_an_error_event_is_raised_with_status_200_by_anthropic_and_without_a_status_by_openai(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        await ask_claude(claude, "[fault:error-event]", seen := [])
    assert (raised.value.status_code, raised.value.type, bool(said(seen))) == (200, "overloaded_error", True)
    with pytest.raises(openai.APIError) as failed:
        await ask_gpt(gpt, "[fault:error-event]", seen := [])
    assert (type(failed.value), failed.value.code) == (openai.APIError, "server_is_overloaded")
    assert said(seen)


async def test_an_error_event_of_the_documented_flat_shape_is_only_an_event(gpt: openai.AsyncOpenAI) -> None:
    last = (await ask_gpt(gpt, "[fault:error-event flat]"))[-1]
    assert (last.type, last.code) == ("error", "server_is_overloaded")


async def test_a_failed_response_is_only_an_event_to_openai_and_raised_by_anthropic(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    last = (await ask_gpt(gpt, "[fault:failed]"))[-1]
    assert (last.type, last.response.status, last.response.error.code) == ("response.failed", "failed", "server_error")
    with pytest.raises(anthropic.APIStatusError):
        await ask_claude(claude, "[fault:failed]")


@pytest.mark.parametrize(
    ("fault", "stop_reason", "reason"),
    [("max-tokens", "max_tokens", "max_output_tokens"), ("refusal", "refusal", "content_filter")],
)
async def test_half_an_answer_says_why_it_stopped(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, fault: str, stop_reason: str, reason: str
) -> None:
    whole = answer(f"[fault:{fault}]")
    events = await ask_claude(claude, f"[fault:{fault}]")
    assert events[-2].delta.stop_reason == stop_reason
    assert said(events) == whole[: len(whole) // 2]
    events = await ask_gpt(gpt, f"[fault:{fault}]")
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == reason
    assert events[-1].response.output_text == said(events) == whole[: len(whole) // 2]
    with pytest.raises(RuntimeError, match=r"response\.completed"):
        async with gpt.responses.stream(model=GPT, input=f"[fault:{fault}]") as stream:
            await stream.get_final_response()


async def test_an_empty_answer_is_complete(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    events = await ask_claude(claude, "[fault:empty]")
    assert (said(events), events[-2].delta.stop_reason, events[-2].usage.output_tokens) == ("", "end_turn", 1)
    events = await ask_gpt(gpt, "[fault:empty]")
    assert (said(events), events[-1].type, events[-1].response.output) == ("", "response.completed", [])


async def test_a_long_answer_has_as_many_deltas_as_asked(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    assert [event.type for event in await ask_claude(claude, "[fault:long 300]")].count("content_block_delta") == 300
    kinds = [event.type for event in await ask_gpt(gpt, "[fault:long 300]")]
    assert kinds.count("response.output_text.delta") == 300


async def test_a_slow_answer_pauses_before_every_delta(claude: anthropic.AsyncAnthropic) -> None:
    began = asyncio.get_running_loop().time()
    await ask_claude(claude, "[fault:slow 0.02] [fault:long 10]")
    assert asyncio.get_running_loop().time() - began >= 0.2


@pytest.mark.parametrize(
    ("fault", "of_anthropic", "of_openai"),
    [
        ("drop", anthropic.APIConnectionError, openai.APIConnectionError),
        ("stall 30", anthropic.APITimeoutError, openai.APITimeoutError),
        ("early-end", json.JSONDecodeError, json.JSONDecodeError),
        ("bad-json", json.JSONDecodeError, json.JSONDecodeError),
        ("error-event", anthropic.InternalServerError, openai.InternalServerError),
        ("failed", anthropic.InternalServerError, openai.InternalServerError),
    ],
)
async def test_without_a_stream_a_broken_answer_raises(
    claude: anthropic.AsyncAnthropic,
    gpt: openai.AsyncOpenAI,
    fault: str,
    of_anthropic: type[Exception],
    of_openai: type[Exception],
) -> None:
    question: Any = {"role": "user", "content": f"[fault:{fault}]"}
    with pytest.raises(of_anthropic):
        await claude.with_options(timeout=0.2).messages.create(model=CLAUDE, max_tokens=9, messages=[question])
    with pytest.raises(of_openai):
        await gpt.with_options(timeout=0.2).responses.create(model=GPT, input=f"[fault:{fault}]")


async def test_first_only_spares_every_later_request_with_the_same_text(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    question = "[fault:first-only status 529 0.01] Hello"
    assert said(await ask_claude(claude.with_options(max_retries=1), question)) == answer(question)
    assert said(await ask_gpt(gpt.with_options(max_retries=1), question)) == answer(question)
    with pytest.raises(anthropic.InternalServerError):
        await ask_claude(claude, f"{question} again")
    await plain.delete("/_requests")
    with pytest.raises(anthropic.InternalServerError):
        await ask_claude(claude, question)


async def test_after_tools_strikes_the_step_that_carries_the_results(gpt: openai.AsyncOpenAI) -> None:
    question = "[tool:search {}] [fault:after-tools failed]"
    events = await ask_gpt(gpt, question, tools=[GPT_TOOL])
    assert events[-1].type == "response.completed"
    (use,) = events[-1].response.output
    result = {"type": "function_call_output", "call_id": use.call_id, "output": "7"}
    events = await ask_gpt(gpt, [{"role": "user", "content": question}, use.to_dict(), result], tools=[GPT_TOOL])
    assert events[-1].type == "response.failed"


async def test_a_fault_of_one_provider_spares_the_other(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    """Alone, and beside another condition in either order."""
    question = "[fault:anthropic overloaded] Hello"
    assert said(await ask_gpt(gpt, question)) == answer(question)
    with pytest.raises(anthropic.InternalServerError):
        await ask_claude(claude, question)
    question = "[fault:openai status 429] Hello"
    assert said(await ask_claude(claude, question)) == answer(question)
    with pytest.raises(openai.RateLimitError):
        await ask_gpt(gpt, question)
    for question in ("[fault:openai first-only status 500] Hello", "[fault:first-only openai status 500] Hello"):
        assert said(await ask_claude(claude, question)) == answer(question)
        with pytest.raises(openai.InternalServerError):
            await ask_gpt(gpt, question)
        assert said(await ask_gpt(gpt, question)) == answer(question)


async def test_the_last_user_text_decides_not_an_earlier_one(claude: anthropic.AsyncAnthropic) -> None:
    history = [
        {"role": "user", "content": "[fault:drop]"},
        {"role": "assistant", "content": "[fault:status 500]"},
        {"role": "user", "content": "Hello"},
    ]
    assert said(await ask_claude(claude, history)) == answer("Hello")


def test_every_fault_is_tested_here() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FAULTS if f"[fault:{name}" not in tested and f'("{name}' not in tested] == []


# --- the journal -----------------------------------------------------------------------------------------------------


async def test_the_journal_tells_what_was_asked_without_the_key(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    await ask_claude(claude, QUESTION, system="Be brief.")
    await gpt.responses.create(model=GPT, input=[{"role": "user", "content": "Hello"}])
    await gpt.models.list()
    await journal(plain, finished=True)
    first, second, third = (await plain.get("/_requests")).json()
    assert first.pop("at") <= second.pop("at")
    assert first == {
        "provider": "anthropic",
        "path": "/v1/messages",
        "model": CLAUDE,
        "api_key_last4": "1234",
        "system_present": True,
        "messages": [{"role": "user", "text": QUESTION}],
        "stream": True,
        "aborted": False,
        "finished": True,
    }
    assert (second["provider"], second["path"], second["model"]) == ("openai", "/v1/responses", GPT)
    assert (second["system_present"], second["stream"], second["api_key_last4"]) == (False, False, "5678")
    assert (third["provider"], third["path"], third["messages"]) == ("openai", "/v1/models", [])
    assert "sk-" not in (await plain.get("/_requests")).text


async def test_the_journal_tells_roles_and_texts_of_a_tool_history(
    claude: anthropic.AsyncAnthropic, plain: httpx2.AsyncClient
) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "7 found"}
    await ask_claude(
        claude,
        [
            {"role": "user", "content": "How many?"},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]},
            {"role": "user", "content": [result]},
        ],
    )
    assert (await journal(plain, finished=True))["messages"] == [
        {"role": "user", "text": "How many?"},
        {"role": "assistant", "text": "I look."},
        {"role": "tool", "text": "7 found"},
    ]


@pytest.mark.parametrize("fault", ["slow 0.02", "stall 30"])
async def test_a_client_that_leaves_a_stream_is_noted_as_aborted(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient, fault: str
) -> None:
    question = f"[fault:{fault}] [fault:long 1000]"
    stream = await claude.messages.create(
        model=CLAUDE, max_tokens=500, messages=[{"role": "user", "content": question}], stream=True
    )
    async for event in stream:
        if event.type == "content_block_delta":
            break
    assert (await journal(plain, provider="anthropic"))["aborted"] is False
    await stream.close()
    await journal(plain, provider="anthropic", aborted=True, finished=False)
    answering = await gpt.responses.create(model=GPT, input=question, stream=True)
    async for happened in answering:
        if happened.type == "response.output_text.delta":
            break
    await answering.close()
    await journal(plain, provider="openai", aborted=True, finished=False)


async def test_a_client_that_gives_up_before_the_first_byte_is_noted_as_aborted(
    claude: anthropic.AsyncAnthropic, plain: httpx2.AsyncClient
) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        await ask_claude(claude.with_options(timeout=0.1), "[fault:stall-before 30]")
    await journal(plain, aborted=True, finished=False)


async def test_a_connection_that_the_provider_tears_down_is_neither_aborted_nor_finished(
    gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    with pytest.raises(openai.APIConnectionError):
        await ask_gpt(gpt, "[fault:drop]")
    await asyncio.sleep(0.05)
    await journal(plain, aborted=False, finished=False)


async def test_the_journal_keeps_the_newest_thousand_and_can_be_emptied() -> None:
    transport = httpx2.ASGITransport(create_app())
    async with httpx2.AsyncClient(transport=transport, base_url="http://model") as client:
        for number in range(1003):
            await client.get("/v1/models", headers={"x-api-key": f"key-{number:04}"})
        kept = (await client.get("/_requests")).json()
        assert (len(kept), kept[0]["api_key_last4"], kept[-1]["api_key_last4"]) == (1000, "0003", "1002")
        assert (await client.delete("/_requests")).status_code == 204
        assert (await client.get("/_requests")).json() == []
