"""Key storage, /keys: a key is checked, sealed, listed by its last four characters, and never seen again."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from functions.common.vault import EncryptedKey, PlainKey, Vault
from functions.common.web import BODY_LIMIT
from functions.keys import check
from functions.keys.handler import create
from infra.local.postgres import ROOT
from infra.local.stack import GATEWAY, Stack
from tests.api import Api, question
from tests.conftest import Person

People = Callable[..., Person]
PROVIDERS = {"anthropic": "Anthropic", "openai": "OpenAI"}
CANARY = "canary"
UNAVAILABLE = (503, "unavailable")


def new_key(mark: str = "") -> str:
    """A key that the stand-in accepts, unless the mark says otherwise."""
    return f"sk-{mark}{uuid.uuid4().hex}"


def put(api: Api, person: Person, key: str, provider: str = "anthropic") -> httpx.Response:
    """PUT /keys/{provider}."""
    return api.http.put(f"/keys/{provider}", json={"api_key": key}, headers=person.headers)


def validate(api: Api, person: Person, provider: str = "anthropic") -> httpx.Response:
    """POST /keys/{provider}/validate."""
    return api.http.post(f"/keys/{provider}/validate", headers=person.headers)


def delete(api: Api, person: Person, provider: str = "anthropic") -> httpx.Response:
    """DELETE /keys/{provider}."""
    return api.http.delete(f"/keys/{provider}", headers=person.headers)


def listed(api: Api, person: Person) -> list[dict[str, Any]]:
    """GET /keys."""
    response = api.http.get("/keys", headers=person.headers)
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"keys"}
    keys: list[dict[str, Any]] = body["keys"]
    return keys


def failed(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error."""
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"]


def checks(api: Api) -> list[dict[str, Any]]:
    """What the provider was asked since the journal was cleared."""
    return list(httpx.get(f"{api.model_url}/_requests").json())


def clear_journal(api: Api) -> None:
    """Forget what the provider was asked."""
    assert httpx.delete(f"{api.model_url}/_requests").status_code == 204


def rows(stack: Stack, person: Person) -> list[dict[str, Any]]:
    """What is stored of a person's keys, by provider."""
    with psycopg.connect(stack.postgres.url(), row_factory=dict_row) as db:
        return db.execute(
            "select * from public.user_api_keys where user_id = %s order by provider", (person.id,)
        ).fetchall()


def alter(stack: Stack, person: Person, assignments: str, table: str = "user_api_keys") -> None:
    """Change a person's rows behind everybody's back."""
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute(f"update public.{table} set {assignments} where user_id = %s".encode(), (person.id,))


def uses_own(stack: Stack, person: Person) -> bool:
    """uses_byo_key."""
    with psycopg.connect(stack.postgres.url()) as db:
        row = db.execute(
            "select uses_byo_key from public.user_subscriptions where user_id = %s", (person.id,)
        ).fetchone()
    assert row is not None
    return bool(row[0])


def ring(stack: Stack) -> dict[str, str]:
    """What the stack's vault is made of."""
    return {"ENCRYPTION_KEY": (stack.config.folder / "encryption-key").read_text()}


def opened(stack: Stack, person: Person, row: dict[str, Any]) -> str:
    """What a row opens to."""
    sealed = EncryptedKey(row["encryption_key_id"], row["encryption_iv"], row["encrypted_key"], row["encryption_tag"])
    return Vault(ring(stack), dict).decrypt_without_refresh(sealed, person.id, row["provider"]).reveal()


def store(stack: Stack, person: Person, key: str, provider: str = "anthropic") -> None:
    """Store a key as valid without asking the provider."""
    plain = PlainKey(key)
    sealed = Vault(ring(stack), dict).encrypt_without_refresh(plain, person.id, provider).to_row()
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute(
            "select public.put_api_key(gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, true)",
            (person.id, provider, sealed["encrypted_key"], sealed["encryption_iv"], sealed["encryption_tag"],
             sealed["encryption_key_id"], plain.hint),
        )  # fmt: skip


# Storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_the_provider_accepts_is_stored_listed_and_used_at_once(
    api: Api, stack: Stack, person: People, provider: str
) -> None:
    user, key = person("basic"), new_key()
    assert listed(api, user) == []
    assert (api.usage(user)["byok"], api.usage(user)["reason"]) == (
        {"allowed": True, "providers": []},
        "Within daily quota",
    )
    clear_journal(api)
    response = put(api, user, key, provider)
    assert response.status_code == 200
    stored = response.json()
    assert set(stored) == {"provider", "hint", "status", "last_validated_at", "validation_error", "created_at"}
    assert (stored["provider"], stored["hint"], stored["status"]) == (provider, f"…{key[-4:]}", "valid")
    assert stored["validation_error"] is None
    assert stored["created_at"] <= stored["last_validated_at"]
    (asked,) = checks(api)
    assert (asked["provider"], asked["path"], asked["api_key_last4"]) == (provider, "/v1/models", key[-4:])
    assert listed(api, user) == [stored]
    assert api.usage(user)["byok"] == {"allowed": True, "providers": [provider]}
    assert api.usage(user)["reason"] == "Unlimited (BYOK)"
    assert uses_own(stack, user) is True
    (row,) = rows(stack, user)
    assert opened(stack, user, row) == key
    assert key.encode() not in b"".join(value for value in row.values() if isinstance(value, bytes))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_the_provider_rejects_is_not_stored(api: Api, stack: Stack, person: People, provider: str) -> None:
    user, key = person("basic"), new_key("invalid-")
    response = put(api, user, key, provider)
    assert failed(response) == (422, "byok_key_rejected")
    assert response.json()["error"]["message"].startswith(PROVIDERS[provider])
    assert key not in response.text
    assert (listed(api, user), rows(stack, user), uses_own(stack, user)) == ([], [], False)


def test_a_key_that_is_rejected_leaves_the_one_there_is(api: Api, stack: Stack, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key()).status_code == 200
    before = rows(stack, user)
    assert failed(put(api, user, new_key("invalid-"))) == (422, "byok_key_rejected")
    assert rows(stack, user) == before
    assert uses_own(stack, user) is True


def test_a_plan_without_own_keys_is_told_so_before_the_provider_sees_the_key(
    api: Api, stack: Stack, person: People
) -> None:
    user = person("free")
    clear_journal(api)
    for key in (new_key(), new_key("invalid-")):
        response = put(api, user, key)
        assert failed(response) == (403, "byok_not_allowed")
        assert key not in response.text
    assert checks(api) == []
    assert (listed(api, user), rows(stack, user)) == ([], [])
    assert api.usage(user)["byok"] == {"allowed": False, "providers": []}


def test_each_provider_has_a_key_of_its_own(api: Api, stack: Stack, person: People) -> None:
    user = person("pro")
    keys = {provider: new_key() for provider in PROVIDERS}
    for provider in reversed(PROVIDERS):
        assert put(api, user, keys[provider], provider).status_code == 200
    assert [key["provider"] for key in listed(api, user)] == ["anthropic", "openai"]
    assert {row["provider"]: opened(stack, user, row) for row in rows(stack, user)} == keys
    assert api.usage(user)["byok"]["providers"] == ["anthropic", "openai"]
    assert delete(api, user, "anthropic").json() == {"deleted": True}
    assert [key["provider"] for key in listed(api, user)] == ["openai"]
    assert uses_own(stack, user) is True


@pytest.mark.parametrize("length", [16, 512])
def test_the_shortest_and_the_longest_key_are_stored(api: Api, stack: Stack, person: People, length: int) -> None:
    user, key = person("basic"), new_key().ljust(length, "k")[:length]
    assert put(api, user, key).json()["hint"] == f"…{key[-4:]}"
    (row,) = rows(stack, user)
    assert opened(stack, user, row) == key


def test_white_space_around_a_pasted_key_is_not_part_of_it(api: Api, stack: Stack, person: People) -> None:
    user, key = person("basic"), new_key()
    assert put(api, user, f" \t{key}\r\n").json()["hint"] == f"…{key[-4:]}"
    (row,) = rows(stack, user)
    assert opened(stack, user, row) == key


