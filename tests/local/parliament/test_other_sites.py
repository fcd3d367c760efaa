"""The other sites: openparliament.ca's search feed, Represent's postal codes and LEGISinfo's bills."""

import html
import re
from datetime import date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from tests.local.parliament.kit import get, get_all


async def search(client: httpx.AsyncClient, query: str) -> list[dict[str, str]]:
    """The items of the search feed."""
    answer = await client.get("/search/feed/", params={"q": query})
    assert answer.headers["content-type"].startswith("application/rss+xml")
    channel = ElementTree.fromstring(answer.content).find("channel")  # noqa: S314 -- from our own stand-in
    assert channel is not None
    return [{part.tag: part.text or "" for part in item} for item in channel.findall("item")]


async def test_feed_is_rss_that_links_to_matching_speeches(client: httpx.AsyncClient) -> None:
    items = await search(client, "small ferries")
    assert len(items) == 15
    dates = [parsedate_to_datetime(item["pubDate"]) for item in items]
    assert dates == sorted(dates, reverse=True)
    assert all(published.utcoffset() for published in dates)
    for item in items:
        assert item.keys() == {"title", "link", "description", "pubDate", "guid"}
        assert item["link"].startswith("https://openparliament.ca/")
        speech = await get(client, item["link"].removeprefix("https://openparliament.ca"))
        assert datetime.fromisoformat(speech["time"]) == parsedate_to_datetime(item["pubDate"]).replace(tzinfo=None)
        text = html.unescape(re.sub("<[^>]+>", "", speech["content"]["en"])).replace("\n", " ")
        assert html.unescape(re.sub("</?em>", "", item["description"])) in text
        topic, speaker = item["title"].split(" / ")
        assert topic == speech.get("h2", {"en": ""})["en"]
        assert speaker in speech["attribution"]["en"]
    assert any("<em>ferries</em>" in item["description"] for item in items)
    escaped = (await client.get("/search/feed/?q=small+ferries")).text
    assert "&lt;em&gt;" in escaped
    assert "<em>" not in escaped


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("FERRIES Quillwater", True),
        ("petits traversiers", False),  # the index has the English texts only
        ("amp lighthouses", False),
        ("ferries submarine", False),
        ("", False),
        ('"<&>\x00', False),
    ],
)
async def test_search_requires_all_words_in_english(client: httpx.AsyncClient, query: str, found: bool) -> None:
    assert bool(await search(client, query)) is found


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ('MP: "fern-quillwater"', lambda speech: speech["politician_url"] == "/politicians/fern-quillwater/"),
        ('Party: "Fleuve"', lambda speech: ", Fleuve)" in speech["attribution"]["en"]),
        ('Committee: "birds"', lambda speech: speech["document_url"].startswith("/committees/birds/")),
        ('Type: "committee"', lambda speech: speech["document_url"].startswith("/committees/")),
        ('Date: "2026-03 to 2026-04-15"', lambda speech: "2026-03-01" <= speech["time"] < "2026-04-16"),
        ('Date: "2026-04-28"', lambda speech: speech["time"].startswith("2026-04-28")),
        ('Date: "2026-05"', lambda speech: speech["time"].startswith("2026-05")),
    ],
)
async def test_search_filters(client: httpx.AsyncClient, filters: str, matches: Any) -> None:
    items = await search(client, f"about {filters}")
    assert items
    assert items != await search(client, "about")
    for item in items:
        assert matches(await get(client, item["link"].removeprefix("https://openparliament.ca")))


async def test_feed_leaves_bills_and_members_out_of_the_newest_hits(client: httpx.AsyncClient) -> None:
    """The bills count towards the fifteen newest hits."""
    assert await search(client, 'Type: "bill"') == await search(client, 'Type: "mp"') == []
    assert await search(client, "Basil Wrenfield") == []
    with_bills = await search(client, 'Date: "2026-04-14 to 2026-04-14"')
    assert len(with_bills) < len(await search(client, 'Type: "debate" Date: "2026-04-14 to 2026-04-14"')) == 15


