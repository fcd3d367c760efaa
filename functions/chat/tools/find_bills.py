"""find_bills: bills by the words of their titles, their number, sponsor or kind.

openparliament.ca does not search titles, so the bills of a session are read and searched here, in both languages.
"""

from typing import Annotated

from pydantic import Field

from functions.chat.tools import Found, Language, Source, Tool
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, MpSlug, Session, Words
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Entry, Record, bill_source, listed, mentions, said, shorten


class FindBills(Arguments):
    words: Annotated[Words | None, Field(description="Words of the title in English or French; parts of words do.")] = (
        None
    )
    session: Session | None = None
    number: BillNumber | None = None
    sponsor: MpSlug | None = None
    private_member: Annotated[
        bool | None, Field(description="true for private members' bills only, false for the others only.")
    ] = None
    law: Annotated[bool | None, Field(description="true for bills that became law only, false for the others.")] = None
    limit: Limit = 10


async def find_bills(wanted: FindBills, parliament: Parliament, language: Language) -> Found:
    """The newest bills first. A number or a sponsor is looked for in every session, all else in one."""
    asked = wanted.model_dump(exclude_none=True, exclude={"limit"})
    sources: list[Source] = []
    if wanted.sponsor is not None:
        # An unknown sponsor is not a sponsor without bills.
        asked["sponsor"], source = await parliament.describe_mp(wanted.sponsor, language)
        sources.append(source)
    session = wanted.session
    if session is None and wanted.number is None and wanted.sponsor is None:
        asked["session"] = session = await parliament.current_session()
    bills, more = await parliament.many(
        "bills",
        session=session,
        number=wanted.number,
        sponsor_politician=wanted.sponsor,
        private_member_bill=_flag(wanted.private_member),
        law=_flag(wanted.law),
    )
    found = [bill for bill in bills if wanted.words is None or _mentions(wanted.words, bill)]
    found.sort(key=lambda bill: str(bill.get("introduced") or ""), reverse=True)
    entries = [_entry(bill, parliament, language) for bill in found]
    return listed({"bills_with": asked}, sources, entries, wanted.limit, more=more)


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value)


def _mentions(words: str, bill: Record) -> bool:
    names = [bill.get("name"), bill.get("short_title")]
    return mentions(words, *(said(name, language) for name in names for language in ("en", "fr")))


def _entry(bill: Record, parliament: Parliament, language: Language) -> Entry:
    source = bill_source(parliament, bill, language)
    item = {
        "bill": bill.get("number"),
        "session": bill.get("session"),
        "title": shorten(said(bill.get("name"), language), 300),
        "introduced": bill.get("introduced"),
        "url": source.url,
    }
    return item, source


TOOL = Tool(
    "find_bills",
    "Find bills by words of their title, number, sponsor, or kind, in the current session unless you give another. "
    "With a number or a sponsor and no session, in all sessions. The status is in get_bill.",
    FindBills,
    find_bills,
)
