"""Keys of users that end in every way there is, and a search for them everywhere but with their provider.

A canary is `sk-HEAD-name-TAIL` and four characters more, the hint. HEAD and TAIL are random and the same for all of a
test run, so that a piece is recognised whichever key it is from, as text or encoded. One more such key is planted in
every place that is searched, and has to be found there.
"""

import errno
import gc
import io
import json
import logging
import os
import secrets
import string
import subprocess
import sys
import threading
import traceback
import uuid
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from functions.chat import limits
from functions.chat.chat import Chat
from functions.chat.providers import Event, Opened, Prompt, Provider, Providers, Text
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.tools.parliament import Parliament
from functions.common.database import Database
from functions.common.errors import AppError, Internal, ProviderTimeout
from functions.common.observe import Observer
from functions.common.settings import load, load_vault
from functions.common.vault import PlainKey, Vault
from functions.keys import handler as keys_handler
from infra.local.postgres import ROOT
from infra.local.stack import Config, Stack, free_offset, running
from tests.api import Api, Left, question
from tests.conftest import Person

People = Callable[..., Person]
Look = Callable[[Person], Left]
PROVIDERS = ("anthropic", "openai")
CLIENTS = 6
PROC = Path("/proc")

# What is written when people look for trouble: everything that the SDKs, asyncio and the logger can be asked for.
TALKATIVE = {
    "ANTHROPIC_LOG": "debug",
    "OPENAI_LOG": "debug",
    "POWERTOOLS_LOG_LEVEL": "DEBUG",
    "AWS_LAMBDA_LOG_LEVEL": "DEBUG",
    "POWERTOOLS_LOGGER_LOG_EVENT": "true",
    "LOG_LEVEL": "DEBUG",
    "DEBUG": "1",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONDEVMODE": "1",
    "PYTHONFAULTHANDLER": "1",
}


# Canaries, and how one is recognised ---------------------------------------------------------------------------------


class Brood:
    """Keys that have their beginning and their end in common."""

    def __init__(self) -> None:
        alphabet = string.ascii_letters + string.digits
        first, second, self._tail = ("".join(secrets.choice(alphabet) for _ in range(size)) for size in (8, 8, 16))
        self._head = f"{first}+/{second}"  # characters that other writings change
        self._needles = {
            f"{form} of the {half} half": needle
            for half, piece in (("first", self._head), ("second", self._tail))
            for form, needle in forms(piece).items()
        }

    def key(self, name: str) -> str:
        """A key of that name. The stand-in goes by `invalid` and `exhausted` in it."""
        return f"sk-{self._head}-{name}-{self._tail}{secrets.token_hex(2)}"

    def traces(self, place: bytes) -> list[str]:
        """What is found of any of the keys."""
        return [form for form, needle in self._needles.items() if needle in place]


