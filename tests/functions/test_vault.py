"""The vault's encryption: a row decrypts only with its own key, user and provider, and only undamaged."""

import itertools
import json
import os
import string
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from functions.common import vault as module
from functions.common.vault import DecryptionFailed, EncryptedKey, PlainKey
from infra.local.postgres import ROOT
from tests.functions.vault_kit import (
    ALICE,
    BOB,
    CANARY,
    HEX,
    PROVIDERS,
    encrypt_by_hand,
    make_vault,
    try_decrypt,
)

# Known results

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
# Case: key, nonce, plain text, associated data, ciphertext, tag.
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
def test_aes_gcm_gives_the_published_results(case: int) -> None:
    key, nonce, plain, associated_data, ciphertext, tag = map(bytes.fromhex, PUBLISHED[case])
    assert AESGCM(key).encrypt(nonce, plain, associated_data) == ciphertext + tag
    assert AESGCM(key).decrypt(nonce, ciphertext + tag, associated_data) == plain
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(nonce, ciphertext + tag, associated_data + b"\x00")


@pytest.mark.parametrize("case", [13, 14])  # the vault's plain texts are UTF-8, those of 15 and 16 are not
def test_the_vault_gives_the_published_results(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    key, nonce, plain, associated_data, ciphertext, tag = map(bytes.fromhex, PUBLISHED[case])
    vault = make_vault(f"published:{key.hex()}")
    monkeypatch.setattr(module, "_associated_data", lambda *_: associated_data)
    monkeypatch.setattr(os, "urandom", lambda _: nonce)
    encrypted = EncryptedKey("published", nonce, ciphertext, tag)
    assert vault.decrypt_without_refresh(encrypted, ALICE, "openai").reveal() == plain.decode()
    assert vault.encrypt_without_refresh(PlainKey(plain.decode()), ALICE, "openai") == encrypted


def test_a_row_of_the_first_release_can_be_decrypted() -> None:
    row = {
        "encryption_key_id": "2025-01",
        "encryption_iv": "AAECAwQFBgcICQoL",
        "encrypted_key": "NGn7equR73TrbOPj1MQeBPGl8xmCHjMZWRSA",
        "encryption_tag": "LAdpbmBmfqg0fruN4Oi87w==",
    }
    vault = make_vault(f"2025-01:{bytes(range(32)).hex()}")
    assert (
        vault.decrypt_without_refresh(EncryptedKey.from_row(row), ALICE, "anthropic").reveal()
        == "sk-ant-of-the-first-release"
    )
    assert EncryptedKey.from_row(row).to_row() == row


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 512])
def test_keys_of_any_length_are_decrypted(length: int) -> None:
    plain = (string.printable * 6)[:length]
    assert try_decrypt(make_vault(), encrypt_by_hand("first", os.urandom(12), plain.encode())) == plain
    encrypted = make_vault().encrypt_without_refresh(PlainKey(plain), ALICE, "openai")
    assert encrypt_by_hand("first", encrypted.nonce, plain.encode()) == encrypted
    assert (len(encrypted.nonce), len(encrypted.tag), len(encrypted.ciphertext)) == (12, 16, length)
    assert try_decrypt(make_vault(), encrypted) == plain


def test_any_script_and_any_case_of_the_user_id_work() -> None:
    encrypted = make_vault().encrypt_without_refresh(PlainKey("clé-ключ-🗝"), ALICE.upper(), "openai")
    assert try_decrypt(make_vault(), encrypted) == "clé-ключ-🗝"


def test_base64_with_the_line_breaks_of_postgres_is_read() -> None:
    encrypted = make_vault().encrypt_without_refresh(PlainKey("k" * 200), ALICE, "openai")
    row = encrypted.to_row()
    row["encrypted_key"] = "\n".join(row["encrypted_key"][at : at + 76] for at in range(0, 268, 76))
    assert row["encrypted_key"].count("\n") == 3
    assert EncryptedKey.from_row(row) == encrypted
    with pytest.raises(DecryptionFailed, match="there is no key"):
        EncryptedKey.from_row(None)


# Damaged rows


def with_part(encrypted: EncryptedKey, part: str, value: bytes) -> EncryptedKey:
    """The row with another ciphertext, tag or nonce."""
    return EncryptedKey(**{**encrypted._asdict(), part: value})


