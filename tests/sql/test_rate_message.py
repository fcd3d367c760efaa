"""rate_message: the rating of an answer, on every plan."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, admit, at, settle, turn, value


def answered(db: Db, user: str, chat: str | None = None) -> str:
    """A query of the user that ended. Returns its id."""
    hold: str = admit(db, user)["hold_id"]
    settle(db, hold, turn=turn(chat, "q1") if chat else None)
    return hold


def ratings(db: Db) -> list[tuple[Any, ...]]:
    """Rating and comment of every row."""
    rows = db.execute("select rating, comment from public.message_feedback order by created_at").fetchall()
    return [(row["rating"], row["comment"]) for row in rows]


def rate(db: Db, user: str, message: str, *rating: str | None) -> None:
    marks = ", %s" * len(rating)
    db.execute(f"select public.rate_message(%s, %s{marks})".encode(), (user, message, *rating))


@pytest.mark.parametrize("tier", ["free", "pro"])
def test_the_last_rating_of_an_answer_counts(db: Db, tier: str) -> None:
    user = new_user(db, tier)
    message = answered(db, user)
    rate(db, user, message, "up")
    rate(db, user, message, "down", "The bill has passed.")
    assert ratings(db) == [("down", "The bill has passed.")]
    rate(db, user, message, "up")
    assert ratings(db) == [("up", None)]
    rate(db, user, message, None)
    rate(db, user, message, None)
    assert ratings(db) == []


def test_only_the_user_who_asked_rates_an_answer(db: Db) -> None:
    user, other = new_user(db), new_user(db)
    message = answered(db, user)
    for who, rated, code in ((other, message, "NTFND"), (user, str(uuid.uuid4()), "NTFND"),
                             (str(uuid.uuid4()), message, "NOUSR")):  # fmt: skip
        with pytest.raises(psycopg.Error) as caught:
            rate(db, who, rated, "up")
        assert caught.value.sqlstate == code
    assert ratings(db) == []


def test_concurrent_ratings_store_one(db: Db, connect: Connect) -> None:
    user = new_user(db)
    message = answered(db, user)
    sessions = [connect() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda session: rate(session, user, message, "up"), sessions))
    assert ratings(db) == [("up", None)]


def test_ratings_end_with_their_conversation_and_after_ninety_days(db: Db) -> None:
    at(db, "2026-01-01T12:00Z")
    user = new_user(db, "pro")
    chat = str(uuid.uuid4())
    rate(db, user, answered(db, user, chat), "down", "Of a conversation")
    rate(db, user, answered(db, user), "down", "Of an answer that was not stored")
    assert value(db, "select public.delete_history(%s)", user) == 1
    assert ratings(db) == [("down", "Of an answer that was not stored")]
    at(db, "2026-04-01T11:59Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 0
    at(db, "2026-04-01T12:00Z")
    assert value(db, "select public.cleanup_expired_conversations()") == 1
    assert ratings(db) == []
