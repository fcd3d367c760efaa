"""update_conversation and delete_conversation: users change their own conversations."""

import uuid
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, admit, ledger, settle, turn, value

UPDATE = "select public.update_conversation(%s, %s, %s, %s)"
DELETE = "select public.delete_conversation(%s)"


@pytest.fixture
def user(db: Db) -> str:
    """A user whose plan stores history."""
    return new_user(db, "pro")


@pytest.fixture
def chat(db: Db, user: str) -> str:
    """A conversation of the user with one turn."""
    chat_id = str(uuid.uuid4())
    settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1"))
    return chat_id


def shown(db: Db, chat: str) -> tuple[Any, ...]:
    """The columns that a user may change."""
    row = db.execute("select title, is_pinned, is_archived from public.conversations where id = %s", (chat,)).fetchone()
    assert row is not None
    return tuple(row.values())


def test_null_leaves_a_value_as_it_is(db: Db, connect: Connect, user: str, chat: str) -> None:
    me = connect("authenticated", user)
    assert shown(db, chat) == ("A title", False, False)
    me.execute(UPDATE, (chat, "Budget", None, None))
    assert shown(db, chat) == ("Budget", False, False)
    me.execute(UPDATE, (chat, None, True, True))
    assert shown(db, chat) == ("Budget", True, True)
    me.execute(UPDATE, (chat, None, None, False))
    assert shown(db, chat) == ("Budget", True, False)
    me.execute("select public.update_conversation(%s)", (chat,))
    assert shown(db, chat) == ("Budget", True, False)


@pytest.mark.parametrize("title", ["", "x" * 201])
def test_a_title_has_1_to_200_characters(connect: Connect, db: Db, user: str, chat: str, title: str) -> None:
    me = connect("authenticated", user)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="A title must have 1 to 200 characters"):
        me.execute(UPDATE, (chat, title, None, None))
    me.execute(UPDATE, (chat, "é" * 200, None, None))
    assert shown(db, chat)[0] == "é" * 200


@pytest.mark.parametrize("call", [UPDATE.replace("%s, %s, %s, %s", "%s, 'Theirs'"), DELETE], ids=["update", "delete"])
def test_another_users_conversation_is_not_found(db: Db, connect: Connect, chat: str, call: str) -> None:
    other = connect("authenticated", new_user(db, "pro"))
    for conversation_id in (chat, str(uuid.uuid4())):
        with pytest.raises(psycopg.Error, match="There is no such conversation") as caught:
            other.execute(call.encode(), (conversation_id,))
        assert caught.value.sqlstate == "NTFND"
    assert shown(db, chat) == ("A title", False, False)


@pytest.mark.parametrize("call", [UPDATE.replace("%s, %s, %s, %s", "%s, 'Mine'"), DELETE], ids=["update", "delete"])
def test_a_token_without_a_user_is_refused(connect: Connect, chat: str, call: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Sign in to"):
        connect("authenticated").execute(call.encode(), (chat,))


def test_a_deletion_keeps_the_charges(db: Db, connect: Connect, user: str, chat: str) -> None:
    other = new_user(db, "pro")
    settle(db, admit(db, other)["hold_id"], turn=turn("theirs", "q1"))

    connect("authenticated", user).execute(DELETE, (chat,))

    assert value(db, "select external_id from public.conversations") == "theirs"
    assert value(db, "select count(*) from public.messages") == 2
    assert [(row["is_charged"], row["conversation_id"], row["message_id"]) for row in ledger(db, user)] == [
        (True, None, None)
    ]
    assert ledger(db, other)[0]["message_id"] is not None


def test_one_call_deletes_a_long_conversation(db: Db, connect: Connect, user: str, chat: str) -> None:
    """delete_conversations deletes 250 messages of a longer conversation."""
    db.execute(
        "insert into public.messages (conversation_id, position, role, content)"
        " select %s, n, 'user', 'Text' from generate_series(3, 600) n",
        (chat,),
    )
    db.execute("update public.conversations set message_count = 600")
    connect("authenticated", user).execute(DELETE, (chat,))
    assert value(db, "select (select count(*) from public.conversations) + (select count(*) from public.messages)") == 0
