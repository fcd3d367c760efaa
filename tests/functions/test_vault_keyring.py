"""The vault's keyring: how it is parsed, when it is reloaded, and AWS Secrets Manager as its source."""

import asyncio
import itertools
import json
import os
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest

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
from tests.functions.conftest import SecretsExtension
from tests.functions.vault_kit import (
    ALICE,
    BOTH,
    CANARY,
    HEX,
    Clock,
    Source,
    encrypt_by_hand,
    make_vault,
    try_decrypt,
)

# Parsing


def test_the_first_key_encrypts_and_all_keys_decrypt() -> None:
    keys = [f"{name}:{digits}" for name, digits in HEX.items()]
    for order in itertools.permutations(keys):
        keyring = parse_keyring({"ENCRYPTION_KEYS": ",".join(order)})
        assert [f"{key_id}:{key.hex()}" for key_id, key in keyring.items()] == list(order)
        vault = make_vault(",".join(order))
        newest = order[0].partition(":")[0]
        assert vault.current_key_id == vault.encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai").key_id == newest
        assert all(try_decrypt(vault, encrypt_by_hand(name, os.urandom(12), b"sk-each")) == "sk-each" for name in HEX)


@pytest.mark.parametrize(
    ("environment", "ids"),
    [
        ({"ENCRYPTION_KEY": HEX["first"]}, ["1"]),
        ({"ENCRYPTION_KEY": f" {HEX['first'].upper()}\n", "ENCRYPTION_KEYS": ""}, ["1"]),
        ({"ENCRYPTION_KEYS": BOTH, "ENCRYPTION_KEY": HEX["third"]}, ["first", "second", "1"]),
        ({"ENCRYPTION_KEYS": f"2:{HEX['second']},1:{HEX['first']}", "ENCRYPTION_KEY": HEX["first"]}, ["2", "1"]),
        ({"ENCRYPTION_KEYS": f"\n 2025-01:{HEX['second']} ,\n 2:{HEX['first'].upper()},\n"}, ["2025-01", "2"]),
        ({"ENCRYPTION_KEYS": f"{'a' * 32}:{HEX['first']}"}, ["a" * 32]),
    ],
)
def test_the_keyring_is_read_from_either_variable_or_both(environment: dict[str, str], ids: list[str]) -> None:
    keyring = parse_keyring(environment)
    assert list(keyring) == ids
    assert {len(key) for key in keyring.values()} == {32}
    assert bytes.fromhex(HEX["first"]) in keyring.values()
    assert load_vault(environment).current_key_id == ids[0]


