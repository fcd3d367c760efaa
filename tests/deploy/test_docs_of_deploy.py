"""docs/deploy.md: its commands, as far as they run without AWS, and its table of costs."""

import re
import shlex

import pytest

from infra.deploy import __main__ as command
from infra.deploy import costs
from infra.deploy.secrets import ENTRIES, JWT_SECRET, NAMES
from infra.local.postgres import ROOT
from tests.deploy.kit import make

PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
MAKE = sorted(set(re.findall(r"`(make (?:deploy|smoke|rollback|secrets|rotate)\b[^`]*)`", PAGE + RUNBOOK)))
JOBS = sorted(set(re.findall(r"python -m functions\.maintenance ([a-z-]+)", PAGE)))


def test_the_page_names_every_command() -> None:
    assert {line.split()[1] for line in MAKE} == {"deploy", "smoke", "rollback", "secrets", "rotate"}


@pytest.mark.parametrize("line", MAKE)
def test_a_make_command_of_the_page_is_understood(line: str) -> None:
    """make prints what it would run, and the command's own parser reads the arguments."""
    arguments = [part.replace("…", "x") for part in shlex.split(line)[1:]]
    if arguments[0] == "rotate" and not any(one.startswith("SECRET=") for one in arguments):
        arguments.append("SECRET=STRIPE_SECRET_KEY")
    shown = make("-n", *arguments).stdout
    _, _, rest = shown.replace("\\\n", " ").partition("python -m infra.deploy ")
    assert command.parser().parse_args(shlex.split(rest)).command == arguments[0]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_of_the_page_exists(job: str) -> None:
    from functions.maintenance.__main__ import parser

    with pytest.raises(SystemExit) as ended:
        parser().parse_args([job, "--help"])
    assert ended.value.code == 0


def test_the_table_of_secrets_is_the_codes() -> None:
    rows = re.findall(r"^\| (\w+) \| [^|]* \| ((?:`[A-Z_]+`(?:, )?)+) \|$", PAGE, re.MULTILINE)
    listed = {name: re.findall(r"`([A-Z_]+)`", entries) for name, entries in rows if name in ENTRIES}
    assert listed == {name: [e for e in entries if e != JWT_SECRET] for name, entries in ENTRIES.items()}


def test_the_table_of_rotation_has_the_seven() -> None:
    section = PAGE.partition("### Rotate one")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(name for cell in first_cells for name in re.findall(r"`([A-Z_]+)`", cell)) == sorted(NAMES)


def test_the_table_of_costs_is_up_to_date() -> None:
    assert costs.updated(PAGE) == PAGE


def test_costs_are_the_sum_of_their_parts() -> None:
    """By hand: a thousand chats of 9 s on 1 GB, and four thousand requests of 0.1 s on half of it."""
    small = costs.month(1_000)
    assert small.functions == 9_200 * costs.GB_SECOND + 5_000 * costs.REQUEST
    assert costs.month(2_000).fixed == small.fixed
    assert small.total == small.functions + small.logs + small.traffic + small.fixed
