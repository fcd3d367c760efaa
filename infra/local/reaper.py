"""Ends the stack's processes when the launcher is gone, however it went.

The launcher holds the other end of this program's standard input. Every child writes its own process id there before
it becomes what it is to be, so there is no moment at which a process runs unknown. When the pipe breaks, what has not
ended by then is interrupted, last started first, and killed if it stays: everything, where the launcher was killed.
Inherits the lock of the stack's folder, so a next start waits until this is through.
"""

import os
import signal
import sys
import time

GRACE_S = 8.0


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 -- pathlib costs this program half its start
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True  # no /proc on this system


def end(pid: int) -> None:
    """Interrupt a process, and kill it if it stays."""
    try:
        for number in (signal.SIGINT, signal.SIGKILL):
            os.kill(pid, number)
            deadline = time.monotonic() + GRACE_S
            while alive(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
    except ProcessLookupError:
        pass


def main() -> None:
    """Read process ids (`-pid` for one that has ended) until the pipe breaks."""
    running: list[int] = []
    for line in sys.stdin:
        pid = int(line)
        if pid > 0:
            running.append(pid)
        elif -pid in running:
            running.remove(-pid)
    for pid in reversed(running):
        end(pid)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
