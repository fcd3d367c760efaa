"""The API client against a scripted server: pages of lists, paths, the search feed, and incomplete records."""

import contextlib
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from functions.chat.sources import Parliament
from functions.chat.sources.base import RecordNotFound, SourceError
from functions.chat.sources.openparliament import MAX_PAGES
from functions.chat.sources.openparliament_records import SearchFilters
from functions.chat.tools import Tools
from tests.functions.tools.kit import LANGUAGES, ScriptedServer, page
from tests.sources import parliament_at


def mp(number: int) -> dict[str, Any]:
    return {
        "name": f"Member {number}",
        "url": f"/politicians/member-{number}/",
        "current_party": {"short_name": {"en": "Heron"}},
        "current_riding": {"province": "ON", "name": {"en": f"Riding {number}"}},
    }


async def test_find_mps_searches_every_page(server: ScriptedServer, tools: Tools) -> None:
    mps = [mp(number) for number in range(1_100)]
    server.answer(
        "/politicians/",
        page(mps[:500], "/politicians/?limit=500&offset=500"),
        page(mps[500:1_000], "/politicians/?limit=500&offset=1000"),
        page(mps[1_000:]),
    )
    outcome = await tools.run("find_mps", {"riding": "riding 1099", "limit": 1}, "en")
    assert outcome.output is not None
    assert [item["mp"] for item in outcome.output["items"]] == ["member-1099"]
    assert server.requests == [
        "/politicians/?limit=500",
        "/politicians/?limit=500&offset=500",
        "/politicians/?limit=500&offset=1000",
    ]
    outcome = await tools.run("find_mps", {"riding": "riding", "limit": 20}, "en")
    assert outcome.output is not None
    assert len(outcome.output["items"]) + outcome.output["left_out"] == 1_100


