"""get_mp_votes: how an MP voted, and what each vote was about.

A ballot knows only the address of its vote, so each is joined. The newest votes come in one list, and who sits has a
ballot in every one of them; the others are asked for one by one.
"""

from typing import Annotated

from pydantic import Field

from functions.chat.tools import Found, Language, NotThere, Tool
from functions.chat.tools.arguments import Arguments, Limit, MpSlug
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Entry, Record, bill_of, listed, said, shorten, vote_source


class GetMpVotes(Arguments):
    slug: MpSlug
    only_dissent: Annotated[
        bool,
        Field(description="Only votes against most of the MP's own party, as openparliament.ca estimates it."),
    ] = False
    limit: Limit = 8


async def get_mp_votes(wanted: GetMpVotes, parliament: Parliament, language: Language) -> Found:
    """The newest votes first."""
    described, source = await parliament.describe_mp(wanted.slug, language)
    ballots, more = await parliament.many(
        "votes",
        "ballots",
        limit=wanted.limit,
        politician=wanted.slug,
        dissent="True" if wanted.only_dissent else None,
    )
    newest, _ = ([], False) if wanted.only_dissent else await parliament.many("votes", limit=wanted.limit)
    known = {str(vote.get("url")): vote for vote in newest}
    entries = [await _entry(ballot, known, parliament, language) for ballot in ballots]
    about = {"votes_of": described, "only_dissent": wanted.only_dissent}
    return listed(about, [source], entries, wanted.limit, more=more)


async def _entry(ballot: Record, known: dict[str, Record], parliament: Parliament, language: Language) -> Entry:
    address = str(ballot.get("vote_url") or "")
    try:
        vote = known.get(address) or await parliament.at(address)
    except NotThere:
        vote = {"url": address}
    source = vote_source(parliament, vote, language)
    item = {
        "ballot": ballot.get("ballot"),
        "date": vote.get("date"),
        "about": shorten(said(vote.get("description"), language), 400),
        "on_bill": bill_of(vote.get("bill_url")),
        "result": vote.get("result"),
        "yea": vote.get("yea_total"),
        "nay": vote.get("nay_total"),
        "vote": vote.get("number"),
        "session": vote.get("session"),
        "url": source.url,
    }
    return item, source


TOOL = Tool(
    "get_mp_votes",
    "How an MP voted (Yes, No, Paired, Didn't vote) in the newest recorded votes, and for each what it was about, its "
    "bill, result and date.",
    GetMpVotes,
    get_mp_votes,
)
