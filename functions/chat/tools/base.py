"""Types shared by the tools and by their callers. Imports no other module of this package."""

from dataclasses import dataclass

from functions.chat.sources.base import Explained, JsonObject


class ToolError(Explained):
    """A call failed."""


@dataclass(frozen=True, slots=True)
class Source:
    """A public page that a result is based on. `title` is in the requested language."""

    url: str
    title: str


@dataclass(frozen=True, slots=True)
class Definition:
    """A tool as providers receive it. `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: JsonObject


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a call: either `output` or `error`, one sentence. Failed calls have no sources."""

    output: JsonObject | None
    error: str | None
    sources: list[Source]
