"""`python -m functions.maintenance <job>`: runs a job and prints its counts as JSON."""

import asyncio
import json
import sys

from functions.common.errors import AppError
from functions.common.settings import SettingsError
from functions.maintenance.handler import JOBS, run


def main(arguments: list[str]) -> int:
    """0 when the job is done, 1 when it failed, 2 for a name that is none."""
    if len(arguments) != 1 or arguments[0] not in JOBS:
        print(f"usage: python -m functions.maintenance {{{','.join(JOBS)}}}", file=sys.stderr)
        return 2
    try:
        counts = asyncio.run(run(arguments[0], lambda line: print(line, file=sys.stderr, flush=True)))
    except (SettingsError, AppError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
