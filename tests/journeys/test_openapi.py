"""docs/openapi.json is what the routes declare, and what they do: schemathesis asks all functions on the stack."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra import openapi
from infra.local.stack import Stack
from tests.api import Api
from tests.conftest import Person

DOCUMENT = json.loads(openapi.DOCUMENT.read_text(encoding="utf-8"))
OPERATIONS = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]


def test_the_files_are_what_the_routes_declare() -> None:
    assert openapi.document() == DOCUMENT, "run make openapi"
    assert openapi.types(DOCUMENT) == openapi.TYPES.read_text(encoding="utf-8"), "run make openapi"


def test_every_function_is_described() -> None:
    assert {tag for operation in OPERATIONS for tag in operation["tags"]} == set(openapi.apps())
    assert all(operation["summary"].endswith(".") for operation in OPERATIONS)
    ids = [operation["operationId"] for operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


def test_types_are_complete_declarations() -> None:
    text = openapi.TYPES.read_text(encoding="utf-8")
    declared = re.findall(r"^export type (\w+) = ", text, re.MULTILINE)
    assert declared == sorted(DOCUMENT["components"]["schemas"])
    used = set(re.findall(r"(?<![\"\w-])[A-Z]\w+(?=[;\[| ])", re.sub(r"/\*\*.*|//.*", "", text))) - {"Record"}
    assert used <= set(declared)


def test_a_function_serves_the_document(api: Api) -> None:
    response = api.http.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT


def strict(value: Any) -> Any:
    """The document, in which an object has no other fields than the described ones."""
    if isinstance(value, dict):
        closed = {"additionalProperties": False} if "properties" in value and "type" in value else {}
        return {**closed, **{name: strict(item) for name, item in value.items()}}
    return [strict(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("caller", "phases", "examples"), [("user", "coverage,fuzzing", "6"), ("visitor", "fuzzing", "3")]
)
def test_schemathesis_finds_nothing(
    stack: Stack, person: Callable[..., Person], tmp_path: Path, caller: str, phases: str, examples: str
) -> None:
    """A failure prints the seed, for --seed."""
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(strict(DOCUMENT)))
    headers = ["--header", f"Authorization: Bearer {person('pro').token}"] if caller == "user" else []
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", stack.info["functions_url"]),
        *("--phases", phases, "--max-examples", examples, "--continue-on-failure", "--no-color", "--warnings", "off"),
        # Whether a valid request is accepted depends on what the user has.
        *("--exclude-checks", "positive_data_acceptance"),
        *headers,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
