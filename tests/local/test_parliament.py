"""The parliamentary data stand-in has the real sites' shapes and manners, and what it invents is consistent.

Consistency is checked from outside: every address that an answer names is asked for, and totals are counted anew.
"""

import asyncio
import html
import re
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import httpx
import pytest
import uvicorn

from infra.local.parliament import create_app
from infra.local.parliament.house import House

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
MEMBERS = 41  # sitting; one more has left


def client_of(delay: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(delay)),
        base_url="http://stand-in",
        headers={"accept": "application/json", "api-version": "v1", "user-agent": "tests (tests@example.test)"},
    )


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(0) as client:
        yield client


@pytest.fixture
async def client(shared: httpx.AsyncClient) -> httpx.AsyncClient:
    await shared.delete("/_requests")
    await shared.delete("/_fail")
    return shared


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The stand-in on a real server."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(0), lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)


async def journal(client: httpx.AsyncClient, length: int) -> list[Any]:
    """The journal, once it has so many entries."""
    for _ in range(1000):
        entries: list[Any] = (await client.get("/_requests")).json()
        if len(entries) >= length:
            return entries
        await asyncio.sleep(0.01)
    raise AssertionError(entries)


async def get(client: httpx.AsyncClient, url: str) -> Any:
    answer = await client.get(url)
    assert answer.status_code == 200, (url, answer.status_code, answer.text)
    return answer.json()


async def all_of(client: httpx.AsyncClient, url: str, limit: int = 500) -> list[Any]:
    """A whole list, page by page."""
    objects, next_url = list[Any](), f"{url}{'&' if '?' in url else '?'}limit={limit}"
    while next_url:
        answer = await get(client, next_url)
        objects += answer["objects"]
        next_url = answer["pagination"]["next_url"]
    return objects


def addresses(value: Any) -> set[str]:
    """The addresses on this site that an answer names, also those in the HTML of a speech."""
    if isinstance(value, dict):
        return set().union(*map(addresses, value.values()))
    if isinstance(value, list):
        return set().union(*map(addresses, value))
    if not isinstance(value, str):
        return set()
    return {value} if value.startswith("/") else set(re.findall(r'href="(/[^"]*)"', value))


# --- what is invented is consistent ----------------------------------------------------------------------------------


async def test_every_address_that_an_answer_names_leads_somewhere(client: httpx.AsyncClient) -> None:
    """From the lists through every page of them and every object; nothing else is left unasked."""
    known, left = set[str](), set(LISTS)
    while left:
        url = left.pop()
        known.add(url)
        answer = await client.get(url)
        assert answer.status_code == 200, url
        if answer.headers["content-type"] == "application/json":
            left |= addresses(answer.json()) - known
    everything = {record.url for table in House().tables.values() for record in table if record.url}
    assert everything <= known
    assert any(url.startswith("/media/") for url in known)


async def test_ballots_add_up_to_the_totals(client: httpx.AsyncClient) -> None:
    """One ballot for everybody who had a seat that day; totals, results and party lines follow from the ballots."""
    terms = {term["url"]: term for term in await all_of(client, "/politicians/memberships/")}
    results = set()
    for listed in await all_of(client, "/votes/"):
        vote = await get(client, listed["url"])
        assert {name: vote[name] for name in listed} == listed
        ballots = await all_of(client, vote["related"]["ballots_url"])
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
        ahead = count["Yes"] - count["No"]
        assert vote["result"] == ("Passed" if ahead > 0 else "Failed" if ahead < 0 else "Tie")
        results.add(vote["result"])
        parties: dict[str, Counter[str]] = {}
        for ballot in ballots:
            party = sitting[ballot["politician_membership_url"]]["party"]["short_name"]["en"]
            parties.setdefault(party, Counter())[ballot["ballot"]] += 1
        assert {line["party"]["short_name"]["en"] for line in vote["party_votes"]} == parties.keys() - {"Independent"}
        for line in vote["party_votes"]:
            count = parties[line["party"]["short_name"]["en"]]
            split = min(count["Yes"], count["No"]) / max(count["Yes"] + count["No"], 1)
            assert line["disagreement"] == pytest.approx(split)
            assert (line["vote"] == "Free vote") is (split >= 0.15)
            assert line["vote"] == "Free vote" or count[line["vote"]] == max(count.values())
    assert results == {"Passed", "Failed", "Tie"}


