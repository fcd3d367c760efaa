"""Anthropic's messages API.

https://docs.claude.com/en/api/messages-streaming
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anthropic
import httpx2
from anthropic import AsyncAnthropic, DefaultAioHttpClient
from anthropic.types import MessageParam

from functions.chat import limits
from functions.chat.providers import Event, Finished, FinishReason, Opened, Prompt, Text, Usage
from functions.chat.providers.faults import Faults
from functions.chat.providers.sse import events
from functions.chat.settings import ChatSettings
from functions.common.errors import ProviderError
from functions.common.vault import PlainKey

REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "tool_use": "tool-calls",
}


class Anthropic:
    """Claude models, over one connection pool."""

    def __init__(self, client: AsyncAnthropic) -> None:
        self._client = client

    async def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        """See Provider.stream."""
        messages: list[MessageParam] = [
            ({"role": "assistant", "content": text} if role == "assistant" else {"role": "user", "content": text})
            for role, text in prompt.messages
        ]
        client = self._client
        if own_key is not None:
            # Another key on the same connections, and nothing that the environment says of the platform's account.
            client = client.with_options(api_key=own_key.reveal())
            client.auth_token = None
        faults = Faults(anthropic, "Anthropic", own_account=own_key is not None)
        with faults.named():
            async with client.messages.with_streaming_response.create(
                model=prompt.model,
                max_tokens=prompt.max_output_tokens,
                # The prompt's beginning is the same for everyone: its cache is read at a tenth of the price.
                system=[{"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}}],
                messages=messages,
                stream=True,
            ) as response:
                yield Opened()
                usage: dict[str, Any] = {}
                reason: str | None = None
                async for event in events(response.iter_bytes()):
                    match event.get("type"):
                        case "message_start":
                            usage = event["message"]["usage"]
                            yield tokens(usage)
                        case "content_block_delta" if event["delta"]["type"] == "text_delta":
                            yield Text(event["delta"]["text"])
                        case "message_delta":
                            reason = event["delta"].get("stop_reason") or reason
                            usage |= {name: count for name, count in event["usage"].items() if count is not None}
                            yield tokens(usage)
                        case "message_stop":
                            break
                        case "error":
                            raise faults.in_band(event["error"].get("type"))
                if reason is None:
                    raise ProviderError  # it ended without saying that it was complete
                yield Finished(REASONS.get(reason, "other"))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def tokens(usage: Mapping[str, Any]) -> Usage:
    """Anthropic counts cached tokens beside the input; we count them within it."""
    cache_read = usage.get("cache_read_input_tokens") or 0
    cache_write = usage.get("cache_creation_input_tokens") or 0
    return Usage(
        tokens_input=(usage.get("input_tokens") or 0) + cache_read + cache_write,
        tokens_output=usage.get("output_tokens") or 0,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
    )


def connect(settings: ChatSettings) -> Anthropic:
    """The platform's own account."""
    timeout = httpx2.Timeout(limits.PROVIDER_SILENCE_S, connect=limits.PROVIDER_CONNECT_S)
    return Anthropic(
        AsyncAnthropic(
            api_key=settings.anthropic_api_key.get_secret_value(),
            base_url=settings.anthropic_base_url,
            timeout=timeout,
            max_retries=0,
            http_client=DefaultAioHttpClient(timeout=timeout),
        )
    )