async def test_list_stops_after_the_maximum_number_of_pages(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/bills/", *(page([{"n": n}], f"/bills/?offset={n + 1}") for n in range(MAX_PAGES + 5)))
    records, more = await parliament.openparliament.list_records("bills")
    assert (records, more) == ([{"n": n} for n in range(MAX_PAGES)], True)
    assert len(server.requests) == MAX_PAGES


async def test_list_requests_only_as_many_records_as_needed(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/votes/", page([{"n": 1}, {"n": 2}], "/votes/?offset=2"))
    assert await parliament.openparliament.list_records("votes", limit=2, session=None) == ([{"n": 1}, {"n": 2}], True)
    assert await parliament.openparliament.list_records("votes", limit=1) == ([{"n": 1}], True)
    server.answer("/votes/", page([{"n": 1}]))
    assert await parliament.openparliament.list_records("votes", limit=3) == ([{"n": 1}], False)
    assert server.requests == ["/votes/?limit=2", "/votes/?limit=1", "/votes/?limit=3"]


@pytest.mark.parametrize("next_url", ["http://elsewhere.test/bills/", "//elsewhere.test/bills/"])
async def test_next_page_never_leads_to_another_host(
    server: ScriptedServer, parliament: Parliament, next_url: str
) -> None:
    server.answer("/bills/", page([{"n": 1}], next_url))
    with pytest.raises(RecordNotFound):
        await parliament.openparliament.list_records("bills")
    assert [path.rstrip("/") for path in server.requests] == ["/bills/?limit=500", f"/{next_url.strip('/')}"]


async def test_mp_known_only_to_represent_has_no_slug(server: ScriptedServer, tools: Tools) -> None:
    server.answer("/politicians/", page([mp(1), mp(2)]))
    people = [
        {"name": "Member One", "elected_office": "MP", "district_name": "RIDING—1", "party_name": "Heron"},
        {"name": "Mémber 2", "elected_office": "MP", "district_name": "Somewhere", "party_name": "Heron"},
        {"name": "New One", "elected_office": "MP", "district_name": "Riding 3", "party_name": "Fleuve"},
        {"name": "Member 2", "elected_office": "MPP", "district_name": "Riding 2", "party_name": "Heron"},
    ]
    server.answer("/postcodes/K1A0A6/", {"representatives_centroid": people, "representatives_concordance": people})
    outcome = await tools.run("find_mps", {"postal_code": "k1a 0a6"}, "en")
    assert outcome.output is not None
    known = [(item.get("mp"), item["name"], item["riding"]) for item in outcome.output["items"]]
    assert known == [
        ("member-1", "Member 1", "Riding 1"),
        ("member-2", "Member 2", "Riding 2"),
        (None, "New One", "Riding 3"),
    ]


BOMB = b"""<!DOCTYPE r [<!ENTITY a "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa">
%s]><rss><channel><item><title>&l9;</title></item></channel></rss>"""
LEVELS = b"".join(b'<!ENTITY l%d "%s">' % (n, (b"&l%d;" % (n - 1) if n else b"&a;") * 10) for n in range(10))


@pytest.mark.parametrize(
    "body",
    [
        b"<html><br></html",
        b"",
        b"{}",
        BOMB % LEVELS,
        b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><rss><item><title>&x;</title></item></rss>',
    ],
)
async def test_invalid_or_malicious_feed_is_an_error(
    server: ScriptedServer, parliament: Parliament, body: bytes
) -> None:
    server.answer("/search/feed/", body)
    with pytest.raises(SourceError, match=r"^openparliament\.ca returned a response that cannot be read\.$"):
        await parliament.openparliament.search("herons", SearchFilters())


async def test_incomplete_feed_items_link_only_to_the_site(server: ScriptedServer, tools: Tools) -> None:
    server.answer(
        "/search/feed/",
        b"<rss><channel><item><title>A &amp;amp; B</title><link>https://evil.example/debates/1/?x=1#p2</link>"
        b"<pubDate>some day</pubDate></item><item><link>/bills/45-1/C-5/</link></item><item/></channel></rss>",
    )
    outcome = await tools.run("search_debates", {"words": "herons"}, "fr")
    assert outcome.output is not None
    assert outcome.output["items"] == [
        {"kind": kind, "date": None, "heading_and_speaker": title, "excerpt": "", "url": f"{server.url}{path}"}
        for kind, title, path in (
            ("speech", "A & B", "/debates/1/#p2"),
            ("bill", "openparliament.ca", "/bills/45-1/C-5/"),
            ("page", "openparliament.ca", "/"),
        )
    ]


async def test_public_url_never_leaves_the_site() -> None:
    parliament = parliament_at("https://api.openparliament.ca/")
    assert parliament.openparliament.public_url("/bills/45-1/C-5/") == "https://openparliament.ca/bills/45-1/C-5/"
    for hostile in ("//evil.example/x", "https://evil.example/x", "javascript:x", None, ""):
        assert parliament.openparliament.public_url(hostile).startswith("https://openparliament.ca/")


@pytest.mark.parametrize("part", ["a/b", "a?limit=500", "a#b", "a%2Fb", "../a", "é", "a b", "a\n"])
async def test_path_segments_are_escaped(server: ScriptedServer, parliament: Parliament, part: str) -> None:
    for call in (
        parliament.openparliament.get_record("votes", part),
        parliament.openparliament.get_vote(part, 1),
        parliament.openparliament.get_committee(part),
        parliament.represent.area(part),
    ):
        with contextlib.suppress(RecordNotFound):
            await call
    escaped = quote(part, safe="")
    assert server.requests == [
        f"/votes/{escaped}/",
        f"/votes/{escaped}/1/",
        f"/committees/{escaped}/",
        f"/postcodes/{escaped}/",
    ]


@pytest.mark.parametrize("part", ["", ".", ".."])
async def test_empty_and_relative_path_segments_are_rejected(
    server: ScriptedServer, parliament: Parliament, part: str
) -> None:
    with pytest.raises(AssertionError):
        await parliament.openparliament.get_record("votes", part)
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("find_bills", {"words": "heron"}),
        ("find_committees", {}),
        ("find_mps", {"name": "heron"}),
        ("get_bill", {"number": "C-5"}),
        ("get_bill_debate", {"number": "C-5"}),
        ("get_committee", {"slug": "herons"}),
        ("get_mp", {"slug": "heron"}),
        ("get_mp_speeches", {"slug": "heron"}),
        ("get_mp_votes", {"slug": "heron"}),
    ],
)
async def test_tools_accept_records_without_values(
    server: ScriptedServer, tools: Tools, name: str, arguments: dict[str, Any]
) -> None:
    """Only the keys that make it a record of its kind. Records without them are left out of lists."""
    gaps = {"content": None, "party_votes": None, "memberships": [], "links": None}
    gaps |= {
        "name": "Heron",
        "url": "/herons/",
        "slug": "herons",
        "session": "45-1",
        "number": "C-5",
        "attribution": None,
    }
    for path in ("speeches", "bills", "committees", "committees/meetings", "politicians"):
        server.answer(f"/{path}/", page([{}, {"name": None}, gaps]))
    server.answer("/votes/", page([{"session": "45-1"}]))
    server.answer("/votes/ballots/", page([{"vote_url": "/votes/45-1/404/"}, {"vote_url": "/votes/45-1/5/"}]))
    for path in ("bills/45-1/C-5", "committees/herons", "politicians/heron"):
        server.answer(f"/{path}/", gaps)
    outcome = await tools.run(name, arguments, "fr")
    assert outcome.error is None


