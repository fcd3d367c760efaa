"""Random histories: the SQL is compared after every step with a plain Python model of the same rules.

`make test` runs a sample with new seeds, `make prove` 10,000 histories. Hypothesis shrinks a failure, which prints
the command that replays its seed.
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
from tests.conftest import TEMPLATE, lasting_connection, new_user
from tests.sql import model
from tests.sql.billing import settle_overage
from tests.sql.metering import Db, action, admit, at, counters, holds, key, ledger, release, settle, turn, value

FULL = bool(os.environ.get("PROVE"))
BATCHES = 100 if FULL else 4
HISTORIES = 100 if FULL else 20  # per batch
STEPS = 40

# Start times near calendar edge cases.
STARTS = [
    datetime(2026, 3, 1, 12, tzinfo=UTC),
    datetime(2027, 2, 27, 23, 50, tzinfo=UTC),
    datetime(2028, 2, 28, 23, 59, tzinfo=UTC),
    datetime(2028, 2, 29, tzinfo=UTC),
    datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2026, 1, 31, 10, tzinfo=UTC),
]
TIME_STEPS = [
    timedelta(seconds=1),
    timedelta(minutes=4),
    timedelta(minutes=6),
    timedelta(hours=13),
    timedelta(days=1),
    timedelta(days=6, hours=23),
    timedelta(days=28),
    timedelta(days=31),
]
# Packs by their validity.
PACKS = {None: "pack_100", timedelta(days=1): "pack_day", timedelta(days=40): "pack_forty_days"}
CENTS = 225
# What queries cost us. A few dear ones that fail reach the limit of the day.
COSTS = st.sampled_from([Decimal(0), Decimal("0.000123"), Decimal("0.008"), Decimal("0.03")])

# The states of customers and payments at Stripe.
SUBSCRIPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "tier": st.sampled_from([None, "basic", "pro", "usage_only"]),
    "paid_tiers": st.sampled_from([(), (), ("basic",), ("pro",), ("basic", "pro")]),
    "status": st.sampled_from(["active", "active", "canceled", "suspended", "past_due"]),
    # 40 days: a renewal without an event.
    "started_ago": st.sampled_from([None, timedelta(0), timedelta(days=10), timedelta(days=40)]),
    # A subscription that started on a 31st has periods that last longer than a month from their start.
    "extra_days": st.sampled_from([timedelta(0), timedelta(0), timedelta(days=3)]),
    "failed_ago": st.sampled_from([timedelta(0), timedelta(days=6, hours=20), timedelta(days=7)]),
    # Until when the tier of a past due subscription is paid.
    "paid_for": st.sampled_from([None, None, timedelta(days=-7), timedelta(days=10)]),
}
PAYMENTS: dict[str, st.SearchStrategy[Any]] = {
    # Of 225 cents: 1 revokes no credit, 112 revoke two of five, 224 all but the last.
    "refunded_cents": st.sampled_from([0, 1, 45, 112, 150, 224, 225]),
    "disputed": st.booleans(),
    "lost": st.sampled_from([False, False, True]),
}


# No user is deleted here, so the sums of the newest day are exactly those of the ledger.
MISCOUNTED = """
select abs(counted.free_usd - coalesce(sum(u.cost_usd) filter (where u.tier = 'free'), 0))
     + abs(counted.total_usd - coalesce(sum(u.cost_usd), 0))
from (select day, sum(free_usd) as free_usd, sum(total_usd) as total_usd from public.daily_costs
      where day = (select max(day) from public.daily_costs) group by day) counted
