"""The stack's own servers: `python -m infra.local.serve standins|functions`, configured by environment variables.

standins: Supabase's gateway, the model provider, the parliamentary data and Stripe, each on its port, in one process.
functions: the page and the apps of the deployed functions on one origin, with the CORS headers that function URLs add.
"""

import gc
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Scope

from functions import server
from functions.common.settings import SettingsError
from infra.local import page


def by_route(apps: Sequence[Starlette]) -> Callable[[Scope], Starlette | None]:
    """Chooses the app that has a route for the path, otherwise the last app, which is the page."""
    choose = server.by_route(apps)
    return lambda scope: apps[-1] if page.is_client_route(scope) else choose(scope)


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
    serve(server.Apps(list(apps.values()), by_port(apps)), list(apps))


def functions() -> None:
    """Serves the page and every deployed function on one origin and, if asked to, also each on one of its own."""
    from infra.local.developer import Developer, Settings, Watched

    deployed = server.create_functions()
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
    served = server.with_cors(
        Watched(server.Apps(apps, lambda scope: choices[scope["server"][1]](scope)), developer),
        [origin for origin in os.environ.get("ALLOWED_ORIGINS", "").split(",") if origin],
        r"http://(localhost|127\.0\.0\.1)(:\d+)?",
    )
    serve(served, list(choices))


if __name__ == "__main__":
    gc.disable()  # until `serve`: imports create lasting objects only, and looking for garbage takes a tenth of them
    try:
        {"standins": standins, "functions": functions}[sys.argv[1]]()
    except SettingsError as error:
        sys.exit(str(error))
