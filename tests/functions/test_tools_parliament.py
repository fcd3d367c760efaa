"""The client behind the tools, against a server that answers from a script: pages, redirects, failures, its cache."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest

from functions.chat import limits
from functions.chat.tools import NotThere, ToolError, Tools
from functions.chat.tools.cache import Cache
from functions.chat.tools.parliament import PAGES, Parliament
from functions.chat.tools.upstream import REDIRECTS

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """Answers what it is to say at a path, in order and the last again and again; None tears the connection down."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer | None]] = {}
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.meanwhile: Callable[[], Any] = lambda: None
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one write, or Nagle's algorithm has every reply wait 40 ms

            def do_GET(self) -> None:
                with lock:
                    server.asked.append(self.path)
                    server.at_once += 1
                    server.most_at_once = max(server.at_once, server.most_at_once)
                server.meanwhile()
                with lock:
                    server.at_once -= 1
                script = server.answers.get(self.path.partition("?")[0], [(404, {}, b"<html>Not found</html>")])
                answer = script.pop(0) if len(script) > 1 else script[0]
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def say(self, path: str, *answers: Any) -> None:
        """JSON, bytes as they are, or an Answer."""
        self.answers[path] = [
            each
            if each is None or isinstance(each, tuple)
            else (200, {}, each if isinstance(each, bytes) else json.dumps(each).encode())
            for each in answers
        ]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
