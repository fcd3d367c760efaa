"""share_conversation, unshare_conversation, shared_conversation: a copy for everybody who has the link."""

import json
import secrets
import uuid
from typing import Any

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, settle, turn, value

SOURCES = [{"url": "https://openparliament.ca/bills/45-1/C-5/", "title": "Bill C-5"},
           {"url": "https://openparliament.ca/votes/45-1/18/", "title": "Vote 18"}]  # fmt: skip
ANSWER = {
    "id": str(uuid.uuid4()),
    "content": "Let me see. Passed.",
    "step_ends": [11, 11, 19],
    "function_calls": [{"id": "call-1", "name": "get_bill", "input": {"number": "C-5"}, "step": 0, "at": 0}],
    "function_results": [
        {"id": "call-1", "output": {"internal": True}, "sources": SOURCES[1:]},
        {"id": "call-2", "error": "internal"},
        {"id": "call-3", "output": {}, "sources": SOURCES},
    ],
    "finish_reason": "stop",
}


@pytest.fixture
def user(db: Db) -> str:
    at(db, "2026-01-01T12:00Z")
    return new_user(db, "pro")


@pytest.fixture
def chat(db: Db, user: str) -> str:
    """A stored conversation, whose chat id is no UUID."""
    settle(db, admit(db, user)["hold_id"], turn=turn("my chat", "q1", answer={**ANSWER, "id": str(uuid.uuid4())}))
    return "my chat"


def share(db: Db, user: str, chat: str) -> dict[str, Any]:
    shared: dict[str, Any] = value(
        db, "select public.share_conversation(%s, %s, %s)", user, chat, secrets.token_urlsafe(24)
    )
    return shared


def read(db: Db, token: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = value(db, "select public.shared_conversation(%s)", token)
    return found


def sqlstate(db: Db, user: str, chat: str) -> str | None:
    with pytest.raises(psycopg.Error) as caught:
        share(db, user, chat)
    return caught.value.sqlstate


def test_a_copy_has_texts_and_sources_only(db: Db, user: str, chat: str) -> None:
    shared = share(db, user, chat)
    copy = read(db, shared["token"])
    assert copy is not None
    assert (copy["title"], copy["expires_at"]) == ("A title", shared["expires_at"])
    assert [(message["id"], message["role"], message["metadata"]["finish_reason"]) for message in copy["messages"]] == [
        ("1", "user", None),
        ("2", "assistant", "stop"),
    ]
    parts = [[{**part} for part in message["parts"]] for message in copy["messages"]]
    assert parts == [
        [{"type": "text", "text": "Question q1"}],
        [{"type": "text", "text": "Let me see."},
            {"type": "text", "text": " Passed."},
         {"type": "source-url", "sourceId": "source-1", **SOURCES[1]},
         {"type": "source-url", "sourceId": "source-2", **SOURCES[0]}],
    ]  # fmt: skip
    text = json.dumps(copy)
    ids = db.execute("select id from public.usage_logs union select id from public.conversations").fetchall()
    assert not [word for word in ("internal", "get_bill", "token", "cost", user) if word in text]
    assert not [row for row in ids if str(row["id"]) in text]


def test_a_copy_changes_only_when_it_is_shared_again(db: Db, user: str, chat: str) -> None:
    first = share(db, user, chat)
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))
    assert len((read(db, first["token"]) or {})["messages"]) == 2
    assert share(db, user, chat)["token"] == first["token"]
    assert len((read(db, first["token"]) or {})["messages"]) == 4


def test_sharing_ends_when_the_user_ends_it(db: Db, user: str, chat: str) -> None:
    first = share(db, user, chat)
    other = new_user(db, "pro")
    unshare = "select public.unshare_conversation(%s, %s)"
    assert value(db, unshare, other, chat) is False
    assert [value(db, unshare, user, chat) for _ in range(2)] == [True, False]
    assert read(db, first["token"]) is None
    assert share(db, user, chat)["token"] != first["token"]


def test_a_blocked_user_shares_nothing(db: Db, user: str, chat: str) -> None:
    token = share(db, user, chat)["token"]
    for blocked in (False, True):
        columns = ("2026-01-01Z", "Abuse") if blocked else (None, None)
        db.execute("update public.user_subscriptions set blocked_at = %s, blocked_reason = %s", columns)
        assert (read(db, token) is None) is blocked
    db.execute("update public.user_subscriptions set blocked_at = null, blocked_reason = null")
    db.execute("update auth.users set banned_until = 'infinity' where id = %s", (user,))
    assert read(db, token) is None
    db.execute("update auth.users set banned_until = '2026-01-01Z' where id = %s", (user,))
    assert read(db, token) is not None
    db.execute("update public.user_subscriptions set blocked_at = '2026-01-01Z', blocked_reason = 'Abuse'")
    assert sqlstate(db, user, chat) == "BANND"


def test_sharing_ends_with_the_conversation(db: Db, user: str, chat: str) -> None:
    token = share(db, user, chat)["token"]
    assert value(db, "select public.delete_history(%s)", user) == 1
    assert read(db, token) is None


def test_a_copy_expires_as_its_conversation_did_when_shared(db: Db, user: str, chat: str) -> None:
    first = share(db, user, chat)
    assert first["expires_at"] == "2026-04-01T12:00:00+00:00"
    at(db, "2026-03-01T12:00Z")
    settle(db, admit(db, user)["hold_id"], turn=turn(chat, "q2"))  # the conversation now expires later
    at(db, "2026-04-01T12:00Z")
    assert read(db, first["token"]) is None
    assert share(db, user, chat)["token"] != first["token"]
    at(db, "2026-05-30T12:00Z")
    assert sqlstate(db, user, chat) == "NTFND"  # it has expired and is not yet deleted
    db.execute("update public.conversations set is_pinned = true")
    pinned = share(db, user, chat)
    assert pinned["expires_at"] == "2026-08-28T12:00:00+00:00"
    at(db, "2026-08-28T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 1
    assert value(db, "select count(*) from public.shared_conversations") == 0
    assert value(db, "select count(*) from public.conversations") == 1


def test_only_a_stored_conversation_of_the_user_is_shared(db: Db, user: str, chat: str) -> None:
    mine = str(uuid.uuid4())
    settle(db, admit(db, user)["hold_id"], turn=turn(mine, "q1"))
    other = new_user(db, "pro")
    assert [sqlstate(db, *which) for which in ((other, mine), (other, chat), (user, str(uuid.uuid4())))] == [
        "NTFND"
    ] * 3
    assert sqlstate(db, str(uuid.uuid4()), chat) == "NOUSR"
    db.execute("update public.messages set content = repeat('é', 600000) where position = 1")
    assert sqlstate(db, user, chat) == "TOBIG"
