"""From uploaded code to live code: publish versions, check them, move the aliases, the chat's by a share first."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.deploy.stage import ALIAS, FUNCTIONS, DeployError, Stage, say
from infra.deploy.versions import Versions

CANARY = "chat"
LOOK_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Canary:
    """A share of the chat's requests, between 0 and 1, and for how long. A share of 0 is no canary."""

    share: float
    minutes: float


def release(
    stage: Stage,
    name: str,
    canary: Canary,
    smoke: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Mapping[str, str]:
    """Make the uploaded code live. Returns the version of each function.

    Raises DeployError after it has moved every alias back.
    """
    versions = Versions(stage)
    published = {function: versions.publish(function, name) for function in FUNCTIONS}
    for function, version in published.items():
        versions.check(function, version)
    say("ok", "new versions start: " + ", ".join(f"{function} {version}" for function, version in published.items()))
    before = {function: versions.live(function) for function in FUNCTIONS}
    has_canary = canary.share > 0 and before[CANARY].version not in ("$LATEST", published[CANARY])
    try:
        for function, version in published.items():
            if function != CANARY or not has_canary:
                versions.promote(function, version, name)
        if has_canary:
            versions.move(CANARY, published[CANARY], share=canary.share)
            say("ok", f"version {published[CANARY]} of {CANARY} has {canary.share:.0%} of the requests")
        smoke()
        if has_canary:
            watch(stage, published[CANARY], canary.minutes, sleep)
            versions.promote(CANARY, published[CANARY], name)
    except BaseException:
        for function, place in before.items():
            versions.move(function, place.version, description=_description(name, place.before))
        say("note", "every alias is back where it was")
        raise
    say("ok", "every alias has moved")
    for function in FUNCTIONS:
        if deleted := versions.prune(function):
            say("note", f"{function}: old versions deleted: {', '.join(deleted)}")
    return published


def watch(stage: Stage, version: str, minutes: float, sleep: Callable[[float], None]) -> None:
    """Wait, and look at what Lambda counts. Raises DeployError when the version fails."""
    until = datetime.now(UTC) + timedelta(minutes=minutes)
    since = datetime.now(UTC) - timedelta(minutes=1)
    waits = max(1, round(minutes * 60 / LOOK_EVERY_S))
    for _ in range(waits):
        sleep(minutes * 60 / waits)
        counted = count(stage, version, since)
        if counted["Errors"] or counted["Throttles"]:
            found = ", ".join(f"{metric} {value:.0f}" for metric, value in counted.items())
            raise DeployError(f"Version {version} of {CANARY} fails: {found}.")
    answered = count(stage, version, since)["Invocations"]
    say("ok", f"until {until:%H:%M} UTC version {version} answered {answered:.0f} requests without an error")


def count(stage: Stage, version: str, since: datetime) -> dict[str, float]:
    """Sums of Lambda's metrics of a version behind the alias. A 500 of the app is not among `Errors`: Versions.check
    and the smoke test look for those.

    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
    """
    function = stage.function(CANARY)
    dimensions = [
        {"Name": "FunctionName", "Value": function},
        {"Name": "Resource", "Value": f"{function}:{ALIAS}"},
        {"Name": "ExecutedVersion", "Value": version},
    ]

    def query(metric: str) -> dict[str, Any]:
        named = {"Namespace": "AWS/Lambda", "MetricName": metric, "Dimensions": dimensions}
        return {"Id": metric.lower(), "MetricStat": {"Metric": named, "Period": 60, "Stat": "Sum"}}

    metrics = ("Invocations", "Errors", "Throttles")
    results = stage.client("cloudwatch").get_metric_data(
        MetricDataQueries=[query(metric) for metric in metrics], StartTime=since, EndTime=datetime.now(UTC)
    )["MetricDataResults"]
    sums = {result["Id"]: sum(result["Values"]) for result in results}
    return {metric: sums.get(metric.lower(), 0.0) for metric in metrics}


def _description(name: str, before: str | None) -> str:
    return f"before {name}; before it {before}" if before else f"before {name}"
