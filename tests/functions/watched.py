"""An ASGI app under uvicorn, its event loop watched: `python -m tests.functions.watched MODULE:FACTORY FD`.

FD is a socket that listens. `GET /_watched` tells what the process has needed; maxima are since it was last asked.
"""

import asyncio
import importlib
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TICK_S = 0.005


class Watched:
    """Hands requests to an app, counts those that are open, and ticks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._begin()

    def _begin(self) -> None:
        self._most_open, self._busy_s, self._late_s = self._open, 0.0, 0.0

    async def watch(self) -> None:
        """Tick for ever. The loop's thread runs nothing but the loop, so what it works between two ticks is how long
        the loop did not come round: less than what the clock says, and the same on a machine that is busy.
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
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "most_open": self._most_open,
            "busy_s": self._busy_s,
            "late_s": self._late_s,
            "cpu_s": time.process_time(),
            "rss_kb": int(status["VmRSS"].split()[0]),
            "peak_rss_kb": int(status["VmHWM"].split()[0]),
        }


async def main() -> None:
    """Serve until interrupted, as functions/chat/run.sh does."""
    module, _, factory = sys.argv[1].partition(":")
    app = Watched(getattr(importlib.import_module(module), factory)())
    watching = asyncio.create_task(app.watch())
    config = uvicorn.Config(
        app, loop="asyncio", http="h11", ws="none", lifespan="on", access_log=False, log_level="warning"
    )
    await uvicorn.Server(config).serve([socket.socket(fileno=int(sys.argv[2]))])
    watching.cancel()


if __name__ == "__main__":
    asyncio.run(main())
