"""Supabase Auth for the local stack: email and password only, every address confirmed at once, ES256 tokens.

Paths, answers, claims and error codes are those of github.com/supabase/auth that supabase-js uses. It connects to the
database as supabase_auth_admin, so that triggers on auth.users run as on the platform. One difference: a used refresh
token is refused; the platform accepts it for another ten seconds, then ends its session.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

import jwt
import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Json, Jsonb
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ACCESS_TOKEN_SECONDS = 3600  # the platform's default
API_KEY_SECONDS = 10 * 365 * 24 * 3600
PASSWORD_MIN_CHARACTERS = 6  # the platform's default
PASSWORD_MAX_BYTES = 72  # the limit of bcrypt, which the platform uses
EMAIL_MAX_CHARACTERS = 255  # the column's limit
EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9-]*[a-z0-9])*", re.ASCII)
BEARER = re.compile(r"bearer\s+(\S+)", re.IGNORECASE)
API_VERSION_HEADER, API_VERSION = "x-supabase-api-version", "2024-01-01"
KEY_PREFIXES = {"anon": "sb_publishable_", "service_role": "sb_secret_"}
NO_INSTANCE = uuid.UUID(int=0)  # auth.*.instance_id, unused on the platform too

Connection = psycopg.AsyncConnection[DictRow]


class AuthError(Exception):
    """An answer in Auth's error shape: {code, error_code, msg}. Newer clients get {code, message}."""

    def __init__(self, status: int, code: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": status, "error_code": code, "msg": message, **details}


async def answer_auth_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AuthError)
    if request.headers.get(API_VERSION_HEADER, "") < API_VERSION:
        return JSONResponse(error.body, error.status)
    body = {name: value for name, value in error.body.items() if name not in ("code", "error_code", "msg")}
    body |= {"code": error.body["error_code"], "message": error.body["msg"]}
    return JSONResponse(body, error.status, {API_VERSION_HEADER: API_VERSION})


async def answer_database_error(request: Request, error: Exception) -> Response:
    return await answer_auth_error(request, AuthError(500, "unexpected_failure", "Database error querying schema"))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The project's ES256 key. PostgREST, the functions and supabase-js verify its tokens with `jwks()`."""

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    public_jwk: Mapping[str, object]

    def jwks(self) -> dict[str, Any]:
        return {"keys": [dict(self.public_jwk)]}

    def sign(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode(dict(claims), self.private_key, "ES256", headers={"kid": self.public_jwk["kid"]})

    def verify(self, token: str, *, audience: str | None = None) -> dict[str, Any]:
        """The claims of a token signed by this key. Raises jwt.InvalidTokenError."""
        claims: dict[str, Any] = jwt.decode(
            token,
            self.private_key.public_key(),
            algorithms=["ES256"],
            audience=audience,
            options={"require": ["exp", "role"], "verify_aud": audience is not None},
        )
        return claims


def load_or_create_key(path: Path) -> SigningKey:
    """The P-256 key in the PEM file.

    Created atomically on first use with mode 600; concurrent callers get the same key. Raises ValueError where the file
    holds another kind of key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        draft.touch(mode=0o600, exist_ok=False)
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        new_key = ec.generate_private_key(ec.SECP256R1())
        draft.write_bytes(new_key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
        try:
            os.link(draft, path)  # unlike a rename it fails if another process was first; then that key is used
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    private_key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not (isinstance(private_key, ec.EllipticCurvePrivateKey) and isinstance(private_key.curve, ec.SECP256R1)):
        raise ValueError(f"{path} holds no P-256 private key; delete it to create a new one")
    point = private_key.public_key().public_numbers()
    x, y = (_base64url(coordinate.to_bytes(32, "big")) for coordinate in (point.x, point.y))
    public = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    canonical = json.dumps(public, sort_keys=True, separators=(",", ":")).encode()  # RFC 7638, section 3
    kid = _base64url(hashlib.sha256(canonical).digest())
    return SigningKey(private_key, {**public, "alg": "ES256", "kid": kid, "use": "sig", "key_ops": ["verify"]})


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def api_key(signing_key: SigningKey, role: str) -> str:
    """The project's publishable key for the role `anon`, or its secret key for `service_role`.

    It is derived from the signing key, so that it is the same at every start.
    """
    secret = signing_key.private_key.private_numbers().private_value.to_bytes(32, "big")
    key = KEY_PREFIXES[role] + _base64url(hmac.digest(secret, role.encode(), "sha256")[:16])
    return f"{key}_{_base64url(hashlib.sha256(key.encode()).digest()[:6])}"


def jwt_key(signing_key: SigningKey, role: str, issuer: str = "supabase") -> str:
    """The project's deprecated key for the role: a JWT, the `anon` or the `service_role` key."""
    now = int(time.time())
    return signing_key.sign({"iss": issuer, "role": role, "iat": now, "exp": now + API_KEY_SECONDS})


def access_token(
    signing_key: SigningKey,
    *,
    issuer: str,
    user_id: str,
    email: str,
    seconds: int = ACCESS_TOKEN_SECONDS,
    **more: object,
) -> str:
    """A user's token, valid for `seconds`; `more` are further claims. Without `session_id`, sign-out has no effect."""
    now = int(time.time())
    claims = {
        "iss": issuer,
        "sub": user_id,
        "aud": "authenticated",
        "exp": now + seconds,
        "iat": now,
        "email": email,
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {},
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now}],
        "is_anonymous": False,
    }
    return signing_key.sign({**claims, **more})


