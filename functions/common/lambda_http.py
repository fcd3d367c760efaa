"""What the functions that Mangum runs on Lambda share: keys, checkout, account and webhooks.

The chat does not import this module. It runs behind the Lambda Web Adapter, and its import time is measured.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from mangum import Mangum

from functions.common.observe import Observer
from functions.common.web import BODY_LIMIT, EVENTS_PATH, create_app

Handler = Callable[[Any, Any], dict[str, Any]]


def create_lambda_app(
    observer: Observer, close: Callable[[], Awaitable[None]], body_limit: int = BODY_LIMIT
) -> FastAPI:
    """An app that calls `close` when a server shuts it down.

    Whatever the routes need is built before the app and not in its lifespan, which Mangum would run for every request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await close()

    return create_app(observer, lifespan, body_limit)


# What the app receives in place of an event that is not an HTTP request, as from the Web Adapter.
OTHER_EVENT = {
    "version": "2.0",
    "rawPath": EVENTS_PATH,
    "rawQueryString": "",
    "headers": {},
    "requestContext": {"http": {"method": "POST", "path": EVENTS_PATH, "sourceIp": "127.0.0.1"}},
}


def _is_http_request(event: object) -> bool:
    """Whether this is the event of a request to a function URL.

    https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    """
    match event:
        case {
            "version": "2.0",
            "rawPath": str(),
            "headers": dict(),
            "requestContext": {"http": {"method": str(), "sourceIp": str()}},
        }:
            return True
        case _:
            return False


def lambda_handler(create: Callable[[], FastAPI]) -> Handler:
    """The function that Lambda calls. It creates the app at the first event."""

    @cache
    def adapter() -> Mangum:
        return Mangum(create(), lifespan="off")

    def handler(event: Any, context: Any) -> dict[str, Any]:
        return adapter()(event if _is_http_request(event) else OTHER_EVENT, context)

    return handler
