"""The shapes of SQL functions' results: `parse` of Database.call. Each raises TypeError or KeyError for another shape.

A gateway, or a proxy that caches, may answer for the database with a status of 200.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def nothing(value: Any) -> None:
    """Of a function that returns void."""
    if value is not None:
        raise TypeError


def number(value: Any) -> int:
    """A whole number."""
    if type(value) is not int:
        raise TypeError
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise TypeError
    return value


def text(value: Any) -> str | None:
    """A text or an id; None for null."""
    if not isinstance(value, str | None):
        raise TypeError
    return value


def record(*fields: str) -> Callable[[Any], Mapping[str, Any]]:
    """A JSON object, recognized by some of its fields."""

    def parse(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise TypeError
        for name in fields:
            value[name]
        return value

    return parse


def record_or_none(*fields: str) -> Callable[[Any], Mapping[str, Any] | None]:
    """As `record`; None for null."""
    parse = record(*fields)
    return lambda value: None if value is None else parse(value)


def records(*fields: str) -> Callable[[Any], Sequence[Mapping[str, Any]]]:
    """A list of objects, recognized by some of their fields."""
    parse = record(*fields)

    def parse_all(value: Any) -> Sequence[Mapping[str, Any]]:
        if not isinstance(value, list):
            raise TypeError
        return [parse(one) for one in value]

    return parse_all
