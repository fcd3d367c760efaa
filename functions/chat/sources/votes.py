"""The recorded votes of the House at openparliament.ca: what each was on, every ballot, and each party on that day.

The API does not say to which party a member belonged on the day of a vote: its ballots name a membership, and its list
of members has today's parties. The site's page of a vote lists every ballot under the party of that day, with former
members too, so it is read first. The API's ballots with today's parties are the fallback, and say so.

Sources: https://openparliament.ca/api/; parliament/templates/bills/votequestion_detail.html and `label_party_votes` of
github.com/michaelmulley/openparliament.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cached_property, partial
from html import unescape
from typing import Literal, NamedTuple, get_args

from functions.chat.sources.base import JsonObject, RecordNotFound, SourceError, Text
from functions.chat.sources.openparliament import OPENPARLIAMENT, PAGE_SIZE, OpenParliament
from functions.chat.sources.terms import INDEPENDENT
from functions.chat.sources.text import bilingual

Choice = Literal["Yes", "No", "Paired", "Didn't vote"]
Result = Literal["Passed", "Failed", "Tie"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
# openparliament.ca calls it a free vote where so many of a party differ from the others. No source records the whips.
FREE_VOTE_SHARE = 0.15
NEWEST_BALLOTS, MOST_COUNTED = 20, 3  # of a member, to count dissent: each vote is one request


class Stage(StrEnum):
    """What a vote on a bill decides, the most decisive first."""

    THIRD_READING = "third reading"
    SECOND_READING = "second reading"
    SENATE_AMENDMENTS = "Senate amendments"
    REPORT_STAGE = "concurrence at report stage"
    AMENDMENT = "amendment"
    PROCEDURE = "time allocation or closure"
    OTHER = "other motion"


STAGES: dict[Stage, Text] = {
    Stage.THIRD_READING: Text("third reading", "troisième lecture"),
    Stage.SECOND_READING: Text("second reading", "deuxième lecture"),
    Stage.SENATE_AMENDMENTS: Text("Senate amendments", "amendements du Sénat"),
    Stage.REPORT_STAGE: Text("concurrence at report stage", "adoption à l’étape du rapport"),
    Stage.AMENDMENT: Text("amendment", "amendement"),
    Stage.PROCEDURE: Text("time allocation or closure", "attribution de temps ou clôture"),
    Stage.OTHER: Text("other motion", "autre motion"),
}
# The House's own words, in its English descriptions, of which the bill's title is left out: it can have any words. The
# first match applies: an amendment at second reading is one.
_STAGES = (
    (Stage.AMENDMENT, r"\([^()]*\b(?:sub-?)?amendments?(?:[ ,]*(?:[-–—:]|no\.|motion|[0-9])[^()]*)?\)"),
    (Stage.PROCEDURE, r"^[^()]*\b(?:time allocation|closure)\b|\(previous question\)"),
    (Stage.SENATE_AMENDMENTS, r"\bsenate amendments\b"),
    (Stage.OTHER, r"\((?:instruction|recommittal|recommit)\b[^()]*\)"),
    (Stage.THIRD_READING, r"\b(?:3rd|third) reading\b"),
    (Stage.SECOND_READING, r"\b(?:2nd|second) reading\b"),
    (Stage.REPORT_STAGE, r"\breport stage\b"),
)
# From the title on: the title, and the remarks in brackets at the end, of which the title may have some of its own.
_TITLE = re.compile(r"(\bbill [cs]-[0-9]+[a-z]?),.*?((?:\([^()]*\)\s*)*)$", re.DOTALL)


class BillReference(NamedTuple):
    """A bill by its session and number."""

    session: str
    number: str


@dataclass(frozen=True, slots=True)
class Vote:
    """A recorded vote (division). `path` is that of its record and of its page."""

    path: str
    session: str
    number: int
    date: date
    description: Text
    result: Result
    yes: int
    no: int
    paired: int
    bill: BillReference | None

    @property
    def stage(self) -> Stage:
        """What a vote on a bill was on."""
        text = _TITLE.sub(r"\1 \2", (self.description.en or "").casefold())
        return next((stage for stage, pattern in _STAGES if re.search(pattern, text)), Stage.OTHER)


@dataclass(frozen=True, slots=True)
class Ballot:
    """A member's ballot. `party` is the short name in English, or None where unknown."""

    member_path: str
    name: str
    party: str | None
    choice: Choice

    @property
    def slug(self) -> str:
        """The member's slug."""
        return self.member_path.rstrip("/").rpartition("/")[2]


