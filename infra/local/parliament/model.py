"""The types that the invented records are built from, and helpers for names and paths."""

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import urlencode

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the API. Lists show `listed`; its own page adds `details`; filters compare `filter_values`."""

    url: str
    listed: Json
    details: Json = field(default_factory=dict)
    filter_values: Json = field(default_factory=dict)

    def to_json(self, with_details: bool = False) -> Json:
        url = {"url": self.url} if self.url else {}  # a ballot has no URL
        return {**self.listed, **(self.details if with_details else {}), **url}


@dataclass(frozen=True, slots=True)
class Term:
    """A membership: one person, for one party, in one riding."""

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
    """A member, present or former. `slug` is empty where another person has it already."""

    number: int
    slug: str
    name: str
    gender: str
    province: str
    terms: tuple[Term, ...]
    backbench: bool = False  # votes, and never speaks

    @property
    def identifier(self) -> str:
        return self.slug or str(self.number)

    @property
    def url(self) -> str:
        return f"/politicians/{self.identifier}/"

    @property
    def current_term(self) -> Term | None:
        return next((term for term in self.terms if term.end is None), None)

    def term_on(self, day: date) -> Term | None:
        return next((term for term in self.terms if term.start <= day < (term.end or date.max)), None)


class Ballot(NamedTuple):
    person: Person
    term: Term
    choice: str


class PartyVote(NamedTuple):
    """A party's vote, and the share of its members who voted against its majority."""

    choice: str
    disagreement: float


class Bill(NamedTuple):
    number: str
    title_en: str
    short_title_en: str
    title_fr: str
    short_title_fr: str
    introduced: str
    status: str
    sponsor: str
    topic_en: str
    topic_fr: str

    @property
    def topic(self) -> tuple[str, str]:
        return self.topic_en, self.topic_fr


class Vote(NamedTuple):
    """A planned vote. `subject` is a bill's number or a motion's subject; `supporters` are the initials of parties."""

    day: str
    subject: str
    kind: str
    supporters: str


def fold(text: str) -> str:
    """The text without accents, in lower case."""
    return "".join(letter for letter in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(letter))


def slugify(text: str) -> str:
    return re.sub(r"\s+", "-", re.sub(r"[’']", "", fold(text)))


def bilingual(english: Any, french: Any) -> Json:
    return {"en": english, "fr": french}


def debate_path(day: date) -> str:
    return f"/debates/{day.year}/{day.month}/{day.day}/"


def speeches_path(document: str) -> str:
    """The list of a debate's or a meeting's speeches."""
    return f"/speeches/?{urlencode({'document': document})}"
