"""Signing up starts the free plan; closing the account takes everything along."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra.local.postgres import PLATFORM
from infra.local.stack import Stack
from tests.conftest import new_user
from tests.sql.rows import somebody_with_rows_everywhere

Db = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def auth(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the Auth server has it: its own role, which has no rights in public, and no search path."""
    with psycopg.connect(make_conninfo(database_url, user="supabase_auth_admin"), autocommit=True) as connection:
        connection.execute("set search_path = ''")
        yield connection


def sign_up(auth: psycopg.Connection[Any], **columns: Any) -> str:
    """What the Auth server does for a new user; returns the id."""
    user_id = str(columns.get("id", uuid.uuid4()))
    auth.execute(
        "insert into auth.users (id, email) values (%s, %s)", (user_id, columns.get("email", f"{user_id}@example.test"))
    )
    return user_id


def subscriptions(db: Db) -> list[dict[str, Any]]:
    """Every subscription, oldest first."""
    return db.execute("select * from public.user_subscriptions order by created_at").fetchall()


def test_whoever_signs_up_starts_on_free(auth: psycopg.Connection[Any], db: Db) -> None:
    """Active, nothing used, nothing owed, no customer at Stripe."""
    user_id = sign_up(auth)

    (subscription,) = subscriptions(db)
    expected = {"user_id": uuid.UUID(user_id), "tier": "free", "status": "active", "lifetime_used": 0}
    expected |= {"current_overage_amount": 0, "stripe_customer_id": None, "uses_byo_key": False}
    assert {name: subscription[name] for name in expected} == expected
    decision = db.execute("select * from public.can_user_query(%s)", (user_id,)).fetchone()
    assert decision == {"can_query": True, "reason": "Within free tier quota", "requires_payment": False}


def test_the_auth_server_itself_reaches_nothing_of_ours(auth: psycopg.Connection[Any], db: Db) -> None:
    """The trigger writes with its owner's rights, so signing up needs no grant on our tables."""
    sign_up(auth)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        auth.execute("select from public.user_subscriptions")


@pytest.mark.parametrize("same", ["id", "email"])
def test_a_sign_up_that_fails_changes_nothing(auth: psycopg.Connection[Any], db: Db, same: str) -> None:
    """Neither the subscription of who had it before, nor a subscription without a user."""
    user_id = sign_up(auth, email="a@example.test")
    db.execute("update public.user_subscriptions set tier = 'pro', quota_used = 3")
    before = subscriptions(db)

    with pytest.raises(psycopg.errors.UniqueViolation):
        sign_up(auth, **({"id": user_id} if same == "id" else {"email": "a@example.test"}))

    assert subscriptions(db) == before


def test_whoever_was_there_before_the_migrations_starts_on_free(stack: Stack) -> None:
    """An existing project's users get their subscription from the migration, new ones from the trigger."""
    name = "signed_up_before"
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as admin:
        admin.execute(f"create database {name} template template0")
        try:
            with psycopg.connect(stack.postgres.url("supabase_admin", name), autocommit=True) as platform:
                platform.execute(PLATFORM.read_bytes())
            with psycopg.connect(stack.postgres.url("supabase_auth_admin", name), autocommit=True) as auth:
                early = [sign_up(auth), sign_up(auth)]
                stack.postgres.migrate(name)
                late = sign_up(auth)
            with psycopg.connect(stack.postgres.url(database=name)) as db:
                found = db.execute("select user_id::text, tier, status from public.user_subscriptions").fetchall()
        finally:
            admin.execute(f"drop database {name} with (force)")
    assert sorted(found) == sorted((user_id, "free", "active") for user_id in [*early, late])


def contents(db: Db) -> dict[str, list[str]]:
    """Every row of every table of ours."""
    tables = db.execute(
        "select oid::regclass::text as name from pg_class "
        "where relnamespace in ('public'::regnamespace, 'private'::regnamespace) and relkind in ('r', 'p')"
    ).fetchall()
    return {
        table["name"]: sorted(
            str(row["row"]) for row in db.execute(f"select to_jsonb(t) as row from {table['name']} t".encode())
        )
        for table in tables
    }


def test_deleting_a_user_deletes_every_row_of_theirs(auth: psycopg.Connection[Any], db: Db) -> None:
    """In every table, by the Auth server, which may do nothing to our tables itself. Nobody else loses anything."""
    somebody_with_rows_everywhere(db)
    new_user(db)
    before = contents(db)
    leaving = somebody_with_rows_everywhere(db)
    with_them = contents(db)
    books = {"retained_usage", "retained_invoice_items"}
    nobodys = {"plans", "packs", "stripe_events", *books}
    assert {table for table in before if len(with_them[table]) <= len(before[table])} == nobodys

    assert auth.execute("delete from auth.users where id = %s", (leaving.id,)).rowcount == 1

    after = contents(db)
    assert {table: rows for table, rows in after.items() if table not in books} == {
        table: rows for table, rows in before.items() if table not in books
    }
    # The books keep sums, without them.
    assert {table: len(after[table]) for table in books} == {"retained_usage": 2, "retained_invoice_items": 0}
    assert not [row for table in books for row in after[table] if leaving.id in row]
