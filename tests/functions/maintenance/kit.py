"""Shared by the tests of the jobs: running a job in this process or as a command."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

from functions.common.database import Database
from functions.common.leaving.auth_admin import AuthAdmin
from functions.common.leaving.deletion import DeletionCounts, delete_user
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load
from functions.maintenance.findings import KINDS
from functions.maintenance.reconcile import reconcile
from infra.local.postgres import ROOT
from tests.billing_kit import BillingStack, environment, with_stripe_client
from tests.conftest import Person

Json = dict[str, Any]
Observer("maintenance")  # creates the logger that captured_log reads


def no_progress(line: str) -> None:
    """Drop a line of progress."""


def run(billing: BillingStack, job: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a job with the database and the Stripe client."""

    async def call(stripe: Any) -> Any:
        database = Database(
            load(SupabaseSettings, environment(billing.stack, billing.fake.url)), Observer("maintenance")
        )
        try:
            return await job(database, stripe, *arguments, **options)
        finally:
            await database.close()

    return asyncio.run(with_stripe_client(billing, call))


def deletion(billing: BillingStack, user_id: str, *, write_off: bool = False) -> DeletionCounts:
    """Delete a user as the job does."""
    auth = AuthAdmin(load(SupabaseSettings, environment(billing.stack, billing.fake.url)))
    deleted: DeletionCounts = run(billing, delete_user, auth, user_id, no_progress, write_off=write_off)
    return deleted


def command(billing: BillingStack, *arguments: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    """`python -m functions.maintenance …`, with changed environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "functions.maintenance", *arguments],
        env={**os.environ, **environment(billing.stack, billing.fake.url), **changed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def today(billing: BillingStack) -> datetime:
    """The stand-in's time or the real time, whichever is earlier, so that the compared rows are recent for both."""
    return min(datetime.fromtimestamp(billing.fake.now, UTC), datetime.now(UTC))


def findings(billing: BillingStack, user: Person, subjects: Collection[str] = (), **options: Any) -> set[str]:
    """The kinds of findings of reconcile about a user, or about the given subjects."""
    result = run(billing, reconcile, today(billing), no_progress, **options)
    assert result["by_kind"].keys() <= KINDS.keys()
    return {one["kind"] for one in result["findings"] if one["user_id"] == user.id or one["subject"] in subjects}


def findings_of_each(billing: BillingStack, users: Collection[Person]) -> list[set[str]]:
    """The kinds of findings of one reconcile about each of the users."""
    found = run(billing, reconcile, today(billing), no_progress)["findings"]
    return [{one["kind"] for one in found if one["user_id"] == user.id} for user in users]
