"""A sign-up starts the free plan. A deletion of the user deletes all their rows."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra.local.postgres import PLATFORM
from infra.local.stack import Stack
from tests.conftest import new_user
from tests.sql.metering import Db
from tests.sql.rows import user_with_rows_in_every_table


@pytest.fixture
def auth(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the Auth server's role, which has no rights in public, with an empty search path."""
    with psycopg.connect(make_conninfo(database_url, user="supabase_auth_admin"), autocommit=True) as connection:
        connection.execute("set search_path = ''")
        yield connection


def sign_up(auth: psycopg.Connection[Any], **columns: Any) -> str:
    """Creates a user as the Auth server does. Returns the id."""
    user_id = str(columns.get("id", uuid.uuid4()))
    auth.execute(
        "insert into auth.users (id, email) values (%s, %s)", (user_id, columns.get("email", f"{user_id}@example.test"))
    )
    return user_id


def subscriptions(db: Db) -> list[dict[str, Any]]:
    """All subscriptions, oldest first."""
    return db.execute("select * from public.user_subscriptions order by created_at").fetchall()


def test_a_new_user_starts_on_free(auth: psycopg.Connection[Any], db: Db) -> None:
    """Active, no use, no overage, no Stripe customer."""
    user_id = sign_up(auth)

    (subscription,) = subscriptions(db)
    expected = {"user_id": uuid.UUID(user_id), "tier": "free", "status": "active", "lifetime_used": 0}
    expected |= {"current_overage_amount": 0, "stripe_customer_id": None, "uses_byo_key": False}
    assert {name: subscription[name] for name in expected} == expected
    decision = db.execute("select * from public.can_user_query(%s)", (user_id,)).fetchone()
    assert decision == {"can_query": True, "reason": "Within free tier quota", "requires_payment": False}


def test_the_auth_server_cannot_read_our_tables(auth: psycopg.Connection[Any], db: Db) -> None:
    """The trigger runs with the rights of its owner, so the Auth server needs no grant."""
    sign_up(auth)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        auth.execute("select from public.user_subscriptions")


@pytest.mark.parametrize("same", ["id", "email"])
def test_a_failed_sign_up_changes_nothing(auth: psycopg.Connection[Any], db: Db, same: str) -> None:
    """The subscription of the first user stays, and no other is created."""
    user_id = sign_up(auth, email="a@example.test")
    db.execute("update public.user_subscriptions set tier = 'pro', quota_used = 3")
    before = subscriptions(db)

    with pytest.raises(psycopg.errors.UniqueViolation):
        sign_up(auth, **({"id": user_id} if same == "id" else {"email": "a@example.test"}))

    assert subscriptions(db) == before


def test_users_from_before_the_migrations_start_on_free(stack: Stack) -> None:
    """The migration creates the subscriptions of existing users, the trigger those of new users."""
    name = "signed_up_before"
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as admin:
        admin.execute(f"create database {name} template template0")
        try:
            with psycopg.connect(stack.postgres.url("supabase_admin", name), autocommit=True) as platform:
                platform.execute(PLATFORM.read_bytes())
            with psycopg.connect(stack.postgres.url("supabase_auth_admin", name), autocommit=True) as auth:
                existing = [sign_up(auth), sign_up(auth)]
                stack.postgres.migrate(name)
                new = sign_up(auth)
            with psycopg.connect(stack.postgres.url(database=name)) as db:
                found = db.execute("select user_id::text, tier, status from public.user_subscriptions").fetchall()
        finally:
            admin.execute(f"drop database {name} with (force)")
    assert sorted(found) == sorted((user_id, "free", "active") for user_id in [*existing, new])


def contents(db: Db) -> dict[str, list[str]]:
    """Every row of every table of the schemas public and private."""
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


def test_deleting_a_user_deletes_all_their_rows(auth: psycopg.Connection[Any], db: Db) -> None:
    """The Auth server, which has no rights on our tables, deletes the user. Other users lose no row."""
    user_with_rows_in_every_table(db)
    new_user(db)
    before = contents(db)
    leaving = user_with_rows_in_every_table(db)
    with_user = contents(db)
    retained = {"retained_usage", "retained_invoice_items"}
    public_record = {
        *("import_states", "lobbying_communications", "lobbying_registrations", "lobbying_subjects", "member_expenses")
    }
    of_operators = {"announcements", "blocked_addresses", "job_runs", "operator_actions", "settings", "reasons"}
    without_users = {"plans", "packs", "stripe_events", "daily_costs", *of_operators, *retained, *public_record}
    assert {table for table in before if len(with_user[table]) <= len(before[table])} == without_users

    assert auth.execute("delete from auth.users where id = %s", (leaving.id,)).rowcount == 1

    after = contents(db)
    assert {table: rows for table, rows in after.items() if table not in retained} == {
        table: rows for table, rows in before.items() if table not in retained
    }
    # The retained tables store sums without the user.
    assert {table: len(after[table]) for table in retained} == {"retained_usage": 3, "retained_invoice_items": 0}
    assert not [row for table in retained for row in after[table] if leaving.id in row]
