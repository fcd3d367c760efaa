"""The chat's settings."""

from pydantic import Field, SecretStr

from functions.common.settings import ProviderAddresses, SupabaseSettings


class ChatSettings(SupabaseSettings, ProviderAddresses):
    """The platform's own provider accounts."""

    anthropic_api_key: SecretStr = Field(validation_alias="ANTHROPIC_API_KEY")
    openai_api_key: SecretStr = Field(validation_alias="OPENAI_API_KEY")
