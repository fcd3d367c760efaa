"""how_they_voted and get_vote: counted from the ballots and each party on that day, with few requests."""

from collections import Counter
from typing import Any

import pytest

from functions.chat import limits
from functions.chat.sources import Parliament
from functions.chat.sources.base import SourceError
from functions.chat.sources.votes import BillReference, BillVotes, Stage, Vote, parse_vote
from functions.chat.tools import Tools
from functions.chat.tools.results import json_length
from infra.local.parliament.pages import LETTERS
from tests.functions.tools.kit import Runner, ScriptedServer, page

COLUMNS = {"Yes": "yea", "No": "nay", "Paired": "paired", "Didn't vote": "did_not_vote"}


async def test_bill_and_postal_code_are_one_call_with_one_answer(runner: Runner) -> None:
    outcome = await runner.tools.run("how_they_voted", {"bill": "C-5", "postal_code": "K1A 0A6"}, "en")
    assert outcome.output is not None
    (vote,) = outcome.output["votes"]
    assert (outcome.output["chosen_stage"], vote["vote"], vote["result"]) == ("third reading", 18, "Passed")
    assert vote["about"].startswith("3rd reading and adoption of Bill C-5")
    assert vote["asked_about"] == [
        {
            "mp": "fern-quillwater",
            "name": "Fern Quillwater",
            "party": "Heron",
            "ballot": "Yes",
            "differed_from_most_of_party": False,
        }
    ]
    others = [(each["vote"], each["stage"]) for each in outcome.output["other_votes_on_the_bill"]["items"]]
    assert others == [
        (15, "concurrence at report stage"),
        (14, "amendment"),
        (13, "amendment"),
        (7, "second reading"),
        (6, "time allocation or closure"),
    ]
    pages = [source.url for source in outcome.sources]
    assert pages[:2] == [runner.url("/votes/45-1/18/"), runner.url("/politicians/fern-quillwater/")]


@pytest.mark.parametrize("subject", [{"bill": "C-5"}, {"bill": "C-12", "session": "45-1"}, {"vote": 11}])
@pytest.mark.parametrize(
    "who", [{}, {"mp": "quillwater"}, {"party": "Heron"}, {"postal_code": "K1A 0A6"}, {"postal_code": "N0G 1A0"}]
)
async def test_cold_call_needs_three_requests_and_a_warm_one_none(
    runner: Runner, subject: dict[str, Any], who: dict[str, Any]
) -> None:
    """A postal code needs one more, from Represent; a page that cannot be read one more, too."""
    await runner.output("how_they_voted", **subject, **who)
    hosts = Counter(entry["path"].startswith("/postcodes/") for entry in await runner.requests())
    assert hosts[False] <= 3
    assert hosts[True] == ("postal_code" in who)
    await runner.output("how_they_voted", "fr", **subject, **who)
    await runner.output("how_they_voted", **subject, mp="fern-quillwater")
    assert (await runner.requests())[sum(hosts.values()) :] == []


@pytest.mark.parametrize("arguments", [{"bill": "C-5", "postal_code": "N0G 1A0"}, {"vote": 11}])
async def test_page_that_cannot_be_read_costs_one_more_request(runner: Runner, arguments: dict[str, Any]) -> None:
    await runner.add_fault(path_prefix="/votes/45-1/", status=500, times=9)
    assert "parties_are" in (await runner.output("how_they_voted", **arguments))["votes"][0]
    paths = [entry["path"] for entry in await runner.requests() if not entry["path"].startswith("/postcodes/")]
    assert len(paths) <= 4