def flipped(value: bytes) -> Iterator[bytes]:
    """The value with each of its bits flipped, one at a time."""
    for bit in range(len(value) * 8):
        yield (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(len(value), "big")


def resized(value: bytes, lengths: tuple[int, ...]) -> Iterator[bytes]:
    """The value cut or padded to each length, at either end, with zeros or with itself."""
    for length in lengths:
        yield value[:length].ljust(length, b"\x00")
        yield value[len(value) - length if length < len(value) else 0 :].rjust(length, b"\x00")
        yield (value * 3)[:length]


@pytest.mark.parametrize("part", ["ciphertext", "tag", "nonce"])
def test_a_single_flipped_bit_prevents_decryption(part: str) -> None:
    vault = make_vault()
    encrypted = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    broken = [with_part(encrypted, part, value) for value in flipped(getattr(encrypted, part))]
    assert len(set(broken)) == 8 * {"ciphertext": len(CANARY), "tag": 16, "nonce": 12}[part]
    assert [row for row in broken if try_decrypt(vault, row) is not None] == []
    assert try_decrypt(vault, encrypted) == CANARY


LENGTHS = {
    "ciphertext": (0, 1, 15, 16, len(CANARY) - 1, len(CANARY) + 1, len(CANARY) + 16),
    "tag": (0, 4, 8, 12, 15, 17, 32),
    "nonce": (0, 1, 7, 8, 11, 13, 16, 24),
}


@pytest.mark.parametrize("part", LENGTHS)
def test_a_shorter_or_longer_part_prevents_decryption(part: str) -> None:
    vault = make_vault()
    encrypted = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    for value in resized(getattr(encrypted, part), LENGTHS[part]):
        with pytest.raises(DecryptionFailed):
            vault.decrypt_without_refresh(with_part(encrypted, part, value), ALICE, "openai")


def test_moving_bytes_between_ciphertext_and_tag_prevents_decryption() -> None:
    vault = make_vault()
    encrypted = vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    both = encrypted.ciphertext + encrypted.tag
    parts = [encrypted._replace(ciphertext=both[:cut], tag=both[cut:]) for cut in range(len(both) + 1)]
    assert [row for row in parts if try_decrypt(vault, row) is not None] == [encrypted]


@pytest.mark.parametrize("length", [8, 11, 13, 16, 128])
def test_a_genuine_nonce_of_another_length_is_refused(length: int) -> None:
    encrypted = encrypt_by_hand("first", os.urandom(length), CANARY.encode())
    assert try_decrypt(make_vault(), encrypted) is None


def test_empty_invented_or_swapped_parts_prevent_decryption() -> None:
    vault = make_vault()
    encrypted = vault.encrypt_without_refresh(PlainKey(CANARY[:16]), ALICE, "openai")
    assert len(encrypted.ciphertext) == len(encrypted.tag)  # so that the length does not reveal the swap
    for broken in (
        encrypted._replace(ciphertext=b""),
        encrypted._replace(ciphertext=b"", tag=b""),
        encrypted._replace(tag=bytes(16)),
        encrypted._replace(tag=b"\xff" * 16),
        encrypted._replace(ciphertext=bytes(16), tag=bytes(16)),
        encrypted._replace(ciphertext=encrypted.tag, tag=encrypted.ciphertext),
        encrypted._replace(ciphertext=CANARY[:16].encode()),
        encrypted._replace(nonce=bytes(12)),
    ):
        with pytest.raises(DecryptionFailed):
            vault.decrypt_without_refresh(broken, ALICE, "openai")


# Swapped parts


@pytest.mark.parametrize("same_key", [False, True], ids=["two keys", "one key under two ids"])
@pytest.mark.parametrize("same_nonce", [False, True], ids=["random nonces", "one nonce"])
def test_only_genuine_combinations_of_parts_are_decrypted(
    same_key: bool, same_nonce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if same_nonce:  # never happens; then only the associated data distinguishes rows
        monkeypatch.setattr(os, "urandom", bytes)
    digits = {"first": HEX["first"], "second": HEX["first" if same_key else "second"]}
    owners = [(user, provider) for user in (ALICE, BOB) for provider in PROVIDERS]
    genuine: dict[tuple[EncryptedKey, str, str], str] = {}
    for newest, other in (("first", "second"), ("second", "first")):
        vault = make_vault(f"{newest}:{digits[newest]},{other}:{digits[other]}")
        for number, (user, provider) in enumerate(owners):
            plain = f"sk-{newest:_>8}-{number}"
            genuine[vault.encrypt_without_refresh(PlainKey(plain), user, provider), user, provider] = plain
    assert len(genuine) == 8
    rows = [row for row, _, _ in genuine]
    recombined = {EncryptedKey(*parts) for parts in itertools.product(*(set(part) for part in zip(*rows, strict=True)))}
    assert len(recombined) == 2 * (1 if same_nonce else 8) * 8 * 8

    decrypted = {}
    for row, (user, provider) in itertools.product(recombined, owners):
        if (plain_text := try_decrypt(vault, row, user, provider)) is not None:
            decrypted[row, user, provider] = plain_text
    assert decrypted == genuine


def test_decryption_needs_the_same_key_under_the_same_id() -> None:
    encrypted = make_vault().encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")
    assert try_decrypt(make_vault(f"second:{HEX['second']}"), encrypted) is None
    assert try_decrypt(make_vault(f"first:{HEX['second']}"), encrypted) is None
    assert try_decrypt(make_vault(f"third:{HEX['third']},first:{HEX['first']}"), encrypted) == CANARY


# Nonces


def test_encrypting_twice_gives_different_nonces_and_ciphertexts() -> None:
    vault = make_vault()
    one, other = (vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai") for _ in range(2))
    assert one.nonce != other.nonce
    assert one.ciphertext != other.ciphertext
    assert one.tag != other.tag


def test_ten_thousand_encryptions_use_ten_thousand_nonces() -> None:
    vault, plain = make_vault(), PlainKey(CANARY)
    rows = [vault.encrypt_without_refresh(plain, ALICE, "openai") for _ in range(10_000)]
    assert len({row.nonce for row in rows}) == 10_000
    assert len({row.ciphertext for row in rows}) == 10_000


# Imports


def test_the_vault_imports_little_beyond_its_cipher() -> None:
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
    # base64 imports binascii and struct, if the interpreter has not imported them already.
    assert {"functions", "base64"} <= added <= {"functions", "base64", "binascii", "struct", "_struct", "gc"}
    assert everything.isdisjoint(
        {"pydantic", "boto3", "asyncio", "fastapi", "httpx", "dataclasses", "inspect", "logging", "secrets", "uuid"}
    )