ONE = HEX["first"]
MALFORMED: dict[str, dict[str, str]] = {
    "a digit short": {"ENCRYPTION_KEYS": f"a:{ONE[:-1]}"},
    "a byte short": {"ENCRYPTION_KEYS": f"a:{ONE[:-2]}"},
    "a digit long": {"ENCRYPTION_KEYS": f"a:{ONE}0"},
    "128 bits": {"ENCRYPTION_KEYS": f"a:{ONE[:32]}"},
    "512 bits": {"ENCRYPTION_KEYS": f"a:{ONE}{ONE}"},
    "not hex": {"ENCRYPTION_KEYS": f"a:{ONE[:-1]}g"},
    "digits of another script": {"ENCRYPTION_KEYS": f"a:{ONE[:-1]}٣"},
    "a prefix": {"ENCRYPTION_KEYS": f"a:0x{ONE[2:]}"},
    "base64": {"ENCRYPTION_KEYS": f"a:{b64encode(bytes.fromhex(ONE)).decode()}"},
    "no id": {"ENCRYPTION_KEYS": ONE},
    "an empty id": {"ENCRYPTION_KEYS": f":{ONE}"},
    "no key": {"ENCRYPTION_KEYS": "a:"},
    "an id alone": {"ENCRYPTION_KEYS": "a"},
    "two keys for one id": {"ENCRYPTION_KEYS": f"a:{ONE}:{ONE}"},
    "another separator": {"ENCRYPTION_KEYS": f"a:{ONE};b:{ONE}"},
    "the second is malformed": {"ENCRYPTION_KEYS": f"{BOTH},c:{ONE[:-2]}"},
    "an id with an underscore": {"ENCRYPTION_KEYS": f"a_b:{ONE}"},
    "an id with a space": {"ENCRYPTION_KEYS": f"a b:{ONE}"},
    "an id that ends in a space": {"ENCRYPTION_KEYS": f"a :{ONE}"},
    "an id with a zero byte": {"ENCRYPTION_KEYS": f"a\x00b:{ONE}"},
    "an id with an accent": {"ENCRYPTION_KEYS": f"é:{ONE}"},
    "an id of one dash": {"ENCRYPTION_KEYS": f"-:{ONE}"},
    "an id too long": {"ENCRYPTION_KEYS": f"{'a' * 33}:{ONE}"},
    "an id twice": {"ENCRYPTION_KEYS": f"a:{ONE},a:{HEX['second']}"},
    "an id twice with one key": {"ENCRYPTION_KEYS": f"a:{ONE},a:{ONE}"},
    "two keys with the id 1": {"ENCRYPTION_KEYS": f"1:{HEX['second']}", "ENCRYPTION_KEY": ONE},
    "ENCRYPTION_KEY a digit short": {"ENCRYPTION_KEY": ONE[:-1]},
    "ENCRYPTION_KEY not hex": {"ENCRYPTION_KEY": f"{ONE[:-1]}x"},
    "ENCRYPTION_KEY with an id": {"ENCRYPTION_KEY": f"1:{ONE}"},
    "ENCRYPTION_KEY malformed beside ENCRYPTION_KEYS": {"ENCRYPTION_KEYS": BOTH, "ENCRYPTION_KEY": ONE[:-2]},
    "nothing": {},
    "empty": {"ENCRYPTION_KEYS": "", "ENCRYPTION_KEY": ""},
    "commas": {"ENCRYPTION_KEYS": " , ,", "ENCRYPTION_KEY": "  "},
    "256 bits and blanks": {"ENCRYPTION_KEYS": f"a:{ONE[:32]} {ONE[32:]}"},
    # 64 characters that bytes.fromhex accepts, but fewer than 32 bytes.
    "192 bits and blanks": {"ENCRYPTION_KEYS": f"a:{' ' * 16}{ONE[:48]}"},
    "128 bits and blanks": {"ENCRYPTION_KEYS": f"a:{ONE[:16]}{' ' * 32}{ONE[:16]}"},
    "184 bits and blanks": {"ENCRYPTION_KEYS": f"a:{' ' * 18}{ONE[:46]}"},
    "ENCRYPTION_KEY 128 bits and tabs": {"ENCRYPTION_KEY": ONE[:16] + "\t" * 32 + ONE[:16]},
    "ENCRYPTION_KEY 184 bits and line breaks": {"ENCRYPTION_KEY": ONE[:2] + "\n" * 18 + ONE[:44]},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_keyring_is_refused_without_showing_digits(case: str) -> None:
    values = MALFORMED[case]
    with pytest.raises(KeyringError) as caught:
        parse_keyring(values)
    with pytest.raises(SettingsError) as settings_error:
        load_vault(values)
    assert str(settings_error.value) == str(caught.value)
    assert settings_error.value.__cause__ is None
    assert settings_error.value.__suppress_context__
    assert str(caught.value).startswith("ENCRYPTION_KEY")
    shown = "".join(traceback.format_exception(caught.value) + traceback.format_exception(settings_error.value)).lower()
    # No eight digits in sequence: fewer could be a word or a line number.
    for value in values.values():
        for digits in (*HEX.values(), value.lower()):
            pieces = {digits[at : at + 8] for at in range(len(digits) - 7) if digits[at : at + 8].strip()}
            assert not any(piece in shown for piece in pieces)


# Reloading


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source(f"first:{HEX['first']}")


@pytest.fixture
def vault(source: Source, clock: Clock) -> Vault:
    """A vault with the key `first`, which reloads from `source`."""
    return Vault({"ENCRYPTION_KEYS": source.keys}, source, clock)


def newer_row() -> EncryptedKey:
    """A row that another process encrypted with a newer key."""
    return make_vault(f"second:{HEX['second']}").encrypt_without_refresh(PlainKey(CANARY), ALICE, "openai")


async def test_an_unknown_key_id_reloads_the_keyring(vault: Vault, source: Source, clock: Clock) -> None:
    source.keys = BOTH
    assert (await vault.decrypt(newer_row(), ALICE, "openai")).reveal() == CANARY
    assert source.reads == 1
    clock.seconds += REFRESH_S  # a key in the keyring is used, however old the keyring is
    assert (await vault.decrypt(newer_row(), ALICE, "openai")).reveal() == CANARY
    assert source.reads == 1


async def test_an_unknown_key_id_reloads_at_most_once_per_cooldown(vault: Vault, source: Source, clock: Clock) -> None:
    for reads in (1, 2, 3):
        for _ in range(20):  # all within one cooldown
            with pytest.raises(DecryptionFailed, match="the keyring has no such key"):
                await vault.decrypt(newer_row(), ALICE, "openai")
            clock.seconds += COOLDOWN_S / 20
        assert source.reads == reads


async def test_a_missing_key_id_does_not_delay_another_one(vault: Vault, source: Source) -> None:
    with pytest.raises(DecryptionFailed, match="the keyring has no such key"):
        await vault.decrypt(newer_row()._replace(key_id="never"), ALICE, "openai")
    source.keys = BOTH
    assert (await vault.decrypt(newer_row(), ALICE, "openai")).reveal() == CANARY
    assert source.reads == 2


async def test_refresh_always_reloads_the_keyring(vault: Vault, source: Source) -> None:
    source.keys = f"second:{HEX['second']},first:{HEX['first']}"
    await vault.refresh()
    assert (vault.current_key_id, source.reads) == ("second", 1)
    await vault.refresh()
    assert source.reads == 2


async def test_encryption_reloads_the_keyring_only_when_it_is_old(vault: Vault, source: Source, clock: Clock) -> None:
    old = await vault.encrypt(PlainKey("sk-old"), ALICE, "openai")
    source.keys = f"second:{HEX['second']},first:{HEX['first']}"
    clock.seconds += REFRESH_S - 1
    assert (await vault.encrypt(PlainKey(CANARY), ALICE, "openai")).key_id == "first"
    assert source.reads == 0
    clock.seconds += 1
    new = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert (new.key_id, vault.current_key_id, source.reads) == ("second", "second", 1)
    assert try_decrypt(vault, new) == CANARY
    assert try_decrypt(vault, old) == "sk-old"
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
        (RuntimeError("anything else"), BOTH),
        (None, ""),
        (None, "first:malformed"),
        (None, f"a:{' ' * 18}{ONE[:46]}"),
    ],
    ids=["settings", "network", "anything else", "no keyring", "malformed", "184 bits"],
)
async def test_a_failed_reload_keeps_the_present_keyring(
    vault: Vault, source: Source, clock: Clock, failure: Exception | None, keys: str
) -> None:
    before = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    source.failure, source.keys = failure, keys
    clock.seconds += REFRESH_S
    after = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert (after.key_id, source.reads) == ("first", 1)
    clock.seconds += COOLDOWN_S - 1
    await vault.encrypt(PlainKey(CANARY), ALICE, "openai")  # no reload within the cooldown
    assert source.reads == 1
    clock.seconds += 1
    await vault.encrypt(PlainKey(CANARY), ALICE, "openai")
    assert source.reads == 2
    for _ in range(2):
        with pytest.raises(DecryptionFailed):
            await vault.decrypt(newer_row(), ALICE, "openai")
    assert source.reads == 3
    assert try_decrypt(vault, before) == try_decrypt(vault, after) == CANARY
    assert vault.current_key_id == "first"

    source.failure, source.keys = None, BOTH  # it recovers automatically
    clock.seconds += COOLDOWN_S
    assert (await vault.decrypt(newer_row(), ALICE, "openai")).reveal() == CANARY


