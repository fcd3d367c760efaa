"""The jobs as Lambda events and as commands."""

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest

from functions.maintenance.handler import JOBS, handler
from tests.billing_kit import (
    BillingStack,
    captured_log,
    environment,
)
from tests.functions.maintenance.kit import command, deletion
from tests.sql.metering import USAGE, admit, settle, value

pytestmark = pytest.mark.usefixtures("empty_billing")  # counts and compares everything that there is


@pytest.mark.parametrize(
    "job",
    [name for name, job in JOBS.items() if not job.command_only and name not in ("rotate-keys", "delete-user")],
)
def test_an_event_runs_a_job_with_log_and_metric(
    billing: BillingStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    monkeypatch.setattr("functions.maintenance.imports.fetch.PAUSE_S", 0.0)
    with mock.patch.dict(os.environ, environment(billing.stack, billing.fake.url)):
        with captured_log("maintenance") as lines:
            counts = handler({"job": job}, None)
        (line,) = lines()
    assert (line["message"], line["job"]) == ("job", job)
    assert line["counts"] == {name: number for name, number in counts.items() if type(number) is int}
    (metric,) = [json.loads(text) for text in capsys.readouterr().out.splitlines() if "_aws" in text]
    assert (metric["job"], metric["JobsDone"], metric["service"]) == (job, [1.0], "maintenance")
    assert ("Differences" in metric) == (job == "reconcile")


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({}, "An event can start"),
        ({"key1": "value1"}, "An event can start"),
        ([{"job": "reconcile"}], "An event can start"),
        ("reconcile", "An event can start"),
        (None, "An event can start"),
        ({"version": "0", "source": "aws.events", "detail": {"job": "reconcile"}}, "An event can start"),
        ({"job": ["reconcile"]}, "An event can start"),
        ({"job": "reconsile"}, "An event can start"),
        ({"job": "export-user", "user": str(uuid.uuid4()), "to": "me.json"}, "An event can start"),
        ({"job": "reconcile", "fixx": True}, "reconcile has no option fixx."),
        ({"job": "reconcile", "fix": "yes"}, "fix of reconcile must be true or false."),
        ({"job": "delete-user"}, "delete-user needs user."),
        ({"job": "delete-user", "user": "me"}, "A user id is a UUID."),
        ({"job": "margin-report", "month": "2026-13"}, "A month is written like"),
    ],
)
def test_an_invalid_event_gets_a_sentence_and_is_counted(
    capsys: pytest.CaptureFixture[str], event: Any, sentence: str
) -> None:
    with captured_log("maintenance") as lines:
        (item,) = handler(event, None).items()
    assert item[0] == "error"
    assert str(item[1]).startswith(sentence)
    assert [(line["message"], line["error_type"]) for line in lines()] == [("job failed", "ValueError")]
    (metric,) = [json.loads(text) for text in capsys.readouterr().out.splitlines() if "_aws" in text]
    assert metric["JobsFailed"] == [1.0]


def test_an_unreachable_stripe_prints_one_sentence(billing: BillingStack) -> None:
    done = command(billing, "margin-report", STRIPE_API_BASE="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("margin-report: ")
    assert "Traceback" not in done.stderr


def test_a_query_cannot_be_settled_after_deletion(billing: BillingStack) -> None:
    """Nothing is charged, although the query has a cost."""
    user = billing.new_user("basic")
    hold = admit(billing.db, user.id)["hold_id"]
    assert deletion(billing, user.id)["users"] == 1
    with pytest.raises(Exception, match=r"NOHLD|never admitted|no such"):
        settle(billing.db, hold, usage=USAGE)


def test_concurrent_cleanups_delete_each_conversation_once(billing: BillingStack) -> None:
    user = billing.new_user("basic")
    billing.db.execute(
        "insert into public.conversations (user_id, message_count, expires_at)"
        " select %s, 10, now() - interval '1 day' from generate_series(1, 600)",
        (user.id,),
    )
    billing.db.execute(
        "insert into public.messages (conversation_id, position, role, content)"
        " select c.id, n, 'user', 'Who?' from public.conversations c, generate_series(1, 10) n where c.user_id = %s",
        (user.id,),
    )
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: command(billing, "cleanup-expired-conversations"), range(2)))
    assert [end.returncode for end in ends] == [0, 0]
    counts = [json.loads(end.stdout) for end in ends]
    assert sum(one["conversations"] for one in counts) >= 600
    assert [one["unfinished"] for one in counts] == [0, 0]
    assert value(billing.db, "select count(*) from public.conversations where user_id = %s", user.id) == 0
