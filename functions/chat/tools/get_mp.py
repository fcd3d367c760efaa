"""get_mp: an MP's party, riding, terms and contact information."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, Text
from functions.chat.sources.openparliament_records import Link, Term
from functions.chat.sources.terms import party_full_name
from functions.chat.sources.text import localized_url, shorten
from functions.chat.tools.arguments import Arguments, MpSlug
from functions.chat.tools.records import NAME_BYTES, mp_source, summarize_mp
from functions.chat.tools.results import fit
from functions.chat.tools.tool import Tool, ToolData

MEMBERSHIPS_CHARACTERS = 4_000
LINKS_CHARACTERS = 1_500
# openparliament.ca's descriptions of links.
NOTES = {
    "Page on ourcommons.ca": Text("Page on ourcommons.ca", "Page sur noscommunes.ca"),
    "Official site": Text("Official site", "Site officiel"),
}


class GetMp(Arguments):
    slug: MpSlug


async def get_mp(arguments: GetMp, parliament: Parliament, language: Language) -> ToolData:
    """The MP's record, the newest term first."""
    member = await parliament.openparliament.get_mp(arguments.slug)
    links = [
        {"url": shorten(localized_url(link.url, language), 500), "about": _note(link, language)}
        for link in member.links
    ]
    data = {
        **summarize_mp(parliament, member, language),
        "memberships": fit([_term(term, language) for term in member.terms], MEMBERSHIPS_CHARACTERS),
        "links": fit(links, LINKS_CHARACTERS)["items"],
        "email": shorten(member.email, 100),
        "telephone": shorten(member.telephone, 50),
    }
    return ToolData(data, [mp_source(parliament, member)])


def _note(link: Link, language: Language) -> str | None:
    text = NOTES.get(link.note or "")
    return text.in_(language) if text else shorten(link.note, 100)


def _term(term: Term, language: Language) -> JsonObject:
    return {
        "from": term.start,
        "to": term.end,
        "party": shorten(party_full_name(term.party, term.party_name, language), NAME_BYTES),
        "riding": shorten(term.riding.in_(language), NAME_BYTES) if term.riding else None,
        "province": shorten(term.province, NAME_BYTES),
    }


TOOL = Tool(
    "get_mp",
    "An MP's record: party, riding, every term in the House, links and contact information. get_mp_speeches returns "
    "speeches and get_mp_votes votes.",
    GetMp,
    get_mp,
)
