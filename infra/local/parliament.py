"""The parliamentary data stand-in: openparliament.ca's API and search feed, Represent, LEGISinfo, on one origin.

People, ridings, bills, votes and speeches are invented; shapes and manners are the real sites': pages, filters that are
refused or ignored, errors that are not JSON, 429 for whoever asks two things at once. `?_slow=SECONDS` holds an answer
back. `GET /_requests` tells what was asked; `POST /_fail` {"path_prefix", "status", "times", "retry_after", "slow",
"body"} spoils the next answers. Shapes: github.com/michaelmulley/openparliament, represent.opennorth.ca/api.
"""

import asyncio
import html
import json
import random
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from email.utils import format_datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Json = dict[str, Any]

SESSION, BEGAN = "45-1", date(2026, 1, 12)
OTTAWA = ZoneInfo("America/Toronto")
SITE = "https://openparliament.ca"
API = ("politicians", "votes", "bills", "speeches", "debates", "committees")
DEFAULT_LIMIT, MAX_LIMIT, FEED_LIMIT = 20, 500, 15
MAX_ENTRIES = 5000  # of the journal: a whole test run fits, and memory stays bounded
NO_DATE = "0001-01-01T00:00:00"

# --- what is invented ------------------------------------------------------------------------------------------------

PARTIES = {
    "Heron": "Heron Party of Canada",
    "Juniper": "Juniper Alliance",
    "Cordwood": "Cordwood Union",
    "Fleuve": "Le Parti du Fleuve",
    "Lantern": "Lantern Society",
    "Independent": "Independent",
}
PEOPLE = """
Heron       F ON Fern Quillwater             Sampleton—Fogwood
Heron       M NS Barnaby Tidewell            Examplehaven—Saltgrass
Heron       F ON Odalys Brambleton           Lower Exemplar
Heron       M QC Théodule Vertegrange        Rivière-aux-Exemples
Heron       F BC Maribel Thistledown         Cedar Fiction—Inlet
Heron       M MB Corin Ashpetal              Placeholder Plains
Heron       F ON Anjali Moonwillow           Mockingbird—Sampleton
Heron       M QC Étienne Clairbosquet        Mont-Fictif
Heron       F NL Josephine O’Fennimore       Imaginary Cove
Heron       M BC Kenji Stonewillow           Nowhere Narrows
Heron       F NB Wilhelmina Larkspurr        Testbrook
Heron       M ON Amadou Rivercrane           Fabula Centre
Heron       F AB Solveig Frostwren           Notional North
Heron       M QC Gaspard Belletremplin       Lac-Inventé
Heron       M PE Tobias Hollowmere           Red Sand Hypothesis
Heron       F ON Ottoline Greyfeather        Upper Exemplar
Juniper     F AB Rosalind Copperdale         Prairie Draft
Juniper     M SK Magnus Wintergale           Wheatfield—Supposition
Juniper     F BC Hester Pinebarrow           Kettle Mirage
Juniper     M AB Lucan Oxbowery              Foothill Fable
Juniper     F ON Philippa Dunmarrow          Simile—Grey
Juniper     M ON Ravindra Saltmeadow         Brook Parable East
Juniper     F SK Beatrix Ironlark            Lake Conjecture
Juniper     M MB Ambrose Fieldgrouse         Red Allegory
Juniper     F ON Clementine Hawkesfern       Metaphor Mills
Juniper     M BC Desmond Wolfbarley          Figment Valley
Juniper     F NB Yara Sandwhistle            Allegory Bay
Juniper     M ON Percival Quillwater         Upper Exemplar
Cordwood    F BC Imogen Tallowby             Vignette Island
Cordwood    M MB Dmitri Elmsparrow           Winnow Centre
Cordwood    F ON Naledi Brightharrow         Steel Metaphor
Cordwood    M NS Caspian Mudlarkin           Fable Harbour
Cordwood    F NU Freya Cloudberrie           Tundra Fiction
Cordwood    M ON Oluwaseun Marigolden        Motif Park
Fleuve      F QC Marguerite Deschimères      Chimère—Rive-Sud
Fleuve      M QC Lucien Grandpommier         Gaspésie-Imaginaire
Fleuve      F QC Apolline Rocheverte         Saint-Exemple
Fleuve      M QC Hyacinthe Boisfleuri        Îles-Fictives
Fleuve      F QC Ombeline Lacroisette        Terrebelle—Conte
Lantern     F BC Isolde Mossgrove            Gulf Reverie
Lantern     M ON Ephraim Duskfield           Table Talk Centre
Juniper     M YT Sixtus Plumbrook            Northern Legend
"""
MINISTER, SPEAKER = "fern-quillwater", "tobias-hollowmere"
LEFT = {"ottoline-greyfeather": date(2026, 5, 15)}
JOINED = {"percival-quillwater": date(2026, 6, 8)}  # … her seat, at a by-election
CROSSED = {"sixtus-plumbrook": ("Independent", date(2026, 5, 20))}

