"""Server-sent events as both providers send them: one JSON object a `data:` line, its kind within."""

from collections.abc import AsyncIterator
from typing import Any

import orjson

from functions.common.errors import ProviderError


async def events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The objects of the stream's data lines. Raises ProviderError for one that is not JSON."""
    async for line in lines:
        if not line.startswith("data:"):
            continue
        try:
            event = orjson.loads(line[5:])
        except orjson.JSONDecodeError as error:
            raise ProviderError from error
        if isinstance(event, dict):
            yield event
