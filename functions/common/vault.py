"""The vault: keys that users bring, sealed with AES-256-GCM so that only a ring of our own can open them.

Every seal has a random nonce of 96 bits. What a seal is bound to (the user, the provider, the ring's key) is
authenticated with it, so that a ciphertext moved to another row, or relabelled, does not open.

The ring comes from ENCRYPTION_KEYS, `id:hex,id:hex` with 64 hex digits each: the first seals, all open. ENCRYPTION_KEY,
64 hex digits, is a ring of one, or one more that opens, under the id `1`.

Imports little, because both functions that need it pay for it at every cold start.
"""

import os
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
TAG_BYTES = 16
PLAIN_LIMIT = 512  # characters of a provider's key
ONLY_KEY_ID = "1"
# How old a ring may be when something is sealed with it, and how often it is read again for a key that it does not
# have, or when it could not be read.
REFRESH_S = 300.0
COOLDOWN_S = 10.0


class RingError(ValueError):
    """The ring is missing or malformed. Names the variable, never what is in it."""


class CannotOpen(Exception):
    """A seal that does not open: damaged, moved, relabelled, or sealed with a key that the ring does not have."""

    def __init__(self, message: str = "the seal does not open") -> None:
        super().__init__(message)


class PlainKey:
    """A provider's key in plain text. Shows itself to nobody: not in repr, str, format, pickle, copies or JSON."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key. Only for the line that hands it to the provider's SDK or to the vault."""
        return self._value

    @property
    def hint(self) -> str:
        """What its owner is shown of it: the last four characters, or none of a short one."""
        return f"…{self._value[-4:]}" if len(self._value) >= 16 else "…"

    def __repr__(self) -> str:
        return "PlainKey(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a plain key is never written down")


class Sealed(NamedTuple):
    """A sealed key as its row has it. `key_id` names the ring's key that opens it."""

    key_id: str
    nonce: bytes
    ciphertext: bytes
    tag: bytes


def unpack(row: Mapping[str, str] | None) -> Sealed:
    """The seal of a row as the database's functions give it, bytes in base64. Raises CannotOpen where there is none."""
    if row is None:
        raise CannotOpen("there is no key")
    return Sealed(
        row["encryption_key_id"],
        b64decode(row["encryption_iv"]),
        b64decode(row["encrypted_key"]),
        b64decode(row["encryption_tag"]),
    )


def pack(sealed: Sealed) -> dict[str, str]:
    """A seal as the database's functions take it, bytes in base64."""
    return {
        "encryption_key_id": sealed.key_id,
        "encryption_iv": b64encode(sealed.nonce).decode(),
        "encrypted_key": b64encode(sealed.ciphertext).decode(),
        "encryption_tag": b64encode(sealed.tag).decode(),
    }


def read_ring(variables: Mapping[str, str]) -> dict[str, bytes]:
    """The ring's keys by id, 32 bytes each, the one that seals first. Raises RingError."""
    ring: dict[str, bytes] = {}
    for entry in filter(None, (part.strip() for part in variables.get("ENCRYPTION_KEYS", "").split(","))):
        key_id, _, digits = entry.partition(":")
        key = _key(digits)
        if key is None or not (key_id.isascii() and key_id.replace("-", "").isalnum() and len(key_id) <= 32):
            raise RingError("ENCRYPTION_KEYS must be id:hex,id:hex with 64 hex digits each.")
        if key_id in ring:
            raise RingError("ENCRYPTION_KEYS names an id twice.")
        ring[key_id] = key
    if only := variables.get("ENCRYPTION_KEY", "").strip():
        key = _key(only)
        if key is None:
            raise RingError("ENCRYPTION_KEY must be 64 hex digits.")
        if ring.setdefault(ONLY_KEY_ID, key) != key:
            raise RingError("ENCRYPTION_KEYS and ENCRYPTION_KEY have different keys of the same id.")
    if not ring:
        raise RingError("ENCRYPTION_KEYS is missing.")
    return ring


