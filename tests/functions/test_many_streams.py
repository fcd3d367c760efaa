"""Two hundred answers at once from one process: each is finished and charged once, and none holds up the others."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import psycopg
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.local import model
from infra.local.auth import access_token, load_or_create_key
from infra.local.stack import Stack
from tests.api import question
from tests.conftest import Person
from tests.functions.watched import served

STREAMS = 200
DELTAS = 60
PAUSE_S = 0.015
PROVIDERS = ("anthropic", "openai")

Db = psycopg.Connection[dict[str, Any]]


class Gate:
    """A provider. While its gate is closed (PUT /_gate) its answers halt after their first words, until DELETE."""

    FIRST_WORDS = 10  # messages of ASGI, by which either provider has sent some text

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
            if sent == self.FIRST_WORDS:
                await self._is_open.wait()

        await self._provider(scope, receive, gated)


def gated_model() -> ASGIApp:
    """The stand-in behind a gate."""
    return Gate(model.create_app(PAUSE_S))


@pytest.fixture
def provider_url() -> Iterator[str]:
    """The gated stand-in, in a process of its own."""
    with served("tests.functions.test_many_streams:gated_model", {}) as url:
        yield url


@pytest.fixture
def chat_url(stack: Stack, provider_url: str) -> Iterator[str]:
    """One chat process, with the stack's database and the gated provider."""
    environment = {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["anon_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"],
        "ENCRYPTION_KEY": "0" * 64,
        "ANTHROPIC_API_KEY": "stand-in",
        "ANTHROPIC_BASE_URL": provider_url,
        "OPENAI_API_KEY": "stand-in",
        "OPENAI_BASE_URL": f"{provider_url}/v1",
        "PARLIAMENT_API_URL": stack.info["parliament_url"],
    }
    with served("tests.functions.watched:patient_chat", environment) as url:
        yield url


@pytest.fixture
def people(stack: Stack, stack_db: Db) -> list[Person]:
    """One for each stream, and one more."""
    rows = stack_db.execute(
        "insert into auth.users (id, email) select id, id || '@example.test'"
        " from (select gen_random_uuid() as id from generate_series(0, %s)) made returning id::text, email",
        (STREAMS,),
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
    chat_url: str, provider_url: str, people: list[Person], stack_db: Db
) -> None:
    """All of them are open at once: the provider halts each answer until everyone has read its first words."""
    *askers, first = people
    everyone_reads = asyncio.Barrier(STREAMS)

    async def ask(http: aiohttp.ClientSession, person: Person, provider: str, *, together: bool) -> bytes:
        body = question(f"What is a quorum? [fault:long {DELTAS}]", provider=provider)
        async with http.post(f"{chat_url}/chat", json=body, headers=person.headers) as response:
            said = b""
            while b'"text-delta"' not in said:
                chunk = await response.content.readany()
                assert chunk, (response.status, said)
                said += chunk
            if together and await everyone_reads.wait() == 0:
                await http.delete(f"{provider_url}/_gate")
            return said + await response.read()

    async def watched(http: aiohttp.ClientSession) -> dict[str, Any]:
        async with http.get(f"{chat_url}/_watched") as response:
            told: dict[str, Any] = await response.json()
        return told

    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(total=None)) as http:
        for provider in PROVIDERS:  # what is imported when it is first needed has been
            await ask(http, first, provider, together=False)
        await http.put(f"{provider_url}/_gate")
        await watched(http)
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(ask(http, asker, PROVIDERS[number % 2], together=True))
                for number, asker in enumerate(askers)
            ]
        needed = await watched(http)

    for task in asking:
        *events, done, rest = task.result().decode().split("\n\n")
        # The others are comments: a busy machine may make the silence long.
        parts = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: ")]
        assert (done, rest) == ("data: [DONE]", "")
        assert [part["type"] for part in parts].count("text-delta") == DELTAS
        assert (parts[0]["type"], parts[-1]["type"], parts[-1]["finishReason"]) == ("start", "finish", "stop")

    ids = [asker.id for asker in askers]
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

    assert needed["most_open"] == STREAMS
    assert needed["peak_memory_kb"] < 300_000
    assert needed["busy_s"] < 0.1
