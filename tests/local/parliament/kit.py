"""Helpers for the tests of the parliamentary data stand-in: a client, and complete lists."""

from typing import Any

import httpx

from infra.local.parliament import create_app


def new_client(delay: float) -> httpx.AsyncClient:
    """A client of a new stand-in, without sockets."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(delay)),
        base_url="http://stand-in",
        headers={"accept": "application/json", "api-version": "v1", "user-agent": "tests (tests@example.test)"},
    )


async def get(client: httpx.AsyncClient, url: str) -> Any:
    """The JSON at the URL."""
    answer = await client.get(url)
    assert answer.status_code == 200, (url, answer.status_code, answer.text)
    return answer.json()


async def get_all(client: httpx.AsyncClient, url: str, limit: int = 500) -> list[Any]:
    """All records of a list, page by page."""
    records, next_url = list[Any](), f"{url}{'&' if '?' in url else '?'}limit={limit}"
    while next_url:
        answer = await get(client, next_url)
        records += answer["objects"]
        next_url = answer["pagination"]["next_url"]
    return records
