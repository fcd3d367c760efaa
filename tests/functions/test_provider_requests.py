"""Our requests to the model providers beside those of the official SDKs: the same bytes, and the same errors.

Both are sent to a server that records what it receives and answers with bytes of the test's choice.
"""

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.chat import limits
from functions.chat.providers import Finished, Message, Prompt, Providers, ToolCall, ToolResult
from functions.chat.providers.anthropic import to_param
from functions.chat.providers.faults import Faults
from functions.chat.providers.openai import to_items
from functions.chat.settings import ChatSettings
from functions.chat.system_prompt import system_prompt
from functions.chat.tools import Definition, Tools
from functions.common.errors import AppError, PromptRefused, ProviderDown, ProviderTimeout
from functions.common.settings import load
from functions.common.vault import PlainKey
from tests.servers import listening
from tests.sources import parliament_at

NAMES = {"anthropic": "Anthropic", "openai": "OpenAI"}
PROVIDERS = list(NAMES)
SDKS: dict[str, ModuleType] = {"anthropic": anthropic, "openai": openai}
PLATFORM_KEY, OWN_KEY = "sk-of-the-platform", "sk-of-a-user"
TLS_HANDSHAKE = b"\x16"
REFUSAL = b"HTTP/1.1 418 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"


@dataclass(slots=True)
class Wire:
    """A server that records every request. It answers with `answer`, then closes, resets or keeps the connection."""

    url: str = ""
    answer: bytes = REFUSAL
    end: str = "close"
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, but no TLS handshake."""
        first = await reader.readexactly(1)
        if first == TLS_HANDSHAKE:
            writer.close()
            return
        head = first + await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None, head
        self.requests.append((head, await reader.readexactly(int(length[1]))))
        writer.write(self.answer)
        await writer.drain()
        if self.end == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if self.end == "stay":
            await reader.read()  # until the client leaves
        writer.close()

    def headers(self) -> dict[str, str]:
        """The headers of the newest request."""
        lines = self.requests[-1][0].decode().lower().split("\r\n")[1:-2]
        return dict(line.split(": ", 1) for line in lines)


@asynccontextmanager
async def wire_server() -> AsyncIterator[Wire]:
    wire = Wire()
    async with listening(wire.serve) as wire.url:
        yield wire


@pytest.fixture(scope="module")
async def wire() -> AsyncIterator[Wire]:
    async with wire_server() as wire:
        yield wire


@asynccontextmanager
async def ours(url: str, **environment: str) -> AsyncIterator[Providers]:
    """Our providers at this address."""
    settings = {
        "SUPABASE_URL": "http://127.0.0.1:9",
        "SUPABASE_ANON_KEY": "anon",
        "SUPABASE_SERVICE_ROLE_KEY": "service",
        "ANTHROPIC_API_KEY": PLATFORM_KEY,
        "OPENAI_API_KEY": PLATFORM_KEY,
        "ANTHROPIC_BASE_URL": url,
        "OPENAI_BASE_URL": f"{url}/v1",
    }
    providers = Providers(load(ChatSettings, {**settings, **environment}))
    try:
        yield providers
    finally:
        await providers.close()


async def ask(providers: Providers, name: str, prompt: Prompt, own_key: PlainKey | None = None) -> AppError | None:
    """Read our whole answer. Returns its error."""
    try:
        async for _ in providers.get(name).stream(prompt, own_key):
            pass
    except AppError as error:
        return error
    return None


async def ask_sdk(url: str, name: str, prompt: Prompt, key: str) -> BaseException | None:
    """Send the same prompt with the SDK's client and read the whole answer. Returns its error."""
    timeout = httpx2.Timeout(limits.PROVIDER_SILENCE_S, connect=limits.PROVIDER_CONNECT_S)
    options: Any = {"api_key": key, "max_retries": 0, "timeout": timeout}
    try:
        if name == "anthropic":
            async with (
                anthropic.DefaultAioHttpClient(timeout=timeout, follow_redirects=False) as http,
                anthropic.AsyncAnthropic(base_url=url, http_client=http, **options) as claude,
                claude.messages.with_streaming_response.create(**anthropic_arguments(prompt)) as response,
            ):
                return await read(response)
        # Not over aiohttp: that client of the SDK reports refused and lost connections as timeouts.
        async with (
            openai.DefaultAsyncHttpxClient(timeout=timeout, follow_redirects=False) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", http_client=http, **options) as gpt,
            gpt.responses.with_streaming_response.create(**openai_arguments(prompt)) as answer,
        ):
            return await read(answer)
    except (anthropic.APIError, openai.APIError, httpx2.TransportError) as error:
        return error


