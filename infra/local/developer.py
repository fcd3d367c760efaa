"""/_stack: what the developer's panel of the page uses. Only the local stack serves it.

GET /_stack             what runs where, the seeded users, the faults, the clocks
POST /_stack/token      {"tier"}: an access token of a seeded user
GET /_stack/requests    the last requests of the functions: no bodies, no headers, no tokens
POST /_stack/fault      {"directive": "slow 0.2" | null, "user_id"?}: how the model stand-in fails the next answer, of
                        this user only where one is named. GET /_stack?user_id=… shows it
POST /_stack/clock      {"days"}: moves the clocks and runs the jobs that are due

Any site that a browser shows could send requests to loopback. A request is refused if it names another host, or comes
from a page that is not the stack's.
"""

import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import aiohttp
import jwt
import psycopg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.local.auth import access_token, load_or_create_key
from infra.local.billing import StandIn
from infra.local.clock import MAX_DAYS, Clocks, JobFailed

LOGGED_REQUESTS = 20
TOKEN_S = 3600
LOOPBACK = ("127.0.0.1", "localhost")
SECRET_PATH = "/shared/"  # noqa: S105 -- what follows it is a share's token, which is not logged

FAULTS = (
    ("slow", "slow 0.2", "The words arrive slowly", "Les mots arrivent lentement"),
    ("overloaded", "overloaded", "No provider has capacity", "Aucun fournisseur n’a de capacité"),
    ("cut", "max-tokens", "The answer ends at its maximum length", "La réponse s’arrête à sa longueur maximale"),
    ("refusal", "refusal", "The model refuses in the middle", "Le modèle refuse au milieu de la réponse"),
    ("drop", "drop", "The provider’s connection breaks", "La connexion du fournisseur se rompt"),
)
"""Name, directive of the model stand-in, and label in English and French."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the launcher knows of the stack. A URL is None where the part is the user's own."""

    places: list[dict[str, str]]
    users: dict[str, dict[str, str]]
    origins: list[str]  # of the page
    issuer: str
    signing_key: str | None
    db_url: str | None
    model_url: str | None
    stripe_url: str | None
    stripe_key: str


@dataclass(slots=True)
class Entry:
    """A request of the log. `ms` is None until the response has ended."""

    at: str
    method: str
    path: str
    query: str
    status: int
    request_id: str
    ms: float | None = None


@dataclass
class Developer:
    """The state behind the routes, which lasts as long as the process."""

    settings: Settings
    requests: deque[Entry] = field(default_factory=lambda: deque(maxlen=LOGGED_REQUESTS))
    # By user id: the fault of that user's next answer. None: of the next answer to any user.
    faults: dict[str | None, str] = field(default_factory=dict)
    clocks: Clocks | None = None

    def __post_init__(self) -> None:
        settings = self.settings
        if settings.db_url and settings.stripe_url:  # a clock moved alone would bill at the real Stripe
            self.clocks = Clocks(settings.db_url, StandIn(settings.stripe_url, settings.stripe_key))

    def create_app(self) -> Starlette:
        """The routes under /_stack."""
        routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/_stack", self.show),
            ("POST", "/_stack/token", self.create_token),
            ("GET", "/_stack/requests", self.list_requests),
            ("POST", "/_stack/fault", self.set_fault),
            ("POST", "/_stack/clock", self.move_clock),
        ]
        return Starlette(
            routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes],
            middleware=[Middleware(OwnPagesOnly, origins=self.settings.origins)],
            exception_handlers={HTTPException: _answer_refusal},
        )

    async def show(self, request: Request) -> Response:
        settings = self.settings
        users = [
            {"tier": tier, "email": user["email"], "password": user["password"]}
            for tier, user in settings.users.items()
        ]
        names = ("name", "directive", "en", "fr")
        return JSONResponse(
            {
                "places": settings.places,
                "users": users,
                "faults": [dict(zip(names, fault, strict=True)) for fault in FAULTS] if settings.model_url else [],
                "fault": self.faults.get(request.query_params.get("user_id")),
                "clock": await self.clocks.show() if self.clocks else None,
                "stripe_url": settings.stripe_url,
            }
        )

    async def create_token(self, request: Request) -> Response:
        tier = (await _fields(request)).get("tier")
        user = self.settings.users.get(tier) if isinstance(tier, str) else None
        if user is None or self.settings.signing_key is None:
            raise HTTPException(
                404, f"There is no seeded user of this tier. The tiers: {', '.join(self.settings.users)}."
            )
        key = load_or_create_key(Path(self.settings.signing_key))
        token = access_token(key, issuer=self.settings.issuer, user_id=user["id"], email=user["email"], seconds=TOKEN_S)
        return JSONResponse({"access_token": token}, headers={"cache-control": "no-store"})

    async def list_requests(self, request: Request) -> Response:
        return JSONResponse([asdict(entry) for entry in self.requests])

    async def set_fault(self, request: Request) -> Response:
        fields = await _fields(request)
        directive, user_id = fields.get("directive"), fields.get("user_id")
        if user_id is not None and not isinstance(user_id, str):
            raise HTTPException(422, "`user_id` is a text.")
        if directive is not None and directive not in [known for _, known, *_ in FAULTS]:
            raise HTTPException(422, f"A directive is null or one of: {', '.join(known for _, known, *_ in FAULTS)}.")
        if self.settings.model_url is None:
            raise HTTPException(409, "The model stand-in does not run: real providers are configured.")
        self.faults.pop(user_id, None)
        if directive is not None:
            self.faults[user_id] = directive
        return JSONResponse({"fault": directive})

    async def move_clock(self, request: Request) -> Response:
        days = (await _fields(request)).get("days")
        if type(days) is not int or not 1 <= days <= MAX_DAYS:
            raise HTTPException(422, f"`days` is a whole number from 1 to {MAX_DAYS}: the clocks never go back.")
        if self.clocks is None:
            raise HTTPException(409, "The clocks move only with the local database and the Stripe stand-in.")
        if self.clocks.moving.locked():
            raise HTTPException(409, "The clocks are moving already.")
        try:
            jobs = await self.clocks.move(days)
        except (JobFailed, psycopg.Error, OSError) as error:
            raise HTTPException(500, str(error)) from error
        return JSONResponse({"clock": await self.clocks.show(), "jobs": jobs})

    async def arm(self, directive: str | None) -> int:
        """Tells the model stand-in how to fail from now on. Returns how many requests the last directive applied to."""
        async with (
            aiohttp.ClientSession(self.settings.model_url) as model,
            model.post("/_fault", json={"directive": directive}) as answer,
        ):
            answer.raise_for_status()
            used: int = (await answer.json())["used"]
            return used


