"""Anthropic's messages API.

https://docs.claude.com/en/api/messages-streaming
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from functions.chat.providers.http import HEADERS, Http, Serialized, bearer, dumps
from functions.chat.providers.sse import events
from functions.chat.settings import ChatSettings
from functions.chat.tools import Definition
from functions.common.errors import ProviderError
from functions.common.vault import PlainKey

if TYPE_CHECKING:  # importing the SDK takes a second
    from anthropic.types import MessageParam, TextBlockParam, ToolParam, ToolResultBlockParam, ToolUseBlockParam

API_URL = "https://api.anthropic.com"
API_VERSION = "2026-10-21"  # the SDK's

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
    """Claude models."""

    def __init__(self, http: Http, base_url: str, api_key: str) -> None:
        self._http = http
        self._url = f"{base_url}/v1/messages"
        self._headers = {**HEADERS, "anthropic-version": API_VERSION, **bearer(api_key)}
        self._system = Serialized(_system)
        self._tools = Serialized(_tools)

    async def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        """See Provider.stream."""
        headers = self._headers if own_key is None else {**self._headers, **bearer(own_key.reveal())}
        faults = Faults("Anthropic", own_account=own_key is not None)
        async with self._http.post(self._url, headers, self._body(prompt), faults) as chunks:
            yield Opened()
            usage: Mapping[str, Any] = {}
            reason: str | None = None
            calls: dict[int, PartialCall] = {}
            async for event in events(chunks):
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
                        raise faults.from_event(event["error"].get("type"), event["error"].get("message"))
            if reason is None:
                raise ProviderError  # The stream ended without a reason, so the answer may be incomplete.
            yield Finished(REASONS.get(reason, "other"))

    def _body(self, prompt: Prompt) -> bytes:
        """The SDK's body, byte by byte, with the parts that are the same for everyone serialized once."""
        return b"".join(
            (
                b'{"max_tokens":%d' % prompt.max_output_tokens,
                b',"messages":' + dumps([to_param(message) for message in prompt.messages]),
                b',"model":' + dumps(prompt.model),
                b',"stream":true',
                b',"system":[' + self._system(prompt.system) + b"," + dumps(_text(prompt.situation)) + b"]",
                b',"tool_choice":{"type":"auto"}' if prompt.may_call else b',"tool_choice":{"type":"none"}',
                b',"tools":' + self._tools(prompt.tools) + b"}",
            )
        )


def _text(text: str) -> "TextBlockParam":
    return {"type": "text", "text": text}


def _system(text: str) -> bytes:
    # Tools and the system prompt are the same for everyone: read from the cache they cost a tenth.
    return dumps({**_text(text), "cache_control": {"type": "ephemeral"}})


def _tools(tools: Sequence[Definition]) -> bytes:
    params: list[ToolParam] = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.parameters} for tool in tools
    ]
    return dumps(params)


def to_param(message: Message) -> "MessageParam":
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


def _assistant_blocks(message: Message) -> "Iterator[TextBlockParam | ToolUseBlockParam]":
    if message.text.strip():
        yield _text(message.text)
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


def connect(settings: ChatSettings, http: Http) -> Anthropic:
    """The provider with the platform's account."""
    return Anthropic(http, settings.anthropic_base_url or API_URL, settings.platform_key("anthropic"))
