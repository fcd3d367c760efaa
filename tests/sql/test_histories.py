"""Seeded histories: the SQL beside a plain Python model of the same rules, compared after every step.

A sample with fresh seeds under `make test`, 10,000 histories under `make prove`. A failure prints the command that
replays its seed; Hypothesis has shrunk it by then.
"""

import dataclasses
import json
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
# Packs by how long they last.
PACKS = {None: "pack_100", timedelta(days=1): "pack_day", timedelta(days=40): "pack_forty_days"}
CENTS = 225

# What looks at Stripe find: of customers, and of payments.
SUBSCRIPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "tier": st.sampled_from([None, "basic", "pro", "usage_only"]),
    "paid_tiers": st.sampled_from([(), (), ("basic",), ("pro",), ("basic", "pro")]),
    "status": st.sampled_from(["active", "active", "canceled", "suspended", "past_due"]),
    # The last: a renewal that we have not heard of.
    "began": st.sampled_from([None, timedelta(0), timedelta(days=10), timedelta(days=40)]),
    # Who subscribed on a 31st has periods that are longer than a month from their start.
    "longer": st.sampled_from([timedelta(0), timedelta(0), timedelta(days=3)]),
    "failed": st.sampled_from([timedelta(0), timedelta(days=6, hours=20), timedelta(days=7)]),
}
PAYMENTS: dict[str, st.SearchStrategy[Any]] = {
    # Of 225: 1 cent is worth no credit, 112 two of five, 224 not the last.
    "refunded_cents": st.sampled_from([0, 1, 45, 112, 150, 224, 225]),
    "disputed": st.booleans(),
    "lost": st.sampled_from([False, False, True]),
}


