"""The overhead of the chat over its provider: the time to the first word, and the cost of two hundred streams.

(a) First word: the chat's app, called in this process with a new question, against the provider's SDK called directly
with the same prompt. The difference is compared with a single admission request. Interleaved rounds; medians.
(b) Two hundred concurrent streams: the chat against a relay that forwards the same provider's bytes, each served by
uvicorn in its own process. Streams per second include the database and the client on the same machine; CPU seconds,
memory and the delay of the event loop are those of the process. The memory of an open stream is measured while the
provider pauses all streams. Interleaved rounds; medians, but the maximum of the delay.

The provider is a separate process that replays the stand-in's streams from memory, so that its cost is small.
"""

import asyncio
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import httpx
import orjson
import psycopg
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.local.auth import access_token, load_or_create_key
from infra.local.postgres import ROOT
from infra.local.serve import listener
from infra.local.stack import Config, Stack, free_offset, running
from tests.functions.watched import served

MODELS = {"anthropic": "claude-haiku-5-5", "openai": "gpt-6-luna"}
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses"}
ENDS = (b'"message_stop"', b'"response.completed"', b'"finishReason":"stop"')
FEW, DELTAS = 2, 20
PAUSE_S = 0.005

FIRST_WORDS = 150  # rounds
OPEN = 200
STREAMS = {"baseline": 2000, "ours": 400}  # per round; takes seconds each
ROUNDS = 3


# The provider, in its own process -------------------------------------------------------------------------------


DELTA = re.compile(r"event: (content_block_delta|response\.output_text\.delta)\n")


def record(model_url: str) -> dict[str, list[str]]:
    """The frames of the stand-in's streams, by path and number of deltas."""
    streams = {}
    for path in PATHS.values():
        for deltas in (FEW, DELTAS):
            body = {"messages": [{"role": "user", "content": question(deltas)}], "stream": True}
            stream = httpx.post(model_url + path, json=body, headers={"authorization": "Bearer stand-in"}).text
            streams[f"{path} {deltas}"] = [f"{frame}\n\n" for frame in stream.split("\n\n")[:-1]]
            assert sum(bool(DELTA.match(frame)) for frame in streams[f"{path} {deltas}"]) == deltas
    return streams


async def replay(fd: int, streams: Mapping[str, list[str]]) -> None:
    """Serves these streams. [fault:long N] selects the number of deltas; a pause follows each. With [halt], the first
    pause lasts until the next request to /go.
    """
    go = asyncio.Event()
    frames = {
        name: [(b"%x\r\n%b\r\n" % (len(frame.encode()), frame.encode()), bool(DELTA.match(frame))) for frame in stream]
        for name, stream in streams.items()
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal go
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                path = head.split(b" ", 2)[1]
                if path == b"/go":
                    go.set()
                    go = asyncio.Event()
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                    continue
                deltas, halts = re.search(rb"\[fault:long (\d+)\]", body), b"[halt]" in body
                assert deltas is not None, body
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for frame, pauses in frames[f"{path.decode()} {deltas[1].decode()}"]:
                    writer.write(frame)
                    if pauses:
                        await (go.wait() if halts else asyncio.sleep(PAUSE_S))
                        halts = False
                writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, sock=socket.socket(fileno=fd), limit=2**20)
    await server.serve_forever()


@contextmanager
def provider(streams: Mapping[str, list[str]]) -> Iterator[str]:
    """Runs the provider. Yields its URL."""
    with listener(0) as listening:
        host, port = listening.getsockname()
        command = [sys.executable, "-m", "bench.turn", str(listening.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])
    with process:
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(streams))
        process.stdin.close()
        try:
            yield f"http://{host}:{port}"
        finally:
            process.kill()


# The baseline of (b) -------------------------------------------------------------------------------------------------


def relay() -> ASGIApp:
    """An app that forwards requests to PROVIDER_URL and streams the answers back."""
    http: aiohttp.ClientSession | None = None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal http
        if scope["type"] == "lifespan":
            await receive()
            http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await http.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert http is not None
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        async with http.post(os.environ["PROVIDER_URL"] + scope["path"], data=body) as answer:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