left join public.usage_logs u on u.query_date = counted.day and not u.used_byo_key
group by counted.day, counted.free_usd, counted.total_usd
"""


class Histories(RuleBasedStateMachine):
    """The history of one user with one chat. The test sets `db` and `locker`. Histories share no rows."""

    db: Db
    locker: Db

    def __init__(self) -> None:
        super().__init__()
        self.user_id = ""
        self.model = model.User()
        self.now = STARTS[0]
        self.query_count = 0
        self.sequence = 0
        self.customers = 0
        self.customer = ""
        self.open_items: list[tuple[datetime, int]] = []
        self.chat = str(uuid.uuid4())

    @initialize(start=st.sampled_from(STARTS), tier=st.sampled_from(["free", "basic", "pro", "usage_only"]))
    def sign_up(self, start: datetime, tier: str) -> None:
        """Creates the user. Most histories start on a paid plan."""
        self.now = start
        at(self.db, start.isoformat())
        # The defaults of the row use the real date. A history may start earlier, and counters only move forward.
        self.user_id = new_user(
            self.db, tier, quota_date=date(2020, 1, 1), overage_period_start=datetime(2020, 1, 1, tzinfo=UTC)
        )
        self.model.tier = tier
        self.link_customer()
        self.set_budgets(None, None)

    def change_subscription(self, **columns: Any) -> None:
        """Changes columns of the subscription, as support or set_overage does."""
        assignments = ", ".join(f"{column} = %s" for column in columns)
        self.db.execute(
            f"update public.user_subscriptions set {assignments} where user_id = %s", (*columns.values(), self.user_id)
        )

    def new_id(self) -> str:
        """A new query id, derived from its number in the history, so that a replay creates the same id."""
        self.query_count += 1
        return str(uuid.uuid5(uuid.UUID(self.user_id), str(self.query_count)))

    def running(self) -> list[str]:
        """Queries that have not ended, oldest first."""
        return [query.id for query in self.model.queries.values() if query.outcome is None]

    # Time

    @rule(step=st.sampled_from(TIME_STEPS))
    def advance_time(self, step: timedelta) -> None:
        self.now += step
        at(self.db, self.now.isoformat())

    @rule()
    def go_to_midnight(self) -> None:
        self.now = datetime.combine(self.now.date() + timedelta(days=1), datetime.min.time(), UTC)
        at(self.db, self.now.isoformat())

    # Queries

    @rule(
        count=st.sampled_from([1, 1, 1, 2, 7, 16]),
        provider=st.sampled_from([None, "anthropic", "openai"]),
        end=st.sampled_from([None, "answered", "answered", "stopped", "failed"]),
        seconds=st.sampled_from([60, 300]),
        cost=COSTS,
    )
    def run_queries(self, count: int, provider: str | None, end: str | None, seconds: int, cost: Decimal) -> None:
        """Admits queries and ends each with the same outcome, or leaves them running."""
        for _ in range(count):
            query_id = self.new_id()
            self.admit(query_id, query_id, provider, seconds)
            if end and query_id in self.model.queries:
                self.end(query_id, end, cost)

    def admit(self, query_id: str, request: str, provider: str | None = None, seconds: int = 300) -> None:
        """One admission in the SQL and in the model."""
        result = admit(
            self.db, self.user_id, request, query_id, p_provider=provider, p_hold_seconds=seconds, p_chat_id=self.chat
        )
        expected = self.model.admit(self.now, query_id, request, provider, seconds)
        funding = result["funding"] if result["decision"] == "admitted" else None
        assert (result["decision"], funding) == expected
        if result["decision"] == "admitted":
            self.compare_history(result)

    def compare_history(self, admitted: dict[str, Any]) -> None:
        """The questions that an admission read."""
        questions = [message["content"] for message in admitted["history"] if message["role"] == "user"]
        assert questions == [f"Question {turn}" for turn in self.model.read_history(self.now)]

    def end(self, query_id: str, outcome: str, cost: Decimal) -> None:
        """Ends a query in the SQL and in the model. Late and repeated calls are allowed."""
        usage = json.dumps({"cost_usd": str(cost)})
        if outcome not in model.CHARGED:
            assert release(self.db, query_id, outcome, usage)["outcome"] == self.model.end(query_id, outcome, cost)
            return
        settled = settle(self.db, query_id, outcome, usage, turn(self.chat, query_id))
        self.model.store_turn(self.now, query_id)
        assert settled["outcome"] == self.model.end(query_id, outcome, cost)
        conversation = self.model.conversation
        assert settled["persisted"] == (conversation is not None and conversation.has(query_id))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "stopped", "failed", "lost"]), cost=COSTS)
    def end_query(self, data: st.DataObject, outcome: str, cost: Decimal) -> None:
        self.end(data.draw(st.sampled_from(self.running())), outcome, cost)

    @precondition(lambda self: self.model.queries)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "failed"]), cost=COSTS)
    def repeat_end(self, data: st.DataObject, outcome: str, cost: Decimal) -> None:
        ended = [query.id for query in self.model.queries.values() if query.outcome is not None]
        if ended:
            self.end(data.draw(st.sampled_from(ended)), outcome, cost)

    @precondition(lambda self: any(q.outcome for q in self.model.queries.values()))
    @rule(data=st.data())
    def credit_back(self, data: st.DataObject) -> None:
        """An operator gives a charge back, once. Of a billed query an item gives back its share."""
        query = data.draw(st.sampled_from([q for q in self.model.queries.values() if q.outcome]))
        given = value(self.db, "select public.credit_back(%s, %s)", query.id, action())
        assert ("refused" not in given) == self.model.credit_back(query.id)
        if "refused" not in given and query.billed:
            self.open_items.append((query.period, -1))

    @precondition(lambda self: self.model.queries)
    @rule(data=st.data())
    def repeat_request(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(dict.fromkeys(q.request for q in self.model.queries.values()))))
        self.admit(self.new_id(), request)

    @precondition(lambda self: any(q.outcome is None and q.expires_at > self.now for q in self.model.queries.values()))
    @rule(data=st.data())
    def repeat_admission(self, data: st.DataObject) -> None:
        live = [q for q in self.model.queries.values() if q.outcome is None and q.expires_at > self.now]
        query = data.draw(st.sampled_from(live))
        repeated = admit(self.db, self.user_id, query.request, query.id, p_chat_id=self.chat)
        self.model.release_stale(self.now)
        assert (repeated["decision"], repeated["funding"]) == ("admitted", query.funding)
        self.compare_history(repeated)

    # The conversation

    @precondition(lambda self: self.model.conversation and self.model.conversation.lock is None)
    @rule(lock=st.sampled_from(["update", "for update"]))
    def lock_conversation(self, lock: str) -> None:
        """Another transaction locks the conversation, as a change or a deletion of it does."""
        assert self.model.conversation is not None
        self.model.conversation.lock = lock
        statement = {
            "update": "update public.conversations set title = title where id = %s",
            "for update": "select from public.conversations where id = %s for update",
        }
        self.locker.execute("begin")
        self.locker.execute(statement[lock].encode(), (self.chat,))

    @precondition(lambda self: self.model.conversation and self.model.conversation.lock)
    @rule()
    def unlock_conversation(self) -> None:
        assert self.model.conversation is not None
        self.model.conversation.lock = None
        self.locker.execute("rollback")

    @precondition(lambda self: self.model.conversation and self.model.conversation.lock is None)
    @rule()
    def delete_conversation(self) -> None:
        while value(self.db, "select public.delete_history(%s)", self.user_id):
            pass
        self.model.conversation = None

    @rule()
    def apply_pending_turns(self) -> None:
        while value(self.db, "select public.apply_pending_turns()"):
            pass  # those of earlier histories too
        while self.model.conversation and self.model.conversation.pending and self.model.conversation.lock is None:
            self.model.conversation.apply_pending()

    @rule()
    def release_stale_holds(self) -> None:
        while value(self.db, "select public.release_stale_holds()"):
            pass  # at most a hundred per call, also those of earlier histories
        self.model.release_stale(self.now)

    @rule()
    def reset_monthly_overages(self) -> None:
        while value(self.db, "select public.reset_monthly_overages()"):
            pass
        self.model.reset_overage(self.now)

    @rule()
    def expire_credits(self) -> None:
        while value(self.db, "select public.expire_credits()"):
            pass
        self.model.expire_credits(self.now)

    # States at Stripe

    def link_customer(self) -> None:
        """Links the user to a new Stripe customer."""
        self.customers += 1
        customer = f"cus_{self.user_id}_{self.customers}"
        self.customer = value(self.db, "select public.link_stripe_customer(%s, %s)", self.user_id, customer)
        assert self.customer == customer

    def next_sequence(self) -> int:
        """The next sequence number, of a customer or a payment."""
        self.sequence += 1
        return self.sequence

    def apply_customer(
        self,
        sequence: int,
        subscription: model.Subscription | None,
        *,
        deleted: bool = False,
        url: str | None = None,
    ) -> None:
        """Applies the state of the customer in the SQL and in the model."""
        state = subscription and {
            "id": f"sub_{self.user_id}",
            "tier": subscription.tier,
            "paid_tiers": subscription.paid_tiers,
            "status": subscription.status,
            "period_start": subscription.period and subscription.period[0].isoformat(),
            "period_end": subscription.period and subscription.period[1].isoformat(),
            "canceled_at": None,
            "past_due_since": subscription.past_due_since and subscription.past_due_since.isoformat(),
            "paid_until": subscription.paid_until and subscription.paid_until.isoformat(),
        }
        found = value(
            self.db,
            "select public.apply_customer(%s, %s, %s, %s, %s)::text",
            *(self.customer, sequence, deleted, json.dumps(state) if state else None, url),
        )
        assert found == self.user_id
        self.model.apply_customer(self.now, sequence, subscription, has_open_invoice=url is not None)

    def apply_pack(self, sequence: int, payment: model.Payment) -> None:
        """Applies the state of a payment in the SQL and in the model."""
        validity = payment.expires_at - payment.paid_at if payment.expires_at and payment.paid_at else None
        state = {
            "session_id": payment.session,
            "payment_intent_id": payment.session.replace("cs_", "pi_"),
            "pack": PACKS[validity],
            "credits": payment.credits,
            "paid_at": payment.paid_at and payment.paid_at.isoformat(),
            "price_cents": payment.cents,
            "paid_cents": payment.cents,
            "refunded_cents": payment.refunded_cents,
            "is_disputed": payment.disputed,
            "is_lost": payment.lost,
        }
        found = value(self.db, "select public.apply_pack(%s, %s, %s)::text", self.user_id, sequence, json.dumps(state))
        assert found == self.user_id
        self.model.apply_pack(self.now, sequence, payment)

    def subscription(
        self,
        tier: str | None,
        paid_tiers: tuple[str, ...],
        status: str,
        started_ago: timedelta | None,
        extra_days: timedelta,
        failed_ago: timedelta,
        paid_for: timedelta | None,
    ) -> model.Subscription | None:
        """The state of a subscription. started_ago: age of its period. failed_ago: age of the failed invoice."""
        if tier is None:
            return None
        start = self.now - started_ago if started_ago is not None else None
        return model.Subscription(
            tier,
            paid_tiers,
            status,
            (start, model.months_after(start, 1) + extra_days) if start else None,
            self.now - failed_ago if status == "past_due" else None,
            self.now + paid_for if status == "past_due" and paid_for is not None else None,
        )

    @rule(url=st.sampled_from([None, None, "https://invoice.example"]), **SUBSCRIPTIONS)
    def apply_new_customer_state(self, url: str | None, **state: Any) -> None:
        self.apply_customer(self.next_sequence(), self.subscription(**state), url=url)

    @rule(behind=st.integers(0, 3), **SUBSCRIPTIONS)
    def apply_old_customer_state(self, behind: int, **state: Any) -> None:
        """An older or equal sequence number changes nothing."""
        self.apply_customer(max(0, self.model.sequence - behind), self.subscription(**state))

    @rule()
    def delete_customer(self) -> None:
        """The user gets a new customer. States of the old one have no user."""
        self.apply_customer(self.next_sequence(), None, deleted=True)
        apply_old = "select public.apply_customer(%s, %s, false, null)"
        assert value(self.db, apply_old, self.customer, self.next_sequence()) is None
        self.link_customer()

    @rule(
        credit_count=st.sampled_from([1, 2, 5]),
        validity=st.sampled_from(list(PACKS)),
        states=st.sampled_from(["paid", "unpaid, paid", "paid, paid", "unpaid"]),
    )
    def buy_pack(self, credit_count: int, validity: timedelta | None, states: str) -> None:
        """A session grants one pack, after it is paid, however often its state is applied."""
        paid_at = self.now + timedelta(microseconds=self.sequence)  # unique
        paid = model.Payment(
            f"cs_{self.user_id}_{self.sequence}", credit_count, paid_at + validity if validity else None, paid_at, CENTS
        )
        for state in states.split(", "):
            unpaid = dataclasses.replace(paid, paid_at=None, expires_at=None)
            self.apply_pack(self.next_sequence(), paid if state == "paid" else unpaid)

    @precondition(lambda self: self.model.packs)
    @rule(data=st.data(), **PAYMENTS)
    def apply_new_payment_state(self, data: st.DataObject, **state: Any) -> None:
        """Refunds succeed and fail, disputes open, are won and are lost."""
        pack = self.model.packs[data.draw(st.sampled_from(list(self.model.packs)))]
        self.apply_pack(self.next_sequence(), dataclasses.replace(pack.payment, **state))

    @precondition(lambda self: self.model.packs)
    @rule(data=st.data(), behind=st.integers(0, 3), **PAYMENTS)
    def apply_old_payment_state(self, data: st.DataObject, behind: int, **state: Any) -> None:
        """An older or equal sequence number changes nothing."""
        pack = self.model.packs[data.draw(st.sampled_from(list(self.model.packs)))]
        self.apply_pack(max(0, pack.sequence - behind), dataclasses.replace(pack.payment, **state))

    @rule(ago=st.sampled_from([None, timedelta(0), timedelta(days=10)]))
    def claim_overage(self, ago: timedelta | None) -> None:
        """Each query is claimed once. Items on no invoice are returned by each call."""
        until = self.now - ago if ago is not None else datetime.max.replace(tzinfo=UTC)
        items = value(
            self.db,
            "select public.claim_overage(%s, %s, '{}')",
            *(self.user_id, until.isoformat() if ago is not None else "infinity"),
        )
        self.open_items += self.model.claim_overage(until)
        returned = [(datetime.fromisoformat(item["period_start"]), item["queries"]) for item in items]
        assert sorted(returned) == sorted(self.open_items)

    @rule(settled_as=st.sampled_from(["paid", "paid", "void", "credited"]))
    def settle_overage(self, settled_as: str) -> None:
        """Everything that was billed is paid, paid from a balance, or voided."""
        for item in value(self.db, "select public.claim_overage(%s, '-infinity', '{}')", self.user_id):
            invoice_item = item["stripe_invoice_item_id"] or f"ii_{item['id']}"
            self.db.execute("select public.place_overage(%s, %s, %s)", (item["id"], invoice_item, "in_1"))
        items = value(self.db, "select public.unsettled_overage(%s)", self.user_id)
        statuses = {item["id"]: settled_as for item in items}
        for settled in (len(items), 0):
            assert settle_overage(self.db, self.user_id, statuses) == settled
        self.model.settle_overage(settled_as)
        self.open_items = []

    @rule(change=st.sampled_from([("paid", "returned"), ("credited", "returned"), ("returned", "paid")]))
    def change_payments(self, change: tuple[str, str]) -> None:
        """Every payment of overage is refunded or disputed, or those that were pay again. An older state is ignored."""
        rows = self.db.execute(
            "select id::text from public.overage_invoice_items where user_id = %s and settled_as = %s",
            (self.user_id, change[0]),
        ).fetchall()
        items = [row["id"] for row in rows]
        for status, sequence, changed in ((change[1], None, len(items)), (change[0], 1, 0)):
            statuses = dict.fromkeys(items, status)
            assert settle_overage(self.db, self.user_id, statuses, sequence) == changed
        self.model.change_payments(*change)

    # Settings

    @rule(budgets=st.sampled_from([(None, None), (None, None), (0, None), (None, 0), (1000, 0)]))
    def set_budgets_of_all(self, budgets: tuple[int | None, int | None]) -> None:
        """Operators set what free users and all users may cost a day. A budget of 0 is spent."""
        self.set_budgets(*budgets)

    def set_budgets(self, free: int | None, platform: int | None) -> None:
        self.model.free_answers_are_off = 0 in (free, platform)
        query = "update public.settings set free_daily_budget_usd = %s, platform_daily_budget_usd = %s"
        self.db.execute(query, (free, platform))

    @rule(allow=st.booleans(), limit=st.sampled_from(["0", "0.025", "0.06", "0.5", "10"]))
    def change_overage_settings(self, allow: bool, limit: str) -> None:
        self.model.allow_overages, self.model.overage_limit = allow, Decimal(limit)
        self.change_subscription(allow_overages=allow, overage_limit=limit)

    @rule(daily=st.sampled_from([None, 0, 3, 20]), lifetime=st.sampled_from([None, 0, 5, 12]))
    def change_own_quotas(self, daily: int | None, lifetime: int | None) -> None:
        """Support raises or lowers the quotas of the user. None: the quotas of the plan."""
        self.model.daily_quota, self.model.lifetime_quota = daily, lifetime
        self.change_subscription(daily_quota=daily, lifetime_quota=lifetime)

    @rule(provider=st.sampled_from(["anthropic", "openai"]), change=st.sampled_from(["add", "reject", "delete"]))
    def change_own_key(self, provider: str, change: str) -> None:
        self.model.keys.discard(provider)
        self.db.execute(
            "delete from public.user_api_keys where user_id = %s and provider = %s", (self.user_id, provider)
        )
        if change != "delete":
            key(self.db, self.user_id, provider, active=change == "add")
        if change == "add":
            self.model.keys.add(provider)

    # Checks after every step

    @invariant()
    def sql_and_model_agree(self) -> None:
        if not self.user_id:
            return
        user, row = self.model.as_of(self.now), counters(self.db, self.user_id)
        predicted = user.decide(self.now)
        answer = self.db.execute("select * from public.can_user_query(%s)", (self.user_id,)).fetchone()
        assert answer is not None
        requires_payment = user.requires_payment(self.now)
        assert (answer["can_query"], answer["reason"]) == (predicted[0] is not None, predicted[1])
        assert answer["requires_payment"] == (requires_payment and predicted[0] != "byok")
        state = self.db.execute("select * from private.funding_state where user_id = %s", (self.user_id,)).fetchone()
        assert state is not None
        assert (state["quota_used"], state["lifetime_used"]) == (user.quota_used(), user.lifetime_used())
        assert state["overage_used"] == user.overage_used()
        assert state["unpaid_overage"] == user.overage_owed()
        assert user.overage_settled_as(None) <= 10
        assert row["paid_overage_usd"] == user.overage_settled_as("paid")
        assert state["failed_cost_usd"] == user.failed_cost()
        assert (state["requires_payment"], state["resets_at"]) == (requires_payment, user.resets_at(self.now))
        if user.decide(self.now, own_key=False)[0] is None:
            assert state["reason_code"] == user.refusal_code(self.now)
        assert (state["tier"], state["status"], state["quota_date"]) == (user.tier, user.status, user.quota_date)
        assert state["overage_period_start"] == user.overage_period
        assert row["lifetime_used"] <= 12
        for pack in self.db.execute("select * from public.credit_packs where user_id = %s", (self.user_id,)):
            bought = user.packs[pack["stripe_checkout_session_id"]]
            names = ("remaining", "used", "revoked", "expired")
            assert [pack[f"credits_{name}"] for name in names] == [getattr(user, name)(bought) for name in names]
            assert (pack["is_frozen"], pack["expires_at"]) == (bought.payment.disputed, bought.payment.expires_at)
        assert value(self.db, "select count(*) from public.credit_packs where user_id = %s", self.user_id) == len(
            user.packs
        )

    @invariant()
    def turns_agree(self) -> None:
        conversation = self.model.conversation or model.Conversation()
        stored = self.db.execute(
            "select external_id from public.messages where conversation_id = %s and role = 'user' order by position",
            (self.chat,),
        ).fetchall()
        assert [row["external_id"] for row in stored] == conversation.turns
        pending = self.db.execute(
            "select id::text from public.pending_turns where conversation_id = %s order by created_at, id", (self.chat,)
        ).fetchall()
        assert [row["id"] for row in pending] == [turn for _, turn, _ in conversation.pending]

    def teardown(self) -> None:
        """Every ended query has one ledger row with its outcome. All others have a hold."""
        self.locker.execute("rollback")
        if not self.user_id:
            return
        ended = {str(row["id"]): (row["outcome"], row["funding"]) for row in ledger(self.db, self.user_id)}
        assert ended == {q.id: (q.outcome, q.funding) for q in self.model.queries.values() if q.outcome is not None}
        assert holds(self.db, self.user_id) == len(self.running())


@pytest.fixture(scope="module")
def shared_db(stack: Stack) -> Iterator[Db]:
    """One database for all histories. Their users share no rows."""
    with (
        stack.postgres.clone(lasting_connection(stack, "supabase_admin"), TEMPLATE, "histories") as url,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as db,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as locker,
    ):
        Histories.locker = locker
        db.execute("set lock_timeout = '5s'")  # a wait for the lock fails
        for validity, slug in PACKS.items():
            if validity is not None:
                db.execute(
                    "insert into public.packs (slug, name, credits, price_usd, expires_after_days)"
                    " values (%s, %s, 100, 2.25, %s)",
                    (slug, slug, validity.days),
                )
        # The rows count from the real date on. Histories start earlier.
        db.execute("update public.daily_costs set day = '2020-01-01'")
        yield db


@pytest.mark.prove
@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_sql_and_the_model_agree(shared_db: Db, batch: int) -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    Histories.db = shared_db
    options = settings(
        max_examples=HISTORIES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(Histories), settings=options)  # type: ignore[no-untyped-call]
        # Queries that never ended (I5) and overage that was never billed (overdue) are expected.
        unexpected = "select * from public.reconcile() where invariant not in ('I5', 'overdue')"
        violations = shared_db.execute(unexpected.encode()).fetchall()
        assert violations == []
        assert value(shared_db, MISCOUNTED) == 0
    except BaseException as error:
        error.add_note(f"replay: SEED={seed}{' PROVE=1' if FULL else ''} make test ONLY='tests/sql/test_histories.py'")
        raise
