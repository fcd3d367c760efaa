"""rotate-keys: every stored key comes under the newest key of the ring while its owner goes on chatting, and wherever
the job is killed none is lost. The job is the command itself, against a stack whose functions have both keys."""

import asyncio
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import threading
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from functions.common.database import Database
from functions.common.settings import SupabaseSettings, load
from functions.common.vault import DecryptionFailed, EncryptedKey, PlainKey, Vault
from functions.maintenance.handler import handler
from functions.maintenance.rotate_keys import MAX_REPORTED_IDS, rotate_keys
from infra.local.postgres import ROOT
from infra.local.stack import Config, Stack, free_offset, running
from tests.api import Api, question
from tests.conftest import Person
from tests.sql.metering import Db, value

FULL = bool(os.environ.get("PROVE"))
KEYS = 100_000 if FULL else 2_000
STEP = 500 if FULL else 20  # rows a batch where the job is to be killed: a hundred places and more
CLIENTS = 8
KILLS = 6
OUTAGES = 4
PROVIDERS = ("anthropic", "openai")

RING = {key_id: secrets.token_hex(32) for key_id in ("new", "old", "lost")}
PLAIN = f"sk-{secrets.token_hex(6)}-"  # how every plain text here begins
SECRETS = [PLAIN, *RING.values(), *(b64encode(bytes.fromhex(key)).decode() for key in RING.values())]

Plains = dict[str, str]  # by the row's id
People = Callable[..., Person]


def ring(*key_ids: str) -> str:
    """ENCRYPTION_KEYS, the one that seals first."""
    return ",".join(f"{key_id}:{RING[key_id]}" for key_id in key_ids)


def vault(*key_ids: str) -> Vault:
    """A vault of these keys."""
    known = {"ENCRYPTION_KEYS": ring(*key_ids)}
    return Vault(known, lambda: known)


# The stack, and what is stored in it ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, whose functions seal with the new key and open with both."""
    environ = {"ENCRYPTION_KEYS": ring("new", "old")}
    config = Config(tmp_path_factory.mktemp("stack"), offset=free_offset(), durable=False, environ=environ)
    with running(config) as stack:
        yield stack


@contextmanager
def connected(stack: Stack) -> Iterator[Db]:
    """A connection as `postgres`; one a look, because the database goes away in between."""
    with psycopg.connect(stack.postgres.url(), autocommit=True, row_factory=dict_row) as db:
        yield db


