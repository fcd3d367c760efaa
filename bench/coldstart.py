"""Cold starts: the CPU time in which a new process imports a function and answers its first event, against a bare one.

Ours is the artifact as infra/package builds it, with wheels for this machine. The baseline imports the same files:
FastAPI and Mangum (the chat: uvicorn) with one route, and Stripe's SDK where the function uses it. Both have their
bytecode. A stand-in on loopback is the database, the project's key set and the extension that serves secrets. The last
row is the reading of a secret alone, against boto3.

CPU time, because Lambda gives a function a fraction of a processor: at 512 MB the start takes three times as long.
"""

import hmac
import json
import os
import py_compile
import shutil
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from infra.package.__main__ import (
    BUILD,
    FUNCTIONS,
    ROOT,
    Function,
    compile_bytecode,
    copy_sources,
    find_compiler,
    install,
    prune,
)

ROUNDS = 15
FOLDER = BUILD / "coldstart"
WEBHOOK_SECRET = "whsec_bench"  # noqa: S105 -- of the stand-in

# Lambda's runtime has imported these before it imports the handler.
CHILD = """
import json, logging, sys, time
module, event, folder = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
sys.path.insert(0, folder)
started = time.process_time()

def report():
    print((time.process_time() - started) * 1000)
"""
LAMBDA = (
    CHILD
    + """
import importlib
answer = importlib.import_module(module).handler(event, None)
report()
assert answer.get("statusCode", 200) == 200, answer
"""
)
SERVER = (
    CHILD
    + """
import asyncio
import uvicorn

config = uvicorn.Config(f"{module}:create", factory=True, port=0, loop="uvloop", http="httptools", ws="none",
                        lifespan="on", access_log=False, log_level="warning")
server = uvicorn.Server(config)

async def main():
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{event['method']} {event['path']} HTTP/1.1", "host: bench", "connection: close"]
    lines += [f"{name}: {value}" for name, value in event["headers"].items()]
    writer.write(("\\r\\n".join(lines) + "\\r\\n\\r\\n").encode())
    answer = await reader.read()
    report()
    assert answer.startswith(b"HTTP/1.1 20"), answer
    writer.close()
    server.should_exit = True
    await serving

asyncio.run(main())
"""
)

BARE_LAMBDA = """
from fastapi import FastAPI
from mangum import Mangum

app = FastAPI(openapi_url=None)


@app.{method}("{path}")
async def route():
    return {{"status": "ok"}}


handler = Mangum(app, lifespan="off")
"""
BARE_SERVER = """
from fastapi import FastAPI


def create():
    app = FastAPI(openapi_url=None)

    @app.get("{path}")
    async def route():
        return {{"status": "ok"}}

    return app
"""
# A job calls one SQL function: the standard library's client, the settings' library and the logger.
BARE_JOB = """
import asyncio, http.client, json, os
import pydantic
from aws_lambda_powertools import Logger

logger = Logger(service="bench")


def call():
    connection = http.client.HTTPConnection(os.environ["SUPABASE_URL"].removeprefix("http://"))
    connection.request("POST", "/rest/v1/rpc/release_stale_holds", b"{}")
    return json.load(connection.getresponse())


def handler(event, context):
    count = asyncio.run(asyncio.to_thread(call))
    logger.info("done")
    return {"count": count}
"""

READ_SECRET = {
    "ours": "from functions.common.secrets_extension import read_secret; read_secret('bench', os.environ)",
    "baseline": "import boto3; boto3.client('secretsmanager').get_secret_value(SecretId='bench')",
}


@dataclass(frozen=True, slots=True)
class Case:
    """The first event of one function, and the bare module that answers it."""

    function: str
    event: Mapping[str, Any]
    baseline: str
    child: str = LAMBDA