class Watched:
    """Logs the requests of the functions, and applies the pending fault to the next answer of the chat."""

    def __init__(self, app: ASGIApp, developer: Developer) -> None:
        self.app, self.developer = app, developer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        faults, user_id = self.developer.faults, _user_of(scope)
        asker = user_id if user_id in faults else None
        if asker not in faults or scope["method"] != "POST" or scope["path"] != "/chat":
            await self._log(scope, receive, send)
            return
        fault = faults.pop(asker)
        await self.developer.arm(fault)
        is_armed = True

        async def disarm() -> None:
            nonlocal is_armed
            is_armed = False
            if not await self.developer.arm(None):
                faults.setdefault(asker, fault)  # the chat refused the question before it asked a model

        async def send_disarmed(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if is_last and is_armed:
                await disarm()  # before the client can send the next question
            await send(message)

        try:
            await self._log(scope, receive, send_disarmed)
        finally:
            if is_armed:
                await disarm()

    async def _log(self, scope: Scope, receive: Receive, send: Send) -> None:
        at, started = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
        entry: Entry | None = None

        async def send_logged(message: Message) -> None:
            nonlocal entry
            if message["type"] == "http.response.start" and (request_id := _header(message, b"x-request-id")):
                path, query = scope["path"], scope["query_string"].decode("latin-1")
                if path.startswith(SECRET_PATH):
                    path = f"{SECRET_PATH}…"
                entry = Entry(at, scope["method"], path, query, message["status"], request_id)
                self.developer.requests.appendleft(entry)
            await send(message)

        try:
            await self.app(scope, receive, send_logged)
        finally:
            if entry is not None:
                entry.ms = round((time.monotonic() - started) * 1000, 1)


class OwnPagesOnly:
    """Refuses requests from pages of other origins, and requests for a name that is not loopback's (DNS rebinding)."""

    REFUSAL: ClassVar[str] = "Only the page of this stack may send requests here."

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(Request(scope).headers):
            await _refusal(403, self.REFUSAL)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_allowed(self, headers: Mapping[str, str]) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        # A page of another origin sends an Origin, or at least Sec-Fetch-Site where it does not.
        is_ours = site in ("same-origin", "none") if origin is None else origin in self.origins
        return host in LOOPBACK and is_ours


async def _fields(request: Request) -> Mapping[str, Any]:
    try:
        fields = json.loads(await request.body())
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise HTTPException(400, "A JSON object is needed.")
    return fields


def _user_of(scope: Scope) -> str | None:
    """The user of the access token, which is not verified here."""
    token = Request(scope).headers.get("authorization", "").removeprefix("Bearer ")
    try:
        subject: str | None = jwt.decode(token, options={"verify_signature": False}).get("sub")
    except jwt.InvalidTokenError:
        return None
    return subject


def _header(message: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in message["headers"] if key.lower() == name), "")


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": {"message": sentence}}, status)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(error.status_code, error.detail)
