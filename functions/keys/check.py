"""Whether a provider accepts a key: asks for its list of models, which generates nothing and costs nothing."""

import asyncio
import importlib
from enum import Enum

from functions.common.vault import PlainKey
from functions.keys.settings import KeysSettings

TIMEOUT_S = 5.0
PROVIDERS = {"anthropic": "Anthropic", "openai": "OpenAI"}


class Verdict(Enum):
    """What came of asking."""

    VALID = "valid"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"


async def check(provider: str, key: PlainKey, settings: KeysSettings) -> Verdict:
    """Ask anthropic or openai, once, for at most TIMEOUT_S. UNREACHABLE is anything but a plain yes or no."""
    # In a thread, and only here: importing an SDK takes a second, and listing keys needs none.
    sdk = await asyncio.to_thread(importlib.import_module, provider)
    if provider == "anthropic":
        client, query = sdk.AsyncAnthropic, {"limit": 1}
        base_url = settings.anthropic_base_url
    else:
        client, query = sdk.AsyncOpenAI, {}
        base_url = settings.openai_base_url
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            client(api_key=key.reveal(), base_url=base_url, timeout=TIMEOUT_S, max_retries=0) as connection,
        ):
            # The SDKs read these from the environment: of another account than the key's.
            for name in ("auth_token", "organization", "project"):
                if hasattr(connection, name):
                    setattr(connection, name, None)
            await connection.models.list(**query)
    except (sdk.AuthenticationError, sdk.PermissionDeniedError):
        return Verdict.REJECTED
    except (sdk.APIError, TimeoutError, ValueError, AttributeError):
        # The last two are the SDKs' own of a success that is no list of models: a proxy's page, say, or half an answer.
        return Verdict.UNREACHABLE
    return Verdict.VALID
