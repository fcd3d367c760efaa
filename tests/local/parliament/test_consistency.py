"""The stand-in's data is consistent: URLs resolve, totals match the ballots, and records refer to each other.

Checked through the API: every URL in an answer is requested, and totals are counted again.
"""

import html
import re
from collections import Counter
from typing import Any

import httpx
import pytest

from infra.local.parliament.dataset import Dataset
from tests.local.parliament.kit import get, get_all

LISTS = (
    "/politicians/?include=all",
    "/politicians/memberships/",
    "/votes/",
    "/votes/ballots/",
    "/bills/",
    "/speeches/",
    "/debates/",
    "/committees/",
    "/committees/meetings/",
)
SITTING_MEMBERS = 120


def urls_in(value: Any) -> set[str]:
    """The relative URLs in an answer, including those in the HTML of speeches."""
    if isinstance(value, dict):
        return set().union(*map(urls_in, value.values()))
    if isinstance(value, list):
        return set().union(*map(urls_in, value))
    if not isinstance(value, str):
        return set()
    return {value} if value.startswith("/") else set(re.findall(r'href="(/[^"]*)"', value))


async def test_every_url_in_an_answer_resolves(client: httpx.AsyncClient) -> None:
    """Starts from the lists. Every page and every record is reached."""
    seen, pending = set[str](), set(LISTS)
    while pending:
        url = pending.pop()
        seen.add(url)
        answer = await client.get(url)
        assert answer.status_code == 200, url
        if answer.headers["content-type"] == "application/json":
            pending |= urls_in(answer.json()) - seen
    all_urls = {record.url for table in Dataset().tables.values() for record in table if record.url}
    assert all_urls <= seen
    assert any(url.startswith("/media/") for url in seen)


async def test_totals_and_party_votes_match_the_ballots(client: httpx.AsyncClient) -> None:
    """Every member with a seat on the day has one ballot."""
    terms = {term["url"]: term for term in await get_all(client, "/politicians/memberships/")}
    results = set()
    for listed in await get_all(client, "/votes/"):
        vote = await get(client, listed["url"])
        assert {name: vote[name] for name in listed} == listed
        ballots = await get_all(client, vote["related"]["ballots_url"])
        sitting = {
            url: term
            for url, term in terms.items()
            if term["start_date"] <= vote["date"] and (term["end_date"] or "9") > vote["date"]
        }
        assert {ballot["politician_membership_url"] for ballot in ballots} == set(sitting)
        assert len(ballots) == len(sitting) == len({ballot["politician_url"] for ballot in ballots})
        count = Counter(ballot["ballot"] for ballot in ballots)
        assert (vote["yea_total"], vote["nay_total"], vote["paired_total"]) == (
            count["Yes"],
            count["No"],
            count["Paired"],
        )
        margin = count["Yes"] - count["No"]
        assert vote["result"] == ("Passed" if margin > 0 else "Failed" if margin < 0 else "Tie")
        results.add(vote["result"])
        parties: dict[str, Counter[str]] = {}
        for ballot in ballots:
            party = sitting[ballot["politician_membership_url"]]["party"]["short_name"]["en"]
            parties.setdefault(party, Counter())[ballot["ballot"]] += 1
        assert {party_vote["party"]["short_name"]["en"] for party_vote in vote["party_votes"]} == parties.keys() - {
            "Independent"
        }
        for party_vote in vote["party_votes"]:
            count = parties[party_vote["party"]["short_name"]["en"]]
            split = min(count["Yes"], count["No"]) / max(count["Yes"] + count["No"], 1)
            assert party_vote["disagreement"] == pytest.approx(split)
            assert (party_vote["vote"] == "Free vote") is (split >= 0.15)
            assert party_vote["vote"] == "Free vote" or count[party_vote["vote"]] == max(count.values())
    assert results == {"Passed", "Failed", "Tie"}


