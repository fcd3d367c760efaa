"""api_keys_to_rotate and rotate_api_keys."""

import json
import uuid

import pytest

from tests.conftest import Connect, new_user
from tests.sql.api_keys import (
    CHANGES,
    PROVIDERS,
    base64,
    delete_key,
    get_key,
    key_id_of,
    note_key,
    put_key,
    stored_keys,
)
from tests.sql.metering import Db, value


def keys_to_rotate(db: Db, current: str, after: str | None = None, limit: int = 500) -> list[dict[str, str]]:
    """Calls api_keys_to_rotate."""
    rows: list[dict[str, str]] = value(db, "select public.api_keys_to_rotate(%s, %s, %s)", current, after, limit)
    return rows


def rotate_keys(db: Db, rows: list[dict[str, str]], ring_key: str = "2") -> int:
    """Calls rotate_api_keys with a new ciphertext, nonce and tag for each row, which start with the ring key."""
    rotated_rows = [
        {
            "id": row["id"],
            "old_iv": row["encryption_iv"],
            "encrypted_key": base64(f"rotated {ring_key}"),
            "encryption_iv": base64(ring_key.ljust(12, "n")),
            "encryption_tag": base64(ring_key.ljust(16, "t")),
            "encryption_key_id": ring_key,
        }
        for row in rows
    ]
    rotated: int = value(db, "select public.rotate_api_keys(%s)", json.dumps(rotated_rows))
    return rotated


def test_keys_to_rotate_are_returned_in_pages_ordered_by_id(db: Db) -> None:
    ids = []
    for number in range(5):
        user, key_id = new_user(db, "basic"), str(uuid.uuid4())
        put_key(db, user, key_id=key_id, ring_key="2" if number == 4 else str(number % 2))
        ids.append(key_id)
    old = sorted(ids[:4])
    assert [row["id"] for row in keys_to_rotate(db, "2")] == old
    assert [row["id"] for row in keys_to_rotate(db, "2", limit=3)] == old[:3]
    assert [row["id"] for row in keys_to_rotate(db, "2", after=old[2], limit=3)] == old[3:]
    assert keys_to_rotate(db, "2", after=old[3]) == []
    assert sorted(row["id"] for row in keys_to_rotate(db, "0")) == sorted([ids[1], ids[3], ids[4]])


def test_a_row_to_rotate_has_what_decryption_needs(db: Db) -> None:
    user = new_user(db, "basic")
    put_key(db, user, "anthropic")
    (row,) = keys_to_rotate(db, "2")
    encrypted = get_key(db, user, "anthropic")
    assert encrypted is not None
    assert row == {**encrypted, "user_id": user, "provider": "anthropic"}


def test_a_page_has_at_most_a_thousand_rows(db: Db) -> None:
    db.execute("insert into auth.users (id) select gen_random_uuid() from generate_series(1, 1001)")
    db.execute(
        "insert into public.user_api_keys (user_id, provider, encrypted_key, encryption_iv, encryption_tag,"
        " encryption_key_id, hint) select id, 'openai', '\\x00', %s, %s, '1', '…' from auth.users",
        (b"0" * 12, b"0" * 16),
    )
    first = keys_to_rotate(db, "2", limit=1_000_000)
    assert len(first) == 1000
    assert len(keys_to_rotate(db, "2", after=first[-1]["id"], limit=1_000_000)) == 1


def test_rotation_changes_only_the_ciphertext(db: Db) -> None:
    user = new_user(db, "basic")
    for provider in PROVIDERS:
        put_key(db, user, provider)
    note_key(db, key_id_of(db, user, "anthropic"), user, valid=False)
    before = stored_keys(db, user)
    rows = keys_to_rotate(db, "2")
    assert rotate_keys(db, rows) == 2
    after = stored_keys(db, user)
    for old, new in zip(before, after, strict=True):
        assert (new["encrypted_key"], new["encryption_key_id"]) == (b"rotated 2", "2")
        assert (new["encryption_iv"], new["encryption_tag"]) == (b"2nnnnnnnnnnn", b"2ttttttttttttttt")
        changed = {column for column in old if old[column] != new[column]}
        assert changed <= {"encrypted_key", "encryption_iv", "encryption_tag", "encryption_key_id", "updated_at"}
    assert keys_to_rotate(db, "2") == []
    assert rotate_keys(db, rows) == 0  # the call is repeated
    assert stored_keys(db, user) == after


@pytest.mark.parametrize("change", ["replaced", "deleted", "rotated"])
def test_a_key_changed_since_it_was_read_is_skipped(db: Db, change: str) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    put_key(db, user)
    put_key(db, other)
    rows = keys_to_rotate(db, "2")
    if change == "replaced":
        put_key(db, user, key_id=key_id_of(db, user), nonce="000000000002", ring_key="3")  # even under the same id
    elif change == "deleted":
        delete_key(db, user)
    else:
        rotate_keys(db, [row for row in rows if row["user_id"] == user], ring_key="3")
    before = stored_keys(db, user)
    assert rotate_keys(db, rows) == 1
    assert stored_keys(db, user) == before
    assert [row["encryption_key_id"] for row in stored_keys(db, other)] == ["2"]


def test_a_key_validated_since_it_was_read_is_rotated(db: Db) -> None:
    """Validation does not change the ciphertext."""
    user = new_user(db, "basic")
    put_key(db, user)
    rows = keys_to_rotate(db, "2")
    note_key(db, key_id_of(db, user), user, valid=False)
    assert rotate_keys(db, rows) == 1
    (row,) = stored_keys(db, user)
    assert (row["encryption_key_id"], row["is_active"]) == ("2", False)


@pytest.mark.parametrize("change", CHANGES)
def test_rotation_skips_locked_keys_without_waiting(db: Db, connect: Connect, change: str) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    put_key(db, user)
    put_key(db, other)
    rows = keys_to_rotate(db, "2")
    changing = connect()
    db.execute("set lock_timeout = '10s'")  # a wait for a lock fails the test
    with changing.transaction():
        CHANGES[change](changing, user, "openai")
        assert rotate_keys(db, rows) == 1
    assert [row["encryption_key_id"] for row in stored_keys(db, other)] == ["2"]
    assert [row["encryption_key_id"] for row in stored_keys(db, user)] == ([] if change == "delete" else ["1"])
    assert len(keys_to_rotate(db, "2")) == (0 if change == "delete" else 1)
