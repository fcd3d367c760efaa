"""apply_customer: the state of a Stripe customer becomes a subscription."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import apply_customer, apply_pack, billing_rows, packs, run_queries
from tests.sql.concurrency import CLIENTS, run_concurrently
from tests.sql.metering import Db, admit, at, counters, value


def test_the_stripe_state_becomes_the_subscription(db: Db, connect: Connect) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    service = connect("service_role")
    past_due = {"status": "past_due", "past_due_since": "2026-03-02T00:00:00Z", "canceled_at": "2026-03-03T00:00:00Z"}
    assert apply_customer(service, 7, tier="pro", paid_until="2026-03-04T00:00:00Z", **past_due) == user
    row = counters(db, user)
    names = ("tier", "next_tier", "status", "stripe_customer_id", "stripe_subscription_id", "stripe_sequence")
    assert [row[name] for name in names] == ["pro", None, "past_due", "cus_1", "sub_1", 7]
    times = ("current_period_start", "current_period_end", "past_due_since", "canceled_at", "paid_until")
    assert [row[name].strftime("%m-%d") for name in times] == ["03-01", "04-01", "03-02", "03-03", "03-04"]


@pytest.mark.parametrize("sequence", [0, 4, 5])
def test_an_older_or_equal_sequence_number_changes_nothing(db: Db, sequence: int) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    apply_customer(db, 5, tier="pro")
    before = counters(db, user)
    assert apply_customer(db, sequence, tier="basic", status="suspended") == user
    assert apply_customer(db, sequence) == user
    assert apply_customer(db, sequence, deleted=True) == user
    assert counters(db, user) == before


def test_of_concurrent_states_the_newest_wins(connect: Connect, db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    numbers = list(range(1, CLIENTS + 1))
    random.shuffle(numbers)

    def apply_both(number: int) -> Callable[[Db], Any]:
        def call(connection: Db) -> None:
            apply_customer(connection, number, id=f"sub_{number}", tier="pro" if number == CLIENTS else "basic")
            apply_pack(connection, user, number, refunded_cents=225 if number == CLIENTS else 0)

        return call

    run_concurrently(connect, [apply_both(number) for number in numbers])
    row = counters(db, user)
    assert (row["tier"], row["stripe_subscription_id"], row["stripe_sequence"]) == ("pro", "sub_64", 64)
    assert packs(db, user) == [(0, 0, 100, 100)]


def test_an_unknown_customer_returns_null_and_changes_no_user(db: Db) -> None:
    users = [new_user(db), new_user(db, "pro", stripe_customer_id="cus_1")]
    before = [billing_rows(db, user) for user in users]
    assert apply_customer(db, 9, "cus_2", tier="basic") is None
    assert apply_customer(db, 9, "cus_2", deleted=True) is None
    assert [billing_rows(db, user) for user in users] == before


@pytest.mark.parametrize(
    ("tier", "paid_tiers", "current", "following"),
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
def test_the_best_paid_tier_lasts_until_the_period_ends(
    db: Db, tier: str, paid_tiers: list[str], current: str, following: str | None
) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    apply_customer(db, 1, tier=tier, paid_tiers=paid_tiers)
    assert (counters(db, user)["tier"], counters(db, user)["next_tier"]) == (current, following)
    at(db, "2026-03-31T23:59:59Z")
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == current
    at(db, "2026-04-01T00:00:00Z")
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == (following or current)
    assert admit(db, user)["tier"] == (following or current)


def test_a_canceled_plan_has_no_next_tier(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    apply_customer(db, 1, tier="basic", paid_tiers=["pro"], status="canceled")
    assert (counters(db, user)["tier"], counters(db, user)["next_tier"]) == ("pro", None)
    at(db, "2026-04-01T00:00:00Z")
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == "free"


def test_a_newer_state_clears_a_planned_downgrade(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    apply_customer(db, 1, tier="basic", paid_tiers=["pro"])
    apply_customer(db, 2, tier="pro", paid_tiers=["pro"])
    at(db, "2026-04-02T00:00Z")
    assert counters(db, user)["next_tier"] is None
    assert value(db, "select tier from private.funding_state where user_id = %s", user) == "pro"


def test_an_unknown_tier_changes_nothing(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    before = counters(db, user)
    with pytest.raises(psycopg.errors.NoDataFound):
        apply_customer(db, 1, tier="enterprise")
    assert counters(db, user) == before


def test_a_deleted_customer_can_be_replaced_by_a_new_one(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    apply_customer(db, 1, tier="pro")
    assert apply_customer(db, 2, deleted=True) == user
    row = counters(db, user)
    names = ("tier", "status", "stripe_customer_id", "stripe_subscription_id", "current_period_end")
    assert [row[name] for name in names] == ["free", "active", None, None, None]
    assert apply_customer(db, 3, tier="pro") is None
    assert value(db, "select public.link_stripe_customer(%s, 'cus_2')", user) == "cus_2"
    assert apply_customer(db, 4, "cus_2", tier="basic") == user
    assert counters(db, user)["tier"] == "basic"


@pytest.mark.usefixtures("many_at_once")
def test_counters_survive_a_plan_change(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, stripe_customer_id="cus_1", allow_overages=False, quota_date="2026-02-01", lifetime_used=9)
    apply_customer(db, 1, tier="basic")
    run_queries(db, user, 15, "included")
    assert admit(db, user)["decision"] == "refused"
    apply_customer(db, 2, tier="pro")
    query = admit(db, user)
    assert (query["tier"], query["remaining"]) == ("pro", 24)
    apply_customer(db, 3)
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
def test_without_a_subscription_the_packs_decide_the_tier(db: Db, payment: dict[str, Any] | None, tier: str) -> None:
    at(db, "2026-03-10T12:00Z")
    db.execute(
        "insert into public.packs (slug, name, credits, price_usd, expires_after_days)"
        " values ('pack_day', 'For a day', 100, 2.25, 1)"
    )
    user = new_user(db, stripe_customer_id="cus_1")
    apply_customer(db, 1, tier="pro")
    if payment is not None:
        apply_pack(db, user, 1, **payment)
    assert counters(db, user)["tier"] == "pro"
    apply_customer(db, 2)
    row = counters(db, user)
    assert (row["tier"], row["status"], row["stripe_subscription_id"]) == (tier, "active", None)


def test_after_a_canceled_plan_ends_remaining_credits_pay(db: Db) -> None:
    at(db, "2026-03-31T12:00Z")
    user = new_user(db, stripe_customer_id="cus_1", quota_date="2026-03-01")
    apply_customer(db, 1, tier="basic", status="canceled")
    apply_pack(db, user, 1, credits=1)
    assert admit(db, user)["funding"] == "included"
    at(db, "2026-04-01T00:00Z")
    assert counters(db, user)["tier"] == "basic"
    query = admit(db, user)
    assert (query["tier"], query["funding"]) == ("usage_only", "credit")
    row = counters(db, user)
    names = ("tier", "status", "stripe_subscription_id", "current_period_end", "stripe_customer_id")
    assert [row[name] for name in names] == ["usage_only", "active", None, None, "cus_1"]
    assert admit(db, user)["decision"] == "refused"


def test_used_credits_do_not_change_the_tier(db: Db) -> None:
    user = new_user(db, stripe_customer_id="cus_1")
    apply_pack(db, user, 1, credits=2)
    run_queries(db, user, 1, "credit")
    running = admit(db, user)
    apply_customer(db, 2)
    apply_pack(db, user, 3, credits=2)
    assert (packs(db, user), counters(db, user)["tier"]) == ([(0, 2, 0, 0)], "usage_only")
    apply_pack(db, user, 4, credits=2, refunded_cents=112)
    assert counters(db, user)["tier"] == "usage_only"
    apply_pack(db, user, 5, credits=2, refunded_cents=225)
    assert counters(db, user)["tier"] == "free"
    db.execute("select public.release_query(%s)", (running["hold_id"],))
    assert (packs(db, user), counters(db, user)["tier"]) == ([(0, 1, 1, 2)], "free")
