"""The database, called one way: SQL functions over Supabase's Data API.

A call that the database may not have seen, or that is safe to repeat, is tried again within its time; everything
else fails at once. What the database says in SQLSTATE codes becomes one of `common.errors`.
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

# docs/error_codes.md explains each.
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
# The user is told what the database says only where the sentence is written for them.
SPEAKS = frozenset({"NTFND", "NOMDL", "OWING"})
# PostgREST without its database, connections that end or are refused, statements that time out, gateways' statuses.
OUT_OF_REACH = ("PGRST00", "08", "53", "57", "502", "503", "504", "520", "521", "522", "523", "524")

CONNECT_TIMEOUT_S = 1.0
# As many calls at once as there are connections: for each that waits for one, the pool looks through all of them again.
CONNECTIONS = 32
RETRY_PAUSE_S = 0.1


class Database:
    """SQL functions of one Supabase project. Share one: it holds the connection pool."""

    def __init__(self, settings: SupabaseSettings) -> None:
        self._base_url = f"{settings.url}/rest/v1"
        self._anon_key = settings.anon_key
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # `within` bounds each call as a whole
            limits=httpx.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=30
            ),
        )
        self._free = asyncio.Semaphore(CONNECTIONS)
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
        within: float = 2.5,
        repeatable: bool = False,
    ) -> Any:
        """Call a SQL function, as the service or with the rights of a user's token. Returns its result.

        `within` bounds the call with its repetitions, in seconds. `repeatable` says that calling twice does what
        calling once does; only then is a call repeated that may have been carried out.

        Raises Unavailable where the database is out of reach, and what ERRORS says of its SQLSTATE codes.
        """
        client = self._service if user_token is None else self._client(user_token, self._anon_key)
        try:
            async with asyncio.timeout(within):
                while True:
                    try:
                        async with self._free:
                            await self._turnstile()
                            response = await client.rpc(function, dict(params or {})).execute()
                        return money.revive(response.data)
                    except httpx.ConnectError:
                        pass
                    except httpx.TransportError as error:
                        if not repeatable:
                            raise Unavailable from error
                    except APIError as error:
                        failure = translate(error)
                        if not (repeatable and isinstance(failure, Unavailable)):
                            raise failure from error
                    await asyncio.sleep(RETRY_PAUSE_S)
        except TimeoutError as error:
            raise Unavailable from error


def translate(error: APIError) -> AppError:
    """The error of `common.errors` that a Data API error stands for."""
    code = str(error.code or "")
    # Empty: what PostgREST makes of a connection that ends between two statements.
    if error.code == "" or code.startswith(OUT_OF_REACH):
        return Unavailable()
    kind = ERRORS.get(code, Internal)
    return kind(error.message if code in SPEAKS else None)
