"""Text helpers: choose the language, shorten, strip HTML, normalize for comparison, and read API values."""

import re
import unicodedata
from html import unescape
from typing import Any

from functions.chat.sources.base import Language


def localized(value: Any, language: Language) -> str | None:
    """The text of `{"en": …, "fr": …}` in the language, or in the other language where it is missing."""
    if isinstance(value, dict):
        value = value.get(language) or value.get("fr" if language == "en" else "en")
    return value if isinstance(value, str) and value else None


def localized_url(url: Any, language: Language) -> str | None:
    """A parl.ca URL, which the API returns in English, in the language."""
    return url.replace("/en/", f"/{language}/") if isinstance(url, str) and url else None


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
    """The text of an HTML fragment, with one paragraph per line."""
    text = re.sub(r"\s+", " ", html if isinstance(html, str) else "")
    text = re.sub(r"<br ?/?>|</p ?>", "\n", text, flags=re.IGNORECASE)
    text = unescape(re.sub(r"<[^<>]*>", "", text))
    return "\n".join(filter(None, (line.strip() for line in text.split("\n"))))


def normalize(text: Any) -> str:
    """The text for comparison, without accents, case and punctuation: O’Neil becomes oneil."""
    letters = unicodedata.normalize("NFKD", text if isinstance(text, str) else "").casefold()
    letters = re.sub(r"['’`]", "", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    return " ".join(re.sub(r"[^\w\s]|_", " ", letters).split())


def contains_words(words: str, *texts: Any) -> bool:
    """Whether one of the texts contains all the words, also as parts of longer words."""
    normalized = normalize(words).split()
    return any(all(word in text for word in normalized) for text in map(normalize, texts))


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
