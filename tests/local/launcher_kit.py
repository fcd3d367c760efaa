"""Starts the local stack's launcher as a user does, for the tests of the stack."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

ROOT = Path(__file__).parents[2]
RUN = (sys.executable, "-m", "infra.local", "run")
DEADLINE_S = 60.0  # generous, because other tests run on the same machine


def wait_for(what: str, ready: Callable[[], Any]) -> None:
    """Polls until it is true. Fails with `what` after DEADLINE_S seconds."""
    deadline = time.monotonic() + DEADLINE_S
    while not ready():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.05)


def processes_of(folder: Path) -> dict[int, str]:
    """The command lines of the stack's processes by process id: those that name `folder` or work in it."""
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
            continue  # it has ended
        if os.fsencode(folder) in names:
            found[int(process.name)] = command.replace(b"\0", b" ").decode()
    return found


class Launcher:
    """A launcher that was started in a folder: its output, and how to end it."""

    def __init__(self, folder: Path, offset: int, environ: Mapping[str, str], command: Sequence[str]) -> None:
        self.folder = folder
        self.output = folder.with_name(f"output-{secrets.token_hex(4)}")
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        settings = {"STACK_DIR": str(folder), "PORT_OFFSET": str(offset), "PYTHONPATH": str(ROOT), "ENV_FILE": ""}
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
    def printed(self) -> str:
        return self.output.read_text()

    def wait_until(self, what: str, ready: Callable[[], Any]) -> None:
        """Polls until it is true. Fails with the launcher's output if the launcher ends first."""

        def check() -> Any:
            assert self.process.poll() is None, f"the launcher ended before: {what}\n{self.printed}"
            return ready()

        wait_for(what, check)

    def ready(self) -> dict[str, Any]:
        """Waits until everything runs. Returns the content of stack.json."""
        self.wait_until("ready", lambda: "ready in" in self.printed)
        info: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return info

    def end(self, number: int = signal.SIGINT) -> int:
        """Signals the launcher and waits until no process of the stack runs. Returns the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE_S)
        wait_for(f"nothing runs in {self.folder}", lambda: not processes_of(self.folder))
        return status


@contextmanager
def launched(
    folder: Path, offset: int, environ: Mapping[str, str] | None = None, command: Sequence[str] = RUN
) -> Iterator[Launcher]:
    """Starts a launcher, and interrupts it afterwards if it still runs."""
    running = Launcher(folder, offset, environ or {}, command)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


def refusal(folder: Path, offset: str = "0", command: Sequence[str] = RUN, **environ: str) -> str:
    """The one line that a failing launcher prints."""
    running = Launcher(folder, 0, {"PORT_OFFSET": offset, **environ}, command)
    assert running.process.wait(DEADLINE_S) == 1, running.printed
    printed = running.printed.removeprefix("starting the local stack ...\n")
    assert printed.count("\n") == 1, printed
    return printed


def tiers(info: Mapping[str, Any]) -> dict[str, str]:
    """The tier of each seeded user, as the functions return it."""
    return {
        name: httpx.get(
            f"{info['functions_url']}/usage", headers={"authorization": f"Bearer {user['access_token']}"}
        ).json()["tier"]
        for name, user in info["users"].items()
    }


TIERS = {"free": "free", "basic": "basic", "pro": "pro", "usage_only": "usage_only"}


def rows(info: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The tier, Stripe ids and billing period of each seeded user, from the database."""
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
    """The same values from the Stripe stand-in. Every subscription there is active."""
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


def paying_users(info: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The rows of the paying users. Asserts that the Stripe stand-in has the same, and nothing for the free user."""
    found = rows(info)
    tier, _, *none = found.pop("free")
    assert (tier, none) == ("free", [None] * 3)
    assert found == at_stripe(info)
    assert [*found] == [row[0] for row in found.values()]
    return found
