"""The jobs reset_monthly_overages, expire_credits and purge_events."""

import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import apply_pack
from tests.sql.metering import Db, admit, at, counters, ledger, pack, release, settle, value


def test_overage_counters_reset_and_the_ledger_keeps_the_charges(db: Db) -> None:
    at(db, "2026-03-15T12:00Z")
    month = new_user(db, "usage_only", stripe_subscription_id="sub_1", overage_period_start="2026-03-01Z")
    anchored = new_user(
        db,
        "usage_only",
        stripe_subscription_id="sub_2",
        current_period_start="2026-03-10Z",
        current_period_end="2026-04-10Z",
        overage_period_start="2026-03-10Z",
    )
    for user in (month, anchored):
        settle(db, admit(db, user)["hold_id"])
    assert value(db, "select public.reset_monthly_overages()") == 0
    at(db, "2026-04-01T00:00Z")
    assert value(db, "select public.reset_monthly_overages()") == 1
    assert value(db, "select public.reset_monthly_overages()") == 0
    assert (counters(db, month)["current_overage_amount"], str(counters(db, anchored)["current_overage_amount"])) == (
        0,
        "0.025000",
    )
    assert str(ledger(db, month)[0]["overage_charge"]) == "0.025000"


def test_packs_expire_once_and_the_tier_follows(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user, other = new_user(db), new_user(db)
    db.execute(
        "insert into public.packs (slug, name, credits, price_usd, expires_after_days)"
        " values ('pack_day', 'For a day', 5, 2, 1)"
    )
    apply_pack(db, user, 1, pack="pack_day", credits=5, paid_at="2026-03-01T12:00Z")
    apply_pack(db, other, 2, session_id="cs_2", payment_intent_id="pi_2", credits=5)
    settle(db, admit(db, user)["hold_id"])
    running = admit(db, user)["hold_id"]
    assert value(db, "select public.expire_credits()") == 0
    at(db, "2026-03-02T12:00Z")
    assert value(db, "select public.expire_credits()") == 1
    assert value(db, "select public.expire_credits()") == 0
    names = ("credits_remaining", "credits_used", "credits_revoked", "credits_expired")
    row = db.execute("select * from public.credit_packs where user_id = %s", (user,)).fetchone()
    assert row is not None
    assert ([row[name] for name in names], counters(db, user)["tier"]) == ([0, 2, 0, 3], "free")
    assert counters(db, other)["tier"] == "usage_only"
    # After a failed query and a refund every credit is still accounted for.
    release(db, running)
    apply_pack(db, user, 3, pack="pack_day", credits=5, paid_at="2026-03-01T12:00Z", refunded_cents=90)
    row = db.execute("select * from public.credit_packs where user_id = %s", (user,)).fetchone()
    assert row is not None
    assert [row[name] for name in names] == [0, 1, 2, 2]
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_only_processed_events_are_deleted_after_ninety_days(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    for event in ("evt_1", "evt_2", "evt_3"):
        value(db, "select public.claim_stripe_event(%s, 'invoice.paid')", event)
    db.execute("select public.finish_stripe_event('evt_1')")
    at(db, "2026-03-02T12:00Z")
    db.execute("select public.finish_stripe_event('evt_2')")
    at(db, "2026-05-30T12:00:01Z")
    assert value(db, "select public.purge_events()") == 1
    assert value(db, "select public.purge_events()") == 0
    assert {row["event_id"] for row in db.execute("select event_id from public.stripe_events")} == {"evt_2", "evt_3"}
    found = db.execute("select * from public.reconcile()").fetchall()
    assert [(row["invariant"], row["subject"]) for row in found] == [("overdue", "evt_3")]


@pytest.mark.parametrize("job", ["reset_monthly_overages", "expire_credits", "release_stale_holds"])
def test_a_job_leaves_locked_users_to_its_next_run(db: Db, connect: Connect, job: str) -> None:
    at(db, "2026-03-15T12:00Z")
    users = [
        new_user(db, "usage_only", stripe_subscription_id=f"sub_{n}", overage_period_start="2026-03-01Z")
        for n in range(3)
    ]
    for user in users:
        settle(db, admit(db, user)["hold_id"])
        pack(db, user, 2, "2026-03-20Z")
        assert admit(db, user)["funding"] == "credit"
    at(db, "2026-04-01T12:00Z")
    holder = connect()
    with holder.transaction():
        holder.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (users[1],))
        assert value(db, f"select public.{job}()") == 2
        assert value(db, f"select public.{job}()") == 0
    assert value(db, f"select public.{job}()") == 1
    value(db, "select public.release_stale_holds()")
    assert db.execute("select * from public.reconcile()").fetchall() == []
