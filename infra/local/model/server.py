"""The server of the model stand-in: routes, the request log, and replies that follow a script."""

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from infra.local.model.anthropic import Anthropic
from infra.local.model.errors import Refused
from infra.local.model.faults import Faults
from infra.local.model.openai import OpenAI
from infra.local.model.prompt import Prompt
from infra.local.model.reply import Reply
from infra.local.model.sse import frame, pieces, styled
from infra.local.model.text import Json, new_id, to_json

DELTAS = {
    "content_block_delta",
    "response.output_text.delta",
    "response.refusal.delta",
    "response.function_call_arguments.delta",
}
MAX_EXCHANGES = 1000  # enough for a whole test run; bounds the memory
ANTHROPIC, OPENAI = Anthropic(), OpenAI()

Step = bytes | float | None
"""A step of a reply: send these bytes, wait for these seconds, or close the connection without an end."""


def script(provider: Anthropic | OpenAI, message: Json, faults: Faults, streams: bool, delay: float) -> list[Step]:
    """The steps of a reply, with the faults that change its pace or break it in the middle."""
    styles = faults.get("sse", [])
    if streams:
        events = _with_halves(provider, list(provider.events(message, faults)), faults)
        deltas = [at for at, event in enumerate(events) if event["type"] in DELTAS]
        middle = deltas[len(deltas) // 2] if deltas else len(events) // 2
        if faults.keys() & {"error-event", "failed"}:
            events[middle:] = [provider.error_event(message, faults, middle)]
        frames = styled([frame(event, styles) for event in events], styles)
    else:
        body, deltas, middle = to_json(message), [], 1
        frames = [body[: len(body) // 2], body[len(body) // 2 :]]
    steps: list[Step] = [faults.number("stall-before")]
    delayed = set(deltas)
    for at, whole in enumerate(frames):
        if at in delayed:
            steps.append(faults.number("slow", delay))
        if at == middle:
            steps.append(faults.number("stall"))
            if "drop" in faults:
                return [*steps, None]
            if "early-end" in faults:
                return steps
        broken = at == middle and "bad-json" in faults
        steps += pieces(whole[:-8] + b"\n\n" if broken else whole, styles)
    return steps


def _with_halves(provider: Anthropic | OpenAI, events: list[Json], faults: Faults) -> list[Json]:
    """The events with an emoji in two halves in the middle of their text, or a half at its end."""
    texts = [at for at, event in enumerate(events) if provider.with_text(event, "")]
    if "halves" not in faults or not texts:
        return events
    is_end = faults.first("halves") == "end"
    at = texts[-1] if is_end else texts[len(texts) // 2]
    halves = [provider.with_text(events[at], half) for half in ("\ud83d" if is_end else "\ud83d\ude00")]
    return [*events[: at + 1], *(half for half in halves if half), *events[at + 1 :]]


@dataclass(slots=True)
class Exchange:
    """A request and how its reply ended: an entry of the request log."""

    provider: Anthropic | OpenAI
    path: str
    api_key_last4: str
    prompt: Prompt = field(default_factory=lambda: Prompt({}, []))
    request_id: str = field(default_factory=lambda: new_id("req"))
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    aborted: bool = False  # the client disconnected before the end
    finished: bool = False  # the reply was sent to its scripted end

    def entry(self) -> Json:
        """The entry as GET /_requests returns it."""
        roles = {message["role"] for message in self.prompt.messages}
        return {
            "provider": self.provider.name,
            "path": self.path,
            "model": self.prompt.body.get("model"),
            "api_key_last4": self.api_key_last4,
            "system_present": bool(self.prompt.system) or not roles.isdisjoint({"system", "developer"}),
            "messages": self.prompt.messages,
            "call_ids": self.prompt.call_ids,
            "stream": bool(self.prompt.body.get("stream")),
            "aborted": self.aborted,
            "finished": self.finished,
            "at": self.at,
        }


@dataclass(slots=True)
class PendingFault:
    """A directive that applies to every request until it is replaced, as if each question contained it."""

    directive: str | None = None
    used: int = 0

    def use(self) -> list[str]:
        """The directive for one more request."""
        self.used += self.directive is not None
        return [self.directive] if self.directive else []


class ScriptedResponse(Response):
    """Runs the steps of a reply, stops when the client disconnects, and records in the exchange how it ended."""

    def __init__(self, exchange: Exchange, steps: Sequence[Step], status: int = 200, media: str = "application/json"):
        self.exchange, self.steps = exchange, steps
        self.status_code, self.media_type = status, media
        self.init_headers({exchange.provider.id_header: exchange.request_id})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_for_disconnect, receive, group.cancel_scope)
            await self._run_steps(send)
            group.cancel_scope.cancel()

    async def _watch_for_disconnect(self, receive: Receive, running: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.exchange.aborted = not self.exchange.finished
        running.cancel()

    async def _run_steps(self, send: Send) -> None:
        started = False
        for step in self.steps:
            if step is None:
                return  # without a last body message, the server closes the connection
            if not isinstance(step, bytes):
                await asyncio.sleep(step)
                continue
            if not started:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                started = True
            await send({"type": "http.response.body", "body": step, "more_body": True})
        self.exchange.finished = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _open(request: Request, generates: bool = False) -> Exchange:
    """Logs a request and checks its key.

    Only generating costs money, so only it fails for an exhausted balance. A restricted key may do nothing else.
    """
    path, headers = request.url.path, request.headers
    to_anthropic = path.startswith("/v1/messages") or "anthropic-version" in headers or "x-api-key" in headers
    provider = ANTHROPIC if to_anthropic else OPENAI
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer").strip()
    exchange = request.state.exchange = Exchange(provider, path, key[-4:])
    request.app.state.exchanges.append(exchange)
    if not key or "invalid" in key:
        raise Refused(401, "" if key else "No API key was sent.")
    if generates and "exhausted" in key:
        raise Refused(*provider.exhausted)
    if not generates and "restricted" in key:
        raise Refused(403)
    if request.method == "POST":
        try:
            exchange.prompt = Prompt.read(json.loads(await request.body()))
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise Refused(400, f"The request body cannot be read: {error!r}") from error
    return exchange


async def list_models(request: Request) -> ScriptedResponse:
    exchange = await _open(request)
    return ScriptedResponse(exchange, [to_json(exchange.provider.list_models(request.query_params))])


async def count_tokens(request: Request) -> ScriptedResponse:
    exchange = await _open(request)
    return ScriptedResponse(exchange, [to_json(exchange.provider.count_tokens(exchange.prompt))])


async def generate(request: Request) -> ScriptedResponse:
    exchange = await _open(request, generates=True)
    provider, prompt = exchange.provider, exchange.prompt
    streams = bool(prompt.body.get("stream"))
    earlier = (past for past in request.app.state.exchanges if past is not exchange and past.path == exchange.path)
    try:
        first = all(past.prompt.question != prompt.question for past in earlier)
        pending: PendingFault = request.app.state.fault
        faults = Faults.read(prompt, first, provider.name, pending.use())
        message = provider.message(prompt, Reply.compose(prompt, faults))
        faults.refuse(streams, provider.overloaded, prompt.body.get("model", ""))
        steps = script(provider, message, faults, streams, request.app.state.delay)
    except (ValueError, IndexError) as error:
        raise Refused(400, f"This stand-in cannot follow its directive: {error}") from error
    return ScriptedResponse(exchange, steps, media="text/event-stream" if streams else "application/json")


async def refuse(request: Request, refused: Exception) -> ScriptedResponse:
    """Sends the error reply of a Refused."""
    assert isinstance(refused, Refused)  # Starlette's type for handlers allows any exception
    exchange: Exchange = request.state.exchange
    body = to_json(exchange.provider.error(refused, exchange.request_id))
    reply = ScriptedResponse(exchange, [refused.after, body], refused.status)
    if refused.retry_after:
        reply.headers["retry-after"] = refused.retry_after
    return reply


async def request_log(request: Request) -> Response:
    """GET returns the log, oldest first; DELETE empties it."""
    exchanges: deque[Exchange] = request.app.state.exchanges
    if request.method == "DELETE":
        exchanges.clear()
        return Response(status_code=204)
    return Response(json.dumps([exchange.entry() for exchange in exchanges]), media_type="application/json")


async def replace_fault(request: Request) -> Response:
    """POST {"directive": "slow 0.2" | null} replaces the directive. Returns how many requests used the one before."""
    try:
        directive = json.loads(await request.body())["directive"]
        if directive is not None:
            Faults.read(Prompt({}, []), True, "", [directive])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return Response(json.dumps({"error": f"This cannot be read: {error}"}), 400, media_type="application/json")
    before: PendingFault = request.app.state.fault
    request.app.state.fault = PendingFault(directive)
    return Response(json.dumps({"used": before.used}), media_type="application/json")


def create_app(delay: float = 0.01) -> Starlette:
    """The stand-in, with `delay` seconds before every delta of a stream."""
    routes = [
        Route("/v1/models", list_models),
        Route("/v1/messages", generate, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
        Route("/v1/responses", generate, methods=["POST"]),
        Route("/v1/responses/input_tokens", count_tokens, methods=["POST"]),
        Route("/_requests", request_log, methods=["GET", "DELETE"]),
        Route("/_fault", replace_fault, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={Refused: refuse})
    app.state.exchanges, app.state.delay = deque(maxlen=MAX_EXCHANGES), delay
    app.state.fault = PendingFault()
    return app
