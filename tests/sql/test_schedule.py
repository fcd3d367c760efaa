"""The schedule with the real pg_cron, from Debian's packages, and without pg_cron."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from infra.local.migrations import SCHEMAS
from infra.local.postgres import Postgres
from infra.local.processes import Child, Processes
from infra.local.stack import POSTGRES, free_offset, locked
from tests import debian
from tests.conftest import new_user
from tests.sql import test_sql_readme
from tests.sql.metering import Db, admit, at, value

pytestmark = pytest.mark.timeout(300)  # the first time, packages are downloaded

FILE = (SCHEMAS / "90_schedule.sql").read_bytes()
JOBS = {
    "release-stale-holds": "* * * * *",
    "apply-pending-turns": "*/5 * * * *",
    "reset-monthly-overages": "0 0 1 * *",
    "expire-credits": "10 0 * * *",
    "cleanup-expired-conversations": "0 2 * * *",
    "purge-events": "0 3 * * *",
    "purge-job-runs": "30 3 * * *",
}
PRELOADED = {"shared_preload_libraries": "pg_cron"}
# The two ways in which pg_cron runs jobs.
BOTH_MODES = pytest.mark.parametrize("workers", ["on", "off"], ids=["workers", "connections"])


@dataclass
class Cluster:
    """A Postgres with pg_cron and a migrated database `postgres`."""

    postgres: Postgres
    processes: Processes
    child: Child

    @contextmanager
    def connect(self, user: str = "postgres", database: str = "postgres") -> Iterator[Db]:
        with psycopg.connect(self.postgres.url(user, database), autocommit=True, row_factory=dict_row) as db:
            yield db

    def restart(self, settings: Mapping[str, str]) -> None:
        with self.connect("supabase_admin") as db:
            db.execute("alter system reset all")
            for name, setting in settings.items():
                db.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(*name.split(".")), setting))
        self.processes.stop_one(self.child)
        self.child = self.postgres.start(self.processes)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    programs = debian.programs()
    folder = tmp_path_factory.mktemp("postgres-cron")
    with debian.libraries(), locked(folder) as lock_fd, Processes(folder, lock_fd) as processes:
        postgres = Postgres(folder / "data", POSTGRES + free_offset(), durable=False, bin=programs)
        child = postgres.start(processes)
        assert postgres.migrate() == []
        cluster = Cluster(postgres, processes, child)
        cluster.restart(PRELOADED)
        yield cluster


@pytest.fixture
def without_extension(cluster: Cluster) -> Cluster:
    """The cluster, without the extension in its database."""
    with cluster.connect("supabase_admin") as db:
        db.execute("drop extension if exists pg_cron")
    return cluster


@pytest.fixture
def scheduled(without_extension: Cluster) -> Cluster:
    """The cluster with the schedule. A superuser owns the extension and grants what the platform grants."""
    with without_extension.connect("supabase_admin") as db:
        db.execute("create extension pg_cron")
        db.execute("grant usage on schema cron to postgres with grant option")
        db.execute("grant all on all tables in schema cron to postgres with grant option")
        db.execute("revoke all on cron.job from postgres; grant select on cron.job to postgres with grant option")
    with without_extension.connect() as db:
        assert run_file(db) == ['extension "pg_cron" already exists, skipping']
    return without_extension


def run_file(db: Db) -> list[str]:
    """Runs the file in a transaction with another statement, as a migration. Returns its notices."""
    notices: list[str] = []
    db.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    with db.transaction():
        db.execute(FILE)
        db.execute("select")
    return notices


def jobs(db: Db) -> dict[str, str]:
    """The schedule of each job."""
    rows = db.execute("select jobname, schedule from cron.job").fetchall()
    found = {row["jobname"]: row["schedule"] for row in rows}
    assert len(found) == len(rows)
    return found


def command(db: Db, name: str) -> str:
    text: str = value(db, "select command from cron.job where jobname = %s", name)
    return text


def run_all_jobs(cluster: Cluster, workers: str, eventually: Callable[..., None]) -> dict[str, Any]:
    """Restarts Postgres so that pg_cron runs all jobs at once. Returns its report of each run, by job."""
    with cluster.connect("supabase_admin") as db:
        db.execute("update cron.job set schedule = '@reboot'")
    cluster.restart({**PRELOADED, "cron.use_background_workers": workers, "max_worker_processes": "16"})
    with cluster.connect() as db:
        ended = "from cron.job_run_details r join cron.job j using (jobid) where r.status in ('succeeded', 'failed')"
        eventually(lambda: value(db, f"select count(distinct jobid) {ended}") == len(JOBS))
        return {
            row["jobname"]: row
            for row in db.execute(f"select jobname, status, return_message, r.username {ended} order by runid")
        }


@contextmanager
def replaced_function(cluster: Cluster, function: str, body: str) -> Iterator[None]:
    """Replaces the function of a job by one that records its calls and runs the body."""
    with cluster.connect() as db:
        original = value(db, "select pg_get_functiondef(%s::regprocedure)", f"public.{function}()")
        db.execute("create table public.calls (started timestamptz, ended timestamptz)")
        db.execute(
            f"create or replace function public.{function}() returns integer language plpgsql as $$"
            f" declare v_started constant timestamptz := clock_timestamp();"
            f" begin {body} insert into public.calls values (v_started, clock_timestamp()); return 1; end $$"
        )
    try:
        yield
    finally:
        with cluster.connect() as db:
            db.execute("drop table public.calls")
            db.execute(original)


def test_each_job_is_scheduled_once_however_often_the_file_runs(scheduled: Cluster) -> None:
    with scheduled.connect() as db:
        assert jobs(db) == JOBS
        # A job that an operator switched off stays off.
        db.execute("select cron.unschedule('purge-events')")
        with scheduled.connect("supabase_admin") as admin:
            admin.execute("update cron.job set active = false where jobname = 'expire-credits'")
        run_file(db)
        before = db.execute("select * from cron.job order by jobid").fetchall()
        assert {row["jobname"] for row in before if not row["active"]} == {"expire-credits"}

        run_file(db)

        assert jobs(db) == JOBS
        assert db.execute("select * from cron.job order by jobid").fetchall() == before
        assert {(row["username"], row["database"]) for row in before} == {("postgres", "postgres")}


def test_the_file_creates_the_extension_if_permitted(without_extension: Cluster) -> None:
    with without_extension.connect("supabase_admin") as db:
        assert run_file(db) == []
        assert jobs(db) == JOBS


@BOTH_MODES
def test_pg_cron_runs_each_batch_in_its_own_transaction(
    scheduled: Cluster, workers: str, eventually: Callable[..., None]
) -> None:
    with scheduled.connect() as db:
        db.execute("update public.plans set concurrent_queries = 300")
        user = new_user(db, "basic", daily_quota=300)
        for _ in range(250):
            at(db, "2026-03-01T12:00Z")
            admit(db, user, p_hold_seconds=1)
        db.execute(
            "insert into public.conversations (id, user_id, title, expires_at)"
            " select gen_random_uuid(), %s, 'Old', now() - interval '1 day' from generate_series(1, 2500)",
            (user,),
        )
        db.execute(
            "create table if not exists public.deletions (transaction xid8, user_id uuid);"
            " create or replace function public.note_deletion() returns trigger language plpgsql as"
            " $$ begin insert into public.deletions values (pg_current_xact_id(), old.user_id); return old; end $$;"
            " create or replace trigger note_deletion before delete on public.conversations"
            " for each row execute function public.note_deletion()"
        )

    reports = run_all_jobs(scheduled, workers, eventually)

    assert {(name, report["status"], report["username"]) for name, report in reports.items()} == {
        (name, "succeeded", "postgres") for name in JOBS
    }, reports
    with scheduled.connect() as db:
        released = "select count(*) from public.usage_logs where user_id = %s and outcome = 'lost' group by xmin::text"
        deleted = "select count(*) from public.deletions where user_id = %s group by transaction"
        for query, expected in (released, 250), (deleted, 2500):
            batches = [row["count"] for row in db.execute(query, (user,))]
            assert (sum(batches), len(batches) > 2) == (expected, True), batches


@BOTH_MODES
def test_a_failed_run_is_reported_and_keeps_earlier_batches(
    scheduled: Cluster, workers: str, eventually: Callable[..., None]
) -> None:
    third = "if (select count(*) from public.calls) = 2 then raise 'The third call fails.'; end if;"
    with replaced_function(scheduled, "reset_monthly_overages", third):
        reports = run_all_jobs(scheduled, workers, eventually)
        with scheduled.connect() as db:
            calls = value(db, "select count(*) from public.calls")

    report = reports["reset-monthly-overages"]
    assert (report["status"], calls) == ("failed", 2)
    assert "The third call fails." in report["return_message"]


def test_a_job_pauses_between_batches_and_has_a_time_limit(scheduled: Cluster) -> None:
    """It stops after 100 seconds even if work is left. The test uses one second."""
    with replaced_function(scheduled, "purge_events", "perform pg_sleep(0.01);"), scheduled.connect() as db:
        text = command(db, "purge-events")
        assert text.count("100 seconds") == 1
        db.execute("set statement_timeout = '60s'")  # fails the test if the job does not stop

        db.execute(text.replace("100 seconds", "1 second").encode())

        calls = db.execute("select started, ended, xmin::text from public.calls order by started").fetchall()
    assert len(calls) > 1
    assert len({call["xmin"] for call in calls}) == len(calls)
    for call, following in itertools.pairwise(calls):
        assert following["started"] - call["ended"] >= 4 * (call["ended"] - call["started"])


def test_run_reports_of_our_jobs_are_stored_two_weeks(scheduled: Cluster) -> None:
    """Reports of other jobs stay."""
    with scheduled.connect() as db:
        db.execute("select cron.schedule('other', '@reboot', 'select')")
        purge = command(db, "purge-job-runs")
    with scheduled.connect("supabase_admin") as db:
        db.execute(
            "insert into cron.job_run_details (jobid, username, status, start_time, end_time)"
            " select j.jobid, 'postgres', status, now() - age, case when status <> 'crashed' then now() - age end"
            " from cron.job j cross join (values ('old', interval '15 days'), ('crashed', interval '15 days'),"
            " ('young', interval '13 days')) as report (status, age)"
        )
    with scheduled.connect() as db:
        db.execute(purge.encode())
        left = db.execute(
            "select jobname, r.status from cron.job_run_details r join cron.job using (jobid)"
            " where r.status in ('old', 'crashed', 'young')"  # a job may have run meanwhile
        ).fetchall()
    assert sorted((row["jobname"], row["status"]) for row in left) == sorted(
        [(name, "young") for name in JOBS] + [("other", status) for status in ("crashed", "old", "young")]
    )


@pytest.mark.parametrize(
    ("settings", "user", "database", "reason"),
    [
        ({}, "supabase_admin", "postgres", "cron.database_name|shared_preload_libraries"),
        (PRELOADED, "supabase_admin", "another", "can only create extension in database postgres"),
        (PRELOADED, "postgres", "postgres", "permission denied to create extension"),
    ],
    ids=["not preloaded", "another database", "not permitted"],
)
def test_a_notice_explains_why_pg_cron_cannot_be_used(
    without_extension: Cluster, settings: dict[str, str], user: str, database: str, reason: str
) -> None:
    without_extension.restart(settings)
    if database == "another":
        with without_extension.connect("supabase_admin") as db:
            db.execute("create database another")
    with without_extension.connect(user, database) as db:
        (notice,) = run_file(db)
        assert re.search(rf"pg_cron cannot be used in this database \(.*({reason}).*\), so no job is scheduled", notice)
        assert value(db, "select to_regnamespace('cron')") is None


def test_a_notice_explains_a_missing_schedule_permission(scheduled: Cluster) -> None:
    with scheduled.connect("supabase_admin") as db:
        db.execute("truncate cron.job; revoke execute on function cron.schedule(text, text, text) from public")
    with scheduled.connect() as db:
        assert "(permission denied for function schedule), so no job is scheduled" in run_file(db)[-1]
    with scheduled.connect("supabase_admin") as db:
        assert jobs(db) == {}


def test_without_pg_cron_the_file_only_raises_a_notice(db: Db) -> None:
    if value(db, "select count(*) from pg_available_extensions where name = 'pg_cron'"):
        pytest.skip("POSTGRES_BIN names a Postgres that has pg_cron")
    (notice,) = run_file(db)
    assert notice.startswith("pg_cron is not available, so no job is scheduled")
    assert value(db, "select to_regnamespace('cron')") is None


def test_sql_of_the_readme_shows_the_schedule_and_its_runs(scheduled: Cluster, eventually: Callable[..., None]) -> None:
    schedule, runs = test_sql_readme.blocks("Jobs")
    (switch_on,) = (text for text in test_sql_readme.blocks("The jobs do not run") if "alter_job" in text)
    with scheduled.connect() as db:
        assert {row["jobname"]: row["schedule"] for row in test_sql_readme.run(db, schedule)} == JOBS
        with scheduled.connect("supabase_admin") as admin:
            admin.execute("update cron.job set active = false where jobname = 'purge-events'")
            # As on the platform: https://supabase.com/docs/guides/cron/quickstart
            admin.execute("grant execute on all functions in schema cron to postgres")
        test_sql_readme.run(db, switch_on)
        assert {row["active"] for row in test_sql_readme.run(db, schedule)} == {True}
    run_all_jobs(scheduled, "on", eventually)
    with scheduled.connect() as db:
        assert {row["jobname"] for row in test_sql_readme.run(db, runs)} == set(JOBS)