@pytest.mark.parametrize("answer", [page([]), {}, {"name": None, "url": None}, {"content": []}])
async def test_answer_without_its_keys_is_no_record(server: ScriptedServer, tools: Tools, answer: Any) -> None:
    """A list, for example /politicians/memberships/, is no person and no committee."""
    for path in ("politicians/memberships", "committees/meetings", "bills/45-1/C-5", "bills"):
        server.answer(f"/{path}/", answer)
    server.answer("/bills/", page([]))
    for name, arguments, start in (
        ("get_mp", {"slug": "memberships"}, "No MP has the slug memberships"),
        ("get_committee", {"slug": "meetings"}, "No committee has the slug meetings"),
        ("get_bill", {"number": "C-5", "session": "45-1"}, "There is no bill C-5 in session 45-1"),
    ):
        outcome = await tools.run(name, arguments, "en")
        assert (outcome.error or "").startswith(start)


async def test_former_mps_are_found_by_name_and_by_number(server: ScriptedServer, tools: Tools) -> None:
    former = {"name": "Áda Heron", "url": "/politicians/16/"}
    server.answer("/politicians/", page([mp(1)]), page([{"name": "Other", "url": "/politicians/other/"}, former]))
    term = {"party": {"short_name": {"en": "NDP"}, "name": {"en": "New Democratic Party"}}, "end_date": "2011-05-02"}
    server.answer(
        "/politicians/16/", former | {"memberships": [term], "links": [{"url": "https://x.test/", "note": "N"}]}
    )
    outcome = await tools.run("find_mps", {"name": "ada heron"}, "en")
    assert outcome.output is not None
    items = [{"mp": "16", "name": "Áda Heron", "sits_now": False, "url": f"{server.url}/politicians/16/"}]
    assert (outcome.output["mps_with"], outcome.output["items"]) == ({"name": "ada heron", "former": True}, items)
    assert server.requests == ["/politicians/?limit=500", "/politicians/?include=former&limit=500"]
    outcome = await tools.run("get_mp", {"slug": "16"}, "fr")
    assert outcome.output is not None
    assert (outcome.output["mp"], outcome.output["party"], outcome.output["sits_now"]) == ("16", "NPD", False)
    assert outcome.output["memberships"]["items"][0]["party"] == "Nouveau Parti démocratique"
    server.answer("/speeches/", page([]))
    assert (await tools.run("get_mp_speeches", {"slug": "16"}, "fr")).error is None
    assert server.requests[-1] == "/speeches/?procedural=False&politician=16&limit=5"


