"""Keys that users bring, in the database: who may store one, what is told of it, that uses_byo_key is always right."""

import json
import threading
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, ledger, release, settle, value
from tests.sql.test_lock_order import waits

Connect = Callable[..., Db]
PROVIDERS = ("anthropic", "openai")
LAPSED = {"status": "canceled", "current_period_start": "2026-01-01Z", "current_period_end": "2026-02-01Z"}


def base64(text: str) -> str:
    """As the functions take bytes."""
    return b64encode(text.encode()).decode()


def put(
    db: Db, user: str, provider: str = "openai", key_id: str | None = None, *,
    seal: str = "000000000001", ring: str = "1", hint: str = "…1234", valid: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """put_api_key. `seal`, twelve characters, is the nonce, and in the rest of what is sealed."""
    stored: dict[str, Any] = value(
        db, "select public.put_api_key(%s, %s, %s, %s, %s, %s, %s, %s, %s)", key_id or str(uuid.uuid4()), user,
        provider, base64(f"key {seal}"), base64(seal), base64(f"tag {seal}"), ring, hint, valid,
    )  # fmt: skip
    return stored


def note(db: Db, key_id: str, user: str, *, valid: bool, error: str = "Not accepted.") -> dict[str, Any] | None:
    """note_api_key."""
    noted: dict[str, Any] | None = value(db, "select public.note_api_key(%s, %s, %s, %s)", key_id, user, valid, error)
    return noted


def get(db: Db, user: str, provider: str = "openai") -> dict[str, str] | None:
    """get_api_key."""
    sealed: dict[str, str] | None = value(db, "select public.get_api_key(%s, %s)", user, provider)
    return sealed


def id_of(db: Db, user: str, provider: str = "openai") -> str:
    """The id of a stored key."""
    sealed = get(db, user, provider)
    assert sealed is not None
    return sealed["id"]


def delete(db: Db, user: str, provider: str = "openai") -> bool:
    """delete_api_key."""
    deleted: bool = value(db, "select public.delete_api_key(%s, %s)", user, provider)
    return deleted


def to_rotate(db: Db, current: str, after: str | None = None, limit: int = 500) -> list[dict[str, str]]:
    """api_keys_to_rotate."""
    rows: list[dict[str, str]] = value(db, "select public.api_keys_to_rotate(%s, %s, %s)", current, after, limit)
    return rows


def rotate(db: Db, rows: list[dict[str, str]], ring: str = "2") -> int:
    """rotate_api_keys: each row sealed anew, with a nonce that begins with the ring's key."""
    resealed = [
        {
            "id": row["id"],
            "old_iv": row["encryption_iv"],
            "encrypted_key": base64(f"anew {ring}"),
            "encryption_iv": base64(ring.ljust(12, "n")),
            "encryption_tag": base64(ring.ljust(16, "t")),
            "encryption_key_id": ring,
        }
        for row in rows
    ]
    rotated: int = value(db, "select public.rotate_api_keys(%s)", json.dumps(resealed))
    return rotated


def stored(db: Db, user: str) -> list[dict[str, Any]]:
    """A user's rows, by provider."""
    return db.execute("select * from public.user_api_keys where user_id = %s order by provider", (user,)).fetchall()


def uses_own(db: Db, user: str) -> bool:
    """uses_byo_key."""
    uses: bool = counters(db, user)["uses_byo_key"]
    return uses


def listed(connect: Connect, user: str) -> dict[str, Any]:
    """list_api_keys, as the user."""
    answer: dict[str, Any] = value(connect("authenticated", user), "select public.list_api_keys()")
    return answer


class InBackground:
    """One call in a thread of its own, which is known to wait for a lock."""

    def __init__(self, db: Db, pool: ThreadPoolExecutor, connection: Db, call: Callable[[Db], Any]) -> None:
        done = threading.Event()

        def run() -> Any:
            try:
                return call(connection)
            finally:
                done.set()

        self.future: Future[Any] = pool.submit(run)
        self.waited = waits(db, connection.info.backend_pid, done)


# What is stored and told -----------------------------------------------------------------------------------------


def test_a_stored_key_is_told_by_its_provider_its_hint_and_how_it_stands(db: Db, connect: Connect) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    checked = put(db, user, "openai", hint="…1234")
    unchecked = put(db, user, "anthropic", hint="…5678", valid=False)
    noon = "2026-03-01T12:00:00+00:00"
    assert checked == {
        "provider": "openai", "hint": "…1234", "status": "valid", "last_validated_at": noon, "validation_error": None,
        "created_at": noon,
    }  # fmt: skip
    assert unchecked == {
        "provider": "anthropic", "hint": "…5678", "status": "unchecked", "last_validated_at": None,
        "validation_error": None, "created_at": noon,
    }  # fmt: skip
    assert listed(connect, user) == {"allowed": True, "keys": [unchecked, checked]}


def test_what_is_sealed_is_handed_out_as_it_was_stored_also_when_the_key_was_rejected(db: Db) -> None:
    user, key_id = new_user(db, "basic"), str(uuid.uuid4())
    assert get(db, user) is None
    put(db, user, key_id=key_id, seal="000000000007", ring="k-2")
    sealed = {
        "id": key_id,
        "encrypted_key": base64("key 000000000007"),
        "encryption_iv": base64("000000000007"),
        "encryption_tag": base64("tag 000000000007"),
        "encryption_key_id": "k-2",
    }
    assert get(db, user) == sealed
    note(db, key_id, user, valid=False)
    assert get(db, user) == sealed
    assert get(db, user, "anthropic") is None
    assert get(db, new_user(db, "basic")) is None


@pytest.mark.parametrize(
    ("tier", "columns"),
    [("free", {}), ("basic", LAPSED), ("pro", LAPSED), (None, {})],
    ids=["free", "lapsed basic", "lapsed pro", "nobody"],
)
def test_a_plan_without_own_keys_stores_none(
    db: Db, connect: Connect, tier: str | None, columns: dict[str, Any]
) -> None:
    user = new_user(db, tier, **columns) if tier else str(uuid.uuid4())
    with pytest.raises(psycopg.Error) as caught:
        put(db, user)
    assert caught.value.sqlstate == "NBYOK"
    assert stored(db, user) == []
    assert listed(connect, user) == {"allowed": False, "keys": []}


def test_a_plan_that_lapses_leaves_the_key_to_be_seen_and_deleted_but_not_replaced(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    put(db, user)
    before = stored(db, user)
    columns = ", ".join(f"{column} = %s" for column in LAPSED)
    db.execute(f"update public.user_subscriptions set {columns} where user_id = %s", (*LAPSED.values(), user))
    with pytest.raises(psycopg.Error) as caught:
        put(db, user, seal="000000000002")
    assert caught.value.sqlstate == "NBYOK"
    assert stored(db, user) == before
    assert [key["provider"] for key in listed(connect, user)["keys"]] == ["openai"]
    assert admit(db, user)["funding"] == "included"
    assert delete(db, user) is True


def test_a_cancelled_plan_stores_keys_until_its_period_ends(db: Db) -> None:
    at(db, "2026-01-31T23:59:59Z")
    user = new_user(db, "basic", **LAPSED)
    assert put(db, user)["status"] == "valid"
    at(db, "2026-02-01T00:00Z")
    with pytest.raises(psycopg.Error) as caught:
        put(db, user)
    assert caught.value.sqlstate == "NBYOK"


def test_listing_needs_a_user_and_shows_their_own_alone(db: Db, connect: Connect) -> None:
    me, other = new_user(db, "basic"), new_user(db, "basic")
    put(db, other, hint="…othr")
    assert listed(connect, me) == {"allowed": True, "keys": []}
    assert [key["hint"] for key in listed(connect, other)["keys"]] == ["…othr"]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Sign in to see your keys"):
        connect("authenticated").execute("select public.list_api_keys()")


def test_nothing_that_is_sealed_is_listed_noted_or_told_on_storing(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    told = [put(db, user, seal="sealedsealed"), note(db, id_of(db, user), user, valid=True), listed(connect, user)]
    for answer in told:
        text = json.dumps(answer)
        assert "openai" in text
        assert all(secret not in text for secret in ("sealed", base64("sealedsealed"), base64("key sealedsealed")))


# Replacing, noting, deleting -------------------------------------------------------------------------------------


def test_a_replaced_key_is_another_one_and_nothing_is_said_of_it_that_was_learnt_of_the_old_one(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    put(db, user, hint="…1111")
    old = id_of(db, user)
    note(db, old, user, valid=False)
    at(db, "2026-03-02T12:00Z")
    replaced = put(db, user, seal="000000000002", ring="2", hint="…2222", valid=False)
    assert replaced == {
        "provider": "openai", "hint": "…2222", "status": "unchecked", "last_validated_at": None,
        "validation_error": None, "created_at": "2026-03-02T12:00:00+00:00",
    }  # fmt: skip
    (row,) = before = stored(db, user)
    assert str(row["id"]) != old
    assert (row["encrypted_key"], row["encryption_iv"]) == (b"key 000000000002", b"000000000002")
    assert (row["encryption_tag"], row["encryption_key_id"]) == (b"tag 000000000002", "2")
    for valid in (True, False):
        assert note(db, old, user, valid=valid) is None
    assert stored(db, user) == before
    assert uses_own(db, user) is True


def test_what_is_noted_of_a_key_is_how_it_stands(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic")
    put(db, user, valid=False)
    key_id = id_of(db, user)
    told = []
    for day, valid in ((2, True), (3, False), (4, False), (5, True)):
        at(db, f"2026-03-0{day}T12:00Z")
        noted = note(db, key_id, user, valid=valid, error=f"Not accepted on day {day}.")
        assert noted is not None
        told.append((noted["status"], noted["last_validated_at"][:10], noted["validation_error"]))
    assert told == [
        ("valid", "2026-03-02", None),
        ("invalid", "2026-03-02", "Not accepted on day 3."),
        ("invalid", "2026-03-02", "Not accepted on day 4."),
        ("valid", "2026-03-05", None),
    ]
    assert id_of(db, user) == key_id


def test_a_key_is_noted_and_deleted_for_its_own_user_and_provider_alone(db: Db) -> None:
    me, other = new_user(db, "basic"), new_user(db, "basic")
    for user in (me, other):
        for provider in PROVIDERS:
            put(db, user, provider)
    before = stored(db, other)
    assert note(db, id_of(db, other), me, valid=False) is None
    assert delete(db, me, "openai") is True
    assert delete(db, me, "openai") is False
    assert [row["provider"] for row in stored(db, me)] == ["anthropic"]
    assert stored(db, other) == before


def test_a_put_that_is_sent_again_while_the_first_still_runs_stores_one_key(db: Db, connect: Connect) -> None:
    """As the client does when a response was lost: the same id, the same seal."""
    user, key_id = new_user(db, "basic"), str(uuid.uuid4())
    first, second = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            put(first, user, key_id=key_id)
            again = InBackground(db, pool, second, lambda connection: put(connection, user, key_id=key_id))
        assert again.waited
        assert again.future.result()["status"] == "valid"
    assert put(db, user, key_id=key_id)["status"] == "valid"
    assert [str(row["id"]) for row in stored(db, user)] == [key_id]


# uses_byo_key ----------------------------------------------------------------------------------------------------


def test_uses_byo_key_follows_every_change(db: Db) -> None:
    user, bystander = new_user(db, "basic"), new_user(db, "basic")
    followed = [uses_own(db, user)]
    for change in (
        lambda: put(db, user, "openai"),
        lambda: note(db, id_of(db, user), user, valid=False),
        lambda: note(db, id_of(db, user), user, valid=True),
        lambda: note(db, id_of(db, user), user, valid=False),
        lambda: put(db, user, "openai", valid=False),  # in place of a rejected one; unchecked counts as active
        lambda: put(db, user, "anthropic"),
        lambda: delete(db, user, "openai"),
        lambda: note(db, id_of(db, user, "anthropic"), user, valid=False),
        lambda: delete(db, user, "anthropic"),
    ):
        change()
        active = [row for row in stored(db, user) if row["is_active"]]
        assert uses_own(db, user) is bool(active)
        followed.append(bool(active))
    assert followed == [False, True, False, True, False, True, True, True, False, False]
    assert uses_own(db, bystander) is False


def test_a_user_who_goes_leaves_no_key(db: Db, database_url: str) -> None:
    """Deleted by Auth's own role, which may not touch our tables."""
    user, other = new_user(db, "basic"), new_user(db, "basic")
    for provider in PROVIDERS:
        put(db, user, provider)
        put(db, other, provider)
    with psycopg.connect(make_conninfo(database_url, user="supabase_auth_admin"), autocommit=True) as auth:
        auth.execute("delete from auth.users where id = %s", (user,))
    assert stored(db, user) == []
    assert len(stored(db, other)) == 2
    assert uses_own(db, other) is True


Change = Callable[[Db, str, str], Any]
CHANGES: dict[str, Change] = {
    "delete": delete,
    "reject": lambda db, user, provider: note(db, id_of(db, user, provider), user, valid=False),
    "put": put,
}


@pytest.mark.parametrize(
    ("first", "second", "uses"),
    [
        ("delete", "delete", False),
        ("reject", "reject", False),
        ("delete", "reject", False),
        ("reject", "delete", False),
        ("delete", "put", True),
        ("put", "reject", True),
    ],
)
def test_two_providers_keys_changed_at_the_same_instant_leave_uses_byo_key_right(
    db: Db, connect: Connect, first: str, second: str, uses: bool
) -> None:
    """Neither transaction sees the other's change of a key, so one has to wait for the other before it counts."""
    user = new_user(db, "basic")
    for provider in PROVIDERS:
        put(db, user, provider)
    one, another = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        with one.transaction():
            CHANGES[first](one, user, "anthropic")
            change = InBackground(db, pool, another, lambda connection: CHANGES[second](connection, user, "openai"))
            assert change.waited
        change.future.result()
    assert uses_own(db, user) is uses
    assert any(row["is_active"] for row in stored(db, user)) is uses


def test_a_change_that_is_taken_back_is_not_counted(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    for provider in PROVIDERS:
        put(db, user, provider)
    one, another = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        with one.transaction(force_rollback=True):
            delete(one, user, "anthropic")
            change = InBackground(db, pool, another, lambda connection: delete(connection, user, "openai"))
        assert change.waited
        assert change.future.result() is True
    assert [row["provider"] for row in stored(db, user)] == ["anthropic"]
    assert uses_own(db, user) is True


# Rotation --------------------------------------------------------------------------------------------------------


def test_what_another_key_of_the_ring_sealed_is_found_in_order_of_ids_page_by_page(db: Db) -> None:
    ids = []
    for number in range(5):
        user, key_id = new_user(db, "basic"), str(uuid.uuid4())
        put(db, user, key_id=key_id, ring="2" if number == 4 else str(number % 2))
        ids.append(key_id)
    old = sorted(ids[:4])
    assert [row["id"] for row in to_rotate(db, "2")] == old
    assert [row["id"] for row in to_rotate(db, "2", limit=3)] == old[:3]
    assert [row["id"] for row in to_rotate(db, "2", after=old[2], limit=3)] == old[3:]
    assert to_rotate(db, "2", after=old[3]) == []
    assert sorted(row["id"] for row in to_rotate(db, "0")) == sorted([ids[1], ids[3], ids[4]])


def test_a_row_to_rotate_has_what_opening_it_takes(db: Db) -> None:
    user = new_user(db, "basic")
    put(db, user, "anthropic")
    (row,) = to_rotate(db, "2")
    sealed = get(db, user, "anthropic")
    assert sealed is not None
    assert row == {**sealed, "user_id": user, "provider": "anthropic"}


def test_a_page_has_a_thousand_rows_at_most(db: Db) -> None:
    db.execute("insert into auth.users (id) select gen_random_uuid() from generate_series(1, 1001)")
    db.execute(
        "insert into public.user_api_keys (user_id, provider, encrypted_key, encryption_iv, encryption_tag,"
        " encryption_key_id, hint) select id, 'openai', '\\x00', %s, %s, '1', '…' from auth.users",
        (b"0" * 12, b"0" * 16),
    )
    first = to_rotate(db, "2", limit=1_000_000)
    assert len(first) == 1000
    assert len(to_rotate(db, "2", after=first[-1]["id"], limit=1_000_000)) == 1


def test_rotating_changes_the_seal_and_nothing_else(db: Db) -> None:
    user = new_user(db, "basic")
    for provider in PROVIDERS:
        put(db, user, provider)
    note(db, id_of(db, user, "anthropic"), user, valid=False)
    before = stored(db, user)
    rows = to_rotate(db, "2")
    assert rotate(db, rows) == 2
    after = stored(db, user)
    for was, now in zip(before, after, strict=True):
        assert (now["encrypted_key"], now["encryption_key_id"]) == (b"anew 2", "2")
        assert (now["encryption_iv"], now["encryption_tag"]) == (b"2nnnnnnnnnnn", b"2ttttttttttttttt")
        changed = {column for column in was if was[column] != now[column]}
        assert changed <= {"encrypted_key", "encryption_iv", "encryption_tag", "encryption_key_id", "updated_at"}
    assert to_rotate(db, "2") == []
    assert rotate(db, rows) == 0  # sent again
    assert stored(db, user) == after


@pytest.mark.parametrize("meanwhile", ["replaced", "deleted", "rotated"])
def test_what_changed_since_it_was_read_is_not_rotated(db: Db, meanwhile: str) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    put(db, user)
    put(db, other)
    rows = to_rotate(db, "2")
    if meanwhile == "replaced":
        put(db, user, key_id=id_of(db, user), seal="000000000002", ring="3")  # even under the same id
    elif meanwhile == "deleted":
        delete(db, user)
    else:
        rotate(db, [row for row in rows if row["user_id"] == user], ring="3")
    before = stored(db, user)
    assert rotate(db, rows) == 1
    assert stored(db, user) == before
    assert [row["encryption_key_id"] for row in stored(db, other)] == ["2"]


def test_what_was_only_noted_since_it_was_read_is_rotated(db: Db) -> None:
    """The seal is the same, whatever has been learnt of the key."""
    user = new_user(db, "basic")
    put(db, user)
    rows = to_rotate(db, "2")
    note(db, id_of(db, user), user, valid=False)
    assert rotate(db, rows) == 1
    (row,) = stored(db, user)
    assert (row["encryption_key_id"], row["is_active"]) == ("2", False)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_being_changed_is_left_alone_and_not_waited_for(db: Db, connect: Connect, change: str) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    put(db, user)
    put(db, other)
    rows = to_rotate(db, "2")
    changing = connect()
    db.execute("set lock_timeout = '10s'")  # so that waiting would fail
    with changing.transaction():
        CHANGES[change](changing, user, "openai")
        assert rotate(db, rows) == 1
    assert [row["encryption_key_id"] for row in stored(db, other)] == ["2"]
    assert [row["encryption_key_id"] for row in stored(db, user)] == ([] if change == "delete" else ["1"])
    assert len(to_rotate(db, "2")) == (0 if change == "delete" else 1)


# Queries on an own key -------------------------------------------------------------------------------------------


def test_a_query_on_an_own_key_is_admitted_with_what_is_sealed_also_when_it_is_asked_again(db: Db) -> None:
    user = new_user(db, "basic")
    put(db, user, "openai", seal="000000000001")
    query = admit(db, user, "question", p_provider="openai")
    assert (query["funding"], query["key"]) == ("byok", get(db, user))
    again = admit(db, user, "question", query["hold_id"], p_provider="openai")
    assert again == query
    put(db, user, "openai", seal="000000000002")
    again = admit(db, user, "question", query["hold_id"], p_provider="openai")
    assert again["key"] == get(db, user)
    assert b64decode(again["key"]["encryption_iv"]) == b"000000000002"
    delete(db, user)
    again = admit(db, user, "question", query["hold_id"], p_provider="openai")
    assert (again["decision"], again["funding"], again["key"]) == ("admitted", "byok", None)


def test_the_key_is_the_one_for_the_provider_that_answers(db: Db) -> None:
    user = new_user(db, "basic")
    for number, provider in enumerate(PROVIDERS):
        put(db, user, provider, seal=f"00000000000{number}")
    for provider in PROVIDERS:
        query = admit(db, user, p_provider=provider)
        assert (query["provider"], query["key"]) == (provider, get(db, user, provider))
    preferred = admit(db, user)
    assert (preferred["provider"], preferred["key"]) == ("anthropic", get(db, user, "anthropic"))
    note(db, id_of(db, user, "anthropic"), user, valid=False)
    left = admit(db, user)
    assert (left["provider"], left["key"]) == ("openai", get(db, user, "openai"))


def test_no_other_funding_comes_with_a_key(db: Db) -> None:
    user = new_user(db, "basic", daily_quota=3, stripe_subscription_id="sub_1")
    put(db, user, "openai")
    others = [
        admit(db, user, p_own_key=False),
        admit(db, user, p_provider="anthropic"),
    ]
    note(db, id_of(db, user), user, valid=False)
    others += [admit(db, user, p_provider="openai"), admit(db, user)]
    assert [query["funding"] for query in others] == ["included", "included", "included", "overage"]
    assert [query["key"] for query in others] == [None] * 4


def own_key_query(db: Db, user: str, *, valid: bool) -> dict[str, Any]:
    """A key stored at noon and a query on it at one."""
    at(db, "2026-03-01T12:00Z")
    put(db, user, valid=valid)
    at(db, "2026-03-01T13:00Z")
    query = admit(db, user)
    assert query["funding"] == "byok"
    at(db, "2026-03-01T14:00Z")
    return query


@pytest.mark.parametrize("outcome", ["answered", "stopped"])
def test_an_unchecked_key_that_a_provider_has_answered_to_is_valid(db: Db, connect: Connect, outcome: str) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    put(db, other, valid=False)
    query = own_key_query(db, user, valid=False)
    put_before = stored(db, other)
    settle(db, query["hold_id"], outcome)
    (told,) = listed(connect, user)["keys"]
    assert (told["status"], told["last_validated_at"]) == ("valid", "2026-03-01T14:00:00+00:00")
    assert stored(db, other) == put_before
    assert uses_own(db, user) is True


def test_a_key_that_is_known_to_be_valid_is_not_written_again_by_a_query(db: Db) -> None:
    user = new_user(db, "basic")
    query = own_key_query(db, user, valid=True)
    before = stored(db, user)
    settle(db, query["hold_id"])
    assert stored(db, user) == before


def test_a_query_that_failed_says_nothing_of_its_key(db: Db) -> None:
    user = new_user(db, "basic")
    query = own_key_query(db, user, valid=False)
    before = stored(db, user)
    release(db, query["hold_id"])
    assert stored(db, user) == before
    settle(db, query["hold_id"])  # too late: it has failed
    assert stored(db, user) == before


def test_a_query_says_nothing_of_a_key_that_was_stored_after_it_began(db: Db) -> None:
    user = new_user(db, "basic")
    query = own_key_query(db, user, valid=False)
    put(db, user, seal="000000000002", valid=False)
    before = stored(db, user)
    settle(db, query["hold_id"])
    assert stored(db, user) == before
    assert [row["funding"] for row in ledger(db, user)] == ["byok"]


def test_a_query_says_nothing_of_a_rejected_key_of_anothers_or_of_another_providers(db: Db) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic")
    for owner, provider in ((user, "anthropic"), (other, "openai")):
        at(db, "2026-03-01T12:00Z")
        put(db, owner, provider, valid=False)
    at(db, "2026-03-01T12:00Z")
    put(db, user, "openai", valid=False)
    query = admit(db, user, p_provider="openai")
    note(db, id_of(db, user, "openai"), user, valid=False)
    before = stored(db, user), stored(db, other)
    settle(db, query["hold_id"])
    assert (stored(db, user), stored(db, other)) == before


def test_a_query_that_the_plan_pays_says_nothing_of_a_key(db: Db) -> None:
    user = new_user(db, "basic")
    at(db, "2026-03-01T12:00Z")
    put(db, user, "openai", valid=False)
    before = stored(db, user)
    settle(db, admit(db, user, p_provider="openai", p_own_key=False)["hold_id"])
    assert stored(db, user) == before
