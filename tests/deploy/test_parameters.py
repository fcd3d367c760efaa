"""Parameters between deployments: what the running stack has set is not switched off by omission."""

from typing import Any

import pytest

from infra.deploy import __main__ as command
from infra.deploy import preflight
from infra.deploy.stage import DeployError
from tests.deploy.kit import Aws


@pytest.fixture(autouse=True)
def first_deployment(aws: Aws) -> None:
    aws.create()


def template(domain: str, **variables: str) -> dict[str, Any]:
    """A template as osls writes it: the parameters are variables of functions, and defaults of its own parameters."""
    reference = {"Ref": "ChatSecrets"}
    function = {"Environment": {"Variables": {**variables, "SECRETS_ID": reference}}}
    return {
        "Parameters": {"DomainName": {"Type": "String", "Default": domain}},
        "Resources": {
            "ChatLambdaFunction": {"Type": "AWS::Lambda::Function", "Properties": function},
            "AlarmTopic": {"Type": "AWS::SNS::Topic"},
        },
    }


SET = template("api.example.org", MCP_ENABLED="true", ALLOWED_ORIGINS="https://a.example")


@pytest.mark.parametrize(
    ("after", "named"),
    [
        (template("", MCP_ENABLED="true", ALLOWED_ORIGINS="https://a.example"), "DomainName"),
        (template("api.example.org", MCP_ENABLED="", ALLOWED_ORIGINS="https://a.example"), "MCP_ENABLED"),
        (template("", MCP_ENABLED="", ALLOWED_ORIGINS="https://a.example"), "DomainName, MCP_ENABLED"),
    ],
    ids=["domain", "mcp", "both"],
)
def test_what_is_set_is_not_switched_off_by_omission(aws: Aws, after: dict[str, Any], named: str) -> None:
    aws.template = SET
    with pytest.raises(DeployError, match=f"^The running stack has {named}, and"):
        preflight.check_reset(aws.stage, preflight.Template(after), may_reset=False)
    preflight.check_reset(aws.stage, preflight.Template(after), may_reset=True)


def test_other_changes_of_parameters_are_printed(aws: Aws, capsys: pytest.CaptureFixture[str]) -> None:
    """Also a parameter that was off, or that a new version of the code adds."""
    aws.template = template("", MCP_ENABLED="true", ALLOWED_ORIGINS="https://a.example")
    after = template(
        "api.example.org", MCP_ENABLED="true", ALLOWED_ORIGINS="https://b.example", STRIPE_AUTOMATIC_TAX=""
    )
    preflight.check_reset(aws.stage, preflight.Template(after), may_reset=False)
    assert capsys.readouterr().out.splitlines() == [
        "  note  ALLOWED_ORIGINS changes from `https://a.example` to `https://b.example`",
        "  note  DomainName changes from `` to `api.example.org`",
    ]


def test_a_first_deployment_resets_nothing(aws: Aws) -> None:
    aws.outputs.clear()
    preflight.check_reset(aws.stage, preflight.Template(template("")), may_reset=False)


def test_production_needs_a_user_who_asks(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_stage", lambda options: aws.stage)
    monkeypatch.setattr(command.smoke, "run", lambda targets: None)
    for name in ("SMOKE_TOKEN", "SMOKE_EMAIL", "SMOKE_PASSWORD"):
        monkeypatch.setenv(name, "")  # as a workflow passes a secret that does not exist
    assert command.main(["smoke", "--stage", "prod"]) == 1
    assert capsys.readouterr().err.startswith("smoke: No user asks a question: set SMOKE_EMAIL and SMOKE_PASSWORD")
    assert command.main(["smoke", "--stage", "prod", "--without-question"]) == 0
    monkeypatch.setenv("SMOKE_TOKEN", "token")
    assert command.main(["smoke", "--stage", "prod"]) == 0