@pytest.fixture(scope="module")
def owners(stack: Stack) -> list[str]:
    """Enough users for KEYS keys."""
    with connected(stack) as db:
        users = [str(uuid.uuid4()) for _ in range(KEYS // len(PROVIDERS))]
        db.execute(
            "insert into auth.users (id, email) select id, id || '@example.test' from unnest(%s::uuid[]) id", (users,)
        )
        db.execute("update public.user_subscriptions set tier = 'basic' where user_id = any(%s::uuid[])", (users,))
    return users


def store(stack: Stack, user_ids: Sequence[str], sealing: Vault | None = None, ids: Sequence[str] = ()) -> Plains:
    """Nothing but two keys for each of these users, sealed with the old key if not otherwise, in random order or under
    these ids. Every third was refused by its provider, every fourth never checked. Returns the plain texts."""
    sealing = sealing or vault("old")
    plains: Plains = {}
    began = datetime(2025, 1, 1, tzinfo=UTC)
    with connected(stack) as db:
        db.execute("truncate public.user_api_keys")
        with (
            db.transaction(),
            db.cursor() as cursor,
            cursor.copy(
                "copy public.user_api_keys (id, created_at, user_id, provider, hint, is_active, last_validated_at,"
                " validation_error, encrypted_key, encryption_iv, encryption_tag, encryption_key_id) from stdin"
            ) as rows,
        ):
            for number, (user_id, provider) in enumerate((user, name) for user in user_ids for name in PROVIDERS):
                key_id = ids[number] if ids else str(uuid.uuid4())
                plain = PlainKey(plains.setdefault(key_id, PLAIN + secrets.token_hex(random.choice([8, 24, 120]))))  # noqa: S311
                seal = sealing.encrypt_without_refresh(plain, user_id, provider)
                created_at = began + timedelta(seconds=number)
                refused = number % 3 == 2
                checked_at, error = created_at if number % 4 else None, "No." if refused else None
                about = (key_id, created_at, user_id, provider, plain.hint, not refused, checked_at, error)
                rows.write_row((*about, seal.ciphertext, seal.nonce, seal.tag, seal.key_id))
    return plains


def rows_of(db: Db) -> dict[str, dict[str, Any]]:
    """Every stored row, by its id."""
    return {str(row["id"]): row for row in db.execute("select * from public.user_api_keys").fetchall()}


def stored(stack: Stack) -> dict[str, dict[str, Any]]:
    """Every stored row, by its id."""
    with connected(stack) as db:
        return rows_of(db)


def plain_of(row: Mapping[str, Any], opening: Vault) -> str | None:
    """What a row's seal opens to; None where it does not."""
    seal = EncryptedKey(row["encryption_key_id"], row["encryption_iv"], row["encrypted_key"], row["encryption_tag"])
    try:
        return opening.decrypt_without_refresh(seal, str(row["user_id"]), row["provider"]).reveal()
    except DecryptionFailed:
        return None


def untouched(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a rotation has no business with."""
    of_the_seal = ("updated_at", "encrypted_key", "encryption_iv", "encryption_tag", "encryption_key_id")
    return {name: value for name, value in row.items() if name not in of_the_seal}


def broken(before: Mapping[str, Any], after: Mapping[str, Any], plains: Plains, *key_ids: str) -> list[str]:
    """Rows that were lost, appeared, changed in anything but their seal, or do not open with these keys."""
    opening = vault(*key_ids)
    kept = before.keys() & after.keys() & plains.keys()
    wrong = (before.keys() | after.keys() | plains.keys()) - kept
    for key_id in kept:
        row = after[key_id]
        if untouched(row) != untouched(before[key_id]) or plain_of(row, opening) != plains[key_id]:
            wrong.add(key_id)
    return sorted(wrong)


def sealed_with(rows: Mapping[str, Mapping[str, Any]], key_id: str) -> set[str]:
    """Of these rows, those that this key of the ring sealed."""
    return {row_id for row_id, row in rows.items() if row["encryption_key_id"] == key_id}


# The job ----------------------------------------------------------------------------------------------------------


def environment(stack: Stack, **changes: str) -> dict[str, str]:
    """What an operator gives the job; an empty variable counts as missing."""
    return {
        "PATH": os.environ["PATH"],
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["anon_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"],
        "ENCRYPTION_KEYS": ring("new", "old"),
        **changes,
    }


class Job:
    """A running job, and what it says."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *argv], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.stdout = self.stderr = ""

    def progress(self) -> int:
        """Waits for the next line; returns how many keys it says are done."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        self.stderr += line
        told = re.fullmatch(r"rotate-keys: ([\d,]+) keys encrypted with new\n", line)
        assert told, self.stderr
        return int(told[1].replace(",", ""))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        assert self.end() == -signal.SIGKILL, "it was over before it was killed"

    def end(self) -> int:
        """Waits for its end; returns the exit status. Whatever it said holds no secret."""
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.stderr += self.process.stderr.read()
        self.stdout += self.process.stdout.read()
        status = self.process.wait()
        self.close()
        assert not [secret for secret in SECRETS if secret in self.stdout + self.stderr]
        return status

    def close(self) -> None:
        """Ends it, if it has not ended."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    @property
    def counts(self) -> dict[str, Any]:
        """The JSON that it printed at its end."""
        counts: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return counts


Start = Callable[..., Job]


@pytest.fixture
def start(stack: Stack) -> Iterator[Start]:
    """Starts the job: `start(ENCRYPTION_KEYS="")` with another environment, `start(BATCH=20)` with another constant."""
    jobs: list[Job] = []

    def start(*arguments: str, **changes: Any) -> Job:
        constants = {name: changes.pop(name) for name in ("BATCH", "BATCH_S") if name in changes}
        argv = ["-m", "functions.maintenance", *(arguments or ["rotate-keys"])]
        if constants:
            lines = ["import sys", "from functions.maintenance import __main__, rotate_keys"]
            lines += [f"rotate_keys.{name} = {constant}" for name, constant in constants.items()]
            argv = ["-c", "\n".join([*lines, "sys.exit(__main__.main(['rotate-keys']))"])]
        jobs.append(Job(argv, environment(stack, **changes)))
        return jobs[-1]

    yield start
    for job in jobs:
        job.close()


# Promises ---------------------------------------------------------------------------------------------------------


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 120)
def test_every_key_comes_under_the_new_one_while_people_chat_on_theirs(
    stack: Stack,
    api: Api,
    person: People,
    owners: list[str],
    start: Start,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    people = [person("basic") for _ in range(CLIENTS)]
    plains = store(stack, [*owners[CLIENTS:], *(user.id for user in people)])
    with connected(stack) as db:
        for user in people:  # a chat notes of a key that was never checked that it is good
            db.execute(
                "update public.user_api_keys set is_active = true, validation_error = null,"
                " last_validated_at = created_at where user_id = %s",
                (user.id,),
            )
    before = stored(stack)
    everybody_chats, over = threading.Barrier(CLIENTS + 1), threading.Event()

    def chat(user: Person, provider: str) -> bool:
        answer = api.chat(user, question(f"Briefly {user.id} [fault:long 3]", provider=provider))
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"]["funding"] == "byok"
        return True

    def live(user: Person) -> int:
        """Once on the old key, again and again while the job runs, and once after it. How often meanwhile."""
        try:
            assert all(chat(user, provider) for provider in PROVIDERS)
            everybody_chats.wait(60)
        except BaseException:
            everybody_chats.abort()
            raise
        meanwhile = 0
        while not over.is_set():
            meanwhile += chat(user, PROVIDERS[meanwhile % 2])
        assert all(chat(user, provider) for provider in PROVIDERS)
        return meanwhile

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(live, user) for user in people]
        try:
            everybody_chats.wait(60)
            began = datetime.now(UTC)
            job = start()
            status = job.end()
            seconds = (datetime.now(UTC) - began).total_seconds()
        finally:
            over.set()
        chats = [client.result() for client in clients]

    assert status == 0, job.stderr
    assert job.counts == {"rotated": KEYS, "left": 0, "unreadable": 0, "unreadable_ids": []}
    told = [int(line.split()[1].replace(",", "")) for line in job.stderr.splitlines()[:-1]]
    assert told == sorted(told)
    assert (told[-1], len(told) >= KEYS / 500) == (KEYS, True)
    after = stored(stack)
    assert sealed_with(after, "new") == before.keys()
    assert broken(before, after, plains, "new") == []
    assert all(chats), "everybody chatted while the job ran"
    hints = {(row["user_id"], row["provider"]): row["hint"] for row in after.values()}
    for user in people:
        asked = api.asked(user.id)
        assert asked
        assert all(entry["api_key_last4"] == hints[uuid.UUID(user.id), entry["provider"]][-4:] for entry in asked)
    measured = f"{KEYS:,} keys in {seconds:.1f} s, {KEYS / seconds:,.0f} a second, {sum(chats)} chats meanwhile"
    record_testsuite_property("rotate-keys", measured)


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 120)
def test_killed_in_the_middle_and_started_again_it_goes_on_with_what_is_left(
    stack: Stack, owners: list[str], start: Start
) -> None:
    plains = store(stack, owners)
    before = stored(stack)
    first = start(BATCH=STEP)
    done = first.progress()
    first.kill()
    middle = stored(stack)
    assert broken(before, middle, plains, "old", "new") == []
    assert done <= len(sealed_with(middle, "new")) < KEYS
    second = start()
    assert second.end() == 0, second.stderr
    left = len(sealed_with(middle, "old"))
    # What was on its way when it was killed may have been carried out since.
    assert left - STEP <= second.counts["rotated"] <= left
    assert (second.counts["unreadable"], second.counts["unreadable_ids"]) == (0, [])
    after = stored(stack)
    assert sealed_with(after, "new") == before.keys()
    assert broken(before, after, plains, "new") == []
    # What the first had done was not done again.
    assert all(after[row_id] == middle[row_id] for row_id in sealed_with(middle, "new"))


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 120)
def test_killed_again_and_again_it_loses_nothing_and_gets_to_the_end(
    stack: Stack, owners: list[str], start: Start
) -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    chance = random.Random(seed)  # noqa: S311 -- to be repeated
    replay = f"replay: SEED={seed} make test ONLY='tests/functions/test_rotate_keys.py -k again_and_again'"
    plains = store(stack, owners)
    before = stored(stack)
    earlier = 0
    for _ in range(KILLS):
        job = start(BATCH=STEP)
        for _ in range(chance.randrange(1, 12)):
            done = job.progress()
        job.kill()
        rows = stored(stack)
        assert broken(before, rows, plains, "old", "new") == [], replay
        assert earlier + done <= len(sealed_with(rows, "new")) < KEYS, replay
        earlier = len(sealed_with(rows, "new"))
    last = start()
    assert last.end() == 0, last.stderr
    after = stored(stack)
    assert sealed_with(after, "new") == before.keys(), replay
    assert broken(before, after, plains, "new") == [], replay