async def test_dissent_is_a_ballot_against_the_partys_line(client: httpx.AsyncClient) -> None:
    against = await all_of(client, "/votes/ballots/?dissent=True")
    assert against
    assert len(against) + len(await all_of(client, "/votes/ballots/?dissent=False")) == len(
        await all_of(client, "/votes/ballots/")
    )
    for ballot in against:
        party = (await get(client, ballot["politician_membership_url"]))["party"]
        lines = (await get(client, ballot["vote_url"]))["party_votes"]
        (line,) = (line["vote"] for line in lines if line["party"] == party)
        assert {line, ballot["ballot"]} == {"Yes", "No"}


async def test_a_bill_and_its_votes_name_each_other(client: httpx.AsyncClient) -> None:
    numbers = set()
    for listed in await all_of(client, "/bills/"):
        bill = await get(client, listed["url"])
        votes = await all_of(client, f"/votes/?bill={bill['url']}")
        assert [vote["url"] for vote in votes] == bill["vote_urls"]
        assert all(vote["date"] >= bill["introduced"] for vote in votes)
        if bill["session"] == "45-1":
            numbers.add(bill["number"])
        for vote in votes:
            assert vote["description"]["en"].endswith(bill["name"]["en"]) or "amendment" in vote["description"]["en"]
            context = (await get(client, vote["url"]))["context_statement"]
            assert context in {
                speech["url"] for speech in await all_of(client, f"/speeches/?bill_debated={bill['url']}")
            }
    assert numbers >= {f"C-{number}" for number in range(2, 13)} | {"S-2", "S-3"}
    assert len((await get(client, "/bills/45-1/C-5/"))["vote_urls"]) == 6


async def test_a_status_is_where_the_votes_brought_the_bill(client: httpx.AsyncClient) -> None:
    for listed in await all_of(client, "/bills/?session=45-1"):
        bill = await get(client, listed["url"])
        votes = await all_of(client, f"/votes/?bill={bill['url']}")
        passed = {vote["description"]["en"][:3] for vote in votes if vote["result"] == "Passed"}
        beyond_house = bill["number"].startswith("C") and bill["status_code"].startswith(("Senate", "Royal"))
        assert ("3rd" in passed) is beyond_house, bill["number"]
        assert ("2nd" in passed) is (
            beyond_house or bill["status_code"] in ("HouseInCommittee", "HouseAtReportStage")
        ), bill["number"]
        assert bill["law"] is (bill["status_code"] == "RoyalAssentGiven")


async def test_speeches_belong_to_whoever_had_a_seat_that_day(client: httpx.AsyncClient) -> None:
    terms = {term["url"]: term for term in await all_of(client, "/politicians/memberships/")}
    speeches = await all_of(client, "/speeches/")
    for speech in speeches:
        day = speech["time"][:10]
        if speech["politician_url"] is None:
            assert speech["document_url"].startswith("/committees/")
            continue
        term = terms[speech["politician_membership_url"]]
        assert term["politician_url"] == speech["politician_url"]
        assert term["start_date"] <= day < (term["end_date"] or "9")
    for debate in await all_of(client, "/debates/"):
        said = await all_of(client, f"/speeches/?document={debate['url']}")
        assert said
        assert {speech["time"][:10] for speech in said} == {debate["date"]}
        assert [speech["time"] for speech in said] == sorted(speech["time"] for speech in said)
    for meeting in await all_of(client, "/committees/meetings/"):
        assert bool(await all_of(client, f"/speeches/?document={meeting['url']}")) is meeting["has_evidence"]
        assert meeting["has_evidence"] is not meeting["in_camera"]


async def test_nothing_is_of_later_than_october_2026(client: httpx.AsyncClient) -> None:
    """Nor of another year, but the bill of the session before."""
    days = {speech["time"][:10] for speech in await all_of(client, "/speeches/")}
    for url, name in (
        ("/votes/", "date"),
        ("/debates/", "date"),
        ("/committees/meetings/", "date"),
        ("/bills/?session=45-1", "introduced"),
    ):
        days |= {listed[name] for listed in await all_of(client, url)}
    assert "2026-01-01" < min(days) <= max(days) < "2026-11-01"


