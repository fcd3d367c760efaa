"""Key storage when the provider gives no clear answer, or something changes while a key is checked."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from functions.keys import check
from functions.keys.handler import create
from infra.local.stack import Stack
from tests.api import Api, question
from tests.functions.keys_kit import (
    PROVIDERS,
    UNAVAILABLE,
    People,
    Provider,
    Reply,
    clear_journal,
    decrypted,
    delete,
    environment,
    error_of,
    list_keys,
    new_key,
    provider_requests,
    put,
    rows,
    running_provider,
    store,
    update_rows,
    uses_own_key,
    validate,
)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """The provider that `app_client` checks keys with."""
    with running_provider() as provider:
        yield provider


@pytest.fixture
async def app_client(
    stack: Stack, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, which runs in this process and checks keys with `provider`."""
    for name in ("SECRETS_ID", "ENCRYPTION_KEYS", "SUPABASE_JWT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(stack, provider.url).items():
        monkeypatch.setenv(name, value)
    app = create()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
            yield client


UNCLEAR_REPLIES: dict[str, Reply] = {
    "400": (400, "application/json", b"{}"),
    "402": (402, "application/json", b"{}"),
    "403": (403, "text/html", b"<h1>No</h1>"),
    "another country": (403, "application/json", b'{"error": {"code": "unsupported_country_region_territory"}}'),
    "no right to list": (403, "application/json", b'{"error": {"type": "permission_error", "message": "No"}}'),
    "a missing scope": (
        401,
        "application/json",
        b'{"error": {"code": null, "message": "You have insufficient permissions. Missing scopes: api.model.read."}}',
    ),
    "404": (404, "text/html", b"<h1>Not Found</h1>"),
    "429": (429, "application/json", b"{}"),
    "500": (500, "application/json", b"{}"),
    "529": (529, "application/json", b"{}"),
    "a closed connection": None,
    "a page": (200, "text/html", b"<h1>Welcome to the hotel's network</h1>"),
    "half a document": (200, "application/json", b'{"data": ['),
    "another document": (200, "application/json", b"[]"),
    "an empty body": (200, "application/json", b""),
}


async def expect_unchecked(app_client: httpx.AsyncClient, stack: Stack, person: People, name: str) -> None:
    """Store a first key, replace a key, and validate a key again."""
    user, key = person("basic"), new_key()
    response = await app_client.put(f"/keys/{name}", json={"api_key": key}, headers=user.headers)
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["last_validated_at"]) == ("unchecked", None)
    assert response.json()["hint"] == f"…{key[-4:]}"
    (row,) = rows(stack, user)
    assert decrypted(user, row) == key
    assert uses_own_key(stack, user) is True

    store(stack, user, new_key(), name)
    (before,) = rows(stack, user)
    checked = await app_client.post(f"/keys/{name}/validate", headers=user.headers)
    assert (checked.status_code, checked.json()["status"]) == (200, "valid")
    assert rows(stack, user) == [before]

    response = await app_client.put(f"/keys/{name}", json={"api_key": key}, headers=user.headers)
    assert response.json()["status"] == "unchecked"
    checked = await app_client.post(f"/keys/{name}/validate", headers=user.headers)
    assert checked.json() == response.json()


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("case", UNCLEAR_REPLIES)
async def test_an_unclear_response_stores_the_key_unchecked(
    app_client: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, case: str, name: str
) -> None:
    provider.reply = lambda: UNCLEAR_REPLIES[case]
    await expect_unchecked(app_client, stack, person, name)
    assert provider.requests == 4  # one request per check, without a retry


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_silent_provider_stores_the_key_unchecked(
    app_client: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(check, "TIMEOUT_S", 0.2)
    released = threading.Event()

    def stall() -> Reply:
        released.wait()
        return None

    provider.reply = stall
    try:
        await expect_unchecked(app_client, stack, person, name)
    finally:
        released.set()


@pytest.mark.parametrize("name", PROVIDERS)
async def test_an_unreachable_provider_stores_the_key_unchecked(
    app_client: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, name: str
) -> None:
    await asyncio.to_thread(provider.server.shutdown)
    provider.server.server_close()
    await expect_unchecked(app_client, stack, person, name)
    assert provider.requests == 0


REJECTIONS: dict[str, Reply] = {
    "401": (401, "text/html", b"<h1>No</h1>"),
    "401 without a code": (401, "application/json", b'{"error": {"code": null, "message": "Incorrect API key"}}'),
    "403 invalid_api_key": (403, "application/json", b'{"error": {"code": "invalid_api_key"}}'),
    "400 authentication_error": (400, "application/json", b'{"error": {"type": "authentication_error"}}'),
}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("case", REJECTIONS)
async def test_only_401_or_a_named_code_rejects_the_key(
    app_client: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, case: str, name: str
) -> None:
    provider.reply = lambda: REJECTIONS[case]
    user = person("basic")
    response = await app_client.put(f"/keys/{name}", json={"api_key": new_key()}, headers=user.headers)
    assert error_of(response) == (422, "byok_key_rejected")
    assert rows(stack, user) == []


async def test_an_unchecked_key_becomes_valid_when_a_chat_uses_it(
    app_client: httpx.AsyncClient, api: Api, person: People, provider: Provider
) -> None:
    provider.reply = lambda: None
    user = person("basic")
    stored = (await app_client.put("/keys/openai", json={"api_key": new_key()}, headers=user.headers)).json()
    assert stored["status"] == "unchecked"
    answered = await asyncio.to_thread(api.chat, user, question("What is a quorum?", provider="openai"))
    assert answered.json()["metadata"]["funding"] == "byok"
    (key,) = await asyncio.to_thread(list_keys, api, user)
    assert (key["status"], key["hint"]) == ("valid", stored["hint"])


# Changes during a check -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 401])
async def test_a_check_does_not_change_a_key_replaced_during_it(
    app_client: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, status: int
) -> None:
    user, newer = person("basic"), new_key()
    store(stack, user, new_key())
    replaced: list[dict[str, Any]] = []

    def replace_first() -> Reply:
        store(stack, user, newer)
        replaced.extend(rows(stack, user))
        return status, "application/json", b"{}"

    provider.reply = replace_first
    checked = await app_client.post("/keys/anthropic/validate", headers=user.headers)
    assert checked.status_code == 200
    assert (checked.json()["hint"], checked.json()["status"]) == (f"…{newer[-4:]}", "valid")
    assert rows(stack, user) == replaced != []


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_a_key_deleted_during_its_check_is_not_found(
    app_client: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, status: int
) -> None:
    user = person("basic")
    store(stack, user, new_key())

    def delete_first() -> Reply:
        with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
            db.execute("select public.delete_api_key(%s, 'anthropic')", (user.id,))
        return status, "application/json", b"{}"

    provider.reply = delete_first
    assert error_of(await app_client.post("/keys/anthropic/validate", headers=user.headers)) == (404, "not_found")
    assert rows(stack, user) == []


async def test_a_downgrade_during_the_check_stores_no_key(
    app_client: httpx.AsyncClient, stack: Stack, person: People, provider: Provider
) -> None:
    user = person("basic")
    accept = provider.reply

    def downgrade_first() -> Reply:
        update_rows(stack, user, "tier = 'free'", "user_subscriptions")
        return accept()

    provider.reply = downgrade_first
    response = await app_client.put("/keys/anthropic", json={"api_key": new_key()}, headers=user.headers)
    assert error_of(response) == (403, "byok_not_allowed")
    assert rows(stack, user) == []


# The database is down --------------------------------------------------------------------------------------------


@pytest.fixture
def toggle_database(stack: Stack) -> Iterator[Callable[[], None]]:
    """Call it to stop the database, and again to start it. The database runs again after the test."""
    is_down = False

    def toggle() -> None:
        nonlocal is_down
        (stack.start_database if is_down else stack.stop_database)()
        is_down = not is_down

    yield toggle
    if is_down:
        toggle()


def test_without_the_database_no_provider_is_asked(
    api: Api, stack: Stack, person: People, toggle_database: Callable[[], None], eventually: Callable[..., None]
) -> None:
    user, other = person("basic"), person("basic")
    stored = put(api, other, new_key()).json()
    before = rows(stack, other)
    clear_journal(api)
    toggle_database()
    requests: list[Callable[[], httpx.Response]] = [
        lambda: put(api, user, new_key()),
        lambda: put(api, other, new_key()),
        lambda: validate(api, other),
        lambda: delete(api, other),
        lambda: api.http.get("/keys", headers=other.headers),
    ]
    with ThreadPoolExecutor() as pool:  # at once, because each is repeated for seconds
        assert list(pool.map(lambda send: error_of(send()), requests)) == [UNAVAILABLE] * len(requests)
    assert provider_requests(api) == []
    toggle_database()
    eventually(lambda: api.http.get("/keys", headers=other.headers).status_code == 200)
    assert list_keys(api, other) == [stored]
    assert (rows(stack, user), rows(stack, other)) == ([], before)


async def test_a_database_stopped_during_the_check_stores_no_key(
    app_client: httpx.AsyncClient, api: Api, stack: Stack, person: People, provider: Provider,
    toggle_database: Callable[[], None], eventually: Callable[..., None],
) -> None:  # fmt: skip
    user = person("basic")
    accept = provider.reply

    def stop_first() -> Reply:
        toggle_database()
        return accept()

    provider.reply = stop_first
    response = await app_client.put("/keys/anthropic", json={"api_key": new_key()}, headers=user.headers)
    assert error_of(response) == UNAVAILABLE
    toggle_database()
    await asyncio.to_thread(eventually, lambda: api.http.get("/keys", headers=user.headers).status_code == 200)
    assert rows(stack, user) == []
