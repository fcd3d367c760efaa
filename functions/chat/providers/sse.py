"""Server-sent events of the providers and of gateways in front of them: JSON objects with a `type`.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import orjson

from functions.chat import limits
from functions.common.errors import ProviderError

BOM = b"\xef\xbb\xbf"
RETURN = ord("\r")  # a number is found in bytes much faster than bytes are
DONE = b"[DONE]"  # gateways end their streams with it, as OpenAI's older API does


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The objects of a stream, however it is cut into chunks. An event without a `type` gets that of its event line.

    An object is complete with the line of data that makes it valid JSON: it is read before the empty line after it.
    Lines are split as bytes: splitting text would also split at U+2028 and similar characters, which JSON may contain
    unescaped. Raises ProviderError where an event is not JSON, or longer than limits.EVENT_BYTES.
    """
    rest = data = before = b""  # a line without its end, data that are not JSON yet, the line before
    begun = after_return = False
    async for chunk in chunks:
        if after_return or RETURN in chunk:  # a line may end with CR, LF or both
            chunk, after_return = _with_line_feeds(chunk, after_return)
        *lines, rest = (rest + chunk if rest else chunk).split(b"\n")
        if rest and len(rest) > limits.EVENT_BYTES:
            raise ProviderError
        if lines and not begun:
            begun, lines[0] = True, lines[0].removeprefix(BOM)
        for line in lines:
            if line.startswith(b"data:"):
                try:
                    event = orjson.loads(data + line[5:] if data else line[5:])
                except orjson.JSONDecodeError:
                    data += line[5:] + b"\n"
                    if len(data) > limits.EVENT_BYTES:
                        raise ProviderError from None
                    continue
            elif data and not line:
                event = _unusual(data)  # not before: more lines could have made it JSON
            else:
                before = line
                continue
            data = b""
            if isinstance(event, dict):
                yield event if "type" in event else {"type": _type(before, event), **event}
    # Nothing follows a part of an event.
    with suppress(ProviderError):
        event = _unusual(data + rest.removeprefix(b"data:"))
        if isinstance(event, dict):
            yield {"type": _type(before, event), **event}


def _with_line_feeds(chunk: bytes, after_return: bool) -> tuple[bytes, bool]:
    """The chunk with line feeds only, and whether it ends with a return, to which a line feed may belong."""
    if not chunk:
        return chunk, after_return
    ends_with_return = chunk.endswith(b"\r")
    if after_return:
        chunk = chunk.removeprefix(b"\n")
    return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), ends_with_return


def _type(before: bytes, event: dict[str, Any]) -> str:
    """The type of an event whose data have none."""
    if before.startswith(b"event:"):
        return before[6:].decode(errors="replace").strip()
    return "error" if event.get("error") else ""


def _unusual(data: bytes) -> Any:
    """Data that orjson refuses: none, or half of a character, whose other half may come with the next event."""
    data = data.strip()
    if data in (b"", DONE):
        return None
    try:
        return json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        raise ProviderError from None
