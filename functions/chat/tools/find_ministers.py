"""find_ministers: the ministers and the parliamentary secretaries, all of them or by words of office or name."""

from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.sources.ourcommons import Office
from functions.chat.sources.text import contains_words, person_name
from functions.chat.tools.arguments import Arguments, Limit, Words
from functions.chat.tools.base import Source
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData

TITLES = {
    "ministries": {"en": "The Ministry (cabinet), ourcommons.ca", "fr": "Le Conseil des ministres, noscommunes.ca"},
    "parliamentary-secretaries": {
        "en": "Parliamentary secretaries, ourcommons.ca",
        "fr": "Secrétaires parlementaires, noscommunes.ca",
    },
}


class FindMinisters(Arguments):
    words: Annotated[
        Words | None,
        Field(description="Words of the office or of the name, in English or French: finance, prime minister."),
    ] = None
    secretaries: Annotated[bool, Field(description="true for parliamentary secretaries instead of ministers.")] = False
    limit: Limit = 10


async def find_ministers(arguments: FindMinisters, parliament: Parliament, language: Language) -> ToolData:
    """The offices of today, in the order of precedence. Words match in both languages."""
    name = "parliamentary-secretaries" if arguments.secretaries else "ministries"
    offices = await _offices(parliament, language, arguments.secretaries)
    if (words := arguments.words) is not None:
        other = await _offices(parliament, "en" if language == "fr" else "fr", arguments.secretaries)
        matching = {_key(office) for office in (*offices, *other) if _matches(words, office)}
        offices = [office for office in offices if _key(office) in matching]
    page = Source(parliament.ourcommons.list_page(name, language), TITLES[name][language])
    items = [Item(_data(office), page) for office in offices]
    about = {"offices": name, "with": words, "as_of": "today", "url": page.url}
    return list_result(about, [page], items, arguments.limit)


async def _offices(parliament: Parliament, language: Language, secretaries: bool) -> list[Office]:
    if secretaries:
        return await parliament.ourcommons.parliamentary_secretaries(language)
    return await parliament.ourcommons.ministers(language)


def _matches(words: str, office: Office) -> bool:
    return contains_words(words, office.title, office.name) or contains_words(person_name(words), office.name)


def _key(office: Office) -> tuple[int | str, str | None, int]:
    """The same in both languages, whose lists can have different orders."""
    return office.person_id or person_name(office.name), office.since, office.order


def _data(office: Office) -> dict[str, str | None]:
    return {
        "name": office.name,
        "office": office.title,
        "since": office.since,
        "riding": office.riding,
        "party": office.party,
    }


TOOL = Tool(
    "find_ministers",
    "The present ministers, or the parliamentary secretaries, by words of their office or name: who is the minister "
    "of finance. find_mps returns their records.",
    FindMinisters,
    find_ministers,
)
