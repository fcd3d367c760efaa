"""Records of openparliament.ca's API, and how each is read from its JSON.

A record without its expected keys is another kind of record: `/politicians/memberships/` is a list and no person. The
parsers raise ValueError for it. Values that may be missing are None.

Source: `to_api_dict` of the models of github.com/michaelmulley/openparliament.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from functions.chat.sources.base import JsonObject, Language, Text
from functions.chat.sources.text import bilingual, iso_time, original_languages, slug_of

OLDEST_TEXT, NO_END = date(1994, 1, 1), date(2999, 12, 31)


@dataclass(frozen=True, slots=True)
class Politician:
    """An MP in a list. The party (short name in English) and the riding are None for former MPs."""

    path: str
    name: str
    party: str | None
    riding: Text | None
    province: str | None

    @property
    def slug(self) -> str:
        """The slug, or the number of a former MP who has none."""
        return slug_of(self.path) or ""


@dataclass(frozen=True, slots=True)
class Term:
    """A membership of the House. `end` is None for the present one; dates are ISO 8601."""

    party: str | None
    party_name: str | None
    riding: Text | None
    province: str | None
    start: str | None
    end: str | None


@dataclass(frozen=True, slots=True)
class Link:
    """A page about an MP. `note` is in English."""

    url: str
    note: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """An MP's own record, present or former. The newest term is first."""

    path: str
    name: str
    terms: tuple[Term, ...]
    links: tuple[Link, ...]
    email: str | None
    telephone: str | None

    @property
    def slug(self) -> str:
        """The slug, or the number of a former MP who has none."""
        return slug_of(self.path) or ""

    @property
    def term(self) -> Term | None:
        """The present term, or the last one."""
        return self.terms[0] if self.terms else None


@dataclass(frozen=True, slots=True)
class Bill:
    """A bill. Lists have only the session, the number, the name and the introduction; `name` may be missing at first.

    `status` is in English, `introduced` is an ISO 8601 date, and the URLs of other sites are in English.
    """

    path: str
    session: str
    number: str
    name: Text | None
    introduced: str | None
    short_title: Text | None
    status: str | None
    status_code: str | None
    law: bool  # null in the API until royal assent, then true
    private_member: bool | None
    home_chamber: str | None
    sponsor_path: str | None
    recorded_votes: int
    text_url: str | None
    legisinfo_url: str | None


@dataclass(frozen=True, slots=True)
class Speech:
    """A speech of a transcript. `content` is HTML; `spoken_in` has the languages of its paragraphs, if known."""

    path: str
    time: str | None
    speaker: Text | None
    heading: Text | None
    content: Text | None
    politician_path: str | None
    spoken_in: tuple[Language, ...]


@dataclass(frozen=True, slots=True)
class CommitteeSession:
    """A committee's session. `page` is the committee's page at ourcommons.ca, in English."""

    session: str
    acronym: str | None
    page: str | None


@dataclass(frozen=True, slots=True)
class Committee:
    """A committee. Lists have no sessions."""

    path: str
    slug: str
    name: Text
    short_name: Text
    sessions: tuple[CommitteeSession, ...]


@dataclass(frozen=True, slots=True)
class Meeting:
    """A meeting of a committee."""

    path: str
    number: int
    date: str
    in_camera: bool
    has_transcript: bool


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A result of the search feed. `title` and `excerpt` are HTML; `date` is ISO 8601, or None where unreadable."""

    title: str
    url: str
    excerpt: str
    date: str | None

    @property
    def path(self) -> str:
        """The path of its page, which tells its kind: a debate, a committee's meeting, a bill or an MP."""
        try:
            return urlsplit(self.url).path
        except ValueError:  # it is no URL, for example http://[x
            return ""


@dataclass(frozen=True, slots=True)
class SearchFilters:
    """Filters of the site's search. `speaker` and `committee` are slugs; `party` is the short name in English."""

    speaker: str | None = None
    party: str | None = None
    committee: str | None = None
    since: date | None = None
    until: date | None = None

    def __str__(self) -> str:
        """The filters in the syntax of the search, for example `MP: "jane-doe" Date: "2026-01-01 to 2026-06-30"`."""
        values = {"MP": self.speaker, "Party": self.party, "Committee": self.committee}
        if self.since or self.until:
            # The syntax has no open ranges.
            values["Date"] = f"{self.since or OLDEST_TEXT} to {self.until or NO_END}"
        return " ".join(f'{name}: "{value}"' for name, value in values.items() if value)


