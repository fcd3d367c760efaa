"""The tools for users' own assistants: the Model Context Protocol, JSON-RPC over streamable HTTP.

No session, no stream, no state here: every request is a POST with one message, and its response is JSON.
docs/decisions/0026-mcp-without-the-sdk.md has the reasons, and why the official SDK is not used.

https://modelcontextprotocol.io/specification/2025-11-25/basic/transports
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.chat import PRODUCT, limits
from functions.chat.chat import Chat
from functions.chat.metering import Refused
from functions.chat.sources.base import JsonObject, Language
from functions.chat.system_prompt import assistant_instructions
from functions.chat.tools import Definition, Outcome
from functions.common import surrogates
from functions.common.auth import User
from functions.common.database import Database
from functions.common.errors import AppError, Forbidden, MethodNotAllowed
from functions.common.web import error_fields, error_headers, json_response, language_of, note_language

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")  # newest first; clients of other versions are offered the newest

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
UNSUPPORTED_VERSION = -32022
REFUSED = -32000  # the error of our HTTP API is in the data

LANGUAGE: JsonObject = {"type": "string", "enum": ["en", "fr"], "description": "The language of the result."}


class Call(BaseModel):
    """A request or a notification. A notification has no id and gets no response."""

    model_config = ConfigDict(strict=True)

    jsonrpc: Literal["2.0"]
    id: str | int | None = None
    method: str
    params: dict[str, Any] = Field(default_factory=dict)


class Arguments(BaseModel):
    """The parameters of tools/call. The language is not an argument of our tools: it is taken out."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Invalid(Exception):
    """The message cannot be answered. `code` is JSON-RPC's."""

    def __init__(self, code: int, message: str, data: JsonObject | None = None) -> None:
        super().__init__(message)
        self.error: JsonObject = {"code": code, "message": message, **({"data": data} if data else {})}


async def answer(request: Request, user: User, chat: Chat, allowed_origins: frozenset[str]) -> Response:
    """The response to a message. Raises MethodNotAllowed, Forbidden for a page of another site, and TooLarge."""
    if request.method != "POST":
        raise MethodNotAllowed  # no stream from the server, and no session to delete
    origin = request.headers.get("origin")
    if origin is not None and origin not in allowed_origins:
        raise Forbidden
    call_id: str | int | None = None
    try:
        call = _read(await request.body())
        if call is None or call.id is None:
            return Response(status_code=202)
        call_id = call.id
        _check_version(request.headers.get("mcp-protocol-version"), call.method)
        note_language(request, call.params.get("arguments"))
        return _response(call_id, result=await _result(call, user, chat))
    except Invalid as invalid:
        # Without an id no message could be read, and with a wrong version none should be answered.
        is_bad_request = call_id is None or invalid.error["code"] == UNSUPPORTED_VERSION
        return _response(call_id, 400 if is_bad_request else 200, error=invalid.error)
    except AppError as error:
        request.state.code = error.code
        request.state.reason_code = error.reason.code
        fields = error_fields(error, request.state.request_id, language_of(request))
        refused = {"code": REFUSED, "message": fields["message"], "data": fields}
        return _response(call_id, error.status, error_headers(error), error=refused)


def _response(
    call_id: str | int | None, status: int = 200, headers: dict[str, str] | None = None, **outcome: Any
) -> Response:
    return json_response({"jsonrpc": "2.0", "id": call_id, **outcome}, status, headers)


def _read(body: bytes) -> Call | None:
    """The call of a body; None for a client's response, which nothing here has asked for."""
    try:
        message = surrogates.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(PARSE_ERROR, "The body is not JSON.") from error
    if isinstance(message, dict) and "method" not in message and message.keys() & {"result", "error"}:
        return None
    try:
        return Call.model_validate(message)
    except ValidationError as error:
        raise Invalid(INVALID_REQUEST, "The body is not one JSON-RPC request or notification.") from error


def _check_version(version: str | None, method: str) -> None:
    if version is not None and version not in VERSIONS and method != "initialize":
        data = {"supported": list(VERSIONS), "requested": version[:20]}
        raise Invalid(UNSUPPORTED_VERSION, "This protocol version is not supported.", data)


async def _result(call: Call, user: User, chat: Chat) -> JsonObject:
    match call.method:
        case "initialize":
            asked = call.params.get("protocolVersion")
            return {
                "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
                "capabilities": {"tools": {"listChanged": False}},
                "serverInfo": {"name": PRODUCT, "version": "1"},
                "instructions": assistant_instructions(),
            }
        case "ping":
            return {}
        case "tools/list":
            return {"tools": [_described(definition) for definition in chat.tools.definitions]}
        case "tools/call":
            return await _call_tool(call, user, chat)
        case _:
            raise Invalid(METHOD_NOT_FOUND, "There is no such method.")


def _described(definition: Definition) -> JsonObject:
    schema = definition.parameters
    return {
        "name": definition.name,
        "description": definition.description,
        "inputSchema": {**schema, "properties": {**schema["properties"], "language": LANGUAGE}},
        "annotations": {"readOnlyHint": True, "openWorldHint": True},
    }


async def _call_tool(call: Call, user: User, chat: Chat) -> JsonObject:
    """The result of a tool. A failure of the tool is a result too: the assistant can correct its call."""
    try:
        asked = Arguments.model_validate(call.params)
    except ValidationError as error:
        raise Invalid(INVALID_PARAMS, "The parameters are not a tool's name and its arguments.") from error
    if asked.name not in {definition.name for definition in chat.tools.definitions}:
        raise Invalid(INVALID_PARAMS, "No tool has that name.")
    language: Language = "fr" if asked.arguments.pop("language", "en") == "fr" else "en"
    await _admit(user, chat.database)
    outcome = await chat.tools.run(asked.name, asked.arguments, language)
    return {"content": [{"type": "text", "text": _text(outcome)}], "isError": outcome.error is not None}


def _refusal(row: Mapping[str, Any]) -> Refused | None:
    return Refused.from_row(row) if row["decision"] == "refused" else None


async def _admit(user: User, database: Database) -> None:
    """Count the call. Raises what admission raises where the user may not ask, and TooManyRequests."""
    decided: Refused | None = await database.call(
        "admit_tool_call",
        {"p_user_id": user.id, "p_calls_a_minute": limits.TOOL_CALLS_A_MINUTE, "p_session_id": user.session_id},
        parse=_refusal,
        timeout_s=limits.ADMIT_S,
    )
    if isinstance(decided, Refused):
        raise decided.error(datetime.now(UTC))


def _text(outcome: Outcome) -> str:
    """What the assistant reads: the result and its pages, or why there is none."""
    if outcome.error is not None:
        return outcome.error
    sources = [{"title": source.title, "url": source.url} for source in outcome.sources]
    return orjson.dumps({"result": outcome.output, "sources": sources}).decode()
