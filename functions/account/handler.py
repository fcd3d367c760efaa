"""The routes of the account. `handler` runs on Lambda; `create` makes the app for any other server."""

import re
import uuid
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel, Field, model_validator

from functions.account.account import UserAccount
from functions.account.responses import Feedback, Share, SharedConversation, Usage
from functions.account.settings import AccountSettings
from functions.common.auth import CurrentUser, Verifier
from functions.common.errors import (
    AccountBlocked,
    Forbidden,
    NotFound,
    PaymentUnavailable,
    TooLarge,
    TooManyRequests,
    Unavailable,
)
from functions.common.lambda_http import create_lambda_app, lambda_handler
from functions.common.observe import Observer
from functions.common.operation import Operation
from functions.common.settings import load
from functions.common.validation import problem
from functions.common.web import ChatId, Deleted, Stopping, json_body, json_response, language_of

COMMENT_CHARACTERS = 2000
OPENAPI_MAX_AGE_S = 300
TOKEN_CHARACTERS = range(32, 65)


class FeedbackRequest(BaseModel):
    """The body of PUT /messages/{message_id}/feedback. A rating of null removes the feedback."""

    rating: Literal["up", "down"] | None
    comment: Annotated[str, Field(min_length=1, max_length=COMMENT_CHARACTERS)] | None = None

    @model_validator(mode="after")
    def _comment_has_a_rating(self) -> "FeedbackRequest":
        if self.rating is None and self.comment is not None:
            raise problem("comment")
        return self


class DeletionRequest(BaseModel):
    """The body of DELETE /account. `confirm`: the e-mail address of the account."""

    confirm: Annotated[str, Field(max_length=320)]


async def get_account(request: Request) -> UserAccount:
    """The app's UserAccount."""
    account: UserAccount = request.app.state.account
    return account


async def message_id_of(message_id: str) -> str:
    """The id of an answer from the path. Raises NotFound where it cannot be one."""
    try:
        return str(uuid.UUID(message_id))
    except ValueError as error:
        raise NotFound from error


CurrentAccount = Annotated[UserAccount, Depends(get_account)]
MessageId = Annotated[str, Depends(message_id_of)]
FeedbackBody = Annotated[FeedbackRequest, Depends(json_body(FeedbackRequest))]
DeletionBody = Annotated[DeletionRequest, Depends(json_body(DeletionRequest))]


@Operation(Usage)
async def get_usage(user: CurrentUser, account: CurrentAccount, request: Request) -> Response:
    """The user's plan and what is left of it."""
    return json_response(await account.usage(user, language_of(request)))


@Operation(Stopping, status=202, errors=(NotFound,))
async def post_stop(user: CurrentUser, chat_id: ChatId, account: CurrentAccount) -> Response:
    """Stop the running answer. 202 even where there is none, because it may have ended just now.

    The chat has the same route. This one also answers while every process of the chat is busy.
    """
    return json_response({"stopping": await account.stop(user, chat_id)}, status=202)


@Operation(Feedback, body=FeedbackRequest, errors=(NotFound,))
async def put_feedback(
    user: CurrentUser, message_id: MessageId, body: FeedbackBody, account: CurrentAccount
) -> Response:
    """Rate an answer."""
    await account.rate(user, message_id, body.rating, body.comment)
    return json_response({"rating": body.rating, "comment": body.comment})


@Operation(Share, errors=(AccountBlocked, NotFound, TooLarge))
async def post_share(user: CurrentUser, chat_id: ChatId, account: CurrentAccount, request: Request) -> Response:
    """Share a copy of a conversation with everybody who has the link."""
    shared = await account.share(user, chat_id)
    url = f"{request.base_url}shared/{shared['token']}"
    return json_response({"token": shared["token"], "url": url, "expires_at": shared["expires_at"]})


@Operation(Deleted, errors=(NotFound,))
async def delete_share(user: CurrentUser, chat_id: ChatId, account: CurrentAccount) -> Response:
    """Stop sharing a conversation."""
    return json_response({"deleted": await account.unshare(user, chat_id)})


@Operation(SharedConversation, caller="anyone", errors=(NotFound, Unavailable))
async def get_shared(token: str, account: CurrentAccount) -> Response:
    """A shared conversation, for everybody who has the link. It is not cached, because it may end at any time."""
    if len(token) not in TOKEN_CHARACTERS or "\x00" in token:
        raise NotFound
    headers = {"cache-control": "no-store", "x-robots-tag": "noindex"}
    return json_response(await account.shared(token), headers=headers)


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header names gzip with another weight than 0 (RFC 9110, section 12.5.3)."""
    for entry in header.lower().split(","):
        coding, _, weight = entry.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return not re.fullmatch(r"0(\.0*)?", weight)
    return False


@Operation(dict[str, Any], errors=(TooLarge, TooManyRequests))
async def get_export(user: CurrentUser, account: CurrentAccount, request: Request) -> Response:
    """Everything that is stored about the user."""
    compressed = accepts_gzip(request.headers.get("accept-encoding", ""))
    headers = {"content-disposition": 'attachment; filename="account.json"', "cache-control": "no-store"}
    if compressed:
        headers["content-encoding"] = "gzip"
    content = await account.export(user, compressed=compressed)
    return Response(content, headers=headers, media_type="application/json")


@Operation(Deleted, body=DeletionRequest, errors=(Forbidden, PaymentUnavailable))
async def delete_account(user: CurrentUser, body: DeletionBody, account: CurrentAccount) -> Response:
    """Delete the user and all their data."""
    await account.delete(user, body.confirm)
    return json_response({"deleted": True})


@cache
def openapi() -> bytes:
    """The description of the HTTP API of all functions."""
    return (Path(__file__).resolve().parents[2] / "docs" / "openapi.json").read_bytes()


@Operation(dict[str, Any], caller="anyone")
async def get_openapi() -> Response:
    """This description."""
    headers = {"cache-control": f"public, max-age={OPENAPI_MAX_AGE_S}"}
    return Response(openapi(), headers=headers, media_type="application/json")


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    settings = load(AccountSettings)
    observer = Observer("account")
    account = UserAccount(settings, observer)
    app = create_lambda_app(observer, account.close)
    app.state.verifier = Verifier(settings, observer)
    app.state.account = account
    app.add_api_route("/openapi.json", get_openapi, methods=["GET"])
    app.add_api_route("/usage", get_usage, methods=["GET"])
    app.add_api_route("/chat/{chat_id:text}/stop", post_stop, methods=["POST"])
    app.add_api_route("/chat/{chat_id:text}/share", post_share, methods=["POST"])
    app.add_api_route("/chat/{chat_id:text}/share", delete_share, methods=["DELETE"])
    app.add_api_route("/shared/{token}", get_shared, methods=["GET"])
    app.add_api_route("/messages/{message_id}/feedback", put_feedback, methods=["PUT"])
    app.add_api_route("/account/export", get_export, methods=["GET"])
    app.add_api_route("/account", delete_account, methods=["DELETE"])
    return app


handler = lambda_handler(create)
