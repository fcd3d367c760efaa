"""MPs by postal code, from Represent. Source: https://represent.opennorth.ca/api/."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from functions.chat.sources.base import JsonObject, RecordNotFound
from functions.chat.sources.http import HttpClient, escaped_path, parse_object

REPRESENT = "Represent"
# A boundary's URL: its set, whose name ends in the year of the representation order since 2023, and its number.
FEDERAL_RIDING = re.compile(r"/boundaries/(federal-electoral-districts[a-z0-9-]*)/[0-9]+/")


@dataclass(frozen=True, slots=True)
class Representative:
    """An MP as Represent names them."""

    name: str | None
    riding: str | None
    party: str | None


class PostalArea(NamedTuple):
    """The MPs of a postal code's ridings, and the names of its ridings without an MP."""

    mps: list[Representative]
    vacant: list[str]


class Represent:
    """Represent's API."""

    def __init__(self, url: str, client: HttpClient) -> None:
        self._url = url.rstrip("/")
        self._client = client

    async def area(self, postal_code: str) -> PostalArea:
        """The ridings of a postal code such as K1A0A6. Raises RecordNotFound for an unknown code."""
        url = f"{self._url}{escaped_path(('postcodes', postal_code))}"
        try:
            answer = await self._client.get(REPRESENT, url, parse_object)
        except RecordNotFound:
            raise RecordNotFound(
                f"{REPRESENT} does not know that postal code.", f"{REPRESENT} ne connaît pas ce code postal."
            ) from None
        people = [person for person in _both(answer, "representatives") if person.get("elected_office") == "MP"]
        by_riding: dict[str, Representative] = {}
        for person in people:
            riding = _string(person.get("district_name"))
            mp = Representative(_string(person.get("name")), riding, _string(person.get("party_name")))
            by_riding.setdefault(str(riding), mp)
        return PostalArea(list(by_riding.values()), _vacant_ridings(answer, people))


def _vacant_ridings(answer: JsonObject, people: list[JsonObject]) -> list[str]:
    """The federal ridings without a representative, by the set of boundaries of the MPs. Old sets are listed too.

    Without any MP it is the set with the newest year. After a redistribution an old set keeps its answers for a while.
    """
    ridings: dict[str, dict[str, str]] = {}
    for boundary in _both(answer, "boundaries"):
        found = FEDERAL_RIDING.search(str(boundary.get("url")))
        if found and boundary.get("name"):
            ridings.setdefault(found[1], {})[found[0]] = str(boundary["name"])
    related = (person.get("related") for person in people)
    urls = (str(links.get("boundary_url")) for links in related if isinstance(links, dict))
    represented = {found[0]: found[1] for url in urls if (found := FEDERAL_RIDING.search(url))}
    if people and not represented:
        return []  # without the boundaries of the MPs, none can be excluded
    current = max(represented.values() or ridings, default="")
    return [name for url, name in ridings.get(current, {}).items() if url not in represented]


def _both(answer: JsonObject, name: str) -> list[JsonObject]:
    """The entries of the two lists of a name. Either list may be missing."""
    lists = (answer.get(f"{name}_{kind}") for kind in ("centroid", "concordance"))
    return [entry for each in lists if isinstance(each, list) for entry in each if isinstance(entry, dict)]


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
