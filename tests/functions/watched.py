"""An ASGI app in a process of its own, its event loop watched: `python -m tests.functions.watched MODULE:FACTORY FD`.

FD is a socket that listens. `GET /_watched` tells what the process has needed; what is the most or the longest is so
since it was last asked.
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
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.local.postgres import ROOT
from infra.local.serve import listener

TICK_S = 0.005
PATIENCE_S = 60.0


class Watched:
    """Hands requests to an app, counts those that are open, and ticks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._begin()

    def _begin(self) -> None:
        self._most_open, self._busy_s, self._late_s = self._open, 0.0, 0.0

    async def watch(self) -> None:
        """Tick for ever. What the loop's thread works between two ticks is how long it did not come round. Unlike what
        the clock says, that does not grow when others need the machine.
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
            await JSONResponse(self._told())(scope, receive, send)
            self._begin()
        else:
            self._open += 1
            self._most_open = max(self._most_open, self._open)
            try:
                await self._app(scope, receive, send)
            finally:
                self._open -= 1

    def _told(self) -> dict[str, Any]:
        # Not getrusage's peak, which a process inherits from the one that started it.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "most_open": self._most_open,
            "busy_s": self._busy_s,
            "late_s": self._late_s,
            "cpu_s": time.process_time(),
            "memory_kb": int(status["VmRSS"].split()[0]),
            "peak_memory_kb": int(status["VmHWM"].split()[0]),
        }


def patient_chat() -> ASGIApp:
    """The chat, for loads that its database cannot take as soon as it should."""
    from functions.chat import handler, limits

    limits.ADMIT_S = limits.SETTLE_S = limits.PROVIDER_CONNECT_S = PATIENCE_S
    return handler.create()


@contextmanager
def served(factory: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Such a process, from its start to its end. Gives its address, which answers once it has started."""
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
    """Serve until told to end, with what functions/chat/run.sh tells uvicorn."""
    module, _, factory = sys.argv[1].partition(":")
    app = Watched(getattr(importlib.import_module(module), factory)())
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
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
    asyncio.run(main())
