"""Writes migrations from the sources in sql/schemas/. `make migration NAME=add_budget` runs this module.

Until the first release there is one migration, the baseline: all files of sql/schemas/ in order. After it, the next
migration is the difference between two databases, one built from sql/migrations/ and one from sql/schemas/. The
difference comes from Supabase's pg-delta (infra/local/package.json) and has to be reviewed by hand: data changes,
locks on big tables and renames are decisions. docs/migrations.md describes the procedure.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psycopg

from infra.local.postgres import MIGRATIONS, PLATFORM, ROOT, Postgres
from infra.local.processes import Processes, StackError
from infra.local.stack import POSTGRES, free_offset, locked

SCHEMAS = ROOT / "sql" / "schemas"
RELEASED = ROOT / "sql" / "released.toml"
BASELINE = "20250104000000_ai_chat_system.sql"
PG_DELTA = ROOT / "infra" / "local" / "node_modules" / ".bin" / "pgdelta"
BASELINE_HEADER = """\
-- The database of the AI chat: tables, row-level security, grants, metering, billing and scheduled jobs.
--
-- Generated from sql/schemas/ by `make migration`. Change the sources, not this file.
-- Run it with the Supabase CLI, paste it into the dashboard's SQL editor, or use psql: sql/README.md.
-- Running it again changes nothing.
"""
MIGRATION_HEADER = """\
-- The difference between sql/migrations/ and sql/schemas/, written by `make migration` and reviewed by hand.
"""
PASSES = 4
NAME = re.compile(r"[a-z0-9_]{1,60}")

# pg_dump writes a heading above every object, session settings between objects, and a closing line.
_HEADING = re.compile(r"^--\n-- Name: (?P<name>.*); Type: (?P<kind>.*); Schema: .*; Owner: .*\n--\n", re.MULTILINE)
_SESSION = re.compile(r"^SET default_.*\n", re.MULTILINE)
_END = re.compile(r"^--\n-- PostgreSQL database dump complete\n(?s:.*)", re.MULTILINE)
_RANDOM = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)
_ROLES = re.compile(r"^(CREATE POLICY .*? TO )([\w, ]+?)(?= USING | WITH CHECK |;)", re.MULTILINE)
# pg-delta grants the owner what it has anyway, MAINTAIN included, which Postgres 15 does not know.
_OWNER_GRANT = re.compile(r'^GRANT .* TO "postgres";\n\n?', re.MULTILINE)
_COLUMNS = re.compile(r"^(CREATE TABLE \S+ \(\n)(.*?)(\n\);)$", re.MULTILINE | re.DOTALL)


class Release(NamedTuple):
    """A released version. `migrations` are the SHA-256 of the files that are new in it, by file name."""

    version: str
    commit: str
    migrations: dict[str, str]


def releases(path: Path = RELEASED) -> list[Release]:
    """The releases of sql/released.toml, oldest first."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("release", [])
    return [Release(entry["version"], entry["commit"], entry["migrations"]) for entry in entries]


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def baseline(schemas: Path = SCHEMAS) -> str:
    """The baseline migration: every file of sql/schemas/ in order."""
    parts = [
        f"\n\n-- ==== sql/schemas/{path.name}\n\n{path.read_text(encoding='utf-8').strip()}\n"
        for path in sorted(schemas.glob("*.sql"))
    ]
    return BASELINE_HEADER + "".join(parts)


def repeatable(dumped: str) -> str:
    """A dump without what pg_dump writes differently each time: random words, and the order of a policy's roles."""
    return _ROLES.sub(lambda policy: policy[1] + ", ".join(sorted(policy[2].split(", "))), _RANDOM.sub("", dumped))


def dump(postgres: Postgres, database: str) -> str:
    """The schemas public and private of a database as text that is the same for every version of Postgres.

    Sorted, because a migration can add a column only at the end of its table. Raises StackError.
    """
    command = postgres.command(
        "pg_dump",
        *("--schema-only", "--no-owner", "--schema=public", "--schema=private"),
        postgres.url("supabase_admin", database),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"pg_dump failed: {done.stderr.strip()}")
    text = _END.sub("", _SESSION.sub("", repeatable(done.stdout)))
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    parts = [
        text[heading.end() : end].strip() + "\n"
        for heading, end in zip(headings, ends, strict=True)
        if not _is_platform_object(heading["name"], heading["kind"])
    ]
    return _COLUMNS.sub(_with_sorted_columns, "\n".join(sorted(parts)))


def _is_platform_object(name: str, kind: str) -> bool:
    return kind == "DEFAULT ACL" or name in ("public", "SCHEMA public")


def _with_sorted_columns(table: re.Match[str]) -> str:
    columns = sorted(line.rstrip(",") for line in table[2].split("\n"))
    return table[1] + ",\n".join(columns) + table[3]


