"""Concurrent calls on 64 connections: every limit holds and every counter agrees with the ledger."""

import json
import os
import random
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, admit, pack, release, settle, value

FULL = bool(os.environ.get("PROVE"))
CLIENTS = 64
QUERIES = 200 if FULL else 12  # per client


def make_users(db: Db, count: int) -> list[str]:
    """Users of every plan with packs, subscriptions and low limits, so that each funding runs out."""
    users = []
    for number in range(count):
        tier = ("pro", "basic", "usage_only", "free")[number % 4]
        columns = {"stripe_subscription_id": f"sub_{number}", "overage_limit": "0.25"} if number % 3 else {}
        user = new_user(db, tier, **columns)
        if tier != "free" and number % 5 == 0:
            pack(db, user, 3)
        users.append(user)
    return users


def payment(user: str, refunded_cents: int) -> str:
    """The state of the payment of a pack of five."""
    return json.dumps(
        {
            "session_id": f"cs_{user}",
            "payment_intent_id": f"pi_{user}",
            "pack": "pack_100",
            "credits": 5,
            "paid_at": "2026-03-01T12:00:00Z",
            "price_cents": 225,
            "paid_cents": 225,
            "refunded_cents": refunded_cents,
            "is_disputed": refunded_cents == 1,
            "is_lost": False,
        }
    )


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 120)
@pytest.mark.parametrize("count", [1, 4, 1000])
@pytest.mark.usefixtures("many_at_once")
def test_invariants_hold_under_concurrent_calls(connect: Connect, db: Db, count: int) -> None:
    """Each client makes random calls: admissions, repetitions, ends, jobs, bills, packs and refunds. Some queries never
    end. Then reconcile finds no violation."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    users = make_users(db, count)
    connections = [connect() for _ in range(CLIENTS)]

    def make_calls(number: int) -> None:
        rng, connection = random.Random(seed + number), connections[number]  # noqa: S311 -- must be repeatable
        for _ in range(QUERIES):
            user = rng.choice(users)
            if rng.random() < 0.2:
                arguments = (user, rng.randrange(1, 1000), payment(user, rng.choice([0, 1, 90, 225])))
                connection.execute("select public.apply_pack(%s, %s, %s)", arguments)
                connection.execute("select public.claim_overage(%s, 'infinity', '{}')", (user,))
            request = f"request-{rng.randrange(QUERIES * 8)}"
            query = admit(connection, user, request, p_hold_seconds=rng.choice([1, 300]))
            if query["decision"] != "admitted":
                continue
            end = rng.random()
            if end < 0.5:
                settle(connection, query["hold_id"], rng.choice(["answered", "stopped"]))
            elif end < 0.8:
                release(connection, query["hold_id"])
            if end < 0.1:
                settle(connection, query["hold_id"])
            elif end > 0.95:
                connection.execute("select public.release_stale_holds()")

    with ThreadPoolExecutor(CLIENTS) as pool:
        for future in [pool.submit(make_calls, number) for number in range(CLIENTS)]:
            future.result()
    violations = db.execute("select * from public.reconcile()").fetchall()
    assert violations == [], f"replay: SEED={seed} make test ONLY='tests/sql/test_parallel.py'"
    assert value(db, "select count(*) from public.usage_logs") > 40
    # After the holds expire, their funding is returned and only the ledger counts.
    db.execute("update public.query_holds set expires_at = created_at")
    while value(db, "select public.release_stale_holds()"):
        pass
    assert db.execute("select * from public.reconcile()").fetchall() == []
    assert value(db, "select count(*) from public.query_holds") == 0
