"""The errors a client can meet: one class a code, each with its HTTP status and a sentence to act on.

`common.web` turns any of them into the wire shape. docs/error_codes.md lists them for people, beside the SQLSTATE
codes that `common.database` maps to them.
"""

from typing import Any, ClassVar


class AppError(Exception):
    """An expected refusal or failure.

    `details` join `code`, `message` and `request_id` in the response; `retry_after` is whole seconds and becomes the
    Retry-After header.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    message: ClassVar[str] = "Something went wrong on our side. Nothing was charged; please try again."

    def __init__(self, message: str | None = None, *, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(message or self.message)
        self.retry_after = retry_after
        self.details = details

    @property
    def sentence(self) -> str:
        """What the client is shown."""
        return str(self)


class Internal(AppError):
    """A fault of ours. The client is shown the fixed sentence, whatever the exception says."""

    @property
    def sentence(self) -> str:
        return self.message


class InvalidJson(AppError):
    status = 400
    code = "invalid_json"
    message = "The request body is not valid JSON."


class InvalidSignature(AppError):
    status = 400
    code = "invalid_signature"
    message = "The Stripe-Signature header does not sign this body, or not within the last five minutes."


class Unauthenticated(AppError):
    status = 401
    code = "unauthenticated"
    message = "Sign in again: the access token is missing, expired or not valid."


class PaymentRequired(AppError):
    status = 402
    code = "payment_required"
    message = "Your plan has no queries left. Upgrade or buy a credit pack to go on."


class ByokBalanceExhausted(AppError):
    status = 402
    code = "byok_balance_exhausted"
    message = "Your own account at the model provider has no credit left."


class Forbidden(AppError):
    status = 403
    code = "forbidden"
    message = "You are not allowed to do this."


class ByokNotAllowed(AppError):
    status = 403
    code = "byok_not_allowed"
    message = "Your plan does not include keys of your own. Upgrade to use one."


class NotFound(AppError):
    status = 404
    code = "not_found"
    message = "There is no such thing here."


class MethodNotAllowed(AppError):
    status = 405
    code = "method_not_allowed"
    message = "This address does not take that method."


class RequestInProgress(AppError):
    status = 409
    code = "request_in_progress"
    message = "This message is being answered right now."


class AlreadyAnswered(AppError):
    status = 409
    code = "already_answered"
    message = "This message was answered before and the answer was not kept. Send it as a new message to ask again."


class TooLarge(AppError):
    status = 413
    code = "too_large"
    message = "The request body is over 256 KiB."


class InvalidRequest(AppError):
    status = 422
    code = "invalid_request"
    message = "The request is not valid; see fields."


class ModelNotAvailable(AppError):
    status = 422
    code = "model_not_available"
    message = "Your plan does not have this model."


class ByokKeyRejected(AppError):
    status = 422
    code = "byok_key_rejected"
    message = "The model provider does not accept your own key."


class TooManyRequests(AppError):
    status = 429
    code = "too_many_requests"
    message = "Too many requests; please try again in a moment."


class QuotaExhausted(AppError):
    status = 429
    code = "quota_exhausted"
    message = "You have used today's queries. They start anew at midnight UTC."


class OverageLimitReached(AppError):
    status = 429
    code = "overage_limit_reached"
    message = "You have reached the overage limit you set. Raise it, or wait until it starts anew."


class ProviderError(AppError):
    status = 502
    code = "provider_error"
    message = "The model provider failed to answer. Nothing was charged; please try again."


class ProviderDown(ProviderError):
    """Failed by itself or out of reach, so that another attempt may do. The client is told the same."""


class ProviderOverloaded(AppError):
    status = 503
    code = "provider_overloaded"
    message = "The model provider is overloaded. Nothing was charged; please try again in a moment."


class ProviderTimeout(AppError):
    status = 504
    code = "provider_timeout"
    message = "The model provider took too long. Nothing was charged; please try again."


class Unavailable(AppError):
    status = 503
    code = "unavailable"
    message = "Our database is out of reach, so the request was refused and nothing was charged. Please try again."


class PaymentUnavailable(AppError):
    status = 503
    code = "payment_unavailable"
    message = "Our payment provider is out of reach, and nothing was charged. Please try again in a moment."
