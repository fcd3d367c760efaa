"""The jobs by name, for Lambda events and for the command line: `python -m functions.maintenance <job>`."""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from functions.common import results
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load, load_vault, read_environment
from functions.common.thread_transport import ThreadTransport
from functions.maintenance.batches import run_batches
from functions.maintenance.measure import WITHIN

ReportLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Context:
    """What a job gets: the database, the environment, a function that reports progress, its options by name."""

    database: Database
    environment: Mapping[str, str]
    progress: ReportLine
    options: Mapping[str, Any]
    deadline: float | None  # the time.monotonic() by which the job must have ended; None: no such time
    now: datetime


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a job. `parse` makes its value from text; None: a flag, which is true or false in an event."""

    help: str
    parse: Callable[[str], Any] | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """`run` returns counts as a JSON object: "report" holds lines to print, "differences" the number of errors found.

    `command_only`: an operator runs it; an event cannot start it. `metrics`: the counts that become metrics, with their
    names. `sends_report`: whether operators get the report after an event, from the counts.
    """

    run: Callable[[Context], Awaitable[Mapping[str, object]]]
    options: Mapping[str, Option] = field(default_factory=dict)
    command_only: bool = False
    metrics: Mapping[str, str] = field(default_factory=dict)
    sends_report: Callable[[Mapping[str, object]], bool] = lambda _: False


@dataclass(frozen=True, slots=True)
class JobResult:
    """The counts of a job, and the lines that it prints."""

    counts: Mapping[str, object]
    report: list[str]


def _batches(function: str, noun: str) -> Job:
    return Job(lambda context: run_batches(context.database, function, noun, context.progress))


# Each job imports what it needs when it runs: most jobs need neither Stripe's SDK nor the vault.


async def _rotate_keys(context: Context) -> Mapping[str, object]:
    from functions.maintenance.rotate_keys import rotate_keys

    return await rotate_keys(context.database, load_vault(context.environment), context.progress)


async def _bill_overages(context: Context) -> Mapping[str, object]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.bill_overages import bill_overages

    async with account(context.environment) as stripe:
        return await bill_overages(context.database, stripe, context.progress)


async def _bill_thresholds(context: Context) -> Mapping[str, object]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.bill_overages import bill_overages

    async with account(context.environment) as stripe:
        return await bill_overages(context.database, stripe, context.progress, at_threshold=True)


async def _retry_events(context: Context) -> Mapping[str, object]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.retry_events import retry_events

    async with account(context.environment) as stripe:
        return await retry_events(context.database, stripe, context.now, context.progress)


async def _reconcile(context: Context) -> Mapping[str, object]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.reconcile import reconcile

    fix = bool(context.options.get("fix"))
    async with account(context.environment) as stripe:
        return await reconcile(context.database, stripe, context.now, context.progress, fix=fix)


async def _margin_report(context: Context) -> Mapping[str, object]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.margin_report import margin_report, month_before

    month = context.options.get("month") or month_before(context.now.date())
    async with account(context.environment) as stripe:
        return await margin_report(context.database, stripe, month)


async def _measure(context: Context) -> Mapping[str, object]:
    from functions.maintenance.measure import measure

    return await measure(context.database)


async def _publish_catalog(context: Context) -> Mapping[str, object]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.publish_catalog import publish_catalog

    async with account(context.environment) as stripe:
        prices = await context.database.call("list_plans", parse=results.record("plans", "packs"))
        check, url = bool(context.options.get("check")), context.options.get("webhooks_url")
        return await publish_catalog(stripe, prices, check=check, webhooks_url=url, collects_tax=stripe.collects_tax)


async def _export_user(context: Context) -> Mapping[str, object]:
    from functions.maintenance.export_user import export_user

    return await export_user(context.database, context.options["user"], context.options["to"], context.progress)


async def _delete_user(context: Context) -> Mapping[str, object]:
    from functions.common.billing.stripe_client import account
    from functions.common.leaving.auth_admin import AuthAdmin
    from functions.common.leaving.deletion import delete_user

    def progress(line: str) -> None:
        context.progress(f"delete-user: {line}")

    auth = AuthAdmin(load(SupabaseSettings, context.environment))
    user, write_off = context.options["user"], bool(context.options.get("write_off"))
    async with account(context.environment) as stripe:
        return await delete_user(context.database, stripe, auth, user, progress, write_off=write_off)


async def _check_sources(context: Context) -> Mapping[str, object]:
    from functions.maintenance.imports.check_sources import check_sources
    from functions.maintenance.imports.settings import SourceSettings

    return await check_sources(load(SourceSettings, context.environment), context.progress, asyncio.sleep)


async def _import_expenses(context: Context) -> Mapping[str, object]:
    from functions.maintenance.imports.expenses import import_expenses
    from functions.maintenance.imports.fetch import Site
    from functions.maintenance.imports.settings import ImportSettings

    settings, options = load(ImportSettings, context.environment), context.options
    return await import_expenses(
        context.database,
        Site(settings.ourcommons_url, settings.contact),
        context.progress,
        everything=bool(options.get("all")),
        accept_smaller=bool(options.get("accept_smaller")),
    )


async def _import_lobbying(context: Context) -> Mapping[str, object]:
    from functions.maintenance.imports.fetch import Site
    from functions.maintenance.imports.lobbying import LobbyingImport
    from functions.maintenance.imports.settings import ImportSettings

    settings, options = load(ImportSettings, context.environment), context.options
    lobbying = LobbyingImport(
        context.database,
        Site(settings.lobbying_url, settings.contact),
        context.progress,
        deadline=context.deadline,
        again=bool(options.get("again")),
        accept_smaller=bool(options.get("accept_smaller")),
    )
    return await lobbying.run()


def _month(text: str) -> date:
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise ValueError("A month is written like 2026-10.") from None


def _user(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError("A user id is a UUID.") from None


ACCEPT_SMALLER = Option("also files that are much smaller than the last ones")
USER = Option("the user's id, a UUID", _user, required=True)

JOBS: Mapping[str, Job] = {
    "apply-pending-turns": _batches("apply_pending_turns", "turns"),
    "bill-overages": Job(_bill_overages),
    "bill-thresholds": Job(_bill_thresholds),
    "check-sources": Job(_check_sources, command_only=True),
    "cleanup-expired-conversations": _batches("cleanup_expired_conversations", "conversations"),
    "delete-user": Job(_delete_user, {"user": USER, "write_off": Option("do not bill the overage that the user owes")}),
    "expire-credits": _batches("expire_credits", "packs"),
    "export-user": Job(
        _export_user, {"user": USER, "to": Option("the file to write", Path, required=True)}, command_only=True
    ),
    "import-expenses": Job(
        _import_expenses,
        {"all": Option("also the quarters that were imported before"), "accept_smaller": ACCEPT_SMALLER},
    ),
    "import-lobbying": Job(
        _import_lobbying,
        {
            "again": Option("also files that have not changed"),
            "accept_smaller": ACCEPT_SMALLER,
        },
    ),
    "margin-report": Job(
        _margin_report,
        {"month": Option("YYYY-MM; default: the previous month", _month)},
        metrics={"margin_usd": "MarginUsd"},
        sends_report=lambda _: True,
    ),
    "measure": Job(
        _measure,
        metrics={
            "jobs_overdue": "JobsOverdue",
            "turns_pending": "TurnsPending",
            "holds_overdue": "HoldsOverdue",
            "free_budget_percent": "FreeBudgetPercent",
            "platform_budget_percent": "PlatformBudgetPercent",
        },
    ),
    "publish-catalog": Job(
        _publish_catalog,
        {
            "check": Option("only compare, and fail if something differs"),
            "webhooks_url": Option("the URL of our webhook endpoint, which later runs remember", str),
        },
        command_only=True,
    ),
    "purge-events": _batches("purge_events", "events"),
    "reconcile": Job(
        _reconcile,
        {"fix": Option("set counters to the ledger's values")},
        metrics={"differences": "Differences"},
        sends_report=lambda counts: counts["differences"] != 0,
    ),
    "release-stale-holds": _batches("release_stale_holds", "holds"),
    "reset-monthly-overages": _batches("reset_monthly_overages", "counters"),
    "retry-events": Job(_retry_events),
    "rotate-keys": Job(_rotate_keys),
}


async def run_job(
    name: str,
    progress: ReportLine,
    options: Mapping[str, Any],
    deadline: float | None = None,
    now: datetime | None = None,
) -> JobResult:
    """Run a job, until `deadline` of time.monotonic() if it can continue later. `now`: a local stack's moved clock.

    Raises KeyError for an unknown name, SettingsError, and what the job raises.
    """
    job = JOBS[name]
    environment = read_environment()
    database = Database(load(SupabaseSettings, environment), Observer("maintenance"), ThreadTransport())
    try:
        context = Context(database, environment, progress, options, deadline, now or datetime.now(UTC))
        counts = dict(await job.run(context))
        if name in WITHIN:
            await database.call("note_job_run", {"p_job": name}, parse=results.nothing)
    finally:
        await database.close()
    report = counts.pop("report", None)
    return JobResult(counts, report if isinstance(report, list) else [])


def options_of(name: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
    """A job's options from an event. Raises ValueError with a sentence."""
    job = JOBS.get(name)
    if job is None or job.command_only:
        allowed = ", ".join(name for name, one in JOBS.items() if not one.command_only)
        raise ValueError(f"An event can start these jobs: {allowed}.")
    given = {key: value for key, value in event.items() if key != "job"}
    if unknown := given.keys() - job.options.keys():
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}.")
    if missing := {key for key, option in job.options.items() if option.required} - given.keys():
        raise ValueError(f"{name} needs {', '.join(sorted(missing))}.")
    return {key: _option_value(name, key, job.options[key], value) for key, value in given.items()}


