"""What each role may do: the template's policies, evaluated for every action of the services and every resource.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
import pytest

from tests.package.kit import NAMES, Packaged

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = pytest.mark.timeout(600)

PLACE = "ca-central-1:123456789012"
# The services of the stack, and those through which a function could get at more.
SERVICES = (
    *("cloudformation", "cloudfront", "cloudwatch", "dynamodb", "events", "iam", "kms", "lambda", "logs", "s3"),
    *("scheduler", "secretsmanager", "sns", "sqs", "ssm", "sts", "xray"),
)
# Resources that are not the stack's: another stage's, and any.
FOREIGN = (
    f"arn:aws:secretsmanager:{PLACE}:secret:canadagpt-chat/prod/chat-AbCdEf",
    f"arn:aws:logs:{PLACE}:log-group:/aws/lambda/canadagpt-chat-prod-chat:log-stream:1",
    f"arn:aws:lambda:{PLACE}:function:canadagpt-chat-prod-maintenance",
    f"arn:aws:sns:{PLACE}:canadagpt-chat-prod-alarms",
    "arn:aws:iam::123456789012:role/administrator",
    "arn:aws:s3:::any-bucket/any-key",
    "*",
)


@cache
def actions() -> list[str]:
    """Every action of SERVICES, from the descriptions of their APIs."""
    session = botocore.session.get_session()
    return [
        f"{service}:{operation}"
        for service in SERVICES
        for operation in session.get_service_model(service).operation_names
    ]


def arn(template: dict[str, Any], value: Any) -> str:
    """The ARN that a Ref or GetAtt in a policy has after a deployment. Fails for what it does not know."""
    if isinstance(value, str):
        return value
    ((function, argument),) = value.items()
    name = argument if function == "Ref" else argument[0]
    assert function == "Ref" or argument[1:] == ["Arn"], value
    resource = template["Resources"][name]
    properties = resource["Properties"]
    match resource["Type"]:
        case "AWS::SecretsManager::Secret":
            return f"arn:aws:secretsmanager:{PLACE}:secret:{properties['Name']}-AbCdEf"
        case "AWS::Logs::LogGroup":
            return f"arn:aws:logs:{PLACE}:log-group:{properties['LogGroupName']}:*"
        case "AWS::Lambda::Function":
            return f"arn:aws:lambda:{PLACE}:function:{properties['FunctionName']}"
        case "AWS::Lambda::Alias":
            return f"{arn(template, {'GetAtt': [properties['FunctionName']['Ref'], 'Arn']})}:{properties['Name']}"
        case "AWS::SNS::Topic":
            return f"arn:aws:sns:{PLACE}:{properties['TopicName']}"
        case "AWS::SQS::Queue":
            return f"arn:aws:sqs:{PLACE}:{properties['QueueName']}"
    raise AssertionError(value)


def resources(template: dict[str, Any]) -> Iterator[str]:
    """The ARNs of the stack, as requests name them: of a log group, one of its streams."""
    kinds = ("SecretsManager::Secret", "Logs::LogGroup", "Lambda::Function", "SNS::Topic", "SQS::Queue")
    for name, resource in template["Resources"].items():
        if resource["Type"].removeprefix("AWS::") in kinds:
            found = arn(template, {"GetAtt": [name, "Arn"]})
            yield found.removesuffix(":*") + ":log-stream:1" if found.endswith(":*") else found
        if resource["Type"] == "AWS::IAM::Role":
            yield f"arn:aws:iam::123456789012:role/{name}"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@cache
def matches(pattern: str, text: str) -> bool:
    """IAM's wildcards: `*` is any text, `?` one character."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text) is not None


def effect_of(statement: dict[str, Any], *, traced: bool) -> str:
    match statement["Effect"]:
        case {"Fn::If": ["IsTraced", effect, otherwise]}:
            return str(effect if traced else otherwise)
        case effect:
            return str(effect)


