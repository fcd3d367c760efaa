"""The schedules of the maintenance jobs."""

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from functions.maintenance.handler import JOBS
from infra.deploy import costs
from tests.package.kit import Packaged

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = pytest.mark.timeout(600)


# When a job runs: its interval, or (hour, minute) of each day, (day, hour, minute) of each month or week.
SCHEDULE: dict[str, timedelta | tuple[int, int] | tuple[int, int, int] | tuple[str, int, int]] = {
    "release-stale-holds": timedelta(minutes=1),
    "bill-thresholds": timedelta(minutes=1),
    "apply-pending-turns": timedelta(minutes=5),
    "measure": timedelta(minutes=5),
    "retry-events": timedelta(minutes=15),
    "bill-overages": timedelta(hours=1),
    "expire-credits": (0, 10),
    "cleanup-expired-conversations": (2, 0),
    "purge-events": (3, 0),
    "reconcile": (5, 0),
    "import-lobbying": (7, 20),
    "import-expenses": ("MON", 7, 50),
    "reset-monthly-overages": (1, 0, 0),
    "margin-report": (2, 6, 0),
}
YEAR = datetime(2028, 1, 1, tzinfo=UTC)  # a leap year
DAYS = [YEAR + timedelta(days=n) for n in range(366)]


def expand(field: str, values: range) -> set[int]:
    """The values of a cron field: `*`, a number or `first/step`."""
    if field == "*":
        return set(values)
    assert re.fullmatch(r"\d+(/\d+)?", field), field
    first, _, step = field.partition("/")
    assert int(first) in values
    return set(range(int(first), values.stop, int(step))) if step else {int(first)}


def starts(expression: str) -> list[datetime]:
    """Every start in YEAR. AWS requires `?` for one of the two day fields, and a sixth field, the year."""
    fields = re.fullmatch(r"cron\((\S+) (\S+) (\S+) (\S+) (MON|\?) \*\)", expression)
    assert fields, expression
    *others, weekday = fields.groups()
    assert (others[2] == "?") == (weekday != "?"), expression
    if weekday != "?":
        others[2] = "*"
    ranges = (range(60), range(24), range(1, 32), range(1, 13))
    minutes, hours, days, months = map(expand, others, ranges)
    return [
        day + timedelta(hours=hour, minutes=minute)
        for day in DAYS
        if day.month in months and day.day in days and (weekday == "?" or day.weekday() == 0)
        for hour in sorted(hours)
        for minute in sorted(minutes)
    ]


def schedules(packaged: Packaged) -> dict[str, dict[str, Any]]:
    """The schedule of each job, by the job in its event."""
    found = packaged.properties("AWS::Scheduler::Schedule")
    by_job = {json.loads(schedule["Target"]["Input"])["job"]: schedule for schedule in found}
    assert len(by_job) == len(found), "a job has two schedules"
    return by_job


def test_exactly_these_jobs_are_scheduled(packaged: Packaged) -> None:
    """An operator runs rotate-keys, export-user and delete-user."""
    assert schedules(packaged).keys() == SCHEDULE.keys()


def test_the_scheduled_jobs_exist(packaged: Packaged) -> None:
    assert schedules(packaged).keys() - JOBS.keys() == set()


@pytest.mark.parametrize("job", SCHEDULE)
def test_a_job_starts_at_its_times(packaged: Packaged, job: str) -> None:
    expected, times = SCHEDULE[job], starts(schedules(packaged)[job]["ScheduleExpression"])
    if isinstance(expected, timedelta):
        assert len(times) == timedelta(days=366) / expected
        assert {later - earlier for earlier, later in pairwise(times)} == {expected}
    else:
        *of_month, hour, minute = expected
        if of_month == ["MON"]:
            days = [day for day in DAYS if day.weekday() == 0]
        else:
            days = [day for day in DAYS if not of_month or day.day in of_month]
        assert times == [day.replace(hour=hour, minute=minute) for day in days]