# The setup of both --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup:
    """The stack, the provider's URL, and a user (id, token) for each stream."""

    stack: Stack
    provider_url: str
    users: list[tuple[str, str]]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the chat."""
        return {
            "SUPABASE_URL": self.stack.info["supabase_url"],
            "SUPABASE_ANON_KEY": self.stack.info["anon_key"],
            "SUPABASE_SERVICE_ROLE_KEY": self.stack.info["service_role_key"],
            "ENCRYPTION_KEY": "0" * 64,
            "ANTHROPIC_API_KEY": "stand-in",
            "ANTHROPIC_BASE_URL": self.provider_url,
            "OPENAI_API_KEY": "stand-in",
            "OPENAI_BASE_URL": f"{self.provider_url}/v1",
            "PARLIAMENT_API_URL": self.stack.info["parliament_url"],
        }


@contextmanager
def running_setup() -> Iterator[Setup]:
    """Starts everything. The users' quota is above what the benchmark uses."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Config(Path(folder), free_offset(), environ={})) as stack,
        provider(record(stack.info["model_url"])) as provider_url,
    ):
        with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:
            created = db.execute(
                "insert into auth.users (id) select gen_random_uuid() from generate_series(1, %s) returning id::text",
                (OPEN,),
            ).fetchall()
            db.execute("update public.user_subscriptions set tier = 'pro', daily_quota = 1000000000")
        key = load_or_create_key(stack.config.folder / "signing-key.pem")
        issuer = f"{stack.info['supabase_url']}/auth/v1"
        users = [(user, access_token(key, issuer=issuer, user_id=user, email="")) for (user,) in created]
        yield Setup(stack, provider_url, users)


def question(deltas: int, more: str = "") -> str:
    """A question that the provider answers in this number of deltas."""
    return f"What is a quorum? [fault:long {deltas}]{more}"


def chat_body(provider: str, text: str) -> dict[str, Any]:
    """The body of POST /chat in a new conversation."""
    message = {"id": str(uuid.uuid4()), "role": "user", "parts": [{"type": "text", "text": text}]}
    return {"id": str(uuid.uuid4()), "messages": [message], "provider": provider}


# (a) -----------------------------------------------------------------------------------------------------------------

Seconds = Callable[[], Awaitable[float]]


@asynccontextmanager
async def anthropic_sdk(url: str) -> AsyncIterator[Seconds]:
    """Sends the chat's request with Anthropic's SDK. Yields a function that returns the seconds to the first word."""
    from anthropic import AsyncAnthropic, DefaultAioHttpClient

    from functions.chat.limits import OUTPUT_TOKENS

    client = AsyncAnthropic(api_key="stand-in", base_url=url, max_retries=0, http_client=DefaultAioHttpClient())
    system, tools = prompt()
    definitions = [
        {"name": name, "description": description, "input_schema": schema} for name, description, schema in tools
    ]

    async def ask() -> float:
        started, first = time.perf_counter(), 0.0
        events: Any = await client.messages.create(
            model=MODELS["anthropic"],
            max_tokens=OUTPUT_TOKENS,
            system=[{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
            messages=[{"role": "user", "content": question(FEW)}],
            tools=definitions,  # type: ignore[arg-type]
            tool_choice={"type": "auto"},
            stream=True,
        )
        async for event in events:
            if not first and event.type == "content_block_delta":
                first = time.perf_counter() - started
        return first

    async with client:
        yield ask


@asynccontextmanager
async def openai_sdk(url: str) -> AsyncIterator[Seconds]:
    """The same with OpenAI's SDK."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    from functions.chat.limits import OUTPUT_TOKENS

    client = AsyncOpenAI(api_key="stand-in", base_url=f"{url}/v1", max_retries=0, http_client=DefaultAioHttpClient())
    system, tools = prompt()
    definitions = [
        {"type": "function", "name": name, "description": description, "parameters": schema, "strict": False}
        for name, description, schema in tools
    ]

    async def ask() -> float:
        started, first = time.perf_counter(), 0.0
        events: Any = await client.responses.create(
            model=MODELS["openai"],
            max_output_tokens=OUTPUT_TOKENS,
            instructions=system,
            input=[{"role": "user", "content": question(FEW)}],
            tools=definitions,  # type: ignore[arg-type]
            tool_choice="auto",
            store=False,
            stream=True,
        )
        async for event in events:
            if not first and event.type == "response.output_text.delta":
                first = time.perf_counter() - started
        return first

    async with client:
        yield ask


def prompt() -> tuple[str, list[tuple[str, str, Mapping[str, Any]]]]:
    """The chat's system prompt, and the name, description and schema of each of its tools."""
    from functions.chat.system_prompt import system_prompt
    from functions.chat.tools import Tools
    from functions.chat.tools.parliament import Parliament

    tools = Tools(Parliament("http://127.0.0.1:9", "http://127.0.0.1:9", ""), lambda name, error: None)
    return system_prompt(), [(tool.name, tool.description, tool.parameters) for tool in tools.definitions]


def chat_requests(app: ASGIApp, provider: str, users: Iterator[tuple[str, str]]) -> Seconds:
    """Calls the chat's app without a server. Returns a function that returns the seconds to the first word."""

    async def ask() -> float:
        body = orjson.dumps(chat_body(provider, question(FEW)))
        _, token = next(users)
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])
        started, first, answer = time.perf_counter(), 0.0, b""

        async def receive() -> Message:
            for request in requests:
                return request
            return await asyncio.get_running_loop().create_future()  # the client stays connected

        async def send(message: Message) -> None:
            nonlocal first, answer
            answer += message.get("body", b"")
            if not first and b'"text-delta"' in answer:
                first = time.perf_counter() - started

        headers = {"host": "chat", "content-type": "application/json", "authorization": f"Bearer {token}"}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/chat",
            "raw_path": b"/chat",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        await app(scope, receive, send)
        assert_complete(answer)
        return first

    return ask


