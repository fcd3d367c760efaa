"""One turn of the real chat in a process that kills itself at a step: `killable_turn.py STEP`, the turn on stdin.

A step is the time before or after a call of the database, or after a chunk of output. Prints nothing. The exit status
is that of SIGKILL, or 0 if the turn ended before the step.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from functions.chat.chat import Chat
from functions.chat.feed import Feed
from functions.chat.providers import Providers
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.tools.parliament import Parliament
from functions.common.database import Database
from functions.common.errors import AppError
from functions.common.observe import Observer
from functions.common.settings import load, load_vault


class Steps:
    """Counts steps and kills the process at the last one."""

    def __init__(self, last: int) -> None:
        self._left = last

    def step(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class SteppedDatabase(Database):
    """A database with two steps a call."""

    def __init__(self, settings: ChatSettings, steps: Steps) -> None:
        super().__init__(settings)
        self._steps = steps

    async def call(self, function: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        self._steps.step()
        result = await super().call(function, params, **options)
        self._steps.step()
        return result


async def main() -> None:
    """One turn."""
    turn = json.load(sys.stdin)
    steps = Steps(int(sys.argv[1]))
    settings = load(ChatSettings, turn["environment"])

    original_write = Feed.write

    def write(feed: Feed, chunk: bytes) -> None:
        original_write(feed, chunk)
        steps.step()

    Feed.write = write  # type: ignore[method-assign]
    database, vault = SteppedDatabase(settings, steps), load_vault(turn["environment"])
    parliament = Parliament(settings.parliament_api_url, settings.represent_api_url, settings.contact)
    chat = Chat(database, Providers(settings), parliament, vault, Observer("killable-turn"))
    answering = chat.start(turn["user_id"], ChatRequest.model_validate(turn["body"]), "request")
    with suppress(AppError):
        await answering.answer()
    await chat.close()


asyncio.run(main())
