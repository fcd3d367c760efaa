"""get_committee_members: who sits on a committee today, with the chair and the vice-chairs."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language, Text
from functions.chat.sources.text import shorten
from functions.chat.tools.arguments import Arguments, CommitteeSlug
from functions.chat.tools.base import Source, ToolError
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData

MAX_MEMBERS = 40
SITE = Text("ourcommons.ca", "noscommunes.ca")  # as the House calls it in each language


class GetCommitteeMembers(Arguments):
    slug: CommitteeSlug


async def get_committee_members(arguments: GetCommitteeMembers, parliament: Parliament, language: Language) -> ToolData:
    """The members as the committee's page at ourcommons.ca lists them."""
    committee = await parliament.openparliament.get_committee(arguments.slug)
    acronym = next((each.acronym for each in committee.sessions if each.acronym), None)
    if acronym is None:
        raise ToolError(
            "The acronym of this committee is not known, so its members cannot be read.",
            "L’acronyme de ce comité n’est pas connu : ses membres ne peuvent pas être lus.",
        )
    members = await parliament.ourcommons.committee_members(acronym, language)
    name = shorten(committee.name.in_(language), 200)
    page = Source(parliament.ourcommons.committee_page(acronym, language), f"{name}, {SITE.in_(language)}")
    items = [Item({"name": member.name, "role": member.role, "url": member.url}, page) for member in members]
    about = {"committee": committee.slug, "name": name, "acronym": acronym, "as_of": "today", "url": page.url}
    return list_result(about, [page], items, MAX_MEMBERS)


TOOL = Tool(
    "get_committee_members",
    "The present members of a committee by its slug, with the chair and the vice-chairs.",
    GetCommitteeMembers,
    get_committee_members,
)