# Number: English title and short title, French ones, introduced, status, sponsor, what it is about.
BILLS = """
C-2|An Act respecting the national census of herons|Heron Census Act|Loi concernant le recensement national des hérons|Loi sur le recensement des hérons|2026-01-27|RoyalAssentGiven|odalys-brambleton|the heron census|du recensement des hérons
C-3|An Act to standardize the length of portage trails|Portage Trails Act|Loi normalisant la longueur des sentiers de portage|Loi sur les sentiers de portage|2026-01-28|SenateInCommittee|corin-ashpetal|portage trails|des sentiers de portage
C-4|An Act to establish the National Lighthouse Storytelling Fund|Lighthouse Storytelling Act|Loi constituant le Fonds national des contes de phare|Loi sur les contes de phare|2026-02-03|HouseInCommittee|barnaby-tidewell|lighthouse storytelling|des contes de phare
C-5|An Act respecting the reopening of small ferry routes and amending the Wharves and Puddles Act|Small Ferries Act|Loi concernant la réouverture des petites liaisons par traversier et modifiant la Loi sur les quais et les flaques|Loi sur les petits traversiers|2026-02-12|SenateAt2ndReading|fern-quillwater|small ferries|des petits traversiers
C-6|An Act to create a registry of public benches|Public Benches Act|Loi créant un registre des bancs publics|Loi sur les bancs publics|2026-03-24|HouseAt2ndReading|anjali-moonwillow|public benches|des bancs publics
C-7|An Act respecting the quiet hours of snow ploughs|Quiet Ploughs Act|Loi concernant les heures de silence des chasse-neige|Loi sur les chasse-neige silencieux|2026-03-24|BillDefeated|kenji-stonewillow|snow ploughs|des chasse-neige
C-8|An Act to amend the Imaginary Calendar Act (leap day)|Leap Day Act|Loi modifiant la Loi sur le calendrier imaginaire (jour bissextile)|Loi sur le jour bissextile|2026-03-10|HouseInCommittee|etienne-clairbosquet|the leap day holiday|du congé bissextile
C-9|An Act respecting the labelling of maple sap|Maple Sap Labels Act|Loi concernant l’étiquetage de l’eau d’érable|Loi sur l’étiquetage de l’eau d’érable|2026-04-14|HouseAtReportStage|theodule-vertegrange|maple sap|de l’eau d’érable
C-10|An Act respecting canoe museums|Canoe Museums Act|Loi concernant les musées du canot|Loi sur les musées du canot|2026-05-05|HouseInCommittee|maribel-thistledown|canoe museums|des musées du canot
C-11|An Act respecting the names of unnamed lakes|Unnamed Lakes Act|Loi concernant les noms des lacs sans nom|Loi sur les lacs sans nom|2026-09-15|HouseAt1stReading|solveig-frostwren|unnamed lakes|des lacs sans nom
C-12|An Act for granting certain sums for community kites|Community Kites Act|Loi accordant certaines sommes aux cerfs-volants communautaires|Loi sur les cerfs-volants communautaires|2026-10-06|HouseAt1stReading|amadou-rivercrane|community kites|des cerfs-volants communautaires
C-201|An Act to establish National Mitten Day|National Mitten Day Act|Loi instituant la Journée nationale de la mitaine|Loi sur la Journée nationale de la mitaine|2026-02-24|HouseAt1stReading|rosalind-copperdale|mittens|des mitaines
S-2|An Act respecting northern lights observation posts|Northern Lights Act|Loi concernant les postes d’observation des aurores boréales|Loi sur les aurores boréales|2026-02-05|HouseAt2ndReading||northern lights|des aurores boréales
S-3|An Act respecting bilingual bird signs|Bird Signs Act|Loi concernant les panneaux ornithologiques bilingues|Loi sur les panneaux ornithologiques|2026-04-21|SenateInCommittee||bird signs|des panneaux ornithologiques
"""  # noqa: E501 -- a table
STATUSES = {
    "RoyalAssentGiven": ("Law (royal assent given)", "Sanction royale reçue"),
    "SenateAt2ndReading": ("Second reading (Senate)", "À l’étape de la deuxième lecture au Sénat"),
    "SenateInCommittee": ("In committee (Senate)", "À l’étape de l’étude en comité au Sénat"),
    "HouseAtReportStage": ("Report stage (House)", "À l’étape du rapport à la Chambre des communes"),
    "HouseInCommittee": ("In committee (House)", "À l’étape de l’étude en comité à la Chambre des communes"),
    "HouseAt2ndReading": ("Second reading (House)", "À l’étape de la deuxième lecture à la Chambre des communes"),
    "HouseAt1stReading": ("First reading (House)", "À l’étape de la première lecture à la Chambre des communes"),
    "BillDefeated": ("Defeated", "Rejeté"),
    "WillNotBeProceededWith": ("Dead", "Mort au Feuilleton"),
}
# Day, bill or subject, what was voted on, and who voted for it: initials of parties; `*` is a free vote, `=` a tie.
VOTES = """
2026-02-12 bus-shelters motion JC
2026-02-24 C-2 second HJCFL
2026-02-24 C-3 second HCF
2026-03-10 C-2 third HJCFL
2026-03-10 C-4 second HCL
2026-03-11 C-5 time HF
2026-03-11 C-5 second HCFL
2026-03-24 library-hours motion JCFL
2026-04-14 C-3 report HCF
2026-04-15 C-3 third HCF
2026-04-15 C-8 second *
2026-04-28 C-9 second HCL
2026-04-28 C-5 amendment JL
2026-04-28 C-5 amendment JCFL
2026-05-05 C-5 report HCF
2026-05-12 C-7 second L
2026-05-12 fog-horns motion JF
2026-05-26 C-5 third HCFL
2026-06-02 C-10 second HC
2026-06-02 night-trains motion HF=
2026-06-09 C-9 amendment J
2026-06-09 C-6 time HF
2026-06-16 community-gardens motion HJCFL
2026-09-03 S-2 amendment JF
2026-09-15 C-6 amendment JL
2026-09-22 sled-routes motion CL
2026-09-29 C-4 time HL
2026-09-29 library-hours motion HCL
2026-10-06 fog-horns motion HFL
2026-10-20 bus-shelters motion HCFL
2026-10-20 night-trains motion JCFL
"""
QUESTIONS = {
    "second": ("2nd reading of {bill}, {name}", "2e lecture du {bill}, {name}"),
    "third": ("3rd reading and adoption of {bill}, {name}", "3e lecture et adoption du {bill}, {name}"),
    "report": ("Concurrence at report stage of {bill}, {name}", "Adoption à l’étape du rapport du {bill}, {name}"),
    "amendment": ("{bill}, {name} (amendment)", "{bill}, {name} (amendement)"),
    "time": ("Time allocation for {bill}, {name}", "Attribution de temps pour le {bill}, {name}"),
    "motion": ("Opposition Motion ({name})", "Motion de l’opposition ({name})"),
}
SUBJECTS = {
    "bus-shelters": ("winter bus shelters", "des abribus d’hiver"),
    "library-hours": ("library hours", "des heures de bibliothèque"),
    "fog-horns": ("fog horns", "des cornes de brume"),
    "night-trains": ("night trains", "des trains de nuit"),
    "community-gardens": ("community gardens", "des jardins communautaires"),
    "sled-routes": ("sled routes", "des pistes de traîneau"),
}
# What no vote of the House tells: the Senate, the Crown, and the House's unrecorded votes.
ELSEWHERE = {
    "C-2": {
        "PassedSenateFirstReading": "2026-03-12",
        "PassedSenateSecondReading": "2026-04-23",
        "PassedSenateThirdReading": "2026-06-11",
        "ReceivedRoyalAssent": "2026-06-18",
    },
    "C-3": {"PassedSenateFirstReading": "2026-04-16", "PassedSenateSecondReading": "2026-06-04"},
    "C-5": {"PassedSenateFirstReading": "2026-05-28"},
    "S-2": {
        "PassedSenateSecondReading": "2026-03-26",
        "PassedSenateThirdReading": "2026-04-30",
        "PassedHouseFirstReading": "2026-05-12",
    },
    "S-3": {"PassedSenateSecondReading": "2026-06-09"},
}
PASSED = [f"Passed{chamber}{name}Reading" for chamber in ("House", "Senate") for name in ("First", "Second", "Third")]
PASSED += ["ReceivedRoyalAssent"]
# Sitting days on which no vote was taken.
QUIET_DAYS = ("2026-02-03",)
# Speeches in the debates of a bill: 8, but these; the very first one of C-5 is of 120 paragraphs.
LONG_DEBATES = {("2026-03-10", "C-5"): 70, ("2026-03-11", "C-5"): 30, ("2026-05-26", "C-5"): 16}
DEBATED = {"2026-03-10": ["C-5"], "2026-09-22": ["C-11"], "2026-09-03": ["C-6"], "2026-10-20": ["C-12", "C-201"]}
SENTENCES = (
    (
        "When I visited {riding} this spring, people asked me about {thing}.",
        "Lors de ma visite dans {riding} ce printemps, on m’a parlé {thing}.",
    ),
    (
        "The numbers before us are invented, and still they tell us something about {thing}.",
        "Les chiffres devant nous sont inventés, et pourtant ils nous apprennent quelque chose au sujet {thing}.",
    ),
    (
        "I would ask my colleagues to read clause 4, which deals with {thing}.",
        "J’invite mes collègues à lire l’article 4, qui traite {thing}.",
    ),
    (
        "We cannot wait another season to decide the future of {thing}.",
        "Nous ne pouvons pas attendre une autre saison pour décider de l’avenir {thing}.",
    ),
    (
        "The committee heard eleven witnesses, and nine of them spoke about {thing}.",
        "Le comité a entendu onze témoins, dont neuf ont parlé {thing}.",
    ),
    (
        "The cost is modest: forty invented dollars a year for each household.",
        "Le coût est modeste : quarante dollars inventés par année pour chaque ménage.",
    ),
    (
        "My grandmother kept a notebook about {thing}, and I brought it with me today.",
        "Ma grand-mère tenait un carnet au sujet {thing}, et je l’ai apporté aujourd’hui.",
    ),
    (
        "Harbours &amp; lighthouses, roads &amp; rails: everything here leads back to {thing}.",
        "Ports &amp; phares, routes &amp; rails : tout nous ramène à la question {thing}.",
    ),
    (
        "I have a question for the member opposite: who will pay for {thing}?",
        "J’ai une question pour le député d’en face : qui assumera les frais {thing} ?",
    ),
)
# Slug: English and French name, acronym, parent.
COMMITTEES = {
    "wharves": ("Wharves, Ferries and Puddles", "Quais, traversiers et flaques", "WHAR", None),
    "birds": ("Birds and Census", "Oiseaux et recensement", "BIRD", None),
    "winter": ("Winter Life", "Vie hivernale", "WINT", None),
    "calendars": ("Calendars and Holidays", "Calendriers et congés", "CALE", None),
    "stories": ("Stories and Heritage", "Contes et patrimoine", "STOR", None),
    "winter-mittens": ("Subcommittee on Mittens", "Sous-comité des mitaines", "SMIT", "winter"),
}
# Postal code: city, province, the members whose ridings the centroid and the concordance find; None: the key is absent.
POSTAL_CODES: dict[str, tuple[str, str, list[str] | None, list[str] | None]] = {
    "K1A0A6": ("Ottawa", "ON", ["fern-quillwater"], ["fern-quillwater"]),
    "H2X1Y4": ("Montréal", "QC", ["theodule-vertegrange"], None),
    "T5J0N3": ("Edmonton", "AB", None, ["solveig-frostwren"]),
    "V6B1A1": ("Vancouver", "BC", ["maribel-thistledown"], ["hester-pinebarrow", "maribel-thistledown"]),
    "N0G1A0": ("Exemplar", "ON", ["percival-quillwater"], ["odalys-brambleton", "percival-quillwater"]),
    "R3C0V8": ("Winnipeg", "MB", [], None),  # no member: the seat is vacant
}


