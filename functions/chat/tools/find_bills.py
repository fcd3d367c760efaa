"""find_bills: bills by words of their titles, number, sponsor or kind.

openparliament.ca cannot search titles, and its lists have no short titles, by which people know a bill. So this tool
reads a session's bills there and at LEGISinfo, and searches the titles in both languages.
"""

from contextlib import suppress
from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, SourceError, Text
from functions.chat.sources.openparliament_records import Bill
from functions.chat.sources.text import contains_words, shorten
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, MpSlug, Session, Words
from functions.chat.tools.base import Source
from functions.chat.tools.records import bill_source, describe_mp, list_page
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData

SHORT_TITLES_OF = 3  # the newest sessions: each is a list of a megabyte


class FindBills(Arguments):
    words: Annotated[
        Words | None, Field(description="Words of the title in English or French; parts of words also match.")
    ] = None
    session: Session | None = None
    number: BillNumber | None = None
    sponsor: MpSlug | None = None
    private_member: Annotated[
        bool | None, Field(description="true for private members' bills only, false for all other bills.")
    ] = None
    law: Annotated[
        bool | None, Field(description="true for bills that became law only, false for all other bills.")
    ] = None
    limit: Limit = 10


async def find_bills(arguments: FindBills, parliament: Parliament, language: Language) -> ToolData:
    """The newest bills first. Searches all sessions for a number or a sponsor, and one session for everything else."""
    criteria = arguments.model_dump(exclude_none=True, exclude={"limit"})
    sources: list[Source] = []
    if arguments.sponsor is not None:
        # An unknown sponsor is an error, not an empty list.
        criteria["sponsor"], source = await describe_mp(parliament, arguments.sponsor, language)
        sources.append(source)
    session = arguments.session
    if session is None and arguments.number is None and arguments.sponsor is None:
        criteria["session"] = session = await parliament.openparliament.current_session()
    bills, more = await parliament.openparliament.bills(
        session=session,
        number=arguments.number,
        sponsor_politician=arguments.sponsor,
        private_member_bill=None if arguments.private_member is None else str(arguments.private_member),
        law="True" if arguments.law else None,
    )
    if arguments.law is False:
        # A bill that is no law yet has null there, which no filter finds.
        laws, _ = await parliament.openparliament.bills(session=session, law="True")
        paths = {law.path for law in laws}
        bills = [bill for bill in bills if bill.path not in paths]
    if not bills and arguments.session is not None:
        await parliament.openparliament.check_session(arguments.session)
    about: JsonObject = {"bills_with": criteria}
    short_titles: dict[str, Text] = {}
    if arguments.words:
        sessions = sorted({session} if session else {bill.session for bill in bills}, reverse=True)
        short_titles = await _short_titles(parliament, sessions[:SHORT_TITLES_OF])
        if len(sessions) > SHORT_TITLES_OF:
            about["short_titles_of"] = sessions[:SHORT_TITLES_OF]
    found = [
        bill
        for bill in bills
        if arguments.words is None or _title_contains(arguments.words, bill, short_titles.get(bill.path))
    ]
    found.sort(key=lambda bill: bill.introduced or "", reverse=True)
    items = [_item(bill, short_titles.get(bill.path), parliament, language) for bill in found]
    if not items:
        sources.append(list_page(parliament, "bills"))
    return list_result(about, sources, items, arguments.limit, more=more)


async def _short_titles(parliament: Parliament, sessions: list[str]) -> dict[str, Text]:
    """The short titles of these sessions' bills by path. Without a session that LEGISinfo does not return."""
    titles: dict[str, Text] = {}
    for session in sessions:
        with suppress(SourceError):
            bills = await parliament.legisinfo.bills(session)
            titles |= {f"/bills/{session}/{bill.number}/": bill.short_title for bill in bills}
    return titles


def _title_contains(words: str, bill: Bill, short_title: Text | None) -> bool:
    titles = [title for title in (bill.name, short_title) if title]
    return contains_words(words, *(text for title in titles for text in (title.en, title.fr)))


def _item(bill: Bill, short_title: Text | None, parliament: Parliament, language: Language) -> Item:
    source = bill_source(parliament, bill, language)
    data = {
        "bill": bill.number,
        "session": bill.session,
        "title": shorten(bill.name.in_(language), 300) if bill.name else None,
        "introduced": bill.introduced,
        "url": source.url,
    }
    if short := short_title and short_title.in_(language):
        data["short_title"] = shorten(short, 200)
    return Item(data, source)


TOOL = Tool(
    "find_bills",
    "Find bills by words of their title, number, sponsor, or kind. Searches the current session unless you give "
    "another, and all sessions if you give a number or a sponsor without a session. get_bill returns the status.",
    FindBills,
    find_bills,
)
