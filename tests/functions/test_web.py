"""What the HTTP functions share: request ids, the body limit, CORS of the local origin, unexpected failures."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from functions.common.errors import Internal, NotFound
from functions.common.observe import Observer
from functions.common.web import BODY_LIMIT, create_app
from tests.api import Api, question
from tests.conftest import Person
from tests.test_reasons import ENGLISH

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


# The routes that read a JSON body.
BODIES = [
    ("POST", "/chat"), ("PUT", "/keys/anthropic"), ("POST", "/checkout"), ("POST", "/portal"), ("PATCH", "/overage"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize("depth", [255, 1_000, 100_000])
def test_a_deeply_nested_body_is_not_valid(
    api: Api, person: Callable[..., Person], method: str, path: str, depth: int
) -> None:
    user = person("basic")
    for inner in (b'"\\u0000"', b"1"):
        nested = b"[" * depth + inner + b"]" * depth
        for body in (nested, b'{"api_key": "x", "id": %s}' % nested, b'{"messages": %s}' % nested):
            response = api.http.request(method, path, content=body, headers=user.headers)
            # Without a null character, the fields are checked: none of them may be nested.
            accepted = {(400, "invalid_json")} if b"u0000" in body or depth > 1024 else {(422, "invalid_request")}
            assert (response.status_code, response.json()["error"]["code"]) in accepted


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_a_null_character_is_refused_at_any_allowed_depth(
    api: Api, person: Callable[..., Person], method: str, path: str
) -> None:
    body = b'{"x": %s}' % (b"[" * 200 + b'"\\u0000"' + b"]" * 200)
    response = api.http.request(method, path, content=body, headers=person("basic").headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["fields"][0]["field"]) == (422, "invalid_request", "body")


LONG = "x" * 300
# Requests that are refused: method, path, body.
REFUSED: list[tuple[str, str, bytes]] = [
    ("GET", "/checkout", b""),
    ("POST", "/events", b"{}"),
    ("POST", "/webhooks/stripe", b"{}"),
    *((method, path, body) for method, path in BODIES for body in (b"[", b'{"x": 5}', b"[]", b'{"x": "\\u0000"}')),
    ("POST", "/chat", b"[" * 100_000),
    ("POST", "/chat", b" " * (BODY_LIMIT + 1)),
    *(
        ("POST", "/chat", json.dumps({**question("Why?"), **fields}).encode())
        for fields in (
            {"id": LONG}, {"id": ""}, {"id": 5}, {"messages": []}, {"trigger": "x"}, {"provider": "x"}, {"context": 5},
            {"context": {"data": {"x": "y" * 50_000}}}, {"messages": 5}, {"messages": [5]}, {"model": LONG},
            {"messages": [{"id": "1", "role": "assistant", "parts": []}]},
            {"messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "z" * 100_000}]}]},
            {"messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "a"}, {"type": "file"}]}]},
        )
    ),
    ("PUT", "/keys/anthropic", b'{"api_key": "short"}'),
    ("PUT", "/keys/other", b'{"api_key": "short"}'),
    ("POST", "/checkout", b'{"plan": "pro", "pack": "x", "success_url": "x", "cancel_url": "x"}'),
    ("POST", "/checkout", b'{"pack": "x", "success_url": "http://localhost:3000", "cancel_url": "http://evil.test"}'),
    ("PATCH", "/overage", b'{"allow_overages": 5, "overage_limit_usd": -1, "x": 1}'),
    ("PATCH", "/overage", b'{"allow_overages": "maybe", "overage_limit_usd": 1.23456789}'),
    ("PATCH", "/overage", b'{"overage_limit_usd": 100000}'),
    ("PATCH", "/overage", b'{"overage_limit_usd": "x"}'),
    ("GET", "/usage", b""),
]  # fmt: skip


def test_every_refusal_has_a_sentence_in_both_languages(api: Api, person: Callable[..., Person]) -> None:
    user = person("basic")
    for method, path, body in REFUSED:
        errors = {}
        for spoken in ("en", "fr"):
            headers = {"accept-language": f"{spoken}-CA,{spoken};q=0.9", **(user.headers if path != "/usage" else {})}
            response = api.http.request(method, path, content=body, headers=headers)
            assert response.status_code >= 400, (method, path, body[:99])
            errors[spoken] = response.json()["error"]
        english, french = errors["en"], errors["fr"]
        assert english["message"] != french["message"]
        assert (english["code"], english["reason_code"], english["action"]) == (
            french["code"], french["reason_code"], french["action"],
        )  # fmt: skip
        sentences = [french["message"], *(one["message"] for one in french.get("fields", []))]
        assert [ENGLISH.findall(sentence) for sentence in sentences] == [[]] * len(sentences), (method, path, body[:99])
        assert [one["field"] for one in english.get("fields", [])] == [one["field"] for one in french.get("fields", [])]
        assert "n’est pas valide" not in [one["message"] for one in french.get("fields", [])]


def test_the_bodys_language_counts_before_the_header(api: Api, person: Callable[..., Person]) -> None:
    user = person("free", lifetime_used=10)
    for language, header, start in (("fr", "en", "Vous avez"), ("en", "fr", "You have"), (None, "fr", "Vous avez")):
        body = question("Why?", **({"language": language} if language else {}))
        refused = api.http.post("/chat", json=body, headers={**user.headers, "accept-language": header})
        assert refused.json()["error"]["message"].startswith(start)


@pytest.mark.parametrize(
    ("method", "path"), [*BODIES, ("GET", "/usage"), ("GET", "/keys"), ("GET", "/plans"), ("POST", "/chat/x/stop")]
)
def test_a_trailing_slash_changes_nothing(api: Api, person: Callable[..., Person], method: str, path: str) -> None:
    user = person("basic")
    expected, *found = (
        api.http.request(method, f"{path}{slashes}", content=b"{}", headers=user.headers) for slashes in ("", "/", "//")
    )
    assert expected.status_code not in (307, 404, 405)
    for response in found:
        assert response.status_code == expected.status_code
        assert response.json().get("error", {}).get("code") == expected.json().get("error", {}).get("code")


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
            "access-control-request-headers": "authorization,content-type,sentry-trace,baggage,traceparent",
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
    assert (response.status_code, error["code"], error["message"]) == (500, "internal", Internal().sentence("en"))
    assert CANARY not in response.text + capsys.readouterr().out


async def test_an_expected_error_has_details_and_retry_after(failing: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(failing), base_url="http://test") as client:
        response = await client.get("/fail/expected")
        missing = await client.get("/unknown")
    assert (response.status_code, response.headers["retry-after"]) == (404, "3")
    assert response.json() == {
        "error": {
            "code": "not_found",
            "message": NotFound().sentence("en"),
            "reason_code": "not_found",
            "action": "none",
            "request_id": response.headers["x-request-id"],
            "hint": "x",
        }
    }
    assert json.loads(missing.text)["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/fail/expected", "/fail/unexpected", "/unknown"])
async def test_a_request_is_logged_before_its_last_byte(
    failing: FastAPI, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """Lambda freezes the process after it."""
    logged: list[bool] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            logged.append('"message":"request"' in capsys.readouterr().out)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await failing(scope, receive, send)
    assert logged == [True]
    assert '"message":"request"' not in capsys.readouterr().out
