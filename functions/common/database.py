"""The database client: calls SQL functions over Supabase's Data API.

A call is retried within its timeout if it cannot have reached the database or is idempotent; any other failure is
raised immediately. SQLSTATE codes become the errors of `common.errors`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from functions.common import money
from functions.common.errors import (
    AccountBlocked,
    AppError,
    ByokNotAllowed,
    Conflict,
    EmailNotConfirmed,
    Forbidden,
    Internal,
    ModelNotAvailable,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from functions.common.settings import SupabaseSettings
from functions.common.transport import NoResponseError, NotSentError, Transport

# docs/error_codes.md explains each code.
ERRORS: Mapping[str, type[AppError]] = {
    "NTFND": NotFound,
    "NOHLD": NotFound,
    "NOMDL": ModelNotAvailable,
    "NBYOK": ByokNotAllowed,
    "CONFL": Conflict,
    "NOUSR": Unauthenticated,
    "BANND": AccountBlocked,
    "NCONF": EmailNotConfirmed,
    "LATER": Unavailable,
    "OWING": Forbidden,
    "42501": Forbidden,  # insufficient_privilege
    "PGRST301": Unauthenticated,  # the user's token expired since we checked it
    "PGRST303": Unauthenticated,
}
# The database's messages with these codes are written for users. All others stay internal.
USER_MESSAGE_CODES = frozenset({"NTFND", "NOMDL", "OWING"})
# PostgREST without its database, lost or refused connections, statement timeouts, gateway statuses.
UNAVAILABLE_PREFIXES = ("PGRST00", "08", "53", "57", "502", "503", "504", "520", "521", "522", "523", "524")

RETRY_PAUSE_S = 0.1


class Database:
    """Calls the SQL functions of one Supabase project. Share one instance: it owns the connections.

    `transport`: by default AiohttpTransport.
    """

    def __init__(self, settings: SupabaseSettings, transport: Transport | None = None) -> None:
        if transport is None:
            from functions.common.aiohttp_transport import AiohttpTransport  # ThreadTransport is there to avoid it

            transport = AiohttpTransport()
        self._transport = transport
        self._rpc_url = f"{settings.url}/rest/v1/rpc/"
        self._anon_key = settings.anon_key
        self._service_headers = request_headers(settings.service_role_key.get_secret_value())

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def call(
        self,
        function: str,
        params: Mapping[str, Any] | None = None,
        *,
        user_token: str | None = None,
        timeout_s: float = 2.5,
        idempotent: bool = False,
        background: bool = False,
    ) -> Any:
        """Call a SQL function with the service role, or with a user's rights if `user_token` is given.

        Returns its result. `timeout_s` limits the call including its retries. Only an `idempotent` call is retried
        after a failure that may have come after the database carried it out. A `background` call uses connections of
        its own, so that no other call waits behind it.

        Raises Unavailable if the database cannot be reached, and the error in ERRORS for a SQLSTATE code.
        """
        headers = self._service_headers if user_token is None else request_headers(self._anon_key, user_token)
        body = orjson.dumps(dict(params or {}))
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return _result(
                            *await self._transport.post(
                                self._rpc_url + function, headers, body, timeout_s=timeout_s, background=background
                            )
                        )
                    except NotSentError:
                        pass
                    except NoResponseError as error:
                        if not idempotent:
                            raise Unavailable from error
                    except Unavailable:
                        if not idempotent:
                            raise
                    await asyncio.sleep(RETRY_PAUSE_S)
        except TimeoutError as error:
            raise Unavailable from error


def _result(status: int, content: bytes) -> Any:
    """The result of a SQL function in a response. Raises the error of an unsuccessful one."""
    if not 200 <= status < 300:
        raise _failure(status, content)
    if not content:
        return None  # the function returns void
    try:
        return money.parse_amounts(orjson.loads(content))
    except orjson.JSONDecodeError as error:
        raise Internal from error


def request_headers(api_key: str, user_token: str | None = None) -> dict[str, str]:
    """The headers of a call with the rights of the API key, or of the user.

    A key of the deprecated kind is a JWT and is also the token. A publishable or secret key is not, and is refused as
    one (https://supabase.com/docs/guides/getting-started/api-keys).
    """
    headers = {"apikey": api_key, "content-type": "application/json"}
    token = api_key if user_token is None and api_key.count(".") == 2 else user_token
    return headers if token is None else {**headers, "authorization": f"Bearer {token}"}


def _failure(status: int, content: bytes) -> AppError:
    """The error for an unsuccessful response. A body that is not the Data API's JSON counts by its status."""
    try:
        error = orjson.loads(content)
        code, message = error["code"], error["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return translate(str(status), "")
    return translate(None if code is None else str(code), str(message))


def translate(code: str | None, message: str) -> AppError:
    """The error of `common.errors` for a code of the Data API, and the database's message."""
    # PostgREST sends an empty code when a connection ends between two statements.
    if code == "" or (code or "").startswith(UNAVAILABLE_PREFIXES):
        return Unavailable()
    error_type = ERRORS.get(code or "", Internal)
    return error_type(message if code in USER_MESSAGE_CODES else None)
