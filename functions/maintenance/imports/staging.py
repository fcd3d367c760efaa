"""The registry's files in a SQLite file on disk, from which they are read as whole records in the order of their keys.

The files of a zip belong together by an id, in no order that is documented, and are too large for the memory. On Lambda
the disk is /tmp: the zip, and about as much again (serverless.yml, ephemeralStorageSize).
"""

import lzma
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from functions.maintenance.imports.errors import ImportFailed
from functions.maintenance.imports.tables import read_table, require_few_bad

UNZIPPED_BYTES = 4 * 1024**3
CHUNK_ROWS = 2_000
WORKING_TABLES = ("damaged", "damaged_numbers", "newest")
CACHE_KIB = 32 * 1024

LONGEST_ID = 18  # digits: a bigint
# What zipfile and its decompressors raise for a file that is damaged, encrypted or of an unknown kind.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)

Row = Mapping[str, str]


class Archive:
    """A zip of CSV files. Raises ImportFailed where it is none, or is damaged."""

    def __init__(self, path: Path, host: str) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise ImportFailed(
                f"{host} sent no complete zip: a page in place of the file, or a transfer that was cut."
            ) from error
        self._members = {info.filename.rpartition("/")[2].lower(): info for info in self._zip.infolist()}
        if sum(info.file_size for info in self._members.values()) > UNZIPPED_BYTES:
            raise ImportFailed("The zip is larger than any that is known.")

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def table(self, name: str, columns: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, str] | None]:
        """The rows of a file, as read_table gives them. One without a row is refused."""
        info = self._members.get(name.lower())
        if info is None:
            raise ImportFailed(f"The zip has no {name}: the format has changed.")
        has_rows = False
        try:
            with self._zip.open(info) as file:
                for row in read_table(file, name, columns):
                    has_rows = True
                    yield row
        except DAMAGED as error:
            raise ImportFailed(f"{name} in the zip is damaged or encrypted.") from error
        if not has_rows:
            raise ImportFailed(f"{name} in the zip has no rows.")


class Staging:
    """A SQLite file. `bad_rows` counts the rows of the files that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = off", "synchronous = off", f"cache_size = -{CACHE_KIB}", "temp_store = file"):
            self._db.execute(f"pragma {pragma}")
        self.bad_rows = 0
        self._db.execute("create table damaged (id integer primary key)")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def execute(self, statement: str, parameters: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run a statement."""
        return self._db.execute(statement, tuple(parameters))

    def load(
        self,
        table: Iterable[Row | None],
        key: str,
        statement: str,
        values: Callable[[int, Row], Iterable[tuple[Any, ...]]],
    ) -> int:
        """Run `statement` with the values of every row. Returns how many rows the file has.

        `values` takes the row's id, the integer in the column `key`, and raises ValueError for a row that cannot be
        read: the record with that id is marked as damaged. Raises ImportFailed where too many rows are bad.
        """
        total, bad = 0, 0

        def good() -> Iterator[tuple[Any, ...]]:
            nonlocal total, bad
            for row in table:
                total += 1
                try:
                    number = parse_id((row or {}).get(key, ""))
                except ValueError:
                    bad += 1
                    continue
                try:
                    yield from values(number, row or {})
                except (ValueError, KeyError):
                    bad += 1
                    self._db.execute("insert or ignore into damaged values (?)", (number,))

        rows = good()
        self._db.execute("begin")
        while chunk := list(islice(rows, CHUNK_ROWS)):
            self._db.executemany(statement, chunk)
        self._db.execute("commit")
        self.bad_rows += bad
        require_few_bad(bad, total, "a file")
        return total

    def sizes(self) -> dict[str, int]:
        """For each column, `table.column`, how many records have a value in it."""
        with closing(self._db.execute("select name from sqlite_master where type = 'table'")) as cursor:
            tables = sorted(name for (name,) in cursor if name not in WORKING_TABLES)
        sizes = {}
        for table in tables:
            with closing(self._db.execute(f"pragma table_info({table})")) as cursor:
                columns = [name for _, name, *_ in cursor]
            for column in columns:
                has_value = f"(select distinct id from {table} where {column} <> '')"  # noqa: S608 -- our own names
                sizes[f"{table}.{column}"] = self.count(has_value)
        return sizes

    def count(self, table: str) -> int:
        """The number of rows of a table."""
        with closing(self._db.execute(f"select count(*) from {table}")) as cursor:  # noqa: S608 -- our own names
            return int(cursor.fetchone()[0])


def parse_id(text: str) -> int:
    """The id of a record. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_ID):
        raise ValueError
    return int(text)
