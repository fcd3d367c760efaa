"""sql/README.md: its SQL runs as it is printed, and its error messages are the real ones."""

import itertools
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from infra.local.auth import access_token, load_or_create_key
from infra.local.postgres import MIGRATIONS, PLATFORM, ROOT, bundled_bin
from infra.local.stack import Stack
from tests.conftest import Connect, Person, new_user
from tests.sql.metering import Db, admit, settle
from tests.sql.test_linters import INTERNAL

PAGE = (ROOT / "sql" / "README.md").read_text(encoding="utf-8")
CLI = ROOT / "tests" / "clients" / "node_modules" / ".bin" / "supabase"
MIGRATION = "\n".join(path.read_text(encoding="utf-8") for path in sorted(MIGRATIONS.glob("*.sql")))


def section(heading: str) -> str:
    """The text of one section of the page, without its subsections' siblings."""
    match = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#{{1,2}} |^### |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, heading
    return match[2]


def blocks(heading: str, language: str = "sql") -> list[str]:
    """The fenced blocks of a section."""
    return re.findall(rf"^```{language}\n(.*?)^```$", section(heading), re.MULTILINE | re.DOTALL)


def block(heading: str, number: int = 0) -> str:
    """One fenced block of SQL."""
    return blocks(heading)[number]


def names(heading: str, table: int) -> list[str]:
    """The names in the first column of a table of a section."""
    tables = re.findall(r"(?:^\|.*\|\n)+", section(heading), re.MULTILINE)
    cells = [row.split("|")[1] for row in tables[table].splitlines()[2:]]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def run(db: psycopg.Connection[Any], text: str) -> list[dict[str, Any]]:
    """Run a block of one or more statements; returns the rows of the last statement that returns rows."""
    rows: list[dict[str, Any]] = []
    cursor = db.cursor(row_factory=dict_row)
    cursor.execute(text.encode())
    while True:
        if cursor.description:
            rows = cursor.fetchall()
        if not cursor.nextset():
            return rows


def message(heading: str, error: psycopg.Error | str) -> str:
    """The first line of an error. Fails if the page does not quote it in the section."""
    text = str(error).splitlines()[0]
    assert f"`{text}`" in section(heading), f"{heading} does not quote: {text}"
    return text


_names = (f"sql_readme_{number}" for number in itertools.count(1))


@pytest.fixture
def empty_url(stack: Stack) -> Iterator[str]:
    """A database that no migration ran on, without what Supabase provides. The roles exist: they are the cluster's."""
    name = next(_names)
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} owner postgres template template0").format(sql.Identifier(name)))
    yield stack.postgres.url(database=name)
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as admin:
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def platform_url(stack: Stack, empty_url: str) -> str:
    """A database as a new Supabase project has it."""
    with psycopg.connect(as_admin(empty_url)) as admin:
        admin.execute(PLATFORM.read_bytes())
    return empty_url


def as_admin(url: str) -> str:
    return url.replace("//postgres:", "//supabase_admin:")


def failure(url: str, before: str = "", heading: str = "A migration fails") -> tuple[str, list[str]]:
    """Run the migrations after some SQL, roll back, and return the error, which the page quotes, and the notices."""
    notices: list[str] = []
    with psycopg.connect(url) as db:
        db.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        db.execute(before.encode())
        with pytest.raises(psycopg.Error) as caught:
            db.execute(MIGRATION.encode())
        db.rollback()
    return message(heading, caught.value), notices


# What it contains ----------------------------------------------------------------------------------------------------


def test_page_lists_every_table_and_view(db: Db) -> None:
    rows = run(db, block("Test the setup", 0))
    assert {row["table_name"] for row in rows if row["table_type"] == "BASE TABLE"} == set(names("What it contains", 0))
    assert [row["table_name"] for row in rows if row["table_type"] == "VIEW"] == ["daily_quota_usage"]


def test_page_lists_every_public_function_once(db: Db) -> None:
    rows = run(db, block("Test the setup", 1))
    assert sorted(names("What it contains", 1)) == sorted(row["proname"] for row in rows)


# Run the migrations --------------------------------------------------------------------------------------------------


def test_preflight_check_before_and_after_the_migrations(platform_url: str, db: Db) -> None:
    with psycopg.connect(platform_url) as new:
        assert run(new, block("Run the migrations")) == [
            {"version_is_supported": True, "auth_users_exists": True, "names_taken": None}
        ]
    (after,) = run(db, block("Run the migrations"))
    everything = {row["table_name"] for row in run(db, block("Test the setup", 0))}
    assert set(after["names_taken"].split(", ")) == everything


