"""The manners of the real sites, and what tests ask for: a journal, faults, and one request at a time."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.local.parliament.invented import API, Json


@dataclass(slots=True)
class Fault:
    """What the next `times` requests under `path_prefix` get instead of an answer, or before it."""

    path_prefix: str = "/"
    status: int | None = None
    times: int = 1
    retry_after: str | None = None
    slow: float = 0
    body: str | None = None

    def response(self) -> Response | None:
        if self.status is None and self.body is None:
            return None
        headers = {"retry-after": self.retry_after} if self.retry_after else None
        body = self.body or f"<html><head><title>{self.status}</title></head><body>It was asked to fail.</body></html>"
        return HTMLResponse(body, self.status or 200, headers)


class Desk:
    """In front of the routes: writes the journal, plays the faults, and refuses a client's second request to the API
    while the first is answered. An answer takes `delay` seconds at least, so that two at once do meet."""

    def __init__(self, app: ASGIApp, delay: float) -> None:
        self._app, self._delay = app, delay
        self._asking = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        client = request.client.host if request.client and scope["path"].split("/")[1] in API else ""
        entry = self._note(request, bool(client and self._asking[client]))
        fault = None if entry["concurrent"] else self._due(request)
        slow = float(request.query_params.get("_slow", 0)) + (fault.slow if fault else 0) + self._delay
        self._asking[client] += 1
        asking = True

        def done() -> None:
            nonlocal asking
            if asking:
                self._asking[client] -= 1
            asking = False

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            elif not message.get("more_body"):
                done()  # before the client has it all: it may ask again at once
            await send(message)

        try:
            if entry["concurrent"]:
                await PlainTextResponse("Too many requests at the same time.", 429)(scope, receive, answer)
            elif not await _left_within(receive, slow):
                await ((fault and fault.response()) or self._app)(scope, receive, answer)
        finally:
            done()

    @staticmethod
    def _note(request: Request, concurrent: bool) -> Json:
        headers = request.headers
        entry: Json = {"path": request.url.path, "query": request.url.query, "concurrent": concurrent, "status": None}
        for name in ("user-agent", "api-version", "accept", "from"):
            entry[name.replace("-", "_")] = headers.get(name)
        request.app.state.entries.append(entry)
        return entry

    @staticmethod
    def _due(request: Request) -> Fault | None:
        for fault in request.app.state.faults:
            if fault.times > 0 and request.url.path.startswith(fault.path_prefix):
                fault.times -= 1
                return fault  # type: ignore[no-any-return]
        return None


async def _left_within(receive: Receive, seconds: float) -> bool:
    """Wait. Whether the client left meanwhile."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while seconds and (await receive())["type"] != "http.disconnect":
                pass
            return bool(seconds)
    return False


async def journal(request: Request) -> Response:
    if request.method == "DELETE":
        request.app.state.entries.clear()
        return Response(status_code=204)
    return JSONResponse(list(request.app.state.entries))


async def fail(request: Request) -> Response:
    if request.method == "DELETE":
        request.app.state.faults.clear()
        return Response(status_code=204)
    try:
        request.app.state.faults.append(Fault(**json.loads(await request.body())))
    except (ValueError, TypeError) as error:
        return PlainTextResponse(f"This is no fault: {error}", 400)
    return Response(status_code=204)