async def test_there_is_enough_of_everything(client: httpx.AsyncClient) -> None:
    """A member and a debate that need several pages, a speech that is too long to be passed on whole."""
    members = await all_of(client, "/politicians/")
    assert len(members) == MEMBERS
    assert len({member["current_party"]["short_name"]["en"] for member in members} - {"Independent"}) == 5
    assert len(await all_of(client, "/votes/")) > 25
    assert len(await all_of(client, "/debates/")) > 18
    assert len(await all_of(client, "/speeches/?politician=fern-quillwater")) > 100
    debate = await all_of(client, "/speeches/?bill_debated=/bills/45-1/C-5/")
    assert len(debate) > 100
    assert max(len(speech["content"]["en"]) for speech in debate) > 20_000


async def test_every_speech_is_html_in_both_languages(client: httpx.AsyncClient) -> None:
    speeches = await all_of(client, "/speeches/")
    for speech in speeches:
        english, french = speech["content"]["en"], speech["content"]["fr"]
        assert english.count('<p data-HoCid="') == french.count('<p data-HoCid="') == english.count("</p>") > 0
        assert english != french
    assert any("&amp;" in speech["content"]["en"] for speech in speeches)


def test_it_is_the_same_every_time() -> None:
    first, second = House(), House()
    assert first.tables == second.tables


# --- shapes ----------------------------------------------------------------------------------------------------------

SHAPES = {
    "/politicians/": "name image current_party current_riding url",
    "/votes/": "bill_url session number date description result yea_total nay_total paired_total url",
    "/votes/ballots/": "vote_url politician_url politician_membership_url ballot",
    "/bills/": "session legisinfo_id introduced name number url",
    "/debates/": "date number most_frequent_word url",
    "/committees/": "name short_name slug parent_url url",
    "/committees/meetings/": "date number in_camera has_evidence committee_url url",
    "/speeches/?bill_debated=/bills/45-1/C-5/": "time attribution content politician_url politician_membership_url"
    " procedural source_id h1 h2 h3 document_url url",
}
MORE = {
    "/politicians/fern-quillwater/": "name image current_party current_riding given_name family_name gender email voice"
    " links other_info memberships related url",
    "/votes/45-1/7/": f"{SHAPES['/votes/'].removesuffix(' url')} context_statement party_votes related url",
    "/bills/45-1/C-5/": "session legisinfo_id introduced name number short_title home_chamber law status status_code"
    " sponsor_politician_url sponsor_politician_membership_url text_url other_session_urls vote_urls"
    " private_member_bill legisinfo_url related url",
    "/debates/2026/9/3/": "date number most_frequent_word source_id source_url session document_type related url",
    "/committees/wharves/": "name short_name slug parent_url sessions subcommittees related url",
    "/committees/wharves/45-1/1/": "date number in_camera has_evidence committee_url start_time end_time session"
    " minutes_url notice_url webcast_url related url",
}


@pytest.mark.parametrize("url", SHAPES)
async def test_what_a_list_shows(client: httpx.AsyncClient, url: str) -> None:
    answer = await get(client, url)
    assert list(answer) == ["objects", "pagination"]
    assert list(answer["pagination"]) == ["offset", "limit", "next_url", "previous_url"]
    assert all(list(shown) == SHAPES[url].split() for shown in answer["objects"])


@pytest.mark.parametrize("url", MORE)
async def test_what_an_object_shows(client: httpx.AsyncClient, url: str) -> None:
    assert list(await get(client, url)) == MORE[url].split()


async def test_what_is_nested(client: httpx.AsyncClient) -> None:
    member = (await get(client, "/politicians/?name=Sixtus Plumbrook"))["objects"][0]
    assert member["current_party"] == {"short_name": {"en": "Independent"}}
    assert member["current_riding"] == {"province": "YT", "name": {"en": "Northern Legend"}}
    shown = await get(client, member["url"])
    assert re.fullmatch(r"\d+", shown["other_info"]["parl_mp_id"][0])
    assert [(term["party"]["short_name"]["en"], term["end_date"]) for term in shown["memberships"]] == [
        ("Independent", None),
        ("Juniper", "2026-05-20"),
    ]
    (line, *_) = (await get(client, "/votes/45-1/7/"))["party_votes"]
    assert list(line) == ["vote", "disagreement", "party"]
    assert line["party"] == {"name": {"en": "Cordwood Union"}, "short_name": {"en": "Cordwood"}}
    bill = await get(client, "/bills/45-1/C-5/")
    assert bill["name"].keys() == bill["short_title"].keys() == {"en", "fr"}
    assert bill["status"] == {"en": "Second reading (Senate)"}
    sessions = (await get(client, "/committees/wharves/"))["sessions"]
    assert [(list(session), session["session"]) for session in sessions] == [
        (["session", "acronym", "source_url"], "45-1")
    ]