def _option_value(job: str, key: str, option: Option, value: Any) -> Any:
    if option.parse is None and isinstance(value, bool):
        return value
    if option.parse is not None and isinstance(value, str):
        return option.parse(value)
    raise ValueError(f"{key} of {job} must be {'text' if option.parse else 'true or false'}.")


def handler(event: Any, context: Any) -> Mapping[str, object]:
    """The Lambda entry point: `{"job": "<name>"}` with the job's options beside it. Returns its counts and report.

    For any other event it returns {"error": a sentence}: Lambda would repeat the event if it raised. It raises what
    the job raises.
    """
    observer = Observer("maintenance")
    fields = event if isinstance(event, dict) else {}
    name = str(fields.get("job"))
    started = time.monotonic()
    try:
        options = options_of(name, fields)
    except ValueError as error:
        _report_failure(observer, name, error)
        return {"error": str(error)}
    try:
        seconds_left = context.get_remaining_time_in_millis() / 1000 if context is not None else None
        deadline = None if seconds_left is None else started + seconds_left
        result = asyncio.run(run_job(name, lambda _: None, options, deadline))
        _send_report(name, result)
    except Exception as error:
        _report_failure(observer, name, error)
        raise
    duration_ms = round((time.monotonic() - started) * 1000, 1)
    numbers = {key: value for key, value in result.counts.items() if type(value) is int}
    observer.info("job", job=name, duration_ms=duration_ms, counts=numbers)
    # The amounts of margin-report are text.
    values = {metric: result.counts[count] for count, metric in JOBS[name].metrics.items()}
    found = {metric: float(str(value)) for metric, value in values.items() if value is not None}
    observer.count({"job": name}, JobsDone=1, **found)
    return {**result.counts, "report": result.report} if result.report else result.counts


def _send_report(job: str, result: JobResult) -> None:
    """Send a job's report where operators must read it."""
    topic_arn = os.environ.get("REPORTS_TOPIC_ARN")
    if topic_arn and JOBS[job].sends_report(result.counts):
        from functions.maintenance.notify import send

        send(topic_arn, f"CanadaGPT: {job}", result.report)


def _report_failure(observer: Observer, name: str, error: Exception) -> None:
    observer.failure("job failed", error, job=name)
    observer.count({"job": name if name in JOBS else "unknown"}, JobsFailed=1)
