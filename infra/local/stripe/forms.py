"""Request parameters: the form encoding, `items[0][price]=…`, read by the parameter types that stripe-python describes.

What those types do not know is refused, and so is what they require and is missing. Their open enumerations
(`Literal["a", "b"] | str`) are closed here, as they are at Stripe. Types are walked only as far as a request goes, so
nothing is built at import.
"""

import re
import types
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from stripe import RequestOptions
from typing_extensions import is_typeddict

from infra.local.stripe.errors import Json, Refused, missing_param


def parse(encoded: str) -> Json:
    """A form or a query string as nested dicts: lists are dicts by their index, until `read` knows the type."""
    tree: Json = {}
    for at, (key, value) in enumerate(parse_qsl(encoded, keep_blank_values=True)):
        name, *inner = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", key) or [""]
        node = tree
        for part in inner:
            below = node.setdefault(name, {})
            if not isinstance(below, dict):
                raise Refused("Invalid parameters: a value and an object have one name.", param=key, kept=False)
            node, name = below, part or str(at)  # `expand[]=` is a list in the order of the form
        node[name] = value
    return tree


def read(tree: Json, kind: Any, uses: frozenset[str]) -> Json:
    """The parameters with their types. Raises Refused for what `kind` does not allow or `uses` does not name.

    Where `uses` says `a.b`, of the object or the list of objects `a` only such fields are known.
    """
    params: Json = _read(tree, kind, "")
    whole = {use.partition(".")[0] for use in uses if "." in use}
    for name, value in params.items():
        named = [f"{name}.{inner}" for item in _objects(value) for inner in item] if name in whole else [name]
        if unknown := [use for use in named if use not in uses]:
            raise Refused(
                f"This stand-in for Stripe cannot do this parameter: {unknown[0]}",
                code="not_in_this_stand_in",
                param=unknown[0],
                kept=False,
            )
    return params


def _objects(value: Any) -> list[Json]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """A TypedDict's fields, without the request options that some inherit, and those that it requires."""
    # The request options name some types that their heirs' modules do not have.
    found = get_type_hints(kind, localns={"StripeContext": Any, "Mapping": Mapping}, include_extras=True)
    hints = {name: hint for name, hint in found.items() if name not in RequestOptions.__annotations__}
    bare = {
        name: get_args(hint)[0] if get_origin(hint) in (NotRequired, Required) else hint for name, hint in hints.items()
    }
    return bare, frozenset(name for name, hint in hints.items() if get_origin(hint) is not NotRequired)


def _wrong(what: str, path: str, code: str | None = None) -> Refused:
    return Refused(what, code=code, param=path, kept=False)


def _read(value: Any, hint: Any, path: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(value, get_args(hint), path)
    if is_typeddict(hint):
        return _read_object(value, hint, path)
    if origin is list:
        if not isinstance(value, dict) or not all(at.isdecimal() for at in value):
            raise _wrong("Invalid array", path)
        return [_read(value[at], get_args(hint)[0], f"{path}[{at}]") for at in sorted(value, key=int)]
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong("Invalid object", path)
        return {name: inner and _read(inner, get_args(hint)[1], f"{path}[{name}]") for name, inner in value.items()}
    if isinstance(value, dict):
        raise _wrong(f"Invalid string: {value}", path)
    if origin is Literal:
        if value not in get_args(hint):
            raise _wrong(f"Invalid {path}: must be one of {', '.join(map(repr, get_args(hint)))}", path)
        return value
    return _read_scalar(value, hint, path)


def _read_object(value: Any, kind: Any, path: str) -> Json:
    if not isinstance(value, dict):
        raise _wrong("Invalid object", path)
    fields, required = _fields(kind)
    named = {name: f"{path}[{name}]" if path else name for name in {*value, *required}}
    for name in value:
        if name not in fields:
            raise _wrong(f"Received unknown parameter: {named[name]}", named[name], "parameter_unknown")
    for name in sorted(required):
        if name not in value:
            raise missing_param(named[name])
    return {name: _read(inner, fields[name], named[name]) for name, inner in value.items()}


def _read_union(value: Any, options: tuple[Any, ...], path: str) -> Any:
    named = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if value in named:
        return value
    if any(named):  # an enumeration with other values than '', so `str` only keeps it open for the client
        options = tuple(option for option in options if option is not str)
    fitting = [option for option in options if get_origin(option) is not Literal]
    if isinstance(value, dict):
        fitting = [option for option in fitting if is_typeddict(option) or get_origin(option) in (list, dict)]
    else:
        fitting = [option for option in fitting if option in (str, int, float, bool, Decimal)]
    if not fitting:
        known = ", ".join(map(repr, named)) or "an object"
        raise _wrong(f"Invalid {path}: must be one of {known}", path)
    return _read(value, fitting[0], path)


def _read_scalar(value: str, hint: Any, path: str) -> Any:
    if value == "":
        message = f"You passed an empty string for '{path}'. It cannot be unset; leave it out instead."
        raise _wrong(message, path, "parameter_invalid_empty")
    if hint is bool:
        if value not in ("true", "false"):
            raise _wrong(f"Invalid boolean: {value}", path)
        return value == "true"
    if hint is int:
        if not re.fullmatch(r"-?\d{1,18}", value):
            raise _wrong(f"Invalid integer: {value}", path, "parameter_invalid_integer")
        return int(value)
    if hint in (float, Decimal):
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or number != round(number, 12):
            raise _wrong(f"Invalid decimal: {value}; at most 12 places", path)
        return number
    return value
