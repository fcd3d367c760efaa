"""Server-sent events, and other ways to write the same events that servers and gateways use."""

import json
from collections.abc import Iterable, Iterator

from infra.local.model.text import Json, to_json

STYLES = {
    "crlf": "lines end with CR LF",
    "cr": "lines end with CR",
    "bom": "the stream begins with a byte order mark",
    "lines": "the data of an event are several lines",
    "heartbeats": "comments, empty data and other fields between the events",
    "done": "the stream ends with [DONE]",
    "bytes": "every byte is sent alone",
}


def frame(event: Json, styles: Iterable[str] = ()) -> bytes:
    """The bytes of an event, with line feeds."""
    data = [to_json(event)]
    if "lines" in styles:
        data = json.dumps(event, indent=1).encode().split(b"\n")
    lines = [b"event: " + event["type"].encode(), *(b"data: " + line for line in data)]
    if "heartbeats" in styles:
        lines = [b": ping", b"", b"data:", b"", b"id: 1", b"retry: 3000", *lines]
    return b"\n".join([*lines, b"", b""])


def styled(frames: list[bytes], styles: Iterable[str]) -> list[bytes]:
    """The frames in these styles. Raises ValueError for an unknown one."""
    if unknown := set(styles) - STYLES.keys():
        raise ValueError(f"unknown styles {unknown}, known: {', '.join(STYLES)}")
    if "done" in styles:
        frames = [*frames, b"data: [DONE]\n\n"]
    if "bom" in styles:
        frames = [b"\xef\xbb\xbf" + frames[0], *frames[1:]]
    end = b"\r\n" if "crlf" in styles else b"\r" if "cr" in styles else b"\n"
    return [frame.replace(b"\n", end) for frame in frames]


def pieces(frame: bytes, styles: Iterable[str]) -> Iterator[bytes]:
    """The pieces of a frame that are sent one after the other."""
    return (bytes([byte]) for byte in frame) if "bytes" in styles else iter((frame,))
