"""The tools against the parliamentary stand-in: what they find, in both languages, and how they ask for it."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import uvicorn

from functions.chat import limits, tools
from functions.chat.tools import Found, Language, Outcome, Source, Tools, shape
from functions.chat.tools.parliament import Parliament
from infra.local.parliament import create_app
from infra.local.postgres import ROOT

CONTACT = "clerk@example.test"
LANGUAGES: tuple[Language, ...] = get_args(Language)
# Every tool, asked for something that there is.
CALLS: dict[str, dict[str, Any]] = {
    "find_bills": {"words": "act", "limit": 20},
    "find_committees": {},
    "find_mps": {"party": "Heron", "limit": 20},
    "get_bill": {"number": "C-5"},
    "get_bill_debate": {"number": "C-5", "limit": 20},
    "get_bill_votes": {"number": "C-5", "limit": 20},
    "get_committee": {"slug": "wharves", "limit": 20},
    "get_mp": {"slug": "fern-quillwater"},
    "get_mp_speeches": {"slug": "fern-quillwater", "limit": 20},
    "get_mp_votes": {"slug": "fern-quillwater", "limit": 20},
    "get_vote": {"number": 21},
    "search_debates": {"words": "ferries", "limit": 20},
}


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The stand-in, on a real server."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on and every reply waits 40 ms for an acknowledgement.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(delay=0.005), lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)


@dataclass(slots=True)
class Desk:
    """All tools at the stand-in, and what can be seen of it from there."""

    origin: str
    tools: Tools
    parliament: Parliament
    http: httpx.AsyncClient

    async def ask(self, name: str, language: Language = "en", /, **arguments: Any) -> dict[str, Any]:
        """What a tool finds."""
        outcome = await self.tools.run(name, arguments, language)
        assert outcome.error is None
        assert outcome.output is not None
        return outcome.output

    async def complaint(self, name: str, /, **arguments: Any) -> str:
        """Why a tool finds nothing."""
        outcome = await self.tools.run(name, arguments, "en")
        assert (outcome.output, outcome.sources) == (None, [])
        assert outcome.error is not None
        return outcome.error

    async def raw(self, address: str) -> Any:
        """What the stand-in itself says."""
        return (await self.http.get(address, headers={"accept": "application/json"})).json()

    async def journal(self) -> list[dict[str, Any]]:
        """What the stand-in was asked."""
        entries: list[dict[str, Any]] = (await self.http.get("/_requests")).json()
        return entries

    async def spoil(self, **fault: Any) -> None:
        """Make its next answers bad."""
        await self.http.post("/_fail", json=fault)

    def page(self, path: str) -> str:
        return f"{self.origin}{path}"


@pytest.fixture(scope="module")
async def plain(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin) as client:
        yield client


@pytest.fixture
async def desk(origin: str, plain: httpx.AsyncClient) -> AsyncIterator[Desk]:
    """Tools that have read nothing yet. Fails if something went wrong that nobody expected."""
    failures: list[tuple[str, BaseException]] = []
    parliament = Parliament(origin, origin, CONTACT)
    made = Tools(parliament, lambda name, error: failures.append((name, error)))
    await plain.delete("/_requests")
    yield Desk(origin, made, parliament, plain)
    await plain.delete("/_fail")
    await made.close()
    assert failures == []


def names(found: dict[str, Any], key: str = "mp") -> list[Any]:
    return [item[key] for item in found["items"]]


# --- what they find --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", CALLS)
async def test_every_result_fits_and_says_where_it_comes_from(desk: Desk, name: str, language: Language) -> None:
    outcome = await desk.tools.run(name, CALLS[name], language)
    assert outcome.error is None
    text = json.dumps(outcome.output, ensure_ascii=False, separators=(",", ":"))
    assert 200 < len(text) <= limits.TOOL_RESULT_CHARACTERS
    assert re.search(r"</?\w+[^>]*>|&\w+;", text) is None
    pages = [source.url for source in outcome.sources]
    assert 1 <= len(pages) == len({*pages}) <= limits.TOOL_SOURCES
    assert all(url.startswith(f"{desk.origin}/") and url in text for url in pages if name != "get_vote")
    assert all(source.title and len(source.title) <= 160 for source in outcome.sources)
    # Every page of a source is there.
    for url in pages:
        assert (await desk.http.get(url)).status_code == 200


@pytest.mark.parametrize(
    "name", ["get_bill", "get_bill_debate", "get_bill_votes", "get_committee", "get_mp_speeches", "get_mp_votes"]
)
async def test_each_language_gets_its_own_words(desk: Desk, name: str) -> None:
    english, french = [await desk.tools.run(name, CALLS[name], language) for language in LANGUAGES]
    assert [source.url for source in english.sources] == [source.url for source in french.sources]
    assert english.output != french.output
    assert [source.title for source in english.sources] != [source.title for source in french.sources]


@pytest.mark.parametrize(
    ("arguments", "slugs"),
    [
        ({"name": "quillwater"}, ["fern-quillwater", "percival-quillwater"]),
        ({"name": "Quillwater Fern"}, ["fern-quillwater"]),
        ({"name": "THEODULE VERTE"}, ["theodule-vertegrange"]),
        ({"name": "théodule"}, ["theodule-vertegrange"]),
        ({"name": "o'fennimore"}, ["josephine-ofennimore"]),
        ({"name": "OFennimore"}, ["josephine-ofennimore"]),
        ({"riding": "riviere aux exemples"}, ["theodule-vertegrange"]),
        ({"riding": "Chimere Rive-Sud"}, ["marguerite-deschimeres"]),
        ({"riding": "upper exemplar"}, ["percival-quillwater"]),
        ({"party": "juniper", "province": "SK"}, ["beatrix-ironlark", "magnus-wintergale"]),
        ({"party": "Fleuve Québécois", "riding": "saint"}, ["apolline-rocheverte"]),
        ({"name": "nobody at all"}, []),
        ({"name": "quillwater", "province": "QC"}, []),
    ],
)
async def test_mps_are_found_by_parts_without_accents_and_all_that_is_given_is_true(
    desk: Desk, arguments: dict[str, Any], slugs: list[str]
) -> None:
    found = await desk.ask("find_mps", **arguments)
    assert names(found) == slugs
    assert (found["mps_with"], found["left_out"]) == (arguments, 0)


async def test_an_unknown_party_is_not_a_party_without_mps(desk: Desk) -> None:
    complaint = await desk.complaint("find_mps", party="Whig")
    assert complaint == (
        "No party of that name sits in the House; there are Cordwood, Fleuve, Heron, Independent, Juniper, Lantern."
    )


@pytest.mark.parametrize(
    ("postal_code", "slugs"),
    [
        ("K1A 0A6", ["fern-quillwater"]),
        ("k1a0a6", ["fern-quillwater"]),
        ("K1A-0A6", ["fern-quillwater"]),
        ("H2X 1Y4", ["theodule-vertegrange"]),  # Represent leaves the concordance out
        ("T5J 0N3", ["solveig-frostwren"]),  # … and the centroid
        ("V6B 1A1", ["maribel-thistledown", "hester-pinebarrow"]),  # in two ridings
        ("R3C 0V8", []),  # a vacant seat
        ("X9X 9X9", []),  # unknown
    ],
)
async def test_a_postal_code_finds_the_federal_members_of_its_ridings(
    desk: Desk, postal_code: str, slugs: list[str]
) -> None:
    assert names(await desk.ask("find_mps", postal_code=postal_code)) == slugs


async def test_a_postal_code_goes_together_with_the_rest(desk: Desk) -> None:
    assert names(await desk.ask("find_mps", postal_code="V6B 1A1", party="Juniper")) == ["hester-pinebarrow"]


async def test_a_record_has_every_term_the_newest_first(desk: Desk) -> None:
    crossed = await desk.ask("get_mp", slug="sixtus-plumbrook")
    assert (crossed["name"], crossed["party"], crossed["sits_now"]) == ("Sixtus Plumbrook", "Independent", True)
    terms = [(term["from"], term["to"], term["party"]) for term in crossed["memberships"]["items"]]
    assert terms == [("2026-05-20", None, "Independent"), ("2026-01-12", "2026-05-20", "Juniper Alliance")]
    left = await desk.ask("get_mp", slug="ottoline-greyfeather")
    assert (left["party"], left["riding"], left["sits_now"]) == ("Heron", "Upper Exemplar", False)
    assert left["url"] == desk.page("/politicians/ottoline-greyfeather/")
    assert left["links"] == [{"url": "https://ottoline-greyfeather.example/", "about": "Official site"}]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("only_dissent", [False, True])
async def test_each_ballot_is_told_with_what_its_vote_was_about(
    desk: Desk, language: Language, only_dissent: bool
) -> None:
    arguments = {"slug": "fern-quillwater", "only_dissent": only_dissent, "limit": 6}
    found = await desk.ask("get_mp_votes", language, **arguments)
    # The newest votes come in one list.
    joins = 2 if only_dissent else 1
    assert [entry["path"].split("/")[1] for entry in await desk.journal()] == [
        "politicians",
        "votes",
        *["votes"] * joins,
    ]
    assert found["votes_of"]["name"] == "Fern Quillwater"
    dissent = "&dissent=True" if only_dissent else ""
    ballots = (await desk.raw(f"/votes/ballots/?politician=fern-quillwater&limit=6{dissent}"))["objects"]
    assert len(ballots) == len(found["items"]) == (2 if only_dissent else 6)
    for item, ballot in zip(found["items"], ballots, strict=True):
        vote = await desk.raw(ballot["vote_url"])
        assert item["ballot"] == ballot["ballot"]
        assert (item["vote"], item["date"], item["about"]) == (
            vote["number"],
            vote["date"],
            vote["description"][language],
        )
        assert (item["result"], item["yea"], item["nay"]) == (vote["result"], vote["yea_total"], vote["nay_total"])
        bill = item["on_bill"]
        assert vote["bill_url"] == (f"/bills/{bill['session']}/{bill['bill']}/" if bill else None)
        assert item["url"] == desk.page(ballot["vote_url"])
    assert found.get("more", False) is (not only_dissent)


async def test_the_votes_of_who_has_left_are_joined_too(desk: Desk) -> None:
    found = await desk.ask("get_mp_votes", slug="ottoline-greyfeather", limit=3)
    assert [item["vote"] for item in found["items"]] == [17, 16, 15]
    assert all(item["about"] and item["date"] < "2026-05-15" for item in found["items"])


@pytest.mark.parametrize("language", LANGUAGES)
async def test_speeches_are_the_transcripts_words_without_routine(desk: Desk, language: Language) -> None:
    found = await desk.ask("get_mp_speeches", language, slug="fern-quillwater", limit=3)
    raw = (await desk.raw("/speeches/?politician=fern-quillwater&limit=3"))["objects"]
    for item, speech in zip(found["items"], raw, strict=True):
        assert item["url"] == desk.page(speech["url"])
        assert (item["time"], item["mp"]) == (speech["time"].replace(" ", "T"), "fern-quillwater")
        assert (item["speaker"], item["heading"]) == (speech["attribution"][language], speech["h2"][language])
        paragraphs = re.findall(r"<p [^>]*>(.*?)</p>", speech["content"][language])
        said = "\n".join(re.sub(r"<.*?>", "", text).replace("&amp;", "&") for text in paragraphs)
        assert item["text"] == said
    # The Speaker speaks about nothing but routine.
    assert (await desk.ask("get_mp_speeches", slug="tobias-hollowmere"))["items"] == []


async def test_speeches_since_a_day_and_a_long_one_is_cut_at_a_word(desk: Desk) -> None:
    found = await desk.ask("get_mp_speeches", slug="fern-quillwater", since="2026-10-06", limit=20)
    assert found["since"] == "2026-10-06"
    assert {item["time"][:10] for item in found["items"]} == {"2026-10-06", "2026-10-20"}
    speeches = (await desk.raw("/speeches/?bill_debated=/bills/45-1/C-5/&limit=500"))["objects"]
    longest = max(speeches, key=lambda speech: len(speech["content"]["en"]))
    item, _ = shape.speech_entry(desk.parliament, longest, "en", shape.speech_room(1))
    assert item["text"].endswith("…")
    whole = shape.plain(longest["content"]["en"])
    assert whole.startswith(item["text"][:-1])
    assert whole[len(item["text"]) - 1].isspace()
    assert 5_000 < len(item["text"]) < 5_400


@pytest.mark.parametrize(
    ("arguments", "bills"),
    [
        ({"words": "ferry routes"}, ["C-5"]),
        ({"words": "TRAVERSIER reouverture"}, ["C-5"]),  # the other language, without accents
        ({"words": "unnamed lakes and something else"}, []),
        ({"words": "grain elevators"}, []),  # of another session
        ({"words": "grain elevators", "session": "44-1"}, ["C-5"]),
        ({"number": "c-5"}, ["C-5", "C-5"]),
        ({"law": True}, ["C-2"]),
        ({"private_member": True}, ["C-201"]),
        ({"private_member": False, "words": "mitten"}, []),
        ({"sponsor": "rosalind-copperdale"}, ["C-201"]),
        ({"sponsor": "sixtus-plumbrook"}, []),
    ],
)
async def test_bills_are_found_by_words_of_either_language_and_all_that_is_given(
    desk: Desk, arguments: dict[str, Any], bills: list[str]
) -> None:
    found = await desk.ask("find_bills", **arguments)
    assert names(found, "bill") == bills
    assert found["left_out"] == 0


async def test_a_list_says_which_session_it_looked_in(desk: Desk) -> None:
    assert (await desk.ask("find_bills", words="nothing"))["bills_with"] == {"words": "nothing", "session": "45-1"}
    assert (await desk.ask("find_bills", number="C-5"))["bills_with"] == {"number": "C-5"}
    sponsored = await desk.ask("find_bills", sponsor="fern-quillwater")
    assert sponsored["bills_with"]["sponsor"]["name"] == "Fern Quillwater"


async def test_trimming_comes_after_filtering(desk: Desk) -> None:
    everything = [bill["number"] for bill in (await desk.raw("/bills/?session=45-1&limit=500"))["objects"]]
    assert everything.index("S-3") == len(everything) - 1
    assert names(await desk.ask("find_bills", words="bird signs", limit=1), "bill") == ["S-3"]
    members = [member["name"] for member in (await desk.raw("/politicians/?limit=500"))["objects"]]
    assert members.index("Magnus Wintergale") > 30
    assert names(await desk.ask("find_mps", name="wintergale", limit=1)) == ["magnus-wintergale"]
    assert names(await desk.ask("find_committees", words="heritage", limit=1), "committee") == ["stories"]


async def test_what_a_limit_leaves_out_is_counted(desk: Desk) -> None:
    found = await desk.ask("find_mps", party="Heron", limit=3)
    sitting = (await desk.raw("/politicians/?limit=500"))["objects"]
    party = [member for member in sitting if member["current_party"]["short_name"]["en"] == "Heron"]
    assert (len(found["items"]), found["left_out"]) == (3, len(party) - 3)


@pytest.mark.parametrize(("language", "title"), [("en", "Small Ferries Act"), ("fr", "Loi sur les petits traversiers")])
async def test_a_bill_has_status_sponsor_dates_and_links(desk: Desk, language: Language, title: str) -> None:
    outcome = await desk.tools.run("get_bill", {"number": "C-5"}, language)
    bill = outcome.output
    assert bill is not None
    assert (bill["bill"], bill["session"], bill["short_title"]) == ("C-5", "45-1", title)
    assert (bill["status"], bill["introduced"], bill["law"]) == ("Second reading (Senate)", "2026-02-12", False)
    assert (bill["sponsor"]["mp"], bill["recorded_votes"]) == ("fern-quillwater", 6)
    assert bill["legisinfo"] == f"https://www.parl.ca/legisinfo/{language}/bill/45-1/c-5"
    assert bill["text"] == "https://commons.example/bills/45-1/c-5/first-reading"
    start = {"en": "Bill C-5: An Act respecting", "fr": "Projet de loi C-5 : Loi concernant"}[language]
    assert outcome.sources[0].title.startswith(start)
    assert outcome.sources[1] == Source(desk.page("/politicians/fern-quillwater/"), "Fern Quillwater")


async def test_a_senators_bill_has_no_sponsor_there(desk: Desk) -> None:
    assert (await desk.ask("get_bill", number="S-2"))["sponsor"] is None


async def test_a_bill_of_another_session_is_never_taken_for_this_ones(desk: Desk) -> None:
    older = await desk.ask("get_bill", number="C-5", session="44-1")
    assert (older["session"], older["short_title"]) == ("44-1", "Grain Elevators Act")
    assert (await desk.ask("get_bill_votes", number="C-5", session="44-1"))["items"] == []
    assert (await desk.ask("get_bill_debate", number="C-5", session="44-1"))["items"] == []


async def test_a_bills_votes_have_totals_and_results(desk: Desk) -> None:
    found = await desk.ask("get_bill_votes", number="C-5", limit=20)
    assert (found["bill"], found["title"]) == ("C-5", (await desk.raw("/bills/45-1/C-5/"))["name"]["en"])
    raw = (await desk.raw("/votes/?bill=/bills/45-1/C-5/"))["objects"]
    keys = ("vote", "result", "yea", "nay", "paired", "about")
    assert [tuple(item[key] for key in keys) for item in found["items"]] == [
        (v["number"], v["result"], v["yea_total"], v["nay_total"], v["paired_total"], v["description"]["en"])
        for v in raw
    ]
    assert len(raw) == 6


async def test_a_bills_debate_is_about_that_bill(desk: Desk) -> None:
    found = await desk.ask("get_bill_debate", "fr", number="C-12", limit=4)
    raw = (await desk.raw("/speeches/?bill_debated=/bills/45-1/C-12/&procedural=False&limit=4"))["objects"]
    assert [item["url"] for item in found["items"]] == [desk.page(speech["url"]) for speech in raw]
    assert all("cerfs-volants" in item["text"] for item in found["items"])
    assert found["more"]


async def test_a_vote_has_its_parties_and_who_went_against_theirs(desk: Desk) -> None:
    outcome = await desk.tools.run("get_vote", {"number": 17}, "en")
    vote = outcome.output
    assert vote is not None
    raw = await desk.raw("/votes/45-1/17/")
    assert (vote["about"], vote["on_bill"], vote["result"]) == (raw["description"]["en"], None, raw["result"])
    lines = {line["party"]["short_name"]["en"]: line["vote"] for line in raw["party_votes"]}
    assert {line["party"]: line["vote"] for line in vote["parties"]["items"]} == lines
    # One of them sits no more, and is known by the slug.
    assert vote["dissenting_mps"]["items"] == [
        {"mp": "ottoline-greyfeather", "name": None, "ballot": "Yes"},
        {"mp": "gaspard-belletremplin", "name": "Gaspard Belletremplin", "ballot": "Yes"},
    ]
    assert [source.title for source in outcome.sources[1:]] == ["ottoline-greyfeather", "Gaspard Belletremplin"]
    assert (await desk.ask("get_vote", number=21))["on_bill"] == {"bill": "C-9", "session": "45-1"}


@pytest.mark.parametrize(
    ("language", "start"), [("en", "Vote 21: Bill C-9,"), ("fr", "Vote nº 21 : projet de loi C-9,")]
)
async def test_a_votes_page_is_named_in_the_language(desk: Desk, language: Language, start: str) -> None:
    outcome = await desk.tools.run("get_vote", {"number": 21}, language)
    assert outcome.sources[0].title.startswith(start)
    assert outcome.sources[0].title.endswith(", 2026-06-09")


async def test_search_finds_what_was_said_by_anybody(desk: Desk) -> None:
    found = await desk.ask("search_debates", words="lighthouse storytelling", limit=3)
    assert (found["speeches_with"], len(found["items"])) == ("lighthouse storytelling", 3)
    assert all("lighthouse" in item["excerpt"].lower() for item in found["items"])
    assert [item["date"] for item in found["items"]] == sorted([item["date"] for item in found["items"]], reverse=True)
    assert all(re.fullmatch(r"2026-\d\d-\d\d", item["date"]) for item in found["items"])
    assert found["left_out"] > 0
    assert (await desk.ask("search_debates", words="xylophone"))["items"] == []


async def test_search_keeps_whatever_is_asked_a_question(desk: Desk) -> None:
    words = 'a&limit=1#"é/../?q=x'
    assert (await desk.ask("search_debates", words=words))["items"] == []
    (entry,) = await desk.journal()
    assert entry["path"] == "/search/feed/"
    assert httpx.QueryParams(entry["query"]).multi_items() == [("q", words)]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_committees_and_their_meetings(desk: Desk, language: Language) -> None:
    found = await desk.ask("find_committees", language, words="recensement")
    birds = {"en": "Birds and Census", "fr": "Oiseaux et recensement"}[language]
    assert (names(found, "committee"), names(found, "name")) == (["birds"], [birds])
    outcome = await desk.tools.run("get_committee", {"slug": "birds", "limit": 2}, language)
    assert outcome.output is not None
    meetings = [(meeting["meeting"], meeting["date"]) for meeting in outcome.output["items"]]
    assert meetings == [(5, "2026-08-06"), (4, "2026-07-02")]
    word = {"en": "meeting", "fr": "réunion"}[language]
    assert outcome.sources[1] == Source(desk.page("/committees/birds/45-1/5/"), f"{birds}, {word} 5, 2026-08-06")


async def test_the_page_that_somebody_is_on_is_described(desk: Desk) -> None:
    mp, source = await desk.parliament.describe_mp("fern-quillwater", "fr")
    assert mp == {
        "mp": "fern-quillwater",
        "name": "Fern Quillwater",
        "party": "Heron",
        "riding": "Sampleton—Fogwood",
        "province": "ON",
        "sits_now": True,
        "url": source.url,
    }
    assert source == Source(desk.page("/politicians/fern-quillwater/"), "Fern Quillwater")
    bill, source = await desk.parliament.describe_bill(None, "C-5", "fr")
    assert (bill["bill"], bill["session"], bill["title"][:14]) == ("C-5", "45-1", "Loi concernant")
    assert source.url == desk.page("/bills/45-1/C-5/")


# --- what they do not find -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("get_mp", {"slug": "nobody"}, "No MP has the slug nobody; find_mps finds slugs by name."),
        ("get_mp_votes", {"slug": "nobody"}, "No MP has the slug nobody; find_mps finds slugs by name."),
        ("get_mp_speeches", {"slug": "nobody"}, "No MP has the slug nobody; find_mps finds slugs by name."),
        ("find_bills", {"sponsor": "nobody"}, "No MP has the slug nobody; find_mps finds slugs by name."),
        (
            "get_bill",
            {"number": "C-999"},
            "There is no bill C-999 in session 45-1; find_bills finds bills by words.",
        ),
        (
            "get_bill_votes",
            {"number": "C-5", "session": "43-2"},
            "There is no bill C-5 in session 43-2; there is one in 45-1, 44-1: give the session.",
        ),
        (
            "get_bill_debate",
            {"number": "C-999"},
            "There is no bill C-999 in session 45-1; find_bills finds bills by words.",
        ),
        (
            "get_vote",
            {"number": 999},
            "There is no vote 999 in session 45-1; get_bill_votes and get_mp_votes give numbers.",
        ),
        (
            "get_committee",
            {"slug": "nothing"},
            "No committee has the slug nothing; find_committees finds slugs by words.",
        ),
    ],
)
async def test_what_is_unknown_is_an_error_that_says_what_to_try(
    desk: Desk, name: str, arguments: dict[str, Any], complaint: str
) -> None:
    assert await desk.complaint(name, **arguments) == complaint


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
async def test_nothing_hostile_gets_into_an_address(desk: Desk, hostile: str) -> None:
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
    ]
    for name, arguments in calls:
        outcome = await desk.tools.run(name, arguments, "en")
        # A blank at the end is nobody's harm: it is taken off.
        if hostile.strip() != hostile and {"slug", "sponsor"} & {*arguments}:
            continue
        assert outcome.error is not None
        assert outcome.error.startswith("Wrong arguments: ")
    plain = re.compile(r"/(politicians|committees)/fern-quillwater/|/(speeches|bills|votes|votes/ballots)/")
    assert all(plain.fullmatch(entry["path"]) for entry in await desk.journal())


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_nothing_hostile_gets_there_from_a_page_either(desk: Desk, hostile: str) -> None:
    for describe in (
        desk.parliament.describe_mp(hostile, "en"),
        desk.parliament.describe_bill(hostile, "C-5", "en"),
        desk.parliament.describe_bill(None, hostile, "en"),
    ):
        with pytest.raises(tools.NotThere):
            await describe
    assert await desk.journal() == []


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
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
async def test_wrong_arguments_are_named_with_the_reason(desk: Desk, name: str, arguments: Any, complaint: str) -> None:
    assert await desk.tools.run(name, arguments, "en") == Outcome(None, complaint, [])
    assert await desk.journal() == []


async def test_an_unknown_tool_is_told_the_known_ones(desk: Desk) -> None:
    outcome = await desk.tools.run("rm -rf", {}, "en")
    assert outcome == Outcome(None, f"There is no tool of that name; there are {', '.join(CALLS)}.", [])


@pytest.mark.parametrize("argument", ["session", "words", "limit"])
async def test_null_is_an_argument_left_out_where_one_may_be(desk: Desk, argument: str) -> None:
    outcome = await desk.tools.run("find_bills", {"number": "C-5", argument: None}, "en")
    assert (outcome.error is None) is (argument != "limit")


# --- how they ask ----------------------------------------------------------------------------------------------------


async def test_many_tools_at_once_ask_one_after_the_other(desk: Desk) -> None:
    calls = [desk.tools.run(name, CALLS[name], language) for name in CALLS for language in LANGUAGES]
    outcomes = await asyncio.gather(*calls)
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    journal = await desk.journal()
    assert len(journal) > len(CALLS)
    assert not any(entry["concurrent"] for entry in journal)
    # Nobody asks what somebody else has just asked.
    asked = [(entry["path"], entry["query"]) for entry in journal]
    assert len({*asked}) == len(asked)


async def test_every_request_says_who_asks_and_for_what(desk: Desk) -> None:
    for name in CALLS:
        await desk.tools.run(name, CALLS[name], "en")
    journal = await desk.journal()
    assert {entry["user_agent"] for entry in journal} == {f"CanadaGPT/0.1 ({CONTACT})"}
    assert {entry["api_version"] for entry in journal} == {"v1"}
    accepted = {(entry["path"] == "/search/feed/", entry["accept"]) for entry in journal}
    assert accepted == {(False, "application/json"), (True, "application/rss+xml")}
    assert all(entry["status"] == 200 for entry in journal)


@pytest.mark.parametrize("name", CALLS)
async def test_what_was_read_is_not_asked_for_again(desk: Desk, name: str) -> None:
    first = await desk.tools.run(name, CALLS[name], "en")
    asked = len(await desk.journal())
    assert asked > 0
    assert await desk.tools.run(name, CALLS[name], "en") == first
    assert (await desk.tools.run(name, CALLS[name], "fr")).error is None
    assert len(await desk.journal()) == asked


async def test_what_is_old_is_asked_for_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(desk.parliament.upstream.cache, "_now", lambda: now)
    await desk.ask("get_mp", slug="fern-quillwater")
    now = limits.TOOL_CACHE_S - 0.1
    await desk.ask("get_mp", slug="fern-quillwater")
    assert len(await desk.journal()) == 1
    now = limits.TOOL_CACHE_S
    await desk.ask("get_mp", slug="fern-quillwater")
    assert len(await desk.journal()) == 2


async def test_a_call_that_is_cancelled_ends_and_leaves_the_line(desk: Desk) -> None:
    await desk.spoil(path_prefix="/politicians/fern-quillwater/", slow=30)
    # A tool that swallowed its cancellation would not let the time run out.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await desk.tools.run("get_mp", {"slug": "fern-quillwater"}, "en")
    assert (await desk.ask("get_mp", slug="corin-ashpetal"))["name"] == "Corin Ashpetal"


async def test_a_call_that_takes_too_long_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.spoil(path_prefix="/politicians/", slow=30)
    monkeypatch.setattr(limits, "TOOL_S", 0.2)
    complaint = await desk.complaint("get_mp", slug="fern-quillwater")
    assert complaint == "get_mp took longer than 0.2 seconds and was given up."
    monkeypatch.undo()
    assert (await desk.ask("get_mp", slug="fern-quillwater"))["name"] == "Fern Quillwater"


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"status": 500, "times": 9}, "openparliament.ca failed to answer."),
        ({"status": 400, "times": 9}, "openparliament.ca did not understand the question."),
        ({"status": 429, "times": 9, "retry_after": "0"}, "openparliament.ca is too busy at the moment."),
        ({"status": 503, "times": 9, "retry_after": "0"}, "openparliament.ca is too busy at the moment."),
        ({"status": 200, "body": "<html>"}, "openparliament.ca sent something that cannot be read."),
        ({"status": 200, "body": '{"objects": ['}, "openparliament.ca sent something that cannot be read."),
        ({"status": 200, "body": "[]"}, "openparliament.ca sent something that cannot be read."),
        (
            {"status": 200, "body": '{"objects": [1], "pagination": {}}'},
            "openparliament.ca sent something that cannot be read.",
        ),
    ],
)
async def test_a_failure_is_a_sentence_that_names_the_service_and_is_not_kept(
    desk: Desk, fault: dict[str, Any], complaint: str
) -> None:
    await desk.spoil(path_prefix="/politicians/", **fault)
    assert await desk.complaint("find_mps", name="quillwater") == complaint
    await desk.http.delete("/_fail")
    assert len((await desk.ask("find_mps", name="quillwater"))["items"]) == 2


async def test_represents_failures_are_represents(desk: Desk) -> None:
    await desk.spoil(path_prefix="/postcodes/", status=500)
    assert await desk.complaint("find_mps", postal_code="K1A 0A6") == "Represent failed to answer."


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", ["0", None])
async def test_a_busy_server_is_asked_once_more(
    desk: Desk, status: int, retry_after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.chat.tools.upstream.RETRY_PAUSE_S", 0.01)
    await desk.spoil(path_prefix="/politicians/", status=status, retry_after=retry_after)
    assert len((await desk.ask("find_mps", name="quillwater"))["items"]) == 2
    assert [entry["status"] for entry in await desk.journal()] == [status, 200]


@pytest.mark.parametrize("retry_after", ["3", "3600", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "nan"])
async def test_a_server_that_wants_more_time_is_left_alone(desk: Desk, retry_after: str) -> None:
    await desk.spoil(path_prefix="/politicians/", status=429, retry_after=retry_after, times=9)
    assert await desk.complaint("find_mps", name="quillwater") == "openparliament.ca is too busy at the moment."
    assert len(await desk.journal()) == 1


# --- what they are ---------------------------------------------------------------------------------------------------


def definitions() -> list[dict[str, Any]]:
    code = (
        "import dataclasses, json; from functions.chat.tools import Tools\n"
        "from functions.chat.tools.parliament import Parliament\n"
        "tools = Tools(Parliament('http://x.test', 'http://x.test', 'x'), print)\n"
        "print(json.dumps([dataclasses.asdict(definition) for definition in tools.definitions]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def test_definitions_are_the_same_in_every_process() -> None:
    told = definitions()
    assert json.dumps(told) == json.dumps(definitions())
    assert [definition["name"] for definition in told] == sorted(CALLS)
    assert all(re.fullmatch(r"[a-z_]{3,64}", definition["name"]) for definition in told)
    assert all(40 < len(definition["description"]) < 400 for definition in told)


def test_every_argument_is_described_and_bounded() -> None:
    for definition in definitions():
        parameters = definition["parameters"]
        assert {*parameters} == {"type", "properties", "required", "additionalProperties"}
        assert parameters["additionalProperties"] is False
        assert {*parameters["required"]} <= {*parameters["properties"]}
        for name, property_ in parameters["properties"].items():
            assert len(property_["description"]) > 15, name
            assert {"title", "anyOf", "$ref"}.isdisjoint(property_), name
            match property_["type"]:
                case "integer":
                    assert (property_["minimum"], property_["maximum"] <= 9_999) == (1, True), name
                case "string":
                    bounded = "maxLength" in property_ or "enum" in property_ or property_.get("format") == "date"
                    assert bounded, name
                case kind:
                    assert kind == "boolean", name


def test_a_definition_is_what_a_provider_takes() -> None:
    found = {definition["name"]: definition["parameters"] for definition in definitions()}
    assert found["get_mp_speeches"] == {
        "type": "object",
        "properties": {
            "slug": {
                "type": "string",
                "pattern": "^[a-z0-9][a-z0-9-]*$",
                "maxLength": 60,
                "description": "The MP's slug as find_mps gives it, for example jane-doe.",
            },
            "since": {
                "type": "string",
                "format": "date",
                "description": "Only speeches on or after this date.",
            },
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": 20,
                "default": 5,
                "description": "How many to give at most.",
            },
        },
        "required": ["slug"],
        "additionalProperties": False,
    }


NEW_TOOL = """
from functions.chat.tools import Found, Source, Tool
from functions.chat.tools.arguments import Arguments

