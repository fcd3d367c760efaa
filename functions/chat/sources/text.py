"""Text helpers: choose the language, shorten, strip HTML, normalize for comparison, and read API values."""

import re
import unicodedata
from html import unescape
from typing import Any

from functions.chat.sources.base import Language, Text

_SPOKEN_IN = {
    ("en", "en"): "spoken in English",
    ("en", "fr"): "spoken in French",
    ("fr", "en"): "prononcé en anglais",
    ("fr", "fr"): "prononcé en français",
}
_PARLIAMENTS_PAGE = re.compile(
    r"^(https?://(?:www\.)?(?:parl|ourcommons|sencanada)\.ca/(?:[^/?#]+/)?)en(/|$)", re.IGNORECASE
)
_HONORIFICS = re.compile(r"\b(?:dr|l?hon|l?honorable|honourable|m|madame|mme|mr|mrs|ms|monsieur|right|rt|the|tres)\b")
_PARAGRAPH = re.compile(r'<p\b[^<>]*\bdata-originallang="(en|fr)"[^<>]*>', re.IGNORECASE)


def localized(value: Any, language: Language) -> str | None:
    """The text of `{"en": …, "fr": …}` in the language, or in the other language where it is missing."""
    if isinstance(value, dict):
        value = value.get(language) or value.get("fr" if language == "en" else "en")
    return value if isinstance(value, str) and value else None


def bilingual(value: Any) -> Text | None:
    """The text of `{"en": …, "fr": …}`, or of a string in English. None where both languages are missing."""
    if isinstance(value, str):
        value = {"en": value}
    if not isinstance(value, dict):
        return None
    english, french = (text if isinstance(text := value.get(key), str) and text else None for key in ("en", "fr"))
    return Text(english, french) if english or french else None


def localized_url(url: Any, language: Language) -> str | None:
    """A page, in the language where it is one of Parliament's own sites, which the API names in English."""
    if not isinstance(url, str) or not url:
        return None
    return _PARLIAMENTS_PAGE.sub(rf"\g<1>{language}\g<2>", url)


def shorten(text: str | None, limit_bytes: int) -> str | None:
    """The text, cut between words and ended with … where it has more than `limit_bytes` in UTF-8."""
    if text is None or len(text.encode()) <= limit_bytes:
        return text
    start = text.encode()[: limit_bytes - len("…".encode())].decode(errors="ignore")
    followed_by_space = text[len(start)].isspace()
    words = re.match(r"(.*\S)\s", start, flags=re.DOTALL)
    # A single word longer than the limit is cut inside the word.
    return f"{start.rstrip() if followed_by_space or words is None else words[1]}…"


def html_to_text(html: Any) -> str:
    """The text of an HTML fragment, with one paragraph or row of a table per line. Cells are separated by |."""
    text = re.sub(r"\s+", " ", html if isinstance(html, str) else "")
    text = re.sub(r"</t[dh] ?>(?= ?<t[dh]\b)", " | ", text, flags=re.IGNORECASE)
    text = re.sub(r"<br ?/?>|</(?:p|tr|li|h[1-6]|div|blockquote|caption|table) ?>", "\n", text, flags=re.IGNORECASE)
    text = unescape(re.sub(r"<[^<>]*>", "", text))
    return "\n".join(filter(None, (line.strip() for line in text.split("\n"))))


def original_languages(content: Text | None) -> tuple[Language, ...]:
    """The languages in which the paragraphs of a transcript were spoken: en, fr, or both."""
    html = (content.en or content.fr if content else None) or ""
    found = set(_PARAGRAPH.findall(html))
    languages: tuple[Language, ...] = ("en", "fr")
    return tuple(language for language in languages if language in found)


def transcript_to_text(content: Text | None, language: Language) -> str:
    """The text of a transcript. Where it was spoken in two languages, each change of the language is marked."""
    html = (content.in_(language) if content else None) or ""
    if len(original_languages(content)) < 2:
        return html_to_text(html)
    previous = None

    def mark(paragraph: re.Match[str]) -> str:
        nonlocal previous
        changed, previous = paragraph[1] != previous, paragraph[1]
        return f"{paragraph[0]}[{_SPOKEN_IN[language, paragraph[1]]}] " if changed else paragraph[0]

    return html_to_text(_PARAGRAPH.sub(mark, html))


def normalize(text: Any) -> str:
    """The text for comparison, without accents, case and punctuation: O’Neil becomes oneil."""
    letters = unicodedata.normalize("NFKD", text if isinstance(text, str) else "").casefold()
    letters = re.sub(r"['’`]", "", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    return " ".join(re.sub(r"[^\w\s]|_", " ", letters).split())


def contains_words(words: str, *texts: Any) -> bool:
    """Whether one of the texts contains all the words, also as parts of longer words. False where there is no word."""
    normalized = normalize(words).split()
    return bool(normalized) and any(all(word in text for word in normalized) for text in map(normalize, texts))


def person_name(name: str | None) -> str:
    """A person's name for comparison: normalized, without honorifics. "Quillwater, Hon. Fern" is fern quillwater."""
    last, comma, first = (name or "").partition(",")
    return " ".join(_HONORIFICS.sub(" ", normalize(f"{first} {last}" if comma else name)).split())


def iso_time(time: Any) -> str | None:
    """A time of the API, which is Ottawa time without a zone, as ISO 8601."""
    return time.replace(" ", "T", 1) if isinstance(time, str) else None


def slug_of(url: Any) -> str | None:
    """The last segment of a record's path: fern-quillwater of /politicians/fern-quillwater/."""
    return url.rstrip("/").rpartition("/")[2] if isinstance(url, str) and url else None


def bill_reference(url: Any) -> dict[str, str] | None:
    """The number and session of the bill at a path such as /bills/45-1/C-5/."""
    parts = url.strip("/").split("/") if isinstance(url, str) else []
    return {"bill": parts[2], "session": parts[1]} if len(parts) == 3 else None
