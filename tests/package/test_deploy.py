"""`make deploy` from the built template, against AWS in memory, the local stack's services, and no credentials."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from infra.deploy import __main__ as command
from infra.deploy import preflight, smoke
from infra.deploy.preflight import Template
from infra.deploy.stage import FUNCTIONS, DeployError, Stage
from infra.deploy.versions import Versions
from infra.local.stack import Stack
from tests.conftest import Person
from tests.deploy.conftest import account
from tests.deploy.kit import Aws
from tests.package.kit import Packaged

pytestmark = pytest.mark.timeout(600)  # the first test waits for the build


def template_with(packaged: Packaged, **variables: str) -> dict[str, Any]:
    """The built template, with other variables of every function."""
    changed = copy.deepcopy(packaged.template)
    for resource in changed["Resources"].values():
        if resource["Type"] == "AWS::Lambda::Function":
            resource["Properties"]["Environment"]["Variables"] |= variables
    return changed


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account without a stack."""
    with account(monkeypatch) as made:
        yield made


COMPLETE = {
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_ANON_KEY": "anon",
    "ALLOWED_ORIGINS": "https://app.example",
    "PARLIAMENT_CONTACT": "operator@app.example",
}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"SUPABASE_URL": ""}, r"^SUPABASE_URL must be set"),
        ({"SUPABASE_ANON_KEY": "", "PARLIAMENT_CONTACT": ""}, r"^SUPABASE_ANON_KEY, PARLIAMENT_CONTACT must be set"),
        ({"ALLOWED_ORIGINS": "https://app.example,http://localhost:3000"}, r"has http://localhost:3000"),
        ({"SUPABASE_URL": "http://127.0.0.1:54321"}, "must start with https"),
    ],
)
def test_production_refuses_empty_and_insecure_parameters(
    packaged: Packaged, variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(DeployError, match=sentence):
        preflight.check_parameters(Stage("prod"), Template(template_with(packaged, **{**COMPLETE, **variables})))


def test_complete_parameters_pass(packaged: Packaged) -> None:
    preflight.check_parameters(Stage("prod"), Template(template_with(packaged, **COMPLETE)))


def test_other_stages_only_name_empty_parameters(packaged: Packaged, capsys: pytest.CaptureFixture[str]) -> None:
    preflight.check_parameters(Stage("ci"), Template(template_with(packaged, **{**COMPLETE, "SUPABASE_URL": ""})))
    assert capsys.readouterr().out == "  note  empty, which production refuses: SUPABASE_URL\n"


@pytest.fixture
def template_file(packaged: Packaged, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template of the built artifacts, for the local stack's services. Nothing is built again."""
    path = tmp_path / "template.json"
    variables = {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "ALLOWED_ORIGINS": "http://localhost:3000",
    }
    path.write_text(json.dumps(template_with(packaged, **variables)))
    monkeypatch.setattr(preflight, "TEMPLATE", path)
    monkeypatch.setattr(command.package, "main", lambda arguments: 0)
    return path


def test_make_deploy_without_credentials_stops_after_the_template(packaged: Packaged) -> None:
    """The real target, in a tree that has only the sources."""
    lines = packaged.output.splitlines()
    assert lines[0] == "1. Preflight of canadagpt-chat-dev in ca-central-1"
    assert [line for line in lines if line.startswith("packaged in ")]
    assert lines[-2:] == [
        "  note  empty, which production refuses: SUPABASE_URL, SUPABASE_ANON_KEY, PARLIAMENT_CONTACT",
        "  note  there are no AWS credentials: it stops here, with the artifacts and the template finished",
    ]


def test_outside_ci_missing_credentials_fail_the_command(
    template_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "find_credentials", lambda stage: None)
    monkeypatch.delenv("CI", raising=False)
    assert command.main(["deploy", "--stage", "ci"]) == 1
    assert command.CREDENTIALS in capsys.readouterr().err


@pytest.fixture
def steps(
    aws: Aws, stack: Stack, template_file: Path, monkeypatch: pytest.MonkeyPatch, person: Callable[..., Person]
) -> list[list[str]]:
    """The arguments of each upload. osls is replaced: the first upload creates the stack, later ones its code."""
    uploads: list[list[str]] = []

    def upload(arguments: list[str]) -> None:
        uploads.append(arguments)
        if len(uploads) == 1:
            aws.create(stack.info["functions_url"])
        aws.template = json.loads(template_file.read_text())
        for name in FUNCTIONS:
            aws.upload(name, f"upload {len(uploads)}")

    monkeypatch.setattr(command, "_upload", upload)
    monkeypatch.setattr(command, "_stage", lambda options: aws.stage)
    monkeypatch.setattr(preflight, "check_parameters", lambda stage, template: None)  # the local ones are not https
    monkeypatch.setattr(smoke, "_deadline", lambda http, targets: None)  # the local stack is not Lambda
    monkeypatch.setenv("DATABASE_URL", stack.info["db_url"])
    monkeypatch.setenv("SMOKE_TOKEN", person("pro").token)
    for name, value in {
        "ANTHROPIC_BASE_URL": stack.info["model_url"],
        "OPENAI_BASE_URL": f"{stack.info['model_url']}/v1",
        "STRIPE_API_BASE": stack.info["stripe_url"],
    }.items():
        monkeypatch.setenv(name, value)
    return uploads


@pytest.fixture
def secrets_file(stack: Stack, tmp_path: Path) -> Path:
    path = tmp_path / "prod.env"
    values = {
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "ANTHROPIC_API_KEY": "stand-in",
        "ENCRYPTION_KEYS": f"1:{'0' * 64}",
        "STRIPE_SECRET_KEY": stack.info["stripe_secret_key"],
        "STRIPE_WEBHOOK_SECRET": stack.info["stripe_webhook_secret"],
    }
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return path


def test_the_path_from_an_empty_account_to_a_rollback(
    aws: Aws, steps: list[list[str]], secrets_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First deployment, secrets, second deployment, a change with a canary, a rollback."""
    aws.limit = 10
    assert command.main(["deploy", "--stage", "prod"]) == 0
    out = capsys.readouterr().out
    assert "nothing is reserved: the account's limit of 10 concurrent executions has no room for 48" in out
    assert "--param=reserveConcurrency=false" in steps[0]
    assert "create Stripe's endpoint at the URL of webhooks" in out
    assert aws.places() == dict.fromkeys(FUNCTIONS, "$LATEST")

    assert command.main(["deploy", "--stage", "prod"]) == 1
    captured = capsys.readouterr()
    for name in ("SUPABASE_SERVICE_ROLE_KEY", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"):
        (line,) = [line for line in captured.out.splitlines() if "FAIL  secret canadagpt-chat/prod/webhooks:" in line]
        assert f"{name} is missing." in line
    assert captured.err.startswith("deploy: Complete the secrets")
    assert len(steps) == 1

    assert command.main(["secrets", "--stage", "prod", "--file", str(secrets_file)]) == 0
    aws.limit = 1000
    assert command.main(["deploy", "--stage", "prod", "--canary", "50", "--minutes", "0"]) == 0
    out = capsys.readouterr().out
    assert "the products, prices, portal and webhook events at Stripe are those of the tables" in out
    assert "SUPABASE_SERVICE_ROLE_KEY is accepted by its service" in out
    assert "48 concurrent executions can be reserved" in out
    assert "a question is answered, streamed and charged" in out
    assert "--param=reserveConcurrency=false" not in steps[1]
    assert aws.places() == dict.fromkeys(FUNCTIONS, "1")

    for function in ("Chat", "Checkout", "Maintenance"):
        of = aws.template["Resources"][f"{function}LambdaFunction"]["Properties"]["Environment"]["Variables"]
        of |= {name: "true" for name in ("MCP_ENABLED", "STRIPE_AUTOMATIC_TAX") if name in of}
    assert command.main(["deploy", "--stage", "prod"]) == 1
    assert "The running stack has MCP_ENABLED, STRIPE_AUTOMATIC_TAX, and this" in capsys.readouterr().err
    assert len(steps) == 2
    reset = ["--reset", "--canary", "50", "--minutes", "0"]
    assert command.main(["deploy", "--stage", "prod", *reset]) == 0
    assert "version 2 of chat has 50% of the requests" in capsys.readouterr().out
    assert aws.places() == dict.fromkeys(FUNCTIONS, "2")
    assert command.main(["rollback", "--stage", "prod"]) == 0
    assert aws.places() == dict.fromkeys(FUNCTIONS, "1")
    assert Versions(aws.stage).live("chat").before is None


def test_a_removed_stack_leaves_what_must_be_deleted_first(aws: Aws) -> None:
    aws.create()
    preflight.check_leftovers(aws.stage)
    aws.outputs.clear()
    with pytest.raises(DeployError) as caught:
        preflight.check_leftovers(aws.stage)
    assert "--force-delete-without-recovery --secret-id canadagpt-chat/prod/keys" in str(caught.value)
    assert "--region ca-central-1 --log-group-name /aws/lambda/canadagpt-chat-prod-chat" in str(caught.value)


def test_a_project_with_hs256_needs_its_secret(
    aws: Aws,
    packaged: Packaged,
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    aws.create()
    monkeypatch.delenv("SMOKE_TOKEN", raising=False)
    local = template_with(
        packaged, SUPABASE_URL=stack.info["supabase_url"], SUPABASE_ANON_KEY=stack.info["publishable_key"]
    )
    assert preflight.check_supabase(aws.stage, Template(local)) is False
    monkeypatch.setenv("SMOKE_TOKEN", jwt.encode({}, "0" * 32, algorithm="HS256"))
    assert preflight.check_supabase(aws.stage, Template(local)) is True
    assert not preflight.check_secrets(aws.stage, Template(local), needs_jwt_secret=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "SUPABASE_JWT_SECRET is missing" in line]
    assert [line.split("/")[-1].split(":")[0] for line in lines] == ["chat", "keys", "checkout", "account"]
