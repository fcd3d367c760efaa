"""The House's own lists at ourcommons.ca: ministers, parliamentary secretaries and members of committees.

Each list exists in English and in French. Source: https://www.ourcommons.ca/en/open-data.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions.chat.sources.base import Language
from functions.chat.sources.http import HttpClient, escaped_path
from functions.chat.sources.text import html_to_text

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

OURCOMMONS = "ourcommons.ca"


@dataclass(frozen=True, slots=True)
class Office:
    """A person with an office of the government, in the language of the list. `since` is ISO 8601.

    `order` is that of precedence, which is the same in both languages; 0 where the list has none.
    """

    person_id: int
    order: int
    name: str
    title: str
    since: str | None
    riding: str | None
    party: str | None


@dataclass(frozen=True, slots=True)
class CommitteeMember:
    """A member of a committee. `role` is the heading of the page, for example Chair, in its language."""

    name: str
    role: str
    url: str


class OurCommons:
    """The lists of ourcommons.ca."""

    def __init__(self, url: str, client: HttpClient) -> None:
        self.site = url.rstrip("/")
        self._client = client

    async def ministers(self, language: Language) -> list[Office]:
        """The ministers of the present ministry, in the order of precedence."""
        return await self._offices(language, "ministries", "Minister")

    async def parliamentary_secretaries(self, language: Language) -> list[Office]:
        """The present parliamentary secretaries."""
        return await self._offices(language, "parliamentary-secretaries", "ParliamentarySecretary")

    async def committee_members(self, acronym: str, language: Language) -> list[CommitteeMember]:
        """The members of a committee by its acronym, such as FINA, the chair first."""

        def parse(body: bytes) -> list[CommitteeMember]:
            members = _members(body.decode(errors="replace"), self.site)
            if not members:
                raise ValueError("not a committee's page")
            return members

        url = self.committee_page(acronym, language)
        return await self._client.get(OURCOMMONS, url, parse, accept="text/html")

    def committee_page(self, acronym: str, language: Language) -> str:
        """The page with the committee's members."""
        return f"{self.site}{escaped_path(('Committees', language, acronym, 'Members'))}".rstrip("/")

    def list_page(self, name: str, language: Language) -> str:
        """The page of a list: ministries or parliamentary-secretaries."""
        return f"{self.site}{escaped_path(('Members', language, name))}".rstrip("/")

    async def _offices(self, language: Language, name: str, tag: str) -> list[Office]:
        def parse(body: bytes) -> list[Office]:
            root = parse_xml(body)
            if not root.tag.startswith("ArrayOf"):
                raise ValueError("not a list")
            # Former ministers are listed, too.
            entries = [entry for entry in root.iter(tag) if not (entry.findtext("ToDateTime") or "").strip()]
            entries.sort(key=lambda entry: _number(entry, "OrderOfPrecedence"))
            return [office for entry in entries if (office := _office(entry)) is not None]

        return await self._client.get(
            OURCOMMONS, f"{self.list_page(name, language)}/xml", parse, accept="application/xml"
        )


def _office(entry: "Element") -> Office | None:
    def text(tag: str) -> str:
        return (entry.findtext(tag) or "").strip()

    honorific, given, family = (
        text(f"Person{part}") for part in ("ShortHonorific", "OfficialFirstName", "OfficialLastName")
    )
    name, title = " ".join(filter(None, (honorific, given, family))), text("Title")
    if not family or not title:
        return None
    since, riding, party = text("FromDateTime")[:10], text("ConstituencyName"), text("CaucusShortName")
    person_id, order = _number(entry, "PersonId"), _number(entry, "OrderOfPrecedence")
    return Office(person_id, order, name, title, since or None, riding or None, party or None)


def _number(entry: "Element", tag: str) -> int:
    """The number in a child; 0 where it is missing or unreadable."""
    text = (entry.findtext(tag) or "").strip()
    return int(text) if text.isascii() and text.isdigit() else 0


def parse_xml(body: bytes) -> "Element":
    """The root of an XML document. Raises ValueError, also for a page of HTML."""
    from xml.etree import ElementTree  # only these lists need it

    try:
        root = ElementTree.fromstring(body)  # noqa: S314 -- expat limits entity expansion and loads no external entity
    except ElementTree.ParseError as error:
        raise ValueError("not XML") from error
    if root.tag.lower().endswith("html"):
        raise ValueError("a page, not data")
    return root


# The headings of the page, and the links to members below them. The classes of the page change more often.
_HEADING_OR_MEMBER = re.compile(
    r"<h[1-4]\b[^>]*>(?P<heading>.*?)</h[1-4]>"
    r"|<a\b[^>]*\bhref=\"[^\"]*(?P<path>/members/(?:en|fr)/[^\"/]*\(\d+\))\"[^>]*>(?P<name>.*?)</a>",
    re.IGNORECASE | re.DOTALL,
)


def _members(page: str, site: str) -> list[CommitteeMember]:
    members: dict[str, CommitteeMember] = {}
    role = ""
    for match in _HEADING_OR_MEMBER.finditer(page):
        if match["heading"] is not None:
            role = html_to_text(match["heading"])
        elif name := " ".join(html_to_text(match["name"]).split()):
            url = f"{site}{match['path']}"
            members.setdefault(url, CommitteeMember(name, role, url))
    return list(members.values())
