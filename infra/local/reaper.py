"""Ends the stack's processes when the launcher has ended, even if it was killed.

Standard input is a pipe from the launcher. Every child writes its process id there before its exec, so that no process
runs unregistered. When the pipe closes, the reaper interrupts the remaining processes in reverse order and kills those
that do not end. It inherits the lock of the stack's folder, so that the next launcher waits until it has finished.
"""

import os
import signal
import sys
import time

GRACE_S = 8.0


def alive(pid: int) -> bool:
    """Whether the process runs. A zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 -- importing pathlib would double the start time
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True  # no /proc on this system


def end(pid: int) -> None:
    """Interrupts a process. Kills it if it does not end."""
    try:
        for number in (signal.SIGINT, signal.SIGKILL):
            os.kill(pid, number)
            deadline = time.monotonic() + GRACE_S
            while alive(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
    except ProcessLookupError:
        pass


def main() -> None:
    """Reads process ids (`-pid` for one that has ended) until the pipe closes, then ends the others."""
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
