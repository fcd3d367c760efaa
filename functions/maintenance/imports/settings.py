"""The addresses of the imported data, and our contact."""

from pydantic import Field

from functions.common.settings import BaseUrl, Settings


class ImportSettings(Settings):
    """`contact` is the e-mail address or page in the user agent."""

    ourcommons_url: BaseUrl = Field(default="https://www.ourcommons.ca", validation_alias="OURCOMMONS_URL")
    lobbying_url: BaseUrl = Field(default="https://lobbycanada.gc.ca", validation_alias="LOBBYING_URL")
    contact: str = Field(default="", validation_alias="PARLIAMENT_CONTACT")


class SourceSettings(ImportSettings):
    """With the addresses of the sources that the chat reads live."""

    parliament_url: BaseUrl = Field(default="https://api.openparliament.ca", validation_alias="PARLIAMENT_API_URL")
    represent_url: BaseUrl = Field(default="https://represent.opennorth.ca", validation_alias="REPRESENT_API_URL")
    legisinfo_url: BaseUrl = Field(default="https://www.parl.ca/legisinfo", validation_alias="LEGISINFO_URL")
