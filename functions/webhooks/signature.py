"""Verifies Stripe's signatures. https://docs.stripe.com/webhooks#verify-manually"""

from collections.abc import Iterable

import orjson
from stripe import SignatureVerificationError, WebhookSignature

from functions.common import surrogates
from functions.common.billing.events import HANDLED_EVENTS, StripeEvent
from functions.common.errors import InvalidJson, InvalidSignature

TOLERANCE_S = 300


def verified(body: bytes, header: str | None, secrets: Iterable[str], now: float) -> StripeEvent:
    """The event in a body that one of the secrets signed, at most TOLERANCE_S from `now` (seconds since 1970).

    Only an event that is handled needs an object: Stripe's thin events, which are all ignored, have none.
    https://docs.stripe.com/event-destinations#thin-events

    Raises InvalidSignature; InvalidJson for a signed body that is not an event.
    """
    if header is None or not header.isascii() or not any(_signs(secret, body, header) for secret in secrets):
        raise InvalidSignature
    # Checked here: the SDK accepts times in the future, and always reads the system clock.
    stamps = [item.removeprefix("t=") for item in header.split(",") if item.startswith("t=")]
    if len(stamps) != 1 or not stamps[0].isdecimal() or abs(now - int(stamps[0])) > TOLERANCE_S:
        raise InvalidSignature
    try:
        event = surrogates.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson from error
    match event:
        case {"id": str(event_id), "type": str(kind), "data": {"object": dict(thing)}}:
            sent = StripeEvent(id=event_id, type=kind, data={"object": thing}, account=event.get("account"))
            if "livemode" in event:
                sent["livemode"] = event["livemode"]
            return sent
        case {"id": str(event_id), "type": str(kind)} if kind not in HANDLED_EVENTS:
            return StripeEvent(id=event_id, type=kind, data={"object": {}})
        case _:
            raise InvalidJson


def _signs(secret: str, body: bytes, header: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, header, secret))
    except (SignatureVerificationError, UnicodeDecodeError):
        return False
