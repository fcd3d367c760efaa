"""The closed lists of the public record in both languages. openparliament.ca has them in English only."""

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
# By the short name of openparliament.ca.
PARTIES: Mapping[str, Text] = {
    "Liberal": Text("Liberal", "Libéral"),
    "Conservative": Text("Conservative", "Conservateur"),
    "Bloc": Text("Bloc", "Bloc"),
    "NDP": Text("NDP", "NPD"),
    "Green": Text("Green", "Vert"),
    INDEPENDENT: Text(INDEPENDENT, "Indépendant"),
}
PARTY_NAMES: Mapping[str, Text] = {
    "Liberal": Text("Liberal Party of Canada", "Parti libéral du Canada"),
    "Conservative": Text("Conservative Party of Canada", "Parti conservateur du Canada"),
    "Bloc": Text("Bloc Québécois", "Bloc Québécois"),
    "NDP": Text("New Democratic Party", "Nouveau Parti démocratique"),
    "Green": Text("Green Party of Canada", "Parti vert du Canada"),
    INDEPENDENT: Text(INDEPENDENT, "Indépendant"),
}
# Beginnings of words, without accents.
PARTY_WORDS: Mapping[str, tuple[str, ...]] = {
    "Liberal": ("liberal", "liberaux", "lpc", "plc"),
    "Conservative": ("conservat", "tory", "tories", "cpc", "pcc"),
    "Bloc": ("bloc", "bloquiste", "bq"),
    "NDP": ("ndp", "npd", "new democrat", "nouveau parti democratique", "neo democrat"),
    "Green": ("green", "vert", "gpc", "pvc"),
    INDEPENDENT: ("independ",),
}


def party_name(party: str | None, language: Language) -> str:
    """A party's short name in the language."""
    if party is None:
        return "inconnu" if language == "fr" else "unknown"
    text = PARTIES.get(party)
    return (text and text.in_(language)) or party


def party_full_name(party: str | None, name: str | None, language: Language) -> str:
    """A party's name in the language, given its short name and its name in English."""
    text = PARTY_NAMES.get(party or "") if language == "fr" or not name else None
    return (text and text.in_(language)) or name or party_name(party, language)


def matches_party(words: str, party: str) -> bool:
    """Whether the words name the party, in either language: Conservateurs, NPD, "Liberal Party of Canada"."""
    requested, name = f" {normalize(words)}", normalize(party)
    known = PARTY_WORDS.get(party, (name,))
    return any(f" {word}" in requested for word in known) or f" {name}".startswith(requested)