@pytest.mark.parametrize("number", [11, 17, 18, 21, 32])
async def test_counts_and_dissent_come_from_ballots_and_parties_of_the_day(runner: Runner, number: int) -> None:
    terms = {term["url"]: term for term in (await runner.record("/politicians/memberships/?limit=500"))["objects"]}
    parties: dict[str, Counter[str]] = {}
    members: dict[str, list[tuple[str, str]]] = {}
    for ballot in (await runner.record(f"/votes/ballots/?vote=45-1/{number}&limit=500"))["objects"]:
        party = terms[ballot["politician_membership_url"]]["party"]["short_name"]["en"]
        parties.setdefault(party, Counter())[ballot["ballot"]] += 1
        members.setdefault(party, []).append((ballot["politician_url"].split("/")[2], ballot["ballot"]))
    vote = await runner.output("get_vote", number=number)
    expected = set()
    assert {line["party"] for line in vote["parties"]} == parties.keys()
    for line in vote["parties"]:
        count = parties[line["party"]]
        assert {choice: line[column] for choice, column in COLUMNS.items()} == {key: count[key] for key in COLUMNS}
        divided = line["party"] == "Independent" or count["Yes"] == count["No"]
        most = None if divided else max(("Yes", "No"), key=lambda choice: count[choice])
        assert line.get("most_voted") == most
        rebels = {slug for slug, choice in members[line["party"]] if most and {choice, most} == {"Yes", "No"}}
        assert line.get("differed", 0) == len(rebels)
        expected |= rebels
        share = min(count["Yes"], count["No"]) / max(count["Yes"] + count["No"], 1)
        assert line.get("free_vote", False) is (share >= 0.15 and line["party"] != "Independent")
    named = {each["mp"] for each in vote["differed_from_most_of_party"]["items"]}
    assert named <= expected
    assert len(named) + vote["differed_from_most_of_party"]["left_out"] == len(expected)
    for key, choice in (("paired_members", "Paired"), ("did_not_vote", "Didn't vote")):
        total = sum(count[choice] for count in parties.values())
        assert len(vote[key]["items"]) + vote[key]["left_out"] == total


async def test_all_twenty_rebels_of_one_party_are_named(runner: Runner) -> None:
    outcome = await runner.tools.run("how_they_voted", {"bill": "C-12", "party": "Juniper"}, "en")
    assert outcome.output is not None
    (vote,) = outcome.output["votes"]
    rebels = vote["differed_from_most_of_party"]
    assert [source.title for source in outcome.sources[1:]] == [each["name"] for each in rebels["items"][:9]]
    assert (len(rebels["items"]), rebels["left_out"]) == (20, 0)
    assert {(each["party"], each["ballot"]) for each in rebels["items"]} == {("Juniper", "Yes")}
    assert all(name.endswith(" (Juniper)") for name in vote["did_not_vote"]["items"])
    assert "openparliament.ca's rule" in vote["free_vote_rule"]
    # The site marks none of them.
    marked = (await runner.record(f"/votes/ballots/?vote=45-1/{vote['vote']}&dissent=True"))["objects"]
    assert {each["mp"] for each in rebels["items"]}.isdisjoint(each["politician_url"].split("/")[2] for each in marked)


@pytest.mark.parametrize(
    ("slug", "number", "party"),
    [
        ("cyrus-cedarholm", 18, "Heron"),
        ("cyrus-cedarholm", 21, "Juniper"),
        ("sixtus-plumbrook", 17, "Juniper"),
        ("sixtus-plumbrook", 32, "Independent"),
        ("ottoline-greyfeather", 17, "Heron"),  # has left since
    ],
)
async def test_member_is_compared_with_the_party_of_that_day(
    runner: Runner, slug: str, number: int, party: str
) -> None:
    (vote,) = (await runner.output("how_they_voted", vote=number, mp=slug))["votes"]
    (asked,) = vote["asked_about"]
    assert (asked["mp"], asked["party"]) == (slug, party)
    line = next(line.get("most_voted") for line in vote["parties"] if line["party"] == party)
    compared = party != "Independent" and asked["ballot"] in ("Yes", "No")
    assert ("differed_from_most_of_party" in asked) is compared
    if compared:
        assert asked["differed_from_most_of_party"] is (asked["ballot"] != line)


