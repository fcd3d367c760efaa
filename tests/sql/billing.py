"""Helpers for tests of the billing functions."""

import json
from typing import Any

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, settle, value


def apply_customer(
    db: Db,
    sequence: int,
    customer: str = "cus_1",
    *,
    deleted: bool = False,
    url: str | None = None,
    **subscription: Any,
) -> str | None:
    """Calls apply_customer. Without any field of a subscription: no live subscription."""
    defaults = {
        "id": "sub_1",
        "tier": "basic",
        "paid_tiers": [],
        "status": "active",
        "period_start": "2026-03-01T00:00:00Z",
        "period_end": "2026-04-01T00:00:00Z",
        "canceled_at": None,
        "past_due_since": None,
        "paid_until": None,
    }
    state = json.dumps({**defaults, **subscription}) if subscription else None
    user_id: str | None = value(
        db, "select public.apply_customer(%s, %s, %s, %s, %s)::text", customer, sequence, deleted, state, url
    )
    return user_id


def apply_pack(db: Db, user: str, sequence: int, **payment: Any) -> str | None:
    """Calls apply_pack. Default: a paid pack of a hundred credits."""
    defaults = {
        "session_id": "cs_1",
        "payment_intent_id": "pi_1",
        "pack": "pack_100",
        "credits": 100,
        "paid_at": "2026-03-01T12:00:00Z",
        "price_cents": payment.get("paid_cents", 225),
        "paid_cents": 225,
        "refunded_cents": 0,
        "is_disputed": False,
        "is_lost": False,
    }
    user_id: str | None = value(
        db, "select public.apply_pack(%s, %s, %s)::text", user, sequence, json.dumps({**defaults, **payment})
    )
    return user_id


def packs(db: Db, user: str) -> list[tuple[int, ...]]:
    """Remaining, used, revoked and to be revoked: the credits of each pack of a user, oldest pack first."""
    rows = db.execute("select * from public.credit_packs where user_id = %s order by created_at, id", (user,))
    names = ("credits_remaining", "credits_used", "credits_revoked", "credits_to_revoke")
    return [tuple(row[name] for name in names) for row in rows]


def new_customer(db: Db, name: str = "1", **columns: Any) -> str:
    """Creates a Stripe customer, by default on usage_only, with the period March 2026. Sets the clock to 2 March."""
    at(db, "2026-03-02T12:00Z")
    defaults = {
        "tier": "usage_only",
        "stripe_customer_id": f"cus_{name}",
        "stripe_subscription_id": f"sub_{name}",
        "current_period_start": "2026-03-01Z",
        "current_period_end": "2026-04-01Z",
        "overage_period_start": "2026-03-01Z",
        "quota_date": "2026-03-01",
    }
    return new_user(db, **{**defaults, **columns})


def run_queries(db: Db, user: str, count: int = 1, funding: str = "overage") -> None:
    """Admits and settles queries, which this funding pays."""
    for _ in range(count):
        query = admit(db, user)
        assert query["funding"] == funding
        settle(db, query["hold_id"])


def billing_rows(db: Db, user: str) -> list[Any]:
    """The subscription, packs and invoice items of a user."""
    return [
        db.execute(f"select * from public.{table} where user_id = %s order by id".encode(), (user,)).fetchall()
        for table in ("user_subscriptions", "credit_packs", "overage_invoice_items")
    ]


def claim_overage(db: Db, user: str, until: str = "infinity", target: str = "{}") -> list[dict[str, Any]]:
    """Calls claim_overage."""
    items: list[dict[str, Any]] = value(db, "select public.claim_overage(%s, %s, %s)", user, until, target)
    return items


def describe(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The month, number of queries, price and cents of each invoice item."""
    return [(item["period_start"][:7], item["queries"], item["unit_price_usd"], item["amount_cents"]) for item in items]


def violations(db: Db) -> list[tuple[str, str, str]]:
    """The rows of reconcile: invariant, expected value, value found."""
    rows = db.execute("select * from public.reconcile() order by 1, 3").fetchall()
    return [(row["invariant"], row["expected"], row["found"]) for row in rows]


def pay_overage(db: Db, user: str, settled_as: str = "paid") -> int:
    """Bills all overage of a user, and records that everything billed was paid, or voided. Returns how many items."""
    for item in claim_overage(db, user):
        value(db, "select public.place_overage(%s, %s, %s)", item["id"], f"ii_{item['id']}", "in_1")
    unsettled = value(db, "select public.unsettled_overage(%s)", user)
    statuses = {item["id"]: settled_as for item in unsettled}
    return settle_overage(db, user, statuses)


def settle_overage(db: Db, user: str, statuses: dict[str, str], sequence: int | None = None) -> int:
    """Calls settle_overage. Default: as the newest state. Returns how many items changed."""
    newest = "select coalesce(max(stripe_sequence), 0) + 1 from public.overage_invoice_items where user_id = %s"
    number = sequence or value(db, newest, user)
    settled: int = value(db, "select public.settle_overage(%s, %s, %s)", user, number, json.dumps(statuses))
    return settled