async def test_a_member_who_left_is_only_among_the_former(client: httpx.AsyncClient) -> None:
    sitting, former = await all_of(client, "/politicians/"), await all_of(client, "/politicians/?include=former")
    assert [member["name"] for member in former] == ["Ottoline Greyfeather"]
    assert former[0] not in sitting
    assert "current_riding" not in former[0]
    assert len(await all_of(client, "/politicians/?include=all")) == len(sitting) + 1
    assert await all_of(client, "/votes/ballots/?politician=ottoline-greyfeather")


async def test_the_newest_vote_tells_the_session_and_a_bills_number_alone_does_not_tell_the_bill(
    client: httpx.AsyncClient,
) -> None:
    assert (await get(client, "/votes/?limit=1"))["objects"][0]["session"] == "45-1"
    found = await all_of(client, "/bills/?number=C-5")
    assert sorted(bill["session"] for bill in found) == ["44-1", "45-1"]


# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/votes/ballots/?vote=/votes/45-1/7/", "/speeches/?politician=fern-quillwater"])
async def test_the_pages_of_a_list_are_the_list(client: httpx.AsyncClient, url: str) -> None:
    whole = (await get(client, f"{url}&limit=500"))["objects"]
    assert await all_of(client, url, limit=7) == whole
    first = await get(client, url)
    assert (len(first["objects"]), first["pagination"]["limit"]) == (20, 20)
    assert first["pagination"]["next_url"].startswith("/")
    second = await get(client, first["pagination"]["next_url"])
    assert second["objects"] == whole[20:40]
    back = parse_qs(urlsplit(second["pagination"]["previous_url"]).query)
    assert (back["offset"], back["limit"]) == (["0"], ["20"])
    assert (await get(client, second["pagination"]["previous_url"]))["objects"] == first["objects"]
    beyond = await get(client, f"{url}&offset=9999")
    assert (beyond["objects"], beyond["pagination"]["next_url"]) == ([], None)


@pytest.mark.parametrize(
    ("url", "limit"),
    [
        ("/speeches/?limit=501", 500),
        ("/speeches/?limit=0", 20),
        ("/politicians/", 338),
        ("/politicians/?limit=500", 500),
        ("/votes/", 20),
    ],
)
async def test_how_much_a_page_holds(client: httpx.AsyncClient, url: str, limit: int) -> None:
    answer = await get(client, url)
    assert answer["pagination"]["limit"] == limit
    assert len(answer["objects"]) == min(limit, len(await all_of(client, url.partition("?")[0])))


# --- filters ---------------------------------------------------------------------------------------------------------

