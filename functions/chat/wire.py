"""The AI SDK's UI message stream, version 1: a turn as server-sent events.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
`start` is the first event and occurs once. Every part that is opened is closed. Steps do not nest. After `finish` or
`abort` only [DONE] follows.
"""

from decimal import Decimal
from typing import Any, Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from functions.chat.providers import Spent
from functions.chat.tools.base import Source
from functions.common import money
from functions.common.errors import AppError
from functions.common.language import Language

HEADERS = {
    "content-type": "text/event-stream",
    "x-vercel-ai-ui-message-stream": "v1",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
NOT_RUN = "The answer ended before this tool was run."

# Why an answer ended. length and content-filter: the model's own; limit: a limit of ours.
Ending = Literal["stop", "length", "content-filter", "stopped", "limit"]
Part = dict[str, Any]  # of a UIMessage, by the AI SDK's names


class TokenCounts(TypedDict):
    """Tokens, as the client reads them."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int


class Metadata(TypedDict):
    """What the client learns about a turn at its end.

    `finish_reason` is None where the turn failed, `charged_usd` where it is not known. `outcome` is there only where
    the answer was complete and the database out of reach until the deadline: it is neither charged nor kept.
    """

    request_id: str
    provider: str
    model: str
    funding: str
    usage: TokenCounts
    cost_usd: Decimal | None
    charged_usd: Decimal | None
    remaining: int | None
    resets_at: str | None
    persisted: bool
    finish_reason: Ending | None
    outcome: NotRequired[Literal["lost"]]
    error: NotRequired["ErrorInfo"]


class ErrorInfo(TypedDict):
    """Why the answer failed, as in the HTTP API. The sentence is in the part `error`."""

    code: str
    reason_code: str
    action: str


class UIMessage(TypedDict):
    """The AI SDK's UIMessage."""

    id: str
    role: str
    parts: list[Part]
    metadata: NotRequired[Metadata]


class WholeAnswer(TypedDict):
    """What POST /chat returns as JSON."""

    message: UIMessage
    metadata: Metadata


def part(kind: str, **fields: Any) -> bytes:
    """One event of the stream."""
    return b"data: " + money.dumps({"type": kind, **fields}) + b"\n\n"


class MessageStream:
    """Writes the events of one assistant message and tracks which parts are open."""

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._started = False
        self._in_step = False
        self._texts = 0
        self._text_open = False
        self._open_calls: dict[str, str] = {}  # calls without an output: id and tool name
        self._with_input: set[str] = set()  # ids of calls with a sent input
        self._sources: set[str] = set()
        self.page_sources: list[Source] = []  # what the answer is about; sent with its first step

    @property
    def is_complete(self) -> bool:
        """Whether only the finish is missing: the last step is closed."""
        return self._started and not self._in_step

    def complete(self) -> bytes:
        """What is missing before the finish: the end of the open step, or all of an empty message."""
        return b"" if self.is_complete else self.start_step() + self.finish_step()

    def replay(self, events: str) -> None:
        """Update the state by whole events of this message that another process wrote."""
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
                    self._open_calls[event["toolCallId"]] = event["toolName"]
                case "tool-input-available":
                    self._with_input.add(event["toolCallId"])
                case "tool-input-error" | "tool-output-available" | "tool-output-error":
                    self._open_calls.pop(event["toolCallId"], None)

    def start_step(self) -> bytes:
        """Open the message and a step, unless they are open."""
        opening = b"" if self._started else part("start", messageId=self._message_id)
        opening += b"" if self._in_step else part("start-step")
        if not self._started:
            opening += b"".join(self.source(source.url, source.title) for source in self.page_sources)
        self._started = self._in_step = True
        return opening

    def text(self, delta: str) -> bytes:
        """Add text."""
        opening = b""
        if not self._text_open:
            self._text_open = True
            self._texts += 1
            opening = part("text-start", id=self._text_id)
        # As `part`, in a third of the time: nearly all events are these.
        return b'%bdata: {"type":"text-delta","id":"%b","delta":%b}\n\n' % (
            opening,
            self._text_id.encode(),
            orjson.dumps(delta),
        )

    def tool_input_start(self, call_id: str, name: str) -> bytes:
        """Open a tool call. Its input is not known yet."""
        self._open_calls[call_id] = name
        return self._close_text() + part("tool-input-start", toolCallId=call_id, toolName=name)

    def tool_input(self, call_id: str, name: str, arguments: Any) -> bytes:
        """The input of a call."""
        self._with_input.add(call_id)
        return part("tool-input-available", toolCallId=call_id, toolName=name, input=arguments)

    def tool_output(self, call_id: str, output: Any) -> bytes:
        """The output of a call, which closes it."""
        del self._open_calls[call_id]
        return part("tool-output-available", toolCallId=call_id, output=output)

    def tool_error(self, call_id: str, error: str, arguments: Any = None) -> bytes:
        """The error of a call, which closes it."""
        name = self._open_calls.pop(call_id)
        if call_id in self._with_input:
            return part("tool-output-error", toolCallId=call_id, errorText=error)
        return part("tool-input-error", toolCallId=call_id, toolName=name, input=arguments, errorText=error)

    def source(self, url: str, title: str) -> bytes:
        """A source of an output; nothing where the URL was sent before."""
        if url in self._sources:
            return b""
        self._sources.add(url)
        return part("source-url", sourceId=f"source-{len(self._sources)}", url=url, title=title)

    def finish_step(self) -> bytes:
        """Close the open text, the open calls and the step."""
        closing = self._close_text()
        for call_id in list(self._open_calls):
            closing += self.tool_error(call_id, NOT_RUN)
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
    spent: Spent,
    funding: str,
    charged_usd: Decimal | None,
    persisted: bool,
    remaining: int | None = None,
    resets_at: str | None = None,
    finish_reason: Ending | None,
) -> Metadata:
    """The metadata of a turn's end."""
    return {
        "request_id": request_id,
        "provider": spent.provider,
        "model": spent.model,
        "funding": funding,
        "usage": {
            "input_tokens": spent.usage.tokens_input,
            "output_tokens": spent.usage.tokens_output,
            "cache_read_tokens": spent.usage.cache_read_tokens,
            "cache_write_tokens": spent.usage.cache_write_tokens,
        },
        "cost_usd": spent.cost_usd,
        "charged_usd": charged_usd,
        "remaining": remaining,
        "resets_at": resets_at,
        "persisted": persisted,
        "finish_reason": finish_reason,
    }


