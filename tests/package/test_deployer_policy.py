"""The deployer's IAM policy: every action that the template's resources and the commands need, on our names only."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from infra.package.__main__ import ROOT
from tests.package.kit import Packaged

pytestmark = pytest.mark.timeout(600)  # the first test waits for the build

POLICY = json.loads((ROOT / "infra/deploy/deployer-policy.json").read_text())["Statement"]
# What CloudFormation's handlers may call for features that the template does not use: encryption with a key of one's
# own, networks, file systems, code signing, metadata tables, deliveries of logs, policies of users and
# groups, CodeDeploy.
UNUSED_SERVICES = {"codedeploy", "ec2", "elasticfilesystem", "firehose", "kms", "payments", "s3files", "s3tables"}
UNUSED = {
    "iam:DeleteGroupPolicy",
    "iam:DeleteUserPolicy",
    "iam:GetGroupPolicy",
    "iam:GetUserPolicy",
    "iam:PutGroupPolicy",
    "iam:PutUserPolicy",
    "lambda:GetCodeSigningConfig",
    "lambda:PassCapacityProvider",
    "logs:CreateLogDelivery",
    "logs:DeleteResourcePolicy",
    "logs:PutResourcePolicy",
}
# What the commands call beside: osls (its lib/plugins/aws) and infra/deploy.
COMMANDS = {
    "cloudformation:CreateChangeSet",
    "cloudformation:CreateStack",
    "cloudformation:DeleteChangeSet",
    "cloudformation:DeleteStack",
    "cloudformation:DescribeChangeSet",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStackResource",
    "cloudformation:DescribeStackResources",
    "cloudformation:DescribeStacks",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:GetTemplate",
    "cloudformation:ListStackResources",
    "cloudformation:UpdateStack",
    "cloudformation:ValidateTemplate",
    "cloudwatch:GetMetricData",
    "lambda:DeleteFunction",
    "lambda:GetAccountSettings",
    "lambda:GetAlias",
    "lambda:GetFunctionConcurrency",
    "lambda:GetFunctionConfiguration",
    "lambda:InvokeFunction",
    "lambda:ListVersionsByFunction",
    "lambda:PublishVersion",
    "lambda:UpdateAlias",
    "lambda:UpdateFunctionConfiguration",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:PutObject",
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
}


def patterns(statement: dict[str, Any], name: str) -> list[str]:
    value = statement[name]
    return [value] if isinstance(value, str) else value


def is_allowed(action: str) -> bool:
    return any(fnmatchcase(action.lower(), one.lower()) for s in POLICY for one in patterns(s, "Action"))


def needed(kind: str) -> set[str]:
    """The actions with which CloudFormation creates, reads, updates and deletes resources of a type."""
    handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema("ca-central-1", kind).schema["handlers"]
    actions = {a for name, handler in handlers.items() if name != "list" for a in handler["permissions"]}
    named = {action for action in actions if action.count(".") == 0 and action not in UNUSED}
    return {action for action in named if action.partition(":")[0] not in UNUSED_SERVICES}


def test_every_resource_can_be_created_updated_and_deleted(packaged: Packaged) -> None:
    kinds = {resource["Type"] for resource in packaged.template["Resources"].values()}
    missing = {kind: sorted(a for a in needed(kind) if not is_allowed(a)) for kind in kinds}
    assert {kind: actions for kind, actions in missing.items() if actions} == {}


def test_every_call_of_the_commands_is_allowed() -> None:
    assert [action for action in sorted(COMMANDS) if not is_allowed(action)] == []


def test_what_is_allowed_everywhere_only_reads() -> None:
    everywhere = [s for s in POLICY if "*" in patterns(s, "Resource")]
    verbs = ("Get", "Describe", "List", "Validate")
    assert [a for s in everywhere for a in s["Action"] if not a.partition(":")[2].startswith(verbs)] == []


def test_changes_reach_only_our_names() -> None:
    """AWS names distributions by an id, so that any can be changed: docs/deploy.md says to use a separate account."""
    changing = [s for s in POLICY if "*" not in patterns(s, "Resource") and s["Sid"] != "TheDomain"]
    assert [r for s in changing for r in patterns(s, "Resource") if "canadagpt-chat" not in r] == []
    assert not is_allowed("iam:CreateUser")
    assert not is_allowed("iam:CreatePolicy")


def test_roles_are_passed_only_to_their_services() -> None:
    (passing,) = [s for s in POLICY if "iam:PassRole" in patterns(s, "Action")]
    services = passing["Condition"]["StringEquals"]["iam:PassedToService"]
    assert services == ["lambda.amazonaws.com", "scheduler.amazonaws.com"]
