"""The model providers behind one small set of events.

Requests and errors are those of the official SDKs: their types, and tests that compare bytes and errors. The SDKs
themselves are not imported, because their import takes a second and their client and event objects cost more than
everything else in a turn.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

import orjson

from functions.chat.settings import ChatSettings
from functions.chat.tools import Definition
from functions.common import surrogates
from functions.common.vault import PlainKey

# Why an answer ended. "stop": the model had no more to say, or called tools. "limit": at the cost limit of a query;
# only the chat itself ends an answer so.
FinishReason = Literal["stop", "length", "content-filter", "limit"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of the model. `arguments` is the text that it wrote, which should be a JSON object.

    `id` is ours. `given_id` is the provider's, empty where it sent none that it accepts in a later request.
    """

    id: str
    name: str
    arguments: str
    given_id: str = ""


def parsed_arguments(call: ToolCall) -> dict[str, Any] | None:
    """The arguments of a call; None where the model did not write a JSON object that can be stored and sent."""
    try:
        arguments = surrogates.loads(call.arguments or "{}")
        orjson.dumps(arguments)  # refuses what is nested too deeply
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    # Postgres cannot store a null character.
    return arguments if isinstance(arguments, dict) and "\\u0000" not in call.arguments else None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of the call with that id, as text."""

    id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation: the user's text, the assistant's text and calls, or the results of its calls."""

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: Sequence[ToolCall] = ()
    results: Sequence[ToolResult] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to a model. `messages` are oldest first. `system` is the same for everyone, `situation` is not.

    `may_call`: whether the model may call tools in this step.
    """

    model: str
    system: str
    situation: str
    messages: Sequence[Message]
    tools: Sequence[Definition]
    may_call: bool
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The provider accepted the request."""


@dataclass(slots=True)  # not frozen, which would take twice the time for each delta
class Text:
    """More text of the answer."""

    delta: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model started to write a tool call."""

    id: str
    name: str


MOST_TOKENS = 10_000_000  # of one request: no model has a larger context


def is_count(value: Any) -> bool:
    """Whether a value can be a count of tokens. Gateways also send negative and absurd ones."""
    return type(value) in (int, float) and 0 <= value <= MOST_TOKENS


def counted(value: Any) -> int:
    """A provider's count of tokens; zero where it sent none."""
    return int(value) if is_count(value) else 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far; a later event replaces an earlier one. `tokens_input` includes cache reads and cache writes."""

    tokens_input: int = 0
    tokens_output: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.tokens_input + other.tokens_input,
            self.tokens_output + other.tokens_output,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider stated that the answer is complete, and why it ended. Without this event no answer is complete."""

    reason: FinishReason


Event = Opened | Text | ToolCallStarted | ToolCall | Usage | Finished


@dataclass(frozen=True, slots=True)
class Spent:
    """What a query cost the account that paid the provider. `cost_usd` is None where the price is not known."""

    provider: str
    model: str
    usage: Usage
    cost_usd: Decimal | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Spent":
        """From a row of usage_logs."""
        usage = Usage(row["tokens_input"], row["tokens_output"], row["cache_read_tokens"], row["cache_write_tokens"])
        return cls(row["provider"], row["model"], usage, row["cost_usd"])

    def row(self) -> Mapping[str, Any]:
        """`p_usage` of settle_query and release_query."""
        cost_usd = None if self.cost_usd is None else str(self.cost_usd)
        return {"provider": self.provider, "model": self.model, **asdict(self.usage), "cost_usd": cost_usd}


class Provider(Protocol):
    """One model provider."""

    def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        """Ask the model, on the user's own account if `own_key` is given, otherwise on the platform's.

        The first event is Opened, the last is Finished. Raises ProviderError, ProviderDown, ProviderOverloaded or
        ProviderTimeout at any point; with an own key also ByokKeyRejected, ByokBalanceExhausted or TooManyRequests.
        """
        ...


class Providers:
    """The providers by name. `platform`: those with an account of the platform."""

    def __init__(self, settings: ChatSettings) -> None:
        from functions.chat.providers import anthropic, http, openai  # here, because they import this module

        self.platform = settings.platform_providers
        self._http = http.Http()
        self._providers: Mapping[str, Provider] = {
            "anthropic": anthropic.connect(settings, self._http),
            "openai": openai.connect(settings, self._http),
        }

    def get(self, name: str) -> Provider:
        """The provider of that name, "anthropic" or "openai"."""
        return self._providers[name]

    async def close(self) -> None:
        """Close the connections of all providers."""
        await self._http.close()
