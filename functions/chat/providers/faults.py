"""What went wrong with a provider, as the error that the client gets. Both providers fail in the same few ways.

On the user's own account some of it is for them to mend: a key that is not accepted, an account without credit or at
its rate limit. On the platform's account the same is ours, and tells the client nothing about it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import httpx2

from functions.common.errors import (
    AppError,
    ByokBalanceExhausted,
    ByokKeyRejected,
    ProviderDown,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    TooManyRequests,
)

# In-band codes of both providers that mean: later.
LIMITED = frozenset({"rate_limit_error", "rate_limit_exceeded"})
BUSY = LIMITED | {"overloaded_error", "server_is_overloaded", "slow_down"}
# ... that mean: there is no credit, or the key may not. Anthropic says the first in words only.
NO_CREDIT = frozenset({"insufficient_quota", "billing_error", "billing_hard_limit_reached"})
NO_CREDIT_WORDS = "credit balance"
NOT_ACCEPTED = frozenset({"authentication_error", "permission_error", "invalid_api_key", "insufficient_permissions"})
# Longer waits than this are no help to a person.
RETRY_AFTER_LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of one request. `sdk` is anthropic or openai, which name their errors alike; `name` is for people."""

    sdk: ModuleType
    name: str
    own_account: bool

    @contextmanager
    def named(self) -> Iterator[None]:
        """What the SDK or its transport raises, as our error."""
        try:
            yield
        except self.sdk.APIStatusError as error:
            # Without its cause, which holds the request with its key and may quote it.
            raise self.with_status(error.status_code, error.response.headers, *_said(error.body)) from None
        except (self.sdk.APITimeoutError, httpx2.TimeoutException):
            raise ProviderTimeout from None
        except (self.sdk.APIConnectionError, httpx2.TransportError):
            raise ProviderDown from None
        except (KeyError, TypeError, AttributeError):
            raise ProviderError from None  # an event that is not as it is documented

    def with_status(self, status: int, headers: Mapping[str, str], code: str, text: str) -> AppError:
        """An HTTP error, before the answer. `code` and `text` are what the provider said."""
        wait = headers.get("retry-after", "")
        seconds = int(wait) if wait.isdigit() and int(wait) <= RETRY_AFTER_LIMIT_S else None
        if self.own_account:
            if status == 402 or code in NO_CREDIT or NO_CREDIT_WORDS in text.lower():
                return self._no_credit()
            if status in (401, 403):
                return self._not_accepted()
            if status == 429:
                return self._limited(seconds)
        if status in (408, 504):
            return ProviderTimeout()
        if status in (429, 503, 529):
            return ProviderOverloaded(retry_after=seconds)
        return ProviderDown() if status >= 500 else ProviderError()

    def in_band(self, code: str | None) -> AppError:
        """An error event in the middle of an answer."""
        if self.own_account:
            if code in NO_CREDIT:
                return self._no_credit()
            if code in NOT_ACCEPTED:
                return self._not_accepted()
            if code in LIMITED:
                return self._limited(None)
        return ProviderOverloaded() if code in BUSY else ProviderError()

    def _not_accepted(self) -> AppError:
        return ByokKeyRejected(
            f"{self.name} does not accept your own key. Store another one, or delete it to use your plan's queries."
        )

    def _no_credit(self) -> AppError:
        return ByokBalanceExhausted(
            f"Your own {self.name} account has no credit left. Add some there, or delete your key here to use your "
            "plan's queries."
        )

    def _limited(self, seconds: int | None) -> AppError:
        return TooManyRequests(
            f"Your own {self.name} account is at its rate limit. Please try again in a moment.", retry_after=seconds
        )


def _said(body: Any) -> tuple[str, str]:
    """The code and the text of an error's body: Anthropic's is nested, OpenAI's has been unwrapped by its SDK."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        return "", ""
    return str(inner.get("code") or inner.get("type") or ""), str(inner.get("message") or "")
