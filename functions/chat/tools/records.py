"""Turns openparliament.ca's records into the parts that several results share: sources, summaries and speeches."""

from typing import Any, TypedDict

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.text import html_to_text, iso_time, localized, localized_url, shorten, slug_of
from functions.chat.tools.base import Source
from functions.chat.tools.results import Item


class MpSummary(TypedDict):
    """An MP, present or former. The party and riding are those of the present or the last term."""

    mp: str | None
    name: str | None
    party: str | None
    riding: str | None
    province: str | None
    sits_now: bool
    url: str


class BillSummary(TypedDict):
    """A bill. `introduced` is a date; `legisinfo` is the bill's page at parl.ca."""

    bill: str | None
    session: str | None
    title: str | None
    status: str | None
    introduced: str | None
    legisinfo: str | None
    url: str


async def describe_mp(parliament: Parliament, slug: str, language: Language) -> tuple[MpSummary, Source]:
    """An MP's summary and page. Raises RecordNotFound, and ToolError where the record cannot be read."""
    return summarize_mp(parliament, await parliament.openparliament.get_mp(slug), language)


async def describe_bill(
    parliament: Parliament, session: str | None, number: str, language: Language
) -> tuple[BillSummary, Source]:
    """A bill's summary and page. Raises RecordNotFound, and ToolError where the record cannot be read."""
    return summarize_bill(parliament, await parliament.openparliament.get_bill(session, number), language)


def summarize_mp(parliament: Parliament, mp: JsonObject, language: Language) -> tuple[MpSummary, Source]:
    """The summary and page of an MP's record."""
    terms = mp.get("memberships") or []
    term = next((term for term in terms if not term.get("end_date")), terms[0] if terms else {})
    riding = term.get("riding") or {}
    source = mp_source(parliament, mp)
    summary: MpSummary = {
        "mp": slug_of(mp.get("url")),
        "name": mp.get("name"),
        "party": localized((term.get("party") or {}).get("short_name"), language),
        "riding": localized(riding.get("name"), language),
        "province": riding.get("province"),
        "sits_now": bool(term) and not term.get("end_date"),
        "url": source.url,
    }
    return summary, source


def summarize_bill(parliament: Parliament, bill: JsonObject, language: Language) -> tuple[BillSummary, Source]:
    """The summary and page of a bill's record."""
    source = bill_source(parliament, bill, language)
    summary: BillSummary = {
        "bill": bill.get("number"),
        "session": bill.get("session"),
        "title": shorten(localized(bill.get("name"), language), 500),
        "status": localized(bill.get("status"), language),
        "introduced": bill.get("introduced"),
        "legisinfo": localized_url(bill.get("legisinfo_url"), language),
        "url": source.url,
    }
    return summary, source


def speech_item(parliament: Parliament, speech: JsonObject, language: Language, limit_bytes: int) -> Item:
    """A speech with its text, shortened to `limit_bytes`."""
    speaker = localized(speech.get("attribution"), language)
    heading = localized(speech.get("h2"), language) or localized(speech.get("h1"), language)
    time = iso_time(speech.get("time"))
    url = parliament.openparliament.public_url(speech.get("url"))
    data = {
        "time": time,
        "speaker": shorten(speaker, 200),
        "mp": slug_of(speech.get("politician_url")),
        "heading": shorten(heading, 200),
        "text": shorten(html_to_text(localized(speech.get("content"), language)), limit_bytes),
        "url": url,
    }
    return Item(data, Source(url, _title(speaker, heading, time and time[:10])))


def mp_source(parliament: Parliament, mp: JsonObject) -> Source:
    """An MP's page, titled with the name, or with the slug where the name is unknown."""
    return Source(parliament.openparliament.public_url(mp.get("url")), _title(mp.get("name") or slug_of(mp.get("url"))))


def bill_source(parliament: Parliament, bill: JsonObject, language: Language) -> Source:
    """A bill's page."""
    name, number = localized(bill.get("name"), language), bill.get("number")
    kind, colon = ("Projet de loi", " : ") if language == "fr" else ("Bill", ": ")
    title = f"{kind} {number}{colon}{name}" if name else f"{kind} {number}"  # a bill may have no name yet
    return Source(parliament.openparliament.public_url(bill.get("url")), _title(title))


def committee_source(parliament: Parliament, committee: JsonObject, language: Language) -> Source:
    """A committee's page."""
    url = parliament.openparliament.public_url(committee.get("url"))
    return Source(url, _title(localized(committee.get("name"), language)))


def _title(*parts: Any) -> str:
    """The known parts, shortened to one line."""
    return shorten(", ".join(str(part) for part in parts if part), 160) or "openparliament.ca"
