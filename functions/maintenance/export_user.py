"""export-user: writes everything that is stored about a user into one JSON file."""

import os
from collections.abc import Callable
from pathlib import Path

from functions.common.database import Database
from functions.common.leaving.export import write_export


async def export_user(database: Database, user_id: str, to: Path, progress: Callable[[str], None]) -> dict[str, int]:
    """Write the user's rows to the file `to`. Returns the number of rows of each part.

    The file appears when it is complete, readable by its owner only. Raises NotFound, Unavailable.
    """
    unfinished = to.with_name(f".{to.name}.unfinished")
    try:
        with os.fdopen(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            counts = await write_export(database, user_id, file, lambda line: progress(f"export-user: {line}"))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(to)
    finally:
        unfinished.unlink(missing_ok=True)
    return counts
