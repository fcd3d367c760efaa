"""find_bills: bills by words of their titles, number, sponsor or kind.

openparliament.ca cannot search titles, so this tool reads a session's bills and searches them in both languages.
"""

from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.text import contains_words, localized, shorten
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, MpSlug, Session, Words
from functions.chat.tools.base import Source
from functions.chat.tools.records import bill_source, describe_mp
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData


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
    bills, more = await parliament.openparliament.list_records(
        "bills",
        session=session,
        number=arguments.number,
        sponsor_politician=arguments.sponsor,
        private_member_bill=_flag(arguments.private_member),
        law=_flag(arguments.law),
    )
    found = [bill for bill in bills if arguments.words is None or _title_contains(arguments.words, bill)]
    found.sort(key=lambda bill: str(bill.get("introduced") or ""), reverse=True)
    items = [_item(bill, parliament, language) for bill in found]
    return list_result({"bills_with": criteria}, sources, items, arguments.limit, more=more)


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value)


def _title_contains(words: str, bill: JsonObject) -> bool:
    titles = [bill.get("name"), bill.get("short_title")]
    return contains_words(words, *(localized(title, language) for title in titles for language in ("en", "fr")))


def _item(bill: JsonObject, parliament: Parliament, language: Language) -> Item:
    source = bill_source(parliament, bill, language)
    data = {
        "bill": bill.get("number"),
        "session": bill.get("session"),
        "title": shorten(localized(bill.get("name"), language), 300),
        "introduced": bill.get("introduced"),
        "url": source.url,
    }
    return Item(data, source)


TOOL = Tool(
    "find_bills",
    "Find bills by words of their title, number, sponsor, or kind. Searches the current session unless you give "
    "another, and all sessions if you give a number or a sponsor without a session. get_bill returns the status.",
    FindBills,
    find_bills,
)
