"""Two hundred answers at once from one process: each is finished and charged once, and none blocks the others. In an
overload each is answered and charged, or refused without a trace.

How long the event loop is blocked is compared with a bare relay of the same streams, measured in the same run: the
ratio does not depend on the machine.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psycopg
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.load import raise_file_limit
from infra.local import model
from infra.local.auth import access_token, load_or_create_key
from infra.local.stack import Stack
from tests.api import question
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.functions.watched import served

STREAMS = 200
OVERLOAD = 1000 if os.environ.get("PROVE") else 200  # streams
OPENED_A_SECOND = 500
DELTAS = 30
PAUSE_S = 0.015
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses"}
PROVIDERS = tuple(PATHS)
# At most so many times what the relay needs. Measured: 0.5 to 0.75 of its time, because the chat starts one stream in
# each iteration of its loop and the relay all in one; on a machine with other work, where more streams wait for each
# iteration, 0.5 to 1.8. And 1.9 of its memory.
BUSY_RATIO = 3
MEMORY_RATIO = 3

Db = psycopg.Connection[dict[str, Any]]
Post = Callable[[int, str], dict[str, Any]]


class Gate:
    """A provider with a gate. While it is closed (PUT /_gate), answers halt after their first text, until DELETE."""

    FIRST_MESSAGES = 10  # of ASGI: both providers have sent some text by then

    def __init__(self, provider: ASGIApp) -> None:
        self._provider = provider
        self._is_open = asyncio.Event()
        self._is_open.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/_gate":
            (self._is_open.clear if scope["method"] == "PUT" else self._is_open.set)()
            await Response(status_code=204)(scope, receive, send)
            return
        sent = 0

        async def gated(message: Message) -> None:
            nonlocal sent
            await send(message)
            sent += 1
            if sent == self.FIRST_MESSAGES:
                await self._is_open.wait()

        await self._provider(scope, receive, gated)


def gated_model() -> ASGIApp:
    """The model's stand-in behind a gate."""
    return Gate(model.create_app(PAUSE_S))


def relay() -> ASGIApp:
    """Passes requests to the provider and its bytes to the client: the least that a server of streams can do."""
    provider_url = os.environ["PROVIDER_URL"]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as app.state.http:
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.post("/{path:path}")
    async def pass_on(path: str, request: Request) -> Response:
        body, http = await request.json(), request.app.state.http

        async def chunks() -> AsyncIterator[bytes]:
            headers = {"authorization": "Bearer stand-in"}
            async with http.post(f"{provider_url}/{path}", json=body, headers=headers) as response:
                async for chunk in response.content.iter_any():
                    yield chunk

        return StreamingResponse(chunks(), media_type="text/event-stream")

    return app


@pytest.fixture
def provider_url() -> Iterator[str]:
    """The gated stand-in, in its own process."""
    with served("tests.functions.test_many_streams:gated_model", {}) as url:
        yield url


@pytest.fixture
def relay_url(provider_url: str) -> Iterator[str]:
    """The bare relay of the same provider, in its own process."""
    with served("tests.functions.test_many_streams:relay", {"PROVIDER_URL": provider_url}) as url:
        yield url


@pytest.fixture
def chat_url(stack: Stack, provider_url: str) -> Iterator[str]:
    """One process of the chat, with the stack's database and the gated provider."""
    urls = {"ANTHROPIC_BASE_URL": provider_url, "OPENAI_BASE_URL": f"{provider_url}/v1"}
    environment = {**chat_environment(stack), **urls}
    with served("tests.functions.watched:chat_with_long_timeouts", environment) as url:
        yield url


@pytest.fixture
def chat_in_time_url(stack: Stack) -> Iterator[str]:
    """One process of the chat with its real timeouts."""
    raise_file_limit()
    with served("functions.chat.handler:create", chat_environment(stack)) as url:
        yield url


@pytest.fixture
def people(stack: Stack, stack_db: Db) -> list[Person]:
    """A user for each stream, and one more."""
    rows = stack_db.execute(
        "insert into auth.users (id, email) select id, id || '@example.test'"
        " from (select gen_random_uuid() as id from generate_series(0, %s)) made returning id::text, email",
        (max(STREAMS, OVERLOAD),),
    ).fetchall()
    ids = [row["id"] for row in rows]
    stack_db.execute("update public.user_subscriptions set tier = 'basic' where user_id = any(%s::uuid[])", (ids,))
    key = load_or_create_key(stack.config.folder / "signing-key.pem")
    issuer = f"{stack.info['supabase_url']}/auth/v1"
    return [
        Person(row["id"], row["email"], access_token(key, issuer=issuer, user_id=row["id"], email=row["email"]))
        for row in rows
    ]


