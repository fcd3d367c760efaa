"""Calendar edge cases: leap days, short months, and queries that run over midnight or the end of a period."""

from typing import Any

import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import new_customer, run_queries
from tests.sql.metering import Db, admit, at, counters, ledger, release, settle, value

# Start and end of a stored period, a time, and start and end of the period that contains this time.
PERIODS = [
    # A period that starts on the 31st ends on the last day of a short month, and then on the 31st again.
    ("2028-01-31T10:00Z", "2028-02-29T10:00Z", "2028-02-29T09:59:59Z", "2028-01-31T10:00Z", "2028-02-29T10:00Z"),
    ("2028-01-31T10:00Z", "2028-02-29T10:00Z", "2028-02-29T10:00Z", "2028-02-29T10:00Z", "2028-03-31T10:00Z"),
    ("2028-01-31T10:00Z", "2028-02-29T10:00Z", "2028-03-31T10:00Z", "2028-03-31T10:00Z", "2028-04-30T10:00Z"),
    ("2027-01-31T10:00Z", "2027-02-28T10:00Z", "2027-02-28T10:00Z", "2027-02-28T10:00Z", "2027-03-31T10:00Z"),
    # The next year has no leap day.
    ("2028-02-29T00:00Z", "2028-03-29T00:00Z", "2029-02-28T00:00Z", "2029-02-28T00:00Z", "2029-03-29T00:00Z"),
    ("2028-02-29T00:00Z", "2028-03-29T00:00Z", "2029-02-27T23:59:59Z", "2029-01-29T00:00Z", "2029-02-28T00:00Z"),
    # The last second of a year.
    ("2026-12-31T23:59:59Z", "2027-01-31T23:59:59Z", "2027-02-28T23:59:58Z", "2027-01-31T23:59:59Z",
     "2027-02-28T23:59:59Z"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "end", "moment", "expected_start", "expected_end"), PERIODS)
def test_periods_keep_their_day_of_the_month(
    db: Db, start: str, end: str, moment: str, expected_start: str, expected_end: str
) -> None:
    """The overage counter resets with the period, by an admission or by the job."""
    found = db.execute(
        "select p.period_start = %s as is_start, p.period_end = %s as is_end from private.period_at(%s, %s, %s) p",
        (expected_start, expected_end, start, end, moment),
    ).fetchone()
    assert found == {"is_start": True, "is_end": True}
    first, second = (
        new_user(
            db,
            "usage_only",
            stripe_subscription_id=f"sub_{name}",
            current_period_start=start,
            current_period_end=end,
            quota_date="2026-01-01",
            overage_period_start="2026-01-01Z",
        )
        for name in ("first", "second")
    )
    at(db, moment)
    for user in (first, second):
        assert admit(db, user)["resets_at"] == value(db, "select to_jsonb(%s::timestamptz)", expected_end)
        assert str(counters(db, user)["current_overage_amount"]) == "0.025000"
    at(db, expected_end)
    assert value(db, "select overage_used from private.funding_state where user_id = %s", first) == 0
    assert value(db, "select public.reset_monthly_overages()") == 2
    for user in (first, second):
        assert value(
            db, "select overage_period_start = %s from public.user_subscriptions where user_id = %s", expected_end, user
        )
    db.execute("select set_config('metering.now', (%s::timestamptz + interval '1 hour')::text, false)", (expected_end,))
    value(db, "select public.release_stale_holds()")
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_midnight_during_a_query_counts_for_the_old_day(db: Db) -> None:
    """The query counts for the old day. The new day, a leap day, has its full quota."""
    at(db, "2028-02-28T23:59:59.9Z")
    user = new_user(db, "basic", daily_quota=2)
    late, failing = admit(db, user), admit(db, user)
    assert admit(db, user)["decision"] == "refused"
    at(db, "2028-02-29T00:00:00Z")
    first = admit(db, user)
    assert (first["remaining"], first["resets_at"]) == (1, "2028-03-01T00:00:00+00:00")
    settle(db, late["hold_id"])
    release(db, failing["hold_id"])
    assert (counters(db, user)["quota_used"], str(counters(db, user)["quota_date"])) == (1, "2028-02-29")
    settle(db, first["hold_id"])
    days = [(str(row["query_date"]), row["counted_against_quota"]) for row in ledger(db, user)]
    assert sorted(days) == [("2028-02-28", False), ("2028-02-28", True), ("2028-02-29", True)]
    assert admit(db, user)["remaining"] == 0
    assert db.execute("select * from public.reconcile()").fetchall() == []