async def parliament(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parliament]:
    """A client that does not pause before it asks again, and soon loses patience."""
    monkeypatch.setattr("functions.chat.tools.upstream.RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr("functions.chat.tools.upstream.SILENCE_S", 0.5)
    parliament = Parliament(f"{server.url}/", server.url, "clerk@example.test")
    yield parliament
    await parliament.close()


@pytest.fixture
def tools(parliament: Parliament) -> Tools:
    def fail(name: str, error: BaseException) -> None:
        raise error

    return Tools(parliament, fail)


def page(objects: list[Any], next_url: str | None = None) -> dict[str, Any]:
    return {"objects": objects, "pagination": {"next_url": next_url}}


def member(number: int, **more: Any) -> dict[str, Any]:
    return {
        "name": f"Member {number}",
        "url": f"/politicians/member-{number}/",
        "current_party": {"short_name": {"en": "Heron"}},
        "current_riding": {"province": "ON", "name": {"en": f"Riding {number}"}},
        **more,
    }


# --- pages -----------------------------------------------------------------------------------------------------------


async def test_what_is_only_on_the_last_page_is_found(server: Server, tools: Tools) -> None:
    members = [member(number) for number in range(1_100)]
    server.say(
        "/politicians/",
        page(members[:500], "/politicians/?limit=500&offset=500"),
        page(members[500:1_000], "/politicians/?limit=500&offset=1000"),
        page(members[1_000:]),
    )
    outcome = await tools.run("find_mps", {"riding": "riding 1099", "limit": 1}, "en")
    assert outcome.output is not None
    assert [item["mp"] for item in outcome.output["items"]] == ["member-1099"]
    assert server.asked == [
        "/politicians/?limit=500",
        "/politicians/?limit=500&offset=500",
        "/politicians/?limit=500&offset=1000",
    ]
    outcome = await tools.run("find_mps", {"riding": "riding", "limit": 20}, "en")
    assert outcome.output is not None
    assert len(outcome.output["items"]) + outcome.output["left_out"] == 1_100


async def test_pages_without_end_are_left_after_some(server: Server, parliament: Parliament) -> None:
    server.say("/bills/", *(page([{"n": n}], f"/bills/?offset={n + 1}") for n in range(PAGES + 5)))
    objects, more = await parliament.many("bills")
    assert (objects, more) == ([{"n": n} for n in range(PAGES)], True)
    assert len(server.asked) == PAGES


async def test_no_more_is_asked_for_than_is_wanted(server: Server, parliament: Parliament) -> None:
    server.say("/votes/", page([1, 2], "/votes/?offset=2") | {"objects": [{"n": 1}, {"n": 2}]})
    assert await parliament.many("votes", limit=2, session=None) == ([{"n": 1}, {"n": 2}], True)
    assert await parliament.many("votes", limit=1) == ([{"n": 1}], True)
    server.say("/votes/", page([{"n": 1}]))
    assert await parliament.many("votes", limit=3) == ([{"n": 1}], False)
    assert server.asked == ["/votes/?limit=2", "/votes/?limit=1", "/votes/?limit=3"]


@pytest.mark.parametrize("next_url", ["http://elsewhere.test/bills/", "//elsewhere.test/bills/"])
async def test_the_next_page_is_never_elsewhere(server: Server, parliament: Parliament, next_url: str) -> None:
    server.say("/bills/", page([{"n": 1}], next_url))
    with pytest.raises(NotThere):
        await parliament.many("bills")
    assert [path.rstrip("/") for path in server.asked] == ["/bills/?limit=500", f"/{next_url.strip('/')}"]


# --- what a member is called, here and there -------------------------------------------------------------------------


async def test_whom_only_represent_knows_is_told_without_a_slug(server: Server, tools: Tools) -> None:
    server.say("/politicians/", page([member(1), member(2)]))
    people = [
        {"name": "Member One", "elected_office": "MP", "district_name": "RIDING—1", "party_name": "Heron"},
        {"name": "Mémber 2", "elected_office": "MP", "district_name": "Somewhere", "party_name": "Heron"},
        {"name": "New One", "elected_office": "MP", "district_name": "Riding 3", "party_name": "Fleuve"},
        {"name": "Member 2", "elected_office": "MPP", "district_name": "Riding 2", "party_name": "Heron"},
    ]
    server.say("/postcodes/K1A0A6/", {"representatives_centroid": people, "representatives_concordance": people})
    outcome = await tools.run("find_mps", {"postal_code": "k1a 0a6"}, "en")
    assert outcome.output is not None
    known = [(item.get("mp"), item["name"], item["riding"]) for item in outcome.output["items"]]
    assert known == [
        ("member-1", "Member 1", "Riding 1"),
        ("member-2", "Member 2", "Riding 2"),
        (None, "New One", "Riding 3"),
    ]


# --- failures --------------------------------------------------------------------------------------------------------


async def test_a_page_of_html_that_is_missing_is_not_there(server: Server, parliament: Parliament) -> None:
    with pytest.raises(NotThere, match=r"^openparliament\.ca has nothing there\.$"):
        await parliament.one("politicians", "nobody")
    assert len(server.asked) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_a_torn_connection_is_tried_once_more(server: Server, parliament: Parliament, times: int) -> None:
    server.say("/votes/1/", *([None] * times), {"number": 1})
    if times == 1:
        assert await parliament.one("votes", "1") == {"number": 1}
    else:
        with pytest.raises(ToolError, match=r"^openparliament\.ca cannot be reached at the moment\.$"):
            await parliament.one("votes", "1")
    assert len(server.asked) == 2


async def test_nobody_at_the_address_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.chat.tools.upstream.RETRY_PAUSE_S", 0.01)
    parliament = Parliament("http://127.0.0.1:9", "http://127.0.0.1:9", "x")
    with pytest.raises(ToolError, match=r"^openparliament\.ca cannot be reached at the moment\.$"):
        await parliament.one("votes", "1")
    with pytest.raises(ToolError, match=r"^Represent cannot be reached at the moment\.$"):
        await parliament.representatives("K1A0A6")
    await parliament.close()


async def test_silence_is_a_sentence_and_not_tried_again(server: Server, parliament: Parliament) -> None:
    over = threading.Event()
    server.meanwhile = lambda: over.wait(20)
    with pytest.raises(ToolError, match=r"^openparliament\.ca did not answer in time\.$"):
        await parliament.one("votes", "1")
    over.set()
    assert len(server.asked) == 1


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    server: Server, parliament: Parliament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOOL_RESPONSE_BYTES", 1_000)
    server.say("/votes/1/", json.dumps({"a": "x" * 991}).encode())
    assert len((await parliament.one("votes", "1"))["a"]) == 991
    server.say("/votes/2/", json.dumps({"a": "x" * 992}).encode())
    with pytest.raises(ToolError, match=r"^openparliament\.ca sent more than can be read\.$"):
        await parliament.one("votes", "2")


async def test_what_cannot_be_unpacked_is_a_sentence(server: Server, parliament: Parliament) -> None:
    server.say("/votes/1/", (200, {"content-encoding": "gzip"}, b"not gzip"))
    with pytest.raises(ToolError, match=r"^openparliament\.ca sent something that cannot be read\.$"):
        await parliament.one("votes", "1")


async def test_redirects_are_followed_on_the_same_server_only(server: Server, parliament: Parliament) -> None:
    server.say("/votes/1/", (301, {"location": "/votes/2/"}, b""))
    server.say("/votes/2/", (302, {"location": f"{server.url}/votes/3/"}, b""))
    server.say("/votes/3/", {"number": 3})
    assert await parliament.one("votes", "1") == {"number": 3}
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    for location in (f"{elsewhere}/votes/3/", "http://127.0.0.1:9/votes/3/", server.url.replace("http", "https")):
        server.say("/votes/4/", (302, {"location": location}, b""))
        server.asked.clear()
        with pytest.raises(ToolError, match=r"^openparliament\.ca sent us to another address\.$"):
            await parliament.one("votes", "4")
        assert server.asked == ["/votes/4/"]


async def test_redirects_without_end_are_left(server: Server, parliament: Parliament) -> None:
    server.say("/votes/1/", (302, {"location": "/votes/1/"}, b""))
    with pytest.raises(ToolError):
        await parliament.one("votes", "1")
    assert len(server.asked) == REDIRECTS + 1


# --- the feed --------------------------------------------------------------------------------------------------------


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
async def test_a_feed_that_is_none_is_a_sentence(server: Server, parliament: Parliament, body: bytes) -> None:
    server.say("/search/feed/", body)
    with pytest.raises(ToolError, match=r"^openparliament\.ca sent something that cannot be read\.$"):
        await parliament.search("herons")


async def test_a_feed_with_gaps_is_read_and_its_links_lead_to_the_site(server: Server, tools: Tools) -> None:
    server.say(
        "/search/feed/",
        b"<rss><channel><item><title>A &amp;amp; B</title><link>https://evil.example/debates/1/?x=1#p2</link>"
        b"<pubDate>some day</pubDate></item><item/></channel></rss>",
    )
    outcome = await tools.run("search_debates", {"words": "herons"}, "fr")
    assert outcome.output is not None
    assert outcome.output["items"] == [
        {"date": None, "heading_and_speaker": "A & B", "excerpt": "", "url": f"{server.url}/debates/1/#p2"},
        {"date": None, "heading_and_speaker": "openparliament.ca", "excerpt": "", "url": f"{server.url}/"},
    ]


async def test_links_and_the_feed_are_the_public_sites() -> None:
    parliament = Parliament("https://api.openparliament.ca/", "https://represent.opennorth.ca", "x")
    assert parliament.page("/bills/45-1/C-5/") == "https://openparliament.ca/bills/45-1/C-5/"
    for hostile in ("//evil.example/x", "https://evil.example/x", "javascript:x", None, ""):
        assert parliament.page(hostile).startswith("https://openparliament.ca/")


@pytest.mark.parametrize("part", ["a/b", "a?limit=500", "a#b", "a%2Fb", "../a", "é", "a b", "a\n"])
async def test_a_part_of_a_path_is_escaped_whatever_it_is(server: Server, parliament: Parliament, part: str) -> None:
    for call in (
        parliament.one("votes", part),
        parliament.vote(part, 1),
        parliament.committee(part),
        parliament.representatives(part),
    ):
        with contextlib.suppress(NotThere):
            await call
    escaped = quote(part, safe="")
    assert server.asked == [
        f"/votes/{escaped}/",
        f"/votes/{escaped}/1/",
        f"/committees/{escaped}/",
        f"/postcodes/{escaped}/",
    ]


@pytest.mark.parametrize("part", ["", ".", ".."])
async def test_a_path_leads_nowhere_else(server: Server, parliament: Parliament, part: str) -> None:
    with pytest.raises(AssertionError):
        await parliament.one("votes", part)
    assert server.asked == []


# --- records with gaps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("find_bills", {"words": "heron"}),
        ("find_committees", {}),
        ("find_mps", {"name": "heron"}),
        ("get_bill", {"number": "C-5"}),
        ("get_bill_debate", {"number": "C-5"}),
        ("get_bill_votes", {"number": "C-5"}),
        ("get_committee", {"slug": "herons"}),
        ("get_mp", {"slug": "heron"}),
        ("get_mp_speeches", {"slug": "heron"}),
        ("get_mp_votes", {"slug": "heron"}),
        ("get_vote", {"number": 5}),
    ],
)
async def test_a_record_with_nothing_in_it_is_told_as_it_is(
    server: Server, tools: Tools, name: str, arguments: dict[str, Any]
) -> None:
    gaps = {"name": None, "content": None, "url": None, "party_votes": None, "memberships": None, "links": None}
    for path in ("speeches", "bills", "committees", "committees/meetings", "politicians"):
        server.say(f"/{path}/", page([{}, gaps]))
    server.say("/votes/", page([{"session": "45-1"}]))
    server.say("/votes/ballots/", page([{"vote_url": "/votes/45-1/404/"}, {"vote_url": "/votes/45-1/5/"}]))
    for path in ("bills/45-1/C-5", "committees/herons", "politicians/heron", "votes/45-1/5"):
        server.say(f"/{path}/", gaps)
    outcome = await tools.run(name, arguments, "fr")
    assert outcome.error is None


