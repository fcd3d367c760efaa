"""The deployer's IAM policy: every action that the template's resources and the commands need, on our names only."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from cfnlint.decode import cfn_yaml
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from infra.package.__main__ import ROOT
from tests.package.kit import Packaged

pytestmark = pytest.mark.timeout(600)  # the first test waits for the build

POLICY = json.loads((ROOT / "infra/deploy/deployer-policy.json").read_text())["Statement"]
DOMAIN = json.loads((ROOT / "infra/deploy/domain-policy.json").read_text())["Statement"]
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


def is_allowed(action: str, policy: list[dict[str, Any]] = POLICY) -> bool:
    return any(fnmatchcase(action.lower(), one.lower()) for s in policy for one in patterns(s, "Action"))


def needed(kind: str, region: str = "ca-central-1") -> set[str]:
    """The actions with which CloudFormation creates, reads, updates and deletes resources of a type."""
    handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema(region, kind).schema["handlers"]
    actions = {a for name, handler in handlers.items() if name != "list" for a in handler["permissions"]}
    named = {action for action in actions if action.count(".") == 0 and action not in UNUSED}
    return {action for action in named if action.partition(":")[0] not in UNUSED_SERVICES}


def test_every_resource_can_be_created_updated_and_deleted(packaged: Packaged) -> None:
    """Those of the domain, which is off by default, with a policy of their own."""
    resources = packaged.template["Resources"].values()
    kinds = {one["Type"] for one in resources if one.get("Condition") != "HasDomain"}
    missing = {kind: sorted(a for a in needed(kind) if not is_allowed(a)) for kind in kinds}
    assert {kind: actions for kind, actions in missing.items() if actions} == {}
    assert [a for a in ("cloudfront:GetDistribution", "wafv2:GetWebACL") if is_allowed(a)] == []


def test_the_domain_and_its_firewall_can_be_created_updated_and_deleted(packaged: Packaged) -> None:
    resources = packaged.template["Resources"].values()
    kinds = {one["Type"]: "ca-central-1" for one in resources if one.get("Condition") == "HasDomain"}
    firewall = cfn_yaml.load(str(ROOT / "infra/firewall.yml"))
    kinds |= {one["Type"]: "us-east-1" for one in firewall["Resources"].values()}
    assert kinds == {"AWS::CloudFront::Distribution": "ca-central-1", "AWS::WAFv2::WebACL": "us-east-1"}
    actions = {action for kind, region in kinds.items() for action in needed(kind, region)}
    assert [one for one in sorted(actions | {"acm:DescribeCertificate"}) if not is_allowed(one, DOMAIN)] == []


def test_every_call_of_the_commands_is_allowed() -> None:
    assert [action for action in sorted(COMMANDS) if not is_allowed(action)] == []


def test_what_is_allowed_everywhere_only_reads() -> None:
    everywhere = [s for s in POLICY if "*" in patterns(s, "Resource")]
    verbs = ("Get", "Describe", "List", "Validate")
    assert [a for s in everywhere for a in s["Action"] if not a.partition(":")[2].startswith(verbs)] == []


def test_changes_reach_only_our_names() -> None:
    """AWS names distributions by an id, so that any can be changed: docs/deploy.md says to use a separate account."""
    changing = [s for s in POLICY + DOMAIN if "*" not in patterns(s, "Resource")]
    others = {s["Sid"] for s in changing for r in patterns(s, "Resource") if "canadagpt-chat" not in r}
    assert others == {"TheDomain", "ItsCertificate"}
    assert not is_allowed("iam:CreateUser")
    assert not is_allowed("iam:CreatePolicy")


def test_roles_are_passed_only_to_their_services() -> None:
    (passing,) = [s for s in POLICY if "iam:PassRole" in patterns(s, "Action")]
    services = passing["Condition"]["StringEquals"]["iam:PassedToService"]
    assert services == ["lambda.amazonaws.com", "scheduler.amazonaws.com"]
