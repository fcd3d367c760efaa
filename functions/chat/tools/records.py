"""Turns openparliament.ca's records into the parts that several results share: sources, summaries and speeches."""

from collections.abc import Iterable
from typing import Any, TypedDict

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.sources.openparliament_records import Bill, Committee, Member, Politician, Speech
from functions.chat.sources.represent import Representative
from functions.chat.sources.terms import bill_status, matches_party, party_name
from functions.chat.sources.text import (
    localized_url,
    normalize,
    person_name,
    shorten,
    slug_of,
    transcript_to_text,
)
from functions.chat.tools.base import Source, ToolError
from functions.chat.tools.results import Item

NAME_BYTES = 200  # a name that a source sends is never longer in a result


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
    member = await parliament.openparliament.get_mp(slug)
    return summarize_mp(parliament, member, language), mp_source(parliament, member)


async def describe_bill(
    parliament: Parliament, session: str | None, number: str, language: Language
) -> tuple[BillSummary, Source]:
    """A bill's summary and page. Raises RecordNotFound, and ToolError where the record cannot be read."""
    return summarize_bill(parliament, await parliament.openparliament.get_bill(session, number), language)


def summarize_mp(parliament: Parliament, member: Member, language: Language) -> MpSummary:
    """The summary of an MP's record."""
    term = member.term
    return {
        "mp": member.slug,
        "name": shorten(member.name, NAME_BYTES),
        "party": shorten(party_name(term.party, language), NAME_BYTES) if term and term.party else None,
        "riding": shorten(term.riding.in_(language), NAME_BYTES) if term and term.riding else None,
        "province": shorten(term.province, NAME_BYTES) if term else None,
        "sits_now": term is not None and term.end is None,
        "url": mp_source(parliament, member).url,
    }


def summarize_bill(parliament: Parliament, bill: Bill, language: Language) -> tuple[BillSummary, Source]:
    """The summary and page of a bill's record."""
    source = bill_source(parliament, bill, language)
    summary: BillSummary = {
        "bill": bill.number,
        "session": bill.session,
        "title": shorten(bill.name.in_(language), 500) if bill.name else None,
        "status": shorten(bill_status(bill.status_code, bill.status, language), 300),
        "introduced": bill.introduced,
        "legisinfo": localized_url(bill.legisinfo_url, language),
        "url": source.url,
    }
    return summary, source


def speech_item(parliament: Parliament, speech: Speech, language: Language, limit_bytes: int) -> Item:
    """A speech with its text, shortened to `limit_bytes`, and the languages in which it was spoken."""
    speaker = speech.speaker.in_(language) if speech.speaker else None
    heading = speech.heading.in_(language) if speech.heading else None
    url = parliament.openparliament.public_url(speech.path)
    data = {
        "time": speech.time,
        "speaker": shorten(speaker, 200),
        "mp": slug_of(speech.politician_path),
        "heading": shorten(heading, 200),
        "spoken_in": "+".join(speech.spoken_in) or None,
        "text": shorten(transcript_to_text(speech.content, language), limit_bytes),
        "url": url,
    }
    return Item(data, Source(url, source_title(speaker, heading, speech.time and speech.time[:10])))


def named_party(words: str, mps: Iterable[Politician]) -> str:
    """The party in the House that the words name, by its short name in English. Raises ToolError for none."""
    parties = sorted({mp.party for mp in mps if mp.party})
    party = next((party for party in parties if matches_party(words, party)), None)
    if party is None:
        raise ToolError(
            f"No party in the House has that name; the parties are {', '.join(parties[:20])}.",
            "Aucun parti de la Chambre n’a ce nom; les partis : "
            f"{', '.join(party_name(each, 'fr') for each in parties[:20])}.",
        )
    return party


def riding_names(mp: Politician) -> list[str]:
    """The names of an MP's riding."""
    return [name for name in (mp.riding.en, mp.riding.fr) if name] if mp.riding else []


def represents(mp: Politician, riding: str | None) -> bool:
    """Whether it is the MP's riding, by its name in either language."""
    return bool(normalize(riding)) and normalize(riding) in map(normalize, riding_names(mp))


def mp_of(person: Representative, sitting: Iterable[Politician]) -> Politician | None:
    """The sitting MP whom Represent names: of the same riding, or otherwise the only one of the same name."""
    mps = [*sitting]
    by_name = [mp for mp in mps if person_name(person.name) and person_name(mp.name) == person_name(person.name)]
    by_riding = [mp for mp in mps if represents(mp, person.riding)]
    return next(iter(by_riding or (by_name if len(by_name) == 1 else [])), None)


def list_page(parliament: Parliament, name: str) -> Source:
    """The page of all records of a kind, which a list without items is based on: bills, politicians, committees."""
    return Source(parliament.openparliament.public_url(f"/{name}/"), "openparliament.ca")


def mp_source(parliament: Parliament, mp: Politician | Member) -> Source:
    """An MP's page, titled with the name."""
    return Source(parliament.openparliament.public_url(mp.path), source_title(mp.name))


def bill_source(parliament: Parliament, bill: Bill, language: Language) -> Source:
    """A bill's page."""
    name, number = bill.name and bill.name.in_(language), bill.number
    kind, colon = ("Projet de loi", " : ") if language == "fr" else ("Bill", ": ")
    title = f"{kind} {number}{colon}{name}" if name else f"{kind} {number}"  # a bill may have no name yet
    return Source(parliament.openparliament.public_url(bill.path), source_title(title))


def committee_source(parliament: Parliament, committee: Committee, language: Language) -> Source:
    """A committee's page."""
    return Source(parliament.openparliament.public_url(committee.path), source_title(committee.name.in_(language)))


def source_title(*parts: Any) -> str:
    """The known parts, shortened to one line."""
    return shorten(", ".join(str(part) for part in parts if part), 160) or "openparliament.ca"