async def read(response: Any) -> None:
    async for _ in response.iter_bytes():
        pass


def anthropic_arguments(prompt: Prompt) -> dict[str, Any]:
    """The arguments of the SDK for a prompt."""
    return {
        "model": prompt.model,
        "max_tokens": prompt.max_output_tokens,
        "system": [
            {"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": prompt.situation},
        ],
        "messages": [to_param(message) for message in prompt.messages],
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in prompt.tools
        ],
        "tool_choice": {"type": "auto"} if prompt.may_call else {"type": "none"},
        "stream": True,
    }


def openai_arguments(prompt: Prompt) -> dict[str, Any]:
    """The same for OpenAI."""
    tools = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": False,
        }
        for tool in prompt.tools
    ]
    return {
        "model": prompt.model,
        "max_output_tokens": prompt.max_output_tokens,
        "instructions": f"{prompt.system}\n\n{prompt.situation}",
        "input": [item for message in prompt.messages for item in to_items(message)],
        "extra_body": {"tools": tools, "tool_choice": "auto" if prompt.may_call else "none"},
        "store": False,
        "stream": True,
    }


# Requests -----------------------------------------------------------------------------------------------------------

TOOLS = Tools(parliament_at("http://127.0.0.1:9"), lambda name, error: None).definitions


def prompt_of(*messages: Message, **changes: Any) -> Prompt:
    prompt: dict[str, Any] = {
        "model": "claude-haiku-5-5",
        "system": system_prompt(),
        "situation": "Today is 2026-11-28.",
        "messages": messages,
        "tools": TOOLS,
        "may_call": True,
        "max_output_tokens": 4096,
    }
    return Prompt(**{**prompt, **changes})


CALLED = ToolCall("toolu_1", "find_mps", '{"name": "Élise", "near": [45.4, 1e-7, 1e22, -0.0], "deep": {"a": null}}')
PROMPTS = {
    "a question": prompt_of(Message("user", "Who is my MP?")),
    "accents, emoji, escapes": prompt_of(
        Message("user", 'Où? 🍁 "a\\b"\t\r\n\x00\x1f\x7f \u2028\u2029 </script> \U0001f1e8\U0001f1e6'),
        situation="« Aujourd'hui » — é\u0301",
    ),
    "tool results": prompt_of(
        Message("user", "Votes?"),
        Message("assistant", "Let me look. ", [CALLED, ToolCall("toolu_2", "get_vote", "")]),
        Message("tool", results=[ToolResult("toolu_1", '{"mp":"É"}', False), ToolResult("toolu_2", "No.", True)]),
    ),
    "calls without text": prompt_of(
        Message("user", "Votes?"),
        Message("assistant", " ", [CALLED, ToolCall("toolu_3", "x", "not JSON"), ToolCall("toolu_4", "x", "[1]")]),
        Message("tool", results=[ToolResult("toolu_1", "", False)]),
    ),
    "empty texts": prompt_of(Message("user", ""), Message("assistant", ""), system="", situation=""),
    "no calls allowed": prompt_of(Message("user", "Hi"), may_call=False),
    "no tools": prompt_of(Message("user", "Hi"), tools=[]),
    "another tool": prompt_of(Message("user", "Hi"), tools=[Definition("a", "é", {"type": "object", "default": 1e-5})]),
    "no messages": prompt_of(),
}


def json_text(value: Any) -> str:
    """JSON as a model may write it, with small floats in scientific notation."""
    return json.dumps(value, ensure_ascii=False)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
json_object = st.dictionaries(
    text,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)
