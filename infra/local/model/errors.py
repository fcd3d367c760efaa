"""Error replies of both providers."""

# HTTP status: message, Anthropic's error type, OpenAI's error type and code.
ERRORS: dict[int, tuple[str, str, str, str | None]] = {
    400: ("The request is not valid.", "invalid_request_error", "invalid_request_error", None),
    401: ("The API key is not valid.", "authentication_error", "invalid_request_error", "invalid_api_key"),
    403: ("This API key may not do this.", "permission_error", "invalid_request_error", "insufficient_permissions"),
    404: ("The model does not exist.", "not_found_error", "invalid_request_error", "model_not_found"),
    413: ("The request is too large.", "request_too_large", "invalid_request_error", "request_too_large"),
    429: ("The rate limit is reached.", "rate_limit_error", "tokens", "rate_limit_exceeded"),
    500: ("The server had an error.", "api_error", "server_error", "server_error"),
    503: ("The servers are overloaded.", "api_error", "service_unavailable_error", "server_is_overloaded"),
    529: ("Overloaded", "overloaded_error", "server_error", "server_error"),
}


class Refused(Exception):
    """An error reply. `kind` replaces the type and code from ERRORS; `after` is the delay before it in seconds."""

    def __init__(self, status: int, message: str = "", kind: str = "", retry_after: str = "", after: float = 0) -> None:
        self.status, self.retry_after, self.after = status, retry_after, after
        text, self.anthropic, self.openai, self.code = ERRORS.get(status, ERRORS[400 if status < 500 else 500])
        self.message = message or text
        if kind:
            self.anthropic = self.openai = self.code = kind
