"""`python -m functions.maintenance <job>`: runs a job, tells its progress on the standard error, and prints its report,
if it has one, and its counts as JSON."""

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


class Parser(argparse.ArgumentParser):
    """Never repeats what it was given, which may be a key that was pasted in the wrong place."""

    def error(self, message: str) -> NoReturn:
        quotes = "'" in message or message.startswith("unrecognized arguments")
        self.print_usage(sys.stderr)
        self.exit(2, "" if quotes else f"{message}\n")


def parser() -> argparse.ArgumentParser:
    """One command a job, with its options."""
    described = Parser(prog="python -m functions.maintenance", description=__doc__, allow_abbrev=False)
    jobs = described.add_subparsers(dest="job", required=True, metavar="{" + ",".join(JOBS) + "}")
    for name, job in JOBS.items():
        command = jobs.add_parser(name, allow_abbrev=False)
        for key, option in job.options.items():
            flag = f"--{key.replace('_', '-')}"
            if option.read is None:
                command.add_argument(flag, action="store_true", help=option.help)
            else:
                command.add_argument(flag, type=_told(option.read), required=option.required, help=option.help)
    return described


def _told(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read`, whose ValueError argparse shows as it is."""

    def value(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return value


def main(arguments: list[str]) -> int:
    """0 when the job is done, 1 when it failed or found what should not be, 2 for what it does not understand."""
    options: dict[str, Any] = vars(parser().parse_args(arguments))
    name = options.pop("job")

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    started = time.monotonic()
    try:
        counts = asyncio.run(run_job(name, tell, options))
    except Exception as error:
        if not expected(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    for line in counts.pop("report", []):
        print(line)
    print(json.dumps(counts))
    tell(f"{name}: done in {time.monotonic() - started:.1f} s")
    return 1 if counts.get("differences") else 0


def expected(error: Exception) -> bool:
    """Whether an error says in a sentence what to do: ours, and Stripe's, whose SDK only some jobs import."""
    stripe = sys.modules.get("stripe")
    return isinstance(error, AppError | SettingsError | OSError) or (
        stripe is not None and isinstance(error, stripe.StripeError)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
