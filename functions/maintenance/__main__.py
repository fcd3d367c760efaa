"""`python -m functions.maintenance <job>`: runs a job. Prints its report, if it has one, and its counts as JSON;
progress goes to the standard error."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from functions.common.errors import AppError
from functions.common.settings import SettingsError
from functions.maintenance.handler import JOBS, run_job
from functions.maintenance.imports.errors import ImportFailed


class Parser(argparse.ArgumentParser):
    """Never repeats its input, which may be a key that was pasted in the wrong place."""

    def error(self, message: str) -> NoReturn:
        quotes_input = "'" in message or message.startswith("unrecognized arguments")
        self.print_usage(sys.stderr)
        self.exit(2, "" if quotes_input else f"{message}\n")


def parser() -> argparse.ArgumentParser:
    """One subcommand for each job, with its options."""
    described = Parser(prog="python -m functions.maintenance", description=__doc__, allow_abbrev=False)
    jobs = described.add_subparsers(dest="job", required=True, metavar="{" + ",".join(JOBS) + "}")
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


def print_progress(line: str) -> None:
    """Print to the standard error."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """The exit status: 0 when the job is done, 1 when it failed or found differences, 2 for wrong arguments."""
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
    return 1 if result.counts.get("differences") else 0


def expected(error: Exception) -> bool:
    """Whether the error's text is a sentence for the operator: our own errors, and Stripe's. Only some jobs import
    Stripe's SDK."""
    stripe = sys.modules.get("stripe")
    return isinstance(error, AppError | SettingsError | ImportFailed | OSError) or (
        stripe is not None and isinstance(error, stripe.StripeError)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
