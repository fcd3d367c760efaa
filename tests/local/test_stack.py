"""The launcher, run as a person runs it: what it starts, says and refuses, and that nothing of it is ever left over.

Every stack here has a folder and ports of its own. `PROVE=1` kills sixty launchers instead of ten; `SEED=n` repeats
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
from typing import Any, cast

import httpx
import psycopg
import pytest

from infra.local import stack as launcher
from infra.local.postgres import NAMESPACE, Postgres, unprivileged
from infra.local.processes import Processes, StackError
from infra.local.stack import (
    FUNCTIONS,
    GATEWAY,
    MODEL,
    PARLIAMENT,
    POSTGRES,
    POSTGREST,
    STRIPE,
    Config,
    Stack,
    free_offset,
    locked,
)

ROOT = Path(__file__).parents[2]
RUN = (sys.executable, "-m", "infra.local", "run")
MAKE = ("make", "--no-print-directory", "-o", ".venv/.ready", "-o", "infra/local/node_modules/.ready", "run")
KEYS = "supabase_url anon_key service_role_key db_url functions_url stripe_url model_url parliament_url"
DEADLINE_S = 60.0  # for a person that would be too long; a machine that runs other tests too may need it
CHAINS = 12 if os.environ.get("PROVE") else 1  # of five kills each
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


def rows(info: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Each seeded user's tier, ids at Stripe and billing period, as their row has them."""
    names = {user["id"]: name for name, user in info["users"].items()}
    with psycopg.connect(info["db_url"]) as database:
        found = database.execute(
            "select user_id::text, tier, stripe_customer_id, stripe_subscription_id,"
            " extract(epoch from current_period_start)::bigint, extract(epoch from current_period_end)::bigint"
            " from public.user_subscriptions where user_id = any(%s::uuid[])",
            (list(names),),
        )
        return {names[user_id]: tuple(rest) for user_id, *rest in found}


