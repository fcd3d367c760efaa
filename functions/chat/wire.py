"""The AI SDK's UI message stream, version 1: what a turn says, as server-sent events.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
`start` comes first and once, every opened part is closed, and after `finish` there is only [DONE].
"""

from typing import Any

from functions.common import money

HEADERS = {
    "content-type": "text/event-stream",
    "x-vercel-ai-ui-message-stream": "v1",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def part(kind: str, **fields: Any) -> bytes:
    """One event of the stream."""
    return b"data: " + money.dumps({"type": kind, **fields}) + b"\n\n"


class MessageStream:
    """Writes one assistant message, keeping track of what is open."""

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._texts = 0
        self._text_open = False

    def start(self) -> bytes:
        """Open the message and its first step."""
        return part("start", messageId=self._message_id) + part("start-step")

    def text(self, delta: str) -> bytes:
        """Some more text."""
        opening = b""
        if not self._text_open:
            self._text_open = True
            self._texts += 1
            opening = part("text-start", id=self._text_id)
        return opening + part("text-delta", id=self._text_id, delta=delta)

    def finish(self, reason: str, metadata: dict[str, Any]) -> bytes:
        """Close everything. `reason` is the AI SDK's finishReason."""
        return (
            self._close_text()
            + part("finish-step")
            + part("finish", finishReason=reason, messageMetadata=metadata)
            + DONE
        )

    def error(self, text: str, metadata: dict[str, Any]) -> bytes:
        """Close everything after a failure, with a sentence for the user."""
        return self._close_text() + part("error", errorText=text) + self.finish("error", metadata)

    @property
    def _text_id(self) -> str:
        return f"text-{self._texts}"

    def _close_text(self) -> bytes:
        if not self._text_open:
            return b""
        self._text_open = False
        return part("text-end", id=self._text_id)
