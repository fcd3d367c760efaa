"""The sample House: the records that follow from what is invented, the same every time, every address resolving."""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Any
from urllib.parse import urlencode

from infra.local.parliament.invented import (
    BEGAN,
    BILLS,
    COMMITTEES,
    CROSSED,
    DEBATED,
    JOINED,
    LEFT,
    LONG_DEBATES,
    MINISTER,
    PARTIES,
    PEOPLE,
    QUESTIONS,
    QUIET_DAYS,
    SENTENCES,
    SESSION,
    SPEAKER,
    STATUSES,
    SUBJECTS,
    VOTES,
    Json,
)


@dataclass(frozen=True, slots=True)
class Record:
    """A thing with an address: what lists show of it, what its own page adds, and the values that filters look at."""

    url: str
    listed: Json
    more: Json = field(default_factory=dict)
    by: Json = field(default_factory=dict)

    def seen(self, whole: bool = False) -> Json:
        address = {"url": self.url} if self.url else {}  # a ballot has none
        return {**self.listed, **(self.more if whole else {}), **address}


@dataclass(frozen=True, slots=True)
class Term:
    """A membership: one person for one party in one riding."""

    number: int
    party: str
    riding: str
    start: date
    end: date | None

    @property
    def url(self) -> str:
        return f"/politicians/memberships/{self.number}/"


@dataclass(frozen=True, slots=True)
class Person:
    number: int
    slug: str
    name: str
    gender: str
    province: str
    terms: tuple[Term, ...]

    @property
    def url(self) -> str:
        return f"/politicians/{self.slug}/"

    @property
    def current(self) -> Term | None:
        return next((term for term in self.terms if term.end is None), None)

    def on(self, day: date) -> Term | None:
        return next((term for term in self.terms if term.start <= day < (term.end or date.max)), None)


Cast = list[tuple[Person, Term, str]]
Lines = dict[str, tuple[str, float]]


def plain(text: str) -> str:
    """Without accents and in lower case."""
    return "".join(letter for letter in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(letter))


def slugify(text: str) -> str:
    return re.sub(r"\s+", "-", re.sub(r"[’']", "", plain(text)))


def both(english: Any, french: Any) -> Json:
    return {"en": english, "fr": french}


def address(day: date) -> str:
    return f"/debates/{day.year}/{day.month}/{day.day}/"


def speeches_of(document: str) -> str:
    return f"/speeches/?{urlencode({'document': document})}"