def test_a_key_that_does_not_open_is_told_by_its_id_and_left_byte_for_byte(
    stack: Stack, owners: list[str], start: Start
) -> None:
    plains = store(stack, owners[:10])
    tag, key, nonce, moved, lost, relabelled = sorted(plains)[::3][:6]
    with connected(stack) as db:
        for row_id, column in ((tag, "encryption_tag"), (key, "encrypted_key"), (nonce, "encryption_iv")):
            db.execute(
                f"update public.user_api_keys set {column} = set_byte({column}, 3, get_byte({column}, 3) # 1)"
                " where id = %s",
                (row_id,),
            )
        db.execute("update public.user_api_keys set encryption_key_id = '2019' where id = %s", (relabelled,))
        for row_id, sealing, user_id in ((moved, vault("old"), owners[10]), (lost, vault("lost"), None)):
            row = rows_of(db)[row_id]
            seal = sealing.encrypt_without_refresh(
                PlainKey(plains[row_id]), user_id or str(row["user_id"]), row["provider"]
            )
            db.execute(
                "update public.user_api_keys set encrypted_key = %s, encryption_iv = %s, encryption_tag = %s,"
                " encryption_key_id = %s where id = %s",
                (seal.ciphertext, seal.nonce, seal.tag, seal.key_id, row_id),
            )
    unreadable = {tag, key, nonce, moved, lost, relabelled}
    before = stored(stack)
    for rotated in (20 - len(unreadable), 0):
        job = start()
        assert job.end() == 0, job.stderr
        counts = job.counts
        assert (counts["rotated"], counts["unreadable"]) == (rotated, len(unreadable))
        assert sorted(counts["unreadable_ids"]) == sorted(unreadable)
        after = stored(stack)
        assert {row_id: after[row_id] for row_id in unreadable} == {row_id: before[row_id] for row_id in unreadable}
        assert sealed_with(after, "new") == before.keys() - unreadable
        assert broken(before, after, plains, "new") == sorted(unreadable)


