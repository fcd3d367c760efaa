"""Writes the results of tools as an answer that a person can read, in English or French, with links to the pages.

It knows no tool, but fields: which of them names a record, and the phrase of each other one. Fields without a phrase
are left out.
"""

import json
import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from infra.local.model.text import Json

Language = Literal["en", "fr"]

# An answer is short: the history of later questions has its text.
MAX_RESULTS, MAX_ITEMS = 3, 3
MAX_TITLE, MAX_QUOTATION = 80, 120
MONTHS = {
    "en": "January,February,March,April,May,June,July,August,September,October,November,December",
    "fr": "janvier,février,mars,avril,mai,juin,juillet,août,septembre,octobre,novembre,décembre",
}
NOTES = {
    "en": "*Stand-in: no model was asked.*",
    "fr": "*Réponse factice : aucun modèle n’a été consulté.*",
}
SAID = {"en": "A tool answered: “{}”.", "fr": "Un outil a répondu : « {} »."}
NOTHING = {
    "en": "The public record has nothing on this.",
    "fr": "Les documents publics ne contiennent rien à ce sujet.",
}
MORE = {"en": "and {} more", "fr": "et {} de plus"}

# How a record is named: by its first field of these that has a value.
LABELS = {
    "speaker": ("{}", "{}"),
    "name": ("{}", "{}"),
    "bill": ("Bill {}", "projet de loi {}"),
    "about": ("{}", "{}"),
    "heading_and_speaker": ("{}", "{}"),
    "title": ("{}", "{}"),
    "subject": ("{}", "{}"),
    "stage": ("{}", "{}"),
    "meeting": ("Meeting {}", "réunion {}"),
    "organization": ("{}", "{}"),
    "mp": ("{}", "{}"),
    "from": ("From {}", "À partir de {}"),
    "party": ("{}", "{}"),
}
# What follows the name: what describes it, in brackets what it belongs to, and after a colon what is true of it. A
# value of True or False selects its phrase.
APPOSITIONS = {
    "short_title": ("the *{}*", "*{}*"),
    "title": ("*{}*", "*{}*"),
    "heading": ("{}", "{}"),
    "time": ("{}", "{}"),
    "date": ("{}", "{}"),
}
BRACKETS = {"party": ("{}", "{}"), "riding": ("{}", "{}"), "chamber": ("{}", "{}")}
FACTS: dict[str, tuple[str, str] | dict[bool, tuple[str, str]]] = {
    "office": ("{}", "{}"),
    "role": ("{}", "{}"),
    "since": ("since {}", "depuis le {}"),
    "status": ("{}", "{}"),
    "law": {True: ("it is law", "a force de loi"), False: ("it is not law yet", "n’est pas encore une loi")},
    "introduced": ("introduced on {}", "déposé le {}"),
    "sponsor": ("sponsored by {}", "parrainé par {}"),
    "ballot": ("{}", "{}"),
    "vote": ("{}", "{}"),
    "result": ("{}", "{}"),
    "yea": ("{} for", "{} pour"),
    "nay": ("{} against", "{} contre"),
    "reports": ("{} reports", "{} rapports"),
    "amount": ("${}", "{}\u00a0$"),
    "total": ("${} in total", "{}\u00a0$ au total"),
    "travel": ("${} on travel", "{}\u00a0$ en déplacements"),
    "hospitality": ("${} on hospitality", "{}\u00a0$ en accueil"),
    "rank_of_total": ("rank {}", "rang {}"),
    "text": ("“{}”", "« {} »"),
    "excerpt": ("“{}”", "« {} »"),
    "email": ("{}", "{}"),
    "telephone": ("{}", "{}"),
}
HEADINGS = {
    "vacant_ridings": ("The seat is vacant:", "Le siège est vacant :"),
    "most_reports_by": ("Most by:", "Le plus par :"),
    "stages": ("Stages:", "Étapes :"),
    "subjects": ("Debated:", "Débattu :"),
    "votes": ("Votes:", "Votes :"),
    "parties": ("By party:", "Par parti :"),
    "asked_about": ("The member in question:", "Le ou la députée en question :"),
    "differed_from_most_of_party": ("Against most of their party:", "Contre la majorité de leur parti :"),
}


def written(results: Sequence[str], language: Language) -> str:
    """The answer, in Markdown. An error, and a result that is not a JSON object, is quoted."""
    paragraphs = [_paragraph(result, language) for result in results[:MAX_RESULTS]]
    return "\n\n".join([*paragraphs, NOTES[language]])


