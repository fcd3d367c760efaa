"""docs/openapi.json is what the routes declare, and what they do: schemathesis asks all functions on the stack."""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from infra import openapi
from infra.local.stack import Stack
from tests.api import Api, question
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
    assert declared == [*sorted(DOCUMENT["components"]["schemas"]), "Routes"]
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


@pytest.fixture
def call(api: Api) -> Callable[..., Any]:
    """Calls a route as a user and compares the response with its description. Returns the JSON."""

    def send(user: Person, method: str, path: str, status: int = 200, **request: Any) -> Any:
        headers = {**user.headers, "accept": "application/json"}
        response = api.http.request(method, path, headers=headers, **request)
        assert response.status_code == status, response.text
        (described,) = [
            operations[method.lower()]
            for template, operations in DOCUMENT["paths"].items()
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path) and method.lower() in operations
        ]
        schema = described["responses"][str(status)]["content"]["application/json"]["schema"]
        jsonschema_rs.validate(strict({**schema, "components": DOCUMENT["components"]}), response.json())
        return response.json()

    return send


def test_responses_with_content_have_the_described_form(
    call: Callable[..., Any], person: Callable[..., Person], stack_db: Any
) -> None:
    """What a user with packs, a key, a stored answer with tools and a share gets."""
    user, body = person("pro"), question('[tool:get_bill {"number": "C-5"}] [tool:no_such_tool {}] Well?')
    stack_db.execute(
        "insert into public.credit_packs (user_id, credits_purchased, credits_remaining, credits_used, price_paid)"
        " values (%s, 10, 1, 9, 5)",
        (user.id,),
    )
    chat = f"/chat/{body['id']}"
    answer = call(user, "POST", "/chat", json=body)["message"]
    assert call(user, "GET", f"{chat}/messages")["messages"][1]["parts"] == answer["parts"]
    call(user, "PUT", f"/messages/{answer['id']}/feedback", json={"rating": "up", "comment": "Clear."})
    token = call(user, "POST", f"{chat}/share")["token"]
    call(user, "GET", f"/shared/{token}")
    call(user, "DELETE", f"{chat}/share")
    call(user, "PUT", "/keys/openai", json={"api_key": f"sk-own-{uuid.uuid4().hex}"})
    call(user, "POST", "/keys/openai/validate")
    call(user, "GET", "/keys")
    call(user, "POST", f"{chat}/stop", 202)
    call(user, "PATCH", "/overage", json={"allow_overages": True, "overage_limit_usd": 2.5})
    assert call(user, "GET", "/usage")["alerts"]
    assert call(user, "GET", "/account/export")
    urls = {"success_url": "http://localhost:3000/", "cancel_url": "http://localhost:3000/"}
    call(user, "POST", "/checkout", json={"pack": "pack_100", **urls})
    call(user, "POST", "/portal", json={"return_url": "http://localhost:3000/"})
    call(user, "PUT", "/keys/openai", 422, json={"api_key": "short"})
    call(user, "POST", "/chat", 422, json={**body, "id": "another", "model": "no-such-model"})
    call(person("free", lifetime_used=10), "POST", "/chat", 402, json=body | {"id": str(uuid.uuid4())})
    unpaid = person("pro", status="suspended", stripe_customer_id=f"cus_{uuid.uuid4().hex}",
                    stripe_subscription_id=f"sub_{uuid.uuid4().hex}")  # fmt: skip
    for path, request in (("/chat", body | {"id": str(uuid.uuid4())}), ("/checkout", {"pack": "pack_100", **urls})):
        assert call(unpaid, "POST", path, 402, json=request)["error"]["action"] == "contact_support"


def test_every_refusal_of_a_blocked_account_is_described(
    call: Callable[..., Any], person: Callable[..., Person]
) -> None:
    user, url = person("pro", blocked_at="2026-01-01Z", blocked_reason="Abuse"), "http://localhost:3000/"
    for method, path, body in (
        ("POST", "/chat", question("Who?")),
        ("GET", "/keys", None),
        ("PUT", "/keys/openai", {"api_key": f"sk-own-{uuid.uuid4().hex}"}),
        ("POST", "/keys/openai/validate", None),
        ("POST", "/checkout", {"plan": "basic", "success_url": url, "cancel_url": url}),
        ("POST", "/portal", {"return_url": url}),
        ("PATCH", "/overage", {"allow_overages": False}),
        ("POST", f"/chat/{uuid.uuid4()}/share", None),
    ):
        request = {} if body is None else {"json": body}
        assert call(user, method, path, 403, **request)["error"]["code"] == "account_blocked"


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
        *("--suppress-health-check", "all", "--request-timeout", "60"),  # a busy machine is no finding
        *headers,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
