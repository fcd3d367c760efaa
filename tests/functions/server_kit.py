"""`python -m functions` against a running stack."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.chat_kit import chat_environment
from tests.servers import free_port

ORIGIN = "https://canadagpt.example"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The process and its URL. Its output is in `log_file`."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text()


@contextmanager
def running_server(stack: Stack, folder: Path, **variables: str) -> Iterator[RunningServer]:
    """Starts the server and waits for /health. Raises RuntimeError with the log if it ends before."""
    port = free_port()
    environment = {
        **chat_environment(stack),
        "STRIPE_SECRET_KEY": stack.info["stripe_secret_key"],
        "STRIPE_WEBHOOK_SECRET": stack.info["stripe_webhook_secret"],
        "STRIPE_API_BASE": stack.info["stripe_url"],
        "ALLOWED_ORIGINS": ORIGIN,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        **variables,
    }
    log_file = folder / "log"
    with (
        log_file.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "functions"], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        running = RunningServer(f"http://127.0.0.1:{port}", process, log_file)
        try:
            deadline = time.monotonic() + 60
            while not _healthy(running.url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(running.log())
                time.sleep(0.05)
            yield running
        finally:
            process.kill()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.ConnectError:
        return False