def test_a_replaced_key_is_a_new_one(api: Api, stack: Stack, person: People) -> None:
    user, key = person("basic"), new_key()
    first = put(api, user, new_key()).json()
    (old,) = rows(stack, user)
    second = put(api, user, key).json()
    (new,) = rows(stack, user)
    assert (second["hint"], opened(stack, user, new)) == (f"…{key[-4:]}", key)
    assert second["created_at"] > first["created_at"]
    assert new["id"] != old["id"]
    assert new["encryption_iv"] != old["encryption_iv"]
    assert listed(api, user) == [second]


def test_keys_stored_at_once_replace_each_other_whole_and_a_reader_always_sees_one(
    api: Api, stack: Stack, person: People
) -> None:
    user = person("basic")
    keys = [new_key() for _ in range(17)]
    hints = {f"…{key[-4:]}" for key in keys}
    assert put(api, user, keys[0]).status_code == 200
    together, over = threading.Barrier(17), threading.Event()

    def write(key: str) -> int:
        together.wait()
        return put(api, user, key).status_code

    def read() -> list[list[dict[str, Any]]]:
        together.wait()
        seen = [listed(api, user)]
        while not over.is_set():
            seen.append(listed(api, user))
        return seen

    with ThreadPoolExecutor(17) as pool:
        reader = pool.submit(read)
        try:
            statuses = list(pool.map(write, keys[1:]))
        finally:
            over.set()
        seen = reader.result()
    assert statuses == [200] * 16
    for moment in seen:
        (key,) = moment
        assert (key["hint"] in hints, key["status"]) == (True, "valid")
    (row,) = rows(stack, user)
    left = opened(stack, user, row)
    assert left in keys[1:]
    assert row["hint"] == f"…{left[-4:]}"
    assert [key["hint"] for key in listed(api, user)] == [row["hint"]]
    assert uses_own(stack, user) is True


# Checking again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_is_accepted_no_more_is_not_used_until_it_is_replaced(
    api: Api, stack: Stack, person: People, provider: str
) -> None:
    user = person("basic")
    stored = put(api, user, new_key(), provider).json()
    again = validate(api, user, provider)
    assert again.status_code == 200
    assert again.json() == {**stored, "last_validated_at": again.json()["last_validated_at"]}
    assert again.json()["last_validated_at"] > stored["last_validated_at"]

    store(stack, user, new_key("invalid-"), provider)
    assert uses_own(stack, user) is True
    rejected = validate(api, user, provider)
    assert rejected.status_code == 200
    assert rejected.json()["status"] == "invalid"
    assert rejected.json()["validation_error"] == f"{PROVIDERS[provider]} does not accept this key."
    assert listed(api, user) == [rejected.json()]
    assert uses_own(stack, user) is False
    usage = api.usage(user)
    assert (usage["byok"]["providers"], usage["reason"]) == ([], "Within daily quota")

    assert put(api, user, new_key(), provider).json()["status"] == "valid"
    valid = validate(api, user, provider).json()
    assert (valid["status"], valid["validation_error"]) == ("valid", None)
    assert uses_own(stack, user) is True


def test_a_key_that_was_rejected_and_is_accepted_again_is_used_again(api: Api, stack: Stack, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key()).status_code == 200
    alter(stack, user, "is_active = false, validation_error = 'Rejected yesterday.'")
    assert listed(api, user)[0]["status"] == "invalid"
    assert uses_own(stack, user) is False
    assert (validate(api, user).json()["status"], uses_own(stack, user)) == ("valid", True)


def test_there_has_to_be_a_key_to_check(api: Api, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key(), "openai").status_code == 200
    clear_journal(api)
    assert failed(validate(api, user, "anthropic")) == (404, "not_found")
    assert checks(api) == []


