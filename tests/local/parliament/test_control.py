"""Concurrent requests, and the controls for tests: the request log and faults."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from infra.local.parliament import create_app
from tests.local.parliament.kit import get, new_client
from tests.servers import serve


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The stand-in on a real server."""
    with serve(create_app(0)) as url:
        yield url


async def requests(client: httpx.AsyncClient, length: int) -> list[Any]:
    """The request log, once it has `length` entries."""
    for _ in range(1000):
        entries: list[Any] = (await client.get("/_requests")).json()
        if len(entries) >= length:
            return entries
        await asyncio.sleep(0.01)
    raise AssertionError(entries)


async def test_concurrent_requests_to_the_api_get_429() -> None:
    """Without a slow request. The API accepts requests again after the first answer."""
    async with new_client(0.01) as client:
        answers = await asyncio.gather(*(client.get(f"/votes/45-1/{number}/") for number in (1, 2, 3)))
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        for number in (1, 2, 3):
            assert (await client.get(f"/votes/45-1/{number}/")).status_code == 200
        entries = await requests(client, 6)
        assert [entry["concurrent"] for entry in entries] == [False, True, True, False, False, False]
        assert [entry["status"] for entry in entries] == [200, 429, 429, 200, 200, 200]


async def test_other_sites_accept_concurrent_requests() -> None:
    async with new_client(0.01) as client:
        urls = ("/votes/", "/postcodes/K1A0A6/", "/search/feed/?q=ferries", "/LegisInfo/en/bill/45-1/c-5/json")
        answers = await asyncio.gather(*(client.get(url) for url in urls))
        assert [answer.status_code for answer in answers] == [200] * 4


async def test_slow_request_blocks_others_until_its_client_disconnects(url: str) -> None:
    """Over sockets: the stand-in learns of a disconnect only from the connection."""
    async with httpx.AsyncClient(base_url=url) as client:
        slow = asyncio.create_task(client.get("/votes/?_slow=600"))
        await requests(client, 1)
        assert (await client.get("/votes/")).status_code == 429
        slow.cancel()
        for _ in range(1000):
            if (answer := await client.get("/votes/")).status_code == 200:
                break
            await asyncio.sleep(0.01)
        assert answer.status_code == 200


async def test_next_request_is_accepted_right_after_the_answer() -> None:
    """Even before the server has finished sending the answer."""
    app = create_app(0)
    transport, statuses = httpx.ASGITransport(app), list[int]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            async with httpx.AsyncClient(transport=transport, base_url="http://stand-in") as client:
                statuses.append((await client.get("/votes/")).status_code)

    request = httpx.Request("GET", "http://stand-in/votes/")
    scope = {"type": "http", "method": "GET", "path": "/votes/", "raw_path": b"/votes/", "query_string": b""}
    scope |= {"headers": request.headers.raw, "client": ("127.0.0.1", 1), "server": ("stand-in", 80), "scheme": "http"}
    await app({**scope, "http_version": "1.1", "root_path": ""}, receive, send)
    assert statuses == [200]


async def test_browsers_may_read_the_api_from_any_origin(client: httpx.AsyncClient) -> None:
    """APIView of openparliament.ca's parliament/core/api.py adds the header to answers, if there is an origin."""
    assert "access-control-allow-origin" not in (await client.get("/bills/")).headers
    answer = await client.get("/bills/", headers={"origin": "https://page.test"})
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_request_log_records_every_request(client: httpx.AsyncClient) -> None:
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


async def test_faults_apply_to_the_next_requests(client: httpx.AsyncClient) -> None:
    fault = {"path_prefix": "/votes/", "status": 429, "times": 2, "retry_after": "2"}
    assert (await client.post("/_fail", json=fault)).status_code == 204
    await client.post("/_fail", json={"path_prefix": "/bills/", "body": "<p>Down for repairs", "status": 200})
    assert (await client.get("/politicians/")).status_code == 200
    for url in ("/votes/", "/votes/ballots/"):
        failed = await client.get(url)
        assert (failed.status_code, failed.headers["retry-after"]) == (429, "2")
        assert failed.headers["content-type"].startswith("text/html")
    assert (await client.get("/votes/")).status_code == 200
    changed = await client.get("/bills/")
    assert (changed.status_code, changed.text) == (200, "<p>Down for repairs")
    assert (await get(client, "/bills/"))["objects"]


async def test_slow_fault_can_be_removed(client: httpx.AsyncClient) -> None:
    await client.post("/_fail", json={"path_prefix": "/votes/", "slow": 600, "times": 9})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.get("/votes/"), 0.05)
    assert (await client.delete("/_fail")).status_code == 204
    assert (await client.get("/votes/")).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prefix": "/votes/"}'])
async def test_invalid_fault_is_rejected(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/_fail", content=body)).status_code == 400
    assert (await client.get("/votes/")).status_code == 200