def hash_password(password: str) -> str:
    """The value of auth.users.encrypted_password. Takes tens of milliseconds: call it in a thread."""
    salt = secrets.token_bytes(16)
    return f"scrypt${salt.hex()}${_scrypt(password, salt)}"


def create_user(
    database: "psycopg.Connection[tuple[Any, ...]]", email: str, password: str, user_id: str | None = None
) -> str:
    """Inserts a user with a confirmed address, as sign-up would. Returns the id, which is new if none is given."""
    (created,) = database.execute(
        "insert into auth.users (instance_id, id, aud, role, email, encrypted_password, raw_app_meta_data,"
        " raw_user_meta_data, email_confirmed_at, created_at, updated_at) values"
        " (%s, %s, 'authenticated', 'authenticated', %s, %s,"
        """ '{"provider": "email", "providers": ["email"]}', '{}', now(), now(), now()) returning id::text""",
        ("00000000-0000-0000-0000-000000000000", user_id or uuid.uuid4(), email, hash_password(password)),
    ).fetchall()[0]
    return str(created)


def password_matches(password: str, encrypted: str | None) -> bool:
    scheme, salt, digest = (encrypted or "").split("$") if (encrypted or "").count("$") == 2 else ("", "", "")
    return scheme == "scrypt" and hmac.compare_digest(_scrypt(password, bytes.fromhex(salt)), digest)


def _scrypt(password: str, salt: bytes) -> str:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=2**14, r=8, p=1).hex()  # 16 MiB


