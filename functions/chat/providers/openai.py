"""OpenAI's Responses API. Nothing is stored at OpenAI (`store=False`).

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import httpx2
import openai
import orjson
from openai import AsyncOpenAI, DefaultAioHttpClient
from openai.types.responses import EasyInputMessageParam, FunctionToolParam, ResponseInputItemParam
from openai.types.responses.response_input_item_param import FunctionCallOutput

from functions.chat import limits
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
from functions.chat.providers.sse import events
from functions.chat.settings import ChatSettings
from functions.common.errors import ProviderError
from functions.common.provider_account import drop_environment_account
from functions.common.vault import PlainKey


class OpenAI:
    """GPT models, over one connection pool."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        """See Provider.stream."""
        client = self._client
        if own_key is not None:
            # Another key on the same connections.
            client = client.with_options(api_key=own_key.reveal())
            drop_environment_account(client)
        tools: list[FunctionToolParam] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": False,
            }
            for tool in prompt.tools
        ]
        faults = Faults(openai, "OpenAI", own_account=own_key is not None)
        with faults.translated():
            async with client.responses.with_streaming_response.create(
                model=prompt.model,
                max_output_tokens=prompt.max_output_tokens,
                # The part that is the same for everyone is first: OpenAI caches prefixes automatically.
                instructions=f"{prompt.system}\n\n{prompt.situation}",
                input=[item for message in prompt.messages for item in to_items(message)],
                # In extra_body, because the SDK's processing of the tools' schemas takes 4 ms a request.
                extra_body={"tools": tools, "tool_choice": "auto" if prompt.may_call else "none"},
                store=False,
                stream=True,
            ) as response:
                yield Opened()
                has_calls = False
                async for event in events(response.iter_bytes()):
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
                            raise faults.from_event((event["response"].get("error") or {}).get("code"))
                        case "error":
                            # Documented as a flat object, but sent nested.
                            raise faults.from_event((event.get("error") or event).get("code"))
                raise ProviderError  # The stream ended without a final event, so the answer may be incomplete.

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def to_items(message: Message) -> Iterator[ResponseInputItemParam]:
    """A message as items of OpenAI's input. OpenAI's own ids of calls are left out, because nothing is stored there."""
    if message.role != "tool" and message.text:
        yield EasyInputMessageParam(role=message.role, content=message.text)
    for call in message.calls:
        arguments = orjson.dumps(parsed_arguments(call) or {}).decode()
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}
    for result in message.results:
        output = orjson.dumps({"error": result.text}).decode() if result.is_error else result.text
        yield FunctionCallOutput(type="function_call_output", call_id=result.id, output=output)


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


def connect(settings: ChatSettings) -> OpenAI:
    """The provider with the platform's account."""
    timeout = httpx2.Timeout(limits.PROVIDER_SILENCE_S, connect=limits.PROVIDER_CONNECT_S)
    return OpenAI(
        AsyncOpenAI(
            api_key=settings.platform_key("openai"),
            base_url=settings.openai_base_url,
            timeout=timeout,
            max_retries=0,
            http_client=DefaultAioHttpClient(timeout=timeout),
        )
    )
