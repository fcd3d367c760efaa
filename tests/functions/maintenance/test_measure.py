"""measure, and the reports that operators get."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from functions.common.settings import SettingsError
from functions.maintenance.handler import handler
from functions.maintenance.measure import WITHIN
from functions.maintenance.notify import MESSAGE_BYTES, send
from tests.billing_kit import BillingStack, environment
from tests.package.test_schedules import SCHEDULE
from tests.servers import serve

TOPIC = "arn:aws:sns:ca-central-1:123456789012:alarms"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "ca-central-1"}


class Sns:
    """A stand-in for SNS that keeps what is published."""

    def __init__(self) -> None:
        self.published: list[dict[str, str]] = []
        self.app = Starlette(routes=[Route("/", self._publish, methods=["POST"])])

    async def _publish(self, request: Request) -> Response:
        fields = parse_qs((await request.body()).decode())
        self.published.append({name: fields[name][0] for name in ("Action", "TopicArn", "Subject", "Message")})
        result = "<PublishResult><MessageId>1</MessageId></PublishResult>"
        return Response(f"<PublishResponse>{result}</PublishResponse>", media_type="text/xml")


@pytest.fixture
def sns() -> Iterator[Sns]:
    stand_in = Sns()
    with serve(stand_in.app) as url, mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL_SNS": url, **CREDENTIALS}):
        yield stand_in


def run(billing: BillingStack, **event: Any) -> Any:
    """Run a job as an event does."""
    with mock.patch.dict(os.environ, {**environment(billing.stack, billing.fake.url), "REPORTS_TOPIC_ARN": TOPIC}):
        return handler(event, None)


def metrics(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The metrics of one job."""
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines() if "_aws" in text]
    return {metric["Name"]: line[metric["Name"]][0] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}


def test_late_jobs_are_named_and_counted(billing: BillingStack, capsys: pytest.CaptureFixture[str]) -> None:
    run(billing, job="measure")  # adds the jobs that have never run
    billing.db.execute("update public.job_runs set finished_at = private.clock()")
    capsys.readouterr()
    assert run(billing, job="measure")["jobs_overdue"] == 0
    expected = {"JobsDone", "JobsOverdue", "TurnsPending", "HoldsOverdue", "FreeBudgetPercent", "PlatformBudgetPercent"}
    assert metrics(capsys).keys() == expected
    billing.db.execute(
        "update public.job_runs set finished_at = private.clock() - interval '31 hours' where job = 'reconcile'"
    )
    late = run(billing, job="measure")
    (line,) = late["report"]
    assert line.startswith("reconcile last succeeded 1 day, 7:00:0")
    assert metrics(capsys)["JobsOverdue"] == 1


def test_every_scheduled_job_must_succeed_within_a_time() -> None:
    """Longer than its interval, but it may fail no more than a few times in a row."""
    assert WITHIN.keys() == SCHEDULE.keys()
    for job, times in SCHEDULE.items():
        match times:
            case timedelta():
                interval = times
            case (str(), _, _):
                interval = timedelta(days=7)
            case (_, _, _):
                interval = timedelta(days=31)
            case _:
                interval = timedelta(days=1)
        assert interval < WITHIN[job] <= max(15 * interval, timedelta(minutes=15)), job
        assert WITHIN[job] <= interval + timedelta(days=1), job


def test_only_a_scheduled_job_that_succeeds_is_noted(billing: BillingStack) -> None:
    billing.db.execute("delete from public.job_runs")
    run(billing, job="expire-credits")
    changed = {**environment(billing.stack, billing.fake.url), "STRIPE_SECRET_KEY": "unusable"}
    with mock.patch.dict(os.environ, changed), pytest.raises(SettingsError):
        handler({"job": "bill-overages"}, None)
    rows = billing.db.execute("select job from public.job_runs").fetchall()
    assert [row["job"] for row in rows] == ["expire-credits"]


@pytest.mark.usefixtures("empty_billing")
def test_findings_of_reconcile_are_sent_to_a_person(
    billing: BillingStack, sns: Sns, capsys: pytest.CaptureFixture[str]
) -> None:
    run(billing, job="reconcile")
    assert sns.published == []
    assert metrics(capsys)["Differences"] == 0
    user = billing.new_user("basic")
    billing.db.execute("update public.user_subscriptions set quota_used = 3 where user_id = %s", (user.id,))
    run(billing, job="reconcile")
    (sent,) = sns.published
    assert (sent["Action"], sent["TopicArn"], sent["Subject"]) == ("Publish", TOPIC, "CanadaGPT: reconcile")
    assert "I4: a counter that differs from the ledger" in sent["Message"]
    assert user.id in sent["Message"]
    assert metrics(capsys)["Differences"] > 0


def test_the_margin_report_is_always_sent(billing: BillingStack, sns: Sns, capsys: pytest.CaptureFixture[str]) -> None:
    run(billing, job="margin-report", month="2026-10")
    (sent,) = sns.published
    assert sent["Message"].startswith("October 2026, UTC, US dollars\ntier")
    assert "MarginUsd" in metrics(capsys)


def test_a_report_that_is_too_long_is_cut(sns: Sns) -> None:
    send(TOPIC, "long", ["é" * MESSAGE_BYTES])
    (sent,) = sns.published
    assert MESSAGE_BYTES < len(sent["Message"].encode()) < 256 * 1024
    assert sent["Message"].endswith("(cut here: run the job by hand to see everything)")