# --- the line and the cache ------------------------------------------------------------------------------------------


async def test_whoever_waits_for_the_same_gets_it_with_the_first(server: Server, parliament: Parliament) -> None:
    server.say("/votes/1/", {"number": 1})
    found = await asyncio.gather(*(parliament.one("votes", "1") for _ in range(10)))
    assert found == [{"number": 1}] * 10
    assert len(server.asked) == 1
    found[0]["number"] = 2  # ... and nobody changes what the others have
    assert await parliament.one("votes", "1") == {"number": 1}


async def test_calls_to_one_server_stand_in_a_line_and_other_servers_have_their_own(
    server: Server, parliament: Parliament
) -> None:
    both = threading.Barrier(2)
    for number in range(4):
        server.say(f"/votes/{number}/", {"number": number})
    await asyncio.gather(*(parliament.one("votes", str(number)) for number in range(4)))
    assert server.most_at_once == 1
    # Represent is not kept waiting by openparliament.ca: the two meet.
    other = Parliament(server.url, server.url.replace("127.0.0.1", "localhost"), "x")
    server.meanwhile = lambda: both.wait(20)
    server.say("/postcodes/K1A0A6/", {})
    await asyncio.gather(other.one("votes", "1"), other.representatives("K1A0A6"))
    assert server.most_at_once == 2
    await other.close()


