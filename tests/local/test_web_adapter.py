"""The stand-in for Lambda with its Web Adapter, with a small app in place of the chat."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from infra.local import web_adapter
from infra.local.web_adapter import TIMEOUT_HEADER, WebAdapter
from tests.package.kit import unpack_stub

APP = """
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
    path = scope["path"]
    start = {"type": "http.response.start", "status": 418 if path == "/teapot" else 200, "headers": [(b"x-mine", b"1")]}
    if path == "/health":
        await send({**start, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send(start)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    answer = {"headers": headers, "body": body.decode(), "query": scope["query_string"].decode(), "pid": os.getpid()}
    await send({"type": "http.response.body", "body": json.dumps(answer).encode(), "more_body": True})
    for _ in range({"/slow": 30, "/endless": 10**6}.get(path, 0)):
        await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
    print("ended", path)
    await send({"type": "http.response.body", "body": b"", "more_body": False})

def create():
    return app
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """The function's folder, with the small app."""
    return unpack_stub(tmp_path / "root", APP)


@pytest.fixture
def adapter(tmp_path: Path, artifact: Path) -> Iterator[WebAdapter]:
    """The stand-in with the small app."""
    with web_adapter.running(tmp_path / "logs", {}, artifact) as adapter:
        yield adapter


def output(adapter: WebAdapter) -> str:
    """What the processes have printed."""
    return "".join(environment.child.log.read_text() for environment in adapter.environments)


def test_a_request_gets_lambdas_context(adapter: WebAdapter) -> None:
    sent = {"x-amzn-lambda-context": "mine", "x-amzn-request-context": "mine", "x-other": "1"}
    before = time.time()
    response = httpx.post(f"{adapter.url}/path?a=1&b=2", content=b"question", headers=sent)
    assert (response.status_code, response.headers.get("x-mine")) == (200, "1"), response.text
    answer = response.json()
    assert (answer["body"], answer["query"], answer["headers"]["x-other"]) == ("question", "a=1&b=2", "1")
    deadline = json.loads(answer["headers"]["x-amzn-lambda-context"])["deadline"] / 1000
    assert before < deadline - web_adapter.TIMEOUT_S < time.time()
    assert json.loads(answer["headers"]["x-amzn-request-context"])["http"]["path"] == "/path"
    assert httpx.get(f"{adapter.url}/teapot").status_code == 418


def is_frozen(adapter: WebAdapter) -> bool:
    """Whether the only process is stopped."""
    (environment,) = adapter.environments
    pid = str(environment.child.process.pid)
    state = subprocess.run(["ps", "-o", "state=", "-p", pid], capture_output=True, text=True, check=True).stdout
    return state.startswith("T")


def test_a_process_is_frozen_between_requests(adapter: WebAdapter) -> None:
    first = httpx.get(adapter.url).json()["pid"]
    assert is_frozen(adapter)
    with httpx.stream("GET", f"{adapter.url}/slow") as response:
        assert not is_frozen(adapter)
        assert json.loads(response.read())["pid"] == first
    assert is_frozen(adapter)


def test_provisioned_processes_are_frozen(tmp_path: Path, artifact: Path) -> None:
    with web_adapter.running(tmp_path / "logs", {}, artifact, provisioned=1) as adapter:
        assert is_frozen(adapter)
        assert httpx.get(adapter.url).json()["pid"] == adapter.environments[0].child.process.pid


def test_each_concurrent_request_has_its_own_process(adapter: WebAdapter) -> None:
    with ThreadPoolExecutor(3) as pool:
        pids = {pool.submit(httpx.get, f"{adapter.url}/slow", timeout=30) for _ in range(3)}
        assert len({answer.result().json()["pid"] for answer in pids}) == 3
    assert len(adapter.environments) == 3
    httpx.get(adapter.url)
    assert sorted(environment.requests for environment in adapter.environments) == [1, 1, 2]


def test_a_client_that_disconnects_is_not_noticed(adapter: WebAdapter, eventually: Callable[..., None]) -> None:
    with httpx.stream("GET", f"{adapter.url}/slow") as response:
        next(response.iter_raw())
    eventually(lambda: "ended /slow" in output(adapter))


def test_a_request_beyond_the_timeout_kills_the_process(adapter: WebAdapter, eventually: Callable[..., None]) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{adapter.url}/endless", headers={TIMEOUT_HEADER: "0.2"})
    eventually(lambda: adapter.environments == [])
    assert httpx.get(adapter.url).status_code == 200
