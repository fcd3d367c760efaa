"""The smoke test, against the running stack and against services that are wrong."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.deploy import smoke
from infra.deploy.smoke import Targets
from infra.deploy.stage import WITH_URL, DeployError
from infra.local.stack import Stack
from tests.api import lambda_deadline
from tests.conftest import Person
from tests.servers import serve


@pytest.fixture(scope="module")
def targets(stack: Stack, person: Callable[..., Person]) -> Targets:
    environ = {
        "SMOKE_TOKEN": person("pro").token,
        "STRIPE_WEBHOOK_SECRET": stack.info["stripe_webhook_secret"],
        "ALLOWED_ORIGINS": "http://localhost:3000",
    }
    return Targets.at(stack.info["functions_url"], environ)


def test_the_local_stack_passes(targets: Targets, capsys: pytest.CaptureFixture[str]) -> None:
    smoke.run(targets)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 7 + ["skip", "note", "ok"]


def test_lambdas_deadline_must_arrive_on_lambda(targets: Targets) -> None:
    with httpx.Client(headers={}) as http, pytest.raises(DeployError, match="x-amzn-lambda-context does not arrive"):
        smoke._deadline(http, replace(targets, on_lambda=True))
    with httpx.Client(headers=lambda_deadline(180)) as http:
        assert smoke._deadline(http, replace(targets, on_lambda=True)) is None


@pytest.fixture
def wrong(targets: Targets) -> Iterator[Callable[[Response], Targets]]:
    """Targets that answer every request with one response."""
    answers: list[Response] = []

    async def answer(request: Request) -> Response:
        return answers[0]

    with serve(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])) as url:

        def make(response: Response) -> Targets:
            answers[:] = [response]
            return replace(targets, urls=dict.fromkeys(WITH_URL, url))

        yield make


def stream(*events: dict[str, object]) -> str:
    return "".join(f"data: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events) + "data: [DONE]\n\n"


METADATA: dict[str, object] = {"model": "m", "funding": "included", "charged_usd": 0}
TEXT: dict[str, object] = {"type": "text-delta", "delta": "A bill."}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (stream(TEXT, TEXT, {"type": "finish", "messageMetadata": METADATA}), "everything came at once"),
        (stream({"type": "finish", "messageMetadata": METADATA}), "the answer has no text"),
        (stream(TEXT), "the stream has no end"),
        ('data: {"type": "start"}\n\n', "the stream has no end"),
        ('data: {"type": "error", "errorText": "The model is gone."}\n\n', "The model is gone"),
    ],
)
def test_an_answer_that_fails_is_named(wrong: Callable[[Response], Targets], body: str, sentence: str) -> None:
    with httpx.Client() as http, pytest.raises(DeployError, match=sentence):
        smoke._answered_chat(http, wrong(Response(body)))


def test_an_answer_that_is_not_charged_fails(
    wrong: Callable[[Response], Targets], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat marks an answer that the database could not settle."""
    monkeypatch.setattr(smoke, "STREAMS_AT_LEAST", 0)
    lost = {**METADATA, "charged_usd": None, "outcome": "lost"}
    with httpx.Client() as http, pytest.raises(DeployError, match="it is not charged"):
        smoke._answered_chat(http, wrong(Response(stream(TEXT, {"type": "finish", "messageMetadata": lost}))))


def test_an_event_must_reach_the_database(wrong: Callable[[Response], Targets]) -> None:
    with httpx.Client() as http, pytest.raises(DeployError, match="its outcome is `ignored`"):
        smoke._accepted_event(http, wrong(Response('{"outcome":"ignored"}')))


def test_another_site_at_a_functions_url_fails(wrong: Callable[[Response], Targets]) -> None:
    with httpx.Client() as http, pytest.raises(DeployError, match="chat: something else answers"):
        smoke._health(http, wrong(Response("<p>Welcome", media_type="text/html")))


def test_an_origin_that_browsers_never_send_fails(targets: Targets) -> None:
    with httpx.Client() as http, pytest.raises(DeployError, match=r"chat refuses https://app\.example/"):
        smoke._preflights(http, replace(targets, origins=("https://app.example/",)))


def test_an_answer_of_another_form_is_a_finding(
    wrong: Callable[[Response], Targets], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeployError, match="9 of 9 checks failed"):
        smoke.run(wrong(Response("[]")))
    assert "FAIL  the plans are read from the database: TypeError" in capsys.readouterr().out


def test_an_open_webhook_fails(wrong: Callable[[Response], Targets]) -> None:
    with httpx.Client() as http, pytest.raises(DeployError, match="status 200 instead of 400"):
        smoke._refused_event(http, wrong(Response("{}")))


@pytest.fixture
def smoke_user(stack: Stack) -> dict[str, str]:
    """A user's password, and where the user signs in."""
    user = stack.info["users"]["pro"]
    return {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "SMOKE_EMAIL": user["email"],
        "SMOKE_PASSWORD": user["password"],
        "SMOKE_TOKEN": "old",
    }


def test_a_smoke_user_signs_in_with_the_password(stack: Stack, smoke_user: dict[str, str]) -> None:
    targets = Targets.at(stack.info["functions_url"], smoke_user)
    with httpx.Client() as http:
        assert smoke._empty_response(http, targets) is None


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"SMOKE_PASSWORD": "wrong"}, r"refuses SMOKE_EMAIL \(status 400\)"),
        ({"SUPABASE_URL": "http://127.0.0.1:9"}, r"cannot sign SMOKE_EMAIL in \(ConnectError\)"),
        ({"SUPABASE_URL": ""}, "needs SUPABASE_URL"),
    ],
)
def test_a_smoke_user_who_cannot_sign_in_is_a_sentence(
    smoke_user: dict[str, str], changed: dict[str, str], sentence: str
) -> None:
    with pytest.raises(DeployError, match=sentence):
        smoke.sign_in({**smoke_user, **changed})


def test_a_smoke_user_signs_in_with_the_service_key() -> None:
    """Auth asks those who have it for no CAPTCHA."""

    async def token(request: Request) -> Response:
        names = ("apikey", "authorization")
        return Response(json.dumps({"access_token": " ".join(request.headers.get(name, "-") for name in names)}))

    with serve(Starlette(routes=[Route("/auth/v1/token", token, methods=["POST"])])) as url:
        environ = {"SUPABASE_URL": url, "SUPABASE_ANON_KEY": "anon", "SMOKE_EMAIL": "a@b.ca", "SMOKE_PASSWORD": "p"}
        assert smoke.sign_in({**environ, "SUPABASE_SERVICE_ROLE_KEY": "legacy"}) == "legacy Bearer legacy"
        assert smoke.sign_in({**environ, "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_1"}) == "sb_secret_1 -"