FILTERED: list[tuple[str, str, Any]] = [
    ("/politicians/", "name=Théodule Vertegrange", lambda it: it["url"] == "/politicians/theodule-vertegrange/"),
    ("/politicians/", "family_name=Quillwater", lambda it: it["name"].endswith(" Quillwater")),
    ("/votes/", "bill=/bills/45-1/C-5/", lambda it: it["bill_url"] == "/bills/45-1/C-5/"),
    ("/votes/", "bill=45-1/C-5", lambda it: it["bill_url"] == "/bills/45-1/C-5/"),
    ("/votes/", "result=Tie", lambda it: it["yea_total"] == it["nay_total"]),
    ("/votes/", "date__gte=2026-09-15", lambda it: it["date"] >= "2026-09-15"),
    ("/votes/", "date__lt=2026-09-15", lambda it: it["date"] < "2026-09-15"),
    ("/votes/", "nay_total__gt=20", lambda it: it["nay_total"] > 20),
    ("/votes/", "number__range=3,5", lambda it: 3 <= it["number"] <= 5),
    (
        "/votes/ballots/",
        "politician=/politicians/fern-quillwater/",
        lambda it: it["politician_url"] == "/politicians/fern-quillwater/",
    ),
    (
        "/votes/ballots/",
        "politician=fern-quillwater",
        lambda it: it["politician_url"] == "/politicians/fern-quillwater/",
    ),
    ("/votes/ballots/", "ballot=Didn't vote", lambda it: it["ballot"] == "Didn't vote"),
    ("/votes/ballots/", "vote=/votes/45-1/7/", lambda it: it["vote_url"] == "/votes/45-1/7/"),
    ("/speeches/", "procedural=True", lambda it: it["procedural"]),
    ("/speeches/", "procedural=false", lambda it: not it["procedural"]),
    ("/speeches/", "time__gte=2026-09-15", lambda it: it["time"] >= "2026-09-15"),
    ("/speeches/", "time__gte=2026-03-10T16:00:00Z", lambda it: it["time"] >= "2026-03-10 12:00:00"),
    (
        "/speeches/",
        "time__range=2026-03-10 10:10,2026-03-10 11:00",
        lambda it: "2026-03-10 10:10" <= it["time"] <= "2026-03-10 11:00:00",
    ),
    ("/speeches/", "document=/debates/2026/9/3/", lambda it: it["document_url"] == "/debates/2026/9/3/"),
    ("/speeches/", "document=/committees/birds/45-1/1/", lambda it: it["url"].startswith("/committees/birds/45-1/1/")),
    ("/speeches/", "bill_debated=/bills/45-1/C-6/", lambda it: it.get("h2", {}).get("en") == "Public Benches Act"),
    ("/speeches/", "mentioned_bill=45-1/C-6", lambda it: "/bills/45-1/C-6/" in it["content"]["en"]),
    ("/bills/", "session=44-1", lambda it: it["session"] == "44-1"),
    ("/bills/", "introduced__gte=2026-09-01", lambda it: it["introduced"] >= "2026-09-01"),
    ("/bills/", "law=True", lambda it: it["number"] == "C-2"),
    ("/bills/", "private_member_bill=True", lambda it: it["number"] == "C-201"),
    ("/bills/", "status_code=HouseInCommittee", lambda it: it["number"] in ("C-4", "C-8", "C-10")),
    ("/bills/", "sponsor_politician=/politicians/fern-quillwater/", lambda it: it["url"] == "/bills/45-1/C-5/"),
    ("/debates/", "date__range=2026-03-01,2026-03-31", lambda it: it["date"].startswith("2026-03")),
    ("/debates/", "number=4", lambda it: it["number"] == "4"),
    ("/committees/meetings/", "committee=birds", lambda it: it["committee_url"] == "/committees/birds/"),
    ("/committees/meetings/", "in_camera=True", lambda it: it["in_camera"]),
]


@pytest.mark.parametrize(("url", "query", "wanted"), FILTERED, ids=[f"{url}?{query}" for url, query, _ in FILTERED])
async def test_a_filter_leaves_exactly_what_it_names(
    client: httpx.AsyncClient, url: str, query: str, wanted: Any
) -> None:
    everything, found = await all_of(client, url), await all_of(client, f"{url}?{query}")
    key = (lambda it: str(it["url"])) if "url" in everything[0] else str
    assert sorted(found, key=key) == sorted(filter(wanted, everything), key=key)
    assert 0 < len(found) < len(everything)


@pytest.mark.parametrize(
    "url",
    [
        "/politicians/?name=Quillwater",
        "/votes/?session=99-9",
        "/votes/?bill=/bills/45-1/c-5/",
        "/votes/ballots/?politician=nobody-at-all",
        "/speeches/?document=/debates/2026/9/4/",
        "/speeches/?time__gte=2026-12-01",
        "/committees/meetings/?committee=fish",
    ],
)
async def test_a_value_that_nothing_has_finds_nothing(client: httpx.AsyncClient, url: str) -> None:
    """Names are compared whole; case counts; an unknown object is no error in a list."""
    assert (await get(client, url))["objects"] == []


