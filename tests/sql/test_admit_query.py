"""admit_query: who is admitted, what pays, and that repeated calls take funding once."""

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import apply_pack, pay_overage, run_queries
from tests.sql.metering import Db, admit, at, counters, holds, key, ledger, pack, release, settle, value


def test_the_daily_quota_resets_at_midnight_utc(db: Db) -> None:
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


def test_free_has_a_lifetime_quota_of_ten(db: Db) -> None:
    user = new_user(db)
    for day in range(1, 11):
        at(db, f"2026-03-{day:02}T12:00Z")
        assert settle(db, admit(db, user)["hold_id"])["outcome"] == "answered"
    at(db, "2027-03-01T12:00Z")
    refused = admit(db, user)
    assert (refused["reason"], refused["requires_payment"]) == ("Free tier quota exhausted", True)


def test_a_user_without_a_subscription_is_refused(db: Db) -> None:
    user = new_user(db)
    db.execute("delete from public.user_subscriptions where user_id = %s", (user,))
    refused = admit(db, user)
    assert (refused["decision"], refused["reason"]) == ("refused", "No subscription found")
    assert refused["requires_payment"] is True


@pytest.mark.usefixtures("many_at_once")
def test_quota_pays_before_credits_and_credits_before_overage(db: Db) -> None:
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


@pytest.mark.usefixtures("many_at_once")
def test_packs_pay_by_expiry_and_expired_packs_never(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "usage_only")
    never = pack(db, user, 1)
    older = pack(db, user, 1, "2026-05-01Z", "2026-01-02Z")
    newer = pack(db, user, 1, "2026-05-01Z", "2026-01-03Z")
    soonest = pack(db, user, 1, "2026-04-01Z", "2026-01-04Z")
    pack(db, user, 1, "2026-03-01T12:00Z")
    order = []
    for _ in range(4):
        query = admit(db, user)
        assert query["funding"] == "credit"
        order.append(value(db, "select credit_pack_id::text from public.query_holds where id = %s", query["hold_id"]))
    assert order == [soonest, older, newer, never]
    assert admit(db, user)["decision"] == "refused"


def test_overage_needs_a_live_stripe_subscription(db: Db) -> None:
    assert admit(db, new_user(db, "usage_only"))["reason"] == "Daily quota exceeded"
    assert admit(db, new_user(db, "usage_only", stripe_subscription_id="sub_1"))["funding"] == "overage"
    off = new_user(db, "usage_only", stripe_subscription_id="sub_2", allow_overages=False)
    assert admit(db, off)["decision"] == "refused"


@pytest.mark.parametrize(
    ("columns", "decision"),
    [
        ({"status": "past_due", "past_due_since": "2026-02-22T12:00:01Z"}, "admitted"),
        ({"status": "past_due", "past_due_since": "2026-02-22T12:00:00Z"}, "refused"),
        ({"status": "past_due", "past_due_since": "2026-02-02Z", "paid_until": "2026-02-22T12:00:01Z"}, "admitted"),
        ({"status": "past_due", "past_due_since": "2026-02-02Z", "paid_until": "2026-02-22T12:00:00Z"}, "refused"),
        ({"status": "suspended"}, "refused"),
        ({"status": "canceled"}, "refused"),
        (
            {"status": "canceled", "current_period_start": "2026-02-02Z", "current_period_end": "2026-03-02Z"},
            "admitted",
        ),
    ],
)
def test_which_subscription_statuses_admit_queries(db: Db, columns: dict[str, Any], decision: str) -> None:
    at(db, "2026-03-01T12:00Z")
    admitted = admit(db, new_user(db, "basic", **columns))
    assert admitted["decision"] == decision
    if decision == "refused":
        assert admitted["reason"] == f"Subscription not active: {columns['status']}"
        assert admitted["requires_payment"] is True


def test_an_ended_canceled_plan_becomes_free_with_its_lifetime_count(db: Db) -> None:
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


def test_overage_periods_advance_without_stripe_events(db: Db) -> None:
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
            pay_overage(db, user)
            assert ledger(db, user)[-1]["period_start"].date().isoformat() == period
    assert [str(row["overage_charge"]) for row in ledger(db, user)] == ["0.025000"] * 3


def test_repeating_an_admission_takes_no_more_funding(db: Db) -> None:
    user = new_user(db, "basic")
    first = admit(db, user, "question")
    again = admit(db, user, "question", first["hold_id"])
    assert {**again, "reason": None, "resets_at": None} == {**first, "reason": None, "resets_at": None}
    assert (counters(db, user)["quota_used"], holds(db, user)) == (1, 1)