@dataclass(frozen=True, slots=True)
class Auth:
    """The endpoints below /auth/v1. Each uses one connection and one transaction."""

    issuer: str
    database_url: str  # as supabase_auth_admin
    signing_key: SigningKey

    def routes(self) -> list[Route]:
        return [
            Route("/signup", self.signup, methods=["POST"]),
            Route("/token", self.token, methods=["POST"]),
            Route("/user", self.user),
            Route("/resend", resend, methods=["POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/admin/users/{user_id}", self.delete_user, methods=["DELETE"]),
            Route("/settings", settings),
            Route("/{path:path}", not_found, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]

    async def jwks(self, request: Request) -> Response:
        return JSONResponse(self.signing_key.jwks(), headers={"cache-control": "public, max-age=600"})

    async def signup(self, request: Request) -> Response:
        body = await _json_object(request)
        email, password, data = _text(body, "email"), _text(body, "password"), body.get("data") or {}
        if not email:
            raise AuthError(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled")
        _check_password(password)
        email = _checked_email(email)
        encrypted = await asyncio.to_thread(hash_password, password)
        try:
            async with await self._connect() as db:
                await _ask_hook(db, email, data)
                user_id = await _create_user(db, email, encrypted, data)
                await _log(db, "user_signedup", str(user_id), email, provider="email")
                return JSONResponse(await self._start_session(db, user_id))
        except psycopg.Error as error:
            if error.diag.constraint_name == "users_email_partial_key":
                raise AuthError(422, "user_already_exists", "User already registered") from error
            raise AuthError(500, "unexpected_failure", "Database error saving new user") from error

    async def token(self, request: Request) -> Response:
        grants = {"password": self._password_grant, "refresh_token": self._refresh_token_grant}
        grant = grants.get(request.query_params.get("grant_type", ""))
        if grant is None:
            raise AuthError(400, "invalid_credentials", "unsupported_grant_type")
        return JSONResponse(await grant(await _json_object(request)))

    async def _password_grant(self, body: Mapping[str, Any]) -> dict[str, Any]:
        email, password = _text(body, "email").lower(), _text(body, "password")
        async with await self._connect() as db:
            find = b"select id, encrypted_password from auth.users where email = %s and not is_sso_user"
            user = await _one(db, find, email)
            if user is None or not await asyncio.to_thread(password_matches, password, user["encrypted_password"]):
                raise AuthError(400, "invalid_credentials", "Invalid login credentials")
            await _log(db, "login", str(user["id"]), email, provider="email")
            return await self._start_session(db, user["id"])

    async def _refresh_token_grant(self, body: Mapping[str, Any]) -> dict[str, Any]:
        presented = _text(body, "refresh_token")
        async with await self._connect() as db:
            use = b"""update auth.refresh_tokens as t set revoked = true, updated_at = now() from auth.sessions as s
                where t.token = %s and not t.revoked and s.id = t.session_id returning s.id, s.user_id, s.created_at"""
            if session := await _one(db, use, presented):
                return await self._continue_session(db, session, parent=presented)
            used = await _one(db, b"select id from auth.refresh_tokens where token = %s", presented)
        if used is None:
            raise AuthError(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
        raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")

    async def user(self, request: Request) -> Response:
        async with await self._connect() as db:
            user, _ = await self._signed_in(db, request)
        return JSONResponse(_user_json(user))

    async def logout(self, request: Request) -> Response:
        scope = request.query_params.get("scope") or "global"
        if scope not in {"global", "local", "others"}:
            raise AuthError(400, "validation_failed", f'Unsupported logout scope "{scope}"')
        async with await self._connect() as db:
            user, session_id = await self._signed_in(db, request)
            end = b"""delete from auth.sessions where user_id = %s
                and case %s when 'local' then id = %s when 'others' then id <> %s else true end"""
            await db.execute(end, [user["id"], scope, session_id, session_id])
        return Response(status_code=204)

    async def delete_user(self, request: Request) -> Response:
        """Part of the admin API. Auth's log keeps who was deleted."""
        self._require_service_role(request)
        try:
            user_id = uuid.UUID(request.path_params["user_id"])
        except ValueError as error:
            raise AuthError(404, "validation_failed", "user_id must be an UUID") from error
        async with await self._connect() as db:
            user = await _one(db, b"select email, phone from auth.users where id = %s for update", user_id)
            if user is None:
                raise AuthError(404, "user_not_found", "User not found")
            about = {"user_id": str(user_id), "user_email": user["email"], "user_phone": user["phone"] or ""}
            await _log(db, "user_deleted", str(NO_INSTANCE), "service_role", **about)
            await db.execute(b"delete from auth.users where id = %s", [user_id])
        return JSONResponse({})

    def _require_service_role(self, request: Request) -> None:
        """The gateway has exchanged a secret key for the role's token."""
        bearer = BEARER.fullmatch(request.headers.get("authorization", ""))
        try:
            claims = self.signing_key.verify(bearer[1] if bearer else request.state.role_token)
        except jwt.InvalidTokenError as error:
            message = f"invalid JWT: unable to parse or verify signature, {error}"
            raise AuthError(403, "bad_jwt", message) from error
        if claims["role"] != "service_role":
            raise AuthError(403, "not_admin", "User not allowed")

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(self.database_url, row_factory=dict_row)

    async def _signed_in(self, db: Connection, request: Request) -> tuple[DictRow, uuid.UUID]:
        bearer = BEARER.fullmatch(request.headers.get("authorization", ""))
        if bearer is None:
            raise AuthError(401, "no_authorization", "This endpoint requires a Bearer token")
        try:
            claims = self.signing_key.verify(bearer[1], audience="authenticated")
            user_id, session_id = uuid.UUID(claims["sub"]), uuid.UUID(claims.get("session_id", NO_INSTANCE.hex))
        except (jwt.InvalidTokenError, KeyError, ValueError) as error:
            message = f"invalid JWT: unable to parse or verify signature, {error}"
            raise AuthError(403, "bad_jwt", message) from error
        user = await _one(db, b"select * from auth.users where id = %s", user_id)
        if user is None:
            raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
        session = await _one(db, b"select id from auth.sessions where id = %s", session_id)
        if session is None and session_id != NO_INSTANCE:
            raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return user, session_id

    async def _start_session(self, db: Connection, user_id: uuid.UUID) -> dict[str, Any]:
        await db.execute("update auth.users set last_sign_in_at = now(), updated_at = now() where id = %s", [user_id])
        start = b"""insert into auth.sessions (id, user_id, created_at, updated_at)
            values (%s, %s, now(), now()) returning id, user_id, created_at"""
        session = await _one(db, start, uuid.uuid4(), user_id)
        assert session is not None
        return await self._continue_session(db, session, parent=None)

    async def _continue_session(self, db: Connection, session: DictRow, parent: str | None) -> dict[str, Any]:
        user = await _one(db, b"select * from auth.users where id = %s", session["user_id"])
        assert user is not None
        refresh_token = secrets.token_urlsafe(16)
        grant = """insert into auth.refresh_tokens
            (instance_id, token, user_id, revoked, created_at, updated_at, parent, session_id)
            values (%s, %s, %s, false, now(), now(), %s, %s)"""
        await db.execute(grant, [NO_INSTANCE, refresh_token, str(user["id"]), parent, session["id"]])
        token = access_token(
            self.signing_key,
            issuer=self.issuer,
            user_id=str(user["id"]),
            email=user["email"],
            app_metadata=user["raw_app_meta_data"],
            user_metadata=user["raw_user_meta_data"],
            amr=[{"method": "password", "timestamp": int(session["created_at"].timestamp())}],
            session_id=str(session["id"]),
        )
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": ACCESS_TOKEN_SECONDS,
            "expires_at": int(time.time()) + ACCESS_TOKEN_SECONDS,
            "refresh_token": refresh_token,
            "user": _user_json(user),
        }


async def resend(request: Request) -> Response:
    """Sends nothing, because every address is confirmed at once. The platform does not say whether it sends either."""
    body = await _json_object(request)
    if _text(body, "type") not in ("signup", "email_change"):
        raise AuthError(400, "validation_failed", "Missing one of these types: signup, email_change")
    _checked_email(_text(body, "email"))
    return JSONResponse({})


async def health(request: Request) -> Response:
    return JSONResponse({"name": "GoTrue", "version": "local", "description": "The local stack's Supabase Auth"})


async def settings(request: Request) -> Response:
    external = {"email": True, "phone": False, "anonymous_users": False}
    confirmation = {"mailer_autoconfirm": True, "phone_autoconfirm": False, "sms_provider": ""}
    return JSONResponse({"external": external, "disable_signup": False, "saml_enabled": False, **confirmation})


async def not_found(request: Request) -> Response:
    raise AuthError(404, "not_found", f"The local stack's Auth has no {request.method} {request.url.path}")


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from error
    if not isinstance(body, dict) or not isinstance(body.get("data") or {}, dict):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON: not an object")
    return body


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name) or ""
    if not isinstance(value, str):
        raise AuthError(400, "bad_json", f"Could not parse request body as JSON: {name} is not a string")
    return value


def _check_password(password: str) -> None:
    if not password:
        raise AuthError(400, "validation_failed", "Signup requires a valid password")
    if len(password.encode("utf-8", "surrogatepass")) > PASSWORD_MAX_BYTES:
        raise AuthError(400, "validation_failed", f"Password cannot be longer than {PASSWORD_MAX_BYTES} characters")
    if len(password) < PASSWORD_MIN_CHARACTERS:
        message = f"Password should be at least {PASSWORD_MIN_CHARACTERS} characters."
        raise AuthError(422, "weak_password", message, weak_password={"reasons": ["length"]})


def _checked_email(email: str) -> str:
    if len(email) > EMAIL_MAX_CHARACTERS or not EMAIL.fullmatch(email.lower()):
        raise AuthError(400, "validation_failed", "Unable to validate email address: invalid format")
    return email.lower()


async def _one(db: Connection, statement: bytes, *values: object) -> DictRow | None:
    return await (await db.execute(statement, values)).fetchone()


async def _log(db: Connection, action: str, actor_id: str, actor: str, **traits: str) -> None:
    """Write an entry of Auth's log, which the platform stores in the project's database by default."""
    payload = {"actor_id": actor_id, "actor_username": actor, "actor_via_sso": False, "action": action}
    write = "insert into auth.audit_log_entries (instance_id, id, payload, created_at) values (%s, %s, %s, now())"
    await db.execute(write, [NO_INSTANCE, uuid.uuid4(), Json({**payload, "traits": traits})])


async def _ask_hook(db: Connection, email: str, data: dict[str, Any]) -> None:
    """The hook Before User Created, if the database has it. Raises AuthError where it refuses."""
    event = Jsonb({"metadata": {"name": "before-user-created"}, "user": {"email": email, "user_metadata": data}})
    find = b"select to_regprocedure('public.before_user_created(jsonb)') is not null as exists"
    found = await _one(db, find)
    asked = (
        await _one(db, b"select public.before_user_created(%s) as answer", event) if found and found["exists"] else None
    )
    if asked and (error := asked["answer"].get("error")):
        raise AuthError(error["http_code"], "unknown", error["message"])


async def _create_user(db: Connection, email: str, encrypted: str, data: dict[str, Any]) -> uuid.UUID:
    """Inserts the user unconfirmed, then confirms it, so that triggers on auth.users see the platform's two steps."""
    user_id = uuid.uuid4()
    provider = {"provider": "email", "providers": ["email"]}
    create = """insert into auth.users (instance_id, id, aud, role, email, encrypted_password, raw_app_meta_data,
        raw_user_meta_data, created_at, updated_at) values (
        %s, %s, 'authenticated', 'authenticated', %s, %s, %s, %s, now(), now())"""
    await db.execute(create, [NO_INSTANCE, user_id, email, encrypted, Jsonb(provider), Jsonb(data)])
    verified = {"sub": str(user_id), "email": email, "email_verified": True, "phone_verified": False}
    confirm = """update auth.users set email_confirmed_at = now(), updated_at = now(),
        raw_user_meta_data = coalesce(raw_user_meta_data, '{}') || %s where id = %s"""
    await db.execute(confirm, [Jsonb(verified), user_id])
    return user_id


def _user_json(user: DictRow) -> dict[str, Any]:
    times = ("email_confirmed_at", "confirmed_at", "last_sign_in_at", "created_at", "updated_at")
    moments = {name: f"{user[name].astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" for name in times if user[name] is not None}
    user_id, email = str(user["id"]), user["email"]
    identity_data = {"sub": user_id, "email": email, "email_verified": True, "phone_verified": False}
    identity = {"identity_id": user_id, "id": user_id, "user_id": user_id, "provider": "email", "email": email}
    return {
        "id": user_id,
        "aud": user["aud"],
        "role": user["role"],
        "email": email,
        "phone": user["phone"] or "",
        "app_metadata": user["raw_app_meta_data"] or {},
        "user_metadata": user["raw_user_meta_data"] or {},
        "identities": [{**identity, "identity_data": identity_data, **moments}],
        "is_anonymous": user["is_anonymous"],
        **moments,
    }
