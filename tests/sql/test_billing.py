"""The functions of billing: what a look at Stripe becomes, what the ledger is taken together as, what people set."""

import json
import random
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, ledger, release, settle, value
from tests.sql.test_lock_order import waits
from tests.sql.test_settle_query import turn

Connect = Callable[..., Db]
CLIENTS = 64


# What the webhooks call -----------------------------------------------------------------------------------------


def look_at_customer(
    db: Db, sequence: int, customer: str = "cus_1", *, deleted: bool = False, **subscription: Any
) -> str | None:
    """apply_customer, with a subscription where anything of one is given."""
    usual = {
        "id": "sub_1",
        "tier": "basic",
        "paid_tiers": [],
        "status": "active",
        "period_start": "2026-03-01T00:00:00Z",
        "period_end": "2026-04-01T00:00:00Z",
        "canceled_at": None,
        "past_due_since": None,
    }
    found = json.dumps({**usual, **subscription}) if subscription else None
    user_id: str | None = value(
        db, "select public.apply_customer(%s, %s, %s, %s)::text", customer, sequence, deleted, found
    )
    return user_id


def look_at_payment(db: Db, user: str, sequence: int, **payment: Any) -> str | None:
    """apply_pack, for a paid pack of a hundred."""
    usual = {
        "session_id": "cs_1",
        "payment_intent_id": "pi_1",
        "pack": "pack_100",
        "credits": 100,
        "paid_at": "2026-03-01T12:00:00Z",
        "paid_cents": 225,
        "refunded_cents": 0,
        "is_disputed": False,
        "is_lost": False,
    }
    user_id: str | None = value(
        db, "select public.apply_pack(%s, %s, %s)::text", user, sequence, json.dumps({**usual, **payment})
    )
    return user_id


def packs(db: Db, user: str) -> list[tuple[int, ...]]:
    """What is left of a user's packs, used, revoked and due, oldest first."""
    rows = db.execute("select * from public.credit_packs where user_id = %s order by created_at, id", (user,))
    names = ("credits_remaining", "credits_used", "credits_revoked", "credits_to_revoke")
    return [tuple(row[name] for name in names) for row in rows]


def ask(db: Db, user: str, queries: int = 1, funding: str = "overage") -> None:
    """So many answered queries."""
    for _ in range(queries):
        query = admit(db, user)
        assert query["funding"] == funding
        settle(db, query["hold_id"])


def everything_of(db: Db, user: str) -> list[Any]:
    """A user's subscription, packs and items."""
    return [
        db.execute(f"select * from public.{table} where user_id = %s order by id".encode(), (user,)).fetchall()
        for table in ("user_subscriptions", "credit_packs", "overage_invoice_items")
    ]


def at_once(connect: Connect, calls: list[Callable[[Db], Any]]) -> list[Any]:
    """What each call returns, all made at the same time, each on a connection of its own."""
    connections = [connect() for _ in calls]
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[Db], Any], connection: Db) -> Any:
        barrier.wait()
        return call(connection)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls, connections))


def broken(db: Db) -> list[tuple[str, str, str]]:
    """Which invariants are, what the ledger says and what was found."""
    rows = db.execute("select * from public.reconcile() order by 1, 3").fetchall()
    return [(row["invariant"], row["expected"], row["found"]) for row in rows]


# apply_customer -------------------------------------------------------------------------------------------------


def test_a_look_at_a_customer_becomes_their_plan(db: Db, connect: Connect) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    service = connect("service_role")
    past_due = {"status": "past_due", "past_due_since": "2026-03-02T00:00:00Z", "canceled_at": "2026-03-03T00:00:00Z"}
    assert look_at_customer(service, 7, tier="pro", **past_due) == user
    row = counters(db, user)
    names = ("tier", "next_tier", "status", "stripe_customer_id", "stripe_subscription_id", "stripe_sequence")
    assert [row[name] for name in names] == ["pro", None, "past_due", "cus_1", "sub_1", 7]
    times = ("current_period_start", "current_period_end", "past_due_since", "canceled_at")
    assert [row[name].strftime("%m-%d") for name in times] == ["03-01", "04-01", "03-02", "03-03"]


@pytest.mark.parametrize("sequence", [0, 4, 5])
def test_an_older_look_at_a_customer_or_the_same_once_more_changes_nothing(db: Db, sequence: int) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    look_at_customer(db, 5, tier="pro")
    before = counters(db, user)
    assert look_at_customer(db, sequence, tier="basic", status="suspended") == user
    assert look_at_customer(db, sequence) == user
    assert look_at_customer(db, sequence, deleted=True) == user
    assert counters(db, user) == before