def test_a_request_is_identified_by_chat_and_message(db: Db) -> None:
    """The case of a UUID does not matter."""
    user = new_user(db, "basic")
    chat = str(uuid.uuid4())
    settle(db, admit(db, user, "1", p_chat_id=chat)["hold_id"])
    for other in (str(uuid.uuid4()), "by name", None):
        assert admit(db, user, "1", p_chat_id=other)["decision"] == "admitted"
        assert admit(db, user, "1", p_chat_id=other)["decision"] == "in_progress"
    assert admit(db, user, "1", p_chat_id=chat.upper())["decision"] == "ended"
    assert counters(db, user)["quota_used"] == 4
    assert value(db, "select count(*) from public.reconcile()") == 0


def test_a_request_with_another_question_is_a_conflict(db: Db) -> None:
    """While the first runs and after it was charged, but not after it failed."""
    user = new_user(db, "basic")
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    query = admit(db, user, "1", p_chat_id="chat", p_question_digest=one)
    release(db, query["hold_id"])
    query = admit(db, user, "1", p_chat_id="chat", p_question_digest=other)
    assert query["decision"] == "admitted"
    for expected in ("in_progress", "ended"):
        with pytest.raises(psycopg.Error) as caught:
            admit(db, user, "1", p_chat_id="chat", p_question_digest=one)
        assert caught.value.sqlstate == "CONFL"
        for digest in (other, None):
            assert admit(db, user, "1", p_chat_id="chat", p_question_digest=digest)["decision"] == expected
        settle(db, query["hold_id"])
    assert counters(db, user)["quota_used"] == 1


