"""What the routes of the account share."""

import secrets
import time
import zlib
from collections.abc import Mapping
from typing import Any

import jwt

from functions.account.settings import AccountSettings
from functions.common import results
from functions.common.auth import User
from functions.common.database import Database
from functions.common.errors import Forbidden, InvalidRequest, NotFound, PaymentUnavailable, TooLarge, TooManyRequests
from functions.common.language import Language
from functions.common.leaving.export import write_export
from functions.common.observe import Observer
from functions.common.reasons import BY_CODE
from functions.common.thread_transport import ThreadTransport
from functions.common.validation import field_problem

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: a response has at most 6 MB, and a
# compressed one is sent as base64, which adds a third.
EXPORT_LIMIT = 4_500_000
RECENT_SIGN_IN_S = 300
# Methods in the claim `amr` that are no sign-in. https://supabase.com/docs/guides/auth/jwt-fields
NO_SIGN_IN = frozenset({"token_refresh", "anonymous"})

# The reason for each alert, by kind and percent.
ALERTS = {
    ("included", 80): "quota_nearly_used",
    ("included", 100): "quota_used",
    ("overage", 80): "overage_nearly_used",
    ("overage", 100): "overage_used",
    ("credits", 80): "credits_nearly_used",
    ("credits", 100): "all_credits_used",
}


class ExportFile:
    """The bytes of an export, compressed with gzip if the client accepts it. Raises TooLarge beyond EXPORT_LIMIT."""

    def __init__(self, *, compressed: bool) -> None:
        self._content = bytearray()
        self._gzip = zlib.compressobj(wbits=16 + zlib.MAX_WBITS) if compressed else None

    def write(self, text: str, /) -> None:
        """Add text."""
        data = text.encode()
        self._add(self._gzip.compress(data) if self._gzip is not None else data)

    def finish(self) -> bytes:
        """The whole content."""
        if self._gzip is not None:
            self._add(self._gzip.flush())
        return bytes(self._content)

    def _add(self, data: bytes) -> None:
        self._content += data
        if len(self._content) > EXPORT_LIMIT:
            raise TooLarge("export_too_large")


class UserAccount:
    """Reads and changes users' accounts. The routes share one instance."""

    def __init__(self, settings: AccountSettings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._database = Database(settings, observer, ThreadTransport())

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def usage(self, user: User, language: Language) -> Mapping[str, Any]:
        """The user's plan, and what is left of it, with sentences in the language."""
        usage: Mapping[str, Any] = await self._database.call(
            "usage_summary", user_token=user.token, parse=results.record("tier", "alerts", "announcements")
        )
        alerts = [{**alert, **_reason(ALERTS[alert["kind"], alert["percent"]], language)} for alert in usage["alerts"]]
        announcements = [
            {
                "kind": announcement["kind"],
                "provider": announcement["provider"],
                "message": announcement[language],
                "starts_at": announcement["starts_at"],
                "ends_at": announcement["ends_at"],
            }
            for announcement in usage["announcements"]
        ]
        reason = _reason(usage["reason_code"], language)
        return {**usage, **reason, "alerts": alerts, "announcements": announcements}

    async def stop(self, user: User, chat_id: str) -> bool:
        """Ask the running answer of a chat to stop, in whichever process it runs. Returns whether there was one."""
        params = {"p_user_id": user.id, "p_chat_id": chat_id}
        stopping: bool = await self._database.call("stop_query", params, parse=results.flag)
        return stopping

    async def rate(self, user: User, message_id: str, rating: str | None, comment: str | None) -> None:
        """Store the rating of an answer, or remove it. Raises NotFound for a message that is no answer to the user."""
        params = {"p_user_id": user.id, "p_message_id": message_id, "p_rating": rating, "p_comment": comment}
        await self._database.call("rate_message", params, parse=results.nothing)

    async def share(self, user: User, chat_id: str) -> Mapping[str, Any]:
        """Share a copy of a conversation. Returns its `token` and `expires_at`. Raises NotFound, TooLarge."""
        params = {"p_user_id": user.id, "p_chat_id": chat_id, "p_token": secrets.token_urlsafe(24)}
        shared: Mapping[str, Any] = await self._database.call(
            "share_conversation", params, parse=results.record("token", "expires_at")
        )
        return shared

    async def unshare(self, user: User, chat_id: str) -> bool:
        """Stop sharing a conversation. Returns whether it was shared."""
        params = {"p_user_id": user.id, "p_chat_id": chat_id}
        ended: bool = await self._database.call("unshare_conversation", params, parse=results.flag)
        return ended

    async def shared(self, token: str) -> Mapping[str, Any]:
        """A shared conversation. Raises NotFound."""
        params = {"p_token": token}
        found: Mapping[str, Any] | None = await self._database.call(
            "shared_conversation", params, parse=results.record_or_none("messages")
        )
        if found is None:
            raise NotFound("not_shared")
        return found

    async def export(self, user: User, *, compressed: bool) -> bytes:
        """Everything that is stored about the user, as one JSON document: once a minute.

        Raises TooManyRequests, TooLarge, Unauthenticated.
        """
        if not await self._database.call("begin_export", {"p_user_id": user.id}, parse=results.flag):
            raise TooManyRequests("export_repeated", retry_after=60)
        file = ExportFile(compressed=compressed)
        await write_export(self._database, user.id, file, _no_progress)
        return file.finish()

    async def delete(self, user: User, confirm: str) -> None:
        """Delete the user and all their data. Safe to repeat.

        Raises Forbidden without a recent sign-in or while something is owed, PaymentRequired with the link while an
        invoice for overage is open, InvalidRequest if `confirm` is not the
        user's e-mail address, Unauthenticated, PaymentUnavailable, Unavailable.
        """
        if time.time() - signed_in_at(user.token) > RECENT_SIGN_IN_S:
            raise Forbidden("old_sign_in")
        params = {"p_user_id": user.id, "p_session_id": user.session_id, "p_confirm": confirm}
        if not await self._database.call("confirm_deletion", params, parse=results.flag):
            raise InvalidRequest(field_problem("confirm", "confirmation"))

        # Imported here, because Stripe's SDK takes 0.3 s and only a deletion needs it.
        from stripe import StripeError

        from functions.common.billing.stripe_client import Account
        from functions.common.leaving.auth_admin import AuthAdmin
        from functions.common.leaving.deletion import delete_user

        stripe = Account(self._settings)
        try:
            await delete_user(self._database, stripe, AuthAdmin(self._settings), user.id, _no_progress)
        except StripeError as error:
            self._observer.failure("stripe failed", error, upstream_status=error.http_status)
            raise PaymentUnavailable from error
        finally:
            await stripe.close()


def _reason(code: str, language: Language) -> dict[str, str]:
    """A reason as in an error."""
    reason = BY_CODE[code]
    return {"reason_code": code, "message": reason.sentence(language), "action": reason.action}


def signed_in_at(token: str) -> float:
    """When the user of a verified access token last signed in, in seconds since 1970; 0 if it does not say.

    `iat` is the time of the last refresh, which needs no sign-in.
    """
    methods = jwt.decode(token, options={"verify_signature": False}).get("amr")
    return max(
        (
            float(method["timestamp"])
            for method in (methods if isinstance(methods, list) else [])
            if isinstance(method, dict)
            and method.get("method") not in NO_SIGN_IN
            and isinstance(method.get("timestamp"), int | float)
        ),
        default=0.0,
    )


def _no_progress(line: str) -> None:
    """A response has no progress."""
