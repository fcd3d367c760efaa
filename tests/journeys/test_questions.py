"""The questions of citizens, asked of the tools, and the checks of a model's answers."""

import pytest

from functions.chat.tools import Outcome, Source
from infra.local.stack import Stack
from tests.journeys.questions import (
    Call,
    Question,
    ask_tools,
    facts_from_results,
    misses_in_answer,
    questions,
    read_message,
    table,
)

QUESTION = Question(
    "How did my MP vote on C-5?", [Call("how_they_voted")], ["Fern Quillwater", "Yes|for", "2026-05-26"]
)
PAGE = "https://x.test/votes/45-1/18/"
OUTPUT = {"asked_about": {"name": "Fern Quillwater", "ballot": "Yes"}, "date": "2026-05-26", "yea": 1234}
OUTCOMES = [Outcome(OUTPUT, None, [Source(PAGE, "Vote 18")])]
ANSWER = f"Fern Quillwater voted for it [on May 26]({PAGE}), and so did 1,234 members of the House of Commons."


def test_every_question_is_answered_by_the_tools(stack: Stack) -> None:
    asked = questions()
    assert len({question.asks for question in asked}) == len(asked) >= 60
    assert sum(question.language == "fr" for question in asked) >= 20
    assert [question.asks for question in asked if not facts_from_results(question)] == []
    rows = ask_tools(asked, stack)
    assert not any(missing for _, missing in rows), table(rows)


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        (ANSWER, []),
        (ANSWER.replace("Fern Quillwater", "She"), ["no Fern Quillwater"]),
        (ANSWER.replace("May 26", "May 25"), ["no 2026-05-26", "invented: 25"]),
        (ANSWER.replace("1,234", "1,235"), ["invented: 1,235"]),
        (ANSWER + " Barnaby Tidewell did not.", ["invented: Barnaby Tidewell"]),
        (ANSWER.replace(PAGE, "https://x.test/"), ["no link to a source", "a link of its own: https://x.test/"]),
        (
            f"Fern Quillwater a voté pour (« Yes ») le [26 mai]({PAGE}), et la Chambre avec elle.",
            ["another language"],
        ),
    ],
)
def test_an_answers_gaps_and_inventions_are_found(answer: str, missing: list[str]) -> None:
    assert misses_in_answer(QUESTION, answer, OUTCOMES) == missing


def test_a_message_is_read_as_text_results_and_sources() -> None:
    parts = [
        {"type": "tool-how_they_voted", "output": OUTPUT},
        {"type": "source-url", "url": PAGE, "title": "Vote 18"},
        {"type": "text", "text": ANSWER},
    ]
    text, outcomes = read_message(parts)
    assert misses_in_answer(QUESTION, text, outcomes) == []
