"""What the scheduler calls: reset_monthly_overages, cleanup_expired_conversations, expire_credits, purge_events."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, ledger, pack, release, settle, value
from tests.sql.test_billing import look_at_payment
from tests.sql.test_settle_query import turn

Connect = Callable[..., Db]


def test_overage_counters_of_ended_periods_start_anew_and_the_ledger_keeps_the_money(db: Db) -> None:
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


def test_expired_conversations_go_with_their_messages_and_the_ledger_stays(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    basic, pro = new_user(db, "basic"), new_user(db, "pro")
    pinned, doomed, kept = (str(uuid.uuid4()) for _ in range(3))
    for user, chat_id in ((basic, pinned), (basic, doomed), (pro, kept)):
        settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1"))
    db.execute("update public.conversations set is_pinned = true where id = %s", (pinned,))
    at(db, "2026-03-31T11:59Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    at(db, "2026-03-31T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 1
    left = {str(row["id"]) for row in db.execute("select id from public.conversations").fetchall()}
    assert left == {pinned, kept}
    assert value(db, "select count(*) from public.messages") == 4
    assert len(ledger(db, basic)) == 2


def conversations(db: Db, user: str) -> list[tuple[str, bool, int]]:
    """Of a user: until when (date), whether pinned, how many messages; the soonest to expire first."""
    return [
        (f"{row['expires_at']:%Y-%m-%d}", row["is_pinned"], row["message_count"])
        for row in db.execute(
            "select * from public.conversations where user_id = %s order by expires_at, is_pinned", (user,)
        )
    ]


def talk(db: Db, user: str, moment: str, chat_id: str | None = None) -> str:
    """A kept turn at a time. Returns the chat's id."""
    at(db, moment)
    chat_id = chat_id or str(uuid.uuid4())
    settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, str(uuid.uuid4())))
    return chat_id


def change_plan(db: Db, user: str, tier: str) -> None:
    db.execute("update public.user_subscriptions set tier = %s where user_id = %s", (tier, user))


def test_a_message_extends_what_the_plan_promises(db: Db) -> None:
    user = new_user(db, "basic", quota_date="2024-01-01")
    chat = talk(db, user, "2024-01-30T12:00Z")
    assert conversations(db, user) == [("2024-02-29", False, 2)]  # of a leap year
    talk(db, user, "2024-02-29T12:00Z", chat)
    assert conversations(db, user) == [("2024-03-30", False, 4)]