def test_more_keys_that_do_not_open_than_a_batch_holds_keep_no_other_from_its_turn(
    stack: Stack, owners: list[str], start: Start
) -> None:
    first = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(600)]
    store(stack, owners[:300], vault("lost"), first)
    others = [str(uuid.uuid4()) for _ in range(100)]
    with connected(stack) as db:
        for number, row_id in enumerate(others):
            user_id, provider = owners[300 + number // 2], PROVIDERS[number % 2]
            seal = vault("old").encrypt_without_refresh(PlainKey(PLAIN + row_id), user_id, provider)
            db.execute(
                "insert into public.user_api_keys (id, user_id, provider, encrypted_key, encryption_iv, encryption_tag,"
                " encryption_key_id, hint) values (%s, %s, %s, %s, %s, %s, %s, '…')",
                (row_id, user_id, provider, seal.ciphertext, seal.nonce, seal.tag, seal.key_id),
            )
    job = start()
    assert job.end() == 0, job.stderr
    assert job.counts == {"rotated": 100, "left": 0, "unreadable": 600, "unreadable_ids": first[:MAX_REPORTED_IDS]}
    assert sealed_with(stored(stack), "new") == set(others)


def test_two_rotations_at_once_share_the_work(stack: Stack, owners: list[str], start: Start) -> None:
    plains = store(stack, owners[:1000])
    before = stored(stack)
    jobs = [start(BATCH=20), start(BATCH=20)]
    assert [job.end() for job in jobs] == [0, 0], [job.stderr for job in jobs]
    assert sum(job.counts["rotated"] for job in jobs) == len(before), "each row once"
    assert [job.counts["unreadable"] for job in jobs] == [0, 0]
    after = stored(stack)
    assert sealed_with(after, "new") == before.keys()
    assert broken(before, after, plains, "new") == []


def resealed(db: Db, plains: Plains) -> list[dict[str, str]]:
    """What the job would write now: all that is to be rotated, sealed anew."""
    rows = value(db, "select public.api_keys_to_rotate('new', null, 1000)")
    return [
        {"id": row["id"], "old_iv": row["encryption_iv"]}
        | vault("new").encrypt_without_refresh(PlainKey(plains[row["id"]]), row["user_id"], row["provider"]).to_row()
        for row in rows
    ]


def replace(db: Db, row: Mapping[str, Any], plain: str, sealing: Vault) -> str:
    """The owner stores another key in place of this one. Returns its id."""
    row_id, user_id, provider = str(uuid.uuid4()), str(row["user_id"]), row["provider"]
    seal = sealing.encrypt_without_refresh(PlainKey(plain), user_id, provider).to_row()
    parts = [seal[name] for name in ("encrypted_key", "encryption_iv", "encryption_tag", "encryption_key_id")]
    put = "select public.put_api_key(%s, %s, %s, %s, %s, %s, %s, '…', true)"
    db.execute(put, (row_id, user_id, provider, *parts))
    return row_id


def test_a_batch_writes_only_what_has_not_changed_since_it_was_read(stack: Stack, owners: list[str]) -> None:
    plains = store(stack, owners[:4])
    with connected(stack) as db, connected(stack) as other:
        db.execute("set lock_timeout = '5s'")
        before = rows_of(db)
        batch = resealed(db, plains)
        assert [row["id"] for row in batch] == sorted(before)
        replaced, rotated, deleted, refused, locked, *rest = sorted(before)
        replacement = replace(db, before[replaced], PLAIN + "replaced", vault("old"))
        (elsewhere,) = (row for row in resealed(db, {**plains, replacement: PLAIN}) if row["id"] == rotated)
        assert value(db, "select public.rotate_api_keys(%s)", Jsonb([elsewhere])) == 1
        gone = before[deleted]
        assert value(db, "select public.delete_api_key(%s, %s)", gone["user_id"], gone["provider"])
        note = "select public.note_api_key(%s, %s, false, 'Revoked.')"
        assert value(db, note, refused, before[refused]["user_id"])
        meanwhile = rows_of(db)
        with other.transaction():
            other.execute("select from public.user_api_keys where id = %s for update", (locked,))
            assert value(db, "select public.rotate_api_keys(%s)", Jsonb(batch)) == 1 + len(rest), "and it did not wait"
        after = rows_of(db)
        for row_id in (replacement, rotated, locked):
            assert after[row_id] == meanwhile[row_id]
        assert after.keys() == before.keys() - {replaced, deleted} | {replacement}
        assert plain_of(after[replacement], vault("old")) == PLAIN + "replaced"
        assert (after[refused]["is_active"], after[refused]["validation_error"]) == (False, "Revoked.")
        for row_id in (refused, rotated, *rest):
            assert untouched(after[row_id]) == untouched(meanwhile[row_id])
            assert plain_of(after[row_id], vault("new")) == plains[row_id]
        assert value(db, "select public.rotate_api_keys(%s)", Jsonb(batch)) == 1, "what was locked, now that it is not"
        assert value(db, "select public.rotate_api_keys(%s)", Jsonb(batch)) == 0


class Meanwhile(Database):
    """The database, where something happens before the first batch is written."""

    def __init__(self, stack: Stack, happens: Callable[[int], None]) -> None:
        super().__init__(load(SupabaseSettings, environment(stack)))
        self._happens = happens
        self.writes = 0

    async def call(self, function: str, params: Mapping[str, Any] | None = None, **how: Any) -> Any:
        if function == "rotate_api_keys":
            self.writes += 1
            await asyncio.to_thread(self._happens, self.writes)
        return await super().call(function, params, **how)


@pytest.mark.parametrize(("sealing", "rotated"), [("new", 5), ("old", 6)])
async def test_a_key_that_its_owner_replaces_meanwhile_stays_the_new_one(
    stack: Stack, owners: list[str], sealing: str, rotated: int
) -> None:
    """By a function that has the new ring, or one that has not read it yet: that seal is met in the next pass."""
    plains = store(stack, owners[:3])
    before = stored(stack)
    victim = min(before)
    replacements: list[str] = []

    def happens(write: int) -> None:
        if write == 1:
            with connected(stack) as db:
                replacements.append(replace(db, before[victim], PLAIN + "another", vault(sealing)))

    database = Meanwhile(stack, happens)
    try:
        counts = await rotate_keys(database, vault("new", "old"), lambda _: None)
    finally:
        await database.close()
    assert counts == {"rotated": rotated, "left": 0, "unreadable": 0, "unreadable_ids": []}
    (replacement,) = replacements
    after = stored(stack)
    assert after.keys() == before.keys() - {victim} | {replacement}
    opened = {row_id: plain_of(row, vault("new")) for row_id, row in after.items()}
    assert opened == {row_id: plains[row_id] for row_id in before if row_id != victim} | {
        replacement: PLAIN + "another"
    }


async def test_a_key_that_is_being_changed_when_its_batch_comes_is_met_in_the_next_pass(
    stack: Stack, owners: list[str]
) -> None:
    plains = store(stack, owners[:3])
    before = stored(stack)
    with connected(stack) as db:

        def happens(write: int) -> None:
            if write == 1:
                db.execute("begin")
                db.execute("select from public.user_api_keys where id = %s for update", (min(before),))
            elif write == 2:
                db.execute("rollback")

        database = Meanwhile(stack, happens)
        try:
            counts = await rotate_keys(database, vault("new", "old"), lambda _: None)
        finally:
            await database.close()
    assert counts == {"rotated": len(before), "left": 0, "unreadable": 0, "unreadable_ids": []}
    assert broken(before, stored(stack), plains, "new") == []


def test_a_key_that_stays_under_the_old_one_is_told(stack: Stack, owners: list[str], start: Start) -> None:
    """docs/security.md has the old key thrown away once a run says that it rotated none and that none is left."""
    store(stack, owners[:3])
    with connected(stack) as db:
        before = rows_of(db)
        with db.transaction():
            db.execute("select from public.user_api_keys where id = %s for update", (min(before),))
            ends = [(job.end(), job.counts) for job in (start() for _ in range(2))]
        assert sealed_with(rows_of(db), "old") == {min(before)}
    assert [(end, counts["rotated"], counts["left"]) for end, counts in ends] == [(0, len(before) - 1, 1), (0, 0, 1)]


@pytest.mark.parametrize("arguments", [["rotate"], ["rotate-keys", "now"], [""]])
def test_what_is_no_job_is_answered_with_the_usage(start: Start, arguments: list[str]) -> None:
    job = start(*arguments)
    assert job.end() == 2
    assert (job.stdout, job.stderr.startswith("usage: python -m functions.maintenance")) == ("", True)


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"ENCRYPTION_KEYS": ""}, "ENCRYPTION_KEYS"),
        ({"ENCRYPTION_KEYS": f"new:{RING['new']},old:{RING['old'][:-2]}"}, "ENCRYPTION_KEYS"),
        ({"ENCRYPTION_KEYS": f"new:{RING['new']},new:{RING['old']}"}, "ENCRYPTION_KEYS"),
        ({"ENCRYPTION_KEY": RING["old"][:-1]}, "ENCRYPTION_KEY"),
        ({"SUPABASE_URL": ""}, "SUPABASE_URL"),
        ({"SUPABASE_SERVICE_ROLE_KEY": ""}, "SUPABASE_SERVICE_ROLE_KEY"),
    ],
)
def test_a_setting_that_is_missing_or_malformed_is_named_in_one_sentence(
    stack: Stack, owners: list[str], start: Start, changes: dict[str, str], variable: str
) -> None:
    store(stack, owners[:1])
    before = stored(stack)
    job = start(**changes)
    assert job.end() == 1
    assert re.fullmatch(rf"rotate-keys: {variable} [^.\n]+\.\n", job.stderr)
    assert stored(stack) == before


