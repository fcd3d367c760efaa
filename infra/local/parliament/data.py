"""The invented data: parties, people, ridings, bills, votes, sentences of speeches, committees and postal codes."""

from datetime import date
from typing import NamedTuple
from zoneinfo import ZoneInfo

SESSION, PREVIOUS_SESSION, SESSION_START = "45-1", "44-1", date(2026, 1, 12)
OTTAWA = ZoneInfo("America/Toronto")
SITE = "https://openparliament.ca"
API = ("politicians", "votes", "bills", "speeches", "debates", "committees")
DEFAULT_LIMIT, MAX_LIMIT, FEED_LIMIT = 20, 500, 15
MAX_LOGGED_REQUESTS = 5000  # more than one test run sends
NO_DATE = "0001-01-01T00:00:00"

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
# Members of earlier Parliaments, with their first and last day. The second has no slug: the first one has it.
FORMER = """
Heron    M NB 2006-01-23 2015-10-18 Basil Wrenfield Testbrook
Cordwood M ON 2019-10-21 2025-03-22 Basil Wrenfield Motif Park
"""
MINISTER, SPEAKER = "fern-quillwater", "tobias-hollowmere"
# Members who never speak, 40 of each party: a party is large enough for 20 of its members to differ from the others.
BACKBENCH_PARTIES = ("Heron", "Juniper")
BACKBENCH_PROVINCES = ("ON", "MB", "BC", "AB")
GIVEN_NAMES = ("Abel", "Beryl", "Cyrus", "Delia", "Emrys", "Flora", "Gideon", "Hazel", "Ivor", "Junia")
FAMILY_NAMES = (
    "Alderlock",
    "Birchwick",
    "Cedarholm",
    "Dalewren",
    "Elmstead",
    "Fernlow",
    "Gorsefield",
    "Heathmoor",
    "Ivyreed",
    "Kelpstone",
)
BACKBENCH_RIDINGS = ("Almanac", "Ballad", "Canto", "Dactyl", "Elegy", "Fanfare", "Glossary", "Haiku", "Idyll", "Jingle")
RIDING_PARTS = ("North", "South", "East", "West", "Upper", "Lower", "Inner", "Outer")
# The first one's seat was won in a by-election; the second one's seat is vacant.


class Office(NamedTuple):
    """An office of the government. `kind` is a list of ourcommons.ca; `until` is empty for the present holder."""

    kind: str
    person: str
    title_en: str
    title_fr: str
    since: str
    until: str = ""


# In the order of precedence.
OFFICES = (
    Office("ministries", "barnaby-tidewell", "Prime Minister", "Premier ministre", "2026-01-12"),
    Office("ministries", "odalys-brambleton", "Minister of Finance", "Ministre des Finances", "2026-01-12"),
    Office("ministries", "kenji-stonewillow", "Minister of Snow", "Ministre de la Neige", "2026-01-12", "2026-05-01"),
    Office(
        "ministries",
        MINISTER,
        "Minister of Wharves, Ferries and Puddles",
        "Ministre des Quais, des Traversiers et des Flaques",
        "2026-01-12",
    ),
    Office(
        "parliamentary-secretaries",
        "anjali-moonwillow",
        "Parliamentary Secretary to the Minister of Finance",
        "Secrétaire parlementaire du ministre des Finances",
        "2026-02-02",
    ),
)
LEFT_ON = {"ottoline-greyfeather": date(2026, 5, 15), "beryl-birchwick": date(2026, 9, 11)}
JOINED_ON = {"percival-quillwater": date(2026, 6, 8)}  # won her seat in a by-election
# The new party, and the first day in it. Both days are between two votes.
CHANGED_PARTY = {
    "sixtus-plumbrook": ("Independent", date(2026, 5, 20)),
    "cyrus-cedarholm": ("Juniper", date(2026, 6, 8)),
}

# The fields of model.Bill.
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
C-12|An Act for granting certain sums for community kites|Community Kites Act|Loi accordant certaines sommes aux cerfs-volants communautaires|Loi sur les cerfs-volants communautaires|2026-10-06|HouseInCommittee|amadou-rivercrane|community kites|des cerfs-volants communautaires
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
# The fields of model.Vote. Of the supporters, `*` is a free vote, a final `=` makes a tie, and a final `+20J` adds 20
# members of a party that is against.
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
2026-10-20 C-12 second HL+20J
"""
VOTE_DESCRIPTIONS = {
    "second": ("2nd reading of {bill}, {name}", "2e lecture du {bill}, {name}"),
    "third": ("3rd reading and adoption of {bill}, {name}", "3e lecture et adoption du {bill}, {name}"),
    "report": ("Concurrence at report stage of {bill}, {name}", "Adoption à l’étape du rapport du {bill}, {name}"),
    "amendment": ("{bill}, {name} (report stage amendment)", "{bill}, {name} (amendement à l’étape du rapport)"),
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
# LEGISinfo's dates of events without a recorded vote of the House: in the Senate, royal assent, unrecorded votes.
EVENTS_WITHOUT_VOTES = {
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
LEGISINFO_EVENTS = [
    f"Passed{chamber}{name}Reading" for chamber in ("House", "Senate") for name in ("First", "Second", "Third")
]
LEGISINFO_EVENTS += ["ReceivedRoyalAssent"]
# Sitting days without a vote.
DAYS_WITHOUT_VOTES = ("2026-02-03",)
# The number of speeches in the debate of a bill, where it is not 8.
DEBATE_LENGTHS = {("2026-03-10", "C-5"): 70, ("2026-03-11", "C-5"): 30, ("2026-05-26", "C-5"): 16}
# Bills debated on a day, in addition to those voted on.
BILLS_DEBATED = {"2026-03-10": ["C-5"], "2026-09-22": ["C-11"], "2026-09-03": ["C-6"], "2026-10-20": ["C-12", "C-201"]}
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
# By slug: English name, French name, acronym, slug of the parent.
COMMITTEES = {
    "wharves": ("Wharves, Ferries and Puddles", "Quais, traversiers et flaques", "WHAR", None),
    "birds": ("Birds and Census", "Oiseaux et recensement", "BIRD", None),
    "winter": ("Winter Life", "Vie hivernale", "WINT", None),
    "calendars": ("Calendars and Holidays", "Calendriers et congés", "CALE", None),
    "stories": ("Stories and Heritage", "Contes et patrimoine", "STOR", None),
    "winter-mittens": ("Subcommittee on Mittens", "Sous-comité des mitaines", "SMIT", "winter"),
}
# By postal code: city, province, and the members of Represent's two lists, representatives_centroid and
# representatives_concordance. None leaves the list out.
POSTAL_CODES: dict[str, tuple[str, str, list[str] | None, list[str] | None]] = {
    "K1A0A6": ("Ottawa", "ON", ["fern-quillwater"], ["fern-quillwater"]),
    "H2X1Y4": ("Montréal", "QC", ["theodule-vertegrange"], None),
    "T5J0N3": ("Edmonton", "AB", None, ["solveig-frostwren"]),
    "V6B1A1": ("Vancouver", "BC", ["maribel-thistledown"], ["hester-pinebarrow", "maribel-thistledown"]),
    "N0G1A0": ("Exemplar", "ON", ["percival-quillwater"], ["odalys-brambleton", "percival-quillwater"]),
    "R3C0V8": ("Winnipeg", "MB", ["beryl-birchwick"], None),  # the seat is vacant
}