def mp_names(answer: Any, source: str) -> list[str] | None:
    """The MPs in one list of Represent's answer, or None where it has no such list."""
    if f"representatives_{source}" not in answer:
        return None
    return [each["name"] for each in answer[f"representatives_{source}"] if each["elected_office"] == "MP"]


@pytest.mark.parametrize(
    ("code", "centroid", "concordance"),
    [
        ("K1A0A6", ["Fern Quillwater"], ["Fern Quillwater"]),
        ("H2X1Y4", ["Théodule Vertegrange"], None),
        ("T5J0N3", None, ["Solveig Frostwren"]),
        ("V6B1A1", ["Maribel Thistledown"], ["Hester Pinebarrow", "Maribel Thistledown"]),
        ("N0G1A0", ["Percival Quillwater"], ["Odalys Brambleton", "Percival Quillwater"]),
        ("R3C0V8", [], None),
    ],
)
async def test_postal_code_returns_federal_and_provincial_members(
    client: httpx.AsyncClient, code: str, centroid: list[str] | None, concordance: list[str] | None
) -> None:
    """Either list may be missing. The MPs match openparliament.ca's by name, party and riding."""
    answer = await get(client, f"/postcodes/{code}/")
    assert answer["code"] == code
    assert (mp_names(answer, "centroid"), mp_names(answer, "concordance")) == (centroid, concordance)
    sitting = {member["name"]: member for member in await get_all(client, "/politicians/")}
    for source in ("centroid", "concordance"):
        found = answer.get(f"representatives_{source}")
        assert found is None or {each["elected_office"] for each in found} & {"MPP", "MNA", "MLA"}
        federal = [each for each in found or () if each["elected_office"] == "MP"]
        for each in federal:
            member = sitting[each["name"]]
            assert each["party_name"] == member["current_party"]["short_name"]["en"]
            assert each["district_name"] == member["current_riding"]["name"]["en"]
            assert each["email"]
            assert each["url"]
        ridings = [boundary["name"] for boundary in answer[f"boundaries_{source}"]]
        # The boundary of a vacant seat has no representative.
        assert ridings == ([each["district_name"] for each in federal] or (["Ballad North"] if found else []))


async def test_unknown_postal_code_is_404_and_invalid_is_400(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/postcodes/X9X9X9/")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/json")
    for code in ("k1a0a6", "K1A 0A6", "K1A", "90210"):
        assert (await client.get(f"/postcodes/{code}/")).status_code == 400


async def test_legisinfo_has_each_bill_under_either_field_name(client: httpx.AsyncClient) -> None:
    """Events that have not happened are dated in the year 1."""
    seen = set()
    for bill in await get_all(client, "/bills/"):
        (record,) = await get(client, f"/LegisInfo/en/bill/{bill['session']}/{bill['number'].lower()}/json")
        (name,) = {"StatusNameEn", "CurrentStatusEn"} & record.keys()
        seen.add(name)
        listed = await get(client, bill["url"])
        assert record[name] == listed["status"]["en"]
        assert record["LongTitleFr"] == bill["name"]["fr"]
        assert f"{record['ParliamentNumber']}-{record['SessionNumber']}" == bill["session"]
        assert record.get("NumberCode", record.get("BillNumberFormatted")) == bill["number"]
        events = {key: value for key, value in record.items() if key.startswith(("Passed", "Received"))}
        assert len(events) == 7
        passed = {key: value for key, value in events.items() if value != "0001-01-01T00:00:00"}
        assert all(date(2024, 1, 1) <= date.fromisoformat(value[:10]) < date(2026, 11, 1) for value in passed.values())
        assert bill["introduced"] == min(value[:10] for value in passed.values())
        assert ("ReceivedRoyalAssentDateTime" in passed) is bool(listed["law"])
        assert ("PassedHouseThirdReadingDateTime" in passed) is any(
            vote["description"]["en"].startswith("3rd") and vote["result"] == "Passed"
            for vote in await get_all(client, f"/votes/?bill={bill['url']}")
        )
    assert seen == {"StatusNameEn", "CurrentStatusEn"}
