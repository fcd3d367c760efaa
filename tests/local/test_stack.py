"""The launcher, run as a person runs it: what it starts, says and refuses, and that nothing of it is ever left over.

Every stack here has a folder and ports of its own. `PROVE=1` kills sixty launchers instead of eight; `SEED=n` repeats
what a failure names.
"""

import html
import json
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psycopg
import pytest

from infra.local import stack as launcher
from infra.local.postgres import NAMESPACE, Postgres, unprivileged
from infra.local.processes import Processes, StackError
from infra.local.stack import FUNCTIONS, GATEWAY, MODEL, PARLIAMENT, POSTGRES, POSTGREST, free_offset, locked

ROOT = Path(__file__).parents[2]
RUN = (sys.executable, "-m", "infra.local", "run")
MAKE = ("make", "--no-print-directory", "-o", ".venv/.ready", "-o", "infra/local/node_modules/.ready", "run")
KEYS = "supabase_url anon_key service_role_key db_url functions_url stripe_url model_url parliament_url"
DEADLINE_S = 60.0  # for a person that would be too long; a machine that runs other tests too may need it
CHAINS = 15 if os.environ.get("PROVE") else 2  # of four kills each
SEEDS = [int(os.environ["SEED"])] if os.environ.get("SEED") else [secrets.randbelow(2**32) for _ in range(CHAINS)]


