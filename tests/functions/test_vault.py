"""The vault: a seal opens for its own user, provider and key alone; nothing that holds a key shows it."""

import asyncio
import copy
import hashlib
import io
import itertools
import json
import logging
import os
import pickle
import pprint
import string
import subprocess
import sys
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import boto3
import moto
import orjson
import pydantic
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from functions.common import vault as module
from functions.common.observe import Observer
from functions.common.settings import SettingsError, load_vault, read_environment
from functions.common.vault import (
    COOLDOWN_S,
    REFRESH_S,
    DecryptionFailed,
    EncryptedKey,
    KeyringError,
    PlainKey,
    Vault,
    parse_keyring,
)
from infra.local.postgres import ROOT

ALICE, BOB = "a11ce000-0000-4000-8000-00000000000a", "b0b00000-0000-4000-8000-00000000000b"
PROVIDERS = ("anthropic", "openai")
CANARY = "sk-canary-of-somebody-4242"
HEX = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("first", "second", "third")}
BOTH = f"first:{HEX['first']},second:{HEX['second']}"


class Clock:
    """A monotonic clock that goes when it is told."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class Source:
    """Where a ring is read again: what it says can change, it counts, and can fail."""

    def __init__(self, keys: str) -> None:
        self.keys = keys
        self.reads = 0
        self.failure: Exception | None = None

    def __call__(self) -> Mapping[str, str]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return {"ENCRYPTION_KEYS": self.keys}


def a_vault(keys: str = BOTH) -> Vault:
    """A vault that is never to read its ring again."""
    return Vault({"ENCRYPTION_KEYS": keys}, dict)


def sealed_by_hand(
    key_id: str, nonce: bytes, plain: bytes, user_id: str = ALICE, provider: str = "openai"
) -> EncryptedKey:
    """A seal of the primitive's own, with what it is bound to spelled out."""
    bound_to = b"byok\x00" + user_id.encode() + b"\x00" + provider.encode() + b"\x00" + key_id.encode()
    both = AESGCM(bytes.fromhex(HEX[key_id])).encrypt(nonce, plain, bound_to)
    return EncryptedKey(key_id, nonce, both[:-16], both[-16:])


def opens(vault: Vault, sealed: EncryptedKey, user_id: str = ALICE, provider: str = "openai") -> str | None:
    """What is in the seal, or None."""
    try:
        return vault.decrypt_without_refresh(sealed, user_id, provider).reveal()
    except DecryptionFailed:
        return None


# --- Known answers ---

# McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 13 to 16: AES-256, nonces of 96 bits.
KEY_15 = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
PLAIN_15 = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
)
CIPHERTEXT_15 = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
)
# Case: key, nonce, plain text, authenticated text, ciphertext, tag.
PUBLISHED = {
    13: ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    14: ("00" * 32, "00" * 12, "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
    15: (KEY_15, "cafebabefacedbaddecaf888", PLAIN_15, "", CIPHERTEXT_15, "b094dac5d93471bdec1a502270e3cc6c"),
    16: (
        KEY_15,
        "cafebabefacedbaddecaf888",
        PLAIN_15[:120],
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        CIPHERTEXT_15[:120],
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_primitive_gives_the_published_answers(case: int) -> None:
    key, nonce, plain, bound_to, ciphertext, tag = map(bytes.fromhex, PUBLISHED[case])
    assert AESGCM(key).encrypt(nonce, plain, bound_to) == ciphertext + tag
    assert AESGCM(key).decrypt(nonce, ciphertext + tag, bound_to) == plain
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(nonce, ciphertext + tag, bound_to + b"\x00")


@pytest.mark.parametrize("case", [13, 14])  # the others' plain texts are not UTF-8, as every key is
def test_the_vault_gives_the_published_answers_where_nothing_is_bound(
    case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, nonce, plain, bound_to, ciphertext, tag = map(bytes.fromhex, PUBLISHED[case])
    vault = a_vault(f"published:{key.hex()}")
    monkeypatch.setattr(module, "_associated_data", lambda *_: bound_to)
    monkeypatch.setattr(os, "urandom", lambda _: nonce)
    sealed = EncryptedKey("published", nonce, ciphertext, tag)
    assert vault.decrypt_without_refresh(sealed, ALICE, "openai").reveal() == plain.decode()
    assert vault.encrypt_without_refresh(PlainKey(plain.decode()), ALICE, "openai") == sealed


def test_a_row_of_the_first_release_opens_for_ever() -> None:
    row = {
        "encryption_key_id": "2025-01",
        "encryption_iv": "AAECAwQFBgcICQoL",
        "encrypted_key": "NGn7equR73TrbOPj1MQeBPGl8xmCHjMZWRSA",
        "encryption_tag": "LAdpbmBmfqg0fruN4Oi87w==",
    }
    vault = a_vault(f"2025-01:{bytes(range(32)).hex()}")
    assert (
        vault.decrypt_without_refresh(EncryptedKey.from_row(row), ALICE, "anthropic").reveal()
        == "sk-ant-of-the-first-release"
    )
    assert EncryptedKey.from_row(row).to_row() == row


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 512])
def test_a_valid_seal_opens_whatever_its_length(length: int) -> None:
    plain = (string.printable * 6)[:length]
    assert opens(a_vault(), sealed_by_hand("first", os.urandom(12), plain.encode())) == plain
    sealed = a_vault().encrypt_without_refresh(PlainKey(plain), ALICE, "openai")
    assert sealed_by_hand("first", sealed.nonce, plain.encode()) == sealed
    assert (len(sealed.nonce), len(sealed.tag), len(sealed.ciphertext)) == (12, 16, length)
    assert opens(a_vault(), sealed) == plain


def test_a_key_in_any_script_and_a_users_id_in_any_case_come_back() -> None:
    sealed = a_vault().encrypt_without_refresh(PlainKey("clé-ключ-🗝"), ALICE.upper(), "openai")
    assert opens(a_vault(), sealed) == "clé-ключ-🗝"


def test_a_row_is_read_as_postgres_writes_base64_with_line_breaks() -> None:
    sealed = a_vault().encrypt_without_refresh(PlainKey("k" * 200), ALICE, "openai")
    row = sealed.to_row()
    row["encrypted_key"] = "\n".join(row["encrypted_key"][at : at + 76] for at in range(0, 268, 76))
    assert row["encrypted_key"].count("\n") == 3
    assert EncryptedKey.from_row(row) == sealed
    with pytest.raises(DecryptionFailed, match="there is no key"):
        EncryptedKey.from_row(None)


# --- Damage ---


def with_part(sealed: EncryptedKey, part: str, value: bytes) -> EncryptedKey:
    """The seal with another ciphertext, tag or nonce."""
    return EncryptedKey(**{**sealed._asdict(), part: value})


def flipped(value: bytes) -> Iterator[bytes]:
    """The value with each of its bits the other way, one at a time."""
    for bit in range(len(value) * 8):
        yield (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(len(value), "big")


def resized(value: bytes, lengths: tuple[int, ...]) -> Iterator[bytes]:
    """The value cut or filled to each length, from both ends, with zeros and with itself."""
    for length in lengths:
        yield value[:length].ljust(length, b"\x00")
        yield value[len(value) - length if length < len(value) else 0 :].rjust(length, b"\x00")
        yield (value * 3)[:length]


@pytest.mark.parametrize("part", ["ciphertext", "tag", "nonce"])
def test_no_seal_with_a_single_bit_flipped_opens(part: str) -> None:
    vault = a_vault()
    sealed = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    broken = [with_part(sealed, part, value) for value in flipped(getattr(sealed, part))]
    assert len(set(broken)) == 8 * {"ciphertext": len(CANARY), "tag": 16, "nonce": 12}[part]
    assert [seal for seal in broken if opens(vault, seal) is not None] == []
    assert opens(vault, sealed) == CANARY


LENGTHS = {
    "ciphertext": (0, 1, 15, 16, len(CANARY) - 1, len(CANARY) + 1, len(CANARY) + 16),
    "tag": (0, 4, 8, 12, 15, 17, 32),
    "nonce": (0, 1, 7, 8, 11, 13, 16, 24),
}


@pytest.mark.parametrize("part", LENGTHS)
def test_no_seal_with_a_part_cut_or_extended_opens(part: str) -> None:
    vault = a_vault()
    sealed = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    for value in resized(getattr(sealed, part), LENGTHS[part]):
        with pytest.raises(DecryptionFailed):
            vault.decrypt_without_refresh(with_part(sealed, part, value), ALICE, "openai")


def test_bytes_moved_between_ciphertext_and_tag_do_not_open_although_their_sum_is_genuine() -> None:
    vault = a_vault()
    sealed = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    both = sealed.ciphertext + sealed.tag
    parts = [sealed._replace(ciphertext=both[:cut], tag=both[cut:]) for cut in range(len(both) + 1)]
    assert [seal for seal in parts if opens(vault, seal) is not None] == [sealed]


@pytest.mark.parametrize("length", [8, 11, 13, 16, 128])
def test_a_nonce_of_another_length_is_refused_even_from_who_has_the_key(length: int) -> None:
    sealed = sealed_by_hand("first", os.urandom(length), CANARY.encode())
    assert opens(a_vault(), sealed) is None


def test_an_empty_ciphertext_a_made_up_tag_and_swapped_parts_do_not_open() -> None:
    vault = a_vault()
    sealed = vault.encrypt_without_refresh(PlainKey(CANARY[:16]), ALICE, "openai")
    assert len(sealed.ciphertext) == len(sealed.tag)  # so that no length gives the swap away
    for broken in (
        sealed._replace(ciphertext=b""),
        sealed._replace(ciphertext=b"", tag=b""),
        sealed._replace(tag=bytes(16)),
        sealed._replace(tag=b"\xff" * 16),
        sealed._replace(ciphertext=bytes(16), tag=bytes(16)),
        sealed._replace(ciphertext=sealed.tag, tag=sealed.ciphertext),
        sealed._replace(ciphertext=CANARY[:16].encode()),
        sealed._replace(nonce=bytes(12)),
    ):
        with pytest.raises(DecryptionFailed):
            vault.decrypt_without_refresh(broken, ALICE, "openai")


# --- Swaps ---


@pytest.mark.parametrize("same_key", [False, True], ids=["two keys", "one key under two ids"])
@pytest.mark.parametrize("same_nonce", [False, True], ids=["random nonces", "one nonce"])
def test_of_all_recombinations_of_seals_only_the_genuine_open(
    same_key: bool, same_nonce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if same_nonce:  # which never happens; nothing but what a seal is bound to keeps seals apart then
        monkeypatch.setattr(os, "urandom", bytes)
    digits = {"first": HEX["first"], "second": HEX["first" if same_key else "second"]}
    owners = [(user, provider) for user in (ALICE, BOB) for provider in PROVIDERS]
    genuine: dict[tuple[EncryptedKey, str, str], str] = {}
    for newest, other in (("first", "second"), ("second", "first")):
        vault = a_vault(f"{newest}:{digits[newest]},{other}:{digits[other]}")
        for number, (user, provider) in enumerate(owners):
            plain = f"sk-{newest:_>8}-{number}"
            genuine[vault.encrypt_without_refresh(PlainKey(plain), user, provider), user, provider] = plain
    assert len(genuine) == 8
    seals = [seal for seal, _, _ in genuine]
    recombined = {
        EncryptedKey(*parts) for parts in itertools.product(*(set(part) for part in zip(*seals, strict=True)))
    }
    assert len(recombined) == 2 * (1 if same_nonce else 8) * 8 * 8

    opened = {}
    for seal, (user, provider) in itertools.product(recombined, owners):
        if (plain_text := opens(vault, seal, user, provider)) is not None:
            opened[seal, user, provider] = plain_text
    assert opened == genuine


def test_a_seal_of_a_key_that_the_ring_does_not_have_does_not_open() -> None:
    sealed = a_vault().encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    assert opens(a_vault(f"second:{HEX['second']}"), sealed) is None
    assert opens(a_vault(f"first:{HEX['second']}"), sealed) is None
    assert opens(a_vault(f"third:{HEX['third']},first:{HEX['first']}"), sealed) == CANARY


# --- Nonces ---


def test_two_seals_of_one_key_share_neither_nonce_nor_ciphertext() -> None:
    vault = a_vault()
    one, other = (vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai") for _ in range(2))
    assert one.nonce != other.nonce
    assert one.ciphertext != other.ciphertext
    assert one.tag != other.tag


def test_ten_thousand_seals_have_ten_thousand_nonces() -> None:
    vault, plain = a_vault(), PlainKey(CANARY)
    seals = [vault.encrypt_without_refresh(plain, ALICE, "openai") for _ in range(10_000)]
    assert len({seal.nonce for seal in seals}) == 10_000
    assert len({seal.ciphertext for seal in seals}) == 10_000


# --- Nothing shows ---


class Holder(pydantic.BaseModel):
    """Somebody's model that takes a plain key in."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    key: PlainKey


class Number(pydantic.BaseModel):
    """Somebody's model that takes no plain key."""

    number: int


def logged(key: PlainKey) -> str:
    """What a logger writes of a key: as an argument, as the message, in an exception."""
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


def raised(key: PlainKey, capture_locals: bool) -> str:
    """What a traceback tells of an exception that has the key as its argument, locals included where asked."""

    def deeper(key: PlainKey) -> None:
        local = [key, {"key": key}]
        raise RuntimeError(key, local)

    try:
        deeper(key)
    except RuntimeError as error:
        if not capture_locals:
            return "".join(traceback.format_exception(error)) + repr(error) + str(error)
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "local = [PlainKey(…)" in text  # it was looked at
        return text
    raise AssertionError


def refused(key: PlainKey) -> str:
    """What pydantic says of a key where a number should be."""
    with pytest.raises(pydantic.ValidationError) as caught:
        Number.model_validate({"number": key})
    return str(caught.value) + repr(caught.value.errors())


SHOWN: dict[str, Callable[[PlainKey], object]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "f-string": lambda key: f"{key} {key!r} {key!s} {key!a}",
    "f-string with a spec": lambda key: f"{key:>60} {key:s} {key:.3}",
    "str.format": lambda key: "{0} {0:<80} {0!r}".format(key),  # noqa: UP032 -- the old ways too
    "format": lambda key: format(key, "") + format(key, "s"),
    "percent": lambda key: "%s %r %a %.100s" % (key, key, key, key),  # noqa: UP031
    "in containers": lambda key: f"{[key]} {(key,)} { ({'key': key}) } { ({key}) }",
    "pprint": lambda key: pprint.pformat({"key": key}),
    "dir": dir,
    "hint": lambda key: key.hint,
    "traceback": lambda key: raised(key, capture_locals=False),
    "traceback with locals": lambda key: raised(key, capture_locals=True),
    "logging": logged,
    "json with default": lambda key: json.dumps({"key": key}, default=str),
    "orjson with default": lambda key: orjson.dumps({"key": key}, default=repr).decode(),
    "pydantic repr": lambda key: Holder(key=key),
    "pydantic dump": lambda key: Holder(key=key).model_dump(),
    "pydantic dump with fallback": lambda key: Holder(key=key).model_dump_json(fallback=str),
    "pydantic error": refused,
}


@pytest.mark.parametrize("way", SHOWN)
def test_a_plain_key_shows_nothing_of_itself(way: str) -> None:
    text = str(SHOWN[way](PlainKey(CANARY)))
    assert text
    assert CANARY not in text
    assert CANARY[:-4][-8:] not in text


WRITTEN: dict[str, Callable[[PlainKey], object]] = {
    **{f"pickle {version}": lambda key, v=version: pickle.dumps(key, v) for version in range(6)},  # type: ignore[misc]
    "pickle in a list": lambda key: pickle.dumps([key]),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy in a model": lambda key: Holder(key=key).model_copy(deep=True),
    "json": json.dumps,
    "json in a dict": lambda key: json.dumps({"key": key}),
    "json of its variables": lambda key: json.dumps(key, default=vars),
    "orjson": orjson.dumps,
    "orjson in a dict": lambda key: orjson.dumps({"key": key}),
    "vars": vars,
    "pydantic": lambda key: Holder(key=key).model_dump_json(),
    "bytes": bytes,  # type: ignore[dict-item]
    "iteration": list,  # type: ignore[dict-item]
    "concatenation": lambda key: "" + key,  # type: ignore[operator]
}


@pytest.mark.parametrize("way", WRITTEN)
def test_a_plain_key_is_never_written_down_and_the_refusal_does_not_show_it(way: str) -> None:
    key = PlainKey(CANARY)
    with pytest.raises((TypeError, ValueError)) as caught:  # pydantic's and orjson's are of their own
        WRITTEN[way](key)
    assert way == "pydantic" or isinstance(caught.value, TypeError)
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_the_observer_logs_nothing_of_an_exception_with_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError(CANARY, PlainKey(CANARY))
    except RuntimeError as error:
        Observer("vaulted").failure("turn failed", error, request_id="1", provider=PlainKey(CANARY))
    written = capsys.readouterr().out
    assert "RuntimeError" in written
    assert CANARY not in written


@pytest.mark.parametrize(
    ("plain", "hint"),
    [("", "…"), ("abcd", "…"), ("a" * 11 + "bcde", "…"), ("a" * 12 + "bcde", "…bcde"), (CANARY, "…4242")],
)
def test_a_hint_is_the_last_four_of_a_long_key_and_nothing_of_a_short_one(plain: str, hint: str) -> None:
    assert PlainKey(plain).hint == hint


def test_a_plain_key_is_revealed_only_when_asked() -> None:
    assert PlainKey(CANARY).reveal() == CANARY
    assert not hasattr(PlainKey(CANARY), "__dict__")


def spelled(digits: str) -> set[str]:
    """The ways in which a ring's key could be in a text."""
    key = bytes.fromhex(digits)
    return {digits, digits.upper(), b64encode(key).decode(), repr(key)[2:-1], str(list(key))[1:-1], digits[:8]}


def test_neither_vault_nor_seal_nor_refusal_shows_a_key_of_the_ring() -> None:
    vault = a_vault()
    sealed = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    try:
        vault.decrypt_without_refresh(sealed, BOB, "openai")
    except DecryptionFailed as error:
        refusal = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "key_id='first'" in refusal  # its locals were looked at
    for text in (repr(vault), str(vault), f"{vault}", str(vars(vault)), repr(sealed), str(sealed), refusal):
        assert "first" in text
        assert not any(way in text for digits in HEX.values() for way in spelled(digits))
        assert CANARY not in text
    assert repr(vault) == "Vault(first, second)"


def test_a_vault_is_not_written_down() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(a_vault())


# --- The ring ---


def test_the_first_key_of_the_ring_seals_and_all_of_them_open() -> None:
    keys = [f"{name}:{digits}" for name, digits in HEX.items()]
    for order in itertools.permutations(keys):
        ring = parse_keyring({"ENCRYPTION_KEYS": ",".join(order)})
        assert [f"{key_id}:{key.hex()}" for key_id, key in ring.items()] == list(order)
        vault = a_vault(",".join(order))
        newest = order[0].partition(":")[0]
        assert vault.current_key_id == vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai").key_id == newest
        assert all(opens(vault, sealed_by_hand(name, os.urandom(12), b"sk-each")) == "sk-each" for name in HEX)


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        ({"ENCRYPTION_KEY": HEX["first"]}, ["1"]),
        ({"ENCRYPTION_KEY": f" {HEX['first'].upper()}\n", "ENCRYPTION_KEYS": ""}, ["1"]),
        ({"ENCRYPTION_KEYS": BOTH, "ENCRYPTION_KEY": HEX["third"]}, ["first", "second", "1"]),
        ({"ENCRYPTION_KEYS": f"2:{HEX['second']},1:{HEX['first']}", "ENCRYPTION_KEY": HEX["first"]}, ["2", "1"]),
        ({"ENCRYPTION_KEYS": f"\n 2025-01:{HEX['second']} ,\n 2:{HEX['first'].upper()},\n"}, ["2025-01", "2"]),
        ({"ENCRYPTION_KEYS": f"{'a' * 32}:{HEX['first']}"}, ["a" * 32]),
    ],
)
def test_a_ring_is_read_from_either_variable_or_both(written: dict[str, str], ids: list[str]) -> None:
    ring = parse_keyring(written)
    assert list(ring) == ids
    assert {len(key) for key in ring.values()} == {32}
    assert bytes.fromhex(HEX["first"]) in ring.values()
    assert load_vault(written).current_key_id == ids[0]


ONE = HEX["first"]
MALFORMED: dict[str, dict[str, str]] = {
    "a digit short": {"ENCRYPTION_KEYS": f"a:{ONE[:-1]}"},
    "a byte short": {"ENCRYPTION_KEYS": f"a:{ONE[:-2]}"},
    "a digit long": {"ENCRYPTION_KEYS": f"a:{ONE}0"},
    "of 128 bits": {"ENCRYPTION_KEYS": f"a:{ONE[:32]}"},
    "of 512 bits": {"ENCRYPTION_KEYS": f"a:{ONE}{ONE}"},
    "not hex": {"ENCRYPTION_KEYS": f"a:{ONE[:-1]}g"},
    "digits of another script": {"ENCRYPTION_KEYS": f"a:{ONE[:-1]}٣"},
    "a prefix": {"ENCRYPTION_KEYS": f"a:0x{ONE[2:]}"},
    "base64": {"ENCRYPTION_KEYS": f"a:{b64encode(bytes.fromhex(ONE)).decode()}"},
    "no id": {"ENCRYPTION_KEYS": ONE},
    "an empty id": {"ENCRYPTION_KEYS": f":{ONE}"},
    "no key": {"ENCRYPTION_KEYS": "a:"},
    "an id alone": {"ENCRYPTION_KEYS": "a"},
    "two keys of an id": {"ENCRYPTION_KEYS": f"a:{ONE}:{ONE}"},
    "another separator": {"ENCRYPTION_KEYS": f"a:{ONE};b:{ONE}"},
    "the second is malformed": {"ENCRYPTION_KEYS": f"{BOTH},c:{ONE[:-2]}"},
    "an id with an underscore": {"ENCRYPTION_KEYS": f"a_b:{ONE}"},
    "an id with a space": {"ENCRYPTION_KEYS": f"a b:{ONE}"},
    "an id that ends in a space": {"ENCRYPTION_KEYS": f"a :{ONE}"},
    "an id with a zero byte": {"ENCRYPTION_KEYS": f"a\x00b:{ONE}"},
    "an id with an accent": {"ENCRYPTION_KEYS": f"é:{ONE}"},
    "an id of a dash": {"ENCRYPTION_KEYS": f"-:{ONE}"},
    "an id too long": {"ENCRYPTION_KEYS": f"{'a' * 33}:{ONE}"},
    "an id twice": {"ENCRYPTION_KEYS": f"a:{ONE},a:{HEX['second']}"},
    "an id twice with one key": {"ENCRYPTION_KEYS": f"a:{ONE},a:{ONE}"},
    "two keys of the id 1": {"ENCRYPTION_KEYS": f"1:{HEX['second']}", "ENCRYPTION_KEY": ONE},
    "the only key a digit short": {"ENCRYPTION_KEY": ONE[:-1]},
    "the only key not hex": {"ENCRYPTION_KEY": f"{ONE[:-1]}x"},
    "the only key with an id": {"ENCRYPTION_KEY": f"1:{ONE}"},
    "the only key malformed beside a ring": {"ENCRYPTION_KEYS": BOTH, "ENCRYPTION_KEY": ONE[:-2]},
    "nothing": {},
    "empty": {"ENCRYPTION_KEYS": "", "ENCRYPTION_KEY": ""},
    "commas": {"ENCRYPTION_KEYS": " , ,", "ENCRYPTION_KEY": "  "},
    "256 bits and blanks": {"ENCRYPTION_KEYS": f"a:{ONE[:32]} {ONE[32:]}"},
    # 64 characters that bytes.fromhex takes, of fewer bytes.
    "192 bits and blanks": {"ENCRYPTION_KEYS": f"a:{' ' * 16}{ONE[:48]}"},
    "128 bits and blanks": {"ENCRYPTION_KEYS": f"a:{ONE[:16]}{' ' * 32}{ONE[:16]}"},
    "184 bits and blanks": {"ENCRYPTION_KEYS": f"a:{' ' * 18}{ONE[:46]}"},
    "the only key 128 bits and tabs": {"ENCRYPTION_KEY": ONE[:16] + "\t" * 32 + ONE[:16]},
    "the only key 184 bits and line breaks": {"ENCRYPTION_KEY": ONE[:2] + "\n" * 18 + ONE[:44]},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_ring_is_refused_without_a_digit_of_it(what: str) -> None:
    values = MALFORMED[what]
    with pytest.raises(KeyringError) as caught:
        parse_keyring(values)
    with pytest.raises(SettingsError) as settings_error:
        load_vault(values)
    assert str(settings_error.value) == str(caught.value)
    assert settings_error.value.__cause__ is None
    assert settings_error.value.__suppress_context__
    assert str(caught.value).startswith("ENCRYPTION_KEY")
    told = "".join(traceback.format_exception(caught.value) + traceback.format_exception(settings_error.value)).lower()
    # None of its digits, eight in a row: fewer could be a word, or a line's number.
    for value in values.values():
        for digits in (*HEX.values(), value.lower()):
            pieces = {digits[at : at + 8] for at in range(len(digits) - 7) if digits[at : at + 8].strip()}
            assert not any(piece in told for piece in pieces)


# --- Read again ---


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source(f"first:{HEX['first']}")


@pytest.fixture
def vault(source: Source, clock: Clock) -> Vault:
    """A vault of `first` alone, read again from `source`."""
    return Vault({"ENCRYPTION_KEYS": source.keys}, source, clock)


def by_second() -> EncryptedKey:
    """Somebody else's row, sealed with a key that came later."""
    return a_vault(f"second:{HEX['second']}").encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")


async def test_an_unknown_key_has_the_ring_read_again_and_the_row_opens(
    vault: Vault, source: Source, clock: Clock
) -> None:
    source.keys = BOTH
    assert (await vault.decrypt(by_second(), ALICE, "openai")).reveal() == CANARY
    assert source.reads == 1
    clock.seconds += REFRESH_S  # what the ring has is opened with it, however old it is
    assert (await vault.decrypt(by_second(), ALICE, "openai")).reveal() == CANARY
    assert source.reads == 1


async def test_an_unknown_key_has_the_ring_read_again_once_a_cooldown_at_most(
    vault: Vault, source: Source, clock: Clock
) -> None:
    for reads in (1, 2, 3):
        for _ in range(20):  # all within one cooldown
            with pytest.raises(DecryptionFailed, match="the keyring has no such key"):
                await vault.decrypt(by_second(), ALICE, "openai")
            clock.seconds += COOLDOWN_S / 20
        assert source.reads == reads


async def test_a_key_that_is_not_there_does_not_keep_another_from_being_met(vault: Vault, source: Source) -> None:
    with pytest.raises(DecryptionFailed, match="the keyring has no such key"):
        await vault.decrypt(by_second()._replace(key_id="never"), ALICE, "openai")
    source.keys = BOTH
    assert (await vault.decrypt(by_second(), ALICE, "openai")).reveal() == CANARY
    assert source.reads == 2


async def test_a_ring_is_read_again_when_asked_however_young_it_is(vault: Vault, source: Source) -> None:
    source.keys = f"second:{HEX['second']},first:{HEX['first']}"
    await vault.refresh()
    assert (vault.current_key_id, source.reads) == ("second", 1)
    await vault.refresh()
    assert source.reads == 2


async def test_a_seal_meets_a_new_key_when_the_ring_is_old_enough_and_not_before(
    vault: Vault, source: Source, clock: Clock
) -> None:
    old = await vault.encrypt(PlainKey("sk-old"), ALICE, "openai")
    source.keys = f"second:{HEX['second']},first:{HEX['first']}"
    clock.seconds += REFRESH_S - 1
    assert (await vault.encrypt(PlainKey(CANARY), ALICE, "openai")).key_id == "first"
    assert source.reads == 0
    clock.seconds += 1
    new = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert (new.key_id, vault.current_key_id, source.reads) == ("second", "second", 1)
    assert opens(vault, new) == CANARY
    assert opens(vault, old) == "sk-old"
    await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert source.reads == 1
    clock.seconds += REFRESH_S
    await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert source.reads == 2


@pytest.mark.parametrize(
    ("failure", "keys"),
    [
        (SettingsError("SECRETS_ID names a secret that cannot be read."), BOTH),
        (OSError("no network"), BOTH),
        (RuntimeError("whatever"), BOTH),
        (None, ""),
        (None, "first:malformed"),
        (None, f"a:{' ' * 18}{ONE[:46]}"),
    ],
    ids=["settings", "network", "whatever", "no ring", "malformed", "of 184 bits"],
)
async def test_a_ring_that_cannot_be_read_again_leaves_the_one_there_is(
    vault: Vault, source: Source, clock: Clock, failure: Exception | None, keys: str
) -> None:
    before = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    source.failure, source.keys = failure, keys
    clock.seconds += REFRESH_S
    after = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert (after.key_id, source.reads) == ("first", 1)
    clock.seconds += COOLDOWN_S - 1
    await vault.encrypt(PlainKey(CANARY), ALICE, "openai")  # nor is it tried again for each seal
    assert source.reads == 1
    clock.seconds += 1
    await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert source.reads == 2
    for _ in range(2):
        with pytest.raises(DecryptionFailed):
            await vault.decrypt(by_second(), ALICE, "openai")
    assert source.reads == 3
    assert opens(vault, before) == opens(vault, after) == CANARY
    assert vault.current_key_id == "first"

    source.failure, source.keys = None, BOTH  # it recovers by itself
    clock.seconds += COOLDOWN_S
    assert (await vault.decrypt(by_second(), ALICE, "openai")).reveal() == CANARY


class Held(Source):
    """A source that answers when it is let."""

    def __init__(self, keys: str) -> None:
        super().__init__(keys)
        self.asked, self.let = threading.Event(), threading.Event()

    def __call__(self) -> Mapping[str, str]:
        self.asked.set()
        assert self.let.wait(10)
        return super().__call__()


@pytest.fixture
def held() -> Held:
    return Held(BOTH)


@pytest.fixture
def slow_vault(held: Held, clock: Clock) -> Vault:
    """A vault of `first` alone, read again from `held`."""
    return Vault({"ENCRYPTION_KEYS": f"first:{HEX['first']}"}, held, clock)


async def test_while_the_ring_is_being_read_known_keys_open_without_waiting(held: Held, slow_vault: Vault) -> None:
    known = slow_vault.encrypt_without_refresh(PlainKey("sk-known"), ALICE, "openai")
    waiting = asyncio.create_task(slow_vault.decrypt(by_second(), ALICE, "openai"))
    assert await asyncio.to_thread(held.asked.wait, 10)
    opened = await asyncio.gather(*(slow_vault.decrypt(known, ALICE, "openai") for _ in range(50)))
    assert [key.reveal() for key in opened] == ["sk-known"] * 50
    assert not waiting.done()
    held.let.set()
    assert (await waiting).reveal() == CANARY


async def at_once(held: Held, *doing: Coroutine[Any, Any, Any]) -> list[Any]:
    """What comes of them when all have begun before the ring has been read."""
    tasks = [asyncio.create_task(one) for one in doing]
    assert await asyncio.to_thread(held.asked.wait, 10)
    held.let.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_rows_of_a_new_key_that_come_at_once_all_open_with_one_reading(held: Held, slow_vault: Vault) -> None:
    results = await at_once(held, *(slow_vault.decrypt(by_second(), ALICE, "openai") for _ in range(20)))
    assert [key.reveal() if isinstance(key, PlainKey) else key for key in results] == [CANARY] * 20
    assert held.reads == 1


async def test_rows_of_a_missing_key_that_come_at_once_have_the_ring_read_once(held: Held, slow_vault: Vault) -> None:
    row = by_second()._replace(key_id="never")
    results = await at_once(held, *(slow_vault.decrypt(row, ALICE, "openai") for _ in range(20)))
    assert [type(result) for result in results] == [DecryptionFailed] * 20
    assert held.reads == 1


async def test_seals_that_come_at_once_to_an_old_ring_have_it_read_once_and_use_the_new_key(
    held: Held, slow_vault: Vault, clock: Clock
) -> None:
    held.keys = f"second:{HEX['second']},first:{HEX['first']}"
    clock.seconds += REFRESH_S
    results = await at_once(held, *(slow_vault.encrypt(PlainKey(CANARY), ALICE, "openai") for _ in range(20)))
    assert [seal.key_id for seal in results] == ["second"] * 20
    assert held.reads == 1


async def test_who_gives_up_while_the_ring_is_being_read_does_not_keep_the_others_from_it(
    held: Held, slow_vault: Vault
) -> None:
    first = asyncio.create_task(slow_vault.decrypt(by_second(), ALICE, "openai"))
    assert await asyncio.to_thread(held.asked.wait, 10)
    second = asyncio.create_task(slow_vault.decrypt(by_second(), ALICE, "openai"))
    first.cancel()
    held.let.set()
    assert (await second).reveal() == CANARY
    with pytest.raises(asyncio.CancelledError):
        await first


# --- On AWS ---


@pytest.fixture
def secrets_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """AWS Secrets Manager, as moto imitates it; the environment names the secret `keys` and nothing else of a ring."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ca-central-1")
    monkeypatch.setenv("SECRETS_ID", "keys")
    for name in ("ENCRYPTION_KEY", "ENCRYPTION_KEYS"):
        monkeypatch.delenv(name, raising=False)
    with moto.mock_aws():
        yield boto3.client("secretsmanager")


async def test_a_rotated_secret_is_met_while_running_and_old_rows_still_open(
    secrets_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotate(*names: str) -> str:
        return json.dumps({"ENCRYPTION_KEYS": ",".join(f"{name}:{HEX[name]}" for name in names)})

    secrets_manager.create_secret(Name="keys", SecretString=rotate("first"))
    vault, clock = load_vault(read_environment()), Clock(time.monotonic())
    monkeypatch.setattr(vault, "_now", clock)
    rows = {"first": await vault.encrypt(PlainKey(CANARY), ALICE, "openai")}

    secrets_manager.put_secret_value(SecretId="keys", SecretString=rotate("second", "first"))
    assert (await vault.encrypt(PlainKey(CANARY), ALICE, "openai")).key_id == "first"
    clock.seconds += REFRESH_S
    rows["second"] = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")

    secrets_manager.put_secret_value(SecretId="keys", SecretString=rotate("third", "second", "first"))
    clock.seconds += COOLDOWN_S
    rows["third"] = sealed_by_hand("third", os.urandom(12), CANARY.encode())  # another instance was first
    for key_id, row in rows.items():
        assert row.key_id == key_id
        assert (await vault.decrypt(row, ALICE, "openai")).reveal() == CANARY
    assert vault.current_key_id == "third"

    secrets_manager.delete_secret(SecretId="keys", ForceDeleteWithoutRecovery=True)
    clock.seconds += REFRESH_S
    assert (await vault.encrypt(PlainKey(CANARY), ALICE, "openai")).key_id == "third"
    for row in rows.values():
        assert (await vault.decrypt(row, ALICE, "openai")).reveal() == CANARY


def test_a_secret_without_a_ring_is_named_and_not_shown(secrets_manager: Any) -> None:
    secrets_manager.create_secret(Name="keys", SecretString=json.dumps({"ENCRYPTION_KEYS": f"a:{ONE[:-1]}"}))
    with pytest.raises(SettingsError, match="ENCRYPTION_KEYS must be") as caught:
        load_vault(read_environment())
    assert ONE[:8] not in str(caught.value)


# --- Imports ---


def test_the_vault_imports_next_to_nothing_beyond_its_cipher() -> None:
    code = (
        "import json, sys\n"
        "def tops(): return {name.partition('.')[0] for name in sys.modules}\n"
        "from cryptography.hazmat.primitives.ciphers.aead import AESGCM\n"
        "before = tops()\n"
        "import functions.common.vault\n"
        "print(json.dumps([sorted(tops() - before), sorted(tops())]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    added, everything = map(set, json.loads(done.stdout))
    # binascii and struct are base64's; an interpreter may have them already.
    assert {"functions", "base64"} <= added <= {"functions", "base64", "binascii", "struct", "_struct"}
    assert everything.isdisjoint(
        {"pydantic", "boto3", "asyncio", "fastapi", "httpx", "dataclasses", "inspect", "logging", "secrets", "uuid"}
    )
