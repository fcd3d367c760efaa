"""Amounts keep their digits between SQL, Python and JSON."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.common import money


def test_text_under_usd_names_becomes_decimal_at_any_depth() -> None:
    parsed = money.parse_amounts(
        {"cost_usd": "0.025000", "note": "1.5", "packs": [{"price_usd": "9.99", "limit_usd": None}]}
    )
    assert parsed == {
        "cost_usd": Decimal("0.025000"),
        "note": "1.5",
        "packs": [{"price_usd": Decimal("9.99"), "limit_usd": None}],
    }


@given(st.decimals(min_value=0, max_value=10**8, places=6))
def test_a_decimal_is_a_json_number_with_exactly_its_digits(amount: Decimal) -> None:
    assert json.loads(money.dumps({"amount": amount}), parse_float=Decimal, parse_int=Decimal)["amount"] == amount


def test_trailing_zeros_and_exponents_are_not_written() -> None:
    amounts = [Decimal("0.025000"), Decimal("10.000000"), Decimal(100), Decimal("1E+2"), Decimal("0E-6")]
    assert money.dumps(amounts) == b"[0.025,10,100,100,0]"


def test_a_value_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        money.dumps({"a": object()})


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("0.025000", "usd", "$0.025"),
        ("10", "cad", "CA$10.00"),
        ("-0.03", "cad", "-CA$0.03"),
        ("1E+2", "usd", "$100.00"),
    ],
)
def test_an_amount_is_written_with_its_currency(amount: str, currency: str, text: str) -> None:
    assert money.in_currency(Decimal(amount), currency) == text
