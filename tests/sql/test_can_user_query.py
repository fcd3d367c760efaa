"""can_user_query: the decision of admission, without an admission."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, key, pack, value

# Tier, columns of the subscription, what else the user has, and the answer.
CASES: list[tuple[str, dict[str, Any], str, tuple[bool, str, bool]]] = [
    ("free", {}, "", (True, "Within free tier quota", False)),
    ("free", {"lifetime_used": 10}, "", (False, "Free tier quota exhausted", True)),
    ("free", {"lifetime_used": 10, "lifetime_quota": 11}, "", (True, "Within free tier quota", False)),
    ("free", {"lifetime_used": 10}, "key", (False, "Free tier quota exhausted", True)),
    ("free", {"lifetime_used": 10}, "pack", (False, "Free tier quota exhausted", True)),
    ("basic", {}, "", (True, "Within daily quota", False)),
    ("basic", {}, "key", (True, "Unlimited (BYOK)", False)),
    ("basic", {}, "rejected key", (True, "Within daily quota", False)),
    ("basic", {"quota_used": 15}, "", (False, "Daily quota exceeded", False)),
    ("basic", {"quota_used": 15}, "pack", (True, "Credits available", False)),
    ("basic", {"quota_used": 15}, "subscription", (True, "Overage allowed", True)),
    ("basic", {"quota_used": 15, "allow_overages": False}, "subscription", (False, "Daily quota exceeded", False)),
    (
        "basic",
        {"quota_used": 15, "current_overage_amount": 10},
        "subscription",
        (False, "Overage limit reached", False),
    ),
    ("pro", {"quota_used": 39}, "", (True, "Within daily quota", False)),
    ("pro", {"quota_used": 40}, "", (False, "Daily quota exceeded", False)),
    ("usage_only", {}, "subscription", (True, "Overage allowed", True)),
    ("usage_only", {}, "pack", (True, "Credits available", False)),
    ("basic", {"status": "suspended"}, "", (False, "Subscription not active: suspended", True)),
    ("basic", {"status": "canceled"}, "key", (False, "Subscription not active: canceled", True)),
]


def user_of_case(db: Db, tier: str, columns: dict[str, Any], has: str) -> str:
    """Creates the user of a case."""
    user = new_user(db, tier, **columns)
    if has.endswith("key"):
        key(db, user, "openai", active=has == "key")
    elif has == "pack":
        pack(db, user, 1)
    elif has == "subscription":
        db.execute(
            "update public.user_subscriptions set stripe_subscription_id = user_id::text where user_id = %s", (user,)
        )
    return user


@pytest.mark.parametrize(("tier", "columns", "has", "answer"), CASES)
def test_the_answer_is_the_decision_of_admission(
    db: Db, connect: Callable[..., Db], tier: str, columns: dict[str, Any], has: str, answer: tuple[bool, str, bool]
) -> None:
    user = user_of_case(db, tier, columns, has)
    before = counters(db, user)
    for connection in (db, connect("service_role"), connect("authenticated", user)):
        row = connection.execute("select * from public.can_user_query(%s)", (user,)).fetchone()
        assert row is not None
        assert tuple(row.values()) == answer
    assert counters(db, user) == before
    admitted = admit(db, user)
    if admitted["decision"] == "admitted":
        admitted["reason"] = value(db, "select private.reason_of(%s, %s)", admitted["funding"], admitted["tier"])
    assert ((admitted["decision"] == "admitted"), admitted["reason"]) == answer[:2]


def test_an_unknown_user_has_no_subscription(db: Db) -> None:
    row = db.execute("select * from public.can_user_query(%s)", (str(uuid.uuid4()),)).fetchone()
    assert row == {"can_query": False, "reason": "No subscription found", "requires_payment": True}


def test_a_signed_in_user_may_not_ask_about_another(db: Db, connect: Callable[..., Db]) -> None:
    user, other = new_user(db), new_user(db)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connect("authenticated", user).execute("select public.can_user_query(%s)", (other,))


def test_a_new_day_starts_at_zero(db: Db) -> None:
    user = new_user(db, "basic", quota_used=15, quota_date="2026-03-01")
    at(db, "2026-03-02T00:00Z")
    row = db.execute("select * from public.can_user_query(%s)", (user,)).fetchone()
    assert row is not None
    assert row["can_query"] is True
