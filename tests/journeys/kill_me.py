"""One turn of the real chat, in a process that kills itself at a chosen step: `kill_me.py STEP`, settings on stdin.

Steps count what the turn does: each call of the database, before it is sent and after it was carried out, and each
word that the turn says. Prints nothing; the exit status is that of SIGKILL, or 0 where the turn ended before the step.
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
    """Counts, and kills."""

    def __init__(self, last: int) -> None:
        self._left = last

    def step(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class MortalDatabase(Database):
    """Two steps a call."""

    def __init__(self, settings: ChatSettings, steps: Steps) -> None:
        super().__init__(settings)
        self._steps = steps

    async def call(self, function: str, params: Mapping[str, Any] | None = None, **how: Any) -> Any:
        self._steps.step()
        result = await super().call(function, params, **how)
        self._steps.step()
        return result


async def main() -> None:
    """One turn."""
    given = json.load(sys.stdin)
    steps = Steps(int(sys.argv[1]))
    settings = load(ChatSettings, given["environment"])

    say = Feed.write

    def write(feed: Feed, chunk: bytes) -> None:
        say(feed, chunk)
        steps.step()

    Feed.write = write  # type: ignore[method-assign]
    database, vault = MortalDatabase(settings, steps), load_vault(given["environment"])
    parliament = Parliament(settings.parliament_api_url, settings.represent_api_url, settings.contact)
    chat = Chat(database, Providers(settings), parliament, vault, Observer("kill-me"))
    answering = chat.start(given["user_id"], ChatRequest.model_validate(given["body"]), "request")
    with suppress(AppError):
        await answering.answer()
    await chat.close()


asyncio.run(main())
