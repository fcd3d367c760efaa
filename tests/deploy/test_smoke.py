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
    environ = {"SMOKE_TOKEN": person("pro").token, "STRIPE_WEBHOOK_SECRET": stack.info["stripe_webhook_secret"]}
    return Targets.at(stack.info["functions_url"], environ)


def test_the_local_stack_passes(targets: Targets, capsys: pytest.CaptureFixture[str]) -> None:
    smoke.run(targets)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 6 + ["skip", "note", "ok"]


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


def test_a_buffered_answer_fails(wrong: Callable[[Response], Targets]) -> None:
    finish = {"type": "finish", "messageMetadata": {"model": "m", "funding": "included"}}
    body = f"data: {json.dumps({'type': 'start'})}\n\ndata: {json.dumps(finish)}\n\ndata: [DONE]\n\n"
    with httpx.Client() as http, pytest.raises(DeployError, match="everything came at once"):
        smoke._answered_chat(http, wrong(Response(body)))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('data: {"type": "start"}\n\n', "the stream has no end"),
        ('data: {"type": "error", "errorText": "The model is gone."}\n\n', "The model is gone"),
    ],
)
def test_an_answer_that_fails_is_named(wrong: Callable[[Response], Targets], body: str, sentence: str) -> None:
    with httpx.Client() as http, pytest.raises(DeployError, match=sentence):
        smoke._answered_chat(http, wrong(Response(body)))


def test_an_open_webhook_fails(wrong: Callable[[Response], Targets]) -> None:
    with httpx.Client() as http, pytest.raises(DeployError, match="status 200 instead of 400"):
        smoke._refused_event(http, wrong(Response("{}")))