@pytest.mark.parametrize("fault", [{"status": 500}, {"body": "<html><title>Just a moment...</title></html>"}])
async def test_parties_of_today_are_said_to_be_so(runner: Runner, fault: dict[str, Any]) -> None:
    await runner.add_fault(path_prefix="/votes/45-1/18/", times=9, **fault)
    (vote,) = (await runner.output("how_they_voted", bill="C-5", mp="cyrus cedarholm"))["votes"]
    assert vote["parties_are"].startswith("The parties are those of today")
    assert {each["mp"]: each["party"] for each in vote["asked_about"]}["cyrus-cedarholm"] == "Juniper"
    assert sum(line["yea"] for line in vote["parties"]) == vote["yea"]
    await runner.remove_faults()
    (vote,) = (await runner.output("how_they_voted", bill="C-5", mp="cyrus cedarholm"))["votes"]
    assert {each["mp"]: each["party"] for each in vote["asked_about"]}["cyrus-cedarholm"] == "Heron"
    assert "parties_are" not in vote


async def test_postal_code_of_a_newer_member_or_of_a_vacant_seat(runner: Runner) -> None:
    (vote,) = (await runner.output("how_they_voted", bill="C-5", postal_code="N0G 1A0"))["votes"]
    assert [(each.get("mp"), each["name"], each.get("reason")) for each in vote["asked_about"]] == [
        (None, "Percival Quillwater", "had no seat on that day"),
        ("odalys-brambleton", "Odalys Brambleton", None),
    ]
    assert "vacant" in await runner.error("how_they_voted", bill="C-5", postal_code="R3C 0V8")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "Wrong arguments: give either bill or vote."),
        ({"bill": "C-5", "vote": 3}, "Wrong arguments: give either bill or vote."),
        ({"vote": 3, "mp": "fern", "party": "Heron"}, "Wrong arguments: give only one of mp, party and postal_code."),
        (
            {"bill": "C-11"},
            "The House has held no recorded vote on bill C-11 of session 45-1; it may have passed stages without one. "
            "get_bill returns its status.",
        ),
        ({"bill": "C-999"}, "There is no bill C-999 in any session; find_bills finds bills by words."),
        (
            {"bill": "C-5", "mp": "Percival"},
            "Vote 18 of 2026-05-26 has no ballot under that name or slug; find_mps finds names and slugs, also of "
            "former MPs.",
        ),
        (
            {"bill": "C-5", "party": "Liberal"},
            "No party of that name had a ballot; the parties are Heron, Juniper, Cordwood, Fleuve, Lantern, "
            "Independent.",
        ),
    ],
)
async def test_error_names_what_is_missing(runner: Runner, arguments: dict[str, Any], error: str) -> None:
    assert await runner.error("how_they_voted", **arguments) == error


async def test_ambiguous_name_lists_the_slugs(runner: Runner) -> None:
    error = await runner.error("how_they_voted", bill="C-5", mp="abel")
    assert error.startswith("8 MPs match that name; give the slug of one: abel-alderlock, ")


def a_vote(number: int, english: str, bill: str = "/bills/45-1/C-5/") -> dict[str, Any]:
    return {
        "url": f"/votes/45-1/{number}/",
        "session": "45-1",
        "number": number,
        "date": "2025-06-20",
        "description": {"en": english, "fr": f"{english} (fr)"},
        "result": "Passed",
        "yea_total": 250,
        "nay_total": 60,
        "paired_total": 2,
        "bill_url": bill,
    }


