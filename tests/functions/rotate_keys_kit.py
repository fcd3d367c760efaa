"""Helpers for the tests of rotate-keys: stored rows, and the job as a process."""

import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from functions.common.vault import DecryptionFailed, EncryptedKey, PlainKey, Vault
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.own_keys import ENCRYPTION_KEYS, keyring
from tests.sql.metering import Db

PROVIDERS = ("anthropic", "openai")

PREFIX = f"sk-{secrets.token_hex(6)}-"  # of every provider key here
SECRETS = [
    PREFIX,
    *ENCRYPTION_KEYS.values(),
    *(b64encode(bytes.fromhex(key)).decode() for key in ENCRYPTION_KEYS.values()),
]

Plains = dict[str, str]  # by the row's id


def vault(*key_ids: str) -> Vault:
    """A vault with these keys."""
    environment = {"ENCRYPTION_KEYS": keyring(*key_ids)}
    return Vault(environment, lambda: environment)


@contextmanager
def connected(stack: Stack) -> Iterator[Db]:
    """A connection as `postgres`. Short, because the tests stop the database."""
    with psycopg.connect(stack.postgres.url(), autocommit=True, row_factory=dict_row) as db:
        yield db


def store(stack: Stack, user_ids: Sequence[str], encrypting: Vault | None = None, ids: Sequence[str] = ()) -> Plains:
    """Replace all stored keys with two for each of these users, encrypted with the old key or by `encrypting`, under
    random ids or `ids`. Every third is marked invalid, every fourth unchecked. Returns the plain texts."""
    encrypting = encrypting or vault("old")
    plains: Plains = {}
    first_created_at = datetime(2025, 1, 1, tzinfo=UTC)
    with connected(stack) as db:
        db.execute("truncate public.user_api_keys")
        with (
            db.transaction(),
            db.cursor() as cursor,
            cursor.copy(
                "copy public.user_api_keys (id, created_at, user_id, provider, hint, is_active, last_validated_at,"
                " validation_error, encrypted_key, encryption_iv, encryption_tag, encryption_key_id) from stdin"
            ) as rows,
        ):
            for number, (user_id, provider) in enumerate((user, name) for user in user_ids for name in PROVIDERS):
                key_id = ids[number] if ids else str(uuid.uuid4())
                plain = PlainKey(plains.setdefault(key_id, PREFIX + secrets.token_hex(random.choice([8, 24, 120]))))  # noqa: S311
                encrypted = encrypting.encrypt_without_refresh(plain, user_id, provider)
                created_at = first_created_at + timedelta(seconds=number)
                invalid = number % 3 == 2
                checked_at, error = created_at if number % 4 else None, "No." if invalid else None
                about = (key_id, created_at, user_id, provider, plain.hint, not invalid, checked_at, error)
                rows.write_row((*about, encrypted.ciphertext, encrypted.nonce, encrypted.tag, encrypted.key_id))
    return plains


def rows_of(db: Db) -> dict[str, dict[str, Any]]:
    """Every stored row, by its id."""
    return {str(row["id"]): row for row in db.execute("select * from public.user_api_keys").fetchall()}


def stored(stack: Stack) -> dict[str, dict[str, Any]]:
    """Every stored row, by its id."""
    with connected(stack) as db:
        return rows_of(db)


def plain_of(row: Mapping[str, Any], decrypting: Vault) -> str | None:
    """The plain text of a row; None if it cannot be decrypted."""
    encrypted = EncryptedKey(
        row["encryption_key_id"], row["encryption_iv"], row["encrypted_key"], row["encryption_tag"]
    )
    try:
        return decrypting.decrypt_without_refresh(encrypted, str(row["user_id"]), row["provider"]).reveal()
    except DecryptionFailed:
        return None


def unrotated_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a rotation must not change."""
    rotated = ("updated_at", "encrypted_key", "encryption_iv", "encryption_tag", "encryption_key_id")
    return {name: value for name, value in row.items() if name not in rotated}


def damaged_ids(before: Mapping[str, Any], after: Mapping[str, Any], plains: Plains, *key_ids: str) -> list[str]:
    """Ids of rows that were lost, added, changed in other columns, or that these keys cannot decrypt."""
    decrypting = vault(*key_ids)
    present = before.keys() & after.keys() & plains.keys()
    wrong_ids = (before.keys() | after.keys() | plains.keys()) - present
    for key_id in present:
        row = after[key_id]
        if unrotated_columns(row) != unrotated_columns(before[key_id]) or plain_of(row, decrypting) != plains[key_id]:
            wrong_ids.add(key_id)
    return sorted(wrong_ids)


def encrypted_with(rows: Mapping[str, Mapping[str, Any]], key_id: str) -> set[str]:
    """The ids of the rows encrypted with this key."""
    return {row_id for row_id, row in rows.items() if row["encryption_key_id"] == key_id}


def environment(stack: Stack, **changes: str) -> dict[str, str]:
    """The environment of the job. An empty variable counts as missing."""
    return {
        "PATH": os.environ["PATH"],
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "ENCRYPTION_KEYS": keyring("new", "old"),
        **changes,
    }


class Job:
    """A running job and its output."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *argv], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.stdout = self.stderr = ""

    def progress(self) -> int:
        """Wait for the next line of progress. Returns its number of rotated keys."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        self.stderr += line
        match = re.fullmatch(r"rotate-keys: ([\d,]+) keys encrypted with new\n", line)
        assert match, self.stderr
        return int(match[1].replace(",", ""))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        assert self.end() == -signal.SIGKILL, "it ended before it was killed"

    def end(self) -> int:
        """Wait for the end. Returns the exit status. Fails if the output contains a secret."""
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.stderr += self.process.stderr.read()
        self.stdout += self.process.stdout.read()
        status = self.process.wait()
        self.close()
        assert not [secret for secret in SECRETS if secret in self.stdout + self.stderr]
        return status

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    @property
    def counts(self) -> dict[str, Any]:
        """The JSON on the last line of the output."""
        counts: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return counts