# The end of a message with closed steps --------------------------------------------------------------------------


# Where the AI SDK has no finishReason of the name. A stopped answer is sent as such only once, by `abort`.
SDK_REASONS = {"limit": "length", "stopped": "stop"}


def finish(reason: Ending | Literal["error"], metadata: Metadata) -> bytes:
    """The end of a complete answer."""
    return part("finish", finishReason=SDK_REASONS.get(reason, reason), messageMetadata=metadata) + DONE


def abort(metadata: Metadata) -> bytes:
    """The end of an answer that the user stopped."""
    return part("message-metadata", messageMetadata=metadata) + part("abort", reason="stopped") + DONE


def error(failure: AppError, language: Language, metadata: Metadata) -> bytes:
    """The end of an answer that failed."""
    sentence = failure.sentence(language)
    return part("error", errorText=sentence) + finish("error", {**metadata, "error": _described(failure)})


def broken(failure: AppError, language: Language) -> bytes:
    """The end of a message where the outcome of the turn is not known."""
    return part("message-metadata", messageMetadata={"error": _described(failure)}) + _last_error(failure, language)


def refusal(failure: AppError, language: Language) -> bytes:
    """A whole stream without an answer."""
    return part("start", messageMetadata={"error": _described(failure)}) + _last_error(failure, language)


def _last_error(failure: AppError, language: Language) -> bytes:
    return part("error", errorText=failure.sentence(language)) + DONE


def _described(failure: AppError) -> ErrorInfo:
    return {"code": failure.code, "reason_code": failure.reason.code, "action": failure.reason.action}
