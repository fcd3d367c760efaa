"""Settlement waits for no lock of a user: the turn of a locked conversation is stored later, once, in order."""

import uuid
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, admit, at, ledger, settle, turn, value

APPLY = "select public.apply_pending_turns()"
# How other transactions lock a conversation, and whether the turn is then certain to be stored.
LOCKS = {
    "for update": ("select from public.conversations where id = %s for update", False),
    "update": ("update public.conversations set title = 'Renamed' where id = %s", True),
    "delete": ("delete from public.conversations where id = %s", False),
}


@pytest.fixture
def user(db: Db) -> str:
    """A user whose plan stores history. Settlements that wait fail."""
    db.execute("set lock_timeout = '1s'")
    return new_user(db, "pro")


@pytest.fixture
def chat(db: Db, user: str) -> str:
    """A conversation of the user with one turn, at nine o'clock."""
    at(db, "2026-03-01T09:00Z")
    chat_id = str(uuid.uuid4())
    settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1"))
    at(db, "2026-03-01T10:00Z")
    return chat_id


def questions(db: Db) -> list[str]:
    """The ids of the stored questions in order, of all conversations."""
    rows = db.execute("select external_id from public.messages where role = 'user' order by position").fetchall()
    return [row["external_id"] for row in rows]


def pending(db: Db) -> int:
    count: int = value(db, "select count(*) from public.pending_turns")
    return count


def lock(connection: Db, chat: str, how: str = "update") -> None:
    """Locks the conversation in an open transaction."""
    connection.execute("begin")
    connection.execute(LOCKS[how][0].encode(), (chat,))


@pytest.mark.parametrize("how", LOCKS)
@pytest.mark.parametrize("is_known", [True, False], ids=["known at admission", "new at admission"])
def test_a_locked_conversation_delays_no_charge(
    db: Db, connect: Connect, user: str, chat: str, how: str, is_known: bool
) -> None:
    query = admit(db, user, "q2", p_chat_id=chat if is_known else None)
    other = connect()
    lock(other, chat, how)

    settled = settle(db, query["hold_id"], turn=turn(chat, "q2"))

    assert (settled["outcome"], settled["persisted"]) == ("answered", LOCKS[how][1])
    assert settle(db, query["hold_id"], turn=turn(chat, "q2")) == settled
    assert [row["is_charged"] for row in ledger(db, user)] == [True, True]
    assert value(db, APPLY) == 0
    assert (pending(db), questions(db)) == (1, ["q1"])

    other.execute("commit")
    assert value(db, APPLY) == 1
    assert value(db, APPLY) == 0
    assert (pending(db), questions(db)) == (0, [] if how == "delete" else ["q1", "q2"])
    assert ledger(db, user)[1]["message_id"] is None if how == "delete" else ledger(db, user)[1]["message_id"]
    assert db.execute("select * from public.reconcile()").fetchall() == []


def test_a_stored_pending_turn_is_as_if_stored_at_once(db: Db, connect: Connect) -> None:
    """Two users have the same turns; one conversation is locked at the second."""
    chats: list[list[dict[str, Any]]] = []
    for is_locked in (False, True):
        at(db, "2026-03-01T09:00Z")
        user, chat_id = new_user(db, "basic"), str(uuid.uuid4())
        settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1"))
        query = admit(db, user, p_provider="openai", p_chat_id=chat_id)
        at(db, "2026-03-01T10:00Z")
        other = connect()
        if is_locked:
            lock(other, chat_id)
        calls = {"function_calls": [{"id": "c1"}], "function_results": [{"id": "c1", "output": 1}]}
        answer = {"id": str(uuid.uuid4()), "content": "Second answer", **calls}
        settle(db, query["hold_id"], turn=turn(chat_id, "q2", answer=answer))
        other.execute("rollback" if is_locked else "select 1")
        at(db, "2026-03-01T11:00Z")
        assert value(db, APPLY) == int(is_locked)
        columns = "message_count, total_tokens, expires_at, last_message_at, title"
        rows = db.execute(f"select {columns} from public.conversations where id = %s".encode(), (chat_id,)).fetchall()
        rows += db.execute(
            "select position, role, external_id, content, tokens_input, tokens_output, provider, model, used_byo_key,"
            " function_calls, function_results, cost_usd, created_at from public.messages where conversation_id = %s"
            " order by position",
            (chat_id,),
        ).fetchall()
        (ledger_row,) = [row for row in ledger(db, user) if str(row["id"]) == query["hold_id"]]
        assert (str(ledger_row["conversation_id"]), str(ledger_row["message_id"])) == (chat_id, answer["id"])
        chats.append(rows)
    assert chats[0] == chats[1]
    assert len(chats[0]) == 5


def test_the_next_settlement_stores_earlier_turns_first(db: Db, connect: Connect, user: str, chat: str) -> None:
    other = connect()
    lock(other, chat)
    for number in (2, 3):
        at(db, f"2026-03-01T10:0{number}Z")
        settle(db, admit(db, user)["hold_id"], turn=turn(chat, f"q{number}"))
    other.execute("rollback")
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q4"))
    assert (pending(db), questions(db)) == (0, ["q1", "q2", "q3", "q4"])


