"""What went wrong with a provider, as the error that the client gets. Both providers fail in the same few ways."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import httpx2

from functions.common.errors import AppError, ProviderError, ProviderOverloaded, ProviderTimeout

# In-band codes of both providers that mean: later.
BUSY = frozenset({"overloaded_error", "rate_limit_error", "rate_limit_exceeded", "server_is_overloaded", "slow_down"})
# Longer waits than this are no help to a person.
RETRY_AFTER_LIMIT_S = 120


@contextmanager
def named(sdk: ModuleType) -> Iterator[None]:
    """What the SDK (anthropic or openai: they name their errors alike) or its transport raises, as our error."""
    try:
        yield
    except sdk.APIStatusError as error:
        raise with_status(error.status_code, error.response.headers) from error
    except (sdk.APITimeoutError, httpx2.TimeoutException) as error:
        raise ProviderTimeout from error
    except (sdk.APIConnectionError, httpx2.TransportError) as error:
        raise ProviderError from error


def with_status(status: int, headers: Mapping[str, str]) -> AppError:
    """An HTTP error, before the answer."""
    if status in (408, 504):
        return ProviderTimeout()
    if status in (429, 503, 529):
        wait = headers.get("retry-after", "")
        seconds = int(wait) if wait.isdigit() else None
        if seconds is not None and seconds > RETRY_AFTER_LIMIT_S:
            seconds = None
        return ProviderOverloaded(retry_after=seconds)
    return ProviderError()


def in_band(code: str | None) -> AppError:
    """An error event in the middle of an answer."""
    return ProviderOverloaded() if code in BUSY else ProviderError()
