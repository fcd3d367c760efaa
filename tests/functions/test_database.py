"""The database client: which calls are repeated, and which error each failure becomes."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from functions.common import errors, results
from functions.common.aiohttp_transport import AiohttpTransport
from functions.common.database import CredentialsRefused, Database, OutOfReach, result
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load
from functions.common.thread_transport import ThreadTransport
from functions.common.transport import Transport
from tests.servers import listening, serve_http, trickle


async def invoke(db: Database, function: str, params: Any = None, **more: Any) -> Any:
    """Call a function whose result may be of any shape."""
    return await db.call(function, params, parse=lambda value: value, **more)


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
    return Database(load(SupabaseSettings, environment), Observer("database-test"), transport)


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
    assert await invoke(db, "settle_query", {"p_a": 1}) == {"cost_usd": Decimal("0.100000")}
    assert await invoke(db, "usage_summary", user_token="the-users-token") is True
    await db.close()
    (path, service, body), (_, user, _) = gateway.requests
    assert (path, body) == ("/rest/v1/rpc/settle_query", {"p_a": 1})
    assert (service["apikey"], service.get("authorization")) == (service_key, service_token)
    assert (user["apikey"], user["authorization"]) == (anon_key, "Bearer the-users-token")


async def test_a_call_is_repeated_while_the_database_is_out_of_reach(
    gateway: Gateway, database: Callable[[str], Database]
) -> None:
    gateway.script = [DOWN, None, (200, "done")]
    db = database(gateway.url)
    assert await invoke(db, "settle_query") == "done"
    await db.close()
    assert len(gateway.requests) == 3


@pytest.mark.parametrize(
    ("parse", "right", "wrong"),
    [
        (results.number, 3, [True, "3", None, 1.5]),
        (results.flag, True, [1, "true", None, {"deleted": True}]),
        (results.text, "a", [1, ["a"], {}]),
        (results.record("hint"), {"hint": "…1234"}, [{"hello": "world"}, [1], None, "x"]),
        (results.record_or_none("hint"), None, [{"hello": "world"}, [1], "x"]),
        (results.records("id"), [{"id": 1}], [{"id": 1}, [1], None, [{"hello": "world"}]]),
    ],
    ids=["number", "flag", "text", "record", "record or none", "records"],
)
async def test_a_result_of_another_shape_is_repeated(
    gateway: Gateway, database: Callable[[str], Database], parse: Callable[[Any], Any], right: Any, wrong: list[Any]
) -> None:
    """It comes from a gateway, or is another function's."""
    gateway.script = [(200, value) for value in [*wrong, right]]
    db = database(gateway.url)
    assert await db.call("put_api_key", parse=parse, timeout_s=30) == right
    await db.close()


async def test_a_permanent_error_is_not_repeated(gateway: Gateway, database: Callable[[str], Database]) -> None:
    gateway.script = [(400, {"code": "NTFND", "message": "There is no such conversation."})]
    db = database(gateway.url)
    with pytest.raises(errors.NotFound):
        await invoke(db, "admit_query")
    await db.close()