class PartyCount:
    """The ballots of one party in one vote."""

    def __init__(self, party: str | None, ballots: Sequence[Ballot]) -> None:
        self.party, self.ballots = party, ballots
        self.count = Counter(ballot.choice for ballot in ballots)

    @property
    def line(self) -> Choice | None:
        """How most of those who voted did. None for independents and for a party that is divided in two halves."""
        yes, no = self.count["Yes"], self.count["No"]
        return None if self.party in (None, INDEPENDENT) or yes == no else "Yes" if yes > no else "No"

    @property
    def dissenters(self) -> list[Ballot]:
        """Who voted against the line. Not the paired and the absent."""
        against = {"Yes": "No", "No": "Yes"}.get(self.line or "")
        return [ballot for ballot in self.ballots if ballot.choice == against]

    @property
    def is_free_vote(self) -> bool:
        """Whether openparliament.ca would call this party's vote free."""
        yes, no = self.count["Yes"], self.count["No"]
        is_party = self.party not in (None, INDEPENDENT)
        return is_party and yes + no > 0 and min(yes, no) / (yes + no) >= FREE_VOTE_SHARE


@dataclass(frozen=True)
class Division:
    """A vote with all its ballots. `parties_of_today`: the parties are those of today, not those of the day."""

    vote: Vote
    ballots: tuple[Ballot, ...]
    parties_of_today: bool

    @cached_property
    def parties(self) -> list[PartyCount]:
        """The largest first, independents last, and then members whose party is unknown."""
        names = Counter(ballot.party for ballot in self.ballots)
        order = sorted(names, key=lambda name: (name is None, name == INDEPENDENT, -names[name], name))
        return [PartyCount(name, [ballot for ballot in self.ballots if ballot.party == name]) for name in order]

    def party_of(self, ballot: Ballot) -> PartyCount:
        """The count of the ballot's party."""
        return next(count for count in self.parties if count.party == ballot.party)


class MemberBallot(NamedTuple):
    """How one member voted. `vote` is None where its record is missing."""

    choice: Choice
    path: str
    vote: Vote | None


class MemberDissent(NamedTuple):
    """A member's ballots against most of their party, the newest first. `counted`: the votes counted from ballots."""

    ballots: list[MemberBallot]
    counted: list[Vote]
    more: bool


class BillVotes(NamedTuple):
    """The votes on a bill, the newest first. `complete`: older ones are not missing."""

    bill: BillReference
    votes: list[Vote]
    complete: bool = True

    def decisive(self, limit: int) -> list[Vote]:
        """The votes at the most decisive stage that was voted on. Parts of a bill can be voted on one by one."""
        stages = [vote.stage for vote in self.votes]
        stage = next((stage for stage in Stage if stage in stages), None)
        # Two amendments are two questions; two votes at third reading decide two parts of the same bill.
        several = stage in (Stage.THIRD_READING, Stage.SECOND_READING)
        return [vote for vote in self.votes if vote.stage == stage][: limit if several else 1]


