"""The API over HTTP: the key, the form, idempotency, and the endpoint's function.

An idempotency key answers a repeated POST with the stored response for a day, refuses other parameters with 400, and
while its first request is still running with 409. Faults, set by a test, make answers late, failed or lost.
"""

import asyncio
import base64
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.local.stripe import forms
from infra.local.stripe.clock import DAY
from infra.local.stripe.endpoints import ENDPOINTS, Endpoint
from infra.local.stripe.errors import Json, Refused
from infra.local.stripe.world import API_VERSION, Call, World

JOURNAL = 1000


@dataclass(slots=True)
class Fault:
    """What befalls the next `times` requests: `seconds` of delay, then `status` if there is one. `lost`: the work is
    done all the same, and only its answer is not."""

    method: str
    path: str
    status: int = 0
    times: int = 1
    seconds: float = 0
    lost: bool = False


@dataclass
class Api:
    """The requests of one fake. `kept` holds finished answers by idempotency key: time, fingerprint, status, body."""

    world: World
    kept: dict[str, tuple[int, str, int, Json]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    journal: deque[Json] = field(default_factory=lambda: deque(maxlen=JOURNAL))

    def routes(self) -> list[Route]:
        """Fixed paths before those with an id in them."""
        ordered = sorted(ENDPOINTS, key=lambda one: "{" in one.path)
        served = [Route(one.path, self.serve(one), methods=[one.method]) for one in ordered]
        return [*served, Route("/v1/{path:path}", self.unknown, methods=["GET", "POST", "DELETE"])]

    def serve(self, endpoint: Endpoint) -> Any:
        async def answer(request: Request) -> Response:
            return await self._answer(request, endpoint)

        return answer

    async def unknown(self, request: Request) -> Response:
        return await self._answer(request, None)

    async def _answer(self, request: Request, endpoint: Endpoint | None) -> Response:
        call = Call(
            self.world.new_id("req"), request.headers.get("idempotency-key") if request.method == "POST" else None
        )
        entry: Json = {
            "method": request.method,
            "path": request.url.path,
            "idempotency_key": call.idempotency_key,
            "at": self.world.now,
        }
        self.journal.append(entry)
        headers = {"request-id": str(call.id), "stripe-version": API_VERSION}
        try:
            self._authenticate(request)
            if endpoint is None:
                raise Refused(f"Unrecognized request URL ({request.method}: {request.url.path}).", status=404)
            encoded = (await request.body()).decode() if request.method == "POST" else request.url.query
            tree = forms.parse(encoded)
            entry["params"] = tree
            status, body, replayed = await self._once(request, endpoint, call, tree)
            if replayed:
                headers["idempotent-replayed"] = "true"
        except Refused as refused:
            status, body = refused.status, {"error": self._error(refused, call)}
        if call.idempotency_key:
            headers["idempotency-key"] = call.idempotency_key
        entry |= {"status": status, "request_id": call.id}
        return Response(json.dumps(body, indent=2), status, headers, "application/json")

    def _authenticate(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = base64.b64decode(given).decode().partition(":")[0] if scheme.lower() == "basic" else given.strip()
        if not key:
            raise Refused("You did not provide an API key.", status=401)
        if key != self.world.settings.api_key:
            raise Refused(f"Invalid API Key provided: {key[:3]}****{key[-4:]}", status=401)
        version = request.headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise Refused(f"This stand-in for Stripe speaks only version {API_VERSION}, not {version}.")

    async def _once(self, request: Request, endpoint: Endpoint, call: Call, tree: Json) -> tuple[int, Json, bool]:
        params = forms.read(tree, endpoint.kind, endpoint.uses)
        key, print_ = call.idempotency_key, json.dumps([request.url.path, tree], sort_keys=True)
        if key is None:
            return *await self._run(request, endpoint, call, params, None, print_), False
        if key in self.running:
            raise Refused(
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                f"submitted twice, and the other request is still going through): {key}.",
                code="idempotency_key_in_use",
                status=409,
                kind="idempotency_error",
            )
        at, known, status, body = self.kept.get(key, (0, "", 0, {}))
        if known and at > self.world.now - DAY:
            if known != print_:
                raise Refused(
                    "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                    f"Try using a key other than '{key}' if you meant to execute a different request.",
                    kind="idempotency_error",
                )
            return status, body, True
        self.running.add(key)
        try:
            return *await self._run(request, endpoint, call, params, key, print_), False
        finally:
            self.running.discard(key)

    async def _run(
        self, request: Request, endpoint: Endpoint, call: Call, params: Json, key: str | None, print_: str
    ) -> tuple[int, Json]:
        fault = self._fault(request)
        if fault and fault.seconds:
            await asyncio.sleep(fault.seconds)
        if fault and fault.status and not fault.lost:
            raise self._failure(fault)
        world, kept = self.world, True
        world.call = call
        world.changes += request.method != "GET"
        expand = params.pop("expand", [])
        try:
            status, body = 200, endpoint.run(world, params, **request.path_params)
            body = world.shown(body, expand)
        except Refused as refused:
            status, body, kept = refused.status, {"error": self._error(refused, call)}, refused.kept
        finally:
            world.call = Call()
        if key and kept:
            self.kept[key] = (world.now, print_, status, body)
        if fault and fault.status:
            raise self._failure(fault)
        return status, body

    def _fault(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if request.method == fault.method and request.url.path.startswith(fault.path):
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _failure(self, fault: Fault) -> Refused:
        kind = "api_error" if fault.status >= 500 else "invalid_request_error"
        return Refused("An error that this stand-in was told to answer with.", status=fault.status, kind=kind)

    def _error(self, refused: Refused, call: Call) -> Json:
        return {**refused.error, "request_log_url": f"{self.world.settings.public_url}/_requests#{call.id}"}
