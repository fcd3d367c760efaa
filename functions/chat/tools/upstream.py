"""Other people's servers, asked politely: one call at a time, who we are in every request, nothing asked twice.

openparliament.ca answers concurrent calls with 429, so the calls to one host stand in a line, over all turns of this
process. Whoever comes to the head of it looks into the cache first: ten that ask the same make one call. Failures are
sentences that name the service and nothing else.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeVar

import httpx

from functions.chat import limits
from functions.chat.tools import NotThere, ToolError
from functions.chat.tools.cache import Cache

NAME = "CanadaGPT/0.1"
CONNECT_S = 3.0
SILENCE_S = 8.0  # a slow list of 500 takes two or three
REDIRECTS = 3  # a missing slash, a renamed page
# One more attempt, soon or not at all: the model is waiting.
RETRY_PAUSE_S = 0.5
RETRY_AFTER_S = 2.0

T = TypeVar("T")


class _Busy(Exception):
    """The server asks to come back later, in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Upstream:
    """Reads from other hosts. Share one: it holds the lines, the cache and the connections."""

    def __init__(self, contact: str) -> None:
        self._contact = contact
        self.cache = Cache(limits.TOOL_CACHE_ENTRIES, limits.TOOL_CACHE_BYTES, limits.TOOL_CACHE_S)
        self._lines: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        """Made when first needed: it reads certificates for a tenth of a second, and a cold start has none to spare."""
        return httpx.AsyncClient(
            headers={"user-agent": f"{NAME} ({self._contact})", "api-version": "v1"},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=10, keepalive_expiry=30),
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        if "_http" in vars(self):
            await self._http.aclose()

    async def read(
        self,
        service: str,
        url: str,
        parse: Callable[[bytes], T],
        params: Mapping[str, str | int] | None = None,
        accept: str = "application/json",
    ) -> T:
        """What is at the address. `parse` raises ValueError for what it cannot read, which is then not kept.

        Raises NotThere, or ToolError with a sentence that names the `service`.
        """
        try:
            request = self._http.build_request("GET", url, params=params, headers={"accept": accept})
        except httpx.InvalidURL as error:
            raise ToolError(f"{service} gave an address that cannot be read.") from error
        key = str(request.url)
        body = self.cache.get(key)
        if body is not None:
            return parse(body)
        # A site and its API are one host to whoever counts our calls.
        async with self._lines[request.url.netloc.decode().removeprefix("api.")]:
            body = self.cache.get(key)
            if body is not None:
                return parse(body)
            body = await self._ask(service, request)
            try:
                parsed = parse(body)
            except ValueError as error:
                raise ToolError(f"{service} sent something that cannot be read.") from error
            self.cache.put(key, body)
            return parsed

    async def _ask(self, service: str, request: httpx.Request) -> bytes:
        """Send it, and once more where that may help."""
        pause = RETRY_PAUSE_S
        for again in (True, False):
            try:
                return await self._send(service, request)
            except _Busy as busy:
                if not again or busy.seconds > RETRY_AFTER_S:
                    raise ToolError(f"{service} is too busy at the moment.") from None
                pause = busy.seconds
            except httpx.TimeoutException as error:
                raise ToolError(f"{service} did not answer in time.") from error
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                if not again:
                    raise ToolError(f"{service} cannot be reached at the moment.") from error
            except httpx.HTTPError as error:
                raise ToolError(f"{service} sent something that cannot be read.") from error
            await asyncio.sleep(pause)
        raise AssertionError("the second attempt ends")

    async def _send(self, service: str, request: httpx.Request) -> bytes:
        origin = _origin(request.url)
        for _ in range(REDIRECTS + 1):
            response = await self._http.send(request, stream=True)
            try:
                if response.next_request is None:
                    return await self._body(service, response)
                request = response.next_request
            finally:
                await response.aclose()
            if _origin(request.url) != origin:
                break
        raise ToolError(f"{service} sent us to another address.")

    async def _body(self, service: str, response: httpx.Response) -> bytes:
        match response.status_code:
            case 200:
                pass
            case 404:
                raise NotThere(f"{service} has nothing there.")
            case 429 | 503:
                raise _Busy(_seconds(response.headers.get("retry-after")))
            case 400:
                raise ToolError(f"{service} did not understand the question.")
            case _:
                raise ToolError(f"{service} failed to answer.")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limits.TOOL_RESPONSE_BYTES:
                raise ToolError(f"{service} sent more than can be read.")
        return bytes(body)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds; a date, or anything else, is too far away for us."""
    if retry_after is None:
        return RETRY_PAUSE_S
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else float("inf")