def test_with_the_database_out_of_reach_from_the_start_it_fails_and_changes_nothing(
    stack: Stack, owners: list[str], start: Start
) -> None:
    store(stack, owners[:1])
    before = stored(stack)
    job = start(SUPABASE_URL="http://127.0.0.1:9", BATCH_S=0.5)
    assert job.end() == 1
    assert re.fullmatch(r"rotate-keys: Our database cannot be reached[^\n]+\n", job.stderr)
    assert stored(stack) == before


def test_a_key_of_the_project_that_is_not_the_services_rotates_nothing(
    stack: Stack, owners: list[str], start: Start
) -> None:
    store(stack, owners[:1])
    before = stored(stack)
    job = start(SUPABASE_SERVICE_ROLE_KEY=stack.info["anon_key"])
    assert job.end() == 1
    assert re.fullmatch(r"rotate-keys: [^\n]+\n", job.stderr)
    assert stored(stack) == before


@contextmanager
def outage(stack: Stack, moment: str, eventually: Callable[..., None]) -> Iterator[None]:
    """The database goes away, while it writes a batch or at any moment; it is back afterwards."""
    with closing(psycopg.connect(stack.postgres.url())) as holder:
        if moment == "while it writes":
            holder.execute("lock table public.user_api_keys in share mode")
            with connected(stack) as db:
                waiting = (
                    "select count(*) from pg_locks where relation = 'public.user_api_keys'::regclass and not granted"
                )
                eventually(lambda: value(db, waiting) == 1)
        stack.stop_database()
    try:
        yield
    finally:
        stack.start_database()