class StandIn(BaseHTTPRequestHandler):
    """What the functions call at their first event."""

    protocol_version = "HTTP/1.1"
    answers: Mapping[str, Any]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer()

    def _answer(self) -> None:
        body = json.dumps(self.answers[self.path.split("?")[0]]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """No log."""


@contextmanager
def stand_in(answers: Mapping[str, Any]) -> Iterator[str]:
    """Serves the answers by path. Yields the URL."""
    handler = type("Answers", (StandIn,), {"answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def build(function: Function, python: Path, built: list[Path]) -> Path:
    """The artifact's folder, with wheels for this machine's processor."""
    folder = FOLDER / function.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    install(function, folder, platform=f"{os.uname().machine}-manylinux2014")
    prune(folder)
    copy_sources(function, folder)
    compile_bytecode(folder, python, built)
    return folder


def url_event(method: str, path: str, headers: Mapping[str, str], body: str | None = None) -> dict[str, Any]:
    """A request as a function URL passes it to Lambda, payload version 2.0."""
    event: dict[str, Any] = {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "abc.lambda-url.ca-central-1.on.aws", **headers},
        "requestContext": {"http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        "isBase64Encoded": False,
    }
    return event if body is None else {**event, "body": body}


def cases(token: str) -> list[Case]:
    """An event per function that a user or the scheduler sends most often, and that needs no other service."""
    authorization = {"authorization": f"Bearer {token}"}
    event = json.dumps({"id": "evt_1", "type": "product.created", "data": {"object": {}}})
    now = int(time.time())
    signature = hmac.new(WEBHOOK_SECRET.encode(), f"{now}.{event}".encode(), "sha256").hexdigest()
    signed = {"stripe-signature": f"t={now},v1={signature}"}
    with_stripe = "import stripe\n" + BARE_LAMBDA
    resume = {"method": "GET", "path": "/chat/none/stream", "headers": authorization}
    return [
        Case("keys", url_event("GET", "/keys", authorization), BARE_LAMBDA.format(method="get", path="/keys")),
        Case(
            "webhooks",
            url_event("POST", "/webhooks/stripe", signed, event),
            with_stripe.format(method="post", path="/webhooks/stripe"),
        ),
        Case("checkout", url_event("GET", "/plans", {}), with_stripe.format(method="get", path="/plans")),
        Case("maintenance", {"job": "release-stale-holds"}, BARE_JOB),
        Case("account", url_event("GET", "/usage", authorization), BARE_LAMBDA.format(method="get", path="/usage")),
        Case("chat", resume, BARE_SERVER.format(path="/chat/none/stream"), SERVER),
    ]


def measure(command: list[str | Path], environment: Mapping[str, str]) -> float:
    """The milliseconds of CPU that a new process prints."""
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"the process failed: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def compare(
    what: str, ours: list[str | Path], baseline: list[str | Path], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The medians of interleaved rounds, after one round that fills the caches."""
    rounds = [(measure(ours, environment), measure(baseline, environment)) for _ in range(ROUNDS + 1)][1:]
    median, bare = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"coldstart: {what} {median:.0f} ms, bare {bare:.0f} ms", flush=True)
    return {"what": f"{what}, CPU ms", "ratio": median / bare, "ours": median, "baseline": bare}


def run() -> list[dict[str, Any]]:
    """Builds the artifacts for this machine and measures them."""
    python = find_compiler()
    if python is None:
        raise RuntimeError("Python 3.13 is needed: it is Lambda's, and the artifact's wheels and bytecode are for it")
    folders: dict[str, Path] = {}
    for function in FUNCTIONS:
        folders[function.name] = build(function, python, list(folders.values()))

    key = ec.generate_private_key(ec.SECP256R1())
    public = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": "k1", "use": "sig"}
    secret = {
        "SUPABASE_SERVICE_ROLE_KEY": "service",
        "STRIPE_SECRET_KEY": "sk_test_bench",
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "ANTHROPIC_API_KEY": "sk-ant-bench",
        "ENCRYPTION_KEYS": f"k1:{'0' * 64}",
    }
    secret_value = {"Name": "bench", "SecretString": json.dumps(secret)}
    answers = {
        "/auth/v1/.well-known/jwks.json": {"keys": [{**public, "alg": "ES256"}]},
        "/rest/v1/rpc/list_api_keys": {"allowed": True, "keys": []},
        "/rest/v1/rpc/list_plans": {"plans": [{"tier": "basic", "price_usd": "6.990000"}], "packs": []},
        "/rest/v1/rpc/usage_summary": {
            "tier": "basic",
            "cost_usd": "0.000000",
            "reason_code": "daily_quota",
            "alerts": [],
            "announcements": [],
        },
        "/rest/v1/rpc/follow_query": None,
        "/rest/v1/rpc/release_stale_holds": 0,
        "/rest/v1/rpc/note_job_run": None,
        "/secretsmanager/get": secret_value,
        "/": secret_value,  # Secrets Manager itself, for boto3
    }
    with stand_in(answers) as url:
        environment = {
            "PATH": os.defpath,
            "SUPABASE_URL": url,
            "SUPABASE_ANON_KEY": "anon",
            "ALLOWED_ORIGINS": "https://example.org",
            "SECRETS_ID": "bench",
            "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": url.rpartition(":")[2],
            "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": "ca-central-1",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_SESSION_TOKEN": "bench",
        }
        claims = {
            "sub": str(uuid.uuid4()), "aud": "authenticated", "role": "authenticated", "iss": f"{url}/auth/v1",
            "iat": int(time.time()), "exp": int(time.time()) + 3600,
        }  # fmt: skip
        rows = []
        for case in cases(jwt.encode(claims, key, "ES256", {"kid": "k1"})):
            folder = folders[case.function]
            (folder / "bench_baseline.py").write_text(case.baseline)
            py_compile.compile(str(folder / "bench_baseline.py"))
            ours, baseline = (
                [python, "-I", "-c", case.child, module, json.dumps(case.event), folder]
                for module in (f"functions.{case.function}.handler", "bench_baseline")
            )
            rows.append(compare(f"cold start of {case.function}", ours, baseline, environment))
        ours, baseline = (
            [sys.executable, "-c", f"{CHILD}import os\n{statement}\nreport()", "", "{}", ROOT]
            for statement in READ_SECRET.values()
        )
        return [*rows, compare("reading a secret, against boto3", ours, baseline, environment)]
