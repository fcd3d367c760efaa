"""how_they_voted: how an MP, a party or the MP of a postal code voted on a bill or in one vote, in one call.

A bill is voted on several times, so the tool picks its most decisive votes and names the others. A call without cached
responses sends at most three requests to openparliament.ca: the votes, and the page of each decisive one or, for a
postal code, one page and the list of MPs.
"""

from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from functions.chat import limits
from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, Text
from functions.chat.sources.openparliament_records import Politician
from functions.chat.sources.represent import Representative
from functions.chat.sources.terms import matches_party, party_name
from functions.chat.sources.text import contains_words, person_name, shorten
from functions.chat.sources.votes import STAGES, Ballot, Division, Vote
from functions.chat.tools.arguments import Arguments, BillNumber, PostalCode, Session, Words
from functions.chat.tools.base import Source, ToolError
from functions.chat.tools.divisions import (
    asked_ballot_data,
    division_data,
    member_page,
    vote_data,
    vote_page,
)
from functions.chat.tools.records import mp_of
from functions.chat.tools.results import fit, json_length
from functions.chat.tools.tool import Tool, ToolData

MAX_DIVISIONS = 2  # of one bill: each is one request
OTHER_VOTES_BYTES = 1_200
NO_SEAT = Text("had no seat on that day", "ne siégeait pas ce jour-là")
NOT_KNOWN = Text(
    "openparliament.ca lists no MP of this riding or name, so the ballot is not known",
    "openparliament.ca ne mentionne aucun député de cette circonscription ou de ce nom : son vote n’est pas connu",
)
NEWEST_SESSION = Text(
    "The newest session that voted on a bill of this number. Numbers return in every session.",
    "La plus récente session qui a voté sur un projet de loi de ce numéro. Les numéros reviennent à chaque session.",
)
INCOMPLETE = Text(
    "Older votes on the bill may be missing: give the session to read all of them.",
    "Des votes plus anciens sur le projet de loi peuvent manquer : précisez la session pour les lire tous.",
)
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


class Unmatched(NamedTuple):
    """An MP of a postal code without a ballot. `has_record`: openparliament.ca has a record of the MP."""

    mp: Representative
    has_record: bool


async def how_they_voted(arguments: HowTheyVoted, parliament: Parliament, language: Language) -> ToolData:
    """The decisive votes with the ballots that were asked for, and the other votes on the bill."""
    about, votes, others = await _votes(arguments, parliament, language)
    people = await _representatives(arguments.postal_code, parliament)
    divisions = await _divisions(votes[:1] if people else votes, parliament)
    others = votes[len(divisions) :] + others
    if others:
        about["other_votes_on_the_bill"] = fit([_other_vote(vote, language) for vote in others], OTHER_VOTES_BYTES)
    share = (limits.TOOL_RESULT_BYTES - json_length(about) - 50) // len(divisions)
    described, vote_pages, member_pages = [], list[Source](), list[Source]()
    for division in divisions:
        page = vote_page(parliament, division.vote, language)
        data = vote_data(division.vote, language, page.url)
        asked = _match(people, division) if people else _find(arguments.mp, division)
        if asked:
            data["asked_about"] = [_asked(each, division, language) for each in asked]
        parties = _select_parties(arguments.party, division)
        rest = division_data(parliament, division, language, share - json_length(data), parties)
        described.append({**data, **rest.data})
        vote_pages.append(page)
        member_pages += [member_page(parliament, each) for each in asked if isinstance(each, Ballot)] + rest.sources
    return ToolData({**about, "votes": described}, [*vote_pages, *member_pages])


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
            "have passed stages without one. get_bill returns its status.",
            f"La Chambre n’a tenu aucun vote par appel nominal sur le projet de loi {found.bill.number} de la session "
            f"{found.bill.session}; il a pu franchir des étapes sans vote. get_bill donne son état.",
        )
    decisive = found.decisive(MAX_DIVISIONS)
    others = [vote for vote in found.votes if vote not in decisive]
    about = {
        "bill": found.bill.number,
        "session": found.bill.session,
        "recorded_votes": len(found.votes),
        "chosen_stage": STAGES[decisive[0].stage].in_(language),
    }
    if arguments.session is None:
        about["session_is"] = NEWEST_SESSION.in_(language)
    if not found.complete:
        about["incomplete"] = INCOMPLETE.in_(language)
    return about, decisive, others


