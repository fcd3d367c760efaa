"""OpenAI's Responses API. Nothing is stored at OpenAI (`store=False`).

https://platform.openai.com/docs/api-reference/responses-streaming
"""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from functions.chat.providers import (
    Event,
    Finished,
    Message,
    Opened,
    Prompt,
    Text,
    Usage,
    counted,
    parsed_arguments,
)
from functions.chat.providers.calls import PartialCall, arguments_of, dict_of, text_of
from functions.chat.providers.faults import Faults
from functions.chat.providers.http import HEADERS, Http, Serialized, bearer, dumps
from functions.chat.providers.sse import events
from functions.chat.settings import ChatSettings
from functions.chat.tools import Definition
from functions.common.errors import AppError, ProviderError
from functions.common.vault import PlainKey

if TYPE_CHECKING:  # importing the SDK takes a second
    from openai.types.responses import FunctionToolParam, ResponseInputItemParam

API_URL = "https://api.openai.com/v1"
# OpenAI and the gateways with its format accept any id that they have sent.
IDS = re.compile("[!-~]{1,64}")


class Response:
    """Reads the events of one response."""

    def __init__(self, faults: Faults) -> None:
        self.is_complete = False
        self.failure: AppError | None = None
        self._faults = faults
        self._refuses = False
        self._calls: list[tuple[PartialCall, set[Any]]] = []  # that have not ended, with the names of their items
        self._place: tuple[Any, Any] | None = None  # of the last piece of arguments
        self._written: tuple[PartialCall, set[Any]] | None = None  # the call of that piece

    def read(self, event: Mapping[str, Any]) -> Sequence[Event]:
        """What an event means that is no text. Unknown ones mean nothing."""
        match event["type"]:
            case "response.refusal.delta":
                self._refuses = True
                return (Text(text_of(event.get("delta"))),)
            case "response.function_call_arguments.delta":
                place = (event.get("output_index"), event.get("item_id"))
                if place != self._place:  # most follow another one of their call
                    self._place, self._written = place, self._known(_names(event, {}))
                if self._written:
                    self._written[0].pieces += text_of(event.get("delta"))
            case "response.output_item.added" if item := _called(event):
                call = _call(item)
                self._calls.append((call, _names(event, item)))
                self._place = None
                return (call.started(),)
            case "response.output_item.done" if item := _called(event):
                return self._end_call(_names(event, item), item)
            case "response.completed" | "response.incomplete" as kind:
                return self._end(kind, dict_of(event.get("response")))
            case "response.failed":
                self.failure = self._faults.from_event(event.get("response"))
                return (usage_of(dict_of(event.get("response"))),)
            case "error":
                self.failure = self._faults.from_event(event)  # documented as flat, but sent nested
        return ()

    def _known(self, names: set[Any]) -> tuple[PartialCall, set[Any]] | None:
        """The call with the most of these names. One is not enough: gateways leave out some, and repeat others."""
        known = max(self._calls, key=lambda known: len(known[1] & names), default=None)
        return known if known and known[1] & names else None

    def _end_call(self, names: set[Any], item: Mapping[str, Any]) -> Sequence[Event]:
        known = self._known(names)
        if known:
            self._calls.remove(known)
            self._place = None
        call = known[0] if known else _call(item)
        call.whole = arguments_of(item.get("arguments"))
        return (call.ended(),) if known else (call.started(), call.ended())

    def _end(self, kind: str, response: Mapping[str, Any]) -> Sequence[Event]:
        self.is_complete = True
        reason = dict_of(response.get("incomplete_details")).get("reason")
        if self._refuses or reason == "content_filter":
            return (usage_of(response), Finished("content-filter"))
        if kind == "response.incomplete":
            return (usage_of(response), Finished("length"))
        unended = [call.ended() for call, _ in self._calls]  # whose end was not sent
        return (*unended, usage_of(response), Finished("stop"))


