"""Runs an ASGI app in a process of its own and measures its event loop.

`python -m tests.functions.watched MODULE:FACTORY FD`, where FD is a listening socket. `GET /_watched` returns the
measurements. Maxima are since the previous request to it.
"""

import asyncio
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.local.postgres import ROOT
from infra.local.serve import listener

TICK_S = 0.005
LONG_TIMEOUT_S = 60.0


class Watched:
    """Passes requests to an app, counts the open ones, and measures the event loop."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._reset()

    def _reset(self) -> None:
        self._most_open, self._busy_s, self._late_s = self._open, 0.0, 0.0

    async def watch(self) -> None:
        """Measure for ever. `busy_s` is the CPU time of the loop's thread between two ticks. Unlike the elapsed time,
        it does not grow when other processes use the machine.
        """
        while True:
            clock, worked = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            self._late_s = max(self._late_s, time.perf_counter() - clock - TICK_S)
            self._busy_s = max(self._busy_s, time.thread_time() - worked)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/_watched":
            await JSONResponse(self._measurements())(scope, receive, send)
            self._reset()
        else:
            self._open += 1
            self._most_open = max(self._most_open, self._open)
            try:
                await self._app(scope, receive, send)
            finally:
                self._open -= 1

    def _measurements(self) -> dict[str, Any]:
        # Not the peak of getrusage, which a process inherits from its parent.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "most_open": self._most_open,
            "busy_s": self._busy_s,
            "late_s": self._late_s,
            "cpu_s": time.process_time(),
            "memory_kb": int(status["VmRSS"].split()[0]),
            "peak_memory_kb": int(status["VmHWM"].split()[0]),
        }


def chat_with_long_timeouts() -> ASGIApp:
    """The chat with long timeouts, for loads that its database handles slowly."""
    from functions.chat import handler, limits

    limits.ADMIT_S = limits.SETTLE_S = limits.PROVIDER_CONNECT_S = LONG_TIMEOUT_S
    return handler.create()


@contextmanager
def served(factory: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Run the process. Yields its address, where requests wait until it has started."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    with listener(0) as listening:
        host, port = listening.getsockname()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.functions.watched", factory, str(listening.fileno())],
            cwd=ROOT,
            env={**inherited, **environment},
            stdout=subprocess.DEVNULL,  # the functions' log lines
            pass_fds=[listening.fileno()],
        )
    with process:
        try:
            yield f"http://{host}:{port}"
        finally:
            process.terminate()


async def main() -> None:
    """Serve until SIGTERM, with the options that functions/chat/run.sh passes to uvicorn."""
    module, _, factory = sys.argv[1].partition(":")
    app = Watched(getattr(importlib.import_module(module), factory)())
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        timeout_keep_alive=65,
        timeout_graceful_shutdown=1,
        access_log=False,
        server_header=False,
        log_level="warning",
    )
    watching = asyncio.create_task(app.watch())
    await uvicorn.Server(config).serve([socket.socket(fileno=int(sys.argv[2]))])
    watching.cancel()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