@pytest.mark.parametrize(
    "damage",
    [
        "encrypted_key = set_byte(encrypted_key, 0, get_byte(encrypted_key, 0) # 1)",
        "encryption_iv = set_byte(encryption_iv, 0, get_byte(encryption_iv, 0) # 1)",
        "encryption_tag = set_byte(encryption_tag, 15, get_byte(encryption_tag, 15) # 1)",
        "encryption_key_id = 'gone'",
        "provider = 'openai'",
    ],
    ids=["ciphertext", "nonce", "tag", "key of the ring", "relabelled"],
)
def test_a_row_that_does_not_open_asks_for_the_key_again(api: Api, stack: Stack, person: People, damage: str) -> None:
    user, key = person("basic"), new_key()
    assert put(api, user, key).status_code == 200
    alter(stack, user, damage)
    (before,) = rows(stack, user)
    clear_journal(api)
    response = validate(api, user, before["provider"])
    assert failed(response) == (422, "byok_key_rejected")
    assert "Store it again" in response.json()["error"]["message"]
    assert checks(api) == []
    assert rows(stack, user) == [before]
    assert put(api, user, key, before["provider"]).json()["status"] == "valid"
    assert validate(api, user, before["provider"]).json()["status"] == "valid"


def test_a_seal_that_was_moved_from_another_users_row_does_not_open(api: Api, stack: Stack, person: People) -> None:
    owner, thief = person("basic"), person("basic")
    for user in (owner, thief):
        assert put(api, user, new_key()).status_code == 200
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute(
            "update public.user_api_keys mine set encrypted_key = k.encrypted_key, encryption_iv = k.encryption_iv,"
            " encryption_tag = k.encryption_tag from public.user_api_keys k"
            " where mine.user_id = %s and k.user_id = %s",
            (thief.id, owner.id),
        )
    clear_journal(api)
    assert failed(validate(api, thief)) == (422, "byok_key_rejected")
    assert checks(api) == []


# Deleting, and whose keys they are -------------------------------------------------------------------------------


def test_a_deleted_key_is_gone_at_once(api: Api, stack: Stack, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key()).status_code == 200
    first, again = delete(api, user), delete(api, user)
    assert (first.status_code, first.json()) == (200, {"deleted": True})
    assert (again.status_code, again.json()) == (200, {"deleted": False})
    assert (listed(api, user), rows(stack, user), uses_own(stack, user)) == ([], [], False)
    assert api.usage(user)["reason"] == "Within daily quota"


def test_anothers_keys_are_neither_listed_nor_touched(api: Api, stack: Stack, person: People) -> None:
    owner, other = person("basic"), person("basic")
    assert put(api, owner, new_key()).status_code == 200
    before = rows(stack, owner)
    assert listed(api, other) == []
    assert failed(validate(api, other)) == (404, "not_found")
    assert delete(api, other).json() == {"deleted": False}
    assert put(api, other, new_key()).status_code == 200
    assert delete(api, other).json() == {"deleted": True}
    assert rows(stack, owner) == before


EVERY = [("GET", "/keys"), ("PUT", "/keys/{}"), ("POST", "/keys/{}/validate"), ("DELETE", "/keys/{}")]


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_nobody_is_answered_without_a_token(api: Api, method: str, path: str) -> None:
    clear_journal(api)
    for headers in ({}, {"authorization": "Bearer nonsense"}):
        response = api.http.request(
            method, path.format("anthropic"), json={"api_key": new_key(CANARY)}, headers=headers
        )
        assert failed(response) == (401, "unauthenticated")
        assert CANARY not in response.text
    assert checks(api) == []


@pytest.mark.parametrize(("method", "path"), EVERY[1:])
@pytest.mark.parametrize("provider", ["mistral", "Anthropic", "anthropic%20", "%00"])
def test_an_unknown_provider_is_not_found(api: Api, person: People, method: str, path: str, provider: str) -> None:
    user = person("basic")
    response = api.http.request(method, path.format(provider), json={"api_key": new_key(CANARY)}, headers=user.headers)
    assert failed(response) == (404, "not_found")
    assert CANARY not in response.text


# What cannot be a key --------------------------------------------------------------------------------------------