def test_a_turn_waits_behind_more_than_one_call_stores(db: Db, connect: Connect, user: str, chat: str) -> None:
    other = connect()
    lock(other, chat)
    for number in range(2, 27):
        at(db, f"2026-03-01T10:{number:02}Z")
        settle(db, admit(db, user)["hold_id"], turn=turn(chat, f"q{number}"))
    other.execute("rollback")
    at(db, "2026-03-01T11:00Z")
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q27"))
    assert (pending(db), len(questions(db))) == (6, 21)
    assert [value(db, APPLY), value(db, APPLY)] == [6, 0]
    assert questions(db) == [f"q{number}" for number in range(1, 28)]


@pytest.mark.usefixtures("many_at_once")
@pytest.mark.parametrize("is_locked", [True, False])
def test_admission_reads_pending_turns_as_history(
    db: Db, connect: Connect, user: str, chat: str, is_locked: bool
) -> None:
    other = connect()
    lock(other, chat)
    for number in (2, 3):
        at(db, f"2026-03-01T10:0{number}Z")
        settle(db, admit(db, user)["hold_id"], turn=turn(chat, f"q{number}"))
    if not is_locked:
        other.execute("rollback")

    def history(question: str, **limits: int) -> list[str]:
        admitted = admit(db, user, p_chat_id=chat, p_question_id=question, **limits)
        return [message["content"] for message in admitted["history"]]

    turns = [[f"Question q{number}", "Answer"] for number in (1, 2, 3)]
    assert history("q4") == [*turns[0], *turns[1], *turns[2]]
    assert history("q3") == [*turns[0], *turns[1]]
    assert history("q1") == []
    assert history("q4", p_history_messages=2) == turns[2]
    assert history("q4", p_history_messages=3) == ["Answer", *turns[2]]
    assert history("q4", p_history_bytes=36) == [*turns[1], *turns[2]]
    assert pending(db) == (2 if is_locked else 0)


@pytest.mark.parametrize("edited", ["q1", "q2"])
def test_history_leaves_out_what_a_pending_turn_replaces(
    db: Db, connect: Connect, user: str, chat: str, edited: str
) -> None:
    """Both stored messages (q1) and a pending turn (q2). The history is the same before and after it is stored."""
    other = connect()
    lock(other, chat)
    for number, question in ((1, "q2"), (2, "q3"), (3, edited)):
        at(db, f"2026-03-01T10:0{number}Z")
        asked = admit(db, user, p_chat_id=chat, p_question_id=question)
        repeated = {"id": question, "content": f"Question {question}{' again' if question == edited else ''}"}
        settle(db, asked["hold_id"], turn=turn(chat, question, question=repeated))
    at(db, "2026-03-01T10:05Z")
    locked = admit(db, user, p_chat_id=chat)["history"]
    other.execute("rollback")
    free = admit(db, user, p_chat_id=chat)["history"]
    contents = [message["content"] for message in locked]
    assert contents == [message["content"] for message in free]
    assert contents[-2:] == [f"Question {edited} again", "Answer"]
    assert len(contents) == (2 if edited == "q1" else 4)


def test_a_repeated_request_gets_the_pending_answer(db: Db, connect: Connect, user: str, chat: str) -> None:
    query = admit(db, user, "again", p_chat_id=chat)
    lock(connect(), chat)
    settle(db, query["hold_id"], turn=turn(chat, "q2"))
    repeated = admit(db, user, "again", p_chat_id=chat)
    assert (repeated["decision"], repeated["answer"]["content"]) == ("ended", "Answer")
    followed = value(db, "select public.follow_query(%s, %s, gen_random_uuid(), %s)", user, chat, query["hold_id"])
    assert (followed["outcome"], followed["persisted"]) == ("answered", True)


def test_a_later_conversation_of_the_same_id_gets_no_old_turn(db: Db, connect: Connect, user: str, chat: str) -> None:
    """The deletion and the new conversation commit before the settlement of the old turn."""
    query = admit(db, user, p_chat_id=chat)
    deleting, settling = connect(), connect()
    lock(deleting, chat, "delete")
    at(settling, "2026-03-01T10:00Z")
    with settling.transaction():
        settle(settling, query["hold_id"], turn=turn(chat, "old"))
        deleting.execute("commit")
        at(db, "2026-03-01T10:01Z")
        settle(db, admit(db, user, p_chat_id=chat)["hold_id"], turn=turn(chat, "new"))
    assert value(db, APPLY) == 1
    assert (pending(db), questions(db)) == (0, ["new"])


