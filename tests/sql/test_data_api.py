"""The Data API against requests that are meant to be expensive. Its URLs are SQL that anyone may write."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from infra.local.stack import Stack
from tests.conftest import Person
from tests.sql.metering import Db, admit, settle, turn, value

# A regular expression with back references takes exponential time on a text that does not match.
TEXT = "a" * 3000 + "b"
ENDLESS = r"^(.+)(.+)(.+)\3\2\1$"


@pytest.fixture
def api(stack: Stack) -> Iterator[Callable[..., httpx.Response]]:
    """Sends a request to the Data API: with a user's token, or as a visitor."""
    with httpx.Client(base_url=f"{stack.info['supabase_url']}/rest/v1", trust_env=False, timeout=30) as client:

        def send(method: str, path: str, user: Person | None = None, **more: Any) -> httpx.Response:
            headers = {"apikey": stack.info["publishable_key"]} | (user.headers if user else {})
            return client.request(method, path, headers=headers, **more)

        yield send


@pytest.fixture
def chat(stack_db: Db, me: Person) -> str:
    """A conversation of the user with a long answer."""
    chat_id = str(uuid.uuid4())
    answer = {"id": str(uuid.uuid4()), "content": TEXT}
    settle(stack_db, admit(stack_db, me.id)["hold_id"], turn=turn(chat_id, "q1", answer=answer))
    return chat_id


@pytest.fixture
def me(person: Callable[..., Person]) -> Person:
    """A user whose plan stores history."""
    return person("pro")


@pytest.mark.parametrize(
    ("path", "filters"),
    [
        ("/messages", {"content": f"match.{ENDLESS}"}),
        ("/messages", {"content": f"imatch.{ENDLESS}"}),
        ("/messages", {"content": f"not.match.{ENDLESS}"}),
        ("/messages", {"content": f"match(any).{{{ENDLESS}}}"}),
        ("/messages", {"or": f'(content.imatch."{ENDLESS}",role.eq.user)'.replace("\\", "\\\\")}),
        ("/messages", {"function_calls->>0": f"match.{ENDLESS}"}),
        ("/conversations", {"select": "id,messages!inner(id)", "messages.content": f"match.{ENDLESS}"}),
        ("/plans", {"name": f"match.{ENDLESS}"}),
        ("/user_subscriptions", {"tier": f"match.{ENDLESS}"}),
        ("/daily_quota_usage", {"tier": f"match.{ENDLESS}"}),
        ("/rpc/explain_query", {"p_request_id": "q1", "reason": f"match.{ENDLESS}"}),
    ],
)
def test_a_regular_expression_is_refused(
    api: Callable[..., httpx.Response], me: Person, chat: str, path: str, filters: dict[str, str]
) -> None:
    assert chat
    refused = api("GET", path, me, params={"select": "*", **filters})
    assert (refused.status_code, refused.json()["message"]) == (403, "The Data API takes no regular expressions.")


@pytest.mark.parametrize(
    "path",
    [
        "/messages?select=content,conversations(messages(content))",
        "/messages?select=content,conversations(messages(content,conversations(messages(content))))",
        "/usage_logs?select=*,conversations(id,messages(id))",
        "/conversations?select=a:messages(content),b:messages(content)",
        "/conversations?select=id,messages!inner(id,conversations!inner(id))",
    ],
)
def test_a_second_embedded_table_is_refused(
    api: Callable[..., httpx.Response], me: Person, chat: str, path: str
) -> None:
    """Rows multiply: each message would bring all messages of its conversation, and so on."""
    assert chat
    refused = api("GET", path, me)
    assert (refused.status_code, refused.json()["message"]) == (403, "The Data API embeds one table at most.")


