"""rotate-keys: every stored key is encrypted again with the newest key while chats continue, and no kill loses one.

The job is the command in a process of its own. The stack's functions have both keys.
"""

import asyncio
import os
import random
import re
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load
from functions.common.vault import PlainKey, Vault
from functions.maintenance.handler import handler
from functions.maintenance.rotate_keys import MAX_REPORTED_IDS, rotate_keys
from infra.local.stack import Stack
from tests.api import Api, question
from tests.conftest import Person
from tests.functions.rotate_keys_kit import (
    PREFIX,
    PROVIDERS,
    Job,
    Plains,
    connected,
    damaged_ids,
    encrypted_with,
    environment,
    plain_of,
    rows_of,
    store,
    stored,
    unrotated_columns,
    vault,
)
from tests.own_keys import ENCRYPTION_KEYS
from tests.sql.metering import Db, value

FULL = bool(os.environ.get("PROVE"))
KEYS = 100_000 if FULL else 1_000
STEP = 500 if FULL else 10  # rows per batch in a job that is killed: at least a hundred batches
CLIENTS = 8 if FULL else 4
KILLS = 6
OUTAGES = 4

People = Callable[..., Person]


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


Start = Callable[..., Job]


@pytest.fixture
def start(stack: Stack) -> Iterator[Start]:
    """Start the job: `start(ENCRYPTION_KEYS="")` changes the environment, `start(BATCH=20)` a constant of the job."""
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


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 120)
def test_all_keys_are_rotated_while_users_chat(
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
        for user in people:  # otherwise a chat would mark an unchecked key as valid and change the row
            db.execute(
                "update public.user_api_keys set is_active = true, validation_error = null,"
                " last_validated_at = created_at where user_id = %s",
                (user.id,),
            )
    before = stored(stack)
    all_have_chatted, job_ended = threading.Barrier(CLIENTS + 1), threading.Event()

    def chat(user: Person, provider: str) -> bool:
        answer = api.chat(user, question(f"Briefly {user.id} [fault:long 3]", provider=provider))
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"]["funding"] == "byok"
        return True

    def chat_throughout(user: Person) -> int:
        """Chat before, during and after the job. Returns the number of chats during it."""
        try:
            assert all(chat(user, provider) for provider in PROVIDERS)
            all_have_chatted.wait(60)
        except BaseException:
            all_have_chatted.abort()
            raise
        chats_during_job = 0
        while not job_ended.is_set():
            chats_during_job += chat(user, PROVIDERS[chats_during_job % 2])
        assert all(chat(user, provider) for provider in PROVIDERS)
        return chats_during_job

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(chat_throughout, user) for user in people]
        try:
            all_have_chatted.wait(60)
            started_at = datetime.now(UTC)
            job = start()
            status = job.end()
            seconds = (datetime.now(UTC) - started_at).total_seconds()
        finally:
            job_ended.set()
        chats = [client.result() for client in clients]

    assert status == 0, job.stderr
    assert job.counts == {"rotated": KEYS, "left": 0, "unreadable": 0, "unreadable_ids": []}
    progress = [int(line.split()[1].replace(",", "")) for line in job.stderr.splitlines()[:-1]]
    assert progress == sorted(progress)
    assert (progress[-1], len(progress) >= KEYS / 500) == (KEYS, True)
    after = stored(stack)
    assert encrypted_with(after, "new") == before.keys()
    assert damaged_ids(before, after, plains, "new") == []
    assert all(chats), "every user chatted while the job ran"
    hints = {(row["user_id"], row["provider"]): row["hint"] for row in after.values()}
    for user in people:
        requests = api.provider_requests(user.id)
        assert requests
        assert all(entry["api_key_last4"] == hints[uuid.UUID(user.id), entry["provider"]][-4:] for entry in requests)
    measured = f"{KEYS:,} keys in {seconds:.1f} s, {KEYS / seconds:,.0f} a second, {sum(chats)} chats during it"
    record_testsuite_property("rotate-keys", measured)


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 120)
def test_a_killed_run_is_continued_by_the_next_one(stack: Stack, owners: list[str], start: Start) -> None:
    plains = store(stack, owners)
    before = stored(stack)
    first = start(BATCH=STEP)
    done = first.progress()
    first.kill()
    middle = stored(stack)
    assert damaged_ids(before, middle, plains, "old", "new") == []
    assert done <= len(encrypted_with(middle, "new")) < KEYS
    second = start()
    assert second.end() == 0, second.stderr
    left = len(encrypted_with(middle, "old"))
    # The batch in progress when the job was killed may have been committed since.
    assert left - STEP <= second.counts["rotated"] <= left
    assert (second.counts["unreadable"], second.counts["unreadable_ids"]) == (0, [])
    after = stored(stack)
    assert encrypted_with(after, "new") == before.keys()
    assert damaged_ids(before, after, plains, "new") == []
    # Rows of the first run were not rotated again.
    assert all(after[row_id] == middle[row_id] for row_id in encrypted_with(middle, "new"))


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 120)
def test_repeated_kills_lose_no_key(stack: Stack, owners: list[str], start: Start) -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    chance = random.Random(seed)  # noqa: S311 -- repeatable by its seed
    replay = f"replay: SEED={seed} make test ONLY='tests/functions/test_rotate_keys.py -k repeated_kills'"
    plains = store(stack, owners)
    before = stored(stack)
    previous = 0
    for _ in range(KILLS):
        job = start(BATCH=STEP)
        for _ in range(chance.randrange(1, 12)):
            done = job.progress()
        job.kill()
        rows = stored(stack)
        assert damaged_ids(before, rows, plains, "old", "new") == [], replay
        assert previous + done <= len(encrypted_with(rows, "new")) < KEYS, replay
        previous = len(encrypted_with(rows, "new"))
    last = start()
    assert last.end() == 0, last.stderr
    after = stored(stack)
    assert encrypted_with(after, "new") == before.keys(), replay
    assert damaged_ids(before, after, plains, "new") == [], replay


