"""The tools' definitions as providers receive them, the discovery of tools, and the package's imports."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from functions.chat import tools
from functions.chat.tools import Outcome, Source, Tools
from infra.local.postgres import ROOT
from tests.functions.tools.kit import CALLS, Runner

HEAVY_MODULES = {
    "xml",
    "xml.etree",
    "anthropic",
    "openai",
    "httpx",
    "fastapi",
    "html.parser",
    "functions.chat.settings",
}


def read_definitions() -> list[dict[str, Any]]:
    """The definitions as JSON, from a new process."""
    code = (
        "import dataclasses, json; from functions.chat.tools import Tools\n"
        "from tests.sources import parliament_at\n"
        "tools = Tools(parliament_at('http://x.test'), print)\n"
        "print(json.dumps([dataclasses.asdict(definition) for definition in tools.definitions]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
    loaded: list[dict[str, Any]] = json.loads(done.stdout)
    return loaded


@pytest.fixture(scope="module")
def definitions() -> list[dict[str, Any]]:
    return read_definitions()


def test_definitions_are_identical_in_every_process(definitions: list[dict[str, Any]]) -> None:
    assert json.dumps(definitions) == json.dumps(read_definitions())
    assert [definition["name"] for definition in definitions] == sorted(CALLS)
    assert all(re.fullmatch(r"[a-z_]{3,64}", definition["name"]) for definition in definitions)
    assert all(40 < len(definition["description"]) < 400 for definition in definitions)


def test_every_argument_is_described(definitions: list[dict[str, Any]]) -> None:
    for definition in definitions:
        parameters = definition["parameters"]
        assert {*parameters} == {"type", "properties", "required", "additionalProperties"}
        assert parameters["additionalProperties"] is False
        assert {*parameters["required"]} <= {*parameters["properties"]}
        for name, property_ in parameters["properties"].items():
            assert len(property_["description"]) > 15, name
            assert {"title", "anyOf", "$ref"}.isdisjoint(property_), name
            assert {*property_} <= {"type", "enum", "format", "description"}, name


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_is_bounded(name: str) -> None:
    tool = importlib.import_module(f"functions.chat.tools.{name}").TOOL
    for argument, schema in tool.arguments.model_json_schema()["properties"].items():
        property_ = next((option for option in schema.get("anyOf", []) if option != {"type": "null"}), schema)
        match property_["type"]:
            case "integer":
                assert (property_["minimum"], property_["maximum"] <= 9_999) == (1, True), argument
            case "string":
                bounded = "maxLength" in property_ or "enum" in property_ or property_.get("format") == "date"
                assert bounded, argument
            case kind:
                assert kind == "boolean", argument


def test_definition_has_the_format_that_providers_accept(definitions: list[dict[str, Any]]) -> None:
    parameters = {definition["name"]: definition["parameters"] for definition in definitions}
    assert parameters["get_mp_speeches"] == {
        "type": "object",
        "properties": {
            "slug": {
                "type": "string",
                "description": "The MP's slug from find_mps, for example jane-doe.",
            },
            "since": {
                "type": "string",
                "format": "date",
                "description": "Only speeches on or after this date.",
            },
            "limit": {
                "type": "integer",
                "description": "At most so many results, 1 to 20.",
            },
        },
        "required": ["slug"],
        "additionalProperties": False,
    }


NEW_TOOL = """
from functions.chat.tools import Source
from functions.chat.tools.arguments import Arguments
from functions.chat.tools.tool import Tool, ToolData

async def run(arguments, parliament, language):
    if language == "fr":
        raise KeyError("a secret")
    page = parliament.openparliament.public_url("/about/")
    return ToolData({"items": ["x" * 20_000]} if arguments.long else {}, [Source(page, "A"), Source(page, "B")])

class CountHerons(Arguments):
    long: bool = False

TOOL = Tool("count_herons", "Counts herons.", CountHerons, run)
"""


async def test_tool_module_is_discovered_and_its_exceptions_are_reported(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count_herons.py").write_text(NEW_TOOL, encoding="utf-8")
    monkeypatch.setattr(tools, "__path__", [*tools.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "functions.chat.tools.count_herons", raising=False)
    failures: list[tuple[str, BaseException]] = []
    extended = Tools(runner.parliament, lambda name, error: failures.append((name, error)))
    assert [definition.name for definition in extended.definitions] == ["count_herons", *CALLS]
    assert await extended.run("count_herons", {}, "en") == Outcome({}, None, [Source(runner.url("/about/"), "A")])
    assert failures == []
    failed = Outcome(None, "count_herons failed.", [])
    assert await extended.run("count_herons", {}, "fr") == Outcome(None, "count_herons a échoué.", [])
    assert await extended.run("count_herons", {"long": True}, "en") == failed
    assert [(name, type(error)) for name, error in failures] == [
        ("count_herons", KeyError),
        ("count_herons", ValueError),
    ]
    del sys.modules["functions.chat.tools.count_herons"]


def test_importing_the_package_loads_no_heavy_modules() -> None:
    code = "import functions.chat.sources.openparliament, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert HEAVY_MODULES.isdisjoint(json.loads(done.stdout))
