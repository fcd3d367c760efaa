"""Key storage, /keys: storing, validating and deleting keys, and the input it refuses."""

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from functions.common.web import BODY_LIMIT
from infra.local.stack import Stack
from tests.api import Api
from tests.functions.keys_kit import (
    CANARY,
    PROVIDERS,
    People,
    clear_journal,
    decrypted,
    delete,
    error_of,
    list_keys,
    new_key,
    provider_requests,
    put,
    rows,
    store,
    update_rows,
    uses_own_key,
    validate,
)

# Storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_accepted_key_is_stored_listed_and_used(api: Api, stack: Stack, person: People, provider: str) -> None:
    user, key = person("basic"), new_key()
    assert list_keys(api, user) == []
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
    (asked,) = provider_requests(api)
    assert (asked["provider"], asked["path"], asked["api_key_last4"]) == (provider, "/v1/models", key[-4:])
    assert list_keys(api, user) == [stored]
    assert api.usage(user)["byok"] == {"allowed": True, "providers": [provider]}
    assert api.usage(user)["reason"] == "Unlimited (BYOK)"
    assert uses_own_key(stack, user) is True
    (row,) = rows(stack, user)
    assert decrypted(user, row) == key
    assert key.encode() not in b"".join(value for value in row.values() if isinstance(value, bytes))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_rejected_key_is_not_stored(api: Api, stack: Stack, person: People, provider: str) -> None:
    user, key = person("basic"), new_key("invalid-")
    response = put(api, user, key, provider)
    assert error_of(response) == (422, "byok_key_rejected")
    assert response.json()["error"]["message"].startswith(PROVIDERS[provider])
    assert key not in response.text
    assert (list_keys(api, user), rows(stack, user), uses_own_key(stack, user)) == ([], [], False)


def test_a_rejected_key_does_not_replace_the_stored_one(api: Api, stack: Stack, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key()).status_code == 200
    before = rows(stack, user)
    assert error_of(put(api, user, new_key("invalid-"))) == (422, "byok_key_rejected")
    assert rows(stack, user) == before
    assert uses_own_key(stack, user) is True


def test_a_plan_without_own_keys_is_refused_before_the_check(api: Api, stack: Stack, person: People) -> None:
    user = person("free")
    clear_journal(api)
    for key in (new_key(), new_key("invalid-")):
        response = put(api, user, key)
        assert error_of(response) == (403, "byok_not_allowed")
        assert key not in response.text
    assert provider_requests(api) == []
    assert (list_keys(api, user), rows(stack, user)) == ([], [])
    assert api.usage(user)["byok"] == {"allowed": False, "providers": []}


def test_each_provider_has_its_own_key(api: Api, stack: Stack, person: People) -> None:
    user = person("pro")
    keys = {provider: new_key() for provider in PROVIDERS}
    for provider in reversed(PROVIDERS):
        assert put(api, user, keys[provider], provider).status_code == 200
    assert [key["provider"] for key in list_keys(api, user)] == ["anthropic", "openai"]
    assert {row["provider"]: decrypted(user, row) for row in rows(stack, user)} == keys
    assert api.usage(user)["byok"]["providers"] == ["anthropic", "openai"]
    assert delete(api, user, "anthropic").json() == {"deleted": True}
    assert [key["provider"] for key in list_keys(api, user)] == ["openai"]
    assert uses_own_key(stack, user) is True


@pytest.mark.parametrize("length", [16, 512])
def test_the_shortest_and_the_longest_key_are_stored(api: Api, stack: Stack, person: People, length: int) -> None:
    user, key = person("basic"), new_key().ljust(length, "k")[:length]
    assert put(api, user, key).json()["hint"] == f"…{key[-4:]}"
    (row,) = rows(stack, user)
    assert decrypted(user, row) == key


def test_white_space_around_a_key_is_removed(api: Api, stack: Stack, person: People) -> None:
    user, key = person("basic"), new_key()
    assert put(api, user, f" \t{key}\r\n").json()["hint"] == f"…{key[-4:]}"
    (row,) = rows(stack, user)
    assert decrypted(user, row) == key


