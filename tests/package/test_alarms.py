"""The alarms: each has its paragraph in docs/runbook.md, and its metric is written by a function in a test."""

import ast
import json
import re
from typing import Any

import pytest

from functions.maintenance.handler import JOBS
from infra.local.postgres import ROOT
from tests.package.kit import NAMES, Packaged

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = pytest.mark.timeout(600)

# Our metrics: the functions that write each, and the test that runs one of them and reads the metric.
METRICS = {
    "AnswersFailed": (["chat"], "tests/functions/test_metrics.py"),
    "ChargedUsd": (["chat"], "tests/functions/test_metrics.py"),
    "CostUsd": (["chat"], "tests/functions/test_metrics.py"),
    "Differences": (["maintenance"], "tests/functions/maintenance/test_measure.py"),
    "FirstTokenMs": (["chat"], "tests/functions/test_metrics.py"),
    "FreeAnswersRefused": (["chat"], "tests/journeys/test_limits.py"),
    "FreeBudgetPercent": (["maintenance"], "tests/functions/maintenance/test_measure.py"),
    "HoldsLeftToExpire": (["chat"], "tests/functions/test_faults.py"),
    "HoldsOverdue": (["maintenance"], "tests/functions/maintenance/test_measure.py"),
    "InvoicesNotFinalized": (["webhooks"], "tests/functions/webhooks/test_deliveries.py"),
    "JobsDone": (["maintenance"], "tests/functions/maintenance/test_commands.py"),
    "JobsFailed": (["maintenance"], "tests/functions/maintenance/test_commands.py"),
    "JobsOverdue": (["maintenance"], "tests/functions/maintenance/test_measure.py"),
    "MarginUsd": (["maintenance"], "tests/functions/maintenance/test_measure.py"),
    "ModelsGone": (["chat"], "tests/functions/test_gateways.py"),
    "PaymentsWithoutUser": (["webhooks"], "tests/functions/account/test_leaving.py"),
    "PlatformBudgetPercent": (["maintenance"], "tests/functions/maintenance/test_measure.py"),
    "ProviderFailures": (["chat"], "tests/functions/test_metrics.py"),
    "Queries": (["chat"], "tests/functions/test_metrics.py"),
    "ServiceCredentialFailures": (list(NAMES), "tests/functions/test_database.py"),
    "TurnsPending": (["maintenance"], "tests/functions/maintenance/test_measure.py"),
}
# AWS's metrics, with the dimension of each.
OF_AWS = {
    ("AWS/Lambda", "Url5xxCount"): "FunctionName",
    ("AWS/Lambda", "Errors"): "FunctionName",
    ("AWS/Lambda", "Throttles"): "FunctionName",
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): "QueueName",
    ("AWS/Scheduler", "InvocationDroppedCount"): "ScheduleGroup",
}
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def alarms(packaged: Packaged) -> dict[str, dict[str, Any]]:
    """The properties of each alarm, by its logical id."""
    resources = packaged.template["Resources"]
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::CloudWatch::Alarm"}


