"""Verifies Stripe's signatures. https://docs.stripe.com/webhooks#verify-manually"""

from collections.abc import Sequence

import orjson
from stripe import SignatureVerificationError, WebhookSignature

from functions.common import surrogates
from functions.common.billing.events import HANDLED_EVENTS, StripeEvent
from functions.common.errors import InvalidJson, InvalidSignature

TOLERANCE_S = 300


def verified(body: bytes, header: str | None, secrets: Sequence[str], now: float) -> tuple[StripeEvent, int]:
    """The event in a body that one of the secrets signed, at most TOLERANCE_S from `now` (seconds since 1970), and the
    place of the secret, from 0.

    Only an event that is handled needs an object: Stripe's thin events, which are all ignored, have none.
    https://docs.stripe.com/event-destinations#thin-events

    Raises InvalidSignature; InvalidJson for a signed body that is not an event.
    """
    if header is None or not header.isascii():
        raise InvalidSignature
    signer = next((place for place, secret in enumerate(secrets) if _signs(secret, body, header)), None)
    if signer is None:
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
            return sent, signer
        case {"id": str(event_id), "type": str(kind)} if kind not in HANDLED_EVENTS:
            return StripeEvent(id=event_id, type=kind, data={"object": {}}), signer
        case _:
            raise InvalidJson


def _signs(secret: str, body: bytes, header: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, header, secret))
    except (SignatureVerificationError, UnicodeDecodeError):
        return False
