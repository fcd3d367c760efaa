"""The interface of a tool: its definition and its result."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.tools.base import Source


@dataclass(frozen=True, slots=True)
class ToolData:
    """The result of a tool: JSON for the model, and the pages that it is based on."""

    data: JsonObject
    sources: list[Source]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. `run` takes an instance of `arguments` and raises ToolError where it fails."""

    name: str
    description: str
    arguments: type[BaseModel]
    run: Callable[[Any, Parliament, Language], Awaitable[ToolData]]
