"""place_overage and retarget_overage: where an invoice item is at Stripe."""

from typing import Any

from tests.conftest import Connect
from tests.sql.billing import claim_overage, new_customer, run_queries
from tests.sql.concurrency import CLIENTS, run_concurrently
from tests.sql.metering import Db, value


def test_a_refused_target_is_replaced_once(db: Db) -> None:
    user = new_customer(db)
    run_queries(db, user, 1)
    (item,) = claim_overage(db, user, target='{"invoice": "in_1"}')

    def retarget(refusals: int, target: str) -> tuple[Any, Any]:
        db.execute("select public.retarget_overage(%s, %s, %s)", (item["id"], refusals, target))
        row = db.execute("select target, refusals from public.overage_invoice_items").fetchone()
        assert row is not None
        return row["target"], row["refusals"]

    assert retarget(1, "{}") == ({"invoice": "in_1"}, 0)  # there was no such refusal yet
    assert retarget(0, '{"subscription": "sub_1"}') == ({"subscription": "sub_1"}, 1)
    assert retarget(0, "{}") == ({"subscription": "sub_1"}, 1)  # this refusal was processed before
    assert retarget(1, "{}") == ({}, 2)
    db.execute("select public.place_overage(%s, 'ii_1', null)", (item["id"],))
    assert retarget(2, '{"invoice": "in_9"}') == ({}, 2)  # the item is placed


def test_concurrent_calls_replace_a_refused_target_once(connect: Connect, db: Db) -> None:
    user = new_customer(db)
    run_queries(db, user, 1)
    (item,) = claim_overage(db, user)
    call = "select public.retarget_overage(%s, 0, '{}')"
    run_concurrently(connect, [lambda connection: connection.execute(call, (item["id"],))] * CLIENTS)
    assert value(db, "select refusals from public.overage_invoice_items") == 1


def test_placing_an_item_records_its_invoice_permanently(db: Db) -> None:
    first, second = new_customer(db), new_customer(db, "2")
    for user in (first, second):
        run_queries(db, user, 1)
    (item,), (other,) = claim_overage(db, first), claim_overage(db, second)

    def place(*arguments: str | None) -> tuple[Any, Any]:
        db.execute("select public.place_overage(%s, %s, %s)", (item["id"], *arguments))
        row = db.execute("select * from public.overage_invoice_items where id = %s", (item["id"],)).fetchone()
        assert row is not None
        return row["stripe_invoice_item_id"], row["stripe_invoice_id"]

    assert place("ii_1", None) == ("ii_1", None)
    assert place("ii_1", "in_1") == ("ii_1", "in_1")
    assert place("ii_1", None) == ("ii_1", "in_1")
    assert claim_overage(db, second) == [{**other, "attempts": 2}]
