"""The tools on members' expenses and lobbying, and the records of the lobbying, spending and dashboard pages."""

from typing import Any

import pytest

from functions.chat.sources.base import Language, SourceError
from functions.chat.tools.imported_records import page_record
from tests.functions.tools.kit import Runner, values
from tests.sources import parliament_at


async def test_expenses_of_a_member_have_rank_and_pages(runner: Runner) -> None:
    """A member with two rows in a quarter, one of them a refund, has one sum."""
    output = await runner.output("get_mp_expenses", "fr", slug="fern-quillwater", quarters=2)
    assert output["expenses_of"]["name"] == "Fern Quillwater"
    newest, before = output["items"]
    assert (newest["from"], newest["to"], before["from"]) == ("2026-07", "2026-09", "2026-04")
    assert newest["rank_of_total"].endswith(" / 41")
    amounts = [float(newest[name]) for name in ("salaries", "travel", "hospitality", "contracts")]
    assert sum(amounts) == pytest.approx(float(newest["total"]))
    assert newest["url"] == runner.url("/ProactiveDisclosure/fr/members/2027/2")

    moved = await runner.output("get_mp_expenses", slug="sixtus-plumbrook", quarters=20)
    assert len(moved["items"]) == 3
    assert "find_mps" in await runner.error("get_mp_expenses", slug="unknown-member")


async def test_largest_expenses_are_sorted_and_exclude_vacant_offices(runner: Runner) -> None:
    for category in ("total", "salaries", "travel", "hospitality", "contracts"):
        output = await runner.output("largest_expenses", category=category, fiscal_year=2027, quarter=1, limit=20)
        amounts = [float(amount) for amount in values(output, "amount")]
        assert amounts == sorted(amounts, reverse=True)
        assert "Vacant" not in values(output)
        assert (output["members"], output["from"], output["more"]) == (42, "2026-04", True)
    assert (await runner.output("largest_expenses", quarter=1))["quarter"] == 1
    assert "No expenses of that quarter" in await runner.error("largest_expenses", fiscal_year=1999, quarter=1)


@pytest.mark.parametrize("language", ["en", "fr"])
async def test_lobbying_on_a_bill_needs_number_and_title(runner: Runner, language: Language) -> None:
    """French texts are found. A C-5 of an earlier session, which is still registered, is not."""
    output = await runner.output("find_lobbying", language, bill="C-5")
    names = {
        "en": "Small Ferry Operators of Canada",
        "fr": "Exploitants de petits traversiers du Canada",
    }
    assert set(values(output, "organization")) == {
        names[language],
        "Société des traversiers de l’Île-aux-Fables",
        "Wharf Builders’ Guild",
    }
    assert (output["reports"], output["registrations"], output["organizations"]) == (12, 3, 3)
    assert all(item["registered_now"] for item in output["items"])


async def test_lobbying_is_found_by_subject_organization_and_member(runner: Runner) -> None:
    maple = "Maple Sap Producers of the Imaginary Coast"
    assert values(await runner.output("find_lobbying", subject="maple taxation"), "organization") == [maple]
    # A subject of the registry, in either language.
    for words in ("Agriculture", "fiscalité"):
        assert maple in values(await runner.output("find_lobbying", subject=words), "organization")
    assert values(await runner.output("find_lobbying", subject="maple", since="2026-10-30"), "reports") == [0]

    output = await runner.output("find_lobbying", "fr", organization="érable")
    name = "Producteurs d’eau d’érable de la Côte imaginaire"
    assert (output["lobbying_by"], output["reports"], output["active_registrations"]) == ([name], 4, 1)
    assert output["items"][0]["organization"] == name
    assert output["items"][0]["officials"][0].startswith("Théodule Vertegrange, ")
    assert "no organization" in await runner.error("find_lobbying", organization="unknown organization")
    later = await runner.output("find_lobbying", organization="érable", since="2030-01-01")
    assert (later["since"], later["reports"], later["active_registrations"]) == ("2030-01-01", 0, 1)
    clients = await runner.output("find_lobbying", organization="Whisper & Sons")
    assert {one["firm"] for one in clients["newest_registrations"]} == {"Whisper & Sons"}

    output = await runner.output("find_lobbying", slug="theodule-vertegrange", limit=3)
    assert (output["reports"], len(output["items"]), output["more"]) == (8, 3, True)
    assert [one["reports"] for one in output["most_reports_by"]] == [4, 4]
    unlobbied = await runner.output("find_lobbying", slug="tobias-hollowmere")
    assert (unlobbied["reports"], unlobbied["items"]) == (0, [])


async def test_exactly_one_question_about_lobbying_is_required(runner: Runner) -> None:
    for arguments in ({}, {"bill": "C-5", "subject": "ferries"}):
        assert "exactly one of bill, subject" in await runner.error("find_lobbying", **arguments)
    assert "since goes with" in await runner.error("find_lobbying", bill="C-5", since="2026-01-01")


@pytest.mark.parametrize(
    ("kind", "identity", "expected"),
    [
        ("spending", None, {"largest": "total", "fiscal_year": 2027, "quarter": 2}),
        ("spending", "2027-1", {"largest": "total", "fiscal_year": 2027, "quarter": 1}),
        ("spending", "fern-quillwater", {"name": "Fern Quillwater"}),
        ("lobbying", None, {"reports": 4, "to": "2026-10-19"}),
        ("lobbying", "45-1/C-5", {"organizations": 3}),
        ("lobbying", "theodule-vertegrange", {"reports": 8}),
        ("lobbying", "Friends of the Heron", {"lobbying_by": ["Friends of the Heron"]}),
        ("dashboard", None, {}),
    ],
)
async def test_pages_about_imported_data_have_a_record(
    runner: Runner, kind: str, identity: str | None, expected: dict[str, Any]
) -> None:
    found = await page_record(kind, identity, runner.parliament, "en")
    assert found is not None
    record, source = found
    assert {name: record[name] for name in expected} == expected
    assert source.url.startswith(runner.origin)
    if kind == "dashboard":
        assert (record["expenses"]["members"], record["lobbying"]["reports"]) == (41, 4)


async def test_a_page_about_something_unknown_has_no_record(runner: Runner) -> None:
    assert await page_record("lobbying", "No such company", runner.parliament, "fr") is None
    assert await page_record("spending", "2001-1", runner.parliament, "fr") is None


async def test_without_a_database_the_data_is_not_available(runner: Runner) -> None:
    parliament = parliament_at(runner.origin)
    try:
        with pytest.raises(SourceError, match="not available"):
            await page_record("dashboard", None, parliament, "en")
    finally:
        await parliament.close()