class House:
    """Everything invented, made anew the same way every time. `tables` is for lists, `at` for addresses."""

    def __init__(self) -> None:
        self._chance = random.Random(45)  # noqa: S311 -- the same every time
        self.people = {person.slug: person for person in self._invent_people()}
        self.bills = {line.split("|")[0]: line.split("|") for line in BILLS.strip().splitlines()}
        self.tables: dict[str, list[Record]] = {name: [] for name in ("speeches", "votes", "ballots", "debates")}
        votes = [line.split() for line in VOTES.strip().splitlines()]
        self._sit(sorted({vote[0] for vote in votes} | {*QUIET_DAYS}), votes)
        self._meet()
        self._divide(votes)
        self.tables["bills"] = [self._bill(*row) for row in self.bills.values()] + [self._older_bill()]
        self.tables["politicians"], self.tables["memberships"] = self._politicians(), self._memberships()
        self.tables["votes"].reverse()
        self.tables["debates"].reverse()
        self.at = {record.url: record for table in self.tables.values() for record in table if record.url}

    # -- people

    def _invent_people(self) -> list[Person]:
        people = []
        for number, line in enumerate(PEOPLE.strip().splitlines(), 1):
            party, gender, province, given, rest = line.split(None, 4)
            family, riding = rest.split(None, 1)
            slug = slugify(f"{given} {family}")
            start, end = JOINED.get(slug, BEGAN), LEFT.get(slug)
            terms = [Term(4000 + 2 * number, party, riding, start, end)]
            if slug in CROSSED:
                party, day = CROSSED[slug]
                terms = [Term(terms[0].number + 1, party, riding, day, None), replace(terms[0], end=day)]
            people.append(Person(number, slug, f"{given} {family}", gender, province, tuple(terms)))
        return people

    def _politicians(self) -> list[Record]:
        records = []
        for person in sorted(self.people.values(), key=lambda person: plain(person.name.split()[1])):
            given, family = person.name.split()
            term = person.current
            listed: Json = {"name": person.name, "image": f"/media/polpics/{person.slug}.gif"}
            if term:
                listed["current_party"] = {"short_name": {"en": term.party}}
                listed["current_riding"] = {"province": person.province, "name": {"en": term.riding}}
            more = {
                "given_name": given,
                "family_name": family,
                "gender": {"F": "female", "M": "male"}[person.gender],
                "email": f"{person.slug}@commons.example",
                "voice": "+1 613 555-0100",
                "links": [{"url": f"https://{person.slug}.example/", "note": "Official site"}],
                "other_info": {
                    "parl_mp_id": [str(990000 + person.number)],
                    "alternate_name": [plain(person.name)],
                    "favourite_word": [self._chance.choice(list(SUBJECTS)).split("-")[1]],
                },
                "memberships": [self._membership(person, each) for each in person.terms],
                "related": {
                    "speeches_url": f"/speeches/?politician={person.slug}",
                    "ballots_url": f"/votes/ballots/?politician={person.slug}",
                    "sponsored_bills_url": f"/bills/?sponsor_politician={person.slug}",
                },
            }
            by = {"name": person.name, "given_name": given, "family_name": family, "sitting": term is not None}
            records.append(Record(person.url, listed, more, by))
        return records

    def _membership(self, person: Person, term: Term) -> Json:
        return {
            "url": term.url,
            "start_date": str(term.start),
            "end_date": str(term.end) if term.end else None,
            "party": {"name": {"en": PARTIES[term.party]}, "short_name": {"en": term.party}},
            "riding": {"id": 9000 + person.number, "province": person.province, "name": {"en": term.riding}},
            "label": {"en": f"{term.party} MP for {term.riding}"},
        }

    def _memberships(self) -> list[Record]:
        return [
            Record(term.url, {**self._membership(person, term), "politician_url": person.url})
            for person in self.people.values()
            for term in person.terms
        ]

    # -- speeches

    def _sit(self, days: Sequence[str], votes: Sequence[Sequence[str]]) -> None:
        """A debate for each day: statements, oral questions, the bills, and the Speaker in between."""
        asking = [slug for slug, person in self.people.items() if person.terms[-1].party != "Heron"]
        giving = [slug for slug, person in self.people.items() if person.terms[-1].party == "Heron" and slug != SPEAKER]
        for number, name in enumerate(days, 1):
            day = date.fromisoformat(name)
            sitting = Sitting(self, self._chance, day, address(day))
            sitting.chair("The House met at 10 a.m.", "La séance est ouverte à 10 heures.")
            sitting.heading("Statements by Members", "Déclarations de députés")
            for subject in self._chance.sample(list(SUBJECTS), 4):
                sitting.heading("Statements by Members", "Déclarations de députés", subject)
                sitting.speak(self._chance.choice(asking + giving), SUBJECTS[subject], 2)
            for turn, subject in enumerate(self._chance.sample(list(SUBJECTS), 4)):
                sitting.heading("Oral Questions", "Questions orales", subject)
                sitting.speak(self._chance.choice(asking), SUBJECTS[subject], 1)
                sitting.speak(MINISTER if turn % 2 else self._chance.choice(giving), SUBJECTS[subject], 1)
            about = {vote[1]: None for vote in votes if vote[0] == name and vote[1] in self.bills}
            for bill in {**dict.fromkeys(DEBATED.get(name, ())), **about}:
                row = self.bills[bill]
                sitting.heading("Government Orders", "Initiatives ministérielles", bill)
                speaker = row[7] or self._chance.choice(giving)
                sitting.speak(speaker, (row[8], row[9]), 120 if (name, bill) == ("2026-03-10", "C-5") else 6)
                for turn in range(LONG_DEBATES.get((name, bill), 8) - 1):
                    if turn % 10 == 9:
                        sitting.chair("Resuming debate.", "Reprise du débat.")
                    else:
                        answers = bill == "C-5" and turn % 4 == 3
                        who = MINISTER if answers else self._chance.choice(asking + giving)
                        sitting.speak(who, (row[8], row[9]), 1 if turn % 3 else 5)
            listed = {"date": name, "number": str(number), "most_frequent_word": {"en": sitting.word()}}
            more = {
                "source_id": 990000 + number,
                "source_url": f"https://commons.example/{SESSION}/sitting-{number}/hansard",
                "session": SESSION,
                "document_type": "Debate",
                "related": {"speeches_url": speeches_of(address(day)), "debates_url": "/debates/"},
            }
            by = {"session": SESSION, "date": day, "number": str(number)}
            self.tables["debates"].append(Record(address(day), listed, more, by))

    # -- committees

    def _meet(self) -> None:
        self.tables["committees"], self.tables["meetings"] = [], []
        for order, (slug, (english, french, acronym, parent)) in enumerate(COMMITTEES.items()):
            url = f"/committees/{slug}/"
            children = [f"/committees/{child}/" for child, row in COMMITTEES.items() if row[3] == slug]
            source = f"https://commons.example/committees/{acronym}/{SESSION}"
            listed = {
                "name": both(english, french),
                "short_name": both(english, french),
                "slug": slug,
                "parent_url": f"/committees/{parent}/" if parent else None,
            }
            more = {
                "sessions": [{"session": SESSION, "acronym": acronym, "source_url": source}],
                "subcommittees": children,
                "related": {
                    "meetings_url": f"/committees/meetings/?committee={slug}",
                    "committees_url": "/committees/",
                },
            }
            self.tables["committees"].append(Record(url, listed, more, {"session": SESSION, "slug": slug}))
            for number in range(1, 6):
                day = date(2026, 2, 5) + timedelta(days=35 * number + 7 * order)
                self._meeting(url, slug, acronym, number, day, open_to_all=number % 3 > 0)
        self.tables["meetings"].sort(key=lambda meeting: meeting.by["date"], reverse=True)

    def _meeting(self, url: str, slug: str, acronym: str, number: int, day: date, open_to_all: bool) -> None:
        at = f"{url}{SESSION}/{number}/"
        if open_to_all:
            sitting = Sitting(self, self._chance, day, at, {"committee": slug})
            sitting.heading("Evidence", "Témoignages")
            subject = SUBJECTS[self._chance.choice(list(SUBJECTS))]
            for who in (MINISTER, None, "imogen-tallowby", None):
                sitting.speak(who, subject, 2)
        listed = {
            "date": str(day),
            "number": number,
            "in_camera": not open_to_all,
            "has_evidence": open_to_all,
            "committee_url": url,
        }
        more: Json = {
            "start_time": "11:00:00",
            "end_time": "13:00:00",
            "session": SESSION,
            "minutes_url": f"https://commons.example/{acronym}/{number}/minutes",
            "notice_url": f"https://commons.example/{acronym}/{number}/notice",
            "webcast_url": None,
        }
        if open_to_all:
            more["related"] = {"speeches_url": speeches_of(at)}
        by = {"session": SESSION, "date": day, "number": number, "in_camera": not open_to_all, "committee": slug}
        self.tables["meetings"].append(Record(at, listed, more, by))

    # -- votes and bills

    def _divide(self, votes: Sequence[Sequence[str]]) -> None:
        """The votes with everybody's ballots; the totals and the party lines are counted from those."""
        for number, (name, about, kind, pattern) in enumerate(votes, 1):
            day = date.fromisoformat(name)
            cast = self._ballots(day, pattern)
            lines = party_lines(cast)
            vote = self._vote(number, day, about, kind, cast, lines)
            self.tables["votes"].append(vote)
            for person, term, ballot in cast:
                listed = {
                    "vote_url": vote.url,
                    "politician_url": person.url,
                    "politician_membership_url": term.url,
                    "ballot": ballot,
                }
                dissent = {ballot, lines.get(term.party, ("", 0.0))[0]} == {"Yes", "No"}
                by = {"vote": f"{SESSION}/{number}", "politician": person.slug, "ballot": ballot, "dissent": dissent}
                by |= {"politician_membership": str(term.number)}
                self.tables["ballots"].append(Record("", listed, {}, by))
        self.tables["ballots"].reverse()

    def _vote(self, number: int, day: date, about: str, kind: str, cast: Cast, lines: Lines) -> Record:
        url = f"/votes/{SESSION}/{number}/"
        bill = self.bills.get(about)
        names = (bill[1], bill[3]) if bill else tuple(words.capitalize() for words in SUBJECTS[about])
        count = Counter(ballot for _, _, ballot in cast)
        yeas, nays = count["Yes"], count["No"]
        listed: Json = {
            "bill_url": f"/bills/{SESSION}/{about}/" if bill else None,
            "session": SESSION,
            "number": number,
            "date": str(day),
            "description": both(
                QUESTIONS[kind][0].format(bill=f"Bill {about}", name=names[0]),
                QUESTIONS[kind][1].format(bill=f"projet de loi {about}", name=names[1]),
            ),
            "result": "Tie" if yeas == nays else "Passed" if yeas > nays else "Failed",
            "yea_total": yeas,
            "nay_total": nays,
            "paired_total": count["Paired"],
        }
        by = {**listed, "date": day, "kind": kind, "bill": f"{SESSION}/{about}" if bill else None}
        at, key = address(day), by["bill"] or "none"
        debate = [
            speech.url
            for speech in self.tables["speeches"]
            if speech.by["document"] == at and speech.by["bill_debated"] == key
        ]
        more = {
            "context_statement": debate[-1] if debate else None,
            "party_votes": [
                {
                    "vote": line,
                    "disagreement": disagreement,
                    "party": {"name": {"en": PARTIES[party]}, "short_name": {"en": party}},
                }
                for party, (line, disagreement) in lines.items()
            ],
            "related": {"ballots_url": f"/votes/ballots/?{urlencode({'vote': url})}", "votes_url": "/votes/"},
        }
        return Record(url, listed, more, by)

    def _ballots(self, day: date, pattern: str) -> Cast:
        """Each sitting member's: mostly the party's line, sometimes another; the Speaker does not vote."""
        cast: Cast = []
        for person in self.people.values():
            if term := person.on(day):
                chance = self._chance.random()
                yes = self._chance.random() < 0.5 if pattern == "*" else term.party[0] in pattern
                if chance < 0.03:
                    yes = not yes
                ballot = "Didn't vote" if chance > 0.93 else "Paired" if chance > 0.92 else "Yes" if yes else "No"
                cast.append((person, term, "Didn't vote" if person.slug == SPEAKER else ballot))
        if pattern.endswith("="):
            more, fewer = sorted(("Yes", "No"), key=lambda ballot: -sum(each[2] == ballot for each in cast))
            while sum(each[2] == more for each in cast) > sum(each[2] == fewer for each in cast):
                at = next(at for at, each in enumerate(cast) if each[2] == more)
                cast[at] = (*cast[at][:2], "Didn't vote")
        return cast

    def _bill(self, number: str, *row: str) -> Record:
        english, short, french, court, introduced, code, sponsor, _, _ = row
        url, key = f"/bills/{SESSION}/{number}/", f"{SESSION}/{number}"
        votes = [vote for vote in self.tables["votes"] if vote.by["bill"] == key]
        who = self.people.get(sponsor)
        listed = {
            "session": SESSION,
            "legisinfo_id": 99000000 + int(re.sub(r"\D", "", number)) + 5000 * (number[0] == "S"),
            "introduced": introduced,
            "name": both(english, french),
            "number": number,
        }
        private = number == "C-201"
        page = f"https://www.parl.ca/legisinfo/en/bill/{SESSION}/{number.lower()}"
        more = {
            "short_title": both(short, court),
            "home_chamber": "Senate" if number[0] == "S" else "House",
            "law": code == "RoyalAssentGiven",
            "status": {"en": STATUSES[code][0]},
            "status_code": code,
            "sponsor_politician_url": who.url if who else None,
            "sponsor_politician_membership_url": who.terms[0].url if who else None,
            "text_url": f"https://commons.example/bills/{SESSION}/{number.lower()}/first-reading",
            "other_session_urls": [],
            "vote_urls": [vote.url for vote in reversed(votes)],
            "private_member_bill": private,
            "legisinfo_url": page,
            "related": {"bills_url": "/bills/"},
        }
        by = {
            **{name: listed[name] for name in ("session", "number", "legisinfo_id")},
            "introduced": date.fromisoformat(introduced),
            "law": more["law"],
            "status_code": code,
            "private_member_bill": private,
            "sponsor_politician": who.slug if who else None,
            "sponsor_politician_membership": str(who.terms[0].number) if who else None,
        }
        return Record(url, listed, more, by)

    def _older_bill(self) -> Record:
        """C-5 of the Parliament before: whoever forgets the session finds two."""
        row = [*self.bills["C-5"][1:]]
        row[:4] = [
            "An Act respecting the repainting of grain elevators",
            "Grain Elevators Act",
            "Loi concernant la peinture des silos à grains",
            "Loi sur les silos à grains",
        ]
        row[4:7] = ["2024-02-06", "WillNotBeProceededWith", ""]
        made = self._bill("C-5", *row)
        name = f"{made.more['legisinfo_url']}".replace(SESSION, "44-1")
        text = f"{made.more['text_url']}".replace(SESSION, "44-1")
        return Record(
            "/bills/44-1/C-5/",
            {**made.listed, "session": "44-1", "legisinfo_id": 98000005},
            {**made.more, "vote_urls": [], "legisinfo_url": name, "text_url": text},
            {**made.by, "session": "44-1", "legisinfo_id": 98000005},
        )


