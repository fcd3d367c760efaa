"""HTTP client for other organizations' servers: one request at a time, an identifying user agent, cached responses.

openparliament.ca answers concurrent requests with 429, so requests to one host are serialized across all turns of this
process. Each request checks the cache again after it has waited, so ten identical requests make one call. Failures are
sentences that name the service and nothing internal.
"""

import asyncio
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit, urlunsplit

import aiohttp
import orjson
import yarl
from cachetools import TTLCache

from functions.chat import PRODUCT, limits
from functions.chat.sources.base import JsonObject, RecordNotFound, SourceError

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 8.0  # a slow list of 500 records takes two or three seconds
KEEP_ALIVE_S = 30.0
CONNECTIONS = 10
MAX_REDIRECTS = 3  # a missing slash, a renamed page
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# At most one retry, and only after a short pause: the model is waiting. A host that asks for a longer pause gets no
# request until then, or for a minute.
RETRY_PAUSE_S = 0.5
MAX_RETRY_AFTER_S = 2.0
MAX_BACK_OFF_S = 60.0

# What is not percent-encoded, besides letters and digits. https://url.spec.whatwg.org/
PATH_SAFE = "!$%&'()*+,/:;=@[\\]^|"
QUERY_SAFE = PATH_SAFE + "?`{}"

T = TypeVar("T")


class _Request(NamedTuple):
    url: str
    accept: str


class _Lost(Exception):
    """The connection was refused or lost, or the response is not HTTP."""


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


class HttpClient:
    """Reads from other hosts. Share one instance: it holds the locks, the cache and the connections.

    `now` is a clock in seconds.
    """

    def __init__(self, contact: str, now: Callable[[], float] = time.monotonic) -> None:
        self._contact = contact
        self._now = now
        self.cache = ResponseCache(limits.TOOL_CACHE_ENTRIES, limits.TOOL_CACHE_BYTES, limits.TOOL_CACHE_S, now)
        self._busy_until: dict[str, float] = {}  # by host
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def get(
        self,
        service: str,
        url: str,
        parse: Callable[[bytes], T],
        params: Mapping[str, str | int] | None = None,
        accept: str = "application/json",
    ) -> T:
        """The parsed response of the URL. `parse` raises ValueError for an invalid response, which is not cached.

        Raises RecordNotFound for a 404, and SourceError with a sentence that names the `service` for other failures.
        """
        try:
            request = _Request(address(url, params), accept)
        except ValueError as error:
            raise SourceError(
                f"{service} returned an invalid address.", f"{service} a renvoyé une adresse invalide."
            ) from error
        key = f"{accept} {request.url}"  # a local stand-in answers for the API and for the site at one address
        body = self.cache.get(key)
        if body is not None:
            return parse(body)
        host = _host(request.url)
        async with self._locks[host]:
            body = self.cache.get(key)
            if body is not None:
                return parse(body)
            if self._now() < self._busy_until.get(host, 0.0):
                raise _too_busy(service)
            body = await self._send_with_retry(service, request)
            try:
                parsed = parse(body)
            except ValueError as error:
                raise SourceError(
                    f"{service} returned a response that cannot be read.", f"{service} a renvoyé une réponse illisible."
                ) from error
            self.cache.put(key, body)
            return parsed

    async def _send_with_retry(self, service: str, request: _Request) -> bytes:
        """Send the request, and once more where a retry may help."""
        pause = RETRY_PAUSE_S
        for can_retry in (True, False):
            try:
                return await self._send(service, request)
            except _Busy as busy:
                if not can_retry or busy.seconds > MAX_RETRY_AFTER_S:
                    self._busy_until[_host(request.url)] = self._now() + min(busy.seconds, MAX_BACK_OFF_S)
                    raise _too_busy(service) from None
                pause = busy.seconds
            except TimeoutError as error:
                raise SourceError(
                    f"{service} did not answer in time.", f"{service} n’a pas répondu à temps."
                ) from error
            except (_Lost, aiohttp.ClientError) as error:
                if not can_retry:
                    raise SourceError(
                        f"{service} cannot be reached at the moment.", f"{service} est injoignable pour le moment."
                    ) from error
            except zlib.error as error:
                raise SourceError(
                    f"{service} returned a response that cannot be read.", f"{service} a renvoyé une réponse illisible."
                ) from error
            await asyncio.sleep(pause)
        raise AssertionError("the second attempt returns or raises")

    async def _send(self, service: str, request: _Request) -> bytes:
        """Send the request and follow redirects within its origin."""
        if self._session is None:  # created here, because it needs the running event loop
            self._session = _session(self._contact)
        url = request.url
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.get(
                yarl.URL(url, encoded=True), headers={"accept": request.accept}, allow_redirects=False
            ) as response:
                location = response.headers.get("location")
                if response.status not in REDIRECTS or location is None:
                    return await self._read_body(service, response)
            try:
                url = address(urljoin(url, location))
            except ValueError as error:
                raise _Lost from error
            if _origin(url) != _origin(request.url):
                break
        raise SourceError(f"{service} redirected to another address.", f"{service} a redirigé vers une autre adresse.")

    async def _read_body(self, service: str, response: aiohttp.ClientResponse) -> bytes:
        match response.status:
            case 200:
                pass
            case 404:
                raise RecordNotFound(f"{service} has no such record.", f"{service} n’a pas de tel document.")
            case 429 | 503:
                raise _Busy(_retry_after_s(response.headers.get("retry-after")))
            case 400:
                raise SourceError(f"{service} rejected the request.", f"{service} a refusé la requête.")
            case _:
                raise SourceError(f"{service} failed to answer.", f"{service} n’a pas pu répondre.")
        body = bytearray()
        is_gzip = response.headers.get("content-encoding", "").strip().lower() == "gzip"
        gzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if is_gzip else None
        async for chunk in response.content.iter_any():
            # A few bytes may decompress to gigabytes.
            body += gzip.decompress(chunk, limits.TOOL_RESPONSE_BYTES + 1) if gzip else chunk
            if len(body) > limits.TOOL_RESPONSE_BYTES:
                raise SourceError(
                    f"{service} returned a response that is too large.",
                    f"{service} a renvoyé une réponse trop volumineuse.",
                )
        return bytes(body)


