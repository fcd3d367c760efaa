"""The routes of the chat function: `uvicorn --factory functions.chat.handler:create`.

On Lambda run.sh starts it under the AWS Lambda Web Adapter, which streams the response.
"""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from functions.chat import limits, messages
from functions.chat.chat import Chat
from functions.chat.event_stream import EventStream
from functions.chat.metering import Arrival
from functions.chat.providers import Providers, prices
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.sources import Parliament
from functions.chat.wire import WholeAnswer
from functions.common import errors
from functions.common.auth import CurrentUser, Verifier, current_user
from functions.common.database import Database
from functions.common.errors import NotFound
from functions.common.observe import Observer
from functions.common.operation import Operation
from functions.common.settings import SettingsError, load, load_vault, read_environment
from functions.common.web import ChatId, Stopping, create_app, json_body, json_response, lambda_context, language_of

read_question = json_body(ChatRequest)


async def get_chat(request: Request) -> Chat:
    """The app's Chat."""
    chat: Chat = request.app.state.chat
    return chat


CurrentChat = Annotated[Chat, Depends(get_chat)]
DEADLINE = "x-deadline"
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


def seconds_left(request: Request) -> float:
    """How long a turn may take: on Lambda the time left, which the Web Adapter sends, minus a margin to settle."""
    try:
        deadline_ms = int(lambda_context(request.scope)["deadline"])
    except (KeyError, TypeError, ValueError):
        return limits.TURN_S
    return min(limits.TURN_S, deadline_ms / 1000 - time.time() - limits.DEADLINE_MARGIN_S)


def deadline_source(request: Request) -> str:
    """Whether Lambda's deadline arrives with requests: `lambda` or `default`. `make smoke` reads it."""
    return "lambda" if "x-amzn-lambda-context" in request.headers else "default"


class PlainRoute(Route):
    """A route without FastAPI's dependencies, which is named in the request's log line."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["route"] = self
        await super().handle(scope, receive, send)


@Operation(
    WholeAnswer,
    body=ChatRequest,
    streams=True,
    errors=(
        *(errors.PaymentRequired, errors.ByokBalanceExhausted, errors.Forbidden, errors.AccountBlocked),
        *(errors.EmailNotConfirmed, errors.NotFound, errors.RequestInProgress, errors.Conflict),
        *(errors.AlreadyAnswered, errors.ByokKeyRejected, errors.ModelNotAvailable, errors.TooManyRequests),
        *(errors.QuotaExhausted, errors.OverageLimitReached, errors.ProviderError, errors.ProviderOverloaded),
        errors.ProviderTimeout,
    ),
)
async def post_chat(request: Request) -> Response:
    """Answer the last message: as a stream, or as one JSON document for `Accept: application/json`.

    A plain route of Starlette: FastAPI's dependencies would add 0.5 ms to the first text.
    """
    await started(request)
    user = await current_user(request)
    question = await read_question(request)
    question.language = language_of(request)
    chat: Chat = request.app.state.chat
    arrival = Arrival(request.state.request_id, request.state.started, request.state.aws_request_id, user.session_id)
    feed = chat.start(user.id, question, arrival, seconds_left(request))
    accept = request.headers.get("accept", "")
    if "application/json" in accept and "text/event-stream" not in accept:
        return json_response(await feed.answer())
    await feed.opened_within(limits.KEEP_ALIVE_S)
    return EventStream(feed.read(limits.KEEP_ALIVE_S))


@Operation(Stopping, status=202, errors=(NotFound,))
async def post_stop(user: CurrentUser, chat_id: ChatId, chat: CurrentChat) -> Response:
    """Stop the running answer. 202 even where there is none, because it may have ended just now.

    The account function has the same route, for a chat that has no process free.
    """
    return json_response({"stopping": await chat.stop(user.id, chat_id)}, status=202)


@Operation(None, streams=True, may_be_empty=True, errors=(NotFound, errors.TooManyFollowers))
async def get_stream(user: CurrentUser, chat_id: ChatId, chat: CurrentChat, request: Request) -> Response:
    """The running answer from its start, then live; 204 where there is none."""
    events = await chat.resume(user.id, chat_id, request.state.request_id, language_of(request))
    return EventStream(events) if events else Response(status_code=204, headers={DEADLINE: deadline_source(request)})


@Operation(messages.ChatMessages, errors=(NotFound, errors.InvalidRequest))
async def get_messages(user: CurrentUser, chat_id: ChatId, chat: CurrentChat, before: Before = None) -> Response:
    """The chat's messages as the streams built them, the question of a running answer included."""
    return json_response(await messages.read(chat.database, user.id, chat_id, before))


async def any_mcp(request: Request) -> Response:
    """A message of a user's own assistant. Raises NotFound where the Model Context Protocol is off."""
    await started(request)
    if not request.app.state.settings.mcp_enabled:
        raise NotFound
    user = await current_user(request)
    from functions.chat import mcp  # off by default

    return await mcp.answer(request, user, request.app.state.chat, request.app.state.settings.allowed_origins)


def start(app: FastAPI) -> None:
    """Build what the routes share, from the environment. Raises SettingsError."""
    environment = read_environment()
    settings, vault = load(ChatSettings, environment), load_vault(environment)
    observer: Observer = app.state.observer
    app.state.settings = settings
    app.state.verifier = Verifier(settings, observer)
    database = Database(settings, observer)
    parliament = Parliament.at(settings.addresses, settings.contact, database)
    app.state.chat = Chat(database, Providers(settings), parliament, vault, observer)


async def started(request: Request) -> None:
    """Start the app at its first request, if `create` has not. Raises SettingsError."""
    state = request.app.state
    if not hasattr(state, "chat"):
        try:
            start(request.app)
        except SettingsError as error:
            state.observer.failure(str(error), error)  # the sentence has no values
            raise


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError.

    With SECRETS_ID it starts at its first request except /health, because AWS's extension serves secrets only while the
    function processes one, and the Web Adapter waits for /health before. A request that finds no settings gets a 500.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gc.freeze()  # What exists now is never freed: a full collection of it would take 100 ms.
        # The first step needs the price list. It is loaded while the first request is admitted.
        asyncio.get_running_loop().run_in_executor(None, prices.load)
        yield
        if hasattr(app.state, "chat"):
            await app.state.chat.close()

    observer = Observer("chat")
    app = create_app(observer, lifespan)
    app.state.observer = observer
    if not os.environ.get("SECRETS_ID"):
        start(app)
    late = [Depends(started)]
    app.router.routes.append(PlainRoute("/chat", post_chat, methods=["POST"]))
    app.add_api_route("/chat/{chat_id:text}/stop", post_stop, methods=["POST"], dependencies=late)
    app.add_api_route("/chat/{chat_id:text}/stream", get_stream, methods=["GET"], dependencies=late)
    app.add_api_route("/chat/{chat_id:text}/messages", get_messages, methods=["GET"], dependencies=late)
    app.router.routes.append(PlainRoute("/mcp", any_mcp, methods=["GET", "POST", "DELETE"]))
    return app
