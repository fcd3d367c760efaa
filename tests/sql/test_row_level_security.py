"""What a signed-in user can read and change through the Data API. Another user also has a row in every table."""

from typing import Any

import psycopg
import pytest

from tests.conftest import Connect
from tests.sql.metering import Db, at
from tests.sql.rows import UserWithRows, user_with_rows_in_every_table

NOON = "2026-03-10T12:00Z"
# The condition that selects the rows of a user, by relation. postgres, which sees all rows, uses it.
ROWS_OF_USER = {
    "conversations": "user_id = %s",
    "credit_packs": "user_id = %s",
    "daily_quota_usage": "user_id = %s",
    "messages": "conversation_id in (select id from public.conversations where user_id = %s)",
    "overage_invoice_items": "user_id = %s",
    "query_holds": "user_id = %s",
    "query_refusals": "user_id = %s",
    "usage_logs": "user_id = %s",
    "user_api_keys": "user_id = %s",
    "user_subscriptions": "user_id = %s",
}
# Relations that every role may read, and relations that only the service role may read.
PUBLIC = {"plans", "packs"}
INTERNAL = {"stripe_events", "retained_usage", "retained_invoice_items"}
# Columns that identify a row. Every role that may read the relation may read them. Default: id.
KEY_COLUMNS = {"daily_quota_usage": "user_id, query_date"}


@pytest.fixture
def me(db: Db) -> UserWithRows:
    """The signed-in user, with rows in every table."""
    at(db, NOON)
    return user_with_rows_in_every_table(db)


@pytest.fixture(autouse=True)
def other(db: Db) -> UserWithRows:
    """Another user with rows in every table."""
    at(db, NOON)
    return user_with_rows_in_every_table(db)


@pytest.fixture
def as_me(connect: Connect, me: UserWithRows) -> Db:
    """A connection as the Data API opens it for this user."""
    connection = connect("authenticated", me.id)
    at(connection, NOON)
    return connection


