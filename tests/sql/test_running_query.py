"""note_progress, stop_query, follow_query: how other processes read and stop a running query."""

import json
import uuid
from typing import Any

import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, holds, ledger, release, settle, value

FOLLOWER = "0a7c4f0e-9b3e-4f0e-8f0e-2f6d7a3f2c22"
CHAT = "0a7c4f0e-9b3e-4f0e-8f0e-2f6d7a3f2c11"


def note_progress(db: Db, hold_id: str, start: int, text: str, *, closing: bool = False) -> dict[str, Any] | None:
    """What note_progress returns for one query; None if it does not return it."""
    notes = json.dumps([{"hold_id": hold_id, "position": start, "progress": text}])
    noted: list[dict[str, Any]] = value(db, "select public.note_progress(%s, %s)", notes, closing)
    assert [note.pop("hold_id") for note in noted] in ([], [hold_id])
    return noted[0] if noted else None


def follow_query(
    db: Db, user: str, chat: str = CHAT, hold_id: str | None = None, start: int = 0, follower: str = FOLLOWER
) -> dict[str, Any] | None:
    followed: dict[str, Any] | None = value(
        db, "select public.follow_query(%s, %s, %s, %s, %s)", user, chat, follower, hold_id, start
    )
    return followed


def stop_query(db: Db, user: str, chat: str = CHAT) -> bool:
    stopped: bool = value(db, "select public.stop_query(%s, %s)", user, chat)
    return stopped


def running(db: Db, tier: str = "basic", chat: str = CHAT) -> tuple[str, str]:
    """Admits a query. Returns the user and the hold."""
    user = new_user(db, tier)
    hold_id: str = admit(db, user, p_chat_id=chat)["hold_id"]
    return user, hold_id


def test_progress_is_read_from_the_given_character_on(db: Db) -> None:
    user, hold = running(db)
    assert follow_query(db, user) == {"hold_id": hold, "progress": ""}
    note_progress(db, hold, 0, "Un député ")
    assert follow_query(db, user) == {"hold_id": hold, "progress": "Un député "}
    note_progress(db, hold, 10, "a parlé.")
    assert follow_query(db, user, hold_id=hold, start=10) == {"hold_id": hold, "progress": "a parlé."}
    assert follow_query(db, user, hold_id=hold, start=18) == {"hold_id": hold, "progress": ""}


def test_repeated_progress_is_stored_once(db: Db) -> None:
    """A client that got no response repeats the call."""
    user, hold = running(db)
    note_progress(db, hold, 0, "One ")
    for _ in range(2):
        note_progress(db, hold, 4, "two")
    followed = follow_query(db, user)
    assert followed is not None
    assert followed["progress"] == "One two"


def test_note_progress_returns_reader_position_and_stop_request(db: Db) -> None:
    user, hold = running(db)
    assert note_progress(db, hold, 0, "Text") == {"stop_requested": False, "followed_to": None}
    follow_query(db, user)
    assert note_progress(db, hold, 4, "") == {"stop_requested": False, "followed_to": 0}
    follow_query(db, user, hold_id=hold, start=4)
    assert stop_query(db, user) is True
    assert note_progress(db, hold, 4, "") == {"stop_requested": True, "followed_to": 4}


@pytest.mark.parametrize("outcome", ["answered", "stopped", "failed"])
def test_a_reader_gets_the_outcome(db: Db, outcome: str) -> None:
    user, hold = running(db)
    note_progress(db, hold, 0, "Text")
    follow_query(db, user)
    _ = release(db, hold) if outcome == "failed" else settle(db, hold, outcome)
    ended = follow_query(db, user, hold_id=hold, start=4)
    assert ended is not None
    assert "progress" not in ended
    assert (ended["outcome"], ended["tokens_input"], ended["cost_usd"]) == (outcome, 100, "0.000123")
    assert (ended["charged_usd"], ended["persisted"]) == ("0.000000", False)
    assert follow_query(db, user) is None  # a new reader cannot start


def test_no_new_reader_starts_on_a_closing_query(db: Db) -> None:
    user, hold = running(db)
    note_progress(db, hold, 0, "Text", closing=True)
    assert follow_query(db, user) is None
    assert stop_query(db, user) is False
    other, other_hold = running(db, chat="mine")
    follow_query(db, other, "mine")
    assert note_progress(db, other_hold, 0, "Text", closing=True) == {"stop_requested": False, "followed_to": 0}
    assert follow_query(db, other, "mine", other_hold) == {"hold_id": other_hold, "progress": "Text"}


def test_a_lost_query_cannot_be_followed(db: Db) -> None:
    user, hold = running(db)
    note_progress(db, hold, 0, "Text")
    at(db, "2100-01-01Z")
    assert follow_query(db, user) is None
    assert follow_query(db, user, hold_id=hold) is None
    assert stop_query(db, user) is False


def test_users_follow_and_stop_only_their_own_queries(db: Db) -> None:
    _, hold = running(db)
    other = new_user(db, "basic")
    note_progress(db, hold, 0, "Text")
    assert follow_query(db, other) is None
    assert follow_query(db, other, hold_id=hold) is None
    assert stop_query(db, other) is False
    settle(db, hold)
    assert follow_query(db, other, hold_id=hold) is None
    assert note_progress(db, hold, 4, "more") is None


def test_only_uuid_chat_ids_are_case_insensitive(db: Db) -> None:
    user, _ = running(db)
    assert stop_query(db, user, CHAT.upper()) is True
    other, _ = running(db, chat="My chat")
    assert [stop_query(db, other, name) for name in ("my chat", "My chat ", str(uuid.uuid4()))] == [False] * 3
    assert stop_query(db, other, "My chat") is True


def test_progress_is_deleted_with_its_hold(db: Db) -> None:
    user, hold = running(db, "free")
    note_progress(db, hold, 0, "Some progress text")
    settle(db, hold)
    assert holds(db, user) == 0
    (row,) = ledger(db, user)
    assert not [field for field in row.values() if isinstance(field, str) and "progress" in field]


def test_progress_updates_touch_no_index(db: Db) -> None:
    """Each chat writes once a second, so every update must be a heap-only tuple."""
    _, hold = running(db)
    before = value(db, "select pg_stat_get_xact_tuples_hot_updated('public.query_holds'::regclass)")
    with db.transaction():
        for number in range(5):
            note_progress(db, hold, number, "x")
        after = value(db, "select pg_stat_get_xact_tuples_hot_updated('public.query_holds'::regclass)")
    assert after - before == 5
