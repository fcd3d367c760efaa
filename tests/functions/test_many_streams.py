"""Two hundred answers streamed at once by one chat process: all are finished and charged once, and its loop goes round."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import psycopg
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.local import model
from infra.local.auth import access_token, load_or_create_key
from infra.local.postgres import ROOT
from infra.local.serve import listener
from infra.local.stack import Stack
from tests.api import question
from tests.conftest import Person

STREAMS = 200
DELTAS = 60
PAUSE_S = 0.015
PROVIDERS = ("anthropic", "openai")
# So many open at a time, because admission refuses rather than waits (ADMIT_S), on a busy machine too.
OPENING = 20
# What the chat promises.
STALL_S = 0.1
MEMORY_KB = 300_000

Db = psycopg.Connection[dict[str, Any]]


class Gate:
    """The model stand-in. While the gate is closed its answers stop after their first words."""

    WORDS = 10  # messages, by which both providers have sent some text

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._is_open = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/_gate":
            if scope["method"] == "DELETE":
                self._is_open.set()
            else:
                self._is_open.clear()
            await Response(status_code=204)(scope, receive, send)
            return
        sent = 0

        async def gated(message: Message) -> None:
            nonlocal sent
            await send(message)
            sent += 1
            if sent == self.WORDS:
                await self._is_open.wait()

        await self._app(scope, receive, gated)


def provider() -> ASGIApp:
    """The model stand-in behind a gate, for tests.functions.watched."""
    return Gate(model.create_app(PAUSE_S))


@contextmanager
def served(factory: str, **environment: str) -> Iterator[str]:
    """An app in a process of its own, watched. Gives its address."""
    with listener(0) as listening:
        command = [sys.executable, "-m", "tests.functions.watched", factory, str(listening.fileno())]
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        process = subprocess.Popen(
            command, cwd=ROOT, env={**inherited, **environment}, stdout=subprocess.DEVNULL, pass_fds=[listening.fileno()]
        )
        host, port = listening.getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def provider_url() -> Iterator[str]:
    """The provider, in a process of its own."""
    with served("tests.functions.test_many_streams:provider") as url:
        yield url
