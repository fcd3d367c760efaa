"""The tools that return one record or the records that belong to it, in both languages."""

import json
import re
from typing import Any

import pytest

from functions.chat import limits
from functions.chat.sources.base import Language
from functions.chat.sources.http import ResponseCache
from functions.chat.sources.openparliament_records import parse_speech
from functions.chat.sources.terms import CHOICES, RESULTS
from functions.chat.sources.text import html_to_text
from functions.chat.tools import Source, Tools
from functions.chat.tools.records import describe_bill, describe_mp, speech_item
from functions.chat.tools.results import speech_text_limit
from tests.functions.tools.kit import CALLS, LANGUAGES, Runner, ScriptedServer, page


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", CALLS)
async def test_every_result_fits_and_has_reachable_sources(runner: Runner, name: str, language: Language) -> None:
    outcome = await runner.tools.run(name, CALLS[name], language)
    assert outcome.error is None
    text = json.dumps(outcome.output, ensure_ascii=False, separators=(",", ":"))
    assert 200 < len(text) <= limits.TOOL_RESULT_BYTES
    assert re.search(r"</?\w+[^>]*>|&\w+;", text) is None
    pages = [source.url for source in outcome.sources]
    assert 1 <= len(pages) == len({*pages}) <= limits.TOOL_SOURCES
    assert all(url.startswith(f"{runner.origin}/") for url in pages)
    # Of members who differed from their party, the result has the slug.
    assert all(url in text or url.rstrip("/").rpartition("/")[2] in text for url in pages)
    assert all(source.title and len(source.title) <= 160 for source in outcome.sources)
    for url in pages:
        assert (await runner.http.get(url)).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "get_bill",
        "get_bill_debate",
        "get_bill_votes",
        "get_committee",
        "get_mp_speeches",
        "get_mp_votes",
        "get_vote",
        "how_they_voted",
    ],
)
async def test_output_and_titles_are_in_the_requested_language(runner: Runner, name: str) -> None:
    english, french = [await runner.tools.run(name, CALLS[name], language) for language in LANGUAGES]
    in_english = [source.url.replace("/fr/", "/en/") for source in french.sources]
    assert [source.url for source in english.sources] == in_english
    assert english.output != french.output
    assert [source.title for source in english.sources] != [source.title for source in french.sources]