# --- the records -----------------------------------------------------------------------------------------------------


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


# --- lists and filters -----------------------------------------------------------------------------------------------


class BadRequest(Exception):
    """A parameter with a value that it cannot have: 400, as plain text."""


class Missing(Exception):
    """There is nothing at this address: 404, as a page."""


Test = Callable[[Any], bool]
Filter = Callable[[str, str], Test]
"""Of a parameter's lookup (`gte` of `date__gte`) and value: which of the records' values pass."""


def _boolean(text: str) -> bool:
    return {"true": True, "True": True, "false": False, "False": False}[text]


def column(read: Callable[[str], Any] = str, compared: bool = False) -> Filter:
    """A filter for a value as it is, or compared with another."""

    def made(lookup: str, given: str) -> Test:
        kinds: dict[str, Callable[[Any, Any], bool]] = {"": lambda ours, theirs: bool(ours == theirs)}
        kinds["exact"] = kinds[""]
        if compared:
            kinds |= {
                "gt": lambda ours, theirs: bool(ours > theirs),
                "gte": lambda ours, theirs: bool(ours >= theirs),
                "lt": lambda ours, theirs: bool(ours < theirs),
                "lte": lambda ours, theirs: bool(ours <= theirs),
                "range": lambda ours, theirs: bool(theirs[0] <= ours <= theirs[1]),
                "isnull": lambda ours, theirs: (ours is None) is theirs,
            }
        if lookup not in kinds:
            raise BadRequest(f"Invalid filter argument {lookup}")
        try:
            if lookup == "range":
                low, high = given.split(",")
                value: Any = (read(low), read(high))
            else:
                value = _boolean(given) if lookup == "isnull" else read(given)
        except (ValueError, KeyError):
            raise BadRequest(f"[“{given}” is not a valid value.]") from None
        return lambda ours: (ours is not None or lookup == "isnull") and kinds[lookup](ours, value)

    return made