def test_one_embedded_table_is_allowed(api: Callable[..., httpx.Response], me: Person, chat: str) -> None:
    (conversation,) = api("GET", f"/conversations?select=id,messages(role)&id=eq.{chat}", me).json()
    assert [message["role"] for message in conversation["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_signed_in_users_call_the_functions_for_them(
    api: Callable[..., httpx.Response], me: Person, person: Callable[..., Person], method: str
) -> None:
    """PostgREST reads their arguments with lateral joins, which embed nothing."""

    def call(function: str, **params: str) -> httpx.Response:
        sent = {"params": params} if method == "GET" else {"json": params}
        return api(method, f"/rpc/{function}", me, **sent)

    (state,) = call("can_user_query", p_user_id=me.id).json()
    assert (state["can_query"], state["reason"]) == (True, "Within daily quota")
    assert call("explain_query", p_request_id="none").json() == []
    assert call("can_user_query", p_user_id=person("pro").id).status_code == 403


def test_other_filters_are_allowed(api: Callable[..., httpx.Response], me: Person, chat: str) -> None:
    filters = {"select": "id", "conversation_id": f"eq.{chat}", "content": "ilike.*aab"}
    assert len(api("GET", "/messages", me, params=filters).json()) == 1


def test_a_long_statement_is_cancelled(stack_db: Db, api: Callable[..., httpx.Response], me: Person) -> None:
    """After a second."""
    stack_db.execute("create function public.sleep() returns void language sql as 'select pg_sleep(60)'")
    stack_db.execute("grant execute on function public.sleep() to authenticated")
    try:
        # PostgREST reloads its schema cache.
        while (cancelled := api("POST", "/rpc/sleep", me, json={})).status_code == 404:
            pass
    finally:
        stack_db.execute("drop function public.sleep()")
    assert (cancelled.status_code, cancelled.json()["code"]) == (500, "57014")


def test_timeouts_are_those_of_the_roles(stack_db: Db) -> None:
    """The service role has none of its own: that of the login applies."""
    found = stack_db.execute(
        "select rolname, rolconfig from pg_roles where rolname in ('anon', 'authenticated', 'service_role') order by 1"
    ).fetchall()
    assert [(row["rolname"], row["rolconfig"]) for row in found] == [
        ("anon", ["statement_timeout=1s"]),
        ("authenticated", ["statement_timeout=1s"]),
        ("service_role", None),
    ]


@pytest.mark.parametrize("relation", ["plans", "packs", "messages", "conversations", "usage_logs", "rpc/list_plans"])
def test_a_visitor_runs_no_statement(api: Callable[..., httpx.Response], relation: str) -> None:
    refused = api("GET", f"/{relation}", params={"name": f"match.{ENDLESS}"} if relation == "plans" else {})
    assert (refused.status_code, refused.json()["code"]) == (401, "42501")


def test_a_table_takes_no_patch(stack_db: Db, api: Callable[..., httpx.Response], me: Person, chat: str) -> None:
    """Its embedded messages would be filtered while the conversation is locked."""
    query = {"id": f"eq.{chat}", "select": "id,messages!inner(id)", "messages.content": f"match.{ENDLESS}"}
    patched = api("PATCH", "/conversations", me, params=query, json={"title": "Locked"})
    deleted = api("DELETE", "/conversations", me, params=query)
    assert [(answer.status_code, answer.json()["code"]) for answer in (patched, deleted)] == [(403, "42501")] * 2
    assert value(stack_db, "select title from public.conversations where id = %s", chat) == "A title"


def test_the_functions_take_no_filter(stack_db: Db, api: Callable[..., httpx.Response], me: Person, chat: str) -> None:
    """They return nothing, so a request cannot select, embed or filter while the conversation is locked."""
    query = {"select": "id,messages(id)", "id": f"match.{ENDLESS}"}
    body = {"p_id": chat, "p_title": "Renamed"}
    assert api("POST", "/rpc/update_conversation", me, params=query, json=body).is_error
    assert value(stack_db, "select title from public.conversations where id = %s", chat) == "A title"
    assert api("POST", "/rpc/update_conversation", me, json=body).status_code == 204
    assert value(stack_db, "select title from public.conversations where id = %s", chat) == "Renamed"
    assert api("POST", "/rpc/delete_conversation", me, json={"p_id": chat}).status_code == 204
    assert value(stack_db, "select count(*) from public.conversations where id = %s", chat) == 0
