"""An answer as it grows: steps, each some text and the tools that the model then called, with what they gave.

It is written four ways: as parts of the AI SDK's message, as messages for the model's next step, as a row of
public.messages, and, from such a row, as events of the stream again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from functions.chat.providers import Message, ToolCall, ToolResult
from functions.chat.tools import Outcome, Source
from functions.chat.wire import MessageStream
from functions.common import money


@dataclass(slots=True)
class Call:
    """One call of a tool. `input` is None where the model wrote no JSON object; `outcome`, while there is none."""

    id: str
    name: str
    input: Any
    outcome: Outcome | None = None

    @property
    def result(self) -> str:
        """What the model is told of it."""
        if self.outcome is None:
            return "The answer ended before this tool was run."
        return self.outcome.error or money.dumps(self.outcome.output).decode()


@dataclass(slots=True)
class Step:
    """What the model says, and then calls."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """One assistant message."""

    id: str
    steps: list[Step] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(step.text for step in self.steps)

    @property
    def calls(self) -> Iterator[Call]:
        """All of its calls."""
        return (call for step in self.steps for call in step.calls)

    @property
    def sources(self) -> list[Source]:
        """What its tools' results come from, each once."""
        found = [source for call in self.calls if call.outcome for source in call.outcome.sources]
        return list({source.url: source for source in found}.values())

    def messages(self) -> Iterator[Message]:
        """For the model: what it said and called, and what that gave."""
        for step in self.steps:
            if not step.text.strip() and not step.calls:
                continue
            calls = [ToolCall(call.id, call.name, money.dumps(call.input).decode()) for call in step.calls]
            yield Message("assistant", step.text, calls)
            if step.calls:
                results = [
                    ToolResult(call.id, call.result, call.outcome is None or call.outcome.error is not None)
                    for call in step.calls
                ]
                yield Message("tool", results=results)

    def parts(self) -> list[dict[str, Any]]:
        """The parts of the AI SDK's UIMessage."""
        parts: list[dict[str, Any]] = []
        told: set[str] = set()
        for step in self.steps:
            if step.text:
                parts.append({"type": "text", "text": step.text})
            for call in step.calls:
                outcome = call.outcome or Outcome(None, call.result, [])
                state: dict[str, Any] = {"state": "output-available", "input": call.input, "output": outcome.output}
                if outcome.error is not None:
                    state = {"state": "output-error", "input": call.input, "errorText": outcome.error}
                parts.append({"type": f"tool-{call.name}", "toolCallId": call.id, **state})
                for source in outcome.sources:
                    if source.url not in told:
                        told.add(source.url)
                        number = f"source-{len(told)}"
                        parts.append(
                            {"type": "source-url", "sourceId": number, "url": source.url, "title": source.title}
                        )
        return parts

    def row(self) -> dict[str, Any]:
        """What public.messages keeps. Postgres' text has no null character."""
        calls, results, at = [], [], 0
        for number, step in enumerate(self.steps):
            at += len(step.text.replace("\x00", ""))
            for call in step.calls:
                calls.append({"id": call.id, "name": call.name, "input": call.input, "step": number, "at": at})
                outcome = call.outcome or Outcome(None, call.result, [])
                gave = {"output": outcome.output} if outcome.error is None else {"error": outcome.error}
                sources = [{"url": source.url, "title": source.title} for source in outcome.sources]
                results.append({"id": call.id, **gave, "sources": sources})
        return {
            "id": self.id,
            "content": self.text.replace("\x00", ""),
            "function_calls": calls or None,
            "function_results": results or None,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Answer":
        """The answer that a row keeps; one without an id is only part of a history."""
        steps: list[Step] = []
        begun, number = 0, -1
        for call, gave in zip(row.get("function_calls") or [], row.get("function_results") or [], strict=True):
            if call["step"] != number:
                number = call["step"]
                steps.append(Step(row["content"][begun : call["at"]]))
                begun = call["at"]
            sources = [Source(source["url"], source["title"]) for source in gave["sources"]]
            outcome = Outcome(gave.get("output"), gave.get("error"), sources)
            steps[-1].calls.append(Call(call["id"], call["name"], call["input"], outcome))
        if row["content"][begun:] or not steps:
            steps.append(Step(row["content"][begun:]))
        return cls(row.get("id", ""), steps)

    def said_again(self, stream: MessageStream) -> bytes:
        """The whole answer as events, without its finish."""
        said = b""
        for step in self.steps:
            said += stream.start_step() + (stream.text(step.text) if step.text else b"")
            for call in step.calls:
                said += stream.tool_calling(call.id, call.name)
                said += stream.tool_called(call.id, call.name, call.input) if call.input is not None else b""
            said += b"".join(told(stream, call) for call in step.calls)
            said += stream.finish_step()
        return said


def told(stream: MessageStream, call: Call) -> bytes:
    """What a call gave, and where that comes from, as events."""
    if call.outcome is None:
        return b""
    if call.outcome.error is not None:
        return stream.tool_failed(call.id, call.outcome.error, call.input)
    said = stream.tool_answered(call.id, call.outcome.output)
    return said + b"".join(stream.source(source.url, source.title) for source in call.outcome.sources)


def fitting(turns: Sequence[Sequence[Message]], characters: int) -> list[Message]:
    """The newest turns that fit into so many characters, oldest first. A turn is never cut, but goes without its
    tools' calls and results where it would not fit with them.
    """
    kept: list[Message] = []
    for turn in reversed(turns):
        for form in (turn, [Message(message.role, message.text) for message in turn if message.text]):
            if (size := sum(weight(message) for message in form)) <= characters:
                break
        else:
            break
        characters -= size
        kept[:0] = form
    return kept


def weight(message: Message) -> int:
    """How many characters of a message the model reads."""
    calls = sum(len(call.name) + len(call.arguments) for call in message.calls)
    return len(message.text) + calls + sum(len(result.text) for result in message.results)
