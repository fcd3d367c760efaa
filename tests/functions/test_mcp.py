"""The tools over the Model Context Protocol: by the official SDK's client, and message by message."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import mcp
import psycopg
import pytest
from mcp.client.streamable_http import streamable_http_client

from functions.chat import limits
from infra.local.stack import Stack
from tests.api import Api
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.functions.watched import served

NewPerson = Callable[..., Person]
ORIGIN = "https://example.test"
BILL = {"name": "get_bill", "arguments": {"number": "C-5", "session": "45-1"}}


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    """The address of a chat function that serves its tools."""
    environment = {**chat_environment(stack), "MCP_ENABLED": "true", "ALLOWED_ORIGINS": ORIGIN}
    with served("functions.chat.handler:create", environment) as origin:
        yield f"{origin}/mcp"


def call(url: str, person: Person, method: str, params: Any = None, **more: Any) -> httpx.Response:
    """The response to a request."""
    message = {"jsonrpc": "2.0", "id": 7, "method": method, **({} if params is None else {"params": params}), **more}
    return httpx.post(url, json=message, headers=person.headers, timeout=20)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_lists_and_calls_the_tools(url: str, person: NewPerson, mode: str) -> None:
    user = person("basic")
    async with (
        httpx2.AsyncClient(headers=user.headers, timeout=20) as http,
        mcp.Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert len(tools) >= 12
        assert tools["get_bill"].input_schema["properties"].keys() >= {"number", "language"}
        found = await client.call_tool("get_bill", {"number": "C-5", "language": "fr"})
        wrong = await client.call_tool("get_bill", {"number": "five"})
    (text,) = found.content
    assert isinstance(text, mcp.types.TextContent)
    answer = json.loads(text.text)
    assert (answer["result"]["bill"], answer["result"]["title"][:15]) == ("C-5", "Loi concernant ")
    assert answer["sources"][0]["url"].endswith("/bills/45-1/C-5/")
    assert (found.is_error, wrong.is_error) == (False, True)


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18", "2025-03-26", "1999-01-01", None])
def test_initialize_offers_a_version_that_both_know(url: str, person: NewPerson, version: str | None) -> None:
    result = call(url, person(), "initialize", {"protocolVersion": version}).json()["result"]
    known = version if version in ("2025-06-18", "2025-03-26") else "2025-11-25"
    assert (result["protocolVersion"], result["capabilities"]) == (known, {"tools": {"listChanged": False}})
    assert "language" in result["instructions"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("{", 400, -32700),
        ("[]", 400, -32600),
        ('[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', 400, -32600),  # no batches since 2025-06-18
        ('{"jsonrpc": "1.0", "id": 1, "method": "ping"}', 400, -32600),
        ('{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', 400, -32600),
        ('{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', 400, -32600),
        ('{"jsonrpc": "2.0", "id": 1, "method": "resources/list"}', 200, -32601),
        ('{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}', 200, -32602),
        ('{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "drop_tables"}}', 200, -32602),
        ('{"jsonrpc": "2.0", "id": "a", "method": "ping"}', 200, None),
        ('{"jsonrpc": "2.0", "method": "notifications/initialized"}', 202, None),
        ('{"jsonrpc": "2.0", "id": 1, "result": {}}', 202, None),
    ],
)
def test_each_message_gets_its_answer(url: str, person: NewPerson, body: str, status: int, code: int | None) -> None:
    response = httpx.post(url, content=body, headers=person().headers)
    assert response.status_code == status
    if status == 202:
        assert response.content == b""
    else:
        assert response.json().get("error", {}).get("code") == code


def test_an_unknown_version_is_refused_with_the_known_ones(url: str, person: NewPerson) -> None:
    headers = {**person().headers, "mcp-protocol-version": "2031-01-01"}
    response = httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32022)
    assert "2025-11-25" in response.json()["error"]["data"]["supported"]


def test_only_posts_of_signed_in_users_on_our_pages_are_answered(url: str, person: NewPerson) -> None:
    ping, user = {"jsonrpc": "2.0", "id": 1, "method": "ping"}, person()
    assert httpx.post(url, json=ping).status_code == 401
    assert [httpx.request(method, url, headers=user.headers).status_code for method in ("GET", "DELETE")] == [405, 405]
    for origin, status in ((ORIGIN, 200), ("https://elsewhere.test", 403), ("null", 403)):
        assert httpx.post(url, json=ping, headers={**user.headers, "origin": origin}).status_code == status


def test_the_tools_are_not_served_unless_switched_on(api: Api, person: NewPerson) -> None:
    response = call(f"{api.http.base_url}/mcp", person("pro"), "tools/call", BILL)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_a_user_whom_admission_refuses_may_call_no_tool(
    url: str, person: NewPerson, stack_db: psycopg.Connection[dict[str, Any]]
) -> None:
    suspended, banned, unconfirmed = person("pro", status="suspended"), person("pro"), person("free")
    stack_db.execute("update auth.users set banned_until = 'infinity' where id = %s", (banned.id,))
    stack_db.execute("update auth.users set email_confirmed_at = null where id = %s", (unconfirmed.id,))
    for user, status, code in (
        (suspended, 402, "payment_required"),
        (banned, 403, "account_blocked"),
        (unconfirmed, 403, "email_not_confirmed"),
    ):
        response = call(url, user, "tools/call", BILL)
        assert (response.status_code, response.json()["error"]["data"]["code"]) == (status, code)


def test_calls_are_limited_per_minute_and_cost_no_query(
    url: str, api: Api, person: NewPerson, stack_db: psycopg.Connection[dict[str, Any]]
) -> None:
    user = person("free")
    assert call(url, user, "tools/call", BILL).json()["result"]["isError"] is False
    stack_db.execute(
        "update public.user_subscriptions set tool_calls = %s, tool_minute = date_trunc('minute', now() + %s)"
        " where user_id = %s",
        (limits.TOOL_CALLS_A_MINUTE, timedelta(), user.id),
    )
    refused = call(url, user, "tools/call", BILL)
    while refused.status_code == 200:  # the minute has ended meanwhile
        refused = call(url, user, "tools/call", BILL)
    assert (refused.status_code, refused.json()["error"]["data"]["reason"]) == (429, "Too many tool calls")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert call(url, user, "tools/list").status_code == 200
    assert api.usage(user)["included"]["used"] == 0