def test_an_unreadable_row_is_reported_and_not_changed(stack: Stack, owners: list[str], start: Start) -> None:
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
        for row_id, encrypting, user_id in ((moved, vault("old"), owners[10]), (lost, vault("lost"), None)):
            row = rows_of(db)[row_id]
            encrypted = encrypting.encrypt_without_refresh(
                PlainKey(plains[row_id]), user_id or str(row["user_id"]), row["provider"]
            )
            db.execute(
                "update public.user_api_keys set encrypted_key = %s, encryption_iv = %s, encryption_tag = %s,"
                " encryption_key_id = %s where id = %s",
                (encrypted.ciphertext, encrypted.nonce, encrypted.tag, encrypted.key_id, row_id),
            )
    unreadable = {tag, key, nonce, moved, lost, relabelled}
    before = stored(stack)
    for rotated in (20 - len(unreadable), 0):
        job = start()
        assert job.end() == 1, job.stderr  # an operator has to look at them
        counts = job.counts
        assert (counts["rotated"], counts["unreadable"]) == (rotated, len(unreadable))
        assert sorted(counts["unreadable_ids"]) == sorted(unreadable)
        after = stored(stack)
        assert {row_id: after[row_id] for row_id in unreadable} == {row_id: before[row_id] for row_id in unreadable}
        assert encrypted_with(after, "new") == before.keys() - unreadable
        assert damaged_ids(before, after, plains, "new") == sorted(unreadable)


