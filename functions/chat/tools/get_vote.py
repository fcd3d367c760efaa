"""get_vote: one recorded vote: totals, how each party voted, and who voted otherwise than their party."""

from typing import Annotated, Any

from pydantic import Field

from functions.chat.tools import Found, Language, Source, Tool
from functions.chat.tools.arguments import Arguments, Session
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Record, bill_of, fit, member_source, said, shorten, slug_of, vote_source

DISSENTERS = 60
DISSENTERS_CHARACTERS = 3_000
PARTIES_CHARACTERS = 2_000


class GetVote(Arguments):
    number: Annotated[int, Field(ge=1, le=9_999, description="The vote's number in its session.")]
    session: Session | None = None


async def get_vote(wanted: GetVote, parliament: Parliament, language: Language) -> Found:
    """The vote. Dissent is openparliament.ca's estimate: a ballot against most of one's party."""
    vote = await parliament.vote(wanted.session, wanted.number)
    source = vote_source(parliament, vote, language)
    dissenters, pages = await _dissenters(vote, parliament)
    data = {
        "vote": vote.get("number"),
        "session": vote.get("session"),
        "date": vote.get("date"),
        "about": shorten(said(vote.get("description"), language), 1_000),
        "on_bill": bill_of(vote.get("bill_url")),
        "result": vote.get("result"),
        "yea": vote.get("yea_total"),
        "nay": vote.get("nay_total"),
        "paired": vote.get("paired_total"),
        "parties": fit([_party(party, language) for party in vote.get("party_votes") or []], PARTIES_CHARACTERS),
        "dissenting_mps": dissenters,
        "url": source.url,
    }
    return Found(data, [source, *pages])


def _party(party_vote: Record, language: Language) -> Record:
    party = party_vote.get("party") or {}
    return {
        "party": said(party.get("short_name"), language) or said(party.get("name"), language),
        "vote": party_vote.get("vote"),
        "disagreement": _share(party_vote.get("disagreement")),
    }


def _share(disagreement: Any) -> float | None:
    """The part of the party that voted otherwise, 0 to 1."""
    return round(disagreement, 3) if isinstance(disagreement, int | float) else None


async def _dissenters(vote: Record, parliament: Parliament) -> tuple[Record, list[Source]]:
    ballots, more = await parliament.many(
        "votes", "ballots", limit=DISSENTERS, vote=str(vote.get("url")), dissent="True"
    )
    # The list of who sits is most likely in the cache; who sits no more is known by the slug.
    members = {member.get("url"): member for member in await parliament.members()} if ballots else {}
    voters = [members.get(ballot.get("politician_url"), {"url": ballot.get("politician_url")}) for ballot in ballots]
    mps = [
        {"mp": slug_of(voter.get("url")), "name": voter.get("name"), "ballot": ballot.get("ballot")}
        for voter, ballot in zip(voters, ballots, strict=True)
    ]
    fitted = fit(mps, DISSENTERS_CHARACTERS)
    pages = [member_source(parliament, voter) for voter in voters[: len(fitted["items"])]]
    return {**fitted, **({"more": True} if more else {})}, pages


TOOL = Tool(
    "get_vote",
    "One recorded vote of the House by its number: what it was about, date, totals, result, how each party voted "
    "(disagreement is the share that voted otherwise), and which MPs went against most of their party.",
    GetVote,
    get_vote,
)
