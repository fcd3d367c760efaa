"""Halves of characters, in JSON and in streams of text.

JavaScript and other programs cut strings between UTF-16 code units. An emoji has two of them, so JSON may contain half
of one: `"\\ud83d"`. orjson and Postgres refuse it.
"""

import re
from typing import Any

import orjson

HALF = re.compile("[\ud800-\udfff]")
# The escapes of a JSON text, one after the other, so that an escaped backslash before `ud83d` is none. Group 1: a half
# without the other one.
ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def loads(text: bytes | str) -> Any:
    """As orjson.loads, but a half of a character is replaced. Raises orjson.JSONDecodeError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        body = joined(text).encode() if isinstance(text, str) else text
        return orjson.loads(ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], body))


def joined(text: str) -> str:
    """The text with the halves of characters joined. A half without the other one is replaced."""
    if HALF.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Joiner:
    """Joins the halves of characters in a text that arrives in pieces, and removes null characters.

    Postgres cannot store either.
    """

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """The text that is complete with this piece. Holds back a first half at its end."""
        if "\x00" in piece:
            piece = piece.replace("\x00", "")
        if not self._held and (piece.isascii() or HALF.search(piece) is None):
            return piece
        text, self._held = self._held + piece, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return joined(text)

    def end(self) -> str:
        """The text that was held back."""
        text, self._held = self._held, ""
        return joined(text)
