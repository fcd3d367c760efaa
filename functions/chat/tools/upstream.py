"""HTTP client for other organizations' servers: one request at a time, an identifying user agent, cached responses.

openparliament.ca answers concurrent requests with 429, so requests to one host are serialized across all turns of this
process. Each request checks the cache again after it has waited, so ten identical requests make one call. Failures are
sentences that name the service and nothing internal.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeVar

import httpx
from cachetools import TTLCache

from functions.chat import limits
from functions.chat.settings import PRODUCT
from functions.chat.tools.base import NotFound, ToolError

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 8.0  # a slow list of 500 records takes two or three seconds
MAX_REDIRECTS = 3  # a missing slash, a renamed page
# At most one retry, and only after a short pause: the model is waiting.
RETRY_PAUSE_S = 0.5
MAX_RETRY_AFTER_S = 2.0

T = TypeVar("T")


class _Busy(Exception):
    """The server asks for a retry after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class ResponseCache:
    """Response bodies by URL, at most `entries` and at most `size` bytes, each for `seconds`.

    Drops the least recently used first. Stores bytes, so the size is exact and no caller can change another's result.
    """

    def __init__(self, entries: int, size: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._entries = entries
        # The URL is part of the value because only the value counts towards the size.
        self._bodies: TTLCache[str, tuple[str, bytes]] = TTLCache(
            size, seconds, now, getsizeof=lambda entry: len(entry[0]) + len(entry[1])
        )

    def __len__(self) -> int:
        return len(self._bodies)

    @property
    def size(self) -> int:
        """The bytes of all URLs and bodies."""
        return int(self._bodies.currsize)

    def get(self, url: str) -> bytes | None:
        """The body, or None where it is missing or too old."""
        entry = self._bodies.get(url)
        return None if entry is None else entry[1]

    def put(self, url: str, body: bytes) -> None:
        """Store a body. One that is larger than the whole cache is not stored."""
        if len(url) + len(body) > self._bodies.maxsize:
            return
        self._bodies[url] = (url, body)
        while len(self._bodies) > self._entries:
            self._bodies.popitem()


class Upstream:
    """Reads from other hosts. Share one instance: it holds the locks, the cache and the connections."""

    def __init__(self, contact: str) -> None:
        self._contact = contact
        self.cache = ResponseCache(limits.TOOL_CACHE_ENTRIES, limits.TOOL_CACHE_BYTES, limits.TOOL_CACHE_S)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        """Created on first use: it loads certificates for 0.1 s, too long for a cold start."""
        return httpx.AsyncClient(
            headers={"user-agent": f"{PRODUCT} ({self._contact})", "api-version": "v1"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=10, keepalive_expiry=30),
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        if "_http" in vars(self):
            await self._http.aclose()

    async def get(
        self,
        service: str,
        url: str,
        parse: Callable[[bytes], T],
        params: Mapping[str, str | int] | None = None,
        accept: str = "application/json",
    ) -> T:
        """The parsed response of the URL. `parse` raises ValueError for an invalid response, which is not cached.

        Raises NotFound for a 404, and ToolError with a sentence that names the `service` for every other failure.
        """
        try:
            request = self._http.build_request("GET", url, params=params, headers={"accept": accept})
        except httpx.InvalidURL as error:
            raise ToolError(f"{service} returned an invalid address.") from error
        key = str(request.url)
        body = self.cache.get(key)
        if body is not None:
            return parse(body)
        # openparliament.ca and api.openparliament.ca are one server.
        async with self._locks[request.url.netloc.decode().removeprefix("api.")]:
            body = self.cache.get(key)
            if body is not None:
                return parse(body)
            body = await self._send_with_retry(service, request)
            try:
                parsed = parse(body)
            except ValueError as error:
                raise ToolError(f"{service} returned a response that cannot be read.") from error
            self.cache.put(key, body)
            return parsed

    async def _send_with_retry(self, service: str, request: httpx.Request) -> bytes:
        """Send the request, and once more where a retry may help."""
        pause = RETRY_PAUSE_S
        for can_retry in (True, False):
            try:
                return await self._send(service, request)
            except _Busy as busy:
                if not can_retry or busy.seconds > MAX_RETRY_AFTER_S:
                    raise ToolError(f"{service} is too busy at the moment.") from None
                pause = busy.seconds
            except httpx.TimeoutException as error:
                raise ToolError(f"{service} did not answer in time.") from error
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                if not can_retry:
                    raise ToolError(f"{service} cannot be reached at the moment.") from error
            except httpx.HTTPError as error:
                raise ToolError(f"{service} returned a response that cannot be read.") from error
            await asyncio.sleep(pause)
        raise AssertionError("the second attempt returns or raises")

    async def _send(self, service: str, request: httpx.Request) -> bytes:
        """Send the request and follow redirects within its origin."""
        origin = _origin(request.url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._http.send(request, stream=True)
            try:
                if response.next_request is None:
                    return await self._read_body(service, response)
                request = response.next_request
            finally:
                await response.aclose()
            if _origin(request.url) != origin:
                break
        raise ToolError(f"{service} redirected to another address.")

    async def _read_body(self, service: str, response: httpx.Response) -> bytes:
        match response.status_code:
            case 200:
                pass
            case 404:
                raise NotFound(f"{service} has no such record.")
            case 429 | 503:
                raise _Busy(_retry_after_s(response.headers.get("retry-after")))
            case 400:
                raise ToolError(f"{service} rejected the request.")
            case _:
                raise ToolError(f"{service} failed to answer.")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limits.TOOL_RESPONSE_BYTES:
                raise ToolError(f"{service} returned a response that is too large.")
        return bytes(body)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _retry_after_s(header: str | None) -> float:
    """Retry-After in seconds. A date or an invalid value is infinite: no retry."""
    if header is None:
        return RETRY_PAUSE_S
    return float(header) if header.isascii() and header.isdigit() else float("inf")