calls = st.builds(ToolCall, text, text, json_object.map(json_text) | text)
results = st.builds(ToolResult, text, text, st.booleans())
messages = st.lists(
    st.builds(Message, st.just("user"), text)
    | st.builds(Message, st.just("assistant"), text, st.lists(calls, max_size=2))
    | st.builds(Message, st.just("tool"), results=st.lists(results, max_size=2)),
    max_size=4,
)
definitions = st.lists(st.builds(Definition, text, text, json_object), max_size=2)
prompts = st.builds(Prompt, text, text, text, messages, definitions, st.booleans(), st.integers(1, 10_000))


async def assert_same_request(
    wire: Wire, name: str, prompt: Prompt, own_key: PlainKey | None, which: Providers
) -> None:
    """The SDK and we send the same path, body and headers, apart from those that describe the client."""
    wire.requests.clear()
    key = PLATFORM_KEY if own_key is None else own_key.reveal()
    await ask_sdk(wire.url, name, prompt, key)
    theirs = wire.headers()
    await ask(which, name, prompt, own_key)
    mine = wire.headers()
    (their_head, their_body), (my_head, my_body) = wire.requests
    assert my_body == their_body
    assert my_head.split(b"\r\n")[0] == their_head.split(b"\r\n")[0]
    own = {"user-agent", "accept-encoding", "connection"}
    assert {header: value for header, value in mine.items() if header not in own} == {
        header: value for header, value in theirs.items() if header not in own and not header.startswith("x-stainless-")
    }
    assert (mine["accept-encoding"], mine["user-agent"]) == ("identity", "canadagpt/0.1")
    assert mine["authorization"] == f"bearer {key}"


@pytest.mark.parametrize("own_key", [None, PlainKey(OWN_KEY)], ids=["platform", "own key"])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_requests_have_the_bytes_of_the_sdks(wire: Wire, name: str, own_key: PlainKey | None) -> None:
    wire.answer, wire.end = REFUSAL, "close"
    async with ours(wire.url) as providers:
        for prompt in [*PROMPTS.values(), *PROMPTS.values()]:  # twice: some parts are remembered
            await assert_same_request(wire, name, prompt, own_key, providers)


@pytest.mark.parametrize("name", PROVIDERS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=prompts)
async def test_any_prompt_has_the_bytes_of_the_sdks(wire: Wire, name: str, prompt: Prompt) -> None:
    wire.answer, wire.end = REFUSAL, "close"
    async with ours(wire.url) as providers:
        await assert_same_request(wire, name, prompt, None, providers)


async def test_the_default_addresses_are_those_of_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    async with ours("http://x", ANTHROPIC_BASE_URL="", OPENAI_BASE_URL="") as providers:
        urls: list[Any] = [providers.get(name)._url for name in PROVIDERS]  # type: ignore[attr-defined]
    claude, gpt = anthropic.AsyncAnthropic(api_key="k"), openai.AsyncOpenAI(api_key="k")
    bases = [str(client.base_url).rstrip("/") for client in (claude, gpt)]
    assert urls == [f"{bases[0]}/v1/messages", f"{bases[1]}/responses"]


