"""Turns the imported records into parts of results, and into records of the lobbying, spending and dashboard pages."""

import re
from datetime import date
from typing import Any

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, RecordNotFound, Text
from functions.chat.sources.imported import (
    LargestExpenses,
    Lobbying,
    Lobbyist,
    OrganizationCount,
    Quarter,
    Registration,
    Report,
)
from functions.chat.sources.text import shorten
from functions.chat.tools.base import Source
from functions.chat.tools.records import describe_mp, summarize_bill
from functions.chat.tools.results import Item

MOST_REPORTS, MOST_REGISTRATIONS = 250, 125  # that the SQL functions count
LANGUAGES: tuple[Language, ...] = ("en", "fr")
CONTEXT_ITEMS = 5
CONTEXT_BYTES = 300  # of each text
NAME_BYTES = 160
QUARTER_ID = re.compile(r"(20[0-9]{2})[-/]([1-4])")
BILL_ID = re.compile(r"(?:([0-9]{2}-[0-9])/)?([CS]-[0-9]{1,4}[A-Z]?)", re.IGNORECASE)
SLUG_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+")


async def lobbying_on_bill(
    parliament: Parliament, session: str | None, number: str, limit: int, language: Language
) -> tuple[JsonObject, Source, Lobbying]:
    """The bill as the subject of a result, its page, and who lobbied on it since its introduction."""
    bill = await parliament.openparliament.get_bill(session, number)
    summary, source = summarize_bill(parliament, bill, language)
    texts = [text for text in (bill.name, bill.short_title) if text]
    titles = [title for text in texts for title in (text.en, text.fr) if title]
    introduced = date.fromisoformat(summary["introduced"]) if summary["introduced"] else date.min
    found = await parliament.imported.lobbying_on_bill(number, titles, introduced, limit)
    return {"lobbying_on": summary, "since": summary["introduced"]}, source, found


def lobbyist_item(lobbyist: Lobbyist, limit_bytes: int, language: Language) -> Item:
    """An organization that lobbied on something, with one text."""
    name = name_in(lobbyist.organization, language)
    data = {
        "organization": name,
        "reports": lobbyist.reports,
        "last_report": lobbyist.last_report_on,
        "registrations": lobbyist.registrations,
        "registered_now": lobbyist.is_active,
        "text": shorten(lobbyist.report_text or lobbyist.registration_text, limit_bytes),
        "url": lobbyist.url,
    }
    return Item(data, Source(lobbyist.url, name))


def report_item(report: Report, limit_bytes: int, language: Language) -> Item:
    """A report of a communication."""
    name = name_in(report.organization, language)
    data = {
        "organization": name,
        "date": report.date,
        "officials": [", ".join(filter(None, (one.name, one.title, one.institution))) for one in report.officials[:4]],
        "subjects": shorten(text_in(report.subjects, language), 200) or None,
        "text": shorten(report.description, limit_bytes) or None,
        "url": report.url,
    }
    return Item(data, Source(report.url, shorten(f"{name}, {report.date}", 160) or name))


def registration_item(registration: Registration, limit_bytes: int, language: Language) -> Item:
    """A registration to lobby."""
    name = name_in(registration.organization, language)
    data = {
        "organization": name,
        "firm": shorten(registration.firm or "", NAME_BYTES) or None,
        "registrant": registration.registrant,
        "since": registration.since,
        "ends": registration.ends_on,
        "text": shorten(registration.description, limit_bytes) or None,
        "url": registration.url,
    }
    return Item(data, Source(registration.url, name))


def organization_count(count: OrganizationCount, language: Language) -> JsonObject:
    """An organization with the number of its reports."""
    return {
        "organization": name_in(count.organization, language),
        "reports": count.reports,
        "last_report": count.last_report_on,
    }


def describe_largest(
    parliament: Parliament, largest: LargestExpenses, category: str, language: Language
) -> tuple[JsonObject, Source]:
    """The subject of a list of the largest expenses, and the House's page."""
    first, last = largest.quarter.months
    source = expenses_source(parliament, largest.quarter, language)
    about = {
        "largest": category,
        "from": first,
        "to": last,
        "fiscal_year": largest.quarter.fiscal_year,
        "quarter": largest.quarter.number,
        "currency": "CAD",
        "members": largest.members,
        "sum_of_all": largest.sum,
        "median": largest.median,
        "url": source.url,
    }
    return about, source


def text_in(text: Text, language: Language) -> str:
    """The text in the language, or in the other one; empty where it has none."""
    return text.in_(language) or ""


def name_in(name: Text, language: Language) -> str:
    """The name of an organization in the language, or in the other one."""
    return shorten(text_in(name, language), NAME_BYTES) or ""


