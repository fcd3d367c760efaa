"""chat_messages: a chat as its user sees it after a reload."""

import json
import uuid
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, admit, release, settle, turn, value

READ = "select public.chat_messages(%s, %s, %s, %s, %s)"


def read(
    db: Db, user: str, chat: str = "chat", before: int | None = None, limit: int = 200, size: int = 4_000_000
) -> Any:
    """What chat_messages returns."""
    return value(db, READ, user, chat, before, limit, size)


def texts(page: dict[str, Any]) -> list[str]:
    return [message["content"] for message in page["messages"]]


def ask(db: Db, user: str, number: int, chat: str = "chat", **more: Any) -> str:
    """Admits question `number`. Returns the hold's id."""
    question = json.dumps({"id": f"q{number}", "content": f"Question q{number}"})
    hold_id: str = admit(db, user, p_chat_id=chat, p_question=question, **more)["hold_id"]
    return hold_id


def answer(db: Db, hold_id: str, number: int, chat: str = "chat") -> None:
    """Settles a query with the answer `number`."""
    settle(
        db, hold_id, turn=turn(chat, f"q{number}", answer_id=hold_id, answer={"id": hold_id, "content": f"A{number}"})
    )


def test_a_running_question_is_the_last_message(db: Db) -> None:
    user = new_user(db, "pro")
    first = ask(db, user, 1)
    page = read(db, user)
    assert (texts(page), page["conversation"]["is_running"]) == (["Question q1"], True)
    assert (page["conversation"]["id"], page["conversation"]["chat_id"]) == (None, "chat")
    assert page["messages"][0]["id"] == "q1"
    answer(db, first, 1)
    second = ask(db, user, 2)
    page = read(db, user)
    assert texts(page) == ["Question q1", "A1", "Question q2"]
    assert page["messages"][1]["id"] == first
    assert page["messages"][1]["funding"] == "included"
    release(db, second)
    page = read(db, user)
    assert (texts(page), page["conversation"]["is_running"]) == (["Question q1", "A1"], False)


def test_a_plan_without_history_has_only_the_running_question(db: Db) -> None:
    user = new_user(db, "free")
    hold = ask(db, user, 1)
    assert texts(read(db, user)) == ["Question q1"]
    answer(db, hold, 1)
    with pytest.raises(psycopg.Error, match="no such conversation"):
        read(db, user)


def test_an_expired_hold_is_not_running(db: Db) -> None:
    user = new_user(db, "pro")
    ask(db, user, 1, p_hold_seconds=1)
    db.execute("update public.query_holds set expires_at = now() - interval '1 second' where user_id = %s", (user,))
    with pytest.raises(psycopg.Error, match="no such conversation"):
        read(db, user)


def test_a_repeated_question_hides_what_it_replaces(db: Db, connect: Connect) -> None:
    """While it runs, and while its turn waits for the conversation's lock."""
    user = new_user(db, "pro")
    for number in (1, 2, 3):
        answer(db, ask(db, user, number), number)
    again = ask(db, user, 2, p_question_id="q2")
    assert texts(read(db, user)) == ["Question q1", "A1", "Question q2"]
    with connect() as locked:
        locked.execute("begin")
        locked.execute("select from public.conversations where user_id = %s for update", (user,))
        answer(db, again, 20)
        assert texts(read(db, user)) == ["Question q1", "A1", "Question q20", "A20"]
        once_more = ask(db, user, 2, p_question_id="q20")
        assert texts(read(db, user)) == ["Question q1", "A1", "Question q2"]
        answer(db, once_more, 21)
        pending = read(db, user)
        assert texts(pending) == ["Question q1", "A1", "Question q21", "A21"]
        assert value(db, "select count(*) from public.pending_turns") == 2
        locked.execute("commit")
    while value(db, "select public.apply_pending_turns()"):
        pass
    assert read(db, user)["messages"] == pending["messages"]


def test_pages_end_at_their_limits(db: Db) -> None:
    user = new_user(db, "pro")
    for number in (1, 2, 3):
        answer(db, ask(db, user, number), number)
    newest = read(db, user, limit=4)
    assert (texts(newest), newest["before"]) == (["Question q2", "A2", "Question q3", "A3"], 3)
    first = read(db, user, before=newest["before"], limit=4)
    assert (texts(first), first["before"]) == (["Question q1", "A1"], None)
    assert texts(read(db, user, size=len("Question q3A3"))) == ["Question q3", "A3"]
    assert texts(read(db, user, size=0)) == ["A3"]  # never an empty page
    assert texts(read(db, user, before=1)) == []


def test_another_users_chat_is_not_found(db: Db) -> None:
    user, other, chat = new_user(db, "pro"), new_user(db, "pro"), str(uuid.uuid4())
    answer(db, ask(db, user, 1, chat), 1, chat)
    with pytest.raises(psycopg.Error, match="no such conversation"):
        read(db, other, chat)
    ask(db, other, 2)
    assert texts(read(db, other)) == ["Question q2"]
