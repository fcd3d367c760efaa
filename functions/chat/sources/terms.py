"""The closed lists of the public record in both languages. openparliament.ca has them in English only.

Sources: the choices in parliament/bills/models.py and parliament/core/fixtures/parties.json of
github.com/michaelmulley/openparliament; the French of LEGISinfo and of the House.
"""

from collections.abc import Mapping

from functions.chat.sources.base import Language, Text
from functions.chat.sources.text import normalize

INDEPENDENT = "Independent"

CHOICES: Mapping[str, Text] = {
    "Yes": Text("Yes", "Pour"),
    "No": Text("No", "Contre"),
    "Paired": Text("Paired", "Pairé"),
    "Didn't vote": Text("Didn't vote", "N’a pas voté"),
}
RESULTS: Mapping[str, Text] = {
    "Passed": Text("Passed", "Adopté"),
    "Failed": Text("Failed", "Rejeté"),
    "Tie": Text("Tie", "Égalité"),
}
CHAMBERS: Mapping[str, Text] = {
    "House": Text("House", "Chambre des communes"),
    "Senate": Text("Senate", "Sénat"),
}
# By the status code.
STATUSES: Mapping[str, Text] = {
    "BillNotActive": Text("Not active", "Inactif"),
    "WillNotBeProceededWith": Text("Dead", "Mort au Feuilleton"),
    "RoyalAssentAwaiting": Text("Awaiting royal assent", "En attente de la sanction royale"),
    "BillDefeated": Text("Defeated", "Rejeté"),
    "HouseAtReportStage": Text("Report stage (House)", "À l’étape du rapport à la Chambre des communes"),
    "SenateAtReportStage": Text("Report stage (Senate)", "À l’étape du rapport au Sénat"),
    "RoyalAssentGiven": Text("Law (royal assent given)", "Loi (sanction royale reçue)"),
    "SenateAt1stReading": Text("First reading (Senate)", "À l’étape de la première lecture au Sénat"),
    "HouseAt1stReading": Text("First reading (House)", "À l’étape de la première lecture à la Chambre des communes"),
    "HouseAtReferralToCommitteeBeforeSecondReading": Text(
        "Referral to committee before 2nd reading (House)",
        "Au renvoi à un comité avant la deuxième lecture à la Chambre des communes",
    ),
    "HouseAt2ndReading": Text("Second reading (House)", "À l’étape de la deuxième lecture à la Chambre des communes"),
    "HouseAtReportStageAndSecondReading": Text(
        "Report stage and second reading (House)",
        "À l’étape du rapport et de la deuxième lecture à la Chambre des communes",
    ),
    "SenateAt2ndReading": Text("Second reading (Senate)", "À l’étape de la deuxième lecture au Sénat"),
    "SenateAt3rdReading": Text("Third reading (Senate)", "À l’étape de la troisième lecture au Sénat"),
    "HouseAt3rdReading": Text("Third reading (House)", "À l’étape de la troisième lecture à la Chambre des communes"),
    "HouseInCommittee": Text("In committee (House)", "À l’étude en comité à la Chambre des communes"),
    "SenateInCommittee": Text("In committee (Senate)", "À l’étude en comité au Sénat"),
    "SenateConsiderationOfCommitteeReport": Text(
        "Considering committee report (Senate)", "À l’étude du rapport du comité au Sénat"
    ),
    "HouseConsiderationOfCommitteeReport": Text(
        "Considering committee report (House)", "À l’étude du rapport du comité à la Chambre des communes"
    ),
    "SenateConsiderationOfAmendments": Text("Considering amendments (Senate)", "À l’étude des amendements au Sénat"),
    "HouseConsiderationOfAmendments": Text(
        "Considering amendments (House)", "À l’étude des amendements à la Chambre des communes"
    ),
    "Introduced": Text("Introduced", "Déposé"),
    "ProForma": Text(
        "Pro forma bill, not meant to become law", "Projet de loi pro forma, qui n’est pas destiné à devenir loi"
    ),
    "SenateBillWaitingHouse": Text(
        "Senate bill, now waiting to be considered in the House",
        "Projet de loi du Sénat en attente de la première lecture à la Chambre des communes",
    ),
    "HouseBillWaitingSenate": Text(
        "Bill passed the House, now waiting to be considered in the Senate",
        "Projet de loi de la Chambre des communes en attente de la première lecture au Sénat",
    ),
    "OutsideOrderPrecedence": Text(
        "Outside the Order of Precedence: a private member's bill that is not among those drawn for debate",
        "Hors de l’ordre de priorité : projet de loi d’un député qui n’est pas parmi ceux tirés au sort",
    ),
    "SenConsideringHouseAmendments": Text(
        "At consideration in the Senate of amendments made by the House of Commons",
        "À l’étude au Sénat des amendements apportés par la Chambre des communes",
    ),
    "HouseConsideringSenAmendments": Text(
        "At consideration in the House of Commons of amendments made by the Senate",
        "À l’étude à la Chambre des communes des amendements apportés par le Sénat",
    ),
}
# By the short name of openparliament.ca: the parties that have had members of the House since 1994.
PARTIES: Mapping[str, Text] = {
    "Liberal": Text("Liberal", "Libéral"),
    "Conservative": Text("Conservative", "Conservateur"),
    "Bloc": Text("Bloc", "Bloc"),
    "NDP": Text("NDP", "NPD"),
    "Green": Text("Green", "Vert"),
    INDEPENDENT: Text(INDEPENDENT, "Indépendant"),
    "Canadian Alliance": Text("Canadian Alliance", "Alliance canadienne"),
    "Progressive Conservative": Text("Progressive Conservative", "Progressiste-conservateur"),
    "Reform": Text("Reform", "Réformiste"),
    "Forces et Démocratie": Text("Forces et Démocratie", "Forces et Démocratie"),
}
PARTY_NAMES: Mapping[str, Text] = {
    "Liberal": Text("Liberal Party of Canada", "Parti libéral du Canada"),
    "Conservative": Text("Conservative Party of Canada", "Parti conservateur du Canada"),
    "Bloc": Text("Bloc Québécois", "Bloc Québécois"),
    "NDP": Text("New Democratic Party", "Nouveau Parti démocratique"),
    "Green": Text("Green Party of Canada", "Parti vert du Canada"),
    INDEPENDENT: Text(INDEPENDENT, "Indépendant"),
    "Canadian Alliance": Text("Canadian Alliance", "Alliance canadienne"),
    "Progressive Conservative": Text("Progressive Conservative", "Parti progressiste-conservateur"),
    "Reform": Text("Reform Party of Canada", "Parti réformiste du Canada"),
    "Forces et Démocratie": Text("Forces et Démocratie", "Forces et Démocratie"),
}
# Beginnings of words, without accents.
PARTY_WORDS: Mapping[str, tuple[str, ...]] = {
    "Liberal": ("liberal", "liberaux", "lpc", "plc"),
    "Conservative": ("conservat", "tory", "tories", "cpc", "pcc"),
    "Bloc": ("bloc", "bloquiste", "bq"),
    "NDP": ("ndp", "npd", "new democrat", "nouveau parti democratique", "neo democrat"),
    "Green": ("green", "vert", "gpc", "pvc"),
    INDEPENDENT: ("independ",),
    "Canadian Alliance": ("canadian alliance", "alliance canadienne", "reform conservative alliance"),
    "Progressive Conservative": ("progressive conservat", "progressiste conservat"),
    "Reform": ("reform", "reformiste"),
    "Forces et Démocratie": ("forces et democratie",),
}


