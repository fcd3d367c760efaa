"""The chat's settings."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from functions.chat.sources import Addresses
from functions.common.settings import BaseUrl, Origins, ProviderAddresses, SupabaseSettings

ProviderName = Literal["anthropic", "openai"]


class ChatSettings(SupabaseSettings, ProviderAddresses):
    """The platform's accounts at one provider or both, and the addresses of Parliament's data.

    With `mcp_enabled` users' own assistants may call the tools, from a browser only on a page of `allowed_origins`.
    """

    anthropic_api_key: SecretStr | None = Field(default=None, validation_alias="ANTHROPIC_API_KEY")
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    parliament_api_url: BaseUrl = Field(default="https://api.openparliament.ca", validation_alias="PARLIAMENT_API_URL")
    represent_api_url: BaseUrl = Field(default="https://represent.opennorth.ca", validation_alias="REPRESENT_API_URL")
    legisinfo_url: BaseUrl = Field(default="https://www.parl.ca/legisinfo", validation_alias="LEGISINFO_URL")
    ourcommons_url: BaseUrl = Field(default="https://www.ourcommons.ca", validation_alias="OURCOMMONS_URL")
    lobbying_url: BaseUrl = Field(default="https://lobbycanada.gc.ca", validation_alias="LOBBYING_URL")
    contact: str = Field(default="", validation_alias="PARLIAMENT_CONTACT")

    mcp_enabled: bool = Field(default=False, validation_alias="MCP_ENABLED")
    allowed_origins: Origins = Field(default=frozenset(), validation_alias="ALLOWED_ORIGINS")

    @model_validator(mode="after")
    def _has_an_account(self) -> Self:
        if not self.platform_providers:
            raise ValueError("ANTHROPIC_API_KEY or OPENAI_API_KEY is missing")
        return self

    @property
    def addresses(self) -> Addresses:
        """Where the sources of the public record are."""
        return Addresses(
            openparliament=self.parliament_api_url,
            represent=self.represent_api_url,
            legisinfo=self.legisinfo_url,
            ourcommons=self.ourcommons_url,
            lobbying=self.lobbying_url,
        )

    @property
    def platform_providers(self) -> list[ProviderName]:
        """The providers where the platform has an account, the default first."""
        keys: dict[ProviderName, SecretStr | None] = {
            "anthropic": self.anthropic_api_key,
            "openai": self.openai_api_key,
        }
        return [name for name, key in keys.items() if key is not None]

    def platform_key(self, provider: ProviderName) -> str:
        """The platform's key; without an account a placeholder that no provider accepts."""
        key = self.anthropic_api_key if provider == "anthropic" else self.openai_api_key
        return key.get_secret_value() if key else "own-keys-only"
