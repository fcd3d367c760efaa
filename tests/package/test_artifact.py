"""The artifacts: their files, their reproducible bytes, and their handlers at work."""

import hmac
import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from base64 import b64encode
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from functions.common.billing.events import TIMEOUT_S
from tests.package.kit import NAMES, ROOT, Packaged

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("function", "own"),
    [
        ("chat", {"functions/chat/run.sh", "uvicorn/main.py"}),
        ("keys", {"functions/keys/handler.py", "mangum/adapter.py"}),
        ("checkout", {"functions/checkout/handler.py", "mangum/adapter.py", "stripe/__init__.py"}),
        ("account", {"functions/account/handler.py", "mangum/adapter.py", "supabase_auth/__init__.py"}),
        ("webhooks", {"functions/webhooks/handler.py", "mangum/adapter.py", "stripe/__init__.py"}),
        ("maintenance", {"functions/maintenance/handler.py", "cryptography/__init__.py", "stripe/__init__.py"}),
    ],
)
def test_the_artifact_has_only_its_function_and_common(packaged: Packaged, function: str, own: set[str]) -> None:
    with zipfile.ZipFile(packaged.artifact(function)) as archive:
        names = {name for name in archive.namelist() if "__pycache__" not in name}
        assert not [name for name in archive.namelist() if "trap" in name]
    assert own | {"functions/common/planted.py"} <= names
    folders = {name.split("/")[1] for name in names if name.startswith("functions/")}
    assert folders <= {function, "common", "__init__.py"}
    assert not [name for name in names if name.startswith(("tests/", "infra/", "sql/", "bench/", "bin/", "boto"))]


@pytest.mark.parametrize("function", NAMES)
def test_the_artifact_has_every_locked_package(packaged: Packaged, function: str) -> None:
    """Except packages that the lock marks for another platform."""
    locked = {
        line.split("==")[0].replace("-", "_").lower()
        for line in (ROOT / f"requirements/{function}.txt").read_text().splitlines()
        if "==" in line and "sys_platform == 'emscripten'" not in line
    }
    with zipfile.ZipFile(packaged.artifact(function)) as archive:
        packages = {
            name.split("-")[0].replace(".", "_").lower()
            for name in archive.namelist()
            if name.endswith(".dist-info/METADATA")
        }
    assert packages == locked


def test_the_jobs_artifact_has_no_web_framework(packaged: Packaged) -> None:
    with zipfile.ZipFile(packaged.artifact("maintenance")) as archive:
        packages = {name.split("/")[0] for name in archive.namelist()}
    assert packages.isdisjoint({"fastapi", "starlette", "mangum", "uvicorn", "anthropic", "openai"})


@pytest.mark.parametrize("name", NAMES)
def test_no_artifact_has_pydantics_first_version(packaged: Packaged, name: str) -> None:
    """FastAPI would import it for every route with a parameter in its path."""
    with zipfile.ZipFile(packaged.artifact(name)) as archive:
        names = archive.namelist()
    assert "pydantic/main.py" in names
    assert not [name for name in names if name.startswith("pydantic/v1/")]


def test_the_script_that_lambda_starts_is_executable(packaged: Packaged) -> None:
    with zipfile.ZipFile(packaged.artifact()) as archive:
        assert archive.getinfo("functions/chat/run.sh").external_attr >> 16 == stat.S_IFREG | 0o755
        assert archive.getinfo("functions/common/planted.py").external_attr >> 16 == stat.S_IFREG | 0o644


def test_every_native_library_is_for_lambdas_processor(packaged: Packaged) -> None:
    with zipfile.ZipFile(packaged.artifact()) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
        headers = [archive.read(name)[:20] for name in libraries]
    assert len(libraries) > 5  # pydantic-core, cryptography, aiohttp, ...
    assert {(header[:4], int.from_bytes(header[18:20], "little")) for header in headers} == {(b"\x7fELF", 183)}


def test_bytecode_is_for_lambdas_python_and_unchecked(packaged: Packaged) -> None:
    """Without that Python version, the build leaves the bytecode out and prints so."""
    with zipfile.ZipFile(packaged.artifact()) as archive:
        compiled = {name: archive.read(name)[:8] for name in archive.namelist() if name.endswith(".pyc")}
    if "bytecode is left out" in packaged.output:
        assert compiled == {}
        return
    assert "functions/common/__pycache__/planted.cpython-313.pyc" in compiled
    magic = (3571).to_bytes(2, "little") + b"\r\n"  # of every CPython 3.13 release
    unchecked = (0b01).to_bytes(4, "little")  # PEP 552: hash-based, not checked
    assert set(compiled.values()) == {magic + unchecked}


def test_two_builds_are_the_same_bytes(packaged: Packaged) -> None:
    """Of one random function; PROVE=1: of all."""
    again = sorted((packaged.second / ".build").glob("*.zip"))
    assert len(again) == (len(NAMES) if os.environ.get("PROVE") else 1)
    for archive in again:
        assert packaged.artifact(archive.stem).read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_artifact_is_within_lambdas_limits(packaged: Packaged, name: str) -> None:
    with zipfile.ZipFile(packaged.artifact(name)) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < 100_000_000
    assert packaged.artifact(name).stat().st_size < 50_000_000


