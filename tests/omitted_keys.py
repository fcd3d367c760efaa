"""Finds reads of keys that Stripe leaves out of an object where they do not apply.

In Stripe's description they are neither required nor nullable, for example the payment intent of a payment that has
none. Their attribute raises AttributeError, perhaps in no test: our code reads them by `getattr` with a default.
"""

import dis
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from stripe import StripeObject
from stripe._object_classes import get_object_class

from infra.local.postgres import ROOT
from tests.local.stripe.kit import description

OUR_CODE = f"{ROOT}/functions/"
# Every request for these objects asks for these keys (`expand`).
EXPANDED = {("Customer", "subscriptions"), ("Invoice", "payments")}
# The objects that our code reads. Objects within them are found.
OBJECTS = (
    "billing_portal.configuration",
    "charge",
    "checkout.session",
    "customer",
    "dispute",
    "invoice",
    "invoice_payment",
    "invoiceitem",
    "line_item",
    "payment_intent",
    "price",
    "product",
    "refund",
    "subscription",
    "subscription_item",
    "subscription_schedule",
    "webhook_endpoint",
)
Json = dict[str, Any]
read_attribute = StripeObject.__getattr__  # type: ignore[attr-defined]  # hidden from type checkers


@contextmanager
def no_omitted_key_is_read() -> Iterator[None]:
    """Our code in this process fails where it reads such a key as an attribute."""
    with mock.patch.object(StripeObject, "__getattr__", _checked):
        yield


def _checked(thing: StripeObject, key: str) -> Any:
    caller = sys._getframe(1)
    if caller.f_code.co_filename.startswith(OUR_CODE) and key in omitted_keys().get(type(thing), ()):
        is_attribute = dis.opname[caller.f_code.co_code[caller.f_lasti]] == "LOAD_ATTR"  # getattr is a call
        name = type(thing).__qualname__
        assert not is_attribute or (name, key) in EXPANDED, f"Stripe may leave {key} out of {name}: use getattr"
    return read_attribute(thing, key)


@cache
def omitted_keys() -> dict[type, frozenset[str]]:
    """The keys that Stripe may leave out, by the class of stripe-python."""
    found: dict[type, frozenset[str]] = {}
    for name in OBJECTS:
        _add(found, get_object_class("V1", name), description()["components"]["schemas"][name])
    return found


def _add(found: dict[type, frozenset[str]], kind: type[StripeObject], schema: Json) -> None:
    if kind in found:
        return
    keys, required = schema.get("properties", {}), schema.get("required", ())
    found[kind] = frozenset(key for key, one in keys.items() if key not in required and not one.get("nullable"))
    for key, inner in kind._inner_class_types.items():
        inner_schema = _object_schema(keys.get(key, {}))
        if inner_schema is not None:
            _add(found, inner, inner_schema)


def _object_schema(schema: Json) -> Json | None:
    """The object that a schema describes, alone or as an item of a list; None where it can be one of several."""
    if "items" in schema:
        return _object_schema(schema["items"])
    options = [one for one in schema.get("anyOf", [schema]) if "$ref" in one]
    if len(options) != 1:
        return schema if "properties" in schema else None
    found: Json = description()["components"]["schemas"][options[0]["$ref"].rpartition("/")[2]]
    return found
