"""openparliament.ca's API: keys of lists and records, pages, formats and errors."""

import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.local.parliament.kit import get, get_all

LIST_KEYS = {
    "/politicians/": "name current_party current_riding image url",
    "/politicians/?include=all": "name url",
    "/votes/": "bill_url session number date description result yea_total nay_total paired_total url",
    "/votes/ballots/": "vote_url politician_url politician_membership_url ballot",
    "/bills/": "session legisinfo_id introduced name number url",
    "/debates/": "date number most_frequent_word url",
    "/committees/": "name short_name slug parent_url url",
    "/committees/meetings/": "date number in_camera has_evidence committee_url url",
    "/speeches/?bill_debated=/bills/45-1/C-5/": "time attribution content politician_url politician_membership_url"
    " procedural source_id h1 h2 h3 document_url url",
}
RECORD_KEYS = {
    "/politicians/fern-quillwater/": "name given_name family_name gender image other_info links email voice memberships"
    " related url",
    "/votes/45-1/7/": f"{LIST_KEYS['/votes/'].removesuffix(' url')} context_statement party_votes related url",
    "/bills/45-1/C-5/": "session legisinfo_id introduced name number short_title home_chamber law status status_code"
    " sponsor_politician_url sponsor_politician_membership_url text_url vote_urls"
    " private_member_bill legisinfo_url related url",
    "/debates/2026/9/3/": "date number most_frequent_word source_id source_url session document_type related url",
    "/committees/wharves/": "name short_name slug parent_url sessions subcommittees related url",
    "/committees/wharves/45-1/1/": "date number in_camera has_evidence committee_url start_time end_time session"
    " minutes_url notice_url webcast_url related url",
}


@pytest.mark.parametrize("url", LIST_KEYS)
async def test_keys_of_a_list(client: httpx.AsyncClient, url: str) -> None:
    answer = await get(client, url)
    assert list(answer) == ["objects", "pagination"]
    assert list(answer["pagination"]) == ["offset", "limit", "next_url", "previous_url"]
    assert all(list(record) == LIST_KEYS[url].split() for record in answer["objects"])


@pytest.mark.parametrize("url", RECORD_KEYS)
async def test_keys_of_a_record(client: httpx.AsyncClient, url: str) -> None:
    assert list(await get(client, url)) == RECORD_KEYS[url].split()


async def test_nested_values(client: httpx.AsyncClient) -> None:
    member = (await get(client, "/politicians/?name=Sixtus Plumbrook"))["objects"][0]
    assert member["current_party"] == {"short_name": {"en": "Independent"}}
    assert member["current_riding"] == {"province": "YT", "name": {"en": "Northern Legend"}}
    record = await get(client, member["url"])
    assert re.fullmatch(r"\d+", record["other_info"]["parl_mp_id"][0])
    assert [(term["party"]["short_name"]["en"], term["end_date"]) for term in record["memberships"]] == [
        ("Independent", None),
        ("Juniper", "2026-05-20"),
    ]
    (party_vote, *_) = (await get(client, "/votes/45-1/7/"))["party_votes"]
    assert list(party_vote) == ["vote", "disagreement", "party"]
    assert party_vote["party"] == {"name": {"en": "Cordwood Union"}, "short_name": {"en": "Cordwood"}}
    bill = await get(client, "/bills/45-1/C-5/")
    assert bill["name"].keys() == bill["short_title"].keys() == {"en", "fr"}
    assert bill["status"] == {"en": "Second reading (Senate)"}
    sessions = (await get(client, "/committees/wharves/"))["sessions"]
    assert [(list(session), session["session"]) for session in sessions] == [
        (["session", "acronym", "source_url"], "45-1")
    ]


async def test_former_members_are_listed_only_on_request(client: httpx.AsyncClient) -> None:
    """Their list has names and URLs only, and one of them has a number in place of a slug."""
    sitting, former = await get_all(client, "/politicians/"), await get_all(client, "/politicians/?include=former")
    assert [(member["name"], member["url"]) for member in former] == [
        ("Beryl Birchwick", "/politicians/beryl-birchwick/"),
        ("Ottoline Greyfeather", "/politicians/ottoline-greyfeather/"),
        ("Basil Wrenfield", "/politicians/basil-wrenfield/"),
        ("Basil Wrenfield", "/politicians/124/"),
    ]
    assert not {member["url"] for member in sitting} & {member["url"] for member in former}
    assert len(await get_all(client, "/politicians/?include=all")) == len(sitting) + len(former)
    assert await get_all(client, "/votes/ballots/?politician=ottoline-greyfeather")
    (term,) = (await get(client, "/politicians/124/"))["memberships"]
    assert (term["party"]["short_name"]["en"], term["end_date"]) == ("Cordwood", "2025-03-22")