def refused(connection: Db, statement: str) -> bool:
    """Whether a statement fails because a grant is missing. Its changes are rolled back."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def columns(db: Db) -> list[tuple[str, str]]:
    """Every table and column."""
    found = db.execute(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid "
        "where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0 "
        "and not a.attisdropped order by 1, a.attnum"
    )
    return [(row["relname"], row["attname"]) for row in found]


def tables(db: Db) -> list[str]:
    """Every table."""
    return sorted({table for table, _ in columns(db)})


def test_every_relation_is_covered_here(db: Db) -> None:
    """Every relation that is neither public nor internal has rows of users."""
    found = db.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind not in ('i', 'I', 't')"
    ).fetchall()
    assert {row["relname"] for row in found} - PUBLIC - INTERNAL == set(ROWS_OF_USER)


@pytest.mark.parametrize("relation", ROWS_OF_USER)
def test_a_user_reads_only_their_own_rows(
    db: Db, as_me: Db, me: UserWithRows, other: UserWithRows, relation: str
) -> None:
    """All their rows, and no rows of another user."""
    query = f"select {KEY_COLUMNS.get(relation, 'id')} from public.{relation}"
    own_rows, other_rows = (
        db.execute(f"{query} where {ROWS_OF_USER[relation]}".encode(), (user.id,)).fetchall() for user in (me, other)
    )
    assert own_rows
    assert other_rows

    found = as_me.execute(query.encode()).fetchall()

    assert sorted(found, key=str) == sorted(own_rows, key=str)


@pytest.mark.parametrize("relation", ROWS_OF_USER)
def test_a_token_without_a_user_reads_nothing(connect: Connect, relation: str) -> None:
    """auth.uid() is null, which equals no user_id."""
    query = f"select {KEY_COLUMNS.get(relation, 'id')} from public.{relation}"
    assert connect("authenticated").execute(query.encode()).fetchall() == []


def test_anon_reads_only_plans_and_packs(connect: Connect) -> None:
    """Visitors who are not signed in see the prices."""
    anon = connect("anon")
    assert {row["tier"] for row in anon.execute("select tier from public.plans")} == {
        "free",
        "basic",
        "pro",
        "usage_only",
    }
    assert {row["slug"] for row in anon.execute("select slug from public.packs")} == {"pack_100", "pack_500"}
    assert [name for name in {*ROWS_OF_USER, *INTERNAL} if not refused(anon, f"select 1 from public.{name}")] == []


def test_a_user_cannot_read_stripe_events(db: Db, as_me: Db) -> None:
    """There is no grant, and with a grant no policy would allow a row."""
    db.execute("insert into public.stripe_events (event_id, type) values ('evt_1', 'invoice.paid')")
    assert refused(as_me, "select 1 from public.stripe_events")

    db.execute("grant select on public.stripe_events to authenticated")
    assert as_me.execute("select * from public.stripe_events").fetchall() == []


@pytest.mark.parametrize(("column", "value"), [("title", "Budget"), ("is_pinned", True), ("is_archived", True)])
def test_a_user_updates_only_their_own_conversations(
    db: Db, as_me: Db, me: UserWithRows, other: UserWithRows, column: str, value: Any
) -> None:
    """An update without a condition changes only their rows."""
    statement = f"update public.conversations set {column} = %s"

    assert as_me.execute(statement.encode(), (value,)).rowcount == 1
    assert as_me.execute(f"{statement} where id = %s".encode(), (value, other.conversation_id)).rowcount == 0

    updated = db.execute(f"select id::text, {column} as value from public.conversations".encode()).fetchall()
    assert {row["id"] for row in updated if row["value"] == value} == {me.conversation_id}
    assert len(updated) == 2


MAY_UPDATE = {
    "anon": [],
    "authenticated": [("conversations", "is_archived"), ("conversations", "is_pinned"), ("conversations", "title")],
    "service_role": [],
}
MAY_DELETE = {"anon": [], "authenticated": ["conversations"], "service_role": []}


@pytest.mark.parametrize("role", MAY_UPDATE)
def test_no_other_column_can_be_updated(db: Db, connect: Connect, me: UserWithRows, role: str) -> None:
    """Only three columns of all tables can be updated: no quota, limit, expiry or owner."""
    connection = connect(role, me.id)
    updated = [
        (table, column)
        for table, column in columns(db)
        if not refused(connection, f'update public.{table} set "{column}" = default where false')
    ]
    assert sorted(updated) == MAY_UPDATE[role]


@pytest.mark.parametrize("role", MAY_DELETE)
def test_no_role_inserts_and_users_delete_only_conversations(
    db: Db, connect: Connect, me: UserWithRows, role: str
) -> None:
    """Only functions insert rows, also for the service role."""
    connection = connect(role, me.id)
    assert [
        table for table in tables(db) if not refused(connection, f"insert into public.{table} default values")
    ] == []
    assert [table for table in tables(db) if not refused(connection, f"truncate public.{table} cascade")] == []
    deleted = [table for table in tables(db) if not refused(connection, f"delete from public.{table} where false")]
    assert deleted == MAY_DELETE[role]


def test_a_user_deletes_their_own_conversations_with_their_messages(
    db: Db, as_me: Db, me: UserWithRows, other: UserWithRows
) -> None:
    """Conversations of other users stay. The ledger keeps the charges."""
    assert as_me.execute("delete from public.conversations where id = %s", (other.conversation_id,)).rowcount == 0
    assert as_me.execute("delete from public.conversations").rowcount == 1

    left = db.execute("select distinct conversation_id::text from public.messages").fetchall()
    assert [row["conversation_id"] for row in left] == [other.conversation_id]
    ledger = db.execute("select user_id::text, conversation_id::text, message_id from public.usage_logs").fetchall()
    assert {row["user_id"]: row["conversation_id"] for row in ledger} == {
        me.id: None,
        other.id: other.conversation_id,
    }
    assert {row["user_id"] for row in ledger if row["message_id"] is None} == {me.id}


def test_a_conversation_cannot_be_moved_to_another_user(db: Db, as_me: Db, other: UserWithRows) -> None:
    """There is no grant, and with a grant the policy would refuse it."""
    move = "update public.conversations set user_id = %s"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table conversations"):
        as_me.execute(move, (other.id,))

    db.execute("grant update (user_id) on public.conversations to authenticated")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="violates row-level security policy"):
        as_me.execute(move, (other.id,))


def test_usage_summary_covers_only_the_signed_in_user(as_me: Db, me: UserWithRows) -> None:
    """Packs, keys and queries of other users are not included."""
    found = as_me.execute("select public.usage_summary() as summary").fetchone()
    assert found is not None
    summary = found["summary"]
    assert [pack["id"] for pack in summary["credits"]["packs"]] == [me.credit_pack_id]
    assert summary["credits"]["remaining"] == 5
    assert summary["byok"]["providers"] == ["openai"]
    assert (summary["today"]["queries"], summary["today"]["tokens"]) == (1, 7)


def test_usage_summary_needs_a_user(connect: Connect) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Sign in to see your usage"):
        connect("authenticated").execute("select public.usage_summary()")


@pytest.mark.parametrize("about", ["other", "null"])
def test_a_user_can_ask_only_about_themself(as_me: Db, me: UserWithRows, other: UserWithRows, about: str) -> None:
    """For another user or null the error is insufficient_privilege."""
    own = as_me.execute("select reason from public.can_user_query(%s)", (me.id,)).fetchone()
    assert own == {"reason": "Unlimited (BYOK)"}

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="You may only ask about yourself"):
        as_me.execute("select * from public.can_user_query(%s)", (other.id if about == "other" else None,))


def test_the_service_role_can_ask_about_any_user(connect: Connect, me: UserWithRows, other: UserWithRows) -> None:
    service = connect("service_role")
    for user in (me, other):
        found = service.execute("select reason from public.can_user_query(%s)", (user.id,)).fetchone()
        assert found == {"reason": "Unlimited (BYOK)"}


@pytest.mark.parametrize(
    ("role", "callable_functions"),
    [
        ("anon", ["list_plans"]),
        (
            "authenticated",
            ["can_user_query", "explain_query", "list_api_keys", "list_plans", "set_overage", "usage_summary"],
        ),
    ],
)
def test_users_cannot_call_functions_of_the_service_role(
    db: Db, connect: Connect, me: UserWithRows, role: str, callable_functions: list[str]
) -> None:
    """Calls every function of the schema public. Only those for the role may run."""
    connection = connect(role, me.id)
    called = []
    functions = db.execute(
        "select p.proname, (select string_agg(format('null::%s', format_type(t, null)), ', ') "
        "from unnest(p.proargtypes) t) as arguments from pg_proc p where p.pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert len(functions) > 5
    for function in functions:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(f"select public.{function['proname']}({function['arguments'] or ''})".encode())
        except psycopg.errors.InsufficientPrivilege as error:
            if f"permission denied for function {function['proname']}" in str(error):
                continue
        called.append(function["proname"])
    assert sorted(called) == callable_functions
