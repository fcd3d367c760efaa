"""get_bill_debate: what was said about a bill when the House debated it."""

from functions.chat.tools import Found, Language, Tool
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, Session
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import bill_in_short, listed, speech_entry, speech_room


class GetBillDebate(Arguments):
    number: BillNumber
    session: Session | None = None
    limit: Limit = 5


async def get_bill_debate(wanted: GetBillDebate, parliament: Parliament, language: Language) -> Found:
    """The newest speeches first, without the short procedural ones."""
    bill = await parliament.bill(wanted.session, wanted.number)
    described, source = bill_in_short(parliament, bill, language)
    speeches, more = await parliament.many(
        "speeches", limit=wanted.limit, bill_debated=bill.get("url"), procedural="False"
    )
    room = speech_room(len(speeches))
    entries = [speech_entry(parliament, speech, language, room) for speech in speeches]
    return listed(described, [source], entries, wanted.limit, more=more)


TOOL = Tool(
    "get_bill_debate",
    "The newest speeches of the House's debate on a bill: who spoke, their words and the transcript's page. Long "
    "speeches are cut; fewer of them leave more room for each.",
    GetBillDebate,
    get_bill_debate,
)
