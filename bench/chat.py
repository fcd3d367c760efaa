"""The chat as the benchmarks start it: functions.chat.handler, which calls PostgREST directly.

On the platform there is a gateway between them. The local one is written in Python: its time and its CPU are not ours,
so the benchmarks pass it by. `timed` also measures the steps of each turn, and returns them at GET /_times.
"""

import os
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from fastapi import FastAPI

from functions.chat import handler
from functions.chat.providers import Event, Finished, Opened, Text, anthropic
from functions.common import auth
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings
from functions.common.web import json_response


class DirectDatabase(Database):
    """Calls SQL functions at PostgREST's own address."""

    def __init__(self, settings: SupabaseSettings, observer: Observer) -> None:
        super().__init__(settings, observer)
        self._rpc_url = f"{os.environ['POSTGREST_URL']}/rpc/"


def create() -> FastAPI:
    """The chat's app."""
    handler.Database = DirectDatabase  # type: ignore[misc]
    return handler.create()


def timed() -> FastAPI:
    """The chat's app with measured steps."""
    times: dict[str, list[float]] = defaultdict(list)
    params: dict[str, Mapping[str, Any]] = {}
    finished_at = 0.0

    def measured(step: str, started: float) -> float:
        now = time.perf_counter()
        times[step].append((now - started) * 1000)
        return now

    def around(owner: Any, name: str, step: Callable[..., str]) -> None:
        original = getattr(owner, name)

        async def wrapper(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            if step(*arguments) == "settle_query":
                measured("before settlement", finished_at)
            try:
                return await original(*arguments, **options)
            finally:
                measured(step(*arguments), started)
                if owner is Database:
                    params[arguments[1]] = arguments[2]

        setattr(owner, name, wrapper)

    stream = anthropic.Anthropic.stream

    async def timed_stream(*arguments: Any, **options: Any) -> AsyncGenerator[Event, None]:
        nonlocal finished_at
        started, waits_for = time.perf_counter(), {Opened: "headers", Text: "first delta"}
        async for event in stream(*arguments, **options):
            if step := waits_for.pop(type(event), None):
                started = measured(step, started)
            if isinstance(event, Finished):
                finished_at = time.perf_counter()
            yield event

    around(auth.Verifier, "verify", lambda *_: "token")
    around(Database, "call", lambda _, function, *rest: function)
    anthropic.Anthropic.stream = timed_stream  # type: ignore[method-assign]
    app = create()
    app.add_api_route("/_times", lambda: json_response({"times": times, "params": params}))
    return app
