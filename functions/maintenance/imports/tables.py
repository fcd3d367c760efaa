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
NOT_DECODED = re.compile(r"[\ud800-\udfff]")
CHUNK_BYTES = 1024 * 1024
BAD_ROWS, BAD_SHARE = 10, 0.01  # of a file: with more than both, the file is not believed

csv.field_size_limit(1024 * 1024)


def read_table(
    file: IO[bytes], name: str, columns: Mapping[str, tuple[str, ...]], encoding: str = "cp1252"
) -> Iterator[dict[str, str] | None]:
    """The rows, by our names for the columns. `null` is the empty text.

    A row with too few or too many fields, or with bytes of another encoding, has only its first column; None is a row
    that cannot be read at all. `columns`: the headers that a column may have, the newest first. `encoding`: of a file
    that is not UTF-8. Raises ImportFailed where a column is missing, as in a page in place of a file.
    """
    lines = io.TextIOWrapper(file, "utf-8-sig" if _is_utf8(file) else encoding, "surrogateescape", newline="")
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
        read = {column: _clean(row[position]) for column, position in positions.items()}
        if any(not value.isprintable() and NOT_DECODED.search(value) for value in read.values()):
            read = {column: read[column] for column in first}
        yield read


def require_few_bad(bad: int, total: int, name: str) -> None:
    """Raise ImportFailed where more rows of a file cannot be read than a few."""
    if bad > max(BAD_ROWS, BAD_SHARE * total):
        raise ImportFailed(f"{bad:,} of {total:,} rows of {name} cannot be read or are repeated: it is not believed.")


def _is_utf8(file: IO[bytes]) -> bool:
    """Whether a file starts with a byte order mark, or most of its lines with other letters than ASCII are UTF-8.

    Text in Windows-1252 is UTF-8 only by chance, in a few lines.
    """
    yes = no = 0
    has_mark = file.read(len(BOM)) == BOM
    file.seek(0)
    while not has_mark and (chunk := file.read(CHUNK_BYTES)):
        for line in [] if chunk.isascii() else chunk.split(b"\n"):
            if not line.isascii():
                try:
                    line.decode()
                    yes += 1
                except UnicodeDecodeError:
                    no += 1
    file.seek(0)
    return has_mark or yes > no


def _clean(value: str) -> str:
    value = value.strip()
    if value == "null":
        return ""
    return value if value.isprintable() else CONTROL.sub(" ", value)