def reachable(stack: Stack) -> bool:
    """Whether PostgREST has its database again."""
    url = f"{stack.info['supabase_url']}/rest/v1/plans?select=tier"
    return httpx.get(url, headers={"apikey": stack.info["anon_key"]}).status_code == 200


@pytest.mark.parametrize("moment", ["while it writes", "at any moment"])
def test_with_the_database_gone_in_the_middle_it_fails_with_every_key_whole_and_goes_on_later(
    stack: Stack, owners: list[str], start: Start, eventually: Callable[..., None], moment: str
) -> None:
    plains = store(stack, owners[:1000])
    before = stored(stack)
    job = start(BATCH=20, BATCH_S=2)
    done = job.progress()
    with outage(stack, moment, eventually):
        status = job.end()
    eventually(lambda: reachable(stack))
    middle = stored(stack)
    assert broken(before, middle, plains, "old", "new") == []
    assert done <= len(sealed_with(middle, "new")) < len(before)
    assert status == 1
    assert re.fullmatch(r"rotate-keys: Our database cannot be reached[^\n]+", job.stderr.splitlines()[-1])
    again = start()
    assert again.end() == 0, again.stderr
    assert again.counts["rotated"] == len(sealed_with(middle, "old"))
    assert broken(before, stored(stack), plains, "new") == []


