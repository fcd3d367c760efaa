"""Polite requests to a site: one after another, with a pause between them and a user agent that names a contact."""

import asyncio
import hashlib
import http.client
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, Request, build_opener

from functions.common.tls import tls_context
from functions.maintenance.imports.errors import ImportFailed

PRODUCT = "CanadaGPT-import/0.1"
PAUSE_S = 1.0
SILENCE_S = 60.0  # a download that sends nothing for so long has failed
PAGE_BYTES = 8 * 1024 * 1024
FILE_BYTES = 400 * 1024 * 1024  # the larger file has 77 MB
CHUNK_BYTES = 256 * 1024

Sleep = Callable[[float], Awaitable[None]]  # seconds
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Download:
    """A file on disk. `validator` is its ETag or date, which the next request sends; None where the site has none."""

    digest: str  # SHA-256
    validator: str | None


class Site:
    """One site. `sleep` pauses between its requests."""

    def __init__(self, url: str, contact: str, sleep: Sleep = asyncio.sleep) -> None:
        self.url = url.rstrip("/")
        self.host = urlsplit(url).hostname or url
        self._headers = {"User-Agent": f"{PRODUCT} ({contact})" if contact else PRODUCT}
        self._sleep = sleep
        self._requests = 0
        self._opener = build_opener(HTTPSHandler(context=tls_context()))

    async def page(self, path: str, accept: str = "*/*") -> bytes:
        """The body of a page. Raises ImportFailed."""
        return await self._get(path, {"Accept": accept}, self._read_page) or b""

    async def file(self, path: str) -> bytes:
        """The body of a small file. Raises ImportFailed, also where the end of the transfer is not marked."""
        return await self._get(path, {}, self._read_file) or b""

    async def head(self, path: str, size: int) -> bytes:
        """The first `size` bytes of a file. Raises ImportFailed."""
        return await self._get(path, {}, lambda response: response.read(size)) or b""

    async def download(self, path: str, to: Path, validator: str | None) -> Download | None:
        """Store a file. None where it is the one with this validator. Raises ImportFailed."""
        conditions = {}
        if validator:
            conditions = {"If-None-Match" if validator.startswith(('"', "W/")) else "If-Modified-Since": validator}
        return await self._get(path, conditions, lambda response: self._store(response, to))

    async def _get(
        self, path: str, headers: Mapping[str, str], read: Callable[[http.client.HTTPResponse], T]
    ) -> T | None:
        if self._requests:
            await self._sleep(PAUSE_S)
        self._requests += 1
        request = Request(f"{self.url}{path}", headers={**self._headers, **headers})  # noqa: S310 -- a BaseUrl
        return await asyncio.to_thread(self._open, request, read)

    def _open(self, request: Request, read: Callable[[http.client.HTTPResponse], T]) -> T | None:
        try:
            with self._opener.open(request, timeout=SILENCE_S) as response:
                return read(response)
        except HTTPError as error:
            with error:
                if error.code == 304:
                    return None
                raise ImportFailed(self._refusal(error.code, error.headers)) from error
        except (URLError, OSError, http.client.HTTPException) as error:
            raise ImportFailed(f"{self.host} cannot be reached, or the transfer was cut ({_reason(error)}).") from error

    def _refusal(self, status: int, headers: Message) -> str:
        if status == 403 or "challenge" in headers.get("cf-mitigated", ""):
            return (
                f"{self.host} refuses this program ({status}): it demands a browser's challenge. The organization has "
                "to allow-list our user agent and address; docs/data.md has the letter to write."
            )
        return f"{self.host} answered with status {status}."

    @staticmethod
    def _read_page(response: http.client.HTTPResponse) -> bytes:
        body = response.read(PAGE_BYTES + 1)
        if len(body) > PAGE_BYTES:
            raise ImportFailed("A page is larger than any that is known.")
        _check_length(response, len(body))
        return body

    def _read_file(self, response: http.client.HTTPResponse) -> bytes:
        # Without a length or chunks, a transfer that was cut looks like a complete one.
        if not response.headers.get("content-length", "").isdecimal() and not response.chunked:
            raise ImportFailed(f"{self.host} did not send the length of the file: it may be cut.")
        return self._read_page(response)

    @staticmethod
    def _store(response: http.client.HTTPResponse, to: Path) -> Download:
        sha256, size = hashlib.sha256(), 0
        file: BinaryIO
        with to.open("wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                size += len(chunk)
                if size > FILE_BYTES:
                    raise ImportFailed("A file is larger than any that is known.")
                sha256.update(chunk)
                file.write(chunk)
        _check_length(response, size)
        return Download(sha256.hexdigest(), response.headers.get("etag") or response.headers.get("last-modified"))


def _check_length(response: http.client.HTTPResponse, size: int) -> None:
    """Raise ImportFailed where the body is not as long as its header says: http.client does not check it."""
    expected = response.headers.get("content-length", "")
    if expected.isdecimal() and int(expected) != size and not response.chunked:
        raise ImportFailed(f"The transfer was cut: {size:,} of {int(expected):,} bytes.")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, Exception) else error).__name__
