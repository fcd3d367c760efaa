"""rotate-keys: encrypts every stored provider key again, with the newest key of the keyring, while chats continue.

Works in batches ordered by id. Each batch is one call, which replaces only rows that have not changed since they were
read. A row names the key that encrypted it, so a run that was killed can be started again and continues. A row that
cannot be decrypted is left as it is and reported by its id. The old key may be removed once no row is left.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from functions.common import results
from functions.common.database import Database
from functions.common.vault import DecryptionFailed, EncryptedColumns, EncryptedKey, StoredKey, Vault

BATCH = 500
BATCH_S = 30.0
# A row that was locked or replaced during its batch is tried again in the next pass.
PASSES = 3
MAX_REPORTED_IDS = 100


class Counts(TypedDict):
    """`left`: rows that changed in every pass and still have an older key of the keyring."""

    rotated: int
    left: int
    unreadable: int
    unreadable_ids: list[str]


class KeyToRotate(StoredKey):
    """A row of `api_keys_to_rotate`."""

    user_id: str
    provider: str


class Replacement(EncryptedColumns):
    """A row for `rotate_api_keys`. It is skipped if the stored nonce is no longer `old_iv`."""

    id: str
    old_iv: str


async def rotate_keys(database: Database, vault: Vault, progress: Callable[[str], None]) -> Counts:
    """Returns the number of rows per outcome, and the first hundred ids that cannot be decrypted.

    Raises Unavailable if the database cannot be reached; rows that were rotated before stay rotated.
    """
    await vault.refresh()
    rotation = _Rotation(database, vault, progress)
    for _ in range(PASSES):
        if not await rotation.run_pass():
            break
    params = {"p_current": vault.current_key_id}
    remaining = await database.call("count_keys_to_rotate", params, timeout_s=BATCH_S, parse=results.number)
    return {
        "rotated": rotation.rotated,
        "left": max(0, remaining - len(rotation.unreadable)),
        "unreadable": len(rotation.unreadable),
        "unreadable_ids": list(rotation.unreadable)[:MAX_REPORTED_IDS],
    }


@dataclass(slots=True)
class _Rotation:
    database: Database
    vault: Vault
    progress: Callable[[str], None]
    rotated: int = 0
    unreadable: dict[str, None] = field(default_factory=dict)  # ids, in the order they were found

    async def run_pass(self) -> bool:
        """Go through all rows that have an older key. Returns whether it encrypted any."""
        encrypted_any = False
        after: str | None = None
        while True:
            params = {"p_current": self.vault.current_key_id, "p_after": after, "p_limit": BATCH}
            rows: list[KeyToRotate] = await self.database.call(
                "api_keys_to_rotate", params, timeout_s=BATCH_S, parse=results.records("id")
            )
            if not rows:
                return encrypted_any
            after = rows[-1]["id"]
            replacements = [replacement for row in rows if (replacement := self._encrypt_again(row))]
            if replacements:
                encrypted_any = True
                self.rotated += await self.database.call(
                    "rotate_api_keys", {"p_rows": replacements}, timeout_s=BATCH_S, parse=results.number
                )
                self.progress(f"rotate-keys: {self.rotated:,} keys encrypted with {self.vault.current_key_id}")

    def _encrypt_again(self, row: KeyToRotate) -> Replacement | None:
        """None if the key cannot be decrypted."""
        if row["id"] in self.unreadable:
            return None
        owner = row["user_id"], row["provider"]
        try:
            plain = self.vault.decrypt_without_refresh(EncryptedKey.from_row(row), *owner)
        except DecryptionFailed:
            self.unreadable[row["id"]] = None
            return None
        encrypted = self.vault.encrypt_without_refresh(plain, *owner)
        return Replacement(id=row["id"], old_iv=row["encryption_iv"], **encrypted.to_row())