@pytest.mark.parametrize("deletion", ["public.delete_conversation(%(chat)s)", "public.delete_history(%(user)s)"])
def test_a_deleted_conversation_takes_its_pending_turns(
    db: Db, connect: Connect, user: str, chat: str, deletion: str
) -> None:
    other = connect()
    lock(other, chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    other.execute("rollback")
    me = connect()
    me.execute("select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, false)", (user,))
    me.execute(f"select {deletion}".encode(), {"chat": chat, "user": user})
    assert (pending(db), questions(db)) == (0, [])
    assert [row["is_charged"] for row in ledger(db, user)] == [True, True]


def test_a_deleted_user_takes_their_pending_turns(db: Db, connect: Connect, user: str, chat: str) -> None:
    other = connect()
    lock(other, chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    other.execute("rollback")
    db.execute("delete from auth.users where id = %s", (user,))
    assert pending(db) == 0


def test_a_pending_turn_keeps_its_conversation_from_expiry(db: Db, connect: Connect, user: str, chat: str) -> None:
    at(db, "2026-05-29T10:00Z")
    other = connect()
    lock(other, chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    other.execute("rollback")
    at(db, "2026-06-01T10:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    assert value(db, APPLY) == 1
    assert value(db, "select expires_at::date::text from public.conversations") == "2026-08-27"


def test_a_downgrade_shortens_the_expiry_after_a_pending_turn(db: Db, connect: Connect, user: str, chat: str) -> None:
    at(db, "2026-03-10T10:00Z")
    other = connect()
    lock(other, chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    at(db, "2026-03-11T10:00Z")
    db.execute("update public.user_subscriptions set tier = 'free' where user_id = %s", (user,))
    other.execute("rollback")
    value(db, "select public.cleanup_expired_conversations()")
    assert value(db, APPLY) == 1
    value(db, "select public.cleanup_expired_conversations()")
    assert value(db, "select expires_at::date::text from public.conversations") == "2026-04-10"


def test_a_pending_turn_is_exported(db: Db, connect: Connect, user: str, chat: str) -> None:
    lock(connect(), chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    (row,) = db.execute("select record::json as record from public.export_user(%s, 'pending')", (user,)).fetchall()
    assert row["record"]["turn"]["question"] == {"id": "q2", "content": "Question q2"}


def test_reconcile_reports_pending_turns_that_are_wrong(db: Db, connect: Connect, user: str, chat: str) -> None:
    lock(connect(), chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    assert db.execute("select * from public.reconcile()").fetchall() == []
    at(db, "2026-03-01T11:01Z")
    found = "select invariant, expected, found from public.reconcile()"
    assert [row["invariant"] for row in db.execute(found)] == ["overdue"]
    at(db, "2026-03-01T10:00Z")
    db.execute("update public.usage_logs set message_id = (select id from public.messages limit 1)")
    assert [(row["invariant"], row["expected"]) for row in db.execute(found)] == [
        ("I5", "a charged query whose turn is not stored")
    ]


def test_two_appliers_store_a_turn_once(db: Db, connect: Connect, user: str, chat: str) -> None:
    """The second finds the conversation locked by the first."""
    other = connect()
    lock(other, chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    other.execute("rollback")
    first = connect()
    with first.transaction():
        assert value(first, APPLY) == 1
        assert value(db, APPLY) == 0
    assert value(db, APPLY) == 0
    assert questions(db) == ["q1", "q2"]


def test_a_killed_applier_leaves_the_turn_to_the_next(db: Db, connect: Connect, user: str, chat: str) -> None:
    other = connect()
    lock(other, chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    other.execute("rollback")
    killed = connect()
    killed.execute("begin")
    assert value(killed, APPLY) == 1
    db.execute("select pg_terminate_backend(%s, 10000)", (killed.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        killed.execute("commit")
    assert (pending(db), questions(db)) == (1, ["q1"])
    assert value(db, APPLY) == 1
    assert (pending(db), questions(db)) == (0, ["q1", "q2"])


@pytest.mark.parametrize("how", LOCKS)
def test_track_query_usage_waits_for_no_conversation(db: Db, connect: Connect, user: str, chat: str, how: str) -> None:
    message = value(db, "select id from public.messages where role = 'assistant'")
    lock(connect(), chat, how)
    call = "select public.track_query_usage(%s, %s, %s, 1, 1, 'openai', 'm', false, 0)"
    db.execute(call, (user, chat, message))
    tracked = next(row for row in ledger(db, user) if row["model"] == "m")
    assert (tracked["is_charged"], tracked["conversation_id"] is not None) == (True, how == "update")


def test_a_pending_turn_that_cannot_be_stored_is_dropped(db: Db, connect: Connect, user: str, chat: str) -> None:
    """It keeps no other turn from being stored. Without a lock the settlement fails, and is repeated without it."""
    impossible = turn(chat, "x" * 129)
    hold_id = admit(db, user)["hold_id"]
    with pytest.raises(psycopg.errors.CheckViolation):
        settle(db, hold_id, turn=impossible)
    assert settle(db, hold_id)["persisted"] is False
    other = connect()
    lock(other, chat)
    settle(db, admit(db, user)["hold_id"], turn=impossible)
    other.execute("rollback")
    at(db, "2026-03-01T10:01Z")
    assert settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))["persisted"] is True
    assert (pending(db), questions(db)) == (0, ["q1", "q2"])
    assert [row["message_id"] is not None for row in ledger(db, user)] == [True, False, False, True]
    assert all(row["is_charged"] for row in ledger(db, user))


def test_no_role_reads_pending_turns(connect: Connect) -> None:
    for role in ("anon", "authenticated", "service_role"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connect(role).execute("select from public.pending_turns")