# Descriptions of the House.
@pytest.mark.parametrize(
    ("description", "stage"),
    [
        ("3rd reading and adoption of Bill C-5, An Act to enact the Building Canada Act (Part 2)", Stage.THIRD_READING),
        ("2nd reading of Bill C-216, An Act to amend an Act (supply management)", Stage.SECOND_READING),
        ("2nd reading of Bill C-9, An Act to amend the Criminal Code (reasoned amendment)", Stage.AMENDMENT),
        ("Bill C-1, An Act (report stage amendment) (Motion No. 2)", Stage.AMENDMENT),
        ("Motion respecting Senate amendments to Bill C-7, An Act (amendment)", Stage.AMENDMENT),
        ("Motion respecting Senate amendments to Bill C-7, An Act", Stage.SENATE_AMENDMENTS),
        ("Concurrence at report stage of Bill C-2, An Act to amend the Criminal Code", Stage.REPORT_STAGE),
        ("Time allocation for Bill C-4, An Act", Stage.PROCEDURE),
        ("Motion for closure", Stage.PROCEDURE),
        ("2nd reading of Bill C-5, An Act respecting the closure of ferry routes", Stage.SECOND_READING),
        ("3rd reading of Bill C-5, An Act to amend an Act (closure of routes)", Stage.THIRD_READING),
        ("3rd reading of Bill C-5, An Act respecting the second reading of meters", Stage.THIRD_READING),
        ("Closure on Bill C-5, An Act (Canada)", Stage.PROCEDURE),
        ("2nd reading of Bill C-5, An Act on time allocation and Senate amendments (Part 1)", Stage.SECOND_READING),
        ("2nd reading of Bill C-5, An Act to amend (a) an Act (amendment of tariffs)", Stage.SECOND_READING),
        ("Bill C-5, An Act on the 3rd reading (report stage amendment - Motion No. 1)", Stage.AMENDMENT),
        ("2nd reading of Bill C-5, An Act (previous question)", Stage.PROCEDURE),
        ("Bill C-8, An Act (recommittal to a committee)", Stage.OTHER),
    ],
)
def test_stage_of_a_vote_is_read_from_its_description(description: str, stage: Stage) -> None:
    assert parse_vote(a_vote(1, description)).stage is stage


def votes_on(*descriptions: str) -> BillVotes:
    votes = [parse_vote(a_vote(number, each)) for number, each in enumerate(descriptions, 1)]
    return BillVotes(BillReference("45-1", "C-5"), votes)


def test_decisive_votes_are_those_of_the_furthest_stage() -> None:
    both = votes_on("3rd reading (Part 2)", "3rd reading (Part 1)", "2nd reading of Bill C-5")
    assert [vote.number for vote in both.decisive(2)] == [1, 2]
    assert [vote.number for vote in votes_on("Time allocation", "2nd reading of Bill C-5").decisive(2)] == [2]
    assert [vote.number for vote in votes_on("C-5 (amendment)", "C-5 (amendment)").decisive(2)] == [1]
    assert votes_on().decisive(2) == []


@pytest.mark.parametrize("gap", ["url", "session", "number", "date", "description", "result", "yea_total"])
def test_record_without_a_key_of_a_vote_is_no_vote(gap: str) -> None:
    with pytest.raises(SourceError, match=r"^openparliament\.ca returned a vote that cannot be read\.$"):
        parse_vote({key: value for key, value in a_vote(1, "3rd reading").items() if key != gap})
    with pytest.raises(SourceError):
        parse_vote({**a_vote(1, "3rd reading"), gap: None})