def link(parts: int = 1) -> Filter:
    """A filter for another thing: its address, or the last parts of it. Case counts."""

    def made(lookup: str, given: str) -> Test:
        bits = given.rstrip("/").split("/")
        if len(bits) < parts:
            raise BadRequest(f"Invalid URL {given}")
        return lambda ours: bool(ours == "/".join(bits[-parts:]))

    return made


def choice(*known: str) -> Filter:
    def made(lookup: str, given: str) -> Test:
        if given not in known:
            raise BadRequest("Invalid value for this filter")
        return lambda ours: bool(ours == given)

    return made


def document(lookup: str, given: str) -> Test:
    """The speeches of a debate or of a committee meeting."""
    url = f"/{given.strip('/')}/"
    known = re.fullmatch(r"/debates/\d+(/[1-9]\d?){2}/", url, re.ASCII) or (url in house().at and "committees" in url)
    if not known:
        raise BadRequest("Invalid document URL")
    return lambda ours: bool(ours == url)


def moment(text: str) -> datetime:
    """As the speeches have it: in Ottawa, and not said so."""
    read = datetime.fromisoformat(text)
    return read.astimezone(OTTAWA).replace(tzinfo=None) if read.tzinfo else read


NUMBER, DAY = column(int, compared=True), column(date.fromisoformat, compared=True)
FILTERS: dict[str, dict[str, Filter]] = {
    "politicians": {"name": column(), "given_name": column(), "family_name": column()},
    "memberships": {},
    "votes": {
        **dict.fromkeys(("number", "yea_total", "nay_total", "paired_total"), NUMBER),
        "session": column(),
        "date": DAY,
        "bill": link(2),
        "result": choice("Passed", "Failed", "Tie"),
    },
    "ballots": {
        "vote": link(2),
        "politician": link(),
        "politician_membership": link(),
        "dissent": column(_boolean),
        "ballot": choice("Yes", "No", "Paired", "Didn't vote"),
    },
    "bills": {
        **dict.fromkeys(("session", "number", "status_code"), column()),
        **dict.fromkeys(("law", "private_member_bill"), column(_boolean)),
        **dict.fromkeys(("sponsor_politician", "sponsor_politician_membership"), link()),
        "introduced": DAY,
        "legisinfo_id": column(int),
    },
    "speeches": {
        **dict.fromkeys(("politician", "politician_membership", "mentioned_politician"), link()),
        **dict.fromkeys(("bill_debated", "mentioned_bill"), link(2)),
        "procedural": column(_boolean),
        "time": column(moment, compared=True),
        "document": document,
    },
    "debates": {"session": column(), "date": DAY, "number": column()},
    "committees": {"session": column()},
    "meetings": {
        "session": column(),
        "date": DAY,
        "number": NUMBER,
        "committee": link(),
        "in_camera": column(_boolean),
    },
}