@pytest.mark.parametrize(
    "url",
    [
        "/votes/?limit=-1",
        "/votes/?limit=many",
        "/votes/?offset=-1",
        "/votes/?date__gte=yesterday",
        "/votes/?date__range=2026-01-01",
        "/votes/?number=seven",
        "/votes/?number__near=7",
        "/votes/?result=passed",
        "/votes/?bill=C-5",
        "/votes/ballots/?ballot=Maybe",
        "/votes/ballots/?dissent=perhaps",
        "/politicians/?name__icontains=fern",
        "/speeches/?procedural=2",
        "/speeches/?time__gte=soon",
        "/speeches/?document=fern-quillwater",
        "/speeches/?document=/debates/2026/09/03/",
        "/speeches/?document=/committees/birds/45-1/99/",
        "/bills/?law=<b>",
        "/debates/?date__range=a,b",
    ],
)
async def test_a_value_that_cannot_be_is_refused_as_text(client: httpx.AsyncClient, url: str) -> None:
    answer = await client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert answer.text
    assert "<" not in answer.text


@pytest.mark.parametrize(
    ("url", "unknown"),
    [
        ("/politicians/", "riding=Upper+Exemplar"),
        ("/politicians/", "party=Heron"),
        ("/votes/", "politician=fern-quillwater"),
        ("/speeches/", "q=ferries"),
        ("/speeches/", "bill=/bills/45-1/C-5/"),
    ],
)
async def test_an_unknown_parameter_is_ignored_without_a_word(
    client: httpx.AsyncClient, url: str, unknown: str
) -> None:
    assert (await get(client, f"{url}?{unknown}"))["objects"] == (await get(client, url))["objects"]


# --- what is not there, and other formats ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "/politicians/nobody-at-all/",
        "/votes/45-1/999/",
        "/bills/45-1/C-999/",
        "/bills/45-1/c-5/",
        "/debates/2026/9/4/",
        "/debates/2026/09/03/",
        "/committees/fish/",
        "/committees/birds/45-1/99/",
        "/debates/2026/9/3/nobody-1/",
        "/search/feed/",
        "/senators/",
        "/LegisInfo/en/bill/45-1/c-999/json",
    ],
)
async def test_an_unknown_object_is_a_page_that_is_not_json(client: httpx.AsyncClient, url: str) -> None:
    answer = await client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


@pytest.mark.parametrize("accept", ["*/*", "text/html", "text/html,application/xhtml+xml"])
async def test_who_does_not_ask_for_json_gets_a_page(client: httpx.AsyncClient, accept: str) -> None:
    page = await client.get("/votes/?limit=1", headers={"accept": accept})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    asked = await client.get("/votes/?limit=1&format=json", headers={"accept": accept})
    assert asked.json()["objects"]
    assert (await client.get("/votes/", headers={"accept": "image/png"})).status_code == 406


async def test_an_address_without_its_slash_leads_to_the_one_with_it(client: httpx.AsyncClient) -> None:
    for url in ("/votes", "/votes/45-1/7", "/politicians/fern-quillwater", "/votes/ballots"):
        answer = await client.get(f"{url}?limit=1", follow_redirects=True)
        assert (answer.status_code, answer.url.path, answer.url.query) == (200, f"{url}/", b"limit=1")
        assert answer.history


# --- manners ---------------------------------------------------------------------------------------------------------


async def test_two_requests_at_once_are_one_too_many() -> None:
    """As the real API has it, without being asked to be slow; it answers again as soon as the first has its answer."""
    async with client_of(0.01) as client:
        answers = await asyncio.gather(*(client.get(f"/votes/45-1/{number}/") for number in (1, 2, 3)))
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        for number in (1, 2, 3):
            assert (await client.get(f"/votes/45-1/{number}/")).status_code == 200
        entries = await journal(client, 6)
        assert [entry["concurrent"] for entry in entries] == [False, True, True, False, False, False]
        assert [entry["status"] for entry in entries] == [200, 429, 429, 200, 200, 200]


async def test_the_other_sites_take_part_in_no_queue() -> None:
    async with client_of(0.01) as client:
        urls = ("/votes/", "/postcodes/K1A0A6/", "/search/feed/?q=ferries", "/LegisInfo/en/bill/45-1/c-5/json")
        answers = await asyncio.gather(*(client.get(url) for url in urls))
        assert [answer.status_code for answer in answers] == [200] * 4


