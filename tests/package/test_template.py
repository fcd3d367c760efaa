"""The CloudFormation template: URLs, limits, roles and secrets."""

import json
import zipfile

import pytest

from infra.deploy import costs
from tests.package.kit import MARKER, NAMES, ORIGINS, Packaged

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("chat", "RESPONSE_STREAM"), ("keys", None), ("checkout", None), ("account", None), ("webhooks", None)],
)
def test_urls_are_public_and_only_the_chat_streams(packaged: Packaged, name: str, mode: str | None) -> None:
    """AuthType NONE needs both permissions: without the second, every request gets 403."""
    logical_id = f"{name.capitalize()}LambdaFunctionUrl"
    url = packaged.resource(logical_id)
    assert url.get("InvokeMode") == mode
    assert url["AuthType"] == "NONE"
    permissions = [
        p
        for p in packaged.properties("AWS::Lambda::Permission")
        if p["FunctionName"] == {"Ref": f"{name.capitalize()}Alias"}
    ]
    assert {
        (p["Action"], p["Principal"], p.get("FunctionUrlAuthType"), p.get("InvokedViaFunctionUrl")) for p in permissions
    } == {
        ("lambda:InvokeFunctionUrl", "*", "NONE", None),
        ("lambda:InvokeFunction", "*", None, True),
    }
    assert packaged.template["Outputs"][logical_id]["Value"] == {"Fn::GetAtt": [logical_id, "FunctionUrl"]}


@pytest.mark.parametrize("name", NAMES)
def test_requests_and_jobs_reach_the_alias(packaged: Packaged, name: str) -> None:
    """The URL waits for the alias, which the template creates on the newest code and never moves."""
    title = name.capitalize()
    assert packaged.resource(f"{title}Alias") == {
        "Name": "live",
        "FunctionName": {"Ref": f"{title}LambdaFunction"},
        "FunctionVersion": "$LATEST",
    }
    called = "MaintenanceLambdaEvConf" if name == "maintenance" else f"{title}LambdaFunctionUrl"
    assert packaged.resource(called)["Qualifier"] == "live"
    assert packaged.template["Resources"][called]["DependsOn"] == [f"{title}Alias"]
    assert not packaged.properties("AWS::Lambda::Version")


def test_each_function_has_one_secret_url_and_role(packaged: Packaged) -> None:
    """The maintenance function has no URL; the scheduler has the additional role."""
    for kind, count in (
        ("AWS::Lambda::Function", len(NAMES)),
        ("AWS::SecretsManager::Secret", len(NAMES)),
        ("AWS::Lambda::Url", len(NAMES) - 1),
        ("AWS::IAM::Role", len(NAMES) + 1),
    ):
        assert len(packaged.properties(kind)) == count, kind


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("chat", {"GET", "POST"}),
        ("keys", {"GET", "POST", "PUT", "DELETE"}),
        ("checkout", {"GET", "POST", "PATCH"}),
        ("account", {"GET", "POST", "PUT", "DELETE"}),
    ],
)
def test_the_url_answers_preflights_only_for_allowed_origins(packaged: Packaged, name: str, methods: set[str]) -> None:
    cors = packaged.resource(f"{name.capitalize()}LambdaFunctionUrl")["Cors"]
    assert cors["AllowOrigins"] == {"Fn::Split": [",", ORIGINS]}
    assert set(cors["AllowMethods"]) == methods
    assert set(cors["AllowHeaders"]) == {
        "authorization",
        "content-type",
        "accept",
        "x-client-info",
        "mcp-protocol-version",
        "sentry-trace",
        "baggage",
        "traceparent",
        "tracestate",
    }
    assert set(cors["ExposeHeaders"]) == {"x-request-id", "retry-after", "x-vercel-ai-ui-message-stream"}
    assert 0 < cors["MaxAge"] <= 86_400
    assert "AllowCredentials" not in cors
    assert packaged.environment(name)["ALLOWED_ORIGINS"] == ORIGINS


def test_the_webhooks_url_has_no_cors(packaged: Packaged) -> None:
    assert "Cors" not in packaged.resource("WebhooksLambdaFunctionUrl")


def test_automatic_tax_and_promotion_codes_are_off_by_default(packaged: Packaged) -> None:
    assert packaged.environment("checkout")["STRIPE_AUTOMATIC_TAX"] == ""
    assert packaged.environment("maintenance")["STRIPE_AUTOMATIC_TAX"] == ""
    assert packaged.environment("checkout")["STRIPE_PROMOTION_CODES"] == ""


def test_the_function_runs_under_the_web_adapter(packaged: Packaged) -> None:
    assert "arn:aws:lambda:ca-central-1:753240598075:layer:LambdaAdapterLayerArm64:27" in packaged.function()["Layers"]
    assert packaged.function()["Handler"] == "functions/chat/run.sh"
    expected = {
        "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
        "AWS_LWA_INVOKE_MODE": "response_stream",
        "AWS_LWA_READINESS_CHECK_PATH": "/health",
    }
    assert expected.items() <= packaged.environment().items()
    assert packaged.environment()["AWS_LWA_PORT"].isdecimal()


