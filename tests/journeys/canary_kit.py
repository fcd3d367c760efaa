"""Canary keys, and where to search for them.

A canary is `sk-HEAD-name-TAIL` and the hint, four more characters. HEAD and TAIL are random and the same for a whole
test run, so that a part of any key is recognised, as text or encoded.
"""

import itertools
import os
import secrets
import string
import subprocess
import sys
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg

from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.api import Api, question
from tests.conftest import Person

PROC = Path("/proc")


class CanaryKeys:
    """Keys with a common start and a common end, so that a part of any of them is recognised."""

    def __init__(self) -> None:
        alphabet = string.ascii_letters + string.digits
        first, second, self._tail = ("".join(secrets.choice(alphabet) for _ in range(size)) for size in (8, 8, 16))
        self._head = f"{first}+/{second}"  # characters that encodings change
        self._needles = {
            f"{form} of the {half} half": needle
            for half, piece in (("first", self._head), ("second", self._tail))
            for form, needle in encodings(piece).items()
        }

    def key(self, name: str) -> str:
        """A key with this name. The stand-in rejects `invalid` and has no credit for `exhausted`."""
        return f"sk-{self._head}-{name}-{self._tail}{secrets.token_hex(2)}"

    def traces(self, place: bytes) -> list[str]:
        """The parts and encodings of any of the keys in `place`."""
        return [form for form, needle in self._needles.items() if needle in place]


def encodings(piece: str) -> dict[str, bytes]:
    """The text in every encoding that is searched for, by name."""
    data = piece.encode()
    backwards = piece[::-1].encode()
    encoded = {
        "text": data,
        "text backwards": backwards,
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "URL encoding": quote(piece, safe="").encode(),
        "UTF-16": piece.encode("utf-16-le"),
    }
    for alphabet, encode in (("base64", b64encode), ("base64url", urlsafe_b64encode)):
        for before in range(3):
            # The characters that depend on these bytes alone, at each offset in the encoded text.
            first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
            encoded[f"{alphabet} after {before}"] = encode(bytes(before) + data)[first:last]
    return encoded


@dataclass(frozen=True, slots=True)
class Observation:
    """All responses, and what the database's activity and the processes' command lines showed meanwhile."""

    stack: Stack
    api: Api
    received: list[bytes] = field(default_factory=list)
    activity: set[bytes] = field(default_factory=set)
    command_lines: set[bytes] = field(default_factory=set)

    def record(self, response: httpx.Response) -> None:
        """Store a response."""
        headers = b"\n".join(name + b": " + value for name, value in response.headers.raw)
        self.received.append(b"%d\n%b\n\n%b" % (response.status_code, headers, response.read()))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the database's activity every 20 ms. The command lines, which change seldom, at every tenth time."""
        done = threading.Event()

        def watch() -> None:
            with psycopg.connect(self.stack.postgres.url("supabase_admin"), autocommit=True) as db:
                for number in itertools.count():
                    if done.wait(0.02):
                        break
                    rows = db.execute("select a::text from pg_stat_activity a where pid <> pg_backend_pid()").fetchall()
                    self.activity.update(row[0].encode() for row in rows)
                    if number % 10 == 0:
                        self.command_lines.update(text for _, text in process_files("cmdline"))

        with ThreadPoolExecutor(1) as pool:
            watcher = pool.submit(watch)
            try:
                yield
            finally:
                done.set()
                watcher.result()


def process_files(name: str) -> Iterator[tuple[str, bytes]]:
    """A file in /proc of every descendant of this process."""
    parents = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    descendants = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in descendants} - descendants:
        descendants |= more
    for pid in sorted(descendants - {os.getpid()}):
        with suppress(OSError):
            command = (PROC / str(pid) / "comm").read_text().strip()
            yield f"{command} ({pid})", (PROC / str(pid) / name).read_bytes()


Contents = Iterable[tuple[str, bytes]]


def files(folder: Path, *excluded: Path) -> Contents:
    """Every file below a folder, except in the excluded folders."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(other) for other in excluded):
            with suppress(FileNotFoundError):  # Postgres removes files while we read
                yield str(path.relative_to(folder)), path.read_bytes()


def responses(observation: Observation) -> Contents:
    return ((str(number), text) for number, text in enumerate(observation.received))


def logs(observation: Observation) -> Contents:
    return files(observation.stack.config.folder / "logs")


def metrics(observation: Observation) -> Contents:
    for name, text in logs(observation):
        for line in text.splitlines():
            if b'"CloudWatchMetrics"' in line:
                yield name, line


def journal(observation: Observation) -> Contents:
    yield "the stand-in's", httpx.get(f"{observation.api.model_url}/_requests").content


def dump(observation: Observation) -> Contents:
    """Every column of every table, bytes in hex."""
    postgres = observation.stack.postgres
    command = postgres.command("pg_dump", "--dbname", postgres.url("supabase_admin"))
    yield "pg_dump", subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def activity(observation: Observation) -> Contents:
    return (("pg_stat_activity", row) for row in observation.activity)


def command_lines(observation: Observation) -> Contents:
    yield from ((text.split(b"\0")[0].decode(), text) for text in observation.command_lines)
    yield from process_files("cmdline")


def environments(observation: Observation) -> Contents:
    return process_files("environ")


def stack_files(observation: Observation) -> Contents:
    folder = observation.stack.config.folder
    return files(folder, folder / "postgres", folder / "logs")


def data_files(observation: Observation) -> Contents:
    data = observation.stack.postgres.data
    return files(data, data / "pg_wal")


def write_ahead_log(observation: Observation) -> Contents:
    return files(observation.stack.postgres.data / "pg_wal")


PLACES: tuple[Callable[[Observation], Contents], ...] = (
    responses, logs, metrics, journal, dump, activity, stack_files, data_files, write_ahead_log,
    *((command_lines, environments) if PROC.exists() else ()),
)  # fmt: skip

LOG_PLANTED_KEY = """
import signal, sys
from functions.common.observe import Observer
observer = Observer("planted")
observer.info("planted", request_id=sys.argv[1])
observer.count(**{sys.argv[1]: 1})
print(flush=True)
signal.pause()
"""


def plant(observation: Observation, planted: CanaryKeys, person: Person, eventually: Callable[..., None]) -> None:
    """Put a key in every place: a question and its answer, a statement, a log line, a metric, a file, an argument."""
    stack, api = observation.stack, observation.api
    assert planted.traces(api.stream(person, question(planted.key("question"))).text.encode())
    (stack.config.folder / "planted").write_text(planted.key("file"))
    child = stack._processes.start(
        "planted",
        [sys.executable, "-c", LOG_PLANTED_KEY, planted.key("argument")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    eventually(lambda: b"CloudWatchMetrics" in child.log.read_bytes())
    with psycopg.connect(stack.postgres.url()) as db:
        db.execute(f"select '{planted.key('statement')}'".encode())
        eventually(lambda: any(planted.traces(row) for row in list(observation.activity)))
