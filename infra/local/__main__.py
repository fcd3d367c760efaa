"""The local stack: `run` until Ctrl-C, `reset` its data, print a `token` of a user, or `seed` users for scripts.

Settings come from the environment and from `.env.local` in the checkout.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from infra.local import scripts
from infra.local.env_file import environment
from infra.local.postgres import ROOT
from infra.local.processes import StackError
from infra.local.stack import Config, reset, running

QUESTION = """{"id":"try","messages":[{"id":"'$RANDOM$RANDOM'","role":"user",
      "parts":[{"type":"text","text":"How did members vote on C-5?"}]}]}"""
EXAMPLES = """try in another terminal:
  curl URL/usage -H "authorization: Bearer $(STACK token --tier pro)"
  curl -N URL/chat -H "authorization: Bearer $(STACK token --tier basic)" -H 'content-type: application/json' \\
    -d 'QUESTION'
  STACK seed --tier basic --used 3"""


class Interrupted(BaseException):
    """A signal asked the stack to stop. A BaseException, so that no handler of errors catches it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C must not interrupt the shutdown.
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    raise Interrupted


def examples(folder: Path, url: str) -> str:
    """Commands for the stack in the folder, to be pasted in the checkout."""
    stack = ".venv/bin/python -m infra.local"
    if folder != ROOT / ".local":
        stack = f"STACK_DIR={shlex.quote(str(folder))} {stack}"
    return EXAMPLES.replace("URL", url).replace("QUESTION", QUESTION).replace("STACK ", f"{stack} ")


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
        url = stack.info["functions_url"]
        if stack.info["db_url"]:
            print(examples(config.folder, url), flush=True)
        print(f"ready in {time.monotonic() - started:.1f} s: open {url}; Ctrl-C stops it", flush=True)
        while True:
            time.sleep(0.2)
            if child := stack.ended_child():
                raise StackError(f"{child.name} ended unexpectedly. {child.log_tail()}")
            if os.getppid() != parent:
                raise Interrupted  # make was killed and can no longer forward Ctrl-C
            if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
                raise Interrupted  # the first Interrupted was lost where Python or psycopg drops exceptions


def is_full(error: Exception) -> bool:
    """Whether a full disk is the cause. A child says so in its log's end, and one that never ran by its kind."""
    return "No space left on device" in str(error) or type(error) is subprocess.SubprocessError


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    commands = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    added = commands.add_subparsers(dest="command", required=True, metavar="COMMAND")
    added.add_parser("run", help="run the stack until Ctrl-C")
    added.add_parser("reset", help="delete its data")
    scripts.add_commands(added)
    return commands


def main() -> int:
    """Runs the command. Returns the exit status."""
    arguments = parser().parse_args()
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, _interrupt)
    try:
        os.environ.update(environment(os.environ))
        config = Config.from_environment()
        if arguments.command == "run":
            run(config)
        elif arguments.command == "reset":
            reset(config.folder)
            print(f"deleted the data of the stack in {config.folder}")
        else:
            print(scripts.run(arguments, config.folder))
    except Interrupted:
        print("\nstopped")
    except Exception as error:
        if is_full(error):
            print("The disk of the stack's folder is full: free some space, or set STACK_DIR.", file=sys.stderr)
        elif isinstance(error, StackError):
            print(error, file=sys.stderr)
        else:
            raise
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
