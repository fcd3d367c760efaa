"""Seeded histories: the SQL beside a plain Python model of the same rules, compared after every step.

A sample with fresh seeds under `make test`, 10,000 histories under `make prove`. A failure prints the command that
replays its seed; Hypothesis has shrunk it by then.
"""

import os
import secrets
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import dict_row

from infra.local.stack import Stack
from tests.conftest import TEMPLATE, new_user
from tests.sql import model
from tests.sql.metering import Db, admit, at, counters, holds, key, ledger, release, settle, value

FULL = bool(os.environ.get("PROVE"))
BATCHES = 100 if FULL else 4
HISTORIES = 100 if FULL else 40  # a batch
STEPS = 40

# Days on which calendars break.
STARTS = [
    datetime(2026, 3, 1, 12, tzinfo=UTC),
    datetime(2027, 2, 27, 23, 50, tzinfo=UTC),
    datetime(2028, 2, 28, 23, 59, tzinfo=UTC),
    datetime(2028, 2, 29, tzinfo=UTC),
    datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2026, 1, 31, 10, tzinfo=UTC),
]
LEAPS = [
    timedelta(seconds=1),
    timedelta(minutes=4),
    timedelta(minutes=6),
    timedelta(hours=13),
    timedelta(days=1),
    timedelta(days=6, hours=23),
    timedelta(days=28),
    timedelta(days=31),
]


