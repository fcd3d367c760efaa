"""Turns of the real chat in processes that kill themselves at a step.

Reads lines of JSON from stdin, one `{"environment", "user_id", "body", "step"}` for each turn. Starting Python takes a
second, so this process imports everything once and forks for each turn. It answers each with a line: the exit status of
the turn's process, which is 0 if the turn ended before the step, and -9 after SIGKILL.

A step is the time before or after a call of the database, or after a chunk of output.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from functions.chat.chat import Chat
from functions.chat.feed import Feed
from functions.chat.providers import Providers
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.sources import Parliament
from functions.common.database import Database
from functions.common.errors import AppError
from functions.common.observe import Observer
from functions.common.settings import load, load_vault
from functions.server import ON_DEMAND


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
        super().__init__(settings, Observer("killable-turn"))
        self._steps = steps

    async def call(self, function: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        self._steps.step()
        result = await super().call(function, params, **options)
        self._steps.step()
        return result


async def run(turn: dict[str, Any]) -> None:
    """One turn."""
    steps = Steps(turn["step"])
    settings = load(ChatSettings, turn["environment"])

    original_write = Feed.write

    def write(feed: Feed, chunk: bytes) -> None:
        original_write(feed, chunk)
        steps.step()

    Feed.write = write  # type: ignore[method-assign]
    database, vault = SteppedDatabase(settings, steps), load_vault(turn["environment"])
    parliament = Parliament.at(settings.addresses, settings.contact)
    chat = Chat(database, Providers(settings), parliament, vault, Observer("killable-turn"))
    answering = chat.start(turn["user_id"], ChatRequest.model_validate(turn["body"]))
    with suppress(AppError):
        await answering.answer()
    await chat.close()


def main() -> None:
    """Fork for each line of stdin."""
    statuses = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep the chat's log out of the statuses
    for name in ON_DEMAND:
        importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(run(json.loads(line)))
            except BaseException:  # noqa: BLE001 -- the test reports any error
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        statuses.write(f"{os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