SOME = f"sk-{CANARY}-{'k' * 20}"
NOT_A_KEY = "must be a provider's API key: 16 to 512 printable characters without spaces"
BAD: dict[str, tuple[bytes, int, str, str | None, str]] = {
    "missing": (b'{"key": "%s"}' % SOME.encode(), 422, "invalid_request", "api_key", "Field required"),
    "null": (b'{"api_key": null}', 422, "invalid_request", "api_key", "valid string"),
    "not a string": (b'{"api_key": ["%s"]}' % SOME.encode(), 422, "invalid_request", "api_key", "valid string"),
    "a number": (b'{"api_key": 1234567890123456789}', 422, "invalid_request", "api_key", "valid string"),
    "not an object": (json.dumps(SOME).encode(), 422, "invalid_request", "body", "valid dictionary"),
    "a list": (json.dumps([SOME]).encode(), 422, "invalid_request", "body", "valid dictionary"),
    "not JSON": (b'{"api_key": "%s"' % SOME.encode(), 400, "invalid_json", None, "not valid JSON"),
    "the key itself": (SOME.encode(), 400, "invalid_json", None, "not valid JSON"),
    "nothing": (b"", 400, "invalid_json", None, "not valid JSON"),
    "not UTF-8": (b'{"api_key": "%s\xff"}' % SOME.encode(), 400, "invalid_json", None, "not valid JSON"),
    "over 256 KiB": (json.dumps({"api_key": SOME * 9000}).encode(), 413, "too_large", None, "256 KiB"),
}
for name, value in {
    "empty": "",
    "too short": f"sk-{CANARY}".ljust(15, "k"),
    "short within white space": f"    sk-{CANARY}    ",
    "too long": SOME.ljust(513, "k"),
    "with a space": f"{SOME} {SOME}",
    "with a line feed": f"{SOME}\n{SOME}",
    "with a header of its own": f"{SOME}\r\nx-injected: yes",
    "with a tab": f"{SOME}\t{SOME}",
    "not ASCII": f"{SOME}é",
    "with a zero-width space": f"{SOME}\u200b",
    "with dots for the rest": f"sk-{CANARY}…{'k' * 12}",
}.items():
    BAD[name] = (json.dumps({"api_key": value}).encode(), 422, "invalid_request", "api_key", NOT_A_KEY)
BAD["with a null character"] = (
    json.dumps({"api_key": f"{SOME}\x00"}).encode(), 422, "invalid_request", "body", "null character",
)  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_key_is_a_clear_error_that_does_not_repeat_it(
    api: Api, stack: Stack, person: People, case: str
) -> None:
    body, status, code, field, message = BAD[case]
    user = person("basic")
    clear_journal(api)
    response = api.http.put("/keys/anthropic", content=body, headers=user.headers)
    assert failed(response) == (status, code)
    error = response.json()["error"]
    if field is None:
        assert message in error["message"]
    else:
        (problem,) = error["fields"]
        assert problem["field"] == field
        assert message in problem["message"]
    assert CANARY not in response.text
    assert (len(body) > BODY_LIMIT) is (status == 413)
    assert (checks(api), rows(stack, user)) == ([], [])


def test_no_log_has_a_key_that_was_given(api: Api, stack: Stack, person: People) -> None:
    """Stored, rejected, refused or malformed: neither the key nor its hint is in what any process wrote."""
    mark = uuid.uuid4().hex
    user, free = person("basic"), person("free")
    given = [f"sk-{kind}-{mark}" for kind in ("good", "invalid", "with space")]
    assert [put(api, user, key).status_code for key in given] == [200, 422, 422]
    assert put(api, free, given[0]).status_code == 403
    assert api.http.put("/keys/openai", content=f'{{"api_key": "{mark}', headers=user.headers).status_code == 400
    assert validate(api, user).status_code == 200
    assert delete(api, user).json() == {"deleted": True}
    logs = {path.name: path.read_text(errors="replace") for path in (stack.config.folder / "logs").glob("*.log")}
    assert user.id in logs["functions.log"]  # what is written is there to be read
    assert [name for name, text in logs.items() if mark in text or f"…{mark[-4:]}" in text] == []


# A provider that says neither yes nor no -------------------------------------------------------------------------

Reply = tuple[int, str, bytes] | None


