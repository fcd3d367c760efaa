"""Answers of the sources with values of wrong types: a tool skips them or says so, and raises nothing."""

from typing import Any

import pytest

from functions.chat.tools import Tools
from tests.functions.tools.kit import ScriptedServer, page
from tests.sources import parliament_at

MEMBER = {"name": "Fern", "url": "/politicians/fern-quillwater/", "memberships": []}
WRONG: list[Any] = [7, "text", [7], {"en": 7}, True]


@pytest.mark.parametrize("wrong", WRONG)
async def test_tools_read_wrong_types_of_represent(server: ScriptedServer, tools: Tools, wrong: Any) -> None:
    server.answer("/politicians/", page([]))
    mp = {"elected_office": "MP", "name": wrong, "district_name": wrong, "party_name": wrong, "related": wrong}
    server.answer("/postcodes/K1A0A6/", {"representatives_centroid": [mp]})
    server.answer("/postcodes/K1A0A7/", {"representatives_centroid": wrong, "boundaries_centroid": wrong})
    for postal_code in ("K1A0A6", "K1A0A7"):
        assert (await tools.run("find_mps", {"postal_code": postal_code}, "fr")).error is None


@pytest.mark.parametrize("wrong", WRONG)
async def test_tools_read_wrong_types_of_votes_and_stages(server: ScriptedServer, tools: Tools, wrong: Any) -> None:
    bill = {"session": "45-1", "number": "C-5", "name": {"en": "Act", "fr": "Loi"}}
    stages = {"ParliamentNumber": 45, "SessionNumber": 1, "NumberCode": "C-5", "Publications": wrong}
    server.answer("/bills/45-1/C-5/", bill)
    server.answer("/legisinfo/en/bill/45-1/c-5/json", [{**stages, "BillStages": {"HouseBillStages": wrong}}])
    assert (await tools.run("get_bill", {"number": "C-5", "session": "45-1"}, "fr")).error is None
    vote = {
        "url": "/votes/45-1/5/",
        "session": "45-1",
        "number": 5,
        "date": "2026-03-11",
        "result": "Passed",
        "bill_url": "/bills/45-1/C-5/",
        **{f"{name}_total": 1 for name in ("yea", "nay", "paired")},
    }
    descriptions = ({"en": wrong, "fr": "Vote"}, {"en": "Vote", "fr": wrong})
    server.answer("/votes/", page([{**vote, "description": description} for description in descriptions]))
    assert (await tools.run("get_bill_votes", {"number": "C-5", "session": "45-1"}, "fr")).error is None
    server.answer("/debates/", page([{"date": "2026-03-11", "url": "/debates/2026/3/11/"}]))
    server.answer("/speeches/", page([{"url": wrong, "h1": wrong, "time": wrong, "bill_debated_url": wrong}]))
    assert (await tools.run("get_house_day", {}, "fr")).error is None


async def test_an_invalid_address_leads_to_the_site(server: ScriptedServer, tools: Tools) -> None:
    item = "<item><title>A</title><link>http://[x</link><description>b</description></item>"
    server.answer("/search/feed/", f"<rss><channel>{item}</channel></rss>".encode())
    outcome = await tools.run("search_debates", {"words": "herons"}, "en")
    assert outcome.error is None
    assert parliament_at(server.url).openparliament.public_url("http://[x") == f"{server.url}/"


@pytest.mark.parametrize("wrong", [None, "first", [1], "-3"])
async def test_an_unreadable_order_loses_no_minister(server: ScriptedServer, tools: Tools, wrong: Any) -> None:
    names = "<PersonOfficialLastName>Tidewell</PersonOfficialLastName><Title>Minister</Title>"
    entry = f"<Minister>{names}<PersonId>{wrong}</PersonId><OrderOfPrecedence>{wrong}</OrderOfPrecedence></Minister>"
    server.answer("/Members/en/ministries/xml", f"<ArrayOfMinister>{entry}</ArrayOfMinister>".encode())
    outcome = await tools.run("find_ministers", {}, "en")
    assert outcome.output is not None
    assert [item["name"] for item in outcome.output["items"]] == ["Tidewell"]


async def test_a_ballot_that_cannot_be_read_is_skipped(server: ScriptedServer, tools: Tools) -> None:
    server.answer("/politicians/fern-quillwater/", MEMBER)
    ballots = [{"vote_url": "/votes/45-1/1/", "ballot": choice} for choice in (None, "Maybe", 7)]
    good = [{"vote_url": "/votes/45-1/2/", "ballot": "Yes"}, {"vote_url": 7, "ballot": "Yes"}]
    server.answer("/votes/ballots/", page([*ballots, *good]))
    server.answer("/votes/", page([]))
    outcome = await tools.run("get_mp_votes", {"slug": "fern-quillwater"}, "en")
    assert outcome.output is not None
    assert [item["ballot"] for item in outcome.output["items"]] == ["Yes"]
