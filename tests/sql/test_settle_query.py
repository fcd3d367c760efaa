"""settle_query and release_query: a query ends once."""

import uuid

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.billing import new_customer
from tests.sql.metering import Db, admit, at, counters, holds, key, ledger, pack, release, settle, turn, value


def test_repeated_settlement_writes_one_ledger_row(db: Db) -> None:
    user = new_user(db, "basic")
    query = admit(db, user, "question", p_provider="openai")
    first = settle(db, query["hold_id"])
    assert settle(db, query["hold_id"]) == first
    assert release(db, query["hold_id"])["outcome"] == "answered"  # already settled
    (row,) = ledger(db, user)
    assert (str(row["id"]), row["request_id"], row["funding"]) == (query["hold_id"], "question", "included")
    assert (row["tokens_total"], str(row["cost_usd"]), row["provider"]) == (120, "0.000123", "openai")
    assert (row["counted_against_quota"], row["was_overage"], row["used_byo_key"]) == (True, False, False)
    assert (holds(db, user), counters(db, user)["quota_used"]) == (0, 1)


def test_a_query_that_was_never_admitted_cannot_be_ended(db: Db) -> None:
    for end in (settle, release):
        with pytest.raises(psycopg.Error) as caught:
            end(db, str(uuid.uuid4()))
        assert caught.value.sqlstate == "NOHLD"


def test_each_function_accepts_only_its_own_outcomes(db: Db) -> None:
    query = admit(db, new_user(db, "basic"))
    for end, outcome in ((settle, "failed"), (settle, "lost"), (release, "answered"), (release, "stopped")):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            end(db, query["hold_id"], outcome)


@pytest.mark.parametrize("outcome", ["failed", "lost"])
def test_a_failed_query_returns_its_funding(db: Db, outcome: str) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", stripe_subscription_id="sub_1", daily_quota=1)
    bought = pack(db, user, 1)
    before = counters(db, user)
    queries = [admit(db, user) for _ in range(3)]
    assert [query["funding"] for query in queries] == ["included", "credit", "overage"]
    assert value(db, "select depleted_at is not null from public.credit_packs where id = %s", bought)
    for query in queries:
        assert release(db, query["hold_id"], outcome)["charged_usd"] == "0.000000"
    after = counters(db, user)
    for column in ("quota_used", "lifetime_used", "current_overage_amount"):
        assert after[column] == before[column]
    state = db.execute("select credits_remaining, credits_used, depleted_at from public.credit_packs").fetchone()
    assert state == {"credits_remaining": 1, "credits_used": 0, "depleted_at": None}
    assert [(row["outcome"], row["overage_charge"], row["counted_against_quota"]) for row in ledger(db, user)] == [
        (outcome, 0, False)
    ] * 3


def test_a_failure_after_midnight_does_not_change_the_new_day(db: Db) -> None:
    at(db, "2026-03-01T23:59Z")
    user = new_user(db, "basic")
    late = admit(db, user)
    at(db, "2026-03-02T00:01Z")
    admit(db, user)
    release(db, late["hold_id"])
    assert counters(db, user)["quota_used"] == 1


def test_a_failure_does_not_lower_overage_of_the_next_period(db: Db) -> None:
    at(db, "2026-03-31T23:59Z")
    user = new_user(db, "usage_only", stripe_subscription_id="sub_1", overage_period_start="2026-03-01Z")
    late = admit(db, user)
    at(db, "2026-04-01T00:01Z")
    admit(db, user)
    release(db, late["hold_id"])
    assert str(counters(db, user)["current_overage_amount"]) == "0.025000"


def test_a_plan_change_during_a_query_refunds_the_old_plan(db: Db) -> None:
    user = new_user(db, "free")
    query = admit(db, user)
    db.execute("update public.user_subscriptions set tier = 'pro' where user_id = %s", (user,))
    admit(db, user)
    release(db, query["hold_id"])
    assert (counters(db, user)["lifetime_used"], counters(db, user)["quota_used"]) == (0, 1)


def test_a_byok_query_is_logged_but_not_counted(db: Db) -> None:
    user = new_user(db, "usage_only")
    key(db, user, "anthropic")
    settle(db, admit(db, user)["hold_id"])
    (row,) = ledger(db, user)
    assert (row["funding"], row["used_byo_key"], row["overage_charge"]) == ("byok", True, 0)
    assert counters(db, user)["quota_used"] == 0