class Sitting:
    """The speeches of one day, or of one committee meeting, as they are given."""

    def __init__(self, house: House, chance: random.Random, day: date, url: str, by: Json | None = None) -> None:
        self._house, self._chance, self._day, self._url = house, chance, day, url
        self._time = datetime.combine(day, time(10))
        self._by, self._heads, self._bill = by or {}, dict[str, Json](), ""
        self._turns, self._words = Counter[str](), Counter[str]()

    def heading(self, english: str, french: str, about: str = "") -> None:
        """What the next speeches stand under: `about` is a bill or a subject."""
        self._bill = about if about in self._house.bills else ""
        self._heads = {"h1": both(english, french)}
        if self._bill:
            self._heads["h2"] = both(self._house.bills[about][2], self._house.bills[about][4])
            self._heads["h3"] = both(f"Bill {about}. Invented stage", f"Projet de loi {about}. Étape inventée")
        elif about:
            self._heads["h2"] = both(SUBJECTS[about][0].capitalize(), SUBJECTS[about][1].capitalize())

    def chair(self, english: str, french: str) -> None:
        """A short procedural word of the Speaker."""
        self._add(SPEAKER, both("The Speaker", "Le Président"), [(english, french)], procedural=True)

    def speak(self, who: str | None, thing: tuple[str, str], paragraphs: int) -> None:
        """Somebody who sits on this day (or nobody does: then the minister), or a witness."""
        person = self._house.people[who] if who else None
        if person and not person.on(self._day):
            person = self._house.people[MINISTER]
        term = person.on(self._day) if person else None
        riding = term.riding if term else "Witness Landing"
        name = person.name if person else "Dr. Wren Testimony"
        said = [("Mr. Speaker, I rise today.", "Monsieur le Président, je prends la parole aujourd’hui.")]
        if self._bill:
            link = f'<a data-HoCid="990000" href="/bills/{SESSION}/{self._bill}/" title="{thing[0]}">'
            thanks = f'<a data-HoCid="990001" href="/politicians/{MINISTER}/">'
            english = f"I speak to {link}Bill {self._bill}</a>, with thanks to {thanks}the minister</a>."
            french = f"Je parle du {link}projet de loi {self._bill}</a> et je remercie {thanks}la ministre</a>."
            said.append((english, french))
        for _ in range(paragraphs):
            first, second = self._chance.sample(SENTENCES, 2)
            english = f"{first[0]} {second[0]}".format(riding=riding, thing=thing[0])
            said.append((english, f"{first[1]} {second[1]}".format(riding=riding, thing=thing[1])))
        self._words.update({thing[0].split()[-1]: paragraphs})
        where = f"{riding}, {term.party}" if term else "Invented Institute"
        self._add(person.slug if person else None, both(f"{name} ({where})", f"{name} ({where})"), said)

    def word(self) -> str:
        return self._words.most_common(1)[0][0]

    def _add(self, who: str | None, attribution: Json, said: list[tuple[str, str]], procedural: bool = False) -> None:
        person = self._house.people[who] if who else None
        term = person.on(self._day) if person else None
        self._time += timedelta(minutes=2)
        name = "the-speaker" if procedural else who or "wren-testimony"
        self._turns[name] += 1
        spoken = "fr" if person and person.province == "QC" else "en"
        number = 9_000_000 + 200 * len(self._house.tables["speeches"])  # and its paragraphs count on
        tags = [f'<p data-HoCid="{number + at}" data-originallang="{spoken}">' for at in range(len(said))]
        english, french = (
            "\n".join(f"{tag}{pair[side]}</p>" for tag, pair in zip(tags, said, strict=True)) for side in (0, 1)
        )
        url = f"{self._url}{name}-{self._turns[name]}/"
        listed = {
            "time": str(self._time),
            "attribution": attribution,
            "content": both(english, french),
            "politician_url": person.url if person else None,
            "politician_membership_url": term.url if term else None,
            "procedural": procedural,
            "source_id": str(number),
            **self._heads,
            "document_url": self._url,
        }
        more = {"related": {"document_speeches_url": speeches_of(self._url)}}
        bill = f"{SESSION}/{self._bill}" if self._bill else None
        by = {"time": self._time, "procedural": procedural, "document": self._url, **self._by}
        by |= {"politician": who, "politician_membership": str(term.number) if term else None, "bill_debated": bill}
        linked = bill if not procedural else None
        by |= {"mentioned_bill": linked, "mentioned_politician": MINISTER if linked else None}
        self._house.tables["speeches"].append(Record(url, listed, more, by))


def party_lines(cast: Cast) -> Lines:
    """Each party's vote and how much of it disagreed: a free vote from 15 %, as the site counts it."""
    lines = {}
    for party in sorted({term.party for _, term, _ in cast} - {"Independent"}):
        count = Counter(ballot for _, term, ballot in cast if term.party == party)
        said = count["Yes"] + count["No"]
        disagreement = min(count["Yes"], count["No"]) / said if said else 0.0
        lines[party] = ("Free vote" if disagreement >= 0.15 else count.most_common(1)[0][0], disagreement)
    return lines


@cache
def house() -> House:
    """Invented when the first app is made."""
    return House()
