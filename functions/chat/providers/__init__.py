"""The model providers behind one stream of small events.

The official SDKs build the requests, authenticate and name the errors; the stream's lines are read here, because
building the SDKs' event objects costs more than everything else in a turn. An SDK is imported when first needed:
anthropic alone takes a second.
"""

import asyncio
import gc
import importlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, Protocol

import orjson

from functions.chat.settings import ChatSettings
from functions.chat.tools import Definition
from functions.common.vault import PlainKey

FinishReason = Literal["stop", "length", "content-filter", "tool-calls", "other"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants a tool to be run. `arguments` is what it wrote, which should be a JSON object."""

    id: str
    name: str
    arguments: str


def arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """What a call wants, as a JSON object; None where the model wrote anything else."""
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    return arguments if isinstance(arguments, dict) else None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the call of that id gave, as text."""

    id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A part of the conversation: what a person asks, what the assistant says and calls, or what its calls gave."""

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: Sequence[ToolCall] = ()
    results: Sequence[ToolResult] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked: `messages` oldest first. `system` is the same for everyone, `situation` is not."""

    model: str
    system: str
    situation: str
    messages: Sequence[Message]
    tools: Sequence[Definition]
    may_call: bool
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The provider has accepted the request and will answer."""


@dataclass(frozen=True, slots=True)
class Text:
    """Some more of the answer."""

    delta: str


@dataclass(frozen=True, slots=True)
class ToolCalling:
    """The model has begun to write a call."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far; a later one replaces it. `tokens_input` includes what was read from and written to the cache."""

    tokens_input: int = 0
    tokens_output: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider said explicitly that, and why, the answer is over. Without it no answer is complete."""

    reason: FinishReason


Event = Opened | Text | ToolCalling | ToolCall | Usage | Finished


class Provider(Protocol):
    """One model provider."""

    def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        """Ask, on the user's own account where there is a key, else on the platform's.

        The first event is Opened, the last is Finished. Raises ProviderError, ProviderOverloaded or ProviderTimeout, at
        any point; with an own key ByokKeyRejected, ByokBalanceExhausted and TooManyRequests too.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class Providers:
    """The providers of the platform's own accounts, each made when first needed."""

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self.platform = settings.platform_providers
        self._made: dict[str, Provider] = {}
        self._making = asyncio.Lock()

    async def get(self, name: str) -> Provider:
        """The provider of that name: anthropic or openai."""
        async with self._making:
            if name not in self._made:
                # In a thread: importing an SDK would hold up every other stream of this process.
                module = await asyncio.to_thread(importlib.import_module, f"functions.chat.providers.{name}")
                self._made[name] = module.connect(self._settings)
                gc.freeze()  # what an SDK brings stays, and looking through it again and again takes 200 ms
        return self._made[name]

    async def close(self) -> None:
        """Close the connections of all providers."""
        for provider in self._made.values():
            await provider.close()
