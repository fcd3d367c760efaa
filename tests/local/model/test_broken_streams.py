"""Each fault as the SDKs report it; the chat's error handling relies on these results."""

import asyncio
import json
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from infra.local.model import FAULTS, answer
from tests.local.model.kit import (
    CLAUDE,
    GPT,
    GPT_TOOL,
    STALL_TIMEOUT_S,
    ask_claude,
    ask_gpt,
    text_of,
)

CLOSED = {"httpx2": httpx2.RemoteProtocolError, "aiohttp": httpx2.ReadError}
"""The error of each transport for a closed connection. httpx2.TransportError covers both."""


@pytest.fixture
def closed(transport: str) -> type[httpx2.TransportError]:
    return CLOSED[transport]


async def test_a_closed_connection_is_wrapped_by_openai_only(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, closed: type[httpx2.TransportError]
) -> None:
    seen: list[Any] = []
    with pytest.raises(closed):
        await ask_claude(claude, "[fault:drop]", seen)
    assert text_of(seen)
    assert answer("[fault:drop]").startswith(text_of(seen))
    with pytest.raises(openai.APIConnectionError) as wrapped:
        await ask_gpt(gpt, "[fault:drop]", seen := [])
    assert isinstance(wrapped.value.__cause__, closed)
    assert text_of(seen)


async def test_raw_reading_raises_the_transports_error_in_both_sdks(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, closed: type[httpx2.TransportError]
) -> None:
    question: Any = {"role": "user", "content": "[fault:drop]"}
    create = claude.messages.with_streaming_response.create
    with pytest.raises(closed):
        async with create(model=CLAUDE, max_tokens=9, messages=[question], stream=True) as response:
            [line async for line in response.iter_lines()]
    with pytest.raises(closed):
        async with gpt.responses.with_streaming_response.create(
            model=GPT, input="[fault:drop]", stream=True
        ) as answered:
            [line async for line in answered.iter_lines()]


