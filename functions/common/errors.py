"""The errors a client can receive: one class per code, with its HTTP status. Each has a reason with its sentences.

`common.reasons` has the sentences, `common.web` makes responses of the errors. docs/error_codes.md lists both beside
the SQLSTATE codes that `common.database` maps to them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from functions.common import reasons
from functions.common.language import Language
from functions.common.reasons import Reason
from functions.common.validation import FieldError


class AppError(Exception):
    """An expected refusal or failure.

    `reason_code` is a code of common.reasons. By default it is `usual_reason`, and without that the error's code.
    `details` fill the placeholders of the sentence, and are added to the response. `retry_after`, in whole seconds,
    becomes the Retry-After header. `usual_retry_after` is its default. `words` replaces the sentence of the reason: an
    operator's sentence by language.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    usual_reason: ClassVar[str | None] = None
    usual_retry_after: ClassVar[int | None] = None
    words: Mapping[Language, str] | None = None

    def __init__(self, reason_code: str | None = None, /, *, retry_after: int | None = None, **details: Any) -> None:
        self.reason: Reason = reasons.BY_CODE[reason_code or self.usual_reason or self.code]
        self.retry_after = retry_after or self.usual_retry_after
        self.details = details
        super().__init__(self.sentence("en"))

    def sentence(self, language: Language) -> str:
        """The message that the client sees."""
        if self.words is not None:
            return self.words[language]
        return self.reason.sentence(language, self.details)

    def details_in(self, language: Language) -> Mapping[str, Any]:
        """The details of the response."""
        return self.details


class Internal(AppError):
    """A fault of ours. The client sees a fixed sentence, not `message`, which is for an operator."""

    def __init__(self, message: str = "") -> None:
        super().__init__()
        self.message = message

    def __str__(self) -> str:
        return self.message or super().__str__()


class ValueRefused(Internal):
    """The database refuses a value that we sent. It would refuse it again."""


class InvalidJson(AppError):
    status = 400
    code = "invalid_json"


class NotAnHttpRequest(AppError):
    status = 400
    code = "not_an_http_request"


class InvalidSignature(AppError):
    status = 400
    code = "invalid_signature"


class Unauthenticated(AppError):
    status = 401
    code = "unauthenticated"


class PaymentRequired(AppError):
    status = 402
    code = "payment_required"


class ByokBalanceExhausted(AppError):
    status = 402
    code = "byok_balance_exhausted"


class Forbidden(AppError):
    status = 403
    code = "forbidden"


class AccountBlocked(AppError):
    status = 403
    code = "account_blocked"


class EmailNotConfirmed(AppError):
    status = 403
    code = "email_not_confirmed"


class ByokNotAllowed(AppError):
    status = 403
    code = "byok_not_allowed"


class NotFound(AppError):
    status = 404
    code = "not_found"


class MethodNotAllowed(AppError):
    status = 405
    code = "method_not_allowed"


class RequestInProgress(AppError):
    status = 409
    code = "request_in_progress"
    usual_retry_after = 5  # an answer takes a few seconds


class Conflict(AppError):
    status = 409
    code = "conflict"


class AlreadyAnswered(AppError):
    status = 409
    code = "already_answered"


class TooLarge(AppError):
    status = 413
    code = "too_large"


class InvalidRequest(AppError):
    status = 422
    code = "invalid_request"

    def __init__(self, *fields: FieldError, reason_code: str | None = None) -> None:
        super().__init__(reason_code)
        self.fields = fields

    def details_in(self, language: Language) -> Mapping[str, Any]:
        """The invalid `fields`."""
        return {"fields": [{"field": one.name or "body", "message": one.message_in(language)} for one in self.fields]}


class ModelNotAvailable(AppError):
    status = 422
    code = "model_not_available"


class ModelGone(ModelNotAvailable):
    """The provider does not have the model any more, or not for this account. Another model may answer."""

    usual_reason = "model_gone"


class ByokKeyRejected(AppError):
    """The provider rejects the user's own key, or our key ring cannot decrypt it."""

    status = 422
    code = "byok_key_rejected"


class TooManyRequests(AppError):
    status = 429
    code = "too_many_requests"


class TooManyFollowers(TooManyRequests):
    usual_reason = "too_many_followers"
    usual_retry_after = 5


class QuotaExhausted(AppError):
    status = 429
    code = "quota_exhausted"


class OverageLimitReached(AppError):
    status = 429
    code = "overage_limit_reached"


class ProviderError(AppError):
    status = 502
    code = "provider_error"


class ProviderDown(ProviderError):
    """The provider failed or cannot be reached, so another attempt may succeed. The client sees a ProviderError."""


class PromptRefused(ProviderError):
    """The provider refuses what it was sent, so another attempt would fail too. `finish_reason`: why.

    It ends the answer. Where nothing else reached the user, the client sees a ProviderError for "length".
    """

    usual_reason = "prompt_refused"

    def __init__(self, finish_reason: Literal["length", "content-filter"]) -> None:
        super().__init__()
        self.finish_reason = finish_reason


class ProviderOverloaded(AppError):
    status = 503
    code = "provider_overloaded"


class ProviderTimeout(AppError):
    status = 504
    code = "provider_timeout"


def is_providers_failure(error: BaseException) -> bool:
    """Whether a model provider failed, and not what was sent to it."""
    return isinstance(error, ProviderError | ProviderOverloaded | ProviderTimeout) and not isinstance(
        error, PromptRefused
    )


class Unavailable(AppError):
    """`upstream`: what the database or its gateway answered last, for the log."""

    status = 503
    code = "unavailable"
    usual_retry_after = 2  # an overload passes in seconds

    def __init__(self, reason_code: str | None = None, /, *, upstream: str | None = None, **details: Any) -> None:
        super().__init__(reason_code, **details)
        self.upstream = upstream


def is_our_failure(error: AppError) -> bool:
    """Whether our code or our database failed, and neither a provider, the user, a limit nor a pause is the reason."""
    return error.reason.code in {Internal.code, Unavailable.code}


class PaymentUnavailable(AppError):
    status = 503
    code = "payment_unavailable"


class PriceDiffers(PaymentUnavailable):
    """Stripe would charge another price than the one that we show: publish-catalog has not run since it changed."""

    usual_reason = "price_differs"


class CurrencyDiffers(PaymentUnavailable):
    """The customer has a subscription or an invoice item in another currency at Stripe, which allows only one."""

    usual_reason = "currency_differs"


BY_CODE = {kind.code: kind for kind in AppError.__subclasses__()}


def error_for(reason_code: str, **details: Any) -> AppError:
    """The error of a reason. `details` are the arguments of AppError. Raises KeyError for an unknown reason."""
    code = reasons.BY_CODE[reason_code].error
    assert code is not None, f"{reason_code} is no refusal"
    return BY_CODE[code](reason_code, **details)
