"""Child processes that never outlive the launcher. reaper.py ends them if the launcher is killed.

If the reaper is killed too, the next launcher ends them. The file `processes` lists the children's process ids, and
each child locks the byte at the offset of its own id, from before its exec until its end. A held lock proves that the
process with that id is still the child, not a later process with the same id.
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
    """One sentence that states the problem and what to do."""


def end_leftovers(logs: Path) -> frozenset[int]:
    """Ends the children of earlier launchers. Returns the process ids that those launchers listed."""
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
    """A running process and its log file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Waits until `ready` is true. Raises StackError with the end of the log if the process ends first."""
        deadline = time.monotonic() + READY_S
        while not ready():
            if self.process.poll() is not None:
                raise StackError(f"{self.name} did not start. {self.log_tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer within {READY_S:.0f} s; its log is {self.log}")
            time.sleep(0.03)

    def log_tail(self, lines: int = 5) -> str:
        """The last lines of the log, joined by spaces."""
        log = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " ".join(log[-lines:])


class Processes:
    """Starts processes and stops them in reverse order."""

    def __init__(self, logs: Path, lock_fd: int) -> None:
        self._logs = logs
        self._children: list[Child] = []
        self.previous_pids = end_leftovers(logs)
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
        """Starts a process in its own session, so that Ctrl-C at the terminal reaches only the launcher."""
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
        """Runs a process to its end. Raises StackError if it fails."""
        self.finish(self.start(name, argv, env=env))

    def finish(self, child: Child) -> None:
        """Waits for the end of a process. Raises StackError if it fails."""
        status = child.process.wait()
        self._unregister(child)
        if status != 0:
            raise StackError(f"{child.name} failed: {child.log_tail()}")

    def stop_one(self, child: Child, stop_signal: signal.Signals = signal.SIGINT) -> None:
        """Signals a process and waits for its end. Kills it after STOP_S seconds."""
        if child.process.poll() is None:
            child.process.send_signal(stop_signal)
            try:
                child.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._unregister(child)

    def stop(self) -> None:
        """Stops everything in reverse order. The reaper stops a child whose start was interrupted."""
        while self._children:
            self.stop_one(self._children[-1])
        os.close(self._pipe)
        self._reaper.wait()
        os.ftruncate(self._list, 0)
        os.close(self._list)

    def ended_child(self) -> Child | None:
        """A process that ended without having been stopped."""
        return next((child for child in self._children if child.process.poll() is not None), None)

    def _register(self) -> None:
        """Runs in the child before its exec."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a launcher in the background may inherit an ignored SIGINT
        pid = os.getpid()
        fcntl.lockf(self._list, fcntl.LOCK_EX, 1, pid)
        os.write(self._list, b"%d\n" % pid)
        os.write(self._pipe, b"%d\n" % pid)

    def _unregister(self, child: Child) -> None:
        self._children.remove(child)
        os.write(self._pipe, b"-%d\n" % child.process.pid)
