"""`python -m infra.local run` starts the local stack until Ctrl-C; `reset` throws its data away."""

import os
import signal
import sys
import time
from types import FrameType

from infra.local.processes import StackError
from infra.local.stack import MODEL, Config, reset, running


class Interrupted(BaseException):
    """Somebody wants the stack to stop. Like KeyboardInterrupt nothing that handles errors handles it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not interrupt the stopping.
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    raise Interrupted


def run(config: Config) -> None:
    """Start, say what runs where, wait. Raises StackError."""
    started = time.monotonic()
    # From the Makefile where that started us: make may be gone before this line.
    parent = int(os.environ.get("MAKE_PID") or os.getppid())
    print("starting the local stack ...", flush=True)
    with running(config) as stack:
        for note in stack.notes:
            print(f"note: {note}")
        for what, where in stack.places(
            config.url(MODEL) if stack.info["model_url"] else None, not stack.info["db_url"]
        ):
            print(f"  {what:<28} {where}")
        print(
            f"ready in {time.monotonic() - started:.1f} s: open {stack.info['functions_url']}; Ctrl-C stops it",
            flush=True,
        )
        while True:
            time.sleep(0.2)
            if child := stack.ended():
                raise StackError(f"{child.name} ended unexpectedly. {child.last_words()}")
            if os.getppid() != parent:
                raise Interrupted  # make was killed; nobody is left to stop us
            if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
                raise Interrupted  # ... and the first one was lost, raised where Python or psycopg drops exceptions


def main() -> int:
    """The exit status."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, _interrupt)
    try:
        config = Config.from_environment()
        if sys.argv[1:] == ["run"]:
            run(config)
        elif sys.argv[1:] == ["reset"]:
            reset(config.folder)
            print(f"the stack in {config.folder} starts from nothing next time")
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