async def test_whole_house_with_many_rebels_fits_the_limit(server: ScriptedServer, tools: Tools) -> None:
    """A bill of two parts, each decided by 343 members, of whom 60 differ from their party."""
    server.answer("/votes/", page([a_vote(number, f"3rd reading of Bill C-5 (Part {number})") for number in (2, 1)]))
    entry = '<span class="tag voteresult_{}">x</span> <a href="/politicians/member-{}/">Élisabeth O&#x27;Member-{}</a>'
    sections = []
    for party, size in (("Liberal", 169), ("Conservative", 144), ("Bloc Québécois", 30)):
        choices = ["No"] * 20 + ["Paired"] * 2 + ["Didn't vote"] * 8 + ["Yes"] * (size - 30)
        entries = [entry.format(LETTERS[choice], *[f"{party[:2]}{n}"] * 2) for n, choice in enumerate(choices)]
        sections.append(f"<h2>{party}</h2>{''.join(entries)}")
    for number in (1, 2):
        server.answer(f"/votes/45-1/{number}/", "".join(sections).encode())
    arguments = {"bill": "C-5", "session": "45-1", "mp": "member-Li3"}
    outcome = await tools.run("how_they_voted", arguments, "fr")
    assert outcome.output is not None
    assert json_length(outcome.output) <= limits.TOOL_RESULT_BYTES
    assert [vote["vote"] for vote in outcome.output["votes"]] == [2, 1]
    for vote in outcome.output["votes"]:
        rebels = vote["differed_from_most_of_party"]
        assert len(rebels["items"]) > 10
        assert len(rebels["items"]) + rebels["left_out"] == 40  # all voters of the Bloc said No
        assert len(vote["did_not_vote"]["items"]) + vote["did_not_vote"]["left_out"] == 24
        assert (vote["asked_about"][0]["name"], vote["asked_about"][0]["ballot"]) == (
            "Élisabeth O'Member-Li3",
            "Contre",
        )
    assert len(server.requests) == 3


def vote_page_of(*members: tuple[str, str]) -> bytes:
    """The page of a vote in which the members, given as slug and name, voted Yes, and one of another party No."""
    entry = '<span class="tag voteresult_{}">x</span> <a href="/politicians/{}/">{}</a>'
    yes = "".join(entry.format("Y", slug, name) for slug, name in members)
    return f"<h2>Heron</h2>{yes}<h2>Juniper</h2>{entry.format('N', 'other', 'Other')}".encode()


def sitting(slug: str, name: str, riding: str) -> dict[str, Any]:
    return {"name": name, "url": f"/politicians/{slug}/", "current_riding": {"province": "ON", "name": {"en": riding}}}


@pytest.mark.parametrize(
    ("riding", "asked"),
    [
        ("Ballad North", {"mp": "gideon-ivyreed"}),
        ("Canto South", {"mp": "gideon-ivyreed-2"}),
        ("Dactyl East", {"reason": "had no seat on that day"}),
        ("Elegy West", {"reason": "openparliament.ca lists no MP of this riding or name, so the ballot is not known"}),
    ],
)
async def test_namesakes_are_told_apart_by_their_ridings(
    server: ScriptedServer, tools: Tools, riding: str, asked: dict[str, str]
) -> None:
    name = "Gideon Ivyreed"
    namesakes = (("gideon-ivyreed", "Ballad North"), ("gideon-ivyreed-2", "Canto South"))
    records = [sitting(slug, name, of) for slug, of in namesakes]
    server.answer("/politicians/", page([*records, sitting("gideon-ivyreed-3", name, "Dactyl East")]))
    person = {"name": f"Hon. {name}", "elected_office": "MP", "district_name": riding}
    server.answer("/postcodes/K1A0A6/", {"representatives_centroid": [person]})
    server.answer("/votes/", page([{**a_vote(1, "3rd reading of Bill C-5, An Act"), "yea_total": 2, "nay_total": 1}]))
    server.answer("/votes/45-1/1/", vote_page_of(*((slug, name) for slug, _ in namesakes)))
    outcome = await tools.run("how_they_voted", {"bill": "C-5", "postal_code": "K1A 0A6"}, "en")
    assert outcome.output is not None
    (found,) = outcome.output["votes"][0]["asked_about"]
    assert {key: found[key] for key in asked} == asked


