"""What a signed-in person reaches through the Data API, beside somebody else who has a row in every table too."""

from typing import Any

import psycopg
import pytest

from tests.conftest import Connect
from tests.sql.rows import Somebody, somebody_with_rows_everywhere

Db = psycopg.Connection[dict[str, Any]]

# Whose a row is, by relation: as postgres, which sees all rows, would ask for one person's.
THEIRS = {
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
# What is everybody's, and what is nobody's but ours.
SOLD = {"plans", "packs"}
OURS = {"stripe_events", "retained_usage", "retained_invoice_items"}
# Columns to tell rows apart by, which everyone who may read the relation may read.
READ = {"daily_quota_usage": "user_id, query_date"}


@pytest.fixture
def me(db: Db) -> Somebody:
    """A user who has something everywhere."""
    return somebody_with_rows_everywhere(db)


@pytest.fixture(autouse=True)
def other(db: Db) -> Somebody:
    """Another one."""
    return somebody_with_rows_everywhere(db)


@pytest.fixture
def as_me(connect: Connect, me: Somebody) -> Db:
    """A connection as the API opens one for me."""
    return connect("authenticated", me.id)


def refused(connection: Db, statement: str) -> bool:
    """Whether a statement fails for want of a grant. It is undone where it does not."""
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


def test_every_relation_is_tried_here(db: Db) -> None:
    """But what is sold and what is only ours, whatever there is has rows that are somebody's."""
    found = db.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind not in ('i', 'I', 't')"
    ).fetchall()
    assert {row["relname"] for row in found} - SOLD - OURS == set(THEIRS)


@pytest.mark.parametrize("relation", THEIRS)
def test_a_user_reads_their_own_rows_and_no_others(
    db: Db, as_me: Db, me: Somebody, other: Somebody, relation: str
) -> None:
    """All of theirs, none of anyone else's, though there are some."""
    query = f"select {READ.get(relation, 'id')} from public.{relation}"
    mine, somebody_elses = (
        db.execute(f"{query} where {THEIRS[relation]}".encode(), (person.id,)).fetchall() for person in (me, other)
    )
    assert mine
    assert somebody_elses

    seen = as_me.execute(query.encode()).fetchall()

    assert sorted(seen, key=str) == sorted(mine, key=str)


@pytest.mark.parametrize("relation", THEIRS)
def test_a_token_without_a_user_reads_nothing(connect: Connect, relation: str) -> None:
    """Nobody is not everybody."""
    query = f"select {READ.get(relation, 'id')} from public.{relation}"
    assert connect("authenticated").execute(query.encode()).fetchall() == []


def test_anon_reads_what_is_sold_and_nothing_else(connect: Connect) -> None:
    """What a visitor sees before signing in are the prices."""
    anon = connect("anon")
    assert {row["tier"] for row in anon.execute("select tier from public.plans")} == {
        "free",
        "basic",
        "pro",
        "usage_only",
    }
    assert {row["slug"] for row in anon.execute("select slug from public.packs")} == {"pack_100", "pack_500"}
    assert [name for name in {*THEIRS, *OURS} if not refused(anon, f"select 1 from public.{name}")] == []


def test_a_user_does_not_read_what_stripe_told_us(db: Db, as_me: Db) -> None:
    """Not by the grants; and if they ever allowed it, no policy lets a row through."""
    db.execute("insert into public.stripe_events (event_id, type) values ('evt_1', 'invoice.paid')")
    assert refused(as_me, "select 1 from public.stripe_events")

    db.execute("grant select on public.stripe_events to authenticated")
    assert as_me.execute("select * from public.stripe_events").fetchall() == []


@pytest.mark.parametrize(("column", "value"), [("title", "Budget"), ("is_pinned", True), ("is_archived", True)])
def test_a_user_renames_pins_and_archives_their_own_conversations_only(
    db: Db, as_me: Db, me: Somebody, other: Somebody, column: str, value: Any
) -> None:
    """An update of everything changes what is theirs."""
    statement = f"update public.conversations set {column} = %s"

    assert as_me.execute(statement.encode(), (value,)).rowcount == 1
    assert as_me.execute(f"{statement} where id = %s".encode(), (value, other.conversation_id)).rowcount == 0

    now = db.execute(f"select id::text, {column} as value from public.conversations".encode()).fetchall()
    assert {row["id"] for row in now if row["value"] == value} == {me.conversation_id}
    assert len(now) == 2


