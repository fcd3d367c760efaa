"""Nothing that holds a key shows it: plain keys, vaults, rows, errors and logs."""

import copy
import io
import json
import logging
import pickle
import pprint
import traceback
from base64 import b64encode
from collections.abc import Callable

import orjson
import pydantic
import pytest

from functions.common.observe import Observer
from functions.common.vault import DecryptionFailed, PlainKey
from tests.functions.vault_kit import (
    ALICE,
    BOB,
    CANARY,
    HEX,
    make_vault,
)


class Holder(pydantic.BaseModel):
    """A model with a plain key."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    key: PlainKey


class Number(pydantic.BaseModel):
    """A model without a plain key."""

    number: int


def logged(key: PlainKey) -> str:
    """Log lines with the key as an argument, as the message and in an exception."""
    stream = io.StringIO()
    logger = logging.Logger("vault-test")
    logger.addHandler(logging.StreamHandler(stream))
    logger.warning("%s %r %a", key, key, key)
    logger.warning(key)
    try:
        raise RuntimeError(key)
    except RuntimeError:
        logger.exception("failed with %s", {"key": key})
    return stream.getvalue()


def traceback_of(key: PlainKey, capture_locals: bool) -> str:
    """The traceback of an exception with the key as its argument, with or without locals."""

    def deeper(key: PlainKey) -> None:
        local = [key, {"key": key}]
        raise RuntimeError(key, local)

    try:
        deeper(key)
    except RuntimeError as error:
        if not capture_locals:
            return "".join(traceback.format_exception(error)) + repr(error) + str(error)
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "local = [PlainKey(…)" in text  # the locals are in the text
        return text
    raise AssertionError


def validation_error(key: PlainKey) -> str:
    """Pydantic's error for a key in place of a number."""
    with pytest.raises(pydantic.ValidationError) as caught:
        Number.model_validate({"number": key})
    return str(caught.value) + repr(caught.value.errors())


TEXT_FORMS: dict[str, Callable[[PlainKey], object]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "f-string": lambda key: f"{key} {key!r} {key!s} {key!a}",
    "f-string with a spec": lambda key: f"{key:>60} {key:s} {key:.3}",
    "str.format": lambda key: "{0} {0:<80} {0!r}".format(key),  # noqa: UP032 -- the older forms too
    "format": lambda key: format(key, "") + format(key, "s"),
    "percent": lambda key: "%s %r %a %.100s" % (key, key, key, key),  # noqa: UP031
    "in containers": lambda key: f"{[key]} {(key,)} { ({'key': key}) } { ({key}) }",
    "pprint": lambda key: pprint.pformat({"key": key}),
    "dir": dir,
    "hint": lambda key: key.hint,
    "traceback": lambda key: traceback_of(key, capture_locals=False),
    "traceback with locals": lambda key: traceback_of(key, capture_locals=True),
    "logging": logged,
    "json with default": lambda key: json.dumps({"key": key}, default=str),
    "orjson with default": lambda key: orjson.dumps({"key": key}, default=repr).decode(),
    "pydantic repr": lambda key: Holder(key=key),
    "pydantic dump": lambda key: Holder(key=key).model_dump(),
    "pydantic dump with fallback": lambda key: Holder(key=key).model_dump_json(fallback=str),
    "pydantic error": validation_error,
}


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_no_text_form_of_a_plain_key_contains_it(form: str) -> None:
    text = str(TEXT_FORMS[form](PlainKey(CANARY)))
    assert text
    assert CANARY not in text
    assert CANARY[:-4][-8:] not in text


SERIALIZATIONS: dict[str, Callable[[PlainKey], object]] = {
    **{f"pickle {version}": lambda key, v=version: pickle.dumps(key, v) for version in range(6)},  # type: ignore[misc]
    "pickle in a list": lambda key: pickle.dumps([key]),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy in a model": lambda key: Holder(key=key).model_copy(deep=True),
    "json": json.dumps,
    "json in a dict": lambda key: json.dumps({"key": key}),
    "json of its attributes": lambda key: json.dumps(key, default=vars),
    "orjson": orjson.dumps,
    "orjson in a dict": lambda key: orjson.dumps({"key": key}),
    "vars": vars,
    "pydantic": lambda key: Holder(key=key).model_dump_json(),
    "bytes": bytes,  # type: ignore[dict-item]
    "iteration": list,  # type: ignore[dict-item]
    "concatenation": lambda key: "" + key,  # type: ignore[operator]
}


@pytest.mark.parametrize("form", SERIALIZATIONS)
def test_a_plain_key_cannot_be_serialized_and_errors_hide_it(form: str) -> None:
    key = PlainKey(CANARY)
    with pytest.raises((TypeError, ValueError)) as caught:  # pydantic and orjson raise their own subclasses
        SERIALIZATIONS[form](key)
    assert form == "pydantic" or isinstance(caught.value, TypeError)
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_the_observer_does_not_log_a_key_in_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError(CANARY, PlainKey(CANARY))
    except RuntimeError as error:
        Observer("vault-test").failure("turn failed", error, request_id="1", provider=PlainKey(CANARY))
    output = capsys.readouterr().out
    assert "RuntimeError" in output
    assert CANARY not in output


@pytest.mark.parametrize(
    ("plain", "hint"),
    [("", "…"), ("abcd", "…"), ("a" * 11 + "bcde", "…"), ("a" * 12 + "bcde", "…bcde"), (CANARY, "…4242")],
)
def test_a_hint_has_four_characters_of_a_long_key_only(plain: str, hint: str) -> None:
    assert PlainKey(plain).hint == hint


def test_reveal_returns_the_key() -> None:
    assert PlainKey(CANARY).reveal() == CANARY
    assert not hasattr(PlainKey(CANARY), "__dict__")


def spellings(digits: str) -> set[str]:
    """The forms in which an encryption key could appear in a text."""
    key = bytes.fromhex(digits)
    return {digits, digits.upper(), b64encode(key).decode(), repr(key)[2:-1], str(list(key))[1:-1], digits[:8]}


def test_vault_row_and_error_hide_the_encryption_keys() -> None:
    vault = make_vault()
    encrypted = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    try:
        vault.decrypt_without_refresh(encrypted, BOB, "openai")
    except DecryptionFailed as error:
        shown_error = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "key_id='first'" in shown_error  # the locals are in the text
    for text in (repr(vault), str(vault), f"{vault}", str(vars(vault)), repr(encrypted), str(encrypted), shown_error):
        assert "first" in text
        assert not any(form in text for digits in HEX.values() for form in spellings(digits))
        assert CANARY not in text
    assert repr(vault) == "Vault(first, second)"


def test_a_vault_cannot_be_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(make_vault())
