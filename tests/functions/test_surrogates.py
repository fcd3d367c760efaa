"""Halves of characters in texts and in JSON."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.common.surrogates import HALF, Joiner, joined, loads

some_texts = st.text(st.characters() | st.sampled_from("\ud83d\ude00\udbff\udc00\\"), max_size=12)


def expected(text: str) -> str:
    """The text with pairs of halves joined and other halves replaced, one character after the other."""
    result, rest = "", text
    while rest:
        first, second = rest[0], rest[1:2]
        if "\ud800" <= first <= "\udbff" and "\udc00" <= second <= "\udfff":
            result += chr(0x10000 + (ord(first) - 0xD800) * 0x400 + ord(second) - 0xDC00)
            rest = rest[2:]
        else:
            result += "\ufffd" if HALF.match(first) else first
            rest = rest[1:]
    return result


@given(some_texts)
def test_halves_are_joined_or_replaced(text: str) -> None:
    assert joined(text) == expected(text)


@given(st.lists(some_texts))
def test_pieces_give_the_same_as_the_whole(pieces: list[str]) -> None:
    joiner = Joiner()
    read = [joiner.add(piece) for piece in pieces] + [joiner.end()]
    assert "".join(read) == expected("".join(pieces).replace("\x00", ""))
    assert not any(HALF.search(piece) for piece in read)


@given(st.recursive(some_texts | st.integers(0, 9), lambda inner: st.lists(inner) | st.dictionaries(some_texts, inner)))
def test_json_with_halves_is_read(value: object) -> None:
    text = json.dumps(value)
    assert loads(text) == loads(text.encode()) == orjson.loads(json.dumps(_joined(json.loads(text))))


def _joined(value: object) -> object:
    if isinstance(value, str):
        return expected(value)
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, dict):
        return {expected(name): _joined(item) for name, item in value.items()}
    return value


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'"\\ud83d', b'"\\ud83', b'{"a": "\\x"}', b"NaN"])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(text)
