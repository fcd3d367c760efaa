"""How results are shaped: in the asked language, without HTML, small enough for the model, each with its public page.

What is left out is counted and said, because a model takes a list for complete unless told otherwise.
"""

import re
import unicodedata
from collections.abc import Sequence
from html import unescape
from typing import TYPE_CHECKING, Any

import orjson

from functions.chat import limits
from functions.chat.tools import Found, Language, Source

if TYPE_CHECKING:
    from functions.chat.tools.parliament import Parliament

Record = dict[str, Any]
Entry = tuple[Record, Source]

# Commas, brackets and the names that stand around the items.
AROUND = 80


def said(value: Any, language: Language) -> str | None:
    """The text of `{"en": …, "fr": …}` in the language, or in the other one where there is none."""
    if isinstance(value, dict):
        value = value.get(language) or value.get("fr" if language == "en" else "en")
    return value if isinstance(value, str) and value else None


def in_language(url: Any, language: Language) -> str | None:
    """A parl.ca address, which the API gives in English, in the language."""
    return url.replace("/en/", f"/{language}/") if isinstance(url, str) and url else None


def shorten(text: str | None, characters: int) -> str | None:
    """The text cut at a word, with … where something is missing."""
    if text is None or len(text) <= characters:
        return text
    words = re.match(r"(.*\S)\s", text[:characters], flags=re.DOTALL)
    # A word that fills the whole room is cut anywhere.
    return f"{words[1] if words else text[: characters - 1]}…"


def plain(html: Any) -> str:
    """The text of a little HTML, paragraphs on lines of their own."""
    text = re.sub(r"\s+", " ", html if isinstance(html, str) else "")
    text = re.sub(r"<br ?/?>|</p ?>", "\n", text, flags=re.IGNORECASE)
    text = unescape(re.sub(r"<[^<>]*>", "", text))
    return "\n".join(filter(None, (line.strip() for line in text.split("\n"))))


def folded(text: Any) -> str:
    """The text for comparison: without accents, capitals and punctuation; O’Neil is oneil."""
    letters = unicodedata.normalize("NFKD", text if isinstance(text, str) else "").casefold()
    letters = re.sub(r"['’`]", "", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    return " ".join(re.sub(r"[^\w\s]|_", " ", letters).split())


def mentions(words: str, *texts: Any) -> bool:
    """Whether one of the texts has all the words, each at least as a part of one."""
    wanted = folded(words).split()
    return any(all(word in text for word in wanted) for text in map(folded, texts))


def fit(items: Sequence[Any], limit_characters: int) -> Record:
    """The first items that fit into so many characters of JSON, and how many were left out."""
    kept: list[Any] = []
    room = limit_characters
    for item in items:
        room -= characters(item) + 1
        if room < 0:
            break
        kept.append(item)
    return {"items": kept, "left_out": len(items) - len(kept)}


def characters(data: Any) -> int:
    """The length of the data's JSON, in characters."""
    return len(orjson.dumps(data).decode())


def listed(
    about: Record, sources: Sequence[Source], entries: Sequence[Entry], limit: int, *, more: bool = False
) -> Found:
    """What a list is about, then its first entries that fit, and the pages of what is told.

    `more` says that there are more beyond the entries, nobody knows how many.
    """
    shown = entries[:limit]
    fitted = fit([item for item, _ in shown], limits.TOOL_RESULT_CHARACTERS - characters(about) - AROUND)
    told = len(fitted["items"])
    data = {**about, "items": fitted["items"], "left_out": len(entries) - told, **({"more": True} if more else {})}
    return Found(data, [*sources, *(source for _, source in shown[:told])])


def speech_entry(parliament: "Parliament", speech: Record, language: Language, room: int) -> Entry:
    """A speech with its text, cut at `room` characters."""
    who = said(speech.get("attribution"), language)
    heading = said(speech.get("h2"), language) or said(speech.get("h1"), language)
    time = moment(speech.get("time"))
    url = parliament.page(speech.get("url"))
    item = {
        "time": time,
        "speaker": shorten(who, 200),
        "mp": slug_of(speech.get("politician_url")),
        "heading": shorten(heading, 200),
        "text": shorten(plain(said(speech.get("content"), language)), room),
        "url": url,
    }
    return item, Source(url, _titled(who, heading, time and time[:10]))


def speech_room(speeches: int) -> int:
    """How long the text of each of so many speeches may be: two thirds of the result go to texts."""
    return limits.TOOL_RESULT_CHARACTERS * 2 // (3 * max(speeches, 1))


def moment(time: Any) -> str | None:
    """A time of the API, in Ottawa and without a zone, as ISO 8601."""
    return time.replace(" ", "T", 1) if isinstance(time, str) else None


def slug_of(url: Any) -> str | None:
    """The last part of an object's address."""
    return url.rstrip("/").rpartition("/")[2] if isinstance(url, str) and url else None


def bill_of(url: Any) -> Record | None:
    """The bill that an address like /bills/45-1/C-5/ stands for."""
    parts = url.strip("/").split("/") if isinstance(url, str) else []
    return {"bill": parts[2], "session": parts[1]} if len(parts) == 3 else None


def member_source(parliament: "Parliament", member: Record) -> Source:
    """An MP's page."""
    return Source(parliament.page(member.get("url")), _titled(member.get("name") or slug_of(member.get("url"))))


def bill_source(parliament: "Parliament", bill: Record, language: Language) -> Source:
    """A bill's page."""
    name, number = said(bill.get("name"), language), bill.get("number")
    title = f"Projet de loi {number} : {name}" if language == "fr" else f"Bill {number}: {name}"
    return Source(parliament.page(bill.get("url")), _titled(title))


def vote_source(parliament: "Parliament", vote: Record, language: Language) -> Source:
    """A vote's page."""
    about, number = said(vote.get("description"), language), vote.get("number")
    title = f"Vote nº {number} : {about}" if language == "fr" else f"Vote {number}: {about}"
    return Source(parliament.page(vote.get("url")), _titled(title, vote.get("date")))


def member_in_short(parliament: "Parliament", member: Record, language: Language) -> tuple[Record, Source]:
    """Whom a result is about."""
    seats = member.get("memberships") or []
    seat = next((seat for seat in seats if not seat.get("end_date")), seats[0] if seats else {})
    riding = seat.get("riding") or {}
    source = member_source(parliament, member)
    short = {
        "mp": slug_of(member.get("url")),
        "name": member.get("name"),
        "party": said((seat.get("party") or {}).get("short_name"), language),
        "riding": said(riding.get("name"), language),
        "province": riding.get("province"),
        "sits_now": bool(seat) and not seat.get("end_date"),
        "url": source.url,
    }
    return short, source


def bill_in_short(parliament: "Parliament", bill: Record, language: Language) -> tuple[Record, Source]:
    """Which bill a result is about."""
    source = bill_source(parliament, bill, language)
    short = {
        "bill": bill.get("number"),
        "session": bill.get("session"),
        "title": shorten(said(bill.get("name"), language), 500),
        "status": said(bill.get("status"), language),
        "introduced": bill.get("introduced"),
        "legisinfo": in_language(bill.get("legisinfo_url"), language),
        "url": source.url,
    }
    return short, source


def committee_source(parliament: "Parliament", committee: Record, language: Language) -> Source:
    """A committee's page."""
    return Source(parliament.page(committee.get("url")), _titled(said(committee.get("name"), language)))


def _titled(*parts: Any) -> str:
    """A source's title: what is known of it, short enough for a line."""
    return shorten(", ".join(str(part) for part in parts if part), 160) or "openparliament.ca"
