"""service_state and note_job_run: what the alarms are about."""

from datetime import date

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, value

STATE = "select public.service_state(array['reconcile', 'measure'])"


def test_a_job_counts_from_the_first_question_until_it_runs(db: Db) -> None:
    at(db, "2026-03-01T00:00Z")
    assert value(db, STATE)["job_ages"] == {"measure": 0, "reconcile": 0}
    at(db, "2026-03-01T01:00Z")
    db.execute("select public.note_job_run('reconcile')")
    at(db, "2026-03-01T01:00:30Z")
    assert value(db, STATE)["job_ages"] == {"measure": 3630, "reconcile": 30}


def test_an_older_run_does_not_replace_a_newer_one(db: Db) -> None:
    """Two runs of a job may overlap."""
    at(db, "2026-03-01T00:10Z")
    db.execute("select public.note_job_run('reconcile')")
    at(db, "2026-03-01T00:05Z")
    db.execute("select public.note_job_run('reconcile')")
    assert value(db, "select finished_at = '2026-03-01T00:10Z' from public.job_runs where job = 'reconcile'")


def test_holds_count_five_minutes_after_their_expiry(db: Db) -> None:
    at(db, "2026-03-01T00:00Z")
    hold = admit(db, new_user(db, "basic"))["hold_id"]
    db.execute("update public.query_holds set expires_at = '2026-03-01T00:00Z' where id = %s", (hold,))
    at(db, "2026-03-01T00:04Z")
    assert value(db, STATE)["holds_overdue"] == 0
    at(db, "2026-03-01T00:06Z")
    assert value(db, STATE)["holds_overdue"] == 1


def test_turns_count_when_they_are_pending_for_fifteen_minutes(db: Db) -> None:
    at(db, "2026-03-01T00:00Z")
    db.execute(
        "insert into public.pending_turns (id, created_at, user_id, conversation_id, conversation_created_at,"
        " expires_at, is_certain, position, turn) values (gen_random_uuid(), '2026-03-01T00:00Z', %s,"
        " gen_random_uuid(), now(), now(), true, 1, '{}')",
        (new_user(db, "basic"),),
    )
    at(db, "2026-03-01T00:14Z")
    assert value(db, STATE)["turns_pending"] == 0
    at(db, "2026-03-01T00:16Z")
    assert value(db, STATE)["turns_pending"] == 1


def test_budgets_are_compared_with_the_costs_of_the_day(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    db.execute("update public.settings set free_daily_budget_usd = 20, platform_daily_budget_usd = 200")
    db.execute(
        "update public.daily_costs set day = %s, free_usd = case shard when 0 then 16.5 else 0 end,"
        " total_usd = case shard when 0 then 17 else 0 end",
        (date(2026, 3, 1),),
    )
    state = value(db, STATE)
    assert (state["free_budget_percent"], state["platform_budget_percent"]) == (82, 8)
    at(db, "2026-03-02T12:00Z")
    assert value(db, STATE)["free_budget_percent"] == 0
    db.execute("update public.settings set free_daily_budget_usd = null, platform_daily_budget_usd = 0")
    state = value(db, STATE)
    assert (state["free_budget_percent"], state["platform_budget_percent"]) == (None, None)
