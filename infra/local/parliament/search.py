"""The search feed of openparliament.ca's site: one index of English speeches, bills and members, and its filters.

Source: parliament/search/ and `search_dict` in the models of github.com/michaelmulley/openparliament.
"""

import html
import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from email.utils import format_datetime
from functools import cache
from urllib.parse import urlencode
from xml.etree import ElementTree

from infra.local.parliament.data import FEED_LIMIT, OTTAWA, SITE
from infra.local.parliament.dataset import dataset
from infra.local.parliament.model import Record, fold

# The filters that the stand-in knows, and the fields that they compare.
FILTERS = {
    "Party": "party",
    "Province": "province",
    "Person": "politician",
    "MP": "politician_id",
    "Committee": "committee_slug",
    "Date": "date",
    "Type": "doctype",
}
# "2026-01 to 2026-06", "2026-01-15 to 2026-06-30", "2026-01-15", "2026-01".
DATES = re.compile(r"(\d{4})-(\d\d?)(?:-(\d\d?))?(?: to (\d{4})-(\d\d?)(?:-(\d\d?))?)?")


@dataclass(frozen=True, slots=True)
class Document:
    """What the index has of a record. Members have no date and are the last hits."""

    record: Record
    date: datetime | None
    fields: dict[str, str]
    words: frozenset[str]


def search_feed(query: str) -> bytes:
    """The speeches among the newest 15 hits as RSS 2.0. Descriptions are HTML, escaped once as XML text."""
    rss = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(rss, "channel")

    def add(parent: ElementTree.Element, **texts: str) -> None:
        for name, text in texts.items():
            ElementTree.SubElement(parent, name).text = text

    address = f"{SITE}/search/?{urlencode({'q': query, 'sort': 'date desc'})}"
    description = f"From openparliament.ca, search results for '{query}'"
    add(channel, title=f'"{query}" | openparliament.ca', link=address, description=description, language="en-ca")
    words, filters = _parse_query(query)
    hits = [each for each in _index() if (words or filters) and words <= each.words and _matches(each, filters)]
    for hit in hits[:FEED_LIMIT]:
        if hit.fields["doctype"] in ("debate", "committee") and hit.date:
            url = SITE + hit.record.url
            item = ElementTree.SubElement(channel, "item")
            published = format_datetime(hit.date.replace(tzinfo=OTTAWA))
            add(item, title=f"{hit.fields['topic']} / {hit.fields['politician']}", link=url)
            excerpt = _excerpt(hit.record.listed["content"]["en"], words)
            add(item, description=excerpt, pubDate=published, guid=url)
    return bytes(ElementTree.tostring(rss, encoding="utf-8", xml_declaration=True))


def _parse_query(query: str) -> tuple[set[str], dict[str, str]]:
    filters = dict(re.findall(rf'({"|".join(FILTERS)}): "([^"]+)"', query))
    return _words(re.sub(rf'({"|".join(FILTERS)}): "[^"]+"', "", query)), filters


def _matches(document: Document, filters: dict[str, str]) -> bool:
    for name, value in filters.items():
        if name == "Date":
            if not (dates := DATES.match(value)):
                continue  # ignored, as on the site
            first, last = _date_range(*dates.groups())
            if document.date is None or not first <= document.date.date() <= last:
                return False
        elif document.fields.get(FILTERS[name]) != value:
            return False
    return True


def _date_range(*parts: str | None) -> tuple[date, date]:
    year, month, day, to_year, to_month, to_day = (int(part) if part else 0 for part in parts)
    first = date(year, month, day or 1)
    if not to_year:
        to_year, to_month, to_day = year, month, day
    return first, date(to_year, to_month, to_day or monthrange(to_year, to_month)[1])


@cache
def _index() -> list[Document]:
    """All documents, the newest first."""
    documents = [*_speeches(), *_bills(), *_members()]
    return sorted(documents, key=lambda each: each.date or datetime.min, reverse=True)  # noqa: DTZ901 -- only for order


def _speeches() -> Iterator[Document]:
    """Speeches, in English only."""
    people = {person.url: person for person in dataset().people.values()}
    for record in dataset().tables["speeches"]:
        listed, values = record.listed, record.filter_values
        person = people.get(listed["politician_url"] or "")
        term = person.term_on(values["time"].date()) if person else None
        name = person.name if person and not values["procedural"] else listed["attribution"]["en"].split(" (")[0]
        fields = {
            "topic": listed.get("h2", {}).get("en", ""),
            "politician": name,
            "doctype": "committee" if values.get("committee") else "debate",
            "committee_slug": values.get("committee", ""),
            "politician_id": person.identifier if person else "",
            "party": term.party if term else "",
            "province": person.province if person else "",
        }
        text = html.unescape(re.sub(r"<[^>]+>", " ", listed["content"]["en"]))
        yield Document(record, values["time"], fields, frozenset(_words(text, name, fields["party"], fields["topic"])))


def _bills() -> Iterator[Document]:
    for record in dataset().tables["bills"]:
        day = record.filter_values["introduced"]
        titles = (record.listed["name"]["en"], record.details["short_title"]["en"], f"Bill {record.listed['number']}")
        yield Document(record, day and datetime.combine(day, time(12)), {"doctype": "bill"}, frozenset(_words(*titles)))


def _members() -> Iterator[Document]:
    by_url = dataset().by_url
    for person in dataset().people.values():
        fields = {"doctype": "mp", "politician": person.name, "party": person.terms[0].party}
        words = _words(person.name, person.terms[0].party, person.terms[0].riding)
        yield Document(by_url[person.url], None, fields, frozenset(words))


def _words(*texts: str | None) -> set[str]:
    return {*re.findall(r"\w+", fold(" ".join(filter(None, texts))))}


def _excerpt(content: str, words: set[str]) -> str:
    """300 characters around the first match, as HTML with the words in <em>."""
    text = html.unescape(re.sub(r"<[^>]+>", "", content)).replace("\n", " ")
    matches = [match for match in re.finditer(r"\w+", text) if fold(match[0]) in words]
    start = max(matches[0].start() - 60, 0) if matches else 0
    end, excerpt, position = start + 300, "", start
    for match in matches:
        if start <= match.start() and match.end() <= end:
            excerpt += html.escape(text[position : match.start()]) + f"<em>{html.escape(match[0])}</em>"
            position = match.end()
    return excerpt + html.escape(text[position:end])
