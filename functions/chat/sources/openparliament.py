"""The public record at openparliament.ca: members, bills, votes, debates and committees.

Every segment of a path is escaped, even a validated one, and every link leads to openparliament.ca's own pages.

Source: https://openparliament.ca/api/.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from functions.chat.sources.base import JsonObject, RecordNotFound, SourceError
from functions.chat.sources.http import HttpClient, escaped_path, parse_object
from functions.chat.sources.openparliament_records import (
    Bill,
    Committee,
    Meeting,
    Member,
    Politician,
    SearchFilters,
    SearchHit,
    Speech,
    parse_bill,
    parse_committee,
    parse_meeting,
    parse_member,
    parse_politician,
    parse_speech,
)

OPENPARLIAMENT = "openparliament.ca"

PAGE_SIZE = 500  # the maximum of openparliament.ca
MAX_PAGES = 6  # of one list; the longest list, a session's bills, has two or three

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
SESSION = re.compile(r"[0-9]{2}-[0-9]")
BILL = re.compile(r"[CS]-[0-9]{1,4}[A-Z]?")

T = TypeVar("T")


class Records(NamedTuple):
    """Records of a list, and whether the list has more."""

    records: list[JsonObject]
    more: bool


class OpenParliament:
    """openparliament.ca's API, and the site's search feed."""

    def __init__(self, api_url: str, client: HttpClient) -> None:
        self._api = api_url.rstrip("/")
        self.site = self._api.replace("://api.", "://")
        self._client = client

    def public_url(self, url: str | None) -> str:
        """The public page of a record, given its path in the API or its URL in the feed. Always on the site itself."""
        try:
            parts = urlsplit(url or "/")
        except ValueError:  # it is no URL, for example http://[x
            return f"{self.site}/"
        path = f"/{parts.path.lstrip('/')}"
        return f"{self.site}{path}" + (f"#{parts.fragment}" if parts.fragment else "")

    async def get_record(self, *path: str) -> JsonObject:
        """The record at a path, given as segments. Raises RecordNotFound."""
        return await self._client.get(OPENPARLIAMENT, f"{self._api}{escaped_path(path)}", parse_object)

    async def get_page(self, path: str, parse: Callable[[bytes], T]) -> T:
        """What `parse` finds in the site's own page at a path that the API returned."""
        url = f"{self.site}{escaped_path(tuple(filter(None, path.split('/'))))}"
        return await self._client.get(OPENPARLIAMENT, url, parse, accept="text/html")

    async def get_record_at(self, path: str) -> JsonObject:
        """The record at a path that the API returned. Raises RecordNotFound."""
        return await self.get_record(*filter(None, path.split("/")))

    async def list_records(self, *path: str, limit: int | None = None, **filters: str | int | None) -> Records:
        """The first `limit` records of a list, or up to MAX_PAGES pages of it.

        Filters of None are left out. openparliament.ca ignores unknown filters.
        """
        params: Mapping[str, str | int] | None = {
            **{name: value for name, value in filters.items() if value is not None},
            "limit": min(limit or PAGE_SIZE, PAGE_SIZE),
        }
        url = f"{self._api}{escaped_path(path)}"
        records: list[JsonObject] = []
        for _ in range(MAX_PAGES):
            page = await self._client.get(OPENPARLIAMENT, url, _parse_page, params)
            records += page.records
            if limit is not None and len(records) >= limit:
                return Records(records[:limit], bool(page.next_url) or len(records) > limit)
            if not page.next_url:
                return Records(records, more=False)
            # The next URL is relative and includes all parameters.
            url, params = f"{self._api}/{page.next_url.lstrip('/')}", None
        return Records(records, more=True)

    async def current_session(self) -> str:
        """The session of the newest vote or bill: the one that sits now, or that sat last.

        A new session has bills before its first vote. The list of bills is not in the order of their dates.
        """
        votes = (await self.list_records("votes", limit=1)).records
        newest = votes[0] if votes else {}
        bills, _ = await self.bills(introduced__gte=newest.get("date"))
        sessions = {str(newest.get("session")), *(bill.session for bill in bills)}
        sessions = {session for session in sessions if SESSION.fullmatch(session)}
        if not sessions:
            raise SourceError(
                f"{OPENPARLIAMENT} does not name the current session; give one, for example 45-1.",
                f"{OPENPARLIAMENT} n’indique pas la session en cours; précisez-en une, par exemple 45-1.",
            )
        return max(sessions)

    async def check_session(self, session: str) -> None:
        """Raise RecordNotFound where the session does not exist, which lists show as an empty one."""
        if not (await self.bills(limit=1, session=session))[0]:
            current = await self.current_session()
            raise RecordNotFound(
                f"{OPENPARLIAMENT} has no session {session}; the current one is {current}.",
                f"{OPENPARLIAMENT} n’a pas de session {session}; la session en cours est {current}.",
            )

    async def sitting_mps(self) -> list[Politician]:
        """All MPs who sit now, by province and family name."""
        return _readable(parse_politician, (await self.list_records("politicians")).records)

    async def former_mps(self) -> list[Politician]:
        """The MPs since 1994 who do not sit now, by family name. The list has no parties and ridings."""
        return _readable(parse_politician, (await self.list_records("politicians", include="former")).records)

    async def get_mp(self, slug: str) -> Member:
        """An MP, present or former, by the slug, or by the number of one without a slug. Raises RecordNotFound."""
        if not SLUG.fullmatch(slug):
            raise RecordNotFound(
                "That is not an MP's slug; find_mps finds slugs by name.",
                "Ce n’est pas l’identifiant d’un député; find_mps trouve les identifiants par nom.",
            )
        member = _read(parse_member, await self._find_record("politicians", slug))
        if member is None:
            raise RecordNotFound(
                f"No MP has the slug {slug}; find_mps finds slugs by name.",
                f"Aucun député n’a l’identifiant {slug}; find_mps trouve les identifiants par nom.",
            )
        return member

    async def bills(self, limit: int | None = None, **filters: str | int | None) -> tuple[list[Bill], bool]:
        """Bills of a list, and whether there are more."""
        records, more = await self.list_records("bills", limit=limit, **filters)
        return _readable(parse_bill, records), more

    async def get_bill(self, session: str | None, number: str) -> Bill:
        """A bill of the session, or of the current one.

        Raises RecordNotFound; its message lists the other sessions that have a bill of this number.
        """
        if not BILL.fullmatch(number) or (session is not None and not SESSION.fullmatch(session)):
            raise RecordNotFound(
                "That is not a bill's number and session; find_bills finds bills by words.",
                "Ce ne sont pas le numéro et la session d’un projet de loi; find_bills les trouve par mots.",
            )
        session = session or await self.current_session()
        bill = _read(parse_bill, await self._find_record("bills", session, number))
        if bill is not None and (bill.session, bill.number) == (session, number):
            return bill
        # Numbers start again in every session, so the caller has to choose one.
        others, _ = await self.bills(number=number)
        sessions = ", ".join(sorted({other.session for other in others}, reverse=True))
        hint = f"it exists in {sessions}: give the session" if sessions else "find_bills finds bills by words"
        french = (
            f"il existe dans {sessions} : précisez la session"
            if sessions
            else "find_bills trouve les projets de loi par mots"
        )
        raise RecordNotFound(
            f"There is no bill {number} in session {session}; {hint}.",
            f"Il n’y a pas de projet de loi {number} dans la session {session}; {french}.",
        )

    async def newest_bill(self, number: str) -> Bill:
        """The bill of this number in the newest session that has one. Raises RecordNotFound."""
        bills, _ = await self.bills(number=number)
        if not bills:
            raise RecordNotFound(
                f"There is no bill {number}; find_bills finds bills by words.",
                f"Il n’y a pas de projet de loi {number}; find_bills les trouve par mots.",
            )
        return await self.get_bill(max(bill.session for bill in bills), number)

    async def get_vote(self, session: str | None, number: int) -> JsonObject:
        """A vote of the session, or of the current one. Raises RecordNotFound."""
        session = session or await self.current_session()
        try:
            return await self.get_record("votes", session, str(number))
        except RecordNotFound:
            raise RecordNotFound(
                f"There is no vote {number} in session {session}; get_bill_votes and get_mp_votes return numbers.",
                f"Il n’y a pas de vote {number} dans la session {session}; get_bill_votes et get_mp_votes donnent les "
                "numéros.",
            ) from None

    async def speeches(self, limit: int, **filters: str | int | None) -> tuple[list[Speech], bool]:
        """The newest speeches, and whether there are more. Procedural ones are left out."""
        records, more = await self.list_records("speeches", limit=limit, procedural="False", **filters)
        return _readable(parse_speech, records), more

    async def committees(self) -> list[Committee]:
        """The committees of the newest session that has any, by name. Without subcommittees."""
        return _readable(parse_committee, (await self.list_records("committees")).records)

    async def get_committee(self, slug: str) -> Committee:
        """A committee, by the slug, or by the number, which redirects to the slug. Raises RecordNotFound."""
        committee = _read(parse_committee, await self._find_record("committees", slug))
        if committee is None:
            raise RecordNotFound(
                f"No committee has the slug {slug}; find_committees finds slugs by words.",
                f"Aucun comité n’a l’identifiant {slug}; find_committees trouve les identifiants par mots.",
            )
        return committee

    async def meetings(self, committee: Committee, limit: int) -> tuple[list[Meeting], bool]:
        """The newest meetings of a committee, and whether there are more."""
        records, more = await self.list_records("committees", "meetings", limit=limit, committee=committee.slug)
        return _readable(parse_meeting, records), more

    async def search(self, words: str, filters: SearchFilters) -> list[SearchHit]:
        """The newest results of the site's search. It searches English texts only.

        The site takes its newest 15 results of all kinds and lists the speeches among them.
        """
        query = {"q": f"{words} {filters}".strip()}
        return await self._client.get(
            OPENPARLIAMENT, f"{self.site}/search/feed/", _parse_feed, query, accept="application/rss+xml"
        )

    async def _find_record(self, *path: str) -> JsonObject:
        """The record at a path; empty where there is none."""
        try:
            return await self.get_record(*path)
        except RecordNotFound:
            return {}


