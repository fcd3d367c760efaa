"""The page built with the AI SDK 6, on the origin of Vite's development server."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser

from infra.local import page
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.page.kit import launch
from tests.servers import serve

FRONTEND = ROOT / "frontend"
VITE = "http://localhost:5173"


def build_with_ai_sdk_6(folder: Path) -> None:
    """Build the page with the AI SDK 6 into the folder."""
    vite = ["node", "node_modules/vite/bin/vite.js", "build", "--logLevel", "error", "--emptyOutDir"]
    subprocess.run([*vite, "--outDir", str(folder)], cwd=FRONTEND, env={**os.environ, "AI_SDK": "6"}, check=True)


@contextmanager
def served_as_by_vite(chromium: Browser, chromium_folder: Path | None, stack: Stack, dist: Path) -> Iterator[Browser]:
    """Serve a build. Yields a browser that finds it at VITE, where a developer's own server may be running."""
    config = httpx.get(f"{stack.info['page_url']}/config.json").json()
    with serve(page.create_app({**config, "stack": False}, dist)) as url:
        rule = f"--host-resolver-rules=MAP {VITE.removeprefix('http://')} {url.removeprefix('http://')}"
        with launch(chromium.browser_type, chromium_folder, rule) as browser:
            yield browser
