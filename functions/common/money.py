"""Exact money: Decimal in Python, text in the JSON of SQL functions, exact numbers in the JSON of responses.

SQL functions return amounts as text under names that end in `_usd`, so that no JSON parser makes them floats.
"""

from decimal import Decimal
from typing import Any

import orjson


def parse_amounts(value: Any) -> Any:
    """A copy of `value`, in which every text under a name that ends in `_usd` is a Decimal."""
    if isinstance(value, dict):
        return {
            name: Decimal(item) if name.endswith("_usd") and isinstance(item, str) else parse_amounts(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [parse_amounts(item) for item in value]
    return value


def _number(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal):
        plain = format(value, "f")
        return orjson.Fragment(plain.rstrip("0").rstrip(".") if "." in plain else plain)
    raise TypeError(f"{type(value).__name__} is not JSON")


def dumps(value: Any) -> bytes:
    """JSON. A Decimal becomes a number with exactly its digits: 0.025000 is written 0.025. Raises TypeError."""
    return orjson.dumps(value, default=_number)