class BlockedSource(Source):
    """A source that returns after `release` is set. `started` is set when a reload starts."""

    def __init__(self, keys: str) -> None:
        super().__init__(keys)
        self.started, self.release = threading.Event(), threading.Event()

    def __call__(self) -> Mapping[str, str]:
        self.started.set()
        assert self.release.wait(10)
        return super().__call__()


@pytest.fixture
def blocked() -> BlockedSource:
    return BlockedSource(BOTH)


@pytest.fixture
def slow_vault(blocked: BlockedSource, clock: Clock) -> Vault:
    """A vault with the key `first`, which reloads from `blocked`."""
    return Vault({"ENCRYPTION_KEYS": f"first:{HEX['first']}"}, blocked, clock)


async def test_known_keys_are_decrypted_during_a_reload(blocked: BlockedSource, slow_vault: Vault) -> None:
    known = slow_vault.encrypt_without_refresh(PlainKey("sk-known"), ALICE, "openai")
    waiting = asyncio.create_task(slow_vault.decrypt(newer_row(), ALICE, "openai"))
    assert await asyncio.to_thread(blocked.started.wait, 10)
    decrypted = await asyncio.gather(*(slow_vault.decrypt(known, ALICE, "openai") for _ in range(50)))
    assert [key.reveal() for key in decrypted] == ["sk-known"] * 50
    assert not waiting.done()
    blocked.release.set()
    assert (await waiting).reveal() == CANARY


