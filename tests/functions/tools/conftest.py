from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from functions.chat.sources import Parliament
from functions.chat.tools import Tools
from infra.local.parliament import create_app
from infra.local.stack import Stack
from tests.functions.tools.kit import CONTACT, Runner, ScriptedServer
from tests.servers import serve, serve_http
from tests.sources import database_of, parliament_at


@pytest.fixture(scope="package")
def origin() -> Iterator[str]:
    """The URL of the stand-in."""
    with serve(create_app(delay=0.005)) as url:
        yield url


@pytest.fixture(scope="package")
async def http(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin) as client:
        yield client


@pytest.fixture
async def runner(origin: str, http: httpx.AsyncClient, stack: Stack) -> AsyncIterator[Runner]:
    """Tools with an empty cache. Fails after the test if a tool raised an unexpected exception."""
    failures: list[tuple[str, BaseException]] = []
    database = database_of(stack)
    parliament = parliament_at(origin, CONTACT, database)
    tools = Tools(parliament, lambda name, error: failures.append((name, error)))
    await http.delete("/_requests")
    yield Runner(origin, tools, parliament, http)
    await http.delete("/_fail")
    await tools.close()
    await database.close()
    assert failures == []


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    with serve_http(server.http):
        yield server


@pytest.fixture
async def parliament(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parliament]:
    """A client of the scripted server that retries without a pause."""
    monkeypatch.setattr("functions.chat.sources.http.RETRY_PAUSE_S", 0.01)
    parliament = parliament_at(f"{server.url}/", CONTACT)
    yield parliament
    await parliament.close()


@pytest.fixture
def tools(parliament: Parliament) -> Tools:
    """Tools against the scripted server. An unexpected exception fails the test."""

    def fail(name: str, error: BaseException) -> None:
        raise error

    return Tools(parliament, fail)
