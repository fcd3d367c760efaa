"""From uploaded code to live code: publish versions, check them, move the aliases, the chat's by a share first."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.deploy.smoke import question
from infra.deploy.stage import ALIAS, FUNCTIONS, DeployError, Stage, say
from infra.deploy.versions import Live, Versions

CANARY = "chat"
LOOK_EVERY_S = 30.0
TOLERATED = 0.05  # how much larger the share of failed requests may be than the version's before
FAILURES = ("turn failed", "unexpected failure")  # of our code; they may have no line `query`
LINES = ("request", "query", *FAILURES)
STREAM = re.compile(r"\[([^\[\]]+)\]")  # of a log stream's name, such as 2026/11/29/[12]0123456789abcdef


class MovedError(DeployError):
    """Another command has moved the alias. Nothing is put back, because it knows better where to."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A share of the chat's requests, between 0 and 1, and for how long. A share of 0 is no canary."""

    share: float
    minutes: float


@dataclass(slots=True)
class Requests:
    """The requests that a version logged, and those of them that failed, by their ids."""

    all: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    @property
    def failed_share(self) -> float:
        """Between 0 and 1; 0 without a request."""
        return len(self.failed) / len(self.all) if self.all else 0.0


def release(
    stage: Stage,
    name: str,
    canary: Canary,
    smoke: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
    token: str | None = None,
) -> Mapping[str, str]:
    """Make the uploaded code live. Returns the version of each function. With a user's token, the new chat answers a
    question before it gets requests.

    Raises DeployError after it has moved every alias back, or MovedError.
    """
    versions = Versions(stage)
    published = {function: versions.publish(function, name) for function in FUNCTIONS}
    for function, version in published.items():
        versions.check(function, version)
    if token:
        versions.ask(CANARY, published[CANARY], question(), token)
    say("ok", "new versions start: " + ", ".join(f"{function} {version}" for function, version in published.items()))
    before = _places_before(versions, published)
    is_unchanged = all(before[function].version == version for function, version in published.items())
    if is_unchanged and not before[CANARY].canary:
        smoke()
        say("ok", "nothing has changed: every alias stays")
        return published
    has_canary = canary.share > 0 and before[CANARY].version not in ("$LATEST", published[CANARY])
    try:
        if has_canary:  # first, so that the next release knows of this one, should it be killed
            versions.move(CANARY, published[CANARY], share=canary.share)
            say("ok", f"version {published[CANARY]} of {CANARY} has {canary.share:.0%} of the requests")
        for function, version in published.items():
            if function != CANARY or not has_canary:
                versions.promote(function, version, name, before[function].version)
        smoke()
        if has_canary:
            watch(stage, published[CANARY], before[CANARY].version, canary.minutes, sleep)
            versions.promote(CANARY, published[CANARY], name, before[CANARY].version)
            smoke()  # before, nine of ten requests went to the chat before
    except MovedError:
        raise
    except BaseException:
        for function, place in before.items():
            versions.put_back(function, place, name)
        say("note", "every alias is back where it was")
        raise
    say("ok", "every alias has moved")
    for function in FUNCTIONS:
        if deleted := versions.prune(function):
            say("note", f"{function}: old versions deleted: {', '.join(deleted)}")
    return published


def _places_before(versions: Versions, published: Mapping[str, str]) -> dict[str, Live]:
    """Where the aliases were before this release. A canary of the same version is left by a release that was killed:
    then what it has moved counts as not moved yet."""
    places = {function: versions.live(function) for function in FUNCTIONS}
    if places[CANARY].canary != published[CANARY]:
        return places
    return {
        function: Live(place.before, None, None) if place.before and place.version == published[function] else place
        for function, place in places.items()
    }


def watch(stage: Stage, version: str, before: str, minutes: float, sleep: Callable[[float], None]) -> None:
    """Wait, and look at what Lambda counts and the chat logs. Raises DeployError when the version fails."""
    until = datetime.now(UTC) + timedelta(minutes=minutes)
    since = datetime.now(UTC) - timedelta(minutes=1)
    waits = max(1, round(minutes * 60 / LOOK_EVERY_S))
    for _ in range(waits):
        sleep(minutes * 60 / waits)
        if Versions(stage).live(CANARY).canary != version:
            raise MovedError(f"The alias of {CANARY} was moved meanwhile, so this deployment ends here.")
        counted, logged = count(stage, version, since), requests(stage, since)
        if counted["Errors"] or counted["Throttles"]:
            found = ", ".join(f"{metric} {value:.0f}" for metric, value in counted.items())
            raise DeployError(f"Version {version} of {CANARY} fails: {found}.")
        new, old = logged.get(version, Requests()), logged.get(before, Requests())
        if new.failed_share > old.failed_share + TOLERATED:
            raise DeployError(
                f"Version {version} of {CANARY} fails: {len(new.failed)} of {len(new.all)} requests failed, of version "
                f"{before} {len(old.failed)} of {len(old.all)}. The log has them: request_id {min(new.failed)}."
            )
    answered = len(requests(stage, since).get(version, Requests()).all)
    say("ok", f"until {until:%H:%M} UTC version {version} answered {answered} requests, and no larger share failed")


def requests(stage: Stage, since: datetime) -> dict[str, Requests]:
    """What each version of the chat logged of its requests. Failed are those with a 5xx, and answers that failed.

    Lambda counts neither among `Errors`, and its count of the URL's 5xx has no answers that fail after they began. The
    name of a log stream has the version: https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-view.html
    """
    found: dict[str, Requests] = {}
    pages = (
        stage.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=f"/aws/lambda/{stage.function(CANARY)}",
            startTime=int(since.timestamp() * 1000),
            filterPattern=f"{{ {' || '.join(f'$.message = {json.dumps(message)}' for message in LINES)} }}",
        )
    )
    for event in (event for page in pages for event in page["events"]):
        version = STREAM.search(event["logStreamName"])
        line = _json(event["message"])
        if version is None or line.get("message") not in LINES:
            continue
        seen = found.setdefault(version[1], Requests())
        seen.all.add(line["request_id"])
        is_failure = line["message"] in FAILURES or line.get("outcome") in ("failed", "lost")
        if is_failure or line.get("status", 0) >= 500:
            seen.failed.add(line["request_id"])
    return found


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # Lambda's own lines
        return {}
    return found if isinstance(found, dict) else {}


def count(stage: Stage, version: str, since: datetime) -> dict[str, float]:
    """Sums of Lambda's metrics of a version behind the alias. A 500 of the app is not among `Errors`: `requests`.

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

    metrics = ("Errors", "Throttles")
    results = stage.client("cloudwatch").get_metric_data(
        MetricDataQueries=[query(metric) for metric in metrics], StartTime=since, EndTime=datetime.now(UTC)
    )["MetricDataResults"]
    sums = {result["Id"]: sum(result["Values"]) for result in results}
    return {metric: sums.get(metric.lower(), 0.0) for metric in metrics}
