"""sql/schema.sql: what all migrations together make, to be read and diffed. `python -m infra.local.schema` writes it.

It is never run. A test compares it with the migrations, so a change of theirs shows its whole effect in review.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from infra.local.postgres import ROOT, Postgres
from infra.local.processes import Processes, StackError
from infra.local.stack import POSTGRES, free_offset, locked

SCHEMA = ROOT / "sql" / "schema.sql"
OPENING = """\
-- What the migrations together make of the schemas public and private, as pg_dump sees it. Made by `make schema`,
-- never by hand; to be read, not to be run. Not shown: rows, owners (everything is postgres's), what the platform
-- brings, and the trigger start_subscription on auth.users.
"""
# What pg_dump writes above everything it writes, between its parts, and below them.
_ENTRY = re.compile(r"^--\n-- Name: (?P<name>.*); Type: (?P<kind>.*); Schema: .*; Owner: .*\n--\n", re.MULTILINE)
_SESSION = re.compile(r"^SET default_.*\n", re.MULTILINE)
_END = re.compile(r"^--\n-- PostgreSQL database dump complete\n(?s:.*)", re.MULTILINE)
_RANDOM = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)
_ROLES = re.compile(r"^(CREATE POLICY .*? TO )([\w, ]+?)(?= USING | WITH CHECK |;)", re.MULTILINE)


def repeatable(dumped: str) -> str:
    """A dump without what pg_dump writes differently each time: random words, and a policy's roles in any order."""
    return _ROLES.sub(lambda policy: policy[1] + ", ".join(sorted(policy[2].split(", "))), _RANDOM.sub("", dumped))


def dump(postgres: Postgres, database: str) -> str:
    """The schemas public and private of a database: one text whatever the version of Postgres. Raises StackError."""
    command = postgres.command(
        "pg_dump",
        *("--schema-only", "--no-owner", "--schema=public", "--schema=private"),
        postgres.url("supabase_admin", database),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"pg_dump failed: {done.stderr.strip()}")
    text = _END.sub("", _SESSION.sub("", repeatable(done.stdout)))
    entries = list(_ENTRY.finditer(text))
    ends = [entry.start() for entry in entries[1:]] + [len(text)]
    parts = [
        text[entry.end() : end].strip() + "\n"
        for entry, end in zip(entries, ends, strict=True)
        if not _of_the_platform(entry["name"], entry["kind"])
    ]
    return "\n".join([OPENING, *parts])


def _of_the_platform(name: str, kind: str) -> bool:
    return kind == "DEFAULT ACL" or name in ("public", "SCHEMA public")


def main() -> int:
    """Apply the migrations to a throw-away cluster and write what they make. The exit status."""
    try:
        with (
            tempfile.TemporaryDirectory() as name,
            locked(Path(name)) as lock_fd,
            Processes(Path(name), lock_fd) as processes,
        ):
            postgres = Postgres(Path(name) / "postgres", POSTGRES + free_offset(), durable=False)
            postgres.start(processes)
            postgres.migrate()
            SCHEMA.write_text(dump(postgres, "postgres"), encoding="utf-8")
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {SCHEMA}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