class Histories(RuleBasedStateMachine):
    """One user's life. `db` is set by the test: machines share a connection, users do not share anything."""

    db: Db

    def __init__(self) -> None:
        super().__init__()
        self.user_id = ""
        self.model = model.User()
        self.now = STARTS[0]
        self.asked = 0
        self.looks = 0
        self.customers = 0
        self.customer = ""
        self.open_items: list[tuple[datetime, int]] = []

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
        self.become_a_customer()

    def change(self, **columns: Any) -> None:
        """Change columns of the subscription, as support or set_overage would."""
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
        while value(self.db, "select public.reset_monthly_overages()"):
            pass
        self.model.reset(self.now)

    @rule()
    def credits_expire(self) -> None:
        while value(self.db, "select public.expire_credits()"):
            pass
        self.model.expire(self.now)

    # What is looked up at Stripe.

    def become_a_customer(self) -> None:
        """A customer of their own at Stripe, unless they have one."""
        self.customers += 1
        wanted = f"cus_{self.user_id}_{self.customers}"
        self.customer = value(self.db, "select public.link_stripe_customer(%s, %s)", self.user_id, wanted)
        assert self.customer == wanted

    def look(self) -> int:
        """The number of the next look, of the customer or of a payment."""
        self.looks += 1
        return self.looks

    def apply_customer(self, look: int, subscription: model.Subscription | None, *, deleted: bool = False) -> None:
        """One look at the customer on both sides."""
        described = subscription and {
            "id": f"sub_{self.user_id}",
            "tier": subscription.tier,
            "paid_tiers": subscription.paid_tiers,
            "status": subscription.status,
            "period_start": subscription.period and subscription.period[0].isoformat(),
            "period_end": subscription.period and subscription.period[1].isoformat(),
            "canceled_at": None,
            "past_due_since": subscription.past_due_since and subscription.past_due_since.isoformat(),
        }
        found = value(
            self.db,
            "select public.apply_customer(%s, %s, %s, %s)::text",
            *(self.customer, look, deleted, json.dumps(described) if described else None),
        )
        assert found == self.user_id
        self.model.apply_customer(self.now, look, subscription)

    def apply_pack(self, look: int, payment: model.Payment) -> None:
        """One look at a payment on both sides."""
        lasts = payment.expires_at - payment.paid_at if payment.expires_at and payment.paid_at else None
        described = {
            "session_id": payment.session,
            "payment_intent_id": payment.session.replace("cs_", "pi_"),
            "pack": PACKS[lasts],
            "credits": payment.credits,
            "paid_at": payment.paid_at and payment.paid_at.isoformat(),
            "paid_cents": payment.cents,
            "refunded_cents": payment.refunded_cents,
            "is_disputed": payment.disputed,
            "is_lost": payment.lost,
        }
        found = value(self.db, "select public.apply_pack(%s, %s, %s)::text", self.user_id, look, json.dumps(described))
        assert found == self.user_id
        self.model.apply_pack(self.now, look, payment)

    def subscription(
        self,
        tier: str | None,
        paid_tiers: tuple[str, ...],
        status: str,
        began: timedelta | None,
        longer: timedelta,
        failed: timedelta,
    ) -> model.Subscription | None:
        """What a look finds: of a period that began so long ago, with an invoice that failed so long ago."""
        if tier is None:
            return None
        start = self.now - began if began is not None else None
        return model.Subscription(
            tier,
            paid_tiers,
            status,
            (start, model.months_after(start, 1) + longer) if start else None,
            self.now - failed if status == "past_due" else None,
        )

    @rule(**SUBSCRIPTIONS)
    def the_customer_is_looked_at(self, **found: Any) -> None:
        self.apply_customer(self.look(), self.subscription(**found))

    @rule(behind=st.integers(0, 3), **SUBSCRIPTIONS)
    def an_older_look_at_the_customer_comes_late(self, behind: int, **found: Any) -> None:
        """Or the same once more: nothing changes."""
        self.apply_customer(max(0, self.model.look - behind), self.subscription(**found))

    @rule()
    def the_customer_is_deleted(self) -> None:
        """Then they become another, and looks at who they were are nobody's."""
        self.apply_customer(self.look(), None, deleted=True)
        gone = "select public.apply_customer(%s, %s, false, null)"
        assert value(self.db, gone, self.customer, self.look()) is None
        self.become_a_customer()

    @rule(
        credit_count=st.sampled_from([1, 2, 5]),
        lasts=st.sampled_from(list(PACKS)),
        looks=st.sampled_from(["paid", "unpaid, paid", "paid, paid", "unpaid"]),
    )
    def a_pack_is_bought(self, credit_count: int, lasts: timedelta | None, looks: str) -> None:
        """Once for a session, however often it is looked at, and only when it is paid."""
        paid_at = self.now + timedelta(microseconds=self.looks)  # none at the same time as another
        paid = model.Payment(
            f"cs_{self.user_id}_{self.looks}", credit_count, paid_at + lasts if lasts else None, paid_at, CENTS
        )
        for state in looks.split(", "):
            unpaid = dataclasses.replace(paid, paid_at=None, expires_at=None)
            self.apply_pack(self.look(), paid if state == "paid" else unpaid)

    @precondition(lambda self: self.model.packs)
    @rule(data=st.data(), **PAYMENTS)
    def a_payment_is_looked_at(self, data: st.DataObject, **found: Any) -> None:
        """Refunds come and fail again, disputes are opened, won and lost."""
        pack = self.model.packs[data.draw(st.sampled_from(list(self.model.packs)))]
        self.apply_pack(self.look(), dataclasses.replace(pack.payment, **found))

    @precondition(lambda self: self.model.packs)
    @rule(data=st.data(), behind=st.integers(0, 3), **PAYMENTS)
    def an_older_look_at_a_payment_comes_late(self, data: st.DataObject, behind: int, **found: Any) -> None:
        """Or the same once more: nothing changes."""
        pack = self.model.packs[data.draw(st.sampled_from(list(self.model.packs)))]
        self.apply_pack(max(0, pack.look - behind), dataclasses.replace(pack.payment, **found))

    @rule(ago=st.sampled_from([None, timedelta(0), timedelta(days=10)]))
    def overage_is_billed(self, ago: timedelta | None) -> None:
        """Each query once, however often and with whatever end; what is on no invoice yet is told each time."""
        until = self.now - ago if ago is not None else datetime.max.replace(tzinfo=UTC)
        items = value(
            self.db,
            "select public.claim_overage(%s, %s, '{}')",
            *(self.user_id, until.isoformat() if ago is not None else "infinity"),
        )
        self.open_items += self.model.bill(until)
        told = [(datetime.fromisoformat(item["period_start"]), item["queries"]) for item in items]
        assert sorted(told) == sorted(self.open_items)

    # What support and people change.

    @rule(allow=st.booleans(), limit=st.sampled_from(["0", "0.025", "0.06", "0.5", "10"]))
    def the_overage_limit_changes(self, allow: bool, limit: str) -> None:
        self.model.allow_overages, self.model.limit = allow, Decimal(limit)
        self.change(allow_overages=allow, overage_limit=limit)

    @rule(daily=st.sampled_from([None, 0, 3, 20]), lifetime=st.sampled_from([None, 0, 5, 12]))
    def the_users_own_quotas_change(self, daily: int | None, lifetime: int | None) -> None:
        """Support grants somebody more, or less; null is the plan's."""
        self.model.daily_quota, self.model.lifetime_quota = daily, lifetime
        self.change(daily_quota=daily, lifetime_quota=lifetime)

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
        asks_for_payment = user.asks_for_payment(self.now)
        assert (said["can_query"], said["reason"]) == (predicted[0] is not None, predicted[1])
        assert said["requires_payment"] == (asks_for_payment and predicted[0] != "byok")
        rolled = self.db.execute("select * from private.funding_state where user_id = %s", (self.user_id,)).fetchone()
        assert rolled is not None
        assert (rolled["quota_used"], rolled["lifetime_used"]) == (user.used_today(), user.used_ever())
        assert rolled["overage_used"] == user.overage()
        assert (rolled["requires_payment"], rolled["resets_at"]) == (asks_for_payment, user.resets_at(self.now))
        assert (rolled["tier"], rolled["status"], rolled["quota_date"]) == (user.tier, user.status, user.day)
        assert rolled["overage_period_start"] == user.period
        assert row["lifetime_used"] <= 12
        for pack in self.db.execute("select * from public.credit_packs where user_id = %s", (self.user_id,)):
            bought = user.packs[pack["stripe_checkout_session_id"]]
            names = ("remaining", "used", "revoked", "expired")
            assert [pack[f"credits_{name}"] for name in names] == [getattr(user, name)(bought) for name in names]
            assert (pack["is_frozen"], pack["expires_at"]) == (bought.payment.disputed, bought.payment.expires_at)
        assert value(self.db, "select count(*) from public.credit_packs where user_id = %s", self.user_id) == len(
            user.packs
        )

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
        for lasts, slug in PACKS.items():
            if lasts is not None:
                db.execute(
                    "insert into public.packs (slug, name, credits, price_usd, expires_after_days)"
                    " values (%s, %s, 100, 2.25, %s)",
                    (slug, slug, lasts.days),
                )
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
        # Queries that nobody ended were left behind (I5), overage that nobody billed (overdue); all else adds up.
        left_behind = "select * from public.reconcile() where invariant not in ('I5', 'overdue')"
        broken = shared.execute(left_behind.encode()).fetchall()
        assert broken == []
    except BaseException as error:
        error.add_note(f"replay: SEED={seed}{' PROVE=1' if FULL else ''} make test ONLY='tests/sql/test_histories.py'")
        raise
