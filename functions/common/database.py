"""The database client: calls SQL functions over Supabase's Data API.

A call is retried within its timeout if it cannot have reached the database or is idempotent; any other failure is
raised immediately. SQLSTATE codes become the errors of `common.errors`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from postgrest import AsyncPostgrestClient
from postgrest.exceptions import APIError

from functions.common import money
from functions.common.errors import (
    AppError,
    ByokNotAllowed,
    Forbidden,
    Internal,
    ModelNotAvailable,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from functions.common.settings import SupabaseSettings
from functions.common.turnstile import Turnstile

# docs/error_codes.md explains each code.
ERRORS: Mapping[str, type[AppError]] = {
    "NTFND": NotFound,
    "NOHLD": NotFound,
    "NOMDL": ModelNotAvailable,
    "NBYOK": ByokNotAllowed,
    "OWING": Forbidden,
    "42501": Forbidden,  # insufficient_privilege
    "PGRST301": Unauthenticated,  # the user's token expired since we checked it
    "PGRST303": Unauthenticated,
}
# The database's messages with these codes are written for users. All others stay internal.
USER_MESSAGE_CODES = frozenset({"NTFND", "NOMDL", "OWING"})
# PostgREST without its database, lost or refused connections, statement timeouts, gateway statuses.
UNAVAILABLE_PREFIXES = ("PGRST00", "08", "53", "57", "502", "503", "504", "520", "521", "522", "523", "524")

CONNECT_TIMEOUT_S = 1.0
# Also the limit on concurrent calls: httpx scans all its connections for every call that waits for one.
CONNECTIONS = 32
RETRY_PAUSE_S = 0.1


class Database:
    """Calls the SQL functions of one Supabase project. Share one instance: it owns the connection pool."""

    def __init__(self, settings: SupabaseSettings) -> None:
        self._base_url = f"{settings.url}/rest/v1"
        self._anon_key = settings.anon_key
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # `timeout_s` limits each call as a whole
            limits=httpx.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=30
            ),
        )
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._turnstile = Turnstile()
        self._service = self._client(settings.service_role_key.get_secret_value())

    def _client(self, token: str, api_key: str | None = None) -> AsyncPostgrestClient:
        return AsyncPostgrestClient(
            self._base_url,
            headers={"apikey": api_key or token, "authorization": f"Bearer {token}"},
            http_client=self._http,
            retry_enabled=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self,
        function: str,
        params: Mapping[str, Any] | None = None,
        *,
        user_token: str | None = None,
        timeout_s: float = 2.5,
        idempotent: bool = False,
    ) -> Any:
        """Call a SQL function with the service role, or with a user's rights if `user_token` is given.

        Returns its result. `timeout_s` limits the call including its retries. Only an `idempotent` call is retried
        after a failure that may have come after the database carried it out.

        Raises Unavailable if the database cannot be reached, and the error in ERRORS for a SQLSTATE code.
        """
        client = self._service if user_token is None else self._client(user_token, self._anon_key)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        async with self._slots:
                            await self._turnstile.enter()
                            response = await client.rpc(function, dict(params or {})).execute()
                        return money.parse_amounts(response.data)
                    except httpx.ConnectError:
                        pass
                    except httpx.TransportError as error:
                        if not idempotent:
                            raise Unavailable from error
                    except APIError as error:
                        failure = translate(error)
                        if not (idempotent and isinstance(failure, Unavailable)):
                            raise failure from error
                    await asyncio.sleep(RETRY_PAUSE_S)
        except TimeoutError as error:
            raise Unavailable from error


def translate(error: APIError) -> AppError:
    """The error of `common.errors` for an error of the Data API."""
    code = str(error.code or "")
    # PostgREST sends an empty code when a connection ends between two statements.
    if error.code == "" or code.startswith(UNAVAILABLE_PREFIXES):
        return Unavailable()
    error_type = ERRORS.get(code, Internal)
    return error_type(error.message if code in USER_MESSAGE_CODES else None)
