"""Both real SDKs as clients of the model stand-in, over both of their HTTP transports."""

from collections.abc import AsyncIterator, Iterator

import anthropic
import httpx2
import openai
import pytest

from infra.local.model import create_app
from tests.servers import serve


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The stand-in on a real server, because a closed connection looks different without sockets."""
    with serve(create_app(delay=0)) as url:
        yield url


@pytest.fixture(scope="module", params=["httpx2", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def claude(origin: str, transport: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    http = anthropic.DefaultAsyncHttpxClient() if transport == "httpx2" else anthropic.DefaultAioHttpClient()
    async with anthropic.AsyncAnthropic(
        api_key="sk-ant-fine-1234", base_url=origin, http_client=http, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="module")
async def gpt(origin: str, transport: str) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient() if transport == "httpx2" else openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(
        api_key="sk-fine-5678", base_url=f"{origin}/v1", http_client=http, max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def plain(origin: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=origin) as client:
        await client.delete("/_requests")
        yield client
