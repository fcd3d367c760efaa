"""The order of the turns of a chat: given at admission, whatever the order in which the queries end."""

import uuid
from typing import Any

import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, holds, ledger, release, settle, turn, value

CHAT = "talk"


@pytest.fixture
def user(db: Db) -> str:
    """A user whose plan stores history."""
    return new_user(db, "pro")


def ask(db: Db, user: str, question: str, request_id: str | None = None, **more: Any) -> dict[str, Any]:
    """Admits a question of the chat."""
    return admit(db, user, request_id or question, p_chat_id=CHAT, **more)


def ask_again(db: Db, user: str, question: str) -> dict[str, Any]:
    """Admits an edited question."""
    return ask(db, user, question, f"edit:{uuid.uuid4()}", p_question_id=question)


def regenerate(db: Db, user: str, question: str, answer: str | None = None) -> dict[str, Any]:
    """Admits a regeneration, of the newest answer if none is named."""
    hold_id = str(uuid.uuid4())
    request_id = answer and f"regenerate:{answer}:{question}"
    parameters = (user, request_id, hold_id, CHAT, question)
    call = "select public.admit_query(%s, %s, %s, %s, %s)"
    return {**value(db, call, *parameters), "hold_id": hold_id}


def answer(db: Db, query: dict[str, Any], question: str) -> dict[str, Any]:
    """Settles a query. The answer has its id, as in the chat."""
    return settle(db, query["hold_id"], turn=turn(CHAT, question, query["hold_id"]))


def stored(db: Db) -> list[str]:
    """The ids of the stored questions in order. Each is followed by its answer."""
    rows = db.execute("select role, external_id from public.messages order by position").fetchall()
    assert [row["role"] for row in rows] == ["user", "assistant"] * (len(rows) // 2)
    assert value(db, "select coalesce(sum(message_count), 0) from public.conversations") == len(rows)
    return [row["external_id"] for row in rows[::2]]


@pytest.mark.parametrize("is_new", [True, False])
def test_turns_are_stored_in_the_order_of_asking(db: Db, user: str, is_new: bool) -> None:
    if not is_new:
        answer(db, ask(db, user, "q0"), "q0")
    first, second, third = (ask(db, user, question) for question in ("q1", "q2", "q3"))
    for query, question in ((third, "q3"), (first, "q1"), (second, "q2")):
        assert answer(db, query, question)["persisted"] is True
    assert stored(db) == ["q1", "q2", "q3"] if is_new else ["q0", "q1", "q2", "q3"]


def test_pending_turns_keep_their_places(db: Db, user: str, connect: Any) -> None:
    answer(db, ask(db, user, "q0"), "q0")
    first, second = ask(db, user, "q1"), ask(db, user, "q2")
    other = connect()
    other.execute("begin")
    other.execute("select from public.conversations for update")
    for query, question in ((second, "q2"), (first, "q1")):
        answer(db, query, question)
    third = ask(db, user, "q3")
    other.execute("rollback")
    answer(db, third, "q3")
    assert stored(db) == ["q0", "q1", "q2", "q3"]


def test_a_failed_query_leaves_its_place(db: Db, user: str) -> None:
    failed = ask(db, user, "q1")
    later = ask(db, user, "q2")
    release(db, failed["hold_id"])
    answer(db, later, "q2")
    answer(db, ask(db, user, "q3"), "q3")
    assert stored(db) == ["q2", "q3"]


def test_an_edit_does_not_replace_what_was_asked_later(db: Db, user: str) -> None:
    for question in ("q1", "q2"):
        answer(db, ask(db, user, question), question)
    edit = ask_again(db, user, "q1")
    later = ask(db, user, "q3")
    answer(db, later, "q3")
    assert answer(db, edit, "q1")["persisted"] is True
    assert stored(db) == ["q1", "q3"]


@pytest.mark.parametrize("edit_ends_first", [True, False])
def test_an_edit_replaces_a_query_that_still_runs(db: Db, user: str, edit_ends_first: bool) -> None:
    answer(db, ask(db, user, "q1"), "q1")
    running = ask(db, user, "q2")
    edit = ask_again(db, user, "q1")
    for query, question in ((edit, "q1"), (running, "q2")) if edit_ends_first else ((running, "q2"), (edit, "q1")):
        assert answer(db, query, question)["persisted"] is (query is edit)
    assert stored(db) == ["q1"]
    assert [row["is_charged"] for row in ledger(db, user)] == [True] * 3


def test_a_new_query_stops_the_running_one_and_takes_nothing(db: Db, user: str) -> None:
    running = ask(db, user, "q1")
    waiting = ask(db, user, "q2", p_waits=True)
    assert waiting["decision"] == "waiting"
    stopping = db.execute("select id::text from public.query_holds where stop_requested").fetchall()
    assert (holds(db, user), stopping) == (1, [{"id": running["hold_id"]}])
    settle(db, running["hold_id"], "stopped", turn=turn(CHAT, "q1"))
    admitted = ask(db, user, "q2", p_waits=True)
    assert [message["content"] for message in admitted["history"]] == ["Question q1", "Answer"]


def test_a_query_that_has_waited_is_admitted(db: Db, user: str) -> None:
    ask(db, user, "q1")
    assert ask(db, user, "q2", p_waits=False)["decision"] == "admitted"


def test_what_runs_in_another_chat_is_not_waited_for(db: Db, user: str) -> None:
    admit(db, user, "q1", p_chat_id="another")
    admit(db, new_user(db, "pro"), "q1", p_chat_id=CHAT)
    assert ask(db, user, "q2", p_waits=True)["decision"] == "admitted"


def test_a_repeated_or_refused_request_stops_nothing(db: Db, user: str) -> None:
    answer(db, ask(db, user, "q1"), "q1")
    ask(db, user, "q2")
    assert ask(db, user, "q1", p_waits=True)["decision"] == "ended"
    assert ask(db, user, "q2", p_waits=True)["decision"] == "in_progress"
    db.execute("update public.user_subscriptions set daily_quota = 0, allow_overages = false")
    assert ask(db, user, "q3", p_waits=True)["decision"] == "refused"
    assert value(db, "select count(*) from public.query_holds where stop_requested") == 0


@pytest.mark.parametrize("tier", ["pro", "usage_only"])
def test_regenerations_of_an_answer_are_one_query(db: Db, tier: str) -> None:
    user = new_user(db, tier, daily_quota=9, stripe_subscription_id="sub_1")
    first = ask(db, user, "q1")
    answer(db, first, "q1")
    again = regenerate(db, user, "q1")
    assert again["decision"] == "admitted"
    assert regenerate(db, user, "q1")["decision"] == "in_progress"
    assert regenerate(db, user, "q1", first["hold_id"])["decision"] == "in_progress"
    answer(db, again, "q1")
    retried = regenerate(db, user, "q1", first["hold_id"])
    assert retried["decision"] == "ended"
    assert len(ledger(db, user)) == 2
    assert regenerate(db, user, "q1")["decision"] == "admitted"  # of the new answer
    if tier == "pro":
        assert retried["answer"]["id"] == again["hold_id"]
        assert stored(db) == ["q1"]


def test_a_regeneration_in_a_chat_without_answers_is_identified(db: Db, user: str) -> None:
    assert regenerate(db, user, "q1")["decision"] == "admitted"
    assert regenerate(db, user, "q1")["decision"] == "in_progress"
    assert regenerate(db, user, "q2")["decision"] == "admitted"
