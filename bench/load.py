"""The model provider and the clients of the benchmarks: two small C programs, so that neither is what is measured.

provider.c replays streams, driver.c opens streams and measures them. Both are compiled when they are needed.
"""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from infra.local.postgres import ROOT
from infra.local.serve import listener

HERE = Path(__file__).parent
START_S = 90.0
FILES = 8192  # open files for thousands of connections in a process
EVENT = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Parts = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Stream:
    """One exchange of the driver. Times are in milliseconds since its start; `first` is -1 where nothing came."""

    status: int
    retry_after: bool
    complete: bool
    started: float
    first: float
    ended: float

    @property
    def waited(self) -> float:
        """The time to the first text."""
        return self.first - self.started

    @property
    def lasted(self) -> float:
        """The time to the end."""
        return self.ended - self.started


@dataclass(frozen=True, slots=True)
class Programs:
    """The compiled programs."""

    folder: Path

    @classmethod
    def compiled(cls, folder: Path) -> Self:
        """Compiles driver.c and provider.c into a folder. Exits where there is no compiler."""
        if not sys.platform.startswith("linux"):
            sys.exit("The benchmarks of turns run on Linux only: their load uses epoll.")
        if not shutil.which("cc"):
            sys.exit("The benchmarks of turns need a C compiler (Debian and Ubuntu: apt-get install gcc libc6-dev).")
        for name in ("provider", "driver"):
            command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", folder / name, HERE / f"{name}.c"]
            subprocess.run(command, check=True)
        return cls(folder)

    @contextmanager
    def provider(self, streams: Mapping[str, Parts]) -> Iterator[str]:
        """Runs the provider with these streams by path. Yields its URL."""
        path = self.folder / "streams"
        with path.open("wb") as file:
            for name, parts in streams.items():
                lengths = " ".join(str(len(part)) for part in parts)
                file.write(f"{name} {lengths}\n".encode() + b"".join(parts))
        with listener(0) as listening:
            host, port = listening.getsockname()
            command = [self.folder / "provider", str(listening.fileno()), path]
            process = subprocess.Popen(command, pass_fds=[listening.fileno()])
        with process:
            try:
                yield f"http://{host}:{port}"
            finally:
                process.kill()

    def drive(
        self, requests: Sequence[bytes], url: str, *, at_once: int, a_second: float = 0, first: bytes, last: bytes
    ) -> list[Stream]:
        """Sends all requests, `at_once` at a time and at most `a_second`. `first` marks text, `last` the end."""
        port = urlsplit(url).port
        command = [self.folder / "driver", str(port), str(at_once), str(a_second), first, last]
        sent = b"".join(b"%d\n%b" % (len(request), request) for request in requests)
        done = subprocess.run(command, input=sent, capture_output=True, check=True)
        streams = []
        for line in done.stdout.decode().splitlines():
            status, retry_after, complete, *times = line.split()
            streams.append(Stream(int(status), retry_after == "1", complete == "1", *map(float, times)))
        return streams


def raise_file_limit() -> None:
    """Allows this process and its children enough open files. Exits where the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        sys.exit(f"The benchmarks of turns need {FILES} open files a process; the hard limit is {hard} (ulimit -Hn).")
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


def post(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    """The bytes of a request."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def chunked(frames: Sequence[bytes]) -> bytes:
    """Frames of a stream, each as a chunk of HTTP/1.1."""
    return b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)


def parts(frames: Sequence[bytes], marker: bytes) -> Parts:
    """The parts of a stream: up to the first frame with the marker, that frame, and what follows the last one."""
    deltas = [index for index, frame in enumerate(frames) if marker in frame]
    head, tail = frames[: deltas[0]], frames[deltas[-1] + 1 :]
    return EVENT + chunked(head), chunked([frames[deltas[0]]]), chunked(tail) + b"0\r\n\r\n"


def recorded(model_url: str, path: str, marker: bytes) -> Parts:
    """The parts of a stream of the model's stand-in."""
    body: dict[str, Any] = {"model": "claude-haiku-4-5", "stream": True}
    body |= {"messages": [{"role": "user", "content": "What is a quorum? [fault:long 2]"}]}
    content = httpx.post(model_url + path, json=body, headers={"authorization": "Bearer stand-in"}).content
    return parts([frame + b"\n\n" for frame in content.split(b"\n\n")[:-1]], marker)


def cpu_seconds(root: int) -> float:
    """The CPU time of a process and its descendants so far, those that ended included."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")


def memory_kb(pid: int) -> int:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@contextmanager
def serving(command: Sequence[str], environment: Mapping[str, str], port: int) -> Iterator[int]:
    """Runs a server until the end, once it accepts connections. Yields its process id."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    inherited["PATH"] = f"{Path(sys.executable).parent}:{inherited['PATH']}"
    with subprocess.Popen(command, cwd=ROOT, env={**inherited, **environment}, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_S
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert process.poll() is None, f"{command[0]} ended with status {process.returncode}"
                assert time.monotonic() < deadline, f"{command[0]} did not start within {START_S} s"
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
