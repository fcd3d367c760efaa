"""Anthropic's messages API.

https://docs.claude.com/en/api/messages-streaming
"""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from functions.chat.providers import (
    Event,
    Finished,
    FinishReason,
    Message,
    Opened,
    Prompt,
    Text,
    Usage,
    counted,
    is_count,
    parsed_arguments,
)
from functions.chat.providers.calls import PartialCall, arguments_of, dict_of, text_of
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

# Anthropic refuses other ids in a history.
IDS = re.compile("[a-zA-Z0-9_-]{1,64}")
# All others mean that the model has ended its turn. Whether it called tools is known from the calls.
REASONS: Mapping[str | None, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "content_filter": "content-filter",  # of gateways
}


class Response:
    """Reads the events of one response."""

    def __init__(self, faults: Faults) -> None:
        self.is_complete = False
        self._faults = faults
        self._usage: dict[str, Any] = {}
        self._reason: str | None = None
        self._calls: dict[Any, PartialCall] = {}  # by the index of their block

    def read(self, event: Mapping[str, Any]) -> Sequence[Event]:
        """What an event means that is no text. Unknown ones mean nothing."""
        match event["type"]:
            case "content_block_delta":
                if call := self._calls.get(_index(event)):
                    call.pieces += text_of(dict_of(event.get("delta")).get("partial_json"))
            case "content_block_start" if block := dict_of(event.get("content_block")):
                return (*self._end_block(_index(event)), *self._start_block(_index(event), block))
            case "content_block_stop":
                return self._end_block(_index(event))
            case "message_start":
                usage = dict_of(dict_of(event.get("message")).get("usage"))
                # Its output is what was written so far. If the end has none, the chat estimates it.
                return (self._count({**usage, "output_tokens": None}),)
            case "message_delta":
                self._reason = text_of(dict_of(event.get("delta")).get("stop_reason")) or self._reason
                return (self._count(dict_of(event.get("usage"))),)
            case "message_stop":
                self.is_complete = True
            case "error":
                raise self._faults.from_event(event)
        return ()

    def end(self) -> Iterator[Event]:
        """What the end of the stream means. Raises ProviderError if the answer may be incomplete."""
        if self._reason is None and not self.is_complete:
            raise ProviderError
        reason = REASONS.get(self._reason, "stop")
        if reason == "stop":
            for call in self._calls.values():  # whose end was not sent
                yield call.ended()
        yield Finished(reason)

    def _start_block(self, index: Any, block: Mapping[str, Any]) -> Sequence[Event]:
        if block.get("type") == "tool_use":
            call = self._calls[index] = PartialCall.of(block.get("name"), block.get("id"), IDS)
            call.whole = arguments_of(block.get("input"))
            return (call.started(),)
        text = text_of(block.get("text"))
        return (Text(text),) if text else ()

    def _end_block(self, index: Any) -> Sequence[Event]:
        # Also where another block starts at the index: gateways leave out ends, and use one index for all blocks.
        call = self._calls.pop(index, None)
        return (call.ended(),) if call else ()

    def _count(self, usage: Mapping[str, Any]) -> Usage:
        self._usage |= {name: count for name, count in usage.items() if is_count(count)}
        return usage_of(self._usage)


def _index(event: Mapping[str, Any]) -> int | None:
    index = event.get("index")
    return index if isinstance(index, int) else None


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
        faults = Faults("anthropic", own_key is not None, prompt.model)
        async with self._http.post(self._url, headers, self._body(prompt), faults) as chunks:
            yield Opened()
            response = Response(faults)
            async for event in events(chunks):
                # Nearly all events are text.
                if (
                    event["type"] == "content_block_delta"
                    and type(delta := event.get("delta")) is dict
                    and type(text := delta.get("text")) is str
                ):
                    yield Text(text)
                    continue
                for found in response.read(event):
                    yield found
                if response.is_complete:
                    break
            for found in response.end():
                yield found

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
    if "input_tokens" not in usage:  # the chat estimates the whole input
        return Usage(tokens_output=counted(usage.get("output_tokens")))
    cache_read = counted(usage.get("cache_read_input_tokens"))
    cache_write = counted(usage.get("cache_creation_input_tokens"))
    return Usage(
        tokens_input=counted(usage.get("input_tokens")) + cache_read + cache_write,
        tokens_output=counted(usage.get("output_tokens")),
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
    )


def connect(settings: ChatSettings, http: Http) -> Anthropic:
    """The provider with the platform's account."""
    return Anthropic(http, settings.anthropic_base_url or API_URL, settings.platform_key("anthropic"))
