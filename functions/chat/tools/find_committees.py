"""find_committees: the House's committees, all of them or by words of their names."""

from typing import Annotated

from pydantic import Field

from functions.chat.tools import Found, Language, Tool
from functions.chat.tools.arguments import Arguments, Limit, Words
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Entry, Record, committee_source, listed, mentions, said, shorten


class FindCommittees(Arguments):
    words: Annotated[Words | None, Field(description="Words of the name in English or French; parts of words do.")] = (
        None
    )
    limit: Limit = 10


async def find_committees(wanted: FindCommittees, parliament: Parliament, language: Language) -> Found:
    """The committees of the newest session that has any, by name."""
    committees, _ = await parliament.many("committees")
    found = [committee for committee in committees if wanted.words is None or _mentions(wanted.words, committee)]
    entries = [_entry(committee, parliament, language) for committee in found]
    return listed({"committees_with": wanted.words}, [], entries, wanted.limit)


def _mentions(words: str, committee: Record) -> bool:
    names = [committee.get("name"), committee.get("short_name")]
    return mentions(words, *(said(name, language) for name in names for language in ("en", "fr")))


def _entry(committee: Record, parliament: Parliament, language: Language) -> Entry:
    source = committee_source(parliament, committee, language)
    item = {
        "committee": committee.get("slug"),
        "name": shorten(said(committee.get("name"), language), 200),
        "short_name": shorten(said(committee.get("short_name"), language), 100),
        "url": source.url,
    }
    return item, source


TOOL = Tool(
    "find_committees",
    "The committees of the House, all or by words of their names. Gives their slugs, which get_committee needs.",
    FindCommittees,
    find_committees,
)