_SHORT_NAMES = {
    normalize(name.removesuffix(" of Canada").removesuffix(" du Canada") if cut else name): short
    for short in PARTIES
    for text in (PARTIES[short], PARTY_NAMES[short])
    for name in (short, text.en or "", text.fr or "")
    for cut in (False, True)
}


def bill_status(code: str | None, status: str | None, language: Language) -> str | None:
    """A bill's status in the language, given its code and its status in English. An unknown code keeps the English."""
    text = STATUSES.get(code or "")
    return (text and text.in_(language)) or status


def chamber_name(chamber: str | None, language: Language) -> str | None:
    """A chamber's name in the language: House or Senate."""
    text = CHAMBERS.get(chamber or "")
    return (text and text.in_(language)) or chamber


def party_name(party: str | None, language: Language) -> str:
    """A party's short name in the language."""
    if party is None:
        return "inconnu" if language == "fr" else "unknown"
    text = PARTIES.get(party)
    return (text and text.in_(language)) or party


def party_in(party: str | None, language: Language) -> str | None:
    """The name of a party as another source writes it, such as Green Party, in the language. Unknown names are kept."""
    return party_name(_SHORT_NAMES.get(normalize(party), party), language) if party else party


def party_full_name(party: str | None, name: str | None, language: Language) -> str:
    """A party's name in the language, given its short name and its name in English."""
    text = PARTY_NAMES.get(party or "") if language == "fr" or not name else None
    return (text and text.in_(language)) or name or party_name(party, language)


def matches_party(words: str, party: str) -> bool:
    """Whether the words name the party, in either language: Conservateurs, NPD, "Liberal Party of Canada"."""
    requested, name = f" {normalize(words)}", normalize(party)
    known = PARTY_WORDS.get(party, (name,))
    return any(f" {word}" in requested for word in known) or f" {name}".startswith(requested)
