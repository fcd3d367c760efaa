"""get_bill_votes: the recorded votes on a bill, with totals and results."""

from functions.chat.tools import Found, Language, Tool
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, Session
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Entry, Record, bill_in_short, listed, said, shorten, vote_source


class GetBillVotes(Arguments):
    number: BillNumber
    session: Session | None = None
    limit: Limit = 10


async def get_bill_votes(wanted: GetBillVotes, parliament: Parliament, language: Language) -> Found:
    """The newest votes first. Asks for the bill too: an unknown one has no votes either, and that is another answer."""
    bill = await parliament.bill(wanted.session, wanted.number)
    described, source = bill_in_short(parliament, bill, language)
    votes, more = await parliament.many("votes", limit=wanted.limit, bill=bill.get("url"))
    entries = [_entry(vote, parliament, language) for vote in votes]
    return listed(described, [source], entries, wanted.limit, more=more)


def _entry(vote: Record, parliament: Parliament, language: Language) -> Entry:
    source = vote_source(parliament, vote, language)
    item = {
        "vote": vote.get("number"),
        "session": vote.get("session"),
        "date": vote.get("date"),
        "about": shorten(said(vote.get("description"), language), 400),
        "result": vote.get("result"),
        "yea": vote.get("yea_total"),
        "nay": vote.get("nay_total"),
        "paired": vote.get("paired_total"),
        "url": source.url,
    }
    return item, source


TOOL = Tool(
    "get_bill_votes",
    "The recorded votes on a bill: what each was about, its date, totals and result. How parties voted is in get_vote.",
    GetBillVotes,
    get_bill_votes,
)
