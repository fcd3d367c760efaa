"""get_bill_votes: the recorded votes on a bill, with totals and results."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, Session
from functions.chat.tools.divisions import vote_data, vote_page
from functions.chat.tools.records import summarize_bill
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData


class GetBillVotes(Arguments):
    number: BillNumber
    session: Session | None = None
    limit: Limit = 10


async def get_bill_votes(arguments: GetBillVotes, parliament: Parliament, language: Language) -> ToolData:
    """The newest votes first. Reads the bill too, so that an unknown bill is an error and not an empty list."""
    bill = await parliament.openparliament.get_bill(arguments.session, arguments.number)
    summary, source = summarize_bill(parliament, bill, language)
    found = await parliament.votes.on_bill(bill.session, arguments.number)
    items = []
    for vote in found.votes:
        page = vote_page(parliament, vote, language)
        data = vote_data(vote, language, page.url)
        items.append(Item({key: value for key, value in data.items() if key not in ("session", "on_bill")}, page))
    return list_result({**summary}, [source], items, arguments.limit)


TOOL = Tool(
    "get_bill_votes",
    "All recorded votes on a bill: what each was on, its date, totals and result.",
    GetBillVotes,
    get_bill_votes,
)
