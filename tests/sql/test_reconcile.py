"""reconcile: no row after calls of the functions, one row for each kind of damage."""

import uuid
from collections.abc import Callable

import pytest

from tests.conftest import new_user
from tests.sql.billing import claim_overage, new_customer, run_queries, violations
from tests.sql.metering import Db, action, admit, at, pack, release, settle, turn, value

# Statements that damage the data, and the invariants that they violate.
DAMAGE: list[tuple[str, set[str]]] = [
    ("update public.user_subscriptions set quota_used = quota_used + 1 where tier = 'basic'", {"I4"}),
    ("update public.user_subscriptions set lifetime_used = lifetime_used - 1 where tier = 'free'", {"I4"}),
    ("update public.user_subscriptions set current_overage_amount = 5 where tier = 'basic'", {"I4"}),
    (
        "update public.credit_packs set credits_used = credits_used - 1, credits_remaining = credits_remaining + 1",
        {"I3"},
    ),
    ("delete from public.query_holds where funding = 'overage'", {"I4"}),
    ("delete from public.query_holds where funding = 'credit'", {"I3"}),
    ("delete from public.usage_logs where funding = 'credit'", {"I3"}),
    ("delete from public.usage_logs where funding = 'included' and tier = 'free'", {"I4"}),
    ("update public.usage_logs set quota_limit = 0 where tier = 'free'", {"I1"}),
    (
        "update public.usage_logs set overage_limit = 0.01 where funding = 'overage'; delete from public.query_holds",
        {"I2", "I3", "I4"},
    ),
    ("update public.query_holds set expires_at = '2026-02-01Z' where funding = 'overage'", {"I5"}),
    ("update public.query_holds set id = (select id from public.usage_logs limit 1) where funding = 'overage'", {"I5"}),
    ("update public.query_holds set request_id = 'charged' where funding = 'overage'", {"I6"}),
    ("delete from public.messages where role = 'user'", {"I4"}),
    ("update public.user_subscriptions set uses_byo_key = true where tier = 'free'", {"I4"}),
    ("update public.usage_logs set used_byo_key = true where tier = 'free'", {"I5"}),
    ("update public.usage_logs set counted_against_quota = false where tier = 'free'", {"I5"}),
    ("update public.usage_logs set was_overage = true where tier = 'free'", {"I5", "price"}),
    ("update public.usage_logs set tokens_total = tokens_total + 1 where tier = 'free'", {"I5"}),
    ("update public.messages set tokens_total = tokens_total + 1", {"I5"}),
    ("update public.usage_logs set overage_charge = 0.025 where tier = 'free'", {"I5"}),
    ("update public.usage_logs set reversed_at = null where reversed_at is not null", {"I4", "I5"}),
    ("delete from public.usage_reversals", {"I5"}),
    ("update public.usage_reversals set funding = 'credit'", {"I5"}),
]


@pytest.fixture
def used_db(db: Db) -> Db:
    """A database in which every funding was taken, charged, held and returned."""
    at(db, "2026-03-01T12:00Z")
    free = new_user(db)
    settle(db, admit(db, free)["hold_id"])
    given_back = admit(db, free)["hold_id"]
    settle(db, given_back)
    value(db, "select public.credit_back(%s, %s)", given_back, action())
    periods = {"quota_date": "2026-03-01", "overage_period_start": "2026-03-01Z"}
    basic = new_user(db, "basic", daily_quota=2, stripe_subscription_id="sub_1", **periods)
    settle(db, admit(db, basic, "charged")["hold_id"], turn=turn(str(uuid.uuid4()), "q1"))
    release(db, admit(db, basic)["hold_id"])
    settle(db, admit(db, basic)["hold_id"], "stopped")
    pack(db, basic, 2)
    settle(db, admit(db, basic)["hold_id"])
    admit(db, basic)
    settle(db, admit(db, basic)["hold_id"])
    assert admit(db, basic)["funding"] == "overage"
    return db


def violated_invariants(db: Db) -> set[str]:
    """The invariants that reconcile reports."""
    return {row["invariant"] for row in db.execute("select * from public.reconcile()")}


