"""The page on other origins than the stack's, and built with another version of the AI SDK."""

import subprocess
from pathlib import Path

from infra.local.postgres import ROOT

FRONTEND = ROOT / "frontend"


def build_with_ai_sdk_6(folder: Path) -> None:
    """Build the page with the AI SDK 6 into the folder."""
    settings = ["--config", "../tests/clients/vite.ai6.config.ts", "--configLoader", "native"]
    vite = ["node", "node_modules/vite/bin/vite.js", "build", *settings, "--logLevel", "error"]
    subprocess.run([*vite, "--outDir", str(folder), "--emptyOutDir"], cwd=FRONTEND, check=True)
