"""get_bill: a bill's title, status, sponsor, dates and links."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, RecordNotFound
from functions.chat.sources.text import localized, localized_url, shorten, slug_of
from functions.chat.tools.arguments import Arguments, BillNumber, Session
from functions.chat.tools.base import Source
from functions.chat.tools.records import MpSummary, describe_mp, summarize_bill
from functions.chat.tools.tool import Tool, ToolData


class GetBill(Arguments):
    number: BillNumber
    session: Session | None = None


async def get_bill(arguments: GetBill, parliament: Parliament, language: Language) -> ToolData:
    """The bill. The sources include the sponsor's page."""
    bill = await parliament.openparliament.get_bill(arguments.session, arguments.number)
    summary, source = summarize_bill(parliament, bill, language)
    sponsor, sponsor_sources = await _sponsor(bill, parliament, language)
    votes = bill.get("vote_urls") or []
    data = {
        **summary,
        "short_title": shorten(localized(bill.get("short_title"), language), 300),
        "status_code": bill.get("status_code"),
        "law": bill.get("law"),
        "private_member": bill.get("private_member_bill"),
        "home_chamber": bill.get("home_chamber"),
        "sponsor": sponsor,
        "recorded_votes": len(votes),
        "text": localized_url(bill.get("text_url"), language),
    }
    return ToolData(data, [source, *sponsor_sources])


async def _sponsor(
    bill: JsonObject, parliament: Parliament, language: Language
) -> tuple[MpSummary | dict[str, str] | None, list[Source]]:
    """The MP who introduced the bill. None for a senator: openparliament.ca has no records of senators."""
    slug = slug_of(bill.get("sponsor_politician_url"))
    if slug is None:
        return None, []
    try:
        summary, source = await describe_mp(parliament, slug, language)
    except RecordNotFound:
        return {"mp": slug}, []
    return summary, [source]


TOOL = Tool(
    "get_bill",
    "One bill by its number: title, status, sponsor, date of introduction, whether it is law, and links to its text "
    "and to LEGISinfo. Bill numbers restart in every session.",
    GetBill,
    get_bill,
)
