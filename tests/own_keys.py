"""The encryption keys of the tests' stacks, and users' own provider keys, stored without asking the provider."""

import secrets
from typing import TYPE_CHECKING

import psycopg

from functions.common.vault import PlainKey, Vault
from infra.local.stack import Stack

if TYPE_CHECKING:
    from tests.conftest import Person

ENCRYPTION_KEYS = {key_id: secrets.token_hex(32) for key_id in ("new", "old", "lost")}


def keyring(*key_ids: str) -> str:
    """The variable ENCRYPTION_KEYS. The first key encrypts."""
    return ",".join(f"{key_id}:{ENCRYPTION_KEYS[key_id]}" for key_id in key_ids)


# The functions of every stack have both keys, because the tests of rotate-keys chat while keys are rotated.
ENCRYPTION = {"ENCRYPTION_KEYS": keyring("new", "old")}


def store_key(stack: Stack, person: "Person", key: str, provider: str, *, is_valid: bool = True) -> None:
    """Store a key as valid or as unchecked. Only its ciphertext reaches the database."""
    plain = PlainKey(key)
    row = Vault(ENCRYPTION, dict).encrypt_without_refresh(plain, person.id, provider).to_row()
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute(
            "select public.put_api_key(gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, %s)",
            (person.id, provider, row["encrypted_key"], row["encryption_iv"], row["encryption_tag"],
             row["encryption_key_id"], plain.hint, is_valid),
        )  # fmt: skip
