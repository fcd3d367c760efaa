"""find_mps, find_bills, find_committees and search_debates: which records match, and in which order."""

import re
from typing import Any

import httpx
import pytest

from functions.chat.sources.base import Language
from functions.chat.tools import Source
from functions.chat.tools.find_ministers import FindMinisters, find_ministers
from tests.functions.tools.kit import LANGUAGES, Runner, ScriptedServer, values
from tests.sources import parliament_at


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
        ({"name": "Hon.", "province": "NS"}, []),
        ({"name": "unknown name", "province": "ON"}, []),
        ({"name": "quillwater", "province": "QC"}, []),
    ],
)
async def test_find_mps_ignores_accents_and_requires_every_criterion(
    runner: Runner, arguments: dict[str, Any], slugs: list[str]
) -> None:
    found = await runner.output("find_mps", **arguments)
    assert values(found) == slugs
    assert (found["mps_with"], found["left_out"]) == (arguments, 0)


async def test_unknown_party_is_an_error_that_lists_parties(runner: Runner) -> None:
    error = await runner.error("find_mps", party="Whig")
    assert error == (
        "No party in the House has that name; the parties are Cordwood, Fleuve, Heron, Independent, Juniper, Lantern."
    )


@pytest.mark.parametrize("words", ["heron census act", "RECENSEMENT DES HERONS", "census of herons"])
async def test_find_bills_matches_short_titles_in_both_languages(runner: Runner, words: str) -> None:
    (bill,) = (await runner.output("find_bills", words=words))["items"]
    assert (bill["bill"], bill["short_title"]) == ("C-2", "Heron Census Act")


@pytest.mark.parametrize("criterion", [{"sponsor": "fern-quillwater"}, {"number": "C-5"}])
async def test_short_titles_are_searched_without_a_session(runner: Runner, criterion: dict[str, str]) -> None:
    (bill,) = (await runner.output("find_bills", words="Small Ferries", **criterion))["items"]
    assert (bill["bill"], bill["session"], bill["short_title"]) == ("C-5", "45-1", "Small Ferries Act")


@pytest.mark.parametrize(
    ("name", "arguments", "path"),
    [
        ("find_bills", {"words": "xyzzy"}, "/bills/"),
        ("find_mps", {"name": "xyzzy", "province": "ON"}, "/politicians/"),
        ("find_mps", {"name": "xyzzy"}, "/politicians/"),
        ("find_committees", {"words": "xyzzy"}, "/committees/"),
    ],
)
async def test_empty_list_has_the_page_of_the_whole_list(
    runner: Runner, name: str, arguments: dict[str, str], path: str
) -> None:
    outcome = await runner.tools.run(name, arguments, "en")
    assert outcome.output is not None
    assert (outcome.output["items"], [source.url for source in outcome.sources]) == ([], [runner.url(path)])


async def test_bills_that_are_no_law_yet_are_found(runner: Runner) -> None:
    """openparliament.ca has null, and not false, until royal assent."""
    laws = (await runner.output("find_bills", law=True, limit=20))["items"]
    others = (await runner.output("find_bills", law=False, limit=20))["items"]
    everything = (await runner.record("/bills/?session=45-1&limit=500"))["objects"]
    assert [bill["bill"] for bill in laws] == ["C-2"]
    assert {bill["bill"] for bill in others} == {bill["number"] for bill in everything} - {"C-2"}


@pytest.mark.parametrize(
    ("postal_code", "slugs"),
    [
        ("K1A 0A6", ["fern-quillwater"]),
        ("k1a0a6", ["fern-quillwater"]),
        ("K1A-0A6", ["fern-quillwater"]),
        ("H2X 1Y4", ["theodule-vertegrange"]),  # Represent omits the concordance
        ("T5J 0N3", ["solveig-frostwren"]),  # … or the centroid
        ("V6B 1A1", ["maribel-thistledown", "hester-pinebarrow"]),  # in two ridings
        ("R3C 0V8", []),  # a vacant seat
    ],
)
async def test_postal_code_finds_only_federal_mps(runner: Runner, postal_code: str, slugs: list[str]) -> None:
    assert values(await runner.output("find_mps", postal_code=postal_code)) == slugs


