"""The behaviour of the real API under concurrent requests, and the controls for tests: a request log and faults."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.local.parliament.data import API
from infra.local.parliament.model import Json


@dataclass(slots=True)
class Fault:
    """Makes the next `times` requests under `path_prefix` slow, or answers them with `status` and `body`."""

    path_prefix: str = "/"
    status: int | None = None
    times: int = 1
    retry_after: str | None = None
    slow: float = 0
    body: str | None = None

    def response(self) -> Response | None:
        """The faulty answer, or None where the fault only slows the real one down."""
        if self.status is None and self.body is None:
            return None
        headers = {"retry-after": self.retry_after} if self.retry_after else None
        body = self.body or f"<html><head><title>{self.status}</title></head><body>Failed on request.</body></html>"
        return HTMLResponse(body, self.status or 200, headers)


class RequestControl:
    """Logs requests, applies faults, and rejects a client's request to the API while another one is being answered.

    Every answer takes at least `delay` seconds, so that concurrent requests overlap.
    """

    def __init__(self, app: ASGIApp, delay: float) -> None:
        self._app, self._delay = app, delay
        self._active = Counter[str]()  # requests to the API by client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        client = _client(request) if scope["path"].split("/")[1] in API else ""
        entry = self._log(request, bool(client and self._active[client]))
        fault = None if entry["concurrent"] else self._next_fault(request)
        wait = float(request.query_params.get("_slow", 0)) + (fault.slow if fault else 0) + self._delay
        self._active[client] += 1
        active = True

        def finish() -> None:
            nonlocal active
            if active:
                self._active[client] -= 1
            active = False

        async def forward(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            elif not message.get("more_body"):
                finish()  # before sending the end of the body: the client may send its next request at once
            await send(message)

        try:
            if entry["concurrent"]:
                await PlainTextResponse("Too many requests at the same time.", 429)(scope, receive, forward)
            elif not await _disconnects_within(receive, wait):
                await ((fault and fault.response()) or self._app)(scope, receive, forward)
        finally:
            finish()

    @staticmethod
    def _log(request: Request, concurrent: bool) -> Json:
        headers = request.headers
        entry: Json = {"path": request.url.path, "query": request.url.query, "concurrent": concurrent, "status": None}
        for name in ("user-agent", "api-version", "accept", "from"):
            entry[name.replace("-", "_")] = headers.get(name)
        request.app.state.requests.append(entry)
        return entry

    @staticmethod
    def _next_fault(request: Request) -> Fault | None:
        for fault in request.app.state.faults:
            if fault.times > 0 and request.url.path.startswith(fault.path_prefix):
                fault.times -= 1
                return fault  # type: ignore[no-any-return]
        return None


def _client(request: Request) -> str:
    """The caller's address and user agent. On Lambda each process has an address of its own; here the contact in its
    user agent tells it apart.
    """
    return f"{request.client.host} {request.headers.get('user-agent')}" if request.client else ""


async def _disconnects_within(receive: Receive, seconds: float) -> bool:
    """Wait `seconds`. Returns early with True where the client disconnects."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while seconds and (await receive())["type"] != "http.disconnect":
                pass
            return bool(seconds)
    return False


async def requests(request: Request) -> Response:
    """GET returns the request log; DELETE clears it."""
    if request.method == "DELETE":
        request.app.state.requests.clear()
        return Response(status_code=204)
    return JSONResponse(list(request.app.state.requests))


async def fail(request: Request) -> Response:
    """POST adds a fault; DELETE removes all faults."""
    if request.method == "DELETE":
        request.app.state.faults.clear()
        return Response(status_code=204)
    try:
        request.app.state.faults.append(Fault(**json.loads(await request.body())))
    except (ValueError, TypeError) as error:
        return PlainTextResponse(f"Invalid fault: {error}", 400)
    return Response(status_code=204)