class Histories(RuleBasedStateMachine):
    """One user's life. `db` is set by the test: machines share a connection, users do not share anything."""

    db: Db

    def __init__(self) -> None:
        super().__init__()
        self.user_id = ""
        self.model = model.User()
        self.now = STARTS[0]
        self.purchases = 0
        self.asked = 0

    @initialize(start=st.sampled_from(STARTS), tier=st.sampled_from(["free", "basic", "pro", "usage_only"]))
    def sign_up(self, start: datetime, tier: str) -> None:
        """Somebody signs up at some time; most stories start on a paid plan."""
        self.now = start
        at(self.db, start.isoformat())
        # The row's defaults are of the real today; this story may be set earlier, and counts never go back.
        self.user_id = new_user(
            self.db, tier, quota_date=date(2020, 1, 1), overage_period_start=datetime(2020, 1, 1, tzinfo=UTC)
        )
        self.model.tier = tier

    def change(self, **columns: Any) -> None:
        """Change columns of the subscription, as a webhook would."""
        assignments = ", ".join(f"{column} = %s" for column in columns)
        self.db.execute(
            f"update public.user_subscriptions set {assignments} where user_id = %s", (*columns.values(), self.user_id)
        )

    def new_id(self) -> str:
        """The id of another query: known by its number within the story, so that a story can be told again."""
        self.asked += 1
        return str(uuid.uuid5(uuid.UUID(self.user_id), str(self.asked)))

    def running(self) -> list[str]:
        """Queries that have not ended, oldest first."""
        return [query.id for query in self.model.queries.values() if query.outcome is None]

    # Time.

    @rule(leap=st.sampled_from(LEAPS))
    def time_passes(self, leap: timedelta) -> None:
        self.now += leap
        at(self.db, self.now.isoformat())

    @rule()
    def midnight_comes(self) -> None:
        self.now = datetime.combine(self.now.date() + timedelta(days=1), datetime.min.time(), UTC)
        at(self.db, self.now.isoformat())

    # Queries.

    @rule(
        count=st.sampled_from([1, 1, 1, 2, 7, 16]),
        provider=st.sampled_from([None, "anthropic", "openai"]),
        end=st.sampled_from([None, "answered", "answered", "stopped", "failed"]),
        seconds=st.sampled_from([60, 300]),
    )
    def ask(self, count: int, provider: str | None, end: str | None, seconds: int) -> None:
        """Some questions in a row, each with the same end or none yet."""
        for _ in range(count):
            query_id = self.new_id()
            self.admit(query_id, query_id, provider, seconds)
            if end and query_id in self.model.queries:
                self.end(query_id, end)

    def admit(self, query_id: str, request: str, provider: str | None = None, seconds: int = 300) -> None:
        """One admission on both sides."""
        ours = admit(self.db, self.user_id, request, query_id, p_provider=provider, p_hold_seconds=seconds)
        theirs = self.model.admit(self.now, query_id, request, provider, seconds)
        funding = ours["funding"] if ours["decision"] == "admitted" else None
        assert (ours["decision"], funding) == theirs

    def end(self, query_id: str, outcome: str) -> None:
        """One end on both sides; it may come late or twice."""
        call = settle if outcome in model.CHARGED else release
        assert call(self.db, query_id, outcome)["outcome"] == self.model.end(query_id, outcome)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "stopped", "failed", "lost"]))
    def a_query_ends(self, data: st.DataObject, outcome: str) -> None:
        self.end(data.draw(st.sampled_from(self.running())), outcome)

    @precondition(lambda self: self.model.queries)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "failed"]))
    def an_end_is_sent_again(self, data: st.DataObject, outcome: str) -> None:
        ended = [query.id for query in self.model.queries.values() if query.outcome is not None]
        if ended:
            self.end(data.draw(st.sampled_from(ended)), outcome)

    @precondition(lambda self: self.model.queries)
    @rule(data=st.data())
    def a_request_is_sent_again(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(dict.fromkeys(q.request for q in self.model.queries.values()))))
        self.admit(self.new_id(), request)

    @precondition(lambda self: any(q.outcome is None and q.expires_at > self.now for q in self.model.queries.values()))
    @rule(data=st.data())
    def an_admissions_answer_is_lost_and_asked_for_again(self, data: st.DataObject) -> None:
        live = [q for q in self.model.queries.values() if q.outcome is None and q.expires_at > self.now]
        query = data.draw(st.sampled_from(live))
        again = admit(self.db, self.user_id, query.request, query.id)
        self.model.lose(self.now)
        assert (again["decision"], again["funding"]) == ("admitted", query.funding)

    @rule()
    def the_sweep_runs(self) -> None:
        while value(self.db, "select public.release_stale_holds()"):
            pass  # it releases a hundred at a time, those of earlier stories too
        self.model.lose(self.now)

    @rule()
    def overages_are_reset(self) -> None:
        value(self.db, "select public.reset_monthly_overages()")
        self.model.reset(self.now)

    # What webhooks, checkout and people change.

    @rule(tier=st.sampled_from(["free", "basic", "pro", "usage_only"]), anchored=st.booleans())
    def the_plan_changes(self, tier: str, anchored: bool) -> None:
        anchor = self.now if anchored and tier != "free" else None
        end = model.months_after(self.now, 1) if anchor else None
        self.model.tier, self.model.status, self.model.past_due_since = tier, "active", None
        self.model.period_anchor, self.model.period_end = anchor, end
        self.change(tier=tier, status="active", current_period_start=anchor, current_period_end=end)

    @rule(status=st.sampled_from(["active", "canceled", "suspended", "past_due"]))
    def the_status_changes(self, status: str) -> None:
        self.model.status = status
        self.model.past_due_since = self.now if status == "past_due" else None
        self.change(status=status, past_due_since=self.model.past_due_since)

    @rule(subscribed=st.booleans())
    def the_subscription_starts_or_ends(self, subscribed: bool) -> None:
        self.model.subscribed = subscribed
        self.change(stripe_subscription_id=f"sub_{self.user_id}" if subscribed else None)

    @rule(allow=st.booleans(), limit=st.sampled_from(["0", "0.025", "0.06", "0.5", "10"]))
    def the_overage_limit_changes(self, allow: bool, limit: str) -> None:
        self.model.allow_overages, self.model.limit = allow, Decimal(limit)
        self.change(allow_overages=allow, overage_limit=limit)

    @rule(daily=st.sampled_from([None, 0, 3, 20]), lifetime=st.sampled_from([None, 0, 5, 12]))
    def the_users_own_quotas_change(self, daily: int | None, lifetime: int | None) -> None:
        """Support grants somebody more, or less; null is the plan's."""
        self.model.daily_quota, self.model.lifetime_quota = daily, lifetime
        self.change(daily_quota=daily, lifetime_quota=lifetime)

    @rule(
        credit_count=st.sampled_from([1, 2, 5]), lasts=st.sampled_from([None, timedelta(hours=1), timedelta(days=40)])
    )
    def a_pack_is_bought(self, credit_count: int, lasts: timedelta | None) -> None:
        self.purchases += 1
        expires_at = self.now + lasts if lasts else None
        created_at = self.now + timedelta(microseconds=self.purchases)
        pack_id = value(
            self.db,
            "insert into public.credit_packs (user_id, credits_purchased, credits_remaining, price_paid, expires_at,"
            " created_at) values (%s, %s, %s, 5, %s, %s) returning id::text",
            *(self.user_id, credit_count, credit_count, expires_at, created_at),
        )
        self.model.packs[pack_id] = model.Pack(pack_id, credit_count, expires_at, created_at)
        if self.model.tier == "free":
            self.model.tier = "usage_only"
            self.change(tier="usage_only")

    @precondition(lambda self: self.model.packs)
    @rule(data=st.data())
    def a_pack_is_refunded(self, data: st.DataObject) -> None:
        """What is left is taken back, and never more."""
        pack = self.model.packs[data.draw(st.sampled_from(list(self.model.packs)))]
        pack.revoked += self.model.remaining(pack)
        self.db.execute(
            "update public.credit_packs set credits_revoked = credits_revoked + credits_remaining,"
            " credits_remaining = 0 where id = %s",
            (pack.id,),
        )

    @rule(provider=st.sampled_from(["anthropic", "openai"]), change=st.sampled_from(["add", "reject", "delete"]))
    def an_own_key_changes(self, provider: str, change: str) -> None:
        self.model.keys.discard(provider)
        self.db.execute(
            "delete from public.user_api_keys where user_id = %s and provider = %s", (self.user_id, provider)
        )
        if change != "delete":
            key(self.db, self.user_id, provider, active=change == "add")
        if change == "add":
            self.model.keys.add(provider)

    # What must hold after every step.

    @invariant()
    def both_sides_agree(self) -> None:
        if not self.user_id:
            return
        user, row = self.model.as_of(self.now), counters(self.db, self.user_id)
        predicted = user.decide(self.now)
        said = self.db.execute("select * from public.can_user_query(%s)", (self.user_id,)).fetchone()
        assert said is not None
        assert (said["can_query"], said["reason"]) == (predicted[0] is not None, predicted[1])
        rolled = self.db.execute("select * from private.standing where user_id = %s", (self.user_id,)).fetchone()
        assert rolled is not None
        assert (rolled["quota_used"], rolled["lifetime_used"]) == (user.used_today(), user.used_ever())
        assert rolled["overage_used"] == user.overage()
        assert (rolled["tier"], rolled["status"], rolled["quota_date"]) == (user.tier, user.status, user.day)
        assert rolled["overage_period_start"] == user.period
        assert row["lifetime_used"] <= 12
        for pack in self.db.execute("select * from public.credit_packs where user_id = %s", (self.user_id,)):
            bought = user.packs[str(pack["id"])]
            assert (pack["credits_remaining"], pack["credits_revoked"]) == (user.remaining(bought), bought.revoked)

    def teardown(self) -> None:
        """At the end of a story every query has one outcome, and one row says so."""
        if not self.user_id:
            return
        ended = {str(row["id"]): (row["outcome"], row["funding"]) for row in ledger(self.db, self.user_id)}
        assert ended == {q.id: (q.outcome, q.funding) for q in self.model.queries.values() if q.outcome is not None}
        assert holds(self.db, self.user_id) == len(self.running())


@pytest.fixture(scope="module")
def shared(stack: Stack) -> Iterator[Db]:
    """One database for all histories: their users have nothing in common."""
    with (
        stack.postgres.clone(TEMPLATE, "histories") as url,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as db,
    ):
        yield db


@pytest.mark.prove
@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_sql_and_the_model_agree_whatever_happens(shared: Db, batch: int) -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    Histories.db = shared
    chosen = settings(
        max_examples=HISTORIES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(Histories), settings=chosen)  # type: ignore[no-untyped-call]
    except BaseException as error:
        error.add_note(f"replay: SEED={seed}{' PROVE=1' if FULL else ''} make test ONLY='tests/sql/test_histories.py'")
        raise