def test_a_turn_is_stored_under_its_chat_id(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    chat_id, answer_id = str(uuid.uuid4()), str(uuid.uuid4())
    settled = settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q1", answer_id))
    assert settled["persisted"] is True
    conversation = db.execute("select * from public.conversations").fetchone()
    assert conversation is not None
    assert (str(conversation["id"]), conversation["external_id"]) == (chat_id, None)
    assert (conversation["title"], conversation["message_count"], conversation["total_tokens"]) == ("A title", 2, 120)
    assert (conversation["context_type"], conversation["context_id"]) == ("bill", "C-2")
    assert conversation["expires_at"].isoformat() == "2026-03-31T12:00:00+00:00"
    at(db, "2026-03-02T12:00Z")
    settle(db, admit(db, user)["hold_id"], turn=turn(chat_id, "q2", title="Another"))
    conversation = db.execute("select * from public.conversations").fetchone()
    assert conversation is not None
    assert (conversation["title"], conversation["message_count"], conversation["total_tokens"]) == ("A title", 4, 240)
    assert conversation["expires_at"].isoformat() == "2026-04-01T12:00:00+00:00"
    (first, second) = ledger(db, user)
    assert (str(first["conversation_id"]), str(first["message_id"])) == (chat_id, answer_id)
    assert second["message_id"] != first["message_id"]


def test_admission_returns_the_newest_messages_in_order(db: Db) -> None:
    user = new_user(db, "pro")
    for number in range(3):
        settle(db, admit(db, user)["hold_id"], turn=turn("talk", f"q{number}"))
    history = admit(db, user, p_chat_id="talk", p_question_id="q3", p_history_messages=3)["history"]
    assert [message["content"] for message in history] == ["Answer", "Question q2", "Answer"]
    repeated = admit(db, user, p_chat_id="talk", p_question_id="q1")["history"]
    assert [message["content"] for message in repeated] == ["Question q0", "Answer"]


def test_a_repeated_question_replaces_the_messages_after_it(db: Db) -> None:
    user = new_user(db, "pro")
    for question in ("q1", "q2", "q1"):
        query = admit(db, user, p_chat_id="talk", p_question_id=question)
        settle(db, query["hold_id"], turn=turn("talk", question))
    rows = db.execute("select position, role, external_id from public.messages order by position").fetchall()
    assert [(row["position"], row["role"], row["external_id"]) for row in rows] == [
        (1, "user", "q1"),
        (2, "assistant", None),
    ]
    assert [row["message_id"] is not None for row in ledger(db, user)] == [False, False, True]


@pytest.mark.parametrize("tier", ["free", "usage_only"])
def test_a_plan_without_history_stores_no_turn(db: Db, tier: str) -> None:
    user = new_user(db, tier, stripe_subscription_id="sub_1")
    assert settle(db, admit(db, user)["hold_id"], turn=turn("talk", "q1"))["persisted"] is False
    assert value(db, "select count(*) from public.conversations") == 0


def test_a_taken_conversation_uuid_is_charged_but_not_stored(db: Db) -> None:
    chat_id = str(uuid.uuid4())
    slow, fast = new_user(db, "basic"), new_user(db, "basic")
    query = admit(db, slow, p_chat_id=chat_id)
    settle(db, admit(db, fast, p_chat_id=chat_id)["hold_id"], turn=turn(chat_id, "q1"))
    assert settle(db, query["hold_id"], turn=turn(chat_id, "q2"))["persisted"] is False
    assert [row["outcome"] for row in ledger(db, slow)] == ["answered"]
    assert value(db, "select count(*) from public.messages") == 2
    with pytest.raises(psycopg.Error) as caught:
        admit(db, slow, p_chat_id=chat_id)
    assert caught.value.sqlstate == "NTFND"


@pytest.mark.parametrize("chat_id", [str(uuid.uuid4()), "talk"], ids=["uuid", "of any name"])
def test_an_answer_is_not_stored_in_a_deleted_conversation(db: Db, chat_id: str) -> None:
    """The user deleted the conversation while the answer ran. The query is charged."""
    user = new_user(db, "pro")
    settle(db, admit(db, user, p_chat_id=chat_id)["hold_id"], turn=turn(chat_id, "q1"))
    query, another = admit(db, user, p_chat_id=chat_id), admit(db, user, p_chat_id=chat_id)
    db.execute("delete from public.conversations")

    assert settle(db, query["hold_id"], turn=turn(chat_id, "q2"))["persisted"] is False

    assert [row["outcome"] for row in ledger(db, user)] == ["answered", "answered"]
    assert value(db, "select count(*) from public.conversations") == 0
    # Nor in a new conversation of the same name.
    new = admit(db, user, p_chat_id=chat_id)
    assert settle(db, new["hold_id"], turn=turn(chat_id, "q3"))["persisted"] is True
    settle(db, another["hold_id"], turn=turn(chat_id, "q4"))
    stored = db.execute("select external_id from public.messages where role = 'user'").fetchall()
    assert [row["external_id"] for row in stored] == (["q3"] if chat_id == "talk" else ["q3", "q4"])


def test_a_downgraded_plan_stores_no_more_than_it_allows(db: Db) -> None:
    user = new_customer(db, tier="pro", next_tier="usage_only", daily_quota=0)
    at(db, "2026-04-01T00:00Z")
    query = admit(db, user)
    assert (query["tier"], query["keeps_history"]) == ("usage_only", False)
    assert settle(db, query["hold_id"], turn=turn("talk", "q1"))["persisted"] is False
