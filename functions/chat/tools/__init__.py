"""The tools that the model calls to query Parliament's public record.

Each tool is a module of this package with a `TOOL`, discovered automatically. It takes validated arguments, queries
`Parliament`, and returns a result small enough for the model with the public pages that it is based on. A failure
becomes an error sentence: it never ends the turn.
"""

import asyncio
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from functions.chat import limits
from functions.chat.sources import Parliament
from functions.chat.sources.base import Explained, JsonObject, Language, Text
from functions.chat.tools.base import Definition, Outcome, Source, ToolError
from functions.chat.tools.tool import Tool
from functions.common.validation import field_errors

__all__ = ["Definition", "Outcome", "Source", "ToolError", "Tools"]

SCHEMA_KEYS = frozenset({"type", "enum", "format", "items", "description"})


class Tools:
    """All tools. Calls `on_failure` with the tool's name for every unexpected exception."""

    def __init__(self, parliament: Parliament, on_failure: Callable[[str, BaseException], None]) -> None:
        self._parliament = parliament
        self._on_failure = on_failure
        self._tools = _discover_tools()
        self._definitions = [
            Definition(tool.name, tool.description, _json_schema(tool.arguments)) for tool in self._tools.values()
        ]

    @property
    def definitions(self) -> list[Definition]:
        """The tools' definitions, always in the same order: providers' prompt caches compare them byte by byte."""
        return self._definitions

    async def run(self, name: str, arguments: Any, language: Language) -> Outcome:
        """Run a tool with the model's arguments. Raises only CancelledError."""
        tool = self._tools.get(name)
        if tool is None:
            names = ", ".join(self._tools)
            return _failed(
                Text(
                    f"No tool has that name; the tools are {names}.", f"Aucun outil n’a ce nom; les outils : {names}."
                ),
                language,
            )
        try:
            validated = tool.arguments.model_validate({} if arguments is None else arguments)
        except ValidationError as error:
            return _failed(Text(_describe_problems(error), None), language)
        try:
            async with asyncio.timeout(limits.TOOL_S):
                result = await tool.run(validated, self._parliament, language)
            if len(orjson.dumps(result.data)) > limits.TOOL_RESULT_BYTES:
                raise ValueError("the result exceeds TOOL_RESULT_BYTES")
        except Explained as error:
            return _failed(error.sentence, language)
        except TimeoutError:
            late = Text(
                f"{name} took longer than {limits.TOOL_S:g} seconds and was cancelled.",
                f"{name} a pris plus de {limits.TOOL_S:g} secondes et a été annulé.",
            )
            return _failed(late, language)
        except Exception as error:  # noqa: BLE001 -- the turn continues without this tool
            self._on_failure(name, error)
            return _failed(Text(f"{name} failed.", f"{name} a échoué."), language)
        sources: dict[str, Source] = {}
        for source in result.sources:
            sources.setdefault(source.url, source)
        return Outcome(result.data, None, list(sources.values())[: limits.TOOL_SOURCES])

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self._parliament.close()


def _discover_tools() -> dict[str, Tool]:
    """The tools of the package's modules by name, in alphabetical order."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    tools = [module.TOOL for module in modules if hasattr(module, "TOOL")]
    by_name = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
    assert len(by_name) == len(tools), "two tools have the same name"
    return by_name


def _json_schema(arguments: type[BaseModel]) -> JsonObject:
    """The JSON Schema of the arguments, reduced for the model: no titles, no nulls, no additional properties.

    Bounds and patterns are left out: every step of every answer reads the schema, and the descriptions have examples.
    `run` checks them, and the model reads what is wrong.
    """
    schema = arguments.model_json_schema()
    properties = {}
    for name, property_ in schema.get("properties", {}).items():
        flat = {**property_}
        for option in flat.pop("anyOf", []):
            # An argument of type `x | None` is described as `x`: the model omits it instead of sending null.
            if option != {"type": "null"}:
                flat = {**option, **flat}
        properties[name] = {key: value for key, value in flat.items() if key in SCHEMA_KEYS}
    return {
        "type": "object",
        "properties": properties,
        "required": schema.get("required", []),
        "additionalProperties": False,
    }


def _failed(sentence: Text, language: Language) -> Outcome:
    return Outcome(None, sentence.in_(language), [])


def _describe_problems(error: ValidationError) -> str:
    """Which arguments are invalid, and why. Never repeats their values."""
    problems = [f"{field.name[:50]}: {field.message}" if field.name else field.message for field in field_errors(error)]
    return f"Wrong arguments: {'; '.join(problems[:5])}."
