"""admit_tool_call: limits the calls of tools by users' own assistants."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, at, counters, value


def call(db: Db, user: str, limit: int = 3, session: str | None = None) -> dict[str, Any]:
    admitted: dict[str, Any] = value(db, "select public.admit_tool_call(%s, %s, %s)", user, limit, session)
    return admitted


def test_a_minute_has_its_limit_and_the_next_begins_anew(db: Db) -> None:
    at(db, "2026-03-01T12:00:10Z")
    user, other = new_user(db, "basic"), new_user(db, "basic")
    before = counters(db, user)
    assert [call(db, user)["decision"] for _ in range(5)] == ["admitted"] * 3 + ["refused"] * 2
    assert call(db, user) == {
        "decision": "refused",
        "reason": "Too many tool calls",
        "reason_code": "too_many_tool_calls",
        "requires_payment": False,
        "resets_at": "2026-03-01T12:01:00+00:00",
    }
    assert call(db, other)["decision"] == "admitted"
    at(db, "2026-03-01T12:01:00Z")
    assert call(db, user)["decision"] == "admitted"
    changed = {name for name, value in counters(db, user).items() if value != before[name]}
    assert changed == {"tool_calls", "tool_minute"}  # nothing is charged


def test_calls_at_once_are_counted_one_by_one(connect: Connect, db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user, connections = new_user(db, "basic"), [connect() for _ in range(4)]
    for connection in connections:
        at(connection, "2026-03-01T12:00Z")
    with ThreadPoolExecutor(4) as pool:
        decisions = [made["decision"] for _ in range(3) for made in pool.map(lambda c: call(c, user, 5), connections)]
    assert decisions.count("admitted") == 5


@pytest.mark.parametrize(
    ("tier", "columns", "reason"),
    [
        ("pro", {"status": "suspended"}, "Subscription not active: suspended"),
        ("basic", {"status": "canceled"}, "Subscription not active: canceled"),
        ("free", {"lifetime_used": 10}, None),  # it costs no query
        ("basic", {"quota_used": 15, "allow_overages": False}, None),
    ],
)
def test_only_a_subscription_that_does_not_serve_is_refused(
    db: Db, tier: str, columns: dict[str, Any], reason: str | None
) -> None:
    assert call(db, new_user(db, tier, **columns)).get("reason") == reason


def test_ended_banned_and_unconfirmed_accounts_are_errors(db: Db) -> None:
    user, paying = new_user(db), new_user(db, "pro")
    for change, code in (
        ("deleted_at = now()", "NOUSR"),
        ("deleted_at = null, banned_until = 'infinity'", "BANND"),
        ("banned_until = null, email_confirmed_at = null", "NCONF"),
        ("email_confirmed_at = now(), is_anonymous = true", "NCONF"),
    ):
        db.execute(f"update auth.users set {change} where id in ('{user}', '{paying}')".encode())
        for each in (user, paying):
            if each == paying and code == "NCONF":
                assert call(db, each)["decision"] == "admitted"  # the free quota needs a confirmed account
                continue
            with pytest.raises(psycopg.Error) as caught:
                call(db, each)
            assert caught.value.sqlstate == code
    with pytest.raises(psycopg.Error) as caught:
        call(db, paying, session=str(uuid.uuid4()))
    assert caught.value.sqlstate == "NOUSR"
    assert call(db, str(paying))["decision"] == "admitted"
