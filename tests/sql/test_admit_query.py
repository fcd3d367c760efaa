"""admit_query: who may ask, what pays, and that a request is one request however it is sent."""

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, holds, key, ledger, pack, release, settle

Connect = Callable[..., Db]


def test_a_day_has_its_quota_and_the_next_one_starts_anew(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", allow_overages=False)
    for remaining in range(14, -1, -1):
        query = admit(db, user)
        assert query["remaining"] == remaining
        settle(db, query["hold_id"])
    refused = admit(db, user)
    assert (refused["decision"], refused["reason"]) == ("refused", "Daily quota exceeded")
    assert (refused["requires_payment"], refused["resets_at"]) == (False, "2026-03-02T00:00:00+00:00")
    assert counters(db, user)["quota_used"] == 15
    at(db, "2026-03-02T00:00Z")
    assert admit(db, user)["remaining"] == 14


def test_free_has_ten_for_life_whatever_the_day(db: Db) -> None:
    user = new_user(db)
    for day in range(1, 11):
        at(db, f"2026-03-{day:02}T12:00Z")
        assert settle(db, admit(db, user)["hold_id"])["outcome"] == "answered"
    at(db, "2027-03-01T12:00Z")
    refused = admit(db, user)
    assert (refused["reason"], refused["requires_payment"]) == ("Free tier quota exhausted", True)


def test_an_unknown_user_is_refused(db: Db) -> None:
    refused = admit(db, str(uuid.uuid4()))
    assert (refused["decision"], refused["reason"]) == ("refused", "No subscription found")
    assert refused["requires_payment"] is True


def test_each_funding_is_used_up_before_the_next(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", stripe_subscription_id="sub_1", overage_limit="0.05", daily_quota=2)
    pack(db, user, 1)
    taken = [admit(db, user) for _ in range(6)]
    assert [query.get("funding") for query in taken] == ["included", "included", "credit", "overage", "overage", None]
    assert taken[5]["reason"] == "Overage limit reached"
    key(db, user, "openai")
    own = admit(db, user)
    assert (own["funding"], own["provider"], own["remaining"]) == ("byok", "openai", None)
    assert admit(db, user, p_provider="anthropic")["decision"] == "refused"  # the key is not for this provider


def test_the_pack_that_expires_soonest_pays_first_and_an_expired_one_never(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "usage_only")
    never = pack(db, user, 1)
    older = pack(db, user, 1, "2026-05-01Z", "2026-01-02Z")
    newer = pack(db, user, 1, "2026-05-01Z", "2026-01-03Z")
    soonest = pack(db, user, 1, "2026-04-01Z", "2026-01-04Z")
    pack(db, user, 1, "2026-03-01T12:00Z")
    for _ in range(4):
        assert admit(db, user)["funding"] == "credit"
    order = db.execute("select credit_pack_id::text as id from public.query_holds order by created_at, id").fetchall()
    assert {row["id"] for row in order} == {soonest, older, newer, never}
    assert admit(db, user)["decision"] == "refused"


def test_overage_needs_a_live_subscription_to_be_invoiced_on(db: Db) -> None:
    assert admit(db, new_user(db, "usage_only"))["reason"] == "Daily quota exceeded"
    assert admit(db, new_user(db, "usage_only", stripe_subscription_id="sub_1"))["funding"] == "overage"
    off = new_user(db, "usage_only", stripe_subscription_id="sub_2", allow_overages=False)
    assert admit(db, off)["decision"] == "refused"


@pytest.mark.parametrize(
    ("columns", "decision"),
    [
        ({"status": "past_due", "past_due_since": "2026-02-22T12:00:01Z"}, "admitted"),
        ({"status": "past_due", "past_due_since": "2026-02-22T12:00:00Z"}, "refused"),
        ({"status": "suspended"}, "refused"),
        ({"status": "canceled"}, "refused"),
        (
            {"status": "canceled", "current_period_start": "2026-02-02Z", "current_period_end": "2026-03-02Z"},
            "admitted",
        ),
    ],
)
def test_a_status_other_than_active_has_its_own_rule(db: Db, columns: dict[str, Any], decision: str) -> None:
    at(db, "2026-03-01T12:00Z")
    admitted = admit(db, new_user(db, "basic", **columns))
    assert admitted["decision"] == decision
    if decision == "refused":
        assert admitted["reason"] == f"Subscription not active: {columns['status']}"
        assert admitted["requires_payment"] is True


def test_a_cancelled_plan_whose_period_is_over_is_free_and_its_lifetime_count_carries_over(db: Db) -> None:
    user = new_user(
        db,
        "pro",
        status="canceled",
        current_period_start="2026-02-01Z",
        current_period_end="2026-03-01Z",
        lifetime_used=9,
    )
    at(db, "2026-03-01T00:00Z")
    last = admit(db, user)
    assert (last["tier"], last["funding"], last["remaining"]) == ("free", "included", 0)
    assert admit(db, user)["reason"] == "Free tier quota exhausted"
    assert (counters(db, user)["tier"], counters(db, user)["status"]) == ("free", "active")


def test_the_overage_period_rolls_by_itself_and_forgets_no_money(db: Db) -> None:
    user = new_user(
        db,
        "usage_only",
        stripe_subscription_id="sub_1",
        current_period_start="2026-01-31T10:00Z",
        current_period_end="2026-02-28T10:00Z",
        overage_period_start="2026-01-31T10:00Z",
        overage_limit="0.025",
    )
    for moment, period in (
        ("2026-02-28T09:59Z", "2026-01-31"),
        ("2026-02-28T10:00Z", "2026-02-28"),
        ("2026-03-31T09:59Z", None),
        ("2026-03-31T10:00Z", "2026-03-31"),
    ):
        at(db, moment)
        query = admit(db, user)
        assert (query["decision"] == "admitted") is (period is not None), moment
        if period:
            settle(db, query["hold_id"])
            assert ledger(db, user)[-1]["period_start"].date().isoformat() == period
    assert [str(row["overage_charge"]) for row in ledger(db, user)] == ["0.025000"] * 3


def test_a_lost_response_is_asked_for_again_with_the_same_hold_and_takes_nothing_more(db: Db) -> None:
    user = new_user(db, "basic")
    first = admit(db, user, "question")
    again = admit(db, user, "question", first["hold_id"])
    assert {**again, "reason": None, "resets_at": None} == {**first, "reason": None, "resets_at": None}
    assert (counters(db, user)["quota_used"], holds(db, user)) == (1, 1)


def test_another_attempt_at_a_running_request_is_told_so_until_its_hold_is_lost(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    first = admit(db, user, "question", p_hold_seconds=60)
    assert admit(db, user, "question")["decision"] == "in_progress"
    at(db, "2026-03-01T12:01Z")
    assert admit(db, user, "question")["decision"] == "admitted"
    assert counters(db, user)["quota_used"] == 1
    assert [(str(row["id"]), row["outcome"]) for row in ledger(db, user)] == [(first["hold_id"], "lost")]


def test_a_request_that_was_charged_is_not_admitted_again_and_one_that_failed_is(db: Db) -> None:
    user = new_user(db, "basic")
    release(db, admit(db, user, "question")["hold_id"])
    settle(db, admit(db, user, "question")["hold_id"], "stopped")
    assert admit(db, user, "question")["decision"] == "ended"
    assert counters(db, user)["quota_used"] == 1


def test_lost_holds_of_a_user_do_not_refuse_their_next_query(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", allow_overages=False, daily_quota=1)
    admit(db, user, p_hold_seconds=60)
    assert admit(db, user)["decision"] == "refused"
    at(db, "2026-03-01T12:01Z")
    assert admit(db, user)["decision"] == "admitted"


def test_a_model_that_the_plan_does_not_have_is_refused_and_nothing_is_taken(db: Db) -> None:
    user = new_user(db, "free")
    with pytest.raises(psycopg.Error) as caught:
        admit(db, user, p_provider="openai", p_model="gpt-6-sol")
    assert caught.value.sqlstate == "NOMDL"
    assert (counters(db, user)["lifetime_used"], holds(db, user)) == (0, 0)
    assert admit(db, user, p_provider="openai")["model"] == "gpt-6-luna"


def test_two_transactions_that_straddle_midnight_do_not_reset_the_new_days_count(db: Db) -> None:
    """One that began before midnight and waited for the lock finds the new day already counted."""
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", allow_overages=False)
    at(db, "2026-03-02T00:00:01Z")
    for _ in range(15):
        admit(db, user)
    at(db, "2026-03-01T23:59:59Z")
    assert admit(db, user)["decision"] == "refused"
    assert counters(db, user)["quota_used"] == 15


def test_sixty_four_at_once_take_exactly_what_is_left(connect: Connect, db: Db) -> None:
    """Quota, then credits, then overage to its limit: 15 + 10 + 20 of 64."""
    user = new_user(db, "basic", stripe_subscription_id="sub_1", overage_limit="0.5")
    pack(db, user, 10)
    connections = [connect() for _ in range(64)]
    together = threading.Barrier(64)

    def ask(connection: Db) -> str | None:
        together.wait()
        funding: str | None = admit(connection, user).get("funding")
        return funding

    with ThreadPoolExecutor(64) as pool:
        taken = list(pool.map(ask, connections))
    assert {funding: taken.count(funding) for funding in set(taken)} == {
        "included": 15,
        "credit": 10,
        "overage": 20,
        None: 19,
    }
    assert str(counters(db, user)["current_overage_amount"]) == "0.500000"


def test_ten_dollars_admit_four_hundred_overage_queries_and_forty_cost_one_dollar(db: Db) -> None:
    user = new_user(db, "usage_only", stripe_subscription_id="sub_1")
    admitted = 0
    while admit(db, user)["decision"] == "admitted":
        admitted += 1
        if admitted == 40:
            assert str(counters(db, user)["current_overage_amount"]) == "1.000000"
    assert (admitted, str(counters(db, user)["current_overage_amount"])) == (400, "10.000000")


def test_history_carries_what_tools_gave_as_long_as_it_fits(db: Db) -> None:
    """The newest messages within the characters that are asked for; older results are left out before older texts."""
    user = new_user(db, "pro")
    for number in range(3):
        kept = {
            "chat_id": "chat", "title": "t", "context": {},
            "question": {"id": f"q{number}", "content": "?" * 10},
            "answer": {
                "id": str(uuid.uuid4()), "content": "!" * 10,
                "function_calls": [{"id": "c", "name": "get_bill", "input": {}, "step": 0, "at": 0}],
                "function_results": [{"id": "c", "output": {"bill": "x" * 1000}, "sources": []}],
            },
        }  # fmt: skip
        settle(db, admit(db, user, p_chat_id="chat")["hold_id"], turn=json.dumps(kept))

    def history(characters: int) -> list[tuple[str, bool]]:
        admitted = admit(db, user, p_chat_id="chat", p_history_characters=characters)
        release(db, admitted["hold_id"])
        return [(row["role"], row.get("function_results") is not None) for row in admitted["history"]]

    assert history(100_000) == [("user", False), ("assistant", True)] * 3
    assert history(1_500) == [("user", False), ("assistant", False)] * 2 + [("user", False), ("assistant", True)]
    assert history(45) == [("user", False), ("assistant", False)] * 2
    assert history(5) == []


def test_a_provider_that_the_platform_has_no_account_with_takes_own_keys_only(db: Db) -> None:
    user = new_user(db, "basic")
    only_openai: Any = {"p_providers": ["openai"]}
    assert admit(db, user, **only_openai)["provider"] == "openai"
    with pytest.raises(psycopg.DatabaseError, match="anthropic are not available") as caught:
        admit(db, user, p_provider="anthropic", **only_openai)
    assert caught.value.sqlstate == "NOMDL"
    key(db, user, "anthropic")
    assert admit(db, user, p_provider="anthropic", **only_openai)["funding"] == "byok"


def test_admission_tells_what_a_query_may_cost_and_which_models_may_answer(db: Db) -> None:
    admitted = admit(db, new_user(db, "pro"))
    (plan,) = db.execute("select * from public.plans where tier = 'pro'").fetchall()
    assert admitted["cost_limit_usd"] == str(plan["query_cost_limit_usd"])
    assert admitted["models"] == plan["models"]


# What the day's quota has paid, it goes on to pay without another decision, until something changes ------------------


def included_until(db: Db, user: str) -> datetime | None:
    row = db.execute("select included_until from public.user_subscriptions where user_id = %s", (user,)).fetchone()
    assert row is not None
    until: datetime | None = row["included_until"]
    return until


@pytest.mark.parametrize(
    ("tier", "columns", "until"),
    [
        ("pro", {}, "2026-03-02T00:00Z"),  # the day
        (
            "pro",
            {"current_period_start": "2026-02-01T15:00Z", "current_period_end": "2026-03-01T15:00Z"},
            "2026-03-01T15:00Z",  # the period, and what the next one brings
        ),
        (
            "pro",
            {"current_period_start": "2026-02-01T15:00Z", "current_period_end": "2026-03-01T15:00Z"}
            | {"status": "canceled"},
            "2026-03-01T15:00Z",
        ),
        # A period that went by without a word from Stripe goes on by months.
        (
            "pro",
            {"current_period_start": "2026-01-01T15:00Z", "current_period_end": "2026-02-01T15:00Z"},
            "2026-03-01T15:00Z",
        ),
        ("pro", {"status": "past_due", "past_due_since": "2026-02-22T13:00Z"}, "2026-03-01T13:00Z"),  # the grace
        ("free", {}, None),  # ten for life are soon decided
        # A downgrade that the row does not say yet.
        (
            "pro",
            {"current_period_start": "2026-01-01T15:00Z", "current_period_end": "2026-02-01T15:00Z"}
            | {"next_tier": "basic"},
            None,
        ),
    ],
)
def test_what_is_included_stays_so_until_time_can_change_it(
    db: Db, tier: str, columns: dict[str, str], until: str | None
) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, tier, **columns)
    assert admit(db, user)["funding"] == "included"
    assert included_until(db, user) == (until and datetime.fromisoformat(until))


def test_nothing_is_presumed_of_who_has_a_key_of_their_own(db: Db) -> None:
    user = new_user(db, "pro")
    key(db, user, "openai")
    assert admit(db, user, p_own_key=False)["funding"] == "included"
    assert included_until(db, user) is None
    assert admit(db, user)["funding"] == "byok"


def test_a_key_that_is_asked_for_is_not_passed_over(db: Db) -> None:
    user = new_user(db, "pro")
    assert admit(db, user)["funding"] == "included"
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        admit(db, user, p_own_key=True)


def test_a_plan_that_changes_meanwhile_is_not_overruled(connect: Connect, db: Db) -> None:
    """Stripe's news do not wait for the user's queue: they come between the decision and its record."""
    user = new_user(db, "pro")
    webhook, asking = connect(), connect()
    with ThreadPoolExecutor(1) as pool, webhook.transaction():
        webhook.execute("update public.user_subscriptions set status = 'suspended' where user_id = %s", (user,))
        admission = pool.submit(admit, asking, user)
        while not db.execute(
            "select from pg_locks where pid = %s and not granted", (asking.info.backend_pid,)
        ).fetchall():
            assert not admission.done()
    assert admission.result()["decision"] == "admitted"  # decided before
    assert included_until(db, user) is None
    assert admit(db, user)["reason"] == "Subscription not active: suspended"


def test_whatever_changes_but_the_counters_has_to_be_decided_anew(db: Db) -> None:
    """The trigger has every column of the table but names, times, counters and what bookkeeping notes."""
    listed = db.execute(
        """
        select a.attname, a.attnum = any (t.tgattr) as clears
        from pg_attribute a
        join pg_trigger t on t.tgrelid = a.attrelid and t.tgname = 'user_subscriptions_changed'
        where a.attrelid = 'public.user_subscriptions'::regclass and a.attnum > 0 and not a.attisdropped
        """
    ).fetchall()
    assert {row["attname"] for row in listed if not row["clears"]} == {
        *("id", "user_id", "created_at", "updated_at", "downgraded_at", "stripe_sequence"),
        *("quota_date", "quota_used", "lifetime_used", "overage_period_start", "current_overage_amount"),
        "included_until",
    }
    user = new_user(db, "pro")
    for change in ("status = status", "daily_quota = 40", "past_due_since = null"):
        admit(db, user)
        assert included_until(db, user) is not None
        db.execute(f"update public.user_subscriptions set {change} where user_id = '{user}'".encode())
        assert included_until(db, user) is None


def test_a_plan_whose_quota_changes_has_it_at_once(db: Db) -> None:
    user, special = new_user(db, "pro", allow_overages=False), new_user(db, "pro", daily_quota=30)
    assert [admit(db, who)["remaining"] for who in (user, special)] == [39, 29]
    with db.transaction(force_rollback=True):
        db.execute("update public.plans set daily_quota = 2 where tier = 'pro'")
        assert admit(db, user)["remaining"] == 0
        assert admit(db, user)["decision"] == "refused"
        db.execute("update public.plans set daily_quota = null, lifetime_quota = 1 where tier = 'pro'")
        for who in (user, special):
            assert admit(db, who)["remaining"] == 0  # the first for life
            assert admit(db, who)["reason"] == "Free tier quota exhausted"


def test_a_query_that_is_not_decided_anew_is_held_and_told_like_one_that_is(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "pro", stripe_subscription_id="sub_1", overage_limit="7.5")
    admit(db, user)
    db.execute("update public.user_subscriptions set current_overage_amount = 0.025 where user_id = %s", (user,))
    presumed = admit(db, user)
    db.execute("update public.user_subscriptions set status = status where user_id = %s", (user,))
    decided = admit(db, user)
    own = {"hold_id", "request_id"}
    assert {**presumed, "remaining": 37, **dict.fromkeys(own)} == {**decided, **dict.fromkeys(own)}
    _, second, third = db.execute("select * from public.query_holds where user_id = %s order by quota_used", (user,))
    own = {"id", "request_id"}
    assert {**second, "quota_used": 2, **dict.fromkeys(own)} == {**third, **dict.fromkeys(own)}