async def test_a_request_that_is_held_open_holds_the_others_off_until_its_client_leaves(served: str) -> None:
    """Over sockets, where a client that leaves is only heard of."""
    async with httpx.AsyncClient(base_url=served) as client:
        held = asyncio.create_task(client.get("/votes/?_slow=600"))
        await journal(client, 1)
        assert (await client.get("/votes/")).status_code == 429
        held.cancel()
        for _ in range(1000):
            if (answer := await client.get("/votes/")).status_code == 200:
                break
            await asyncio.sleep(0.01)
        assert answer.status_code == 200


async def test_whoever_has_an_answer_may_ask_again_at_once() -> None:
    """Even before the server has noted that the answer's last byte went out."""
    app = create_app(0)
    transport, again = httpx.ASGITransport(app), list[int]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            async with httpx.AsyncClient(transport=transport, base_url="http://stand-in") as client:
                again.append((await client.get("/votes/")).status_code)

    asked = httpx.Request("GET", "http://stand-in/votes/")
    scope = {"type": "http", "method": "GET", "path": "/votes/", "raw_path": b"/votes/", "query_string": b""}
    scope |= {"headers": asked.headers.raw, "client": ("127.0.0.1", 1), "server": ("stand-in", 80), "scheme": "http"}
    await app({**scope, "http_version": "1.1", "root_path": ""}, receive, send)
    assert again == [200]


async def test_the_journal_tells_who_asked_what(client: httpx.AsyncClient) -> None:
    await client.get("/votes/?bill=/bills/45-1/C-5/", headers={"from": "someone@example.test"})
    await client.get("/postcodes/X9X9X9/")
    assert (await client.get("/_requests")).json() == [
        {
            "path": path,
            "query": query,
            "concurrent": False,
            "status": status,
            "user_agent": "tests (tests@example.test)",
            "api_version": "v1",
            "accept": "application/json",
            "from": sender,
        }
        for path, query, status, sender in (
            ("/votes/", "bill=/bills/45-1/C-5/", 200, "someone@example.test"),
            ("/postcodes/X9X9X9/", "", 404, None),
        )
    ]
    assert (await client.delete("/_requests")).status_code == 204
    assert (await client.get("/_requests")).json() == []


async def test_the_next_requests_fail_as_they_were_told_to(client: httpx.AsyncClient) -> None:
    told = {"path_prefix": "/votes/", "status": 429, "times": 2, "retry_after": "2"}
    assert (await client.post("/_fail", json=told)).status_code == 204
    await client.post("/_fail", json={"path_prefix": "/bills/", "body": "<p>Down for repairs", "status": 200})
    assert (await client.get("/politicians/")).status_code == 200
    for url in ("/votes/", "/votes/ballots/"):
        failed = await client.get(url)
        assert (failed.status_code, failed.headers["retry-after"]) == (429, "2")
        assert failed.headers["content-type"].startswith("text/html")
    assert (await client.get("/votes/")).status_code == 200
    odd = await client.get("/bills/")
    assert (odd.status_code, odd.text) == (200, "<p>Down for repairs")
    assert (await get(client, "/bills/"))["objects"]


async def test_a_fault_may_only_be_slow_and_may_be_taken_back(client: httpx.AsyncClient) -> None:
    await client.post("/_fail", json={"path_prefix": "/votes/", "slow": 600, "times": 9})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.get("/votes/"), 0.05)
    assert (await client.delete("/_fail")).status_code == 204
    assert (await client.get("/votes/")).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prefix": "/votes/"}'])
async def test_a_fault_that_is_none_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/_fail", content=body)).status_code == 400
    assert (await client.get("/votes/")).status_code == 200


# --- the search feed -------------------------------------------------------------------------------------------------


async def items_of(client: httpx.AsyncClient, query: str) -> list[dict[str, str]]:
    answer = await client.get("/search/feed/", params={"q": query})
    assert answer.headers["content-type"].startswith("application/rss+xml")
    channel = ElementTree.fromstring(answer.content).find("channel")  # noqa: S314 -- our own
    assert channel is not None
    return [{part.tag: part.text or "" for part in item} for item in channel.findall("item")]


