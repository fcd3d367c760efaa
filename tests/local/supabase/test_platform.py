"""platform.sql on each Postgres version that it supports."""

import asyncio
import json
import subprocess
import time
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.local.supabase.kit import (
    LOCAL,
    PLATFORM,
    POSTGRES,
    PROJECT,
    Stack,
    cluster,
    dsn,
    run_sql,
)


@pytest.mark.parametrize("bin_dir", POSTGRES, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_platform_applies_to_every_database_of_a_cluster(bin_dir: Path, tmp_path: Path) -> None:
    """Through psycopg twice and through psql; a project's migration works afterwards."""
    with cluster(bin_dir, tmp_path) as port:
        run_sql(port, PLATFORM, "supabase_admin")
        run_sql(port, PLATFORM, "supabase_admin")
        run_sql(port, "create database legacy", "supabase_admin")
        for name in ("platform.sql", "platform_legacy_grants.sql"):
            file = [
                bin_dir / "psql",
                dsn(port, "supabase_admin", "legacy"),
                "-qv",
                "ON_ERROR_STOP=1",
                "-f",
                LOCAL / name,
            ]
            done = subprocess.run([str(part) for part in file], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

        granted = "select r, p from unnest('{anon,authenticated,service_role}'::text[]) as r, unnest(%s::text[]) as p"
        privileges = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"]
        for database, expected in (("postgres", {"TRUNCATE"}), ("legacy", set(privileges))):
            run_sql(port, PROJECT.replace("grant select", "-- grant select"), database=database)
            run_sql(port, "create table public.fresh (id bigserial)", database=database)
            with psycopg.connect(dsn(port, database=database)) as db:
                assert db.execute(
                    "select pg_catalog.pg_get_userbyid(datdba), current_setting('is_superuser')"
                    " from pg_database where datname = current_database()"
                ).fetchone() == ("postgres", "off")
                rows = db.execute(granted + " where has_table_privilege(r, 'public.fresh', p)", [privileges]).fetchall()
                assert set(rows) == {(role, p) for role in ("anon", "authenticated", "service_role") for p in expected}
                sequence = db.execute(
                    "select has_sequence_privilege('anon', 'public.fresh_id_seq', 'USAGE')"
                ).fetchone()
                assert sequence == (database == "legacy",)
                # Runs the signup trigger, as the Auth server does.
                db.execute("insert into auth.users (id, email) values (gen_random_uuid(), 'a@example.org')")
                assert db.execute("select count(*) from public.profiles").fetchone() == (1,)


def test_roles_match_the_platform(stack: Stack) -> None:
    rows = run_sql(
        stack.port,
        "select rolname, rolcanlogin, rolinherit, rolbypassrls, rolcreaterole, rolcreatedb, rolsuper from pg_roles"
        " where rolname !~ '^pg_' and rolname <> 'supabase_admin' order by rolname",
    )
    assert rows == [
        ("anon", False, True, False, False, False, False),
        ("authenticated", False, True, False, False, False, False),
        ("authenticator", True, False, False, False, False, False),
        ("postgres", True, True, True, True, True, False),
        ("service_role", False, True, True, False, False, False),
        ("supabase_auth_admin", True, False, False, False, False, False),
    ]


def test_the_postgres_role_cannot_change_the_auth_schema(stack: Stack) -> None:
    for statement in ("alter table auth.users add x int", "create table auth.mine ()", "drop function auth.uid()"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_sql(stack.port, statement)


def test_unqualified_names_fail_in_the_auth_servers_session(stack: Stack) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        run_sql(stack.port, "select * from profiles", "supabase_auth_admin")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_api_roles_read_claims_but_no_auth_table(stack: Stack, role: str) -> None:
    claims = json.dumps({"sub": "5f3c3b1e-0000-4000-8000-000000000000", "role": role, "email": "a@example.org"})
    with psycopg.connect(dsn(stack.port)) as db:
        db.execute("select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", [role, claims])
        seen = db.execute("select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'role'").fetchone()
        assert seen == ("5f3c3b1e-0000-4000-8000-000000000000", role, "a@example.org", role)
        db.execute("select set_config('request.jwt.claim.email', 'older@example.org', true)")
        assert db.execute("select auth.email()").fetchone() == ("older@example.org",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("select from auth.users")


async def test_postgrest_serves_a_new_table_automatically(stack: Stack, client: httpx.AsyncClient) -> None:
    run_sql(stack.port, "create table public.later (id int); grant select on public.later to anon")
    deadline = time.monotonic() + 5
    while (await client.get("/rest/v1/later")).status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
