"""Child processes that never outlive the launcher. See reaper.py for how."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

REAPER = Path(__file__).with_name("reaper.py")
READY_S = 60.0
STOP_S = 10.0


class StackError(Exception):
    """One sentence on what is missing or in the way, and what to do."""


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
            time.sleep(0.01)

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        words = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " ".join(words[-lines:])


class Processes:
    """Starts processes, and stops them in reverse order."""

    def __init__(self, logs: Path, lock_fd: int) -> None:
        self._logs = logs
        self._children: list[Child] = []
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
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def run(self, name: str, argv: Sequence[str]) -> None:
        """Run a process to its end. Raises StackError if it fails."""
        child = self.start(name, argv)
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
        """Stop everything, last started first."""
        while self._children:
            self.stop_one(self._children[-1])
        os.write(self._pipe, b"done\n")
        os.close(self._pipe)
        self._reaper.wait()

    def ended(self) -> Child | None:
        """A process that ended though nobody stopped it."""
        return next((child for child in self._children if child.process.poll() is not None), None)

    def _register(self) -> None:
        os.write(self._pipe, b"%d\n" % os.getpid())

    def _forget(self, child: Child) -> None:
        self._children.remove(child)
        os.write(self._pipe, b"-%d\n" % child.process.pid)
