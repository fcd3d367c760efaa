"""Runs one step of an installation: `python infra/install.py WHAT COMMAND...`.

Prints a line for each large download. If the command fails, prints one sentence instead of its output. Needs only the
standard library, because it runs before any package is installed.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The lines of pip and uv that name a download with its size, and the last line of npm.
DOWNLOAD = re.compile(r"\s*Downloading (?:\S*/)?(\S+?)(?:-[^-\s]+-\S+\.whl)? \(([\d.]+) ?([kKMG])i?B\)")
ADDED = re.compile(r"added (\d+ packages in \S+)")
# What package managers print where the user has to act before the step can succeed.
CAUSES = (
    ("no space left|ENOSPC", "the disk is full. Free some space, then"),
    ("permission denied|read-only|EACCES|EROFS", "the folder is read-only. Change that, then"),
    (
        "connect|resolution|dns |ENOTFOUND|EAI_AGAIN|timed out|timeout|unreachable|certificate",
        "its package registry cannot be reached. Check the network, then",
    ),
)


def say(line: str) -> None:
    """Prints a line in one write, because steps run side by side."""
    print(f"{line}\n", end="", flush=True)


def progress(line: str) -> str | None:
    """What to print of a line of the command's output."""
    if download := DOWNLOAD.match(line):
        name, size, unit = download.groups()
        return f"  {name} ({size} {unit.upper()}B)"
    if added := ADDED.match(line):
        return f"  {added[1]}"
    return None


def failure(what: str, tool: str, output: str) -> str:
    """The sentence for a failed command."""
    advice = "run the command again: what is installed already stays."
    for pattern, cause in CAUSES:
        if re.search(pattern, output, re.IGNORECASE):
            return f"{what} could not be installed by {tool}: {cause} {advice}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return (
        f"{what} could not be installed: {tool} failed ({lines[-1] if lines else 'without output'}). To retry, {advice}"
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns the exit status."""
    what, *command = arguments
    say(f"installing {what}")
    output = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if shown := progress(line):
                say(shown)
    if process.returncode != 0:
        print(failure(what, Path(command[0]).name, "".join(output)), file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
