"""How the database client sends its requests: what a transport does, and its two failures."""

from collections.abc import Mapping
from typing import Protocol

CONNECT_TIMEOUT_S = 1.0
KEEP_ALIVE_S = 30.0  # for how long an idle connection is used again


class NotSentError(Exception):
    """There is no connection, so the request has had no effect."""


class NoResponseError(Exception):
    """The request may have been carried out, but its response did not arrive."""


class Transport(Protocol):
    """Keeps connections open between requests. Follows no redirect: the other host would receive the API key."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, background: bool
    ) -> tuple[int, bytes]:
        """The status and the content of the response. The caller cancels after `timeout_s`.

        Raises NotSentError, NoResponseError.
        """

    async def close(self) -> None:
        """Close the connections."""
