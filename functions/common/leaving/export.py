"""Writes everything that is stored about a user as one JSON document."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from functions.common import results
from functions.common.billing.records import billing_profile
from functions.common.database import Database
from functions.common.errors import NotFound

# The parts of an export in the order of the document, and the rows of one page.
PARTS = {
    "account": 1,
    "subscription": 1,
    "keys": 10,
    "packs": 500,
    "bills": 500,
    "conversations": 20,
    "pending": 20,
    "shared": 20,
    "feedback": 1000,
    "usage": 1000,
    "reversals": 100,
    "operator_actions": 100,
    "running": 100,
    "refusals": 100,
}
PAGE_TIMEOUT_S = 30.0


class Writable(Protocol):
    """A file that takes text."""

    def write(self, text: str, /) -> object:
        """Add text."""


async def write_export(
    database: Database, user_id: str, file: Writable, progress: Callable[[str], None]
) -> dict[str, int]:
    """Write the user's rows to `file`, page by page. Returns the number of rows of each part.

    Money is exact text. Raises NotFound for an unknown user, before anything is written, and Unavailable.
    """
    if await billing_profile(database, user_id) is None:
        raise NotFound("user_not_found")
    counts: dict[str, int] = {}
    separator = "{\n"
    for part in PARTS:
        counts[part] = 0
        file.write(f'{separator}"{part}": [')
        async for row in _rows(database, user_id, part):
            file.write(",\n" if counts[part] else "\n")
            file.write(json.dumps(row, ensure_ascii=False, indent=2))
            counts[part] += 1
        file.write("]")
        separator = ",\n"
        progress(f"{counts[part]:,} rows of {part}")
    file.write("\n}\n")
    return counts


async def _rows(database: Database, user_id: str, part: str) -> AsyncIterator[Any]:
    after: str | None = None
    while True:
        params = {"p_user_id": user_id, "p_part": part, "p_after": after, "p_limit": PARTS[part]}
        page = await database.call(
            "export_user", params, timeout_s=PAGE_TIMEOUT_S, parse=results.records("id", "record")
        )
        for row in page:
            yield json.loads(row["record"], parse_float=str)
        if len(page) < PARTS[part]:
            return
        after = page[-1]["id"]