class Votes:
    """Votes and ballots of openparliament.ca."""

    def __init__(self, openparliament: OpenParliament) -> None:
        self._openparliament = openparliament

    async def find(self, session: str | None, number: int) -> Vote:
        """A vote of the session, or of the newest vote's session. Raises RecordNotFound."""
        if session is None:
            newest, _ = await self.newest()
            if found := [vote for vote in newest if (vote.session, vote.number) == (newest[0].session, number)]:
                return found[0]
            session = newest[0].session if newest else None
        vote = parse_vote(await self._openparliament.get_vote(session, number))
        if (vote.session, vote.number) != (session, number):
            raise SourceError(f"{OPENPARLIAMENT} returned another vote.", f"{OPENPARLIAMENT} a renvoyé un autre vote.")
        return vote

    async def newest(self) -> tuple[list[Vote], bool]:
        """The newest votes of all sessions, as many as one request returns, and whether there are older ones."""
        records, more = await self._openparliament.list_records("votes", limit=PAGE_SIZE)
        return _readable(records), more

    async def on_bill(self, session: str | None, number: str) -> BillVotes:
        """The votes on a bill of the session, or of the newest session that voted on such a bill, in one request.

        Raises RecordNotFound. Without a session, only the newest votes are read: the bill is then voted on in none of
        their sessions, or `complete` says whether older votes on it may be missing.
        """
        if session is None:
            return await self._on_newest_bill(number)
        bill = BillReference(session, number)
        votes = [vote for vote in await self._list(bill=f"/bills/{session}/{number}/") if vote.bill == bill]
        if not votes:
            await self._openparliament.get_bill(session, number)  # raises where the bill is unknown
        return BillVotes(bill, votes)

    async def _on_newest_bill(self, number: str) -> BillVotes:
        newest, more = await self.newest()
        votes = [vote for vote in newest if vote.bill and vote.bill.number == number]
        unread = newest[-1].session if more and newest else ""  # votes of this session, and of older ones, are missing
        if votes:
            bill = votes[0].bill
            assert bill is not None
            return BillVotes(bill, [vote for vote in votes if vote.bill == bill], complete=bill.session > unread)
        bills, _ = await self._openparliament.bills(number=number)
        sessions = sorted({bill.session for bill in bills}, reverse=True)
        if not sessions:
            raise RecordNotFound(
                f"There is no bill {number} in any session; find_bills finds bills by words.",
                f"Il n’y a pas de projet de loi {number}, dans aucune session; find_bills les trouve par mots.",
            )
        if sessions[-1] <= unread:
            raise RecordNotFound(
                f"The newest {len(newest)} votes of the House are on no bill {number}; it exists in "
                f"{', '.join(sessions)}: give the session.",
                f"Les {len(newest)} votes les plus récents de la Chambre ne portent pas sur un projet de loi {number}; "
                f"il existe dans {', '.join(sessions)} : précisez la session.",
            )
        return BillVotes(BillReference(sessions[0], number), [])

    async def between(self, first: str, last: str | None, limit: int) -> list[Vote]:
        """The votes from a day on, or between two days (ISO 8601), the newest first."""
        listed = await self._openparliament.list_records("votes", limit=limit, date__gte=first, date__lte=last)
        return _readable(listed.records)

    async def by_member(self, slug: str, limit: int) -> tuple[list[MemberBallot], bool]:
        """A member's newest ballots, and whether there are more."""
        choices, more = await self._choices(slug, limit)
        votes = {vote.path: vote for vote in await self._at(choices)}
        return [MemberBallot(choice, path, votes.get(path)) for path, choice in choices.items()], more

    async def dissent(self, slug: str, limit: int) -> MemberDissent:
        """A member's newest ballots against most of their party.

        Each vote that is counted is one request, so only the newest MOST_COUNTED are. Before them, the marks of
        openparliament.ca apply. It marks none where 15% of the party or more differ.
        """
        newest, _ = await self._choices(slug, NEWEST_BALLOTS)
        marked, more = await self._choices(slug, limit, dissent="True")
        votes = {vote.path: vote for vote in await self._at({**newest, **marked})}
        counted: dict[str, bool] = {}
        cast = [votes[path] for path, choice in newest.items() if choice in ("Yes", "No") and path in votes]
        for vote in cast[:MOST_COUNTED]:
            try:
                division = await self._division_of_the_day(vote)
            except SourceError:
                break
            dissenters = (ballot for count in division.parties for ballot in count.dissenters)
            counted[vote.path] = any(ballot.slug == slug for ballot in dissenters)
        paths = [path for path, dissents in counted.items() if dissents]
        paths += [path for path in marked if path not in counted]
        ballots = [MemberBallot({**newest, **marked}[path], path, votes.get(path)) for path in paths]
        ballots.sort(key=lambda each: each.vote.date if each.vote else date.min, reverse=True)
        return MemberDissent(ballots, [votes[path] for path in counted], more)

    async def _choices(self, slug: str, limit: int, dissent: str | None = None) -> tuple[dict[str, Choice], bool]:
        """A member's newest ballots by the path of the vote, and whether there are more."""
        ballots, more = await self._openparliament.list_records(
            "votes", "ballots", limit=limit, politician=slug, dissent=dissent
        )
        choices: dict[str, Choice] = {
            each["vote_url"]: choice
            for each in ballots
            for choice in CHOICES
            if each.get("ballot") == choice and isinstance(each.get("vote_url"), str)
        }
        return choices, more

    async def division(self, vote: Vote) -> Division:
        """All ballots of a vote. Raises SourceError where there are none."""
        try:
            return await self._division_of_the_day(vote)
        except SourceError:
            return await self._division_by_today(vote)

    async def _division_of_the_day(self, vote: Vote) -> Division:
        ballots = await self._openparliament.get_page(vote.path, partial(_parse_page, vote))
        return Division(vote, ballots, parties_of_today=False)

    async def _division_by_today(self, vote: Vote) -> Division:
        """The division from the API alone. Former members have no party in it, and their slug is their name."""
        records = (await self._openparliament.list_records("votes", "ballots", limit=PAGE_SIZE, vote=vote.path)).records
        if not records:
            raise SourceError(
                f"{OPENPARLIAMENT} has no ballots of vote {vote.number} in session {vote.session}.",
                f"{OPENPARLIAMENT} n’a pas les bulletins du vote {vote.number} de la session {vote.session}.",
            )
        members = {member.path: member for member in await self._openparliament.sitting_mps()}
        ballots = []
        for record in records:
            path = str(record.get("politician_url"))
            member = members.get(path)
            name = member.name if member else path.strip("/").rpartition("/")[2].replace("-", " ").title()
            party = member.party if member else None
            ballots.append(Ballot(path, name, party, _choice(record.get("ballot"))))
        return Division(vote, tuple(ballots), parties_of_today=True)

    async def _at(self, paths: Iterable[str]) -> list[Vote]:
        """Votes by their paths, with one list for each session."""
        numbers: dict[str, list[int]] = {}
        for path in paths:
            if found := re.fullmatch(r"/votes/([0-9]{2}-[0-9])/([0-9]{1,4})/", path):
                numbers.setdefault(found[1], []).append(int(found[2]))
        votes = []
        for session, wanted in numbers.items():
            votes += await self._list(session=session, numbers=f"{min(wanted)},{max(wanted)}")
        return votes

    async def _list(
        self, *, bill: str | None = None, session: str | None = None, numbers: str | None = None
    ) -> list[Vote]:
        """Votes on a bill, or of a session and a range of numbers, the newest first."""
        listed = await self._openparliament.list_records("votes", bill=bill, session=session, number__range=numbers)
        return _readable(listed.records)


