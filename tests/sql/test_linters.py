"""Linters on the migrated database: the Supabase linter at level info, and plpgsql_check."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.local.postgres import ROOT, Postgres
from infra.local.processes import Processes
from infra.local.stack import POSTGRES, free_offset, locked
from tests import debian
from tests.sql.metering import Db

CLI = ROOT / "tests/clients/node_modules/.bin/supabase"

# Tables that no user may read.
INTERNAL = (
    *(
        "blocked_addresses",
        "daily_costs",
        "import_states",
        "job_runs",
        "lobbying_communications",
        "lobbying_registrations",
        "lobbying_subjects",
    ),
    *("member_expenses", "operator_actions", "packs", "pending_turns", "retained_invoice_items", "retained_usage"),
    *("settings", "stripe_events"),
)
# Each index with a query that uses it. The linter reports indexes that were never used.
USES = {
    "plans_currency_idx": "select from public.plans where currency = 'cad'",
    "packs_currency_idx": "select from public.packs where currency = 'cad'",
    "user_subscriptions_tier_idx": "select from public.user_subscriptions where tier = 'pro'",
    "conversations_newest_first_idx": "select from public.conversations where user_id = gen_random_uuid() "
    "order by last_message_at desc limit 20",
    "conversations_expires_at_idx": "select from public.conversations where expires_at <= now() "
    "and not is_pinned order by expires_at limit 9",
    "credit_packs_spending_order_idx": "select from public.credit_packs where user_id = gen_random_uuid() "
    "order by expires_at, created_at limit 1",
    "query_holds_expires_at_idx": "select from public.query_holds where expires_at <= now() "
    "order by expires_at limit 9",
    "query_refusals_earlier_ids_idx": "select from public.query_refusals "
    "where earlier_ids @> '{0198c0de-0000-7000-8000-000000000000}'",
    "query_holds_credit_pack_id_idx": "select from public.query_holds where credit_pack_id = gen_random_uuid()",
    "pending_turns_user_id_idx": "select from public.pending_turns where user_id = gen_random_uuid()",
    "pending_turns_in_order_idx": "select from public.pending_turns where conversation_id = gen_random_uuid() "
    "order by created_at, id limit 20",
    "message_feedback_user_id_idx": "select from public.message_feedback where user_id = gen_random_uuid()",
    "message_feedback_updated_at_idx": "select from public.message_feedback where updated_at <= now() "
    "order by updated_at limit 9",
    "shared_conversations_user_id_idx": "select from public.shared_conversations where user_id = gen_random_uuid()",
    "shared_conversations_expires_at_idx": "select from public.shared_conversations where expires_at <= now() "
    "order by expires_at limit 9",
    "query_refusals_newest_first_idx": "select from public.query_refusals where user_id = gen_random_uuid() "
    "order by created_at desc limit 50",
    "usage_logs_user_day_idx": "select from public.usage_logs where user_id = gen_random_uuid() "
    "and query_date = current_date",
    "usage_logs_conversation_id_idx": "select from public.usage_logs where conversation_id = gen_random_uuid()",
    "usage_logs_message_id_idx": "select from public.usage_logs where message_id = gen_random_uuid()",
    "usage_logs_credit_pack_id_idx": "select from public.usage_logs where credit_pack_id = gen_random_uuid()",
    "usage_logs_invoice_item_id_idx": "select from public.usage_logs where invoice_item_id = gen_random_uuid()",
    "usage_logs_not_billed_idx": "select from public.usage_logs where user_id = gen_random_uuid() and was_overage "
    "and invoice_item_id is null and reversed_at is null and query_timestamp < now()",
    "usage_reversals_user_id_idx": "select from public.usage_reversals where user_id = gen_random_uuid()",
    "operator_actions_subject_user_id_idx": "select from public.operator_actions "
    "where subject_user_id = gen_random_uuid() order by created_at desc limit 10",
    "user_subscriptions_next_tier_idx": "select from public.user_subscriptions where next_tier = 'basic'",
    "overage_invoice_items_user_id_idx": "select from public.overage_invoice_items where user_id = gen_random_uuid()",
    "overage_invoice_items_open_idx": "select from public.overage_invoice_items where user_id = gen_random_uuid() "
    "and (stripe_invoice_item_id is null or stripe_invoice_id is null)",
    "user_subscriptions_owing_idx": "select from public.user_subscriptions where owes_overage",
    "user_subscriptions_downgraded_idx": "select from public.user_subscriptions where downgraded_at is not null",
    "credit_packs_to_lapse_idx": "select from public.credit_packs where expires_at <= now() and lapsed_at is null",
    "credit_packs_created_at_idx": "select from public.credit_packs where created_at >= now()",
    "overage_invoice_items_created_at_idx": "select from public.overage_invoice_items where created_at >= now()",
    "retained_invoice_items_created_at_idx": "select from public.retained_invoice_items where created_at >= now()",
    "member_expenses_member_key_idx": "select from public.member_expenses where member_key = 'fern quillwater'",
    "lobbying_registrations_organization_words_idx": "select from public.lobbying_registrations "
    "where organization_words @@ 'ferries'",
    "lobbying_registrations_newest_first_idx": "select from public.lobbying_registrations "
    "order by effective_on desc nulls last limit 1",
    "lobbying_subjects_newest_first_idx": "select from public.lobbying_subjects "
    "order by starts_on desc nulls last limit 1",
    "lobbying_subjects_words_idx": "select from public.lobbying_subjects where words @@ 'ferries'",
    "lobbying_communications_communicated_on_idx": "select from public.lobbying_communications "
    "order by communicated_on desc limit 1",
    "lobbying_communications_words_idx": "select from public.lobbying_communications where words @@ 'ferries'",
    "lobbying_communications_organization_words_idx": "select from public.lobbying_communications "
    "where organization_words @@ 'ferries'",
    "lobbying_communications_official_keys_idx": "select from public.lobbying_communications "
    "where official_keys @> array['fern quillwater']",
    "stripe_events_processed_at_idx": "select from public.stripe_events where processed_at < now()",
    "stripe_events_not_processed_idx": "select from public.stripe_events where processed_at is null "
    "and created_at between now() - interval '29 days' and now()",
}


def use_every_index(db: Db) -> None:
    """Runs the queries above. Fails if one does not use its index."""
    db.execute("set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off")
    for index, query in USES.items():
        db.execute(f"set enable_bitmapscan = {'on' if '@' in query else 'off'}")  # a GIN index has no other scan
        plan = "\n".join(row["QUERY PLAN"] for row in db.execute(f"explain (analyze, costs off) {query}".encode()))
        assert index in plan, plan
    db.execute("select pg_stat_force_next_flush()")


def linter_results(url: str, home: Path) -> list[dict[str, Any]]:
    """All results of `supabase db advisors`."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "DO_NOT_TRACK": "1",
    }
    done = subprocess.run(
        [
            str(CLI),
            "db",
            "advisors",
            "--db-url",
            f"{url}?sslmode=disable",
            "--level",
            "info",
            "--output-format",
            "json",
        ],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return results


def test_the_supabase_linter_reports_only_tables_without_policies(db: Db, database_url: str, tmp_path: Path) -> None:
    """Users must not read these tables, so they have no policy."""
    use_every_index(db)
    assert sorted(issue["detail"] for issue in linter_results(database_url, tmp_path)) == [
        f"Table `public.{table}` has RLS enabled, but no policies exist" for table in INTERNAL
    ]


def test_the_supabase_linter_finds_a_table_without_rls(db: Db, database_url: str, tmp_path: Path) -> None:
    """If a setting is missing, the linter silently skips its most important rules."""
    use_every_index(db)
    db.execute("create table public.open_to_all (id integer)")
    db.execute("grant select on public.open_to_all to anon")
    assert "rls_disabled_in_public" in {issue["name"] for issue in linter_results(database_url, tmp_path)}


@pytest.mark.timeout(300)  # the first time, packages are downloaded
def test_plpgsql_check_finds_nothing_in_any_function(tmp_path: Path) -> None:
    programs = debian.programs()
    with debian.libraries(), locked(tmp_path) as lock, Processes(tmp_path, lock) as processes:
        postgres = Postgres(tmp_path / "postgres", POSTGRES + free_offset(), durable=False, bin=programs)
        postgres.start(processes)
        postgres.migrate()
        with psycopg.connect(postgres.url("supabase_admin"), autocommit=True) as db:
            db.execute("create extension plpgsql_check")
            functions = db.execute(
                "select p.oid, p.oid::regprocedure::text, coalesce(t.tgrelid, 0) from pg_proc p"
                " join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'"
                " left join pg_trigger t on t.tgfoid = p.oid"
                " where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)"
            ).fetchall()
            assert len(functions) > 15
            found = [
                (name, *problem)
                for oid, name, relation in functions
                for problem in db.execute(
                    "select lineno, level, message from plpgsql_check_function_tb(%s::oid, relid => %s::oid,"
                    " performance_warnings => false, security_warnings => true)",
                    (oid, relation),
                )
            ]
    assert found == []
