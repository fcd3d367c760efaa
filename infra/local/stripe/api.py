"""The API over HTTP: authentication, parameters, idempotency, and the call of the endpoint.

An idempotency key stores its answer for a day: a repeated POST gets the stored answer, other parameters get 400, and a
repetition while the first request still runs gets 409. Faults, set by a test, delay, fail or lose answers.
"""

import asyncio
import base64
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.local.stripe import forms
from infra.local.stripe.clock import DAY
from infra.local.stripe.endpoints import ENDPOINTS, Endpoint
from infra.local.stripe.errors import ApiError, Json
from infra.local.stripe.state import API_VERSION, RequestInfo, State

LOGGED_REQUESTS = 1000


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests: a delay of `seconds`, then an answer with `status`, if it is set.

    `lost`: the request is carried out, and only its answer is replaced.
    """

    method: str
    path: str
    status: int = 0
    times: int = 1
    seconds: float = 0
    lost: bool = False


@dataclass
class Api:
    """`saved_answers` holds time, fingerprint of the request, status and body by idempotency key."""

    state: State
    saved_answers: dict[str, tuple[int, str, int, Json]] = field(default_factory=dict)
    running_keys: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    request_log: deque[Json] = field(default_factory=lambda: deque(maxlen=LOGGED_REQUESTS))

    def routes(self) -> list[Route]:
        """Fixed paths before those with an id in them."""
        ordered = sorted(ENDPOINTS, key=lambda endpoint: "{" in endpoint.path)
        routes = [Route(endpoint.path, self._serve(endpoint), methods=[endpoint.method]) for endpoint in ordered]
        return [*routes, Route("/v1/{path:path}", self._serve(None), methods=["GET", "POST", "DELETE"])]

    def _serve(self, endpoint: Endpoint | None) -> Any:
        """The handler of an endpoint; None is an unknown URL."""

        async def answer(request: Request) -> Response:
            return await self._answer(request, endpoint)

        return answer

    async def _answer(self, request: Request, endpoint: Endpoint | None) -> Response:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        info = RequestInfo(self.state.new_id("req"), key)
        entry: Json = {
            "method": request.method,
            "path": request.url.path,
            "idempotency_key": key,
            "at": self.state.now,
        }
        self.request_log.append(entry)
        headers = {"request-id": str(info.id), "stripe-version": API_VERSION}
        try:
            self._authenticate(request)
            if endpoint is None:
                raise ApiError(f"Unrecognized request URL ({request.method}: {request.url.path}).", status=404)
            encoded = (await request.body()).decode() if request.method == "POST" else request.url.query
            tree = forms.parse(encoded)
            entry["params"] = tree
            status, body, replayed = await self._run_once(request, endpoint, info, tree)
            if replayed:
                headers["idempotent-replayed"] = "true"
        except ApiError as error:
            status, body = error.status, self._error_body(error, info)
        if key:
            headers["idempotency-key"] = key
        entry |= {"status": status, "request_id": info.id}
        # json.dumps with an indent is ten times slower.
        return Response(orjson.dumps(body, option=orjson.OPT_INDENT_2), status, headers, "application/json")

    def _authenticate(self, request: Request) -> None:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            key = base64.b64decode(credentials).decode().partition(":")[0]
        else:
            key = credentials.strip()
        if not key:
            raise ApiError("You did not provide an API key.", status=401)
        if key != self.state.settings.api_key:
            raise ApiError(f"Invalid API Key provided: {key[:3]}****{key[-4:]}", status=401)
        version = request.headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise ApiError(f"This stand-in for Stripe speaks only version {API_VERSION}, not {version}.")

    async def _run_once(
        self, request: Request, endpoint: Endpoint, info: RequestInfo, tree: Json
    ) -> tuple[int, Json, bool]:
        """Status, body, and whether the answer is the stored one of an earlier request."""
        params = forms.validate(tree, endpoint.param_type, endpoint.supported)
        key, fingerprint = info.idempotency_key, json.dumps([request.url.path, tree], sort_keys=True)
        if key is None:
            return *await self._run(request, endpoint, info, params, fingerprint), False
        if key in self.running_keys:
            raise ApiError(
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                f"submitted twice, and the other request is still going through): {key}.",
                code="idempotency_key_in_use",
                status=409,
                kind="idempotency_error",
            )
        at, saved_fingerprint, status, body = self.saved_answers.get(key, (0, "", 0, {}))
        if saved_fingerprint and at > self.state.now - DAY:
            if saved_fingerprint != fingerprint:
                raise ApiError(
                    "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                    f"Try using a key other than '{key}' if you meant to execute a different request.",
                    kind="idempotency_error",
                )
            return status, body, True
        self.running_keys.add(key)
        try:
            return *await self._run(request, endpoint, info, params, fingerprint), False
        finally:
            self.running_keys.discard(key)

    async def _run(
        self, request: Request, endpoint: Endpoint, info: RequestInfo, params: Json, fingerprint: str
    ) -> tuple[int, Json]:
        """Run the endpoint, with the fault that applies. Stores the answer under the idempotency key."""
        fault = self._take_fault(request)
        if fault and fault.seconds:
            await asyncio.sleep(fault.seconds)
        if fault and fault.status and not fault.lost:
            raise _fault_error(fault)
        state, saved = self.state, True
        state.request = info
        state.changes += request.method != "GET"
        expand = params.pop("expand", [])
        try:
            status, body = 200, endpoint.run(state, params, **request.path_params)
            body = state.render(body, expand)
        except ApiError as error:
            status, body, saved = error.status, self._error_body(error, info), error.saved
        finally:
            state.request = RequestInfo()
        if info.idempotency_key and saved:
            self.saved_answers[info.idempotency_key] = (state.now, fingerprint, status, body)
        if fault and fault.status:
            raise _fault_error(fault)
        return status, body

    def _take_fault(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if request.method == fault.method and request.url.path.startswith(fault.path):
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _error_body(self, error: ApiError, info: RequestInfo) -> Json:
        url = f"{self.state.settings.public_url}/_requests#{info.id}"
        return {"error": {**error.body, "request_log_url": url}}


def _fault_error(fault: Fault) -> ApiError:
    kind = "api_error" if fault.status >= 500 else "invalid_request_error"
    return ApiError("A test made this request fail.", status=fault.status, kind=kind)
