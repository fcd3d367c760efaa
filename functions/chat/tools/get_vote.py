"""get_vote: one recorded vote: totals, how each party voted, and the MPs who voted against their party."""

from typing import Annotated, Any

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.text import bill_reference, localized, shorten, slug_of
from functions.chat.tools.arguments import Arguments, Session
from functions.chat.tools.base import Source
from functions.chat.tools.records import mp_source, vote_source
from functions.chat.tools.results import fit
from functions.chat.tools.tool import Tool, ToolData

MAX_DISSENTERS = 60
DISSENTERS_CHARACTERS = 3_000
PARTIES_CHARACTERS = 2_000


class GetVote(Arguments):
    number: Annotated[int, Field(ge=1, le=9_999, description="The vote's number in its session.")]
    session: Session | None = None


async def get_vote(arguments: GetVote, parliament: Parliament, language: Language) -> ToolData:
    """The vote. Dissent is openparliament.ca's estimate: a ballot against most of the MP's party."""
    vote = await parliament.openparliament.get_vote(arguments.session, arguments.number)
    source = vote_source(parliament, vote, language)
    dissenters, dissenter_sources = await _dissenters(vote, parliament)
    data = {
        "vote": vote.get("number"),
        "session": vote.get("session"),
        "date": vote.get("date"),
        "about": shorten(localized(vote.get("description"), language), 1_000),
        "on_bill": bill_reference(vote.get("bill_url")),
        "result": vote.get("result"),
        "yea": vote.get("yea_total"),
        "nay": vote.get("nay_total"),
        "paired": vote.get("paired_total"),
        "parties": fit([_party(party, language) for party in vote.get("party_votes") or []], PARTIES_CHARACTERS),
        "dissenting_mps": dissenters,
        "url": source.url,
    }
    return ToolData(data, [source, *dissenter_sources])


def _party(party_vote: JsonObject, language: Language) -> JsonObject:
    party = party_vote.get("party") or {}
    return {
        "party": localized(party.get("short_name"), language) or localized(party.get("name"), language),
        "vote": party_vote.get("vote"),
        "disagreement": _rounded(party_vote.get("disagreement")),
    }


def _rounded(disagreement: Any) -> float | None:
    """The share of the party that voted against the majority, from 0 to 1."""
    return round(disagreement, 3) if isinstance(disagreement, int | float) else None


async def _dissenters(vote: JsonObject, parliament: Parliament) -> tuple[JsonObject, list[Source]]:
    ballots, more = await parliament.openparliament.list_records(
        "votes", "ballots", limit=MAX_DISSENTERS, vote=str(vote.get("url")), dissent="True"
    )
    # The list of sitting MPs is usually cached. Former MPs are not in it and are named by their slugs.
    mps_by_url = {mp.get("url"): mp for mp in await parliament.openparliament.sitting_mps()} if ballots else {}
    voters = [mps_by_url.get(ballot.get("politician_url"), {"url": ballot.get("politician_url")}) for ballot in ballots]
    dissenters = [
        {"mp": slug_of(voter.get("url")), "name": voter.get("name"), "ballot": ballot.get("ballot")}
        for voter, ballot in zip(voters, ballots, strict=True)
    ]
    fitted = fit(dissenters, DISSENTERS_CHARACTERS)
    sources = [mp_source(parliament, voter) for voter in voters[: len(fitted["items"])]]
    return {**fitted, **({"more": True} if more else {})}, sources


TOOL = Tool(
    "get_vote",
    "One recorded vote of the House by its number: what it was about, date, totals, result, how each party voted "
    "(disagreement is the share that voted against the party's majority), and which MPs voted against most of their "
    "party.",
    GetVote,
    get_vote,
)
