"""Fixtures of all tests: one real stack per test process, a database for each SQL test, and users."""

import fcntl
import gc
import itertools
import json
import os
import shutil
import ssl
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from functions.common import observe
from infra.local.auth import access_token, load_or_create_key
from infra.local.reaper import alive
from infra.local.stack import PASSWORD, Config, Stack, free_offset, running
from tests.own_keys import ENCRYPTION

pytest_plugins = ["tests.api", "tests.billing_kit"]

# Imports and the collection of tests create hundreds of thousands of lasting objects: look for garbage less often.
gc.set_threshold(100_000, 20, 50)

# Each httpx client builds a TLS context, which takes 40 ms of CPU to read the certificate store. No test uses TLS.
ssl.create_default_context = cache(ssl.create_default_context)


class CapturedOutput:
    """The standard output of the test that is running.

    Powertools keeps one handler per service name for the whole process, with the output of the test that came first.
    """

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


observe.Logger = partial(observe.Logger, stream=CapturedOutput())  # type: ignore[misc]

# The slowest files start first, so that no process runs one of them alone at the end. Files that mostly wait for real
# time (resume, ai_sdk, own_key, chat) stand between those that use the processor.
SLOW_FILES = (
    "tests/package/",
    "tests/journeys/test_resume.py",
    "tests/local/test_stack_shutdown.py",
    "tests/page/",
    "tests/functions/test_rotate_keys.py",
    "tests/journeys/test_ai_sdk_stopping.py",
    "tests/journeys/test_endings.py",
    "tests/journeys/test_frozen.py",
    "tests/journeys/test_killed_services.py",
    "tests/sql/test_migrations.py",
    "tests/functions/test_chat_own_key.py",
    "tests/journeys/test_canary.py",
    "tests/journeys/test_openapi.py",
    "tests/journeys/test_ai_sdk_reload.py",
    "tests/local/test_stack.py",
    "tests/journeys/test_ai_sdk.py",
    "tests/sql/test_histories.py",
    "tests/journeys/test_api_keys.py",
    "tests/journeys/test_killed_turns.py",
    "tests/functions/test_chat_steps.py",
    "tests/local/test_stack_errors.py",
    "tests/functions/maintenance/",
    "tests/journeys/test_ai_sdk_conversations.py",
    "tests/journeys/test_killed_billing.py",
    "tests/sql/test_parallel.py",
    "tests/functions/test_chat.py",
    "tests/functions/billing_histories/",
    "tests/functions/test_chat_endings.py",
    "tests/functions/test_gateways.py",
    "tests/functions/test_faults.py",
    "tests/functions/test_many_streams.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put SLOW_FILES first, in their order."""

    def rank(item: pytest.Item) -> int:
        ranks = (rank for rank, prefix in enumerate(SLOW_FILES) if item.nodeid.startswith(prefix))
        return next(ranks, len(SLOW_FILES))

    items.sort(key=rank)


class FileScheduling(LoadFileScheduling):
    """Gives each process whole files in their order. The packaging tests share one build, so they count as one file."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/package" if nodeid.startswith("tests/package/") else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling | None:
    """The scheduler of `--dist loadfile`."""
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


MEMORY = Path("/dev/shm")  # noqa: S108 -- Linux's file system in memory; each folder in it has a random name
CLUSTER_BYTES = 1_000_000_000  # several clusters at once, with their logs


@contextmanager
def cluster_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for a Postgres cluster, in memory if there is room.

    On ext4 a copy of a database costs ten times as much, because ext4 avoids the inodes of recently deleted files.
    """
    for leftover in MEMORY.glob("pytest-*-*"):  # of test processes that were killed
        if not alive(int(leftover.name.split("-")[1])):
            shutil.rmtree(leftover, ignore_errors=True)
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > CLUSTER_BYTES:
        with TemporaryDirectory(prefix=f"pytest-{os.getpid()}-", dir=MEMORY) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("cluster")


@contextmanager
def once_per_run(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that all test processes share, and whether this one has to fill it. The others wait meanwhile."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the parent of their temporary folders
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, not done.exists()
        done.touch()


TEMPLATE = "migrated"
ENVIRON = {**ENCRYPTION, "FUNCTION_ORIGINS": "separate"}  # also each function on an origin of its own


@pytest.fixture(scope="session")
def stopped_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stack that ran once, for copies: users, subscriptions, and a template database that has every
    migration."""
    with once_per_run(tmp_path_factory, "stopped-stack") as (folder, is_first):
        if is_first:
            with running(Config(folder, offset=free_offset(), durable=False, environ=ENVIRON)) as stack:
                create_template(stack)
    return folder


def create_template(stack: Stack) -> None:
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as connection:
        connection.execute(f"create database {TEMPLATE} owner postgres")
    stack.postgres.migrate(TEMPLATE)


def copy_stack(stopped: Path, folder: Path) -> Path:
    """Copies the data of a stopped stack. Returns the folder of the copy."""
    shutil.copytree(stopped, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("logs", "lock"))
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The whole local stack, on ports of its own, with the template database. A copy where several processes test."""
    is_copy = "PYTEST_XDIST_WORKER" in os.environ
    with cluster_folder(tmp_path_factory) as folder:
        if is_copy:
            copy_stack(request.getfixturevalue("stopped_stack"), folder)
        with running(Config(folder, offset=free_offset(), durable=False, environ=ENVIRON)) as stack:
            if not is_copy:
                create_template(stack)
            yield stack


_connections: dict[str, "psycopg.Connection[dict[str, Any]]"] = {}
_connecting = threading.Lock()


def lasting_connection(stack: Stack, user: str = "postgres") -> "psycopg.Connection[dict[str, Any]]":
    """A connection to the running stack's database that tests share, because a new one costs ten times a query.

    Autocommit. Opened again after a test stopped the database.
    """
    url = stack.postgres.url(user)
    with _connecting:
        connection = _connections.get(url)
        if connection is not None:
            try:
                connection.execute("select")
            except psycopg.OperationalError:
                connection.close()
                connection = None
        if connection is None:
            connection = _connections[url] = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        return connection


def pytest_sessionfinish() -> None:
    """Close the lasting connections."""
    for connection in _connections.values():
        connection.close()


_names = (f"test_{number}" for number in itertools.count(1))


@pytest.fixture
def database_url(stack: Stack) -> Iterator[str]:
    """A migrated database of its own, as `postgres`."""
    name = next(_names)
    with stack.postgres.clone(lasting_connection(stack, "supabase_admin"), TEMPLATE, name) as url:
        yield url


Connect = Callable[..., "psycopg.Connection[dict[str, Any]]"]


@pytest.fixture
def connect(database_url: str) -> Iterator[Connect]:
    """Opens connections to the test's database: `connect()` as postgres, `connect("authenticated", user_id)` as the
    API would for that user. Autocommit."""
    opened: list[psycopg.Connection[dict[str, Any]]] = []

    def open_connection(role: str | None = None, user_id: str | None = None) -> psycopg.Connection[dict[str, Any]]:
        connection = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
        opened.append(connection)
        if user_id is not None:
            claims = json.dumps({"sub": user_id, "role": role})
            connection.execute("select set_config('request.jwt.claims', %s, false)", (claims,))
        if role is not None:
            connection.execute(f"set role {role}")
        return connection

    yield open_connection
    for connection in opened:
        connection.close()


@pytest.fixture
def db(connect: Connect) -> "psycopg.Connection[dict[str, Any]]":
    """A connection to the test's database as `postgres`."""
    return connect()


@pytest.fixture
def many_at_once(db: "psycopg.Connection[dict[str, Any]]") -> None:
    """Plans on which any number of queries of a user may run at the same time: for tests of other rules."""
    db.execute("update public.plans set concurrent_queries = 1000000")


def new_user(db: "psycopg.Connection[Any]", tier: str = "free", **columns: Any) -> str:
    """Somebody signs up, then gets a tier and other columns of user_subscriptions. Returns the user's id."""
    user_id = str(uuid.uuid4())
    db.execute(
        "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, now())",
        (user_id, f"{user_id}@example.test"),
    )
    columns = {"tier": tier, **columns}
    assignments = ", ".join(f"{column} = %s" for column in columns)
    db.execute(f"update public.user_subscriptions set {assignments} where user_id = %s", (*columns.values(), user_id))
    return user_id


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the running stack."""

    id: str
    email: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """The request headers of the user's browser."""
        return {"authorization": f"Bearer {self.token}"}


@pytest.fixture(scope="module")
def person(stack: Stack) -> Callable[..., Person]:
    """Makes a user of the running stack: `person("basic", allow_overages=False)`."""

    def make(tier: str = "basic", **columns: Any) -> Person:
        user_id = new_user(lasting_connection(stack), tier, **columns)
        email = f"{user_id}@example.test"
        key = load_or_create_key(stack.config.folder / "signing-key.pem")
        issuer = f"{stack.info['supabase_url']}/auth/v1"
        return Person(user_id, email, access_token(key, issuer=issuer, user_id=user_id, email=email))

    return make


@pytest.fixture
def sign_up(stack: Stack, stack_db: "psycopg.Connection[dict[str, Any]]") -> Callable[[str], Person]:
    """Signs somebody up through Auth, as a frontend does, and gives them a tier. The password is PASSWORD."""

    def make(tier: str) -> Person:
        email = f"{uuid.uuid4()}@example.test"
        request = urllib.request.Request(
            f"{stack.info['supabase_url']}/auth/v1/signup",
            data=json.dumps({"email": email, "password": PASSWORD}).encode(),
            headers={"apikey": stack.info["publishable_key"], "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            session = json.load(response)
        user_id = session["user"]["id"]
        stack_db.execute("update public.user_subscriptions set tier = %s where user_id = %s", (tier, user_id))
        return Person(user_id, email, session["access_token"])

    return make


@pytest.fixture
def stack_db(stack: Stack) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """A connection to the running stack's database as `postgres`."""
    with psycopg.connect(stack.postgres.url(), autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def many_at_once_in_the_stack(stack: Stack) -> Iterator[None]:
    """As many_at_once, in the running stack. The test may restart the database."""
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        before = db.execute("select concurrent_queries, tier from public.plans").fetchall()
        db.execute("update public.plans set concurrent_queries = 1000000")
    yield
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        for row in before:
            db.execute("update public.plans set concurrent_queries = %s where tier = %s", row)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits for something that another process is about to do. Fails after 20 s."""

    def wait(happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.05)

    return wait
