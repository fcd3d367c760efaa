"""Authentication: verifies Supabase access tokens.

The configuration decides the algorithm, never the token: only HS256 with SUPABASE_JWT_SECRET, only ES256 and RS256 with
the project's JWKS without it. So a public key is never accepted as an HMAC secret.
"""

import asyncio
import hashlib
import math
import time
import uuid
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any

import jwt
from fastapi import Depends, Request
from jwt.exceptions import PyJWKClientConnectionError

from functions.common.errors import Unauthenticated, Unavailable
from functions.common.settings import SupabaseSettings
from functions.common.tls import tls_context

# Supabase serves its keys with max-age=600: half of it in PyJWKClient, half in our cache, which needs no thread. The
# cooldowns limit how often an unknown key id or a failed fetch causes another fetch: anyone can invent a key id.
KEYS_LIFESPAN_S = 300
KEYS_COOLDOWN_S = 30
FETCH_TIMEOUT_S = 2
FETCH_COOLDOWN_S = 1

REMEMBERED_TOKENS = 1024  # the most verified tokens to remember, 400 bytes each


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in user. `token` is for reads as this user, under row-level security. `session_id`: of the token."""

    id: str
    token: str
    session_id: str | None = None

    def __repr__(self) -> str:
        return f"User(id={self.id!r})"


class Verifier:
    """Verifies access tokens of one Supabase project."""

    def __init__(self, settings: SupabaseSettings) -> None:
        self._issuer = f"{settings.url}/auth/v1"
        self._secret = settings.jwt_secret
        self._signing_keys: dict[str, tuple[jwt.PyJWK, float]] = {}  # by key id, with the time of the fetch
        self._failed_at = -FETCH_COOLDOWN_S * 1.0
        self._verified: dict[bytes, tuple[str, str | None, int, float]] = {}  # by digest

    @cached_property
    def _keys(self) -> jwt.PyJWKClient:
        """Created for the first token, because not every function sees one, and the TLS context takes 30 ms."""
        return jwt.PyJWKClient(
            f"{self._issuer}/.well-known/jwks.json",
            lifespan=KEYS_LIFESPAN_S,
            cooldown_duration=KEYS_COOLDOWN_S,
            timeout=FETCH_TIMEOUT_S,
            ssl_context=tls_context(),
        )

    async def verify(self, token: str) -> User:
        """The user of an access token.

        A token is verified once (0.5 ms) until it expires or its key is fetched again.

        Raises Unauthenticated if any check of the token fails, Unavailable if the keys cannot be fetched.
        """
        digest = hashlib.sha256(token.encode()).digest()
        if verified := self._verified.get(digest):
            user_id, session_id, expires_at, key_until = verified
            if time.time() < expires_at and time.monotonic() < key_until:
                return User(user_id, token, session_id)
            del self._verified[digest]
        try:
            key, algorithms, key_until = await self._key(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                audience="authenticated",
                issuer=self._issuer,
                options={"require": ["exp", "iat", "sub", "aud", "iss", "role"]},
            )
        except PyJWKClientConnectionError as error:
            raise Unavailable from error
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
        self._verified[digest] = user_id, session_id, int(claims["exp"]), key_until
        return User(user_id, token, session_id)

    async def _key(self, token: str) -> tuple[Any, list[str], float]:
        """The key of a token, its algorithms, and the monotonic time until which it counts as published."""
        if self._secret is not None:
            return self._secret.get_secret_value(), ["HS256"], math.inf
        kid = _key_id(token.partition(".")[0])
        key, fetched_at = self._signing_keys.get(kid, (None, 0.0))
        if key is None or time.monotonic() - fetched_at > KEYS_LIFESPAN_S:
            key, fetched_at = await self._fetch(kid)
        return key, ["ES256", "RS256"], fetched_at + KEYS_LIFESPAN_S

    async def _fetch(self, kid: str) -> tuple[jwt.PyJWK, float]:
        """Fetch a key. Returns it with the time of the fetch."""
        if time.monotonic() - self._failed_at < FETCH_COOLDOWN_S:
            raise PyJWKClientConnectionError("the last fetch has just failed")
        try:
            key = await asyncio.to_thread(self._keys.get_signing_key, kid)  # in a thread, because a fetch blocks
        except PyJWKClientConnectionError:
            self._failed_at = time.monotonic()
            raise
        self._signing_keys[kid] = key, time.monotonic()
        return self._signing_keys[kid]


@lru_cache(maxsize=16)
def _key_id(header: str) -> str:
    """The key id in a token's header. Cached, because all tokens of a key have the same header. Raises PyJWTError."""
    kid = jwt.get_unverified_header(f"{header}..").get("kid")
    if not isinstance(kid, str):
        raise jwt.InvalidTokenError("no key id")
    return kid


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
