"""Stores users' own provider keys in the running stack without asking the provider."""

import psycopg

from functions.common.vault import PlainKey, Vault
from infra.local.stack import Stack
from tests.conftest import Person


def encryption_environment(stack: Stack) -> dict[str, str]:
    """The variable with the stack's encryption key."""
    return {"ENCRYPTION_KEY": (stack.config.folder / "encryption-key").read_text()}


def store_key(stack: Stack, person: Person, key: str, provider: str, *, is_valid: bool = True) -> None:
    """Store a key as valid or as unchecked. Only its ciphertext reaches the database."""
    plain = PlainKey(key)
    row = Vault(encryption_environment(stack), dict).encrypt_without_refresh(plain, person.id, provider).to_row()
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute(
            "select public.put_api_key(gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, %s)",
            (person.id, provider, row["encrypted_key"], row["encryption_iv"], row["encryption_tag"],
             row["encryption_key_id"], plain.hint, is_valid),
        )  # fmt: skip
