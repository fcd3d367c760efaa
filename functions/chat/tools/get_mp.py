"""get_mp: an MP's record: party, riding, every term, and where to reach them."""

from functions.chat.tools import Found, Language, Tool
from functions.chat.tools.arguments import Arguments, MpSlug
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Record, fit, member_in_short, said, shorten

MEMBERSHIPS_CHARACTERS = 4_000
LINKS_CHARACTERS = 1_500


class GetMp(Arguments):
    slug: MpSlug


async def get_mp(wanted: GetMp, parliament: Parliament, language: Language) -> Found:
    """The record, the newest term first."""
    member = await parliament.member(wanted.slug)
    described, source = member_in_short(parliament, member, language)
    terms = sorted(member.get("memberships") or [], key=lambda term: str(term.get("start_date") or ""), reverse=True)
    links = [
        {"url": shorten(link.get("url"), 500), "about": shorten(said(link.get("note"), language), 100)}
        for link in member.get("links") or []
    ]
    data = {
        **described,
        "memberships": fit([_membership(term, language) for term in terms], MEMBERSHIPS_CHARACTERS),
        "links": fit(links, LINKS_CHARACTERS)["items"],
        "email": shorten(said(member.get("email"), language), 100),
        "telephone": shorten(said(member.get("voice"), language), 50),
    }
    return Found(data, [source])


def _membership(term: Record, language: Language) -> Record:
    riding = term.get("riding") or {}
    party = term.get("party") or {}
    return {
        "from": term.get("start_date"),
        "to": term.get("end_date"),
        "party": said(party.get("name"), language) or said(party.get("short_name"), language),
        "riding": said(riding.get("name"), language),
        "province": riding.get("province"),
    }


TOOL = Tool(
    "get_mp",
    "An MP's record: party, riding, every term in the House, links and contact. Not what they said or how they voted.",
    GetMp,
    get_mp,
)
