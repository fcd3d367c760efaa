"""How the support commands write values: times, money, tokens, funding."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

FUNDING = {
    "byok": "the user's own key",
    "included": "the plan",
    "credit": "a credit",
    "overage": "overage",
}


def moment(text: str | None, missing: str = "never") -> str:
    """An ISO 8601 time as 2026-11-29 10:02:11 UTC."""
    if text is None:
        return missing
    # Not strftime, which writes the year 1 with one digit.
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds") + " UTC"


def usd(amount: Decimal | str | None) -> str:
    """US dollars with at least two decimals, and as many as the amount has."""
    if amount is None:
        return "none"
    value = Decimal(amount)
    exact = value.normalize()
    exponent = exact.as_tuple().exponent
    assert isinstance(exponent, int)
    return f"-${-value:.{max(2, -exponent)}f}" if value < 0 else f"${value:.{max(2, -exponent)}f}"


def cents(amount: int) -> str:
    """US cents as dollars."""
    return usd(Decimal(amount) / 100)


def section(title: str, lines: Sequence[str], empty: str = "none") -> list[str]:
    """A title with indented lines, or on one line with `empty`."""
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else [f"{title}: {empty}"]


def changes(done: Mapping[str, Any]) -> list[str]:
    """The values that an action changed: one line for each."""
    before, after = done["before"], done["after"]
    found = [
        f"  {name}: {_value(before.get(name))} → {_value(after[name])}"
        for name in after
        if before.get(name) != after[name]
    ]
    return found or ["  nothing changed: it was so before"]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Decimal):
        return usd(value)
    return "none" if value is None else str(value)