def _key(digits: str) -> bytes | None:
    """32 bytes from 64 hex digits, or None."""
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        return None
    return key if len(digits) == 64 and len(key) == 32 else None  # fromhex skips blanks


class Vault:
    """Seals and opens keys with a ring that is read again by itself when it is old, or lacks a key.

    `variables` are what the ring is read from at the start, `again` gives them anew: a rotated secret is met while
    running. `now` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        again: Callable[[], Mapping[str, str]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._again = again
        self._now = now
        self._missed: dict[str, float] = {}
        self._reading: Any = None  # an asyncio.Lock, made where there is a loop
        self._set(read_ring(variables))

    def _set(self, ring: Mapping[str, bytes]) -> None:
        self._ring = {key_id: AESGCM(key) for key_id, key in ring.items()}
        self._read_at = self._now()

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._ring)})"

    @property
    def current(self) -> str:
        """The id of the key that seals."""
        return next(iter(self._ring))

    async def refresh(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Read the ring again, unless it is `enough` when our turn comes. What cannot be read changes nothing."""
        import asyncio  # where there is something to await, it is there already

        if self._reading is None:
            self._reading = asyncio.Lock()
        async with self._reading:
            if enough():
                return
            try:
                self._set(read_ring(await asyncio.to_thread(self._again)))
            except Exception:  # noqa: BLE001 -- whatever it is, it is worse to stop than to go on with what we have
                self._read_at = self._now() - REFRESH_S + COOLDOWN_S  # old again in a moment

    async def seal(self, plain: PlainKey, user_id: str, provider: str) -> Sealed:
        """Seal a key for a user and a provider, with the newest key of the ring."""
        if not self._is_young():
            await self.refresh(self._is_young)
        return self.seal_now(plain, user_id, provider)

    def seal_now(self, plain: PlainKey, user_id: str, provider: str) -> Sealed:
        """Seal with the ring as it is."""
        key_id, cipher = next(iter(self._ring.items()))
        nonce = os.urandom(NONCE_BYTES)
        sealed = cipher.encrypt(nonce, plain.reveal().encode(), _bound_to(user_id, provider, key_id))
        return Sealed(key_id, nonce, sealed[:-TAG_BYTES], sealed[-TAG_BYTES:])

    async def open(self, sealed: Sealed, user_id: str, provider: str) -> PlainKey:
        """The key of a user for a provider. Raises CannotOpen."""
        if not self._knows(sealed.key_id):
            await self.refresh(lambda: self._knows(sealed.key_id))
            if sealed.key_id not in self._ring:
                self._missed[sealed.key_id] = self._now()
        return self.open_now(sealed, user_id, provider)

    def _is_young(self) -> bool:
        return self._now() - self._read_at < REFRESH_S

    def _knows(self, key_id: str) -> bool:
        """Whether the ring has that key, or had not a moment ago."""
        return key_id in self._ring or self._now() - self._missed.get(key_id, float("-inf")) < COOLDOWN_S

    def open_now(self, sealed: Sealed, user_id: str, provider: str) -> PlainKey:
        """Open with the ring as it is. Raises CannotOpen."""
        cipher = self._ring.get(sealed.key_id)
        if cipher is None:
            raise CannotOpen("the ring has no such key")
        if len(sealed.nonce) != NONCE_BYTES or len(sealed.tag) != TAG_BYTES:
            raise CannotOpen  # GCM would take other lengths, and be weaker for it
        try:
            plain = cipher.decrypt(
                sealed.nonce, sealed.ciphertext + sealed.tag, _bound_to(user_id, provider, sealed.key_id)
            )
            return PlainKey(plain.decode())
        except (InvalidTag, UnicodeDecodeError):  # without its cause: the second has the plain text in it
            raise CannotOpen from None


def _bound_to(user_id: str, provider: str, key_id: str) -> bytes:
    """What is authenticated beside the key. None of the parts can contain the separator."""
    return "\x00".join(("byok", user_id.lower(), provider, key_id)).encode()
