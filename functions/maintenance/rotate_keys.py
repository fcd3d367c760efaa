"""rotate-keys: seals every stored key anew with the newest key of the ring, while chats go on.

In batches by id; each batch is one call, and replaces only what has not changed since it was read. Killed anywhere and
started again it goes on with what is left, for a sealed key says which key of the ring sealed it. A row that does not
open is left alone and reported by its id. The old key may go once nothing is left.
"""

from collections.abc import Callable
from typing import Any

from functions.common.database import Database
from functions.common.vault import CannotOpen, Vault, pack, unpack

BATCH = 500
BATCH_S = 30.0
# What was locked or replaced when its batch came is met again in another pass.
PASSES = 3
REPORTED = 100


async def rotate_keys(database: Database, vault: Vault, progress: Callable[[str], None]) -> dict[str, Any]:
    """Returns `{"rotated", "left", "unreadable", "unreadable_ids"}`: how many, and the first hundred that do not open.

    `left` are keys that were being changed each time we came, and are still under an older key of the ring.

    Raises Unavailable where the database is out of reach; what was rotated stays so.
    """
    await vault.refresh()
    rotated = 0
    unreadable: dict[str, None] = {}
    for _ in range(PASSES):
        met = 0
        after: str | None = None
        while True:
            params = {"p_current": vault.current, "p_after": after, "p_limit": BATCH}
            rows = await database.call("api_keys_to_rotate", params, within=BATCH_S, repeatable=True)
            if not rows:
                break
            after = rows[-1]["id"]
            resealed = []
            for row in rows:
                if row["id"] in unreadable:
                    continue
                try:
                    plain = vault.open_now(unpack(row), row["user_id"], row["provider"])
                except CannotOpen:
                    unreadable[row["id"]] = None
                    continue
                sealed = vault.seal_now(plain, row["user_id"], row["provider"])
                resealed.append({"id": row["id"], "old_iv": row["encryption_iv"], **pack(sealed)})
            if resealed:
                met += len(resealed)
                rotated += await database.call("rotate_api_keys", {"p_rows": resealed}, within=BATCH_S, repeatable=True)
                progress(f"rotate-keys: {rotated:,} keys sealed with {vault.current}")
        if not met:
            break
    others = await database.call("count_keys_to_rotate", {"p_current": vault.current}, within=BATCH_S, repeatable=True)
    return {
        "rotated": rotated,
        "left": max(0, others - len(unreadable)),
        "unreadable": len(unreadable),
        "unreadable_ids": list(unreadable)[:REPORTED],
    }
