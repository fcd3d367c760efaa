"""Request parameters: decodes the form encoding, `items[0][price]=…`, and validates it by stripe-python's own types.

Unknown parameters and missing required ones are refused. The open enumerations of those types
(`Literal["a", "b"] | str`) are closed here, as at Stripe. Types are resolved when a request needs them, so importing
this module is cheap.
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

from infra.local.stripe.errors import ApiError, Json, missing_param


def parse(encoded: str) -> Json:
    """A form or a query string as nested dicts. Lists stay dicts by index until `validate` knows the type."""
    tree: Json = {}
    for position, (key, value) in enumerate(parse_qsl(encoded, keep_blank_values=True)):
        name, *inner = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", key) or [""]
        node = tree
        for part in inner:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ApiError("Invalid parameters: a value and an object have one name.", param=key, saved=False)
            node, name = child, part or str(position)  # `expand[]=` is a list in the order of the form
        node[name] = value
    return tree


def validate(tree: Json, param_type: Any, supported: frozenset[str]) -> Json:
    """The parameters with their types. Raises ApiError for those that `param_type` or `supported` does not allow.

    `a.b` in `supported` restricts the fields of the object, or of the list of objects, `a`.
    """
    params: Json = _read(tree, param_type, "")
    restricted = {name.partition(".")[0] for name in supported if "." in name}
    for name, value in params.items():
        paths = [f"{name}.{inner}" for item in _objects(value) for inner in item] if name in restricted else [name]
        if unknown := [path for path in paths if path not in supported]:
            raise ApiError(
                f"This stand-in for Stripe cannot do this parameter: {unknown[0]}",
                code="not_in_this_stand_in",
                param=unknown[0],
                saved=False,
            )
    return params


def _objects(value: Any) -> list[Json]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]


@cache
def fields_of(typed_dict: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The fields of a TypedDict, without inherited request options, and the names of those it requires."""
    # Inherited request options refer to types that the inheriting module does not import.
    found = get_type_hints(typed_dict, localns={"StripeContext": Any, "Mapping": Mapping}, include_extras=True)
    hints = {name: hint for name, hint in found.items() if name not in RequestOptions.__annotations__}
    types_by_name = {
        name: get_args(hint)[0] if get_origin(hint) in (NotRequired, Required) else hint for name, hint in hints.items()
    }
    return types_by_name, frozenset(name for name, hint in hints.items() if get_origin(hint) is not NotRequired)


def _invalid(message: str, path: str, code: str | None = None) -> ApiError:
    return ApiError(message, code=code, param=path, saved=False)


def _read(value: Any, hint: Any, path: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(value, get_args(hint), path)
    if is_typeddict(hint):
        return _read_object(value, hint, path)
    if origin is list:
        if not isinstance(value, dict) or not all(index.isdecimal() for index in value):
            raise _invalid("Invalid array", path)
        return [_read(value[index], get_args(hint)[0], f"{path}[{index}]") for index in sorted(value, key=int)]
    if origin is dict:
        if not isinstance(value, dict):
            raise _invalid("Invalid object", path)
        return {name: inner and _read(inner, get_args(hint)[1], f"{path}[{name}]") for name, inner in value.items()}
    if isinstance(value, dict):
        raise _invalid(f"Invalid string: {value}", path)
    if origin is Literal:
        if value not in get_args(hint):
            raise _invalid(f"Invalid {path}: must be one of {', '.join(map(repr, get_args(hint)))}", path)
        return value
    return _read_scalar(value, hint, path)


def _read_object(value: Any, typed_dict: Any, path: str) -> Json:
    if not isinstance(value, dict):
        raise _invalid("Invalid object", path)
    fields, required = fields_of(typed_dict)
    paths = {name: f"{path}[{name}]" if path else name for name in {*value, *required}}
    for name in value:
        if name not in fields:
            raise _invalid(f"Received unknown parameter: {paths[name]}", paths[name], "parameter_unknown")
    for name in sorted(required):
        if name not in value:
            raise missing_param(paths[name])
    return {name: _read(inner, fields[name], paths[name]) for name, inner in value.items()}


def _read_union(value: Any, options: tuple[Any, ...], path: str) -> Any:
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if value in choices:
        return value
    if any(choices):  # an enumeration with values besides '': `str` is there only to keep the client's type open
        options = tuple(option for option in options if option is not str)
    candidates = [option for option in options if get_origin(option) is not Literal]
    if isinstance(value, dict):
        candidates = [option for option in candidates if is_typeddict(option) or get_origin(option) in (list, dict)]
    else:
        candidates = [option for option in candidates if option in (str, int, float, bool, Decimal)]
    if not candidates:
        known = ", ".join(map(repr, choices)) or "an object"
        raise _invalid(f"Invalid {path}: must be one of {known}", path)
    return _read(value, candidates[0], path)


def _read_scalar(value: str, hint: Any, path: str) -> Any:
    if value == "":
        message = f"You passed an empty string for '{path}'. It cannot be unset; leave it out instead."
        raise _invalid(message, path, "parameter_invalid_empty")
    if hint is bool:
        if value not in ("true", "false"):
            raise _invalid(f"Invalid boolean: {value}", path)
        return value == "true"
    if hint is int:
        if not re.fullmatch(r"-?\d{1,18}", value):
            raise _invalid(f"Invalid integer: {value}", path, "parameter_invalid_integer")
        return int(value)
    if hint in (float, Decimal):
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or number != round(number, 12):
            raise _invalid(f"Invalid decimal: {value}; at most 12 places", path)
        return number
    return value
