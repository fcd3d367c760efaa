"""Gateways' events with parts that are missing, malformed or repeated: the finished answer is kept."""

import sys
from typing import Any

import pytest

from functions.chat.providers import Finished, Text, ToolCall, Usage, parsed_arguments
from infra.local.model.sse import frame
from tests.functions.provider_streams import Json
from tests.functions.test_stream_fuzz import read

ADDED, PIECE, DONE = (
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.output_item.done",
)
TEXT: dict[str, Json] = {
    "anthropic": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    "openai": {"type": "response.output_text.delta", "delta": "Hello"},
}
USAGE = {"input_tokens": 70, "output_tokens": 30}


def end(provider: str, usage: Any = None, **response: Any) -> list[Json]:
    if provider == "anthropic":
        delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
        return [delta, {"type": "message_stop"}]
    return [{"type": "response.completed", "response": {"usage": usage, **response}}]


async def read_events(provider: str, events: list[Json]) -> list[Any]:
    found, error = await read(provider, [b"".join(map(frame, events))])
    assert error is None
    return found


MALFORMED: list[tuple[str, Json]] = [
    *(
        ("anthropic", {"index": 0, **event})
        for event in (
            {"type": "content_block_delta"},
            {"type": "content_block_delta", "delta": None},
            {"type": "content_block_delta", "delta": "text"},
            {"type": "content_block_delta", "index": [], "delta": {"partial_json": "{"}},
            {"type": "content_block_start"},
            {"type": "content_block_start", "content_block": None},
            {"type": "content_block_start", "index": [], "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_stop", "index": []},
            {"type": "message_start", "message": "x"},
            {"type": "message_start", "message": {"usage": "3"}},
            {"type": "message_delta", "delta": "x", "usage": "3"},
            {"type": "message_delta", "delta": {"stop_reason": ["x"]}, "usage": [3]},
        )
    ),
    *(
        ("openai", event)
        for event in (
            {"type": ADDED},
            {"type": ADDED, "item": None},
            {"type": DONE},
            {"type": DONE, "item": None},
            {"type": DONE, "item": "x"},
            {"type": PIECE, "output_index": [], "delta": "{"},
        )
    ),
]


@pytest.mark.parametrize(("provider", "event"), MALFORMED)
async def test_a_malformed_event_is_skipped(provider: str, event: Json) -> None:
    found = await read_events(provider, [TEXT[provider], event, *end(provider, USAGE)])
    assert Text("Hello") in found
    assert [one for one in found if isinstance(one, Usage)][-1] == Usage(70, 30)
    assert found[-1] == Finished("stop")
    assert not any(isinstance(one, ToolCall) for one in found)


@pytest.mark.parametrize(
    "response",
    [{"usage": "x"}, {"incomplete_details": "max"}, {"usage": {**USAGE, "input_tokens_details": "x"}}],
)
async def test_a_malformed_field_of_the_end_is_skipped(response: Json) -> None:
    found = await read_events("openai", [TEXT["openai"], *end("openai", **response)])
    assert found[-1] == Finished("stop")


def calls_of(found: list[Any]) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in found if isinstance(call, ToolCall)]


@pytest.mark.parametrize("place", [{}, {"index": 0}, {"index": []}])
async def test_blocks_at_one_index_are_calls_of_their_own(place: Json) -> None:
    events: list[Json] = []
    for name in ("a", "b"):
        block = {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": {}}
        events.append({"type": "content_block_start", **place, "content_block": block})
        events += [
            {"type": "content_block_delta", **place, "delta": {"type": "input_json_delta", "partial_json": piece}}
            for piece in (f'{{"{name}"', ": 1}")
        ]
    found = await read_events("anthropic", [*events, *end("anthropic", USAGE)])
    assert calls_of(found) == [("a", '{"a": 1}'), ("b", '{"b": 1}')]


@pytest.mark.parametrize("order", ["a b", "b a"])
@pytest.mark.parametrize("known_by", [("id",), ("call_id",), ("id", "call_id"), ("output_index", "id")])
@pytest.mark.parametrize("ends", ["done", "unended", "object"])
async def test_calls_are_matched_by_what_they_have_in_common(order: str, known_by: tuple[str, ...], ends: str) -> None:
    def item(name: str, arguments: Any) -> Json:
        names = {"id": f"item_{name}", "call_id": f"call_{name}"}
        shown = {key: value for key, value in names.items() if key in known_by}
        return {"type": "function_call", "name": name, **shown, "arguments": arguments}

    place = {"output_index": 0} if "output_index" in known_by else {}  # the same for both
    events: list[Json] = [{"type": ADDED, **place, "item": item(name, "")} for name in "ab"]
    if "id" in known_by:
        events += [
            {"type": PIECE, **place, "item_id": f"item_{name}", "delta": f'{{"{name}": 1}}'} for name in order.split()
        ]
    if ends != "unended" or "id" not in known_by:
        for name in order.split():
            arguments = {name: 1} if ends == "object" else f'{{"{name}": 1}}'
            events.append({"type": DONE, **place, "item": item(name, arguments)})
    found = await read_events("openai", [*events, *end("openai", USAGE)])
    assert sorted(calls_of(found)) == [("a", '{"a": 1}'), ("b", '{"b": 1}')]


async def test_arguments_nested_too_deeply_fail_only_their_call() -> None:
    deep: Json = {}
    for _ in range(1_000):
        deep = {"a": deep}
    item = {"type": "function_call", "id": "1", "call_id": "1", "name": "a", "arguments": deep}
    block = {"type": "tool_use", "id": "1", "name": "a", "input": deep}
    for provider, event in (
        ("openai", {"type": DONE, "item": item}),
        ("anthropic", {"type": "content_block_start", "index": 0, "content_block": block}),
    ):
        body = b"".join((frame(TEXT[provider]), _frame_deep(event), *map(frame, end(provider, USAGE))))
        found, error = await read(provider, [body])
        assert error is None
        assert Text("Hello") in found
        (call,) = (one for one in found if isinstance(one, ToolCall))
        assert parsed_arguments(call) is None


def _frame_deep(event: Json) -> bytes:
    """The event as a server sends it that nests more deeply than Python's own encoder can."""
    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        return frame(event)
    finally:
        sys.setrecursionlimit(depth)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize("count", [1e30, -5, 10_000_001, "3", True])
async def test_an_absurd_count_is_absent(provider: str, count: Any) -> None:
    details = {"input_tokens_details": {"cached_tokens": 9}, "cache_read_input_tokens": 9}
    usage = {"input_tokens": count, "output_tokens": count, **details}
    found = await read_events(provider, [TEXT[provider], *end(provider, usage)])
    assert [one for one in found if isinstance(one, Usage)] == [Usage()]


async def test_an_absurd_count_does_not_replace_a_count() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 70}}}
    found = await read_events("anthropic", [start, *end("anthropic", {"input_tokens": 1e30, "output_tokens": 30})])
    assert [one for one in found if isinstance(one, Usage)][-1] == Usage(70, 30)
