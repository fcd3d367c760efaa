"""The migrations of a stage's database, as the Supabase CLI records them: `supabase db push` and this can take turns.

A migration whose first line is `-- contract` takes away what the code before still uses, so it runs only after that
code is gone. Every other one runs before the new code (docs/migrations.md).
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from infra.deploy.stage import DeployError
from infra.package.__main__ import ROOT

MIGRATIONS = ROOT / "sql" / "migrations"
CONTRACT = "-- contract"
TRANSACTION_POOLER = 6543  # the pooler's port that gives another connection to each transaction
RECORDS = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations
  (version text primary key, statements text[], name text)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A file of sql/migrations."""

    path: Path

    @property
    def version(self) -> str:
        """What orders the migrations: the time in the file's name."""
        return self.path.stem.partition("_")[0]

    @property
    def contracts(self) -> bool:
        """Whether code before this release cannot bear it."""
        return self.path.read_text(encoding="utf-8").partition("\n")[0].strip() == CONTRACT


@dataclass(frozen=True, slots=True)
class Pending:
    """What a database lacks, and versions that it has and this checkout does not: `newer` ones only add, `contracted`
    ones took away what this checkout may use, or their text is not recorded."""

    expand: list[Migration]
    contract: list[Migration]
    newer: list[str]
    contracted: list[str]


def connect(url: str) -> "psycopg.Connection[tuple[object, ...]]":
    """A connection for migrations. Raises DeployError, without the URL: it has the password."""
    try:
        parts = urlsplit(url)
        if parts.port == TRANSACTION_POOLER:
            raise DeployError(
                "DATABASE_URL is the transaction pooler's (port 6543): use the session pooler's, port 5432, or the "
                "direct connection's, which needs IPv6."
            )
        return psycopg.connect(url, autocommit=True, connect_timeout=10)
    except (psycopg.Error, ValueError) as error:
        raise DeployError(f"The database of DATABASE_URL cannot be reached ({type(error).__name__}).") from None


def pending(connection: "psycopg.Connection[tuple[object, ...]]", folder: Path = MIGRATIONS) -> Pending:
    """Compare the database with the checkout. Changes nothing. Raises DeployError."""
    applied: dict[str, str] = {}  # the first statement of each version
    records = "select version, statements[1] from supabase_migrations.schema_migrations"
    try:
        found = connection.execute("select to_regclass('supabase_migrations.schema_migrations') is not null").fetchone()
        if found and found[0]:
            applied = {str(version): str(text or "") for version, text in connection.execute(records).fetchall()}
    except psycopg.Error as error:
        reason = error.diag.message_primary or type(error).__name__
        raise DeployError(f"The records of migrations cannot be read: {reason}.") from None
    files = [Migration(path) for path in sorted(folder.glob("*.sql"))]
    missing = [one for one in files if one.version not in applied]
    unknown = sorted(applied.keys() - {one.version for one in files})
    newer = [version for version in unknown if applied[version] and not applied[version].lstrip().startswith(CONTRACT)]
    return Pending(
        expand=[one for one in missing if not one.contracts],
        contract=[one for one in missing if one.contracts],
        newer=newer,
        contracted=[version for version in unknown if version not in newer],
    )


def apply(connection: "psycopg.Connection[tuple[object, ...]]", migration: Migration) -> None:
    """Run a migration and record it, in one transaction. Raises DeployError with the database's sentence."""
    text = migration.path.read_text(encoding="utf-8")
    try:
        connection.execute(RECORDS)
        with connection.transaction():
            connection.execute(text.encode())
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)",
                (migration.version, [text], migration.path.stem.partition("_")[2]),
            )
    except psycopg.Error as error:
        reason = error.diag.message_primary or type(error).__name__
        raise DeployError(f"{migration.path.name} failed and changed nothing: {reason}") from None