async def test_the_feed_is_rss_and_leads_to_speeches_that_say_the_words(client: httpx.AsyncClient) -> None:
    items = await items_of(client, "small ferries")
    assert len(items) == 15
    dates = [parsedate_to_datetime(item["pubDate"]) for item in items]
    assert dates == sorted(dates, reverse=True)
    assert all(moment.utcoffset() for moment in dates)
    for item in items:
        assert item.keys() == {"title", "link", "description", "pubDate", "guid"}
        assert item["link"].startswith("https://openparliament.ca/")
        speech = await get(client, item["link"].removeprefix("https://openparliament.ca"))
        assert datetime.fromisoformat(speech["time"]) == parsedate_to_datetime(item["pubDate"]).replace(tzinfo=None)
        said = html.unescape(re.sub("<[^>]+>", "", speech["content"]["en"])).replace("\n", " ")
        assert html.unescape(re.sub("</?em>", "", item["description"])) in said
        assert "<em>ferries</em>" in item["description"]
        assert item["title"].split(" / ")[1] in speech["attribution"]["en"]
    escaped = (await client.get("/search/feed/?q=small+ferries")).text
    assert "&lt;em&gt;" in escaped
    assert "<em>" not in escaped


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("FERRIES Quillwater", True),
        ("érable ménage", True),
        ("erable menage", True),
        ("petits traversiers", True),
        ("amp lighthouses", False),
        ("ferries submarine", False),
        ("", False),
        ('"<&>\x00', False),
    ],
)
async def test_all_words_must_be_said_in_one_language_or_the_other(
    client: httpx.AsyncClient, query: str, found: bool
) -> None:
    assert bool(await items_of(client, query)) is found


# --- Represent and LEGISinfo -----------------------------------------------------------------------------------------


def members(answer: Any, source: str) -> list[str] | None:
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
async def test_a_postal_code_finds_members_beside_provincial_ones(
    client: httpx.AsyncClient, code: str, centroid: list[str] | None, concordance: list[str] | None
) -> None:
    """Either list may be absent; the members are those of the other site, by name, party and riding."""
    answer = await get(client, f"/postcodes/{code}/")
    assert answer["code"] == code
    assert (members(answer, "centroid"), members(answer, "concordance")) == (centroid, concordance)
    sitting = {member["name"]: member for member in await all_of(client, "/politicians/")}
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
        assert ridings == [each["district_name"] for each in federal]


async def test_a_postal_code_that_is_unknown_or_none_at_all(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/postcodes/X9X9X9/")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/json")
    for code in ("k1a0a6", "K1A 0A6", "K1A", "90210"):
        assert (await client.get(f"/postcodes/{code}/")).status_code == 400


async def test_legisinfo_has_one_bill_under_names_that_drift(client: httpx.AsyncClient) -> None:
    """Every bill has its status under one name or the other; dates that are none are of the year 1."""
    seen = set()
    for bill in await all_of(client, "/bills/"):
        (told,) = await get(client, f"/LegisInfo/en/bill/{bill['session']}/{bill['number'].lower()}/json")
        (name,) = {"StatusNameEn", "CurrentStatusEn"} & told.keys()
        seen.add(name)
        shown = await get(client, bill["url"])
        assert told[name] == shown["status"]["en"]
        assert told["LongTitleFr"] == bill["name"]["fr"]
        assert f"{told['ParliamentNumber']}-{told['SessionNumber']}" == bill["session"]
        assert told.get("NumberCode", told.get("BillNumberFormatted")) == bill["number"]
        moments = {key: value for key, value in told.items() if key.startswith(("Passed", "Received"))}
        assert len(moments) == 7
        real = {key: value for key, value in moments.items() if value != "0001-01-01T00:00:00"}
        assert all(date(2024, 1, 1) <= date.fromisoformat(value[:10]) < date(2026, 11, 1) for value in real.values())
        assert bill["introduced"] == min(value[:10] for value in real.values())
        assert ("ReceivedRoyalAssentDateTime" in real) is shown["law"]
        assert ("PassedHouseThirdReadingDateTime" in real) is any(
            vote["description"]["en"].startswith("3rd") and vote["result"] == "Passed"
            for vote in await all_of(client, f"/votes/?bill={bill['url']}")
        )
    assert seen == {"StatusNameEn", "CurrentStatusEn"}