def _paragraph(result: str, language: Language) -> str:
    try:
        data = json.loads(result)
    except ValueError:
        data = None
    if not isinstance(data, dict) or isinstance(data.get("error"), str):
        said = data["error"] if isinstance(data, dict) else result
        return SAID[language].format(said[:MAX_QUOTATION])
    return "\n".join(_lines(data, language)) or NOTHING[language]


def _lines(data: Json, language: Language) -> list[str]:
    """The record's own sentence, then the items of its lists. Without a name, its page comes last."""
    sentence = _sentence(data, language) if isinstance(data.get("url"), str) else ""
    lines = [f"{_capital(sentence)}."] if sentence else []
    for name, value in data.items():
        items = value["items"] if isinstance(value, dict) and "items" in value else value
        if isinstance(value, dict) and "url" in value and name not in FACTS:
            lines += [f"{_capital(inner)}."] if (inner := _sentence(value, language)) else []
        elif isinstance(items, list) and any(_has_lists(item) for item in items):
            lines += [line for item in items for line in _lines(item, language)]
        elif isinstance(items, list) and (name == "items" or name in HEADINGS):
            lines += _list(name, value if isinstance(value, dict) else {**data, "items": items}, language)
    if lines and not sentence and isinstance(data.get("url"), str):
        lines += ["", f"[Source]({data['url']})"]
    return lines


def _has_lists(item: Any) -> bool:
    return isinstance(item, dict) and any(isinstance(value, list) for value in item.values())


def _list(name: str, fitted: Json, language: Language) -> list[str]:
    """The first items of a list under its heading. One item alone is a sentence."""
    items = [_capital(line) for item in fitted["items"] if (line := _sentence(item, language))]
    heading = [_of(HEADINGS[name], language)] if name in HEADINGS else []
    if len(items) < 2:
        return [" ".join([*heading, f"{line}."]) for line in items]
    left = len(items) - MAX_ITEMS + fitted.get("left_out", 0)
    more = [f"- {MORE[language].format(left)}"] if left > 0 else []
    return ["", *heading, *(f"- {line}" for line in items[:MAX_ITEMS]), *more]


def _sentence(record: Any, language: Language) -> str:
    """A record as its linked name and what is known of it; empty where it has no name. A text is written as it is."""
    if not isinstance(record, dict):
        return str(record)
    named = next((name for name in LABELS if isinstance(record.get(name), str | int)), None)
    if named is None:
        return ""
    label = _cut(_of(LABELS[named], language).format(record[named]), MAX_TITLE)
    known = {name: value for name, value in record.items() if name != named and value not in (None, "")}
    if "short_title" in known:
        known.pop("title", None)
    described, within, facts = (
        [fact for name, phrase in table.items() if (fact := _fact(phrase, known.get(name), language))]
        for table in (APPOSITIONS, BRACKETS, FACTS)
    )
    url = record.get("url")
    text = ", ".join([f"[{label}]({url})" if isinstance(url, str) else label, *described])
    text += f" ({', '.join(within)})" if within else ""
    return f"{text}{' :' if language == 'fr' else ':'} {', '.join(facts)}" if facts else text


def _fact(phrase: Any, value: Any, language: Language) -> str:
    """The phrase with the value; empty where the value does not fit it."""
    if isinstance(phrase, dict):
        return _of(phrase[value], language) if isinstance(value, bool) else ""
    if isinstance(value, dict):
        text = _sentence(value, language)
    elif isinstance(value, list | bool) or value is None or str(value).startswith("http"):
        return ""
    elif isinstance(value, int) and _of(phrase, language) == "{}":
        return ""  # a bare number means nothing to a reader
    elif "$" in _of(phrase, language):
        text = _money(str(value), language)
    else:
        text = _day(str(value), language) or _cut(str(value).replace("\n", " "), MAX_QUOTATION)
    return _of(phrase, language).format(text) if text else ""


def _money(amount: str, language: Language) -> str:
    """An amount such as 127030.98: 127,030.98, in French 127 030,98 with no-break spaces."""
    text = f"{Decimal(amount):,}"
    return text.translate({ord(","): "\u00a0", ord("."): ","}) if language == "fr" else text


def _of(pair: Any, language: Language) -> str:
    return str(pair[language == "fr"])


def _capital(text: str) -> str:
    """The text with a capital first letter, also inside a link."""
    return re.sub(r"\w", lambda letter: letter[0].upper(), text, count=1)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit].rpartition(' ')[0] or text[:limit]}…"


def _day(text: str, language: Language) -> str | None:
    """An ISO date or time as a day; None for other texts."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T[\d:.]+)?", text):
        return None
    day = date.fromisoformat(text[:10])
    month = MONTHS[language].split(",")[day.month - 1]
    if language == "en":
        return f"{month} {day.day}, {day.year}"
    return f"{'1er' if day.day == 1 else day.day} {month} {day.year}"
