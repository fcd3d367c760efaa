"""Types shared by the sources and by the tools. Imports no other module of this package."""

from dataclasses import dataclass
from typing import Any

from functions.common.language import Language

__all__ = ["Explained", "JsonObject", "Language", "RecordNotFound", "SourceError", "Text"]

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """A text in English and French. One of them may be missing."""

    en: str | None
    fr: str | None

    def in_(self, language: Language) -> str | None:
        """The text in the language, or in the other one where it is missing."""
        return (self.fr or self.en) if language == "fr" else (self.en or self.fr)


class Explained(Exception):
    """A failure that is explained to the model and the client in one sentence, without internal details."""

    def __init__(self, english: str, french: str | None = None) -> None:
        super().__init__(english)
        self.sentence = Text(english, french)


class SourceError(Explained):
    """A source has no answer."""


class RecordNotFound(SourceError):
    """The requested record does not exist."""