def parse_politician(record: JsonObject) -> Politician:
    """The MP of a list. Raises ValueError."""
    party, riding = _object(record.get("current_party")), _object(record.get("current_riding"))
    return Politician(
        path=_required(record, "url"),
        name=_required(record, "name"),
        party=_english(party.get("short_name")),
        riding=bilingual(riding.get("name")),
        province=_string(riding.get("province")),
    )


def parse_member(record: JsonObject) -> Member:
    """An MP's own record. Raises ValueError."""
    terms = [_term(term) for term in _objects(record["memberships"])]
    # The present term is first, then the one that ended last.
    terms.sort(key=lambda term: (term.end is None, term.start or ""), reverse=True)
    links = [
        Link(url, _english(link.get("note"))) for link in _objects(record.get("links")) if (url := link.get("url"))
    ]
    return Member(
        path=_required(record, "url"),
        name=_required(record, "name"),
        terms=tuple(terms),
        links=tuple(links),
        email=_english(record.get("email")),
        telephone=_english(record.get("voice")),
    )


def parse_bill(record: JsonObject) -> Bill:
    """A bill. Raises ValueError."""
    session, number = _required(record, "session"), _required(record, "number")
    private = record.get("private_member_bill")
    return Bill(
        path=f"/bills/{session}/{number}/",
        session=session,
        number=number,
        name=bilingual(record.get("name")),
        introduced=_string(record.get("introduced")),
        short_title=bilingual(record.get("short_title")),
        status=_english(record.get("status")),
        status_code=_string(record.get("status_code")),
        law=record.get("law") is True,
        private_member=private if isinstance(private, bool) else None,
        home_chamber=_string(record.get("home_chamber")),
        sponsor_path=_string(record.get("sponsor_politician_url")),
        recorded_votes=len(record.get("vote_urls") or []),
        text_url=_string(record.get("text_url")),
        legisinfo_url=_string(record.get("legisinfo_url")),
    )


def parse_speech(record: JsonObject) -> Speech:
    """A speech. Raises ValueError."""
    content = bilingual(record["content"])
    return Speech(
        path=_required(record, "url"),
        time=iso_time(record.get("time")),
        speaker=bilingual(record["attribution"]),
        heading=bilingual(record.get("h2")) or bilingual(record.get("h1")),
        content=content,
        politician_path=_string(record.get("politician_url")),
        spoken_in=original_languages(content),
    )


def parse_committee(record: JsonObject) -> Committee:
    """A committee. Raises ValueError."""
    name = bilingual(record["name"])
    if name is None:
        raise ValueError("a committee without a name")
    sessions = [
        CommitteeSession(session, _string(each.get("acronym")), _string(each.get("source_url")))
        for each in _objects(record.get("sessions"))
        if (session := _string(each.get("session")))
    ]
    return Committee(
        path=_required(record, "url"),
        slug=_required(record, "slug"),
        name=name,
        short_name=bilingual(record.get("short_name")) or name,
        sessions=tuple(sessions),
    )


def parse_meeting(record: JsonObject) -> Meeting:
    """A committee's meeting. Raises ValueError."""
    return Meeting(
        path=_required(record, "url"),
        number=int(record["number"]),
        date=_required(record, "date"),
        in_camera=bool(record.get("in_camera")),
        has_transcript=bool(record.get("has_evidence")),
    )


def _term(record: JsonObject) -> Term:
    party, riding = _object(record.get("party")), _object(record.get("riding"))
    return Term(
        party=_english(party.get("short_name")),
        party_name=_english(party.get("name")),
        riding=bilingual(riding.get("name")),
        province=_string(riding.get("province")),
        start=_string(record.get("start_date")),
        end=_string(record.get("end_date")),
    )


def _required(record: JsonObject, key: str) -> str:
    text = _string(record.get(key))
    if text is None:
        raise ValueError(f"a record without {key}")
    return text


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _english(value: Any) -> str | None:
    """A text that the API has in English only."""
    text = bilingual(value)
    return text.en if text else None


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
