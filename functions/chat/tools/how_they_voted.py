"""how_they_voted: how an MP, a party or the MP of a postal code voted on a bill or in one vote, in one call.

A bill is voted on several times, so the tool picks its most decisive votes and names the others.
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, model_validator

from functions.chat import limits
from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.represent import Representative
from functions.chat.sources.terms import matches_party
from functions.chat.sources.text import contains_words, normalize, shorten
from functions.chat.sources.votes import STAGES, Ballot, Division, Vote
from functions.chat.tools.arguments import Arguments, BillNumber, PostalCode, Session, Words
from functions.chat.tools.base import Source, ToolError
from functions.chat.tools.divisions import (
    asked_ballot_data,
    dissenter_pages,
    division_data,
    member_page,
    vote_data,
    vote_page,
)
from functions.chat.tools.results import fit, json_length
from functions.chat.tools.tool import Tool, ToolData

MAX_DIVISIONS = 2  # of one bill: each is one request
OTHER_VOTES_BYTES = 1_200
MAX_MEMBERS = 5  # of one name, or of the ridings of one postal code


class HowTheyVoted(Arguments):
    bill: BillNumber | None = None
    vote: Annotated[int | None, Field(ge=1, le=9_999, description="A vote's number, instead of bill.")] = None
    session: Session | None = None
    mp: Annotated[Words | None, Field(description="A slug, or words of a name.")] = None
    party: Annotated[Words | None, Field(description="In English or French.")] = None
    postal_code: Annotated[PostalCode | None, Field(description="Of the MP's riding.")] = None

    @model_validator(mode="after")
    def _require_one_subject(self) -> "HowTheyVoted":
        if (self.bill is None) == (self.vote is None):
            raise ValueError("give either bill or vote")
        if sum(value is not None for value in (self.mp, self.party, self.postal_code)) > 1:
            raise ValueError("give only one of mp, party and postal_code")
        return self


async def how_they_voted(arguments: HowTheyVoted, parliament: Parliament, language: Language) -> ToolData:
    """The decisive votes with the ballots that were asked for, and the other votes on the bill."""
    about, votes, others = await _votes(arguments, parliament, language)
    sources = [vote_page(parliament, vote, language) for vote in votes]
    people = None
    if arguments.postal_code is not None:
        people = await _representatives(arguments.postal_code, parliament)
    divisions = [await parliament.votes.division(vote) for vote in votes]
    if others:
        shown = [_other_vote(vote, language) for vote in others]
        about["other_votes_on_the_bill"] = fit(shown, OTHER_VOTES_BYTES)
    share = (limits.TOOL_RESULT_BYTES - json_length(about) - 50) // max(len(divisions), 1)
    described, member_pages = [], list[Source]()
    sitting = await _sitting_by_riding(people, divisions, parliament)
    for division, source in zip(divisions, sources, strict=True):
        data = vote_data(division.vote, language, source.url)
        named: Callable[[str | None], bool] = lambda name: True  # noqa: E731
        if arguments.party is not None:
            named = _party_filter(arguments.party, division)
        elif arguments.mp is not None or people is not None:
            asked = _find_by_name(arguments.mp, division) if arguments.mp else _match(people or [], sitting, division)
            data["asked_about"] = [
                asked_ballot_data(each, division, language) if isinstance(each, Ballot) else each for each in asked
            ]
            member_pages += [member_page(parliament, each) for each in asked if isinstance(each, Ballot)]
        rest = division_data(division, language, share - json_length(data), named)
        member_pages += dissenter_pages(parliament, division, rest["differed_from_most_of_party"]["items"])
        described.append({**data, **rest})
    return ToolData({**about, "votes": described}, [*sources, *member_pages])


async def _votes(
    arguments: HowTheyVoted, parliament: Parliament, language: Language
) -> tuple[JsonObject, list[Vote], list[Vote]]:
    """What the answer is about, the votes to describe, and the other votes on the bill."""
    if arguments.bill is None:
        assert arguments.vote is not None
        return {}, [await parliament.votes.find(arguments.session, arguments.vote)], []
    found = await parliament.votes.on_bill(arguments.session, arguments.bill)
    if not found.votes:
        raise ToolError(
            f"The House has held no recorded vote on bill {found.bill.number} of session {found.bill.session}; it may "
            "have passed stages without one. get_bill returns its status."
        )
    decisive = found.decisive(MAX_DIVISIONS)
    others = [vote for vote in found.votes if vote not in decisive]
    about = {
        "bill": found.bill.number,
        "session": found.bill.session,
        "recorded_votes": len(found.votes),
        "chosen_stage": STAGES[decisive[0].stage].in_(language),
    }
    return about, decisive, others


def _other_vote(vote: Vote, language: Language) -> JsonObject:
    data = vote_data(vote, language, "")
    return {key: data[key] for key in ("vote", "date", "stage", "result", "yea", "nay")}


async def _representatives(postal_code: str, parliament: Parliament) -> list[Representative]:
    people = await parliament.represent.representatives(postal_code.replace(" ", "").replace("-", ""))
    if not people:
        raise ToolError("Represent names no MP for this postal code: it is unknown, or the riding's seat is vacant.")
    return people


async def _sitting_by_riding(
    people: list[Representative] | None, divisions: list[Division], parliament: Parliament
) -> dict[str, str]:
    """The paths of sitting MPs by riding, read only where a name of Represent is not openparliament.ca's."""
    names = {normalize(ballot.name) for division in divisions for ballot in division.ballots}
    if all(normalize(person.name) in names for person in people or []):
        return {}
    return {
        normalize(name): str(mp.get("url"))
        for mp in await parliament.openparliament.sitting_mps()
        for name in ((mp.get("current_riding") or {}).get("name") or {}).values()
    }