def test_of_many_looks_at_once_the_latest_stays(connect: Connect, db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    numbers = list(range(1, CLIENTS + 1))
    random.shuffle(numbers)

    def look(number: int) -> Callable[[Db], Any]:
        def both(connection: Db) -> None:
            look_at_customer(connection, number, id=f"sub_{number}", tier="pro" if number == CLIENTS else "basic")
            look_at_payment(connection, user, number, refunded_cents=225 if number == CLIENTS else 0)

        return both

    at_once(connect, [look(number) for number in numbers])
    row = counters(db, user)
    assert (row["tier"], row["stripe_subscription_id"], row["stripe_sequence"]) == ("pro", "sub_64", 64)
    assert packs(db, user) == [(0, 0, 100, 100)]


def test_nobodys_customer_is_null_and_changes_nobody(db: Db) -> None:
    users = [new_user(db), new_user(db, "pro", stripe_customer_id="cus_1")]
    before = [everything_of(db, user) for user in users]
    assert look_at_customer(db, 9, "cus_2", tier="basic") is None
    assert look_at_customer(db, 9, "cus_2", deleted=True) is None
    assert [everything_of(db, user) for user in users] == before


@pytest.mark.parametrize(
    ("tier", "paid_tiers", "now", "then"),
    [
        ("basic", [], "basic", None),
        ("pro", ["pro"], "pro", None),
        ("pro", ["basic"], "pro", None),
        ("basic", ["pro"], "pro", "basic"),
        ("basic", ["basic", "pro"], "pro", "basic"),
        ("usage_only", ["basic"], "basic", "usage_only"),
        ("usage_only", ["pro", "basic"], "pro", "usage_only"),
        ("usage_only", [], "usage_only", None),
    ],
)
def test_the_best_plan_that_is_paid_holds_until_the_period_ends(
    db: Db, tier: str, paid_tiers: list[str], now: str, then: str | None
) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    look_at_customer(db, 1, tier=tier, paid_tiers=paid_tiers)
    assert (counters(db, user)["tier"], counters(db, user)["next_tier"]) == (now, then)
    at(db, "2026-03-31T23:59:59Z")
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == now
    at(db, "2026-04-01T00:00:00Z")
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == (then or now)
    assert admit(db, user)["tier"] == (then or now)


def test_nothing_comes_after_a_cancelled_plan(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    look_at_customer(db, 1, tier="basic", paid_tiers=["pro"], status="canceled")
    assert (counters(db, user)["tier"], counters(db, user)["next_tier"]) == ("pro", None)
    at(db, "2026-04-01T00:00:00Z")
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == "free"


def test_a_later_look_forgets_a_downgrade(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    look_at_customer(db, 1, tier="basic", paid_tiers=["pro"])
    look_at_customer(db, 2, tier="pro", paid_tiers=["pro"])
    at(db, "2026-04-02T00:00Z")
    assert counters(db, user)["next_tier"] is None
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == "pro"


def test_a_plan_that_there_is_not_changes_nothing(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    before = counters(db, user)
    with pytest.raises(psycopg.errors.NoDataFound):
        look_at_customer(db, 1, tier="enterprise")
    assert counters(db, user) == before


def test_a_deleted_customer_is_nobodys_any_more_and_the_user_can_become_another(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    look_at_customer(db, 1, tier="pro")
    assert look_at_customer(db, 2, deleted=True) == user
    row = counters(db, user)
    names = ("tier", "status", "stripe_customer_id", "stripe_subscription_id", "current_period_end")
    assert [row[name] for name in names] == ["free", "active", None, None, None]
    assert look_at_customer(db, 3, tier="pro") is None
    assert value(db, "select public.link_stripe_customer(%s, 'cus_2')", user) == "cus_2"
    assert look_at_customer(db, 4, "cus_2", tier="basic") == user
    assert counters(db, user)["tier"] == "basic"


def test_counts_are_carried_over_from_plan_to_plan(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, stripe_customer_id="cus_1", allow_overages=False, quota_date="2026-02-01", lifetime_used=9)
    look_at_customer(db, 1, tier="basic")
    ask(db, user, 15, "included")
    assert admit(db, user)["decision"] == "refused"
    look_at_customer(db, 2, tier="pro")
    query = admit(db, user)
    assert (query["tier"], query["remaining"]) == ("pro", 24)
    look_at_customer(db, 3)
    assert admit(db, user)["remaining"] == 0
    refused = admit(db, user)
    assert (refused["decision"], refused["reason"]) == ("refused", "Free tier quota exhausted")
    assert (counters(db, user)["quota_used"], counters(db, user)["lifetime_used"]) == (16, 10)


@pytest.mark.parametrize(
    ("payment", "tier"),
    [
        (None, "free"),
        ({}, "usage_only"),
        ({"refunded_cents": 224}, "usage_only"),
        ({"refunded_cents": 225}, "free"),
        ({"is_disputed": True}, "usage_only"),
        ({"is_lost": True}, "free"),
        ({"pack": "pack_day"}, "free"),
    ],
)
def test_without_a_subscription_packs_make_the_plan(db: Db, payment: dict[str, Any] | None, tier: str) -> None:
    at(db, "2026-03-10T12:00Z")
    db.execute(
        "insert into public.packs (slug, name, credits, price_usd, expires_after_days)"
        " values ('pack_day', 'For a day', 100, 2.25, 1)"
    )
    user = new_user(db, stripe_customer_id="cus_1")
    look_at_customer(db, 1, tier="pro")
    if payment is not None:
        look_at_payment(db, user, 1, **payment)
    assert counters(db, user)["tier"] == "pro"
    look_at_customer(db, 2)
    row = counters(db, user)
    assert (row["tier"], row["status"], row["stripe_subscription_id"]) == (tier, "active", None)


def test_a_cancelled_plan_whose_period_is_over_goes_on_with_the_credits_that_are_left(db: Db) -> None:
    at(db, "2026-03-31T12:00Z")
    user = new_user(db, stripe_customer_id="cus_1", quota_date="2026-03-01")
    look_at_customer(db, 1, tier="basic", status="canceled")
    look_at_payment(db, user, 1, credits=1)
    assert admit(db, user)["funding"] == "included"
    at(db, "2026-04-01T00:00Z")
    assert counters(db, user)["tier"] == "basic"
    query = admit(db, user)
    assert (query["tier"], query["funding"]) == ("usage_only", "credit")
    row = counters(db, user)
    names = ("tier", "status", "stripe_subscription_id", "current_period_end", "stripe_customer_id")
    assert [row[name] for name in names] == ["usage_only", "active", None, None, "cus_1"]
    assert admit(db, user)["decision"] == "refused"


def test_a_look_finds_the_same_plan_however_many_credits_are_used(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    look_at_payment(db, user, 1, credits=2)
    ask(db, user, 1, "credit")
    running = admit(db, user)
    look_at_customer(db, 2)
    look_at_payment(db, user, 3, credits=2)
    assert (packs(db, user), counters(db, user)["tier"]) == ([(0, 2, 0, 0)], "usage_only")
    look_at_payment(db, user, 4, credits=2, refunded_cents=112)
    assert counters(db, user)["tier"] == "usage_only"
    look_at_payment(db, user, 5, credits=2, refunded_cents=225)
    assert counters(db, user)["tier"] == "free"
    db.execute("select public.release_query(%s)", (running["hold_id"],))
    assert (packs(db, user), counters(db, user)["tier"]) == ([(0, 1, 1, 2)], "free")


def test_whose_credits_are_used_up_is_told_to_pay_and_not_to_wait(db: Db, connect: Connect) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=1)
    ask(db, user, 1, "credit")
    refused = admit(db, user, "question")
    assert refused == {
        "decision": "refused",
        "reason": "Daily quota exceeded",
        "requires_payment": True,
        "resets_at": None,
        "hold_id": refused["hold_id"],
    }
    row = db.execute("select requires_payment, resets_at from public.query_refusals").fetchone()
    assert row == {"requires_payment": True, "resets_at": None}
    said = connect("authenticated", user).execute("select * from public.can_user_query(%s)", (user,)).fetchone()
    assert said == {"can_query": False, "reason": "Daily quota exceeded", "requires_payment": True}
    # With a subscription, or a quota of their own, waiting helps.
    at(db, "2026-03-10T12:00Z")
    subscribed = new_user(db, "usage_only", stripe_subscription_id="sub_1", overage_limit=0)
    granted = new_user(db, "usage_only", daily_quota=1, quota_used=1, quota_date="2026-03-10")
    for other, resets_at in ((subscribed, "2026-04-01T00:00:00+00:00"), (granted, "2026-03-11T00:00:00+00:00")):
        refused = admit(db, other)
        assert (refused["decision"], refused["requires_payment"]) == ("refused", False)
        assert refused["resets_at"] == resets_at


# apply_pack -----------------------------------------------------------------------------------------------------


def test_a_paid_pack_is_granted_with_what_was_paid(db: Db, connect: Connect) -> None:
    user = new_user(db)
    assert look_at_payment(connect("service_role"), user, 7) == user
    row = db.execute("select * from public.credit_packs").fetchone()
    assert row is not None
    names = ("credits_purchased", "credits_remaining", "price_paid", "price_per_credit", "expires_at", "is_frozen")
    assert [row[name] for name in names] == [100, 100, Decimal("2.25"), Decimal("0.0225"), None, False]
    names = ("stripe_payment_intent_id", "stripe_checkout_session_id", "stripe_sequence", "depleted_at")
    assert [row[name] for name in names] == ["pi_1", "cs_1", 7, None]
    assert (str(row["user_id"]), row["created_at"].isoformat()) == (user, "2026-03-01T12:00:00+00:00")


@pytest.mark.parametrize("order", [[1], [1, 1, 1], [1, 2, 3], [3, 2, 1], [2, 3, 1, 3]])
def test_a_session_grants_once_however_often_and_in_whatever_order(db: Db, order: list[int]) -> None:
    user = new_user(db)
    for number in order:
        look_at_payment(db, user, number)
    assert packs(db, user) == [(100, 0, 0, 0)]
    look_at_payment(db, user, 4, session_id="cs_2", payment_intent_id="pi_2", paid_at="2026-03-02Z", credits=5)
    assert packs(db, user) == [(100, 0, 0, 0), (5, 0, 0, 0)]


def test_many_looks_at_once_grant_one_pack(connect: Connect, db: Db) -> None:
    user = new_user(db)
    calls = [lambda connection, number=number: look_at_payment(connection, user, number) for number in range(CLIENTS)]
    assert at_once(connect, calls) == [user] * CLIENTS
    assert packs(db, user) == [(100, 0, 0, 0)]


def test_what_is_not_paid_grants_nothing(db: Db) -> None:
    user = new_user(db)
    before = everything_of(db, user)
    assert look_at_payment(db, user, 1, paid_at=None) == user
    assert everything_of(db, user) == before
    look_at_payment(db, user, 2)
    assert packs(db, user) == [(100, 0, 0, 0)]


def test_a_pack_lasts_as_long_as_it_is_sold_for(db: Db) -> None:
    db.execute(
        "insert into public.packs (slug, name, credits, price_usd, expires_after_days, is_sold)"
        " values ('pack_year', 'For a year', 100, 2.25, 365, false)"
    )
    user = new_user(db)
    look_at_payment(db, user, 1, pack="pack_year")
    at(db, "2027-03-01T11:59Z")
    assert admit(db, user)["funding"] == "credit"
    at(db, "2027-03-01T12:00Z")
    assert admit(db, user)["decision"] == "refused"


@pytest.mark.parametrize(
    ("credit_count", "paid_cents", "refunded_cents", "revoked"),
    [
        (100, 225, 0, 0),
        (100, 225, 1, 0),
        (100, 225, 2, 0),
        (100, 225, 3, 1),
        (100, 225, 112, 49),
        (100, 225, 113, 50),
        (100, 225, 224, 99),
        (100, 225, 225, 100),
        (500, 1000, 999, 499),
        (3, 100, 33, 0),
        (3, 100, 34, 1),
        (3, 100, 99, 2),
    ],
)
def test_a_refund_takes_back_pro_rata_rounded_in_the_users_favour(
    db: Db, credit_count: int, paid_cents: int, refunded_cents: int, revoked: int
) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=credit_count, paid_cents=paid_cents)
    look_at_payment(db, user, 2, credits=credit_count, paid_cents=paid_cents, refunded_cents=refunded_cents)
    assert packs(db, user) == [(credit_count - revoked, 0, revoked, revoked)]
    assert broken(db) == []


def test_a_refund_takes_back_what_is_left_and_never_more(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=5)
    ask(db, user, 3, "credit")
    look_at_payment(db, user, 2, credits=5, refunded_cents=45)
    assert packs(db, user) == [(1, 3, 1, 1)]
    look_at_payment(db, user, 3, credits=5, refunded_cents=135)
    assert packs(db, user) == [(0, 3, 2, 3)]
    look_at_payment(db, user, 4, credits=5, refunded_cents=225)
    assert packs(db, user) == [(0, 3, 2, 5)]
    assert admit(db, user)["funding"] == "included"  # on free again
    assert broken(db) == []


def test_a_credit_that_comes_back_after_a_refund_goes_where_the_refund_would_have_taken_it(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=3)
    running = [admit(db, user)["hold_id"] for _ in range(3)]
    look_at_payment(db, user, 2, credits=3, refunded_cents=150)
    assert packs(db, user) == [(0, 3, 0, 2)]
    release(db, running[0])
    assert packs(db, user) == [(0, 2, 1, 2)]
    settle(db, running[1])
    assert packs(db, user) == [(0, 2, 1, 2)]
    release(db, running[2], "lost")
    assert packs(db, user) == [(0, 1, 2, 2)]
    assert broken(db) == []


def test_a_credit_that_comes_back_once_the_refund_has_all_it_is_due_can_be_spent_again(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=3)
    running = admit(db, user)["hold_id"]
    look_at_payment(db, user, 2, credits=3, refunded_cents=75)
    assert packs(db, user) == [(1, 1, 1, 1)]
    release(db, running)
    assert packs(db, user) == [(2, 0, 1, 1)]
    assert admit(db, user)["funding"] == "credit"
    assert broken(db) == []


def test_a_refund_that_fails_gives_back_what_it_took(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=5)
    ask(db, user, 1, "credit")
    look_at_payment(db, user, 2, credits=5, refunded_cents=225)
    assert (packs(db, user), counters(db, user)["tier"]) == ([(0, 1, 4, 5)], "free")
    look_at_payment(db, user, 3, credits=5, refunded_cents=0)
    assert (packs(db, user), counters(db, user)["tier"]) == ([(4, 1, 0, 0)], "usage_only")
    ask(db, user, 4, "credit")
    assert broken(db) == []


def test_a_disputed_pack_pays_for_nothing_until_it_is_won(db: Db, connect: Connect) -> None:
    user = new_user(db)
    me = connect("authenticated", user)
    look_at_payment(db, user, 1)
    running = admit(db, user)
    assert running["remaining"] == 99
    look_at_payment(db, user, 2, is_disputed=True)
    refused = admit(db, user)
    assert (refused["decision"], refused["requires_payment"], refused["resets_at"]) == ("refused", True, None)
    summary = value(me, "select public.usage_summary()")
    assert (summary["tier"], summary["credits"]["remaining"]) == ("usage_only", 0)
    ((shown),) = summary["credits"]["packs"]
    assert (shown["remaining"], shown["is_frozen"], shown["bought_at"]) == (99, True, "2026-03-01T12:00:00+00:00")
    settle(db, running["hold_id"])  # was paid for before
    assert packs(db, user) == [(99, 1, 0, 0)]

    look_at_payment(db, user, 3)
    assert admit(db, user)["remaining"] == 98
    assert value(me, "select public.usage_summary()")["credits"]["packs"][0]["is_frozen"] is False
    assert broken(db) == []


def test_another_pack_pays_while_one_is_disputed(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=1)
    look_at_payment(db, user, 2, session_id="cs_2", payment_intent_id="pi_2", paid_at="2026-03-02Z", credits=7)
    look_at_payment(db, user, 3, credits=1, is_disputed=True)
    query = admit(db, user)
    assert (query["funding"], query["remaining"]) == ("credit", 6)
    assert packs(db, user) == [(1, 0, 0, 0), (6, 1, 0, 0)]


def test_a_lost_dispute_takes_all_that_is_left(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1)
    ask(db, user, 2, "credit")
    look_at_payment(db, user, 2, is_disputed=True)
    look_at_payment(db, user, 3, is_lost=True)
    assert packs(db, user) == [(0, 2, 98, 100)]
    assert value(db, "select is_frozen from public.credit_packs") is False
    assert counters(db, user)["tier"] == "free"
    assert broken(db) == []


def test_a_deleted_user_is_null_and_gets_nothing(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1)
    db.execute("delete from auth.users where id = %s", (user,))
    assert look_at_payment(db, user, 2) is None
    assert look_at_payment(db, str(uuid.uuid4()), 3) is None
    assert value(db, "select count(*) from public.credit_packs") == 0


def test_free_becomes_usage_only_with_a_pack_and_free_again_without(db: Db) -> None:
    user = new_user(db, lifetime_used=4)
    look_at_payment(db, user, 1)
    assert counters(db, user)["tier"] == "usage_only"
    look_at_payment(db, user, 2, session_id="cs_2", payment_intent_id="pi_2")
    look_at_payment(db, user, 3, refunded_cents=225)
    assert counters(db, user)["tier"] == "usage_only"
    look_at_payment(db, user, 4, session_id="cs_2", payment_intent_id="pi_2", is_lost=True)
    assert counters(db, user)["tier"] == "free"
    assert admit(db, user)["remaining"] == 5


@pytest.mark.parametrize(
    "columns",
    [
        {"tier": "basic", "stripe_subscription_id": "sub_1"},
        {"tier": "usage_only", "stripe_subscription_id": "sub_1"},
        {"tier": "pro", "stripe_subscription_id": "sub_1", "status": "past_due"},
        {"tier": "basic", "stripe_subscription_id": "sub_1", "status": "canceled"},
        {"tier": "pro"},  # a present
    ],
)
def test_the_plan_of_who_has_one_is_not_touched(db: Db, columns: dict[str, Any]) -> None:
    user = new_user(db, **columns)
    before = counters(db, user)
    look_at_payment(db, user, 1)
    look_at_payment(db, user, 2, is_disputed=True)
    look_at_payment(db, user, 3, refunded_cents=225)
    assert counters(db, user) == before


@pytest.mark.parametrize("sequence", [0, 4, 5])
def test_an_older_look_at_a_payment_or_the_same_once_more_changes_nothing(db: Db, sequence: int) -> None:
    user = new_user(db)
    look_at_payment(db, user, 5, refunded_cents=45)
    before = everything_of(db, user)
    for found in ({}, {"refunded_cents": 225}, {"is_disputed": True}, {"is_lost": True}, {"paid_at": None}):
        assert look_at_payment(db, user, sequence, **found) == user
    assert everything_of(db, user) == before


@pytest.mark.parametrize("found", [{}, {"session_id": "cs_2", "payment_intent_id": "pi_2", "paid_at": None}])
def test_a_look_that_changes_no_pack_changes_no_plan(db: Db, found: dict[str, Any]) -> None:
    """Neither the same once more nor what is not paid makes anything of credits that are used up."""
    user = new_user(db)
    look_at_payment(db, user, 5, credits=1)
    ask(db, user, 1, "credit")
    before = everything_of(db, user)
    look_at_payment(db, user, 5, **{"credits": 1, **found})
    assert everything_of(db, user) == before


def test_a_pack_is_its_buyers_whoever_else_is_named(db: Db) -> None:
    buyer, other = new_user(db), new_user(db)
    look_at_payment(db, buyer, 1)
    before = everything_of(db, buyer)
    assert look_at_payment(db, other, 2, is_lost=True) == other
    assert (everything_of(db, buyer), packs(db, other)) == (before, [])


# Overage --------------------------------------------------------------------------------------------------------


def buyer(db: Db, name: str = "1", **columns: Any) -> str:
    """A customer, on usage_only unless told, whose overage counts from March 2026 on. Sets the clock to the 2nd."""
    at(db, "2026-03-02T12:00Z")
    subscription = {
        "tier": "usage_only",
        "stripe_customer_id": f"cus_{name}",
        "stripe_subscription_id": f"sub_{name}",
        "current_period_start": "2026-03-01Z",
        "current_period_end": "2026-04-01Z",
        "overage_period_start": "2026-03-01Z",
        "quota_date": "2026-03-01",
    }
    return new_user(db, **{**subscription, **columns})


def claim(db: Db, user: str, until: str = "infinity", target: str = "{}") -> list[dict[str, Any]]:
    """claim_overage."""
    items: list[dict[str, Any]] = value(db, "select public.claim_overage(%s, %s, %s)", user, until, target)
    return items


def described(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The month, the number, the price and the cents of each item."""
    return [(item["period_start"][:7], item["queries"], item["unit_price_usd"], item["amount_cents"]) for item in items]


def test_overage_becomes_one_item_a_period_and_price_and_each_query_is_of_one(db: Db) -> None:
    user = buyer(db)
    ask(db, user, 3)
    at(db, "2026-04-02T12:00Z")
    ask(db, user, 2)
    db.execute("update public.plans set overage_price_usd = 0.03 where tier = 'usage_only'")
    ask(db, user, 1)
    items = claim(db, user)
    assert sorted(described(items)) == [
        ("2026-03", 3, "0.025000", 7),
        ("2026-04", 1, "0.030000", 3),
        ("2026-04", 2, "0.025000", 5),
    ]
    billed = db.execute(
        "select i.id::text, count(*) as queries, array_agg(distinct u.period_start = i.period_start"
        " and u.overage_charge = i.unit_price_usd) as alike"
        " from public.usage_logs u join public.overage_invoice_items i on i.id = u.invoice_item_id group by i.id"
    ).fetchall()
    assert {row["id"]: (row["queries"], row["alike"]) for row in billed} == {
        item["id"]: (item["queries"], [True]) for item in items
    }
    before = ledger(db, user)
    assert described(claim(db, user)) == described(items)
    assert ledger(db, user) == before
    assert broken(db) == []


@pytest.mark.parametrize(("queries", "usd", "cents"), [(1, "0.025000", 2), (3, "0.075000", 7), (40, "1.000000", 100)])
def test_cents_are_rounded_down(db: Db, queries: int, usd: str, cents: int) -> None:
    user = buyer(db)
    ask(db, user, queries)
    (item,) = claim(db, user)
    assert (item["queries"], item["amount_usd"], item["amount_cents"]) == (queries, usd, cents)


def test_what_is_settled_after_its_period_was_billed_makes_a_second_item(db: Db) -> None:
    user = buyer(db)
    ask(db, user, 2)
    late = admit(db, user)["hold_id"]
    at(db, "2026-04-01T00:00Z")
    assert described(claim(db, user)) == [("2026-03", 2, "0.025000", 5)]
    settle(db, late)
    assert described(claim(db, user)) == [("2026-03", 2, "0.025000", 5), ("2026-03", 1, "0.025000", 2)]
    assert broken(db) == []


def test_the_running_period_is_not_billed(db: Db) -> None:
    user = buyer(db)
    at(db, "2026-03-31T23:59:59Z")
    ask(db, user, 2)
    look_at_customer(db, 1, tier="usage_only", period_start="2026-04-01Z", period_end="2026-05-01Z")
    at(db, "2026-04-01T00:00:00Z")
    ask(db, user, 1)
    assert claim(db, user, "2026-03-31T23:59:59Z") == []
    assert described(claim(db, user, "2026-04-01T00:00:00Z")) == [("2026-03", 2, "0.025000", 5)]
    assert [row["invoice_item_id"] is None for row in ledger(db, user)] == [False, False, True]
    assert described(claim(db, user, "2026-04-01T00:00:00.000001Z"))[1:] == [("2026-04", 1, "0.025000", 2)]


def test_only_what_is_charged_as_overage_is_billed(db: Db) -> None:
    user = buyer(db, tier="basic", daily_quota=1)
    ask(db, user, 1, "included")
    look_at_payment(db, user, 1, credits=1)
    ask(db, user, 1, "credit")
    release(db, admit(db, user)["hold_id"])
    release(db, admit(db, user)["hold_id"], "lost")
    stopped = admit(db, user)
    settle(db, stopped["hold_id"], "stopped")
    admit(db, user)
    assert described(claim(db, user)) == [("2026-03", 1, "0.025000", 2)]
    assert [str(row["id"]) for row in ledger(db, user) if row["invoice_item_id"]] == [stopped["hold_id"]]


def test_nobody_elses_overage_is_billed(db: Db) -> None:
    user, other = buyer(db), buyer(db, "2")
    for one in (user, other):
        ask(db, one, 2)
    claim(db, other)
    before = everything_of(db, other)
    assert described(claim(db, user)) == [("2026-03", 2, "0.025000", 5)]
    assert everything_of(db, other) == before
    assert claim(db, str(uuid.uuid4())) == []


def test_calls_at_once_make_one_set(connect: Connect, db: Db) -> None:
    user = buyer(db)
    ask(db, user, 3)
    at(db, "2026-04-02T12:00Z")
    ask(db, user, 40)
    told = at_once(connect, [lambda connection: claim(connection, user)] * CLIENTS)
    assert {tuple(item["id"] for item in items) for items in told} == {tuple(item["id"] for item in told[0])}
    assert described(told[0]) == [("2026-03", 3, "0.025000", 7), ("2026-04", 40, "0.025000", 100)]
    assert sorted(items[0]["attempts"] for items in told) == list(range(1, CLIENTS + 1))
    assert value(db, "select count(*) from public.overage_invoice_items") == 2
    assert broken(db) == []


def test_a_conversation_that_is_deleted_meanwhile_changes_no_bill(connect: Connect, db: Db) -> None:
    user = buyer(db, tier="basic", daily_quota=0)
    for chat in ("kept", "deleted", "kept"):
        settle(db, admit(db, user)["hold_id"], turn=turn(chat, str(uuid.uuid4())))
    deleting, claiming, done = connect(), connect(), threading.Event()

    def run() -> None:
        try:
            claim(claiming, user)
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        with deleting.transaction():
            deleting.execute("delete from public.conversations where external_id = 'deleted'")
            running = pool.submit(run)
            waits(db, claiming.info.backend_pid, done)  # or takes what it can get
        running.result()
    assert sum(item["queries"] for item in claim(db, user)) == 3
    assert [row["invoice_item_id"] is None for row in ledger(db, user)] == [False] * 3
    assert broken(db) == []


def test_an_item_is_told_until_it_stands_on_an_invoice(db: Db, connect: Connect) -> None:
    user = buyer(db)
    ask(db, user, 3)
    service = connect("service_role")
    at(service, "2026-04-01T00:00Z")
    (first,) = claim(service, user, target='{"invoice": "in_1"}')
    assert first == {
        "id": first["id"],
        "created_at": "2026-04-01T00:00:00+00:00",
        "period_start": "2026-03-01T00:00:00+00:00",
        "queries": 3,
        "unit_price_usd": "0.025000",
        "amount_usd": "0.075000",
        "amount_cents": 7,
        "attempts": 1,
        "target": {"invoice": "in_1"},
        "refusals": 0,
        "stripe_invoice_item_id": None,
    }
    # It goes where it was first sent, whoever asks next.
    assert claim(service, user, target="{}") == [{**first, "attempts": 2}]
    service.execute("select public.place_overage(%s, 'ii_1', null)", (first["id"],))
    placed = {**first, "attempts": 2, "stripe_invoice_item_id": "ii_1"}
    assert claim(service, user) == [placed]
    assert claim(service, user) == [placed]
    service.execute("select public.place_overage(%s, 'ii_1', 'in_2')", (first["id"],))
    assert claim(service, user) == []
    ask(db, user, 1)
    assert [(item["queries"], item["attempts"]) for item in claim(service, user)] == [(1, 1)]


def test_a_refused_target_is_replaced_once(db: Db) -> None:
    user = buyer(db)
    ask(db, user, 1)
    (item,) = claim(db, user, target='{"invoice": "in_1"}')

    def retarget(refusals: int, target: str) -> tuple[Any, Any]:
        db.execute("select public.retarget_overage(%s, %s, %s)", (item["id"], refusals, target))
        row = db.execute("select target, refusals from public.overage_invoice_items").fetchone()
        assert row is not None
        return row["target"], row["refusals"]

    assert retarget(1, "{}") == ({"invoice": "in_1"}, 0)  # nothing was refused yet
    assert retarget(0, '{"subscription": "sub_1"}') == ({"subscription": "sub_1"}, 1)
    assert retarget(0, "{}") == ({"subscription": "sub_1"}, 1)  # somebody else was told of the same refusal
    assert retarget(1, "{}") == ({}, 2)
    db.execute("select public.place_overage(%s, 'ii_1', null)", (item["id"],))
    assert retarget(2, '{"invoice": "in_9"}') == ({}, 2)  # it is there


def test_of_many_who_are_told_of_a_refusal_one_replaces_the_target(connect: Connect, db: Db) -> None:
    user = buyer(db)
    ask(db, user, 1)
    (item,) = claim(db, user)
    call = "select public.retarget_overage(%s, 0, '{}')"
    at_once(connect, [lambda connection: connection.execute(call, (item["id"],))] * CLIENTS)
    assert value(db, "select refusals from public.overage_invoice_items") == 1


def test_an_items_place_is_noted_and_its_invoice_is_not_forgotten(db: Db) -> None:
    first, second = buyer(db), buyer(db, "2")
    for user in (first, second):
        ask(db, user, 1)
    (item,), (other,) = claim(db, first), claim(db, second)

    def place(*where: str | None) -> tuple[Any, Any]:
        db.execute("select public.place_overage(%s, %s, %s)", (item["id"], *where))
        row = db.execute("select * from public.overage_invoice_items where id = %s", (item["id"],)).fetchone()
        assert row is not None
        return row["stripe_invoice_item_id"], row["stripe_invoice_id"]

    assert place("ii_1", None) == ("ii_1", None)
    assert place("ii_1", "in_1") == ("ii_1", "in_1")
    assert place("ii_1", None) == ("ii_1", "in_1")
    assert claim(db, second) == [{**other, "attempts": 2}]


def users_to_bill(db: Db, after: str | None = None, limit: int = 100) -> list[tuple[str, str]]:
    """users_to_bill."""
    rows = db.execute("select * from public.users_to_bill(%s, %s)", (after, limit)).fetchall()
    return [(str(row["user_id"]), row["stripe_customer_id"]) for row in rows]


def test_who_is_to_be_billed_and_who_is_not(db: Db, connect: Connect) -> None:
    april = {"current_period_start": "2026-04-01Z", "current_period_end": "2026-05-01Z"}
    names = (
        "ended",
        "over",
        "gone",
        "open",
        "placed",
        "running",
        "invoiced",
        "nobodys customer",
        "included",
        "nothing",
    )
    users = {name: buyer(db, name) for name in names}
    db.execute("update public.user_subscriptions set daily_quota = 1 where stripe_customer_id = 'cus_included'")
    for name in ("ended", "over", "gone", "open", "placed", "invoiced", "nobodys customer"):
        ask(db, users[name], 1)
    ask(db, users["included"], 1, "included")

    def change(name: str, **columns: Any) -> None:
        assignments = ", ".join(f"{column} = %s" for column in columns)
        db.execute(
            f"update public.user_subscriptions set {assignments} where user_id = %s".encode(),
            (*columns.values(), users[name]),
        )

    for name in users:
        if name != "over":
            change(name, **april)
    at(db, "2026-04-10T12:00Z")
    ask(db, users["running"], 1)
    change("gone", stripe_subscription_id=None, current_period_start=None, current_period_end=None)
    change("nobodys customer", stripe_customer_id=None)
    for name in ("open", "placed", "invoiced"):
        (item,) = claim(db, users[name])
        if name != "open":
            where = (item["id"], f"ii_{name}", "in_1" if name == "invoiced" else None)
            db.execute("select public.place_overage(%s, %s, %s)", where)

    due = sorted((users[name], f"cus_{name}") for name in ("ended", "over", "gone", "open", "placed"))
    service = connect("service_role")
    at(service, "2026-04-10T12:00Z")
    assert users_to_bill(service) == due
    assert users_to_bill(service, limit=2) == due[:2]
    assert users_to_bill(service, due[1][0], 2) == due[2:4]
    assert users_to_bill(service, due[-1][0]) == []
    # The moment before its period is over, it is the running one.
    at(service, "2026-03-31T23:59:59Z")
    assert users["over"] not in dict(users_to_bill(service))
    at(service, "2026-04-01T00:00:00Z")
    assert users["over"] in dict(users_to_bill(service))


def test_a_page_of_users_to_bill_is_a_thousand_at_most(db: Db) -> None:
    db.execute("insert into auth.users (id, email) select gen_random_uuid(), n from generate_series(1, 1001) n")
    db.execute("update public.user_subscriptions set stripe_customer_id = user_id::text")
    db.execute(
        "insert into public.overage_invoice_items (user_id, period_start, queries, unit_price_usd, target)"
        " select user_id, '2026-03-01Z', 1, 0.025, '{}' from public.user_subscriptions"
    )
    page = users_to_bill(db, limit=5000)
    assert len(page) == 1000
    assert len(users_to_bill(db, page[-1][0], 5000)) == 1


def test_a_long_ledger_is_not_read_to_find_who_is_to_be_billed(db: Db) -> None:
    """The plan of the function's own statement, over fifty thousand billed queries and fifty that are not."""
    db.execute("insert into auth.users (id, email) select gen_random_uuid(), n from generate_series(1, 500) n")
    db.execute(
        "update public.user_subscriptions set stripe_customer_id = user_id::text, stripe_subscription_id ="
        " user_id::text, current_period_start = '2026-04-01Z', current_period_end = '2100-01-01Z'"
    )
    db.execute(
        "insert into public.overage_invoice_items (user_id, period_start, queries, unit_price_usd, target,"
        " stripe_invoice_item_id, stripe_invoice_id)"
        " select user_id, '2026-03-01Z', 100, 0.025, '{}', user_id::text, 'in_1' from public.user_subscriptions"
    )
    db.execute(
        "insert into public.usage_logs (id, user_id, request_id, tier, funding, outcome, query_date, query_timestamp,"
        " period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key, counted_against_quota,"
        " was_overage, overage_charge, invoice_item_id)"
        " select gen_random_uuid(), user_id, n::text, 'pro', 'overage', 'answered', '2026-03-02', '2026-03-02Z',"
        " '2026-03-01Z', 40, 40, 0, 'openai', 'm', false, false, true, 0.025, id"
        " from public.overage_invoice_items cross join generate_series(1, 100) n"
    )
    db.execute(
        "update public.usage_logs set invoice_item_id = null where request_id = '1'"
        " and user_id in (select user_id from public.user_subscriptions limit 50)"
    )
    db.execute("analyze public.usage_logs, public.user_subscriptions, public.overage_invoice_items")
    source: str = value(db, "select prosrc from pg_proc where oid = 'public.users_to_bill'::regproc")
    query = source.replace("p_after", "null::uuid").replace("p_limit", "100")
    lines = db.execute(f"explain (costs off) {query}".encode()).fetchall()
    plan = "\n".join(line["QUERY PLAN"] for line in lines)
    assert "using usage_logs_not_billed_idx" in plan, plan
    assert "Seq Scan on usage_logs" not in plan, plan
    assert len(users_to_bill(db)) == 50


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            "update public.usage_logs set invoice_item_id = (select id from public.overage_invoice_items"
            " where queries = 2) where id = (select u.id from public.usage_logs u join"
            " public.overage_invoice_items i on i.id = u.invoice_item_id where i.queries = 3 limit 1)",
            [
                ("2 queries, 0.050000", "3 queries, 0.075000"),
                ("3 queries, 0.075000", "2 queries, 0.050000"),
            ],
        ),
        (
            "update public.overage_invoice_items set queries = 4 where queries = 3",
            [("4 queries, 0.100000", "3 queries, 0.075000")],
        ),
        (
            "update public.overage_invoice_items set queries = 1 where queries = 2",
            [("1 queries, 0.025000", "2 queries, 0.050000")],
        ),
        (
            "update public.usage_logs set invoice_item_id = null where invoice_item_id = (select id from"
            " public.overage_invoice_items where queries = 2)",
            [("2 queries, 0.050000", "0 queries, 0")],
        ),
        (
            "update public.overage_invoice_items set user_id = (select user_id from public.user_subscriptions"
            " where tier = 'free') where queries = 2",
            [
                ("2 queries, 0.050000", "0 queries, 0"),
                ("billed on an item of its own user, period and price", "the item"),
                ("billed on an item of its own user, period and price", "the item"),
            ],
        ),
        (
            "update public.overage_invoice_items set period_start = '2026-02-01Z' where queries = 2",
            [
                ("2 queries, 0.050000", "0 queries, 0"),
                ("billed on an item of its own user, period and price", "the item"),
                ("billed on an item of its own user, period and price", "the item"),
            ],
        ),
        (
            "update public.usage_logs set invoice_item_id = (select id from public.overage_invoice_items"
            " where queries = 2) where funding = 'included'",
            [("billed on an item of its own user, period and price", "the item")],
        ),
    ],
)
def test_a_bill_that_is_not_the_ledgers_is_found(db: Db, damage: str, found: list[tuple[str, str]]) -> None:
    user = buyer(db)
    ask(db, user, 2)
    claim(db, user)
    ask(db, user, 3)
    claim(db, user)
    ask(db, new_user(db, quota_date="2026-03-01", overage_period_start="2026-03-01Z"), 1, "included")
    assert broken(db) == []
    item = value(db, "select id::text from public.overage_invoice_items where queries = 2")
    db.execute(damage.encode())
    rows = db.execute("select * from public.reconcile()").fetchall()
    assert {row["invariant"] for row in rows} == {"I7"}
    assert sorted((row["expected"], row["found"].replace(item, "the item")) for row in rows) == sorted(found)


# Events ---------------------------------------------------------------------------------------------------------


def claim_event(db: Db, event: str = "evt_1", kind: str = "invoice.paid") -> dict[str, Any]:
    """claim_stripe_event."""
    claimed: dict[str, Any] = value(db, "select public.claim_stripe_event(%s, %s)", event, kind)
    return claimed


def finish_event(db: Db, event: str = "evt_1", error: str | None = None) -> None:
    """finish_stripe_event."""
    db.execute("select public.finish_stripe_event(%s, %s)", (event, error))


def noted(db: Db, event: str = "evt_1") -> tuple[Any, ...]:
    """How often an event was begun, how the last attempt failed, and whether it is done."""
    row = db.execute("select * from public.stripe_events where event_id = %s", (event,)).fetchone()
    assert row is not None
    return row["attempts"], row["last_error"], row["processed_at"] and row["processed_at"].isoformat()


def test_an_event_is_dealt_with_until_its_effect_is_committed(db: Db, connect: Connect) -> None:
    service = connect("service_role")
    at(service, "2026-03-01T12:00Z")
    assert claim_event(service)["processed"] is False
    assert noted(db) == (1, None, None)
    finish_event(service, error="PaymentUnavailable")
    assert noted(db) == (1, "PaymentUnavailable", None)
    assert claim_event(service)["processed"] is False
    at(service, "2026-03-01T13:00Z")
    finish_event(service)
    assert noted(db) == (2, None, "2026-03-01T13:00:00+00:00")
    # A delivery that comes again, and one that was being dealt with at the same time and failed.
    at(service, "2026-03-01T14:00Z")
    assert claim_event(service)["processed"] is True
    finish_event(service, error="TimeoutError")
    finish_event(service)
    assert noted(db) == (2, None, "2026-03-01T13:00:00+00:00")


def test_each_look_has_a_number_of_its_own_and_later_ones_have_greater_numbers(connect: Connect, db: Db) -> None:
    before = [claim_event(db, f"evt_{number}")["sequence"] for number in range(3)]
    before.append(claim_event(db, "evt_0")["sequence"])
    finish_event(db)
    before.append(claim_event(db)["sequence"])
    assert before == sorted(set(before))
    told = at_once(connect, [claim_event] * CLIENTS)
    assert {one["processed"] for one in told} == {True}
    assert len({one["sequence"] for one in told}) == CLIENTS
    assert min(one["sequence"] for one in told) > max(before)


def test_an_event_that_comes_often_at_once_is_one_event(connect: Connect, db: Db) -> None:
    told = at_once(connect, [claim_event] * CLIENTS)
    assert [one["processed"] for one in told] == [False] * CLIENTS
    assert noted(db) == (CLIENTS, None, None)


def unfinished(db: Db, after: str | None = None, limit: int = 100) -> list[tuple[str, str]]:
    """unfinished_stripe_events."""
    rows = db.execute("select * from public.unfinished_stripe_events(%s, %s)", (after, limit)).fetchall()
    return [(str(row["id"]), row["event_id"]) for row in rows]


@pytest.mark.parametrize(
    ("moment", "found"),
    [
        ("2026-03-01T12:04:59Z", []),
        ("2026-03-01T12:05:00Z", ["evt_1"]),
        ("2026-03-30T12:00:00Z", ["evt_1"]),
        ("2026-03-30T12:00:01Z", []),
    ],
)
def test_what_is_not_finished_is_found_from_five_minutes_to_29_days(
    db: Db, connect: Connect, moment: str, found: list[str]
) -> None:
    at(db, "2026-03-01T12:00Z")
    for event in ("evt_1", "evt_2"):
        claim_event(db, event)
    finish_event(db, error="TimeoutError")
    finish_event(db, "evt_2")
    service = connect("service_role")
    at(service, moment)
    assert [event for _, event in unfinished(service)] == found


def test_unfinished_events_come_in_pages(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    for number in range(5):
        claim_event(db, f"evt_{number}")
    at(db, "2026-03-01T13:00Z")
    events = unfinished(db)
    assert {event for _, event in events} == {f"evt_{number}" for number in range(5)}
    assert events == sorted(events)
    assert unfinished(db, limit=2) == events[:2]
    assert unfinished(db, events[1][0], 2) == events[2:4]
    assert unfinished(db, events[-1][0]) == []


# Checkout, and what people set and see --------------------------------------------------------------------------


def test_a_user_is_one_customer(db: Db, connect: Connect) -> None:
    user, other = new_user(db), new_user(db)
    service = connect("service_role")
    link = "select public.link_stripe_customer(%s, %s)"
    assert value(service, link, user, "cus_1") == "cus_1"
    assert value(service, link, user, "cus_2") == "cus_1"
    assert counters(db, user)["stripe_customer_id"] == "cus_1"
    assert value(service, link, str(uuid.uuid4()), "cus_3") is None
    with pytest.raises(psycopg.errors.UniqueViolation):
        value(service, link, other, "cus_1")


def test_of_many_customers_at_once_one_becomes_the_users(connect: Connect, db: Db) -> None:
    user = new_user(db)
    link = "select public.link_stripe_customer(%s, %s)"
    calls = [lambda connection, n=number: value(connection, link, user, f"cus_{n}") for number in range(CLIENTS)]
    assert set(at_once(connect, calls)) == {counters(db, user)["stripe_customer_id"]}


def test_the_profile_is_what_stripe_is_told_and_the_newest_look(db: Db, connect: Connect) -> None:
    user = new_user(db)
    service = connect("service_role")
    profile = "select public.billing_profile(%s)"
    assert value(service, profile, user) == {
        "email": f"{user}@example.test",
        "stripe_customer_id": None,
        "stripe_sequence": 0,
    }
    value(service, "select public.link_stripe_customer(%s, 'cus_1')", user)
    look_at_customer(service, 7, tier="pro")
    assert value(service, profile, user)["stripe_customer_id"] == "cus_1"
    assert value(service, profile, user)["stripe_sequence"] == 7
    assert value(service, profile, str(uuid.uuid4())) is None


def test_a_user_sets_what_is_given_and_a_limit_of_null_is_the_plans_again(db: Db, connect: Connect) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic", overage_limit=3)
    before = counters(db, other)
    me = connect("authenticated", user)

    def set_overage(settings: str) -> dict[str, Any]:
        answer: dict[str, Any] = value(me, "select public.set_overage(%s)", settings)
        assert value(me, "select public.usage_summary()")["overage"] == answer
        return answer

    usual = {"allowed": True, "price_usd": "0.025000", "limit_usd": "10.000000", "used_usd": "0.000000"}
    assert set_overage("{}") == usual
    assert set_overage('{"overage_limit_usd": 2.5}') == {**usual, "limit_usd": "2.500000"}
    assert set_overage('{"allow_overages": false}') == {**usual, "limit_usd": "2.500000", "allowed": False}
    assert set_overage('{"allow_overages": null}') == {**usual, "limit_usd": "2.500000", "allowed": False}
    assert set_overage('{"allow_overages": true, "overage_limit_usd": null}') == usual
    assert counters(db, user)["overage_limit"] is None
    assert counters(db, other) == before


def test_what_is_set_counts_for_the_next_query(db: Db, connect: Connect) -> None:
    user = buyer(db)
    me = connect("authenticated", user)
    ask(db, user, 2)
    value(me, "select public.set_overage('{\"overage_limit_usd\": 0.05}')")
    assert admit(db, user)["reason"] == "Overage limit reached"
    value(me, "select public.set_overage('{\"overage_limit_usd\": 0.075}')")
    ask(db, user, 1)
    value(me, 'select public.set_overage(\'{"allow_overages": false, "overage_limit_usd": 10}\')')
    assert admit(db, user)["reason"] == "Daily quota exceeded"


@pytest.mark.parametrize(("limit", "is_taken"), [("-0.01", False), ("0", True), ("10000", True), ("10000.01", False)])
@pytest.mark.parametrize("quoted", [False, True])
def test_a_limit_is_nothing_to_ten_thousand_dollars(
    db: Db, connect: Connect, limit: str, is_taken: bool, quoted: bool
) -> None:
    user = new_user(db, "basic", overage_limit=3)
    settings = json.dumps({"overage_limit_usd": limit if quoted else float(limit)})
    call = (connect("authenticated", user), "select public.set_overage(%s)", settings)
    if is_taken:
        assert Decimal(value(*call)["limit_usd"]) == Decimal(limit)
    else:
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            value(*call)
        assert counters(db, user)["overage_limit"] == 3


@pytest.mark.parametrize("limit", ["NaN", "Infinity", "-Infinity"])
def test_a_limit_is_a_number(db: Db, connect: Connect, limit: str) -> None:
    user = new_user(db, "basic")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        value(connect("authenticated", user), "select public.set_overage(%s)", json.dumps({"overage_limit_usd": limit}))


def test_only_a_signed_in_user_sets_overage(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    before = counters(db, user)
    for asking, refusal in (
        (connect("anon"), "permission denied for function set_overage"),
        (connect("anon", user), "permission denied for function set_overage"),
        (connect("service_role"), "permission denied for function set_overage"),
        (connect("authenticated"), "Sign in to change your overage settings"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=refusal):
            value(asking, "select public.set_overage('{\"allow_overages\": false}')")
    assert counters(db, user) == before


def test_everybody_sees_what_is_sold(db: Db, connect: Connect) -> None:
    sold = value(connect("anon"), "select public.list_plans()")
    assert [(plan["tier"], plan["price_usd"]) for plan in sold["plans"]] == [
        ("free", "0.000000"),
        ("usage_only", "0.000000"),
        ("basic", "9.990000"),
        ("pro", "29.990000"),
    ]
    basic = sold["plans"][2]
    assert basic.pop("models").keys() == {"anthropic", "openai"}
    assert basic == {
        "tier": "basic",
        "name": "Basic",
        "price_usd": "9.990000",
        "daily_quota": 15,
        "lifetime_quota": None,
        "overage_price_usd": "0.025000",
        "overage_limit_usd": "10.000000",
        "allows_credits": True,
        "allows_byok": True,
        "history_days": 30,
    }
    hundred = {
        "id": "pack_100",
        "name": "100 queries",
        "credits": 100,
        "price_usd": "2.250000",
        "price_per_credit_usd": "0.022500",
        "expires_after_days": None,
    }
    five = {"id": "pack_500", "name": "500 queries", "credits": 500}
    assert sold["packs"] == [
        hundred,
        {**five, "price_usd": "10.000000", "price_per_credit_usd": "0.020000", "expires_after_days": None},
    ]
    db.execute("update public.packs set is_sold = false where slug = 'pack_500'")
    for asking in (connect("anon"), connect("authenticated", new_user(db)), connect("service_role")):
        assert value(asking, "select public.list_plans()")["packs"] == [hundred]


def test_a_user_sees_how_they_are_billed(db: Db, connect: Connect) -> None:
    user, other = buyer(db), buyer(db, "2")
    me = connect("authenticated", user)

    def billing(moment: str) -> dict[str, Any]:
        at(me, moment)
        shown: dict[str, Any] = value(me, "select public.usage_summary() -> 'billing'")
        return shown

    ask(db, other, 7)
    ask(db, user, 3)
    nothing = {"is_customer": True, "is_subscribed": True, "ends_at": None, "next_tier": None, "past_due_since": None}
    assert billing("2026-03-02T12:00Z") == {**nothing, "to_be_billed_usd": "0.075000", "billed": []}
    claim(db, other)
    claim(db, user)
    at(db, "2026-04-01T12:00Z")
    ask(db, user, 1)
    march = {
        "period_start": "2026-03-01T00:00:00+00:00",
        "queries": 3,
        "unit_price_usd": "0.025000",
        "amount_usd": "0.075000",
        "billed_usd": "0.07",
    }
    one_more = {**nothing, "to_be_billed_usd": "0.025000", "billed": [march]}
    look_at_customer(db, 1, tier="basic", paid_tiers=["pro"])
    assert billing("2026-03-31T12:00Z") == {**one_more, "next_tier": "basic"}
    assert billing("2026-04-01T00:00Z") == one_more
    since = {"status": "past_due", "past_due_since": "2026-03-30T00:00:00Z"}
    look_at_customer(db, 2, **since)
    assert billing("2026-03-31T12:00Z") == {**one_more, "past_due_since": "2026-03-30T00:00:00+00:00"}
    look_at_customer(db, 3, status="canceled")
    assert billing("2026-03-31T12:00Z") == {**one_more, "ends_at": "2026-04-01T00:00:00+00:00"}
    assert billing("2026-04-01T00:00Z") == {**one_more, "is_subscribed": False}
    look_at_customer(db, 4, deleted=True)
    assert billing("2026-04-01T00:00Z") == {**one_more, "is_customer": False, "is_subscribed": False}


# Periods, plans in force, credits that come back ----------------------------------------------------------------


def test_a_period_lasts_as_long_as_stripe_says(db: Db, connect: Connect) -> None:
    """Who subscribed on a 31st has a period from the end of February to the end of March."""
    february_28 = {
        "current_period_start": "2026-02-28Z",
        "current_period_end": "2026-03-31Z",
        "overage_period_start": "2026-02-28Z",
        "overage_limit": "0.05",
    }
    user = buyer(db, **february_28)
    ask(db, user, 2)
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


def test_after_a_long_period_the_next_one_is_counted_from_its_end(db: Db) -> None:
    """So that nothing starts anew twice: as we say it until Stripe's event comes, and as that says it."""
    user = buyer(db, current_period_start="2026-02-28Z", current_period_end="2026-03-31Z", overage_limit="0.05")
    at(db, "2026-04-01T12:00Z")
    ask(db, user, 1)
    begun = value(db, "select overage_period_start::text from public.user_subscriptions where user_id = %s", user)
    assert begun.startswith("2026-03-31 00:00:00")


def test_a_plan_that_has_come_into_force_keeps_no_more_than_it_says(db: Db) -> None:
    user = buyer(db, tier="pro", next_tier="usage_only", daily_quota=0)
    at(db, "2026-04-01T00:00Z")
    query = admit(db, user)
    assert (query["tier"], query["keeps_history"]) == ("usage_only", False)
    assert settle(db, query["hold_id"], turn=turn("talk", "q1"))["persisted"] is False


def test_a_credit_that_comes_back_can_be_spent(db: Db) -> None:
    user = new_user(db)
    look_at_payment(db, user, 1, credits=3)
    ask(db, user, 1, "credit")
    running = admit(db, user)["hold_id"]
    look_at_payment(db, user, 2, credits=3, refunded_cents=75)
    release(db, running)
    assert packs(db, user) == [(1, 1, 1, 1)]
    assert admit(db, user)["funding"] == "credit"
