"""admit_query: an account that Auth has ended, banned or not confirmed, though its token is still valid."""

import uuid
from typing import Any

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, holds, pack


def sign_in(db: Db, user: str, not_after: str | None = None) -> str:
    """Starts a session. Returns its id."""
    session_id = str(uuid.uuid4())
    db.execute("insert into auth.sessions (id, user_id, not_after) values (%s, %s, %s)", (session_id, user, not_after))
    return session_id


def refusal(db: Db, user: str, **more: Any) -> str | None:
    """The SQLSTATE of the refusal. Nothing is taken for a refused query."""
    with pytest.raises(psycopg.Error) as caught:
        admit(db, user, **more)
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