def test_more_unreadable_rows_than_a_batch_block_no_others(stack: Stack, owners: list[str], start: Start) -> None:
    first = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(600)]
    store(stack, owners[:300], vault("lost"), first)
    others = [str(uuid.uuid4()) for _ in range(100)]
    with connected(stack) as db:
        for number, row_id in enumerate(others):
            user_id, provider = owners[300 + number // 2], PROVIDERS[number % 2]
            encrypted = vault("old").encrypt_without_refresh(PlainKey(PREFIX + row_id), user_id, provider)
            db.execute(
                "insert into public.user_api_keys (id, user_id, provider, encrypted_key, encryption_iv, encryption_tag,"
                " encryption_key_id, hint) values (%s, %s, %s, %s, %s, %s, %s, '…')",
                (row_id, user_id, provider, encrypted.ciphertext, encrypted.nonce, encrypted.tag, encrypted.key_id),
            )
    job = start()
    assert job.end() == 1, job.stderr
    assert job.counts == {"rotated": 100, "left": 0, "unreadable": 600, "unreadable_ids": first[:MAX_REPORTED_IDS]}
    assert encrypted_with(stored(stack), "new") == set(others)


def test_two_concurrent_runs_rotate_each_row_once(stack: Stack, owners: list[str], start: Start) -> None:
    plains = store(stack, owners[:500])
    before = stored(stack)
    jobs = [start(BATCH=20), start(BATCH=20)]
    assert [job.end() for job in jobs] == [0, 0], [job.stderr for job in jobs]
    assert sum(job.counts["rotated"] for job in jobs) == len(before), "each row is rotated once"
    assert [job.counts["unreadable"] for job in jobs] == [0, 0]
    after = stored(stack)
    assert encrypted_with(after, "new") == before.keys()
    assert damaged_ids(before, after, plains, "new") == []


def next_batch(db: Db, plains: Plains) -> list[dict[str, str]]:
    """What the job would write now: all rows with an older key, encrypted with the new one."""
    rows = value(db, "select public.api_keys_to_rotate('new', null, 1000)")
    return [
        {"id": row["id"], "old_iv": row["encryption_iv"]}
        | vault("new").encrypt_without_refresh(PlainKey(plains[row["id"]]), row["user_id"], row["provider"]).to_row()
        for row in rows
    ]


def replace(db: Db, row: Mapping[str, Any], plain: str, encrypting: Vault) -> str:
    """Store another key of the owner in place of this one. Returns its id."""
    row_id, user_id, provider = str(uuid.uuid4()), str(row["user_id"]), row["provider"]
    encrypted = encrypting.encrypt_without_refresh(PlainKey(plain), user_id, provider).to_row()
    parts = [encrypted[name] for name in ("encrypted_key", "encryption_iv", "encryption_tag", "encryption_key_id")]
    put = "select public.put_api_key(%s, %s, %s, %s, %s, %s, %s, '…', true)"
    db.execute(put, (row_id, user_id, provider, *parts))
    return row_id


def test_a_batch_skips_rows_changed_since_they_were_read(stack: Stack, owners: list[str]) -> None:
    plains = store(stack, owners[:4])
    with connected(stack) as db, connected(stack) as other:
        db.execute("set lock_timeout = '5s'")
        before = rows_of(db)
        batch = next_batch(db, plains)
        assert [row["id"] for row in batch] == sorted(before)
        replaced, rotated, deleted, invalidated, locked, *rest = sorted(before)
        replacement = replace(db, before[replaced], PREFIX + "replaced", vault("old"))
        (by_another_run,) = (row for row in next_batch(db, {**plains, replacement: PREFIX}) if row["id"] == rotated)
        assert value(db, "select public.rotate_api_keys(%s)", Jsonb([by_another_run])) == 1
        deleted_row = before[deleted]
        assert value(db, "select public.delete_api_key(%s, %s)", deleted_row["user_id"], deleted_row["provider"])
        note = "select public.note_api_key(%s, %s, false, 'Revoked.')"
        assert value(db, note, invalidated, before[invalidated]["user_id"])
        changed = rows_of(db)
        with other.transaction():
            other.execute("select from public.user_api_keys where id = %s for update", (locked,))
            assert value(db, "select public.rotate_api_keys(%s)", Jsonb(batch)) == 1 + len(rest), (
                "it does not wait for the lock"
            )
        after = rows_of(db)
        for row_id in (replacement, rotated, locked):
            assert after[row_id] == changed[row_id]
        assert after.keys() == before.keys() - {replaced, deleted} | {replacement}
        assert plain_of(after[replacement], vault("old")) == PREFIX + "replaced"
        assert (after[invalidated]["is_active"], after[invalidated]["validation_error"]) == (False, "Revoked.")
        for row_id in (invalidated, rotated, *rest):
            assert unrotated_columns(after[row_id]) == unrotated_columns(changed[row_id])
            assert plain_of(after[row_id], vault("new")) == plains[row_id]
        assert value(db, "select public.rotate_api_keys(%s)", Jsonb(batch)) == 1, "the row that was locked before"
        assert value(db, "select public.rotate_api_keys(%s)", Jsonb(batch)) == 0


class InterruptedDatabase(Database):
    """Calls `before_write` with the number of the write before each batch is written."""

    def __init__(self, stack: Stack, before_write: Callable[[int], None]) -> None:
        super().__init__(load(SupabaseSettings, environment(stack)), Observer("rotate-test"))
        self._before_write = before_write
        self.writes = 0

    async def call(self, function: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        if function == "rotate_api_keys":
            self.writes += 1
            await asyncio.to_thread(self._before_write, self.writes)
        return await super().call(function, params, **options)


@pytest.mark.parametrize(("encrypting", "rotated"), [("new", 5), ("old", 6)])
async def test_a_key_replaced_during_the_run_is_kept(
    stack: Stack, owners: list[str], encrypting: str, rotated: int
) -> None:
    """A function that still has the old keyring may store it; then the next pass rotates it."""
    plains = store(stack, owners[:3])
    before = stored(stack)
    victim = min(before)
    replacements: list[str] = []

    def before_write(write: int) -> None:
        if write == 1:
            with connected(stack) as db:
                replacements.append(replace(db, before[victim], PREFIX + "another", vault(encrypting)))

    database = InterruptedDatabase(stack, before_write)
    try:
        counts = await rotate_keys(database, vault("new", "old"), lambda _: None)
    finally:
        await database.close()
    assert counts == {"rotated": rotated, "left": 0, "unreadable": 0, "unreadable_ids": []}
    (replacement,) = replacements
    after = stored(stack)
    assert after.keys() == before.keys() - {victim} | {replacement}
    decrypted = {row_id: plain_of(row, vault("new")) for row_id, row in after.items()}
    assert decrypted == {row_id: plains[row_id] for row_id in before if row_id != victim} | {
        replacement: PREFIX + "another"
    }


async def test_a_row_locked_during_its_batch_is_rotated_next_pass(stack: Stack, owners: list[str]) -> None:
    plains = store(stack, owners[:3])
    before = stored(stack)
    with connected(stack) as db:

        def before_write(write: int) -> None:
            if write == 1:
                db.execute("begin")
                db.execute("select from public.user_api_keys where id = %s for update", (min(before),))
            elif write == 2:
                db.execute("rollback")

        database = InterruptedDatabase(stack, before_write)
        try:
            counts = await rotate_keys(database, vault("new", "old"), lambda _: None)
        finally:
            await database.close()
    assert counts == {"rotated": len(before), "left": 0, "unreadable": 0, "unreadable_ids": []}
    assert damaged_ids(before, stored(stack), plains, "new") == []


def test_a_row_that_stays_locked_is_counted_as_left(stack: Stack, owners: list[str], start: Start) -> None:
    """docs/security.md: remove the old key when a run reports that it rotated none and that none is left."""
    store(stack, owners[:3])
    with connected(stack) as db:
        before = rows_of(db)
        with db.transaction():
            db.execute("select from public.user_api_keys where id = %s for update", (min(before),))
            results = [(job.end(), job.counts) for job in (start() for _ in range(2))]
        assert encrypted_with(rows_of(db), "old") == {min(before)}
    assert [(status, counts["rotated"], counts["left"]) for status, counts in results] == [
        (0, len(before) - 1, 1),
        (0, 0, 1),
    ]


@pytest.mark.parametrize("arguments", [["rotate"], ["rotate-keys", "now"], [""]])
def test_an_unknown_job_prints_the_usage(start: Start, arguments: list[str]) -> None:
    job = start(*arguments)
    assert job.end() == 2
    assert (job.stdout, job.stderr.startswith("usage: python -m functions.maintenance")) == ("", True)


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"ENCRYPTION_KEYS": ""}, "ENCRYPTION_KEYS"),
        ({"ENCRYPTION_KEYS": f"new:{ENCRYPTION_KEYS['new']},old:{ENCRYPTION_KEYS['old'][:-2]}"}, "ENCRYPTION_KEYS"),
        ({"ENCRYPTION_KEYS": f"new:{ENCRYPTION_KEYS['new']},new:{ENCRYPTION_KEYS['old']}"}, "ENCRYPTION_KEYS"),
        ({"ENCRYPTION_KEY": ENCRYPTION_KEYS["old"][:-1]}, "ENCRYPTION_KEY"),
        ({"SUPABASE_URL": ""}, "SUPABASE_URL"),
        ({"SUPABASE_SERVICE_ROLE_KEY": ""}, "SUPABASE_SERVICE_ROLE_KEY"),
    ],
)
def test_a_missing_or_malformed_setting_is_named_in_one_sentence(
    stack: Stack, owners: list[str], start: Start, changes: dict[str, str], variable: str
) -> None:
    store(stack, owners[:1])
    before = stored(stack)
    job = start(**changes)
    assert job.end() == 1
    assert re.fullmatch(rf"rotate-keys: {variable} [^.\n]+\.\n", job.stderr)
    assert stored(stack) == before


