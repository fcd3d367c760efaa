"""`python -m functions`: all functions on one origin, in one process, without AWS."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from functions import server
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.api import Api, StateOf, UserState, question
from tests.conftest import Person
from tests.functions.server_kit import ORIGIN, RunningServer, running_server

NewPerson = Callable[..., Person]


@pytest.fixture(scope="module")
def running(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(stack, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("POST", "/chat", 401),
        ("GET", "/keys", 401),
        ("GET", "/plans", 200),
        ("GET", "/usage/", 401),
        ("GET", "/openapi.json", 200),
        ("POST", "/webhooks/stripe", 400),
        ("GET", "/nothing", 404),
    ],
)
def test_every_function_is_on_one_origin(running: RunningServer, method: str, path: str, status: int) -> None:
    response = httpx.request(method, running.url + path)
    assert response.status_code == status
    assert len(response.headers.get_list("x-request-id")) == 1
    if status >= 400:
        assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


def test_the_app_sends_each_cors_header_once(running: RunningServer) -> None:
    preflight = httpx.options(
        f"{running.url}/chat",
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ORIGIN)
    answer = httpx.post(f"{running.url}/chat", headers={"origin": ORIGIN})
    assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]
    assert set(answer.headers["access-control-expose-headers"].split(", ")) == set(server.EXPOSED_HEADERS)
    stranger = httpx.post(f"{running.url}/chat", headers={"origin": "https://other.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_cors_is_the_same_as_on_aws() -> None:
    template = (ROOT / "serverless.yml").read_text()
    for name, values in (("AllowHeaders", server.ALLOWED_HEADERS), ("ExposeHeaders", server.EXPOSED_HEADERS)):
        (listed,) = re.findall(rf"{name}:((?: \[.*\]|(?:\n +- .*)+))", template)
        assert set(re.findall(r"[\w-]{2,}", listed)) == set(values), name


def test_a_request_is_logged_by_the_allow_list(running: RunningServer) -> None:
    httpx.get(f"{running.url}/usage?token=secret-word", headers={"authorization": "Bearer secret-word"})
    lines = [json.loads(line) for line in running.log().splitlines() if '"/usage"' in line]
    assert lines[-1]["route"] == "/usage"
    assert (lines[-1]["status"], lines[-1]["service"]) == (401, "account")
    assert "secret-word" not in running.log()


def test_a_shutdown_ends_answers_as_a_deadline_does(
    stack: Stack,
    person: NewPerson,
    state_of: StateOf,
    tmp_path_factory: pytest.TempPathFactory,
    eventually: Callable[..., None],
) -> None:
    """What reached a user is an answer with a last sentence; an answer without a text is an error and not charged."""
    talking, silent = person("basic"), person("basic")
    with (
        running_server(stack, tmp_path_factory.mktemp("server"), SHUTDOWN_S="10") as running,
        httpx.Client(base_url=running.url, timeout=30) as http,
        ThreadPoolExecutor() as pool,
    ):
        api = Api(http, stack.info["model_url"])
        cut = pool.submit(api.stream, talking, question("Hm [fault:stall 60]"))
        refused = pool.submit(api.stream, silent, question("Hm [fault:stall-before 60]"))
        eventually(lambda: len(api.provider_requests("Hm [fault:stall")) >= 2)
        running.process.send_signal(signal.SIGTERM)
        streamed = cut.result()
        assert refused.result().status == 504
        assert running.process.wait(30) in {0, -signal.SIGTERM}
    assert (streamed.parts[-1]["finishReason"], streamed.done) == ("length", True)
    assert streamed.parts[-1]["messageMetadata"]["persisted"] is True
    assert (state_of(talking).outcomes, state_of(talking).holds) == (["answered"], 0)
    assert state_of(silent) == UserState(["failed"], 0, [], 0, 0, "0.000000")


def test_a_missing_setting_is_named(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    started = running_server(stack, tmp_path_factory.mktemp("server"), ALLOWED_ORIGINS="")
    with pytest.raises(RuntimeError, match="ALLOWED_ORIGINS is missing"), started:
        pass


def test_the_image_has_every_function_and_its_requirements() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    functions = {path.parent.name for path in (ROOT / "functions").glob("*/handler.py")}
    assert set(re.findall(r"-r requirements/(\w+)\.txt", dockerfile)) == {*functions, "package"}
    for source in re.findall(r"^COPY (\S+)", dockerfile, re.MULTILINE):
        assert (ROOT / source).exists()
    assert 'CMD ["python", "-m", "functions"]' in dockerfile
