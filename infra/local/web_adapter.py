"""A stand-in for AWS Lambda with its Web Adapter: the URL of the chat function, for tests of the function's life cycle.

It starts functions/chat/run.sh as the adapter's layer does, and waits until the readiness path answers. A process gets
one request at a time, with Lambda's context as headers; more processes are started for concurrent requests. The
function does not notice a client that disconnects. When the last byte of the response has come, the process is frozen
(SIGSTOP), before the client sees the end. The next request thaws it. At the function's timeout it is killed.

https://github.com/aws/aws-lambda-web-adapter/blob/main/src/lib.rs
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from infra.local.postgres import ROOT
from infra.local.processes import Child, Processes
from infra.local.stack import locked

READINESS_PATH = "/health"
READINESS_POLL_S = 0.01
READY_S = 60.0
STARTS_AT_ONCE = 2  # Lambda has no such limit, but this machine has few processors.
CONNECTION_IDLE_S = 4.0  # The adapter closes its connection to the function after this time.
BODY_LIMIT = 6 * 1024 * 1024
ENVIRONMENTS = 50
TIMEOUT_S = 180.0
# A request may set another timeout of the function, in seconds. Lambda has no such header.
TIMEOUT_HEADER = "x-standin-timeout"
NOT_FORWARDED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", TIMEOUT_HEADER}


@dataclass(slots=True, eq=False)
class Environment:
    """One process of the function, and the adapter's connection to it."""

    child: Child
    url: str
    session: aiohttp.ClientSession
    requests: int = 0

    def thaw(self) -> None:
        """Let the process run."""
        os.kill(self.child.process.pid, signal.SIGCONT)

    def freeze(self) -> None:
        """Stop the process, and return when it has stopped."""
        os.kill(self.child.process.pid, signal.SIGSTOP)
        os.waitpid(self.child.process.pid, os.WUNTRACED)


@dataclass(slots=True)
class WebAdapter:
    """The function's environments. `root` is the folder of the unpacked artifact."""

    processes: Processes
    environ: Mapping[str, str]
    root: Path = ROOT
    url: str = ""
    environments: list[Environment] = field(default_factory=list)
    _idle: list[Environment] = field(default_factory=list)
    _started: int = 0
    _server: web.AppRunner = field(init=False)
    _starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STARTS_AT_ONCE))

    async def open(self, provisioned: int) -> None:
        """Listen on a free port of the loopback interface. `provisioned`: how many processes start before."""
        self._idle += await asyncio.gather(*(self._start() for _ in range(provisioned)))
        for environment in self._idle:
            environment.freeze()
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self.invoke)
        self._server = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._server.setup()
        await web.TCPSite(self._server, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._server.addresses[0][1]}"

    async def close(self) -> None:
        """Stop listening and kill all processes."""
        await self._server.cleanup()
        for environment in list(self.environments):
            await self._end(environment)

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """Answer one request in an environment of its own."""
        body = await request.read()
        if self._idle:
            environment = self._idle.pop()
        elif self._started >= ENVIRONMENTS:
            return web.json_response({"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"}, status=429)
        else:
            environment = await self._start()
        timeout_s = float(request.headers.get(TIMEOUT_HEADER, TIMEOUT_S))
        environment.requests += 1
        environment.thaw()
        response = web.StreamResponse()
        try:
            async with asyncio.timeout(timeout_s):
                await self._forward(request, body, environment, response, time.time() + timeout_s)
        except (TimeoutError, aiohttp.ClientError):
            await self._end(environment)
            if not response.prepared:
                return web.json_response({"Message": "Internal Server Error"}, status=502)
            if request.transport is not None:
                request.transport.abort()  # the client gets a truncated response
            return response
        environment.freeze()
        self._idle.append(environment)
        with suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _forward(
        self,
        request: web.Request,
        body: bytes,
        environment: Environment,
        response: web.StreamResponse,
        deadline: float,
    ) -> None:
        """Read the function's response to its end. Nothing changes if the client disconnects meanwhile."""
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in NOT_FORWARDED]
        contexts = {
            "x-amzn-request-context": json.dumps(_request_context(request)),
            "x-amzn-lambda-context": json.dumps(_lambda_context(deadline)),
        }
        sent = [*((name, value) for name, value in headers if name.lower() not in contexts), *contexts.items()]
        async with environment.session.request(
            request.method, environment.url + request.path_qs, headers=sent, data=body, allow_redirects=False
        ) as answer:
            response.set_status(answer.status)
            response.headers.extend(
                [(name, value) for name, value in answer.headers.items() if name.lower() not in NOT_FORWARDED]
            )
            with suppress(ConnectionError):
                await response.prepare(request)
            async for chunk in answer.content.iter_any():
                with suppress(ConnectionError):
                    await response.write(chunk)

    async def _start(self) -> Environment:
        """Start a process as the layer's wrapper does, and wait until it is ready."""
        self._started += 1
        name = f"chat-{self._started}"
        async with self._starts:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            environ = {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                **self.environ,
                "LAMBDA_TASK_ROOT": str(self.root),
                "PARLIAMENT_CONTACT": f"{name}@example.test",  # tells the processes apart, as their addresses do
                "AWS_LWA_PORT": str(port),
                "AWS_LWA_READINESS_CHECK_PATH": READINESS_PATH,
                "AWS_LWA_INVOKE_MODE": "response_stream",
            }
            command = ["sh", "-c", 'cd "$LAMBDA_TASK_ROOT" && exec functions/chat/run.sh']
            child = self.processes.start(name, command, env=environ)
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=CONNECTION_IDLE_S),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
            environment = Environment(child, f"http://127.0.0.1:{port}", session)
            self.environments.append(environment)
            async with asyncio.timeout(READY_S):
                while not await self._is_ready(environment):
                    if child.process.poll() is not None:
                        raise web.HTTPBadGateway(text=f"{name} did not start. {child.log_tail()}")
                    await asyncio.sleep(READINESS_POLL_S)
        return environment

    async def _is_ready(self, environment: Environment) -> bool:
        try:
            async with environment.session.get(environment.url + READINESS_PATH) as answer:
                return 200 <= answer.status < 300
        except aiohttp.ClientConnectionError:
            return False

    async def _end(self, environment: Environment) -> None:
        """Kill the process."""
        self.environments.remove(environment)
        if environment in self._idle:
            self._idle.remove(environment)
        await environment.session.close()
        self.processes.stop_one(environment.child, signal.SIGKILL)