def test_an_unreachable_database_fails_the_job_without_changes(stack: Stack, owners: list[str], start: Start) -> None:
    store(stack, owners[:1])
    before = stored(stack)
    job = start(SUPABASE_URL="http://127.0.0.1:9", BATCH_S=0.5)
    assert job.end() == 1
    assert re.fullmatch(r"rotate-keys: Our database cannot be reached[^\n]+\n", job.stderr)
    assert stored(stack) == before


def test_the_anonymous_key_rotates_nothing(stack: Stack, owners: list[str], start: Start) -> None:
    store(stack, owners[:1])
    before = stored(stack)
    job = start(SUPABASE_SERVICE_ROLE_KEY=stack.info["anon_key"], BATCH_S=0.5)
    assert job.end() == 1
    assert re.fullmatch(r"rotate-keys: [^\n]+\n", job.stderr)
    assert stored(stack) == before


@contextmanager
def outage(stack: Stack, moment: str, eventually: Callable[..., None]) -> Iterator[None]:
    """Stop the database while the job writes a batch or at any moment, and start it again."""
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
    """Whether PostgREST can reach the database."""
    url = f"{stack.info['supabase_url']}/rest/v1/plans?select=tier"
    return httpx.get(url, headers={"apikey": stack.info["secret_key"]}).status_code == 200