def test_replacing_a_key_stores_a_new_row(api: Api, stack: Stack, person: People) -> None:
    user, key = person("basic"), new_key()
    first = put(api, user, new_key()).json()
    (old,) = rows(stack, user)
    second = put(api, user, key).json()
    (new,) = rows(stack, user)
    assert (second["hint"], decrypted(user, new)) == (f"…{key[-4:]}", key)
    assert second["created_at"] > first["created_at"]
    assert new["id"] != old["id"]
    assert new["encryption_iv"] != old["encryption_iv"]
    assert list_keys(api, user) == [second]


def test_concurrent_replacements_always_leave_one_complete_key(api: Api, stack: Stack, person: People) -> None:
    user = person("basic")
    keys = [new_key() for _ in range(17)]
    hints = {f"…{key[-4:]}" for key in keys}
    assert put(api, user, keys[0]).status_code == 200
    barrier, done = threading.Barrier(17), threading.Event()

    def write(key: str) -> int:
        barrier.wait()
        # On a busy machine a database call may exceed its timeout, which is answered 503.
        while (response := put(api, user, key)).status_code == 503:
            pass
        return response.status_code

    def read() -> list[list[dict[str, Any]]]:
        barrier.wait()
        seen = [list_keys(api, user)]
        while not done.is_set():
            seen.append(list_keys(api, user))
        return seen

    with ThreadPoolExecutor(17) as pool:
        reader = pool.submit(read)
        try:
            statuses = list(pool.map(write, keys[1:]))
        finally:
            done.set()
        seen = reader.result()
    assert statuses == [200] * 16
    for keys_seen in seen:
        (key,) = keys_seen
        assert (key["hint"] in hints, key["status"]) == (True, "valid")
    (row,) = rows(stack, user)
    last = decrypted(user, row)
    assert last in keys[1:]
    assert row["hint"] == f"…{last[-4:]}"
    assert [key["hint"] for key in list_keys(api, user)] == [row["hint"]]
    assert uses_own_key(stack, user) is True


# Validating ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_becomes_invalid_is_unused_until_replaced(
    api: Api, stack: Stack, person: People, provider: str
) -> None:
    user = person("basic")
    stored = put(api, user, new_key(), provider).json()
    revalidated = validate(api, user, provider)
    assert revalidated.status_code == 200
    assert revalidated.json() == {**stored, "last_validated_at": revalidated.json()["last_validated_at"]}
    assert revalidated.json()["last_validated_at"] > stored["last_validated_at"]

    store(stack, user, new_key("invalid-"), provider)
    assert uses_own_key(stack, user) is True
    rejected = validate(api, user, provider)
    assert rejected.status_code == 200
    assert rejected.json()["status"] == "invalid"
    assert rejected.json()["validation_error"].startswith(f"{PROVIDERS[provider]} does not accept your own key.")
    assert list_keys(api, user) == [rejected.json()]
    assert uses_own_key(stack, user) is False
    usage = api.usage(user)
    assert (usage["byok"]["providers"], usage["reason"]) == ([], "Within daily quota")

    assert put(api, user, new_key(), provider).json()["status"] == "valid"
    valid = validate(api, user, provider).json()
    assert (valid["status"], valid["validation_error"]) == ("valid", None)
    assert uses_own_key(stack, user) is True


def test_a_key_that_becomes_valid_again_is_used_again(api: Api, stack: Stack, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key()).status_code == 200
    update_rows(stack, user, "is_active = false, validation_error = 'Rejected yesterday.'")
    assert list_keys(api, user)[0]["status"] == "invalid"
    assert uses_own_key(stack, user) is False
    assert (validate(api, user).json()["status"], uses_own_key(stack, user)) == ("valid", True)


def test_validating_without_a_stored_key_is_not_found(api: Api, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key(), "openai").status_code == 200
    clear_journal(api)
    assert error_of(validate(api, user, "anthropic")) == (404, "not_found")
    assert provider_requests(api) == []


