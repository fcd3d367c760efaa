"""The three views that decide what pays: each on its own. test_admit_query.py tests what admission makes of them."""

from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import at, key, pack, value

Db = psycopg.Connection[dict[str, Any]]
NOON = "2026-03-10T12:00Z"
PERIOD = {"current_period_start": "2026-03-05Z", "current_period_end": "2026-04-05Z"}
ENDED = {"current_period_start": "2026-02-05Z", "current_period_end": "2026-03-05Z"}


def read(db: Db, view: str, user: str) -> dict[str, Any]:
    """The row of a user in a view of the schema private."""
    row = db.execute(f"select * from private.{view} where user_id = %s".encode(), (user,)).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("columns", "tier", "status", "is_lapsed"),
    [
        ({"tier": "pro"}, "pro", "active", False),
        ({"tier": "pro", "next_tier": "basic", **PERIOD}, "pro", "active", False),
        ({"tier": "pro", "next_tier": "basic", **ENDED}, "basic", "active", False),
        ({"tier": "pro", "status": "canceled", **PERIOD}, "pro", "canceled", False),
        ({"tier": "pro", "status": "canceled", **ENDED}, "free", "active", True),
        ({"tier": "pro", "status": "suspended", **ENDED}, "pro", "suspended", False),
    ],
)
def test_the_tier_in_force(db: Db, columns: dict[str, Any], tier: str, status: str, is_lapsed: bool) -> None:
    at(db, NOON)
    found = read(db, "current_subscriptions", new_user(db, **columns))
    assert (found["tier"], found["status"], found["is_lapsed"]) == (tier, status, is_lapsed)


def test_a_lapsed_plan_with_a_pack_becomes_usage_only(db: Db) -> None:
    at(db, NOON)
    user = new_user(db, "pro", status="canceled", **ENDED)
    pack(db, user, 5)
    assert read(db, "current_subscriptions", user)["tier"] == "usage_only"


def test_counters_restart_with_their_day_and_period(db: Db) -> None:
    user = new_user(
        db, "pro", quota_date="2026-03-09", quota_used=7, current_overage_amount=2, overage_period_start="2026-02-01Z"
    )
    at(db, "2026-02-20T12:00Z")  # a clock behind the row must not move it back
    before = read(db, "current_subscriptions", user)
    at(db, NOON)
    after = read(db, "current_subscriptions", user)
    assert (before["quota_used"], before["overage_used"]) == (7, 2)
    assert (after["quota_used"], after["overage_used"]) == (0, 0)
    assert str(before["quota_date"]) == "2026-03-09"
    assert str(after["quota_date"]) == "2026-03-10"


@pytest.mark.parametrize(
    ("columns", "quota", "overage_limit"),
    [
        ({"tier": "free"}, 10, None),
        ({"tier": "free", "lifetime_quota": 12}, 12, None),
        ({"tier": "basic"}, 15, 10),
        ({"tier": "basic", "daily_quota": 3, "overage_limit": 2.5}, 3, Decimal("2.5")),
        ({"tier": "usage_only"}, 0, 10),
    ],
)
def test_limits_of_the_user_replace_those_of_the_plan(
    db: Db, columns: dict[str, Any], quota: int, overage_limit: Decimal | None
) -> None:
    found = read(db, "subscription_limits", new_user(db, **columns))
    assert (found["quota_limit"], found["overage_limit"]) == (quota, overage_limit)


@pytest.mark.parametrize(
    ("columns", "serves"),
    [
        ({}, True),
        ({"status": "suspended"}, False),
        ({"status": "canceled", **PERIOD}, True),
        ({"status": "canceled"}, False),
        ({"status": "past_due", "past_due_since": "2026-03-03T12:00:01Z"}, True),
        ({"status": "past_due", "past_due_since": "2026-03-03T12:00Z"}, False),
    ],
)
def test_which_statuses_serve(db: Db, columns: dict[str, Any], serves: bool) -> None:
    at(db, NOON)
    assert read(db, "subscription_limits", new_user(db, "pro", **columns))["is_serving"] is serves


@pytest.mark.parametrize(
    ("columns", "can_use"),
    [
        ({"stripe_subscription_id": "sub_1"}, True),
        ({}, False),
        ({"stripe_subscription_id": "sub_1", "allow_overages": False}, False),
        ({"stripe_subscription_id": "sub_1", "status": "past_due"}, False),
        ({"stripe_subscription_id": "sub_1", "tier": "free"}, False),
    ],
)
def test_overage_needs_a_plan_a_user_and_a_subscription(db: Db, columns: dict[str, Any], can_use: bool) -> None:
    found = read(db, "subscription_limits", new_user(db, **{"tier": "pro", **columns}))
    assert found["can_use_overage"] is can_use


def test_the_order_of_fundings(db: Db) -> None:
    at(db, NOON)
    user = new_user(db, "basic", quota_date="2026-03-10", stripe_subscription_id="sub_1")
    pack_id = pack(db, user, 1)
    assert read(db, "funding_state", user)["funding"] == "included"
    db.execute("update public.user_subscriptions set quota_used = 15 where user_id = %s", (user,))
    assert read(db, "funding_state", user)["funding"] == "credit"
    db.execute("update public.credit_packs set is_frozen = true where id = %s", (pack_id,))
    assert read(db, "funding_state", user)["funding"] == "overage"
    db.execute("update public.user_subscriptions set overage_limit = 0.02 where user_id = %s", (user,))
    refused = read(db, "funding_state", user)
    assert (refused["funding"], refused["reason"], refused["requires_payment"]) == (
        None,
        "Overage limit reached",
        False,
    )
    assert not refused["own_key_pays"]
    key(db, user, "openai")
    assert read(db, "funding_state", user)["own_key_pays"]


def test_every_charged_outcome_is_charged_and_no_other(db: Db) -> None:
    for outcome, charged in {"answered": True, "stopped": True, "failed": False, "lost": False}.items():
        assert value(db, "select private.is_charged(%s)", outcome) is charged
