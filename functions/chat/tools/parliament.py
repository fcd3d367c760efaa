"""Parliament's public record at openparliament.ca, and MPs by postal code at Represent.

The only place that knows their addresses and the shapes of their answers. Every part of a path is escaped, however
well it was checked before; every link that is given out leads to openparliament.ca's own pages.

Sources: https://openparliament.ca/api/ and https://represent.opennorth.ca/api/.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from functions.chat.tools import Language, NotThere, Source, ToolError
from functions.chat.tools.shape import bill_in_short, member_in_short
from functions.chat.tools.upstream import Upstream

OPENPARLIAMENT = "openparliament.ca"
REPRESENT = "Represent"

PAGE = 500  # the most that openparliament.ca gives at once
PAGES = 6  # of a list that is searched as a whole; the longest, the bills of a session, has two or three

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
SESSION = re.compile(r"[0-9]{2}-[0-9]")
BILL = re.compile(r"[CS]-[0-9]{1,4}[A-Z]?")

Record = dict[str, Any]


class Parliament:
    """The public record. Share one: calls stand in one line, and what was read is kept for a while."""

    def __init__(self, api_url: str, represent_url: str, contact: str) -> None:
        self._api = api_url.rstrip("/")
        self._represent = represent_url.rstrip("/")
        self.site = self._api.replace("://api.", "://")
        self.upstream = Upstream(contact)

    async def close(self) -> None:
        """Close the connections."""
        await self.upstream.close()

    def page(self, address: str | None) -> str:
        """The public page of an object, from its address in the API or in the feed. Never leads elsewhere."""
        parts = urlsplit(address or "/")
        path = f"/{parts.path.lstrip('/')}"
        return f"{self.site}{path}" + (f"#{parts.fragment}" if parts.fragment else "")

    async def one(self, *path: str) -> Record:
        """One object. Raises NotThere."""
        return await self.upstream.read(OPENPARLIAMENT, f"{self._api}{_path(path)}", _record)

    async def many(
        self, *path: str, limit: int | None = None, **filters: str | int | None
    ) -> tuple[list[Record], bool]:
        """The first objects of a list, all (but at most PAGES pages) without a limit, and whether there are more.

        openparliament.ca ignores filters that it does not know.
        """
        params: Mapping[str, str | int] | None = {
            **{name: value for name, value in filters.items() if value is not None},
            "limit": min(limit or PAGE, PAGE),
        }
        url = f"{self._api}{_path(path)}"
        objects: list[Record] = []
        for _ in range(PAGES):
            answer = await self.upstream.read(OPENPARLIAMENT, url, _page, params)
            objects += answer["objects"]
            next_url = answer["pagination"].get("next_url")
            if limit is not None and len(objects) >= limit:
                return objects[:limit], bool(next_url) or len(objects) > limit
            if not next_url:
                return objects, False
            # It is relative and has all parameters.
            url, params = f"{self._api}/{str(next_url).lstrip('/')}", None
        return objects, True

    async def at(self, address: str) -> Record:
        """The object at an address that the API gave. Raises NotThere."""
        return await self.one(*filter(None, address.split("/")))

    async def current_session(self) -> str:
        """The session of Parliament that sits, or sat last: that of the newest vote."""
        votes, _ = await self.many("votes", limit=1)
        if not votes:
            raise ToolError(f"{OPENPARLIAMENT} does not say which session it is; give the session, for example 45-1.")
        return str(votes[0]["session"])

    async def members(self) -> list[Record]:
        """All MPs who sit now, by family name."""
        objects, _ = await self.many("politicians")
        return objects

    async def member(self, slug: str) -> Record:
        """An MP, present or former. Raises NotThere."""
        if not SLUG.fullmatch(slug):
            raise NotThere("That is not the slug of an MP; find_mps finds slugs by name.")
        try:
            return await self.one("politicians", slug)
        except NotThere:
            raise NotThere(f"No MP has the slug {slug}; find_mps finds slugs by name.") from None

    async def bill(self, session: str | None, number: str) -> Record:
        """A bill, of the current session where none is given. Raises NotThere, which says where there is one."""
        if not BILL.fullmatch(number) or (session is not None and not SESSION.fullmatch(session)):
            raise NotThere("That is not the number of a bill in a session; find_bills finds bills by words.")
        session = session or await self.current_session()
        try:
            return await self.one("bills", session, number)
        except NotThere:
            # Numbers start anew in every session: which one is meant is not ours to guess.
            others, _ = await self.many("bills", limit=20, number=number)
            sessions = ", ".join(sorted({str(other["session"]) for other in others}, reverse=True))
            hint = f"there is one in {sessions}: give the session" if sessions else "find_bills finds bills by words"
            raise NotThere(f"There is no bill {number} in session {session}; {hint}.") from None

    async def vote(self, session: str | None, number: int) -> Record:
        """A vote, of the current session where none is given. Raises NotThere."""
        session = session or await self.current_session()
        try:
            return await self.one("votes", session, str(number))
        except NotThere:
            raise NotThere(
                f"There is no vote {number} in session {session}; get_bill_votes and get_mp_votes give numbers."
            ) from None

    async def committee(self, slug: str) -> Record:
        """A committee. Raises NotThere."""
        try:
            return await self.one("committees", slug)
        except NotThere:
            raise NotThere(f"No committee has the slug {slug}; find_committees finds slugs by words.") from None

    async def representatives(self, postal_code: str) -> list[Record]:
        """The MPs of a postal code as Represent names them, none for an unknown code. `postal_code`: K1A0A6."""
        url = f"{self._represent}{_path(('postcodes', postal_code))}"
        try:
            answer = await self.upstream.read(REPRESENT, url, _record)
        except NotThere:
            return []
        found: dict[str, Record] = {}
        for group in ("representatives_centroid", "representatives_concordance"):
            for person in answer.get(group) or []:
                if person.get("elected_office") == "MP":
                    found.setdefault(str(person.get("district_name")), person)
        return list(found.values())

    async def search(self, words: str) -> list[Record]:
        """What was said with these words, the newest first: title, link, description as HTML, date."""
        return await self.upstream.read(
            OPENPARLIAMENT, f"{self.site}/search/feed/", _feed, {"q": words}, accept="application/rss+xml"
        )

    async def describe_mp(self, slug: str, language: Language) -> tuple[Record, Source]:
        """An MP in a few words, for a conversation about their page. Raises NotThere, ToolError."""
        return member_in_short(self, await self.member(slug), language)

    async def describe_bill(self, session: str | None, number: str, language: Language) -> tuple[Record, Source]:
        """A bill in a few words, for a conversation about its page. Raises NotThere, ToolError."""
        return bill_in_short(self, await self.bill(session, number), language)


def _path(parts: tuple[str, ...]) -> str:
    assert not {"", ".", ".."} & set(parts), "a path without surprises"
    return f"/{'/'.join(quote(part, safe='') for part in parts)}/"


def _record(body: bytes) -> Record:
    answer = orjson.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer


def _page(body: bytes) -> Record:
    answer = _record(body)
    objects, pagination = answer.get("objects"), answer.get("pagination")
    if not (isinstance(objects, list) and isinstance(pagination, dict) and all(isinstance(o, dict) for o in objects)):
        raise ValueError("not a page of objects")
    return answer


def _feed(body: bytes) -> list[Record]:
    # Only this needs them.
    from email.utils import parsedate_to_datetime
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(body)  # noqa: S314 -- expat bounds what entities expand to, and loads no others
    except ElementTree.ParseError as error:
        raise ValueError("not XML") from error
    speeches = []
    for item in root.iter("item"):
        date = None
        with suppress(TypeError, ValueError):
            date = parsedate_to_datetime(item.findtext("pubDate") or "").date().isoformat()
        speeches.append(
            {
                "title": item.findtext("title") or "",
                "link": item.findtext("link") or "",
                "description": item.findtext("description") or "",
                "date": date,
            }
        )
    return speeches