async def test_a_site_and_its_api_stand_in_one_line(parliament: Parliament, monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0

    async def ask(service: str, request: Any) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return b"{}"

    upstream = parliament.upstream
    monkeypatch.setattr(upstream, "_ask", ask)
    hosts = ("https://openparliament.ca", "https://api.openparliament.ca")
    await asyncio.gather(*(upstream.read("x", f"{host}/{n}", json.loads) for host in hosts for n in range(3)))
    assert most == 1
    await asyncio.gather(*(upstream.read("x", f"{host}/", json.loads) for host in (hosts[0], "https://other.test")))
    assert most == 2


async def test_a_failure_is_not_kept(server: Server, parliament: Parliament) -> None:
    server.say("/votes/1/", b"<html>", (500, {}, b""), {"number": 1})
    for _ in range(2):
        with pytest.raises(ToolError):
            await parliament.one("votes", "1")
    assert await parliament.one("votes", "1") == {"number": 1}


def test_a_cache_is_bounded_in_entries_and_forgets_who_was_asked_for_least_lately() -> None:
    cache = Cache(entries=3, size=1_000, seconds=10)
    for key in "abc":
        cache.put(key, b"1")
    assert cache.get("a") == b"1"
    cache.put("d", b"1")
    assert [cache.get(key) for key in "abcd"] == [b"1", None, b"1", b"1"]
    assert (len(cache), cache.size) == (3, 6)


def test_a_cache_is_bounded_in_bytes() -> None:
    cache = Cache(entries=100, size=100, seconds=10)
    for key in "abc":
        cache.put(key, b"x" * 39)
    assert [cache.get(key) is None for key in "abc"] == [True, False, False]
    cache.put("b", b"x" * 9)
    cache.put("d", b"x" * 49)
    assert (len(cache), cache.size) == (3, 100)
    cache.put("e", b"x" * 100)  # larger than all room: nobody goes for it
    assert (len(cache), cache.size, cache.get("e")) == (3, 100, None)


def test_a_cache_forgets_what_is_old() -> None:
    now = 0.0
    cache = Cache(entries=3, size=100, seconds=10, now=lambda: now)
    cache.put("a", b"1")
    now = 9.9
    assert cache.get("a") == b"1"
    now = 10.0
    assert (cache.get("a"), len(cache), cache.size) == (None, 0, 0)


async def test_the_clients_cache_has_the_chats_bounds(
    server: Server, parliament: Parliament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOOL_CACHE_ENTRIES", 5)
    small = Parliament(server.url, server.url, "x")
    for number in range(20):
        server.say(f"/votes/{number}/", {"number": number})
        await small.one("votes", str(number))
    assert len(small.upstream.cache) == 5
    monkeypatch.setattr(limits, "TOOL_CACHE_BYTES", 200)
    smaller = Parliament(server.url, server.url, "x")
    for number in range(20):
        await smaller.one("votes", str(number))
    assert 0 < smaller.upstream.cache.size <= 200
    await small.close()
    await smaller.close()
