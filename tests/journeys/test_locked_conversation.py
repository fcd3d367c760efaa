"""A chat whose conversation another transaction has locked: it is answered, charged and, later, stored."""

import os
import random
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest

from infra.local.stack import Stack
from tests.api import Api, StateOf, question
from tests.conftest import Person
from tests.journeys.test_killed_turns import STEPS, KillAt, expire_holds
from tests.journeys.test_killed_turns import kill_at as kill_at
from tests.sql.metering import Db, value


@pytest.fixture
def chat(api: Api, person: Callable[..., Person]) -> tuple[Person, str]:
    """A user and a conversation with one turn."""
    user, chat_id = person("pro"), str(uuid.uuid4())
    assert api.chat(user, question("First", chat_id=chat_id)).status_code == 200
    return user, chat_id


@pytest.fixture
def other(stack: Stack) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Another connection to the database, with a transaction that is rolled back."""
    with psycopg.connect(stack.postgres.url()) as connection:
        yield connection
        connection.rollback()


def lock(connection: "psycopg.Connection[tuple[object, ...]]", chat_id: str) -> None:
    connection.execute("update public.conversations set title = 'Renamed' where id = %s", (chat_id,))


def test_an_answer_is_charged_now_and_stored_later(
    api: Api, chat: tuple[Person, str], other: "psycopg.Connection[tuple[object, ...]]", state_of: StateOf
) -> None:
    user, chat_id = chat
    lock(other, chat_id)
    answered = api.chat(user, question("Second", chat_id=chat_id)).json()
    assert answered["metadata"]["persisted"] is True
    state = state_of(user)
    assert (state.outcomes, state.holds, len(state.messages)) == (["answered"] * 2, 0, 2)

    other.rollback()
    third = f"Third {uuid.uuid4()}"
    assert api.chat(user, question(third, chat_id=chat_id)).json()["metadata"]["persisted"] is True
    texts = [content for role, content in state_of(user).messages if role == "user"]
    assert texts == ["First", "Second", third]
    # The provider got all turns as history.
    sent = [message["text"] for message in api.provider_requests(third)[0]["messages"]]
    assert any("Second" in text for text in sent)


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_a_killed_turn_is_stored_later_exactly_if_charged(
    stack: Stack,
    api: Api,
    chat: tuple[Person, str],
    other: "psycopg.Connection[tuple[object, ...]]",
    state_of: StateOf,
    kill_at: KillAt,
    stack_db: Db,
) -> None:
    user, chat_id = chat
    stride = 1 if os.environ.get("PROVE") else 5
    for step in range(random.randrange(stride), STEPS, stride):  # noqa: S311 -- any of them
        before = state_of(user)
        lock(other, chat_id)
        killed = kill_at(user, question("Briefly [fault:long 3]", chat_id=chat_id), step)
        expire_holds(stack)
        other.rollback()
        while value(stack_db, "select public.apply_pending_turns()"):
            pass
        after = state_of(user)
        charged = after.outcomes.count("answered") - before.outcomes.count("answered")
        assert charged in (0, 1)
        assert len(after.messages) - len(before.messages) == 2 * charged
        if not killed:
            break
    else:
        pytest.fail("the turn has more than STEPS steps")
    broken = stack_db.execute("select * from public.reconcile() where user_id = %s", (user.id,)).fetchall()
    assert broken == []
