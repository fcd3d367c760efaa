"""What the functions that Mangum runs on Lambda share: keys, checkout and webhooks.

The chat does not import this module. It runs behind the Lambda Web Adapter, and its import time is measured.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from mangum import Mangum

from functions.common.observe import Observer
from functions.common.web import create_app

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]


def create_lambda_app(observer: Observer, close: Callable[[], Awaitable[None]]) -> FastAPI:
    """An app that calls `close` when a server shuts it down.

    Whatever the routes need is built before the app and not in its lifespan, which Mangum would run for every request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await close()

    return create_app(observer, lifespan)


def lambda_handler(create: Callable[[], FastAPI]) -> Handler:
    """The function that Lambda calls. It creates the app at the first event."""

    @cache
    def adapter() -> Mangum:
        return Mangum(create(), lifespan="off")

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        return adapter()(event, context)

    return handler