@pytest.mark.parametrize("way", [0, 1], ids=["supabase cli", "psql"])
def test_each_command_runs_the_migrations(platform_url: str, tmp_path: Path, way: int) -> None:
    command = blocks("Run the migrations", "sh")[way]
    environment = {
        "PATH": f"{bundled_bin()}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": f"{platform_url}?sslmode=disable",
        "HOME": str(tmp_path),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "DO_NOT_TRACK": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",  # offline
    }
    done = subprocess.run(
        ["bash", "-ec", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with psycopg.connect(platform_url) as db:
        assert run(db, block("Test the setup", 2))[0]["reason"] == "No subscription found"


def test_each_file_runs_pasted_as_one_query(platform_url: str) -> None:
    """The SQL editor sends a file as one query."""
    with psycopg.connect(platform_url, autocommit=True) as db:
        db.execute("insert into auth.users (id) values (gen_random_uuid())")
        for path in sorted(MIGRATIONS.glob("*.sql")):
            db.execute(path.read_bytes())
        (newest,) = run(db, block("Test the setup", 3))
    assert newest["reason"] == "Within free tier quota"


# Test the setup ------------------------------------------------------------------------------------------------------


def test_can_user_query_for_unknown_and_real_users(db: Db) -> None:
    assert "`f`, `No subscription found`, `t`" in section("Test the setup")
    assert [tuple(row.values()) for row in run(db, block("Test the setup", 2))] == [
        (False, "No subscription found", True)
    ]
    new_user(db)
    assert "`t`, `Within free tier quota`, `f`" in section("Test the setup")
    assert [tuple(row.values()) for row in run(db, block("Test the setup", 3))] == [
        (True, "Within free tier quota", False)
    ]


def test_can_user_query_through_the_data_api(stack: Stack) -> None:
    (command,) = blocks("Test the setup", "sh")
    environment = {
        "PATH": os.environ["PATH"],
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "no_proxy": "*",
    }
    done = subprocess.run(["bash", "-ec", command], env=environment, capture_output=True, text=True, check=True)
    assert "No subscription found" in done.stdout


# Row-level security and tiers ----------------------------------------------------------------------------------------


def test_row_level_security_checks_return_what_the_page_promises(db: Db) -> None:
    new_user(db)
    new_user(db)
    tables = run(db, block("Row-level security", 0))
    assert {row["relname"] for row in tables} == set(names("What it contains", 0))
    assert all(row["relrowsecurity"] and row["relforcerowsecurity"] for row in tables)

    policies = run(db, block("Row-level security", 1))
    without = {row["relname"] for row in tables} - {row["tablename"] for row in policies}
    assert without == set(INTERNAL)
    assert {row["tablename"] for row in policies if "anon" in row["roles"]} == set()

    assert run(db, block("Row-level security", 2)) == [{"count": 1}]

    timeouts = run(db, block("Row-level security", 3))
    assert [row["rolconfig"] for row in timeouts] == [["statement_timeout=1s"]] * 2


def test_tiers_of_the_page_are_those_of_plans(db: Db) -> None:
    def shown(row: dict[str, Any]) -> list[str]:
        quota = f"{row['lifetime_quota']}, once" if row["lifetime_quota"] else f"{row['daily_quota']} a day"
        price, limit = row["overage_price_usd"], row["overage_limit_usd"]
        return [
            row["tier"],
            f"${row['price_usd'].normalize():f}",
            quota if quota != "0 a day" else "0",
            f"${price.normalize():f} a query, up to ${limit.normalize():f} a period" if price else "no",
            "yes" if row["allows_credits"] else "no",
            "yes" if row["allows_byok"] else "no",
            f"{row['history_days']} days" if row["history_days"] else "none",
        ]

    rows = [line.strip("|").split("|") for line in section("Tiers").splitlines() if line.startswith("| ")][2:]
    page = sorted([cell.strip() for cell in row] for row in rows)
    assert page == sorted(shown(row) for row in run(db, block("Tiers")))


# Troubleshooting -----------------------------------------------------------------------------------------------------


def test_migration_without_supabase_fails_as_the_page_says(stack: Stack, empty_url: str) -> None:
    assert failure(empty_url)[0] == 'schema "auth" does not exist'
    # In a transaction that is rolled back: roles belong to the whole cluster.
    assert failure(as_admin(empty_url), "alter role anon rename to somebody")[0] == 'role "anon" does not exist'
    without_table = "create schema auth; create function auth.uid() returns uuid language sql as 'select null::uuid'"
    assert failure(empty_url, without_table)[0] == 'relation "auth.users" does not exist'


def test_migration_on_an_old_postgres_fails_as_the_page_says(platform_url: str) -> None:
    """The check of the version, with the version of no Postgres yet in place of 15."""
    assert MIGRATION.count("< 150000") == 1
    with psycopg.connect(platform_url) as db, pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
        db.execute(MIGRATION.replace("< 150000", "< 990000").encode())
    message("A migration fails", str(caught.value).split(", ")[0])


def test_migration_over_taken_names_fails_as_the_page_says(platform_url: str) -> None:
    error, notices = failure(platform_url, "create table public.conversations (id bigint primary key)")
    assert error == 'column "user_id" does not exist'
    message("A migration fails", next(notice for notice in notices if "already exists" in notice))

    old = "create function public.can_user_query(p_user_id uuid) returns boolean language sql as 'select true'"
    assert failure(platform_url, old)[0] == "cannot change return type of existing function"


def test_migration_succeeds_after_the_taken_table_is_moved(platform_url: str) -> None:
    (move,) = re.findall(r"`(alter table [^`]+;)`", section("A migration fails"))
    with psycopg.connect(platform_url) as db:
        db.execute("create schema old; create table public.conversations (id bigint primary key)")
        assert run(db, block("Run the migrations"))[0]["names_taken"] == "conversations"
        db.execute(move.encode())
        db.execute(MIGRATION.encode())


def test_migration_by_the_wrong_role_fails_as_the_page_says(platform_url: str) -> None:
    with psycopg.connect(platform_url) as db:
        db.execute("set role service_role")
        with pytest.raises(psycopg.Error) as caught:
            db.execute(MIGRATION.encode())
    assert str(caught.value).startswith("permission denied for database ")
    message("A migration fails", "permission denied for database postgres")


def test_queries_without_a_user_return_nothing(db: Db, connect: Connect) -> None:
    new_user(db)
    without_user = connect("authenticated")
    assert run(without_user, block("Row-level security blocks queries")) == [
        {"current_user": "authenticated", "uid": None}
    ]
    assert run(without_user, "select * from public.user_subscriptions") == []


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(stack: Stack) -> Iterator[Ask]:
    """Calls the Data API with an API key and, where given, an access token."""
    with httpx.Client(base_url=f"{stack.info['supabase_url']}/rest/v1", trust_env=False) as client:

        def send(method: str, path: str, key: str, token: str | None = None, **body: Any) -> httpx.Response:
            headers = {"apikey": key, **({"authorization": f"Bearer {token}"} if token else {})}
            return client.request(method, path, headers=headers, json=body or None)

        yield send


def test_data_api_refusals_are_quoted_on_the_page(stack: Stack, ask: Ask, person: Callable[..., Person]) -> None:
    user, other = person(), person()
    anon = stack.info["publishable_key"]
    key = load_or_create_key(stack.config.folder / "signing-key.pem")
    issuer = f"{stack.info['supabase_url']}/auth/v1"
    expired = access_token(key, issuer=issuer, user_id=user.id, email=user.email, seconds=-60)
    admission = {"p_user_id": user.id, "p_request_id": "one", "p_hold_id": str(uuid.uuid4())}
    refusals = {
        "permission denied for table conversations": (401, ask("GET", "/conversations", anon)),
        "permission denied for table user_subscriptions": (
            403,
            ask("POST", "/user_subscriptions", anon, user.token, user_id=user.id),
        ),
        "permission denied for function admit_query": (
            403,
            ask("POST", "/rpc/admit_query", anon, user.token, **admission),
        ),
        "You may only ask about yourself.": (
            403,
            ask("POST", "/rpc/can_user_query", anon, user.token, p_user_id=other.id),
        ),
        "Invalid API key": (401, ask("GET", "/conversations", "key-of-another-project")),
        "JWT expired": (401, ask("GET", "/user_subscriptions", anon, expired)),
    }
    for expected, (status, response) in refusals.items():
        assert (response.status_code, response.json()["message"]) == (status, expected)
        message("Row-level security blocks queries", expected)
    assert ask("GET", "/user_subscriptions?select=tier", anon, user.token).json() == [{"tier": "basic"}]


def test_quota_queries_show_the_row_and_the_decision(db: Db) -> None:
    user = new_user(db, "basic", daily_quota=1)
    db.execute("update auth.users set email = 'person@example.org' where id = %s", (user,))
    admitted = admit(db, user, "message-1")
    settle(db, admitted["hold_id"])

    (row,) = run(db, block("The quota is not enforced", 0))
    assert (row["daily_quota"], row["quota_used"], row["can_query"]) == (1, 1, False)
    (attempt,) = run(db, block("The quota is not enforced", 1))
    assert (attempt["reason"], attempt["quota_limit"], attempt["outcome"]) == ("Within daily quota", 1, "answered")
    (check,) = re.findall(r"`(select \* from public.reconcile\(\);)`", section("The quota is not enforced"))
    assert run(db, check) == []


def test_page_lists_every_reason_of_an_admission(db: Db) -> None:
    source = "\n".join(row["prosrc"] for row in db.execute("select prosrc from pg_proc where proname = 'reason_of'"))
    reasons = re.findall(r"then '([A-Z][^']+)'|else '([A-Z][^']+)'", source)
    assert set(names("The quota is not enforced", 0)) == {one or other for one, other in reasons}


def test_missing_pg_cron_gives_the_messages_of_the_page(db: Db) -> None:
    """Where pg_cron exists, tests/sql/test_schedule.py runs the same SQL."""
    with pytest.raises(psycopg.errors.UndefinedTable) as caught:
        db.execute(block("Jobs").encode())
    message("The jobs do not run", caught.value)
    notices: list[str] = []
    db.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    db.execute(MIGRATION.encode())
    (notice,) = [notice for notice in notices if "pg_cron" in notice]
    message("The jobs do not run", notice.split(". ")[0])


def test_jobs_of_the_page_are_those_that_are_scheduled() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section("Jobs").splitlines() if "`" in line]
    rows = [row for row in rows if len(row) == 4]
    jobs = {name.split("`")[1]: (cron, event_bridge) for name, _, cron, event_bridge in rows}
    by_cron = set(re.findall(r"cron\.schedule\(\s*'([a-z-]+)'|\('([a-z-]+)', '[0-9*/ ]+'\)", MIGRATION))
    schedules = (ROOT / "infra" / "resources" / "schedules.yml").read_text(encoding="utf-8")
    assert {name for name, (cron, _) in jobs.items() if cron} == {one or other for one, other in by_cron}
    assert {name for name, (_, bridge) in jobs.items() if bridge} == set(re.findall(r'"job": "([a-z-]+)"', schedules))


def test_waiting_work_is_counted(db: Db) -> None:
    query = blocks("The jobs do not run")[-1]
    user = new_user(db, "basic")
    assert set(run(db, query)[0].values()) == {0}

    admit(db, user)
    db.execute(
        "insert into public.pending_turns (id, created_at, user_id, conversation_id, conversation_created_at,"
        " expires_at, is_certain, position, turn)"
        " values (gen_random_uuid(), now() - interval '1 hour', %s, gen_random_uuid(), now(), now(), true, 1, '{}')",
        (user,),
    )
    db.execute(
        "update public.query_holds set created_at = now() - interval '2 hours', expires_at = now() - interval '1 hour'"
    )
    db.execute(
        "insert into public.conversations (user_id, expires_at) values (%s, now() - interval '2 days');", (user,)
    )
    db.execute(
        "insert into public.credit_packs (user_id, credits_purchased, credits_remaining, price_paid, expires_at)"
        " values (%s, 5, 5, 5, now() - interval '2 days')",
        (user,),
    )
    assert set(run(db, query)[0].values()) == {1}


def test_data_api_reports_an_unknown_function_as_the_page_says(stack: Stack, ask: Ask) -> None:
    response = ask("POST", "/rpc/can_user_query", stack.info["secret_key"], p_user=str(uuid.uuid4()))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (404, "PGRST202")
    message("The Data API does not find a function", problem["message"])
    assert problem["hint"] == "Perhaps you meant to call the function public.can_user_query(p_user_id)"


def test_notify_reloads_the_schema_cache_of_the_data_api(
    stack: Stack, ask: Ask, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    """Without the platform's event trigger, PostgREST does not notice a new function."""
    name = f"new_function_{uuid.uuid4().hex}"

    def status() -> int:
        return ask("POST", f"/rpc/{name}", stack.info["secret_key"]).status_code

    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as admin:
        admin.execute("set session_replication_role = replica")  # no event trigger fires
        admin.execute(f"create function public.{name}() returns integer language sql as 'select 1'".encode())
        try:
            assert status() == 404
            with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
                run(db, block("The Data API does not find a function"))
            eventually(lambda: status() == 200)
        finally:
            admin.execute(f"drop function public.{name}()".encode())
