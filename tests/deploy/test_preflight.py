"""What `make deploy` checks in the account before it changes anything."""

import re

import pytest
from botocore.exceptions import ClientError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from functions.common.billing.stripe_client import PRODUCT_PREFIX
from infra.deploy import __main__ as command
from infra.deploy import counterparts, preflight
from infra.deploy.preflight import Template
from infra.deploy.secrets import Secrets
from infra.deploy.stage import FUNCTIONS, DeployError, Stage
from infra.local.postgres import ROOT
from tests.deploy.kit import Aws
from tests.servers import serve

COMMANDS = [["deploy"], ["smoke"], ["rollback"], ["secrets"], ["rotate", "--secret", "OPENAI_API_KEY"]]
PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8").partition("\n## Parameters")[2].partition("\n## ")[0]
ROWS = "".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
PARAMETERS = re.findall(r"`(\w+)`", ROWS)

REFUSALS = [
    ("AccessDenied", "User is not authorized to perform: cloudformation:DescribeStacks"),
    ("Throttling", "Rate exceeded"),
    ("ExpiredToken", "The security token included in the request is expired"),
    ("ValidationError", "1 validation error detected: Value at 'stackName' failed to satisfy constraint"),
]


@pytest.fixture
def live(aws: Aws) -> Aws:
    aws.create()
    Secrets(aws.stage).write({"ENCRYPTION_KEYS": f"1:{'0' * 64}"}, replace=False)
    return aws


@pytest.mark.parametrize("refusal", REFUSALS, ids=[code for code, _ in REFUSALS])
def test_only_a_missing_stack_counts_as_missing(live: Aws, refusal: tuple[str, str]) -> None:
    """Otherwise the commands would be printed that delete the secrets of a running stage."""
    live.refusal = refusal
    with pytest.raises(ClientError, match=refusal[0]):
        preflight.check_leftovers(live.stage)
    with pytest.raises(ClientError, match=refusal[0]):
        command._urls(live.stage)


def test_a_running_stack_leaves_nothing(live: Aws) -> None:
    preflight.check_leftovers(live.stage)


def test_secrets_of_a_removed_stack_are_saved_before_they_are_deleted(live: Aws) -> None:
    live.outputs.clear()
    with pytest.raises(DeployError) as caught:
        preflight.check_leftovers(live.stage)
    save, *delete, fill = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert save == "make secrets STAGE=prod REGION=ca-central-1 SAVE=.env.prod.saved"
    assert {live.stage.secret(name) for name in FUNCTIONS} <= {line.split()[-1] for line in delete}
    assert all("--region ca-central-1" in line for line in delete)
    assert fill.startswith("make secrets STAGE=prod REGION=ca-central-1 FILE=.env.prod.saved")


@pytest.mark.parametrize("name", ["PROD", "Prod", "production", "prd", "a_b", "", "../x", "-a", "1st", "a" * 21])
def test_every_command_refuses_a_stage_by_one_rule(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in COMMANDS:
        assert command.main([*arguments, f"--stage={name}"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"{arguments[0]}: STAGE")
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ("chatConcurency=40", "There is no parameter chatConcurency"),
        ("chatConcurrency", "--param=chatConcurrency has no value"),
    ],
)
def test_a_misspelt_parameter_is_refused(
    parameter: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.package, "main", lambda arguments: pytest.fail("packaged"))
    assert command.main(["deploy", "--stage", "dev", f"--param={parameter}"]) == 1
    assert sentence in capsys.readouterr().err


def test_every_parameter_of_the_page_is_known() -> None:
    preflight.check_names([f"{name}=x" for name in PARAMETERS])
    assert len(PARAMETERS) > 10


@pytest.mark.parametrize(
    "origins",
    [
        "https://a.example/",
        "https://a.example, https://b.example",
        "https://*",
        "*",
        "https://a.example/page",
        "a.example",
        "https://a.example,",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origins: str) -> None:
    """AWS compares the text with the browser's header."""
    variables = {"SUPABASE_URL": "https://x.example", "SUPABASE_ANON_KEY": "anon", "PARLIAMENT_CONTACT": "a@b.example"}
    for name in ("prod", "dev"):
        with pytest.raises(DeployError, match="ALLOWED_ORIGINS"):
            preflight.check_parameters(Stage(name), template(**variables, ALLOWED_ORIGINS=origins))
    preflight.check_parameters(Stage("prod"), template(**variables, ALLOWED_ORIGINS="https://a.example,https://b.ca"))


def template(**variables: str) -> Template:
    """A template of which only the chat's variables are read."""
    return Template({"Resources": {"ChatLambdaFunction": {"Properties": {"Environment": {"Variables": variables}}}}})


@pytest.mark.parametrize("url", ["http://[::1", "https://", "nonsense", "http://127.0.0.1:9", "https://a.example:port"])
def test_a_wrong_address_is_a_sentence(url: str) -> None:
    with pytest.raises(DeployError, match="Supabase"):
        preflight.check_supabase(Stage("dev"), template(SUPABASE_URL=url, SUPABASE_ANON_KEY="anon"))
    with pytest.raises(DeployError, match="SUPABASE_SERVICE_ROLE_KEY"):
        counterparts.ask("SUPABASE_SERVICE_ROLE_KEY", "key", {"SUPABASE_URL": url})


@pytest.mark.parametrize("body", ["[]", '"text"', "<html>", '{"keys": null}', '{"keys": [1]}'])
def test_an_answer_of_another_service_is_a_sentence(body: str) -> None:
    async def answer(request: Request) -> Response:
        return Response(body)

    with serve(Starlette(routes=[Route("/{path:path}", answer)])) as url:
        with pytest.raises(DeployError, match="does not answer as a project does"):
            preflight.check_supabase(Stage("dev"), template(SUPABASE_URL=url, SUPABASE_ANON_KEY="anon"))
        with pytest.raises(DeployError, match="STRIPE_SECRET_KEY"):
            counterparts.ask("STRIPE_SECRET_KEY", "sk_test_x", {"STRIPE_API_BASE": url})


def test_a_rotation_without_a_terminal_asks_for_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.delenv("NEW", raising=False)
    monkeypatch.setattr("getpass.getpass", end)
    with pytest.raises(DeployError, match="set NEW"):
        command._ask_for("The new key: ")


def test_a_stage_that_does_not_exist_is_named(aws: Aws, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["rollback"], ["rotate", "--secret", "OPENAI_API_KEY"]):
        assert command.main([*arguments, "--stage", "other"]) == 1
        assert "does not exist in ca-central-1" in capsys.readouterr().err


def test_a_stripe_key_must_have_every_right() -> None:
    """Of writing, nothing can be asked."""
    refused = "checkout/sessions"

    async def answer(request: Request) -> Response:
        status = 403 if refused and request.url.path.endswith(refused) else 200
        return JSONResponse({"data": [{"id": f"{PRODUCT_PREFIX}basic"}]}, status)

    with serve(Starlette(routes=[Route("/{path:path}", answer)])) as url:
        for refused in counterparts.STRIPE_RESOURCES:
            with pytest.raises(DeployError, match=f"{refused} does not accept the new value .status 403"):
                counterparts.ask("STRIPE_SECRET_KEY", "rk_test_x", {"STRIPE_API_BASE": url})
        refused = ""
        counterparts.ask("STRIPE_SECRET_KEY", "rk_test_x", {"STRIPE_API_BASE": url})
