"""What the HTTP functions share: request ids, the body limit, CORS of the local origin, unexpected failures."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from functions.common.errors import AppError, Internal, NotFound
from functions.common.observe import Observer
from functions.common.web import BODY_LIMIT, create_app
from tests.api import Api
from tests.conftest import Person

CANARY = "sk-canary"


def test_every_response_has_its_own_request_id(api: Api) -> None:
    ids = {api.http.get("/health", headers={"x-request-id": "mine"}).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert "mine" not in ids


def test_a_chunked_body_over_the_limit_is_refused(api: Api, person: Callable[..., Person]) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        yield b'{"id": "'
        for _ in range(size // 1024):
            yield b"x" * 1024
        yield b'"}'

    user = person("basic")
    assert api.http.post("/chat", content=chunks(BODY_LIMIT // 2), headers=user.headers).status_code == 422
    refused = api.http.post("/chat", content=chunks(BODY_LIMIT), headers=user.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("http://localhost:3000", True), ("http://127.0.0.1:5173", True), ("https://evil.example", False)],
)
def test_only_browser_origins_on_this_machine_are_allowed(api: Api, origin: str, allowed: bool) -> None:
    preflight = api.http.options(
        "/chat",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )
    assert (preflight.headers.get("access-control-allow-origin") == origin) is allowed
    assert (preflight.status_code == 200) is allowed
    answer = api.http.get("/health", headers={"origin": origin})
    assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.fixture
def failing() -> FastAPI:
    """An app whose routes fail."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = create_app(Observer("failing-app"), lifespan)

    async def fail(kind: str) -> None:
        errors: dict[str, Exception] = {
            "unexpected": RuntimeError(CANARY),
            "internal": Internal(CANARY),
            "expected": NotFound(retry_after=3, hint="x"),
        }
        raise errors[kind]

    app.add_api_route("/fail/{kind}", fail)
    return app


@pytest.mark.parametrize("kind", ["unexpected", "internal"])
async def test_an_unexpected_error_reveals_nothing(
    failing: FastAPI, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(failing), base_url="http://test") as client:
        response = await client.get(f"/fail/{kind}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["message"]) == (500, "internal", AppError.message)
    assert CANARY not in response.text + capsys.readouterr().out


async def test_an_expected_error_has_details_and_retry_after(failing: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(failing), base_url="http://test") as client:
        response = await client.get("/fail/expected")
        missing = await client.get("/unknown")
    assert (response.status_code, response.headers["retry-after"]) == (404, "3")
    assert response.json() == {
        "error": {
            "code": "not_found",
            "message": NotFound.message,
            "request_id": response.headers["x-request-id"],
            "hint": "x",
        }
    }
    assert json.loads(missing.text)["error"]["code"] == "not_found"