def test_a_running_request_is_in_progress_until_its_hold_expires(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    first = admit(db, user, "question", p_hold_seconds=60)
    assert admit(db, user, "question")["decision"] == "in_progress"
    at(db, "2026-03-01T12:01Z")
    assert admit(db, user, "question")["decision"] == "admitted"
    assert counters(db, user)["quota_used"] == 1
    assert [(str(row["id"]), row["outcome"]) for row in ledger(db, user)] == [(first["hold_id"], "lost")]


def test_only_a_failed_request_is_admitted_again(db: Db) -> None:
    user = new_user(db, "basic")
    release(db, admit(db, user, "question")["hold_id"])
    settle(db, admit(db, user, "question")["hold_id"], "stopped")
    assert admit(db, user, "question")["decision"] == "ended"
    assert counters(db, user)["quota_used"] == 1


def test_expired_holds_do_not_block_the_next_query(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", allow_overages=False, daily_quota=1)
    admit(db, user, p_hold_seconds=60)
    assert admit(db, user)["decision"] == "refused"
    at(db, "2026-03-01T12:01Z")
    assert admit(db, user)["decision"] == "admitted"


def test_a_model_outside_the_plan_is_refused_without_taking_funding(db: Db) -> None:
    user = new_user(db, "free")
    with pytest.raises(psycopg.Error) as caught:
        admit(db, user, p_provider="openai", p_model="gpt-6-sol")
    assert caught.value.sqlstate == "NOMDL"
    assert (counters(db, user)["lifetime_used"], holds(db, user)) == (0, 0)
    assert admit(db, user, p_provider="openai")["model"] == "gpt-6-luna"


@pytest.mark.usefixtures("many_at_once")
def test_a_transaction_from_before_midnight_keeps_the_new_count(db: Db) -> None:
    """A transaction that waited for the lock past midnight finds the new day already counted."""
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", allow_overages=False)
    at(db, "2026-03-02T00:00:01Z")
    for _ in range(15):
        admit(db, user)
    at(db, "2026-03-01T23:59:59Z")
    assert admit(db, user)["decision"] == "refused"
    assert counters(db, user)["quota_used"] == 15


@pytest.mark.usefixtures("many_at_once")
def test_concurrent_admissions_take_exactly_what_is_left(connect: Connect, db: Db) -> None:
    """Quota, then credits, then overage to its limit: 15 + 10 + 20 of 64."""
    user = new_user(db, "basic", stripe_subscription_id="sub_1", overage_limit="0.5")
    pack(db, user, 10)
    connections = [connect() for _ in range(64)]
    barrier = threading.Barrier(64)

    def admit_one(connection: Db) -> str | None:
        barrier.wait()
        funding: str | None = admit(connection, user).get("funding")
        return funding

    with ThreadPoolExecutor(64) as pool:
        taken = list(pool.map(admit_one, connections))
    assert {funding: taken.count(funding) for funding in set(taken)} == {
        "included": 15,
        "credit": 10,
        "overage": 20,
        None: 19,
    }
    assert str(counters(db, user)["current_overage_amount"]) == "0.500000"


def test_overage_queries_touch_no_index_of_subscriptions(db: Db) -> None:
    user = new_user(db, "usage_only", stripe_subscription_id="sub_hot")
    updated = "select pg_stat_get_xact_tuples_hot_updated('public.user_subscriptions'::regclass)"
    with db.transaction():
        before = value(db, updated)
        for _ in range(5):
            query = admit(db, user)
            assert query["funding"] == "overage"
            settle(db, query["hold_id"])
        assert value(db, updated) - before == 5


@pytest.mark.usefixtures("many_at_once")
def test_ten_dollars_admit_four_hundred_overage_queries(db: Db) -> None:
    user = new_user(db, "usage_only", stripe_subscription_id="sub_1")
    admitted = 0
    while admit(db, user)["decision"] == "admitted":
        admitted += 1
        if admitted == 40:
            assert str(counters(db, user)["current_overage_amount"]) == "1.000000"
    assert (admitted, str(counters(db, user)["current_overage_amount"])) == (400, "10.000000")


def test_history_includes_tool_results_that_fit(db: Db) -> None:
    """The newest messages that fit into p_bytes. Results of tools are left out before texts are."""
    user = new_user(db, "pro")
    for number in range(3):
        stored_turn = {
            "chat_id": "chat", "title": "t", "context": {},
            "question": {"id": f"q{number}", "content": "?" * 10},
            "answer": {
                "id": str(uuid.uuid4()), "content": "!" * 10,
                "function_calls": [{"id": "c", "name": "get_bill", "input": {}, "step": 0, "at": 0}],
                "function_results": [{"id": "c", "output": {"bill": "x" * 1000}, "sources": []}],
            },
        }  # fmt: skip
        settle(db, admit(db, user, p_chat_id="chat")["hold_id"], turn=json.dumps(stored_turn))

    def history(limit: int) -> list[tuple[str, bool]]:
        admitted = admit(db, user, p_chat_id="chat", p_history_bytes=limit)
        release(db, admitted["hold_id"])
        return [(row["role"], row.get("function_results") is not None) for row in admitted["history"]]

    assert history(100_000) == [("user", False), ("assistant", True)] * 3
    assert history(1_500) == [("user", False), ("assistant", False)] * 2 + [("user", False), ("assistant", True)]
    assert history(45) == [("user", False), ("assistant", False)] * 2
    assert history(5) == []


def test_history_is_bounded_in_bytes(db: Db) -> None:
    """Syllabics have three bytes a character, and a model reads up to a token for each byte."""
    user = new_user(db, "pro")
    turn = {
        "chat_id": "chat", "title": "t", "context": {}, "question": {"id": "q", "content": "?"},
        "answer": {"id": str(uuid.uuid4()), "content": "ᐅ" * 100, "function_calls": None, "function_results": None},
    }  # fmt: skip
    settle(db, admit(db, user, p_chat_id="chat")["hold_id"], turn=json.dumps(turn))
    for limit, messages in ((301, 2), (300, 1), (299, 0)):
        admitted = admit(db, user, p_chat_id="chat", p_history_bytes=limit)
        release(db, admitted["hold_id"])
        assert len(admitted["history"]) == messages


def test_a_provider_without_a_platform_key_needs_an_own_key(db: Db) -> None:
    user = new_user(db, "basic")
    only_openai: Any = {"p_providers": ["openai"]}
    assert admit(db, user, **only_openai)["provider"] == "openai"
    with pytest.raises(psycopg.DatabaseError, match="no account with this provider") as caught:
        admit(db, user, p_provider="anthropic", **only_openai)
    assert caught.value.sqlstate == "NOMDL"
    key(db, user, "anthropic")
    assert admit(db, user, p_provider="anthropic", **only_openai)["funding"] == "byok"


def test_admission_returns_the_cost_limit_and_the_models(db: Db) -> None:
    admitted = admit(db, new_user(db, "pro"))
    (plan,) = db.execute("select * from public.plans where tier = 'pro'").fetchall()
    assert admitted["cost_limit_usd"] == str(plan["query_cost_limit_usd"])
    assert admitted["models"] == plan["models"]


# While the daily quota pays, admission reuses its last decision until something changes -----------------------------


def included_until(db: Db, user: str) -> datetime | None:
    row = db.execute("select included_until from public.user_subscriptions where user_id = %s", (user,)).fetchone()
    assert row is not None
    until: datetime | None = row["included_until"]
    return until


@pytest.mark.parametrize(
    ("tier", "columns", "until"),
    [
        ("pro", {}, "2026-03-02T00:00Z"),  # the end of the day
        (
            "pro",
            {"current_period_start": "2026-02-01T15:00Z", "current_period_end": "2026-03-01T15:00Z"},
            "2026-03-01T15:00Z",  # the period: the next one may have another plan
        ),
        (
            "pro",
            {"current_period_start": "2026-02-01T15:00Z", "current_period_end": "2026-03-01T15:00Z"}
            | {"status": "canceled"},
            "2026-03-01T15:00Z",
        ),
        # A period that ended without an event from Stripe continues by months.
        (
            "pro",
            {"current_period_start": "2026-01-01T15:00Z", "current_period_end": "2026-02-01T15:00Z"},
            "2026-03-01T15:00Z",
        ),
        (
            "pro",
            {"status": "past_due", "past_due_since": "2026-02-22T13:00Z"},
            "2026-03-01T13:00Z",
        ),  # the end of the grace period
        ("free", {}, None),  # decisions on a lifetime quota are not reused
        # A downgrade that is in force but not yet stored.
        (
            "pro",
            {"current_period_start": "2026-01-01T15:00Z", "current_period_end": "2026-02-01T15:00Z"}
            | {"next_tier": "basic"},
            None,
        ),
    ],
)
def test_included_until_is_the_next_time_the_decision_can_change(
    db: Db, tier: str, columns: dict[str, str], until: str | None
) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, tier, **columns)
    assert admit(db, user)["funding"] == "included"
    assert included_until(db, user) == (until and datetime.fromisoformat(until))


def test_no_decision_is_reused_for_a_user_with_a_key(db: Db) -> None:
    user = new_user(db, "pro")
    key(db, user, "openai")
    assert admit(db, user, p_own_key=False)["funding"] == "included"
    assert included_until(db, user) is None
    assert admit(db, user)["funding"] == "byok"


def test_requiring_an_own_key_fails_without_one(db: Db) -> None:
    user = new_user(db, "pro")
    assert admit(db, user)["funding"] == "included"
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        admit(db, user, p_own_key=True)


def test_a_concurrent_plan_change_clears_the_reused_decision(connect: Connect, db: Db) -> None:
    """A change that does not take the user lock can commit between the decision and its record."""
    user = new_user(db, "pro")
    webhook, client = connect(), connect()
    with ThreadPoolExecutor(1) as pool, webhook.transaction():
        webhook.execute("update public.user_subscriptions set status = 'suspended' where user_id = %s", (user,))
        admission = pool.submit(admit, client, user)
        while not db.execute(
            "select from pg_locks where pid = %s and not granted", (client.info.backend_pid,)
        ).fetchall():
            assert not admission.done()
    assert admission.result()["decision"] == "admitted"  # decided before the change
    assert included_until(db, user) is None
    assert admit(db, user)["reason"] == "Subscription not active: suspended"


def test_every_change_except_counters_clears_the_reused_decision(db: Db) -> None:
    """The trigger lists every column of the table except ids, times, counters and bookkeeping."""
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
        *("unpaid_overage_usd", "paid_overage_usd", "owes_overage"),
        *("failed_cost_usd", "included_until", "tool_minute", "tool_calls", "overage_ceiling", "blocked_reason"),
        *("open_invoice_url", "exported_at"),
    }
    user = new_user(db, "pro")
    for change in ("status = status", "daily_quota = 40", "past_due_since = null"):
        admit(db, user)
        assert included_until(db, user) is not None
        db.execute(f"update public.user_subscriptions set {change} where user_id = '{user}'".encode())
        assert included_until(db, user) is None