async def _divisions(votes: list[Vote], parliament: Parliament) -> list[Division]:
    """The votes with their ballots, at least one. Where a vote's page cannot be read, the others are not tried."""
    divisions: list[Division] = []
    for vote in votes:
        divisions.append(await parliament.votes.division(vote))
        if divisions[-1].parties_of_today:
            break
    return divisions


def _other_vote(vote: Vote, language: Language) -> JsonObject:
    data = vote_data(vote, language, "")
    return {key: data[key] for key in ("vote", "date", "stage", "result", "yea", "nay")}


async def _representatives(
    postal_code: str | None, parliament: Parliament
) -> list[tuple[Representative, Politician | None]]:
    """The MPs of a postal code with their records; none where the code is None."""
    if postal_code is None:
        return []
    area = await parliament.represent.area(postal_code.replace(" ", "").replace("-", ""))
    if not area.mps:
        vacant = ", ".join(area.vacant[:MAX_MEMBERS])
        raise ToolError(
            f"The postal code has no MP now; vacant: {vacant or 'unknown riding'}.",
            f"Le code postal n’a pas de député en ce moment; siège vacant : {vacant or 'circonscription inconnue'}.",
        )
    sitting = await parliament.openparliament.sitting_mps()
    return [(person, mp_of(person, sitting)) for person in area.mps[:MAX_MEMBERS]]


def _match(people: list[tuple[Representative, Politician | None]], division: Division) -> list[Ballot | Unmatched]:
    """The ballots of a postal code's MPs; the MP where there is no ballot."""
    ballots = {ballot.member_path: ballot for ballot in division.ballots}
    return [(mp and ballots.get(mp.path)) or Unmatched(person, has_record=mp is not None) for person, mp in people]


def _find(mp: str | None, division: Division) -> list[Ballot | Unmatched]:
    """The ballots of the members with this slug or name; none where it is None."""
    if mp is None:
        return []
    name = person_name(mp)
    exact = [ballot for ballot in division.ballots if ballot.slug == mp or person_name(ballot.name) == name]
    found = exact or [ballot for ballot in division.ballots if contains_words(name, ballot.name)]
    if not found:
        raise ToolError(
            f"Vote {division.vote.number} of {division.vote.date} has no ballot under that name or slug; find_mps "
            "finds names and slugs, also of former MPs.",
            f"Le vote {division.vote.number} du {division.vote.date} n’a pas de bulletin sous ce nom ou cet "
            "identifiant; find_mps trouve les noms et les identifiants, aussi des anciens députés.",
        )
    if len(found) > MAX_MEMBERS:
        slugs = ", ".join(ballot.slug for ballot in found[:20])
        raise ToolError(
            f"{len(found)} MPs match that name; give the slug of one: {slugs}.",
            f"{len(found)} députés correspondent à ce nom; donnez l’identifiant de l’un d’eux : {slugs}.",
        )
    return [*found]


def _asked(asked: Ballot | Unmatched, division: Division, language: Language) -> JsonObject:
    if isinstance(asked, Ballot):
        return asked_ballot_data(asked, division, language)
    reason = NO_SEAT if asked.has_record else NOT_KNOWN
    mp = asked.mp
    return {
        "name": shorten(mp.name, 200),
        "riding": shorten(mp.riding, 200),
        "ballot": None,
        "reason": reason.in_(language),
    }


def _select_parties(words: str | None, division: Division) -> set[str | None] | None:
    """The parties that the words name; None for all."""
    if words is None:
        return None
    names = [count.party for count in division.parties if count.party is not None]
    selected: set[str | None] = {name for name in names if matches_party(words, name)}
    if not selected:
        raise ToolError(
            f"No party of that name had a ballot; the parties are {', '.join(names[:20])}.",
            "Aucun parti de ce nom n’avait de bulletin; les partis : "
            f"{', '.join(party_name(name, 'fr') for name in names[:20])}.",
        )
    return selected


TOOL = Tool(
    "how_they_voted",
    "How an MP, a party or a postal code's MP voted on a bill (its decisive votes) or in one vote: also every party's "
    "count as of that day, and who differed from most of their party, was paired or did not vote.",
    HowTheyVoted,
    how_they_voted,
)