async def test_a_parameter_that_is_no_unicode_is_a_refused_value(database: Callable[[str], Database]) -> None:
    db = database("http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(errors.ValueRefused):
        await invoke(db, "settle_query", {"p_turn": "half an emoji: \ud83d"})
    await db.close()


async def test_a_redirect_is_not_followed(database: Callable[[str], Database]) -> None:
    """The other host would receive the API key."""
    paths: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            paths.append(head.split()[1].decode())
            writer.write(
                b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    db = database(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(errors.Unavailable):
        await invoke(db, "settle_query", timeout_s=0.05)
    assert set(paths) == {"/rest/v1/rpc/settle_query"}
    await db.close()
    server.close()


async def test_an_unreachable_database_fails_within_the_timeout(database: Callable[[str], Database]) -> None:
    db = database("http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(errors.Unavailable):
        await invoke(db, "admit_query", timeout_s=0.25)
    await db.close()


async def test_no_time_left_does_not_mean_no_limit(database: Callable[[str], Database]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    db = database(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for timeout_s in (0.0, -1.0):
        with pytest.raises(errors.Unavailable):
            async with asyncio.timeout(30):
                await invoke(db, "settle_query", timeout_s=timeout_s)
    await db.close()
    server.close()


def classified(status: int, content: Any, *, is_user: bool = False) -> type[Exception]:
    """The exception for a response to a call whose result has the field `id`."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises((errors.AppError, OutOfReach)) as raised:
        result(status, body, results.record("id"), is_user=is_user)
    assert not isinstance(raised.value, errors.AppError) or "canary" not in raised.value.sentence("en")
    return raised.type


# The status that PostgREST gives the code.
PERMANENT: dict[str, tuple[int, type[errors.AppError]]] = {
    "NOHLD": (400, errors.NotFound),
    "CONFL": (400, errors.Conflict),
    "NOUSR": (400, errors.Unauthenticated),
    "LATER": (400, errors.Unavailable),
    "22023": (400, errors.ValueRefused),
    "22P05": (400, errors.ValueRefused),
    "23503": (409, errors.ValueRefused),
    "23505": (409, errors.ValueRefused),
    "23514": (400, errors.ValueRefused),
}


@pytest.mark.parametrize("code", PERMANENT)
def test_permanent_codes_have_an_error(code: str) -> None:
    status, error_type = PERMANENT[code]
    assert classified(status, {"code": code, "message": "canary"}) is error_type


@pytest.mark.parametrize(
    ("hint", "details", "reason", "known"),
    [
        ("no_models", '{"provider": "openai"}', "no_models", {"provider": "openai"}),
        ("no_models", None, "model_not_available", {}),  # its sentence names the provider
        ("of_a_newer_database", None, "model_not_available", {}),
        (None, None, "model_not_available", {}),
    ],
)
def test_a_hint_is_the_reason_of_the_error(
    hint: str | None, details: str | None, reason: str, known: dict[str, str]
) -> None:
    body = {"code": "NOMDL", "message": "canary", "hint": hint, "details": details}
    with pytest.raises(errors.ModelNotAvailable) as caught:
        result(400, json.dumps(body).encode(), str, is_user=False)
    assert (caught.value.reason.code, caught.value.details) == (reason, known)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "of_a_user", "of_ours"),
    [
        (401, "PGRST301", errors.Unauthenticated, CredentialsRefused),  # the token cannot be verified
        (
            401,
            "PGRST303",
            errors.Unauthenticated,
            CredentialsRefused,
        ),  # it expired since we checked it, or was issued later
        (401, None, CredentialsRefused, CredentialsRefused),  # the gateway refuses the API key, which is ours
        (401, "42501", errors.Forbidden, CredentialsRefused),  # anonymous: our key has lost its role
        (403, "42501", errors.Forbidden, errors.Internal),
    ],
)
def test_only_the_users_own_token_means_sign_in_again(
    status: int, code: str | None, of_a_user: type[Exception], of_ours: type[Exception]
) -> None:
    body = {"message": "canary"} if code is None else {"code": code, "message": "canary"}
    assert classified(status, body, is_user=True) is of_a_user
    assert classified(status, body, is_user=False) is of_ours


PASSING_CODES = [
    *("40001", "40P01", "55P03", "25006", "53300", "57014", "57P01", "08006", "XX000"),
    *("42883", "42P01", "P0001"),  # a migration is under way
    *("PGRST000", "PGRST001", "PGRST002", "PGRST003", "PGRST202", ""),
]


@pytest.mark.parametrize("code", PASSING_CODES)
def test_all_other_codes_pass(code: str) -> None:
    assert classified(500, {"code": code, "message": "canary"}) is OutOfReach


HTML = b"<html>Sign in to the network</html>"


@pytest.mark.parametrize("status", [302, 400, 402, 404, 413, 429, 500, 502, 503, 504, 520, 525, 530, 540, 544])
@pytest.mark.parametrize("content", [HTML, b"", {"message": "canary"}, {"code": 42, "message": "canary"}, "canary", []])
def test_a_failure_without_a_code_passes(status: int, content: Any) -> None:
    assert classified(status, content) is OutOfReach
    assert classified(status, content, is_user=True) is OutOfReach


NESTED = b"[" * 1_000 + b"]" * 1_000


@pytest.mark.parametrize("content", [HTML, b"", b'{"id": 1', {"message": "Welcome"}, [], "text", 1, None, NESTED])
def test_a_result_of_another_shape_passes(content: Any) -> None:
    assert classified(200, content) is OutOfReach


def test_a_function_without_a_result_returns_none() -> None:
    assert result(204, b"", lambda value: value, is_user=False) is None


async def test_a_response_that_trickles_ends_with_its_timeout(database: Callable[[str], Database]) -> None:
    """The client closes the connection, so that no thread waits for the rest."""
    ended = asyncio.Event()
    async with listening(lambda reader, writer: trickle(reader, writer, ended)) as url:
        db = database(url)
        async with asyncio.timeout(20):
            with pytest.raises(errors.Unavailable):
                await invoke(db, "settle_query", timeout_s=0.2)
            await ended.wait()
        await db.close()


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
            await invoke(db, "admit_query", timeout_s=0.2)

    for _ in range(6):
        await asyncio.gather(*(call() for _ in range(600)))
    answers.set()

    assert await invoke(db, "admit_query", timeout_s=1) is True
    await db.close()
    server.close()
    # Connections that the server is still accepting become tasks of `serve`, which close them.
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks)


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
    for number in range(4):
        assert await invoke(db, "settle_query") is True
        assert connections == number // 2 + 1
        if number % 2:
            await asyncio.wait_for(closed.wait(), 5)
            closed.clear()
    await db.close()
    server.close()


REFUSED_KEY = (401, {"message": "Invalid API key", "hint": "Double check your Supabase API key."})
FUTURE = (401, {"code": "PGRST303", "message": "JWT issued at future"})


def counted(printed: str) -> list[tuple[str, Any]]:
    """The failures in a log, and the metric."""
    lines = [json.loads(line) for line in printed.splitlines()]
    return [
        ("counted", line["ServiceCredentialFailures"])
        if "_aws" in line
        else (line["message"], line["upstream"].split()[0])
        for line in lines
    ]


@pytest.mark.parametrize(
    ("answer", "user_token"),
    [
        (REFUSED_KEY, None),
        (REFUSED_KEY, "the-users-token"),
        ((401, ""), "the-users-token"),
        ((401, {"code": "PGRST301", "message": "No suitable key"}), None),
        (FUTURE, None),
        ((401, {"code": "42501", "message": "permission denied"}), None),  # the key of another role
        ((401, {"code": "PGRST302", "message": "Anonymous access is disabled"}), "the-users-token"),
        ((500, {"code": "PGRST300", "message": "Server lacks JWT secret"}), "the-users-token"),
    ],
)
async def test_a_refused_api_key_is_our_failure(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], answer: tuple[int, Any], user_token: str | None
) -> None:
    gateway.script = [answer] * 9
    db = _database(gateway.url, AiohttpTransport())
    with pytest.raises(errors.Unavailable) as caught:
        await invoke(db, "usage_summary", user_token=user_token, timeout_s=1.0)
    await db.close()
    assert (caught.value.status, caught.value.retry_after) == (503, 2)
    assert counted(capsys.readouterr().out) == [("API key refused", str(answer[0])), ("counted", [1.0])]


async def test_a_refusal_of_our_key_that_passes_is_no_failure(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.script = [FUTURE, (200, True)]
    db = _database(gateway.url, AiohttpTransport())
    assert await invoke(db, "admit_query") is True
    await db.close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("code", ["PGRST301", "PGRST303"])
async def test_a_refused_token_of_a_user_is_theirs(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    gateway.script = [(401, {"code": code, "message": "JWT expired"})]
    db = _database(gateway.url, AiohttpTransport())
    with pytest.raises(errors.Unauthenticated):
        await invoke(db, "usage_summary", user_token="the-users-token")
    await db.close()
    assert capsys.readouterr().out == ""