def test_after_a_downgrade_conversations_keep_their_date_at_most_thirty_days_on(db: Db) -> None:
    user = new_user(db, "pro", quota_date="2026-01-01")
    for moment in ("2026-01-01T12:00Z", "2026-02-20T12:00Z", "2026-03-01T12:00Z"):
        talk(db, user, moment)
    assert [until for until, *_ in conversations(db, user)] == ["2026-04-01", "2026-05-21", "2026-05-30"]
    at(db, "2026-03-10T12:00Z")
    change_plan(db, user, "basic")
    talk(db, user, "2026-03-10T13:00Z")
    at(db, "2026-03-20T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert [until for until, *_ in conversations(db, user)] == [*["2026-04-01"], *["2026-04-09"] * 3]
    assert counters(db, user)["downgraded_at"] is None


def test_on_a_plan_that_keeps_nothing_what_was_kept_stays_for_its_time_and_pins_lapse(db: Db) -> None:
    user, other = new_user(db, "pro", quota_date="2026-01-01"), new_user(db, "pro", quota_date="2026-01-01")
    pinned = talk(db, user, "2026-01-01T12:00Z")
    talk(db, user, "2026-01-02T12:00Z")
    theirs = talk(db, other, "2026-01-01T12:00Z")
    db.execute("update public.conversations set is_pinned = true where id in (%s, %s)", (pinned, theirs))
    at(db, "2026-03-31T12:00Z")
    change_plan(db, user, "free")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert conversations(db, user) == [("2026-04-02", False, 2), ("2026-04-30", False, 2)]
    at(db, "2026-05-01T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 2
    assert conversations(db, other) == [("2026-04-01", True, 2)]


def test_whoever_comes_back_at_once_keeps_what_they_were_promised(db: Db) -> None:
    user = new_user(db, "pro", quota_date="2026-01-01")
    talk(db, user, "2026-01-01T12:00Z")
    change_plan(db, user, "free")
    change_plan(db, user, "pro")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert conversations(db, user) == [("2026-04-01", False, 2)]


def test_nothing_is_pinned_on_a_plan_that_keeps_nothing(db: Db, connect: Connect) -> None:
    user = new_user(db, "pro", quota_date="2026-01-01")
    talk(db, user, "2026-01-01T12:00Z")
    me = connect("authenticated", user)
    me.execute("update public.conversations set is_pinned = true")
    me.execute("update public.conversations set is_pinned = false")
    change_plan(db, user, "free")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Your plan stores no conversations"):
        me.execute("update public.conversations set is_pinned = true")
    me.execute("update public.conversations set title = 'Budget', is_pinned = false")
    assert conversations(db, user)[0][1] is False


def test_a_call_deletes_about_250_messages(db: Db) -> None:
    """Forty conversations of 24 messages, one of 600 that expires first: it goes from its end, in three calls."""
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    db.execute(
        "insert into public.conversations (id, user_id, message_count, expires_at)"
        " select gen_random_uuid(), %s, case n when 1 then 600 else 24 end,"
        " timestamptz '2026-02-01Z' + n * interval '1 s'"
        " from generate_series(1, 41) n",
        (user,),
    )
    db.execute(
        "insert into public.messages (conversation_id, position, role, content)"
        " select c.id, n, 'user', 'Who?' from public.conversations c, generate_series(1, c.message_count) n"
    )
    left = []
    while value(db, "select public.cleanup_expired_conversations()"):
        left.append(value(db, "select count(*) from public.messages"))
        assert db.execute("select * from public.reconcile()").fetchall() == []
    assert left == [1310, 1060, 816, 576, 336, 96, 0]
    assert value(db, "select count(*) from public.conversations") == 0


def test_a_chat_in_a_conversation_that_is_being_deleted_is_kept_all_the_same(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic", quota_date="2026-01-01")
    chat = talk(db, user, "2026-01-01T12:00Z")
    at(db, "2026-03-01T12:00Z")
    hold = admit(db, user)["hold_id"]
    cleaner = connect()
    at(cleaner, "2026-03-01T12:00Z")
    with ThreadPoolExecutor(1) as pool:
        with cleaner.transaction():
            assert value(cleaner, "select public.cleanup_expired_conversations()") == 1
            kept = pool.submit(settle, db, hold, turn=turn(chat, "q9"))
        assert kept.result()["persisted"] is True
    assert conversations(db, user) == [("2026-03-31", False, 2)]


def test_what_is_being_written_to_is_left_to_the_next_call(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic", quota_date="2026-01-01")
    for _ in range(2):
        chat = talk(db, user, "2026-01-01T12:00Z")
    at(db, "2026-03-01T12:00Z")
    writer = connect()
    with writer.transaction():
        writer.execute("select from public.conversations where id = %s for update", (chat,))
        assert value(db, "select public.cleanup_expired_conversations()") == 1
    assert value(db, "select public.cleanup_expired_conversations()") == 1


def test_packs_lapse_once_and_take_their_plan_along(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user, other = new_user(db), new_user(db)
    db.execute(
        "insert into public.packs (slug, name, credits, price_usd, expires_after_days)"
        " values ('pack_day', 'For a day', 5, 2, 1)"
    )
    look_at_payment(db, user, 1, pack="pack_day", credits=5, paid_at="2026-03-01T12:00Z")
    look_at_payment(db, other, 2, session_id="cs_2", payment_intent_id="pi_2", credits=5)
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
    # A query that fails after all, and a refund: each credit stays accounted for.
    release(db, running)
    look_at_payment(db, user, 3, pack="pack_day", credits=5, paid_at="2026-03-01T12:00Z", refunded_cents=90)
    row = db.execute("select * from public.credit_packs where user_id = %s", (user,)).fetchone()
    assert row is not None
    assert [row[name] for name in names] == [0, 1, 2, 2]
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_events_that_were_dealt_with_go_after_ninety_days_and_others_stay(db: Db) -> None:
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


@pytest.mark.parametrize("sweep", ["reset_monthly_overages", "expire_credits", "release_stale_holds"])
def test_a_sweep_leaves_whoever_is_being_served_to_the_next(db: Db, connect: Connect, sweep: str) -> None:
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
    busy = connect()
    with busy.transaction():
        busy.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (users[1],))
        assert value(db, f"select public.{sweep}()") == 2
        assert value(db, f"select public.{sweep}()") == 0
    assert value(db, f"select public.{sweep}()") == 1
    value(db, "select public.release_stale_holds()")
    assert db.execute("select * from public.reconcile()").fetchall() == []