def wait_for(what: str, ready: Callable[[], Any]) -> None:
    """Poll until it is true. Fails naming what was awaited."""
    deadline = time.monotonic() + DEADLINE_S
    while not ready():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def processes_of(folder: Path) -> dict[int, str]:
    """The command lines of the processes that belong to the stack in `folder`: they name it, or they work in it."""
    if not Path("/proc/self").exists():
        listed = subprocess.run(["ps", "-axEww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        lines = [line.strip().partition(" ") for line in listed.stdout.splitlines() if str(folder) in line]
        return {int(pid): command for pid, _, command in lines}
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            names = command + (process / "environ").read_bytes() + os.fsencode((process / "cwd").readlink())
        except OSError:
            continue  # it has ended since
        if os.fsencode(folder) in names:
            found[int(process.name)] = command.replace(b"\0", b" ").decode()
    return found


class Launcher:
    """A launcher that was started in a folder: what it said, and how to end it."""

    def __init__(self, folder: Path, offset: int, environ: Mapping[str, str], command: Sequence[str]) -> None:
        self.folder = folder
        self.output = folder.with_name(f"output-{secrets.token_hex(4)}")
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        settings = {"STACK_DIR": str(folder), "PORT_OFFSET": str(offset), "PYTHONPATH": str(ROOT)}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**inherited, **settings, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait_until(self, what: str, ready: Callable[[], Any]) -> None:
        """Poll until it is true. Fails with what the launcher said if that ends instead."""

        def check() -> Any:
            assert self.process.poll() is None, f"the launcher ended before: {what}\n{self.said}"
            return ready()

        wait_for(what, check)

    def ready(self) -> dict[str, Any]:
        """What stack.json says once everything runs."""
        self.wait_until("ready", lambda: "ready in" in self.said)
        info: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return info

    def end(self, number: int = signal.SIGINT) -> int:
        """Signal it and wait until nothing of the stack runs. Its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE_S)
        wait_for(f"nothing runs in {self.folder}", lambda: not processes_of(self.folder))
        return status


@contextmanager
def launched(
    folder: Path, offset: int, environ: Mapping[str, str] | None = None, command: Sequence[str] = RUN
) -> Iterator[Launcher]:
    """A launcher that is interrupted afterwards, where it still runs."""
    running = Launcher(folder, offset, environ or {}, command)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


def refusal(folder: Path, offset: str = "0", command: str = "run", **environ: str) -> str:
    """What a launcher says that must fail: one line, without a traceback, leaving nothing running."""
    running = Launcher(folder, 0, {"PORT_OFFSET": offset, **environ}, (sys.executable, "-m", "infra.local", command))
    assert running.process.wait(DEADLINE_S) == 1, running.said
    said = running.said.removeprefix("starting the local stack ...\n")
    assert said.count("\n") == 1, said
    return said


def tiers(info: Mapping[str, Any]) -> dict[str, str]:
    """What each seeded user's plan is, as the functions see it."""
    return {
        name: httpx.get(
            f"{info['functions_url']}/usage", headers={"authorization": f"Bearer {user['access_token']}"}
        ).json()["tier"]
        for name, user in info["users"].items()
    }


FOUR = {"free": "free", "basic": "basic", "pro": "pro", "usage_only": "usage_only"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A stack that runs, for the tests that only look at it."""
    with launched(tmp_path_factory.mktemp("live") / "stack", free_offset()) as running:
        running.ready()
        yield running


def test_a_start_says_what_to_open_and_writes_stack_json(live: Launcher) -> None:
    """stack.json is private, has every key, and four users whose tokens work; each address is printed."""
    info, path = live.ready(), live.folder / "stack.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(info) == [*KEYS.split(), "stripe_webhook_secret", "users"]
    assert all(set(user) == {"id", "email", "password", "access_token"} for user in info["users"].values())
    assert tiers(info) == FOUR
    places = ("supabase_url", "db_url", "functions_url", "model_url", "parliament_url")
    assert all(info[place] in live.said for place in places)
    assert f"open {info['functions_url']}; Ctrl-C stops it" in live.said
    assert not list(live.folder.glob("*.new"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for sockets in /proc")
def test_everything_listens_on_loopback_only(live: Launcher) -> None:
    """The listening sockets of the stack's processes are its six ports on 127.0.0.1."""
    offset = int(live.ready()["functions_url"].rpartition(":")[2]) - FUNCTIONS
    sockets = set()
    for process in processes_of(live.folder):
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(link.readlink().name)
            except OSError:
                continue  # closed since
    listening = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                address, _, port = local.partition(":")
                listening.add((address, int(port, 16) - offset))
    loopback = socket.inet_aton("127.0.0.1")[:: -1 if sys.byteorder == "little" else 1].hex().upper()
    assert listening == {(loopback, port) for port in (GATEWAY, POSTGRES, POSTGREST, FUNCTIONS, MODEL, PARLIAMENT)}


def test_the_page_has_a_line_that_chats(live: Launcher) -> None:
    """The curl line on the page at / works as it stands there."""
    page = httpx.get(live.ready()["functions_url"]).text
    line = re.search("<pre>(.*)</pre>", page, re.DOTALL)
    assert line
    _, _, url, _, kind, _, authorization, _, body = shlex.split(html.unescape(line[1]).replace("\\\n", ""))
    headers = dict(header.split(": ", 1) for header in (kind, authorization))
    answer = httpx.post(url, headers=headers, content=body, timeout=DEADLINE_S)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment in /proc")
def test_the_functions_get_the_sample_data(live: Launcher) -> None:
    """Its address is theirs for the parliamentary data and for postal codes, and it answers there."""
    url = live.ready()["parliament_url"]
    (functions,) = (pid for pid, line in processes_of(live.folder).items() if "serve functions" in line)
    environ = dict(line.split("=", 1) for line in Path(f"/proc/{functions}/environ").read_text().split("\0") if line)
    assert (environ["PARLIAMENT_API_URL"], environ["REPRESENT_API_URL"]) == (url, url)
    assert httpx.get(f"{url}/votes/", headers={"accept": "application/json"}).json()["objects"]
    assert httpx.get(f"{url}/postcodes/K1A0A6/").status_code == 200


@pytest.mark.parametrize("command", ["run", "reset"])
def test_a_folder_in_use_is_refused(live: Launcher, command: str) -> None:
    """A second run and a reset say that a stack runs there, and it goes on."""
    assert refusal(live.folder, command=command) == (
        f"A stack runs in {live.folder} (process {live.process.pid}): stop it, or set STACK_DIR and PORT_OFFSET.\n"
    )
    assert tiers(live.ready()) == FOUR


def test_a_taken_port_is_named(live: Launcher, tmp_path: Path) -> None:
    """One sentence with the port and the way out; nothing stays behind."""
    offset = int(live.ready()["functions_url"].rpartition(":")[2]) - FUNCTIONS
    said = refusal(tmp_path / "other", str(offset))
    assert re.fullmatch(rf"Port {FUNCTIONS + offset} is taken .*: free it, or set PORT_OFFSET\.\n", said)
    assert not processes_of(tmp_path)


def test_a_real_project_and_real_providers_replace_the_stand_ins(live: Launcher, tmp_path: Path) -> None:
    """With SUPABASE_URL, both providers and the parliamentary data configured only the functions run, and chat with
    the project's tokens."""
    there = live.ready()
    environ = {
        "NEXT_PUBLIC_SUPABASE_URL": there["supabase_url"],
        "SUPABASE_ANON_KEY": there["anon_key"],
        "SUPABASE_SERVICE_ROLE_KEY": there["service_role_key"],
        "ANTHROPIC_API_KEY": "a-key",
        "ANTHROPIC_BASE_URL": there["model_url"],
        "OPENAI_API_KEY": "a-key",
        "OPENAI_BASE_URL": f"{there['model_url']}/v1",
        "PARLIAMENT_API_URL": there["parliament_url"],
    }
    with launched(tmp_path / "stack", free_offset(), environ) as running:
        info = running.ready()
        assert (info["supabase_url"], info["db_url"], info["model_url"]) == (there["supabase_url"], None, None)
        assert info["parliament_url"] == there["parliament_url"]
        assert there["supabase_url"] in running.said
        assert there["parliament_url"] in running.said
        commands = " ".join(processes_of(running.folder).values())
        assert "serve functions" in commands
        assert not re.search("postgres|postgrest|serve standins", commands)
        answer = httpx.post(
            f"{info['functions_url']}/chat",
            headers={
                "authorization": f"Bearer {there['users']['pro']['access_token']}",
                "accept": "application/json",
            },
            json={
                "id": "elsewhere",
                "messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "What is a riding?"}]}],
            },
            timeout=DEADLINE_S,
        )
        assert answer.status_code == 200
        assert running.end() == 0


def test_ctrl_c_stops_everything_and_the_data_stays_until_reset(tmp_path: Path) -> None:
    """Exit status 0, no process, no stack.json; rows and users are there again until `reset`."""
    folder, offset = tmp_path / "stack", free_offset()
    ids = []
    for expected in ([], [("kept",)]):
        with launched(folder, offset) as running:
            info = running.ready()
            assert len(processes_of(folder)) > 5
            with psycopg.connect(info["db_url"], autocommit=True) as database:
                assert database.execute("select title from public.conversations").fetchall() == expected
                database.execute(
                    "insert into public.conversations (user_id, title, expires_at) values (%s, 'kept', 'infinity')",
                    (info["users"]["pro"]["id"],),
                )
            ids.append([user["id"] for user in info["users"].values()])
            assert running.end() == 0
            assert running.said.endswith("\nstopped\n")
        assert not (folder / "stack.json").exists()
    assert ids[0] == ids[1]
    with launched(folder, offset, command=(*RUN[:-1], "reset")) as resetting:
        assert resetting.process.wait(DEADLINE_S) == 0
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: "")
def test_a_kill_at_any_moment_leaves_nothing_and_the_next_start_works(tmp_path: Path, seed: int) -> None:
    """Launcher or make, killed or asked to end, during initdb, migrations, the servers' start, and when ready."""
    print(f"repeat with SEED={seed}")  # noqa: T201 -- pytest shows it where the test fails
    chance = random.Random(seed)  # noqa: S311 -- repeatable
    folder, offset = tmp_path / "stack", free_offset()
    ways = [(RUN, signal.SIGKILL), (RUN, signal.SIGINT), (MAKE, signal.SIGKILL), (MAKE, signal.SIGTERM)]
    chance.shuffle(ways)
    moments = [("/initdb ", 0.6), ("/postgres ", 0.3), ("infra.local.serve", 2.5), ("ready in", 0.3)]
    for (command, number), (sign, longest) in zip(ways, moments, strict=True):
        with launched(folder, offset, command=command) as running:
            running.wait_until(
                sign, lambda sign=sign: any(sign in text for text in (running.said, *processes_of(folder).values()))
            )
            time.sleep(chance.uniform(0, longest))  # the moment, not a wait
            running.end(number)
    with launched(folder, offset) as running:
        assert tiers(running.ready()) == FOUR
        assert running.end() == 0


def test_what_a_kill_of_launcher_and_reaper_leaves_is_ended_by_the_next_start(tmp_path: Path) -> None:
    """With nobody left to clean up, the next launcher does, and starts on the same data and ports."""
    folder, offset = tmp_path / "stack", free_offset()
    with launched(folder, offset) as running:
        ids = [user["id"] for user in running.ready()["users"].values()]
        orphans = processes_of(folder)
        reaper = next(process for process, command in orphans.items() if "reaper.py" in command)
        os.kill(reaper, signal.SIGKILL)
        running.process.kill()
        running.process.wait()
    assert any("infra.local.serve" in command for command in processes_of(folder).values())
    with launched(folder, offset) as running:
        info = running.ready()
        assert [user["id"] for user in info["users"].values()] == ids
        assert not orphans.keys() & processes_of(folder).keys()
        assert running.end() == 0


def test_a_process_that_has_the_number_of_a_gone_postgres_is_let_be(tmp_path: Path) -> None:
    """After a crash of the machine: the recorded number is somebody else's; it is neither signalled nor in the way."""
    postgres = Postgres(tmp_path / "postgres", POSTGRES + free_offset(), durable=False)
    pid_file = postgres.data / "postmaster.pid"
    with locked(tmp_path) as lock, Processes(tmp_path, lock) as processes:
        postgres.start(processes)
        written = pid_file.read_text()
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            pid_file.write_text(re.sub(r"^\d+", str(stranger.pid), written))
            (tmp_path / "processes").write_text(f"{stranger.pid}\n")
            with locked(tmp_path) as lock, Processes(tmp_path, lock) as processes:
                postgres.start(processes)
            assert stranger.poll() is None
        finally:
            stranger.kill()


class Interrupt(Exception):
    """What a signal raises in the launcher."""


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_child_whose_start_is_interrupted_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between a child's birth and the launcher's note of it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame and frame.f_code.co_name == "_execute_child":  # elsewhere, in a hook of fork, Python would drop it
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with locked(tmp_path) as lock, Processes(tmp_path, lock) as processes:
            register = processes._register

            def register_slowly() -> None:
                register()
                for _ in range(20):  # the launcher still waits for this child's exec
                    os.kill(os.getppid(), signal.SIGUSR1)
                    time.sleep(0.01)

            monkeypatch.setattr(processes, "_register", register_slowly)
            with pytest.raises(Interrupt):
                processes.start("sleeper", ["sleep", "600"], env={"FOLDER": str(tmp_path)})
            wait_for("the child runs", lambda: any("sleep 600" in line for line in processes_of(tmp_path).values()))
        wait_for("the child has ended", lambda: not processes_of(tmp_path))
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("offset", ["-1", "x", "11205", "1.5", "²"])
def test_a_malformed_port_offset_is_refused(tmp_path: Path, offset: str) -> None:
    """One sentence with the range."""
    assert refusal(tmp_path / "stack", offset) == f"PORT_OFFSET is a number from 0 to 11204, not {offset!r}.\n"


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A STACK_DIR that is a file."""
    (tmp_path / "stack").touch()
    assert refusal(tmp_path / "stack").startswith(f"{tmp_path}/stack cannot hold a stack (File exists): set STACK_DIR")


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Postgres or PostgREST a sentence says what to install."""
    said = refusal(tmp_path / "stack", str(free_offset()), POSTGRES_BIN=str(tmp_path))
    assert said.startswith(f"POSTGRES_BIN names {tmp_path}, where no Postgres is: install PostgreSQL 17")
    monkeypatch.setattr(launcher, "POSTGREST_BINARY", tmp_path / "postgrest")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"install it .*brew install postgrest.*, or set SUPABASE_URL"):
        launcher.postgrest_binary()


def test_a_function_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Its own sentence about the setting, without the value; everything else is stopped again."""
    said = refusal(tmp_path / "stack", str(free_offset()), ANTHROPIC_API_KEY="a-key", ANTHROPIC_BASE_URL="nonsense")
    assert said == "functions did not start. ANTHROPIC_BASE_URL must start with https:// or http://.\n"
    assert not processes_of(tmp_path)


@contextmanager
def open_folder(owner: int) -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        os.chown(folder, owner, -1)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test ran as a plain user")
def test_it_works_as_a_plain_user() -> None:
    """As nobody; where nobody may not run this Python, as the plain user that root is in a user namespace."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    ways = [(nobody, 65534), (NAMESPACE, 0)]
    prefix, owner = next(
        (prefix, owner)
        for prefix, owner in ways
        if subprocess.run([*prefix, "sh", "-c", f"{RUN[0]} -c ''"], capture_output=True, check=False).returncode == 0
    )
    with (
        open_folder(owner) as folder,
        launched(folder / "stack", free_offset(), {"HOME": str(folder)}, (*prefix, *RUN)) as running,
    ):
        assert tiers(running.ready()) == FOUR
        assert running.end() == 0


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root on Linux becomes somebody else")
def test_root_without_namespaces_runs_postgres_as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that user may not enter, a sentence names the folder."""
    (tmp_path / "unshare").symlink_to("/bin/false")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("infra.local.postgres.unprivileged", unprivileged.__wrapped__)
    with open_folder(0) as folder, locked(folder) as lock, Processes(folder, lock) as processes:
        child = Postgres(folder / "postgres", POSTGRES + free_offset(), durable=False).start(processes)
        assert Path(f"/proc/{child.process.pid}").stat().st_uid == 65534
        (folder / "closed").mkdir(mode=0o700)
        with pytest.raises(StackError, match=f"as nobody it cannot enter {folder}/closed: run this as a plain user"):
            Postgres(folder / "closed" / "postgres", 0).start(processes)