def test_the_functions_leave_a_consistent_database(used_db: Db, connect: Callable[..., Db]) -> None:
    assert violated_invariants(used_db) == set()
    service = connect("service_role")
    at(service, "2026-03-01T12:00Z")
    assert violated_invariants(service) == set()


@pytest.mark.parametrize(("damage", "invariants"), DAMAGE)
def test_every_kind_of_damage_is_found(used_db: Db, damage: str, invariants: set[str]) -> None:
    used_db.execute(damage.encode())
    assert violated_invariants(used_db) == invariants


def test_a_request_charged_twice_is_found(used_db: Db) -> None:
    used_db.execute("drop index public.usage_logs_a_request_is_charged_once")
    used_db.execute("update public.usage_logs set request_id = 'charged' where tier = 'basic'")
    assert violated_invariants(used_db) == {"I6"}


def test_a_row_has_the_user_expected_and_found_values(used_db: Db) -> None:
    used_db.execute("update public.user_subscriptions set quota_used = 7 where tier = 'basic'")
    row = used_db.execute("select * from public.reconcile()").fetchone()
    assert row is not None
    user = used_db.execute("select user_id from public.user_subscriptions where tier = 'basic'").fetchone()
    assert row == {
        **(user or {}),
        "invariant": "I4",
        "subject": "quota_used of 2026-03-01",
        "expected": "2",
        "found": "7",
    }


def test_a_wrong_reused_decision_is_found_and_repaired(used_db: Db) -> None:
    reuse = b"update public.user_subscriptions set included_until = 'infinity'"
    used_db.execute(reuse)
    assert violated_invariants(used_db) == set()  # free has no daily quota, and that of basic is used up
    used_db.execute("update public.user_subscriptions set daily_quota = 3 where tier = 'basic'")
    used_db.execute(reuse)
    assert violated_invariants(used_db) == set()  # the decision is right
    user = value(used_db, "select user_id::text from public.user_subscriptions where tier = 'basic'")
    assert value(used_db, "select public.repair_counters(%s)", user) == 0
    used_db.execute("update public.user_subscriptions set status = 'suspended' where tier = 'basic'")
    used_db.execute(reuse)
    assert violated_invariants(used_db) == {"I4"}
    assert value(used_db, "select public.repair_counters(%s)", user) == 1
    assert violated_invariants(used_db) == set()


@pytest.mark.parametrize(
    ("state", "moment", "found"),
    [
        ("not claimed", "2026-05-02T12:00:00Z", []),
        ("not claimed", "2026-05-02T12:00:01Z", ["period of 2026-03-01 00:00:00+00: 2 queries not billed, 0.050000"]),
        ("claimed", "2026-05-05T12:00:00Z", []),
        ("claimed", "2026-05-05T12:00:01Z", ["not there after 1 attempts"]),
    ],
)
def test_overdue_bills_are_reported(used_db: Db, state: str, moment: str, found: list[str]) -> None:
    user = value(used_db, "select user_id::text from public.usage_logs where funding = 'credit' limit 1")
    at(used_db, "2026-03-01T12:00Z")
    settle(used_db, admit(used_db, user)["hold_id"])
    if state == "claimed":
        at(used_db, "2026-05-02T12:00Z")
        value(used_db, "select public.claim_overage(%s, 'infinity', '{}')", user)
    at(used_db, moment)
    rows = used_db.execute("select * from public.reconcile() where invariant = 'overdue'").fetchall()
    reported = [f"{row['subject']}: {row['found']}" if "period" in row["subject"] else row["found"] for row in rows]
    assert reported == found


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
def test_a_bill_that_differs_from_the_ledger_is_found(db: Db, damage: str, found: list[tuple[str, str]]) -> None:
    user = new_customer(db)
    run_queries(db, user, 2)
    claim_overage(db, user)
    run_queries(db, user, 3)
    claim_overage(db, user)
    run_queries(db, new_user(db, quota_date="2026-03-01", overage_period_start="2026-03-01Z"), 1, "included")
    assert violations(db) == []
    item = value(db, "select id::text from public.overage_invoice_items where queries = 2")
    db.execute(damage.encode())
    rows = db.execute("select * from public.reconcile()").fetchall()
    assert {row["invariant"] for row in rows} == {"I7"}
    assert sorted((row["expected"], row["found"].replace(item, "the item")) for row in rows) == sorted(found)
