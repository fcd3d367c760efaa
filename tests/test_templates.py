"""The templates of CONVENTIONS.md: each runs, and the SQL follows the rules that tests/sql checks."""

import inspect
import re
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from functions.chat.tools.tool import Tool
from functions.common.auth import User, current_user
from functions.common.observe import Observer
from functions.common.web import create_app
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.conftest import Connect, new_user
from tests.sources import parliament_at
from tests.sql import test_catalogue
from tests.sql.metering import Db, value

PAGE = (ROOT / "CONVENTIONS.md").read_text(encoding="utf-8")


def template(heading: str, number: int = 0) -> str:
    """A fenced block of a section of the page."""
    text = PAGE.split(f"\n### {heading}\n", 1)[1]
    block: str = re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]
    return block


def module_of(heading: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A template, imported as a module."""
    module = ModuleType(heading.replace(" ", "_"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(template(heading), heading, "exec"), module.__dict__)  # noqa: S102 -- our own page
    return module


SQL = ["A new table", "A new SQL function", "A new job"]


@pytest.fixture
def with_templates(db: Db) -> Db:
    """A database where each SQL template ran twice."""
    for _ in range(2):
        for heading in SQL:
            db.execute(template(heading).encode())
    return db


RULES = [
    rule
    for name, rule in inspect.getmembers(test_catalogue, inspect.isfunction)
    if name.startswith("test_")
    and list(inspect.signature(rule).parameters) == ["db"]
    # The list of all functions cannot contain those of a template.
    and "FUNCTIONS" not in inspect.getsource(rule)
]


def test_sql_templates_follow_the_rules_of_the_catalogue(with_templates: Db) -> None:
    assert len(RULES) > 5
    for rule in RULES:
        rule(with_templates)


def new_message(db: Db, user: str) -> str:
    """A message in a conversation of a user. Returns its id."""
    conversation = value(
        db, "insert into public.conversations (user_id, expires_at) values (%s, now()) returning id", user
    )
    insert = (
        "insert into public.messages (conversation_id, position, role, content) values (%s, 1, 'user', 'Hello')"
        " returning id"
    )
    return str(value(db, insert, conversation))


def test_function_template_writes_once_and_refuses_strangers(with_templates: Db, connect: Connect) -> None:
    db = with_templates
    user, stranger = new_user(db, "basic"), new_user(db, "basic")
    message = new_message(db, user)
    service = connect("service_role")
    call = "select public.add_bookmark(%s, %s, %s)"

    first = value(service, call, user, message, "one")
    assert value(service, call, user, message, "two") == first
    assert value(connect("authenticated", user), "select note from public.bookmarks") == "two"
    assert value(connect("authenticated", stranger), "select count(*) from public.bookmarks") == 0
    with pytest.raises(psycopg.Error) as caught:
        service.execute(call, (stranger, message, None))
    assert caught.value.sqlstate == "NTFND"


def test_job_template_deletes_in_batches(with_templates: Db, connect: Connect) -> None:
    db = with_templates
    user = new_user(db, "basic")
    db.execute(
        "insert into public.bookmarks (user_id, message_id, created_at) values (%s, %s, now() - interval '2 years')",
        (user, new_message(db, user)),
    )
    service = connect("service_role")
    assert [value(service, "select public.purge_bookmarks()") for _ in range(2)] == [1, 0]


@pytest.mark.parametrize(
    ("number", "path"),
    [(1, "functions/maintenance/handler.py"), (2, "infra/resources/schedules.yml")],
    ids=["handler", "schedule"],
)
def test_job_entries_have_the_form_of_existing_ones(number: int, path: str) -> None:
    entry = template("A new job", number)
    for new, existing in (("purge_bookmarks", "purge_events"), ("purge-bookmarks", "purge-events")):
        entry = entry.replace(new, existing)
    entry = entry.replace("PurgeBookmarks", "PurgeEvents").replace("bookmarks", "events")
    assert entry in (ROOT / path).read_text(encoding="utf-8")


class FakeDatabase:
    """Records calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def call(self, function: str, params: dict[str, Any]) -> str:
        self.calls.append((function, params))
        return "bookmark-1"


async def test_route_template_answers_and_checks_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of("A new route", monkeypatch)
    database, user = FakeDatabase(), User(str(uuid.uuid4()), "token")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = create_app(Observer("test"), lifespan)
    app.state.bookmarks = module.Bookmarks(database)
    app.dependency_overrides[current_user] = lambda: user
    (registration,) = re.findall(r"`(app\.add_api_route\([^`]+\))`", PAGE)
    eval(registration, {"app": app, **module.__dict__})  # noqa: S307 -- our own page

    message = str(uuid.uuid4())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        stored = await client.put(f"/bookmarks/{message}", json={"note": "read again"})
        long = await client.put(f"/bookmarks/{message}", json={"note": "x" * 501})
    assert (stored.status_code, stored.json()) == (200, {"id": "bookmark-1"})
    assert database.calls == [("add_bookmark", {"p_user_id": user.id, "p_message_id": message, "p_note": "read again"})]
    assert (long.status_code, long.json()["error"]["code"]) == (422, "invalid_request")


async def test_tool_template_returns_items_with_sources(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = module_of("A new tool", monkeypatch).TOOL
    assert isinstance(tool, Tool)
    parliament = parliament_at(stack.info["parliament_url"])
    try:
        result = await tool.run(tool.arguments(province="ON", limit=2), parliament, "fr")
    finally:
        await parliament.close()
    assert len(result.data["items"]) == len(result.sources) == 2
    assert all(item["riding"] and item["mp"] for item in result.data["items"])