def build_from(postgres: Postgres, database: str, files: list[Path]) -> None:
    """Create a database with the platform's objects and run SQL files in it as `postgres`."""
    with psycopg.connect(postgres.url("supabase_admin"), autocommit=True) as connection:
        connection.execute(f'create database "{database}" template template0 owner postgres'.encode())
    with psycopg.connect(postgres.url("supabase_admin", database)) as connection:
        connection.execute(PLATFORM.read_bytes())
    with psycopg.connect(postgres.url(database=database)) as connection:
        for path in files:
            connection.execute(path.read_bytes())


def change(postgres: Postgres, source: str, desired: str) -> str:
    """Change the database `source` into `desired`. Returns the SQL that did it, empty if they were equal.

    Raises StackError, also if the result is not equal to `desired`.
    """
    statements: list[str] = []
    # The second pass revokes what default privileges granted on the objects that the first pass created.
    for _ in range(PASSES):
        sql = _plan(postgres, source, desired)
        # pg-delta does not compare the comments of view columns.
        sql = sql or "\n".join(sorted(_view_comments(postgres, desired) - _view_comments(postgres, source)))
        if not sql:
            break
        with psycopg.connect(postgres.url(database=source)) as connection:
            connection.execute(sql.encode())
        statements.append(sql)
    if dump(postgres, source) != dump(postgres, desired):
        raise StackError("pg-delta found only a part of the difference. Write the migration by hand.")
    return "\n".join(statements)


def _view_comments(postgres: Postgres, database: str) -> set[str]:
    with psycopg.connect(postgres.url(database=database)) as connection:
        rows = connection.execute(
            "select format('comment on column %s.%I is %L;', c.oid::regclass, a.attname, d.description)"
            " from pg_description d join pg_class c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass"
            " join pg_attribute a on a.attrelid = c.oid and a.attnum = d.objsubid"
            " where c.relkind = 'v' and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
        )
        return {row[0] for row in rows}


def _plan(postgres: Postgres, source: str, desired: str) -> str:
    with tempfile.TemporaryDirectory() as name:
        plan, rendered = Path(name) / "plan.json", Path(name) / "plan.sql"
        _pg_delta(
            *("plan", "--profile", "supabase", "--out", str(plan)),
            *("--source", postgres.url("supabase_admin", source)),
            *("--desired", postgres.url("supabase_admin", desired)),
        )
        if not json.loads(plan.read_text(encoding="utf-8"))["actions"]:
            return ""
        _pg_delta("render", "--plan", str(plan), "--out", str(rendered), "--allow-drops")
        return _OWNER_GRANT.sub("", rendered.read_text(encoding="utf-8"))


def _pg_delta(*arguments: str) -> None:
    done = subprocess.run([str(PG_DELTA), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"pgdelta {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")


@contextmanager
def throwaway_postgres() -> Iterator[Postgres]:
    """A running Postgres in a temporary folder. Raises StackError."""
    with (
        tempfile.TemporaryDirectory() as name,
        locked(Path(name)) as lock_fd,
        Processes(Path(name), lock_fd) as processes,
    ):
        postgres = Postgres(Path(name) / "postgres", POSTGRES + free_offset(), durable=False)
        postgres.start(processes)
        with psycopg.connect(postgres.url("supabase_admin")) as connection:
            connection.execute(PLATFORM.read_bytes())  # creates the roles of the cluster
        yield postgres


def write_migration(
    name: str, *, schemas: Path = SCHEMAS, migrations: Path = MIGRATIONS, released: Path = RELEASED, now: datetime
) -> Path | None:
    """Write the next migration and return its path. None: nothing changed.

    Before the first release this rewrites the baseline. Raises StackError.
    """
    if not releases(released):
        path, text = migrations / BASELINE, baseline(schemas)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return None
        path.write_text(text, encoding="utf-8")
        return path
    if not NAME.fullmatch(name):
        raise StackError("Give the migration a name of a-z, 0-9 and _: make migration NAME=add_budget")
    with throwaway_postgres() as postgres:
        build_from(postgres, "from_migrations", sorted(migrations.glob("*.sql")))
        build_from(postgres, "from_schemas", sorted(schemas.glob("*.sql")))
        text = change(postgres, "from_migrations", "from_schemas")
    if not text.strip():
        return None
    path = migrations / f"{now:%Y%m%d%H%M%S}_{name}.sql"
    path.write_text(f"{MIGRATION_HEADER}\n{text}", encoding="utf-8")
    return path


def main(arguments: list[str]) -> int:
    """`python -m infra.local.migrations NAME`. Returns the exit status."""
    try:
        path = write_migration("".join(arguments), now=datetime.now(UTC))
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {path.relative_to(ROOT)}" if path else "sql/migrations/ is up to date with sql/schemas/")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
