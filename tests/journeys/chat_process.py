"""A second process of the chat function, beside that of the stack, as on Lambda."""

import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.postgres import ROOT
from infra.local.processes import Child, Processes
from infra.local.stack import Stack, answers, locked
from tests.chat_kit import chat_environment


@dataclass(slots=True)
class Process:
    """A process of the chat function that listens at `url`."""

    url: str
    env: Mapping[str, str]
    processes: Processes
    child: Child = field(init=False)

    def start(self) -> None:
        """Start it, also again after it was killed."""
        self.child = self.processes.start("chat", ["sh", str(ROOT / "functions/chat/run.sh")], env=self.env)
        self.child.wait_until(lambda: answers(f"{self.url}/health"))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.child.process.send_signal(number)

    def kill(self) -> None:
        """Kill it with SIGKILL, as Lambda may do at any moment."""
        self.processes.stop_one(self.child, signal.SIGKILL)


@contextmanager
def chat_process(stack: Stack, folder: Path) -> Iterator[Process]:
    """Starts a second process of the chat function, as on Lambda."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**chat_environment(stack), "PATH": path, "AWS_LWA_PORT": str(port)}
    with locked(folder) as lock, Processes(folder, lock) as processes:
        process = Process(f"http://127.0.0.1:{port}", env, processes)
        process.start()
        yield process