@pytest.mark.parametrize("name", NAMES)
def test_deployed_versions_are_the_tested_versions(name: str) -> None:
    """The same name==version; the platforms that a package is for depend on what else needs it."""

    def versions(file: str) -> set[str]:
        lines = (ROOT / "requirements" / f"{file}.txt").read_text(encoding="utf-8").splitlines()
        return {line.split()[0] for line in lines if "==" in line}

    assert versions(name)
    assert versions(name) <= versions("dev")


ISOLATED = """
import importlib, json, pkgutil, sys

options = json.load(sys.stdin)


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in options["missing"]:
            raise ModuleNotFoundError(f"the artifact has no {name}", name=name)


sys.meta_path.insert(0, Missing())
own = importlib.import_module(f"functions.{options['name']}")
for module in pkgutil.walk_packages(own.__path__, f"{own.__name__}."):
    importlib.import_module(module.name)
handler = getattr(sys.modules[f"{own.__name__}.handler"], "handler", None)
print(json.dumps([handler(event, None) for event in options["events"]]))
"""


def run_isolated(
    packaged: Packaged, name: str, folder: Path, events: Sequence[dict[str, Any]] = (), **environment: str
) -> list[dict[str, Any]]:
    """Imports every module of a function with only its artifact's packages. Returns the handler's answers."""
    with zipfile.ZipFile(packaged.artifact(name)) as archive:
        missing = packages_distributions().keys() - {entry.split("/")[0].split(".")[0] for entry in archive.namelist()}
        archive.extractall(folder, [entry for entry in archive.namelist() if entry.startswith(("functions/", "docs/"))])
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        input=json.dumps({"name": name, "missing": sorted(missing), "events": events}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def request_event(method: str, path: str, body: str | None = None, *, encoded: bool = False, **headers: str) -> Any:
    """A request as a function URL passes it to Lambda, payload version 2.0."""
    event: dict[str, Any] = {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "abc.lambda-url.ca-central-1.on.aws", **headers},
        "requestContext": {"http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        "isBase64Encoded": encoded,
    }
    if body is not None:
        event["body"] = b64encode(body.encode()).decode() if encoded else body
    return event


UNREACHABLE = {
    "SUPABASE_URL": "http://127.0.0.1:9",
    "SUPABASE_ANON_KEY": "anon",
    "SUPABASE_SERVICE_ROLE_KEY": "service",
    "STRIPE_SECRET_KEY": "sk_test_x",
    "STRIPE_API_BASE": "http://127.0.0.1:9",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_function_imports_only_what_its_artifact_has(packaged: Packaged, tmp_path: Path, name: str) -> None:
    assert run_isolated(packaged, name, tmp_path) == []


def test_checkout_answers_from_its_artifact(packaged: Packaged, tmp_path: Path) -> None:
    requests = [("POST", "/checkout"), ("POST", "/portal"), ("PATCH", "/overage"), ("POST", "/plans"), ("GET", "/keys")]
    events = [request_event(method, path, "{}") for method, path in requests]
    answers = run_isolated(packaged, "checkout", tmp_path, events, **UNREACHABLE, ALLOWED_ORIGINS="https://example.org")
    assert [(answer["statusCode"], json.loads(answer["body"])["error"]["code"]) for answer in answers] == [
        (401, "unauthenticated"),
        (401, "unauthenticated"),
        (401, "unauthenticated"),
        (405, "method_not_allowed"),
        (404, "not_found"),
    ]


def test_the_account_answers_from_its_artifact(packaged: Packaged, tmp_path: Path) -> None:
    requests = [
        *(("GET", "/usage"), ("POST", "/chat/x/stop"), ("DELETE", "/account"), ("GET", "/shared/x")),
        ("GET", "/openapi.json"),
    ]
    events = [request_event(method, path, "{}") for method, path in requests]
    answers = run_isolated(packaged, "account", tmp_path, events, **UNREACHABLE)
    assert [answer["statusCode"] for answer in answers] == [401, 401, 401, 404, 200]
    assert json.loads(answers[-1]["body"])["openapi"]


def test_the_webhooks_answer_from_their_artifact(packaged: Packaged, tmp_path: Path) -> None:
    """A function URL may encode the body in base64; the signature is for the decoded body."""
    body = json.dumps({"id": "evt_1", "type": "product.created", "data": {"object": {"name": "Café"}}})
    now = int(time.time())
    signed, forged = (
        f"t={now},v1={hmac.new(secret, f'{now}.{body}'.encode(), 'sha256').hexdigest()}"
        for secret in (b"whsec_x", b"whsec_y")
    )
    events = [
        request_event("POST", "/webhooks/stripe", body, encoded=encoded, **{"stripe-signature": signature})
        for signature in (signed, forged)
        for encoded in (True, False)
    ]
    answers = run_isolated(packaged, "webhooks", tmp_path, events, **UNREACHABLE, STRIPE_WEBHOOK_SECRET="whsec_x")
    assert [answer["statusCode"] for answer in answers] == [200, 200, 400, 400]
    bodies = [json.loads(answer["body"]) for answer in answers]
    assert bodies[:2] == [{"outcome": "ignored"}] * 2
    assert [refused["error"]["code"] for refused in bodies[2:]] == ["invalid_signature"] * 2


def test_the_webhooks_time_out_before_lambda_does(packaged: Packaged) -> None:
    assert packaged.function("webhooks")["Timeout"] >= TIMEOUT_S + 5
