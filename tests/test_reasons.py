"""The reasons: their copies, and rules for their sentences."""

import re
from string import Formatter
from typing import get_args

import pytest

from functions.common import errors, language, reasons
from functions.common.reasons import REASONS, Action
from infra.reasons import PAGE, SCHEMA, page, schema
from tests.sql.metering import Db


def test_sql_and_documentation_have_the_same_reasons() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema()
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text)


def test_the_table_has_every_reason(db: Db) -> None:
    rows = db.execute("select code, error, action, paying_helps, reason, ends, en, fr from public.reasons").fetchall()
    assert {row["code"]: tuple(row.values()) for row in rows} == {
        reason.code: (
            *(reason.code, reason.error, reason.action, reason.paying_helps, reason.sql),
            *(reason.ends, reason.en, reason.fr),
        )
        for reason in REASONS
    }


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def test_both_sentences_are_complete() -> None:
    for reason in REASONS:
        assert reason.action in get_args(Action)
        assert placeholders(reason.en) == placeholders(reason.fr)
        for sentence in (reason.en, reason.fr):
            assert sentence.endswith(".")
            assert sentence == " ".join(sentence.split())


ENGLISH = re.compile(
    r"\b(the|and|your|you|is|are|not|of|to|for|with|this|that|please|again|plan|quota|overage|query|queries|"
    r"credit pack|support|wait|try|limit|request|answer|e-mail|was|charged|today|upgrade)\b",
    re.IGNORECASE,
)


def test_no_french_sentence_has_an_english_word() -> None:
    assert {reason.code: ENGLISH.findall(reason.fr) for reason in REASONS if ENGLISH.search(reason.fr)} == {}
    assert [reason.code for reason in REASONS if not ENGLISH.search(reason.en)] == []


def test_every_error_has_a_reason_of_its_code() -> None:
    assert len({reason.code for reason in REASONS}) == len(REASONS)
    assert {reason.error for reason in REASONS} - {None} == set(errors.BY_CODE)
    for error in errors.AppError.__subclasses__():
        default = error.usual_reason or error.code
        assert default not in reasons.BY_CODE or reasons.BY_CODE[default].error == error.code


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "en"), ("*", "en"), ("fr", "fr"), ("fr-CA, fr;q=0.9, en;q=0.8", "fr"), ("en-CA,fr;q=0.9", "en"),
        ("de, fr;q=0.5, en;q=0.4", "fr"), ("FR;q=0.7,EN;q=0.9", "en"), ("fr;q=0", "en"), ("fr;q=x", "en"),
        (",;,;q=1,fr", "fr"), ("french", "en"),
    ],
)  # fmt: skip
def test_the_preferred_language_of_a_header(header: str, expected: str) -> None:
    assert language.preferred(header) == expected