async def run_during_reload(blocked: BlockedSource, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of calls that all start before the reload ends."""
    tasks = [asyncio.create_task(one) for one in calls]
    assert await asyncio.to_thread(blocked.started.wait, 10)
    blocked.release.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_concurrent_rows_of_a_new_key_cause_one_reload(blocked: BlockedSource, slow_vault: Vault) -> None:
    results = await run_during_reload(blocked, *(slow_vault.decrypt(newer_row(), ALICE, "openai") for _ in range(20)))
    assert [key.reveal() if isinstance(key, PlainKey) else key for key in results] == [CANARY] * 20
    assert blocked.reads == 1


async def test_concurrent_rows_of_a_missing_key_cause_one_reload(blocked: BlockedSource, slow_vault: Vault) -> None:
    row = newer_row()._replace(key_id="never")
    results = await run_during_reload(blocked, *(slow_vault.decrypt(row, ALICE, "openai") for _ in range(20)))
    assert [type(result) for result in results] == [DecryptionFailed] * 20
    assert blocked.reads == 1


async def test_concurrent_encryptions_cause_one_reload_and_use_the_new_key(
    blocked: BlockedSource, slow_vault: Vault, clock: Clock
) -> None:
    blocked.keys = f"second:{HEX['second']},first:{HEX['first']}"
    clock.seconds += REFRESH_S
    results = await run_during_reload(
        blocked, *(slow_vault.encrypt(PlainKey(CANARY), ALICE, "openai") for _ in range(20))
    )
    assert [row.key_id for row in results] == ["second"] * 20
    assert blocked.reads == 1


async def test_a_cancelled_caller_does_not_stop_the_reload(blocked: BlockedSource, slow_vault: Vault) -> None:
    first = asyncio.create_task(slow_vault.decrypt(newer_row(), ALICE, "openai"))
    assert await asyncio.to_thread(blocked.started.wait, 10)
    second = asyncio.create_task(slow_vault.decrypt(newer_row(), ALICE, "openai"))
    first.cancel()
    blocked.release.set()
    assert (await second).reveal() == CANARY
    with pytest.raises(asyncio.CancelledError):
        await first


# AWS Secrets Manager


@pytest.fixture
def keys_from_secret(secrets_extension: SecretsExtension, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The secrets by name. The environment names the secret `keys` and has no keyring."""
    monkeypatch.setenv("SECRETS_ID", "keys")
    for name in ("ENCRYPTION_KEY", "ENCRYPTION_KEYS"):
        monkeypatch.delenv(name, raising=False)
    return secrets_extension.secrets


async def test_a_rotated_secret_is_used_without_a_restart(
    keys_from_secret: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotate(*names: str) -> str:
        return json.dumps({"ENCRYPTION_KEYS": ",".join(f"{name}:{HEX[name]}" for name in names)})

    keys_from_secret["keys"] = rotate("first")
    vault, clock = load_vault(read_environment()), Clock(time.monotonic())
    monkeypatch.setattr(vault, "_now", clock)
    rows = {"first": await vault.encrypt(PlainKey(CANARY), ALICE, "openai")}

    keys_from_secret["keys"] = rotate("second", "first")
    assert (await vault.encrypt(PlainKey(CANARY), ALICE, "openai")).key_id == "first"
    clock.seconds += REFRESH_S
    rows["second"] = await vault.encrypt(PlainKey(CANARY), ALICE, "openai")

    keys_from_secret["keys"] = rotate("third", "second", "first")
    clock.seconds += COOLDOWN_S
    rows["third"] = encrypt_by_hand("third", os.urandom(12), CANARY.encode())  # encrypted by another instance
    for key_id, row in rows.items():
        assert row.key_id == key_id
        assert (await vault.decrypt(row, ALICE, "openai")).reveal() == CANARY
    assert vault.current_key_id == "third"

    del keys_from_secret["keys"]
    clock.seconds += REFRESH_S
    assert (await vault.encrypt(PlainKey(CANARY), ALICE, "openai")).key_id == "third"
    for row in rows.values():
        assert (await vault.decrypt(row, ALICE, "openai")).reveal() == CANARY


def test_a_secret_with_a_malformed_keyring_is_not_shown(keys_from_secret: dict[str, str]) -> None:
    keys_from_secret["keys"] = json.dumps({"ENCRYPTION_KEYS": f"a:{ONE[:-1]}"})
    with pytest.raises(SettingsError, match="ENCRYPTION_KEYS must be") as caught:
        load_vault(read_environment())
    assert ONE[:8] not in str(caught.value)