def count_of(number: int, most: int = MOST_REPORTS) -> int | str:
    """The number; the largest one that is counted may be more."""
    return number if number < most else f"{most}+"


def expenses_source(parliament: Parliament, quarter: Quarter, language: Language) -> Source:
    """The House's page of a quarter."""
    first, last = quarter.months
    title = "Dépenses des députés" if language == "fr" else "Members' expenditures"
    return Source(parliament.imported.expenses_page(quarter, language), f"{title}, {first} – {last}")


def registry_source(parliament: Parliament, language: Language) -> Source:
    """The registry's home page."""
    title = "Registre des lobbyistes" if language == "fr" else "Registry of Lobbyists"
    return Source(parliament.imported.registry_page(language), title)


async def page_record(
    kind: str, identity: str | None, parliament: Parliament, language: Language
) -> tuple[Any, Source] | None:
    """The public record of a lobbying, spending or dashboard page; None where it has none. Raises SourceError."""
    match kind:
        case "spending":
            return await _spending(identity or "", parliament, language)
        case "lobbying":
            return await _lobbying(identity or "", parliament, language)
        case _:
            return await _dashboard(parliament, language)


async def _spending(identity: str, parliament: Parliament, language: Language) -> tuple[Any, Source] | None:
    """Of a member by slug, of a quarter such as 2027-1, or of the newest quarter."""
    if SLUG_ID.fullmatch(identity) and not QUARTER_ID.fullmatch(identity):
        summary, source = await describe_mp(parliament, identity, language)
        quarters = await parliament.imported.member_expenses(summary["name"] or "", 1)
        if not quarters:
            return summary, source
        newest = quarters[0]
        about = {"fiscal_year": newest.quarter.fiscal_year, "quarter": newest.quarter.number, "currency": "CAD"}
        rank = {"rank_of_total": f"{newest.rank} / {newest.members}"}
        return {**summary, "expenses": {**about, **newest.amounts, **rank}}, expenses_source(
            parliament, newest.quarter, language
        )
    quarter = QUARTER_ID.fullmatch(identity)
    key = (int(quarter[1]), int(quarter[2])) if quarter else (None, None)
    largest = await parliament.imported.largest_expenses("total", CONTEXT_ITEMS, *key)
    if largest is None:
        return None
    about, source = describe_largest(parliament, largest, "total", language)
    return {**about, "items": [{"mp": one.name, "amount": one.amount} for one in largest.spenders]}, source


async def _lobbying(identity: str, parliament: Parliament, language: Language) -> tuple[Any, Source] | None:
    """On a bill by number, of a member by slug, of an organization by name, or the newest."""
    if bill := BILL_ID.fullmatch(identity):
        about, _, found = await lobbying_on_bill(parliament, bill[1], bill[2].upper(), CONTEXT_ITEMS, language)
        items = [lobbyist_item(one, CONTEXT_BYTES, language).data for one in found.lobbyists]
        return {**about, "organizations": found.organizations, "items": items}, registry_source(parliament, language)
    if SLUG_ID.fullmatch(identity):
        try:
            summary, _ = await describe_mp(parliament, identity, language)
        except RecordNotFound:
            pass  # a name of an organization
        else:
            of_member = await parliament.imported.lobbying_of_member(summary["name"] or "", CONTEXT_ITEMS)
            counts = [organization_count(one, language) for one in of_member.organizations]
            data: JsonObject = {
                "lobbying_of": summary,
                "reports": count_of(of_member.reports),
                "most_reports_by": counts,
            }
            return data, registry_source(parliament, language)
    if identity:
        by_name = await parliament.imported.lobbying_by_organization(identity.replace("-", " "), None, CONTEXT_ITEMS)
        if not by_name.names:
            return None
        reports = [report_item(one, CONTEXT_BYTES, language).data for one in by_name.newest_reports]
        names = [name_in(name, language) for name in by_name.names]
        data = {"lobbying_by": names, "reports": count_of(by_name.reports), "items": reports}
        return data, registry_source(parliament, language)
    return await _recent(parliament, language), registry_source(parliament, language)


async def _dashboard(parliament: Parliament, language: Language) -> tuple[Any, Source] | None:
    """The newest quarter's expenses and the newest lobbying."""
    spending = await _spending("", parliament, language)
    lobbying = await _recent(parliament, language)
    source = spending[1] if spending else registry_source(parliament, language)
    return {"expenses": spending and spending[0], "lobbying": lobbying}, source


async def _recent(parliament: Parliament, language: Language) -> JsonObject:
    recent = await parliament.imported.recent_lobbying(CONTEXT_ITEMS)
    counts = [organization_count(one, language) for one in recent.organizations]
    return {"from": recent.since, "to": recent.until, "reports": recent.reports, "most_reports_by": counts}
