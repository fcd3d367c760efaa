"""measure: what the alarms are about and only the database knows, such as a job that no longer runs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TypedDict

from functions.common import results
from functions.common.database import Database

# Within what time each scheduled job must have succeeded again: its interval, and time for an outage and for retries.
WITHIN: Mapping[str, timedelta] = {
    "measure": timedelta(minutes=30),
    "release-stale-holds": timedelta(minutes=15),
    "bill-thresholds": timedelta(minutes=15),
    "apply-pending-turns": timedelta(minutes=30),
    "retry-events": timedelta(hours=1),
    "bill-overages": timedelta(hours=3),
    "expire-credits": timedelta(hours=30),
    "cleanup-expired-conversations": timedelta(hours=30),
    "purge-events": timedelta(hours=30),
    "reconcile": timedelta(hours=30),
    "import-lobbying": timedelta(hours=30),
    "import-expenses": timedelta(days=8),
    "reset-monthly-overages": timedelta(days=32),
    "margin-report": timedelta(days=32),
}


class Measured(TypedDict):
    """Counts, and percentages of the day's budgets, without a budget None. `report`: the late jobs."""

    jobs_overdue: int
    turns_pending: int
    holds_overdue: int
    free_budget_percent: int | None
    platform_budget_percent: int | None
    report: list[str]


async def measure(database: Database) -> Measured:
    """What service_state returns, and which jobs are late. Raises Unavailable where the database is out of reach."""
    state = await database.call("service_state", {"p_jobs": list(WITHIN)}, parse=results.record("job_ages"))
    ages = {job: timedelta(seconds=seconds) for job, seconds in state["job_ages"].items()}
    late = [
        f"{job} last succeeded {age} ago, and must within {WITHIN[job]}"
        for job, age in sorted(ages.items())
        if age > WITHIN[job]
    ]
    return {
        "jobs_overdue": len(late),
        "turns_pending": state["turns_pending"],
        "holds_overdue": state["holds_overdue"],
        "free_budget_percent": state["free_budget_percent"],
        "platform_budget_percent": state["platform_budget_percent"],
        "report": late,
    }
