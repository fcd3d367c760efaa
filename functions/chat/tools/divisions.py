"""Describes votes for the model: a vote's totals, its parties, and who differed, was paired or did not vote.

Who did not vote is not called absent: the Speaker is present and votes only on a tie.
"""

from collections.abc import Collection

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, Text
from functions.chat.sources.terms import CHOICES, RESULTS, party_name
from functions.chat.sources.text import shorten
from functions.chat.sources.votes import FREE_VOTE_SHARE, STAGES, Ballot, Division, PartyCount, Vote
from functions.chat.tools.base import Source
from functions.chat.tools.records import NAME_BYTES, source_title
from functions.chat.tools.results import fit, json_length
from functions.chat.tools.tool import ToolData

ABOUT_BYTES = 400
# The share of the members who differed. Those who were paired or did not vote share the rest.
DIFFERED_SHARE = 0.7

FREE_VOTE_RULE = Text(
    f"free_vote: {FREE_VOTE_SHARE:.0%} or more of the party's votes differed from the others (openparliament.ca's "
    "rule); no record says whether a whip was applied.",
    f"free_vote : au moins {FREE_VOTE_SHARE * 100:.0f} % des votes du parti différaient des autres (règle "
    "d’openparliament.ca); aucun registre n’indique si une consigne de vote a été donnée.",
)
PARTIES_OF_TODAY = Text(
    "The parties are those of today, because the parties on the day of the vote are not available now.",
    "Les partis sont ceux d’aujourd’hui, car les partis au jour du vote ne sont pas disponibles maintenant.",
)


def vote_data(vote: Vote, language: Language, url: str) -> JsonObject:
    """What a vote was on, with its totals and result."""
    return {
        "vote": vote.number,
        "session": vote.session,
        "date": vote.date.isoformat(),
        "about": shorten(vote.description.in_(language), ABOUT_BYTES),
        **({"stage": STAGES[vote.stage].in_(language)} if vote.bill else {}),
        "on_bill": {"bill": vote.bill.number, "session": vote.bill.session} if vote.bill else None,
        "result": RESULTS[vote.result].in_(language),
        "yea": vote.yes,
        "nay": vote.no,
        "paired": vote.paired,
        "url": url,
    }


def vote_page(parliament: Parliament, vote: Vote, language: Language) -> Source:
    """A vote's page."""
    about, when = vote.description.in_(language), vote.date.isoformat()
    title = f"Vote nº {vote.number} : {about}" if language == "fr" else f"Vote {vote.number}: {about}"
    return Source(parliament.openparliament.public_url(vote.path), f"{shorten(title, 148)}, {when}")


def member_page(parliament: Parliament, ballot: Ballot) -> Source:
    """The page of the member who cast the ballot."""
    return Source(parliament.openparliament.public_url(ballot.member_path), source_title(ballot.name))


def ballot_data(ballot: Ballot, language: Language) -> JsonObject:
    """A member, the party on the day, and the ballot."""
    return {
        "mp": ballot.slug,
        "name": shorten(ballot.name, NAME_BYTES),
        "party": shorten(party_name(ballot.party, language), NAME_BYTES),
        "ballot": CHOICES[ballot.choice].in_(language),
    }


def asked_ballot_data(ballot: Ballot, division: Division, language: Language) -> JsonObject:
    """The ballot of a member who was asked about, compared with the party. Independents are not compared."""
    line = division.party_of(ballot).line
    compared = {}
    if line is not None and ballot.choice in ("Yes", "No"):
        compared = {"differed_from_most_of_party": ballot.choice != line}
    return {**ballot_data(ballot, language), **compared}


def division_data(
    parliament: Parliament,
    division: Division,
    language: Language,
    limit_bytes: int,
    only: Collection[str | None] | None = None,
) -> ToolData:
    """Every party's count, and the members who differed, were paired and did not vote, in at most `limit_bytes`.

    Only members of the parties `only` are named. What does not fit is counted in `left_out`. The sources are the pages
    of the members who differed.
    """
    counts = [_party_data(count, language) for count in division.parties]
    named = [count for count in division.parties if only is None or count.party in only]
    data: JsonObject = {"parties": counts}
    if any("free_vote" in count for count in counts):
        data["free_vote_rule"] = FREE_VOTE_RULE.in_(language)
    if division.parties_of_today:
        data["parties_are"] = PARTIES_OF_TODAY.in_(language)
    # The keys and brackets of the three lists below take less than 200 bytes.
    available = limit_bytes - json_length(data) - 200
    dissenters = [ballot for count in named for ballot in count.dissenters]
    fitted = fit([ballot_data(ballot, language) for ballot in dissenters], int(available * DIFFERED_SHARE))
    data["differed_from_most_of_party"] = fitted
    available -= json_length(fitted)
    for key, choice in (("paired_members", "Paired"), ("did_not_vote", "Didn't vote")):
        names = [_name(ballot, language) for count in named for ballot in count.ballots if ballot.choice == choice]
        data[key] = fit(names, available)
        available -= json_length(data[key])
    return ToolData(data, [member_page(parliament, ballot) for ballot in dissenters[: len(fitted["items"])]])


def _party_data(count: PartyCount, language: Language) -> JsonObject:
    data: JsonObject = {
        "party": shorten(party_name(count.party, language), NAME_BYTES),
        "yea": count.count["Yes"],
        "nay": count.count["No"],
        "paired": count.count["Paired"],
        "did_not_vote": count.count["Didn't vote"],
    }
    if count.line is not None:
        data |= {"most_voted": CHOICES[count.line].in_(language), "differed": len(count.dissenters)}
    return data | ({"free_vote": True} if count.is_free_vote else {})


def _name(ballot: Ballot, language: Language) -> str:
    return f"{ballot.name} ({party_name(ballot.party, language)})"
