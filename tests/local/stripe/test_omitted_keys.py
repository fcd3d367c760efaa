"""The check of what our code reads from Stripe's objects (tests/omitted_keys.py)."""

from contextlib import nullcontext
from types import FunctionType

import pytest
from stripe import Invoice, InvoicePayment

from tests.omitted_keys import OUR_CODE, no_omitted_key_is_read, omitted_keys


def test_a_key_that_is_null_is_never_left_out() -> None:
    assert omitted_keys()[InvoicePayment.Payment] == {"charge", "payment_intent", "payment_record"}
    assert "hosted_invoice_url" not in omitted_keys()[Invoice]


@pytest.mark.parametrize(
    ("read", "fails"),
    [("payment.payment_intent", True), ("getattr(payment, 'payment_intent', None)", False), ("payment.type", False)],
)
def test_only_an_attribute_that_may_be_missing_fails(read: str, fails: bool) -> None:
    payment = InvoicePayment.Payment.construct_from({"type": "payment_intent", "payment_intent": "pi_1"}, "key")
    our_code = FunctionType(compile(read, f"{OUR_CODE}reads.py", "eval"), {"payment": payment})
    with no_omitted_key_is_read(), pytest.raises(AssertionError, match="payment_intent") if fails else nullcontext():
        assert our_code() in ("pi_1", "payment_intent")
