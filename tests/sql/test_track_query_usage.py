"""track_query_usage: admits and settles a query in one call, by the rules of the chat."""

import uuid

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, counters, holds, key, ledger, settle, turn, value

CALL = "select public.track_query_usage(%s, %s, %s, 100, 20, 'anthropic', 'any-model', %s, 0.000123)"


def track(
    db: Db, user: str, conversation: str | None = None, message: str | None = None, own_key: bool = False
) -> None:
    """Calls track_query_usage."""
    db.execute(CALL, (user, conversation, message, own_key))


def test_it_counts_and_refuses_like_the_chat(db: Db) -> None:
    user = new_user(db, "basic", allow_overages=False, quota_used=13)
    track(db, user)
    admit(db, user)
    with pytest.raises(psycopg.Error, match="Daily quota exceeded") as caught:
        track(db, user)
    assert caught.value.sqlstate == "QUOTA"
    (row,) = ledger(db, user)
    assert (row["funding"], row["tokens_total"], str(row["cost_usd"]), row["model"]) == (
        "included",
        120,
        "0.000123",
        "any-model",
    )
    assert (holds(db, user), counters(db, user)["quota_used"]) == (1, 15)


def test_a_message_is_tracked_once(db: Db) -> None:
    user = new_user(db, "basic")
    chat_id, answer_id = str(uuid.uuid4()), str(uuid.uuid4())
    settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1", answer_id))
    for _ in range(2):
        track(db, user, chat_id, answer_id)
    assert counters(db, user)["quota_used"] == 2
    assert [str(row["message_id"]) for row in ledger(db, user)] == [answer_id, answer_id]


def test_a_conversation_of_another_user_is_not_found(db: Db) -> None:
    owner, other = new_user(db, "basic"), new_user(db, "basic")
    chat_id = str(uuid.uuid4())
    settle(db, admit(db, owner)["hold_id"], turn=turn(chat_id, "q1"))
    for conversation, message in ((chat_id, None), (None, str(uuid.uuid4())), (str(uuid.uuid4()), None)):
        with pytest.raises(psycopg.Error) as caught:
            track(db, other, conversation, message)
        assert caught.value.sqlstate == "NTFND"
    assert ledger(db, other) == []


def test_the_caller_chooses_an_own_key_that_must_exist(db: Db) -> None:
    user = new_user(db, "basic")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        track(db, user, own_key=True)
    key(db, user, "anthropic")
    track(db, user, own_key=True)
    track(db, user, own_key=False)
    assert sorted(row["funding"] for row in ledger(db, user)) == ["byok", "included"]
    assert value(db, "select count(*) from public.usage_logs where used_byo_key") == 1
