"""Requests to the providers: one aiohttp session for all providers and accounts.

docs/decisions/0005-provider-streams-are-read-as-bytes.md
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from functions.chat import PRODUCT, limits
from functions.chat.providers.faults import Faults

T = TypeVar("T")

# Of every request. Nothing is compressed, because a compressed stream arrives in larger pieces, which is later.
HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": PRODUCT,
}


def bearer(key: str) -> dict[str, str]:
    """The header that authenticates a request."""
    return {"authorization": f"Bearer {key}"}


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> bytes:
    """JSON with the same bytes as the SDKs send. orjson differs in small floats."""
    return _encoder.encode(value).encode()


class Serialized(Generic[T]):
    """The JSON of a value that hardly ever changes. Serializes it again only if it does."""

    def __init__(self, serialize: Callable[[T], bytes]) -> None:
        self._serialize = serialize
        self._newest: tuple[T, bytes] | None = None

    def __call__(self, value: T) -> bytes:
        """The JSON of `value`. The comparison is fast where `value` or its items are the same objects as before."""
        if self._newest is None or self._newest[0] != value:
            self._newest = (value, self._serialize(value))
        return self._newest[1]


class Http:
    """Sends requests. Share one instance: it owns the connections."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, faults: Faults
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request. Yields the chunks of its successful response.

        Raises what `faults` makes of any other response, and of every failure within the block.
        """
        if self._session is None:  # created here, because it needs the running event loop
            self._session = _session()
        with faults.translated():
            # A redirect is not followed: the other host would receive the key.
            async with self._session.post(
                url, data=body, headers=headers, proxy=_proxy(url), allow_redirects=False
            ) as response:
                del body  # it would stay in memory as long as the stream: 12 KB
                if not 200 <= response.status < 300:
                    text = await response.text(errors="replace")
                    raise faults.from_response(response.status, response.headers, text)
                yield response.content.iter_any()
                await _read_end(response.content)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limits.PROVIDER_CONNECTIONS),
        timeout=aiohttp.ClientTimeout(
            total=None,
            connect=limits.PROVIDER_SILENCE_S,  # with the wait for a free connection
            sock_connect=limits.PROVIDER_CONNECT_S,
            sock_read=limits.PROVIDER_SILENCE_S,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),  # a cookie would link the accounts of different users
    )


async def _read_end(content: aiohttp.StreamReader) -> None:
    """Wait shortly for the end of a response whose last event was read, so that its connection is used again."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(limits.PROVIDER_END_S):
            while not content.at_eof():
                await content.readany()


@lru_cache(maxsize=8)
def _proxy(url: str) -> str | None:
    """The proxy that the environment names for the URL. aiohttp's `trust_env` would look in a thread every time."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
