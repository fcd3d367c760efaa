"""Failures of a provider as errors for the client. Both providers fail in the same few ways.

On the user's own account the user can repair some of them: a key that is not accepted, an account without credit or at
its rate limit. On the platform's account the client is not shown the reason.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from functions.chat import limits
from functions.common.errors import (
    AppError,
    ByokBalanceExhausted,
    ByokKeyRejected,
    ModelGone,
    PromptRefused,
    ProviderDown,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    TooManyRequests,
)
from functions.common.provider_keys import is_rejected

# Codes of error events of both providers that mean: try again later.
LIMITED = frozenset({"rate_limit_error", "rate_limit_exceeded"})
BUSY = LIMITED | {"overloaded_error", "server_is_overloaded", "slow_down"}
# ... that mean: no credit. Anthropic reports missing credit in the message only.
NO_CREDIT = frozenset({"insufficient_quota", "billing_error", "billing_hard_limit_reached"})
NO_CREDIT_WORDS = "credit balance"
# ... that mean: this model is retired, or not for this account. Anthropic has one code for all that is not found.
MODEL_GONE = "model_not_found"
NOT_FOUND = "not_found_error"
# ... that mean: the prompt is too long, or not allowed. Anthropic reports most of them in the message only.
TOO_LONG = frozenset({"context_length_exceeded", "request_too_large"})
TOO_LONG_WORDS = ("prompt is too long", "context limit", "context window", "maximum context length")
FILTERED = frozenset({"invalid_prompt", "content_policy_violation", "content_filter"})
FILTERED_WORDS = ("content filtering policy", "usage policy")


@dataclass(frozen=True, slots=True)
class Faults:
    """Translates the failures of one request. Their classes are those of the SDKs' errors: tests compare both.

    `own_account`: whether the user's own key is used.
    """

    provider: str
    own_account: bool
    model: str

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise failures of the connection and of an event's format as errors of common.errors.

        Without the cause: it may contain the request with its key.
        """
        try:
            yield
        except TimeoutError:
            raise ProviderTimeout from None
        except (aiohttp.ClientError, OSError):
            raise ProviderDown from None
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ProviderError from None  # an event in another format than documented

    def from_response(self, status: int, headers: Mapping[str, str], text: str) -> AppError:
        """The error for a response that is no success."""
        return self.from_status(status, headers, *code_and_message(_parsed(text)))

    def from_status(self, status: int, headers: Mapping[str, str], code: str, message: str) -> AppError:
        """The error for an HTTP status, before the answer. `code` and `message` are the provider's."""
        wait = headers.get("retry-after", "")
        seconds = int(wait) if wait.isdigit() and int(wait) <= limits.RETRY_AFTER_LIMIT_S else None
        if self.own_account:
            if status == 402 or code in NO_CREDIT or NO_CREDIT_WORDS in message.lower():
                return self._no_credit()
            if status == 429:
                return self._limited(seconds)
        if code == MODEL_GONE or (status == 404 and code == NOT_FOUND and "model" in message.lower()):
            return self._model_gone()
        if self.own_account and is_rejected(status, code, message):
            return self._not_accepted()
        if self.own_account and status in (401, 403):
            return self._not_permitted()
        if refused := _prompt_refused(code, message):
            return refused
        if status in (408, 504):
            return ProviderTimeout()
        if status in (429, 503, 529):
            return ProviderOverloaded(retry_after=seconds)
        return ProviderDown() if status >= 500 else ProviderError()

    def from_event(self, error: Any) -> AppError:
        """The error for an error event within an answer. `error` has the code and the message."""
        code, message = code_and_message(error)
        if self.own_account:
            if code in NO_CREDIT:
                return self._no_credit()
            if is_rejected(0, code, message):
                return self._not_accepted()
            if code in LIMITED:
                return self._limited(None)
        if refused := _prompt_refused(code, message):
            return refused
        return ProviderOverloaded() if code in BUSY else ProviderError()

    def _not_accepted(self) -> AppError:
        return ByokKeyRejected(provider=self.provider)

    def _not_permitted(self) -> AppError:
        return ProviderError("byok_not_permitted", provider=self.provider)

    def _model_gone(self) -> AppError:
        reason = "byok_model_gone" if self.own_account else "model_gone"
        return ModelGone(reason, provider=self.provider, model=self.model)

    def _no_credit(self) -> AppError:
        return ByokBalanceExhausted(provider=self.provider)

    def _limited(self, seconds: int | None) -> AppError:
        return TooManyRequests("byok_rate_limited", retry_after=seconds, provider=self.provider)


def _prompt_refused(code: str, message: str) -> PromptRefused | None:
    """The error if the provider refuses the prompt itself; None for all other failures."""
    words = message.lower()
    if code in TOO_LONG or any(phrase in words for phrase in TOO_LONG_WORDS):
        return PromptRefused("length")
    if code in FILTERED or any(phrase in words for phrase in FILTERED_WORDS):
        return PromptRefused("content-filter")
    return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text.strip())
    except (ValueError, RecursionError):
        return None


def code_and_message(body: Any) -> tuple[str, str]:
    """The code and the message of an error's body, which both providers nest in `error`; empty where it has none."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        return "", ""
    return str(inner.get("code") or inner.get("type") or ""), str(inner.get("message") or "")