def _count(query: list[tuple[str, str]], name: str, otherwise: int) -> int:
    text = dict(query).get(name, str(otherwise))
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise BadRequest(f"Invalid {name} '{text}' provided. Please provide a positive integer.")
    return int(text)


def page(table: str, path: str, query: list[tuple[str, str]]) -> Json:
    """One page of a list. What is no filter is ignored, as there."""
    records = house().tables[table]
    if table == "politicians":
        include = dict(query).get("include")
        records = [record for record in records if include == "all" or record.by["sitting"] is (include != "former")]
    elif table == "speeches" and "document" not in dict(query):
        records = sorted(records, key=lambda record: record.by["time"], reverse=True)
    for given, value in query:
        name, _, lookup = given.partition("__")
        if made := FILTERS[table].get(name):
            passes = made(lookup, value)
            records = [record for record in records if passes(record.by[name])]
    usual = 338 if table == "politicians" else DEFAULT_LIMIT
    limit, offset = min(_count(query, "limit", usual) or usual, MAX_LIMIT), _count(query, "offset", 0)
    rest = [(name, value) for name, value in query if name not in ("limit", "offset")]

    def elsewhere(start: int) -> str:
        return f"{path}?{urlencode([*rest, ('limit', limit), ('offset', max(start, 0))])}"

    return {
        "objects": [record.seen() for record in records[offset : offset + limit]],
        "pagination": {
            "offset": offset,
            "limit": limit,
            "next_url": elsewhere(offset + limit) if len(records) > offset + limit else None,
            "previous_url": elsewhere(offset - limit) if offset else None,
        },
    }


# --- the other two sites and the feed --------------------------------------------------------------------------------


def found(query: str) -> list[Record]:
    """The newest speeches that have all the words, in either language."""
    words = re.findall(r"\w+", plain(query))
    records = sorted(house().tables["speeches"], key=lambda record: record.by["time"], reverse=True)
    hits = (record for record in records if words and {*words} <= _vocabulary(record.url))
    return [record for record, _ in zip(hits, range(FEED_LIMIT), strict=False)]


