"""No process outlives the launcher, however it ends.

`PROVE=1` kills sixty launchers instead of five; `SEED=n` repeats a failure.
"""

import os
import random
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psycopg
import pytest

from infra.local.postgres import Postgres
from infra.local.processes import Processes
from infra.local.stack import (
    POSTGRES,
    free_offset,
    locked,
)
from tests.conftest import copy_stack
from tests.local.launcher_kit import DEADLINE_S, RUN, TIERS, launched, paying_users, processes_of, tiers, wait_for

READY = (".venv/.ready", "infra/local/node_modules/.ready", "frontend/dist/index.html")
MAKE = ("make", "--no-print-directory", *(f"--old-file={file}" for file in READY), "run")
DAY = 86_400
CHAINS = 12 if os.environ.get("PROVE") else 1  # of five kills each
SEEDS = [int(os.environ["SEED"])] if os.environ.get("SEED") else [secrets.randbelow(2**32) for _ in range(CHAINS)]


def clocks(info: Mapping[str, Any]) -> tuple[int, int]:
    """By how many seconds the database's clock and Stripe's are ahead, in whole minutes."""
    ahead = httpx.get(f"{info['functions_url']}/_stack").json()["clock"]["offset_s"]
    stripe_ahead = httpx.get(f"{info['stripe_url']}/_clock").json()["now"] - time.time()
    return round(ahead / 60) * 60, round(stripe_ahead / 60) * 60


def test_ctrl_c_stops_everything_and_reset_deletes_the_data(stopped_stack: Path, tmp_path: Path) -> None:
    """After Ctrl-C no process and no stack.json remain; the next start has the same rows, users and subscriptions, and
    its clocks where they were."""
    folder, offset = copy_stack(stopped_stack, tmp_path / "stack"), free_offset()
    ids = []
    for expected, days in (([], 0), ([("kept",)], 1)):
        with launched(folder, offset) as running:
            info = running.ready()
            assert len(processes_of(folder)) > 5
            with psycopg.connect(info["db_url"], autocommit=True) as database:
                assert database.execute("select title from public.conversations").fetchall() == expected
                database.execute(
                    "insert into public.conversations (user_id, title, expires_at) values (%s, 'kept', 'infinity')",
                    (info["users"]["pro"]["id"],),
                )
            imported = httpx.get(f"{info['parliament_url']}/_requests").json()
            assert imported == []  # the first start, of the folder that was copied, imported the sample
            ids.append([[user["id"] for user in info["users"].values()], paying_users(info)])
            assert clocks(info) == (days * DAY, days * DAY)
            move = httpx.post(f"{info['functions_url']}/_stack/clock", json={"days": 1}, timeout=DEADLINE_S)
            assert move.status_code == 200, move.text
            assert running.end() == 0
            assert running.printed.endswith("\nstopped\n")
        assert not (folder / "stack.json").exists()
    assert ids[0] == ids[1]
    (folder / "stripe.new").touch()  # a kill can leave it behind
    with launched(folder, offset, command=(*RUN[:-1], "reset")) as resetting:
        assert resetting.process.wait(DEADLINE_S) == 0
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: "")
def test_a_kill_at_any_moment_leaves_no_process(tmp_path: Path, seed: int) -> None:
    """The launcher or make gets SIGKILL, SIGINT or SIGTERM during initdb, migrations, the servers' start, the first
    purchases, or when ready. The next start works."""
    print(f"repeat with SEED={seed}")  # noqa: T201 -- pytest shows it if the test fails
    chance = random.Random(seed)  # noqa: S311 -- repeatable
    folder, offset = tmp_path / "stack", free_offset()
    ways = [(RUN, signal.SIGKILL), (RUN, signal.SIGINT), (MAKE, signal.SIGKILL), (MAKE, signal.SIGTERM)]
    ways.append((RUN, signal.SIGKILL))
    chance.shuffle(ways)
    # An earlier kill may have happened after all purchases, so "ready in" ends the wait, too.
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
                lambda sign=sign: any(
                    re.search(sign, text) for text in (running.printed, *processes_of(folder).values())
                ),
            )
            time.sleep(chance.uniform(0, longest))  # chooses the moment of the kill
            running.end(number)
    with launched(folder, offset) as running:
        assert tiers(running.ready()) == TIERS
        assert len(paying_users(running.ready())) == 3
        assert running.end() == 0


def test_the_next_start_ends_what_launcher_and_reaper_left(stopped_stack: Path, tmp_path: Path) -> None:
    """If launcher and reaper are killed, the next launcher ends their children and uses the same data and ports."""
    folder, offset = copy_stack(stopped_stack, tmp_path / "stack"), free_offset()
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


def test_a_process_with_postgres_old_id_is_not_ended(tmp_path: Path) -> None:
    """After a reboot, another process may have the recorded id. It is not signalled, and Postgres starts."""
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
    """Raised by the signal handler in the launcher."""


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_child_is_stopped_if_its_start_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the fork of a child and its registration in the launcher."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame and frame.f_code.co_name == "_execute_child":  # Python drops exceptions raised in its fork hooks
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
