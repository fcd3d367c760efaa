"""The AI SDK's UI message stream, version 1: what a turn says, as server-sent events.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
`start` comes first and once, every part that is opened is closed, steps do not nest, and after `finish` or `abort`
there is only [DONE].
"""

from decimal import Decimal
from typing import Any

import orjson

from functions.common import money

HEADERS = {
    "content-type": "text/event-stream",
    "x-vercel-ai-ui-message-stream": "v1",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


# What the ledger knows of a query that has ended.
KNOWN_AFTERWARDS = (
    "provider", "model", "funding", "tokens_input", "tokens_output", "cache_read_tokens", "cache_write_tokens",
    "cost_usd", "charged_usd", "persisted",
)  # fmt: skip


def part(kind: str, **fields: Any) -> bytes:
    """One event of the stream."""
    return b"data: " + money.dumps({"type": kind, **fields}) + b"\n\n"


class MessageStream:
    """Writes one assistant message, keeping track of what is open."""

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._started = False
        self._in_step = False
        self._texts = 0
        self._text_open = False
        self._calls: dict[str, str] = {}  # those without an output: id and name
        self._wanted: set[str] = set()  # of those, the ones whose input is known
        self._sources: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether only the finish is missing: the last step is closed."""
        return self._started and not self._in_step

    def complete(self) -> bytes:
        """Whatever is missing but the finish: a start and a step where nothing was said, else the closing."""
        return b"" if self.is_complete else self.start_step() + self.finish_step()

    def overhear(self, events: str) -> None:
        """Take note of what somebody else has written of this message, in whole events."""
        for line in events.split("\n"):
            if not line.startswith("data: {"):
                continue
            event = orjson.loads(line.removeprefix("data: "))
            match event["type"]:
                case "start":
                    self._started = True
                case "start-step" | "finish-step":
                    self._in_step = event["type"] == "start-step"
                case "text-start":
                    self._texts += 1
                    self._text_open = True
                case "text-end":
                    self._text_open = False
                case "tool-input-start":
                    self._calls[event["toolCallId"]] = event["toolName"]
                case "tool-input-available":
                    self._wanted.add(event["toolCallId"])
                case "tool-input-error" | "tool-output-available" | "tool-output-error":
                    self._calls.pop(event["toolCallId"], None)

    def start_step(self) -> bytes:
        """Open the message, if it is not, and a step, if none is."""
        opening = b"" if self._started else part("start", messageId=self._message_id)
        opening += b"" if self._in_step else part("start-step")
        self._started = self._in_step = True
        return opening

    def text(self, delta: str) -> bytes:
        """Some more text."""
        opening = b""
        if not self._text_open:
            self._text_open = True
            self._texts += 1
            opening = part("text-start", id=self._text_id)
        return opening + part("text-delta", id=self._text_id, delta=delta)

    def tool_calling(self, call_id: str, name: str) -> bytes:
        """The model begins to call a tool."""
        self._calls[call_id] = name
        return self._close_text() + part("tool-input-start", toolCallId=call_id, toolName=name)

    def tool_called(self, call_id: str, name: str, given: Any) -> bytes:
        """What the tool is called with."""
        self._wanted.add(call_id)
        return part("tool-input-available", toolCallId=call_id, toolName=name, input=given)

    def tool_answered(self, call_id: str, output: Any) -> bytes:
        """What it gave."""
        del self._calls[call_id]
        return part("tool-output-available", toolCallId=call_id, output=output)

    def tool_failed(self, call_id: str, error: str, given: Any = None) -> bytes:
        """Why it gave nothing."""
        name = self._calls.pop(call_id)
        if call_id in self._wanted:
            return part("tool-output-error", toolCallId=call_id, errorText=error)
        return part("tool-input-error", toolCallId=call_id, toolName=name, input=given, errorText=error)

    def source(self, url: str, title: str) -> bytes:
        """Where something comes from; told once."""
        if url in self._sources:
            return b""
        self._sources.add(url)
        return part("source-url", sourceId=f"source-{len(self._sources)}", url=url, title=title)

    def finish_step(self) -> bytes:
        """Close what is open, and the step."""
        closing = self._close_text()
        for call_id in list(self._calls):
            closing += self.tool_failed(call_id, "The answer ended before this tool was run.")
        closing += part("finish-step") if self._in_step else b""
        self._in_step = False
        return closing

    @property
    def _text_id(self) -> str:
        return f"text-{self._texts}"

    def _close_text(self) -> bytes:
        if not self._text_open:
            return b""
        self._text_open = False
        return part("text-end", id=self._text_id)


def metadata(
    *,
    request_id: str,
    provider: str,
    model: str,
    funding: str,
    tokens_input: int,
    tokens_output: int,
    cache_read_tokens: int,
    cache_write_tokens: int,
    cost_usd: Decimal | None,
    charged_usd: Decimal | None,
    persisted: bool,
    remaining: int | None = None,
    resets_at: str | None = None,
) -> dict[str, Any]:
    """What the client is told about a turn at its end."""
    return {
        "request_id": request_id,
        "provider": provider,
        "model": model,
        "funding": funding,
        "usage": {
            "input_tokens": tokens_input,
            "output_tokens": tokens_output,
            "cache_read_tokens": cache_read_tokens,
            "cache_write_tokens": cache_write_tokens,
        },
        "cost_usd": cost_usd,
        "charged_usd": charged_usd,
        "remaining": remaining,
        "resets_at": resets_at,
        "persisted": persisted,
    }


def finish(reason: str, told: dict[str, Any]) -> bytes:
    """The end of a message whose steps are closed. `reason` is the AI SDK's finishReason."""
    return part("finish", finishReason=reason, messageMetadata=told) + DONE


def error(text: str, told: dict[str, Any]) -> bytes:
    """... after a failure, with a sentence for the user."""
    return part("error", errorText=text) + finish("error", told)


def broken_off(text: str) -> bytes:
    """... of which nothing is known."""
    return part("error", errorText=text) + DONE


def abort(told: dict[str, Any]) -> bytes:
    """... that the user stopped."""
    return part("message-metadata", messageMetadata=told) + part("abort", reason="stopped") + DONE
