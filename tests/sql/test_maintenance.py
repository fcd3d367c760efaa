"""reset_monthly_overages and cleanup_expired_conversations."""

import uuid

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, ledger, settle, value
from tests.sql.test_settle_query import turn


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
    # A plan without history keeps no pins.
    db.execute("update public.user_subscriptions set tier = 'usage_only' where user_id = %s", (basic,))
    assert value(db, "select public.cleanup_expired_conversations()") == 1
