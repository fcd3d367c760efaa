"""get_mp_votes: how an MP voted, and what each vote was about."""

from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, Text
from functions.chat.sources.terms import CHOICES
from functions.chat.sources.votes import MemberBallot
from functions.chat.tools.arguments import Arguments, Limit, MpSlug
from functions.chat.tools.base import Source
from functions.chat.tools.divisions import vote_data, vote_page
from functions.chat.tools.records import describe_mp
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData

COUNTED = Text(
    "Counted from the ballots and the parties of the day in the newest {number} votes, since {date}. Before that, this "
    "list is not complete: openparliament.ca marks no dissent where 15% or more of the party differed. how_they_voted "
    "counts any one vote.",
    "Compté à partir des bulletins et des partis du jour dans les votes les plus récents ({number}, depuis le {date}). "
    "Avant cela, cette liste n’est pas complète : openparliament.ca ne marque aucune dissidence lorsque 15 % ou plus "
    "du parti différait. how_they_voted compte un vote en particulier.",
)
INCOMPLETE = Text(
    "This list is not complete: openparliament.ca marks no dissent where 15% or more of the party differed.",
    "Cette liste n’est pas complète : openparliament.ca ne marque aucune dissidence lorsque 15 % ou plus du parti "
    "différait.",
)


class GetMpVotes(Arguments):
    slug: MpSlug
    only_dissent: Annotated[bool, Field(description="Only votes against most of the party.")] = False
    limit: Limit = 8


async def get_mp_votes(arguments: GetMpVotes, parliament: Parliament, language: Language) -> ToolData:
    """The newest votes first."""
    summary, source = await describe_mp(parliament, arguments.slug, language)
    about: JsonObject = {"votes_of": summary, "only_dissent": arguments.only_dissent}
    if arguments.only_dissent:
        ballots, counted, more = await parliament.votes.dissent(summary["mp"] or arguments.slug, arguments.limit)
        note = (COUNTED if counted else INCOMPLETE).in_(language) or ""
        about["note"] = note.format(number=len(counted), date=counted[-1].date) if counted else note
    else:
        ballots, more = await parliament.votes.by_member(arguments.slug, arguments.limit)
    items = [_item(ballot, parliament, language) for ballot in ballots]
    return list_result(about, [source], items, arguments.limit, more=more)


def _item(ballot: MemberBallot, parliament: Parliament, language: Language) -> Item:
    choice = {"ballot": CHOICES[ballot.choice].in_(language)}
    if ballot.vote is None:
        url = parliament.openparliament.public_url(ballot.path)
        return Item({**choice, "url": url}, Source(url, "openparliament.ca"))
    page = vote_page(parliament, ballot.vote, language)
    return Item({**choice, **vote_data(ballot.vote, language, page.url)}, page)


TOOL = Tool(
    "get_mp_votes",
    "How an MP voted (Yes, No, Paired, Didn't vote) in the newest recorded votes, and for each what it was about, its "
    "bill, result and date.",
    GetMpVotes,
    get_mp_votes,
)
