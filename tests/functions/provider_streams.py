"""Random streams of both providers: what a response has, how its events are mixed, written, cut and broken."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from infra.local.model.sse import STYLES, frame, styled

Json = dict[str, Any]
TOOLS = ["get_bill", "find_mps", "no_such_tool", "functions.get_bill", ""]
IDS = ["toolu_1", "call_0", "", "functions.get_bill:0", "é"]
ARGUMENTS = ['{"number": "C-5"}', "{}", "", '{"number": "\\ud83d\\ude00"}', "[1]", '{"a": "\\u0000"}', '{"a": ', "🍁"]
ANTHROPIC_REASONS = ["end_turn", "tool_use", "stop_sequence", "max_tokens", "refusal", "pause_turn", "unknown_reason"]
USAGES: list[Any] = [{"input_tokens": 7, "output_tokens": 3}, {}, None, {"input_tokens": None, "output_tokens": -1}]


def cut_text(text: str, cuts: list[int]) -> list[str]:
    """The text in pieces, cut between UTF-16 code units as JavaScript does."""
    units = text.encode("utf-16-le")
    places = sorted({0, len(units), *(2 * (cut % (len(units) // 2 + 1)) for cut in cuts)})
    return [units[start:end].decode("utf-16-le", "surrogatepass") for start, end in pairwise(places)]


@dataclass(frozen=True, slots=True)
class Block:
    """A text, or a tool call whose arguments are the text. `is_whole`: they arrive with its start or its end."""

    text: str
    pieces: list[str]
    tool: str | None = None
    given_id: str = ""
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """A response in one provider's format. The event with the index `decides` states the end."""

    provider: str
    blocks: list[Block]
    events: list[Json]
    decides: int
    is_mixed: bool

    @property
    def text(self) -> str:
        """The text of its blocks in their order."""
        return "".join(block.text for block in self.blocks if block.tool is None)


@dataclass(frozen=True, slots=True)
class Written:
    """The bytes of a response, and how many of them state its end."""

    response: Response
    body: bytes
    stated: int
    cuts: list[int] = field(default_factory=list)

    def chunks(self, size: int | None = None) -> list[bytes]:
        """The first `size` bytes, cut into chunks."""
        body = self.body[:size]
        places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in self.cuts)})
        return [body[start:end] for start, end in pairwise(places)]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["😀🍁", "é\u2028\x85è", "a\x00b"]
)
cuts = st.lists(st.integers(0, 10_000), max_size=6)


@st.composite
def text_blocks(draw: st.DrawFn) -> Block:
    text = draw(texts)
    return Block(text, cut_text(text, draw(cuts)))


@st.composite
def tool_blocks(draw: st.DrawFn) -> Block:
    arguments = draw(st.sampled_from(ARGUMENTS))
    pieces = cut_text(arguments, draw(cuts))
    return Block(arguments, pieces, draw(st.sampled_from(TOOLS)), draw(st.sampled_from(IDS)), draw(st.booleans()))


def anthropic_block(index: int, block: Block) -> list[Json]:
    start: Json = {"type": "text", "text": ""}
    deltas: list[Json] = [{"type": "text_delta", "text": piece} for piece in block.pieces]
    if block.tool is not None:
        start = {"type": "tool_use", "id": block.given_id, "name": block.tool, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in block.pieces]
        if block.is_whole:
            deltas, start["input"] = [], {"number": "C-5"}
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def openai_block(index: int, block: Block) -> list[Json]:
    place = {"output_index": index, "item_id": f"item_{index}"}
    if block.tool is None:
        return [{"type": "response.output_text.delta", **place, "delta": piece} for piece in block.pieces]
    item = {"type": "function_call", "call_id": block.given_id, "name": block.tool, "arguments": ""}
    deltas = [] if block.is_whole else block.pieces
    return [
        {"type": "response.output_item.added", **place, "item": item},
        *({"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in deltas),
        {"type": "response.output_item.done", **place, "item": {**item, "arguments": block.text}},
    ]


@st.composite
def responses(draw: st.DrawFn) -> Response:
    """Valid responses: the events of each block are in order, those of different blocks may be mixed."""
    provider = draw(st.sampled_from(["anthropic", "openai"]))
    blocks = draw(st.lists(text_blocks() | tool_blocks(), max_size=4))
    to_events = anthropic_block if provider == "anthropic" else openai_block
    waiting = [to_events(index, block) for index, block in enumerate(blocks)]
    is_mixed = draw(st.booleans())
    middle: list[Json] = []
    while any(waiting):
        open_ones = [events for events in waiting if events]
        middle.append((draw(st.sampled_from(open_ones)) if is_mixed else open_ones[0]).pop(0))
        if draw(st.integers(0, 9)) == 0:
            middle.append({"type": draw(st.sampled_from(["ping", "response.in_progress", "unknown.event"]))})
    usage = draw(st.sampled_from(USAGES))
    if provider == "anthropic":
        end: Json = {"type": "message_delta", "delta": {"stop_reason": draw(st.sampled_from(ANTHROPIC_REASONS))}}
        end |= {"usage": usage} if draw(st.booleans()) else {}
        events = [{"type": "message_start", "message": {"usage": usage}}, *middle, end, {"type": "message_stop"}]
        return Response(provider, blocks, events, len(middle) + 1, is_mixed)
    reason = draw(st.sampled_from([None, "max_output_tokens", "content_filter"]))
    kind = "response.incomplete" if reason else "response.completed"
    response = {"usage": usage, "incomplete_details": {"reason": reason} if reason else None}
    events = [{"type": "response.created", "response": {}}, *middle, {"type": kind, "response": response}]
    return Response(provider, blocks, events, len(events) - 1, is_mixed)


@st.composite
def written(draw: st.DrawFn, style: bool = True) -> Written:
    """Responses as bytes, in any style and cut at any byte."""
    response = draw(responses())
    styles = draw(st.sets(st.sampled_from(sorted(STYLES.keys() - {"bytes"})))) if style else set()
    frames = styled([frame(event, styles) for event in response.events], styles)
    before = sum(map(len, frames[: response.decides]))
    stated = before + len(frames[response.decides].rstrip(b"\r\n"))
    if b"data: }" in frames[response.decides]:  # in several lines, the last one makes it JSON
        stated = before + frames[response.decides].rindex(b"}") + 1
    return Written(response, b"".join(frames), stated, draw(cuts))


def plain(response: Response) -> list[bytes]:
    """The response as one chunk in the usual style."""
    return [b"".join(map(frame, response.events))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    """Responses of which some values are missing or of another type."""
    response = draw(responses())
    events = json.loads(json.dumps(response.events))
    for _ in range(draw(st.integers(1, 4))):
        holder = draw(st.sampled_from(events))
        while isinstance(holder, dict) and holder:
            name = draw(st.sampled_from(sorted(holder)))
            if not isinstance(holder[name], dict) or draw(st.booleans()):
                if draw(st.booleans()):
                    holder[name] = draw(json_values)
                elif name != "type":
                    del holder[name]
                break
            holder = holder[name]
    return [b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events]