@pytest.mark.parametrize("words", ["NPD", "Néo-démocrates", "ndp", "New Democrats", "Nouveau Parti démocratique"])
async def test_parties_have_names_in_both_languages(server: ScriptedServer, tools: Tools, words: str) -> None:
    parties = ("Liberal", "NDP", "Bloc", "Conservative", "Green", "Independent")
    members = [mp(number) | {"current_party": {"short_name": {"en": party}}} for number, party in enumerate(parties)]
    server.answer("/politicians/", page(members))
    outcome = await tools.run("find_mps", {"party": words}, "fr")
    assert outcome.output is not None
    assert [(item["mp"], item["party"]) for item in outcome.output["items"]] == [("member-1", "NPD")]


async def test_search_filters_are_those_of_the_site(server: ScriptedServer, tools: Tools) -> None:
    member = {"name": "Jane Doe", "url": "/politicians/jane-doe/", "memberships": []}
    server.answer("/politicians/7/", member)
    server.answer("/politicians/", page([mp(1) | {"current_party": {"short_name": {"en": "Conservative"}}}]))
    server.answer("/committees/1/", {"url": "/committees/finance/", "slug": "finance", "name": {"en": "Finance"}})
    server.answer("/search/feed/", b"<rss><channel/></rss>")
    for arguments, query in (
        ({"speaker": "7"}, 'MP: "jane-doe"'),
        ({"party": "Conservateurs"}, 'Party: "Conservative"'),
        ({"committee": "1"}, 'Committee: "finance"'),
        ({"since": "2025-01-09", "until": "2025-06-30"}, 'Date: "2025-01-09 to 2025-06-30"'),
        ({"since": "2025-01-09"}, 'Date: "2025-01-09 to 2999-12-31"'),
        ({"until": "2025-06-30"}, 'Date: "1994-01-01 to 2025-06-30"'),
    ):
        assert (await tools.run("search_debates", {"words": "herons", **arguments}, "fr")).error is None
        assert server.requests[-1] == f"/search/feed/?{urlencode({'q': f'herons {query}'})}"
    outcome = await tools.run("search_debates", {"words": "herons", "party": "Whig"}, "en")
    assert (outcome.error or "").startswith("No party in the House has that name; the parties are Conservative.")


async def test_speech_names_the_language_it_was_spoken_in(server: ScriptedServer, tools: Tools) -> None:
    def paragraph(language: str, text: str) -> str:
        return f'<p data-HoCid="1" data-originallang="{language}">{text}</p>'

    table = "<table><tr><th>Year</th><th>Herons</th></tr><tr><td>2024</td><td>12</td></tr></table>"
    speeches = [
        {"en": paragraph("fr", "Herons."), "fr": paragraph("fr", "Les hérons.")},
        {
            "en": paragraph("en", "One.") + paragraph("en", "Two.") + paragraph("fr", "Three."),
            "fr": paragraph("en", "Un.") + paragraph("en", "Deux.") + paragraph("fr", "Trois."),
        },
        {"en": paragraph("en", "A table:") + table, "fr": None},
        {"en": "<p>No mark.</p>", "fr": "<p>Sans marque.</p>"},
    ]
    records = [{"url": f"/debates/{n}/", "attribution": None, "content": each} for n, each in enumerate(speeches)]
    server.answer("/politicians/heron/", {"name": "Heron", "url": "/politicians/heron/", "memberships": []})
    server.answer("/speeches/", page(records))
    found = {}
    for language in LANGUAGES:
        outcome = await tools.run("get_mp_speeches", {"slug": "heron"}, language)
        assert outcome.output is not None
        found[language] = [(item["spoken_in"], item["text"]) for item in outcome.output["items"]]
    rows = "A table:\nYear | Herons\n2024 | 12"
    assert found["en"] == [
        ("fr", "Herons."),
        ("en+fr", "[spoken in English] One.\nTwo.\n[spoken in French] Three."),
        ("en", rows),
        (None, "No mark."),
    ]
    assert found["fr"] == [
        ("fr", "Les hérons."),
        ("en+fr", "[prononcé en anglais] Un.\nDeux.\n[prononcé en français] Trois."),
        ("en", rows),
        (None, "Sans marque."),
    ]


