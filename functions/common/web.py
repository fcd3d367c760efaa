"""What the HTTP functions share: request ids, the body limit, errors as JSON, one log line per request.

Pure ASGI, because each of Starlette's BaseHTTPMiddleware adds 0.45 ms per request and interferes with streams.
"""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NotRequired, TypeVar

import orjson
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from functions.common import money, surrogates
from functions.common.errors import (
    AppError,
    Internal,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NotAnHttpRequest,
    NotFound,
    TooLarge,
)
from functions.common.ids import ID_CHARACTERS, new_request_id
from functions.common.language import LANGUAGES, Language, preferred
from functions.common.observe import Observer
from functions.common.operation import Operation
from functions.common.reasons import Action
from functions.common.turnstile import Turnstile
from functions.common.validation import field_errors, field_problem, read_errors

BODY_LIMIT = 256 * 1024
# The Web Adapter posts an event that is not an HTTP request, such as a test event of AWS's console, to this path.
# https://github.com/awslabs/aws-lambda-web-adapter/blob/main/docs/guide/src/features/non-http-events.md
EVENTS_PATH = "/events"
# A body over the limit is read up to here and discarded, so that the client gets the response and not a reset.
DRAIN_LIMIT = 4 * 1024 * 1024

MAX_FIELD_ERRORS = 20
AWS_REQUEST_ID = re.compile("[0-9a-f-]{36}")

M = TypeVar("M", bound=BaseModel)


class Health(TypedDict):
    """The function runs."""

    status: Literal["ok"]


class Stopping(TypedDict):
    """Whether there was an answer to stop."""

    stopping: bool


class Deleted(TypedDict):
    """Whether there was something to delete."""

    deleted: bool


class InvalidField(TypedDict):
    """What is wrong with a field of a request."""

    field: str
    message: str


class ErrorDetails(TypedDict):
    """Why a request is refused or failed. `message` is for the user, `action` what helps. The other fields depend on
    the reason: docs/error_codes.md."""

    code: str
    message: str
    reason_code: str
    action: Action
    request_id: str
    reason: NotRequired[str]
    requires_payment: NotRequired[bool]
    resets_at: NotRequired[str | None]
    url: NotRequired[str | None]
    provider: NotRequired[str]
    model: NotRequired[str]
    models: NotRequired[str | None]
    limit_kib: NotRequired[int]
    fields: NotRequired[list[InvalidField]]


class ErrorResponse(TypedDict):
    """The body of every response with an error."""

    error: ErrorDetails


def create_app(observer: Observer, lifespan: Lifespan[FastAPI], body_limit: int = BODY_LIMIT) -> FastAPI:
    """A FastAPI app with the shared middleware and error handlers, without documentation routes.

    `body_limit`: the largest body of a request, in bytes.
    """
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    app.add_middleware(RequestMiddleware, observer=observer, body_limit=body_limit)
    app.add_api_route(EVENTS_PATH, _refuse_event, methods=["POST"])
    app.add_api_route("/health", get_health, methods=["GET", "HEAD"])  # monitors send HEAD
    return app


@Operation(Health, caller="anyone")
async def get_health() -> Response:
    """Whether the function runs. Makes no other request."""
    return json_response({"status": "ok"})


class TextConvertor(Convertor[str]):
    """Any text in a path. Starlette's `path` has no line breaks, which a chat's id may have."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        """The text."""
        return value

    def to_string(self, value: str) -> str:
        """The text."""
        return value


register_url_convertor("text", TextConvertor())


async def _refuse_event() -> None:
    raise NotAnHttpRequest


async def chat_id_of(chat_id: str) -> str:
    """The chat's id from the path. Raises NotFound where it cannot be one."""
    if not 1 <= len(chat_id) <= ID_CHARACTERS or "\x00" in chat_id:
        raise NotFound
    return chat_id


ChatId = Annotated[str, Depends(chat_id_of)]


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response. A Decimal becomes a number with exactly its digits."""
    return Response(money.dumps(content), status, headers, media_type="application/json")


def language_of(request: Request) -> Language:
    """The language of a response: the body's `language`, else the Accept-Language header, else English."""
    named: Language | None = getattr(request.state, "language", None)
    return named or preferred(request.headers.get("accept-language", ""))


def note_language(request: Request, body: Any) -> None:
    """Respond in the language that the request's body names, if it names one."""
    if isinstance(body, dict) and body.get("language") in LANGUAGES:
        request.state.language = body["language"]


def error_fields(error: AppError, request_id: str, language: Language) -> dict[str, Any]:
    """The fields of an error in a response. Where the action is to wait, `resets_at` says until when, if known."""
    fields = {
        "code": error.code,
        "message": error.sentence(language),
        "reason_code": error.reason.code,
        "action": error.reason.action,
        "request_id": request_id,
        **error.details_in(language),
    }
    if error.reason.action == "wait" and "resets_at" not in fields:
        wait_s = error.retry_after
        fields["resets_at"] = None if wait_s is None else (datetime.now(UTC) + timedelta(seconds=wait_s)).isoformat()
    return fields


def error_headers(error: AppError) -> dict[str, str]:
    """The headers of the response for an error."""
    return {} if error.retry_after is None else {"retry-after": str(error.retry_after)}


