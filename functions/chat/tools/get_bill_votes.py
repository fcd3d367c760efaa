"""get_bill_votes: the recorded votes on a bill, with totals and results."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.text import localized, shorten
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, Session
from functions.chat.tools.records import summarize_bill, vote_source
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
    votes, more = await parliament.openparliament.list_records("votes", limit=arguments.limit, bill=bill.get("url"))
    items = [_item(vote, parliament, language) for vote in votes]
    return list_result({**summary}, [source], items, arguments.limit, more=more)


def _item(vote: JsonObject, parliament: Parliament, language: Language) -> Item:
    source = vote_source(parliament, vote, language)
    data = {
        "vote": vote.get("number"),
        "session": vote.get("session"),
        "date": vote.get("date"),
        "about": shorten(localized(vote.get("description"), language), 400),
        "result": vote.get("result"),
        "yea": vote.get("yea_total"),
        "nay": vote.get("nay_total"),
        "paired": vote.get("paired_total"),
        "url": source.url,
    }
    return Item(data, source)


TOOL = Tool(
    "get_bill_votes",
    "The recorded votes on a bill: what each was about, its date, totals and result. get_vote returns how the parties "
    "voted.",
    GetBillVotes,
    get_bill_votes,
)
