"""Child processes that never outlive the launcher. See reaper.py for how.

Where the reaper is killed too, the next launcher ends what is left: every child holds a lock, from before it becomes
what it is to be until its end, on the byte of its own process id in a file that lists them. The kernel says by it that
the process of that number is still that child.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.local.reaper import end

REAPER = Path(__file__).with_name("reaper.py")
READY_S = 60.0
STOP_S = 10.0


class StackError(Exception):
    """One sentence on what is missing or in the way, and what to do."""


def end_leftovers(logs: Path) -> frozenset[int]:
    """End the children of launchers before this one. Returns the process ids that were theirs."""
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "processes").open("a+b") as listed:
        listed.seek(0)
        pids = [int(line) for line in listed]
        for pid in reversed(pids):
            try:
                fcntl.lockf(listed, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, pid)
            except (BlockingIOError, PermissionError):
                end(pid)
    return frozenset(pids)


class Child:
    """A running process and where its output goes."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until it answers. Raises StackError with its last words if it ends instead."""
        deadline = time.monotonic() + READY_S
        while not ready():
            if self.process.poll() is not None:
                raise StackError(f"{self.name} did not start. {self.last_words()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer within {READY_S:.0f} s; its log is {self.log}")
            time.sleep(0.03)

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        words = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " ".join(words[-lines:])


class Processes:
    """Starts processes, and stops them in reverse order."""

    def __init__(self, logs: Path, lock_fd: int) -> None:
        self._logs = logs
        self._children: list[Child] = []
        self.before = end_leftovers(logs)
        self._list = os.open(logs / "processes", os.O_WRONLY | os.O_APPEND)
        read_end, self._pipe = os.pipe()
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(REAPER)], stdin=read_end, start_new_session=True, pass_fds=[lock_fd]
        )
        os.close(read_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Child:
        """Start a process in a session of its own: an interrupt at the terminal reaches only the launcher."""
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._register,
                pass_fds=[self._list],
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def run(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Run a process to its end. Raises StackError if it fails."""
        child = self.start(name, argv, env=env)
        status = child.process.wait()
        self._forget(child)
        if status != 0:
            raise StackError(f"{name} failed: {child.last_words()}")

    def stop_one(self, child: Child, stop_signal: signal.Signals = signal.SIGINT) -> None:
        """Interrupt a process and wait for its end; kill it if it stays."""
        if child.process.poll() is None:
            child.process.send_signal(stop_signal)
            try:
                child.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._forget(child)

    def stop(self) -> None:
        """Stop everything, last started first. The reaper stops a child whose start was interrupted."""
        while self._children:
            self.stop_one(self._children[-1])
        os.close(self._pipe)
        self._reaper.wait()
        os.ftruncate(self._list, 0)
        os.close(self._list)

    def ended(self) -> Child | None:
        """A process that ended though nobody stopped it."""
        return next((child for child in self._children if child.process.poll() is not None), None)

    def _register(self) -> None:
        pid = os.getpid()
        fcntl.lockf(self._list, fcntl.LOCK_EX, 1, pid)
        os.write(self._list, b"%d\n" % pid)
        os.write(self._pipe, b"%d\n" % pid)

    def _forget(self, child: Child) -> None:
        self._children.remove(child)
        os.write(self._pipe, b"-%d\n" % child.process.pid)
