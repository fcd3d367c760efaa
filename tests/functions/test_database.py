"""The database client: which calls are retried, and which error each failure becomes."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from functions.common import errors
from functions.common.aiohttp_transport import AiohttpTransport
from functions.common.database import Database, translate
from functions.common.settings import SupabaseSettings, load
from functions.common.thread_transport import ThreadTransport
from functions.common.transport import Transport
from tests.servers import serve_http


class Gateway:
    """A Data API that replies from a script: (status, body), or None to close the connection."""

    def __init__(self) -> None:
        self.script: list[tuple[int, Any] | None] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                gateway.requests.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                step = gateway.script.pop(0)
                if step is None:
                    self.close_connection = True
                    return
                status, answer = step
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A running Data API with an empty script."""
    gateway = Gateway()
    with serve_http(gateway.server):
        yield gateway


TRANSPORTS: list[type[Transport]] = [AiohttpTransport, ThreadTransport]


@pytest.fixture(params=TRANSPORTS, ids=["aiohttp", "threads"])
def database(request: pytest.FixtureRequest) -> Callable[[str], Database]:
    """Makes a client of a URL, over each transport."""
    return lambda url: _database(url, request.param())


def _database(
    url: str, transport: Transport, service_key: str = "the-service-key", anon_key: str = "the-anon-key"
) -> Database:
    environment = {
        "SUPABASE_URL": url,
        "SUPABASE_ANON_KEY": anon_key,
        "SUPABASE_SERVICE_ROLE_KEY": service_key,
    }
    return Database(load(SupabaseSettings, environment), transport)


JWT = "e30.e30.service"
DOWN = (503, {"code": "PGRST001", "message": "no connection"})


@pytest.mark.parametrize(
    ("service_key", "anon_key", "service_token"),
    [("sb_secret_canary", "sb_publishable_canary", None), (JWT, "e30.e30.anon", f"Bearer {JWT}")],
    ids=["secret key", "service_role key"],
)
async def test_calls_use_the_service_or_user_token_and_exact_money(
    gateway: Gateway, service_key: str, anon_key: str, service_token: str | None
) -> None:
    gateway.script = [(200, {"cost_usd": "0.100000"}), (200, True)]
    db = _database(gateway.url, AiohttpTransport(), service_key, anon_key)
    assert await db.call("settle_query", {"p_a": 1}) == {"cost_usd": Decimal("0.100000")}
    assert await db.call("usage_summary", user_token="the-users-token") is True
    await db.close()
    (path, service, body), (_, user, _) = gateway.requests
    assert (path, body) == ("/rest/v1/rpc/settle_query", {"p_a": 1})
    assert (service["apikey"], service.get("authorization")) == (service_key, service_token)
    assert (user["apikey"], user["authorization"]) == (anon_key, "Bearer the-users-token")


async def test_an_idempotent_call_is_retried(gateway: Gateway, database: Callable[[str], Database]) -> None:
    gateway.script = [DOWN, None, (200, "done")]
    db = database(gateway.url)
    assert await db.call("settle_query", idempotent=True) == "done"
    await db.close()
    assert len(gateway.requests) == 3


@pytest.mark.parametrize("step", [DOWN, None])
async def test_a_call_that_may_have_succeeded_is_not_retried(
    gateway: Gateway, step: tuple[int, Any] | None, database: Callable[[str], Database]
) -> None:
    gateway.script = [step]
    db = database(gateway.url)
    with pytest.raises(errors.Unavailable):
        await db.call("track_query_usage")
    await db.close()
    assert len(gateway.requests) == 1


async def test_an_error_from_sql_is_not_retried(gateway: Gateway, database: Callable[[str], Database]) -> None:
    gateway.script = [(400, {"code": "NTFND", "message": "There is no such conversation."})]
    db = database(gateway.url)
    with pytest.raises(errors.NotFound, match="no such conversation"):
        await db.call("admit_query", idempotent=True)
    await db.close()


