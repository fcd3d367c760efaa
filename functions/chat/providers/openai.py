"""OpenAI's Responses API. Nothing is stored at OpenAI (`store=False`).

https://platform.openai.com/docs/api-reference/responses-streaming
"""

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
    from openai.types.responses import FunctionToolParam, ResponseInputItemParam

API_URL = "https://api.openai.com/v1"


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
        faults = Faults("OpenAI", own_account=own_key is not None)
        async with self._http.post(self._url, headers, self._body(prompt), faults) as chunks:
            yield Opened()
            has_calls = False
            async for event in events(chunks):
                match event.get("type"):
                    case "response.output_text.delta" | "response.refusal.delta":
                        yield Text(event["delta"])
                    case "response.output_item.added" if event["item"]["type"] == "function_call":
                        yield ToolCallStarted(event["item"]["call_id"], event["item"]["name"])
                    case "response.output_item.done" if event["item"]["type"] == "function_call":
                        has_calls = True
                        call = event["item"]
                        yield ToolCall(call["call_id"], call["name"], call["arguments"])
                    case "response.completed":
                        yield usage_of(event["response"])
                        yield Finished("tool-calls" if has_calls else "stop")
                        return
                    case "response.incomplete":
                        yield usage_of(event["response"])
                        reason = (event["response"].get("incomplete_details") or {}).get("reason")
                        yield Finished("length" if reason == "max_output_tokens" else "content-filter")
                        return
                    case "response.failed":
                        yield usage_of(event["response"])
                        error = event["response"].get("error") or {}
                        raise faults.from_event(error.get("code"), error.get("message"))
                    case "error":
                        # Documented as a flat object, but sent nested.
                        error = event.get("error") or event
                        raise faults.from_event(error.get("code"), error.get("message"))
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
    usage = response.get("usage") or {}
    details = usage.get("input_tokens_details") or {}
    return Usage(
        tokens_input=usage.get("input_tokens") or 0,
        tokens_output=usage.get("output_tokens") or 0,
        cache_read_tokens=details.get("cached_tokens") or 0,
        cache_write_tokens=details.get("cache_write_tokens") or 0,
    )


def connect(settings: ChatSettings, http: Http) -> OpenAI:
    """The provider with the platform's account."""
    return OpenAI(http, settings.openai_base_url or API_URL, settings.platform_key("openai"))
