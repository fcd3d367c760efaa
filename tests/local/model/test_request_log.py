"""The log of received requests, `GET /_requests`."""

import asyncio

import anthropic
import httpx2
import openai
import pytest

from infra.local.model import create_app
from tests.local.model.kit import (
    CLAUDE,
    GPT,
    QUESTION,
    STALL_TIMEOUT_S,
    ask_claude,
    ask_gpt,
    newest_entry,
)


async def test_the_log_has_the_requests_without_their_keys(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    await ask_claude(claude, QUESTION, system="Be brief.")
    await gpt.responses.create(model=GPT, input=[{"role": "user", "content": "Hello"}])
    await gpt.models.list()
    await newest_entry(plain, finished=True)
    first, second, third = (await plain.get("/_requests")).json()
    assert first.pop("at") <= second.pop("at")
    assert first == {
        "provider": "anthropic",
        "path": "/v1/messages",
        "model": CLAUDE,
        "api_key_last4": "1234",
        "system_present": True,
        "messages": [{"role": "user", "text": QUESTION}],
        "call_ids": [],
        "stream": True,
        "aborted": False,
        "finished": True,
    }
    assert (second["provider"], second["path"], second["model"]) == ("openai", "/v1/responses", GPT)
    assert (second["system_present"], second["stream"], second["api_key_last4"]) == (False, False, "5678")
    assert (third["provider"], third["path"], third["messages"]) == ("openai", "/v1/models", [])
    assert "sk-" not in (await plain.get("/_requests")).text


async def test_the_log_has_roles_and_texts_of_a_tool_history(
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
    assert (await newest_entry(plain, finished=True))["messages"] == [
        {"role": "user", "text": "How many?"},
        {"role": "assistant", "text": "I look."},
        {"role": "tool", "text": "7 found"},
    ]


@pytest.mark.parametrize("fault", ["slow 0.02", "stall 30"])
async def test_a_disconnect_during_a_stream_is_logged_as_aborted(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient, fault: str
) -> None:
    question = f"[fault:{fault}] [fault:long 1000]"
    stream = await claude.messages.create(
        model=CLAUDE, max_tokens=500, messages=[{"role": "user", "content": question}], stream=True
    )
    async for event in stream:
        if event.type == "content_block_delta":
            break
    assert (await newest_entry(plain, provider="anthropic"))["aborted"] is False
    await stream.close()
    await newest_entry(plain, provider="anthropic", aborted=True, finished=False)
    gpt_stream = await gpt.responses.create(model=GPT, input=question, stream=True)
    async for gpt_event in gpt_stream:
        if gpt_event.type == "response.output_text.delta":
            break
    await gpt_stream.close()
    await newest_entry(plain, provider="openai", aborted=True, finished=False)


async def test_a_disconnect_before_the_first_byte_is_logged_as_aborted(
    claude: anthropic.AsyncAnthropic, plain: httpx2.AsyncClient
) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        await ask_claude(claude.with_options(timeout=STALL_TIMEOUT_S), "[fault:stall-before 30]")
    await newest_entry(plain, aborted=True, finished=False)


async def test_a_dropped_connection_is_neither_aborted_nor_finished(
    gpt: openai.AsyncOpenAI, plain: httpx2.AsyncClient
) -> None:
    with pytest.raises(openai.APIConnectionError):
        await ask_gpt(gpt, "[fault:drop]")
    await asyncio.sleep(0.05)
    await newest_entry(plain, aborted=False, finished=False)


async def test_the_log_has_a_thousand_entries_and_can_be_emptied() -> None:
    transport = httpx2.ASGITransport(create_app())
    async with httpx2.AsyncClient(transport=transport, base_url="http://model") as client:
        for number in range(1003):
            await client.get("/v1/models", headers={"x-api-key": f"key-{number:04}"})
        kept = (await client.get("/_requests")).json()
        assert (len(kept), kept[0]["api_key_last4"], kept[-1]["api_key_last4"]) == (1000, "0003", "1002")
        assert (await client.delete("/_requests")).status_code == 204
        assert (await client.get("/_requests")).json() == []