async def test_committee_number_leads_to_its_slug(server: ScriptedServer, tools: Tools) -> None:
    server.answer("/committees/1/", (301, {"location": "/committees/finance/"}, b""))
    sessions = [
        {"session": "45-1", "acronym": "FINA", "source_url": "https://www.ourcommons.ca/Committees/en/FINA?p=1"}
    ]
    record = {"url": "/committees/finance/", "slug": "finance", "name": {"en": "Finance"}, "sessions": sessions}
    server.answer("/committees/finance/", record)
    server.answer("/committees/meetings/", page([]))
    outcome = await tools.run("get_committee", {"slug": "1"}, "fr")
    assert outcome.output is not None
    assert outcome.output["committee"] == "finance"
    assert outcome.output["sessions"][0]["page"] == "https://www.ourcommons.ca/Committees/fr/FINA?p=1"
    assert server.requests[-1] == "/committees/meetings/?committee=finance&limit=10"


@pytest.mark.parametrize("current", ["", "-2023-representation-order"])
async def test_vacant_ridings_are_of_the_present_boundaries(server: ScriptedServer, tools: Tools, current: str) -> None:
    """A riding is not vacant where openparliament.ca has a member that Represent does not have yet."""
    federal = "federal-electoral-districts"
    sets = (f"{federal}{current}", "ontario-ridings", federal, f"{federal}-2023-representation-order")
    boundaries = [
        {"url": f"/boundaries/{each}/{number}/", "name": f"Riding {number}" if each == sets[0] else "Old Riding"}
        for each in dict.fromkeys(sets)
        for number in (1, 2, 3)
    ]
    person = {"name": "Member 1", "elected_office": "MP", "district_name": "Riding 1"}
    person["related"] = {"boundary_url": f"/boundaries/{sets[0]}/1/"}
    server.answer("/postcodes/K1A0A6/", {"boundaries_centroid": boundaries, "representatives_centroid": [person]})
    server.answer("/politicians/", page([mp(1), mp(2)]))
    outcome = await tools.run("find_mps", {"postal_code": "K1A 0A6"}, "en")
    assert outcome.output is not None
    assert [item["mp"] for item in outcome.output["items"]] == ["member-1", "member-2"]
    assert outcome.output["vacant_ridings"] == ["Riding 3"]


async def test_current_session_is_the_newest_of_votes_and_bills(server: ScriptedServer, parliament: Parliament) -> None:
    """The list of bills begins with the lowest number of any session."""
    server.answer("/votes/", page([{"session": "45-1", "date": "2026-06-01"}]))
    bills = [{"session": session, "number": "C-1"} for session in ("44-1", "45-2", "45-1")]
    server.answer("/bills/", page(bills))
    assert await parliament.openparliament.current_session() == "45-2"
    assert server.requests[-1] == "/bills/?introduced__gte=2026-06-01&limit=500"


async def test_unknown_session_is_an_error(server: ScriptedServer, tools: Tools) -> None:
    server.answer("/bills/", page([]), page([]), page([{"session": "45-1", "number": "C-1"}]))
    server.answer("/votes/", page([{"session": "45-1", "date": "2026-06-01"}]))
    outcome = await tools.run("find_bills", {"session": "99-9"}, "en")
    assert outcome.error == "openparliament.ca has no session 99-9; the current one is 45-1."
