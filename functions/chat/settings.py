"""The chat's settings."""

from pydantic import Field, SecretStr

from functions.common.settings import BaseUrl, SupabaseSettings


class ChatSettings(SupabaseSettings):
    """The platform's own provider accounts. The base URLs are for stand-ins and gateways."""

    anthropic_api_key: SecretStr = Field(validation_alias="ANTHROPIC_API_KEY")
    anthropic_base_url: BaseUrl | None = Field(default=None, validation_alias="ANTHROPIC_BASE_URL")
    openai_api_key: SecretStr = Field(validation_alias="OPENAI_API_KEY")
    openai_base_url: BaseUrl | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