def _session(contact: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"user-agent": f"{PRODUCT} ({contact})", "api-version": "v1", "accept-encoding": "gzip"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,  # a proxy, if there is one
        auto_decompress=False,  # done where the size is limited
        middlewares=[_send_once],
    )


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """aiohttp would repeat a GET after a lost connection, unless the exception is of another class."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Lost from error


def address(url: str, params: Mapping[str, str | int] | None = None) -> str:
    """The URL with its parameters, every unsafe character percent-encoded. Raises ValueError.

    aiohttp's own encoding is not used, because it changes escapes that the URL has already.
    """
    if any(character.isascii() and not character.isprintable() for character in url):
        raise ValueError("the URL has control characters")
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError for an invalid one
    query = urlencode(params) if params else quote(parts.query, QUERY_SAFE)
    return urlunsplit((parts.scheme, parts.netloc, quote(parts.path, PATH_SAFE), query, ""))


def escaped_path(segments: tuple[str, ...]) -> str:
    """The path of these segments, with a slash at the end."""
    assert not {"", ".", ".."} & set(segments), "an empty or relative segment would change the path"
    return f"/{'/'.join(quote(segment, safe='') for segment in segments)}/"


def parse_object(body: bytes) -> JsonObject:
    """The JSON object of a response. Raises ValueError."""
    answer = orjson.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer


def _host(url: str) -> str:
    """The server of a URL: openparliament.ca and api.openparliament.ca are one."""
    return urlsplit(url).netloc.removeprefix("api.")


def _too_busy(service: str) -> SourceError:
    return SourceError(f"{service} is too busy at the moment.", f"{service} est trop sollicité pour le moment.")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _retry_after_s(header: str | None) -> float:
    """Retry-After in seconds. A date or an invalid value is infinite: no retry."""
    if header is None:
        return RETRY_PAUSE_S
    return float(header) if header.isascii() and header.isdigit() else float("inf")