def parse_vote(record: JsonObject) -> Vote:
    """The vote of a record of the API. Raises SourceError where it has not the keys of a vote."""
    try:
        path, session, description, result = (record[key] for key in ("url", "session", "description", "result"))
        bill = str(record.get("bill_url") or "").strip("/").split("/")
        about = bilingual(description)
        if not (path and session and about and about.en and result in get_args(Result)):
            raise ValueError("not a vote")
        return Vote(
            path=str(path),
            session=str(session),
            number=int(record["number"]),
            date=date.fromisoformat(record["date"]),
            description=about,
            result=result,
            yes=int(record["yea_total"]),
            no=int(record["nay_total"]),
            paired=int(record["paired_total"]),
            bill=BillReference(bill[1], bill[2]) if len(bill) == 3 else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{OPENPARLIAMENT} returned a vote that cannot be read.", f"{OPENPARLIAMENT} a renvoyé un vote illisible."
        ) from error


def _readable(records: Iterable[JsonObject]) -> list[Vote]:
    """The votes of a list. Skips what is no vote."""
    votes = []
    for record in records:
        try:
            votes.append(parse_vote(record))
        except SourceError:
            continue
    return votes


def _choice(value: object) -> Choice:
    for choice in CHOICES:
        if choice == value:
            return choice
    raise SourceError(
        f"{OPENPARLIAMENT} returned a ballot that cannot be read.", f"{OPENPARLIAMENT} a renvoyé un bulletin illisible."
    )


_PARTY_OR_BALLOT = re.compile(
    r"<h2>(?P<party>[^<]*)</h2>"
    r'|voteresult_(?P<choice>[YNPA])">[^<]*</span>\s*<a href="(?P<path>/politicians/[^"]+)">(?P<name>[^<]*)</a>'
)
_LETTERS: dict[str, Choice] = {"Y": "Yes", "N": "No", "P": "Paired", "A": "Didn't vote"}


def _parse_page(vote: Vote, body: bytes) -> tuple[Ballot, ...]:
    """The ballots of the site's page of a vote. Raises ValueError where the page has another format."""
    ballots, party = [], None
    for found in _PARTY_OR_BALLOT.finditer(body.decode()):
        if found["choice"]:
            name = unescape(found["name"]).strip()
            ballots.append(Ballot(found["path"], name, party, _LETTERS[found["choice"]]))
        else:
            party = unescape(found["party"]).strip() or None
    # A page with other headings would put everybody into one party.
    if len({ballot.party for ballot in ballots}) < 2 or len(ballots) < vote.yes + vote.no:
        raise ValueError("not the page of this vote")
    return tuple(ballots)
