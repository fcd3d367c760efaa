"""CSV files row by row: encodings, missing columns, rows that cannot be read."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import IO

from functions.maintenance.imports.errors import ImportFailed

BOM = b"\xef\xbb\xbf"
# Postgres's text has no NUL, and a text of the registry no control characters but line breaks.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

csv.field_size_limit(1024 * 1024)


def read_table(
    file: IO[bytes], name: str, columns: Mapping[str, tuple[str, ...]], encoding: str = "cp1252"
) -> Iterator[dict[str, str] | None]:
    """The rows, by our names for the columns. `null` is the empty text.

    A row with too few or too many fields has only its first column; None is a row that cannot be read at all.
    `columns`: the headers that a column may have, the newest first. A file that starts with a byte order mark is UTF-8.
    Raises ImportFailed where a column is missing, as in a page in place of a file.
    """
    if file.read(len(BOM)) == BOM:
        encoding = "utf-8-sig"
    file.seek(0)
    lines = io.TextIOWrapper(file, encoding, errors="replace", newline="")
    reader = csv.reader(lines)
    try:
        header = [title.strip().upper() for title in next(reader, [])]
    except csv.Error as error:
        raise ImportFailed(f"{name} is no table.") from error
    positions = {}
    for column, titles in columns.items():
        position = next((header.index(title) for title in titles if title in header), None)
        if position is None:
            raise ImportFailed(f"{name} has no column {titles[0]}: the format has changed, or this is another file.")
        positions[column] = position
    first = dict([next(iter(positions.items()))])
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None
            continue
        if not row:
            continue
        if len(row) != len(header):
            yield {column: _clean(row[position]) for column, position in first.items()} if len(row) > 1 else None
            continue
        yield {column: _clean(row[position]) for column, position in positions.items()}


def _clean(value: str) -> str:
    value = value.strip()
    if value == "null":
        return ""
    return value if value.isprintable() else CONTROL.sub(" ", value)