def test_a_changed_plan_quota_applies_at_once(db: Db) -> None:
    user, special = new_user(db, "pro", allow_overages=False), new_user(db, "pro", daily_quota=30)
    assert [admit(db, each)["remaining"] for each in (user, special)] == [39, 29]
    with db.transaction(force_rollback=True):
        db.execute("update public.plans set daily_quota = 2 where tier = 'pro'")
        assert admit(db, user)["remaining"] == 0
        assert admit(db, user)["decision"] == "refused"
        db.execute("update public.plans set daily_quota = null, lifetime_quota = 1 where tier = 'pro'")
        for each in (user, special):
            assert admit(db, each)["remaining"] == 0  # the only one of the lifetime quota
            assert admit(db, each)["reason"] == "Free tier quota exhausted"


def test_a_reused_decision_gives_the_same_hold_and_response(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "pro", stripe_subscription_id="sub_1", overage_limit="7.5")
    admit(db, user)
    db.execute("update public.user_subscriptions set current_overage_amount = 0.025 where user_id = %s", (user,))
    reused = admit(db, user)
    db.execute("update public.user_subscriptions set status = status where user_id = %s", (user,))
    decided = admit(db, user)
    ids = {"hold_id", "request_id"}
    assert {**reused, "remaining": 37, **dict.fromkeys(ids)} == {**decided, **dict.fromkeys(ids)}
    _, second, third = db.execute("select * from public.query_holds where user_id = %s order by quota_used", (user,))
    ids = {"id", "request_id"}
    assert {**second, "quota_used": 2, **dict.fromkeys(ids)} == {**third, **dict.fromkeys(ids)}


