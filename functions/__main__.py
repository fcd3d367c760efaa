"""`python -m functions`: all functions on one origin, for hosts other than AWS. docs/deploy.md has the environment."""

import sys

from functions.common.settings import SettingsError
from functions.server import serve

if __name__ == "__main__":
    try:
        serve()
    except SettingsError as error:
        sys.exit(str(error))
