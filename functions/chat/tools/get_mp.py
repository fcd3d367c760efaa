"""get_mp: an MP's party, riding, terms and contact information."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.text import localized, shorten
from functions.chat.tools.arguments import Arguments, MpSlug
from functions.chat.tools.records import summarize_mp
from functions.chat.tools.results import fit
from functions.chat.tools.tool import Tool, ToolData

MEMBERSHIPS_CHARACTERS = 4_000
LINKS_CHARACTERS = 1_500


class GetMp(Arguments):
    slug: MpSlug


async def get_mp(arguments: GetMp, parliament: Parliament, language: Language) -> ToolData:
    """The MP's record, the newest term first."""
    mp = await parliament.openparliament.get_mp(arguments.slug)
    summary, source = summarize_mp(parliament, mp, language)
    terms = sorted(mp.get("memberships") or [], key=lambda term: str(term.get("start_date") or ""), reverse=True)
    links = [
        {"url": shorten(link.get("url"), 500), "about": shorten(localized(link.get("note"), language), 100)}
        for link in mp.get("links") or []
    ]
    data = {
        **summary,
        "memberships": fit([_term(term, language) for term in terms], MEMBERSHIPS_CHARACTERS),
        "links": fit(links, LINKS_CHARACTERS)["items"],
        "email": shorten(localized(mp.get("email"), language), 100),
        "telephone": shorten(localized(mp.get("voice"), language), 50),
    }
    return ToolData(data, [source])


def _term(term: JsonObject, language: Language) -> JsonObject:
    riding = term.get("riding") or {}
    party = term.get("party") or {}
    return {
        "from": term.get("start_date"),
        "to": term.get("end_date"),
        "party": localized(party.get("name"), language) or localized(party.get("short_name"), language),
        "riding": localized(riding.get("name"), language),
        "province": riding.get("province"),
    }


TOOL = Tool(
    "get_mp",
    "An MP's record: party, riding, every term in the House, links and contact information. get_mp_speeches returns "
    "speeches and get_mp_votes votes.",
    GetMp,
    get_mp,
)
