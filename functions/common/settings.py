"""Settings from the environment: a small frozen class a function, checked once at start.

On AWS, SECRETS_ID names a Secrets Manager secret, a JSON object that fills the variables it names. What the environment
itself says comes first.

Every missing or malformed variable is named in one sentence; no value is ever printed. Secrets are `SecretStr`, whose
repr and JSON show stars.
"""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError

if TYPE_CHECKING:
    from functions.common.vault import Vault

S = TypeVar("S", bound="Settings")


class SettingsError(Exception):
    """One sentence for each variable that is missing or malformed."""


class Settings(BaseModel):
    """Base of the functions' settings. Fields name their variables by `validation_alias`."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


def _base_url(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("must start with https:// or http://")
    return value.rstrip("/")


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 32:
        raise ValueError("must be at least 32 characters, as Supabase makes it")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class ProviderAddresses(Settings):
    """Where the model providers are, if not where their SDKs know: stand-ins and gateways."""

    anthropic_base_url: BaseUrl | None = Field(default=None, validation_alias="ANTHROPIC_BASE_URL")
    openai_base_url: BaseUrl | None = Field(default=None, validation_alias="OPENAI_BASE_URL")


class SupabaseSettings(Settings):
    """The project the function belongs to. `url` has no trailing slash."""

    url: BaseUrl = Field(validation_alias=AliasChoices("SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"))
    anon_key: str = Field(validation_alias=AliasChoices("SUPABASE_ANON_KEY", "NEXT_PUBLIC_SUPABASE_ANON_KEY"))
    service_role_key: SecretStr = Field(validation_alias="SUPABASE_SERVICE_ROLE_KEY")
    jwt_secret: Annotated[SecretStr, AfterValidator(_long_enough)] | None = Field(
        default=None, validation_alias="SUPABASE_JWT_SECRET"
    )


def variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment's variables that are not empty, and those of the secret that it names. Raises SettingsError."""
    known = {name: value for name, value in environ.items() if value}
    secret_id = known.pop("SECRETS_ID", None)
    return {**_secrets(secret_id), **known} if secret_id else known


def load(kind: type[S], known: Mapping[str, str] | None = None) -> S:
    """Read `kind` from `variables()`. An empty variable counts as missing.

    Raises SettingsError naming every variable that is missing or malformed.
    """
    known = variables() if known is None else variables(known)
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        sentences = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            reason = "is missing" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
            sentences.append(" ".join([*map(str, problem["loc"][:1]), reason]) + ".")
        raise SettingsError(" ".join(sentences)) from None


def load_vault(known: Mapping[str, str]) -> "Vault":
    """The vault of ENCRYPTION_KEYS; it reads `variables()` again by itself. Raises SettingsError."""
    from functions.common.vault import RingError, Vault  # only two of the functions have it

    try:
        return Vault(known, variables)
    except RingError as error:
        raise SettingsError(str(error)) from None


def _secrets(secret_id: str) -> dict[str, str]:
    """The entries of a Secrets Manager secret. Raises SettingsError, without a word of what is in it."""
    # Lambda's Python runtime brings boto3; nobody else needs it.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        secret = boto3.client("secretsmanager").get_secret_value(SecretId=secret_id)
        entries = json.loads(secret["SecretString"])
    except (BotoCoreError, ClientError) as error:
        raise SettingsError(f"SECRETS_ID names a secret that cannot be read: {type(error).__name__}.") from None
    except (KeyError, ValueError):
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise SettingsError("SECRETS_ID names a secret that is not a JSON object of texts.")
    return {name: value for name, value in entries.items() if value}