@pytest.mark.parametrize("content", [b"<html>Sign in to the network</html>", b""], ids=["html", "empty"])
@pytest.mark.parametrize("status", [200, 302])
async def test_a_response_without_json_is_our_error(
    status: int, content: bytes, database: Callable[[str], Database]
) -> None:
    """A captive portal or a wrong address. A redirect is not followed: it would receive the API key."""
    paths: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            paths.append(head.split()[1].decode())
            writer.write(
                f"HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\nconnection: close\r\n"
                f"content-length: {len(content)}\r\n\r\n".encode()
                + content
            )
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    db = database(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    if (status, content) == (200, b""):
        assert await db.call("finish_stripe_event") is None  # a function that returns void
    else:
        with pytest.raises(errors.Internal):
            await db.call("settle_query")
    assert paths in (["/rest/v1/rpc/settle_query"], ["/rest/v1/rpc/finish_stripe_event"])
    await db.close()
    server.close()


async def test_an_error_code_that_is_no_text_is_our_error(
    gateway: Gateway, database: Callable[[str], Database]
) -> None:
    gateway.script = [(400, {"code": 42, "message": "odd"})]
    db = database(gateway.url)
    with pytest.raises(errors.Internal):
        await db.call("settle_query")
    await db.close()


async def test_an_unreachable_database_fails_within_the_timeout(database: Callable[[str], Database]) -> None:
    db = database("http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(errors.Unavailable):
        await db.call("admit_query", idempotent=True, timeout_s=0.25)
    await db.close()


@pytest.mark.parametrize(
    ("code", "error_type"),
    [
        ("NTFND", errors.NotFound),
        ("NOMDL", errors.ModelNotAvailable),
        ("42501", errors.Forbidden),
        ("PGRST301", errors.Unauthenticated),
        ("PGRST303", errors.Unauthenticated),
        ("PGRST000", errors.Unavailable),
        ("PGRST003", errors.Unavailable),
        ("08006", errors.Unavailable),
        ("53300", errors.Unavailable),
        ("57014", errors.Unavailable),
        ("57P01", errors.Unavailable),
        ("503", errors.Unavailable),
        ("NOHLD", errors.NotFound),
        ("23505", errors.Internal),
        ("P0001", errors.Internal),
        ("PGRST202", errors.Internal),
        (None, errors.Internal),
        ("", errors.Unavailable),
    ],
)
def test_each_code_maps_to_one_error(code: str | None, error_type: type[errors.AppError]) -> None:
    failure = translate(code, "canary of an internal message")
    assert type(failure) is error_type
    is_shown = "canary" in failure.sentence
    assert is_shown is (code in ("NTFND", "NOMDL"))


async def test_calls_succeed_again_right_after_thousands_of_timeouts(database: Callable[[str], Database]) -> None:
    """A timeout cancels a call inside the connection pool, which must not lose the connection."""
    answers = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
                await reader.readexactly(length)
                await answers.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\ntrue")
                await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    db = database(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    async def call() -> None:
        with pytest.raises(errors.Unavailable):
            await db.call("admit_query", idempotent=True, timeout_s=0.2)

    for _ in range(6):
        await asyncio.gather(*(call() for _ in range(600)))
    answers.set()

    assert await db.call("admit_query", timeout_s=1) is True
    await db.close()
    server.close()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_coro().__name__ == "serve"))  # type: ignore[union-attr]


async def test_a_connection_that_the_server_closed_is_not_used_again(database: Callable[[str], Database]) -> None:
    """Lambda freezes a process between requests for longer than the server waits."""
    connections = 0
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with closing(writer):
            for _ in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1]))  # type: ignore[index]
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\ntrue")
                await writer.drain()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    db = database(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for call in range(4):
        assert await db.call("settle_query") is True
        assert connections == call // 2 + 1
        if call % 2:
            await asyncio.wait_for(closed.wait(), 5)
            closed.clear()
    await db.close()
    server.close()
