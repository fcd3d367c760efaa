"""get_bill_debate: the speeches of the House's debate on a bill."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, Session
from functions.chat.tools.records import speech_item, summarize_bill
from functions.chat.tools.results import list_result, speech_text_limit
from functions.chat.tools.tool import Tool, ToolData


class GetBillDebate(Arguments):
    number: BillNumber
    session: Session | None = None
    limit: Limit = 5


async def get_bill_debate(arguments: GetBillDebate, parliament: Parliament, language: Language) -> ToolData:
    """The newest speeches first, without procedural ones."""
    bill = await parliament.openparliament.get_bill(arguments.session, arguments.number)
    summary, source = summarize_bill(parliament, bill, language)
    speeches, more = await parliament.openparliament.list_records(
        "speeches", limit=arguments.limit, bill_debated=bill.get("url"), procedural="False"
    )
    text_limit = speech_text_limit(len(speeches))
    items = [speech_item(parliament, speech, language, text_limit) for speech in speeches]
    return list_result({**summary}, [source], items, arguments.limit, more=more)


TOOL = Tool(
    "get_bill_debate",
    "The newest speeches of the House's debate on a bill: the speaker, the words and the transcript's page. Long "
    "speeches are shortened; a lower limit returns more of each.",
    GetBillDebate,
    get_bill_debate,
)
