"""AWS in memory with the functions' versions, aliases and secrets, and the functions themselves behind the aliases."""

import asyncio
import importlib
import io
import json
import os
import subprocess
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from botocore.awsrequest import AWSPreparedRequest, HTTPHeaders
from botocore.exceptions import ClientError
from mangum import Mangum

from infra.deploy.stage import ALIAS, FUNCTIONS, WITH_URL, Stage
from infra.deploy.versions import http_event
from infra.local.postgres import ROOT
from tests.functions.conftest import SecretsExtension
from tests.servers import serve_http


def code(text: str) -> bytes:
    """The zip of a function whose code is `text`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("handler.py", text)
    return content.getvalue()


# What is installed counts as up to date.
INSTALLED = [argument for mark in (".venv/.ready", "infra/package/node_modules/.ready") for argument in ("-o", mark)]


def make(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """What make prints, and its exit status: 2 where a command failed. No file has AWS credentials."""
    nowhere = dict.fromkeys(("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), "/nowhere")
    return subprocess.run(
        ["make", "--no-print-directory", *INSTALLED, *arguments],
        cwd=cwd,
        env={**os.environ, **nowhere, "AWS_EC2_METADATA_DISABLED": "true", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )


class Extension(SecretsExtension):
    """The secrets extension in front of the account's Secrets Manager, which it asks with a name or an ARN."""

    def __init__(self, aws: "Aws") -> None:
        super().__init__()
        self._client = aws.stage.client("secretsmanager")

    def find(self, name: str) -> dict[str, Any] | None:
        answer = self._client.get_secret_value(SecretId=name)
        del answer["ResponseMetadata"]
        return {**answer, "CreatedDate": answer["CreatedDate"].isoformat()}


@dataclass(slots=True)
class Process:
    """A process of one version of a function. It has read its secret once, when it started."""

    function: str
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    handler: Any = None
    app: Any = None
    loop: asyncio.AbstractEventLoop | None = None

    def run(self, event: dict[str, Any]) -> Any:
        """Answer an event."""
        return self.thread.submit(self._run, event).result(timeout=60)

    def _run(self, event: dict[str, Any]) -> Any:
        if self.handler is None:
            module = importlib.import_module(f"functions.{self.function}.handler")
            if self.function == "maintenance":
                self.handler = module.handler
            else:
                self.loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self.loop)
                self.app = module.create()
                self.handler = Mangum(self.app, lifespan="off")
        return self.handler(event, None)

    def close(self) -> None:
        """End the process."""
        if self.loop is not None:
            self.thread.submit(self._close, self.loop).result()
        self.thread.shutdown()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        # The lifespan of the chat would change the garbage collection of this process.
        loop.run_until_complete(self.app.state.chat.close() if self.function == "chat" else self._shut_down())
        loop.close()

    async def _shut_down(self) -> None:
        async with self.app.router.lifespan_context(self.app):
            pass


class FakeLambda:
    """Lambda's API of moto; an invocation runs the function here."""

    def __init__(self, aws: "Aws") -> None:
        self._aws = aws

    def __getattr__(self, name: str) -> Any:
        return getattr(self._aws.lambda_, name)

    def invoke(self, *, FunctionName: str, Qualifier: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        function = FunctionName.rpartition("-")[2]
        self._aws.invoked.append((function, Qualifier))
        answer = self._aws.run(function, Qualifier, json.loads(Payload))
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}

    def publish_version(self, *, FunctionName: str, Description: str) -> dict[str, Any]:  # noqa: N803
        """At a first version, moto keeps its mark that something has changed, and would publish another one."""
        from moto.awslambda_simple.models import lambda_simple_backends

        found: dict[str, Any] = self._aws.lambda_.publish_version(FunctionName=FunctionName, Description=Description)
        region, account = found["FunctionArn"].split(":")[3:5]
        lambda_simple_backends[account][region].get_function(FunctionName).code_or_config_updated = False
        return found

    def get_account_settings(self) -> dict[str, Any]:
        """moto has no such call. A new account's limit, of which nothing is reserved."""
        limit = self._aws.limit
        return {"AccountLimit": {"ConcurrentExecutions": limit, "UnreservedConcurrentExecutions": limit}}


