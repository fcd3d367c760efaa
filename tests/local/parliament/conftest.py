from collections.abc import AsyncIterator

import httpx
import pytest

from tests.local.parliament.kit import new_client


@pytest.fixture(scope="package")
async def shared_client() -> AsyncIterator[httpx.AsyncClient]:
    async with new_client(0) as client:
        yield client


@pytest.fixture
async def client(shared_client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of the stand-in, with an empty request log and without faults."""
    await shared_client.delete("/_requests")
    await shared_client.delete("/_fail")
    return shared_client
