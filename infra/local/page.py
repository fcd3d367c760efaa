"""The built page of frontend/, as a host of static files would serve it, and its /config.json."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from infra.local.postgres import ROOT

DIST = ROOT / "frontend/dist"
BUILD = "make frontend/dist/index.html"
NOT_BUILT = f"The page is not built. This command builds it: {BUILD}\n"
CLIENT_ROUTES = ("/c/", "/shared/")  # addresses within the page, besides /
IMMUTABLE = "public, max-age=31536000, immutable"  # the names of assets have a digest of their content


def create_app(config: Mapping[str, Any], dist: Path = DIST) -> Starlette:
    """The page, with this /config.json. Until it is built, a sentence says how to build it."""
    headers = security_headers(origins_of(config))

    async def index(request: Request) -> Response:
        if not (dist / "index.html").is_file():
            return PlainTextResponse(NOT_BUILT, 503)
        return FileResponse(dist / "index.html", headers={**headers, "cache-control": "no-cache", "vary": "accept"})

    async def asset(request: Request) -> Response:
        file = dist / "assets" / request.path_params["name"]
        if not file.is_file():
            return PlainTextResponse("There is no such file.\n", 404)
        return FileResponse(file, headers={"x-content-type-options": "nosniff", "cache-control": IMMUTABLE})

    async def show_config(request: Request) -> Response:
        return JSONResponse(dict(config), headers={"cache-control": "no-cache"})

    return Starlette(
        routes=[
            Route("/", index),
            *(Route(f"{path}{{rest:path}}", index) for path in CLIENT_ROUTES),
            Route("/assets/{name}", asset),
            Route("/config.json", show_config),
        ]
    )


def is_client_route(scope: Scope) -> bool:
    """Whether a browser opens an address of the page: /shared/{token} is also a route of the API."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    return scope["path"].startswith(CLIENT_ROUTES) and "text/html" in Request(scope).headers.get("accept", "")


def origins_of(config: Mapping[str, Any]) -> list[str]:
    """The origins that the page calls, from its /config.json."""
    urls = [*config["functions"].values(), config["supabase_url"], config["parliament_url"]]
    return sorted({"{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in urls if url})


def security_headers(origins: Iterable[str]) -> dict[str, str]:
    """The headers of index.html. `origins`: what its scripts may call besides its own origin."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": " ".join(["'self'", *origins]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
    }