MAY_UPDATE = {
    "anon": [],
    "authenticated": [("conversations", "is_archived"), ("conversations", "is_pinned"), ("conversations", "title")],
    "service_role": [],
}
MAY_DELETE = {"anon": [], "authenticated": ["conversations"], "service_role": []}


@pytest.mark.parametrize("role", MAY_UPDATE)
def test_every_other_column_is_refused(db: Db, connect: Connect, me: Somebody, role: str) -> None:
    """Of all columns of all tables, three can be updated. Quotas, limits, expiry and owners are not among them."""
    connection = connect(role, me.id)
    updated = [
        (table, column)
        for table, column in columns(db)
        if not refused(connection, f'update public.{table} set "{column}" = default where false')
    ]
    assert sorted(updated) == MAY_UPDATE[role]


@pytest.mark.parametrize("role", MAY_DELETE)
def test_nothing_is_inserted_and_only_conversations_are_deleted(
    db: Db, connect: Connect, me: Somebody, role: str
) -> None:
    """Rows come from functions, also for the service role."""
    connection = connect(role, me.id)
    assert [
        table for table in tables(db) if not refused(connection, f"insert into public.{table} default values")
    ] == []
    assert [table for table in tables(db) if not refused(connection, f"truncate public.{table} cascade")] == []
    deleted = [table for table in tables(db) if not refused(connection, f"delete from public.{table} where false")]
    assert deleted == MAY_DELETE[role]


def test_a_user_deletes_their_own_conversations_with_their_messages(
    db: Db, as_me: Db, me: Somebody, other: Somebody
) -> None:
    """Somebody else's stay, with theirs. What was charged stays in the ledger."""
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


def test_a_conversation_cannot_be_given_to_somebody_else(db: Db, as_me: Db, other: Somebody) -> None:
    """Not by the grants; and if they ever allowed it, not by the policy."""
    give = "update public.conversations set user_id = %s"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table conversations"):
        as_me.execute(give, (other.id,))

    db.execute("grant update (user_id) on public.conversations to authenticated")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="violates row-level security policy"):
        as_me.execute(give, (other.id,))


def test_usage_summary_is_about_the_signed_in_user(as_me: Db, me: Somebody) -> None:
    """Their packs, their keys, what they asked: nobody else's is added."""
    found = as_me.execute("select public.usage_summary() as summary").fetchone()
    assert found is not None
    summary = found["summary"]
    assert [pack["id"] for pack in summary["credits"]["packs"]] == [me.credit_pack_id]
    assert summary["credits"]["remaining"] == 5
    assert summary["byok"]["providers"] == ["openai"]
    assert (summary["today"]["queries"], summary["today"]["tokens"]) == (1, 7)


def test_usage_summary_needs_a_user(connect: Connect) -> None:
    """A token without one is told so."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Sign in to see your usage"):
        connect("authenticated").execute("select public.usage_summary()")


@pytest.mark.parametrize("whom", ["other", "nobody"])
def test_a_user_asks_can_user_query_about_themself_only(as_me: Db, me: Somebody, other: Somebody, whom: str) -> None:
    """About anybody else, or nobody, it is insufficient_privilege."""
    own = as_me.execute("select reason from public.can_user_query(%s)", (me.id,)).fetchone()
    assert own == {"reason": "Unlimited (BYOK)"}

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="You may only ask about yourself"):
        as_me.execute("select * from public.can_user_query(%s)", (other.id if whom == "other" else None,))


def test_the_service_role_asks_can_user_query_about_anyone(connect: Connect, me: Somebody, other: Somebody) -> None:
    """The functions ask before they call a model."""
    service = connect("service_role")
    for person in (me, other):
        found = service.execute("select reason from public.can_user_query(%s)", (person.id,)).fetchone()
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
def test_the_service_roles_functions_are_refused_to_users(
    db: Db, connect: Connect, me: Somebody, role: str, callable_functions: list[str]
) -> None:
    """Called in earnest, every function of public but those that are for the caller."""
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