async def test_a_proxy_of_the_environment_gets_the_requests(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.answer, wire.end = REFUSAL, "close"
    monkeypatch.setenv("http_proxy", wire.url)
    monkeypatch.setenv("no_proxy", "direct.test")
    async with ours("http://provider.test") as providers:
        wire.requests.clear()
        await ask(providers, "anthropic", PROMPTS["a question"])
        assert wire.requests[0][0].startswith(b"POST http://provider.test/v1/messages ")
    async with ours("http://direct.test") as providers:
        assert isinstance(await ask(providers, "anthropic", PROMPTS["a question"]), ProviderDown)
        assert len(wire.requests) == 1


# Refused prompts ---------------------------------------------------------------------------------------------------

# Code and message, as the providers send them.
REFUSED_PROMPTS = [
    (400, "invalid_request_error", "prompt is too long: 212042 tokens > 200000 maximum", "length"),
    (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 199000 + 4096", "length"),
    (413, "request_too_large", "Request exceeds the maximum size", "length"),
    (400, "context_length_exceeded", "Your input exceeds the context window of this model.", "length"),
    (400, "invalid_request_error", "Output blocked by content filtering policy", "content-filter"),
    (400, "invalid_prompt", "Invalid prompt: we have limited access to this content.", "content-filter"),
    (400, "invalid_request_error", "messages: text content blocks must be non-empty", None),
    (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API.", None),
    (401, "authentication_error", "invalid x-api-key", None),
    (429, "rate_limit_exceeded", "Request too large for gpt-6-sol: Limit 30000, Requested 40000.", None),
    (500, "server_error", "The server had an error.", None),
]


@pytest.mark.parametrize(("status", "code", "message", "reason"), REFUSED_PROMPTS)
def test_a_refused_prompt_differs_from_a_failure(status: int, code: str, message: str, reason: str | None) -> None:
    faults = Faults("It", own_account=False, model="m")
    for error in (
        faults.from_status(status, {}, code, message),
        faults.from_event({"error": {"code": code, "message": message}}),
    ):
        assert (error.finish_reason if isinstance(error, PromptRefused) else None) == reason


# Errors -------------------------------------------------------------------------------------------------------------


def error_of_sdk(name: str, error: BaseException | None, own_account: bool) -> AppError | None:
    """The error for the client that an SDK's exception means."""
    sdk, faults = SDKS[name], Faults(NAMES[name], own_account, "claude-haiku-5-5")
    if isinstance(error, sdk.APIStatusError):
        body = error.body
        inner = body.get("error", body) if isinstance(body, dict) else None
        inner = inner if isinstance(inner, dict) else {}
        code, message = str(inner.get("code") or inner.get("type") or ""), str(inner.get("message") or "")
        return faults.from_status(error.status_code, error.response.headers, code, message)
    if isinstance(error, sdk.APITimeoutError | httpx2.TimeoutException):
        return ProviderTimeout()
    if isinstance(error, sdk.APIConnectionError | httpx2.TransportError):
        return ProviderDown()
    assert error is None
    return None


async def same_error(url: str, name: str) -> AppError | None:
    """The error of our request, after a comparison with the SDK's, on the platform's account and on an own one."""
    prompt = PROMPTS["a question"]
    async with ours(url) as providers:
        mine, mine_own, theirs, theirs_own = await asyncio.gather(
            ask(providers, name, prompt),
            ask(providers, name, prompt, PlainKey(OWN_KEY)),
            ask_sdk(url, name, prompt, PLATFORM_KEY),
            ask_sdk(url, name, prompt, OWN_KEY),
        )
    assert described(mine) == described(error_of_sdk(name, theirs, own_account=False)), theirs
    assert described(mine_own) == described(error_of_sdk(name, theirs_own, own_account=True)), theirs_own
    for error in (mine, mine_own):  # a cause could contain the key
        assert error is not None
        assert error.__cause__ is None
        assert error.__context__ is None or error.__suppress_context__
    return mine


def described(error: AppError | None) -> Any:
    return None if error is None else (type(error), error.sentence("en"), error.retry_after)


BODIES: list[bytes] = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'"text"',
    b"<html>Bad gateway</html>",
    b'{"error": null}',
    b'{"error": "text"}',
    b'{"error": {}}',
    b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}',
    b'{"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}',
    b'{"error": {"code": "insufficient_quota", "type": "insufficient_quota", "message": "You exceeded"}}',
    b'{"error": {"code": null, "type": "billing_error", "message": null}}',
    b'{"error": {"code": 7, "message": ["x"]}}',
    b'{"code": "billing_hard_limit_reached", "message": "flat"}',
    b'  {"error": {"message": "Credit Balance"}}\n',
    '{"error": {"message": "crédit é"}}'.encode("latin-1"),
    '\ufeff{"error": {"code": "insufficient_quota"}}'.encode(),
    b"[" * 100_000,
    b'{"error": {"code": NaN}}',
]
STATUSES = [301, 307, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 451, 500, 502, 503, 504, 520, 529, 599]
WAITS = ["", "7", "120", "121", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"]


def response(status: int, body: bytes, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{lines}\r\n".encode() + body


@pytest.mark.parametrize("name", PROVIDERS)
async def test_every_refusal_is_the_error_that_the_sdk_means(wire: Wire, name: str) -> None:
    wire.end = "close"
    # All statuses with a few bodies, all bodies with a few statuses, all waits.
    answers = [response(status, body, retry_after="7") for status in STATUSES for body in (BODIES[0], BODIES[9])]
    answers += [response(status, body) for status in (400, 401, 429) for body in BODIES]
    answers += [response(status, b"{}", retry_after=wait) for status in (429, 503) for wait in WAITS]
    answers.append(response(429, BODIES[16], content_type="application/json; charset=latin-1"))
    answers.append(response(302, b"", location=f"{wire.url}/elsewhere"))
    for answer in answers:
        wire.answer = answer
        await same_error(wire.url, name)


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = EVENTS + b"transfer-encoding: chunked\r\n\r\n"
# What the server sends before the end of the connection.
BROKEN = {
    "closed before the answer": (b"", "close"),
    "reset before the answer": (b"", "reset"),
    "closed within the headers": (b"HTTP/1.1 200 OK\r\ncontent-", "close"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "close"),
    "closed within a chunk": (CHUNKED + b"ff\r\ndata: {", "close"),
    "closed between chunks": (CHUNKED + b"2\r\n\n\n\r\n", "close"),
    "reset between chunks": (CHUNKED + b"2\r\n\n\n\r\n", "reset"),
    "a chunk without a length": (CHUNKED + b"zz\r\n\n\n\r\n", "close"),
    "closed before the content's length": (EVENTS + b"content-length: 99\r\n\r\n\n", "close"),
    "closed within a refusal": (b"HTTP/1.1 500 X\r\ncontent-length: 99\r\n\r\n{", "close"),
    "silent before the answer": (b"", "stay"),
    "silent within the headers": (b"HTTP/1.1 200 OK\r\n", "stay"),
    "silent within a chunk": (CHUNKED + b"ff\r\ndata: {", "stay"),
    "silent between chunks": (CHUNKED + b"2\r\n\n\n\r\n", "stay"),
    "silent within a refusal": (b"HTTP/1.1 500 X\r\ncontent-length: 99\r\n\r\n{", "stay"),
}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("broken", BROKEN)
async def test_every_broken_connection_is_the_error_that_the_sdk_means(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, name: str, broken: str
) -> None:
    wire.answer, wire.end = BROKEN[broken]
    monkeypatch.setattr(limits, "PROVIDER_SILENCE_S", 0.3 if wire.end == "stay" else 20)
    error = await same_error(wire.url, name)
    assert type(error) is (ProviderTimeout if wire.end == "stay" else ProviderDown)


@contextmanager
def full_backlog() -> Iterator[str]:
    """An address whose connections are never accepted: connecting takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.socket() as first:
        first.connect(server.getsockname())
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for client in waiting:
            client.close()


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_failed_connection_gives_the_sdks_error(wire: Wire, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(limits, "PROVIDER_CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        refusing = f"http://127.0.0.1:{server.getsockname()[1]}"
    for url in (refusing, wire.url.replace("http:", "https:")):
        assert type(await same_error(url, name)) is ProviderDown
    with full_backlog() as url:
        assert type(await same_error(url, name)) is ProviderTimeout


# Connections --------------------------------------------------------------------------------------------------------

DONE: Mapping[str, bytes] = {
    "anthropic": b'data: {"type": "message_start", "message": {"usage": {}}}\n\n'
    b'data: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}\n\n'
    b'data: {"type": "message_stop"}\n\n',
    "openai": b'data: {"type": "response.completed", "response": {"usage": {}}}\n\n',
}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("ends", [True, False])
async def test_a_connection_is_reused_after_the_response(
    monkeypatch: pytest.MonkeyPatch, name: str, ends: bool
) -> None:
    """The last event and the end of the response arrive one after the other. An end that never comes is not awaited."""
    monkeypatch.setattr(limits, "PROVIDER_END_S", 20 if ends else 0.01)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", head)[0]))
                writer.write(CHUNKED + b"%x\r\n%b\r\n" % (len(DONE[name]), DONE[name]))
                await asyncio.sleep(0.02)
                if ends:
                    writer.write(b"0\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, ours(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as providers:
        for _ in range(3):
            events = [event async for event in providers.get(name).stream(PROMPTS["a question"])]
            assert events[-1] == Finished("stop")
    assert connections == (1 if ends else 3)