async def test_vacant_riding_and_unknown_postal_code_differ(runner: Runner) -> None:
    vacant = await runner.output("find_mps", postal_code="R3C 0V8")
    assert (vacant["items"], vacant["vacant_ridings"]) == ([], ["Ballad North"])
    assert "vacant_ridings" not in await runner.output("find_mps", postal_code="V6B 1A1")
    assert await runner.error("find_mps", postal_code="X9X 9X9") == "Represent does not know that postal code."


async def test_postal_code_combines_with_other_criteria(runner: Runner) -> None:
    assert values(await runner.output("find_mps", postal_code="V6B 1A1", party="Juniper")) == ["hester-pinebarrow"]


@pytest.mark.parametrize(
    ("arguments", "bills"),
    [
        ({"words": "ferry routes"}, ["C-5"]),
        ({"words": "TRAVERSIER reouverture"}, ["C-5"]),  # the French title, without accents
        ({"words": "unnamed lakes and something else"}, []),
        ({"words": "grain elevators"}, []),  # in another session
        ({"words": "grain elevators", "session": "44-1"}, ["C-5"]),
        ({"number": "c-5"}, ["C-5", "C-5"]),
        ({"law": True}, ["C-2"]),
        ({"private_member": True}, ["C-201"]),
        ({"private_member": False, "words": "mitten"}, []),
        ({"sponsor": "rosalind-copperdale"}, ["C-201"]),
        ({"sponsor": "sixtus-plumbrook"}, []),
    ],
)
async def test_find_bills_searches_both_languages_and_requires_every_criterion(
    runner: Runner, arguments: dict[str, Any], bills: list[str]
) -> None:
    found = await runner.output("find_bills", **arguments)
    assert values(found, "bill") == bills
    assert found["left_out"] == 0


async def test_find_bills_returns_its_criteria_and_session(runner: Runner) -> None:
    assert (await runner.output("find_bills", words="nothing"))["bills_with"] == {"words": "nothing", "session": "45-1"}
    assert (await runner.output("find_bills", number="C-5"))["bills_with"] == {"number": "C-5"}
    sponsored = await runner.output("find_bills", sponsor="fern-quillwater")
    assert sponsored["bills_with"]["sponsor"]["name"] == "Fern Quillwater"


async def test_limit_applies_after_filtering(runner: Runner) -> None:
    everything = [bill["number"] for bill in (await runner.record("/bills/?session=45-1&limit=500"))["objects"]]
    assert everything.index("S-3") > 10
    assert values(await runner.output("find_bills", words="bird signs", limit=1), "bill") == ["S-3"]
    members = [member["name"] for member in (await runner.record("/politicians/?limit=500"))["objects"]]
    assert members.index("Magnus Wintergale") > 30
    assert values(await runner.output("find_mps", name="wintergale", limit=1)) == ["magnus-wintergale"]
    assert values(await runner.output("find_committees", words="heritage", limit=1), "committee") == ["stories"]


async def test_items_beyond_the_limit_are_counted(runner: Runner) -> None:
    found = await runner.output("find_mps", party="Heron", limit=3)
    sitting = (await runner.record("/politicians/?limit=500"))["objects"]
    party = [member for member in sitting if member["current_party"]["short_name"]["en"] == "Heron"]
    assert (len(found["items"]), found["left_out"]) == (3, len(party) - 3)


