"""Calls that fail because of their arguments: unknown records, invalid values, unknown tools."""

import re
from typing import Any

import pytest

from functions.chat.sources.base import RecordNotFound
from functions.chat.tools import Outcome
from functions.chat.tools.records import describe_bill, describe_mp
from tests.functions.tools.kit import CALLS, Runner


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("get_mp", {"slug": "unknown"}, "No MP has the slug unknown; find_mps finds slugs by name."),
        ("get_mp_votes", {"slug": "unknown"}, "No MP has the slug unknown; find_mps finds slugs by name."),
        ("get_mp_speeches", {"slug": "unknown"}, "No MP has the slug unknown; find_mps finds slugs by name."),
        ("find_bills", {"sponsor": "unknown"}, "No MP has the slug unknown; find_mps finds slugs by name."),
        (
            "get_bill",
            {"number": "C-999"},
            "There is no bill C-999 in session 45-1; find_bills finds bills by words.",
        ),
        (
            "get_bill_votes",
            {"number": "C-5", "session": "43-2"},
            "There is no bill C-5 in session 43-2; it exists in 45-1, 44-1: give the session.",
        ),
        (
            "get_bill_debate",
            {"number": "C-999"},
            "There is no bill C-999 in session 45-1; find_bills finds bills by words.",
        ),
        (
            "get_vote",
            {"number": 999},
            "There is no vote 999 in session 45-1; get_bill_votes and get_mp_votes return numbers.",
        ),
        (
            "get_committee",
            {"slug": "nothing"},
            "No committee has the slug nothing; find_committees finds slugs by words.",
        ),
    ],
)
async def test_unknown_record_error_names_the_next_step(
    runner: Runner, name: str, arguments: dict[str, Any], error: str
) -> None:
    assert await runner.error(name, **arguments) == error


HOSTILE = (
    "../votes",
    "..",
    "a/b",
    "a%2Fb",
    "a?limit=500",
    "a#b",
    "a b",
    "fern-quillwater\n",
    "fern-quillwater/",
    "45-1/../../votes",
    "C-5/x",
    "http://evil.example",
    "é",
    "-a",
    "",
    "a" * 61,
    "\x00",
)


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_invalid_arguments_never_reach_a_url(runner: Runner, hostile: str) -> None:
    calls = [(name, {**CALLS[name], "slug": hostile}) for name in CALLS if "slug" in CALLS[name]]
    calls += [
        (name, {**CALLS[name], key: hostile})
        for name in CALLS
        if "number" in CALLS[name]
        for key in ("number", "session")
    ]
    calls += [
        ("find_bills", {"sponsor": hostile}),
        ("find_bills", {"number": hostile}),
        ("find_mps", {"postal_code": hostile}),
        ("find_mps", {"name": "--"}),
        ("search_debates", {"words": "ferries", "party": "??"}),
    ]
    for name, arguments in calls:
        outcome = await runner.tools.run(name, arguments, "en")
        # Whitespace around a slug is valid: it is stripped.
        if hostile.strip() != hostile and {"slug", "sponsor"} & {*arguments}:
            continue
        assert outcome.error is not None
        assert outcome.error.startswith("Wrong arguments: ")
    expected = re.compile(r"/(politicians|committees)/fern-quillwater/|/(speeches|bills|votes|votes/ballots)/")
    assert all(expected.fullmatch(entry["path"]) for entry in await runner.requests())


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_invalid_page_context_never_reaches_a_url(runner: Runner, hostile: str) -> None:
    for describe in (
        describe_mp(runner.parliament, hostile, "en"),
        describe_bill(runner.parliament, hostile, "C-5", "en"),
        describe_bill(runner.parliament, None, hostile, "en"),
    ):
        with pytest.raises(RecordNotFound):
            await describe
    assert await runner.requests() == []


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("get_mp", {}, "Wrong arguments: slug: Field required."),
        ("get_mp", None, "Wrong arguments: slug: Field required."),
        ("get_mp", {"slug": 5}, "Wrong arguments: slug: Input should be a valid string."),
        ("get_mp", [], "Wrong arguments: Input should be a valid dictionary or instance of GetMp."),
        ("get_mp", "fern-quillwater", "Wrong arguments: Input should be a valid dictionary or instance of GetMp."),
        (
            "get_mp",
            {"slug": "fern-quillwater", "password": "hunter2"},
            "Wrong arguments: password: Extra inputs are not permitted.",
        ),
        (
            "find_mps",
            {"limit": 5},
            "Wrong arguments: give at least one of name, riding, province, party and postal_code.",
        ),
        (
            "find_mps",
            {"province": "XX", "limit": 0},
            "Wrong arguments: province: Input should be 'AB', 'BC', 'MB', 'NB', 'NL', 'NS', 'NT', 'NU', 'ON', 'PE', "
            "'QC', 'SK' or 'YT'; limit: Input should be greater than or equal to 1.",
        ),
        (
            "find_committees",
            {"limit": 21},
            "Wrong arguments: limit: Input should be less than or equal to 20.",
        ),
        (
            "find_committees",
            {"words": "x" * 101},
            "Wrong arguments: words: String should have at most 100 characters.",
        ),
        (
            "get_bill",
            {"number": "C5"},
            "Wrong arguments: number: String should match pattern '^[CScs]-[0-9]{1,4}[A-Za-z]?$'.",
        ),
        ("get_vote", {"number": 0}, "Wrong arguments: number: Input should be greater than or equal to 1."),
        (
            "get_mp_speeches",
            {"slug": "fern-quillwater", "since": "yesterday"},
            "Wrong arguments: since: Input should be a valid date or datetime, input is too short.",
        ),
    ],
)
async def test_wrong_arguments_are_named_with_the_reason(runner: Runner, name: str, arguments: Any, error: str) -> None:
    assert await runner.tools.run(name, arguments, "en") == Outcome(None, error, [])
    assert await runner.requests() == []


async def test_unknown_tool_error_lists_the_tools(runner: Runner) -> None:
    outcome = await runner.tools.run("rm -rf", {}, "en")
    assert outcome == Outcome(None, f"No tool has that name; the tools are {', '.join(CALLS)}.", [])


@pytest.mark.parametrize("argument", ["session", "words", "limit"])
async def test_null_equals_an_omitted_optional_argument(runner: Runner, argument: str) -> None:
    outcome = await runner.tools.run("find_bills", {"number": "C-5", argument: None}, "en")
    assert (outcome.error is None) is (argument != "limit")
