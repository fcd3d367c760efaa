"""Bills in LEGISinfo, the register of Parliament: titles, stages with dates, sponsors and publications.

The names of its fields differ between its two pages and have changed over time, so each value has several names.

Source: https://www.parl.ca/legisinfo/, "Open data".
"""

from dataclasses import dataclass
from typing import Any

import orjson

from functions.chat.sources.base import JsonObject, Language, RecordNotFound, Text
from functions.chat.sources.http import HttpClient, escaped_path

LEGISINFO = "LEGISinfo"
CHAMBERS = ("House", "Senate")
READINGS = {
    "First": Text("First reading", "Première lecture"),
    "Second": Text("Second reading", "Deuxième lecture"),
    "Third": Text("Third reading", "Troisième lecture"),
}
NO_DATE = "0001-01-01"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a bill in a chamber, House or Senate. `date` is ISO 8601: when it ended, or its newest event."""

    chamber: str
    name: Text
    state: Text
    date: str


@dataclass(frozen=True, slots=True)
class Publication:
    """A version of a bill's text, for example first reading."""

    name: Text
    url: str


@dataclass(frozen=True, slots=True)
class BillProgress:
    """A bill. Dates are ISO 8601; None where the event has not happened. `stages` are in the order of their dates."""

    number: str
    session: str
    title: Text
    short_title: Text
    status: Text
    sponsor: Text
    sponsor_office: Text
    stages: tuple[Stage, ...]
    royal_assent: str | None
    latest_event: Text
    latest_date: str | None
    statute: str | None
    publications: tuple[Publication, ...]


class LegisInfo:
    """LEGISinfo's open data."""

    def __init__(self, url: str, client: HttpClient) -> None:
        self._url = url.rstrip("/")
        self._client = client

    def page(self, session: str, number: str, language: Language) -> str:
        """The page of a bill."""
        return f"{self._url}{escaped_path((language, 'bill', session, number.lower()))}".rstrip("/")

    async def bill(self, session: str, number: str) -> BillProgress:
        """A bill of a session. Raises RecordNotFound, and SourceError where LEGISinfo answers with another bill."""

        def parse(body: bytes) -> list[BillProgress]:
            bills = _parse_bills(body)
            if any((bill.session, bill.number) != (session, number.upper()) for bill in bills):
                raise ValueError("another bill")
            return bills

        path = escaped_path(("en", "bill", session, number.lower(), "json")).rstrip("/")
        bills = await self._client.get(LEGISINFO, f"{self._url}{path}", parse)
        if not bills:
            raise RecordNotFound(f"{LEGISINFO} has no such bill.", f"{LEGISINFO} n’a pas de tel projet de loi.")
        return bills[0]

    async def bills(self, session: str) -> list[BillProgress]:
        """All bills of a session, with fewer fields than `bill` returns."""
        url = f"{self._url}/en/bills/json"
        bills = await self._client.get(LEGISINFO, url, _parse_bills, {"parlsession": session})
        return [bill for bill in bills if bill.session == session]


def _parse_bills(body: bytes) -> list[BillProgress]:
    answer = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    if not isinstance(answer, list) or not all(isinstance(bill, dict) for bill in answer):
        raise ValueError("not a list of bills")
    return [_bill(bill) for bill in answer]


def _bill(bill: JsonObject) -> BillProgress:
    """The bill. Raises ValueError without a number and a session: then it is another kind of record."""
    number = _text(bill, "NumberCode", "BillNumberFormatted")
    parliament, session = bill.get("ParliamentNumber"), bill.get("SessionNumber")
    if number is None or not isinstance(parliament, int) or not isinstance(session, int):
        raise ValueError("not a bill")
    year, chapter = bill.get("StatuteYear"), bill.get("StatuteChapter")
    return BillProgress(
        number=number.upper(),
        session=f"{parliament}-{session}",
        title=_bilingual(bill, "LongTitle"),
        short_title=_bilingual(bill, "ShortTitle"),
        status=_bilingual(bill, "StatusName", "CurrentStatus"),
        sponsor=_bilingual(bill, "SponsorPersonName", "Sponsor"),
        sponsor_office=_bilingual(bill, "SponsorAffiliationTitle"),
        stages=_stages(bill),
        royal_assent=_date(bill.get("ReceivedRoyalAssentDateTime")),
        latest_event=_bilingual(bill, "LatestBillEventTypeName", "LatestActivity"),
        latest_date=_date(bill.get("LatestBillEventDateTime")) or _date(bill.get("LatestActivityDateTime")),
        statute=f"{year}, c. {chapter}" if year and chapter else None,
        publications=tuple(_publications(bill)),
    )


def _stages(bill: JsonObject) -> tuple[Stage, ...]:
    """The stages that have begun: as the bill's page lists them, else the readings that it has passed."""
    listed = bill.get("BillStages")
    stages = []
    for chamber in CHAMBERS:
        entries = listed.get(f"{chamber}BillStages") if isinstance(listed, dict) else None
        for entry in _objects(entries):
            name, state = _bilingual(entry, "BillStageName"), _bilingual(entry, "StateName")
            date = _date(entry.get("StateAsOfDate")) or _date(entry.get("LastStageEventStartDateTime"))
            if date and name.en:
                stages.append(Stage(chamber, name, state, date))
        if not entries:
            for reading, name in READINGS.items():
                if date := _date(bill.get(f"Passed{chamber}{reading}ReadingDateTime")):
                    stages.append(Stage(chamber, name, Text("Completed", "Terminée"), date))
    return tuple(sorted(stages, key=lambda stage: stage.date))


def _publications(bill: JsonObject) -> list[Publication]:
    found = []
    for entry in _objects(bill.get("Publications")):
        for file in _objects(entry.get("PublicationFiles")):
            path = file.get("RelativePath")
            if isinstance(path, str) and path.startswith("/"):
                found.append(Publication(_bilingual(entry, "PublicationTypeName"), f"https://www.parl.ca{path}"))
                break
    return found


def _bilingual(record: Any, *names: str) -> Text:
    """The first of the names that has a text. A name without a language is in English."""
    if isinstance(record, dict):
        for name in names:
            english, french = _text(record, f"{name}En", name), _text(record, f"{name}Fr")
            if english or french:
                return Text(english, french)
    return Text(None, None)


def _text(record: JsonObject, *names: str) -> str | None:
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _objects(value: Any) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _date(value: Any) -> str | None:
    return value[:10] if isinstance(value, str) and len(value) >= 10 and value[:10] != NO_DATE else None
