"""How the support commands write values: times, money, tokens, funding."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from functions.common.money import in_currency

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


def usd(amount: Decimal | str) -> str:
    """What something costs us, which is US dollars."""
    return in_currency(Decimal(amount), "usd")


def price(amount: Decimal | str | None, currency: str) -> str:
    """What a user pays, in the currency of the prices."""
    return "none" if amount is None else in_currency(Decimal(amount), currency)


def cents(amount: int, currency: str) -> str:
    """The same, from cents."""
    return in_currency(Decimal(amount) / 100, currency)


def section(title: str, lines: Sequence[str], empty: str = "none") -> list[str]:
    """A title with indented lines, or on one line with `empty`."""
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else [f"{title}: {empty}"]


def changes(done: Mapping[str, Any], currency: str) -> list[str]:
    """The values that an action changed: one line for each. Amounts are what users pay."""
    before, after = done["before"], done["after"]
    found = [
        f"  {name}: {_value(before.get(name), currency)} → {_value(after[name], currency)}"
        for name in after
        if before.get(name) != after[name]
    ]
    return found or ["  nothing changed: it was so before"]


def _value(value: Any, currency: str) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Decimal):
        return price(value, currency)
    return "none" if value is None else str(value)
