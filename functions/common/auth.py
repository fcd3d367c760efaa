"""Authentication: verifies Supabase access tokens.

A project signs with HS256 and SUPABASE_JWT_SECRET, or with keys of which it publishes the public half (JWKS), or with
both while it moves to the latter. A key verifies only tokens of its own algorithm, so a public key is never accepted as
an HMAC secret.
"""

import asyncio
import base64
import hashlib
import hmac
import math
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import jwt
import orjson
from fastapi import Depends, Request

from functions.common.database import WRONG_SHAPE
from functions.common.errors import Unauthenticated, Unavailable
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings
from functions.common.thread_transport import ThreadTransport
from functions.common.transport import NoResponseError

# Clocks differ. PostgREST, which reads the same tokens, allows as much for `exp`, `nbf` and `iat`
# (https://github.com/PostgREST/postgrest/blob/main/src/library/PostgREST/Auth/Jwt.hs, allowedSkewSeconds).
LEEWAY_S = 30

PUBLISHED_ALGORITHMS = frozenset({"ES256", "RS256"})  # Supabase's; the secret's is HS256

KEYS_LIFESPAN_S = 600  # Supabase serves its keys with max-age=600
# The cooldowns limit how often an unknown key id or a failed fetch causes another fetch: anyone can invent a key id.
KEYS_COOLDOWN_S = 30
FETCH_COOLDOWN_S = 1
FETCH_TIMEOUT_S = 2

REMEMBERED_TOKENS = 1024  # the most verified tokens to remember, 400 bytes each


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in user. `token` is for reads as this user, under row-level security. `session_id`: of the token."""

    id: str
    token: str
    session_id: str | None = None

    def __repr__(self) -> str:
        return f"User(id={self.id!r})"


class PublishedKeys:
    """The public keys of a project. They are fetched when a token needs them, and again after KEYS_LIFESPAN_S."""

    def __init__(self, url: str, observer: Observer) -> None:
        self._url = url
        self._observer = observer
        self._keys: dict[str, jwt.PyJWK] = {}  # by key id
        self._fetched_at = self._failed_at = -math.inf
        self._lock = asyncio.Lock()
        self._transport = ThreadTransport()

    async def find(self, kid: str | None) -> tuple[jwt.PyJWK | None, float]:
        """The key, and the monotonic time until which it counts as published.

        Raises Unavailable if the keys cannot be fetched, or if there are none.
        """
        if self._must_fetch(kid):
            async with self._lock:
                if self._must_fetch(kid):  # unless another task has fetched them since
                    await self._fetch()
        return self._keys.get(kid or ""), self._fetched_at + KEYS_LIFESPAN_S

    def _must_fetch(self, kid: str | None) -> bool:
        age_s = time.monotonic() - self._fetched_at
        return age_s > KEYS_LIFESPAN_S or (kid not in self._keys and age_s > KEYS_COOLDOWN_S)

    async def _fetch(self) -> None:
        if time.monotonic() - self._failed_at < FETCH_COOLDOWN_S:
            raise Unavailable
        try:
            status, content = await self._transport.get(self._url, timeout_s=FETCH_TIMEOUT_S)
            keys = _signing_keys(status, content)
        except (NoResponseError, jwt.PyJWTError, *WRONG_SHAPE) as error:
            self._failed_at = time.monotonic()
            self._observer.failure("no signing keys", error)
            raise Unavailable from error
        self._keys = keys
        self._fetched_at = time.monotonic()


def _signing_keys(status: int, content: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a JWKS by key id. Raises one of WRONG_SHAPE or a PyJWTError where it has none."""
    if status != 200:
        raise jwt.PyJWKSetError(f"The status is {status}.")
    keys = {
        key.key_id: key
        for key in jwt.PyJWKSet.from_dict(orjson.loads(content)).keys
        if isinstance(key.key_id, str) and key.public_key_use in ("sig", None)
    }
    if not keys:
        raise jwt.PyJWKSetError("There is no signing key.")
    return keys


class Verifier:
    """Verifies access tokens of one Supabase project."""

    def __init__(self, settings: SupabaseSettings, observer: Observer) -> None:
        self._issuer = f"{settings.url}/auth/v1"
        self._secrets = [secret.get_secret_value() for secret in settings.jwt_secrets]
        self._published = PublishedKeys(f"{self._issuer}/.well-known/jwks.json", observer)
        self._verified: dict[bytes, tuple[str, str | None, int, float]] = {}  # by digest

    async def verify(self, token: str) -> User:
        """The user of an access token.

        A token is verified once (0.5 ms) until it expires or its key must be fetched again.

        Raises Unauthenticated if any check of the token fails, Unavailable if the keys cannot be fetched.
        """
        digest = hashlib.sha256(token.encode()).digest()
        if verified := self._verified.get(digest):
            user_id, session_id, valid_until, key_until = verified
            if time.time() < valid_until and time.monotonic() < key_until:
                return User(user_id, token, session_id)
            del self._verified[digest]
        try:
            key, algorithm, key_until = await self._key(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience="authenticated",
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "sub", "aud", "iss", "role"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated from error
        if claims["role"] != "authenticated":
            raise Unauthenticated
        try:
            user_id = str(uuid.UUID(claims["sub"]))
            session_id = str(uuid.UUID(claims["session_id"])) if claims.get("session_id") else None
        except (AttributeError, TypeError, ValueError) as error:
            raise Unauthenticated from error
        if len(self._verified) >= REMEMBERED_TOKENS:
            self._verified.pop(next(iter(self._verified)))
        self._verified[digest] = user_id, session_id, int(claims["exp"]) + LEEWAY_S, key_until
        return User(user_id, token, session_id)

    async def _key(self, token: str) -> tuple[Any, str, float]:
        """The key of a token, the key's algorithm, and the monotonic time until which the key is valid.

        Raises InvalidTokenError if the project has no such key, and Unavailable.
        """
        algorithm, kid = _algorithm_and_key_id(token.partition(".")[0])
        if algorithm == "HS256" and self._secrets:
            return self._signing_secret(token), "HS256", math.inf
        key, key_until = await self._published.find(kid)
        if key is None or key.algorithm_name not in PUBLISHED_ALGORITHMS:
            raise jwt.InvalidTokenError
        return key, key.algorithm_name, key_until

    def _signing_secret(self, token: str) -> str:
        """The secret that signed a token; the last one where none did."""
        *others, last = self._secrets
        signed, _, signature = token.rpartition(".")
        for secret in others:
            digest = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
            if hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), signature.encode()):
                return secret
        return last


@lru_cache(maxsize=16)
def _algorithm_and_key_id(header: str) -> tuple[str | None, str | None]:
    """What a token's header says. Cached, because all tokens of a key have the same header. Raises PyJWTError."""
    fields = jwt.get_unverified_header(f"{header}..")
    return fields.get("alg"), fields.get("kid")


async def current_user(request: Request) -> User:
    """The user of the Authorization header. Raises Unauthenticated."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated
    verifier: Verifier = request.app.state.verifier
    user = await verifier.verify(token.strip())
    request.state.user_id = user.id
    return user


CurrentUser = Annotated[User, Depends(current_user)]