@pytest.mark.parametrize("moment", ["while it writes", "at any moment"])
def test_a_database_that_is_away_for_a_moment_is_waited_for(
    stack: Stack, owners: list[str], start: Start, eventually: Callable[..., None], moment: str
) -> None:
    plains = store(stack, owners[:1000])
    before = stored(stack)
    job = start(BATCH=20)
    for _ in range(OUTAGES):
        job.progress()
        with outage(stack, moment, eventually):
            pass
    status = job.end()
    eventually(lambda: reachable(stack))
    assert status == 0, job.stderr
    assert broken(before, stored(stack), plains, "new") == []


def test_lambda_gets_the_counts(stack: Stack, owners: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plains = store(stack, owners[:3])
    before = stored(stack)
    for name, setting in environment(stack).items():
        monkeypatch.setenv(name, setting)
    assert handler({"job": "rotate-keys"}, None) == {"rotated": 6, "left": 0, "unreadable": 0, "unreadable_ids": []}
    assert handler({"job": "rotate-keys"}, None) == {"rotated": 0, "left": 0, "unreadable": 0, "unreadable_ids": []}
    assert broken(before, stored(stack), plains, "new") == []


def test_neither_a_key_nor_the_ring_is_ever_said(stack: Stack, owners: list[str], start: Start) -> None:
    """Job.end looks for both in all that any job here says; this one looks whether it would find them."""
    plains = store(stack, owners[:2])
    assert all(plain.startswith(PLAIN) for plain in plains.values())
    rows = stored(stack).values()
    assert sorted(filter(None, (plain_of(row, vault("old")) for row in rows))) == sorted(plains.values())
    for said in (next(iter(plains.values())), RING["old"], RING["new"]):
        with pytest.raises(AssertionError):
            Job(["-c", f"print({said!r})"], environment(stack)).end()
        assert start(said).end() == 2, "an argument that is no job is not repeated"
