"""All functions that serve HTTP as one app on one origin, for hosts other than Lambda: `python -m functions`.

There is no function URL in front of it, so the app answers preflights and sends the CORS headers itself. Its requests
are logged by the functions (common/observe.py), so uvicorn writes no access log.
"""

import asyncio
import importlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

import uvicorn
from pydantic import Field
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from functions.common.settings import Origins, Settings, load

# The deployed functions that serve HTTP. `create()` of the module `handler` returns the app.
FUNCTIONS = ("chat", "keys", "checkout", "account", "webhooks")
# As in serverless.yml. Tracing: Sentry's and W3C's headers.
TRACING = ("sentry-trace", "baggage", "traceparent", "tracestate")
ALLOWED_HEADERS = ("authorization", "content-type", "accept", "x-client-info", "mcp-protocol-version", *TRACING)
EXPOSED_HEADERS = ("x-request-id", "retry-after", "x-vercel-ai-ui-message-stream")
PREFLIGHT_MAX_AGE_S = 7200
# Modules that the functions import on first use. Imported at the start here, so that no first answer waits for them.
ON_DEMAND = ("genai_prices.data_snapshot",)
SHUTDOWN_MARGIN_S = 1  # between the last response and the host's kill


class ServerSettings(Settings):
    """Where the server listens, and the seconds between the host's SIGTERM and its SIGKILL.

    Ten is Cloud Run's time; Render has 30, and Fly's kill_timeout must be set to ten or more.
    """

    host: str = Field(default="0.0.0.0", validation_alias="HOST")  # noqa: S104 -- the host's proxy is outside
    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=8080, validation_alias="PORT")
    shutdown_s: Annotated[int, Field(ge=10, le=300)] = Field(default=10, validation_alias="SHUTDOWN_S")
    allowed_origins: Origins = Field(validation_alias="ALLOWED_ORIGINS")


class Apps:
    """Several apps behind one server: `choose` picks one for each request. Runs the lifespans of all."""

    def __init__(self, apps: Sequence[Starlette], choose: Callable[[Scope], Starlette | None]) -> None:
        self._choose = choose
        self._states: dict[int, Mapping[str, Any]] = {}
        self._lifespans = Starlette(lifespan=self._lifespan)
        self._apps = apps

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in self._apps:
                state = await stack.enter_async_context(app.router.lifespan_context(app))
                self._states[id(app)] = state or {}
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespans(scope, receive, send)
            return
        app = self._choose(scope)
        if app is None:
            await PlainTextResponse("There is nothing at this address.\n", 404)(scope, receive, send)
            return
        scope["state"] = dict(self._states[id(app)])
        await app(scope, receive, send)


def by_route(apps: Sequence[Starlette]) -> Callable[[Scope], Starlette]:
    """Chooses the app that has a route for the path, otherwise the last app, which refuses the path."""
    from functions.common.web import without_trailing_slash  # imports FastAPI, which the stand-ins do not need

    def choose(scope: Scope) -> Starlette:
        scope = {**scope, "path": without_trailing_slash(scope["path"])}
        for app in apps:
            if any(isinstance(route, Route) and route.matches(scope)[0] != Match.NONE for route in app.routes):
                return app
        return apps[-1]

    return choose


def create_functions() -> dict[str, Starlette]:
    """The apps of all functions by name, from the environment. Raises SettingsError."""
    deployed = {name: importlib.import_module(f"functions.{name}.handler").create() for name in FUNCTIONS}
    for name in ON_DEMAND:
        importlib.import_module(name)
    return deployed


def with_cors(app: ASGIApp, origins: Iterable[str], origin_regex: str | None = None) -> ASGIApp:
    """The app with the headers that function URLs add on AWS."""
    return CORSMiddleware(
        app,
        allow_origins=sorted(origins),
        allow_origin_regex=origin_regex,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_MAX_AGE_S,
    )


class Server(uvicorn.Server):
    """At a shutdown, running answers get the host's kill as their deadline, as on Lambda."""

    def __init__(self, config: uvicorn.Config, end_turns: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_turns = end_turns

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for the responses that are left."""
        self._end_turns()
        await super().shutdown(sockets)


def serve() -> None:
    """Serves all functions until SIGTERM or Ctrl-C. Raises SettingsError."""
    settings = load(ServerSettings)
    deployed = create_functions()
    apps = list(deployed.values())

    def end_turns() -> None:
        deployed["chat"].state.chat.end_by(asyncio.get_running_loop().time() + settings.shutdown_s)

    config = uvicorn.Config(
        with_cors(Apps(apps, by_route(apps)), settings.allowed_origins),
        host=settings.host,
        port=settings.port,
        loop="uvloop",  # docs/decisions/0018-uvloop-and-httptools.md
        http="httptools",
        ws="none",
        lifespan="on",
        timeout_keep_alive=65,  # longer than the proxies of the hosts keep a connection
        timeout_graceful_shutdown=settings.shutdown_s - SHUTDOWN_MARGIN_S,
        access_log=False,
        server_header=False,
        log_level="warning",
    )
    Server(config, end_turns).run()
