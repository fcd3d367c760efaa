"""An answer while it grows: a list of steps, each with a text, tool calls and their outcomes.

It has four forms: parts of the AI SDK's UIMessage, messages for the model's next step, a row of public.messages, and
events of the stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from functions.chat.providers import Message, ToolCall, ToolResult
from functions.chat.tools import Outcome, Source
from functions.chat.wire import NOT_RUN, Ending, MessageStream, Part
from functions.common import money


class CallRow(TypedDict):
    """A tool call in public.messages.function_calls. It was made in step `step`, after `at` characters of content."""

    id: str
    name: str
    input: Any
    step: int
    at: int


class SourceRow(TypedDict):
    """A source in public.messages.function_results."""

    url: str
    title: str


class ResultRow(TypedDict):
    """The outcome of a call in public.messages.function_results: an output or an error.

    A first row without an id, an output and an error has the sources of the user's page.
    """

    id: str
    output: NotRequired[Any]
    error: NotRequired[str]
    sources: list[SourceRow]


class MessageRow(TypedDict):
    """A row of public.messages, as far as the chat reads and writes it. A row of the history has no id."""

    id: NotRequired[str]
    role: NotRequired[str]
    content: str
    step_ends: NotRequired[list[int] | None]  # characters of content at the end of each step
    function_calls: NotRequired[list[CallRow] | None]
    function_results: NotRequired[list[ResultRow] | None]
    finish_reason: NotRequired[Ending | None]


@dataclass(slots=True)
class Call:
    """One tool call, after `at` characters of its step's text.

    `input` is None where the model did not write a JSON object; `outcome` is None until it ran. `given_id` is the id of
    `provider`, which only the next steps of the same answer use.
    """

    id: str
    name: str
    input: Any
    outcome: Outcome | None = None
    at: int = 0
    provider: str = ""
    given_id: str = ""

    def id_for(self, provider: str) -> str:
        """The id in a request to the provider. Some models expect theirs."""
        return self.given_id if self.given_id and provider == self.provider else self.id

    @property
    def result(self) -> str:
        """The outcome as text for the model."""
        if self.outcome is None:
            return NOT_RUN
        return self.outcome.error or money.dumps(self.outcome.output).decode()


@dataclass(slots=True)
class Step:
    """One response of the model: its text and its tool calls."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)

    def pieces(self) -> Iterator[str | Call]:
        """Its texts and calls in their order."""
        start = 0
        for call in self.calls:
            if text := self.text[start : call.at]:
                yield text
            yield call
            start = call.at
        if text := self.text[start:]:
            yield text