class OpenAI:
    """GPT models."""

    def __init__(self, http: Http, base_url: str, api_key: str) -> None:
        self._http = http
        self._url = f"{base_url}/responses"
        self._headers = {**HEADERS, **bearer(api_key)}
        self._system = Serialized(dumps)
        self._tools = Serialized(_tools)

    async def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        """See Provider.stream."""
        headers = self._headers if own_key is None else {**self._headers, **bearer(own_key.reveal())}
        faults = Faults("openai", own_key is not None, prompt.model)
        async with self._http.post(self._url, headers, self._body(prompt), faults) as chunks:
            yield Opened()
            response = Response(faults)
            async for event in events(chunks):
                # Nearly all events are text.
                if event["type"] == "response.output_text.delta" and isinstance(text := event.get("delta"), str):
                    yield Text(text)
                    continue
                for found in response.read(event):
                    yield found
                if response.failure:
                    raise response.failure
                if response.is_complete:
                    return
            raise ProviderError  # The stream ended without a final event, so the answer may be incomplete.

    def _body(self, prompt: Prompt) -> bytes:
        """The SDK's body, byte by byte, with the parts that are the same for everyone serialized once."""
        items = [item for message in prompt.messages for item in to_items(message)]
        # One string: the part that is the same for everyone is first, because OpenAI caches prefixes automatically.
        instructions = self._system(prompt.system)[:-1] + dumps(f"\n\n{prompt.situation}")[1:]
        return b"".join(
            (
                b'{"model":' + dumps(prompt.model),
                b',"stream":true',
                b',"input":' + dumps(items),
                b',"instructions":' + instructions,
                b',"max_output_tokens":%d' % prompt.max_output_tokens,
                b',"store":false',
                b',"tools":' + self._tools(prompt.tools),
                b',"tool_choice":"auto"}' if prompt.may_call else b',"tool_choice":"none"}',
            )
        )


def _called(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The item of an event if it is a tool call."""
    item = dict_of(event.get("item"))
    return item if item.get("type") == "function_call" else None


def _names(event: Mapping[str, Any], item: Mapping[str, Any]) -> set[Any]:
    """What the events of an item may have in common. Items without all of this are taken for the same one."""
    names = (event.get("output_index"), event.get("item_id"), item.get("id"), item.get("call_id"))
    return {name for name in names if isinstance(name, int | str) and name != ""} or {None}


def _call(item: Mapping[str, Any]) -> PartialCall:
    return PartialCall.of(item.get("name"), item.get("call_id"), IDS)


def _tools(tools: Sequence[Definition]) -> bytes:
    params: list[FunctionToolParam] = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": False,
        }
        for tool in tools
    ]
    return dumps(params)


def to_items(message: Message) -> "Iterator[ResponseInputItemParam]":
    """A message as items of OpenAI's input. OpenAI's own ids of calls are left out, because nothing is stored there."""
    if message.role != "tool" and message.text:
        yield {"role": message.role, "content": message.text}
    for call in message.calls:
        arguments = orjson.dumps(parsed_arguments(call) or {}).decode()
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}
    for result in message.results:
        output = orjson.dumps({"error": result.text}).decode() if result.is_error else result.text
        yield {"type": "function_call_output", "call_id": result.id, "output": output}


def usage_of(response: Mapping[str, Any]) -> Usage:
    """The tokens of a response. OpenAI's input includes cached tokens, as ours does."""
    usage = dict_of(response.get("usage"))
    if not counted(usage.get("input_tokens")):  # the chat estimates the whole input
        return Usage(tokens_output=counted(usage.get("output_tokens")))
    details = dict_of(usage.get("input_tokens_details"))
    cache_read, cache_write = counted(details.get("cached_tokens")), counted(details.get("cache_write_tokens"))
    return Usage(
        # A gateway may leave the cached tokens out. The price list refuses more cached tokens than there are.
        tokens_input=max(counted(usage.get("input_tokens")), cache_read + cache_write),
        tokens_output=counted(usage.get("output_tokens")),
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
    )


def connect(settings: ChatSettings, http: Http) -> OpenAI:
    """The provider with the platform's account."""
    return OpenAI(http, settings.openai_base_url or API_URL, settings.platform_key("openai"))
