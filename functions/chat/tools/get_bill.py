"""get_bill: a bill's title, status, sponsor, stages with dates, and links.

LEGISinfo has the stages, the short title and sponsors who are senators. The bill is described without them where
LEGISinfo is not available.
"""

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, RecordNotFound, SourceError
from functions.chat.sources.legisinfo import BillProgress
from functions.chat.sources.openparliament_records import Bill
from functions.chat.sources.terms import chamber_name
from functions.chat.sources.text import localized_url, shorten, slug_of
from functions.chat.tools.arguments import Arguments, BillNumber, Session
from functions.chat.tools.base import Source
from functions.chat.tools.records import NAME_BYTES, describe_mp, summarize_bill
from functions.chat.tools.results import fit
from functions.chat.tools.tool import Tool, ToolData

STAGES_BYTES = 2_500
PUBLICATIONS_BYTES = 1_000


class GetBill(Arguments):
    number: BillNumber
    session: Session | None = None


async def get_bill(arguments: GetBill, parliament: Parliament, language: Language) -> ToolData:
    """The bill and its stages. The sources include LEGISinfo's page and the sponsor's."""
    bill = await parliament.openparliament.get_bill(arguments.session, arguments.number)
    summary, source = summarize_bill(parliament, bill, language)
    sponsor, sources = await _sponsor(bill, parliament, language)
    data: JsonObject = {
        **summary,
        "short_title": shorten(bill.short_title.in_(language), 300) if bill.short_title else None,
        "status_code": shorten(bill.status_code, NAME_BYTES),
        "law": bill.law,
        "private_member": bill.private_member,
        "home_chamber": shorten(chamber_name(bill.home_chamber, language), NAME_BYTES),
        "sponsor": sponsor,
        "recorded_votes": bill.recorded_votes,
        "text": localized_url(bill.text_url, language),
    }
    try:
        progress = await parliament.legisinfo.bill(bill.session, bill.number)
    except SourceError as error:
        return ToolData(
            data | {"stages": None, "stages_missing_because": error.sentence.in_(language)}, [source, *sources]
        )
    data |= _progress(progress, language)
    data["short_title"] = shorten(progress.short_title.in_(language), 300) or data["short_title"]
    data["status"] = shorten(progress.status.in_(language), 300) or data["status"]
    data["sponsor"] = sponsor or _senator(progress, language)
    data["legisinfo"] = page = parliament.legisinfo.page(progress.session, progress.number, language)
    word = "projet de loi" if language == "fr" else "Bill"
    return ToolData(data, [source, Source(page, f"LEGISinfo, {word} {progress.number} ({progress.session})"), *sources])


def _progress(progress: BillProgress, language: Language) -> JsonObject:
    stages = [
        {
            "date": stage.date,
            "chamber": chamber_name(stage.chamber, language),
            "stage": shorten(stage.name.in_(language), NAME_BYTES),
            "state": shorten(stage.state.in_(language), NAME_BYTES),
        }
        for stage in progress.stages
    ]
    publications = [
        {"version": shorten(each.name.in_(language), NAME_BYTES), "url": localized_url(each.url, language)}
        for each in progress.publications
    ]
    return {
        "stages": fit(stages, STAGES_BYTES),
        "royal_assent": progress.royal_assent,
        "statute": shorten(progress.statute, NAME_BYTES),
        "latest_event": {
            "event": shorten(progress.latest_event.in_(language), NAME_BYTES),
            "date": progress.latest_date,
        },
        "publications": fit(publications, PUBLICATIONS_BYTES)["items"],
    }


def _senator(progress: BillProgress, language: Language) -> JsonObject | None:
    """The sponsor as LEGISinfo names them: openparliament.ca has no records of senators."""
    name = progress.sponsor.in_(language)
    office = progress.sponsor_office.in_(language)
    return {"name": shorten(name, NAME_BYTES), "office": shorten(office, NAME_BYTES)} if name else None


async def _sponsor(bill: Bill, parliament: Parliament, language: Language) -> tuple[JsonObject | None, list[Source]]:
    """The MP who introduced the bill. None for a senator."""
    slug = slug_of(bill.sponsor_path)
    if slug is None:
        return None, []
    try:
        summary, source = await describe_mp(parliament, slug, language)
    except RecordNotFound:
        return {"mp": slug}, []
    return {**summary}, [source]


TOOL = Tool(
    "get_bill",
    "One bill by its number: title, status, sponsor, its stages with dates, royal assent, and links to its text and "
    "to LEGISinfo. Bill numbers restart in every session.",
    GetBill,
    get_bill,
)