@cache
def _vocabulary(url: str) -> frozenset[str]:
    listed = house().at[url].listed
    texts = [*listed["content"].values(), *listed["attribution"].values()]
    return frozenset(re.findall(r"\w+", plain(html.unescape(re.sub(r"<[^>]+>", " ", " ".join(texts))))))


def feed(query: str) -> bytes:
    """RSS 2.0. A description is HTML, escaped once as text of the XML."""
    rss = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(rss, "channel")

    def add(parent: ElementTree.Element, **texts: str) -> None:
        for name, text in texts.items():
            ElementTree.SubElement(parent, name).text = text

    address = f"{SITE}/search/?{urlencode({'q': query, 'sort': 'date desc'})}"
    description = f"From openparliament.ca, search results for '{query}'"
    add(channel, title=f'"{query}" | openparliament.ca', link=address, description=description, language="en-ca")
    for record in found(query):
        listed, at = record.listed, SITE + record.url
        topic = (listed.get("h2") or listed.get("h1") or both("House", "Chambre"))["en"]
        item = ElementTree.SubElement(channel, "item")
        published = format_datetime(record.by["time"].replace(tzinfo=OTTAWA))
        add(item, title=f"{topic} / {listed['attribution']['en'].split(' (')[0]}", link=at)
        add(item, description=_excerpt(listed["content"], query), pubDate=published, guid=at)
    return bytes(ElementTree.tostring(rss, encoding="utf-8", xml_declaration=True))


def _excerpt(content: Json, query: str) -> str:
    """300 characters around the first word that is said, as HTML with the words in <em>."""
    words = re.compile("(" + "|".join(map(re.escape, re.findall(r"\w+", query))) + ")", re.IGNORECASE)
    texts = [html.unescape(re.sub(r"<[^>]+>", "", content[language])).replace("\n", " ") for language in ("en", "fr")]
    hits = [(text, hit.start()) for text in texts if (hit := words.search(text))]
    text, start = hits[0] if hits else (texts[0], 0)
    begin = max(start - 60, 0)
    pieces = enumerate(map(html.escape, words.split(text[begin : begin + 300])))
    return "".join(f"<em>{piece}</em>" if at % 2 else piece for at, piece in pieces)


def postal(code: str) -> Json | None:
    """What Represent knows of a postal code. Beside each member stands one of a provincial legislature."""
    if code not in POSTAL_CODES:
        return None
    city, province, centroid, concordance = POSTAL_CODES[code]
    answer: Json = {
        "code": code,
        "city": city,
        "province": province,
        "centroid": {"type": "Point", "coordinates": [-75.7, 45.4]},
        "boundaries_centroid": [],
        "boundaries_concordance": [],
    }
    for source, slugs in (("centroid", centroid), ("concordance", concordance)):
        members = [house().people[slug] for slug in slugs or ()]
        answer[f"boundaries_{source}"] = [_boundary(person) for person in members]
        if slugs is not None:
            answer[f"representatives_{source}"] = [*map(_representative, members), _provincial(province, city)]
    return answer


def _boundary(person: Person) -> Json:
    number, where = 9000 + person.number, "federal-electoral-districts-2023-representation-order"
    assert person.current
    return {
        "url": f"/boundaries/{where}/{number}/",
        "name": person.current.riding,
        "external_id": str(number),
        "boundary_set_name": "Federal electoral district",
        "related": {"boundary_set_url": f"/boundary-sets/{where}/"},
    }


def _representative(person: Person) -> Json:
    assert person.current
    given, family = person.name.split()
    return {
        "name": person.name,
        "first_name": given,
        "last_name": family,
        "elected_office": "MP",
        "party_name": person.current.party,
        "district_name": person.current.riding,
        "representative_set_name": "House of Commons",
        "email": f"{person.slug}@commons.example",
        "url": f"https://commons.example/members/{person.slug}",
        "photo_url": "",
        "personal_url": "",
        "source_url": "https://commons.example/members",
        "gender": person.gender,
        "extra": {},
        "offices": [{"type": "legislature", "tel": "1 613 555-0100", "postal": "House of Commons\nOttawa ON  K1A 0A6"}],
        "related": {
            "boundary_url": _boundary(person)["url"],
            "representative_set_url": "/representative-sets/house-of-commons/",
        },
    }


def _provincial(province: str, city: str) -> Json:
    office = {"ON": "MPP", "QC": "MNA"}.get(province, "MLA")
    return {
        "name": "Prunella Provincial",
        "first_name": "Prunella",
        "last_name": "Provincial",
        "elected_office": office,
        "party_name": "Heron",
        "district_name": f"{city} Provincial",
        "representative_set_name": f"Legislature of {province}",
        "email": "prunella@legislature.example",
        "url": "https://legislature.example/prunella",
        "offices": [],
        "extra": {},
    }


