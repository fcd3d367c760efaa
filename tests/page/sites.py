"""The built page on an origin of its own, with the configuration that a host writes for it."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.servers import serve

FRONTEND = ROOT / "frontend"


def build(folder: Path, **variables: str) -> None:
    """Build the page into the folder. The variables are those that vite.config.ts reads."""
    vite = ["node", "node_modules/vite/bin/vite.js", "build"]
    command = [*vite, "--logLevel", "error", "--outDir", str(folder), "--emptyOutDir"]
    subprocess.run(command, cwd=FRONTEND, env={**os.environ, **variables}, check=True)


def config_of(stack: Stack, functions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The page's config.json. `functions` are the functions' origins; by default all are the stack's."""
    names = ("chat", "keys", "checkout", "account")
    return {
        "functions": functions or dict.fromkeys(names, stack.info["functions_url"]),
        "supabase_url": stack.info["supabase_url"],
        "publishable_key": stack.info["publishable_key"],
        "parliament_url": stack.info["parliament_url"],
    }


@contextmanager
def hosted(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Serve a build as a host of static pages does: its files, and index.html for every other path. Yields the URL."""

    async def show_config(request: Request) -> Response:
        return JSONResponse(config)

    async def show_page(request: Request) -> Response:
        return FileResponse(folder / "index.html")

    routes = [
        Route("/config.json", show_config),
        Mount("/assets", StaticFiles(directory=folder / "assets")),
        Route("/{path:path}", show_page),
    ]
    with serve(Starlette(routes=routes)) as url:
        yield url
