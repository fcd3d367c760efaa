"""What the command lines of the jobs and of the support commands share."""

import argparse
import sys
from typing import NoReturn

from functions.common.errors import AppError
from functions.common.settings import SettingsError
from functions.maintenance.imports.errors import ImportFailed


class Parser(argparse.ArgumentParser):
    """Never repeats its input, which may be a key that was pasted in the wrong place."""

    def error(self, message: str) -> NoReturn:
        quotes_input = "'" in message or message.startswith("unrecognized arguments")
        self.print_usage(sys.stderr)
        self.exit(2, "" if quotes_input else f"{message}\n")


def print_progress(line: str) -> None:
    """Print to the standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def expected(error: Exception) -> bool:
    """Whether the error's text is a sentence for the operator: our own errors, and Stripe's. Only some jobs import
    Stripe's SDK."""
    stripe = sys.modules.get("stripe")
    return isinstance(error, AppError | SettingsError | ImportFailed | OSError) or (
        stripe is not None and isinstance(error, stripe.StripeError)
    )