async def run(wanted, parliament, language):
    if language == "fr":
        raise KeyError("a secret")
    page = parliament.page("/about/")
    return Found({"items": ["x" * 20_000]} if wanted.long else {}, [Source(page, "A"), Source(page, "B")])

class Wanted(Arguments):
    long: bool = False

TOOL = Tool("count_herons", "Counts herons.", Wanted, run)
"""


async def test_a_new_tool_is_one_file_and_its_defects_are_reported(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count_herons.py").write_text(NEW_TOOL, encoding="utf-8")
    monkeypatch.setattr(tools, "__path__", [*tools.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "functions.chat.tools.count_herons", raising=False)
    failures: list[tuple[str, BaseException]] = []
    found = Tools(desk.parliament, lambda name, error: failures.append((name, error)))
    assert [definition.name for definition in found.definitions] == ["count_herons", *CALLS]
    assert await found.run("count_herons", {}, "en") == Outcome({}, None, [Source(desk.page("/about/"), "A")])
    assert failures == []
    failed = Outcome(None, "count_herons failed.", [])
    assert await found.run("count_herons", {}, "fr") == failed
    assert await found.run("count_herons", {"long": True}, "en") == failed
    assert [(name, type(error)) for name, error in failures] == [
        ("count_herons", KeyError),
        ("count_herons", ValueError),
    ]
    del sys.modules["functions.chat.tools.count_herons"]


def test_the_package_imports_nothing_that_a_cold_start_does_not_have_anyway() -> None:
    code = "import functions.chat.tools.parliament, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
    heavy = {"xml", "xml.etree", "anthropic", "openai", "aiohttp", "fastapi", "html.parser", "functions.chat.settings"}
    assert heavy.isdisjoint(json.loads(done.stdout))


# --- how results are cut ---------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_left_out_from_the_end_and_counted() -> None:
    items = [{"text": "é" * 40}] * 10
    room = 3 * (len('{"text":""}') + 40 + 1)
    assert shape.fit(items, room) == {"items": items[:3], "left_out": 7}
    assert shape.fit(items, room - 1) == {"items": items[:2], "left_out": 8}
    assert shape.fit([], 0) == {"items": [], "left_out": 0}
    assert shape.fit(["x" * 100, "y"], 50) == {"items": [], "left_out": 2}


def test_pages_of_what_is_left_out_are_left_out_too() -> None:
    entries = [({"n": n, "text": "x" * 3_000}, Source(f"https://x.test/{n}", str(n))) for n in range(5)]
    about = Source("https://x.test/", "about")
    assert shape.listed({"of": "x"}, [about], entries, 4) == Found(
        {"of": "x", "items": [entries[0][0], entries[1][0]], "left_out": 3}, [about, entries[0][1], entries[1][1]]
    )


@pytest.mark.parametrize(
    ("text", "characters", "short"),
    [
        ("one two", 7, "one two"),
        ("one two three", 9, "one two…"),
        ("one two three", 8, "one two…"),
        ("one two three", 7, "one…"),
        ("unbreakable", 5, "unbr…"),
        (None, 5, None),
    ],
)
def test_a_text_is_cut_at_a_word(text: str | None, characters: int, short: str | None) -> None:
    cut = shape.shorten(text, characters)
    assert cut == short
    assert len(cut or "") <= characters


def test_html_becomes_text() -> None:
    html = '<p data-x="1">A &amp; <em>b</em>\n c</p>\n<p>1 &lt; 2<br>x</p>'
    assert shape.plain(html) == "A & b c\n1 < 2\nx"
    assert shape.plain(None) == ""
    assert shape.plain("<" * 1_000_000) == "<" * 1_000_000  # in linear time


def test_a_language_falls_back_to_the_other() -> None:
    assert [shape.said({"en": "a", "fr": "b"}, language) for language in LANGUAGES] == ["a", "b"]
    assert [shape.said({"en": "a"}, language) for language in LANGUAGES] == ["a", "a"]
    assert [shape.said({"en": "", "fr": "b"}, language) for language in LANGUAGES] == ["b", "b"]
    assert [shape.said(value, "en") for value in ("a", None, {}, 5)] == ["a", None, None, None]
