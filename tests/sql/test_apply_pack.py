"""apply_pack: the state of a payment becomes a credit pack."""

import uuid
from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import apply_pack, billing_rows, packs, run_queries, violations
from tests.sql.concurrency import CLIENTS, run_concurrently
from tests.sql.metering import Db, admit, at, counters, release, settle, value


def test_a_paid_session_grants_a_pack_with_its_price(db: Db, connect: Connect) -> None:
    user = new_user(db)
    assert apply_pack(connect("service_role"), user, 7) == user
    row = db.execute("select * from public.credit_packs").fetchone()
    assert row is not None
    names = ("credits_purchased", "credits_remaining", "price_paid", "price_per_credit", "expires_at", "is_frozen")
    assert [row[name] for name in names] == [100, 100, Decimal("2.25"), Decimal("0.0225"), None, False]
    names = ("stripe_payment_intent_id", "stripe_checkout_session_id", "stripe_sequence", "depleted_at")
    assert [row[name] for name in names] == ["pi_1", "cs_1", 7, None]
    assert (str(row["user_id"]), row["created_at"].isoformat()) == (user, "2026-03-01T12:00:00+00:00")


@pytest.mark.parametrize("order", [[1], [1, 1, 1], [1, 2, 3], [3, 2, 1], [2, 3, 1, 3]])
def test_a_session_grants_one_pack_in_any_order_of_states(db: Db, order: list[int]) -> None:
    user = new_user(db)
    for number in order:
        apply_pack(db, user, number)
    assert packs(db, user) == [(100, 0, 0, 0)]
    apply_pack(db, user, 4, session_id="cs_2", payment_intent_id="pi_2", paid_at="2026-03-02Z", credits=5)
    assert packs(db, user) == [(100, 0, 0, 0), (5, 0, 0, 0)]


def test_concurrent_states_grant_one_pack(connect: Connect, db: Db) -> None:
    user = new_user(db)
    calls = [lambda connection, number=number: apply_pack(connection, user, number) for number in range(CLIENTS)]
    assert run_concurrently(connect, calls) == [user] * CLIENTS
    assert packs(db, user) == [(100, 0, 0, 0)]


def test_an_unpaid_session_grants_nothing(db: Db) -> None:
    user = new_user(db)
    before = billing_rows(db, user)
    assert apply_pack(db, user, 1, paid_at=None) == user
    assert billing_rows(db, user) == before
    apply_pack(db, user, 2)
    assert packs(db, user) == [(100, 0, 0, 0)]


def test_a_pack_expires_after_the_days_in_the_catalog(db: Db) -> None:
    db.execute(
        "insert into public.packs (slug, name, credits, price_usd, expires_after_days, is_sold)"
        " values ('pack_year', 'For a year', 100, 2.25, 365, false)"
    )
    at(db, "2026-03-01T12:00Z")
    user = new_user(db)
    apply_pack(db, user, 1, pack="pack_year")
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
def test_a_refund_revokes_credits_pro_rata_rounded_down(
    db: Db, credit_count: int, paid_cents: int, refunded_cents: int, revoked: int
) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=credit_count, paid_cents=paid_cents)
    apply_pack(db, user, 2, credits=credit_count, paid_cents=paid_cents, refunded_cents=refunded_cents)
    assert packs(db, user) == [(credit_count - revoked, 0, revoked, revoked)]
    assert violations(db) == []


def test_a_refund_revokes_at_most_the_remaining_credits(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=5)
    run_queries(db, user, 3, "credit")
    apply_pack(db, user, 2, credits=5, refunded_cents=45)
    assert packs(db, user) == [(1, 3, 1, 1)]
    apply_pack(db, user, 3, credits=5, refunded_cents=135)
    assert packs(db, user) == [(0, 3, 2, 3)]
    apply_pack(db, user, 4, credits=5, refunded_cents=225)
    assert packs(db, user) == [(0, 3, 2, 5)]
    assert admit(db, user)["funding"] == "included"  # on the free tier again
    assert violations(db) == []


def test_a_credit_released_after_a_refund_counts_as_revoked(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=3)
    running = [admit(db, user)["hold_id"] for _ in range(3)]
    apply_pack(db, user, 2, credits=3, refunded_cents=150)
    assert packs(db, user) == [(0, 3, 0, 2)]
    release(db, running[0])
    assert packs(db, user) == [(0, 2, 1, 2)]
    settle(db, running[1])
    assert packs(db, user) == [(0, 2, 1, 2)]
    release(db, running[2], "lost")
    assert packs(db, user) == [(0, 1, 2, 2)]
    assert violations(db) == []


def test_a_credit_released_after_a_complete_revocation_can_be_spent(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=3)
    running = admit(db, user)["hold_id"]
    apply_pack(db, user, 2, credits=3, refunded_cents=75)
    assert packs(db, user) == [(1, 1, 1, 1)]
    release(db, running)
    assert packs(db, user) == [(2, 0, 1, 1)]
    assert admit(db, user)["funding"] == "credit"
    assert violations(db) == []


def test_a_credit_released_after_a_partial_refund_can_be_spent(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=3)
    run_queries(db, user, 1, "credit")
    running = admit(db, user)["hold_id"]
    apply_pack(db, user, 2, credits=3, refunded_cents=75)
    release(db, running)
    assert packs(db, user) == [(1, 1, 1, 1)]
    assert admit(db, user)["funding"] == "credit"


