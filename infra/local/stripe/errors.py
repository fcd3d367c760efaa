"""Error answers, in Stripe's shape: `{"error": {"type", "code"?, "message", "param"?, …}}`.

Statuses: 400 a bad request, 401 a wrong key, 402 a declined card, 404 an unknown id, 409 an idempotency key in use.
"""

from typing import Any

Json = dict[str, Any]
DECLINED = "Your card was declined."


class ApiError(Exception):
    """An error answer. `saved`: an idempotency key stores it, which Stripe does once the request is being executed."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        saved: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.saved = status, saved
        fields = {"code": code, "message": message, "param": param, "type": kind, **more}
        self.body: Json = {name: value for name, value in fields.items() if value is not None}


def missing_object(kind: str, object_id: str, param: str = "id") -> ApiError:
    """404 for an unknown id."""
    return ApiError(f"No such {kind}: '{object_id}'", code="resource_missing", param=param, status=404)


def missing_param(param: str, message: str = "") -> ApiError:
    """400 for a missing parameter."""
    return ApiError(message or f"Missing required param: {param}.", code="parameter_missing", param=param, saved=False)


def card_declined(**more: Any) -> ApiError:
    """402 for a declined card."""
    return ApiError(
        DECLINED, code="card_declined", status=402, kind="card_error", decline_code="generic_decline", **more
    )


def unsupported(feature: str, param: str | None = None) -> ApiError:
    """400 for a feature of Stripe that the stand-in does not have: it is refused, never ignored."""
    return ApiError(f"This stand-in for Stripe cannot do this: {feature}", code="not_in_this_stand_in", param=param)
