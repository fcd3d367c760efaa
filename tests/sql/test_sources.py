"""Rules for the text of sql/schemas/, which no linter checks."""

import re

from infra.local.migrations import SCHEMAS

FILES = sorted(SCHEMAS.glob("*.sql"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
INSERT = re.compile(r"insert into \S++(?: as \w+)?+\s*+(?!\()", re.IGNORECASE)


def lines() -> list[tuple[str, int, str]]:
    return [(name, number, line) for name, text in TEXTS.items() for number, line in enumerate(text.split("\n"), 1)]


def test_files_are_numbered_and_start_with_their_purpose() -> None:
    assert len(FILES) > 20
    assert [name for name in TEXTS if not re.fullmatch(r"\d\d_[a-z_]+\.sql", name)] == []
    assert [name for name, text in TEXTS.items() if not text.startswith("-- ")] == []


def test_lines_have_at_most_120_columns() -> None:
    assert [(name, number) for name, number, line in lines() if len(line) > 120] == []


def test_every_insert_names_its_columns() -> None:
    assert [(name, match[0]) for name, text in TEXTS.items() for match in INSERT.finditer(text)] == []


def test_only_one_function_names_the_charged_outcomes() -> None:
    found = [(name, line.strip()) for name, _, line in lines() if "'answered', 'stopped'" in line]
    assert found == [
        (
            "01_domains.sql",
            "constraint query_outcome_is_known check (value in ('answered', 'stopped', 'failed', 'lost'));",
        ),
        ("01_domains.sql", "return p_outcome in ('answered', 'stopped');"),
    ]


FUNCTIONS = [
    (match[1], match[2], match[3])
    for text in TEXTS.values()
    for match in re.finditer(r"create or replace function (\S+?)\((.*?)\nas \$\$\n(.*?)\n\$\$;", text, re.DOTALL)
]


def test_every_function_states_its_volatility() -> None:
    assert len(FUNCTIONS) > 60
    stated = re.compile(r"language \w+ (immutable|stable|volatile)\b")
    assert [name for name, head, _ in FUNCTIONS if not stated.search(head)] == []


def test_a_function_that_locks_and_writes_labels_its_steps() -> None:
    locks = re.compile(r"^  perform (pg_advisory_xact_lock|from auth\.users)", re.MULTILINE)
    assert [name for name, _, body in FUNCTIONS if locks.search(body) and "\n  -- Lock\n" not in body] == []