class Provider:
    """A provider that answers what a test says: status, content type and body, or None: the connection is torn down."""

    def __init__(self) -> None:
        self.reply: Callable[[], Reply] = lambda: (200, "application/json", b'{"data": [], "has_more": false}')
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                reply = provider.reply()
                self.close_connection = True
                if reply is not None:
                    status, content_type, body = reply
                    self.send_response(status)
                    self.send_header("content-type", content_type)
                    self.send_header("content-length", str(len(body)))
                    self.send_header("connection", "close")
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that does what the test says, for `own_app`."""
    provider = Provider()
    thread = threading.Thread(target=provider.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield provider
    provider.server.shutdown()
    thread.join()
    provider.server.server_close()


def environment(stack: Stack, provider_url: str) -> dict[str, str]:
    """The function's own variables, with the stack's Supabase and another provider."""
    return {
        **ring(stack),
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["anon_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"],
        "ANTHROPIC_BASE_URL": provider_url,
        "OPENAI_BASE_URL": f"{provider_url}/v1",
    }


@pytest.fixture
async def own_app(
    stack: Stack, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the function's app, in this process, beside `provider`."""
    for name in ("SECRETS_ID", "ENCRYPTION_KEYS", "SUPABASE_JWT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(stack, provider.url).items():
        monkeypatch.setenv(name, value)
    app = create()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
            yield client


UNCLEAR: dict[str, Reply] = {
    "400": (400, "application/json", b"{}"),
    "402": (402, "application/json", b"{}"),
    "404": (404, "text/html", b"<h1>Not Found</h1>"),
    "429": (429, "application/json", b"{}"),
    "500": (500, "application/json", b"{}"),
    "529": (529, "application/json", b"{}"),
    "torn down": None,
    "a page": (200, "text/html", b"<h1>Welcome to the hotel's network</h1>"),
    "half an answer": (200, "application/json", b'{"data": ['),
    "another answer": (200, "application/json", b"[]"),
    "an empty answer": (200, "application/json", b""),
}


async def check_unclear(own_app: httpx.AsyncClient, stack: Stack, person: People, name: str) -> None:
    """A first key, one in place of another, one that is checked again."""
    user, key = person("basic"), new_key()
    response = await own_app.put(f"/keys/{name}", json={"api_key": key}, headers=user.headers)
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["last_validated_at"]) == ("unchecked", None)
    assert response.json()["hint"] == f"…{key[-4:]}"
    (row,) = rows(stack, user)
    assert opened(stack, user, row) == key
    assert uses_own(stack, user) is True

    store(stack, user, new_key(), name)
    (before,) = rows(stack, user)
    checked = await own_app.post(f"/keys/{name}/validate", headers=user.headers)
    assert (checked.status_code, checked.json()["status"]) == (200, "valid")
    assert rows(stack, user) == [before]

    response = await own_app.put(f"/keys/{name}", json={"api_key": key}, headers=user.headers)
    assert response.json()["status"] == "unchecked"
    checked = await own_app.post(f"/keys/{name}/validate", headers=user.headers)
    assert checked.json() == response.json()


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("what", UNCLEAR)
async def test_an_answer_that_is_neither_yes_nor_no_stores_the_key_unchecked_and_changes_no_other(
    own_app: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, what: str, name: str
) -> None:
    provider.reply = lambda: UNCLEAR[what]
    await check_unclear(own_app, stack, person, name)
    assert provider.asked == 4  # once each time: nobody waits for a second attempt


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_provider_that_is_silent_stores_the_key_unchecked(
    own_app: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(check, "TIMEOUT_S", 0.2)
    over = threading.Event()

    def stall() -> Reply:
        over.wait()
        return None

    provider.reply = stall
    try:
        await check_unclear(own_app, stack, person, name)
    finally:
        over.set()


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_provider_out_of_reach_stores_the_key_unchecked(
    own_app: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, name: str
) -> None:
    await asyncio.to_thread(provider.server.shutdown)
    provider.server.server_close()
    await check_unclear(own_app, stack, person, name)
    assert provider.asked == 0


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_plain_no_is_a_no_whatever_comes_with_it(
    own_app: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, status: int, name: str
) -> None:
    provider.reply = lambda: (status, "text/html", b"<h1>No</h1>")
    user = person("basic")
    response = await own_app.put(f"/keys/{name}", json={"api_key": new_key()}, headers=user.headers)
    assert failed(response) == (422, "byok_key_rejected")
    assert rows(stack, user) == []


async def test_an_unchecked_key_is_valid_once_a_chat_was_answered_with_it(
    own_app: httpx.AsyncClient, api: Api, person: People, provider: Provider
) -> None:
    provider.reply = lambda: None
    user = person("basic")
    stored = (await own_app.put("/keys/openai", json={"api_key": new_key()}, headers=user.headers)).json()
    assert stored["status"] == "unchecked"
    answered = await asyncio.to_thread(api.chat, user, question("What is a quorum?", provider="openai"))
    assert answered.json()["metadata"]["funding"] == "byok"
    (key,) = await asyncio.to_thread(listed, api, user)
    assert (key["status"], key["hint"]) == ("valid", stored["hint"])


# What happens while the provider is asked ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 401])
async def test_what_is_learnt_of_a_key_that_was_replaced_meanwhile_is_not_said_of_the_new_one(
    own_app: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, status: int
) -> None:
    user, newer = person("basic"), new_key()
    store(stack, user, new_key())
    replaced: list[dict[str, Any]] = []

    def replace_first() -> Reply:
        store(stack, user, newer)
        replaced.extend(rows(stack, user))
        return status, "application/json", b"{}"

    provider.reply = replace_first
    checked = await own_app.post("/keys/anthropic/validate", headers=user.headers)
    assert checked.status_code == 200
    assert (checked.json()["hint"], checked.json()["status"]) == (f"…{newer[-4:]}", "valid")
    assert rows(stack, user) == replaced != []


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_a_key_that_is_deleted_while_it_is_checked_is_not_found(
    own_app: httpx.AsyncClient, stack: Stack, person: People, provider: Provider, status: int
) -> None:
    user = person("basic")
    store(stack, user, new_key())

    def delete_first() -> Reply:
        with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
            db.execute("select public.delete_api_key(%s, 'anthropic')", (user.id,))
        return status, "application/json", b"{}"

    provider.reply = delete_first
    assert failed(await own_app.post("/keys/anthropic/validate", headers=user.headers)) == (404, "not_found")
    assert rows(stack, user) == []


async def test_a_plan_that_ends_while_a_key_is_checked_stores_none(
    own_app: httpx.AsyncClient, stack: Stack, person: People, provider: Provider
) -> None:
    user = person("basic")
    accept = provider.reply

    def downgrade_first() -> Reply:
        alter(stack, user, "tier = 'free'", "user_subscriptions")
        return accept()

    provider.reply = downgrade_first
    response = await own_app.put("/keys/anthropic", json={"api_key": new_key()}, headers=user.headers)
    assert failed(response) == (403, "byok_not_allowed")
    assert rows(stack, user) == []


# A database out of reach -----------------------------------------------------------------------------------------


@pytest.fixture
def outage(stack: Stack) -> Iterator[Callable[[], None]]:
    """Stops the database when called; it is back after the test, or when called again."""
    down = False

    def toggle() -> None:
        nonlocal down
        (stack.start_database if down else stack.stop_database)()
        down = not down

    yield toggle
    if down:
        toggle()


def test_without_the_database_nothing_is_stored_and_no_provider_is_asked(
    api: Api, stack: Stack, person: People, outage: Callable[[], None], eventually: Callable[..., None]
) -> None:
    user, other = person("basic"), person("basic")
    stored = put(api, other, new_key()).json()
    before = rows(stack, other)
    clear_journal(api)
    outage()
    assert failed(put(api, user, new_key())) == UNAVAILABLE
    assert failed(put(api, other, new_key())) == UNAVAILABLE
    assert failed(validate(api, other)) == UNAVAILABLE
    assert failed(delete(api, other)) == UNAVAILABLE
    assert failed(api.http.get("/keys", headers=other.headers)) == UNAVAILABLE
    assert checks(api) == []
    outage()
    eventually(lambda: api.http.get("/keys", headers=other.headers).status_code == 200)
    assert listed(api, other) == [stored]
    assert (rows(stack, user), rows(stack, other)) == ([], before)


async def test_a_database_that_goes_while_a_key_is_checked_stores_none(
    own_app: httpx.AsyncClient, api: Api, stack: Stack, person: People, provider: Provider,
    outage: Callable[[], None], eventually: Callable[..., None],
) -> None:  # fmt: skip
    user = person("basic")
    accept = provider.reply

    def stop_first() -> Reply:
        outage()
        return accept()

    provider.reply = stop_first
    response = await own_app.put("/keys/anthropic", json={"api_key": new_key()}, headers=user.headers)
    assert failed(response) == UNAVAILABLE
    outage()
    await asyncio.to_thread(eventually, lambda: api.http.get("/keys", headers=user.headers).status_code == 200)
    assert rows(stack, user) == []


# On Lambda -------------------------------------------------------------------------------------------------------

# The local gateway closes connections that are idle for five seconds; importing the SDKs may take longer.
INVOKE = f"""
import anthropic, json, openai, sys
connected = []
sys.addaudithook(lambda event, args: connected.append(args[1]) if event == "socket.connect" else None)
from functions.keys.handler import handler
answers = []
for event in json.load(sys.stdin):
    connected.clear()
    answer = handler(event, None)
    gateway = [address for address in connected if address[1] == {GATEWAY} + int(sys.argv[1])]
    answers.append({{**answer, "connections": len(gateway)}})
print(json.dumps(answers))
"""


def function_url_event(
    method: str, path: str, headers: dict[str, str], body: str | None = None, *, encoded: bool = False
) -> dict[str, Any]:
    """A request as a function URL hands it to Lambda, payload version 2.0.

    https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    """
    now = "12/Mar/2026:19:03:58 +0000"
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "abc.lambda-url.ca-central-1.on.aws", **headers},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abc",
            "domainName": "abc.lambda-url.ca-central-1.on.aws",
            "domainPrefix": "abc",
            "http": {
                "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test",
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": now,
            "timeEpoch": 1773342238000,
        },
        "isBase64Encoded": encoded,
    }  # fmt: skip
    if body is not None:
        event["body"] = b64encode(body.encode()).decode() if encoded else body
    return event


