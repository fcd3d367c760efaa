"""functions/chat/run.sh, the script that Lambda starts."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.package.kit import ROOT, unpack_stub
from tests.servers import free_port

STUB = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            print(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    print("answered", scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def create():
    return app
"""


@pytest.fixture
def task_root(tmp_path: Path) -> Path:
    """The unpacked artifact, with a stub in place of the app."""
    return unpack_stub(tmp_path, STUB)


@contextmanager
def run_script(task_root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Runs run.sh as the adapter does: by its path, with the task root and the port in the environment."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LAMBDA_TASK_ROOT": str(task_root),
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "AWS_LWA_PORT": str(port),
    }
    script = str(task_root / "functions/chat/run.sh")
    with (
        (task_root / "log").open("wb") as log,
        subprocess.Popen(
            [script], cwd="/", env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group, because uvicorn survives without `exec` in run.sh


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().read() == b"ok"
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


def test_run_sh_logs_immediately_and_stops_on_sigterm(task_root: Path) -> None:
    """Lambda freezes the process after an answer, so output must not be buffered. SIGTERM must reach the app."""
    port = free_port()
    with run_script(task_root, port) as process:
        deadline = time.monotonic() + 30
        while not healthy(port):
            assert process.poll() is None, (task_root / "log").read_text()
            assert time.monotonic() < deadline, "run.sh did not answer /health"
            time.sleep(0.02)
        assert (task_root / "log").read_text() == "lifespan.startup\nanswered /health\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) in {0, -signal.SIGTERM}
        assert (task_root / "log").read_text().endswith("lifespan.shutdown\n")
    assert not healthy(port)


def test_run_sh_fails_if_the_app_cannot_start(task_root: Path) -> None:
    """The adapter detects a failed start by the end of the script."""
    (task_root / "functions/chat/handler.py").write_text("raise RuntimeError('SUPABASE_URL is missing')\n")
    with run_script(task_root, free_port()) as process:
        assert process.wait(timeout=30) > 0
    assert "SUPABASE_URL is missing" in (task_root / "log").read_text()


def test_the_loop_and_the_parser_of_run_sh_are_packaged() -> None:
    script = (ROOT / "functions/chat/run.sh").read_text()
    locked = (ROOT / "requirements/chat.txt").read_text()
    for option in ("loop", "http"):
        (package,) = re.findall(rf"--{option} (\w+)", script)
        assert f"\n{package}==" in locked
