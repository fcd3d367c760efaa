"""get_bill: one bill: its title, status, sponsor and dates, and where to read it."""

from functions.chat.tools import Found, Language, NotThere, Source, Tool
from functions.chat.tools.arguments import Arguments, BillNumber, Session
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Record, bill_in_short, in_language, said, shorten, slug_of


class GetBill(Arguments):
    number: BillNumber
    session: Session | None = None


async def get_bill(wanted: GetBill, parliament: Parliament, language: Language) -> Found:
    """The bill, and its sponsor's page too."""
    bill = await parliament.bill(wanted.session, wanted.number)
    described, source = bill_in_short(parliament, bill, language)
    sponsor, pages = await _sponsor(bill, parliament, language)
    votes = bill.get("vote_urls") or []
    data = {
        **described,
        "short_title": shorten(said(bill.get("short_title"), language), 300),
        "status_code": bill.get("status_code"),
        "law": bill.get("law"),
        "private_member": bill.get("private_member_bill"),
        "home_chamber": bill.get("home_chamber"),
        "sponsor": sponsor,
        "recorded_votes": len(votes),
        "text": in_language(bill.get("text_url"), language),
    }
    return Found(data, [source, *pages])


async def _sponsor(bill: Record, parliament: Parliament, language: Language) -> tuple[Record | None, list[Source]]:
    """Who brought it in; senators have no page there."""
    slug = slug_of(bill.get("sponsor_politician_url"))
    if slug is None:
        return None, []
    try:
        described, source = await parliament.describe_mp(slug, language)
    except NotThere:
        return {"mp": slug}, []
    return described, [source]


TOOL = Tool(
    "get_bill",
    "One bill by its number: title, status, sponsor, date of introduction, whether it is law, the links to its text "
    "and to LEGISinfo. Numbers start anew in every session.",
    GetBill,
    get_bill,
)