def forms(piece: str) -> dict[str, bytes]:
    """How a text may be written down."""
    data = piece.encode()
    reverse = piece[::-1].encode()
    written = {
        "text": data,
        "text backwards": reverse,
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "URL encoding": quote(piece, safe="").encode(),
        "UTF-16": piece.encode("utf-16-le"),
    }
    for alphabet, encode in (("base64", b64encode), ("base64url", urlsafe_b64encode)):
        for before in range(3):
            # The characters that only these bytes decide, wherever they stand in what is encoded.
            first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
            written[f"{alphabet} after {before}"] = encode(bytes(before) + data)[first:last]
    return written


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda key: key.encode(),
    "its first half": lambda key: key[: len(key) // 2].encode(),
    "its second half": lambda key: key[len(key) // 2 :].encode(),
    "backwards": lambda key: key[::-1].encode(),
    "hex": lambda key: key.encode().hex().encode(),
    "Postgres's bytea": lambda key: b"\\x" + key.encode().hex().encode(),
    "HEX": lambda key: key.encode().hex().upper().encode(),
    "URL encoding": lambda key: quote(key, safe="").encode(),
    "base64": lambda key: b64encode(key.encode()),
    "a header's base64": lambda key: b64encode(f"user:{key}".encode()),
    "base64 of JSON": lambda key: b64encode(json.dumps({"api_key": key}).encode()),
    "base64url": lambda key: urlsafe_b64encode(f"?{key}".encode()),
    "JSON": lambda key: json.dumps({"api_key": key}).encode(),
    "repr": lambda key: repr({"api_key": key}).encode(),
    "UTF-16": lambda key: key.encode("utf-16-le"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_search_recognises_a_key_however_it_is_written(encoding: str) -> None:
    brood, another = Brood(), Brood()
    place = b"before \x00" + ENCODINGS[encoding](brood.key("this")) + b"\xff after"
    assert brood.traces(place)
    assert not another.traces(place)


def test_the_hint_is_no_trace() -> None:
    brood = Brood()
    assert brood.traces(f"{brood.key('this')[-4:]} sk- this".encode()) == []


# The stack that they live in -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> Brood:
    """Keys that are where they should not be."""
    return Brood()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, planted: Brood) -> Iterator[Stack]:
    """A stack of its own, that writes down all it can: SDKs in debug mode, Postgres every statement."""
    environ = {**TALKATIVE, "PLANTED": planted.key("environment")}
    config = Config(tmp_path_factory.mktemp("stack"), offset=free_offset(), durable=False, environ=environ)
    with running(config) as stack:
        with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:
            for setting, told in {
                "log_statement": "all",
                "log_min_messages": "debug1",
                "log_error_verbosity": "verbose",
                "log_parameter_max_length": "-1",
                "log_parameter_max_length_on_error": "-1",
                "track_activity_query_size": "1MB",  # at the next start only
            }.items():
                db.execute(f"alter system set {setting} = '{told}'".encode())
            db.execute("select pg_reload_conf()")
        yield stack


def ring(stack: Stack) -> dict[str, str]:
    """What the stack's functions seal with."""
    return {"ENCRYPTION_KEY": (stack.config.folder / "encryption-key").read_text()}


def store(stack: Stack, person: Person, provider: str, text: str) -> None:
    """Store a key that its provider would refuse at once. Only its seal reaches the database."""
    key, known = PlainKey(text), ring(stack)
    sealed = Vault(known, lambda: known).encrypt_without_refresh(key, person.id, provider).to_row()
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute(
            "select public.put_api_key(gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, true)",
            (person.id, provider, sealed["encrypted_key"], sealed["encryption_iv"], sealed["encryption_tag"],
             sealed["encryption_key_id"], key.hint),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Witness:
    """Everything that came back over the wire, and everything that could be seen of the processes meanwhile."""

    stack: Stack
    api: Api
    received: list[bytes] = field(default_factory=list)
    activity: set[bytes] = field(default_factory=set)
    command_lines: set[bytes] = field(default_factory=set)

    def hear(self, response: httpx.Response) -> None:
        """Note an answer."""
        headers = b"\n".join(name + b": " + value for name, value in response.headers.raw)
        self.received.append(b"%d\n%b\n\n%b" % (response.status_code, headers, response.read()))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the database's activity and at the processes' command lines, again and again."""
        over = threading.Event()

        def watch() -> None:
            with psycopg.connect(self.stack.postgres.url("supabase_admin"), autocommit=True) as db:
                while not over.wait(0.02):
                    rows = db.execute("select a::text from pg_stat_activity a where pid <> pg_backend_pid()").fetchall()
                    self.activity.update(row[0].encode() for row in rows)
                    self.command_lines.update(text for _, text in of_processes("cmdline"))

        with ThreadPoolExecutor(1) as pool:
            watcher = pool.submit(watch)
            try:
                yield
            finally:
                over.set()
                watcher.result()


def of_processes(what: str) -> Iterator[tuple[str, bytes]]:
    """A file of /proc of every process that this one started, and they."""
    parents = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for pid in sorted(ours - {os.getpid()}):
        with suppress(OSError):
            name = (PROC / str(pid) / "comm").read_text().strip()
            yield f"{name} ({pid})", (PROC / str(pid) / what).read_bytes()


# Where a key could be ------------------------------------------------------------------------------------------------

Found = Iterable[tuple[str, bytes]]


def files(folder: Path, *apart: Path) -> Found:
    """Every file below a folder, apart from some of its folders."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(other) for other in apart):
            with suppress(FileNotFoundError):  # Postgres has files that come and go
                yield str(path.relative_to(folder)), path.read_bytes()


def responses(witness: Witness) -> Found:
    return ((str(number), text) for number, text in enumerate(witness.received))


def logs(witness: Witness) -> Found:
    return files(witness.stack.config.folder / "logs")


def metrics(witness: Witness) -> Found:
    for name, text in logs(witness):
        for line in text.splitlines():
            if b'"CloudWatchMetrics"' in line:
                yield name, line


def journal(witness: Witness) -> Found:
    yield "the stand-in's", httpx.get(f"{witness.api.model_url}/_requests").content


def dump(witness: Witness) -> Found:
    """Every column of every table, bytes in hex."""
    postgres = witness.stack.postgres
    command = postgres.command("pg_dump", "--dbname", postgres.url("supabase_admin"))
    yield "pg_dump", subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def activity(witness: Witness) -> Found:
    return (("pg_stat_activity", row) for row in witness.activity)


def command_lines(witness: Witness) -> Found:
    yield from ((text.split(b"\0")[0].decode(), text) for text in witness.command_lines)
    yield from of_processes("cmdline")


def environments(witness: Witness) -> Found:
    return of_processes("environ")


def stack_files(witness: Witness) -> Found:
    folder = witness.stack.config.folder
    return files(folder, folder / "postgres", folder / "logs")


def data_files(witness: Witness) -> Found:
    data = witness.stack.postgres.data
    return files(data, data / "pg_wal")


def write_ahead_log(witness: Witness) -> Found:
    return files(witness.stack.postgres.data / "pg_wal")


PLACES: tuple[Callable[[Witness], Found], ...] = (
    responses, logs, metrics, journal, dump, activity, stack_files, data_files, write_ahead_log,
    *((command_lines, environments) if PROC.exists() else ()),
)  # fmt: skip

SAYS_PLANTED = """
import signal, sys
from functions.common.observe import Observer
observer = Observer("planted")
observer.info("planted", request_id=sys.argv[1])
observer.count(**{sys.argv[1]: 1})
print(flush=True)
signal.pause()
"""


def plant(witness: Witness, planted: Brood, person: Person, eventually: Callable[..., None]) -> None:
    """A key in every place: in a question and its answer, a statement, a log line, a metric, a file, an argument."""
    stack, api = witness.stack, witness.api
    assert planted.traces(api.stream(person, question(planted.key("question"))).text.encode())
    (stack.config.folder / "planted").write_text(planted.key("file"))
    child = stack._processes.start(
        "planted",
        [sys.executable, "-c", SAYS_PLANTED, planted.key("argument")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    eventually(lambda: b"CloudWatchMetrics" in child.log.read_bytes())
    with psycopg.connect(stack.postgres.url()) as db:
        db.execute(f"select '{planted.key('statement')}'".encode())
        eventually(lambda: any(planted.traces(row) for row in list(witness.activity)))


# What happens to them ------------------------------------------------------------------------------------------------

# What the provider does to a chat on an own key, and the status of its answer as JSON.
ENDINGS = {
    "": 200,
    "[fault:max-tokens]": 200,
    "[fault:refusal]": 200,
    "[fault:status 400]": 502,
    "[fault:status 401]": 422,
    "[fault:status 403]": 422,
    "[fault:status 404]": 502,
    "[fault:status 429 7]": 429,
    "[fault:status 500]": 502,
    "[fault:status 504]": 504,
    "[fault:overloaded]": 503,
    "[fault:error-event]": 503,
    "[fault:drop]": 502,
    "[fault:early-end]": 502,
    "[fault:bad-json]": 502,
    "[fault:empty]": 502,
}


@dataclass(frozen=True, slots=True)
class Life:
    """What canaries go through, each step with its outcome asserted."""

    witness: Witness
    brood: Brood
    person: People
    left: Look
    eventually: Callable[..., None]

    @property
    def api(self) -> Api:
        return self.witness.api

    def put(self, person: Person, provider: str, name: str, status: int = 200) -> None:
        body = {"api_key": self.brood.key(name)}
        response = self.api.http.put(f"/keys/{provider}", json=body, headers=person.headers)
        assert response.status_code == status, response.text

    def validate(self, person: Person, provider: str, status: int = 200) -> None:
        response = self.api.http.post(f"/keys/{provider}/validate", headers=person.headers)
        assert response.status_code == status, response.text

    def owner(self, provider: str, name: str) -> Person:
        """Somebody with a key."""
        person = self.person("basic")
        self.put(person, provider, name)
        return person

    def chat(self, person: Person, provider: str, text: str, status: int, **fields: Any) -> None:
        """As JSON, then as a stream; a rejected key is made valid in between."""
        body = question(f"Tell me {text}", provider=provider, **fields)
        assert self.api.chat(person, body).status_code == status
        if status == 422 and "[" in text:
            self.validate(person, provider)
        self.api.http.post("/chat", json=question(f"Tell me {text}", provider=provider), headers=person.headers)

    def ends(self, provider: str, text: str) -> None:
        """A chat that ends as the provider wants."""
        self.chat(self.owner(provider, "valid"), provider, text, ENDINGS[text])

    def is_not_accepted(self, provider: str) -> None:
        """A key that the provider never accepted, and an account without credit."""
        person = self.person("basic")
        store(self.witness.stack, person, provider, self.brood.key("invalid"))
        self.chat(person, provider, "", 422)
        self.validate(person, provider)
        self.chat(self.owner(provider, "exhausted"), provider, "", 402)

    def is_replaced_and_deleted(self, provider: str) -> None:
        person = self.owner(provider, "first")
        self.put(person, provider, "second")
        self.put(person, provider, "invalid-third", 422)
        self.validate(person, provider)
        self.chat(person, provider, "", 200)
        for _ in range(2):
            response = self.api.http.delete(f"/keys/{provider}", headers=person.headers)
            assert response.status_code == 200
        self.validate(person, provider, 404)
        self.put(self.person("free"), provider, "of-a-free-user", 403)

    def is_read_by_nobody(self, provider: str) -> None:
        """By its owner, and by the service role."""
        person = self.owner(provider, "read")
        info = self.witness.stack.info
        rest, service = f"{info['supabase_url']}/rest/v1", info["service_role_key"]
        with httpx.Client(event_hooks={"response": [self.witness.hear]}, timeout=30) as http:
            for token in (person.token, service):
                headers = {"apikey": info["anon_key"], "authorization": f"Bearer {token}"}
                for columns in ("*", "provider,hint,is_active,validation_error", "encrypted_key"):
                    http.get(f"{rest}/user_api_keys?select={columns}", headers=headers)
                http.post(f"{rest}/rpc/list_api_keys", json={}, headers=headers)
                asked = {"p_user_id": person.id, "p_provider": provider}
                http.post(f"{rest}/rpc/get_api_key", json=asked, headers=headers)
        assert self.api.http.get("/keys", headers=person.headers).status_code == 200

    def is_sent_wrongly(self, provider: str) -> None:
        """In bodies that are no request, and where no key belongs."""
        person, key, path = self.person("basic"), self.brood.key("mistaken"), f"/keys/{provider}"
        http = self.api.http
        for content, status in (
            (json.dumps({"api_key": f"{key} {key}"}), 422),
            (json.dumps({"api_key": f"{key}\0"}), 422),
            (json.dumps({"api_key": f"{key}é"}), 422),
            (json.dumps({"api_key": key * 20}), 422),
            (json.dumps({"api_key": [key]}), 422),
            (json.dumps({"api_key": {key: key}}), 422),
            (json.dumps({"key": key}), 422),
            (json.dumps({key: key}), 422),
            (json.dumps(key), 422),
            (f'{{"api_key": "{key}', 400),
            (f"api_key={key}", 400),
            (json.dumps({"api_key": key * 10_000}), 413),
        ):
            assert http.put(path, content=content, headers=person.headers).status_code == status
        body = {"api_key": key}
        assert http.put("/keys/mistral", json=body, headers=person.headers).status_code == 404
        assert http.post(path, json=body, headers=person.headers).status_code == 405
        assert http.put(path, json=body).status_code == 401
        assert http.put(path, json=body, headers={"authorization": f"Bearer {key}"}).status_code == 401
        assert http.get("/keys", params=body, headers={**person.headers, "x-api-key": key}).status_code == 200
        bad = question("Hi", provider=provider, api_key=key, language=key)
        assert self.api.chat(person, bad).status_code == 422

    def is_of_a_model_that_the_plan_lacks(self, provider: str) -> None:
        model = {"anthropic": "claude-opus-5-5", "openai": "gpt-6-astra"}[provider]
        self.chat(self.owner(provider, "valid"), provider, "", 422, model=model)

    def is_left_by_its_client(self, provider: str) -> None:
        """The client leaves in the middle of the answer, and before its beginning."""
        person = self.owner(provider, "left")
        with httpx.Client(base_url=self.api.http.base_url, timeout=30) as http:
            body = question("At length [fault:slow 0.05]", provider=provider)
            with http.stream("POST", "/chat", json=body, headers=person.headers) as response:
                lines = response.iter_lines()
                self.witness.received.append(next(line for line in lines if "text-delta" in line).encode())
            body = question("At last [fault:stall-before 2]", provider=provider)
            with suppress(httpx.ReadTimeout):
                http.post("/chat", json=body, headers=person.headers, timeout=0.5)
        self.eventually(lambda: self.left(person).outcomes == ["answered", "answered"])

    def meets_our_own_faults(self, provider: str) -> None:
        """The database refuses to store, to keep, to settle, to note; and a seal that does not open."""
        at_put, at_keep, at_settle, at_note, at_open = (self.person("basic") for _ in range(5))
        for person in (at_keep, at_settle, at_note, at_open):
            self.put(person, provider, "unlucky")
        with psycopg.connect(self.witness.stack.postgres.url(), autocommit=True) as db:
            for number, (table, when, value) in enumerate(
                [
                    ("user_api_keys", "insert", f"new.user_id = '{at_put.id}'"),
                    ("conversations", "insert", f"new.user_id = '{at_keep.id}'"),
                    ("usage_logs", "insert", f"new.user_id = '{at_settle.id}'"),
                    ("user_api_keys", "update", f"new.user_id = '{at_note.id}'"),
                ]
            ):
                name = f"refuse_{provider}_{number}"
                db.execute(
                    f"create function private.{name}() returns trigger language plpgsql as"
                    " $$ begin raise exception 'not this one: %', new; end $$;"
                    f"create trigger {name} before {when} on public.{table} for each row"
                    f" when ({value}) execute function private.{name}()".encode()
                )
            db.execute(
                "update public.user_api_keys set encryption_tag = '0123456789abcdef' where user_id = %s", (at_open.id,)
            )
        self.put(at_put, provider, "unlucky", 500)
        self.chat(at_keep, provider, "", 200)
        self.api.chat(at_settle, question("Well?", provider=provider))
        self.api.chat(at_settle, question("Well? [fault:drop]", provider=provider))
        assert self.api.chat(at_note, question("Well? [fault:status 401]", provider=provider)).status_code == 422
        self.validate(at_open, provider, 422)
        self.chat(at_open, provider, "", 422)

    def all(self) -> None:
        """All of it, several at once."""
        steps = (
            self.is_not_accepted, self.is_replaced_and_deleted, self.is_read_by_nobody, self.is_sent_wrongly,
            self.is_of_a_model_that_the_plan_lacks, self.is_left_by_its_client, self.meets_our_own_faults,
        )  # fmt: skip
        with ThreadPoolExecutor(CLIENTS) as pool:
            lives = [pool.submit(step, provider) for step in steps for provider in PROVIDERS]
            lives += [pool.submit(self.ends, provider, text) for text in ENDINGS for provider in PROVIDERS]
            for life in lives:
                life.result()


@pytest.mark.timeout(300)
def test_a_key_is_nowhere_but_with_its_provider_however_its_use_ends(
    stack: Stack, person: People, left: Look, eventually: Callable[..., None], planted: Brood
) -> None:
    brood = Brood()
    with httpx.Client(base_url=stack.info["functions_url"], timeout=60) as http:
        witness = Witness(stack, Api(http, stack.info["model_url"]))
        http.event_hooks = {"response": [witness.hear]}
        with witness.watching():
            Life(witness, brood, person, left, eventually).all()
            plant(witness, planted, person("basic"), eventually)
        with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:
            db.execute("checkpoint")

        # What is searched is as talkative as it was told to be, and went through what it should.
        said = {name: text.decode(errors="replace") for name, text in logs(witness)}
        for line in (
            "Request options", "HTTP Response", '"HoldsLeftToExpire"', "hold left to expire", "turn not kept",
            "rejected key not noted", "own key not opened",
        ):  # fmt: skip
            assert line in said["functions.log"], line
        for function in ("admit_query", "put_api_key", "note_api_key", "settle_query", "release_query"):
            assert function in said["postgres.log"], function
        assert "Parameters: $1" in said["postgres.log"]

        found = {place.__name__: list(place(witness)) for place in PLACES}
    assert [place for place, texts in found.items() if not any(planted.traces(text) for _, text in texts)] == []
    leaks = {
        f"{place}: {name}": traces
        for place, texts in found.items()
        for name, text in texts
        if (traces := brood.traces(text))
    }
    assert leaks == {}


# In this process: faults that cannot be ordered from outside ----------------------------------------------------------


def quoting(kind: type[BaseException], plain: str) -> BaseException:
    """An exception that shows a key to whoever shows it."""
    if kind is ExceptionGroup:
        return ExceptionGroup(f"two were tried with {plain}", [ValueError(plain), KeyError(plain)])
    return kind(f"cannot use {plain}")


@dataclass(slots=True)
class Quoting:
    """A provider, and all providers, that fails with the key in its message, its arguments and its locals."""

    kind: type[BaseException]
    at_once: bool
    platform = ("anthropic", "openai")
    raised: BaseException | None = None

    async def get(self, name: str) -> Provider:
        return self

    async def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        assert own_key is not None
        plain = own_key.reveal()
        if not self.at_once:
            yield Opened()
            yield Text("Well, ")
        self.raised = quoting(self.kind, plain)
        raise self.raised

    async def close(self) -> None:
        pass


class Panic(BaseException):
    """As extensions written in Rust raise it."""


Output = Callable[[], bytes]


@pytest.fixture
def output(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Output:
    """All that this process has written and logged, at every level."""
    caplog.set_level(logging.DEBUG)

    def read() -> bytes:
        written = capfd.readouterr()
        logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
        return f"{written.out}{written.err}{logged}".encode()

    return read


@pytest.fixture
def environ(stack: Stack) -> Mapping[str, str]:
    """The functions' environment."""
    return {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["anon_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"],
        "ANTHROPIC_API_KEY": "of-the-platform",
        "ANTHROPIC_BASE_URL": stack.info["model_url"],
        "OPENAI_API_KEY": "of-the-platform",
        "OPENAI_BASE_URL": f"{stack.info['model_url']}/v1",
        **ring(stack),
    }


@asynccontextmanager
async def chatting(environ: Mapping[str, str]) -> AsyncIterator[Chat]:
    """The chat. No fixture: it logs to the standard output that it finds at its start."""
    settings = load(ChatSettings, environ)
    # Of a name of its own, because powertools keeps a logger with its stream.
    observer = Observer(f"canary-{uuid.uuid4()}")
    parliament = Parliament(settings.parliament_api_url, settings.represent_api_url, settings.contact)
    chat = Chat(Database(settings), Providers(settings), parliament, load_vault(environ), observer)
    yield chat
    await chat.close()


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in the middle"])
@pytest.mark.parametrize("kind", [RuntimeError, TimeoutError, OSError, ExceptionGroup, Panic])
async def test_an_exception_that_quotes_the_key_is_told_without_it(
    stack: Stack,
    person: People,
    left: Look,
    output: Output,
    environ: Mapping[str, str],
    kind: type[BaseException],
    at_once: bool,
) -> None:
    brood, user, provider = Brood(), person("basic"), Quoting(kind, at_once)
    store(stack, user, "anthropic", brood.key("valid"))
    body = question("Hi", provider="anthropic")
    async with chatting(environ) as chat:
        chat.providers = provider  # type: ignore[assignment]
        feed = chat.start(user.id, ChatRequest.model_validate(body), "request")
        with pytest.raises((Internal, ProviderTimeout)) as caught:
            await feed.answer()
        told = f"{caught.value}{caught.value!r}{caught.value.sentence}".encode()
        spoken = b"".join([chunk async for chunk in feed.read(60)])
    assert left(user).outcomes == ["failed"]
    gc.collect()  # a task whose exception nobody asked for is told when it is forgotten
    written = output()
    assert b'"message":"query"' in written
    assert brood.traces(told + spoken + written) == []

    # There was something to tell: in the text, and to whoever would print the locals of every frame.
    assert provider.raised is not None
    whole = traceback.TracebackException.from_exception(provider.raised, capture_locals=True)
    assert brood.traces(repr(provider.raised).encode())
    assert brood.traces("".join(whole.format()).encode())


class Full(io.StringIO):
    """Where a log is written that has no room left."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_log_that_cannot_be_written_is_not_told_with_the_key(
    stack: Stack, person: People, output: Output, environ: Mapping[str, str]
) -> None:
    """Python says on the standard error why it could not log, and what was being handled meanwhile."""
    brood, user = Brood(), person("basic")
    store(stack, user, "anthropic", brood.key("valid"))
    async with chatting(environ) as chat:
        chat.providers = Quoting(RuntimeError, at_once=True)  # type: ignore[assignment]
        chat.observer._logger.registered_handler.setStream(Full())  # type: ignore[attr-defined]
        feed = chat.start(user.id, ChatRequest.model_validate(question("Hi", provider="anthropic")), "request")
        with pytest.raises(Internal):
            await feed.answer()
    assert brood.traces(output()) == []


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["stall-before 60", "stall 60", "drop", "status 401", "status 429", "bad-json"])
async def test_a_silent_or_broken_provider_is_told_without_the_key_at_any_level(
    stack: Stack,
    person: People,
    left: Look,
    output: Output,
    environ: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    fault: str,
) -> None:
    monkeypatch.setattr(limits, "PROVIDER_SILENCE_S", 0.5)
    brood, user = Brood(), person("basic")
    store(stack, user, provider, brood.key("valid"))
    body = question(f"Hi [fault:{fault}]", provider=provider)
    async with chatting(environ) as chat:
        feed = chat.start(user.id, ChatRequest.model_validate(body), "request")
        with pytest.raises(AppError) as caught:
            await feed.answer()
        told = "".join(traceback.format_exception(caught.value)).encode()
        spoken = b"".join([chunk async for chunk in feed.read(60)])
    assert left(user).outcomes == ["failed"]
    written = output()
    assert b'"message":"query"' in written
    assert f"{provider}._base_client".encode() in written
    assert brood.traces(told + spoken + written) == []


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, ExceptionGroup])
async def test_keys_that_fails_with_the_key_in_its_message_is_told_without_it(
    person: People, output: Output, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    brood, user = Brood(), person("basic")
    raised: list[BaseException] = []

    async def check(provider: str, key: PlainKey, settings: Any) -> None:
        plain = key.reveal()
        raised.append(quoting(kind, plain))
        raise raised[-1]

    monkeypatch.setattr(keys_handler, "check", check)
    monkeypatch.setattr(keys_handler, "Observer", lambda name: Observer(f"{name}-{uuid.uuid4()}"))
    monkeypatch.setattr(keys_handler, "read_environment", lambda: dict(environ))
    app = keys_handler.create()
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://keys") as http,
    ):
        response = await http.put("/keys/openai", json={"api_key": brood.key("valid")}, headers=user.headers)
    assert (response.status_code, response.json()["error"]["message"]) == (500, Internal.message)
    assert brood.traces(str(raised[0]).encode())
    written = output()
    assert b"unexpected failure" in written
    assert brood.traces(written + response.content + repr(response.headers).encode()) == []
