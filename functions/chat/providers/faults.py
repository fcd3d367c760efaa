"""What went wrong with a provider, as the error that the client gets. Both providers fail in the same few ways."""

from collections.abc import Mapping

from functions.common.errors import AppError, ProviderError, ProviderOverloaded, ProviderTimeout

# In-band codes of both providers that mean: later.
BUSY = frozenset({"overloaded_error", "rate_limit_error", "rate_limit_exceeded", "server_is_overloaded", "slow_down"})
# Longer waits than this are no help to a person.
RETRY_AFTER_LIMIT_S = 120


def with_status(status: int, headers: Mapping[str, str]) -> AppError:
    """An HTTP error: before the answer, or (Anthropic's SDK) an error event within it."""
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


def broken_off() -> AppError:
    """A stream that ended without saying that the answer was complete."""
    return ProviderError()


def unreachable(*, timed_out: bool) -> AppError:
    """A connection that could not be made, went silent or was torn down."""
    return ProviderTimeout() if timed_out else ProviderError()
