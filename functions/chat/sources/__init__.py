"""Parliament's public record: one module per organization that publishes a part of it, over one HTTP client.

A module knows the URLs and the response formats of its organization, and nothing of the tools.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from functions.chat.sources.http import HttpClient
from functions.chat.sources.imported import Imported
from functions.chat.sources.legisinfo import LegisInfo
from functions.chat.sources.openparliament import OpenParliament
from functions.chat.sources.ourcommons import OurCommons
from functions.chat.sources.represent import Represent
from functions.chat.sources.votes import Votes

if TYPE_CHECKING:
    from functions.common.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The base URLs of the sources."""

    openparliament: str
    represent: str
    legisinfo: str
    ourcommons: str
    lobbying: str


@dataclass(frozen=True, slots=True)
class Parliament:
    """All sources. Share one instance: its client serializes the requests to a host and caches their responses."""

    client: HttpClient
    openparliament: OpenParliament
    votes: Votes
    represent: Represent
    legisinfo: LegisInfo
    ourcommons: OurCommons
    imported: Imported

    @classmethod
    def at(cls, addresses: Addresses, contact: str, database: "Database | None" = None) -> Self:
        """The sources at these addresses. `contact` is the e-mail address or page in the user agent.

        `database` has the imported data; without it, that data is not available.
        """
        client = HttpClient(contact)
        openparliament = OpenParliament(addresses.openparliament, client)
        return cls(
            client,
            openparliament,
            Votes(openparliament),
            Represent(addresses.represent, client),
            LegisInfo(addresses.legisinfo, client),
            OurCommons(addresses.ourcommons, client),
            Imported(database, addresses.ourcommons, addresses.lobbying),
        )

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self.client.close()