def admissions(http: aiohttp.ClientSession, setup: Setup, users: Iterator[tuple[str, str]]) -> Seconds:
    """Admits a query and lets its hold expire. Returns a function that returns the seconds of the request."""
    key = setup.stack.info["service_role_key"]
    headers = {"apikey": key, "authorization": f"Bearer {key}", "content-type": "application/json"}
    url = f"{setup.stack.info['supabase_url']}/rest/v1/rpc/admit_query"

    async def ask() -> float:
        user_id, _ = next(users)
        params = {"p_user_id": user_id, "p_request_id": str(uuid.uuid4()), "p_hold_id": str(uuid.uuid4())}
        started = time.perf_counter()
        async with http.post(url, data=orjson.dumps(params), headers=headers) as response:
            admitted = await response.json()
        assert admitted["decision"] == "admitted", admitted
        return time.perf_counter() - started

    return ask


def chat_app(environment: Mapping[str, str]) -> FastAPI:
    """The chat's app without its log output."""
    from functions.chat import handler

    with patch.dict(os.environ, environment), redirect_stdout(io.StringIO()):
        return handler.create()


async def first_words(setup: Setup) -> list[dict[str, Any]]:
    """Measures (a)."""
    users = cycle(setup.users)
    times: dict[str, list[float]] = {}
    app = chat_app(setup.environment)
    async with (
        app.router.lifespan_context(app),
        anthropic_sdk(setup.provider_url) as anthropic,
        openai_sdk(setup.provider_url) as openai,
        aiohttp.ClientSession() as http,
    ):
        requests: dict[str, Seconds] = {
            "anthropic, directly": anthropic,
            "anthropic": chat_requests(app, "anthropic", users),
            "openai, directly": openai,
            "openai": chat_requests(app, "openai", users),
            "admission": admissions(http, setup, users),
        }
        for number in range(-10, FIRST_WORDS):
            for name, ask in requests.items():
                seconds = await ask()
                if number >= 0:
                    times.setdefault(name, []).append(seconds * 1000)
            if number > 0 and (number + 1) % 50 == 0:
                print(f"turn: first words, round {number + 1} of {FIRST_WORDS}", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    results = []
    for provider in MODELS:
        directly = f"{provider}, directly"
        added = statistics.median(ours - theirs for ours, theirs in zip(times[provider], times[directly], strict=True))
        results += [
            row(f"first word in ms, {provider}, against its SDK", medians[provider], medians[directly]),
            row(f"overhead on {provider} in ms, against an admission alone", added, medians["admission"]),
        ]
    return results


# (b) -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """A server under load. `request` returns the arguments of a request from a user's number and a text."""

    url: str
    http: aiohttp.ClientSession
    request: Callable[[int, str], dict[str, Any]]

    async def ask(self, number: int, text: str, *, reading: asyncio.Barrier | None = None) -> None:
        """Reads one stream to its end. With `reading`, waits at the barrier after the first delta and again later."""
        async with self.http.post(**self.request(number, text)) as response:
            answer = b""
            if reading is not None:
                while b"delta" not in answer:
                    chunk = await response.content.readany()
                    assert chunk, (response.status, answer)
                    answer += chunk
                await reading.wait()
                await reading.wait()  # meanwhile the memory is measured
            assert_complete(answer + await response.read())

    async def watched(self) -> dict[str, Any]:
        """The resources that the process has used."""
        async with self.http.get(f"{self.url}/_watched") as response:
            usage: dict[str, Any] = await response.json()
        return usage

    async def load(self, streams: int) -> float:
        """Runs this number of streams, OPEN at a time. Returns the seconds."""
        left = iter(range(streams))

        async def worker(number: int) -> None:
            for _ in left:
                await self.ask(number, question(DELTAS))

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(OPEN):
                group.create_task(worker(number))
        return time.perf_counter() - started


def assert_complete(answer: bytes) -> None:
    """Asserts that the stream has its last event."""
    assert any(end in answer for end in ENDS), answer[-1000:]


async def memory_of_open_streams(server: Server, provider_url: str) -> float:
    """The KB per stream while the provider pauses OPEN streams."""
    for number in range(4):
        await server.ask(number, question(DELTAS))
    before = (await server.watched())["memory_kb"]
    reading = asyncio.Barrier(OPEN + 1)
    async with asyncio.TaskGroup() as group:
        for number in range(OPEN):
            group.create_task(server.ask(number, question(DELTAS, " [halt]"), reading=reading))
        await reading.wait()
        meanwhile = (await server.watched())["memory_kb"]
        await reading.wait()
        async with server.http.post(f"{provider_url}/go"):
            pass
    return (meanwhile - before) / OPEN


async def many_streams(setup: Setup, urls: Mapping[str, str]) -> list[dict[str, Any]]:
    """Measures (b)."""
    providers = list(MODELS)

    def to_chat(number: int, text: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {setup.users[number][1]}"}
        return {
            "url": f"{urls['ours']}/chat",
            "json": chat_body(providers[number % 2], text),
            "headers": headers,
        }

    def to_relay(number: int, text: str) -> dict[str, Any]:
        return {"url": urls["baseline"] + PATHS[providers[number % 2]], "json": {"question": text}}

    measured: dict[str, dict[str, list[float]]] = {}
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(total=None)) as http:
        requests = {"baseline": to_relay, "ours": to_chat}
        servers = {name: Server(urls[name], http, request) for name, request in requests.items()}
        for name, server in servers.items():
            each = await memory_of_open_streams(server, setup.provider_url)
            measured[name] = {"each": [each], "rate": [], "cpu": [], "late": [], "peak": []}
        print(f"turn: {OPEN} streams were open at once", flush=True)
        for number in range(ROUNDS):
            for name, server in servers.items():
                before = await server.watched()
                took = await server.load(STREAMS[name])
                after = await server.watched()
                figures = measured[name]
                figures["rate"].append(STREAMS[name] / took)
                figures["cpu"].append((after["cpu_s"] - before["cpu_s"]) / STREAMS[name] * 1000)
                figures["late"].append(after["late_s"] * 1000)
                figures["peak"].append(after["peak_memory_kb"] / 1024)
            print(f"turn: many streams, round {number + 1} of {ROUNDS}", flush=True)
    rows = [
        (f"streams per second, {OPEN} open, against a relay", "rate", statistics.median),
        ("CPU seconds of 1,000 streams, against a relay", "cpu", statistics.median),
        ("longest delay of the event loop in ms, against a relay", "late", max),
        ("peak memory in MB, against a relay", "peak", max),
        ("memory of an open stream in KB, against a relay", "each", max),
    ]
    return [row(what, of(measured["ours"][name]), of(measured["baseline"][name])) for what, name, of in rows]


def row(what: str, ours: float, baseline: float) -> dict[str, Any]:
    """A line of the table."""
    return {"what": what, "ratio": ours / baseline, "ours": ours, "baseline": baseline}


def run() -> list[dict[str, Any]]:
    """Measures (a) and (b)."""
    with running_setup() as setup:
        results = asyncio.run(first_words(setup))
        with (
            served("bench.turn:relay", {"PROVIDER_URL": setup.provider_url}) as relay_url,
            served("tests.functions.watched:chat_with_long_timeouts", setup.environment) as chat_url,
        ):
            results += asyncio.run(many_streams(setup, {"ours": chat_url, "baseline": relay_url}))
    return results


if __name__ == "__main__":
    asyncio.run(replay(int(sys.argv[1]), json.load(sys.stdin)))
