"""Where calendars break: leap days, months of 28 days, midnight and the end of a period in the middle of a query."""

from typing import Any

import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, ledger, release, settle, value

# A period as Stripe says it, a moment, and the period that holds the moment.
PERIODS = [
    # From the 31st: short months end early, and the next long one has it again.
    ("2028-01-31T10:00Z", "2028-02-29T10:00Z", "2028-02-29T09:59:59Z", "2028-01-31T10:00Z", "2028-02-29T10:00Z"),
    ("2028-01-31T10:00Z", "2028-02-29T10:00Z", "2028-02-29T10:00Z", "2028-02-29T10:00Z", "2028-03-31T10:00Z"),
    ("2028-01-31T10:00Z", "2028-02-29T10:00Z", "2028-03-31T10:00Z", "2028-03-31T10:00Z", "2028-04-30T10:00Z"),
    ("2027-01-31T10:00Z", "2027-02-28T10:00Z", "2027-02-28T10:00Z", "2027-02-28T10:00Z", "2027-03-31T10:00Z"),
    # A year later there is no leap day.
    ("2028-02-29T00:00Z", "2028-03-29T00:00Z", "2029-02-28T00:00Z", "2029-02-28T00:00Z", "2029-03-29T00:00Z"),
    ("2028-02-29T00:00Z", "2028-03-29T00:00Z", "2029-02-27T23:59:59Z", "2029-01-29T00:00Z", "2029-02-28T00:00Z"),
    # The last second of a year.
    ("2026-12-31T23:59:59Z", "2027-01-31T23:59:59Z", "2027-02-28T23:59:58Z", "2027-01-31T23:59:59Z",
     "2027-02-28T23:59:59Z"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "end", "moment", "from_", "until"), PERIODS)
def test_periods_return_to_the_day_they_began_on(
    db: Db, start: str, end: str, moment: str, from_: str, until: str
) -> None:
    """And what is used in one is forgotten by the next, whether somebody asks or the sweep comes."""
    held = db.execute(
        "select p.period_start = %s as is_start, p.period_end = %s as is_end from private.period_at(%s, %s, %s) p",
        (from_, until, start, end, moment),
    ).fetchone()
    assert held == {"is_start": True, "is_end": True}
    asks, waits = (
        new_user(
            db,
            "usage_only",
            stripe_subscription_id=f"sub_{name}",
            current_period_start=start,
            current_period_end=end,
            quota_date="2026-01-01",
            overage_period_start="2026-01-01Z",
        )
        for name in ("asks", "waits")
    )
    at(db, moment)
    for user in (asks, waits):
        assert admit(db, user)["resets_at"] == value(db, "select to_jsonb(%s::timestamptz)", until)
        assert str(counters(db, user)["current_overage_amount"]) == "0.025000"
    at(db, until)
    assert value(db, "select overage_used from private.funding_state where user_id = %s", asks) == 0
    assert value(db, "select public.reset_monthly_overages()") == 2
    for user in (asks, waits):
        assert value(
            db, "select overage_period_start = %s from public.user_subscriptions where user_id = %s", until, user
        )
    db.execute("select set_config('metering.now', (%s::timestamptz + interval '1 hour')::text, false)", (until,))
    value(db, "select public.release_stale_holds()")
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_midnight_in_the_middle_of_an_answer(db: Db) -> None:
    """The query is the old day's, the new day has all of its own; on a leap day as on any other."""
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


def open_over_the_end(db: Db, **columns: Any) -> tuple[str, str]:
    """A user on usage_only whose overage query was admitted in the last second of February. User and hold."""
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


@pytest.mark.parametrize("sweeps", [True, False])
def test_a_period_that_ends_while_a_query_runs_bills_it_where_it_began(db: Db, sweeps: bool) -> None:
    user, hold = open_over_the_end(db)
    at(db, "2027-03-01T00:00Z")
    if sweeps:
        assert value(db, "select public.reset_monthly_overages()") == 1
    # What is billed at the end of the period is what had ended; what runs waits for the next bill.
    assert value(db, "select public.claim_overage(%s, '2027-03-01Z', '{}')", user) == []
    fresh = admit(db, user)
    assert fresh["remaining"] == 1  # the new period has its own limit
    settle(db, hold)
    settle(db, fresh["hold_id"])
    assert str(counters(db, user)["current_overage_amount"]) == "0.025000"
    (item,) = value(db, "select public.claim_overage(%s, '2027-03-01Z', '{}')", user)
    assert (item["period_start"][:10], item["queries"], item["amount_usd"]) == ("2027-02-01", 1, "0.025000")
    assert db.execute("select * from public.reconcile()").fetchall() == []


@pytest.mark.parametrize("sweeps", [True, False])
def test_a_period_that_ends_while_a_query_runs_gets_nothing_back_from_the_next(db: Db, sweeps: bool) -> None:
    user, hold = open_over_the_end(db)
    at(db, "2027-03-01T00:00Z")
    if sweeps:
        value(db, "select public.reset_monthly_overages()")
    fresh = admit(db, user)
    release(db, hold)
    settle(db, fresh["hold_id"])
    assert str(counters(db, user)["current_overage_amount"]) == "0.025000"
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_a_plan_that_ends_while_a_query_runs_still_pays_for_it(db: Db) -> None:
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
