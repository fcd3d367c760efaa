"""The built artifacts on this machine's processor, and a stand-in for Lambda's runtime API.

The twin of an artifact is the artifact itself, unpacked, with the native libraries of its locked wheels for this
machine beside those for Lambda's: their names have the processor in them, so Python finds its own. Its bytecode is the
artifact's. `awslambdaric`, the client that AWS's own runtime uses, runs the handler.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from infra.package.__main__ import PYTHON, TOOLS, find_compiler
from tests.package.kit import NAMES, ROOT, Packaged
from tests.servers import free_port, serve_http

API = "/2018-06-01/runtime"
ARN = "arn:aws:lambda:ca-central-1:111122223333:function:canadagpt-chat-test"
TRACE = "Root=1-67891234-abcdef012345678912345678;Sampled=0"
ANSWER_S = 30.0
# The path of AWS's own Runtime Interface Emulator, to use it in place of the stand-in. No registry has it.
EMULATOR = os.environ.get("AWS_LAMBDA_RIE")


class Twins:
    """The unpacked artifacts, Lambda's Python, and the folder with its runtime client."""

    def __init__(self, packaged: Packaged, folder: Path) -> None:
        python = find_compiler()
        assert python is not None
        self.python = python
        self.client = folder / "client"
        self.folder = folder
        wheels = folder / "wheels"
        _install(wheels, *(f"{name}.txt" for name in NAMES))
        _install(self.client, "runtime.txt")
        libraries = [path.relative_to(wheels) for path in wheels.rglob("*.so*") if path.is_file()]
        for name in NAMES:
            with zipfile.ZipFile(packaged.artifact(name)) as archive:
                archive.extractall(folder / name)
            for library in libraries:
                if (folder / name / library).parent.is_dir():
                    shutil.copy(wheels / library, folder / name / library)
        (folder / "chat/functions/chat/run.sh").chmod(0o755)  # zipfile does not restore permissions


def _install(folder: Path, *requirements: str) -> None:
    """Installs locked wheels for this machine and Lambda's Python."""
    listed = [argument for name in requirements for argument in ("--requirements", str(ROOT / "requirements" / name))]
    subprocess.run(
        [
            *(str(TOOLS / "uv"), "pip", "install", "--quiet", "--python", sys.executable, "--python-version", PYTHON),
            *("--python-platform", f"{os.uname().machine}-manylinux2014", "--only-binary", ":all:"),
            *("--require-hashes", "--no-deps", "--target", str(folder), *listed),
        ],
        check=True,
        timeout=300,
    )


class Runtime:
    """One process of a function, which gets one event after another."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.answers: queue.Queue[tuple[str, str, Any]] = queue.Queue()
        runtime = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                assert self.path == f"{API}/invocation/next"
                request_id, event = runtime.events.get()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + ANSWER_S) * 1000)))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", ARN)
                self.send_header("Lambda-Runtime-Trace-Id", TRACE)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(event)))
                with suppress(ConnectionError):  # the process has been ended
                    self.end_headers()
                    self.wfile.write(event)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                *_, request_id, kind = self.path.split("/")
                runtime.answers.put((request_id, kind, body))
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True  # the process waits for an event until it is ended

    def invoke(self, event: Any) -> Any:
        """The answer to an event. Raises AssertionError with the error that the function raised."""
        request_id = str(uuid.uuid4())
        self.events.put((request_id, json.dumps(event).encode()))
        answered, kind, body = self.answers.get(timeout=ANSWER_S)
        assert (answered, kind) == (request_id, "response"), body
        return body


class Emulated:
    """A function under AWS's Runtime Interface Emulator, at the client's base URL."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def invoke(self, event: Any) -> Any:
        """The answer to an event. Raises AssertionError with the error that the function raised."""
        answer = self._http.post("/2015-03-31/functions/function/invocations", json=event)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert "errorType" not in body, body
        return body


@contextmanager
def _started(command: list[str], folder: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """A process and its children. Its output is printed if a test fails."""
    with subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            yield
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            print(process.stdout.read().decode() if process.stdout else "")  # noqa: T201 -- shown with the failure
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def runtime(twins: Twins, name: str, handler: str, environment: Mapping[str, str]) -> Iterator[Runtime | Emulated]:
    """A process of the function on the twin of its artifact."""
    folder = twins.folder / name
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{twins.client}{os.pathsep}{folder}",
        "LAMBDA_TASK_ROOT": str(folder),
        "AWS_LAMBDA_FUNCTION_NAME": f"canadagpt-chat-test-{name}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        **environment,
    }
    command = [str(twins.python), "-s", "-m", "awslambdaric", handler]
    if EMULATOR:
        port, api = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        addresses = ["--runtime-interface-emulator-address", port, "--runtime-api-address", api]
        retrying = httpx.HTTPTransport(retries=5)  # while the emulator starts
        with (
            httpx.Client(base_url=f"http://{port}", timeout=ANSWER_S, transport=retrying) as http,
            _started([EMULATOR, *addresses, *command], folder, variables),
        ):
            yield Emulated(http)
        return
    running = Runtime()
    with serve_http(running.server) as url:
        variables["AWS_LAMBDA_RUNTIME_API"] = url.removeprefix("http://")
        with _started(command, folder, variables):
            try:
                yield running
            finally:
                running.events.put(("end", b"{}"))  # its waiting thread ends


def url_event(method: str, path: str, body: str | None = None, **headers: str) -> dict[str, Any]:
    """A request as a function URL passes it to Lambda, with every field of payload version 2.0.

    https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    """
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "cookies": [],
        "headers": {
            "accept": "*/*",
            "content-type": "application/json",
            "host": "abcdefghijklmnopqrstuvwxyz012345.lambda-url.ca-central-1.on.aws",
            "user-agent": "Mozilla/5.0",
            "x-amzn-trace-id": "Root=1-67891234-abcdef012345678912345678",
            "x-forwarded-for": "203.0.113.7",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **headers,
        },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abcdefghijklmnopqrstuvwxyz012345",
            "domainName": "abcdefghijklmnopqrstuvwxyz012345.lambda-url.ca-central-1.on.aws",
            "domainPrefix": "abcdefghijklmnopqrstuvwxyz012345",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "Mozilla/5.0",
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1773342238000,
        },
        "isBase64Encoded": False,
    }
    return event if body is None else {**event, "body": body}
