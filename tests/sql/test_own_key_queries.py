"""Queries on an own key: the key that admission returns, and the validation by an answer."""

from base64 import b64decode
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.api_keys import (
    PROVIDERS,
    delete_key,
    get_key,
    key_id_of,
    list_keys,
    note_key,
    put_key,
    stored_keys,
    uses_byo_key,
)
from tests.sql.metering import Db, admit, at, ledger, release, settle


def test_admission_returns_the_encrypted_key_on_repeated_calls_too(db: Db) -> None:
    user = new_user(db, "basic")
    put_key(db, user, "openai", nonce="000000000001")
    query = admit(db, user, "question", p_provider="openai")
    assert (query["funding"], query["key"]) == ("byok", get_key(db, user))
    again = admit(db, user, "question", query["hold_id"], p_provider="openai")
    assert again == query
    put_key(db, user, "openai", nonce="000000000002")
    again = admit(db, user, "question", query["hold_id"], p_provider="openai")
    assert again["key"] == get_key(db, user)
    assert b64decode(again["key"]["encryption_iv"]) == b"000000000002"
    delete_key(db, user)
    again = admit(db, user, "question", query["hold_id"], p_provider="openai")
    assert (again["decision"], again["funding"], again["key"]) == ("admitted", "byok", None)


@pytest.mark.usefixtures("many_at_once")
def test_admission_returns_the_key_of_the_chosen_provider(db: Db) -> None:
    user = new_user(db, "basic")
    for number, provider in enumerate(PROVIDERS):
        put_key(db, user, provider, nonce=f"00000000000{number}")
    for provider in PROVIDERS:
        query = admit(db, user, p_provider=provider)
        assert (query["provider"], query["key"]) == (provider, get_key(db, user, provider))
    preferred = admit(db, user)
    assert (preferred["provider"], preferred["key"]) == ("anthropic", get_key(db, user, "anthropic"))
    note_key(db, key_id_of(db, user, "anthropic"), user, valid=False)
    remaining = admit(db, user)
    assert (remaining["provider"], remaining["key"]) == ("openai", get_key(db, user, "openai"))


@pytest.mark.usefixtures("many_at_once")
def test_only_byok_admissions_return_a_key(db: Db) -> None:
    user = new_user(db, "basic", daily_quota=3, stripe_subscription_id="sub_1")
    put_key(db, user, "openai")
    unpaid_by_key = [
        admit(db, user, p_own_key=False),
        admit(db, user, p_provider="anthropic"),
    ]
    note_key(db, key_id_of(db, user), user, valid=False)
    unpaid_by_key += [admit(db, user, p_provider="openai"), admit(db, user)]
    assert [query["funding"] for query in unpaid_by_key] == ["included", "included", "included", "overage"]
    assert [query["key"] for query in unpaid_by_key] == [None] * 4


def own_key_query(db: Db, user: str, *, valid: bool) -> dict[str, Any]:
    """Stores a key at 12:00 and admits a query on it at 13:00. Sets the clock to 14:00."""
    at(db, "2026-03-01T12:00Z")
    put_key(db, user, valid=valid)
    at(db, "2026-03-01T13:00Z")
    query = admit(db, user)
    assert query["funding"] == "byok"
    at(db, "2026-03-01T14:00Z")
    return query


@pytest.mark.parametrize("outcome", ["answered", "stopped"])
def test_a_successful_query_validates_an_unchecked_key(db: Db, connect: Connect, outcome: str) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    put_key(db, other, valid=False)
    query = own_key_query(db, user, valid=False)
    before = stored_keys(db, other)
    settle(db, query["hold_id"], outcome)
    (listed,) = list_keys(connect, user)["keys"]
    assert (listed["status"], listed["last_validated_at"]) == ("valid", "2026-03-01T14:00:00+00:00")
    assert stored_keys(db, other) == before
    assert uses_byo_key(db, user) is True


def test_a_query_does_not_rewrite_a_valid_key(db: Db) -> None:
    user = new_user(db, "basic")
    query = own_key_query(db, user, valid=True)
    before = stored_keys(db, user)
    settle(db, query["hold_id"])
    assert stored_keys(db, user) == before


def test_a_failed_query_does_not_validate_its_key(db: Db) -> None:
    user = new_user(db, "basic")
    query = own_key_query(db, user, valid=False)
    before = stored_keys(db, user)
    release(db, query["hold_id"])
    assert stored_keys(db, user) == before
    settle(db, query["hold_id"])  # ignored: the query has failed
    assert stored_keys(db, user) == before


def test_a_query_does_not_validate_a_key_stored_later(db: Db) -> None:
    user = new_user(db, "basic")
    query = own_key_query(db, user, valid=False)
    put_key(db, user, nonce="000000000002", valid=False)
    before = stored_keys(db, user)
    settle(db, query["hold_id"])
    assert stored_keys(db, user) == before
    assert [row["funding"] for row in ledger(db, user)] == ["byok"]


def test_a_query_validates_no_rejected_or_unrelated_key(db: Db) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    for owner, provider in ((user, "anthropic"), (other, "openai")):
        at(db, "2026-03-01T12:00Z")
        put_key(db, owner, provider, valid=False)
    at(db, "2026-03-01T12:00Z")
    put_key(db, user, "openai", valid=False)
    query = admit(db, user, p_provider="openai")
    note_key(db, key_id_of(db, user, "openai"), user, valid=False)
    before = stored_keys(db, user), stored_keys(db, other)
    settle(db, query["hold_id"])
    assert (stored_keys(db, user), stored_keys(db, other)) == before


def test_a_query_paid_by_the_plan_validates_no_key(db: Db) -> None:
    user = new_user(db, "basic")
    at(db, "2026-03-01T12:00Z")
    put_key(db, user, "openai", valid=False)
    before = stored_keys(db, user)
    settle(db, admit(db, user, p_provider="openai", p_own_key=False)["hold_id"])
    assert stored_keys(db, user) == before


def test_the_dearest_models_need_an_own_key(db: Db) -> None:
    user = new_user(db, "pro")
    with pytest.raises(psycopg.DatabaseError, match="claude-sonnet-5-5, claude-haiku-5-5") as refused:
        admit(db, user, p_provider="anthropic", p_model="claude-opus-5-5")
    assert refused.value.sqlstate == "NOMDL"
    put_key(db, user, "anthropic")
    query = admit(db, user, p_provider="anthropic", p_model="claude-opus-5-5")
    assert (query["funding"], query["model"]) == ("byok", "claude-opus-5-5")
    with pytest.raises(psycopg.DatabaseError, match="does not have this model"):
        admit(db, user, p_provider="openai", p_model="gpt-6-astra")
    assert admit(db, user, p_provider="anthropic")["model"] == "claude-sonnet-5-5"
