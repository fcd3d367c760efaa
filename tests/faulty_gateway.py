"""A proxy before Supabase's gateway that fails chosen calls as gateways, PostgREST and Postgres do."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from tests.servers import serve

RPC = "/rest/v1/rpc/"


@dataclass(frozen=True, slots=True)
class Fault:
    """One response. `is_cut`: the connection ends within the body."""

    name: str
    status: int
    body: str = ""
    content_type: str = "application/json"
    is_cut: bool = False


def coded(status: int, code: str) -> Fault:
    """An error of Postgres or PostgREST."""
    return Fault(code, status, json.dumps({"code": code, "message": "A message.", "details": None, "hint": None}))


def page(status: int) -> Fault:
    """The page of a gateway in HTML."""
    return Fault(f"{status} HTML", status, "<html>An error occurred</html>", "text/html")


@dataclass(eq=False, slots=True)
class FaultyGateway:
    """`plan(function, marker, steps)` fails the next calls of a function whose body or token contains the marker."""

    http: httpx.Client  # of the gateway behind
    url: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    _steps: dict[tuple[str, str], list[tuple[Fault, bool]]] = field(default_factory=dict)
    _users: dict[str, str] = field(default_factory=dict)  # the user of each hold

    def plan(self, function: str, marker: str, steps: list[tuple[Fault, bool]]) -> None:
        """The steps: a fault, and whether the call is carried out before. Later calls are forwarded."""
        self._steps[function, marker] = steps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        steps = self._matching(request, body)
        fault, is_carried_out = steps.pop(0) if steps else (None, True)
        if is_carried_out:
            kept = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
            answer = await asyncio.to_thread(
                self.http.request, request.method, request.url.path, content=body, headers=kept
            )
            status, content, kind = answer.status_code, answer.content, answer.headers.get("content-type", "")
        if fault is not None:
            status, content, kind = fault.status, fault.body.encode(), fault.content_type
        length = len(content) + (9 if fault and fault.is_cut else 0)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(length).encode())]
        if status == 204:
            headers = []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        # Fewer bytes than announced: the server closes the connection.
        await send({"type": "http.response.body", "body": content, "more_body": bool(fault and fault.is_cut)})

    def _matching(self, request: Request, body: bytes) -> list[tuple[Fault, bool]]:
        """The steps planned for this call. A hold stands for its user."""
        path = request.url.path
        if not path.startswith(RPC):
            return []
        function, text = path.removeprefix(RPC), body.decode() + request.headers.get("authorization", "")
        if function == "admit_query":
            params = json.loads(body)
            self._users[params["p_hold_id"]] = params["p_user_id"]
        text += "".join(user for hold, user in self._users.items() if hold in text)
        for (planned, marker), steps in self._steps.items():
            if planned == function and marker in text and steps:
                self.calls.append((function, marker))
                return steps
        return []


@contextmanager
def faulty_gateway(upstream: str) -> Iterator[FaultyGateway]:
    """A running proxy."""
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=upstream, timeout=30, trust_env=False, limits=limits) as http:
        gateway = FaultyGateway(http)
        with serve(gateway) as url:
            gateway.url = url
            yield gateway
