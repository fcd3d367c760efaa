"""Answers of the sources with values of wrong types: a tool skips them or says so, and raises nothing."""

from typing import Any

import pytest

from functions.chat.tools import Tools
from tests.functions.tools.kit import ScriptedServer, page

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