def at_stripe(info: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The same, as the stand-in for Stripe has it. Each subscription there is live."""
    names = {user["id"]: name for name, user in info["users"].items()}
    with httpx.Client(base_url=info["stripe_url"], headers={"authorization": "Bearer sk_test_local"}) as client:
        found = client.get("/v1/subscriptions", params={"status": "all", "limit": 100}).json()["data"]
        prices = {one["id"]: one["lookup_key"] for one in client.get("/v1/prices").json()["data"]}
    assert [one["status"] for one in found] == ["active"] * 3
    items = {one["id"]: one["items"]["data"][0] for one in found}
    return {
        names[one["metadata"]["user_id"]]: (
            *(prices[items[one["id"]]["price"]["id"]].removeprefix("plan_"), one["customer"], one["id"]),
            *(items[one["id"]]["current_period_start"], items[one["id"]]["current_period_end"]),
        )
        for one in found
    }


def paying(info: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The rows of those who pay: the stand-in for Stripe has exactly the same. The free user has no subscription."""
    found = rows(info)
    tier, _, *none = found.pop("free")
    assert (tier, none) == ("free", [None] * 3)
    assert found == at_stripe(info)
    assert [*found] == [row[0] for row in found.values()]
    return found


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
    assert all(info[place] in live.said for place in ("supabase_url", "db_url", "functions_url", "stripe_url"))
    assert all(info[place] in live.said for place in ("model_url", "parliament_url"))
    assert info["stripe_webhook_secret"] == "whsec_local"
    assert f"open {info['functions_url']}; Ctrl-C stops it" in live.said
    drafts = {path.name for path in live.folder.glob("*.new")}
    assert drafts <= {"stripe.new"}  # which is written anew whenever something happened at Stripe


@pytest.mark.skipif(sys.platform != "linux", reason="looks for sockets in /proc")
def test_everything_listens_on_loopback_only(live: Launcher) -> None:
    """The listening sockets of the stack's processes are its seven ports on 127.0.0.1."""
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
    ports = (GATEWAY, POSTGRES, POSTGREST, FUNCTIONS, STRIPE, MODEL, PARLIAMENT)
    assert listening == {(loopback, port) for port in ports}


def curl_lines(functions_url: str) -> list[httpx.Response]:
    """What the curl lines on the page at / are answered with, sent as they stand there."""
    answers = []
    for line in re.findall("<pre>(.*?)</pre>", httpx.get(functions_url).text, re.DOTALL):
        _, _, url, _, kind, _, authorization, _, body = shlex.split(html.unescape(line).replace("\\\n", ""))
        headers = dict(header.split(": ", 1) for header in (kind, authorization))
        answers.append(httpx.post(url, headers=headers, content=body, timeout=DEADLINE_S))
    return answers


def test_the_page_has_a_line_that_chats_and_one_that_opens_a_checkout(live: Launcher) -> None:
    """The second prints the address of a page of the stand-in's, on which the free user may buy the basic plan."""
    info = live.ready()
    chat, checkout = curl_lines(info["functions_url"])
    assert chat.status_code == 200
    assert chat.text.endswith("data: [DONE]\n\n")
    assert checkout.status_code == 200, checkout.text
    assert checkout.json()["url"].startswith(f"{info['stripe_url']}/c/pay/")
    page = httpx.get(checkout.json()["url"]).text
    assert "Pay with a good card" in page
    assert info["users"]["free"]["email"] in page


def functions_environment(folder: Path) -> dict[str, str]:
    """What the functions were started with."""
    (functions,) = (pid for pid, line in processes_of(folder).items() if "serve functions" in line)
    return dict(line.split("=", 1) for line in Path(f"/proc/{functions}/environ").read_text().split("\0") if line)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment in /proc")
def test_the_functions_get_the_stand_in_for_stripe_and_their_own_origins(live: Launcher) -> None:
    """It answers there; people may come back to the page or to a frontend on port 3000."""
    info, environ = live.ready(), functions_environment(live.folder)
    names = ("STRIPE_API_BASE", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")
    assert [environ[name] for name in names] == [info["stripe_url"], "sk_test_local", info["stripe_webhook_secret"]]
    port = info["functions_url"].rpartition(":")[2]
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}", "localhost:3000", "127.0.0.1:3000"]
    assert set(environ["ALLOWED_ORIGINS"].split(",")) == {f"http://{host}" for host in hosts}
    assert "Stripe, a stand-in" in httpx.get(info["stripe_url"]).text


def test_webhooks_reach_the_functions(live: Launcher) -> None:
    """What seeding made has been posted, in order, and dealt with before the start says ready."""
    info = live.ready()
    told = httpx.get(f"{info['stripe_url']}/_webhooks").json()
    assert (told["url"], told["hold"]) == (f"{info['functions_url']}/webhooks/stripe", False)
    events = [one for one in httpx.get(f"{info['stripe_url']}/_events").json() if "subscription" in one["type"]]
    assert len(events) >= 3
    assert {one["delivery"]["state"] for one in events} == {"delivered"}


def test_the_seeded_users_who_pay_have_live_subscriptions(live: Launcher) -> None:
    """At the stand-in, as their rows say."""
    assert set(paying(live.ready())) == {"basic", "pro", "usage_only"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment in /proc")
def test_the_functions_get_the_sample_data(live: Launcher) -> None:
    """Its address is theirs for the parliamentary data and for postal codes, and it answers there."""
    url, environ = live.ready()["parliament_url"], functions_environment(live.folder)
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


def test_a_taken_port_of_a_stand_in_is_named(tmp_path: Path) -> None:
    """Before anything is started."""
    offset = free_offset()
    with socket.create_server(("127.0.0.1", STRIPE + offset)):
        assert refusal(tmp_path / "other", str(offset)).startswith(f"Port {STRIPE + offset} is taken ")


def test_a_real_project_and_real_providers_replace_the_stand_ins(live: Launcher, tmp_path: Path) -> None:
    """With SUPABASE_URL, both providers, the parliamentary data and Stripe configured only the functions run, and chat
    with the project's tokens."""
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
        "STRIPE_SECRET_KEY": "sk_test_local",
        "STRIPE_API_BASE": there["stripe_url"],
        "STRIPE_WEBHOOK_SECRET": "whsec_mine",
        "ALLOWED_ORIGINS": "https://canadagpt.example",
    }
    with launched(tmp_path / "stack", free_offset(), environ) as running:
        info = running.ready()
        assert (info["supabase_url"], info["db_url"], info["model_url"]) == (there["supabase_url"], None, None)
        assert info["parliament_url"] == there["parliament_url"]
        assert (info["stripe_url"], info["stripe_webhook_secret"]) == (there["stripe_url"], "whsec_mine")
        assert all(there[place] in running.said for place in ("supabase_url", "parliament_url", "stripe_url"))
        commands = " ".join(processes_of(running.folder).values())
        assert "serve functions" in commands
        assert not re.search("postgres|postgrest|serve standins", commands)
        environ_there = functions_environment(running.folder) if sys.platform == "linux" else environ
        assert environ.items() <= environ_there.items()
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


@pytest.mark.parametrize("name", ["STRIPE_SECRET_KEY", "STRIPE_API_BASE"])
def test_either_variable_of_stripe_replaces_the_stand_in(tmp_path: Path, name: str) -> None:
    """Its own address is told, Stripe's where only the key is set."""
    value, processes = "https://stripe.example", cast("Processes", None)
    where = {"STRIPE_SECRET_KEY": "https://api.stripe.com", "STRIPE_API_BASE": value}[name]
    theirs = Stack(Config(tmp_path, environ={name: value}), processes).places(None, False)
    assert ("Stripe (yours)", where) in theirs
    ours = Stack(Config(tmp_path, environ={name: ""}), processes).places(None, False)
    assert ("Stripe, a stand-in", f"http://127.0.0.1:{STRIPE}") in ours


def test_with_a_real_stripe_the_seeded_users_have_their_plans_and_no_ids(tmp_path: Path) -> None:
    """And nothing listens on the stand-in's port; once it does, they subscribe there."""
    folder, offset = tmp_path / "stack", free_offset()
    real = {"STRIPE_SECRET_KEY": "sk_test_mine", "STRIPE_WEBHOOK_SECRET": "whsec_mine"}
    with launched(folder, offset, real) as running:
        info = running.ready()
        assert (info["stripe_url"], info["stripe_webhook_secret"]) == (None, "whsec_mine")
        assert rows(info) == {tier: (tier, None, None, None, None) for tier in FOUR}
        launcher.require_free(STRIPE + offset)
        assert not (folder / "stripe.json").exists()
        assert running.end() == 0
    with launched(folder, offset, {"STRIPE_WEBHOOK_SECRET": "whsec_mine"}) as running:
        info = running.ready()
        assert info["stripe_webhook_secret"] == "whsec_mine"
        assert len(paying(info)) == 3


def test_ctrl_c_stops_everything_and_the_data_stays_until_reset(tmp_path: Path) -> None:
    """Exit status 0, no process, no stack.json; rows, users and subscriptions are there again until `reset`."""
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
            ids.append([[user["id"] for user in info["users"].values()], paying(info)])
            assert running.end() == 0
            assert running.said.endswith("\nstopped\n")
        assert not (folder / "stack.json").exists()
    assert ids[0] == ids[1]
    (folder / "stripe.new").touch()  # as a kill leaves it
    with launched(folder, offset, command=(*RUN[:-1], "reset")) as resetting:
        assert resetting.process.wait(DEADLINE_S) == 0
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: "")
def test_a_kill_at_any_moment_leaves_nothing_and_the_next_start_works(tmp_path: Path, seed: int) -> None:
    """Launcher or make, killed or asked to end, during initdb, migrations, the servers' start, the first purchases, and
    when ready."""
    print(f"repeat with SEED={seed}")  # noqa: T201 -- pytest shows it where the test fails
    chance = random.Random(seed)  # noqa: S311 -- repeatable
    folder, offset = tmp_path / "stack", free_offset()
    ways = [(RUN, signal.SIGKILL), (RUN, signal.SIGINT), (MAKE, signal.SIGKILL), (MAKE, signal.SIGTERM)]
    ways.append((RUN, signal.SIGKILL))
    chance.shuffle(ways)
    # An earlier one may have come after everything had been bought.
    moments = [
        ("/initdb ", 0.6),
        ("/postgres ", 0.3),
        ("infra.local.serve", 2.0),
        ("infra.local.billing|ready in", 1.0),
    ]
    moments.append(("ready in", 0.3))
    for (command, number), (sign, longest) in zip(ways, moments, strict=True):
        with launched(folder, offset, command=command) as running:
            running.wait_until(
                sign,
                lambda sign=sign: any(re.search(sign, text) for text in (running.said, *processes_of(folder).values())),
            )
            time.sleep(chance.uniform(0, longest))  # the moment, not a wait
            running.end(number)
    with launched(folder, offset) as running:
        assert tiers(running.ready()) == FOUR
        assert len(paying(running.ready())) == 3
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