@pytest.mark.parametrize(
    "damage",
    [
        "encrypted_key = set_byte(encrypted_key, 0, get_byte(encrypted_key, 0) # 1)",
        "encryption_iv = set_byte(encryption_iv, 0, get_byte(encryption_iv, 0) # 1)",
        "encryption_tag = set_byte(encryption_tag, 15, get_byte(encryption_tag, 15) # 1)",
        "encryption_key_id = 'gone'",
        "provider = 'openai'",
    ],
    ids=["ciphertext", "nonce", "tag", "encryption key id", "relabelled"],
)
def test_a_row_that_cannot_be_decrypted_asks_for_the_key(api: Api, stack: Stack, person: People, damage: str) -> None:
    user, key = person("basic"), new_key()
    assert put(api, user, key).status_code == 200
    update_rows(stack, user, damage)
    (before,) = rows(stack, user)
    clear_journal(api)
    response = validate(api, user, before["provider"])
    assert error_of(response) == (422, "byok_key_rejected")
    assert "Store it again" in response.json()["error"]["message"]
    assert provider_requests(api) == []
    assert rows(stack, user) == [before]
    assert put(api, user, key, before["provider"]).json()["status"] == "valid"
    assert validate(api, user, before["provider"]).json()["status"] == "valid"


def test_a_ciphertext_of_another_user_cannot_be_decrypted(api: Api, stack: Stack, person: People) -> None:
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
    assert error_of(validate(api, thief)) == (422, "byok_key_rejected")
    assert provider_requests(api) == []


# Deleting and permissions ----------------------------------------------------------------------------------------


def test_a_deleted_key_is_removed_immediately(api: Api, stack: Stack, person: People) -> None:
    user = person("basic")
    assert put(api, user, new_key()).status_code == 200
    first, again = delete(api, user), delete(api, user)
    assert (first.status_code, first.json()) == (200, {"deleted": True})
    assert (again.status_code, again.json()) == (200, {"deleted": False})
    assert (list_keys(api, user), rows(stack, user), uses_own_key(stack, user)) == ([], [], False)
    assert api.usage(user)["reason"] == "Within daily quota"


def test_keys_of_another_user_are_neither_listed_nor_changed(api: Api, stack: Stack, person: People) -> None:
    owner, other = person("basic"), person("basic")
    assert put(api, owner, new_key()).status_code == 200
    before = rows(stack, owner)
    assert list_keys(api, other) == []
    assert error_of(validate(api, other)) == (404, "not_found")
    assert delete(api, other).json() == {"deleted": False}
    assert put(api, other, new_key()).status_code == 200
    assert delete(api, other).json() == {"deleted": True}
    assert rows(stack, owner) == before