def legisinfo(session: str, number: str) -> Json | None:
    """A bill as LEGISinfo tells it. Its field names drifted: bills of even numbers have the newer ones."""
    record = house().at.get(f"/bills/{session}/{number.upper()}/")
    if record is None:
        return None
    listed, more = record.listed, record.more
    english, french = STATUSES[more["status_code"]]
    sponsor = house().at.get(more["sponsor_politician_url"])
    name = sponsor.listed["name"] if sponsor else "Senator Alder Placeholder"
    senate, private = more["home_chamber"] == "Senate", more["private_member_bill"]
    kind = "Private Member’s Bill" if private else f"{more['home_chamber']} Government Bill"
    days = {"PassedSenateFirstReading" if senate else "PassedHouseFirstReading": listed["introduced"]}
    if session == SESSION:
        days |= ELSEWHERE.get(listed["number"], {})
    for url in more["vote_urls"]:
        vote = house().at[url]
        if vote.listed["result"] == "Passed" and vote.by["kind"] in ("second", "third"):
            days[f"PassedHouse{vote.by['kind'].capitalize()}Reading"] = vote.listed["date"]
    latest = _stamp(max(days.values()))
    answer = {
        "LongTitleEn": listed["name"]["en"],
        "LongTitleFr": listed["name"]["fr"],
        "ShortTitleEn": more["short_title"]["en"],
        "ShortTitleFr": more["short_title"]["fr"],
        "ParliamentNumber": int(session.split("-")[0]),
        "SessionNumber": int(session.split("-")[1]),
        **{f"{passed}DateTime": _stamp(days.get(passed)) for passed in PASSED},
    }
    if int(number.split("-")[1]) % 2:
        return answer | {
            "Id": listed["legisinfo_id"],
            "NumberCode": listed["number"],
            "StatusNameEn": english,
            "StatusNameFr": french,
            "BillDocumentTypeNameEn": kind,
            "OriginatingChamberOrganizationId": 2 if senate else 1,
            "SponsorPersonName": name,
            "LatestBillEventDateTime": latest,
        }
    return answer | {
        "BillId": listed["legisinfo_id"],
        "BillNumberFormatted": listed["number"],
        "CurrentStatusEn": english,
        "CurrentStatusFr": french,
        "BillTypeEn": kind,
        "OriginatingChamberId": 2 if senate else 1,
        "SponsorEn": name,
        "LatestActivityDateTime": latest,
    }


def _stamp(day: str | None) -> str:
    return f"{day}T10:05:12.38-04:00" if day else NO_DATE


# --- manners: the journal, the faults, one request at a time ---------------------------------------------------------


@dataclass(slots=True)
class Fault:
    """What the next `times` requests under `path_prefix` get instead of an answer, or before it."""

    path_prefix: str = "/"
    status: int | None = None
    times: int = 1
    retry_after: str | None = None
    slow: float = 0
    body: str | None = None

    def response(self) -> Response | None:
        if self.status is None and self.body is None:
            return None
        headers = {"retry-after": self.retry_after} if self.retry_after else None
        body = self.body or f"<html><head><title>{self.status}</title></head><body>It was asked to fail.</body></html>"
        return HTMLResponse(body, self.status or 200, headers)


class Desk:
    """In front of the routes: writes the journal, plays the faults, and refuses a client's second request to the API
    while the first is answered. An answer takes `delay` seconds at least, so that two at once do meet."""

    def __init__(self, app: ASGIApp, delay: float) -> None:
        self._app, self._delay = app, delay
        self._asking = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        client = request.client.host if request.client and scope["path"].split("/")[1] in API else ""
        entry = self._note(request, bool(client and self._asking[client]))
        fault = None if entry["concurrent"] else self._due(request)
        slow = float(request.query_params.get("_slow", 0)) + (fault.slow if fault else 0) + self._delay
        self._asking[client] += 1
        asking = True

        def done() -> None:
            nonlocal asking
            if asking:
                self._asking[client] -= 1
            asking = False

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            elif not message.get("more_body"):
                done()  # before the client has it all: it may ask again at once
            await send(message)

        try:
            if entry["concurrent"]:
                await PlainTextResponse("Too many requests at the same time.", 429)(scope, receive, answer)
            elif not await _left_within(receive, slow):
                await ((fault and fault.response()) or self._app)(scope, receive, answer)
        finally:
            done()

    @staticmethod
    def _note(request: Request, concurrent: bool) -> Json:
        headers = request.headers
        entry: Json = {"path": request.url.path, "query": request.url.query, "concurrent": concurrent, "status": None}
        for name in ("user-agent", "api-version", "accept", "from"):
            entry[name.replace("-", "_")] = headers.get(name)
        request.app.state.entries.append(entry)
        return entry

    @staticmethod
    def _due(request: Request) -> Fault | None:
        for fault in request.app.state.faults:
            if fault.times > 0 and request.url.path.startswith(fault.path_prefix):
                fault.times -= 1
                return fault  # type: ignore[no-any-return]
        return None