def test_a_prepaid_user_without_credits_is_asked_to_pay(db: Db, connect: Connect) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=1)
    run_queries(db, user, 1, "credit")
    refused = admit(db, user, "question")
    assert refused == {
        "decision": "refused",
        "reason": "Daily quota exceeded",
        "reason_code": "credits_used",
        "requires_payment": True,
        "resets_at": None,
        "url": None,
        "hold_id": refused["hold_id"],
    }
    row = db.execute("select requires_payment, resets_at from public.query_refusals").fetchone()
    assert row == {"requires_payment": True, "resets_at": None}
    answer = connect("authenticated", user).execute("select * from public.can_user_query(%s)", (user,)).fetchone()
    assert answer == {"can_query": False, "reason": "Daily quota exceeded", "requires_payment": True}
    # With a subscription or an own quota, the user can wait for a reset.
    at(db, "2026-03-10T12:00Z")
    used = {"current_overage_amount": 1, "overage_period_start": "2026-03-01Z"}
    subscribed = new_user(db, "usage_only", stripe_subscription_id="sub_1", overage_limit=1, **used)
    granted = new_user(db, "usage_only", daily_quota=1, quota_used=1, quota_date="2026-03-10")
    for waiting, resets_at in ((subscribed, "2026-04-01T00:00:00+00:00"), (granted, "2026-03-11T00:00:00+00:00")):
        refused = admit(db, waiting)
        assert (refused["decision"], refused["requires_payment"]) == ("refused", False)
        assert refused["resets_at"] == resets_at


PERIOD = {"current_period_start": "2026-03-01Z", "current_period_end": "2026-04-01Z"}


@pytest.mark.parametrize(
    ("tier", "columns", "reason_code", "requires_payment"),
    [
        ("usage_only", {"allow_overages": False}, "overage_off", False),
        ("usage_only", {"status": "past_due", "past_due_since": "2026-03-09Z"}, "payment_failed", True),
        ("usage_only", {"status": "canceled", **PERIOD}, "credits_used", True),
        ("usage_only", {"allow_overages": False, "overage_limit": 0}, "credits_used", True),
        ("pro", {"status": "suspended", "open_invoice_url": "https://x.test/i"}, "subscription_unpaid", True),
        ("pro", {"status": "suspended"}, "subscription_paused", True),
    ],
)  # fmt: skip
def test_a_subscriber_is_not_told_to_wait_for_what_changes_nothing(
    db: Db, tier: str, columns: dict[str, Any], reason_code: str, requires_payment: bool
) -> None:
    at(db, "2026-03-10T12:00Z")
    user = new_user(db, tier, stripe_subscription_id="sub_1", quota_date="2026-03-10", **columns)
    refused = admit(db, user)
    assert (refused["reason_code"], refused["resets_at"]) == (reason_code, None)
    assert refused["requires_payment"] is requires_payment


def test_an_admission_after_its_release_takes_nothing(db: Db) -> None:
    """The chat gave up while the call waited in PostgREST, and released the query."""
    user, hold_id = new_user(db, "pro"), str(uuid.uuid4())
    for _ in range(2):
        released = value(db, "select public.release_query(%s, 'failed', '{}', %s)", hold_id, user)
        assert released["outcome"] == "failed"
    with pytest.raises(psycopg.Error) as caught:
        admit(db, user, "question", hold_id)
    assert caught.value.sqlstate == "LATER"
    assert (holds(db, user), counters(db, user)["quota_used"]) == (0, 0)
    assert admit(db, user, "question")["decision"] == "admitted"  # asked again


def test_the_release_of_a_refused_query_changes_nothing(db: Db) -> None:
    user, hold_id = new_user(db, "basic", daily_quota=0, allow_overages=False), str(uuid.uuid4())
    refused = admit(db, user, "question", hold_id)
    value(db, "select public.release_query(%s, 'failed', '{}', %s)", hold_id, user)
    assert {**admit(db, user, "question", hold_id), "hold_id": hold_id} == refused
