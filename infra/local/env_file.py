"""Reads `.env.local`: KEY=value lines with settings for the local stack, such as real API keys."""

import re
from collections.abc import Mapping
from pathlib import Path

from infra.local.processes import StackError

ROOT = Path(__file__).resolve().parents[2]
ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=(.*)")
QUOTED = re.compile(r"""(["'])(.*?)\1\s*(?:#.*)?""")
COMMENT = re.compile(r"\s#.*")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The process environment, completed from `.env.local` in the checkout; a variable of the process wins.

    ENV_FILE names another file; empty, no file is read. Raises StackError.
    """
    named = environ.get("ENV_FILE")
    path = ROOT / ".env.local" if named is None else Path(named)
    if named == "" or (named is None and not path.exists()):
        return dict(environ)
    # An empty variable counts as not set, but the providers' SDKs would read it as their address.
    variables = {name: value for name, value in read(path).items() if value}
    return {**variables, **environ}


def read(path: Path) -> dict[str, str]:
    """The variables of a file. Raises StackError with the line's number, never with its text: it may hold a secret."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise StackError(f"{path} cannot be read ({reason}).") from error
    variables = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        assignment = ASSIGNMENT.fullmatch(text)
        value = None if assignment is None else value_of(assignment[2])
        if assignment is None or value is None:
            raise StackError(f"{path}, line {number}: expected KEY=value, with matching quotes if any.")
        variables[assignment[1]] = value
    return variables


def value_of(text: str) -> str | None:
    """The value without quotes or a trailing comment. Nothing is expanded. None where a quote is not closed."""
    if text.strip().startswith(("'", '"')):
        quoted = QUOTED.fullmatch(text.strip())
        return quoted and quoted[2]
    return COMMENT.sub("", text).strip()
