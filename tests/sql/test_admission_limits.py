"""Limits of admission besides the funding: queries at once, the cost of failures, and the budgets of the day."""

import json
from decimal import Decimal

import pytest

from tests.conftest import Connect, new_user
from tests.sql.concurrency import CLIENTS, run_concurrently
from tests.sql.metering import Db, admit, at, counters, holds, key, release, settle, value

AT_ONCE = "Too many queries at once"
FAILURES = "Too many failed queries today"
OFF = "Free answers are off today"
NOON, MIDNIGHT, TOMORROW = "2026-03-01 12:00Z", "2026-03-02T00:00:00+00:00", "2026-03-02 00:00Z"


def cost(usd: str) -> str:
    return json.dumps({"cost_usd": usd})


@pytest.fixture(autouse=True)
def costly_failures(db: Db) -> None:
    """The day's limit of failed cost on every plan, so that the tests do not depend on the plans as sold."""
    db.execute("update public.plans set failed_cost_limit_usd = 0.3")


def set_budgets(db: Db, free: str | None, platform: str | None) -> None:
    db.execute(
        "update public.settings set free_daily_budget_usd = %s, platform_daily_budget_usd = %s", (free, platform)
    )


# Queries at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "limit"), [("free", 1), ("basic", 3), ("pro", 3)])
def test_a_plan_limits_queries_at_once(db: Db, tier: str, limit: int) -> None:
    user = new_user(db, tier)
    running = [admit(db, user)["hold_id"] for _ in range(limit)]
    refused = admit(db, user)
    assert {name: refused[name] for name in ("decision", "reason", "requires_payment", "resets_at")} == {
        "decision": "refused", "reason": AT_ONCE, "requires_payment": False, "resets_at": None,
    }  # fmt: skip
    settle(db, running.pop())
    assert admit(db, user)["decision"] == "admitted"


@pytest.mark.parametrize("columns", [{"daily_quota": 0, "stripe_subscription_id": "sub_1"}, {"uses_byo_key": True}])
def test_the_limit_applies_to_overage_and_own_keys(db: Db, columns: dict[str, object]) -> None:
    user = new_user(db, "basic", **columns)
    if "uses_byo_key" in columns:
        key(db, user, "anthropic")
    assert len({admit(db, user).get("funding") for _ in range(3)} - {None}) == 1
    assert admit(db, user)["reason"] == AT_ONCE
    assert value(db, "select can_query from public.can_user_query(%s)", user)


def test_a_repeated_admission_is_not_a_further_query(db: Db) -> None:
    user = new_user(db, "basic")
    running = [admit(db, user)["hold_id"] for _ in range(3)]
    assert admit(db, user, running[0], running[0])["decision"] == "admitted"
    assert admit(db, user, running[0])["decision"] == "in_progress"


def test_expired_holds_do_not_count(db: Db) -> None:
    at(db, NOON)
    for tier, columns in (("free", {}), ("basic", {}), ("basic", {"daily_quota": 0, "stripe_subscription_id": "s"})):
        user = new_user(db, tier, **columns)
        while admit(db, user, p_hold_seconds=60)["decision"] == "admitted":
            pass
        at(db, "2026-03-01 12:01Z")
        assert admit(db, user)["decision"] == "admitted"
        at(db, NOON)


def test_64_connections_admit_three_at_once(connect: Connect, db: Db) -> None:
    """Each ends its query, if it is admitted. Then the user may ask again three times."""
    user = new_user(db, "pro", daily_quota=1000)

    def ask(connection: Db) -> tuple[str | None, int]:
        query = admit(connection, user)
        running = holds(connection, user)
        if query["decision"] == "admitted":
            settle(connection, query["hold_id"])
        return query.get("reason"), running

    asked = run_concurrently(connect, [ask] * CLIENTS)
    assert {reason for reason, _ in asked} <= {None, AT_ONCE}
    assert max(running for _, running in asked) <= 3
    assert [admit(db, user)["decision"] for _ in range(4)] == ["admitted"] * 3 + ["refused"]
    assert db.execute("select * from public.reconcile()").fetchall() == []


# The cost of failed queries ------------------------------------------------------------------------------------------


def test_failed_queries_may_cost_so_much_a_day(db: Db) -> None:
    at(db, NOON)
    user = new_user(db, "basic", quota_date="2026-03-01")
    for usd in ("0.1", "0.199999"):
        release(db, admit(db, user)["hold_id"], usage=cost(usd))
    assert counters(db, user)["failed_cost_usd"] == Decimal("0.299999")
    last = admit(db, user)
    release(db, last["hold_id"], "lost", cost("0.000001"))
    refused = admit(db, user)
    assert (refused["reason"], refused["requires_payment"], refused["resets_at"]) == (FAILURES, False, MIDNIGHT)
    at(db, TOMORROW)
    admitted = admit(db, user)
    assert admitted["decision"] == "admitted"
    assert counters(db, user)["failed_cost_usd"] == 0
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_charged_and_own_key_queries_are_no_failures(db: Db) -> None:
    user = new_user(db, "basic")
    settle(db, admit(db, user)["hold_id"], usage=cost("1"))
    key(db, user, "anthropic")
    release(db, admit(db, user)["hold_id"], usage=cost("1"))
    assert counters(db, user)["failed_cost_usd"] == 0