@pytest.mark.parametrize("moment", ["while it writes", "at any moment"])
def test_an_outage_fails_the_job_and_the_next_run_continues(
    stack: Stack, owners: list[str], start: Start, eventually: Callable[..., None], moment: str
) -> None:
    plains = store(stack, owners[:500])
    before = stored(stack)
    job = start(BATCH=10, BATCH_S=2)
    done = job.progress()
    with outage(stack, moment, eventually):
        status = job.end()
    eventually(lambda: reachable(stack))
    middle = stored(stack)
    assert damaged_ids(before, middle, plains, "old", "new") == []
    assert done <= len(encrypted_with(middle, "new")) < len(before)
    assert status == 1
    assert re.fullmatch(r"rotate-keys: Our database cannot be reached[^\n]+", job.stderr.splitlines()[-1])
    second = start()
    assert second.end() == 0, second.stderr
    assert second.counts["rotated"] == len(encrypted_with(middle, "old"))
    assert damaged_ids(before, stored(stack), plains, "new") == []


@pytest.mark.parametrize("moment", ["while it writes", "at any moment"])
def test_a_short_outage_is_waited_for(
    stack: Stack, owners: list[str], start: Start, eventually: Callable[..., None], moment: str
) -> None:
    plains = store(stack, owners[:500])
    before = stored(stack)
    job = start(BATCH=10)
    for _ in range(OUTAGES):
        job.progress()
        with outage(stack, moment, eventually):
            pass
    status = job.end()
    eventually(lambda: reachable(stack))
    assert status == 0, job.stderr
    assert damaged_ids(before, stored(stack), plains, "new") == []


def test_the_lambda_handler_returns_the_counts(
    stack: Stack, owners: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plains = store(stack, owners[:3])
    before = stored(stack)
    for name, setting in environment(stack).items():
        monkeypatch.setenv(name, setting)
    assert handler({"job": "rotate-keys"}, None) == {"rotated": 6, "left": 0, "unreadable": 0, "unreadable_ids": []}
    assert handler({"job": "rotate-keys"}, None) == {"rotated": 0, "left": 0, "unreadable": 0, "unreadable_ids": []}
    assert damaged_ids(before, stored(stack), plains, "new") == []


def test_the_check_for_printed_secrets_finds_them(stack: Stack, owners: list[str], start: Start) -> None:
    """Job.end searches the output of every job here; this shows that the search works."""
    plains = store(stack, owners[:2])
    assert all(plain.startswith(PREFIX) for plain in plains.values())
    rows = stored(stack).values()
    assert sorted(filter(None, (plain_of(row, vault("old")) for row in rows))) == sorted(plains.values())
    for secret in (next(iter(plains.values())), ENCRYPTION_KEYS["old"], ENCRYPTION_KEYS["new"]):
        with pytest.raises(AssertionError):
            Job(["-c", f"print({secret!r})"], environment(stack)).end()
        assert start(secret).end() == 2, "the usage does not repeat the argument"