async def test_search_returns_matching_speeches_newest_first(runner: Runner) -> None:
    found = await runner.output("search_debates", words="lighthouse storytelling", limit=3)
    assert (found["speeches_with"], len(found["items"])) == ("lighthouse storytelling", 3)
    assert all("lighthouse" in item["excerpt"].lower() for item in found["items"])
    assert [item["date"] for item in found["items"]] == sorted([item["date"] for item in found["items"]], reverse=True)
    assert all(re.fullmatch(r"2026-\d\d-\d\d", item["date"]) for item in found["items"])
    assert found["left_out"] > 0
    assert (await runner.output("search_debates", words="xylophone"))["items"] == []


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        (
            {"speaker": "wilhelmina-larkspurr"},
            lambda speech: speech["politician_url"] == "/politicians/wilhelmina-larkspurr/",
        ),
        ({"party": "fleuve"}, lambda speech: ", Fleuve)" in speech["attribution"]["en"]),
        ({"committee": "1"}, lambda speech: speech["url"].startswith("/committees/wharves/")),
        ({"since": "2026-03-10", "until": "2026-03-11"}, lambda speech: "2026-03-10" <= speech["time"] < "2026-03-12"),
    ],
)
async def test_search_filters_select_their_speeches(runner: Runner, filters: dict[str, str], matches: Any) -> None:
    found = await runner.output("search_debates", words="the", limit=20, **filters)
    assert 0 < len(found["items"]) + found["left_out"] <= 15
    assert values(found, "kind") == [("committee" if "committee" in filters else "speech")] * len(found["items"])
    for item in found["items"]:
        assert matches(await runner.record(item["url"].removeprefix(runner.origin)))


async def test_former_mps_are_found_where_no_sitting_one_is(runner: Runner) -> None:
    found = await runner.output("find_mps", name="wrenfield")
    assert {*values(found)} == {"basil-wrenfield", "124"}
    assert {*values(found, "sits_now")} == {False}
    for slug, party in (("basil-wrenfield", "Heron"), ("124", "Cordwood")):
        mp = await runner.output("get_mp", slug=slug)
        assert (mp["mp"], mp["name"], mp["party"], mp["sits_now"]) == (slug, "Basil Wrenfield", party, False)
    former = values(await runner.output("find_mps", name="greyfeather", former=True))
    assert former == ["ottoline-greyfeather"]
    assert "name only" in await runner.error("find_mps", former=True, party="Heron")


async def test_offices_match_in_lists_of_another_order(server: ScriptedServer) -> None:
    """A French list of another order: the words are those of the English one."""
    entry = (
        "<ParliamentarySecretary><PersonId>{}</PersonId><PersonOfficialLastName>{}</PersonOfficialLastName>"
        "<Title>{}</Title><FromDateTime>2026-02-02T00:00:00</FromDateTime></ParliamentarySecretary>"
    )
    people = {"en": [(1, "Ash", "Fisheries"), (2, "Birch", "Finance")], "fr": [(2, "Birch", "F"), (1, "Ash", "Pêches")]}
    for language, entries in people.items():
        body = "".join(entry.format(*each) for each in entries)
        path = f"/Members/{language}/parliamentary-secretaries/xml"
        server.answer(path, f"<ArrayOfParliamentarySecretary>{body}</ArrayOfParliamentarySecretary>".encode())
    parliament = parliament_at(server.url)
    found = await find_ministers(FindMinisters(words="fisheries", secretaries=True), parliament, "fr")
    await parliament.close()
    assert values(found.data, "office") == ["Pêches"]


async def test_search_escapes_the_words(runner: Runner) -> None:
    words = 'a&limit=1#"é/../?q=x'
    assert (await runner.output("search_debates", words=words))["items"] == []
    (entry,) = await runner.requests()
    assert entry["path"] == "/search/feed/"
    assert httpx.QueryParams(entry["query"]).multi_items() == [("q", words)]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_committees_are_found_with_their_meetings(runner: Runner, language: Language) -> None:
    found = await runner.output("find_committees", language, words="recensement")
    birds = {"en": "Birds and Census", "fr": "Oiseaux et recensement"}[language]
    assert (values(found, "committee"), values(found, "name")) == (["birds"], [birds])
    outcome = await runner.tools.run("get_committee", {"slug": "birds", "limit": 2}, language)
    assert outcome.output is not None
    meetings = [(meeting["meeting"], meeting["date"]) for meeting in outcome.output["items"]]
    assert meetings == [(5, "2026-08-06"), (4, "2026-07-02")]
    word = {"en": "meeting", "fr": "réunion"}[language]
    assert outcome.sources[1] == Source(runner.url("/committees/birds/45-1/5/"), f"{birds}, {word} 5, 2026-08-06")
