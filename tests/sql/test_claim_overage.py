"""claim_overage: settled overage becomes invoice items."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import Connect
from tests.sql.billing import (
    apply_customer,
    apply_pack,
    billing_rows,
    claim_overage,
    describe,
    new_customer,
    run_queries,
    violations,
)
from tests.sql.concurrency import CLIENTS, run_concurrently, waits_for_lock
from tests.sql.metering import Db, admit, at, ledger, release, settle, turn, value


def test_overage_becomes_one_item_per_period_and_price(db: Db) -> None:
    user = new_customer(db)
    run_queries(db, user, 3)
    at(db, "2026-04-02T12:00Z")
    run_queries(db, user, 2)
    db.execute("update public.plans set overage_price_usd = 0.03 where tier = 'usage_only'")
    run_queries(db, user, 1)
    items = claim_overage(db, user)
    assert sorted(describe(items)) == [
        ("2026-03", 3, "0.025000", 7),
        ("2026-04", 1, "0.030000", 3),
        ("2026-04", 2, "0.025000", 5),
    ]
    billed = db.execute(
        "select i.id::text, count(*) as queries, array_agg(distinct u.period_start = i.period_start"
        " and u.overage_charge = i.unit_price_usd) as matches"
        " from public.usage_logs u join public.overage_invoice_items i on i.id = u.invoice_item_id group by i.id"
    ).fetchall()
    assert {row["id"]: (row["queries"], row["matches"]) for row in billed} == {
        item["id"]: (item["queries"], [True]) for item in items
    }
    before = ledger(db, user)
    assert describe(claim_overage(db, user)) == describe(items)
    assert ledger(db, user) == before
    assert violations(db) == []


@pytest.mark.parametrize(("queries", "usd", "cents"), [(1, "0.025000", 2), (3, "0.075000", 7), (40, "1.000000", 100)])
def test_cents_are_rounded_down(db: Db, queries: int, usd: str, cents: int) -> None:
    user = new_customer(db)
    run_queries(db, user, queries)
    (item,) = claim_overage(db, user)
    assert (item["queries"], item["amount_usd"], item["amount_cents"]) == (queries, usd, cents)


def test_a_query_settled_after_billing_makes_a_second_item(db: Db) -> None:
    user = new_customer(db)
    run_queries(db, user, 2)
    late = admit(db, user)["hold_id"]
    at(db, "2026-04-01T00:00Z")
    assert describe(claim_overage(db, user)) == [("2026-03", 2, "0.025000", 5)]
    settle(db, late)
    assert describe(claim_overage(db, user)) == [("2026-03", 2, "0.025000", 5), ("2026-03", 1, "0.025000", 2)]
    assert violations(db) == []


def test_the_current_period_is_not_billed(db: Db) -> None:
    user = new_customer(db)
    at(db, "2026-03-31T23:59:59Z")
    run_queries(db, user, 2)
    apply_customer(db, 1, tier="usage_only", period_start="2026-04-01Z", period_end="2026-05-01Z")
    at(db, "2026-04-01T00:00:00Z")
    run_queries(db, user, 1)
    assert claim_overage(db, user, "2026-03-31T23:59:59Z") == []
    assert describe(claim_overage(db, user, "2026-04-01T00:00:00Z")) == [("2026-03", 2, "0.025000", 5)]
    assert [row["invoice_item_id"] is None for row in ledger(db, user)] == [False, False, True]
    assert describe(claim_overage(db, user, "2026-04-01T00:00:00.000001Z"))[1:] == [("2026-04", 1, "0.025000", 2)]


def test_only_charged_overage_is_billed(db: Db) -> None:
    user = new_customer(db, tier="basic", daily_quota=1)
    run_queries(db, user, 1, "included")
    apply_pack(db, user, 1, credits=1)
    run_queries(db, user, 1, "credit")
    release(db, admit(db, user)["hold_id"])
    release(db, admit(db, user)["hold_id"], "lost")
    stopped = admit(db, user)
    settle(db, stopped["hold_id"], "stopped")
    admit(db, user)
    assert describe(claim_overage(db, user)) == [("2026-03", 1, "0.025000", 2)]
    assert [str(row["id"]) for row in ledger(db, user) if row["invoice_item_id"]] == [stopped["hold_id"]]


def test_overage_of_other_users_is_not_billed(db: Db) -> None:
    user, other = new_customer(db), new_customer(db, "2")
    for each in (user, other):
        run_queries(db, each, 2)
    claim_overage(db, other)
    before = billing_rows(db, other)
    assert describe(claim_overage(db, user)) == [("2026-03", 2, "0.025000", 5)]
    assert billing_rows(db, other) == before
    assert claim_overage(db, str(uuid.uuid4())) == []


def test_concurrent_calls_create_one_set_of_items(connect: Connect, db: Db) -> None:
    user = new_customer(db)
    run_queries(db, user, 3)
    at(db, "2026-04-02T12:00Z")
    run_queries(db, user, 40)

    def claim(connection: Db) -> list[dict[str, Any]]:
        at(connection, "2026-04-02T12:00Z")
        return claim_overage(connection, user)

    results = run_concurrently(connect, [claim] * CLIENTS)
    assert {tuple(item["id"] for item in items) for items in results} == {tuple(item["id"] for item in results[0])}
    assert describe(results[0]) == [("2026-03", 3, "0.025000", 7), ("2026-04", 40, "0.025000", 100)]
    assert sorted(items[0]["attempts"] for items in results) == list(range(1, CLIENTS + 1))
    assert value(db, "select count(*) from public.overage_invoice_items") == 2
    assert violations(db) == []


def test_a_concurrent_deletion_of_a_conversation_changes_no_bill(connect: Connect, db: Db) -> None:
    user = new_customer(db, tier="basic", daily_quota=0)
    for chat in ("stays", "deleted", "stays"):
        settle(db, admit(db, user)["hold_id"], turn=turn(chat, str(uuid.uuid4())))
    deleting, claiming, done = connect(), connect(), threading.Event()
    at(claiming, "2026-03-02T12:00Z")

    def run() -> None:
        try:
            claim_overage(claiming, user)
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        with deleting.transaction():
            deleting.execute("delete from public.conversations where external_id = 'deleted'")
            running = pool.submit(run)
            waits_for_lock(db, claiming.info.backend_pid, done)  # or skips the locked rows
        running.result()
    assert sum(item["queries"] for item in claim_overage(db, user)) == 3
    assert [row["invoice_item_id"] is None for row in ledger(db, user)] == [False] * 3
    assert violations(db) == []


def test_an_item_is_returned_until_it_is_on_an_invoice(db: Db, connect: Connect) -> None:
    user = new_customer(db)
    run_queries(db, user, 3)
    service = connect("service_role")
    at(service, "2026-04-01T00:00Z")
    (first,) = claim_overage(service, user, target='{"invoice": "in_1"}')
    assert first == {
        "id": first["id"],
        "created_at": "2026-04-01T00:00:00+00:00",
        "period_start": "2026-03-01T00:00:00+00:00",
        "queries": 3,
        "currency": "usd",
        "unit_price_usd": "0.025000",
        "amount_usd": "0.075000",
        "amount_cents": 7,
        "attempts": 1,
        "target": {"invoice": "in_1"},
        "refusals": 0,
        "stripe_invoice_item_id": None,
    }
    # The target of the first call stays.
    assert claim_overage(service, user, target="{}") == [{**first, "attempts": 2}]
    service.execute("select public.place_overage(%s, 'ii_1', null)", (first["id"],))
    placed = {**first, "attempts": 2, "stripe_invoice_item_id": "ii_1"}
    assert claim_overage(service, user) == [placed]
    assert claim_overage(service, user) == [placed]
    service.execute("select public.place_overage(%s, 'ii_1', 'in_2')", (first["id"],))
    assert claim_overage(service, user) == []
    run_queries(db, user, 1)
    assert [(item["queries"], item["attempts"]) for item in claim_overage(service, user)] == [(1, 1)]
