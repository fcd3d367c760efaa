"""Requests in threads over http.client, for functions that serve one request at a time.

Importing aiohttp takes 150 ms of a cold start, which is half of FastAPI's. FastAPI imports http.client itself.
"""

import asyncio
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

from functions.common.tls import tls_context
from functions.common.transport import CONNECT_TIMEOUT_S, KEEP_ALIVE_S, NoResponseError


@dataclass(slots=True)
class Exchange:
    """One request in its thread. The thread's own timeout limits a silence, and not a response that trickles."""

    connection: HTTPConnection | None = None
    is_over: bool = False

    def begin(self, connection: HTTPConnection, timeout_s: float) -> None:
        """Use the connection. Raises TimeoutError if the caller has given up."""
        self.connection = connection
        if self.is_over:
            raise TimeoutError
        connection.sock.settimeout(timeout_s)

    def end(self) -> None:
        """End the thread's wait for the response."""
        self.is_over = True
        if self.connection is not None and self.connection.sock is not None:
            with suppress(OSError):
                # TLS's own shutdown must not be called while another thread reads.
                socket.socket.shutdown(self.connection.sock, socket.SHUT_RDWR)


class ThreadTransport:
    """Uses an idle connection, or opens one. The number of threads of the event loop limits the connections."""

    def __init__(self) -> None:
        self._idle: list[tuple[HTTPConnection, float]] = []  # with the time of the last response
        self._is_closed = False

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, background: bool
    ) -> tuple[int, bytes]:
        """See Transport. The thread of a request that timed out ends too."""
        return await self._in_thread("POST", url, headers, body, timeout_s)

    async def get(self, url: str, *, timeout_s: float) -> tuple[int, bytes]:
        """As `post`, over a connection of its own."""
        return await self._in_thread("GET", url, {"connection": "close"}, None, timeout_s)

    async def close(self) -> None:
        """Close the connections. A request that is still running closes its own."""
        self._is_closed = True
        for connection, _ in self._idle:
            connection.close()

    async def _in_thread(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> tuple[int, bytes]:
        exchange = Exchange()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.to_thread(self._send, exchange, method, urlsplit(url), headers, body, timeout_s)
        except (OSError, HTTPException) as error:  # TimeoutError is an OSError
            raise NoResponseError(type(error).__name__) from error
        finally:
            exchange.end()

    def _send(
        self,
        exchange: Exchange,
        method: str,
        url: SplitResult,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> tuple[int, bytes]:
        connection = self._idle_connection() or _connect(url)
        try:
            exchange.begin(connection, timeout_s)
            connection.request(method, url.path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException):
            connection.close()
            raise
        exchange.connection = None
        if self._is_closed:
            connection.close()
        elif connection.sock is not None:  # http.client has closed it if the server will
            self._idle.append((connection, time.monotonic()))
        return response.status, content

    def _idle_connection(self) -> HTTPConnection | None:
        """An open connection. Lambda may have frozen the process for longer than the server keeps one."""
        with suppress(IndexError):  # another thread may take the last one
            while True:
                connection, used_at = self._idle.pop()
                if time.monotonic() - used_at < KEEP_ALIVE_S and not _is_readable(connection):
                    return connection
                connection.close()
        return None


def _is_readable(connection: HTTPConnection) -> bool:
    """Whether there is something to read: without a request, only the end that a server's close sends."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _connect(url: SplitResult) -> HTTPConnection:
    host = url.hostname or ""
    connection = (
        HTTPSConnection(host, url.port, timeout=CONNECT_TIMEOUT_S, context=tls_context())
        if url.scheme == "https"
        else HTTPConnection(host, url.port, timeout=CONNECT_TIMEOUT_S)
    )
    try:
        connection.connect()
    except OSError:
        connection.close()
        raise
    return connection
