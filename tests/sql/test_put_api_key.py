"""put_api_key, get_api_key, note_api_key, delete_api_key, list_api_keys."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.api_keys import (
    LAPSED,
    PROVIDERS,
    base64,
    delete_key,
    get_key,
    key_id_of,
    list_keys,
    note_key,
    put_key,
    stored_keys,
    uses_byo_key,
)
from tests.sql.concurrency import BackgroundCall
from tests.sql.metering import Db, admit, at


def test_a_stored_key_is_listed_with_its_status(db: Db, connect: Connect) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    checked = put_key(db, user, "openai", hint="…1234")
    unchecked = put_key(db, user, "anthropic", hint="…5678", valid=False)
    noon = "2026-03-01T12:00:00+00:00"
    assert checked == {
        "provider": "openai", "hint": "…1234", "status": "valid", "last_validated_at": noon, "validation_error": None,
        "created_at": noon,
    }  # fmt: skip
    assert unchecked == {
        "provider": "anthropic", "hint": "…5678", "status": "unchecked", "last_validated_at": None,
        "validation_error": None, "created_at": noon,
    }  # fmt: skip
    assert list_keys(connect, user) == {"allowed": True, "keys": [unchecked, checked]}


def test_get_api_key_returns_the_ciphertext_of_rejected_keys_too(db: Db) -> None:
    user, key_id = new_user(db, "basic"), str(uuid.uuid4())
    assert get_key(db, user) is None
    put_key(db, user, key_id=key_id, nonce="000000000007", ring_key="k-2")
    encrypted = {
        "id": key_id,
        "encrypted_key": base64("key 000000000007"),
        "encryption_iv": base64("000000000007"),
        "encryption_tag": base64("tag 000000000007"),
        "encryption_key_id": "k-2",
    }
    assert get_key(db, user) == encrypted
    note_key(db, key_id, user, valid=False)
    assert get_key(db, user) == encrypted
    assert get_key(db, user, "anthropic") is None
    assert get_key(db, new_user(db, "basic")) is None


@pytest.mark.parametrize(
    ("tier", "columns"),
    [("free", {}), ("basic", LAPSED), ("pro", LAPSED)],
    ids=["free", "lapsed basic", "lapsed pro"],
)
def test_a_plan_without_own_keys_stores_no_key(db: Db, connect: Connect, tier: str, columns: dict[str, Any]) -> None:
    user = new_user(db, tier, **columns)
    with pytest.raises(psycopg.Error) as caught:
        put_key(db, user)
    assert caught.value.sqlstate == "NBYOK"
    assert stored_keys(db, user) == []
    assert list_keys(connect, user) == {"allowed": False, "keys": []}


def test_an_unknown_user_has_no_keys(db: Db, connect: Connect) -> None:
    user = str(uuid.uuid4())
    with pytest.raises(psycopg.Error) as caught:
        put_key(db, user)
    assert caught.value.sqlstate == "NBYOK"
    with pytest.raises(psycopg.Error) as caught:
        list_keys(connect, user)
    assert caught.value.sqlstate == "NOUSR"


def test_after_a_lapse_keys_can_be_listed_and_deleted(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    put_key(db, user)
    before = stored_keys(db, user)
    columns = ", ".join(f"{column} = %s" for column in LAPSED)
    db.execute(f"update public.user_subscriptions set {columns} where user_id = %s", (*LAPSED.values(), user))
    with pytest.raises(psycopg.Error) as caught:
        put_key(db, user, nonce="000000000002")
    assert caught.value.sqlstate == "NBYOK"
    assert stored_keys(db, user) == before
    assert [key["provider"] for key in list_keys(connect, user)["keys"]] == ["openai"]
    assert admit(db, user)["funding"] == "included"
    assert delete_key(db, user) is True


def test_a_canceled_plan_stores_keys_until_its_period_ends(db: Db) -> None:
    at(db, "2020-01-31T23:59:59Z")
    user = new_user(db, "basic", **LAPSED)
    assert put_key(db, user)["status"] == "valid"
    at(db, "2020-02-01T00:00Z")
    with pytest.raises(psycopg.Error) as caught:
        put_key(db, user)
    assert caught.value.sqlstate == "NBYOK"


def test_listing_shows_only_keys_of_the_signed_in_user(db: Db, connect: Connect) -> None:
    me, other = new_user(db, "basic"), new_user(db, "basic")
    put_key(db, other, hint="…othr")
    assert list_keys(connect, me) == {"allowed": True, "keys": []}
    assert [key["hint"] for key in list_keys(connect, other)["keys"]] == ["…othr"]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Sign in to see your keys"):
        connect("authenticated").execute("select public.list_api_keys()")


def test_metadata_never_includes_ciphertext(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    answers = [
        put_key(db, user, nonce="secretsecret"),
        note_key(db, key_id_of(db, user), user, valid=True),
        list_keys(connect, user),
    ]
    for answer in answers:
        text = json.dumps(answer)
        assert "openai" in text
        assert all(secret not in text for secret in ("secret", base64("secretsecret"), base64("key secretsecret")))


def test_replacing_a_key_resets_its_validation(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    put_key(db, user, hint="…1111")
    old = key_id_of(db, user)
    note_key(db, old, user, valid=False)
    at(db, "2026-03-02T12:00Z")
    replaced = put_key(db, user, nonce="000000000002", ring_key="2", hint="…2222", valid=False)
    assert replaced == {
        "provider": "openai", "hint": "…2222", "status": "unchecked", "last_validated_at": None,
        "validation_error": None, "created_at": "2026-03-02T12:00:00+00:00",
    }  # fmt: skip
    (row,) = before = stored_keys(db, user)
    assert str(row["id"]) != old
    assert (row["encrypted_key"], row["encryption_iv"]) == (b"key 000000000002", b"000000000002")
    assert (row["encryption_tag"], row["encryption_key_id"]) == (b"tag 000000000002", "2")
    for valid in (True, False):
        assert note_key(db, old, user, valid=valid) is None
    assert stored_keys(db, user) == before
    assert uses_byo_key(db, user) is True


def test_validation_results_set_the_status_of_a_key(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    put_key(db, user, valid=False)
    key_id = key_id_of(db, user)
    states = []
    for day, valid in ((2, True), (3, False), (4, False), (5, True)):
        at(db, f"2026-03-0{day}T12:00Z")
        metadata = note_key(db, key_id, user, valid=valid, error=f"Not accepted on day {day}.")
        assert metadata is not None
        states.append((metadata["status"], metadata["last_validated_at"][:10], metadata["validation_error"]))
    assert states == [
        ("valid", "2026-03-02", None),
        ("invalid", "2026-03-02", "Not accepted on day 3."),
        ("invalid", "2026-03-02", "Not accepted on day 4."),
        ("valid", "2026-03-05", None),
    ]
    assert key_id_of(db, user) == key_id


def test_note_and_delete_affect_only_that_user_and_provider(db: Db) -> None:
    me, other = new_user(db, "basic"), new_user(db, "basic")
    for user in (me, other):
        for provider in PROVIDERS:
            put_key(db, user, provider)
    before = stored_keys(db, other)
    assert note_key(db, key_id_of(db, other), me, valid=False) is None
    assert delete_key(db, me, "openai") is True
    assert delete_key(db, me, "openai") is False
    assert [row["provider"] for row in stored_keys(db, me)] == ["anthropic"]
    assert stored_keys(db, other) == before


def test_a_put_repeated_during_the_first_stores_one_key(db: Db, connect: Connect) -> None:
    """A client that got no response repeats the call with the same id and ciphertext."""
    user, key_id = new_user(db, "basic"), str(uuid.uuid4())
    first, second = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            put_key(first, user, key_id=key_id)
            again = BackgroundCall(db, pool, second, lambda connection: put_key(connection, user, key_id=key_id))
        assert again.waited
        assert again.future.result()["status"] == "valid"
    assert put_key(db, user, key_id=key_id)["status"] == "valid"
    assert [str(row["id"]) for row in stored_keys(db, user)] == [key_id]