class _Page(NamedTuple):
    records: list[JsonObject]
    next_url: str | None


def _read(parse: Callable[[JsonObject], T], record: JsonObject) -> T | None:
    """The parsed record. None where it lacks the keys of its kind: then it is another kind of record."""
    try:
        return parse(record)
    except (ValueError, KeyError, TypeError):
        return None


def _readable(parse: Callable[[JsonObject], T], records: Iterable[JsonObject]) -> list[T]:
    """The records of a list that have the keys of their kind."""
    return [parsed for record in records if (parsed := _read(parse, record)) is not None]


def _parse_page(body: bytes) -> _Page:
    answer = parse_object(body)
    records, pagination = answer.get("objects"), answer.get("pagination")
    if not (isinstance(records, list) and isinstance(pagination, dict) and all(isinstance(r, dict) for r in records)):
        raise ValueError("not a page of objects")
    next_url = pagination.get("next_url")
    return _Page(records, str(next_url) if next_url else None)


def _parse_feed(body: bytes) -> list[SearchHit]:
    # Imported here because only the search needs them.
    from email.utils import parsedate_to_datetime
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(body)  # noqa: S314 -- expat limits entity expansion and loads no external entity
    except ElementTree.ParseError as error:
        raise ValueError("not XML") from error
    hits = []
    for item in root.iter("item"):
        date = None
        with suppress(TypeError, ValueError):
            date = parsedate_to_datetime(item.findtext("pubDate") or "").date().isoformat()
        title, link, description = (item.findtext(tag) or "" for tag in ("title", "link", "description"))
        hits.append(SearchHit(title, link, description, date))
    return hits