def test_a_failed_refund_restores_the_revoked_credits(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=5)
    run_queries(db, user, 1, "credit")
    apply_pack(db, user, 2, credits=5, refunded_cents=225)
    assert (packs(db, user), counters(db, user)["tier"]) == ([(0, 1, 4, 5)], "free")
    apply_pack(db, user, 3, credits=5, refunded_cents=0)
    assert (packs(db, user), counters(db, user)["tier"]) == ([(4, 1, 0, 0)], "usage_only")
    run_queries(db, user, 4, "credit")
    assert violations(db) == []


def test_a_disputed_pack_is_frozen_until_the_dispute_is_won(db: Db, connect: Connect) -> None:
    user = new_user(db)
    me = connect("authenticated", user)
    apply_pack(db, user, 1)
    running = admit(db, user)
    assert running["remaining"] == 99
    apply_pack(db, user, 2, is_disputed=True)
    refused = admit(db, user)
    assert (refused["decision"], refused["requires_payment"], refused["resets_at"]) == ("refused", True, None)
    summary = value(me, "select public.usage_summary()")
    assert (summary["tier"], summary["credits"]["remaining"]) == ("usage_only", 0)
    ((shown),) = summary["credits"]["packs"]
    assert (shown["remaining"], shown["is_frozen"], shown["bought_at"]) == (99, True, "2026-03-01T12:00:00+00:00")
    settle(db, running["hold_id"])  # admitted before the dispute
    assert packs(db, user) == [(99, 1, 0, 0)]

    apply_pack(db, user, 3)
    assert admit(db, user)["remaining"] == 98
    assert value(me, "select public.usage_summary()")["credits"]["packs"][0]["is_frozen"] is False
    assert violations(db) == []


def test_another_pack_pays_while_one_is_disputed(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1, credits=1)
    apply_pack(db, user, 2, session_id="cs_2", payment_intent_id="pi_2", paid_at="2026-03-02Z", credits=7)
    apply_pack(db, user, 3, credits=1, is_disputed=True)
    query = admit(db, user)
    assert (query["funding"], query["remaining"]) == ("credit", 6)
    assert packs(db, user) == [(1, 0, 0, 0), (6, 1, 0, 0)]


def test_a_lost_dispute_revokes_all_remaining_credits(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1)
    run_queries(db, user, 2, "credit")
    apply_pack(db, user, 2, is_disputed=True)
    apply_pack(db, user, 3, is_lost=True)
    assert packs(db, user) == [(0, 2, 98, 100)]
    assert value(db, "select is_frozen from public.credit_packs") is False
    assert counters(db, user)["tier"] == "free"
    assert violations(db) == []


def test_a_deleted_user_returns_null_and_gets_no_pack(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1)
    db.execute("delete from auth.users where id = %s", (user,))
    assert apply_pack(db, user, 2) is None
    assert apply_pack(db, str(uuid.uuid4()), 3) is None
    assert value(db, "select count(*) from public.credit_packs") == 0


def test_a_pack_sets_usage_only_and_its_loss_sets_free(db: Db) -> None:
    user = new_user(db, lifetime_used=4)
    apply_pack(db, user, 1)
    assert counters(db, user)["tier"] == "usage_only"
    apply_pack(db, user, 2, session_id="cs_2", payment_intent_id="pi_2")
    apply_pack(db, user, 3, refunded_cents=225)
    assert counters(db, user)["tier"] == "usage_only"
    apply_pack(db, user, 4, session_id="cs_2", payment_intent_id="pi_2", is_lost=True)
    assert counters(db, user)["tier"] == "free"
    assert admit(db, user)["remaining"] == 5


@pytest.mark.parametrize(
    "columns",
    [
        {"tier": "basic", "stripe_subscription_id": "sub_1"},
        {"tier": "usage_only", "stripe_subscription_id": "sub_1"},
        {"tier": "pro", "stripe_subscription_id": "sub_1", "status": "past_due"},
        {"tier": "basic", "stripe_subscription_id": "sub_1", "status": "canceled"},
        {"tier": "pro"},  # granted by support, without a subscription
    ],
)
def test_packs_do_not_change_an_existing_plan(db: Db, columns: dict[str, Any]) -> None:
    user = new_user(db, **columns)
    before = counters(db, user)
    apply_pack(db, user, 1)
    apply_pack(db, user, 2, is_disputed=True)
    apply_pack(db, user, 3, refunded_cents=225)
    assert counters(db, user) == before


@pytest.mark.parametrize("sequence", [0, 4, 5])
def test_an_older_or_equal_sequence_number_changes_nothing(db: Db, sequence: int) -> None:
    user = new_user(db)
    apply_pack(db, user, 5, refunded_cents=45)
    before = billing_rows(db, user)
    for payment in ({}, {"refunded_cents": 225}, {"is_disputed": True}, {"is_lost": True}, {"paid_at": None}):
        assert apply_pack(db, user, sequence, **payment) == user
    assert billing_rows(db, user) == before


@pytest.mark.parametrize("payment", [{}, {"session_id": "cs_2", "payment_intent_id": "pi_2", "paid_at": None}])
def test_a_state_that_changes_no_pack_changes_no_tier(db: Db, payment: dict[str, Any]) -> None:
    """Neither a repeated state nor an unpaid session changes anything after all credits are used."""
    user = new_user(db)
    apply_pack(db, user, 5, credits=1)
    run_queries(db, user, 1, "credit")
    before = billing_rows(db, user)
    apply_pack(db, user, 5, **{"credits": 1, **payment})
    assert billing_rows(db, user) == before


def test_a_pack_stays_with_the_user_who_bought_it(db: Db) -> None:
    user, other = new_user(db), new_user(db)
    apply_pack(db, user, 1)
    before = billing_rows(db, user)
    assert apply_pack(db, other, 2, is_lost=True) == other
    assert (billing_rows(db, user), packs(db, other)) == (before, [])
