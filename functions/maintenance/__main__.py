"""`python -m functions.maintenance <job>`: runs a job. Prints its report, if it has one, and its counts as JSON;
progress goes to the standard error. `python -m functions.maintenance user …` and the like are the support commands."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from functions.maintenance.command_line import Parser, expected, print_progress
from functions.maintenance.handler import JOBS, run_job

# The commands of supporters and operators. They are imported when one of them runs, because they need Stripe's SDK.
SUPPORT = ("announce", "costliest", "models", "pause", "resume", "user")


def parser() -> argparse.ArgumentParser:
    """One subcommand for each job, with its options."""
    described = Parser(prog="python -m functions.maintenance", description=__doc__, allow_abbrev=False)
    jobs = described.add_subparsers(dest="job", required=True, metavar="{" + ",".join([*JOBS, *SUPPORT]) + "}")
    for name, job in JOBS.items():
        command = jobs.add_parser(name, allow_abbrev=False)
        for key, option in job.options.items():
            flag = f"--{key.replace('_', '-')}"
            if option.parse is None:
                command.add_argument(flag, action="store_true", help=option.help)
            else:
                parse = _argument_type(option.parse)
                command.add_argument(flag, type=parse, required=option.required, help=option.help)
    return described


def _argument_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse`, with a ValueError turned into the error that argparse prints unchanged."""

    def value(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return value


def main(arguments: list[str]) -> int:
    """The exit status: 0 when the job is done, 2 for wrong arguments.

    1 when it failed, found differences, or left rows that it cannot read.
    """
    if arguments and arguments[0] in SUPPORT:
        from functions.maintenance.support import commands

        return commands.main(arguments)
    options = vars(parser().parse_args(arguments))
    name = options.pop("job")
    started = time.monotonic()
    try:
        result = asyncio.run(run_job(name, print_progress, options))
    except Exception as error:
        if not expected(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    for line in result.report:
        print(line)
    print(json.dumps(result.counts))
    print_progress(f"{name}: done in {time.monotonic() - started:.1f} s")
    return 1 if result.counts.get("differences") or result.counts.get("unreadable") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
