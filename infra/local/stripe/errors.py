"""What Stripe says when it refuses, in its error shape: `{"error": {"type", "code"?, "message", "param"?, …}}`.

Statuses: 400 a bad request, 401 a wrong key, 402 a declined card, 404 an unknown id, 409 an idempotency key in use.
"""

from typing import Any

Json = dict[str, Any]


class Refused(Exception):
    """An answer that is an error. `kept`: whether an idempotency key remembers it, as it does once work has begun."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        kept: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.kept = status, kept
        told = {"code": code, "message": message, "param": param, "type": kind, **more}
        self.error: Json = {name: value for name, value in told.items() if value is not None}


def missing_object(kind: str, object_id: str, param: str = "id") -> Refused:
    """An id that nothing has."""
    return Refused(f"No such {kind}: '{object_id}'", code="resource_missing", param=param, status=404)


def missing_param(param: str, message: str = "") -> Refused:
    return Refused(message or f"Missing required param: {param}.", code="parameter_missing", param=param, kept=False)


def unsupported(what: str, param: str | None = None) -> Refused:
    """Something that Stripe has and this fake has not: said, never ignored."""
    return Refused(f"This stand-in for Stripe cannot do this: {what}", code="not_in_this_stand_in", param=param)
