"""The chat function's routes. Run by uvicorn: `uvicorn --factory functions.chat.handler:create`.

On Lambda that is what run.sh does, under the AWS Lambda Web Adapter, which streams the response.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from functions.chat import limits, wire
from functions.chat.providers import Providers
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.turn import Chat
from functions.common.auth import CurrentUser, Verifier
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import load, load_vault, variables
from functions.common.web import create_app, json_body, json_response

ChatBody = Annotated[ChatRequest, Depends(json_body(ChatRequest))]


def get_chat(request: Request) -> Chat:
    """The running app's chat."""
    chat: Chat = request.app.state.chat
    return chat


CurrentChat = Annotated[Chat, Depends(get_chat)]


async def post_chat(user: CurrentUser, body: ChatBody, chat: CurrentChat, request: Request) -> Response:
    """Answer the last message: streamed, or whole for `Accept: application/json`."""
    feed = chat.start(user.id, body, request.state.request_id)
    accept = request.headers.get("accept", "")
    if "application/json" in accept and "text/event-stream" not in accept:
        return json_response(await feed.answer())
    await feed.opened()
    return StreamingResponse(feed.read(limits.KEEP_ALIVE_S), headers=wire.HEADERS)


async def get_usage(user: CurrentUser, chat: CurrentChat) -> Response:
    """What the user's plan has left."""
    return json_response(await chat.database.call("usage_summary", user_token=user.token))


async def get_health() -> Response:
    """That the function runs. Asks nothing of anything else."""
    return json_response({"status": "ok"})


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    known = variables()
    settings, vault = load(ChatSettings, known), load_vault(known)
    observer = Observer("chat")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.verifier = Verifier(settings)
        app.state.chat = Chat(Database(settings), Providers(settings), vault, observer)
        yield
        await app.state.chat.close()

    app = create_app(observer, lifespan)
    app.add_api_route("/chat", post_chat, methods=["POST"])
    app.add_api_route("/usage", get_usage, methods=["GET"])
    app.add_api_route("/health", get_health, methods=["GET"])
    return app
