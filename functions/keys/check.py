"""Checks a key with its provider by listing the models, which generates nothing and costs nothing."""

import asyncio
import importlib
import ssl
from enum import Enum
from functools import cache
from typing import Any

from functions.common.provider_keys import is_rejected
from functions.common.vault import PlainKey
from functions.keys.settings import KeysSettings

TIMEOUT_S = 5.0
# What the SDKs read from the environment and send beside the key. It belongs to the platform's account.
ENVIRONMENT_ACCOUNT = ("auth_token", "organization", "project")


class CheckResult(Enum):
    """UNCLEAR: the provider cannot be reached, or its response is not about the key.

    A key may be allowed to answer and not to list models.
    """

    VALID = "valid"
    REJECTED = "rejected"
    UNCLEAR = "unclear"


@cache
def _tls_context() -> ssl.SSLContext:
    """Shared by all checks, because reading the certificates takes 40 ms of CPU."""
    import httpx2  # imported here only, as the SDKs are

    return httpx2.create_ssl_context()


async def check(provider: str, key: PlainKey, settings: KeysSettings) -> CheckResult:
    """Ask the provider, `anthropic` or `openai`, once and for at most TIMEOUT_S."""
    # Imported in a thread and only here: an SDK takes a second to import, and listing keys needs none.
    sdk = await asyncio.to_thread(importlib.import_module, provider)
    if provider == "anthropic":
        client, query = sdk.AsyncAnthropic, {"limit": 1}
        base_url = settings.anthropic_base_url
    else:
        client, query = sdk.AsyncOpenAI, {}
        base_url = settings.openai_base_url
    http = sdk.DefaultAsyncHttpxClient(verify=_tls_context())
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            client(
                api_key=key.reveal(), base_url=base_url, timeout=TIMEOUT_S, max_retries=0, http_client=http
            ) as connection,
        ):
            _drop_environment_account(connection)
            await connection.models.list(**query)
    except sdk.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        inner = body.get("error", body)
        inner = inner if isinstance(inner, dict) else {}
        code, message = str(inner.get("code") or inner.get("type") or ""), str(inner.get("message") or "")
        rejected = is_rejected(error.status_code, code, message)
        return CheckResult.REJECTED if rejected else CheckResult.UNCLEAR
    except (sdk.APIError, TimeoutError, ValueError, AttributeError):
        # The SDKs raise the last two if a successful response is not a list of models, such as a page of a proxy.
        return CheckResult.UNCLEAR
    return CheckResult.VALID


def _drop_environment_account(client: Any) -> None:
    """Make an SDK's client send the key and nothing else that identifies an account."""
    for name in ENVIRONMENT_ACCOUNT:
        if hasattr(client, name):
            setattr(client, name, None)
