"""Helpers for the tests of the vault."""

import hashlib
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from functions.common.vault import DecryptionFailed, EncryptedKey, Vault

ALICE, BOB = "a11ce000-0000-4000-8000-00000000000a", "b0b00000-0000-4000-8000-00000000000b"
PROVIDERS = ("anthropic", "openai")
CANARY = "sk-canary-of-somebody-4242"
HEX = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("first", "second", "third")}
BOTH = f"first:{HEX['first']},second:{HEX['second']}"


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class Source:
    """The environment that a vault reloads. The test changes `keys` and `failure`; `reads` counts the calls."""

    def __init__(self, keys: str) -> None:
        self.keys = keys
        self.reads = 0
        self.failure: Exception | None = None

    def __call__(self) -> Mapping[str, str]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return {"ENCRYPTION_KEYS": self.keys}


def make_vault(keys: str = BOTH) -> Vault:
    """A vault that cannot reload its keyring."""
    return Vault({"ENCRYPTION_KEYS": keys}, dict)


def encrypt_by_hand(
    key_id: str, nonce: bytes, plain: bytes, user_id: str = ALICE, provider: str = "openai"
) -> EncryptedKey:
    """The same encryption without the vault, with the associated data written out."""
    associated_data = b"byok\x00" + user_id.encode() + b"\x00" + provider.encode() + b"\x00" + key_id.encode()
    encrypted = AESGCM(bytes.fromhex(HEX[key_id])).encrypt(nonce, plain, associated_data)
    return EncryptedKey(key_id, nonce, encrypted[:-16], encrypted[-16:])


def try_decrypt(vault: Vault, encrypted: EncryptedKey, user_id: str = ALICE, provider: str = "openai") -> str | None:
    """The plain text, or None."""
    try:
        return vault.decrypt_without_refresh(encrypted, user_id, provider).reveal()
    except DecryptionFailed:
        return None