async def test_dissent_is_unmarked_where_twenty_of_a_party_differ(client: httpx.AsyncClient) -> None:
    (vote,) = await get_all(client, "/votes/?bill=/bills/45-1/C-12/")
    ballots = await get_all(client, f"/votes/ballots/?vote={vote['url']}")
    count = Counter[str]()
    for ballot in ballots:
        party = (await get(client, ballot["politician_membership_url"]))["party"]["short_name"]["en"]
        count[f"{party} {ballot['ballot']}"] += 1
    assert count["Juniper Yes"] == 20 < count["Juniper No"]
    dissents = await get_all(client, f"/votes/ballots/?vote={vote['url']}&dissent=True")
    parties = [(await get(client, each["politician_membership_url"]))["party"]["short_name"]["en"] for each in dissents]
    assert "Juniper" not in parties


async def test_page_of_a_vote_has_each_party_of_that_day(client: httpx.AsyncClient) -> None:
    """One Heron member joined Juniper after vote 18 and before vote 21."""
    names = {member["url"]: member["name"] for member in await get_all(client, "/politicians/?include=all")}
    for number, party_of_the_day in ((18, "Heron"), (21, "Juniper")):
        page = (await client.get(f"/votes/45-1/{number}/", headers={"accept": "text/html"})).text
        listed = {}
        for section in page.split('<div class="context-col"><h2>')[3:]:
            party, rest = section.split("</h2>", 1)
            for choice, url, name in re.findall(r'">([^<]+)</span> <a href="([^"]+)">([^<]+)</a>', rest):
                listed[url] = (party, html.unescape(choice), html.unescape(name))
        ballots = await get_all(client, f"/votes/ballots/?vote=/votes/45-1/{number}/")
        for ballot in ballots:
            url, term = ballot["politician_url"], await get(client, ballot["politician_membership_url"])
            assert listed.pop(url) == (term["party"]["short_name"]["en"], ballot["ballot"], names[url])
            assert url != "/politicians/cyrus-cedarholm/" or term["party"]["short_name"]["en"] == party_of_the_day
        assert listed == {}


async def test_dissent_is_a_ballot_against_the_party(client: httpx.AsyncClient) -> None:
    dissents = await get_all(client, "/votes/ballots/?dissent=True")
    assert dissents
    assert len(dissents) + len(await get_all(client, "/votes/ballots/?dissent=False")) == len(
        await get_all(client, "/votes/ballots/")
    )
    for ballot in dissents:
        party = (await get(client, ballot["politician_membership_url"]))["party"]
        party_votes = (await get(client, ballot["vote_url"]))["party_votes"]
        (party_choice,) = (each["vote"] for each in party_votes if each["party"] == party)
        assert {party_choice, ballot["ballot"]} == {"Yes", "No"}


async def test_bills_and_votes_link_to_each_other(client: httpx.AsyncClient) -> None:
    numbers = set()
    for listed in await get_all(client, "/bills/"):
        bill = await get(client, listed["url"])
        votes = await get_all(client, f"/votes/?bill={bill['url']}")
        assert [vote["url"] for vote in votes] == bill["vote_urls"]
        assert all(vote["date"] >= bill["introduced"] for vote in votes)
        if bill["session"] == "45-1":
            numbers.add(bill["number"])
        for vote in votes:
            assert vote["description"]["en"].endswith(bill["name"]["en"]) or "amendment" in vote["description"]["en"]
            context = (await get(client, vote["url"]))["context_statement"]
            assert context in {
                speech["url"] for speech in await get_all(client, f"/speeches/?bill_debated={bill['url']}")
            }
    assert numbers >= {f"C-{number}" for number in range(2, 13)} | {"S-2", "S-3"}
    assert len((await get(client, "/bills/45-1/C-5/"))["vote_urls"]) == 6


