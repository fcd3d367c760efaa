"""The HTTP client against a scripted server: failures, retries, redirects, serialized requests and the cache."""

import asyncio
import gzip
import json
import socket
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from functions.chat import limits
from functions.chat.sources import Parliament
from functions.chat.sources.base import RecordNotFound, SourceError
from functions.chat.sources.http import MAX_REDIRECTS, HttpClient, ResponseCache, address
from tests.functions.tools.kit import ScriptedServer
from tests.sources import addresses_at, parliament_at


async def test_html_404_raises_not_found(server: ScriptedServer, parliament: Parliament) -> None:
    with pytest.raises(RecordNotFound, match=r"^openparliament\.ca has no such record\.$"):
        await parliament.openparliament.get_record("politicians", "unknown")
    assert len(server.requests) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_broken_connection_gets_one_retry(server: ScriptedServer, parliament: Parliament, times: int) -> None:
    server.answer("/votes/1/", *([None] * times), {"number": 1})
    if times == 1:
        assert await parliament.openparliament.get_record("votes", "1") == {"number": 1}
    else:
        with pytest.raises(SourceError, match=r"^openparliament\.ca cannot be reached at the moment\.$"):
            await parliament.openparliament.get_record("votes", "1")
    assert len(server.requests) == 2


async def test_lost_kept_connection_gets_one_retry(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/votes/1/", {"number": 1})
    server.answer("/votes/2/", None)
    assert await parliament.openparliament.get_record("votes", "1") == {"number": 1}
    with pytest.raises(SourceError, match=r"^openparliament\.ca cannot be reached at the moment\.$"):
        await parliament.openparliament.get_record("votes", "2")
    assert server.requests == ["/votes/1/", "/votes/2/", "/votes/2/"]


async def test_refused_connection_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.chat.sources.http.RETRY_PAUSE_S", 0.01)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and never listens: connections are refused
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        parliament = parliament_at(url)
        with pytest.raises(SourceError, match=r"^openparliament\.ca cannot be reached at the moment\.$"):
            await parliament.openparliament.get_record("votes", "1")
        with pytest.raises(SourceError, match=r"^Represent cannot be reached at the moment\.$"):
            await parliament.represent.area("K1A0A6")
        await parliament.close()


@pytest.mark.parametrize(("retry_after", "seconds"), [("5", 5), ("60", 60), ("3600", 60), ("Wed, 21 Oct 2026", 60)])
async def test_busy_host_gets_no_request_until_its_retry_after(
    server: ScriptedServer, retry_after: str, seconds: int
) -> None:
    now = 100.0
    client = HttpClient("tests", lambda: now)
    server.answer("/a/", (429, {"retry-after": retry_after}, b""))
    server.answer("/b/", {"b": 1})
    assert await client.get("x", f"{server.url}/b/", json.loads) == {"b": 1}
    for waited in (0.0, seconds - 0.1):
        now = 100.0 + waited
        for path in ("/a/", "/c/"):
            with pytest.raises(SourceError, match=r"^x is too busy at the moment\.$"):
                await client.get("x", server.url + path, json.loads)
    assert await client.get("x", f"{server.url}/b/", json.loads) == {"b": 1}  # from the cache
    assert server.requests == ["/b/", "/a/"]
    now = 100.0 + seconds
    server.answer("/a/", {"a": 1})
    assert await client.get("x", f"{server.url}/a/", json.loads) == {"a": 1}
    await client.close()


async def test_read_timeout_is_not_retried(
    server: ScriptedServer, parliament: Parliament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.chat.sources.http.READ_TIMEOUT_S", 0.2)
    timed_out = threading.Event()
    server.before_answer = lambda: timed_out.wait(20)
    with pytest.raises(SourceError, match=r"^openparliament\.ca did not answer in time\.$"):
        await parliament.openparliament.get_record("votes", "1")
    timed_out.set()
    assert len(server.requests) == 1


async def test_too_large_response_is_an_error(
    server: ScriptedServer, parliament: Parliament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOOL_RESPONSE_BYTES", 1_000)
    server.answer("/votes/1/", json.dumps({"a": "x" * 991}).encode())
    assert len((await parliament.openparliament.get_record("votes", "1"))["a"]) == 991
    server.answer("/votes/2/", json.dumps({"a": "x" * 992}).encode())
    with pytest.raises(SourceError, match=r"^openparliament\.ca returned a response that is too large\.$"):
        await parliament.openparliament.get_record("votes", "2")


async def test_compressed_response_is_limited_when_decompressed(
    server: ScriptedServer, parliament: Parliament, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"content-encoding": "gzip"}
    server.answer("/votes/1/", (200, headers, gzip.compress('{"name": "Élise"}'.encode())))
    assert await parliament.openparliament.get_record("votes", "1") == {"name": "Élise"}
    monkeypatch.setattr(limits, "TOOL_RESPONSE_BYTES", 1_000)
    server.answer("/votes/2/", (200, headers, gzip.compress(b'{"a": "%b"}' % (b"x" * 10_000_000))))
    with pytest.raises(SourceError, match=r"^openparliament\.ca returned a response that is too large\.$"):
        await parliament.openparliament.get_record("votes", "2")


async def test_undecodable_response_is_an_error(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/votes/1/", (200, {"content-encoding": "gzip"}, b"not gzip"))
    with pytest.raises(SourceError, match=r"^openparliament\.ca returned a response that cannot be read\.$"):
        await parliament.openparliament.get_record("votes", "1")


PRINTABLE = st.characters(exclude_categories=["Cc", "Cs"])
PATHS = st.text(PRINTABLE, max_size=20).map(lambda path: f"/{path.replace('#', '')}")


@given(path=PATHS, params=st.dictionaries(st.text(PRINTABLE), st.text(PRINTABLE) | st.integers(), max_size=3))
@example("/a%20b/%2F/%7E/%zz/é!$&'()*+,;=:@[]|^`{}~\"<>?q=a+b%2Cc%20d,é[]{}`^|", {})
@example("/", {"q": "Élise + l'été, 50%: a&b=c/d?", "limit": 500, "%": "%2F"})
def test_addresses_are_encoded_as_httpx_does(path: str, params: dict[str, str | int]) -> None:
    """The addresses are keys of the cache, and other clients of these APIs encode them in this way."""
    if params:
        path = path.partition("?")[0]
    before_query, question_mark, query = path.partition("?")
    # Two differences that no address of these APIs has: httpx keeps an empty query, and resolves "." and "..".
    if (query or not question_mark) and {".", ".."}.isdisjoint(before_query.split("/")):
        expected = httpx.Request("GET", f"https://a.test:8443{path}", params=params or None).url
        assert address(f"https://a.test:8443{path}", params) == str(expected)


async def test_addresses_arrive_as_they_are_encoded(server: ScriptedServer, parliament: Parliament) -> None:
    path = "/a%20b/%2F%7E/é!$&'()*+,;=:@[]|^~%zz"
    for url, params in ((path, {"q": "Élise + l'été, 50%"}), (f"{path}?a=b+c%20d%2Ce,f&é", None), (path, None)):
        with pytest.raises(RecordNotFound):
            await parliament.client.get("x", server.url + url, json.loads, params)
        assert server.requests[-1] == httpx.Request("GET", server.url + url, params=params).url.raw_path.decode()


@pytest.mark.parametrize("url", ["https://a.test/a\nb", "https://a.test:x/", "https://a.test/\x7f"])
async def test_invalid_address_is_an_error(parliament: Parliament, url: str) -> None:
    with pytest.raises(SourceError, match=r"^x returned an invalid address\.$"):
        await parliament.client.get("x", url, json.loads)


async def test_redirects_are_followed_only_within_the_origin(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/votes/1/", (301, {"location": "/votes/2/"}, b""))
    server.answer("/votes/2/", (302, {"location": f"{server.url}/votes/3/"}, b""))
    server.answer("/votes/3/", {"number": 3})
    assert await parliament.openparliament.get_record("votes", "1") == {"number": 3}
    other_host = server.url.replace("127.0.0.1", "localhost")
    for location in (f"{other_host}/votes/3/", "http://127.0.0.1:9/votes/3/", server.url.replace("http", "https")):
        server.answer("/votes/4/", (302, {"location": location}, b""))
        server.requests.clear()
        with pytest.raises(SourceError, match=r"^openparliament\.ca redirected to another address\.$"):
            await parliament.openparliament.get_record("votes", "4")
        assert server.requests == ["/votes/4/"]


async def test_redirect_loop_ends_after_the_maximum(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/votes/1/", (302, {"location": "/votes/1/"}, b""))
    with pytest.raises(SourceError):
        await parliament.openparliament.get_record("votes", "1")
    assert len(server.requests) == MAX_REDIRECTS + 1


async def test_identical_concurrent_requests_share_one_response(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/votes/1/", {"number": 1})
    found = await asyncio.gather(*(parliament.openparliament.get_record("votes", "1") for _ in range(10)))
    assert found == [{"number": 1}] * 10
    assert len(server.requests) == 1
    found[0]["number"] = 2  # the others have their own copies
    assert await parliament.openparliament.get_record("votes", "1") == {"number": 1}


async def test_requests_are_serialized_per_host(server: ScriptedServer, parliament: Parliament) -> None:
    barrier = threading.Barrier(2)
    for number in range(4):
        server.answer(f"/votes/{number}/", {"number": number})
    await asyncio.gather(*(parliament.openparliament.get_record("votes", str(number)) for number in range(4)))
    assert server.max_active == 1
    # A request to Represent does not wait for openparliament.ca: both reach the barrier.
    local = server.url.replace("127.0.0.1", "localhost")
    other = Parliament.at(replace(addresses_at(server.url), represent=local), "x")
    server.before_answer = lambda: barrier.wait(20)
    server.answer("/postcodes/K1A0A6/", {})
    await asyncio.gather(other.openparliament.get_record("votes", "1"), other.represent.area("K1A0A6"))
    assert server.max_active == 2
    await other.close()


async def test_site_and_its_api_share_one_lock(parliament: Parliament, monkeypatch: pytest.MonkeyPatch) -> None:
    active = max_active = 0

    async def send(service: str, request: Any) -> bytes:
        nonlocal active, max_active
        active += 1
        max_active = max(max_active, active)
        await asyncio.sleep(0)
        active -= 1
        return b"{}"

    client = parliament.client
    monkeypatch.setattr(client, "_send_with_retry", send)
    hosts = ("https://openparliament.ca", "https://api.openparliament.ca")
    await asyncio.gather(*(client.get("x", f"{host}/{n}", json.loads) for host in hosts for n in range(3)))
    assert max_active == 1
    await asyncio.gather(*(client.get("x", f"{host}/", json.loads) for host in (hosts[0], "https://other.test")))
    assert max_active == 2


async def test_failure_is_not_cached(server: ScriptedServer, parliament: Parliament) -> None:
    server.answer("/votes/1/", b"<html>", (500, {}, b""), {"number": 1})
    for _ in range(2):
        with pytest.raises(SourceError):
            await parliament.openparliament.get_record("votes", "1")
    assert await parliament.openparliament.get_record("votes", "1") == {"number": 1}


def test_cache_drops_the_least_recently_used_entry() -> None:
    cache = ResponseCache(entries=3, size=1_000, seconds=10)
    for key in "abc":
        cache.put(key, b"1")
    assert cache.get("a") == b"1"
    cache.put("d", b"1")
    assert [cache.get(key) for key in "abcd"] == [b"1", None, b"1", b"1"]
    assert (len(cache), cache.size) == (3, 6)


def test_cache_is_bounded_in_bytes() -> None:
    cache = ResponseCache(entries=100, size=100, seconds=10)
    for key in "abc":
        cache.put(key, b"x" * 39)
    assert [cache.get(key) is None for key in "abc"] == [True, False, False]
    cache.put("b", b"x" * 9)
    cache.put("d", b"x" * 49)
    assert (len(cache), cache.size) == (3, 100)
    cache.put("e", b"x" * 100)  # larger than the whole cache: drops nothing
    assert (len(cache), cache.size, cache.get("e")) == (3, 100, None)


def test_cache_entries_expire() -> None:
    now = 0.0
    cache = ResponseCache(entries=3, size=100, seconds=10, now=lambda: now)
    cache.put("a", b"1")
    now = 9.9
    assert cache.get("a") == b"1"
    now = 10.0
    assert (cache.get("a"), len(cache), cache.size) == (None, 0, 0)


async def test_upstream_uses_the_configured_cache_limits(
    server: ScriptedServer, parliament: Parliament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOOL_CACHE_ENTRIES", 5)
    small = parliament_at(server.url)
    for number in range(20):
        server.answer(f"/votes/{number}/", {"number": number})
        await small.openparliament.get_record("votes", str(number))
    assert len(small.client.cache) == 5
    monkeypatch.setattr(limits, "TOOL_CACHE_BYTES", 200)
    smaller = parliament_at(server.url)
    for number in range(20):
        await smaller.openparliament.get_record("votes", str(number))
    assert 0 < smaller.client.cache.size <= 200
    await small.close()
    await smaller.close()
