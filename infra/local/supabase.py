"""Supabase's API gateway for the local stack: /rest/v1 goes to a real PostgREST, /auth/v1 to auth.py.

As on the platform, every request must carry one of the project's API keys as `apikey` (header or query parameter), and
browsers on every origin may call it. A project has keys of two kinds for each role: an opaque key (publishable or
secret), which the gateway exchanges for a JWT of the role, and the deprecated JWT. The refusals are the platform's.
"""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import jwt
import psycopg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from infra.local.auth import (
    KEY_PREFIXES,
    Auth,
    AuthError,
    SigningKey,
    answer_auth_error,
    answer_database_error,
    api_key,
    health,
    jwt_key,
    load_or_create_key,
)

AUTH_BODY_BYTES = 64 * 1024  # an address, a password and a little metadata
UPSTREAM_SECONDS = 60  # authenticator's statement_timeout is 8 s; the rest is time to wait for a connection
REST_PREFIX = b"/rest/v1"

# Headers of one connection (RFC 9110, section 7.6.1), and headers that the next connection sets itself.
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"}
HOP_BY_HOP |= {b"transfer-encoding", b"upgrade"}
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"expect"}
NOT_RETURNED = HOP_BY_HOP | {b"date", b"server"}
BROWSER = re.compile("Mozilla/")  # how every browser's User-Agent starts

NO_KEY_HINT = "No `apikey` request header or url param was found."
UNKNOWN_KEY_HINT = "Double check your Supabase `anon` or `service_role` API key."
BROWSER_HINT = (
    "Secret API keys can only be used in a protected environment and should never be used in a browser. "
    "Delete this secret API key immediately!"
)
EXPOSED_HEADERS = ["content-encoding", "content-location", "content-range", "date", "location", "range-unit"]


@dataclass(frozen=True, slots=True)
class Config:
    public_url: str  # the clients' base URL; followed by /auth/v1 it is the tokens' issuer
    postgrest_url: str
    auth_db_url: str  # a DSN as supabase_auth_admin
    signing_key_path: Path


def create_app(config: Config) -> Starlette:
    signing_key = load_or_create_key(config.signing_key_path)
    auth = Auth(f"{config.public_url}/auth/v1", config.auth_db_url, signing_key)
    keys = ApiKeys(signing_key)
    gate = [Middleware(RequireApiKey, keys=keys)]
    return Starlette(
        routes=[
            Route("/auth/v1/.well-known/jwks.json", auth.jwks),
            Route("/auth/v1/health", health),
            Mount("/auth/v1", routes=auth.routes(), middleware=gate, max_body_size=AUTH_BODY_BYTES),
            Mount("/rest/v1", RestProxy(config.postgrest_url, keys), middleware=gate),
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
                max_age=3600,
            )
        ],
        exception_handlers={
            AuthError: answer_auth_error,
            psycopg.Error: answer_database_error,
            HTTPException: answer_http_error,
        },
        lifespan=open_upstream,
    )


@asynccontextmanager
async def open_upstream(app: Starlette) -> AsyncIterator[dict[str, aiohttp.ClientSession]]:
    """The connections to PostgREST. Bodies are not decoded, and cookies are not stored."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=UPSTREAM_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=["accept", "accept-encoding", "content-type", "user-agent"],
        auto_decompress=False,
    ) as upstream:
        yield {"upstream": upstream}


async def answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "no Route matched with those values" if error.status_code == 404 else error.detail
    return JSONResponse({"message": message}, error.status_code)


class ApiKeys:
    """The project's API keys."""

    def __init__(self, signing_key: SigningKey) -> None:
        self.signing_key = signing_key
        self.role_tokens = {api_key(signing_key, role): jwt_key(signing_key, role) for role in KEY_PREFIXES}
        self.valid_until: dict[str, float] = {}  # the JWT keys that were verified before

    def token(self, key: str) -> str | None:
        """The JWT of the key's role; None if it is not a key of this project."""
        if key in self.role_tokens:
            return self.role_tokens[key]
        return key if self.is_jwt_key(key) else None

    def is_jwt_key(self, key: str) -> bool:
        if time.time() < self.valid_until.get(key, 0):
            return True
        try:
            claims = self.signing_key.verify(key)
        except jwt.InvalidTokenError:
            return False
        if claims["role"] not in KEY_PREFIXES:
            return False
        self.valid_until[key] = claims["exp"]
        return True


class RequireApiKey:
    """Refuses requests without an API key of the project, and secret keys of browsers."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        key = sent_key(connection)
        if key is None:
            refusal = refused("MISSING_API_KEY", "No API key found in request", NO_KEY_HINT)
        elif self.keys.token(key) is None:
            refusal = refused("INVALID_API_KEY", "Invalid API key", UNKNOWN_KEY_HINT)
        elif is_secret(key) and BROWSER.match(connection.headers.get("user-agent", "")):
            refusal = refused("INVALID_API_KEY_TYPE", "Forbidden use of secret API key in browser", BROWSER_HINT)
        else:
            scope.setdefault("state", {})["role_token"] = self.keys.token(key)
            await self.app(scope, receive, send)
            return
        await refusal(scope, receive, send)


def sent_key(connection: HTTPConnection) -> str | None:
    return connection.headers.get("apikey") or connection.query_params.get("apikey")


def is_secret(key: str) -> bool:
    return key.startswith(KEY_PREFIXES["service_role"])


def refused(code: str, message: str, hint: str) -> Response:
    headers = {"sb-error-code": f"UNAUTHORIZED_{code}"}
    return JSONResponse({"message": message, "hint": hint}, 401, headers)


class RestProxy:
    """Forwards a request to PostgREST and streams the answer back. Only the token may change."""

    def __init__(self, postgrest_url: str, keys: ApiKeys) -> None:
        self.postgrest_url = postgrest_url.rstrip("/")
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        upstream: aiohttp.ClientSession = request.state.upstream
        try:
            answer = await upstream.request(
                request.method,
                self.target(scope),
                headers=self.headers(request),
                data=await request.body() or None,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectionError, TimeoutError):
            unreachable = {"message": "PostgREST is out of reach", "hint": "See PostgREST's log."}
            await JSONResponse(unreachable, 503)(scope, receive, send)
            return
        async with answer:
            headers = [(name.lower(), value) for name, value in answer.raw_headers if name.lower() not in NOT_RETURNED]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def target(self, scope: Scope) -> URL:
        """Path and query unchanged, without `apikey`: PostgREST would read it as a filter."""
        path = scope["raw_path"].removeprefix(REST_PREFIX)
        query = b"&".join(part for part in scope["query_string"].split(b"&") if not part.startswith(b"apikey="))
        tail = path + (b"?" + query if query else b"")
        return URL(self.postgrest_url + tail.decode("latin-1"), encoded=True)

    def headers(self, request: Request) -> list[tuple[str, str]]:
        """The request's headers. Without a token of a user, the API key's role is the token.

        supabase-js sends a publishable key as the token too. A secret key that is sent as the token is forwarded, and
        PostgREST refuses it, as the platform documents. The platform's local CLI exchanges it.
        """
        key, token = sent_key(request) or "", request.headers.get("authorization")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request.headers.raw
            if name not in NOT_FORWARDED
        ]
        if token is None or (token == f"Bearer {key}" and not is_secret(key)):
            headers = [header for header in headers if header[0] != "authorization"]
            headers.append(("authorization", f"Bearer {self.keys.token(key)}"))
        return headers