async def test_an_early_end_raises_nothing_in_the_event_stream(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
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


async def test_bad_json_raises_the_json_parsers_error(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(json.JSONDecodeError):
        await ask_claude(claude, "[fault:bad-json]", seen := [])
    assert text_of(seen)
    with pytest.raises(json.JSONDecodeError):
        await ask_gpt(gpt, "[fault:bad-json]", seen := [])
    assert text_of(seen)


async def test_a_stall_is_a_timeout_wrapped_by_openai_only(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        await ask_claude(claude.with_options(timeout=STALL_TIMEOUT_S), "[fault:stall 30]", seen := [])
    assert text_of(seen)
    with pytest.raises(openai.APITimeoutError):
        await ask_gpt(gpt.with_options(timeout=STALL_TIMEOUT_S), "[fault:stall 30]", seen := [])
    assert text_of(seen)


@pytest.mark.parametrize("fault", ["stall-before 30", "stall-before 30] [fault:status 529"])
async def test_both_sdks_wrap_a_timeout_before_the_first_byte(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, fault: str
) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        await ask_claude(claude.with_options(timeout=STALL_TIMEOUT_S), f"[fault:{fault}]")
    with pytest.raises(openai.APITimeoutError):
        await ask_gpt(gpt.with_options(timeout=STALL_TIMEOUT_S), f"[fault:{fault}]")


async def test_an_answer_continues_after_a_short_stall(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    question = "[fault:stall 0.05] [fault:stall-before 0.05]"
    started = asyncio.get_running_loop().time()
    assert text_of(await ask_claude(claude, question)) == answer(question)
    assert text_of(await ask_gpt(gpt, question)) == answer(question)
    assert asyncio.get_running_loop().time() - started >= 0.2


async def test_an_error_event_has_status_200_in_anthropic_only(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        await ask_claude(claude, "[fault:error-event]", seen := [])
    assert (raised.value.status_code, raised.value.type, bool(text_of(seen))) == (200, "overloaded_error", True)
    with pytest.raises(openai.APIError) as failed:
        await ask_gpt(gpt, "[fault:error-event]", seen := [])
    assert (type(failed.value), failed.value.code) == (openai.APIError, "server_is_overloaded")
    assert text_of(seen)


async def test_openai_does_not_raise_a_flat_error_event(gpt: openai.AsyncOpenAI) -> None:
    last = (await ask_gpt(gpt, "[fault:error-event flat]"))[-1]
    assert (last.type, last.code) == ("error", "server_is_overloaded")


async def test_a_failed_response_is_raised_by_anthropic_only(
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
async def test_half_an_answer_has_the_stop_reason(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, fault: str, stop_reason: str, reason: str
) -> None:
    full = answer(f"[fault:{fault}]")
    events = await ask_claude(claude, f"[fault:{fault}]")
    assert events[-2].delta.stop_reason == stop_reason
    assert text_of(events) == full[: len(full) // 2]
    events = await ask_gpt(gpt, f"[fault:{fault}]")
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == reason
    assert events[-1].response.output_text == text_of(events) == full[: len(full) // 2]
    with pytest.raises(RuntimeError, match=r"response\.completed"):
        async with gpt.responses.stream(model=GPT, input=f"[fault:{fault}]") as stream:
            await stream.get_final_response()


async def test_an_empty_answer_is_complete(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    events = await ask_claude(claude, "[fault:empty]")
    assert (text_of(events), events[-2].delta.stop_reason, events[-2].usage.output_tokens) == ("", "end_turn", 1)
    events = await ask_gpt(gpt, "[fault:empty]")
    assert (text_of(events), events[-1].type, events[-1].response.output) == ("", "response.completed", [])


async def test_a_long_answer_has_the_requested_number_of_deltas(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    assert [event.type for event in await ask_claude(claude, "[fault:long 300]")].count("content_block_delta") == 300
    kinds = [event.type for event in await ask_gpt(gpt, "[fault:long 300]")]
    assert kinds.count("response.output_text.delta") == 300


async def test_a_talkative_model_writes_before_it_calls_a_tool(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(
        model=CLAUDE,
        max_tokens=500,
        messages=[{"role": "user", "content": "[tool:get_bill {}] [fault:talk 20]"}],
        tools=[{"name": "get_bill", "input_schema": {"type": "object"}}],
    )
    text, call = message.content
    assert (text.type, call.type, message.stop_reason) == ("text", "tool_use", "tool_use")
    assert len(text.text.split()) == 20


async def test_a_slow_answer_pauses_before_every_delta(claude: anthropic.AsyncAnthropic) -> None:
    started = asyncio.get_running_loop().time()
    await ask_claude(claude, "[fault:slow 0.02] [fault:long 10]")
    assert asyncio.get_running_loop().time() - started >= 0.2


@pytest.mark.parametrize(
    ("fault", "anthropic_error", "openai_error"),
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
    anthropic_error: type[Exception],
    openai_error: type[Exception],
) -> None:
    question: Any = {"role": "user", "content": f"[fault:{fault}]"}
    timeout = STALL_TIMEOUT_S if fault.startswith("stall") else 30
    with pytest.raises(anthropic_error):
        await claude.with_options(timeout=timeout).messages.create(model=CLAUDE, max_tokens=9, messages=[question])
    with pytest.raises(openai_error):
        await gpt.with_options(timeout=timeout).responses.create(model=GPT, input=f"[fault:{fault}]")


async def test_first_only_fails_only_the_first_request(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    question = "[fault:first-only status 529 0.01] Hello"
    assert text_of(await ask_claude(claude.with_options(max_retries=1), question)) == answer(question)
    assert text_of(await ask_gpt(gpt.with_options(max_retries=1), question)) == answer(question)
    with pytest.raises(anthropic.InternalServerError):
        await ask_claude(claude, f"{question} again")
    await plain.delete("/_requests")
    with pytest.raises(anthropic.InternalServerError):
        await ask_claude(claude, question)


async def test_after_tools_fails_only_a_request_with_tool_results(gpt: openai.AsyncOpenAI) -> None:
    question = "[tool:search {}] [fault:after-tools failed]"
    events = await ask_gpt(gpt, question, tools=[GPT_TOOL])
    assert events[-1].type == "response.completed"
    (use,) = events[-1].response.output
    result = {"type": "function_call_output", "call_id": use.call_id, "output": "7"}
    events = await ask_gpt(gpt, [{"role": "user", "content": question}, use.to_dict(), result], tools=[GPT_TOOL])
    assert events[-1].type == "response.failed"


async def test_a_fault_of_one_provider_does_not_affect_the_other(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    """Also together with another condition, in either order."""
    question = "[fault:anthropic overloaded] Hello"
    assert text_of(await ask_gpt(gpt, question)) == answer(question)
    with pytest.raises(anthropic.InternalServerError):
        await ask_claude(claude, question)
    question = "[fault:openai status 429] Hello"
    assert text_of(await ask_claude(claude, question)) == answer(question)
    with pytest.raises(openai.RateLimitError):
        await ask_gpt(gpt, question)
    for question in ("[fault:openai first-only status 500] Hello", "[fault:first-only openai status 500] Hello"):
        assert text_of(await ask_claude(claude, question)) == answer(question)
        with pytest.raises(openai.InternalServerError):
            await ask_gpt(gpt, question)
        assert text_of(await ask_gpt(gpt, question)) == answer(question)


async def test_only_the_last_user_message_is_read_for_directives(claude: anthropic.AsyncAnthropic) -> None:
    history = [
        {"role": "user", "content": "[fault:drop]"},
        {"role": "assistant", "content": "[fault:status 500]"},
        {"role": "user", "content": "Hello"},
    ]
    assert text_of(await ask_claude(claude, history)) == answer("Hello")


def test_every_fault_has_a_test() -> None:
    tested = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in FAULTS if f"[fault:{name}" not in tested and f'("{name}' not in tested] == []
