"""get_bill_debate: the speeches of the House's debate on a bill."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, MpSlug, Session
from functions.chat.tools.records import describe_mp, speech_item, summarize_bill
from functions.chat.tools.results import list_result, speech_text_limit
from functions.chat.tools.tool import Tool, ToolData


class GetBillDebate(Arguments):
    number: BillNumber
    session: Session | None = None
    speaker: MpSlug | None = None
    limit: Limit = 5


async def get_bill_debate(arguments: GetBillDebate, parliament: Parliament, language: Language) -> ToolData:
    """The newest speeches first, without procedural ones."""
    bill = await parliament.openparliament.get_bill(arguments.session, arguments.number)
    summary, source = summarize_bill(parliament, bill, language)
    sources = [source]
    speaker: JsonObject = {}
    if arguments.speaker is not None:
        speaker["speaker"], page = await describe_mp(parliament, arguments.speaker, language)
        sources.append(page)
    speeches, more = await parliament.openparliament.speeches(
        arguments.limit,
        bill_debated=bill.path,
        politician=speaker["speaker"]["mp"] if speaker else None,
    )
    text_limit = speech_text_limit(len(speeches))
    items = [speech_item(parliament, speech, language, text_limit) for speech in speeches]
    return list_result({**summary, **speaker}, sources, items, arguments.limit, more=more)


TOOL = Tool(
    "get_bill_debate",
    "The newest speeches of the House's debate on a bill, of all speakers or of one MP: the speaker, the words and the "
    "transcript's page. spoken_in and limit are as in get_mp_speeches.",
    GetBillDebate,
    get_bill_debate,
)
