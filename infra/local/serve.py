"""The stack's own servers: `python -m infra.local.serve standins|functions`, configured by environment variables.

standins: Supabase's gateway, the model provider, the parliamentary data and Stripe, each on its port, in one process.
functions: the page and the apps of the deployed functions on one origin, with the CORS headers that function URLs add.
"""

import gc
import importlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from functions.common.settings import SettingsError
from infra.local import page

# The deployed functions that serve HTTP. `create()` of the module `handler` returns the app.
FUNCTIONS = ("chat", "keys", "checkout", "account", "webhooks")
# As in serverless.yml. Tracing: Sentry's and W3C's headers.
TRACING = ("sentry-trace", "baggage", "traceparent", "tracestate")
ALLOWED_HEADERS = ("authorization", "content-type", "accept", "x-client-info", "mcp-protocol-version", *TRACING)
# Modules that the functions import on first use. Imported at the start here, so that no first answer waits for them.
ON_DEMAND = ("genai_prices.data_snapshot",)


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


def by_route(apps: Sequence[Starlette]) -> Callable[[Scope], Starlette | None]:
    """Chooses the app that has a route for the path, otherwise the last app, which is the page."""
    from functions.common.web import without_trailing_slash  # imports FastAPI, which the stand-ins do not need

    def choose(scope: Scope) -> Starlette | None:
        if page.is_client_route(scope):
            return apps[-1]
        scope = {**scope, "path": without_trailing_slash(scope["path"])}
        for app in apps:
            if any(isinstance(route, Route) and route.matches(scope)[0] != Match.NONE for route in app.routes):
                return app
        return apps[-1]

    return choose


def always(app: Starlette) -> Callable[[Scope], Starlette | None]:
    """Chooses the same app for every request."""
    return lambda _: app


def by_port(apps: Mapping[int, Starlette]) -> Callable[[Scope], Starlette | None]:
    """Chooses the app by the port of the request."""
    return lambda scope: apps.get(scope["server"][1])


def listener(port: int) -> socket.socket:
    """A listening socket on loopback. The protocol is explicit: without it asyncio leaves Nagle's algorithm on, which
    delays every answer by 40 ms."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(1024)
    return listening


def serve(app: ASGIApp, ports: Sequence[int]) -> None:
    """Serves on loopback until interrupted."""
    gc.enable()
    sockets = [listener(port) for port in ports]
    config = uvicorn.Config(
        app, lifespan="on", access_log=False, log_level="warning", timeout_graceful_shutdown=6, ws="none"
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets)
    sys.stdout.flush()
    os._exit(0)  # once an SDK is imported, the interpreter's own shutdown takes another second


def standins() -> None:
    """Serves the stand-ins that have a port in the environment."""
    apps: dict[int, Starlette] = {}
    if port := os.environ.get("GATEWAY_PORT"):
        from infra.local import supabase

        apps[int(port)] = supabase.create_app(
            supabase.Config(
                public_url=f"http://127.0.0.1:{port}",
                postgrest_url=os.environ["POSTGREST_URL"],
                auth_db_url=os.environ["AUTH_DB_URL"],
                signing_key_path=Path(os.environ["SIGNING_KEY"]),
            )
        )
    if port := os.environ.get("MODEL_PORT"):
        from infra.local import model

        apps[int(port)] = model.create_app()
    if port := os.environ.get("PARLIAMENT_PORT"):
        from infra.local import parliament

        apps[int(port)] = parliament.create_app()
    if port := os.environ.get("STRIPE_PORT"):
        from infra.local import stripe

        apps[int(port)] = stripe.create_app(
            stripe.Settings(
                public_url=os.environ["STRIPE_API_BASE"],
                api_key=os.environ["STRIPE_SECRET_KEY"],
                webhook_url=os.environ["STRIPE_WEBHOOK_URL"],
                webhook_secret=os.environ["STRIPE_WEBHOOK_SECRET"],
                state_path=os.environ["STRIPE_STATE"],
                hold=True,  # until the launcher has seen that the functions answer
            )
        )
    serve(Apps(list(apps.values()), by_port(apps)), list(apps))


def functions() -> None:
    """Serves the page and every deployed function on one origin and, if asked to, also each on one of its own."""
    from infra.local.developer import Developer, Settings, Watched

    deployed = {name: importlib.import_module(f"functions.{name}.handler").create() for name in FUNCTIONS}
    for name in ON_DEMAND:
        importlib.import_module(name)
    developer = Developer(Settings(**json.loads(os.environ["DEVELOPER"])))
    panel = developer.create_app()
    together = [panel, *deployed.values(), page.create_app(json.loads(os.environ["PAGE_CONFIG"]))]
    apps = [*together]
    choices = {int(os.environ["FUNCTIONS_PORT"]): by_route(together)}
    if os.environ.get("SEPARATE_PORTS"):
        ports: dict[str, int] = json.loads(os.environ["SEPARATE_PORTS"])
        apart = [panel, page.create_app(json.loads(os.environ["SEPARATE_CONFIG"]))]
        apps.append(apart[-1])
        choices |= {
            ports.pop("page"): by_route(apart),
            **{port: always(deployed[name]) for name, port in ports.items()},
        }
    served = CORSMiddleware(
        Watched(Apps(apps, lambda scope: choices[scope["server"][1]](scope)), developer),
        allow_origins=[origin for origin in os.environ.get("ALLOWED_ORIGINS", "").split(",") if origin],
        allow_origin_regex=r"http://(localhost|127\.0\.0\.1)(:\d+)?",
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=ALLOWED_HEADERS,
        expose_headers=["x-request-id", "retry-after", "x-vercel-ai-ui-message-stream"],
        max_age=3600,
    )
    serve(served, list(choices))


if __name__ == "__main__":
    gc.disable()  # until `serve`: imports create lasting objects only, and looking for garbage takes a tenth of them
    try:
        {"standins": standins, "functions": functions}[sys.argv[1]]()
    except SettingsError as error:
        sys.exit(str(error))