async def test_records_by_number_and_moved_paths(client: httpx.AsyncClient) -> None:
    assert await get(client, "/politicians/1/") == await get(client, "/politicians/fern-quillwater/")
    by_number = await get_all(client, "/votes/ballots/?politician=1")
    assert by_number == await get_all(client, "/votes/ballots/?politician=/politicians/fern-quillwater/") != []
    for path, target in (
        ("/committees/1/", "/committees/wharves/"),
        ("/committees/2/45-1/1/", "/committees/birds/45-1/1/"),
        ("/politicians/former/", "/politicians/?include=former"),
    ):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (301, target)
    assert (await client.get("/committees/99/")).status_code == 404


async def test_subcommittees_are_not_listed(client: httpx.AsyncClient) -> None:
    listed = await get_all(client, "/committees/")
    assert [committee["slug"] for committee in listed] == ["wharves", "birds", "winter", "calendars", "stories"]
    assert (await get(client, "/committees/winter/"))["subcommittees"] == ["/committees/winter-mittens/"]


async def test_bills_are_ordered_by_number_and_not_by_date(client: httpx.AsyncClient) -> None:
    bills = [(bill["session"], bill["number"]) for bill in await get_all(client, "/bills/")]
    assert bills[0] == ("45-1", "C-2")
    assert bills.index(("44-1", "C-5")) == bills.index(("45-1", "C-5")) - 1
    assert bills[-1] == ("45-1", "C-201")
    assert (await get(client, "/bills/45-1/C-13/"))["name"] == {"en": None, "fr": None}
    # No bill has false: it is null until royal assent.
    assert await get_all(client, "/bills/?law=False") == []
    assert len(await get_all(client, "/bills/?law=none")) == len(bills) - 1


async def test_the_newest_vote_is_of_the_current_session(client: httpx.AsyncClient) -> None:
    assert (await get(client, "/votes/?limit=1"))["objects"][0]["session"] == "45-1"


async def test_a_bill_number_occurs_once_a_session(client: httpx.AsyncClient) -> None:
    found = await get_all(client, "/bills/?number=C-5")
    assert sorted(bill["session"] for bill in found) == ["44-1", "45-1"]


@pytest.mark.parametrize("url", ["/votes/ballots/?vote=/votes/45-1/7/", "/speeches/?politician=fern-quillwater"])
async def test_pages_add_up_to_the_list(client: httpx.AsyncClient, url: str) -> None:
    full_list = (await get(client, f"{url}&limit=500"))["objects"]
    assert await get_all(client, url, limit=7) == full_list
    first = await get(client, url)
    assert (len(first["objects"]), first["pagination"]["limit"]) == (20, 20)
    assert first["pagination"]["next_url"].startswith("/")
    second = await get(client, first["pagination"]["next_url"])
    assert second["objects"] == full_list[20:40]
    previous = parse_qs(urlsplit(second["pagination"]["previous_url"]).query)
    assert (previous["offset"], previous["limit"]) == (["0"], ["20"])
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
async def test_page_size(client: httpx.AsyncClient, url: str, limit: int) -> None:
    answer = await get(client, url)
    assert answer["pagination"]["limit"] == limit
    assert len(answer["objects"]) == min(limit, len(await get_all(client, url.partition("?")[0])))


@pytest.mark.parametrize(
    "url",
    [
        "/politicians/unknown-member/",
        "/votes/45-1/999/",
        "/bills/45-1/C-999/",
        "/bills/45-1/c-5/",
        "/debates/2026/9/4/",
        "/debates/2026/09/03/",
        "/committees/fish/",
        "/committees/birds/45-1/99/",
        "/debates/2026/9/3/unknown-member-1/",
        "/search/feed/",
        "/senators/",
        "/LegisInfo/en/bill/45-1/c-999/json",
    ],
)
async def test_unknown_record_is_an_html_404(client: httpx.AsyncClient, url: str) -> None:
    answer = await client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


@pytest.mark.parametrize("accept", ["*/*", "text/html", "text/html,application/xhtml+xml"])
async def test_other_accept_headers_get_html_or_406(client: httpx.AsyncClient, accept: str) -> None:
    page = await client.get("/votes/?limit=1", headers={"accept": accept})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    json_page = await client.get("/votes/?limit=1&format=json", headers={"accept": accept})
    assert json_page.json()["objects"]
    assert (await client.get("/votes/", headers={"accept": "image/png"})).status_code == 406


async def test_url_without_slash_redirects(client: httpx.AsyncClient) -> None:
    for url in ("/votes", "/votes/45-1/7", "/politicians/fern-quillwater", "/votes/ballots"):
        answer = await client.get(f"{url}?limit=1", follow_redirects=True)
        assert (answer.status_code, answer.url.path, answer.url.query) == (200, f"{url}/", b"limit=1")
        assert answer.history
