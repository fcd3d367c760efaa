"""Builds all records from the invented data. They are the same every time, and every URL in them resolves."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from urllib.parse import urlencode

from infra.local.parliament.data import (
    BACKBENCH_PARTIES,
    BACKBENCH_PROVINCES,
    BACKBENCH_RIDINGS,
    BILLS,
    BILLS_DEBATED,
    CHANGED_PARTY,
    COMMITTEES,
    DAYS_WITHOUT_VOTES,
    DEBATE_LENGTHS,
    FAMILY_NAMES,
    FORMER,
    GIVEN_NAMES,
    JOINED_ON,
    LEFT_ON,
    MINISTER,
    PARTIES,
    PEOPLE,
    PREVIOUS_SESSION,
    RIDING_PARTS,
    SESSION,
    SESSION_START,
    SPEAKER,
    STATUSES,
    SUBJECTS,
    VOTE_DESCRIPTIONS,
    VOTES,
)
from infra.local.parliament.model import (
    Ballot,
    Bill,
    Json,
    PartyVote,
    Person,
    Record,
    Term,
    Vote,
    bilingual,
    debate_path,
    fold,
    slugify,
    speeches_path,
)
from infra.local.parliament.transcript import Transcript


class Dataset:
    """All records: `tables` by list, `by_url` by URL. Every instance has the same content."""

    def __init__(self) -> None:
        self._rng = random.Random(45)  # noqa: S311 -- a fixed seed makes the records the same every time
        self.people = {person.identifier: person for person in _people()}
        self.bills = {bill.number: bill for bill in (Bill(*line.split("|")) for line in BILLS.strip().splitlines())}
        self.tables: dict[str, list[Record]] = {name: [] for name in ("speeches", "votes", "ballots", "debates")}
        votes = [Vote(*line.split()) for line in VOTES.strip().splitlines()]
        # The order of these steps is part of the content: they share one random generator.
        self._add_debates(votes)
        self._add_committees()
        self._add_votes(votes)
        bills = [*self._special_bills(), *map(self._bill, self.bills.values())]
        self.tables["bills"] = sorted(bills, key=_bill_order)
        self.tables["politicians"], self.tables["memberships"] = self._politicians(), self._memberships()
        self.tables["votes"].reverse()
        self.tables["debates"].reverse()
        self.by_url = {record.url: record for table in self.tables.values() for record in table if record.url}

    # -- people

    def _politicians(self) -> list[Record]:
        records = []
        for person in sorted(self.people.values(), key=lambda person: fold(person.name.split()[1])):
            given, family = person.name.split()
            term = person.current_term
            image = f"/media/polpics/{person.slug}.gif"
            details = {
                "given_name": given,
                "family_name": family,
                "gender": {"F": "female", "M": "male"}[person.gender],
                "image": image,
                "other_info": {
                    "parl_mp_id": [str(990000 + person.number)],
                    "alternate_name": [fold(person.name)],
                    "favourite_word": [self._rng.choice(list(SUBJECTS)).split("-")[1]],
                },
                "links": [
                    {
                        "url": f"https://www.ourcommons.ca/members/en/{person.identifier}({990000 + person.number})",
                        "note": "Page on ourcommons.ca",
                    },
                    {"url": f"https://{person.identifier}.example/", "note": "Official site"},
                ],
                "email": f"{person.identifier}@commons.example",
                "voice": "+1 613 555-0100",
                "memberships": [_membership(person, each) for each in person.terms],
                "related": {
                    "speeches_url": f"/speeches/?politician={person.identifier}",
                    "ballots_url": f"/votes/ballots/?politician={person.identifier}",
                    "sponsored_bills_url": f"/bills/?sponsor_politician={person.identifier}",
                },
            }
            filter_values = {
                "name": person.name,
                "given_name": given,
                "family_name": family,
                # What only the list of sitting members has.
                "sitting": term
                and {
                    "current_party": {"short_name": {"en": term.party}},
                    "current_riding": {"province": person.province, "name": {"en": term.riding}},
                    "image": image,
                },
            }
            records.append(Record(person.url, {"name": person.name}, details, filter_values))
        return records

    def _memberships(self) -> list[Record]:
        return [
            Record(term.url, {**_membership(person, term), "politician_url": person.url})
            for person in self.people.values()
            for term in person.terms
        ]

    # -- debates and committees

    def _transcript(self, day: date, url: str, filter_values: Json | None = None) -> Transcript:
        return Transcript(
            day,
            url,
            people=self.people,
            bills=self.bills,
            speeches=self.tables["speeches"],
            rng=self._rng,
            filter_values=filter_values,
        )

    def _add_debates(self, votes: Sequence[Vote]) -> None:
        for number, name in enumerate(sorted({vote.day for vote in votes} | {*DAYS_WITHOUT_VOTES}), 1):
            day = date.fromisoformat(name)
            voted_on = [vote.subject for vote in votes if vote.day == name and vote.subject in self.bills]
            transcript = self._transcript(day, debate_path(day))
            self._add_speeches(transcript, name, list(dict.fromkeys([*BILLS_DEBATED.get(name, ()), *voted_on])))
            listed = {
                "date": name,
                "number": str(number),
                "most_frequent_word": {"en": transcript.most_frequent_word()},
            }
            details = {
                "source_id": 990000 + number,
                "source_url": f"https://commons.example/{SESSION}/sitting-{number}/hansard",
                "session": SESSION,
                "document_type": "Debate",
                "related": {"speeches_url": speeches_path(debate_path(day)), "debates_url": "/debates/"},
            }
            filter_values = {"session": SESSION, "date": day, "number": str(number)}
            self.tables["debates"].append(Record(debate_path(day), listed, details, filter_values))

    def _add_speeches(self, transcript: Transcript, day: str, bills: Sequence[str]) -> None:
        """The statements, the oral questions and the bills of a day."""
        speakers = {slug: person for slug, person in self.people.items() if not person.backbench}
        government = [slug for slug, person in speakers.items() if person.terms[-1].party == "Heron"]
        opposition = [slug for slug in speakers if slug not in government]
        government.remove(SPEAKER)
        transcript.add_procedural_speech("The House met at 10 a.m.", "La séance est ouverte à 10 heures.")
        transcript.add_heading("Statements by Members", "Déclarations de députés")
        for subject in self._rng.sample(list(SUBJECTS), 4):
            transcript.add_heading("Statements by Members", "Déclarations de députés", subject)
            transcript.add_speech(self._rng.choice(opposition + government), SUBJECTS[subject], 2)
        for turn, subject in enumerate(self._rng.sample(list(SUBJECTS), 4)):
            transcript.add_heading("Oral Questions", "Questions orales", subject)
            transcript.add_speech(self._rng.choice(opposition), SUBJECTS[subject], 1)
            transcript.add_speech(MINISTER if turn % 2 else self._rng.choice(government), SUBJECTS[subject], 1)
        for number in bills:
            bill = self.bills[number]
            transcript.add_heading("Government Orders", "Initiatives ministérielles", number)
            first_speaker = bill.sponsor or self._rng.choice(government)
            paragraphs = 120 if (day, number) == ("2026-03-10", "C-5") else 6
            transcript.add_speech(first_speaker, bill.topic, paragraphs, table=number == "C-4")
            for turn in range(DEBATE_LENGTHS.get((day, number), 8) - 1):
                if turn % 10 == 9:
                    transcript.add_procedural_speech("Resuming debate.", "Reprise du débat.")
                else:
                    minister_answers = number == "C-5" and turn % 4 == 3
                    slug = MINISTER if minister_answers else self._rng.choice(opposition + government)
                    transcript.add_speech(slug, bill.topic, 1 if turn % 3 else 5)

    def _add_committees(self) -> None:
        self.tables["committees"], self.tables["meetings"] = [], []
        parliament, session = SESSION.split("-")
        for order, (slug, (english, french, acronym, parent)) in enumerate(COMMITTEES.items()):
            url = f"/committees/{slug}/"
            subcommittees = [f"/committees/{child}/" for child, row in COMMITTEES.items() if row[3] == slug]
            source = f"https://www.ourcommons.ca/Committees/en/{acronym}?parl={parliament}&session={session}"
            listed = {
                "name": bilingual(english, french),
                "short_name": bilingual(english, french),
                "slug": slug,
                "parent_url": f"/committees/{parent}/" if parent else None,
            }
            details = {
                "sessions": [{"session": SESSION, "acronym": acronym, "source_url": source}],
                "subcommittees": subcommittees,
                "related": {
                    "meetings_url": f"/committees/meetings/?committee={slug}",
                    "committees_url": "/committees/",
                },
            }
            self.tables["committees"].append(Record(url, listed, details, {"session": SESSION, "slug": slug}))
            for number in range(1, 6):
                day = date(2026, 2, 5) + timedelta(days=35 * number + 7 * order)
                self.tables["meetings"].append(self._meeting(slug, acronym, number, day))
        self.tables["meetings"].sort(key=lambda meeting: meeting.filter_values["date"], reverse=True)

    def _meeting(self, slug: str, acronym: str, number: int, day: date) -> Record:
        url, in_camera = f"/committees/{slug}/{SESSION}/{number}/", number % 3 == 0
        if not in_camera:
            transcript = self._transcript(day, url, {"committee": slug})
            transcript.add_heading("Evidence", "Témoignages")
            topic = SUBJECTS[self._rng.choice(list(SUBJECTS))]
            for speaker in (MINISTER, None, "imogen-tallowby", None):
                transcript.add_speech(speaker, topic, 2)
        listed = {
            "date": str(day),
            "number": number,
            "in_camera": in_camera,
            "has_evidence": not in_camera,
            "committee_url": f"/committees/{slug}/",
        }
        details: Json = {
            "start_time": "11:00:00",
            "end_time": "13:00:00",
            "session": SESSION,
            "minutes_url": f"https://commons.example/{acronym}/{number}/minutes",
            "notice_url": f"https://commons.example/{acronym}/{number}/notice",
            "webcast_url": None,
        }
        if not in_camera:
            details["related"] = {"speeches_url": speeches_path(url)}
        filter_values = {
            "session": SESSION,
            "date": day,
            "number": number,
            "in_camera": in_camera,
            "committee": slug,
        }
        return Record(url, listed, details, filter_values)

    # -- votes and bills

    def _add_votes(self, votes: Sequence[Vote]) -> None:
        """The votes and all ballots. Totals and party votes are counted from the ballots."""
        for number, planned in enumerate(votes, 1):
            ballots = self._ballots(number, planned)
            parties = party_votes(ballots)
            vote = self._vote(number, planned, ballots, parties)
            self.tables["votes"].append(vote)
            for person, term, choice in ballots:
                listed = {
                    "vote_url": vote.url,
                    "politician_url": person.url,
                    "politician_membership_url": term.url,
                    "ballot": choice,
                }
                party_choice = parties[term.party].choice if term.party in parties else ""
                filter_values = {
                    "vote": f"{SESSION}/{number}",
                    "politician": person.slug,
                    "ballot": choice,
                    "dissent": {choice, party_choice} == {"Yes", "No"},
                    "politician_membership": str(term.number),
                }
                self.tables["ballots"].append(Record("", listed, {}, filter_values))
        self.tables["ballots"].reverse()

    def _vote(self, number: int, planned: Vote, ballots: list[Ballot], parties: dict[str, PartyVote]) -> Record:
        url, day, subject = f"/votes/{SESSION}/{number}/", date.fromisoformat(planned.day), planned.subject
        bill = self.bills.get(subject)
        if bill:
            title_en, title_fr = bill.title_en, bill.title_fr
        else:
            title_en, title_fr = (words.capitalize() for words in SUBJECTS[subject])
        english, french = VOTE_DESCRIPTIONS[planned.kind]
        count = Counter(ballot.choice for ballot in ballots)
        yeas, nays = count["Yes"], count["No"]
        listed: Json = {
            "bill_url": f"/bills/{SESSION}/{subject}/" if bill else None,
            "session": SESSION,
            "number": number,
            "date": str(day),
            "description": bilingual(
                english.format(bill=f"Bill {subject}", name=title_en),
                french.format(bill=f"projet de loi {subject}", name=title_fr),
            ),
            "result": "Tie" if yeas == nays else "Passed" if yeas > nays else "Failed",
            "yea_total": yeas,
            "nay_total": nays,
            "paired_total": count["Paired"],
        }
        bill_key = f"{SESSION}/{subject}" if bill else None
        debate = [
            speech.url
            for speech in self.tables["speeches"]
            if bill_key
            and speech.filter_values["document"] == debate_path(day)
            and speech.filter_values["bill_debated"] == bill_key
        ]
        details = {
            "context_statement": debate[-1] if debate else None,
            "party_votes": [
                {
                    "vote": party_vote.choice,
                    "disagreement": party_vote.disagreement,
                    "party": {"name": {"en": PARTIES[party]}, "short_name": {"en": party}},
                }
                for party, party_vote in parties.items()
            ],
            "related": {"ballots_url": f"/votes/ballots/?{urlencode({'vote': url})}", "votes_url": "/votes/"},
        }
        return Record(url, listed, details, {**listed, "date": day, "kind": planned.kind, "bill": bill_key})

    def _ballots(self, number: int, planned: Vote) -> list[Ballot]:
        """One ballot for each sitting member. Most follow the party, some do not; the Speaker does not vote."""
        day, supporters = date.fromisoformat(planned.day), planned.supporters.partition("+")[0]
        backbench = random.Random(number)  # noqa: S311 -- their ballots do not change those of the others
        ballots = []
        for person in self.people.values():
            if term := person.term_on(day):
                rng = backbench if person.backbench else self._rng
                chance = rng.random()
                yes = rng.random() < 0.5 if supporters == "*" else term.party[0] in supporters
                if chance < (0.01 if person.backbench else 0.03):
                    yes = not yes
                choice = "Didn't vote" if chance > 0.93 else "Paired" if chance > 0.92 else "Yes" if yes else "No"
                ballots.append(Ballot(person, term, "Didn't vote" if person.slug == SPEAKER else choice))
        if supporters.endswith("="):
            _make_tie(ballots)
        if rebels := planned.supporters.partition("+")[2]:
            _add_supporters(ballots, rebels[-1], int(rebels[:-1]))
        return ballots

    def _bill(self, bill: Bill) -> Record:
        number = bill.number
        url, key = f"/bills/{SESSION}/{number}/", f"{SESSION}/{number}"
        votes = [vote for vote in self.tables["votes"] if vote.filter_values["bill"] == key]
        sponsor = self.people.get(bill.sponsor)
        listed = {
            "session": SESSION,
            "legisinfo_id": 99000000 + int(re.sub(r"\D", "", number)) + 5000 * (number[0] == "S"),
            "introduced": bill.introduced,
            "name": bilingual(bill.title_en or None, bill.title_fr or None),
            "number": number,
        }
        private = number == "C-201"
        details = {
            "short_title": bilingual(bill.short_title_en or None, bill.short_title_fr or None),
            "home_chamber": "Senate" if number[0] == "S" else "House",
            "law": True if bill.status == "RoyalAssentGiven" else None,  # never false
            "status": {"en": STATUSES[bill.status][0]},
            "status_code": bill.status,
            "sponsor_politician_url": sponsor.url if sponsor else None,
            "sponsor_politician_membership_url": sponsor.terms[0].url if sponsor else None,
            "text_url": f"https://commons.example/bills/{SESSION}/{number.lower()}/first-reading",
            "vote_urls": [vote.url for vote in reversed(votes)],
            "private_member_bill": private,
            "legisinfo_url": f"https://www.parl.ca/legisinfo/en/bill/{SESSION}/{number.lower()}",
            "related": {"bills_url": "/bills/"},
        }
        filter_values = {
            **{name: listed[name] for name in ("session", "number", "legisinfo_id")},
            "introduced": date.fromisoformat(bill.introduced),
            "law": details["law"],
            "status_code": bill.status,
            "private_member_bill": private,
            "sponsor_politician": sponsor.slug if sponsor else None,
            "sponsor_politician_membership": str(sponsor.terms[0].number) if sponsor else None,
        }
        return Record(url, listed, details, filter_values)

    def _special_bills(self) -> list[Record]:
        """Bills of the previous session; one whose number has a letter; one that has no name yet."""
        lettered = self.bills["C-10"]._replace(
            number="C-10A",
            title_en="An Act respecting the paddles of canoe museums",
            short_title_en="Museum Paddles Act",
            title_fr="Loi concernant les pagaies des musées du canot",
            short_title_fr="Loi sur les pagaies des musées",
            introduced="2026-05-06",
            status="HouseAt1stReading",
        )
        unnamed = self.bills["C-12"]._replace(
            number="C-13",
            title_en="",
            short_title_en="",
            title_fr="",
            short_title_fr="",
            introduced="2026-10-20",
            status="HouseAt1stReading",
        )
        elevators = self.bills["C-5"]._replace(
            title_en="An Act respecting the repainting of grain elevators",
            short_title_en="Grain Elevators Act",
            title_fr="Loi concernant la peinture des silos à grains",
            short_title_fr="Loi sur les silos à grains",
            introduced="2024-02-06",
            status="WillNotBeProceededWith",
            sponsor="",
        )
        lamps = elevators._replace(
            number="C-44",
            title_en="An Act respecting the lamps of lighthouses",
            short_title_en="Lighthouse Lamps Act",
            title_fr="Loi concernant les lampes des phares",
            short_title_fr="Loi sur les lampes des phares",
        )
        old = [self._in_previous_session(bill) for bill in (elevators, lamps)]
        return [*old, self._bill(lettered), self._bill(unnamed)]

    def _in_previous_session(self, bill: Bill) -> Record:
        """The bill in the previous Parliament. A search for C-5 without the session finds both."""
        record = self._bill(bill)
        changed = {"session": PREVIOUS_SESSION, "legisinfo_id": record.listed["legisinfo_id"] - 1_000_000}
        urls = {
            name: str(record.details[name]).replace(SESSION, PREVIOUS_SESSION) for name in ("legisinfo_url", "text_url")
        }
        return Record(
            f"/bills/{PREVIOUS_SESSION}/{bill.number}/",
            {**record.listed, **changed},
            {**record.details, "vote_urls": [], **urls},
            {**record.filter_values, **changed},
        )


def _people() -> list[Person]:
    people, lines = [], [*PEOPLE.strip().splitlines(), *_backbench()]
    for number, line in enumerate(lines, 1):
        party, gender, province, given, rest = line.split(None, 4)
        family, riding = rest.split(None, 1)
        slug = slugify(f"{given} {family}")
        start, end = JOINED_ON.get(slug, SESSION_START), LEFT_ON.get(slug)
        terms = [Term(4000 + 2 * number, party, riding, start, end)]
        if slug in CHANGED_PARTY:
            party, day = CHANGED_PARTY[slug]
            terms = [Term(terms[0].number + 1, party, riding, day, None), replace(terms[0], end=day)]
        backbench = number > len(lines) - 10 * len(RIDING_PARTS)
        people.append(Person(number, slug, f"{given} {family}", gender, province, tuple(terms), backbench))
    for line in FORMER.strip().splitlines():
        party, gender, province, start_day, end_day, given, family, riding = line.split(None, 7)
        number, slug = len(people) + 1, slugify(f"{given} {family}")
        if slug in {person.slug for person in people}:
            slug = ""
        term = Term(4000 + 2 * number, party, riding, date.fromisoformat(start_day), date.fromisoformat(end_day))
        people.append(Person(number, slug, f"{given} {family}", gender, province, (term,), backbench=True))
    return people


def _bill_order(bill: Record) -> tuple[bool, str, int, str]:
    """The order of the list: not by date, and not by session."""
    number = bill.listed["number"]
    return bill.details["private_member_bill"], number[0], int(re.sub(r"\D", "", number)), number


def _backbench() -> Iterator[str]:
    """Members in the format of PEOPLE."""
    for index, part in enumerate(RIDING_PARTS):
        party = BACKBENCH_PARTIES[index // 4]
        for number, (given, riding) in enumerate(zip(GIVEN_NAMES, BACKBENCH_RIDINGS, strict=True)):
            family, province = FAMILY_NAMES[(number + index) % 10], BACKBENCH_PROVINCES[number % 4]
            yield f"{party} {'MF'[number % 2]} {province} {given} {family} {riding} {part}"


def _membership(person: Person, term: Term) -> Json:
    return {
        "url": term.url,
        "start_date": str(term.start),
        "end_date": str(term.end) if term.end else None,
        "party": {"name": {"en": PARTIES[term.party]}, "short_name": {"en": term.party}},
        "riding": {"id": 9000 + person.number, "province": person.province, "name": {"en": term.riding}},
        "label": {"en": f"{term.party} MP for {term.riding}"},
    }


def _make_tie(ballots: list[Ballot]) -> None:
    """Withdraw ballots of the majority until both sides are equal."""
    count = Counter(ballot.choice for ballot in ballots)
    majority, minority = ("Yes", "No") if count["Yes"] >= count["No"] else ("No", "Yes")
    surplus = count[majority] - count[minority]
    for index in [index for index, ballot in enumerate(ballots) if ballot.choice == majority][:surplus]:
        ballots[index] = ballots[index]._replace(choice="Didn't vote")


def _add_supporters(ballots: list[Ballot], initial: str, supporters: int) -> None:
    """Exactly `supporters` members of the party vote Yes, and the other voters of the party vote No."""
    voters = [
        index
        for index, ballot in enumerate(ballots)
        if ballot.term.party[0] == initial and ballot.choice in ("Yes", "No")
    ]
    for order, index in enumerate(voters):
        ballots[index] = ballots[index]._replace(choice="Yes" if order < supporters else "No")


def party_votes(ballots: list[Ballot]) -> dict[str, PartyVote]:
    """Each party's vote. From a disagreement of 15 % it is a free vote, as on the real site."""
    votes = {}
    for party in sorted({ballot.term.party for ballot in ballots} - {"Independent"}):
        count = Counter(ballot.choice for ballot in ballots if ballot.term.party == party)
        cast = count["Yes"] + count["No"]
        disagreement = min(count["Yes"], count["No"]) / cast if cast else 0.0
        votes[party] = PartyVote("Free vote" if disagreement >= 0.15 else count.most_common(1)[0][0], disagreement)
    return votes


@cache
def dataset() -> Dataset:
    """The dataset of this process, built on first use."""
    return Dataset()
