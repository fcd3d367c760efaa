"""Encrypts the provider keys that users store, with AES-256-GCM and a keyring of our own.

Every ciphertext has a random nonce of 96 bits. The user, the provider and the id of our encryption key are
authenticated with it, so a ciphertext that is moved to another row or relabelled does not decrypt.

The keyring is read from ENCRYPTION_KEYS, `id:hex,id:hex` with 64 hex digits each: the first key encrypts, all decrypt.
ENCRYPTION_KEY, 64 hex digits, is a keyring of one key with the id `1`, or adds one key that decrypts.

This module imports little: each function that uses it pays for the imports at every cold start.
"""

import os
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, Self, TypedDict

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
TAG_BYTES = 16
MAX_KEY_LENGTH = 512  # characters of a provider's key
DEFAULT_KEY_ID = "1"  # the id of ENCRYPTION_KEY
# Before it encrypts, the vault reads a keyring again that is older than REFRESH_S. After a failed read, or for the same
# unknown key id, the next read waits COOLDOWN_S.
REFRESH_S = 300.0
COOLDOWN_S = 10.0


class KeyringError(ValueError):
    """The keyring is missing or malformed. The message names the variable and never contains its value."""


class DecryptionFailed(Exception):
    """The ciphertext is damaged, moved or relabelled, or the keyring does not have its key."""

    def __init__(self, message: str = "the key cannot be decrypted") -> None:
        super().__init__(message)


class PlainKey:
    """A provider's key in plain text. Never visible in repr, str, format, pickle, copies or JSON."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key. Call it only for the request to the provider, its SDK, or the vault."""
        return self._value

    @property
    def hint(self) -> str:
        """What the user sees of the key: its last four characters, or none if it is short."""
        return f"…{self._value[-4:]}" if len(self._value) >= 16 else "…"

    def __repr__(self) -> str:
        return "PlainKey(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a plain key cannot be serialized")


class EncryptedColumns(TypedDict):
    """An encrypted key in the JSON of the SQL functions, with bytes in base64."""

    encrypted_key: str
    encryption_iv: str
    encryption_tag: str
    encryption_key_id: str


class StoredKey(EncryptedColumns):
    """A user's key with the id of its row."""

    id: str


class EncryptedKey(NamedTuple):
    """A provider's key as the database stores it. `key_id` is the id of the encryption key in the keyring."""

    key_id: str
    nonce: bytes
    ciphertext: bytes
    tag: bytes

    @classmethod
    def from_row(cls, row: EncryptedColumns | None) -> Self:
        """The encrypted key in a row. Raises DecryptionFailed if there is no row."""
        if row is None:
            raise DecryptionFailed("there is no key")
        return cls(
            row["encryption_key_id"],
            b64decode(row["encryption_iv"]),
            b64decode(row["encrypted_key"]),
            b64decode(row["encryption_tag"]),
        )

    def to_row(self) -> EncryptedColumns:
        """The columns of a row."""
        return {
            "encryption_key_id": self.key_id,
            "encryption_iv": b64encode(self.nonce).decode(),
            "encrypted_key": b64encode(self.ciphertext).decode(),
            "encryption_tag": b64encode(self.tag).decode(),
        }


def parse_keyring(environment: Mapping[str, str]) -> dict[str, bytes]:
    """The keys by id, 32 bytes each. The first one encrypts. Raises KeyringError."""
    keyring: dict[str, bytes] = {}
    for entry in filter(None, (part.strip() for part in environment.get("ENCRYPTION_KEYS", "").split(","))):
        key_id, _, digits = entry.partition(":")
        key = _parse_key(digits)
        if key is None or not (key_id.isascii() and key_id.replace("-", "").isalnum() and len(key_id) <= 32):
            raise KeyringError("ENCRYPTION_KEYS must be id:hex,id:hex with 64 hex digits each.")
        if key_id in keyring:
            raise KeyringError("ENCRYPTION_KEYS contains the same id twice.")
        keyring[key_id] = key
    if digits := environment.get("ENCRYPTION_KEY", "").strip():
        key = _parse_key(digits)
        if key is None:
            raise KeyringError("ENCRYPTION_KEY must be 64 hex digits.")
        if keyring.setdefault(DEFAULT_KEY_ID, key) != key:
            raise KeyringError("ENCRYPTION_KEYS and ENCRYPTION_KEY have different keys with the same id.")
    if not keyring:
        raise KeyringError("ENCRYPTION_KEYS is missing.")
    return keyring