def query_over_period_end(db: Db, **columns: Any) -> tuple[str, str]:
    """Admits an overage query in the last second of February. Returns the user and the hold."""
    at(db, "2027-02-28T23:59:59Z")
    user = new_user(
        db,
        "usage_only",
        stripe_customer_id="cus_1",
        stripe_subscription_id="sub_1",
        overage_limit="0.05",
        overage_period_start="2027-02-01Z",
        **columns,
    )
    query = admit(db, user)
    assert (query["funding"], query["remaining"]) == ("overage", 1)
    return user, query["hold_id"]


@pytest.mark.parametrize("job_runs", [True, False])
def test_a_query_over_a_period_end_bills_the_old_period(db: Db, job_runs: bool) -> None:
    user, hold = query_over_period_end(db)
    at(db, "2027-03-01T00:00Z")
    if job_runs:
        assert value(db, "select public.reset_monthly_overages()") == 1
    # A bill contains only settled queries. A running one is on the next bill.
    assert value(db, "select public.claim_overage(%s, '2027-03-01Z', '{}')", user) == []
    fresh = admit(db, user)
    assert fresh["remaining"] == 0  # the query of the old period is not paid
    settle(db, hold)
    settle(db, fresh["hold_id"])
    assert str(counters(db, user)["current_overage_amount"]) == "0.025000"
    (item,) = value(db, "select public.claim_overage(%s, '2027-03-01Z', '{}')", user)
    assert (item["period_start"][:10], item["queries"], item["amount_usd"]) == ("2027-02-01", 1, "0.025000")
    assert db.execute("select * from public.reconcile()").fetchall() == []


@pytest.mark.parametrize("job_runs", [True, False])
def test_a_late_release_does_not_lower_the_new_period(db: Db, job_runs: bool) -> None:
    user, hold = query_over_period_end(db)
    at(db, "2027-03-01T00:00Z")
    if job_runs:
        value(db, "select public.reset_monthly_overages()")
    fresh = admit(db, user)
    release(db, hold)
    settle(db, fresh["hold_id"])
    assert str(counters(db, user)["current_overage_amount"]) == "0.025000"
    assert db.execute("select * from public.reconcile()").fetchall() == []


@pytest.mark.usefixtures("many_at_once")
def test_a_plan_that_ends_during_a_query_pays_for_it(db: Db) -> None:
    at(db, "2027-02-28T23:59:59Z")
    user = new_user(
        db,
        "basic",
        status="canceled",
        stripe_subscription_id="sub_1",
        current_period_start="2027-02-01Z",
        current_period_end="2027-03-01Z",
    )
    query = admit(db, user)
    at(db, "2027-03-01T00:00Z")
    free = admit(db, user)
    assert (query["tier"], free["tier"], free["remaining"]) == ("basic", "free", 9)
    assert settle(db, query["hold_id"])["outcome"] == "answered"
    release(db, free["hold_id"])
    ended = sorted((row["tier"], row["outcome"]) for row in ledger(db, user))
    assert ended == [("basic", "answered"), ("free", "failed")]
    assert counters(db, user)["lifetime_used"] == 0
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_a_period_has_the_length_that_stripe_states(db: Db, connect: Connect) -> None:
    """A subscription that started on a 31st has a period from 28 February to 31 March."""
    february_28 = {
        "current_period_start": "2026-02-28Z",
        "current_period_end": "2026-03-31Z",
        "overage_period_start": "2026-02-28Z",
        "overage_limit": "0.05",
    }
    user = new_customer(db, **february_28)
    run_queries(db, user, 2)
    at(db, "2026-03-29T12:00Z")
    assert value(db, "select public.reset_monthly_overages()") == 0
    refused = admit(db, user)
    assert (refused["decision"], refused["resets_at"]) == ("refused", "2026-03-31T00:00:00+00:00")
    me = connect("authenticated", user)
    at(me, "2026-03-29T12:00Z")
    assert value(me, "select public.usage_summary() -> 'period'") == {
        "start": "2026-02-28T00:00:00+00:00",
        "end": "2026-03-31T00:00:00+00:00",
    }


def test_after_a_long_period_the_next_starts_at_its_end(db: Db) -> None:
    """Otherwise a reset before Stripe's event and one after it would both apply."""
    user = new_customer(db, current_period_start="2026-02-28Z", current_period_end="2026-03-31Z", overage_limit="0.05")
    at(db, "2026-04-01T12:00Z")
    run_queries(db, user, 1)
    start = value(db, "select overage_period_start::text from public.user_subscriptions where user_id = %s", user)
    assert start.startswith("2026-03-31 00:00:00")