@pytest.mark.parametrize("name", NAMES)
def test_the_secrets_extension_is_in_every_function(packaged: Packaged, name: str) -> None:
    """It caches nothing, so that a rotated key ring is read at once."""
    arn = "arn:aws:lambda:ca-central-1:200266452380:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:104"
    layers = packaged.function(name)["Layers"]
    assert layers[-1] == arn
    assert len(layers) == (2 if name == "chat" else 1)
    assert packaged.environment(name)["SECRETS_MANAGER_TTL"] == "0"


def test_the_jobs_have_room_for_the_registry_of_lobbyists(packaged: Packaged) -> None:
    """Its zips, and their rows in SQLite, are files in /tmp."""
    assert packaged.function("maintenance")["EphemeralStorage"] == {"Size": 3072}
    assert "PARLIAMENT_CONTACT" in packaged.environment("maintenance")


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("chat", 180), ("keys", 20), ("checkout", 20), ("account", 60), ("webhooks", 30), ("maintenance", 900)],
)
def test_time_memory_and_concurrency_are_limited(packaged: Packaged, name: str, seconds: int) -> None:
    function = packaged.function(name)
    assert function["Timeout"] == seconds
    assert 0 < function["ReservedConcurrentExecutions"] <= 1000
    assert function["MemorySize"] <= 2048
    log = packaged.resource(f"{name.capitalize()}LogGroup")
    assert log["LogGroupName"] == f"/aws/lambda/{function['FunctionName']}"
    assert log["RetentionInDays"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_role_may_only_use_its_log_and_secret(packaged: Packaged, name: str) -> None:
    """No `*`, no managed policy, and no additional role from osls. The jobs also report."""
    role = packaged.resource(f"{name.capitalize()}Role")
    assert packaged.function(name)["Role"] == {"Fn::GetAtt": [f"{name.capitalize()}Role", "Arn"]}
    assert "ManagedPolicyArns" not in role
    (policy,) = role["Policies"]
    allowed: dict[str, list[str]] = {}
    for statement in policy["PolicyDocument"]["Statement"]:
        assert statement["Effect"] == "Allow"
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource"}
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in actions:
            allowed.setdefault(json.dumps(statement["Resource"]), []).append(action)
    assert "*" not in json.dumps(allowed)
    reports = {
        json.dumps({"Ref": "AlarmTopic"}): ["sns:Publish"],
        json.dumps({"Fn::GetAtt": ["FailedJobs", "Arn"]}): ["sqs:SendMessage"],
    }
    assert {resource: sorted(actions) for resource, actions in allowed.items()} == {
        **(reports if name == "maintenance" else {}),
        json.dumps({"Fn::GetAtt": [f"{name.capitalize()}LogGroup", "Arn"]}): [
            "logs:CreateLogStream",
            "logs:PutLogEvents",
        ],
        json.dumps(packaged.environment(name)["SECRETS_ID"]): ["secretsmanager:GetSecretValue"],
    }
    assert packaged.environment(name)["SECRETS_ID"] == {"Ref": f"{name.capitalize()}Secrets"}


@pytest.mark.parametrize("name", NAMES)
def test_only_lambda_can_assume_a_functions_role(packaged: Packaged, name: str) -> None:
    (statement,) = packaged.resource(f"{name.capitalize()}Role")["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"


@pytest.mark.parametrize("name", NAMES)
def test_template_artifacts_and_output_contain_no_secret(packaged: Packaged, name: str) -> None:
    """No variable for a secret, and no value of a secret that was set during the build."""
    suspicious = {v for v in packaged.environment(name) if "KEY" in v or "SECRET" in v or "TOKEN" in v}
    assert suspicious == {"SECRETS_ID", "SECRETS_MANAGER_TTL", "SUPABASE_ANON_KEY"}
    for path in packaged.first.joinpath(".serverless").iterdir():
        assert MARKER not in path.read_text(), path.name
    with zipfile.ZipFile(packaged.artifact(name)) as archive:
        ours = [entry for entry in archive.namelist() if entry.startswith("functions/")]
        assert not [entry for entry in ours if MARKER.encode() in archive.read(entry)]
    assert MARKER not in packaged.output


def test_the_costs_are_reckoned_with_this_template(packaged: Packaged) -> None:
    sizes = {name: packaged.function(name)["MemorySize"] / 1024 for name in NAMES}
    assert sizes.pop("chat") == costs.CHAT_GB
    assert set(sizes.values()) == {costs.OTHER_GB}
    assert len(packaged.properties("AWS::SecretsManager::Secret")) == costs.SECRETS
    alarms = packaged.properties("AWS::CloudWatch::Alarm")
    read = sum(sum("MetricStat" in one for one in alarm.get("Metrics", [])) or 1 for alarm in alarms)
    assert costs.ALARM_METRICS * 0.5 < read <= costs.ALARM_METRICS


def test_secrets_are_created_empty(packaged: Packaged) -> None:
    for name in NAMES:
        assert "SecretString" not in packaged.resource(f"{name.capitalize()}Secrets")


@pytest.mark.parametrize("kind", ["Secrets", "LogGroup"])
def test_secrets_and_logs_outlive_the_stack(packaged: Packaged, kind: str) -> None:
    """Unless the deployment that created them fails: the next one could not create them under the same names."""
    for name in NAMES:
        resource = packaged.template["Resources"][f"{name.capitalize()}{kind}"]
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
