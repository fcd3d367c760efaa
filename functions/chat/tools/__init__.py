"""The tools that the model calls to look things up in Parliament's public record.

A tool is one module of this package with a `TOOL`: it is found by itself. It takes typed arguments, asks `Parliament`
and gives what it found, small enough for the model, with the public pages that it comes from. Whatever goes wrong
becomes a sentence: a tool never ends a turn.
"""

import asyncio
import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import BaseModel, ValidationError

from functions.chat import limits
from functions.common.validation import field_errors

if TYPE_CHECKING:
    from functions.chat.tools.parliament import Parliament

Language = Literal["en", "fr"]


class ToolError(Exception):
    """What went wrong, in one sentence that the model and the client may see: nothing internal."""


class NotThere(ToolError):
    """What was asked for does not exist there."""


@dataclass(frozen=True, slots=True)
class Source:
    """A public page that a result comes from. `title` is in the language that was asked for."""

    url: str
    title: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a tool found: JSON for the model, and the pages of what it tells of."""

    data: dict[str, Any]
    sources: list[Source]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `run` takes the checked arguments and may raise ToolError."""

    name: str
    description: str
    arguments: type[BaseModel]
    run: "Callable[[Any, Parliament, Language], Awaitable[Found]]"


@dataclass(frozen=True, slots=True)
class Definition:
    """A tool as a provider is told of it. `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: with an output, or with an error's sentence."""

    output: dict[str, Any] | None
    error: str | None
    sources: list[Source]


class Tools:
    """All tools. `on_failure` hears of what nobody expected, with the tool's name."""

    def __init__(self, parliament: "Parliament", on_failure: Callable[[str, BaseException], None]) -> None:
        self._parliament = parliament
        self._on_failure = on_failure
        self._tools = _find()
        self._definitions = [
            Definition(tool.name, tool.description, _schema(tool.arguments)) for tool in self._tools.values()
        ]

    @property
    def definitions(self) -> list[Definition]:
        """What providers are told, always in the same order: their prompt caches compare it letter by letter."""
        return self._definitions

    async def run(self, name: str, arguments: Any, language: Language) -> Outcome:
        """Call a tool with what the model says. Raises nothing but CancelledError."""
        tool = self._tools.get(name)
        if tool is None:
            return _failed(f"There is no tool of that name; there are {', '.join(self._tools)}.")
        try:
            checked = tool.arguments.model_validate({} if arguments is None else arguments)
        except ValidationError as error:
            return _failed(_complaint(error))
        try:
            async with asyncio.timeout(limits.TOOL_S):
                found = await tool.run(checked, self._parliament, language)
            if len(orjson.dumps(found.data).decode()) > limits.TOOL_RESULT_CHARACTERS:
                raise ValueError("the result is longer than the model may be given")
        except ToolError as error:
            return _failed(str(error))
        except TimeoutError:
            return _failed(f"{name} took longer than {limits.TOOL_S:g} seconds and was given up.")
        except Exception as error:  # noqa: BLE001 -- whatever it is, the turn goes on without this tool
            self._on_failure(name, error)
            return _failed(f"{name} failed.")
        sources: dict[str, Source] = {}
        for source in found.sources:
            sources.setdefault(source.url, source)
        return Outcome(found.data, None, list(sources.values())[: limits.TOOL_SOURCES])

    async def close(self) -> None:
        """Close the connections."""
        await self._parliament.close()


def _find() -> dict[str, Tool]:
    """The tools of the package's modules by name, in alphabetical order."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    tools = [module.TOOL for module in modules if hasattr(module, "TOOL")]
    known = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
    assert len(known) == len(tools), "two tools have the same name"
    return known


def _schema(arguments: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of the arguments with what a model needs: no titles, no nulls, nothing beyond the properties."""
    schema = arguments.model_json_schema()
    properties = {}
    for name, property_ in schema.get("properties", {}).items():
        flat = {**property_}
        for option in flat.pop("anyOf", []):
            # `x | None`: the model leaves out what it does not want.
            if option != {"type": "null"}:
                flat = {**option, **flat}
        if flat.get("default", ...) is None:
            del flat["default"]
        flat.pop("title", None)
        properties[name] = flat
    return {
        "type": "object",
        "properties": properties,
        "required": schema.get("required", []),
        "additionalProperties": False,
    }


def _failed(sentence: str) -> Outcome:
    return Outcome(None, sentence, [])


def _complaint(error: ValidationError) -> str:
    """Which argument is wrong, and why. Never repeats its value."""
    complaints = [
        f"{invalid.name[:50]}: {invalid.message}" if invalid.name else invalid.message
        for invalid in field_errors(error)
    ]
    return f"Wrong arguments: {'; '.join(complaints[:5])}."