async def test_without_a_session_the_newest_one_that_voted_is_named(server: ScriptedServer, tools: Tools) -> None:
    """Numbers return in every session: a new session has the bill before its first vote."""
    old = {**a_vote(1, "3rd reading of Bill C-5, An Act"), "yea_total": 2, "nay_total": 1}
    newer = {**a_vote(3, "Opposition Motion", ""), "session": "46-1", "url": "/votes/46-1/3/"}
    server.answer("/votes/", page([newer, old], "/votes/?offset=500"))
    server.answer("/votes/45-1/1/", vote_page_of(("a", "A"), ("b", "B")))
    bills = [{"session": session, "number": "C-7"} for session in ("46-1", "44-1")]
    server.answer("/bills/", page(bills))
    outcome = await tools.run("how_they_voted", {"bill": "C-5"}, "en")
    assert outcome.output is not None
    assert outcome.output["session"] == "45-1"
    assert outcome.output["session_is"].startswith("The newest session that voted on a bill of this number.")
    assert outcome.output["incomplete"].startswith("Older votes on the bill may be missing")
    # Older votes are not read: one of them may be on the bill of session 44-1.
    error = (await tools.run("how_they_voted", {"bill": "C-7"}, "en")).error
    assert error is not None
    assert error.endswith("votes of the House are on no bill C-7; it exists in 46-1, 44-1: give the session.")


@pytest.mark.parametrize("name", ["Hon. Odalys Brambleton", "L’hon. Odalys Brambleton", "Brambleton, Hon. Odalys"])
async def test_names_with_honorifics_are_found(runner: Runner, name: str) -> None:
    """As find_ministers, Represent and the House's expenses write them."""
    (vote,) = (await runner.output("how_they_voted", bill="C-5", mp=name))["votes"]
    assert [each["mp"] for each in vote["asked_about"]] == ["odalys-brambleton"]
    assert [mp["mp"] for mp in (await runner.output("find_mps", name=name))["items"]] == ["odalys-brambleton"]


async def test_day_of_many_votes_counts_those_left_out(server: ScriptedServer, tools: Tools) -> None:
    """130 votes of the sitting day, and 25 of a later day, whose transcript is not published."""
    server.answer("/debates/", page([{"date": "2026-05-26", "url": "/debates/2026/5/26/"}]))
    server.answer("/speeches/", page([]))
    of_day = [{**a_vote(n, "Concurrence in Vote 1"), "date": "2026-05-26"} for n in range(130, 0, -1)]
    later = [{**a_vote(n, "Motion"), "date": "2026-05-27"} for n in range(155, 130, -1)]
    server.answer("/votes/", page([*later, *of_day]))
    outcome = await tools.run("get_house_day", {}, "en")
    assert outcome.output is not None
    for key, number in (("votes", 130), ("later_votes", 25)):
        assert outcome.output[key]["items"]
        assert len(outcome.output[key]["items"]) + outcome.output[key]["left_out"] == number
    shown = [vote["url"] for key in ("votes", "later_votes") for vote in outcome.output[key]["items"]]
    assert {source.url for source in outcome.sources[1:]} <= {*shown}
    assert json_length(outcome.output) <= limits.TOOL_RESULT_BYTES


async def test_page_with_too_few_ballots_or_parties_is_not_read(server: ScriptedServer, parliament: Parliament) -> None:
    ballot = b'<span class="voteresult_Y">Yes</span> <a href="/politicians/a/">A</a>'
    for body in (b"<h2>A</h2>" + ballot + b"<h2>B</h2>" + ballot, b"<h2>Result</h2>" + ballot * 310):
        server.answer("/votes/45-1/1/", body)
        server.answer("/votes/ballots/", page([]))
        with pytest.raises(SourceError, match=r"has no ballots of vote 1 in session 45-1\.$"):
            await parliament.votes.division(parse_vote(a_vote(1, "3rd reading")))


def test_vote_without_a_bill_has_no_reference() -> None:
    vote = parse_vote(a_vote(1, "Opposition Motion", ""))
    assert isinstance(vote, Vote)
    assert vote.bill is None
