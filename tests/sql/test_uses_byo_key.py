"""uses_byo_key: always equal to whether the user has an active key."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.conftest import Connect, new_user
from tests.sql.api_keys import CHANGES, PROVIDERS, delete_key, key_id_of, note_key, put_key, stored_keys, uses_byo_key
from tests.sql.concurrency import BackgroundCall
from tests.sql.metering import Db


def test_uses_byo_key_follows_every_change(db: Db) -> None:
    user, bystander = new_user(db, "basic"), new_user(db, "basic")
    states = [uses_byo_key(db, user)]
    for change in (
        lambda: put_key(db, user, "openai"),
        lambda: note_key(db, key_id_of(db, user), user, valid=False),
        lambda: note_key(db, key_id_of(db, user), user, valid=True),
        lambda: note_key(db, key_id_of(db, user), user, valid=False),
        lambda: put_key(db, user, "openai", valid=False),  # replaces a rejected key; an unchecked key is active
        lambda: put_key(db, user, "anthropic"),
        lambda: delete_key(db, user, "openai"),
        lambda: note_key(db, key_id_of(db, user, "anthropic"), user, valid=False),
        lambda: delete_key(db, user, "anthropic"),
    ):
        change()
        active = [row for row in stored_keys(db, user) if row["is_active"]]
        assert uses_byo_key(db, user) is bool(active)
        states.append(bool(active))
    assert states == [False, True, False, True, False, True, True, True, False, False]
    assert uses_byo_key(db, bystander) is False


def test_deleting_a_user_deletes_their_keys(db: Db, database_url: str) -> None:
    """The role of the Auth server deletes the user. It has no rights on our tables."""
    user, other = new_user(db, "basic"), new_user(db, "basic")
    for provider in PROVIDERS:
        put_key(db, user, provider)
        put_key(db, other, provider)
    with psycopg.connect(make_conninfo(database_url, user="supabase_auth_admin"), autocommit=True) as auth:
        auth.execute("delete from auth.users where id = %s", (user,))
    assert stored_keys(db, user) == []
    assert len(stored_keys(db, other)) == 2
    assert uses_byo_key(db, other) is True


@pytest.mark.parametrize(
    ("first", "second", "uses"),
    [
        ("delete", "delete", False),
        ("reject", "reject", False),
        ("delete", "reject", False),
        ("reject", "delete", False),
        ("delete", "put", True),
        ("put", "reject", True),
    ],
)
def test_concurrent_changes_of_two_keys_keep_uses_byo_key_right(
    db: Db, connect: Connect, first: str, second: str, uses: bool
) -> None:
    """No transaction sees the uncommitted change of the other, so the second must wait before it counts keys."""
    user = new_user(db, "basic")
    for provider in PROVIDERS:
        put_key(db, user, provider)
    holder, waiter = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        with holder.transaction():
            CHANGES[first](holder, user, "anthropic")
            change = BackgroundCall(db, pool, waiter, lambda connection: CHANGES[second](connection, user, "openai"))
            assert change.waited
        change.future.result()
    assert uses_byo_key(db, user) is uses
    assert any(row["is_active"] for row in stored_keys(db, user)) is uses


def test_a_rolled_back_change_is_not_counted(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    for provider in PROVIDERS:
        put_key(db, user, provider)
    holder, waiter = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        with holder.transaction(force_rollback=True):
            delete_key(holder, user, "anthropic")
            change = BackgroundCall(db, pool, waiter, lambda connection: delete_key(connection, user, "openai"))
        assert change.waited
        assert change.future.result() is True
    assert [row["provider"] for row in stored_keys(db, user)] == ["anthropic"]
    assert uses_byo_key(db, user) is True