def _lambda_context(deadline: float) -> Mapping[str, object]:
    """The adapter's Context as JSON. `deadline`: in seconds since 1970.

    https://github.com/aws/aws-lambda-rust-runtime/blob/main/lambda-runtime/src/types.rs
    """
    return {
        "request_id": str(uuid.uuid4()),
        "deadline": int(deadline * 1000),
        "invoked_function_arn": "arn:aws:lambda:ca-central-1:111122223333:function:canadagpt-chat-test-chat",
        "xray_trace_id": None,
        "client_context": None,
        "identity": None,
        "env_config": {
            "function_name": "canadagpt-chat-test-chat",
            "memory": 1024,
            "version": "$LATEST",
            "log_stream": "",
            "log_group": "",
        },
    }


def _request_context(request: web.Request) -> Mapping[str, object]:
    """https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads"""
    return {
        "routeKey": "$default",
        "accountId": "anonymous",
        "stage": "$default",
        "requestId": str(uuid.uuid4()),
        "http": {
            "method": request.method,
            "path": request.path,
            "protocol": "HTTP/1.1",
            "sourceIp": "127.0.0.1",
            "userAgent": request.headers.get("user-agent", ""),
        },
        "timeEpoch": int(time.time() * 1000),
    }


@contextmanager
def running(folder: Path, environ: Mapping[str, str], root: Path = ROOT, provisioned: int = 0) -> Iterator[WebAdapter]:
    """The stand-in on a free port, in a thread. `folder` gets the processes' logs.

    `provisioned`: how many processes start before the first request, as with Lambda's provisioned concurrency.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with locked(folder) as lock, Processes(folder, lock) as processes:
            adapter = WebAdapter(processes, environ, root)
            asyncio.run_coroutine_threadsafe(adapter.open(provisioned), loop).result()
            try:
                yield adapter
            finally:
                asyncio.run_coroutine_threadsafe(adapter.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
