"""Server-sent events as both providers send them: one JSON object a `data:` line, its kind within."""

from collections.abc import AsyncIterator
from typing import Any

import orjson

from functions.common.errors import ProviderError


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The objects of the stream's data lines. Raises ProviderError for one that is not JSON.

    Lines are split as bytes at line feeds: splitting text would also split at U+2028 and its like, which may stand
    unescaped within JSON.
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