def test_lambdas_entry_point_answers_one_invocation_after_another_on_the_same_connections(
    api: Api, stack: Stack, person: People
) -> None:
    """In a process of its own, as Lambda has it: the event loop and what is bound to it outlive each invocation."""
    user, key = person("basic"), new_key()
    body, rejected = (json.dumps({"api_key": given}) for given in (key, new_key("invalid-")))
    events = [
        function_url_event("GET", "/keys", user.headers),
        function_url_event("PUT", "/keys/anthropic", user.headers, body),
        function_url_event("PUT", "/keys/openai", user.headers, body, encoded=True),
        function_url_event("GET", "/keys", user.headers),
        function_url_event("POST", "/keys/anthropic/validate", user.headers),
        function_url_event("PUT", "/keys/anthropic", user.headers, rejected),
        function_url_event("PUT", "/keys/anthropic", user.headers),
        function_url_event("GET", "/keys", {}),
        function_url_event("DELETE", "/keys/openai", user.headers),
        function_url_event("GET", "/keys", user.headers),
    ]
    done = subprocess.run(
        [sys.executable, "-c", INVOKE, str(stack.config.offset)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment(stack, stack.info["model_url"])},
        input=json.dumps(events),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert key not in done.stderr + done.stdout
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [answer["statusCode"] for answer in answers] == [200, 200, 200, 200, 200, 422, 400, 401, 200, 200]
    assert all(answer["isBase64Encoded"] is False for answer in answers)
    bodies = [json.loads(answer["body"]) for answer in answers]
    assert bodies[0] == {"keys": []}
    assert (bodies[1]["status"], bodies[1]["hint"]) == ("valid", f"…{key[-4:]}")
    assert bodies[3] == {"keys": [bodies[1], bodies[2]]}
    assert bodies[4]["status"] == "valid"
    assert bodies[5]["error"]["code"] == "byok_key_rejected"
    assert bodies[8] == {"deleted": True}
    assert bodies[9] == {"keys": [bodies[4]]} == {"keys": listed(api, user)}
    for answer, content in zip(answers, bodies, strict=True):
        assert answer["headers"]["content-type"] == "application/json"
        if "error" in content:
            assert content["error"]["request_id"] == answer["headers"]["x-request-id"]
    first, *later = [answer["connections"] for answer in answers]
    assert first >= 1  # they are counted
    assert later == [0] * len(later)