def error_response(error: AppError, request: Request) -> Response:
    """The response for an error, in the language of the request."""
    fields = error_fields(error, request.state.request_id, language_of(request))
    return json_response({"error": fields}, error.status, error_headers(error))


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads the body as `model`.

    FastAPI's own would read the body before it authenticates the caller. Raises InvalidJson, TooLarge, or
    InvalidRequest with the invalid `fields`.
    """

    async def parse(request: Request) -> M:
        body = await request.body()
        try:
            data = surrogates.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidJson from error
        note_language(request, data)
        if b"\\u0000" in body and _has_null_character(data):
            # Postgres cannot store it, so it is refused before an answer is produced.
            raise InvalidRequest(field_problem("body", "null_character"))
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise InvalidRequest(*field_errors(error)[:MAX_FIELD_ERRORS]) from None

    return parse


def _has_null_character(data: Any) -> bool:
    try:
        orjson.dumps(data)  # fails beyond 254 levels, which are too many for a recursive search
    except orjson.JSONEncodeError as error:
        raise InvalidJson("json_too_deep") from error
    return _contains_null_character(data)


def _contains_null_character(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\x00" in name or _contains_null_character(item) for name, item in value.items())
    if isinstance(value, list):
        return any(_contains_null_character(item) for item in value)
    return isinstance(value, str) and "\x00" in value


async def _app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    request.state.code = error.code
    request.state.reason_code = error.reason.code
    request.state.upstream = getattr(error, "upstream", None)
    return error_response(error, request)


async def _invalid_parameters(request: Request, error: Exception) -> Response:
    """FastAPI's error for a parameter of the path or the query."""
    assert isinstance(error, RequestValidationError)
    # Without where the parameter is: ("query", "before") is named before.
    invalid = [replace(one, path=one.path[1:]) for one in read_errors(error.errors())]
    return await _app_error(request, InvalidRequest(*invalid[:MAX_FIELD_ERRORS]))


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown address or method."""
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return await _app_error(request, NotFound())
    response = await _app_error(request, MethodNotAllowed())
    response.headers["allow"] = ", ".join(sorted(_allowed_methods(request)))
    return response


def _allowed_methods(request: Request) -> set[str]:
    """The methods of all routes at the address of a request. Starlette names those of the first one."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    return {
        method
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


def lambda_context(scope: Scope) -> dict[str, Any]:
    """What the Web Adapter sends of Lambda's context. Empty elsewhere.

    https://github.com/awslabs/aws-lambda-web-adapter#lambda-context
    """
    try:
        text = next(value for name, value in scope["headers"] if name == b"x-amzn-lambda-context")
        context = orjson.loads(text)
    except (StopIteration, ValueError):
        return {}
    return context if isinstance(context, dict) else {}


def aws_request_id(scope: Scope) -> str | None:
    """AWS's id of the invocation, which Lambda's own log lines have: from Mangum, or from the Web Adapter."""
    if "aws.context" in scope:
        return getattr(scope["aws.context"], "aws_request_id", None)
    request_id = lambda_context(scope).get("request_id")
    # Without the Web Adapter in front, a client could send the header.
    return request_id if isinstance(request_id, str) and AWS_REQUEST_ID.fullmatch(request_id) else None


def without_trailing_slash(path: str) -> str:
    """The path as routes have it. A redirect would cost a round trip, and Stripe does not follow one."""
    return path.rstrip("/") or "/"


class RequestMiddleware:
    """Assigns the request id, limits the body, answers unhandled exceptions, and logs one line per request."""

    def __init__(self, app: ASGIApp, observer: Observer, body_limit: int) -> None:
        self._app = app
        self._observer = observer
        self._body_limit = body_limit
        self._turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        await self._turnstile.enter()
        scope["path"] = without_trailing_slash(scope["path"])
        state = scope.setdefault("state", {})
        request_id = state["request_id"] = new_request_id()
        state["started"] = started
        state["aws_request_id"] = aws_request_id(scope)
        status = 0
        received = 0
        is_logged = False

        def log() -> None:
            nonlocal is_logged
            if not is_logged:
                is_logged = True
                self._observer.info(
                    "request",
                    request_id=request_id,
                    aws_request_id=state["aws_request_id"],
                    method=scope["method"],
                    route=getattr(scope.get("route"), "path", None),
                    status=status,
                    code=state.get("code"),
                    reason_code=state.get("reason_code"),
                    upstream=state.get("upstream"),
                    user_id=state.get("user_id"),
                    duration_ms=round((time.perf_counter() - started) * 1000, 1),
                )

        async def limited_receive() -> Message:
            nonlocal received
            while True:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= self._body_limit:
                    return message
                if not message.get("more_body") or received > DRAIN_LIMIT:
                    raise TooLarge(limit_kib=self._body_limit // 1024)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            elif not message.get("more_body"):
                log()  # before the last byte, because Lambda freezes the process after it
            await send(message)

        try:
            await self._app(scope, limited_receive, send_with_id)
        except Exception as error:  # noqa: BLE001 -- every exception becomes a response
            state["code"] = Internal.code
            self._observer.failure("unexpected failure", error, request_id=request_id)
            if not status:
                await error_response(Internal(), Request(scope))(scope, receive, send_with_id)
        finally:
            log()  # of a response that did not reach its end