async def _left_within(receive: Receive, seconds: float) -> bool:
    """Wait. Whether the client left meanwhile."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while seconds and (await receive())["type"] != "http.disconnect":
                pass
            return bool(seconds)
    return False


async def journal(request: Request) -> Response:
    if request.method == "DELETE":
        request.app.state.entries.clear()
        return Response(status_code=204)
    return JSONResponse(list(request.app.state.entries))


async def fail(request: Request) -> Response:
    if request.method == "DELETE":
        request.app.state.faults.clear()
        return Response(status_code=204)
    try:
        request.app.state.faults.append(Fault(**json.loads(await request.body())))
    except (ValueError, TypeError) as error:
        return PlainTextResponse(f"This is no fault: {error}", 400)
    return Response(status_code=204)


# --- routes ----------------------------------------------------------------------------------------------------------


def shown(request: Request, answer: Json) -> Response:
    """As JSON where that is asked for, else as the page that browsers get, which is not JSON."""
    asked = request.query_params.get("format")
    accept = request.headers.get("accept", "application/json")
    headers = {"API-Version": "v1"}
    if asked not in (None, "json", "apibrowser") or not re.search(r"json|\*/\*|text/html|text/\*", asked or accept):
        return PlainTextResponse("This resource is not available in the requested format.", 406)
    if asked == "json" or (not asked and "application/json" in accept):
        return JSONResponse(answer, headers=headers)
    text = html.escape(json.dumps(answer, indent=4, ensure_ascii=False))
    return HTMLResponse(f"<!DOCTYPE html><title>API</title><pre>{text}</pre>", headers=headers)


def listing(table: str) -> Callable[[Request], Awaitable[Response]]:
    async def shows(request: Request) -> Response:
        return shown(request, page(table, request.url.path, request.query_params.multi_items()))

    return shows


async def detail(request: Request) -> Response:
    path = request.url.path
    if not path.endswith("/"):
        return RedirectResponse(request.url.replace(path=f"{path}/"), 301)
    record = house().at.get(path)
    if record is None:
        raise Missing
    return shown(request, record.seen(whole=True))


async def search_feed(request: Request) -> Response:
    if "q" not in request.query_params:
        raise Missing
    query = "".join(letter for letter in request.query_params["q"] if letter.isprintable())  # XML has no others
    return Response(feed(query), media_type="application/rss+xml")


async def postcode(request: Request) -> Response:
    code = request.path_params["code"]
    if not re.fullmatch(r"[A-Z]\d[A-Z]\d[A-Z]\d", code, re.ASCII):
        return PlainTextResponse("Postal codes must be in the format A1A1A1 (capital letters, no spaces).", 400)
    answer = postal(code)
    return JSONResponse(answer or {"detail": "Postal code not found."}, 200 if answer else 404)


async def legisinfo_bill(request: Request) -> Response:
    bill = legisinfo(request.path_params["session"], request.path_params["number"])
    if bill is None:
        raise Missing
    return JSONResponse([bill])


async def portrait(request: Request) -> Response:
    """The smallest picture there is."""
    return Response(b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\0;", media_type="image/gif")


async def refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, BadRequest):
        return PlainTextResponse(html.escape(str(error)), 400)
    return HTMLResponse("<!DOCTYPE html><html><title>Not found</title><h1>Page not found</h1></html>", 404)


def create_app(delay: float = 0.01) -> Starlette:
    """The stand-in, with at least `delay` seconds for every answer."""
    house()
    lists = {"votes/ballots": "ballots", "committees/meetings": "meetings", "politicians/memberships": "memberships"}
    lists |= {name: name for name in API}
    routes = [
        *(Route(f"/{path}/", listing(table)) for path, table in lists.items()),
        *(Route(f"/{name}/{{rest:path}}", detail) for name in API),
        Route("/search/feed/", search_feed),
        Route("/postcodes/{code}/", postcode),
        *(
            Route(f"/{name}/{{language}}/bill/{{session}}/{{number}}/json", legisinfo_bill)
            for name in ("LegisInfo", "legisinfo")
        ),
        Route("/media/polpics/{name}", portrait),
        Route("/_requests", journal, methods=["GET", "DELETE"]),
        Route("/_fail", fail, methods=["POST", "DELETE"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Desk, delay=delay)],
        exception_handlers={BadRequest: refuse, Missing: refuse, 404: refuse},
    )
    app.state.entries, app.state.faults = deque[Json](maxlen=MAX_ENTRIES), list[Fault]()
    return app
