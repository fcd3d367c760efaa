"""The model providers' names, and what a provider's refusal says about the API key that was sent."""

PROVIDER_NAMES = {"anthropic": "Anthropic", "openai": "OpenAI"}

# Codes that are about the key. 401 is, too, unless the refusal names another cause.
NOT_ACCEPTED = frozenset({"authentication_error", "invalid_api_key", "account_deactivated"})
OTHER_CAUSES = frozenset(
    {
        "model_not_found",
        "missing_scope",
        "insufficient_permissions",
        "permission_error",
        "unsupported_country_region_territory",
        "ip_not_authorized",
    }
)
# A restricted key that lacks a right gets 401 without a code.
OTHER_CAUSES_WORDS = "missing scopes"


def is_rejected(status: int, code: str, message: str) -> bool:
    """Whether a refusal means that the key is not accepted for any request. `status` is 0 within an answer."""
    if code in NOT_ACCEPTED:
        return True
    return status == 401 and code not in OTHER_CAUSES and OTHER_CAUSES_WORDS not in message.lower()