async def test_get_mp_returns_all_terms_newest_first(runner: Runner) -> None:
    crossed = await runner.output("get_mp", slug="sixtus-plumbrook")
    assert (crossed["name"], crossed["party"], crossed["sits_now"]) == ("Sixtus Plumbrook", "Independent", True)
    terms = [(term["from"], term["to"], term["party"]) for term in crossed["memberships"]["items"]]
    assert terms == [("2026-05-20", None, "Independent"), ("2026-01-12", "2026-05-20", "Juniper Alliance")]
    left = await runner.output("get_mp", slug="ottoline-greyfeather")
    assert (left["party"], left["riding"], left["sits_now"]) == ("Heron", "Upper Exemplar", False)
    assert left["url"] == runner.url("/politicians/ottoline-greyfeather/")
    assert left["links"][-1] == {"url": "https://ottoline-greyfeather.example/", "about": "Official site"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("only_dissent", [False, True])
async def test_each_ballot_is_joined_with_its_vote(runner: Runner, language: Language, only_dissent: bool) -> None:
    arguments = {"slug": "fern-quillwater", "only_dissent": only_dissent, "limit": 6}
    found = await runner.output("get_mp_votes", language, **arguments)
    # One list of votes has the vote of every ballot. Dissent is counted on the pages of three votes.
    paths = [entry["path"] for entry in await runner.requests()]
    expected = ["/politicians/fern-quillwater/", "/votes/ballots/", "/votes/"]
    if only_dissent:
        expected[2:2] = ["/votes/ballots/"]
        expected += [f"/votes/45-1/{number}/" for number in (32, 31, 30)]
    assert paths == expected
    assert found["votes_of"]["name"] == "Fern Quillwater"
    dissent = "&dissent=True" if only_dissent else ""
    ballots = (await runner.record(f"/votes/ballots/?politician=fern-quillwater&limit=6{dissent}"))["objects"]
    assert len(ballots) == len(found["items"]) == (3 if only_dissent else 6)
    for item, ballot in zip(found["items"], ballots, strict=True):
        vote = await runner.record(ballot["vote_url"])
        assert item["ballot"] == CHOICES[ballot["ballot"]].in_(language)
        assert (item["vote"], item["date"], item["about"]) == (
            vote["number"],
            vote["date"],
            vote["description"][language],
        )
        result = RESULTS[vote["result"]].in_(language)
        assert (item["result"], item["yea"], item["nay"]) == (result, vote["yea_total"], vote["nay_total"])
        bill = item["on_bill"]
        assert vote["bill_url"] == (f"/bills/{bill['session']}/{bill['bill']}/" if bill else None)
        assert item["url"] == runner.url(ballot["vote_url"])
    assert found.get("more", False) is ("note" not in found) is (not only_dissent)


async def test_dissent_is_counted_from_the_newest_votes(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site marks no dissent in vote 32, in which 20 members of a party differed."""
    found = await runner.output("get_mp_votes", slug="junia-dalewren", only_dissent=True)
    assert [item["vote"] for item in found["items"]] == [32, 9]
    assert "in the newest 3 votes, since 2026-10-06. Before that" in found["note"]
    # Without the pages of the votes, there are the site's marks only.
    await runner.add_fault(path_prefix="/votes/45-1/", status=500, times=9)
    monkeypatch.setattr(runner.parliament.client, "cache", ResponseCache(500, 10**7, 600.0))
    found = await runner.output("get_mp_votes", "fr", slug="junia-dalewren", only_dissent=True)
    assert [item["vote"] for item in found["items"]] == [9]
    assert found["note"].startswith("Cette liste n’est pas complète")


async def test_another_bill_of_legisinfo_is_not_shown(runner: Runner) -> None:
    other = await runner.record("/legisinfo/en/bill/45-1/c-2/json")
    await runner.add_fault(path_prefix="/legisinfo/en/bill/45-1/c-5/", body=json.dumps(other), times=2)
    bill = await runner.output("get_bill", "fr", number="C-5")
    assert (bill["stages"], bill["law"], bill["short_title"]) == (None, False, "Loi sur les petits traversiers")
    assert bill["stages_missing_because"] == "LEGISinfo a renvoyé une réponse illisible."
    await runner.remove_faults()
    assert (await runner.output("get_bill", number="C-5"))["stages"]["items"]


async def test_errors_are_in_the_language_of_the_question(runner: Runner) -> None:
    errors = [
        (await runner.tools.run(name, arguments, "fr")).error
        for name, arguments in (
            ("get_mp", {"slug": "unknown"}),
            ("find_mps", {"party": "Whig"}),
            ("find_mps", {"postal_code": "X9X 9X9"}),
            ("count_herons", {}),
        )
    ]
    assert errors[:3] == [
        "Aucun député n’a l’identifiant unknown; find_mps trouve les identifiants par nom.",
        "Aucun parti de la Chambre n’a ce nom; les partis : Cordwood, Fleuve, Heron, Indépendant, Juniper, Lantern.",
        "Represent ne connaît pas ce code postal.",
    ]
    assert str(errors[3]).startswith("Aucun outil n’a ce nom; les outils : find_bills, ")


LONG = "Élisabeth-" * 1_000


@pytest.mark.parametrize("language", LANGUAGES)
async def test_very_long_names_are_shortened(server: ScriptedServer, tools: Tools, language: Language) -> None:
    both = {"en": LONG, "fr": LONG}
    term = {"party": {"name": both, "short_name": both}, "riding": {"province": LONG, "name": both}, "end_date": None}
    links = [{"url": "https://a.example/", "note": LONG}]
    mp = {"url": "/politicians/ann/", "name": LONG, "memberships": [term], "links": links, "email": LONG, "voice": LONG}
    server.answer("/politicians/ann/", mp)
    server.answer("/votes/ballots/", page([{"vote_url": "/votes/45-1/1/", "ballot": "Yes"}]))
    server.answer("/votes/", page([]))
    bill = {"session": "45-1", "number": "C-5", "sponsor_politician_url": "/politicians/ann/"}
    bill |= dict.fromkeys(("name", "short_title", "status"), both) | {"status_code": LONG, "home_chamber": LONG}
    server.answer("/bills/45-1/C-5/", bill)
    names = ("LongTitle", "ShortTitle", "StatusName", "SponsorPersonName", "LatestBillEventTypeName")
    stage = {"BillStageNameEn": LONG, "StateNameEn": LONG, "StateAsOfDate": "2026-02-02"}
    file = {"PublicationTypeNameEn": LONG, "PublicationFiles": [{"RelativePath": "/a"}]}
    progress = {f"{name}{language_}": LONG for name in names for language_ in ("En", "Fr")} | {
        "NumberCode": "C-5",
        "ParliamentNumber": 45,
        "SessionNumber": 1,
        "StatuteYear": LONG,
        "StatuteChapter": LONG,
        "BillStages": {"HouseBillStages": [stage]},
        "Publications": [file],
    }
    server.answer("/legisinfo/en/bill/45-1/c-5/json", [progress])
    for name, arguments in (
        ("get_mp", {"slug": "ann"}),
        ("get_mp_votes", {"slug": "ann"}),
        ("get_bill", {"number": "C-5", "session": "45-1"}),
    ):
        outcome = await tools.run(name, arguments, language)
        assert outcome.error is None
        assert "Élisabeth" in json.dumps(outcome.output, ensure_ascii=False)
        assert all(len(source.title) < 200 for source in outcome.sources)


async def test_former_mps_ballots_are_joined_with_their_votes(runner: Runner) -> None:
    found = await runner.output("get_mp_votes", slug="ottoline-greyfeather", limit=3)
    assert [item["vote"] for item in found["items"]] == [17, 16, 15]
    assert all(item["about"] and item["date"] < "2026-05-15" for item in found["items"])


@pytest.mark.parametrize("language", LANGUAGES)
async def test_speeches_quote_the_transcript_and_omit_procedural_ones(runner: Runner, language: Language) -> None:
    found = await runner.output("get_mp_speeches", language, slug="fern-quillwater", limit=3)
    expected = (await runner.record("/speeches/?politician=fern-quillwater&limit=3"))["objects"]
    for item, speech in zip(found["items"], expected, strict=True):
        assert item["url"] == runner.url(speech["url"])
        assert (item["time"], item["mp"]) == (speech["time"].replace(" ", "T"), "fern-quillwater")
        assert (item["speaker"], item["heading"]) == (speech["attribution"][language], speech["h2"][language])
        paragraphs = re.findall(r"<p [^>]*>(.*?)</p>", speech["content"][language])
        text = "\n".join(re.sub(r"<.*?>", "", paragraph).replace("&amp;", "&") for paragraph in paragraphs)
        assert item["text"] == text
    # All speeches of the Speaker are procedural.
    assert (await runner.output("get_mp_speeches", slug="tobias-hollowmere"))["items"] == []


async def test_speeches_start_at_the_date_and_are_shortened(runner: Runner) -> None:
    found = await runner.output("get_mp_speeches", slug="fern-quillwater", since="2026-10-06", limit=20)
    assert found["since"] == "2026-10-06"
    assert {item["time"][:10] for item in found["items"]} == {"2026-10-06", "2026-10-20"}
    speeches = (await runner.record("/speeches/?bill_debated=/bills/45-1/C-5/&limit=500"))["objects"]
    longest = max(speeches, key=lambda speech: len(speech["content"]["en"]))
    item, _ = speech_item(runner.parliament, parse_speech(longest), "en", speech_text_limit(1))
    assert item["text"].endswith("…")
    full_text = html_to_text(longest["content"]["en"])
    assert full_text.startswith(item["text"][:-1])
    assert full_text[len(item["text"]) - 1].isspace()
    assert 5_000 < len(item["text"]) < 5_400


@pytest.mark.parametrize(("language", "title"), [("en", "Small Ferries Act"), ("fr", "Loi sur les petits traversiers")])
async def test_get_bill_returns_status_sponsor_dates_and_links(runner: Runner, language: Language, title: str) -> None:
    outcome = await runner.tools.run("get_bill", {"number": "C-5"}, language)
    bill = outcome.output
    assert bill is not None
    assert (bill["bill"], bill["session"], bill["short_title"]) == ("C-5", "45-1", title)
    status = {"en": "Second reading (Senate)", "fr": "À l’étape de la deuxième lecture au Sénat"}[language]
    assert (bill["status"], bill["introduced"], bill["law"]) == (status, "2026-02-12", False)
    assert (bill["sponsor"]["mp"], bill["recorded_votes"]) == ("fern-quillwater", 6)
    assert bill["legisinfo"] == outcome.sources[1].url == runner.url(f"/legisinfo/{language}/bill/45-1/c-5")
    assert bill["text"] == "https://commons.example/bills/45-1/c-5/first-reading"
    start = {"en": "Bill C-5: An Act respecting", "fr": "Projet de loi C-5 : Loi concernant"}[language]
    assert outcome.sources[0].title.startswith(start)
    assert outcome.sources[2] == Source(runner.url("/politicians/fern-quillwater/"), "Fern Quillwater")


async def test_get_bill_has_a_timeline_of_both_chambers(runner: Runner) -> None:
    law = await runner.output("get_bill", "fr", number="C-2")
    assert "/fr/" in law["publications"][0]["url"]
    stages = [(stage["date"], stage["chamber"], stage["stage"]) for stage in law["stages"]["items"]]
    assert stages == [
        ("2026-01-27", "Chambre des communes", "Première lecture"),
        ("2026-02-24", "Chambre des communes", "Deuxième lecture"),
        ("2026-03-10", "Chambre des communes", "Troisième lecture"),
        ("2026-03-12", "Sénat", "Première lecture"),
        ("2026-04-23", "Sénat", "Deuxième lecture"),
        ("2026-06-11", "Sénat", "Troisième lecture"),
    ]
    assert (law["law"], law["royal_assent"]) == (True, "2026-06-18")


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 200, "body": "<html>Please wait while we check your browser</html>"}]
)
async def test_get_bill_answers_without_legisinfo(runner: Runner, fault: dict[str, Any]) -> None:
    await runner.add_fault(path_prefix="/legisinfo/", times=4, retry_after="60", **fault)
    bill = await runner.output("get_bill", number="C-5")
    assert (bill["stages"], bill["status"]) == (None, "Second reading (Senate)")
    assert bill["stages_missing_because"].startswith("LEGISinfo ")
    assert bill["sponsor"]["mp"] == "fern-quillwater"


async def test_a_bill_without_a_name_is_described(runner: Runner) -> None:
    outcome = await runner.tools.run("get_bill", {"number": "C-13"}, "en")
    assert outcome.output is not None
    assert (outcome.output["title"], outcome.sources[0].title) == (None, "Bill C-13")


async def test_a_number_may_end_with_a_letter(runner: Runner) -> None:
    assert (await runner.output("get_bill", number="c-10a"))["short_title"] == "Museum Paddles Act"


async def test_a_senators_bill_names_its_sponsor(runner: Runner) -> None:
    assert (await runner.output("get_bill", number="S-2"))["sponsor"]["name"] == "Senator Alder Placeholder"


@pytest.mark.parametrize(
    ("language", "words", "office", "name"),
    [
        ("en", "finance", "Minister of Finance", "Hon. Odalys Brambleton"),
        ("fr", "ministre des finances", "Ministre des Finances", "L’hon. Odalys Brambleton"),
        ("fr", "minister of finance", "Ministre des Finances", "L’hon. Odalys Brambleton"),
        ("en", "tidewell", "Prime Minister", "Hon. Barnaby Tidewell"),
    ],
)
async def test_find_ministers_matches_in_both_languages(
    runner: Runner, language: Language, words: str, office: str, name: str
) -> None:
    found = (await runner.output("find_ministers", language, words=words))["items"]
    assert [(item["office"], item["name"]) for item in found] == [(office, name)]


async def test_former_ministers_are_left_out(runner: Runner) -> None:
    assert (await runner.output("find_ministers", words="snow"))["items"] == []
    (secretary,) = (await runner.output("find_ministers", secretaries=True))["items"]
    assert secretary["name"] == "Hon. Anjali Moonwillow"


async def test_committee_members_have_their_roles(runner: Runner) -> None:
    found = (await runner.output("get_committee_members", "fr", slug="wharves"))["items"]
    assert [item["role"] for item in found] == ["Président(e)", *["Vice-président(e)s"] * 2, *["Membres"] * 6]
    assert found[0]["name"] == "Fern Quillwater"


async def test_house_day_lists_subjects_and_votes(runner: Runner) -> None:
    day = await runner.output("get_house_day", day="2026-03-11")
    assert (day["sitting_day"], "asked_day" in day) == ("2026-03-11", False)
    votes = (await runner.record("/votes/?date=2026-03-11"))["objects"]
    assert [vote["vote"] for vote in day["votes"]["items"]] == [vote["number"] for vote in votes]
    headings = [(subject["heading"], subject["subject"]) for subject in day["subjects"]["items"]]
    assert "Small Ferries Act" in [subject for _, subject in headings]
    assert len(headings) == len({*headings})


async def test_a_day_without_a_sitting_returns_the_one_before(runner: Runner) -> None:
    day = await runner.output("get_house_day", day="2026-03-14")
    assert (day["sitting_day"], day["asked_day"]) == ("2026-03-11", "2026-03-14")
    french = await runner.output("get_house_day", "fr", day="2026-03-14")
    assert french["note"].startswith("Il n’y a pas de transcription")
    newest = await runner.output("get_house_day")
    assert newest["sitting_day"] == (await runner.record("/debates/?limit=1"))["objects"][0]["date"]


async def test_bill_tools_use_only_the_requested_session(runner: Runner) -> None:
    older = await runner.output("get_bill", number="C-5", session="44-1")
    assert (older["session"], older["short_title"]) == ("44-1", "Grain Elevators Act")
    assert (await runner.output("get_bill_votes", number="C-5", session="44-1"))["items"] == []
    assert (await runner.output("get_bill_debate", number="C-5", session="44-1"))["items"] == []


async def test_get_bill_votes_returns_totals_and_results(runner: Runner) -> None:
    found = await runner.output("get_bill_votes", number="C-5", limit=20)
    assert (found["bill"], found["title"]) == ("C-5", (await runner.record("/bills/45-1/C-5/"))["name"]["en"])
    expected = (await runner.record("/votes/?bill=/bills/45-1/C-5/"))["objects"]
    keys = ("vote", "result", "yea", "nay", "paired", "about")
    assert [tuple(item[key] for key in keys) for item in found["items"]] == [
        (v["number"], v["result"], v["yea_total"], v["nay_total"], v["paired_total"], v["description"]["en"])
        for v in expected
    ]
    assert len(expected) == 6


async def test_get_bill_debate_returns_only_that_bills_speeches(runner: Runner) -> None:
    found = await runner.output("get_bill_debate", "fr", number="C-12", limit=4)
    expected = (await runner.record("/speeches/?bill_debated=/bills/45-1/C-12/&procedural=False&limit=4"))["objects"]
    assert [item["url"] for item in found["items"]] == [runner.url(speech["url"]) for speech in expected]
    assert all("cerfs-volants" in item["text"] for item in found["items"])
    assert found["more"]


@pytest.mark.parametrize(
    ("language", "start"), [("en", "Vote 21: Bill C-9,"), ("fr", "Vote nº 21 : projet de loi C-9,")]
)
async def test_vote_source_title_is_in_the_requested_language(runner: Runner, language: Language, start: str) -> None:
    outcome = await runner.tools.run("get_vote", {"number": 21}, language)
    assert outcome.sources[0].title.startswith(start)
    assert outcome.sources[0].title.endswith(", 2026-06-09")


async def test_describe_functions_return_summary_and_source(runner: Runner) -> None:
    mp, source = await describe_mp(runner.parliament, "fern-quillwater", "fr")
    assert mp == {
        "mp": "fern-quillwater",
        "name": "Fern Quillwater",
        "party": "Heron",
        "riding": "Sampleton—Fogwood",
        "province": "ON",
        "sits_now": True,
        "url": source.url,
    }
    assert source == Source(runner.url("/politicians/fern-quillwater/"), "Fern Quillwater")
    bill, source = await describe_bill(runner.parliament, None, "C-5", "fr")
    assert (bill["bill"], bill["session"], bill["title"][:14]) == ("C-5", "45-1", "Loi concernant")
    assert source.url == runner.url("/bills/45-1/C-5/")