ROUTES = [("GET", "/keys"), ("PUT", "/keys/{}"), ("POST", "/keys/{}/validate"), ("DELETE", "/keys/{}")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_requires_a_valid_token(api: Api, method: str, path: str) -> None:
    clear_journal(api)
    for headers in ({}, {"authorization": "Bearer nonsense"}):
        response = api.http.request(
            method, path.format("anthropic"), json={"api_key": new_key(CANARY)}, headers=headers
        )
        assert error_of(response) == (401, "unauthenticated")
        assert CANARY not in response.text
    assert provider_requests(api) == []


@pytest.mark.parametrize(("method", "path"), ROUTES[1:])
@pytest.mark.parametrize("provider", ["mistral", "Anthropic", "anthropic%20", "%00"])
def test_an_unknown_provider_is_not_found(api: Api, person: People, method: str, path: str, provider: str) -> None:
    user = person("basic")
    response = api.http.request(method, path.format(provider), json={"api_key": new_key(CANARY)}, headers=user.headers)
    assert error_of(response) == (404, "not_found")
    assert CANARY not in response.text


# Invalid input -------------------------------------------------------------------------------------------------

PLAUSIBLE = f"sk-{CANARY}-{'k' * 20}"
KEY_RULE = "must be a provider's API key: 16 to 512 printable characters without spaces"
INVALID: dict[str, tuple[bytes, int, str, str | None, str]] = {
    "missing": (b'{"key": "%s"}' % PLAUSIBLE.encode(), 422, "invalid_request", "api_key", "Field required"),
    "null": (b'{"api_key": null}', 422, "invalid_request", "api_key", "valid string"),
    "not a string": (b'{"api_key": ["%s"]}' % PLAUSIBLE.encode(), 422, "invalid_request", "api_key", "valid string"),
    "a number": (b'{"api_key": 1234567890123456789}', 422, "invalid_request", "api_key", "valid string"),
    "not an object": (json.dumps(PLAUSIBLE).encode(), 422, "invalid_request", "body", "valid dictionary"),
    "a list": (json.dumps([PLAUSIBLE]).encode(), 422, "invalid_request", "body", "valid dictionary"),
    "not JSON": (b'{"api_key": "%s"' % PLAUSIBLE.encode(), 400, "invalid_json", None, "not valid JSON"),
    "the key without JSON": (PLAUSIBLE.encode(), 400, "invalid_json", None, "not valid JSON"),
    "an empty body": (b"", 400, "invalid_json", None, "not valid JSON"),
    "not UTF-8": (b'{"api_key": "%s\xff"}' % PLAUSIBLE.encode(), 400, "invalid_json", None, "not valid JSON"),
    "over 256 KiB": (json.dumps({"api_key": PLAUSIBLE * 9000}).encode(), 413, "too_large", None, "256 KiB"),
}
for name, value in {
    "empty": "",
    "too short": f"sk-{CANARY}".ljust(15, "k"),
    "too short without white space": f"    sk-{CANARY}    ",
    "too long": PLAUSIBLE.ljust(513, "k"),
    "with a space": f"{PLAUSIBLE} {PLAUSIBLE}",
    "with a line feed": f"{PLAUSIBLE}\n{PLAUSIBLE}",
    "with a second header": f"{PLAUSIBLE}\r\nx-injected: yes",
    "with a tab": f"{PLAUSIBLE}\t{PLAUSIBLE}",
    "not ASCII": f"{PLAUSIBLE}é",
    "with a zero-width space": f"{PLAUSIBLE}\u200b",
    "with an ellipsis": f"sk-{CANARY}…{'k' * 12}",
}.items():
    INVALID[name] = (json.dumps({"api_key": value}).encode(), 422, "invalid_request", "api_key", KEY_RULE)
INVALID["with a null character"] = (
    json.dumps({"api_key": f"{PLAUSIBLE}\x00"}).encode(), 422, "invalid_request", "body", "null character",
)  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_an_impossible_key_is_refused_and_not_repeated(api: Api, stack: Stack, person: People, case: str) -> None:
    body, status, code, field, message = INVALID[case]
    user = person("basic")
    clear_journal(api)
    response = api.http.put("/keys/anthropic", content=body, headers=user.headers)
    assert error_of(response) == (status, code)
    error = response.json()["error"]
    if field is None:
        assert message in error["message"]
    else:
        (invalid,) = error["fields"]
        assert invalid["field"] == field
        assert message in invalid["message"]
    assert CANARY not in response.text
    assert (len(body) > BODY_LIMIT) is (status == 413)
    assert (provider_requests(api), rows(stack, user)) == ([], [])


def test_logs_contain_neither_key_nor_hint(api: Api, stack: Stack, person: People) -> None:
    """Whether the key was stored, rejected, refused or malformed."""
    mark = uuid.uuid4().hex
    user, free = person("basic"), person("free")
    keys = [f"sk-{kind}-{mark}" for kind in ("good", "invalid", "with space")]
    assert [put(api, user, key).status_code for key in keys] == [200, 422, 422]
    assert put(api, free, keys[0]).status_code == 403
    assert api.http.put("/keys/openai", content=f'{{"api_key": "{mark}', headers=user.headers).status_code == 400
    assert validate(api, user).status_code == 200
    assert delete(api, user).json() == {"deleted": True}
    logs = {path.name: path.read_text(errors="replace") for path in (stack.config.folder / "logs").glob("*.log")}
    assert user.id in logs["functions.log"]  # the logs have been written
    assert [name for name, text in logs.items() if mark in text or f"…{mark[-4:]}" in text] == []