def metrics_of(alarm: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics that an alarm adds up, or its only one."""
    if "Metrics" not in alarm:
        return [alarm]
    (whole, *parts) = alarm["Metrics"]
    assert whole["Expression"] == "SUM(METRICS())"
    assert all(part["ReturnData"] is False for part in parts)
    return [part["MetricStat"]["Metric"] for part in parts]


def test_each_alarm_has_its_paragraph_in_the_runbook(packaged: Packaged) -> None:
    headings = re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)
    assert sorted(headings) == sorted(alarms(packaged))
    for paragraph in re.split(r"^### ", RUNBOOK, flags=re.MULTILINE)[1:]:
        for part in ("**Means:**", "**Look at**", "**Do"):
            assert part in paragraph, paragraph.split("\n")[0]


def test_alarms_send_to_the_topic_and_name_the_runbook(packaged: Packaged) -> None:
    for name, alarm in alarms(packaged).items():
        assert alarm["AlarmActions"] == [{"Ref": "AlarmTopic"}], name
        assert alarm["AlarmName"] == f"canadagpt-chat-dev-{name}"
        assert alarm["AlarmDescription"].endswith("docs/runbook.md")


def test_alarms_watch_metrics_that_are_written(packaged: Packaged) -> None:
    """AWS's by their names and dimensions, ours by the function that writes them."""
    for name, alarm in alarms(packaged).items():
        for metric in metrics_of(alarm):
            (dimension,) = metric["Dimensions"]
            if metric["Namespace"] == packaged.environment()["METRICS_NAMESPACE"]:
                services, _ = METRICS[metric["MetricName"]]
                assert dimension["Name"] == "service", name
                assert dimension["Value"] in services, name
            else:
                assert OF_AWS[metric["Namespace"], metric["MetricName"]] == dimension["Name"], name


def test_every_metric_is_written_by_its_function_and_read_by_a_test() -> None:
    """The test reads what the function wrote; here only that it names the metric."""
    written: dict[str, set[str]] = {}
    for path in (ROOT / "functions").rglob("*.py"):
        service = path.relative_to(ROOT / "functions").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count":
                for keyword in node.keywords:
                    if keyword.arg:
                        written.setdefault(keyword.arg, set()).add(service)
            if isinstance(node, ast.Dict):
                for key in node.keys:
                    if isinstance(key, ast.Constant) and re.fullmatch(r"[A-Z]\w+(Usd|Ms)", str(key.value)):
                        written.setdefault(str(key.value), set()).add(service)
    for job in JOBS.values():
        for metric in job.metrics.values():
            written.setdefault(metric, set()).add("maintenance")
    assert written == {
        metric: {"common"} if len(services) > 1 else set(services) for metric, (services, _) in METRICS.items()
    }
    for metric, (_, test) in METRICS.items():
        assert re.search(rf"\b{metric}\b", (ROOT / test).read_text(encoding="utf-8")), metric


def test_every_function_is_watched_for_errors_and_throttles(packaged: Packaged) -> None:
    for name in ("FunctionErrors", "FunctionThrottles"):
        watched = {metric["Dimensions"][0]["Value"]["Ref"] for metric in metrics_of(alarms(packaged)[name])}
        assert watched == {f"{function.capitalize()}LambdaFunction" for function in NAMES}
    with_url = {name.removesuffix("Url5xx").lower() for name in alarms(packaged) if name.endswith("Url5xx")}
    assert with_url == set(NAMES) - {"maintenance"}


def test_a_job_that_does_not_come_is_an_alarm(packaged: Packaged) -> None:
    """measure writes the metric every five minutes. Only there no data is bad news."""
    overdue = alarms(packaged)["JobsOverdue"]
    assert (overdue["TreatMissingData"], overdue["Period"]) == ("breaching", 900)
    others = {alarm["TreatMissingData"] for name, alarm in alarms(packaged).items() if name != "JobsOverdue"}
    assert others == {"notBreaching"}


def test_the_topic_has_a_subscription_only_with_an_address(packaged: Packaged) -> None:
    template = packaged.template
    assert template["Parameters"]["AlarmAddress"]["Default"] == ""
    assert template["Resources"]["AlarmSubscription"]["Condition"] == "HasAlarmAddress"
    assert template["Conditions"]["HasAlarmAddress"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmAddress"}, ""]}]}


def test_osls_sends_no_parameters_to_cloudformation() -> None:
    """It would send them with the first deploy's template too, which does not have them, and CloudFormation refuses."""
    assert "stackParameters" not in (ROOT / "serverless.yml").read_text(encoding="utf-8")


def test_events_of_failed_jobs_are_kept(packaged: Packaged) -> None:
    (config,) = packaged.properties("AWS::Lambda::EventInvokeConfig")
    assert config["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": ["FailedJobs", "Arn"]}
    assert packaged.resource("FailedJobs")["MessageRetentionPeriod"] == 14 * 86_400
    assert packaged.environment("maintenance")["REPORTS_TOPIC_ARN"] == {"Ref": "AlarmTopic"}


def test_tracing_is_off_by_default(packaged: Packaged) -> None:
    template = packaged.template
    assert template["Parameters"]["Tracing"]["Default"] == "off"
    assert template["Conditions"]["IsTraced"] == {"Fn::Equals": [{"Ref": "Tracing"}, "on"]}
    for name in NAMES:
        assert "TracingPolicy" in template["Resources"][f"{name.capitalize()}LambdaFunction"]["DependsOn"]
        config = packaged.function(name)["TracingConfig"]
        assert config == {"Fn::If": ["IsTraced", {"Mode": "Active"}, {"Ref": "AWS::NoValue"}]}


def test_the_dashboard_shows_the_metrics_that_are_written(packaged: Packaged) -> None:
    dashboard = json.loads(packaged.resource("Dashboard")["DashboardBody"]["Fn::Sub"])
    titles = [widget["properties"]["title"].split(",")[0] for widget in dashboard["widgets"]]
    expected = {"Chats", "Time to the first token", "Refusals by reason", "Margin of the previous month"}
    assert expected <= set(titles)
    for widget in dashboard["widgets"]:
        service = None
        namespace = None
        for metric in widget["properties"].get("metrics", []):
            if len(metric) < 4:  # the same metric or function as above
                continue
            namespace = namespace if metric[0] == "." else metric[0]
            service = service if metric[3] == "." else metric[3]
            if namespace == packaged.environment()["METRICS_NAMESPACE"]:
                assert service in METRICS[metric[1]][0]
            else:
                assert OF_AWS[namespace, metric[1]] == metric[2]
