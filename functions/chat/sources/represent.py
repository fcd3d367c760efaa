"""MPs by postal code, from Represent. Source: https://represent.opennorth.ca/api/."""

from dataclasses import dataclass

from functions.chat.sources.base import RecordNotFound
from functions.chat.sources.http import HttpClient, escaped_path, parse_object

REPRESENT = "Represent"


@dataclass(frozen=True, slots=True)
class Representative:
    """An MP as Represent names them."""

    name: str | None
    riding: str | None
    party: str | None


class Represent:
    """Represent's API."""

    def __init__(self, url: str, client: HttpClient) -> None:
        self._url = url.rstrip("/")
        self._client = client

    async def representatives(self, postal_code: str) -> list[Representative]:
        """The MPs of the ridings of a postal code such as K1A0A6. Empty for an unknown code."""
        url = f"{self._url}{escaped_path(('postcodes', postal_code))}"
        try:
            answer = await self._client.get(REPRESENT, url, parse_object)
        except RecordNotFound:
            return []
        by_riding: dict[str, Representative] = {}
        for group in ("representatives_centroid", "representatives_concordance"):
            for person in answer.get(group) or []:
                if person.get("elected_office") == "MP":
                    riding = person.get("district_name")
                    mp = Representative(person.get("name"), riding, person.get("party_name"))
                    by_riding.setdefault(str(riding), mp)
        return list(by_riding.values())