class Role:
    """A role of the template. `traced`: with the parameter `tracing`."""

    def __init__(self, template: dict[str, Any], name: str, *, traced: bool = False) -> None:
        role = template["Resources"][name]["Properties"]
        assert not {"ManagedPolicyArns", "PermissionsBoundary"} & role.keys()
        documents = [policy["PolicyDocument"] for policy in role["Policies"]]
        for resource in template["Resources"].values():
            assert resource["Type"] not in ("AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy"), "is not evaluated"
            if resource["Type"] == "AWS::IAM::Policy" and {"Ref": name} in resource["Properties"]["Roles"]:
                documents.append(resource["Properties"]["PolicyDocument"])
        self.rules: list[tuple[str, list[str], list[str]]] = []
        for statement in (statement for document in documents for statement in document["Statement"]):
            assert statement.keys() <= {"Sid", "Effect", "Action", "Resource"}, "is not evaluated"
            targets = [arn(template, resource) for resource in as_list(statement["Resource"])]
            self.rules.append((effect_of(statement, traced=traced), as_list(statement["Action"]), targets))

    def may(self, action: str, resource: str) -> bool:
        """An explicit denial wins. Without a statement that matches, everything is denied."""
        effects = {
            effect
            for effect, patterns, targets in self.rules
            if any(matches(pattern.lower(), action.lower()) for pattern in patterns)
            and any(matches(target, resource) for target in targets)
        }
        return effects == {"Allow"}

    def allowed(self, template: dict[str, Any]) -> set[tuple[str, str]]:
        """Every action and resource that the role may use."""
        everything = [*resources(template), *FOREIGN]
        patterns = {pattern.lower() for _, patterns, _ in self.rules for pattern in patterns}
        named = [one for one in actions() if any(matches(pattern, one.lower()) for pattern in patterns)]
        return {(action, resource) for action in named for resource in everything if self.may(action, resource)}


def own(template: dict[str, Any], name: str) -> set[tuple[str, str]]:
    """What a function needs, and no more."""
    stream = f"arn:aws:logs:{PLACE}:log-group:/aws/lambda/canadagpt-chat-dev-{name}:log-stream:1"
    needs = {
        ("logs:CreateLogStream", stream),
        ("logs:PutLogEvents", stream),
        ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{PLACE}:secret:canadagpt-chat/dev/{name}-AbCdEf"),
    }
    if name == "maintenance":
        needs.add(("sns:Publish", f"arn:aws:sns:{PLACE}:canadagpt-chat-dev-alarms"))
        needs.add(("sqs:SendMessage", f"arn:aws:sqs:{PLACE}:canadagpt-chat-dev-failed-jobs"))
    return needs


@pytest.mark.parametrize("name", NAMES)
def test_a_function_is_denied_every_action_that_is_not_its_own(packaged: Packaged, name: str) -> None:
    template = packaged.template
    assert Role(template, f"{name.capitalize()}Role").allowed(template) == own(template, name)


@pytest.mark.parametrize("name", NAMES)
def test_tracing_adds_only_the_writing_of_traces(packaged: Packaged, name: str) -> None:
    template = packaged.template
    role = Role(template, f"{name.capitalize()}Role", traced=True)
    added = role.allowed(template) - own(template, name)
    assert {action for action, _ in added} == {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}


def test_the_scheduler_may_only_start_the_jobs_in_the_simulation(packaged: Packaged) -> None:
    template = packaged.template
    for action, resource in Role(template, "MaintenanceSchedulesRole").allowed(template):
        assert action in ("lambda:Invoke", "lambda:InvokeFunction")
        assert resource == f"arn:aws:lambda:{PLACE}:function:canadagpt-chat-dev-maintenance"


@pytest.mark.parametrize(
    ("effect", "patterns", "targets", "expected"),
    [
        ("Allow", ["secretsmanager:*"], ["*"], True),
        ("Allow", ["SecretsManager:Get*"], ["arn:aws:secretsmanager:*:secret:a-??????"], True),
        ("Allow", ["secretsmanager:GetSecretValue"], ["arn:aws:secretsmanager:*:secret:b-*"], False),
        ("Allow", ["secretsmanager:ListSecrets"], ["*"], False),
        ("Deny", ["secretsmanager:Get*"], ["*"], False),
    ],
)
def test_the_simulation_knows_wildcards_and_denials(
    packaged: Packaged, effect: str, patterns: list[str], targets: list[str], expected: bool
) -> None:
    role = Role(packaged.template, "ChatRole")
    secret = f"arn:aws:secretsmanager:{PLACE}:secret:a-AbCdEf"
    role.rules = [(effect, patterns, targets)]
    assert role.may("secretsmanager:GetSecretValue", secret) is expected
    role.rules.append(("Deny", ["*"], [secret]))
    assert not role.may("secretsmanager:GetSecretValue", secret)
