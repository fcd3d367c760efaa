"""The documentation: widths, links, names that exist, and the lists of error codes and variables."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from functions.account.settings import AccountSettings
from functions.chat.settings import ChatSettings
from functions.checkout.settings import CheckoutSettings
from functions.common import database, errors
from functions.common.settings import Settings
from functions.keys.settings import KeysSettings
from functions.maintenance.handler import JOBS
from functions.webhooks.settings import WebhooksSettings
from infra.local.postgres import ROOT
from tests.sql.metering import Db

GENERATED = ROOT / "docs" / "transcript.md"  # written and compared by tests/journeys/test_conversation.py
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "sql" / "README.md"} - {GENERATED})
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

PROSE_COLUMNS, ROW_COLUMNS = 120, 160


def lines(page: Path) -> Iterator[tuple[int, str, bool]]:
    """Each line with its number, and whether it is prose: not in a fenced block and not a row of a table."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = line.lstrip().startswith("```")
        yield number, line, not (fenced or fence or line.startswith("|"))
        fenced ^= fence


@each_page
def test_lines_fit_the_screen(page: Path) -> None:
    long = [
        f"{page.name}:{number} has {len(line)} columns"
        for number, line, prose in lines(page)
        if len(line) > (PROSE_COLUMNS if prose else ROW_COLUMNS)
    ]
    assert long == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = [line.lstrip("#").strip() for _, line, prose in lines(page) if prose and line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_inside_the_repository_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


# Names of AWS and of the AI SDK.
FOREIGN = {
    "AsyncEventsDropped",
    "ConcurrentExecutions",
    "Errors",
    "InvocationDroppedCount",
    "InvocationThrottleCount",
    "REPORT",
    "TargetErrorCount",
    "prepareReconnectToStreamRequest",
    "useChat",
}
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*(?:\(\))?")
PATH = re.compile(r"(?:\.?[A-Za-z0-9_-]+/)+[A-Za-z0-9_.-]*|[A-Za-z0-9_-]+\.(?:py|md|sql|toml|yml|json|mjs|txt)")
FOLDERS = (ROOT, ROOT / "functions", ROOT / "functions/chat", ROOT / "frontend/example")
# Made by commands, a file of an empty Vite project, and the files that the templates of CONVENTIONS.md would be.
ABSENT = (
    ".build/peers",
    ".local/stack.json",
    "frontend/dist",
    "public/config.json",
    "src/index.css",
    "sql/schemas/24_bookmarks.sql",
    "functions/chat/tools/list_ridings.py",
)


@cache
def source() -> str:
    """Everything but the documentation, as one text."""
    kinds = {".py", ".sql", ".toml", ".yml", ".mjs", ".json", ".md", ".sh", ".txt", ".example", ".ts", ".tsx", ""}
    folders = ["functions", "infra", "sql", "tests", "bench", "requirements", "frontend", ".github"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if "node_modules" not in path.parts]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    read = {
        path
        for path in files
        if path.is_file() and path.suffix in kinds and path not in PAGES and path.name != "test_docs.py"
    }
    return "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(read))


@cache
def words() -> frozenset[str]:
    return frozenset(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", source()))


@each_page
def test_names_in_backticks_exist_in_the_repository(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    missing = []
    for name in re.findall(r"`([^`\n]+)`", text):
        if PATH.fullmatch(name):
            found = name in ABSENT or any((folder / name).exists() for folder in (*FOLDERS, page.parent))
        elif IDENTIFIER.fullmatch(name) and name not in FOREIGN:
            found = all(part in words() for part in name.removesuffix("()").split("."))
        else:
            continue
        if not found:
            missing.append(name)
    assert missing == []


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    text = (ROOT / page).read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table[0].splitlines()[2:]]


def subclasses(kind: type[Any]) -> set[type[Any]]:
    return {kind, *(below for child in kind.__subclasses__() for below in subclasses(child))}


def test_every_http_error_code_is_listed() -> None:
    listed = [(int(status), code) for status, code, *_ in rows("docs/error_codes.md", "## HTTP API")]
    assert sorted(listed) == sorted({(kind.status, kind.code) for kind in subclasses(errors.AppError)})


CONDITIONS = {
    "insufficient_privilege": "42501",
    "invalid_parameter_value": "22023",
    "check_violation": "23514",
}


def test_every_sqlstate_and_its_functions_are_listed(db: Db) -> None:
    """Of private functions only the code: their callers are what a client calls."""
    table = rows("docs/error_codes.md", "## Database")
    listed = {code for codes, *_ in table for code in codes.split(", ")}
    raised: set[tuple[str, str]] = set()
    for function in db.execute(
        "select pronamespace::regnamespace::text as schema, proname, prosrc from pg_proc"
        " where pronamespace in ('public'::regnamespace, 'private'::regnamespace)"
    ):
        codes = set(re.findall(r"errcode\s*=\s*'(\w+)'", function["prosrc"]))
        codes |= {CONDITIONS[name] for name in re.findall(r"raise (?!exception)([a-z_]+) using", function["prosrc"])}
        raised |= {(code, function["proname"] if function["schema"] == "public" else "") for code in codes}
    assert {code for code, _ in raised} <= listed
    assert set(database.ERRORS) <= listed
    for code, function in raised:
        functions = ", ".join(by for codes, by, *_ in table if code in codes)
        assert function in functions, f"{code} is raised by {function}, which the page does not list"


def variables() -> set[str]:
    """The environment variables that the functions read."""
    names = {"SECRETS_ID", "ENCRYPTION_KEY", "ENCRYPTION_KEYS"}
    settings: list[type[Settings]] = [ChatSettings, KeysSettings, CheckoutSettings, AccountSettings, WebhooksSettings]
    for field in (field for kind in settings for field in kind.model_fields.values()):
        alias = field.validation_alias
        names |= {alias} if isinstance(alias, str) else {str(name) for name in getattr(alias, "choices", [])}
    return {name for name in names if not name.startswith("NEXT_PUBLIC_")}


@pytest.mark.parametrize("page", ["docs/running.md", "sql/README.md"])
def test_environment_tables_list_every_variable(page: str) -> None:
    cells = [name for row in rows(page, "## Environment") for name in re.findall(r"`([A-Z_]+)`", row[0])]
    assert set(cells) == variables()
    assert len(cells) == len(set(cells))


def test_env_example_lists_every_variable_without_a_value() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^([A-Z_]+)=$", text, re.MULTILINE)) == variables()
    assert all(line.startswith("#") or re.fullmatch(r"[A-Z_]+=|", line) for line in text.splitlines())


def test_every_job_is_listed_with_its_schedule() -> None:
    listed = [name for row in rows("docs/deploy.md", "## The jobs") for name in re.findall(r"`([a-z-]+)`", row[0])]
    assert sorted(listed) == sorted(JOBS)


BACKGROUND = re.compile(
    r"\b(create_task|ensure_future|TaskGroup|run_in_executor|to_thread|call_later|call_at|shield)\("
)


def test_every_task_thread_and_timer_is_in_the_decision() -> None:
    """Lambda freezes the process after the response: decision 25 says why none of them is harmed."""
    page = (ROOT / "docs" / "decisions" / "0025-nothing-runs-after-the-response.md").read_text(encoding="utf-8")
    listed = [tuple(row.split(" | ")) for row in re.findall(r"^\| (\w+/\S+ \| \w+) \|", page, re.MULTILINE)]
    functions = ROOT / "functions"
    used = {
        (path.relative_to(functions).as_posix(), call)
        for path in functions.rglob("*.py")
        for call in BACKGROUND.findall(path.read_text(encoding="utf-8"))
    }
    assert sorted(listed) == sorted(used)
