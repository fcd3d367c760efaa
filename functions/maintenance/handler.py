"""The jobs by name, for Lambda's events and for the command line: `python -m functions.maintenance <job>`."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load, load_vault, read_environment
from functions.maintenance.batches import run_batches

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What a job is given: the database, the environment, where to tell how far it is, and its options by name."""

    database: Database
    known: Mapping[str, str]
    progress: Progress
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Option:
    """What a job can be told. `read` makes its value of text; None: it is said or not, true or false in an event."""

    help: str
    read: Callable[[str], Any] | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """`run` returns counts; "report" among them are lines for people, "differences" what should not be.

    `by_hand`: needs the machine of whoever runs it, so an event cannot ask for it.
    """

    run: Callable[[Run], Awaitable[dict[str, Any]]]
    options: Mapping[str, Option] = field(default_factory=dict)
    by_hand: bool = False


def _batches(function: str, things: str) -> Job:
    return Job(lambda run: run_batches(run.database, function, things, run.progress))


# What a job needs is imported when it runs: Stripe's SDK and the vault are not for all of them.


async def _rotate_keys(run: Run) -> dict[str, Any]:
    from functions.maintenance.rotate_keys import rotate_keys

    return {**await rotate_keys(run.database, load_vault(run.known), run.progress)}


async def _bill_overages(run: Run) -> dict[str, Any]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.bill_overages import bill_overages

    async with account(run.known) as stripe:
        return await bill_overages(run.database, stripe, run.progress)


async def _retry_events(run: Run) -> dict[str, Any]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.retry_events import retry_events

    async with account(run.known) as stripe:
        return await retry_events(run.database, stripe, datetime.now(UTC), run.progress)


async def _reconcile(run: Run) -> dict[str, Any]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.reconcile import reconcile

    async with account(run.known) as stripe:
        return await reconcile(run.database, stripe, datetime.now(UTC), run.progress, fix=bool(run.options.get("fix")))


async def _margin_report(run: Run) -> dict[str, Any]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.margin_report import margin_report, month_before

    async with account(run.known) as stripe:
        month = run.options.get("month") or month_before(datetime.now(UTC).date())
        return await margin_report(run.database, stripe, month)


async def _export_user(run: Run) -> dict[str, Any]:
    from functions.maintenance.leaving import export_user

    return await export_user(run.database, run.options["user"], run.options["to"], run.progress)


async def _delete_user(run: Run) -> dict[str, Any]:
    from functions.common.billing.stripe_client import account
    from functions.maintenance.leaving import delete_user

    async with account(run.known) as stripe:
        write_off = bool(run.options.get("write_off"))
        return await delete_user(run.database, stripe, run.options["user"], run.progress, write_off=write_off)


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


USER = Option("the user's id, a UUID", _user, required=True)

JOBS: Mapping[str, Job] = {
    "bill-overages": Job(_bill_overages),
    "cleanup-expired-conversations": _batches("cleanup_expired_conversations", "conversations"),
    "delete-user": Job(
        _delete_user, {"user": USER, "write_off": Option("what they owe is not billed; without it, it is")}
    ),
    "expire-credits": _batches("expire_credits", "packs"),
    "export-user": Job(
        _export_user, {"user": USER, "to": Option("the file to write", Path, required=True)}, by_hand=True
    ),
    "margin-report": Job(_margin_report, {"month": Option("YYYY-MM; the last one, if not said", _month)}),
    "purge-events": _batches("purge_events", "events"),
    "reconcile": Job(_reconcile, {"fix": Option("set counters to what the ledger says")}),
    "release-stale-holds": _batches("release_stale_holds", "holds"),
    "reset-monthly-overages": _batches("reset_monthly_overages", "counters"),
    "retry-events": Job(_retry_events),
    "rotate-keys": Job(_rotate_keys),
}


async def run_job(name: str, progress: Progress, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job; returns its counts. Raises KeyError for an unknown name, SettingsError, and what the job raises."""
    job = JOBS[name]
    environment = read_environment()
    database = Database(load(SupabaseSettings, environment))
    try:
        return await job.run(Run(database, environment, progress, options))
    finally:
        await database.close()


def options_of(name: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an event gives a job. Raises ValueError with a sentence."""
    job = JOBS.get(name)
    if job is None or job.by_hand:
        raise ValueError(f"An event may ask for {', '.join(name for name, one in JOBS.items() if not one.by_hand)}.")
    given = {key: value for key, value in event.items() if key != "job"}
    if unknown := given.keys() - job.options.keys():
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}.")
    if missing := {key for key, option in job.options.items() if option.required} - given.keys():
        raise ValueError(f"{name} needs {', '.join(sorted(missing))}.")
    options = {}
    for key, value in given.items():
        read = job.options[key].read
        if read is None and isinstance(value, bool):
            options[key] = value
        elif read is not None and isinstance(value, str):
            options[key] = read(value)
        else:
            raise ValueError(f"{key} of {name} is {'text' if read else 'true or false'}.")
    return options


def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """What Lambda calls, with `{"job": "<name>"}` and the job's options beside it. Returns its counts."""
    observer = Observer("maintenance")
    name = str(event.get("job"))
    started = time.monotonic()
    try:
        counts = asyncio.run(run_job(name, lambda _: None, options_of(name, event)))
    except Exception as error:
        observer.failure("job failed", error, job=name)
        observer.count(dimensions={"job": name if name in JOBS else "unknown"}, JobsFailed=1)
        raise
    duration_ms = round((time.monotonic() - started) * 1000, 1)
    numbers = {key: value for key, value in counts.items() if type(value) is int}
    observer.info("job", job=name, duration_ms=duration_ms, counts=numbers)
    found = {"Differences": numbers["differences"]} if "differences" in numbers else {}
    observer.count(dimensions={"job": name}, JobsDone=1, **found)
    return counts
