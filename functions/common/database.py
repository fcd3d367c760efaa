"""The database client: calls SQL functions over Supabase's Data API.

Every function that we call may be called twice. A call therefore either has a result, or an error from a short list
that a repetition would not change, or the database is out of reach: then the call is repeated until its timeout.
docs/decisions/0024-one-rule-for-database-errors.md
"""

import asyncio
import random
import re
from collections.abc import Callable, Mapping
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
    TooLarge,
    Unauthenticated,
    Unavailable,
    ValueRefused,
)
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings
from functions.common.transport import NoResponseError, Transport

# Our own codes. docs/error_codes.md explains each.
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
    "TOBIG": TooLarge,
}
VALUE_REFUSED_CLASSES = ("22", "23")  # data exception, integrity constraint violation
INSUFFICIENT_PRIVILEGE = "42501"
TOKEN_REFUSED = frozenset({"PGRST301", "PGRST303"})
JWT_SECRET_MISSING = "PGRST300"  # noqa: S105 -- PostgREST has no keys

CODE = re.compile(r"[A-Z0-9]{5,8}")  # a SQLSTATE, or a code of PostgREST
# The exceptions of a `parse` that reads another shape than it expects. json.JSONDecodeError is a ValueError.
# RecursionError: it is nested too deeply.
WRONG_SHAPE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)

# Between repetitions, doubled each time. A part is random, so that many callers do not return at the same moment.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0


class OutOfReach(Exception):
    """The response may be different next time. The message is its status and code, for the log."""


class CredentialsRefused(OutOfReach):
    """The gateway or PostgREST refuses our API key, not the user's token.

    It may pass: where clocks differ, the token that the gateway makes of the key is from the future.
    """


class Database:
    """Calls the SQL functions of one Supabase project. Share one instance: it owns the connections.

    `transport`: by default AiohttpTransport.
    """

    def __init__(self, settings: SupabaseSettings, observer: Observer, transport: Transport | None = None) -> None:
        if transport is None:
            from functions.common.aiohttp_transport import AiohttpTransport  # ThreadTransport is there to avoid it

            transport = AiohttpTransport()
        self._observer = observer
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
        parse: Callable[[Any], Any],
        timeout_s: float = 2.5,
        background: bool = False,
    ) -> Any:
        """Call a SQL function with the service role, or with a user's rights if `user_token` is given.

        Returns what `parse` makes of the result; common/results.py has the usual ones. A `parse` that raises
        one of WRONG_SHAPE has not read a result of the function, and the call is repeated. `timeout_s` limits
        the call with its repetitions. A `background` call uses connections of its own, so that no other call
        waits behind it.

        Raises the errors of `refusal`, ValueRefused for a parameter that is not valid Unicode, and Unavailable where
        the database was out of reach until the timeout.
        """
        headers = self._service_headers if user_token is None else request_headers(self._anon_key, user_token)
        try:
            body = orjson.dumps(dict(params or {}))
        except orjson.JSONEncodeError as error:
            raise ValueRefused from error
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pause_s = FIRST_PAUSE_S
        refused: CredentialsRefused | None = None
        while True:
            try:
                status, content = await self._transport.post(
                    self._rpc_url + function,
                    headers,
                    body,
                    # The time may have passed in the pause, and aiohttp takes zero and less for no limit.
                    timeout_s=max(deadline - loop.time(), 0.001),
                    background=background,
                )
                return result(status, content, parse, is_user=user_token is not None)
            except (NoResponseError, OutOfReach) as error:
                cause = error
                refused = error if isinstance(error, CredentialsRefused) else refused
            wait_s = pause_s * random.uniform(0.5, 1)  # noqa: S311 -- not for security
            if loop.time() + wait_s >= deadline:
                if refused is not None:
                    self._observer.failure("API key refused", refused, function=function, upstream=str(refused))
                    self._observer.count(ServiceCredentialFailures=1)
                raise Unavailable(upstream=str(cause)) from cause
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def result(status: int, content: bytes, parse: Callable[[Any], Any], *, is_user: bool) -> Any:
    """What `parse` makes of the result in a response. Raises the errors of `refusal`, and OutOfReach."""
    code, hint, detail = "", None, None
    try:
        if status == 204:
            return parse(None)  # the function returns void
        value = orjson.loads(content)
        if 200 <= status < 300:
            return parse(money.parse_amounts(value))
        code, hint, detail = value["code"], value.get("hint"), value.get("details")
        if not CODE.fullmatch(code):
            code = ""
    except WRONG_SHAPE:
        failure = CredentialsRefused if status == 401 else OutOfReach
        raise failure(f"{status} with an unreadable body") from None
    if (error := refusal(status, code, hint, detail, is_user=is_user)) is not None:
        raise error
    failure = CredentialsRefused if status == 401 or code == JWT_SECRET_MISSING else OutOfReach
    raise failure(f"{status} {code}")


def refusal(status: int, code: str, hint: Any, detail: Any, *, is_user: bool) -> AppError | None:
    """The error for a response that a repetition would not change; None where it might. The list is complete:

    - our own codes;
    - a value that the database refuses;
    - a privilege that the user, or our role, does not have;
    - the user's own token. Where our own key is refused (status 401), the fault is ours and may be repaired.

    Of our own codes, `hint` is the error's reason and `detail` its details as a JSON object, if the function gives
    them. The message stays internal.
    """
    if error_type := ERRORS.get(code):
        return _with_reason(error_type, hint, detail)
    if code.startswith(VALUE_REFUSED_CLASSES):
        return ValueRefused()
    if not is_user and status == 401:
        return None
    if code == INSUFFICIENT_PRIVILEGE:
        return Forbidden() if is_user else Internal()
    if code in TOKEN_REFUSED and is_user:
        return Unauthenticated()
    return None


def _with_reason(error_type: type[AppError], hint: Any, detail: Any) -> AppError:
    """The error with the reason that the database gives, or with its usual one if the code here does not know it."""
    try:
        return error_type(hint, **(orjson.loads(detail) if detail else {}))
    except WRONG_SHAPE:
        return error_type()


def request_headers(api_key: str, user_token: str | None = None) -> dict[str, str]:
    """The headers of a call with the rights of the API key, or of the user.

    A key of the deprecated kind is a JWT and is also the token. A publishable or secret key is not, and is refused as
    one (https://supabase.com/docs/guides/getting-started/api-keys).
    """
    headers = {"apikey": api_key, "content-type": "application/json"}
    token = api_key if user_token is None and api_key.count(".") == 2 else user_token
    return headers if token is None else {**headers, "authorization": f"Bearer {token}"}
