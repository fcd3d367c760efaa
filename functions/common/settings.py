"""Settings from the environment: a small frozen class per function, validated once at start.

On AWS, SECRETS_ID names a Secrets Manager secret: a JSON object with more variables. The environment takes precedence.

An error names every missing or malformed variable and never prints a value. Secrets are `SecretStr`, which hides them
in repr and JSON.
"""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from functions.common.validation import field_errors

if TYPE_CHECKING:
    from functions.common.vault import Vault

S = TypeVar("S", bound="Settings")


class SettingsError(Exception):
    """One sentence for each variable that is missing or malformed."""


class Settings(BaseModel):
    """Base class. The `validation_alias` of a field is the name of its variable."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


def _base_url(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("must start with https:// or http://")
    return value.rstrip("/")


def _long_enough(value: str) -> list[str]:
    secrets = [secret.strip() for secret in value.split(",")]
    if min(map(len, secrets)) < 32:
        raise ValueError("must be at least 32 characters, as Supabase generates it")
    return secrets


def _sendable(value: str) -> str:
    # A header is sent without its spaces at the ends, and a line break within is an error at every call.
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must be an API key without spaces and line breaks")
    return value


def _not_secret(value: str) -> str:
    _sendable(value)
    if value.startswith("sb_secret_"):
        raise ValueError("is a secret key: use the publishable key, or the anon key")
    return value


def _not_publishable(value: SecretStr) -> SecretStr:
    _sendable(value.get_secret_value())
    if value.get_secret_value().startswith("sb_publishable_"):
        raise ValueError("is a publishable key: use a secret key, or the service_role key")
    return value


def _stripe_key(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("sk_", "rk_")):
        raise ValueError("must be a secret or restricted key of Stripe, which starts with sk_ or rk_")
    return value


def _origins(value: str) -> list[str]:
    origins = [origin.strip().rstrip("/") for origin in value.split(",")]
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("must be origins such as https://example.org, with commas between them")
    return origins


BaseUrl = Annotated[str, AfterValidator(_base_url)]
Origins = Annotated[frozenset[str], BeforeValidator(_origins)]


class ProviderAddresses(Settings):
    """Base URLs of the model providers, for stand-ins and gateways. None: the provider's own address."""

    anthropic_base_url: BaseUrl | None = Field(default=None, validation_alias="ANTHROPIC_BASE_URL")
    openai_base_url: BaseUrl | None = Field(default=None, validation_alias="OPENAI_BASE_URL")


class SupabaseSettings(Settings):
    """The Supabase project. `url` has no trailing slash.

    `anon_key` may be a publishable key and `service_role_key` a secret key: these replace the deprecated JWT keys.
    There are several `jwt_secrets` while one replaces another.
    """

    url: BaseUrl = Field(validation_alias=AliasChoices("SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"))
    anon_key: Annotated[str, AfterValidator(_not_secret)] = Field(
        validation_alias=AliasChoices("SUPABASE_ANON_KEY", "NEXT_PUBLIC_SUPABASE_ANON_KEY")
    )
    service_role_key: Annotated[SecretStr, AfterValidator(_not_publishable)] = Field(
        validation_alias="SUPABASE_SERVICE_ROLE_KEY"
    )
    jwt_secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(_long_enough)] = Field(
        default=(), validation_alias="SUPABASE_JWT_SECRET"
    )


class StripeSettings(Settings):
    """The Stripe account. `api_base` is set only for a stand-in. Set Stripe Tax up before `automatic_tax`."""

    secret_key: Annotated[SecretStr, AfterValidator(_stripe_key)] = Field(validation_alias="STRIPE_SECRET_KEY")
    api_base: BaseUrl | None = Field(default=None, validation_alias="STRIPE_API_BASE")
    automatic_tax: bool = Field(default=False, validation_alias="STRIPE_AUTOMATIC_TAX")


def read_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that are not empty, with those of the secret named by SECRETS_ID. Raises SettingsError."""
    environment = {name: value for name, value in environ.items() if value}
    secret_id = environment.pop("SECRETS_ID", None)
    return {**_secrets(secret_id, environment), **environment} if secret_id else environment


def load(settings: type[S], environ: Mapping[str, str] = os.environ) -> S:
    """Validate `settings` from `read_environment(environ)`. An empty variable counts as missing.

    Raises SettingsError with every variable that is missing or malformed.
    """
    try:
        return settings.model_validate(read_environment(environ))
    except ValidationError as error:
        sentences = []
        for field in field_errors(error):
            reason = "is missing" if field.kind == "missing" else field.message
            sentences.append(" ".join([*field.path[:1], reason]) + ".")
        raise SettingsError(" ".join(sentences)) from None


def load_vault(environment: Mapping[str, str]) -> "Vault":
    """A vault with ENCRYPTION_KEYS, which it reloads with `read_environment()`. Raises SettingsError."""
    from functions.common.vault import KeyringError, Vault  # not every function deploys its dependencies

    try:
        return Vault(environment, read_environment)
    except KeyringError as error:
        raise SettingsError(str(error)) from None


def _secrets(secret_id: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The entries of a Secrets Manager secret. Raises SettingsError, which contains nothing of them."""
    from functions.common.secrets_extension import SecretError, read_secret  # needed only on AWS

    try:
        entries = json.loads(read_secret(secret_id, environ))
    except SecretError as error:
        raise SettingsError(f"SECRETS_ID names a secret that cannot be read: {error}.") from None
    except ValueError:
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise SettingsError("SECRETS_ID names a secret that is not a JSON object of strings.")
    return {name: value for name, value in entries.items() if value}
