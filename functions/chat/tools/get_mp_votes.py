"""get_mp_votes: how an MP voted, and what each vote was about.

A ballot contains only the path of its vote, so each ballot is joined with its vote. One list of the newest votes covers
the ballots of an MP who sits now; other votes are read one by one.
"""

from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, RecordNotFound
from functions.chat.sources.text import bill_reference, localized, shorten
from functions.chat.tools.arguments import Arguments, Limit, MpSlug
from functions.chat.tools.records import describe_mp, vote_source
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData


class GetMpVotes(Arguments):
    slug: MpSlug
    only_dissent: Annotated[
        bool,
        Field(description="Only votes against most of the MP's own party, as openparliament.ca estimates it."),
    ] = False
    limit: Limit = 8


async def get_mp_votes(arguments: GetMpVotes, parliament: Parliament, language: Language) -> ToolData:
    """The newest votes first."""
    summary, source = await describe_mp(parliament, arguments.slug, language)
    ballots, more = await parliament.openparliament.list_records(
        "votes",
        "ballots",
        limit=arguments.limit,
        politician=arguments.slug,
        dissent="True" if arguments.only_dissent else None,
    )
    # Ballots against the party are too rare for the newest votes to cover them.
    votes: dict[str, JsonObject] = {}
    if not arguments.only_dissent:
        newest = await parliament.openparliament.list_records("votes", limit=arguments.limit)
        votes = {str(vote.get("url")): vote for vote in newest.records}
    items = [await _item(ballot, votes, parliament, language) for ballot in ballots]
    about = {"votes_of": summary, "only_dissent": arguments.only_dissent}
    return list_result(about, [source], items, arguments.limit, more=more)


async def _item(ballot: JsonObject, votes: dict[str, JsonObject], parliament: Parliament, language: Language) -> Item:
    path = str(ballot.get("vote_url") or "")
    try:
        vote = votes.get(path) or await parliament.openparliament.get_record_at(path)
    except RecordNotFound:
        vote = {"url": path}
    source = vote_source(parliament, vote, language)
    data = {
        "ballot": ballot.get("ballot"),
        "date": vote.get("date"),
        "about": shorten(localized(vote.get("description"), language), 400),
        "on_bill": bill_reference(vote.get("bill_url")),
        "result": vote.get("result"),
        "yea": vote.get("yea_total"),
        "nay": vote.get("nay_total"),
        "vote": vote.get("number"),
        "session": vote.get("session"),
        "url": source.url,
    }
    return Item(data, source)


TOOL = Tool(
    "get_mp_votes",
    "How an MP voted (Yes, No, Paired, Didn't vote) in the newest recorded votes, and for each what it was about, its "
    "bill, result and date.",
    GetMpVotes,
    get_mp_votes,
)