async def test_bill_status_matches_its_votes(client: httpx.AsyncClient) -> None:
    for listed in await get_all(client, "/bills/?session=45-1"):
        bill = await get(client, listed["url"])
        votes = await get_all(client, f"/votes/?bill={bill['url']}")
        passed = {vote["description"]["en"][:3] for vote in votes if vote["result"] == "Passed"}
        left_house = bill["number"].startswith("C") and bill["status_code"].startswith(("Senate", "Royal"))
        assert ("3rd" in passed) is left_house, bill["number"]
        assert ("2nd" in passed) is (left_house or bill["status_code"] in ("HouseInCommittee", "HouseAtReportStage")), (
            bill["number"]
        )
        assert bill["law"] is (True if bill["status_code"] == "RoyalAssentGiven" else None)


async def test_speakers_had_a_seat_on_that_day(client: httpx.AsyncClient) -> None:
    terms = {term["url"]: term for term in await get_all(client, "/politicians/memberships/")}
    speeches = await get_all(client, "/speeches/")
    for speech in speeches:
        day = speech["time"][:10]
        if speech["politician_url"] is None:
            assert speech["document_url"].startswith("/committees/")
            continue
        term = terms[speech["politician_membership_url"]]
        assert term["politician_url"] == speech["politician_url"]
        assert term["start_date"] <= day < (term["end_date"] or "9")
    for debate in await get_all(client, "/debates/"):
        speeches = await get_all(client, f"/speeches/?document={debate['url']}")
        assert speeches
        assert {speech["time"][:10] for speech in speeches} == {debate["date"]}
        assert [speech["time"] for speech in speeches] == sorted(speech["time"] for speech in speeches)
    for meeting in await get_all(client, "/committees/meetings/"):
        assert bool(await get_all(client, f"/speeches/?document={meeting['url']}")) is meeting["has_evidence"]
        assert meeting["has_evidence"] is not meeting["in_camera"]


async def test_all_dates_are_between_january_and_october_2026(client: httpx.AsyncClient) -> None:
    """Except those of the previous session's bills."""
    days = {speech["time"][:10] for speech in await get_all(client, "/speeches/")}
    for url, name in (
        ("/votes/", "date"),
        ("/debates/", "date"),
        ("/committees/meetings/", "date"),
        ("/bills/?session=45-1", "introduced"),
    ):
        days |= {listed[name] for listed in await get_all(client, url)}
    assert "2026-01-01" < min(days) <= max(days) < "2026-11-01"


async def test_data_is_large_enough_for_paging_and_shortening(client: httpx.AsyncClient) -> None:
    """A member and a debate have several pages of speeches, and one speech is too long for a result."""
    members = await get_all(client, "/politicians/")
    assert len(members) == SITTING_MEMBERS
    assert len({member["current_party"]["short_name"]["en"] for member in members} - {"Independent"}) == 5
    assert len(await get_all(client, "/votes/")) > 25
    assert len(await get_all(client, "/debates/")) > 18
    assert len(await get_all(client, "/speeches/?politician=fern-quillwater")) > 100
    debate = await get_all(client, "/speeches/?bill_debated=/bills/45-1/C-5/")
    assert len(debate) > 100
    assert max(len(speech["content"]["en"]) for speech in debate) > 20_000


async def test_every_speech_is_html_in_both_languages(client: httpx.AsyncClient) -> None:
    speeches = await get_all(client, "/speeches/")
    for speech in speeches:
        english, french = speech["content"]["en"], speech["content"]["fr"]
        assert english.count('<p data-HoCid="') == french.count('<p data-HoCid="') == english.count("</p>") > 0
        assert english != french
    assert any("&amp;" in speech["content"]["en"] for speech in speeches)
    assert any("</td><td>" in speech["content"]["fr"] for speech in speeches)
    # Some paragraphs are translated, and some speeches are in both languages.
    spoken = [re.findall(r'data-originallang="(..)"', speech["content"]["en"]) for speech in speeches]
    assert {tuple(sorted({*each})) for each in spoken} == {("en",), ("fr",), ("en", "fr")}
    assert 0.1 < sum(each.count("fr") for each in spoken) / sum(map(len, spoken)) < 0.4


def test_dataset_is_the_same_every_time() -> None:
    first, second = Dataset(), Dataset()
    assert first.tables == second.tables