def test_an_own_key_pays_after_too_many_failures(db: Db) -> None:
    user = new_user(db, "basic")
    release(db, admit(db, user)["hold_id"], usage=cost("0.3"))
    assert admit(db, user)["reason"] == FAILURES
    key(db, user, "anthropic")
    assert admit(db, user)["funding"] == "byok"
    assert admit(db, user, p_own_key=False)["reason"] == FAILURES


def test_a_failure_counts_on_the_day_of_its_admission(db: Db) -> None:
    at(db, "2026-03-01 23:59Z")
    user = new_user(db, "basic", quota_date="2026-03-01")
    first, second = admit(db, user)["hold_id"], admit(db, user)["hold_id"]
    at(db, TOMORROW)
    release(db, first, usage=cost("0.1"))
    assert counters(db, user)["failed_cost_usd"] == Decimal("0.1")  # of the day before
    admit(db, user)
    release(db, second, usage=cost("0.1"))
    assert counters(db, user)["failed_cost_usd"] == 0
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_repairs_restore_the_cost_of_failures(db: Db) -> None:
    user = new_user(db, "basic")
    release(db, admit(db, user)["hold_id"], usage=cost("0.2"))
    db.execute("update public.user_subscriptions set failed_cost_usd = 0.3 where user_id = %s", (user,))
    (violation,) = db.execute("select * from public.reconcile()").fetchall()
    assert (violation["invariant"], violation["expected"], violation["found"]) == ("I4", "0.200000", "0.300000")
    assert value(db, "select public.repair_counters(%s)", user) == 1
    assert db.execute("select * from public.reconcile()").fetchall() == []
    assert admit(db, user)["decision"] == "admitted"


# Budgets of the day --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budgets", [("0.05", None), (None, "0.05"), ("0.05", "100")])
def test_a_spent_budget_turns_free_answers_off(db: Db, budgets: tuple[str | None, str | None]) -> None:
    """Both budgets refuse free users only, until midnight."""
    at(db, NOON)
    db.execute("update public.daily_costs set day = '2026-03-01'")
    set_budgets(db, *budgets)
    free, basic = new_user(db, quota_date="2026-03-01"), new_user(db, "basic", quota_date="2026-03-01")
    settle(db, admit(db, free)["hold_id"], usage=cost("0.03"))
    release(db, admit(db, free)["hold_id"], usage=cost("0.02"))
    refused = admit(db, new_user(db, quota_date="2026-03-01"))
    assert (refused["reason"], refused["requires_payment"], refused["resets_at"]) == (OFF, False, MIDNIGHT)
    assert admit(db, basic)["decision"] == "admitted"
    set_budgets(db, None, None)
    admitted = admit(db, free)
    settle(db, admitted["hold_id"], usage=cost("0.03"))
    set_budgets(db, *budgets)
    assert admit(db, free)["reason"] == OFF
    at(db, TOMORROW)
    assert admit(db, free)["decision"] == "admitted"


def test_paid_queries_count_for_the_platforms_budget_only(db: Db) -> None:
    free, basic = new_user(db), new_user(db, "basic")
    settle(db, admit(db, basic)["hold_id"], usage=cost("0.1"))
    key(db, basic, "anthropic")
    settle(db, admit(db, basic)["hold_id"], usage=cost("5"))  # on the own key: not our cost
    set_budgets(db, "0.1", "0.100001")
    settle(db, admit(db, free)["hold_id"], usage=cost("0"))
    set_budgets(db, "0.1", "0.1")
    assert admit(db, free)["reason"] == OFF


def test_costs_of_many_connections_add_up(connect: Connect, db: Db) -> None:
    users = [new_user(db) for _ in range(CLIENTS)]
    calls = [
        lambda connection, user=user: [
            settle(connection, admit(connection, user)["hold_id"], usage=cost("0.01")) for _ in range(5)
        ]
        for user in users
    ]
    run_concurrently(connect, calls)
    assert value(db, "select sum(free_usd) from public.daily_costs") == Decimal("0.05") * CLIENTS
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_costs_of_deleted_users_stay_counted(db: Db) -> None:
    """Otherwise new accounts would spend the budget again and again."""
    user = new_user(db)
    settle(db, admit(db, user)["hold_id"], usage=cost("0.04"))
    db.execute("delete from auth.users where id = %s", (user,))
    assert value(db, "select sum(free_usd) from public.daily_costs") == Decimal("0.04")
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_reconcile_finds_costs_that_were_not_counted(db: Db) -> None:
    settle(db, admit(db, new_user(db))["hold_id"], usage=cost("0.04"))
    db.execute("update public.daily_costs set free_usd = 0")
    (violation,) = db.execute("select * from public.reconcile()").fetchall()
    assert violation["subject"].startswith("daily_costs of ")
    assert (violation["expected"], violation["found"]) == (">= 0.040000 and 0.040000", "0.000000 and 0.040000")


def test_refusals_by_a_limit_are_explained(db: Db) -> None:
    user = new_user(db)
    admit(db, user)
    admit(db, user, "question")
    row = db.execute("select * from public.explain_query('question')").fetchone()
    assert row is not None
    assert (row["decision"], row["reason"], row["quota_used"]) == ("refused", AT_ONCE, 1)
