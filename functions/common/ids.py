"""Identifiers: the limit of those that clients choose, and ours, which increase with time."""

import os
import time
import uuid

ID_CHARACTERS = 128  # of a chat or a message


def time_ordered_id() -> str:
    """A UUID version 7: 48 bits of Unix milliseconds, then random bits. New rows share the last pages of an index.

    https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7
    """
    milliseconds = time.time_ns() // 1_000_000
    bits = int.from_bytes(milliseconds.to_bytes(6) + os.urandom(10))
    bits = bits & ~(0xF << 76) | 0x7 << 76  # version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=bits))


def new_request_id() -> str:
    """The id of an HTTP request: a time-ordered id without hyphens. A query gets the id of its request."""
    return time_ordered_id().replace("-", "")
