"""admit_query: an account that Auth has ended, banned or not confirmed, though its token is still valid."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import apply_customer
from tests.sql.metering import Db, admit, at, counters, holds, key, pack, value


def sign_in(db: Db, user: str, not_after: str | None = None) -> str:
    """Starts a session. Returns its id."""
    session_id = str(uuid.uuid4())
    db.execute("insert into auth.sessions (id, user_id, not_after) values (%s, %s, %s)", (session_id, user, not_after))
    return session_id


def refusal(db: Db, user: str, request: str | None = None, **more: Any) -> str | None:
    """The SQLSTATE of the refusal. Nothing is taken for a refused query."""
    with pytest.raises(psycopg.Error) as caught:
        admit(db, user, request, **more)
    assert not holds(db, user)
    return caught.value.sqlstate


def test_an_unknown_user_has_ended(db: Db) -> None:
    assert refusal(db, str(uuid.uuid4())) == "NOUSR"


def test_a_deleted_user_has_ended(db: Db) -> None:
    """Auth keeps the row of a user that was deleted softly."""
    user = new_user(db, "pro")
    db.execute("update auth.users set deleted_at = now() where id = %s", (user,))
    assert refusal(db, user) == "NOUSR"


def test_a_ban_holds_until_it_ends(db: Db) -> None:
    user = new_user(db, "pro")
    db.execute("update auth.users set banned_until = '2026-03-02T00:00Z' where id = %s", (user,))
    at(db, "2026-03-01T12:00Z")
    assert refusal(db, user) == "BANND"
    assert counters(db, user)["quota_used"] == 0
    at(db, "2026-03-02T00:00Z")
    assert admit(db, user)["decision"] == "admitted"


def block(db: Db, user: str) -> None:
    db.execute(
        "update public.user_subscriptions set blocked_at = now(), blocked_reason = 'spam' where user_id = %s", (user,)
    )


def test_a_block_holds_whatever_stripe_says(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "pro", stripe_customer_id="cus_1")
    assert admit(db, user, "first")["funding"] == "included"  # the fast path would admit the next one
    db.execute("delete from public.query_holds")
    key(db, user, "openai")
    pack(db, user, 1)
    block(db, user)
    for sequence in range(3):
        assert refusal(db, user) == refusal(db, user, "first") == "BANND"
        answer = db.execute("select * from public.can_user_query(%s)", (user,)).fetchone()
        assert answer == {"can_query": False, "reason": "Account blocked", "requires_payment": False}
        apply_customer(db, sequence + 1, tier="pro")
    db.execute("update public.user_subscriptions set blocked_at = null, blocked_reason = null")
    assert admit(db, user)["decision"] == "admitted"


def ban(db: Db, user: str) -> None:
    db.execute("update auth.users set banned_until = 'infinity' where id = %s", (user,))


@pytest.mark.parametrize("refuse", [block, ban])
def test_a_blocked_user_changes_neither_keys_nor_overage(
    db: Db, connect: Connect, refuse: Callable[[Db, str], None]
) -> None:
    user = new_user(db, "pro")
    key(db, user, "openai")
    refuse(db, user)
    for connection, call in (
        (connect("authenticated", user), "public.list_api_keys()"),
        (connect("authenticated", user), "public.set_overage('{}')"),
        (db, f"public.get_api_key('{user}', 'openai')"),
        (db, f"public.put_api_key(gen_random_uuid(), '{user}', 'openai', '', '', '', '1', '1234', true)"),
        (db, f"public.admit_tool_call('{user}', 30)"),
    ):
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"select {call}".encode())
        assert caught.value.sqlstate == "BANND", call
    assert value(db, "select public.delete_api_key(%s, 'openai')", user) is True
    assert value(db, "select public.billing_profile(%s)", user)["is_blocked"] is True


def test_a_block_has_a_time_and_a_reason(db: Db) -> None:
    user = new_user(db)
    for column in ("blocked_at = now()", "blocked_reason = 'spam'"):
        with pytest.raises(psycopg.errors.CheckViolation, match="a time and a reason"):
            db.execute(f"update public.user_subscriptions set {column} where user_id = '{user}'".encode())


def test_a_session_admits_until_it_ends(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "pro")
    session, timed = sign_in(db, user), sign_in(db, user, "2026-03-01T13:00Z")
    for session_id in (session, timed, None):
        assert admit(db, user, p_session_id=session_id)["decision"] == "admitted"
    at(db, "2026-03-01T13:00Z")
    db.execute("delete from public.query_holds")
    assert refusal(db, user, p_session_id=timed) == "NOUSR"
    db.execute("delete from auth.sessions where user_id = %s", (user,))
    assert refusal(db, user, p_session_id=session) == "NOUSR"


def test_the_session_of_another_user_does_not_admit(db: Db) -> None:
    assert refusal(db, new_user(db, "pro"), p_session_id=sign_in(db, new_user(db))) == "NOUSR"


@pytest.mark.parametrize("account", ["email_confirmed_at = null", "is_anonymous = true"])
def test_the_free_quota_needs_a_confirmed_account(db: Db, account: str) -> None:
    free, paid, prepaid = new_user(db), new_user(db, "basic"), new_user(db, "usage_only")
    pack(db, prepaid, 1)
    db.execute(f"update auth.users set {account}")
    assert refusal(db, free) == "NCONF"
    assert counters(db, free)["lifetime_used"] == 0
    assert admit(db, paid)["funding"] == "included"
    assert admit(db, prepaid)["funding"] == "credit"


def test_a_confirmed_phone_number_is_enough(db: Db) -> None:
    user = new_user(db)
    db.execute("update auth.users set email_confirmed_at = null, phone_confirmed_at = now() where id = %s", (user,))
    assert admit(db, user)["funding"] == "included"
