"""reconcile: nothing on what the functions did, one row for each thing that was tampered with."""

import uuid
from collections.abc import Callable

import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, pack, release, settle, value
from tests.sql.test_settle_query import turn

# What is broken, and which invariants say so.
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
    ("update public.usage_logs set was_overage = true where tier = 'free'", {"I5"}),
    ("update public.usage_logs set overage_charge = 0.025 where tier = 'free'", {"I5"}),
]


@pytest.fixture
def lived(db: Db) -> Db:
    """A database in which every funding was taken, charged, held and given back."""
    at(db, "2026-03-01T12:00Z")
    free = new_user(db)
    settle(db, admit(db, free)["hold_id"])
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


def broken(db: Db) -> set[str]:
    """Which invariants are."""
    return {row["invariant"] for row in db.execute("select * from public.reconcile()")}


def test_what_the_functions_did_is_consistent(lived: Db, connect: Callable[..., Db]) -> None:
    assert broken(lived) == set()
    service = connect("service_role")
    at(service, "2026-03-01T12:00Z")
    assert broken(service) == set()


@pytest.mark.parametrize(("damage", "invariants"), DAMAGE)
def test_every_damage_is_found(lived: Db, damage: str, invariants: set[str]) -> None:
    lived.execute(damage.encode())
    assert broken(lived) == invariants


def test_a_request_charged_twice_is_found_though_an_index_forbids_it(lived: Db) -> None:
    lived.execute("drop index public.usage_logs_a_request_is_charged_once")
    lived.execute("update public.usage_logs set request_id = 'charged' where tier = 'basic'")
    assert broken(lived) == {"I6"}


def test_a_row_says_whose_it_is_what_was_expected_and_what_was_found(lived: Db) -> None:
    lived.execute("update public.user_subscriptions set quota_used = 7 where tier = 'basic'")
    row = lived.execute("select * from public.reconcile()").fetchone()
    assert row is not None
    user = lived.execute("select user_id from public.user_subscriptions where tier = 'basic'").fetchone()
    assert row == {
        **(user or {}),
        "invariant": "I4",
        "subject": "quota_used of 2026-03-01",
        "expected": "2",
        "found": "7",
    }


def test_what_is_presumed_of_a_quota_is_found_and_mended_where_it_is_not_so(lived: Db) -> None:
    presume = b"update public.user_subscriptions set included_until = 'infinity'"
    lived.execute(presume)
    assert broken(lived) == set()  # free has no quota by the day, and basic's is used up
    lived.execute("update public.user_subscriptions set daily_quota = 3 where tier = 'basic'")
    lived.execute(presume)
    assert broken(lived) == set()  # it is so
    user = value(lived, "select user_id::text from public.user_subscriptions where tier = 'basic'")
    assert value(lived, "select public.repair_counters(%s)", user) == 0
    lived.execute("update public.user_subscriptions set status = 'suspended' where tier = 'basic'")
    lived.execute(presume)
    assert broken(lived) == {"I4"}
    assert value(lived, "select public.repair_counters(%s)", user) == 1
    assert broken(lived) == set()


@pytest.mark.parametrize(
    ("waits", "until", "found"),
    [
        ("nothing", "2026-05-02T12:00:00Z", []),
        ("nothing", "2026-05-02T12:00:01Z", ["period of 2026-03-01 00:00:00+00: 2 queries not billed, 0.050000"]),
        ("its item", "2026-05-05T12:00:00Z", []),
        ("its item", "2026-05-05T12:00:01Z", ["not there after 1 attempts"]),
    ],
)
def test_what_should_have_been_billed_long_ago_is_told(lived: Db, waits: str, until: str, found: list[str]) -> None:
    user = value(lived, "select user_id::text from public.usage_logs where funding = 'credit' limit 1")
    at(lived, "2026-03-01T12:00Z")
    settle(lived, admit(lived, user)["hold_id"])
    if waits == "its item":
        at(lived, "2026-05-02T12:00Z")
        value(lived, "select public.claim_overage(%s, 'infinity', '{}')", user)
    at(lived, until)
    rows = lived.execute("select * from public.reconcile() where invariant = 'overdue'").fetchall()
    told = [f"{row['subject']}: {row['found']}" if "period" in row["subject"] else row["found"] for row in rows]
    assert told == found
