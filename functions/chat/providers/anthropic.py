"""Anthropic's messages API.

https://docs.claude.com/en/api/messages-streaming
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
from anthropic import AsyncAnthropic, DefaultAioHttpClient
from anthropic.types import (
    MessageParam,
    TextBlockParam,
    ToolParam,
    ToolResultBlockParam,
    ToolUseBlockParam,
)

from functions.chat import limits
from functions.chat.providers import (
    Event,
    Finished,
    FinishReason,
    Message,
    Opened,
    Prompt,
    Text,
    ToolCall,
    ToolCallStarted,
    Usage,
    parsed_arguments,
)
from functions.chat.providers.faults import Faults
from functions.chat.providers.sse import events
from functions.chat.settings import ChatSettings
from functions.common.errors import ProviderError
from functions.common.provider_account import drop_environment_account
from functions.common.vault import PlainKey

REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "tool_use": "tool-calls",
}


@dataclass(slots=True)
class PartialCall:
    """A tool call while its arguments arrive."""

    id: str
    name: str
    arguments: str = ""


class Anthropic:
    """Claude models, over one connection pool."""

    def __init__(self, client: AsyncAnthropic) -> None:
        self._client = client

    async def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        """See Provider.stream."""
        client = self._client
        if own_key is not None:
            # Another key on the same connections.
            client = client.with_options(api_key=own_key.reveal())
            drop_environment_account(client)
        # Tools and the system prompt are the same for everyone: read from the cache they cost a tenth.
        system: list[TextBlockParam] = [
            {"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": prompt.situation},
        ]
        tools: list[ToolParam] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in prompt.tools
        ]
        faults = Faults(anthropic, "Anthropic", own_account=own_key is not None)
        with faults.translated():
            async with client.messages.with_streaming_response.create(
                model=prompt.model,
                max_tokens=prompt.max_output_tokens,
                system=system,
                messages=[to_param(message) for message in prompt.messages],
                tools=tools,
                tool_choice={"type": "auto"} if prompt.may_call else {"type": "none"},
                stream=True,
            ) as response:
                yield Opened()
                usage: Mapping[str, Any] = {}
                reason: str | None = None
                calls: dict[int, PartialCall] = {}
                async for event in events(response.iter_bytes()):
                    match event.get("type"):
                        case "message_start":
                            usage = event["message"]["usage"]
                            yield usage_of(usage)
                        case "content_block_start" if event["content_block"]["type"] == "tool_use":
                            block = event["content_block"]
                            calls[event["index"]] = PartialCall(block["id"], block["name"])
                            yield ToolCallStarted(block["id"], block["name"])
                        case "content_block_delta" if event["delta"]["type"] == "text_delta":
                            yield Text(event["delta"]["text"])
                        case "content_block_delta" if event["delta"]["type"] == "input_json_delta":
                            calls[event["index"]].arguments += event["delta"]["partial_json"]
                        case "content_block_stop" if event["index"] in calls:
                            call = calls[event["index"]]
                            yield ToolCall(call.id, call.name, call.arguments)
                        case "message_delta":
                            reason = event["delta"].get("stop_reason") or reason
                            counts = {name: count for name, count in event["usage"].items() if count is not None}
                            usage = {**usage, **counts}
                            yield usage_of(usage)
                        case "message_stop":
                            break
                        case "error":
                            raise faults.from_event(event["error"].get("type"))
                if reason is None:
                    raise ProviderError  # The stream ended without a reason, so the answer may be incomplete.
                yield Finished(REASONS.get(reason, "other"))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def to_param(message: Message) -> MessageParam:
    """A message in Anthropic's format: tool results belong to the user. Anthropic rejects empty texts."""
    if message.role == "assistant":
        return {"role": "assistant", "content": list(_assistant_blocks(message))}
    if message.role == "user":
        return {"role": "user", "content": message.text}
    results: list[ToolResultBlockParam] = [
        {"type": "tool_result", "tool_use_id": result.id, "content": result.text, "is_error": result.is_error}
        for result in message.results
    ]
    return {"role": "user", "content": results}


def _assistant_blocks(message: Message) -> Iterator[TextBlockParam | ToolUseBlockParam]:
    if message.text.strip():
        yield {"type": "text", "text": message.text}
    for call in message.calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": parsed_arguments(call) or {}}


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """The tokens of Anthropic's usage object. Anthropic's input excludes cached tokens; ours includes them."""
    cache_read = usage.get("cache_read_input_tokens") or 0
    cache_write = usage.get("cache_creation_input_tokens") or 0
    return Usage(
        tokens_input=(usage.get("input_tokens") or 0) + cache_read + cache_write,
        tokens_output=usage.get("output_tokens") or 0,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
    )


def connect(settings: ChatSettings) -> Anthropic:
    """The provider with the platform's account."""
    timeout = httpx2.Timeout(limits.PROVIDER_SILENCE_S, connect=limits.PROVIDER_CONNECT_S)
    return Anthropic(
        AsyncAnthropic(
            api_key=settings.platform_key("anthropic"),
            base_url=settings.anthropic_base_url,
            timeout=timeout,
            max_retries=0,
            http_client=DefaultAioHttpClient(timeout=timeout),
        )
    )
