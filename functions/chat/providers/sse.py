"""Server-sent events as both providers send them: one JSON object with a `type` on each `data:` line."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from functions.common.errors import ProviderError


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Mapping[str, Any]]:
    """The objects of the stream's data lines. Raises ProviderError where one is not JSON.

    Lines are split as bytes at line feeds. Splitting text would also split at U+2028 and similar characters, which JSON
    may contain unescaped.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            try:
                event = orjson.loads(line[5:])
            except orjson.JSONDecodeError as error:
                raise ProviderError from error
            if isinstance(event, dict):
                yield event
