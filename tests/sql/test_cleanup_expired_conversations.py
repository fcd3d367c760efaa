"""cleanup_expired_conversations: expiry, downgrades and pins."""

import uuid

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, admit, at, counters, ledger, settle, turn, value


def test_expired_conversations_are_deleted_but_their_ledger_rows_stay(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    basic, pro = new_user(db, "basic"), new_user(db, "pro")
    pinned, expired, unexpired = (str(uuid.uuid4()) for _ in range(3))
    for user, chat_id in ((basic, pinned), (basic, expired), (pro, unexpired)):
        settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1"))
    db.execute("update public.conversations set is_pinned = true where id = %s", (pinned,))
    at(db, "2026-03-31T11:59Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    at(db, "2026-03-31T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 1
    left = {str(row["id"]) for row in db.execute("select id from public.conversations").fetchall()}
    assert left == {pinned, unexpired}
    assert value(db, "select count(*) from public.messages") == 4
    assert len(ledger(db, basic)) == 2


def test_a_conversation_with_a_running_answer_does_not_expire(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user, chat_id = new_user(db, "basic"), str(uuid.uuid4())
    settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1"))
    at(db, "2026-03-31T11:59Z")
    query = admit(db, user, p_chat_id=chat_id)
    at(db, "2026-03-31T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert settle(db, query["hold_id"], turn=turn(chat_id, "q2"))["persisted"] is True
    assert value(db, "select count(*) from public.messages") == 4


def conversations(db: Db, user: str) -> list[tuple[str, bool, int]]:
    """The expiry date, pin and message count of the conversations of a user, ordered by expiry."""
    return [
        (f"{row['expires_at']:%Y-%m-%d}", row["is_pinned"], row["message_count"])
        for row in db.execute(
            "select * from public.conversations where user_id = %s order by expires_at, is_pinned", (user,)
        )
    ]


def add_turn(db: Db, user: str, moment: str, chat_id: str | None = None) -> str:
    """Stores a turn at a time. Returns the chat id."""
    at(db, moment)
    chat_id = chat_id or str(uuid.uuid4())
    settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, str(uuid.uuid4())))
    return chat_id


def change_plan(db: Db, user: str, tier: str) -> None:
    db.execute("update public.user_subscriptions set tier = %s where user_id = %s", (tier, user))


def test_a_message_extends_the_expiry_of_its_conversation(db: Db) -> None:
    user = new_user(db, "basic", quota_date="2024-01-01")
    chat = add_turn(db, user, "2024-01-30T12:00Z")
    assert conversations(db, user) == [("2024-02-29", False, 2)]  # 2024 is a leap year
    add_turn(db, user, "2024-02-29T12:00Z", chat)
    assert conversations(db, user) == [("2024-03-30", False, 4)]


def test_after_a_downgrade_conversations_expire_within_thirty_days(db: Db) -> None:
    user = new_user(db, "pro", quota_date="2026-01-01")
    for moment in ("2026-01-01T12:00Z", "2026-02-20T12:00Z", "2026-03-01T12:00Z"):
        add_turn(db, user, moment)
    assert [date for date, *_ in conversations(db, user)] == ["2026-04-01", "2026-05-21", "2026-05-30"]
    at(db, "2026-03-10T12:00Z")
    change_plan(db, user, "basic")
    add_turn(db, user, "2026-03-10T13:00Z")
    at(db, "2026-03-20T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert [date for date, *_ in conversations(db, user)] == [*["2026-04-01"], *["2026-04-09"] * 3]
    assert counters(db, user)["downgraded_at"] is None


def test_a_downgrade_without_history_unpins_conversations(db: Db) -> None:
    user, other = new_user(db, "pro", quota_date="2026-01-01"), new_user(db, "pro", quota_date="2026-01-01")
    pinned = add_turn(db, user, "2026-01-01T12:00Z")
    add_turn(db, user, "2026-01-02T12:00Z")
    other_pinned = add_turn(db, other, "2026-01-01T12:00Z")
    db.execute("update public.conversations set is_pinned = true where id in (%s, %s)", (pinned, other_pinned))
    at(db, "2026-03-31T12:00Z")
    change_plan(db, user, "free")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert conversations(db, user) == [("2026-04-02", False, 2), ("2026-04-30", False, 2)]
    at(db, "2026-05-01T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 2
    assert conversations(db, other) == [("2026-04-01", True, 2)]


def test_an_upgrade_before_the_cleanup_undoes_a_downgrade(db: Db) -> None:
    user = new_user(db, "pro", quota_date="2026-01-01")
    add_turn(db, user, "2026-01-01T12:00Z")
    change_plan(db, user, "free")
    change_plan(db, user, "pro")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert conversations(db, user) == [("2026-04-01", False, 2)]


def test_a_plan_without_history_allows_no_pins(db: Db, connect: Connect) -> None:
    user = new_user(db, "pro", quota_date="2026-01-01")
    chat = add_turn(db, user, "2026-01-01T12:00Z")
    me = connect("authenticated", user)
    me.execute("select public.update_conversation(%s, p_is_pinned => true)", (chat,))
    me.execute("select public.update_conversation(%s, p_is_pinned => false)", (chat,))
    change_plan(db, user, "free")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Your plan stores no conversations"):
        me.execute("select public.update_conversation(%s, p_is_pinned => true)", (chat,))
    me.execute("select public.update_conversation(%s, 'Budget', p_is_pinned => false)", (chat,))
    assert conversations(db, user)[0][1] is False


def test_a_call_deletes_about_250_messages(db: Db) -> None:
    """Forty conversations of 24 messages, and one of 600 that expires first and takes three calls."""
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
        " select c.id, n, 'user', 'Text' from public.conversations c, generate_series(1, c.message_count) n"
    )
    left = []
    while value(db, "select public.cleanup_expired_conversations()"):
        left.append(value(db, "select count(*) from public.messages"))
        assert db.execute("select * from public.reconcile()").fetchall() == []
    assert left == [1310, 1060, 816, 576, 336, 96, 0]
    assert value(db, "select count(*) from public.conversations") == 0


def test_a_turn_settled_during_the_deletion_is_charged_and_dropped(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic", quota_date="2026-01-01")
    chat = add_turn(db, user, "2026-01-01T12:00Z")
    at(db, "2026-03-01T12:00Z")
    hold = admit(db, user)["hold_id"]
    cleaner = connect()
    at(cleaner, "2026-03-01T12:00Z")
    with cleaner.transaction():
        assert value(cleaner, "select public.cleanup_expired_conversations()") == 1
        assert settle(db, hold, turn=turn(chat, "q9"))["persisted"] is False
    assert value(db, "select public.apply_pending_turns()") == 1
    assert conversations(db, user) == []
    assert value(db, "select count(*) from public.usage_logs where is_charged and outcome = 'answered'") == 2


def test_a_locked_conversation_is_left_to_the_next_call(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic", quota_date="2026-01-01")
    for _ in range(2):
        chat = add_turn(db, user, "2026-01-01T12:00Z")
    at(db, "2026-03-01T12:00Z")
    writer = connect()
    with writer.transaction():
        writer.execute("select from public.conversations where id = %s for update", (chat,))
        assert value(db, "select public.cleanup_expired_conversations()") == 1
    assert value(db, "select public.cleanup_expired_conversations()") == 1
