"""The errors a client can receive: one class per code, with its HTTP status and a sentence the user can act on.

`common.web` turns them into responses. docs/error_codes.md lists them beside the SQLSTATE codes that `common.database`
maps to them.
"""

from typing import Any, ClassVar, Literal


class AppError(Exception):
    """An expected refusal or failure.

    `details` are added to the response beside `code`, `message` and `request_id`. `retry_after`, in whole seconds,
    becomes the Retry-After header. `usual_retry_after` is its default.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    message: ClassVar[str] = "Something went wrong on our side. Nothing was charged; please try again."
    usual_retry_after: ClassVar[int | None] = None

    def __init__(self, message: str | None = None, *, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(message or self.message)
        self.retry_after = retry_after or self.usual_retry_after
        self.details = details

    @property
    def sentence(self) -> str:
        """The message that the client sees."""
        return str(self)


class Internal(AppError):
    """A fault of ours. The client sees the fixed sentence, not the exception's message."""

    @property
    def sentence(self) -> str:
        return self.message


class ValueRefused(Internal):
    """The database refuses a value that we sent. It would refuse it again."""


class InvalidJson(AppError):
    status = 400
    code = "invalid_json"
    message = "The request body is not valid JSON."


class NotAnHttpRequest(AppError):
    status = 400
    code = "not_an_http_request"
    message = "This function answers HTTP requests to its URL. The event that invoked it is not one."


class InvalidSignature(AppError):
    status = 400
    code = "invalid_signature"
    message = "The Stripe-Signature header does not match this body, or is not from the last five minutes."


class Unauthenticated(AppError):
    status = 401
    code = "unauthenticated"
    message = "Sign in again: the access token is missing, expired or not valid."


class PaymentRequired(AppError):
    status = 402
    code = "payment_required"
    message = "Your plan has no queries left. Upgrade or buy a credit pack to continue."


class ByokBalanceExhausted(AppError):
    status = 402
    code = "byok_balance_exhausted"
    message = "Your own account at the model provider has no credit left."


class Forbidden(AppError):
    status = 403
    code = "forbidden"
    message = "You are not allowed to do this."


class AccountBlocked(AppError):
    status = 403
    code = "account_blocked"
    message = "Your account is blocked. Contact support."


class EmailNotConfirmed(AppError):
    status = 403
    code = "email_not_confirmed"
    message = "Confirm your e-mail address to use your free queries."


class ByokNotAllowed(AppError):
    status = 403
    code = "byok_not_allowed"
    message = "Your plan does not include using your own API keys. Upgrade to use one."


class NotFound(AppError):
    status = 404
    code = "not_found"
    message = "This was not found."


class MethodNotAllowed(AppError):
    status = 405
    code = "method_not_allowed"
    message = "This address does not support this HTTP method."


class RequestInProgress(AppError):
    status = 409
    code = "request_in_progress"
    message = "This message is already being answered."


class Conflict(AppError):
    status = 409
    code = "conflict"
    message = "This message id was used before with other words. Send the message with a new id."


class AlreadyAnswered(AppError):
    status = 409
    code = "already_answered"
    message = "This message was already answered and the answer was not stored. Send it as a new message to ask again."


class TooLarge(AppError):
    status = 413
    code = "too_large"
    message = "The request body is too large."


class InvalidRequest(AppError):
    status = 422
    code = "invalid_request"
    message = "The request is not valid; see fields."


class ModelNotAvailable(AppError):
    status = 422
    code = "model_not_available"
    message = "Your plan does not include this model."


class ModelGone(ModelNotAvailable):
    """The provider does not have the model any more, or not for this account. Another model may answer."""

    message = "The model provider does not offer this model any more. Nothing was charged; choose another model."


class ByokKeyRejected(AppError):
    status = 422
    code = "byok_key_rejected"
    message = "The model provider rejected your own API key."


class ByokKeyUnreadable(ByokKeyRejected):
    """Our keyring cannot decrypt the stored key."""

    message = "Your own API key can no longer be decrypted. Store it again, or delete it."


class TooManyRequests(AppError):
    status = 429
    code = "too_many_requests"
    message = "Too many requests; please try again in a moment."


class TooManyQueries(TooManyRequests):
    message = "As many questions of yours as your plan allows are being answered. Wait for one of them, or stop it."
    usual_retry_after = 5  # an answer takes a few seconds


class TooManyFailures(TooManyRequests):
    message = "Too many of your questions failed today and were not charged. You can ask again after midnight UTC."


class TooManyToolCalls(TooManyRequests):
    message = "Your assistant has called as many tools as a minute allows. Wait a moment."


class FreeAnswersOff(TooManyRequests):
    message = "Free answers are used up for today. They return at midnight UTC; a paid plan answers now."


class TooManyFollowers(TooManyRequests):
    message = "Three other tabs or devices are reading this answer. Close one of them, or open the conversation later."
    usual_retry_after = 5


class QuotaExhausted(AppError):
    status = 429
    code = "quota_exhausted"
    message = "You have used all queries for today. The quota resets at midnight UTC."


class OverageLimitReached(AppError):
    status = 429
    code = "overage_limit_reached"
    message = "You have reached the overage limit you set. Raise it, or wait until it resets."


class ProviderError(AppError):
    status = 502
    code = "provider_error"
    message = "The model provider failed to answer. Nothing was charged; please try again."


class ProviderDown(ProviderError):
    """The provider failed or cannot be reached, so another attempt may succeed. The client sees a ProviderError."""


class PromptRefused(ProviderError):
    """The provider refuses what it was sent, so another attempt would fail too. `finish_reason`: why.

    It ends the answer. Where nothing else reached the user, the client sees a ProviderError for "length".
    """

    message = "This question is too long for the model. Nothing was charged; ask a shorter one."

    def __init__(self, finish_reason: Literal["length", "content-filter"]) -> None:
        super().__init__()
        self.finish_reason = finish_reason


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
    message = "Our database cannot be reached, so the request was refused and nothing was charged. Please try again."
    usual_retry_after = 2  # an overload passes in seconds

    def __init__(self, message: str | None = None, *, upstream: str | None = None) -> None:
        """`upstream`: what the database or its gateway answered last, for the log."""
        super().__init__(message)
        self.upstream = upstream


class PaymentUnavailable(AppError):
    status = 503
    code = "payment_unavailable"
    message = "Our payment provider cannot be reached, and nothing was charged. Please try again in a moment."


class PriceDiffers(PaymentUnavailable):
    """Stripe would charge another price than the one that we show: publish-catalog has not run since it changed."""

    message = "This price is being changed, so it cannot be bought now. Nothing was charged; please try again later."