@pytest.mark.timeout(300)
async def test_two_hundred_streams_at_once(
    chat_url: str, relay_url: str, provider_url: str, people: list[Person], stack_db: Db
) -> None:
    """All streams are open at once: the provider halts each answer until every client has read its first text."""
    text = f"What is a quorum? [fault:long {DELTAS}]"

    def to_chat(number: int, provider: str) -> dict[str, Any]:
        person = people[number]
        return {"url": f"{chat_url}/chat", "json": question(text, provider=provider), "headers": person.headers}

    def to_relay(_: int, provider: str) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": text}], "stream": True}
        return {"url": relay_url + PATHS[provider], "json": body}

    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(total=None)) as http:

        async def ask(post: Post, number: int, provider: str, everyone_reads: asyncio.Barrier | None = None) -> bytes:
            async with http.post(**post(number, provider)) as response:
                body = b""
                while b"delta" not in body:
                    chunk = await response.content.readany()
                    assert chunk, (response.status, body)
                    body += chunk
                if everyone_reads is not None and await everyone_reads.wait() == 0:
                    await http.delete(f"{provider_url}/_gate")
                return body + await response.read()

        async def watched(url: str) -> dict[str, Any]:
            async with http.get(f"{url}/_watched") as response:
                figures: dict[str, Any] = await response.json()
            return figures

        async def ask_all(url: str, post: Post) -> tuple[list[bytes], dict[str, Any]]:
            """The answers of STREAMS clients, and what the process at `url` needed for them."""
            for provider in PROVIDERS:  # imports what is imported on demand
                await ask(post, STREAMS, provider)
            await http.put(f"{provider_url}/_gate")
            await watched(url)
            everyone_reads = asyncio.Barrier(STREAMS)
            async with asyncio.TaskGroup() as group:
                asking = [
                    group.create_task(ask(post, number, PROVIDERS[number % 2], everyone_reads))
                    for number in range(STREAMS)
                ]
            return [task.result() for task in asking], await watched(url)

        relayed, baseline = await ask_all(relay_url, to_relay)
        answers, needed = await ask_all(chat_url, to_chat)

    for answer in answers:
        *events, done, rest = answer.decode().split("\n\n")
        # The others are keep-alive comments, which a busy machine may cause.
        parts = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: ")]
        assert (done, rest) == ("data: [DONE]", "")
        assert [part["type"] for part in parts].count("text-delta") == DELTAS
        assert (parts[0]["type"], parts[-1]["type"], parts[-1]["finishReason"]) == ("start", "finish", "stop")

    ids = [person.id for person in people[:STREAMS]]
    ended = stack_db.execute(
        "select user_id, outcome, provider from public.usage_logs where user_id = any(%s::uuid[])", (ids,)
    ).fetchall()
    assert len({row["user_id"] for row in ended}) == STREAMS
    assert Counter((row["outcome"], row["provider"]) for row in ended) == {
        ("answered", provider): STREAMS / len(PROVIDERS) for provider in PROVIDERS
    }
    left = stack_db.execute(
        "select quota_used, exists (select from public.query_holds h where h.user_id = s.user_id) as is_held"
        " from public.user_subscriptions s where user_id = any(%s::uuid[])",
        (ids,),
    ).fetchall()
    assert Counter((row["quota_used"], row["is_held"]) for row in left) == {(1, False): STREAMS}

    assert len(relayed) == baseline["most_open"] == needed["most_open"] == STREAMS
    assert needed["busy_s"] < BUSY_RATIO * baseline["busy_s"]
    assert needed["peak_memory_kb"] < MEMORY_RATIO * baseline["peak_memory_kb"]


@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_an_overload_refuses_with_retry_after_and_leaves_no_hold(
    chat_in_time_url: str, stack: Stack, people: list[Person], stack_db: Db, eventually: Callable[..., None]
) -> None:
    """The database admits nothing until the first refusal. A refused question can be sent again."""
    posts = [
        {"url": f"{chat_in_time_url}/chat", "json": question("What is a quorum?"), "headers": person.headers}
        for person in people[:OVERLOAD]
    ]
    unlimited = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(total=None)) as http,
        await psycopg.AsyncConnection.connect(stack.postgres.url("supabase_admin")) as blocker,
    ):

        async def ask(number: int, *, starts_in_s: float = 0) -> tuple[int, bytes]:
            await asyncio.sleep(starts_in_s)
            async with http.post(**posts[number]) as response:
                body = await response.read()
                if response.status == 503:
                    await blocker.rollback()
                    assert int(response.headers["retry-after"]) > 0
                    assert json.loads(body)["error"]["code"] == "unavailable"
                return response.status, body

        await blocker.execute("lock table public.query_holds in access exclusive mode")
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(ask(number, starts_in_s=number / OPENED_A_SECOND)) for number in range(OVERLOAD)
            ]
        answers = [task.result() for task in asking]
        assert {status for status, _ in answers} <= {200, 503}
        answered = {number for number, (status, _) in enumerate(answers) if status == 200}
        refused = sorted(set(range(OVERLOAD)) - answered)
        assert refused
        assert all(answers[number][1].endswith(b"data: [DONE]\n\n") for number in answered)

        ids = [person.id for person in people[:OVERLOAD]]

        def charged() -> Counter[str]:
            """The answers that each user was charged for."""
            rows = stack_db.execute(
                "select user_id::text from public.usage_logs where outcome = 'answered' and user_id = any(%s::uuid[])",
                (ids,),
            )
            return Counter(row["user_id"] for row in rows)

        def held() -> int:
            row = stack_db.execute(
                "select count(*) as held from public.query_holds where user_id = any(%s::uuid[])", (ids,)
            ).fetchone()
            assert row is not None
            return int(row["held"])

        await asyncio.to_thread(eventually, lambda: held() == 0)
        assert charged() == Counter(ids[number] for number in answered)

        status, body = await ask(refused[0])
        assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert charged()[ids[refused[0]]] == 1
