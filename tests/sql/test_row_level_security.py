"""What a signed-in user can read and change through the Data API. Another user also has a row in every table."""

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
    "message_feedback": "user_id = %s",
    "messages": "conversation_id in (select id from public.conversations where user_id = %s)",
    "overage_invoice_items": "user_id = %s",
    "query_holds": "user_id = %s",
    "query_refusals": "user_id = %s",
    "shared_conversations": "user_id = %s",
    "usage_logs": "user_id = %s",
    "usage_reversals": "user_id = %s",
    "user_api_keys": "user_id = %s",
    "user_subscriptions": "user_id = %s",
}
# Relations that every signed-in user may read, and relations that no user may read.
PUBLIC = {"announcements", "plans", "reasons"}
INTERNAL = {
    *(
        "blocked_addresses",
        "daily_costs",
        "operator_actions",
        "packs",
        "pending_turns",
        "retained_invoice_items",
        "retained_usage",
    ),
    *("settings", "stripe_events"),
    *("import_states", "lobbying_communications", "lobbying_registrations", "lobbying_subjects", "member_expenses"),
    "job_runs",
}
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


def test_anon_reads_nothing(connect: Connect) -> None:
    """GET /plans shows visitors the prices."""
    anon = connect("anon")
    relations = {*ROWS_OF_USER, *PUBLIC, *INTERNAL}
    assert [name for name in relations if not refused(anon, f"select 1 from public.{name}")] == []


def test_a_user_cannot_read_stripe_events(db: Db, as_me: Db) -> None:
    """There is no grant, and with a grant no policy would allow a row."""
    db.execute("insert into public.stripe_events (event_id, type) values ('evt_1', 'invoice.paid')")
    assert refused(as_me, "select 1 from public.stripe_events")

    db.execute("grant select on public.stripe_events to authenticated")
    assert as_me.execute("select * from public.stripe_events").fetchall() == []


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_no_role_writes_to_a_table(db: Db, connect: Connect, me: UserWithRows, role: str) -> None:
    """Only functions insert, update and delete rows, also for the service role."""
    connection = connect(role, me.id)
    statements = [f'update public.{table} set "{column}" = default where false' for table, column in columns(db)]
    for table in tables(db):
        statements += [
            f"insert into public.{table} default values",
            f"truncate public.{table} cascade",
            f"delete from public.{table} where false",
        ]
    assert len(statements) > 100
    assert [statement for statement in statements if not refused(connection, statement)] == []


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
        ("anon", []),
        (
            "authenticated",
            [
                *("can_user_query", "delete_conversation", "explain_query", "list_api_keys", "set_overage"),
                *("update_conversation", "usage_summary"),
            ],
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
        except psycopg.Error as error:
            if f"permission denied for function {function['proname']}" in str(error):
                continue
        called.append(function["proname"])
    assert sorted(called) == callable_functions