class FakeStack:
    """CloudFormation with one stack, or none while the account has no outputs. moto's needs many more packages.

    `aws.refusal`: the code and the sentence with which AWS refuses the call.
    """

    def __init__(self, aws: "Aws") -> None:
        self._aws = aws

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803
        refusal = self._aws.refusal
        if not refusal and not self._aws.outputs:
            refusal = ("ValidationError", f"Stack with id {StackName} does not exist")
        if refusal:
            raise ClientError({"Error": {"Code": refusal[0], "Message": refusal[1]}}, "DescribeStacks")
        outputs = [{"OutputKey": key, "OutputValue": value} for key, value in self._aws.outputs.items()]
        return {"Stacks": [{"StackName": StackName, "Outputs": outputs}]}

    def get_template(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803
        return {"TemplateBody": self._aws.template}


class FakeStage(Stage):
    """A stage whose Lambda runs the functions here."""

    aws: "Aws"

    def client(self, service: str) -> Any:
        fakes = {"lambda": FakeLambda, "cloudformation": FakeStack}
        return fakes[service](self.aws) if service in fakes else Stage.client(self, service)


class Aws:
    """An account with one deployed stage. Requests go where the aliases point.

    `broken` has the digests of code that does not start, `failing` of a chat whose answers fail.
    """

    def __init__(self, environment: dict[str, str], stage: str = "prod") -> None:
        self.stage = FakeStage(stage)
        object.__setattr__(self.stage, "aws", self)
        self.lambda_ = Stage(stage).client("lambda")
        self.environment = environment
        self.processes: dict[tuple[str, str], Process] = {}
        self.invoked: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.failing: set[str] = set()
        self.runs_functions = True
        self.limit = 1000
        self.outputs: dict[str, str] = {}
        self.template: dict[str, Any] = {"Resources": {}}
        self.refusal: tuple[str, str] | None = None
        self._lock = threading.Lock()  # the processes share one environment

    def create(self, url: str = "https://function.example") -> None:
        """The stack with the functions, their secrets and aliases, as the first deployment creates them."""
        self.outputs = {f"{name.capitalize()}LambdaFunctionUrl": f"{url}/" for name in WITH_URL}
        iam, secrets = self.stage.client("iam"), self.stage.client("secretsmanager")
        role = iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        for name in FUNCTIONS:
            secrets.create_secret(Name=self.stage.secret(name))
            self.stage.client("logs").create_log_group(logGroupName=self.log_group(name))
            self.lambda_.create_function(
                FunctionName=self.stage.function(name),
                Runtime="python3.13",
                Role=role,
                Handler="handler.handler",
                Code={"ZipFile": code("first")},
                Environment={"Variables": {**self.environment, "SECRETS_ID": self.stage.secret(name)}},
            )
            self.lambda_.create_alias(FunctionName=self.stage.function(name), Name=ALIAS, FunctionVersion="$LATEST")

    def upload(self, name: str, text: str) -> None:
        """New code, as a deployment of the stack uploads it."""
        self.lambda_.update_function_code(FunctionName=self.stage.function(name), ZipFile=code(text))

    def log_group(self, name: str) -> str:
        """The name of a function's log group."""
        return f"/aws/lambda/{self.stage.function(name)}"

    def digest(self, name: str) -> str:
        """The digest of a function's newest code."""
        return str(self.lambda_.get_function_configuration(FunctionName=self.stage.function(name))["CodeSha256"])

    def log(self, version: str, *lines: dict[str, Any], function: str = "chat") -> None:
        """Lines of a version of a function in its log, as Lambda stores them."""
        logs, group = self.stage.client("logs"), self.log_group(function)
        stream = f"2026/11/29/[{version}]{uuid.uuid4().hex}"
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": json.dumps(line)} for line in lines]
        events.append({"timestamp": now, "message": "REPORT RequestId: 1"})
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)

    def alias(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.lambda_.get_alias(FunctionName=self.stage.function(name), Name=ALIAS)
        return found

    def places(self) -> dict[str, str]:
        """The version of each alias."""
        return {name: self.alias(name)["FunctionVersion"] for name in FUNCTIONS}

    def request(self, name: str, method: str, path: str, body: str = "{}", **headers: str) -> dict[str, Any]:
        """A request to the function's URL."""
        event = http_event(method, path)
        event["headers"] |= headers
        answer: dict[str, Any] = self.run(name, self.alias(name)["FunctionVersion"], {**event, "body": body})
        return answer

    def run(self, name: str, version: str, event: dict[str, Any]) -> Any:
        """Run a version of a function, in a process that lasts."""
        found = self.lambda_.get_function_configuration(FunctionName=self.stage.function(name), Qualifier=version)
        if found["CodeSha256"] in self.broken:
            return {"statusCode": 500}
        if not self.runs_functions and event.get("rawPath") == "/chat" and "authorization" in event["headers"]:
            end = "error" if found["CodeSha256"] in self.failing else "finish"
            return {"statusCode": 200, "body": f'data: {{"type":"{end}"}}\n\ndata: [DONE]\n\n'}
        if not self.runs_functions:
            status = {"chat": 401, "keys": 401, "checkout": 401, "account": 401, "webhooks": 400}.get(name)
            return {"statusCode": status} if status else {"released": 0}
        with self._lock:
            os.environ["SECRETS_ID"] = self.stage.secret(name)
            return self.processes.setdefault((name, version), Process(name)).run(event)

    def close(self) -> None:
        """End every process."""
        for process in self.processes.values():
            process.close()


@contextmanager
def over_http(aws: Aws) -> Iterator[dict[str, str]]:
    """AWS's APIs on loopback. Yields the variables with which a command in another process finds the account."""
    from moto.core.botocore_stubber import BotocoreStubber

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            url = urlsplit(self.path)
            if url.path.endswith("/invocations"):
                name = url.path.split("/")[-2].rpartition("-")[2]
                answer = aws.run(name, parse_qs(url.query)["Qualifier"][0], json.loads(body))
                return self._answer(200, {}, json.dumps(answer).encode())
            # The signature has the region and the service: Credential=key/date/region/service/aws4_request
            region, service = self.headers["authorization"].split("/")[2:4]
            headers = HTTPHeaders()
            for header, value in self.headers.items():
                headers[header] = value
            real = f"https://{service}.{region}.amazonaws.com{self.path}"
            found = BotocoreStubber().process_request(AWSPreparedRequest(self.command, real, headers, body, False))
            assert found, real
            return self._answer(found[0], found[1], found[2].encode() if isinstance(found[2], str) else found[2])

        do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in {"content-length", "connection", "date", "server"}:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with serve_http(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield {"AWS_ENDPOINT_URL": url}


@contextmanager
def extension(aws: Aws) -> Iterator[SecretsExtension]:
    """The secrets extension, in front of Secrets Manager."""
    served = Extension(aws)
    with serve_http(served.server):
        yield served
