"""note_progress, stop_query, follow_query: a running query, as other processes hear and stop it."""

import uuid
from typing import Any

import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, holds, ledger, release, settle, value

CHAT = "0a7c4f0e-9b3e-4f0e-8f0e-2f6d7a3f2c11"


def note(db: Db, hold_id: str, begin: int, text: str, *, closing: bool = False) -> dict[str, Any] | None:
    noted: dict[str, Any] | None = value(
        db, "select public.note_progress(%s, %s, %s, %s)", hold_id, begin, text, closing
    )
    return noted


def follow(db: Db, user: str, chat: str = CHAT, hold_id: str | None = None, begin: int = 0) -> dict[str, Any] | None:
    followed: dict[str, Any] | None = value(
        db, "select public.follow_query(%s, %s, %s, %s)", user, chat, hold_id, begin
    )
    return followed


def stop(db: Db, user: str, chat: str = CHAT) -> bool:
    stopped: bool = value(db, "select public.stop_query(%s, %s)", user, chat)
    return stopped


def running(db: Db, tier: str = "basic", chat: str = CHAT) -> tuple[str, str]:
    """A user and the hold of their running query."""
    user = new_user(db, tier)
    hold_id: str = admit(db, user, p_chat_id=chat)["hold_id"]
    return user, hold_id


def test_what_is_noted_is_followed_from_its_start_and_then_from_where_one_is(db: Db) -> None:
    user, hold = running(db)
    assert follow(db, user) == {"hold_id": hold, "progress": ""}
    note(db, hold, 0, "Un député ")
    assert follow(db, user) == {"hold_id": hold, "progress": "Un député "}
    note(db, hold, 10, "a parlé.")
    assert follow(db, user, hold_id=hold, begin=10) == {"hold_id": hold, "progress": "a parlé."}
    assert follow(db, user, hold_id=hold, begin=18) == {"hold_id": hold, "progress": ""}


def test_what_is_noted_twice_is_said_once(db: Db) -> None:
    """A call whose answer was lost is sent again."""
    user, hold = running(db)
    note(db, hold, 0, "One ")
    for _ in range(2):
        note(db, hold, 4, "two")
    followed = follow(db, user)
    assert followed is not None
    assert followed["progress"] == "One two"


def test_a_running_turn_learns_who_follows_and_that_it_is_to_stop(db: Db) -> None:
    user, hold = running(db)
    assert note(db, hold, 0, "Said") == {"stop_requested": False, "followed_to": None}
    follow(db, user)
    assert note(db, hold, 4, "") == {"stop_requested": False, "followed_to": 0}
    follow(db, user, hold_id=hold, begin=4)
    assert stop(db, user) is True
    assert note(db, hold, 4, "") == {"stop_requested": True, "followed_to": 4}


@pytest.mark.parametrize("outcome", ["answered", "stopped", "failed"])
def test_who_follows_hears_how_it_ended(db: Db, outcome: str) -> None:
    user, hold = running(db)
    note(db, hold, 0, "Said")
    follow(db, user)
    _ = release(db, hold) if outcome == "failed" else settle(db, hold, outcome)
    ended = follow(db, user, hold_id=hold, begin=4)
    assert ended is not None
    assert "progress" not in ended
    assert (ended["outcome"], ended["tokens_input"], ended["cost_usd"]) == (outcome, 100, "0.000123")
    assert (ended["charged_usd"], ended["persisted"]) == ("0.000000", False)
    assert follow(db, user) is None  # nobody begins to


def test_nobody_begins_to_follow_what_is_about_to_end_unless_somebody_does_already(db: Db) -> None:
    user, hold = running(db)
    note(db, hold, 0, "Said", closing=True)
    assert follow(db, user) is None
    assert stop(db, user) is False
    other, held = running(db, chat="mine")
    follow(db, other, "mine")
    assert note(db, held, 0, "Said", closing=True) == {"stop_requested": False, "followed_to": 0}
    assert follow(db, other, "mine", held) == {"hold_id": held, "progress": "Said"}


def test_a_query_that_was_lost_is_followed_no_further(db: Db) -> None:
    user, hold = running(db)
    note(db, hold, 0, "Said")
    at(db, "2100-01-01Z")
    assert follow(db, user) is None
    assert follow(db, user, hold_id=hold) is None
    assert stop(db, user) is False


def test_only_the_users_own_queries_are_followed_and_stopped(db: Db) -> None:
    _, hold = running(db)
    other = new_user(db, "basic")
    note(db, hold, 0, "Mine")
    assert follow(db, other) is None
    assert follow(db, other, hold_id=hold) is None
    assert stop(db, other) is False
    settle(db, hold)
    assert follow(db, other, hold_id=hold) is None
    assert note(db, hold, 4, "more") is None


def test_a_uuid_names_its_chat_in_capitals_too_and_another_name_only_itself(db: Db) -> None:
    user, _ = running(db)
    assert stop(db, user, CHAT.upper()) is True
    other, _ = running(db, chat="My chat")
    assert [stop(db, other, name) for name in ("my chat", "My chat ", str(uuid.uuid4()))] == [False] * 3
    assert stop(db, other, "My chat") is True


def test_nothing_of_it_outlives_the_query(db: Db) -> None:
    user, hold = running(db, "free")
    note(db, hold, 0, "Nothing is kept on this plan")
    settle(db, hold)
    assert holds(db, user) == 0
    (row,) = ledger(db, user)
    assert not [field for field in row.values() if isinstance(field, str) and "kept" in field]


def test_notes_change_nothing_but_the_row_in_its_place(db: Db) -> None:
    """Written once a second and chat: no index is touched (a heap-only tuple each time)."""
    _, hold = running(db)
    before = value(db, "select pg_stat_get_xact_tuples_hot_updated('public.query_holds'::regclass)")
    with db.transaction():
        for number in range(5):
            note(db, hold, number, "x")
        after = value(db, "select pg_stat_get_xact_tuples_hot_updated('public.query_holds'::regclass)")
    assert after - before == 5
