"""Exact money: Decimal in Python, text in the JSON of SQL functions, exact numbers in the JSON of responses.

SQL functions return amounts as text under names that end in `_usd`, so that no JSON parser makes them floats. Costs
are US dollars. What users pay is in the currency of the prices, which stands beside it as `currency`
(docs/decisions/0038-all-prices-have-one-currency.md).
"""

from decimal import Decimal
from typing import Any

import orjson

SIGNS = {"cad": "CA$", "usd": "$"}


def in_currency(amount: Decimal, currency: str) -> str:
    """An amount for people: $1.25, CA$1.25 or EUR 1.25, with at least two decimals, and as many as it has."""
    exponent = amount.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    sign = "-" if amount < 0 else ""
    unit = SIGNS.get(currency, f"{currency.upper()} ")
    return f"{sign}{unit}{abs(amount):.{max(2, -exponent)}f}"


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
