"""How the database client sends its requests: what a transport does, and its failure."""

from collections.abc import Mapping
from typing import Protocol

CONNECT_TIMEOUT_S = 1.0
KEEP_ALIVE_S = 30.0  # for how long an idle connection is used again


class NoResponseError(Exception):
    """No response arrived in time. The request may have been carried out, or still be. The message names the cause."""


class Transport(Protocol):
    """Keeps connections open between requests. Follows no redirect: the other host would receive the API key."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, background: bool
    ) -> tuple[int, bytes]:
        """The status and the content of the response. Raises NoResponseError, after `timeout_s` at the latest."""

    async def close(self) -> None:
        """Close the connections."""
