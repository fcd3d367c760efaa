"""find_committees: the committees of the House, all of them or by words of their names."""

from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.sources.openparliament_records import Committee
from functions.chat.sources.text import contains_words, shorten
from functions.chat.tools.arguments import Arguments, Limit, Words
from functions.chat.tools.records import committee_source, list_page
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData


class FindCommittees(Arguments):
    words: Annotated[
        Words | None, Field(description="Words of the name in English or French; parts of words also match.")
    ] = None
    limit: Limit = 10


async def find_committees(arguments: FindCommittees, parliament: Parliament, language: Language) -> ToolData:
    """The committees of the newest session that has any, by name."""
    words = arguments.words
    committees = await parliament.openparliament.committees()
    found = [committee for committee in committees if words is None or _name_contains(words, committee)]
    items = [_item(committee, parliament, language) for committee in found]
    sources = [] if items else [list_page(parliament, "committees")]
    return list_result({"committees_with": words}, sources, items, arguments.limit)


def _name_contains(words: str, committee: Committee) -> bool:
    names = (committee.name, committee.short_name)
    return contains_words(words, *(text for name in names for text in (name.en, name.fr)))


def _item(committee: Committee, parliament: Parliament, language: Language) -> Item:
    source = committee_source(parliament, committee, language)
    data = {
        "committee": committee.slug,
        "name": shorten(committee.name.in_(language), 200),
        "short_name": shorten(committee.short_name.in_(language), 100),
        "url": source.url,
    }
    return Item(data, source)


TOOL = Tool(
    "find_committees",
    "List the committees of the House, all of them or by words of their names. Returns the slugs that get_committee "
    "needs.",
    FindCommittees,
    find_committees,
)
