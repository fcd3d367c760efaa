"""`python -m infra.local run` runs the local stack until Ctrl-C; `reset` deletes its data.

Settings come from the environment and from `.env.local` in the checkout.
"""

import os
import signal
import sys
import time
from types import FrameType

from infra.local.env_file import environment
from infra.local.processes import StackError
from infra.local.stack import Config, reset, running


class Interrupted(BaseException):
    """A signal asked the stack to stop. A BaseException, so that no handler of errors catches it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C must not interrupt the shutdown.
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    raise Interrupted


def run(config: Config) -> None:
    """Starts the stack, prints what runs where, and waits for a signal. Raises StackError."""
    started = time.monotonic()
    # The Makefile passes MAKE_PID, because make may have ended before this line.
    parent = int(os.environ.get("MAKE_PID") or os.getppid())
    print("starting the local stack ...", flush=True)
    with running(config) as stack:
        for note in stack.notes:
            print(f"note: {note}")
        for place in stack.places():
            print(f"  {place.name:<28} {place.url}")
        print(
            f"ready in {time.monotonic() - started:.1f} s: open {stack.info['functions_url']}; Ctrl-C stops it",
            flush=True,
        )
        while True:
            time.sleep(0.2)
            if child := stack.ended_child():
                raise StackError(f"{child.name} ended unexpectedly. {child.log_tail()}")
            if os.getppid() != parent:
                raise Interrupted  # make was killed and can no longer forward Ctrl-C
            if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
                raise Interrupted  # the first Interrupted was lost where Python or psycopg drops exceptions


def main() -> int:
    """Runs the command. Returns the exit status."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, _interrupt)
    try:
        os.environ.update(environment(os.environ))
        config = Config.from_environment()
        if sys.argv[1:] == ["run"]:
            run(config)
        elif sys.argv[1:] == ["reset"]:
            reset(config.folder)
            print(f"deleted the data of the stack in {config.folder}")
        else:
            print(__doc__)
            return 2
    except Interrupted:
        print("\nstopped")
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