def test_concurrent_starts_stay_within_the_concurrency_limit(packaged: Packaged) -> None:
    starts_by_time = Counter(time for s in schedules(packaged).values() for time in starts(s["ScheduleExpression"]))
    assert max(starts_by_time.values()) <= packaged.function("maintenance")["ReservedConcurrentExecutions"]


@pytest.mark.parametrize("job", SCHEDULE)
def test_a_schedule_sends_its_job_to_the_function_in_utc(packaged: Packaged, job: str) -> None:
    schedule = schedules(packaged)[job]
    assert schedule["Name"] == job
    assert schedule["GroupName"] == {"Ref": "MaintenanceSchedules"}
    assert schedule["ScheduleExpressionTimezone"] == "UTC"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule.get("State", "ENABLED") == "ENABLED"
    target = schedule["Target"]
    assert target["Arn"] == {"Ref": "MaintenanceAlias"}
    assert target["RoleArn"] == {"Fn::GetAtt": ["MaintenanceSchedulesRole", "Arn"]}
    assert json.loads(target["Input"]) == {"job": job}


@pytest.mark.parametrize("job", SCHEDULE)
def test_event_delivery_is_retried_for_less_than_the_interval(packaged: Packaged, job: str) -> None:
    first, second = starts(schedules(packaged)[job]["ScheduleExpression"])[:2]
    retry = schedules(packaged)[job]["Target"]["RetryPolicy"]
    if second - first < timedelta(hours=1):
        assert retry == {"MaximumRetryAttempts": 0}
    else:
        assert retry.get("MaximumRetryAttempts", 185) > 0
        assert timedelta(minutes=15) < timedelta(seconds=retry["MaximumEventAgeInSeconds"]) < second - first


def test_the_costs_are_reckoned_with_these_jobs(packaged: Packaged) -> None:
    a_month = sum(len(starts(schedule["ScheduleExpression"])) for schedule in schedules(packaged).values()) / 12
    assert 0.97 < a_month / costs.JOBS < 1.03


def test_the_scheduler_may_only_start_the_jobs(packaged: Packaged) -> None:
    role = packaged.resource("MaintenanceSchedulesRole")
    assert "ManagedPolicyArns" not in role
    (policy,) = role["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert {name: value for name, value in statement.items() if name != "Sid"} == {
        "Effect": "Allow",
        "Action": "lambda:InvokeFunction",
        "Resource": {"Ref": "MaintenanceAlias"},
    }


def test_only_this_stacks_schedules_can_assume_the_schedulers_role(packaged: Packaged) -> None:
    (statement,) = packaged.resource("MaintenanceSchedulesRole")["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "scheduler.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {
            "StringEquals": {
                "aws:SourceAccount": {"Ref": "AWS::AccountId"},
                "aws:SourceArn": {"Fn::GetAtt": ["MaintenanceSchedules", "Arn"]},
            }
        },
    }
    assert len(packaged.properties("AWS::Scheduler::ScheduleGroup")) == 1


def test_only_the_scheduler_can_start_the_jobs(packaged: Packaged) -> None:
    """No URL, no permission for another service, and no event rule."""
    assert "MaintenanceLambdaFunctionUrl" not in packaged.template["Resources"]
    assert "Maintenance" not in json.dumps(packaged.properties("AWS::Lambda::Permission"))
    assert not packaged.properties("AWS::Events::Rule")


def test_lambda_retries_a_failed_job_twice(packaged: Packaged) -> None:
    """Lambda waits one minute, then two; the scheduler does not see the failure."""
    (config,) = packaged.properties("AWS::Lambda::EventInvokeConfig")
    assert (config["FunctionName"], config["Qualifier"]) == ({"Ref": "MaintenanceLambdaFunction"}, "live")
    assert config["MaximumRetryAttempts"] == 2
    assert config["MaximumEventAgeInSeconds"] > 3 * packaged.function("maintenance")["Timeout"] + 3 * 60