def _parse_key(digits: str) -> bytes | None:
    """32 bytes from 64 hex digits, or None."""
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        return None
    return key if len(digits) == 64 and len(key) == 32 else None  # fromhex skips whitespace


class Vault:
    """Encrypts and decrypts provider keys. Reloads its keyring when it is old or lacks a key.

    `environment` has the first keyring. `reload` returns the current environment, so a rotated secret is used without
    a restart. `now` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        reload: Callable[[], Mapping[str, str]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reload = reload
        self._now = now
        self._missing_at: dict[str, float] = {}
        self._refresh_lock: Any = None  # an asyncio.Lock, created on first use
        self._set_keyring(parse_keyring(environment))

    def _set_keyring(self, keyring: Mapping[str, bytes]) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keyring.items()}
        self._loaded_at = self._now()

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._ciphers)})"

    @property
    def current_key_id(self) -> str:
        """The id of the key that encrypts."""
        return next(iter(self._ciphers))

    async def refresh(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Reload the keyring, one caller at a time; skipped if `unless` is true by then.

        A keyring that cannot be loaded leaves the present one in use.
        """
        import asyncio  # a caller that awaits has imported it already

        if self._refresh_lock is None:
            self._refresh_lock = asyncio.Lock()
        async with self._refresh_lock:
            if unless():
                return
            try:
                self._set_keyring(parse_keyring(await asyncio.to_thread(self._reload)))
            except Exception:  # noqa: BLE001 -- continuing with the present keyring is better than failing
                self._loaded_at = self._now() - REFRESH_S + COOLDOWN_S  # try again after the cooldown

    async def encrypt(self, plain: PlainKey, user_id: str, provider: str) -> EncryptedKey:
        """Encrypt a user's key for a provider with the newest key of the keyring."""
        if not self._is_fresh():
            await self.refresh(unless=self._is_fresh)
        return self.encrypt_without_refresh(plain, user_id, provider)

    def encrypt_without_refresh(self, plain: PlainKey, user_id: str, provider: str) -> EncryptedKey:
        """Encrypt with the keyring in memory."""
        key_id, cipher = next(iter(self._ciphers.items()))
        nonce = os.urandom(NONCE_BYTES)
        encrypted = cipher.encrypt(nonce, plain.reveal().encode(), _associated_data(user_id, provider, key_id))
        return EncryptedKey(key_id, nonce, encrypted[:-TAG_BYTES], encrypted[-TAG_BYTES:])

    async def decrypt(self, encrypted: EncryptedKey, user_id: str, provider: str) -> PlainKey:
        """A user's key for a provider. Raises DecryptionFailed."""
        key_id = encrypted.key_id
        if not self._skips_refresh(key_id):
            await self.refresh(unless=lambda: self._skips_refresh(key_id))
            if key_id not in self._ciphers:
                self._missing_at[key_id] = self._now()
        return self.decrypt_without_refresh(encrypted, user_id, provider)

    def _is_fresh(self) -> bool:
        return self._now() - self._loaded_at < REFRESH_S

    def _skips_refresh(self, key_id: str) -> bool:
        """Whether the keyring has this key, or was found to lack it within the cooldown."""
        return key_id in self._ciphers or self._now() - self._missing_at.get(key_id, float("-inf")) < COOLDOWN_S

    def decrypt_without_refresh(self, encrypted: EncryptedKey, user_id: str, provider: str) -> PlainKey:
        """Decrypt with the keyring in memory. Raises DecryptionFailed."""
        cipher = self._ciphers.get(encrypted.key_id)
        if cipher is None:
            raise DecryptionFailed("the keyring has no such key")
        if len(encrypted.nonce) != NONCE_BYTES or len(encrypted.tag) != TAG_BYTES:
            raise DecryptionFailed  # GCM accepts other lengths, which are weaker
        try:
            plain = cipher.decrypt(
                encrypted.nonce,
                encrypted.ciphertext + encrypted.tag,
                _associated_data(user_id, provider, encrypted.key_id),
            )
            return PlainKey(plain.decode())
        except (InvalidTag, UnicodeDecodeError):  # no cause: UnicodeDecodeError contains the plain text
            raise DecryptionFailed from None


def _associated_data(user_id: str, provider: str, key_id: str) -> bytes:
    """What GCM authenticates beside the ciphertext. No part can contain the separator."""
    return "\x00".join(("byok", user_id.lower(), provider, key_id)).encode()
