"""Builds results that are small enough for the model.

A result counts the items that it leaves out. Otherwise the model would take a shortened list for a complete one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import orjson

from functions.chat import limits
from functions.chat.sources.base import JsonObject
from functions.chat.tools.base import Source
from functions.chat.tools.tool import ToolData

# Reserved for the keys and punctuation around the items of a list.
LIST_OVERHEAD_BYTES = 80


class Item(NamedTuple):
    """An item of a list, with its public page."""

    data: JsonObject
    source: Source


class Fitted(TypedDict):
    """The first items of a list, and the number of items left out."""

    items: list[Any]
    left_out: int


def json_length(data: Any) -> int:
    """The length of the data's JSON in bytes."""
    return len(orjson.dumps(data))


def fit(items: Sequence[Any], limit_bytes: int) -> Fitted:
    """The first items that fit into `limit_bytes` of JSON."""
    fitted: list[Any] = []
    remaining = limit_bytes
    for item in items:
        remaining -= json_length(item) + 1
        if remaining < 0:
            break
        fitted.append(item)
    return {"items": fitted, "left_out": len(items) - len(fitted)}


def list_result(
    about: JsonObject, sources: Sequence[Source], items: Sequence[Item], limit: int, *, more: bool = False
) -> ToolData:
    """The subject of a list, then its first items that fit, with `sources` and the pages of these items.

    `more` adds that the API has further items; their number is unknown.
    """
    selected = items[:limit]
    available = limits.TOOL_RESULT_BYTES - json_length(about) - LIST_OVERHEAD_BYTES
    fitted = fit([item.data for item in selected], available)["items"]
    data = {**about, "items": fitted, "left_out": len(items) - len(fitted), **({"more": True} if more else {})}
    return ToolData(data, [*sources, *(item.source for item in selected[: len(fitted)])])


def speech_text_limit(speeches: int) -> int:
    """The maximum length of each speech's text in bytes: the texts share two thirds of the result."""
    return limits.TOOL_RESULT_BYTES * 2 // (3 * max(speeches, 1))
