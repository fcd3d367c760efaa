"""Whether Stripe sent a body, and lately. https://docs.stripe.com/webhooks#verify-manually"""

from collections.abc import Iterable
from typing import Any

import orjson
from stripe import SignatureVerificationError, WebhookSignature

from functions.common.errors import InvalidJson, InvalidSignature

TOLERANCE_S = 300


def verified(body: bytes, header: str | None, secrets: Iterable[str], now: float) -> dict[str, Any]:
    """The event in a body that one of the secrets signs, no more than five minutes from `now`, in seconds since 1970.

    Raises InvalidSignature; InvalidJson for a signed body that is no event.
    """
    if header is None or not header.isascii() or not any(_signs(secret, body, header) for secret in secrets):
        raise InvalidSignature
    # The SDK takes times in the future, and its clock is not ours to set.
    stamps = [item.removeprefix("t=") for item in header.split(",") if item.startswith("t=")]
    if len(stamps) != 1 or not stamps[0].isdecimal() or abs(now - int(stamps[0])) > TOLERANCE_S:
        raise InvalidSignature
    try:
        event = orjson.loads(body)
        if (
            isinstance(event["id"], str)
            and isinstance(event["type"], str)
            and isinstance(event["data"]["object"], dict)
        ):
            return dict(event)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    raise InvalidJson


def _signs(secret: str, body: bytes, header: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, header, secret))
    except (SignatureVerificationError, UnicodeDecodeError):
        return False
