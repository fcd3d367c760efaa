"""Money between SQL, Python and clients: Decimal here, text on the way from SQL, exact JSON numbers on the way out.

SQL functions send amounts as text under names that end in `_usd`, so that no JSON parser makes them floats.
"""

from decimal import Decimal
from typing import Any

import orjson


def revive(value: Any) -> Any:
    """`value` with every text under a name that ends in `_usd` made a Decimal."""
    if isinstance(value, dict):
        return {
            name: Decimal(item) if name.endswith("_usd") and isinstance(item, str) else revive(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [revive(item) for item in value]
    return value


def _number(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal):
        plain = format(value, "f")
        return orjson.Fragment(plain.rstrip("0").rstrip(".") if "." in plain else plain)
    raise TypeError(f"{type(value).__name__} is not JSON")


def dumps(value: Any) -> bytes:
    """JSON in which a Decimal is a number with exactly its digits: 0.025000 is written 0.025."""
    return orjson.dumps(value, default=_number)
