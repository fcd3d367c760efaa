"""Faults that the SDKs do not read: what gateways in front of the providers send. They are read here as bytes."""

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from infra.local.model import answer
from tests.local.model.kit import CLAUDE, CLAUDE_TOOL, GPT, GPT_TOOL, QUESTION, ask_claude, ask_gpt, text_of

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses"}
PROVIDERS = list(PATHS)


async def ask(plain: httpx2.AsyncClient, provider: str, content: Any, model: str = "", **more: Any) -> bytes:
    """The bytes of a streamed answer."""
    key = {"x-api-key": "k"} if provider == "anthropic" else {"authorization": "Bearer k"}
    named = {"messages": content} if provider == "anthropic" else {"input": content}
    if isinstance(content, str) and provider == "anthropic":
        named = {"messages": [{"role": "user", "content": content}]}
    model = model or (CLAUDE if provider == "anthropic" else GPT)
    body = {"model": model, "stream": True, "tools": [CLAUDE_TOOL if provider == "anthropic" else GPT_TOOL], **named}
    response = await plain.post(PATHS[provider], headers=key, json={**body, **more})
    return response.content


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of a body in the usual form."""
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_has_the_requested_style(plain: httpx2.AsyncClient, provider: str) -> None:
    usual = await ask(plain, provider, QUESTION)
    assert usual.count(b"\n") == 3 * usual.count(b"event: ")
    crlf = await ask(plain, provider, f"{QUESTION} [fault:sse crlf bom]")
    assert crlf.startswith(b"\xef\xbb\xbfevent: ")
    assert crlf.count(b"\r\n") == crlf.count(b"\n") == 3 * crlf.count(b"event: ")
    returns = await ask(plain, provider, f"{QUESTION} [fault:sse cr bytes]")
    assert b"\n" not in returns
    assert returns.count(b"\r") == 3 * returns.count(b"event: ")
    lines = await ask(plain, provider, f"{QUESTION} [fault:sse lines heartbeats done]")
    assert lines.count(b"\ndata: {\ndata: ") == lines.count(b"\n\ndata:\n\n") == lines.count(b"event: ")
    assert lines.endswith(b"\n\ndata: [DONE]\n\n")
    assert b"known: crlf" in await ask(plain, provider, "[fault:sse shiny]")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_emoji_arrives_in_two_halves(plain: httpx2.AsyncClient, provider: str) -> None:
    def texts(body: bytes) -> list[str]:
        deltas = [event.get("delta") for event in events_of(body)]
        return [
            delta if isinstance(delta, str) else delta["text"] for delta in deltas if delta and "stop" not in str(delta)
        ]

    middle = texts(await ask(plain, provider, "Hi [fault:halves]"))
    at = middle.index("\ud83d")
    assert middle[at + 1] == "\ude00"
    assert "".join(middle[:at] + middle[at + 2 :]) == answer("Hi [fault:halves]")
    assert texts(await ask(plain, provider, "Hi [fault:halves end]"))[-1] == "\ud83d"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_end_may_have_no_usage(plain: httpx2.AsyncClient, provider: str) -> None:
    end = -2 if provider == "anthropic" else -1
    for fault in ("no-usage", "no-usage null"):
        event = events_of(await ask(plain, provider, f"[fault:{fault}]"))[end]
        holder = event if provider == "anthropic" else event["response"]
        assert holder.get("usage") is None
        assert ("usage" in holder) == (provider == "openai" or fault.endswith("null"))


async def test_arguments_may_arrive_whole(plain: httpx2.AsyncClient) -> None:
    question = '[tool:search {"q": 1}] [fault:whole-input]'
    kinds = [event["type"] for event in events_of(await ask(plain, "openai", question))]
    assert not [kind for kind in kinds if "arguments" in kind]
    events = events_of(await ask(plain, "anthropic", question))
    assert [event["content_block"]["input"] for event in events if "content_block" in event] == [{"q": 1}]
    assert "content_block_delta" not in [event["type"] for event in events]


async def test_the_stop_reason_may_contradict_the_answer(claude: anthropic.AsyncAnthropic) -> None:
    events = await ask_claude(claude, "[tool:search {}] [fault:stop-reason end_turn]", tools=[CLAUDE_TOOL])
    assert (events[1].content_block.type, events[-2].delta.stop_reason) == ("tool_use", "end_turn")
    events = await ask_claude(claude, "[fault:stop-reason tool_use]")
    assert (events[1].content_block.type, events[-2].delta.stop_reason) == ("text", "tool_use")


@pytest.mark.parametrize(
    ("kind", "ids"),
    [("same", ["call_0", "call_0"]), ("empty", ["", ""]), ("dotted", ["functions.search:0", "functions.list:0"])],
)
async def test_ids_of_calls_are_those_of_gateways(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, kind: str, ids: list[str]
) -> None:
    question = f"[tool:search {{}}] [tool:list {{}}] [fault:call-ids {kind}]"
    events = await ask_claude(claude, question, tools=[CLAUDE_TOOL])
    assert [event.content_block.id for event in events if event.type == "content_block_start"] == ids
    events = await ask_gpt(gpt, question, tools=[GPT_TOOL])
    assert [item.call_id for item in events[-1].response.output] == ids


async def test_a_refusal_may_have_no_text_or_words_of_the_model(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    for question in ("[fault:refusal silent]", "[fault:refusal silent] [tool:search {}]"):
        events = await ask_claude(claude, question, tools=[CLAUDE_TOOL])
        assert (text_of(events), events[-2].delta.stop_reason) == ("", "refusal")
        events = await ask_gpt(gpt, question, tools=[GPT_TOOL])
        assert (events[-1].response.output, events[-1].response.incomplete_details.reason) == ([], "content_filter")
    events = await ask_gpt(gpt, "[fault:refusal words]")
    kinds = [event.type for event in events]
    assert "response.refusal.delta" in kinds
    assert (kinds[-1], events[-1].response.output[0].content[0].type) == ("response.completed", "refusal")


async def test_a_prompt_may_be_refused_for_its_content(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="content filtering policy"):
        await ask_claude(claude, "[fault:filtered]")
    with pytest.raises(openai.BadRequestError) as refused:
        await ask_gpt(gpt, "[fault:filtered]")
    assert refused.value.code == "invalid_prompt"


async def test_named_models_do_not_exist(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    for fault in ("model-gone", f"model-gone {CLAUDE} {GPT}"):
        with pytest.raises(anthropic.NotFoundError, match=f"model: {CLAUDE}"):
            await ask_claude(claude, f"[fault:{fault}]")
        with pytest.raises(openai.NotFoundError) as missing:
            await ask_gpt(gpt, f"[fault:{fault}]")
        assert missing.value.code == "model_not_found"
    question = "[fault:model-gone another]"
    assert text_of(await ask_claude(claude, question)) == text_of(await ask_gpt(gpt, question)) == answer(question)


async def test_a_status_may_have_another_code(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    question = "[fault:status 403 unsupported_country_region_territory]"
    with pytest.raises(anthropic.PermissionDeniedError) as anthropics:
        await ask_claude(claude, question)
    assert anthropics.value.type == "unsupported_country_region_territory"
    with pytest.raises(openai.PermissionDeniedError) as openais:
        await ask_gpt(gpt, question)
    assert openais.value.code == "unsupported_country_region_territory"


async def test_a_restricted_key_may_only_answer(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    claude, gpt = claude.with_options(api_key="sk-restricted"), gpt.with_options(api_key="sk-restricted")
    with pytest.raises(anthropic.PermissionDeniedError):
        await claude.models.list()
    with pytest.raises(openai.PermissionDeniedError):
        await gpt.models.list()
    assert text_of(await ask_claude(claude, "Hi")) == text_of(await ask_gpt(gpt, "Hi")) == answer("Hi")


@pytest.mark.parametrize("ids", [["a", "a"], [""], ["functions.search:0"]])
async def test_ids_that_the_real_apis_refuse_are_refused(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, ids: list[str]
) -> None:
    uses: Any = [{"type": "tool_use", "id": name, "name": "search", "input": {}} for name in ids]
    results: Any = [{"type": "tool_result", "tool_use_id": name, "content": "7"} for name in ids]
    question: Any = {"role": "user", "content": "Hi"}
    with pytest.raises(anthropic.BadRequestError, match="ids"):
        await ask_claude(
            claude, [question, {"role": "assistant", "content": uses}, {"role": "user", "content": results}]
        )
    calls = [{"type": "function_call", "call_id": name, "name": "search", "arguments": "{}"} for name in ids]
    outputs = [{"type": "function_call_output", "call_id": name, "output": "7"} for name in ids]
    if ids == ["functions.search:0"]:  # OpenAI accepts it
        assert text_of(await ask_gpt(gpt, [question, *calls, *outputs]))
        return
    with pytest.raises(openai.BadRequestError, match="ids"):
        await ask_gpt(gpt, [question, *calls, *outputs])