def _match(people: list[Representative], sitting: dict[str, str], division: Division) -> list[Ballot | JsonObject]:
    """The ballots of a postal code's MPs. An MP who had no seat on that day is named with the reason."""
    found: list[Ballot | JsonObject] = []
    for person in people[:MAX_MEMBERS]:
        path = sitting.get(normalize(person.riding))
        ballots = [
            ballot
            for ballot in division.ballots
            if normalize(ballot.name) == normalize(person.name) or ballot.member_path == path
        ]
        missing = {"name": person.name, "riding": person.riding, "ballot": None, "reason": "had no seat on that day"}
        found += ballots or [missing]
    return found


def _find_by_name(mp: str, division: Division) -> list[Ballot | JsonObject]:
    exact: list[Ballot] = [
        ballot for ballot in division.ballots if mp == ballot.slug or normalize(mp) == normalize(ballot.name)
    ]
    found = exact or [ballot for ballot in division.ballots if contains_words(mp.replace("-", " "), ballot.name)]
    if not found:
        raise ToolError(
            f"No MP with that name or slug had a seat on {division.vote.date}, the day of vote {division.vote.number}; "
            "find_mps finds MPs."
        )
    if len(found) > MAX_MEMBERS:
        names = ", ".join(ballot.slug for ballot in found[:20])
        raise ToolError(f"{len(found)} MPs match that name; give the slug of one: {names}.")
    return [*found]


def _party_filter(words: str, division: Division) -> Callable[[str | None], bool]:
    names = [count.party for count in division.parties if count.party is not None]
    selected = {name for name in names if matches_party(words, name)}
    if not selected:
        raise ToolError(shorten(f"No party of that name had a ballot; the parties are {', '.join(names)}.", 400))
    return lambda name: name in selected


TOOL = Tool(
    "how_they_voted",
    "How an MP, a party or a postal code's MP voted on a bill (its decisive votes) or in one vote: also every party's "
    "count as of that day, and who differed from most of their party, was paired or absent.",
    HowTheyVoted,
    how_they_voted,
)