@dataclass(slots=True)
class Answer:
    """One assistant message."""

    id: str
    steps: list[Step] = field(default_factory=list)
    page_sources: list[Source] = field(default_factory=list)  # of the page that the question is about
    first_text_at: float | None = None  # the time.perf_counter() when the model's first text came

    @property
    def text(self) -> str:
        """The text of all steps."""
        return "".join(step.text for step in self.steps)

    @property
    def has_content(self) -> bool:
        """Whether it has anything to charge for: a text, or a tool that was run."""
        return bool(self.text.strip()) or any(
            call.outcome is not None and call.input is not None for step in self.steps for call in step.calls
        )

    def messages(self, provider: str = "") -> Iterator[Message]:
        """The messages that a model of the provider reads: texts and calls, and the results of the calls."""
        for step in self.steps:
            if not step.text.strip() and not step.calls:
                continue
            calls = [
                ToolCall(call.id_for(provider), call.name, money.dumps(call.input).decode()) for call in step.calls
            ]
            yield Message("assistant", step.text, calls)
            if step.calls:
                results = [
                    ToolResult(
                        call.id_for(provider), call.result, call.outcome is None or call.outcome.error is not None
                    )
                    for call in step.calls
                ]
                yield Message("tool", results=results)

    def parts(self) -> list[Part]:
        """The parts of the UIMessage that the AI SDK's client builds from the stream. Each source is included once."""
        parts: list[Part] = []
        urls: set[str] = set()

        def add_sources(sources: list[Source]) -> None:
            for source in sources:
                if source.url not in urls:
                    urls.add(source.url)
                    number = f"source-{len(urls)}"
                    parts.append({"type": "source-url", "sourceId": number, "url": source.url, "title": source.title})

        for number, step in enumerate(self._sent_steps):
            parts.append({"type": "step-start"})
            if number == 0:
                add_sources(self.page_sources)
            parts.extend(
                {"type": "text", "text": piece, "state": "done"} if isinstance(piece, str) else _call_part(piece)
                for piece in step.pieces()
            )
            for call in step.calls:
                add_sources(call.outcome.sources if call.outcome else [])
        return parts

    @property
    def _sent_steps(self) -> list[Step]:
        """The steps of the stream, which has at least one."""
        return self.steps or [Step()]

    def row(self) -> MessageRow:
        """The row of public.messages."""
        calls: list[CallRow] = []
        results: list[ResultRow] = []
        if self.page_sources:
            results.append({"id": "", "sources": _source_rows(self.page_sources)})
        ends: list[int] = []
        for number, step in enumerate(self.steps):
            start = ends[-1] if ends else 0
            ends.append(start + len(step.text))
            for call in step.calls:
                at = start + call.at
                calls.append({"id": call.id, "name": call.name, "input": call.input, "step": number, "at": at})
                outcome = call.outcome or Outcome(None, call.result, [])
                sources = _source_rows(outcome.sources)
                if outcome.error is None:
                    results.append({"id": call.id, "output": outcome.output, "sources": sources})
                else:
                    results.append({"id": call.id, "error": outcome.error, "sources": sources})
        return {
            "id": self.id,
            "content": self.text,
            "step_ends": ends,
            "function_calls": calls or None,
            "function_results": results or None,
        }

    @classmethod
    def from_row(cls, row: MessageRow) -> "Answer":
        """The answer of a row. Its id is empty where the row has none. A row without `step_ends` is one step."""
        content, ends = row["content"], row.get("step_ends")
        ends = [len(content)] if ends is None else ends
        starts = [0, *ends]
        steps = [Step(content[start:end]) for start, end in zip(starts, ends, strict=False)]
        results = row.get("function_results") or []
        page, results = (results[0]["sources"], results[1:]) if results and not results[0]["id"] else ([], results)
        for call, result in zip(row.get("function_calls") or [], results, strict=True):
            number = call["step"]
            outcome = Outcome(result.get("output"), result.get("error"), _sources(result["sources"]))
            at = call["at"] - starts[number]
            steps[number].calls.append(Call(call["id"], call["name"], call["input"], outcome, at))
        return cls(row.get("id", ""), steps, _sources(page))

    def events(self, stream: MessageStream) -> bytes:
        """The whole answer as events of the stream, without its finish."""
        events = b""
        stream.page_sources = self.page_sources
        for step in self._sent_steps:
            events += stream.start_step()
            for piece in step.pieces():
                events += stream.text(piece) if isinstance(piece, str) else _call_events(stream, piece)
            events += b"".join(outcome_events(stream, call) for call in step.calls)
            events += stream.finish_step()
        return events


def _call_part(call: Call) -> Part:
    """A call and its outcome as a part of a UIMessage."""
    part: Part = {"type": f"tool-{call.name}", "toolCallId": call.id, "input": call.input}
    if call.outcome is None or call.outcome.error is not None:
        return {**part, "state": "output-error", "errorText": call.result}
    return {**part, "state": "output-available", "output": call.outcome.output}


def _call_events(stream: MessageStream, call: Call) -> bytes:
    """A call as events, without its outcome."""
    start = stream.tool_input_start(call.id, call.name)
    return start + stream.tool_input(call.id, call.name, call.input) if call.input is not None else start


def _source_rows(sources: list[Source]) -> list[SourceRow]:
    return [{"url": source.url, "title": source.title} for source in sources]


def _sources(rows: list[SourceRow]) -> list[Source]:
    return [Source(row["url"], row["title"]) for row in rows]


def outcome_events(stream: MessageStream, call: Call) -> bytes:
    """The outcome of a call and its sources as events; nothing for a call without an outcome."""
    if call.outcome is None:
        return b""
    if call.outcome.error is not None:
        return stream.tool_error(call.id, call.outcome.error, call.input)
    output = stream.tool_output(call.id, call.outcome.output)
    return output + b"".join(stream.source(source.url, source.title) for source in call.outcome.sources)
