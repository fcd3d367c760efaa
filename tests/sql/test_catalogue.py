"""Rules for every table, column, view and function of the schemas public and private, read from the system catalogs. A
new object that breaks a rule fails here."""

from typing import Any

import pytest

from tests.sql.metering import Db

OURS = "('public'::regnamespace, 'private'::regnamespace)"

# A security definer function has the rights of postgres, which bypasses row-level security, so only the service role
# may call it. The exceptions change only rows of their caller: set_overage, update_conversation, delete_conversation.
# own_refusal reads only about its caller.
FUNCTIONS = """
private.add_daily_cost                 volatile   invoker  none
private.address_hash                   immutable  invoker  none
private.apply_downgrades               volatile   invoker  none
private.apply_pending_turns            volatile   invoker  none
private.bill_query                     immutable  invoker  none
private.bounded_overage_limit          stable     invoker  none
private.charged_query_response         stable     invoker  none
private.check_pin                      volatile   invoker  none
private.check_question                 immutable  invoker  none
private.check_statement                stable     invoker  authenticated
private.check_subscription             volatile   invoker  none
private.clock                          volatile   invoker  authenticated service_role
private.close_hold                     volatile   invoker  none
private.conversation_key               immutable  invoker  none
private.delete_conversations           volatile   invoker  none
private.describe_hold                  stable     invoker  none
private.describe_key                   stable     invoker  authenticated service_role
private.describe_query                 stable     invoker  none
private.describe_refusal               stable     invoker  none
private.encrypted_key                  stable     invoker  none
private.ended_query                    stable     invoker  none
private.find_conversation              stable     invoker  none
private.fold                           immutable  invoker  none
private.forget_deletion                volatile   definer  none
private.free_budget_is_spent           stable     invoker  none
private.imported_on                    stable     invoker  none
private.is_blocked                     stable     definer  authenticated service_role
private.is_charged                     immutable  invoker  none
private.is_stored                      stable     invoker  none
private.join_texts                     immutable  invoker  none
private.keep_currency                  volatile   definer  none
private.lobbying_about                 stable     invoker  none
private.lock_holds                     volatile   invoker  none
private.newest_answer                  stable     invoker  none
private.newest_matches                 stable     invoker  none
private.next_credit_pack               stable     invoker  authenticated service_role
private.next_position                  stable     invoker  none
private.note_overage_price             volatile   invoker  none
private.operator_columns               stable     invoker  none
private.other_followers                stable     invoker  none
private.own_key_provider               stable     invoker  authenticated service_role
private.own_refusal                    stable     definer  authenticated
private.pause_sentence                 stable     invoker  none
private.paused_provider                stable     invoker  none
private.pauses                         stable     invoker  none
private.period_at                      immutable  invoker  authenticated service_role
private.person_key                     immutable  invoker  none
private.place_question                 stable     invoker  none
private.postpone_turn                  volatile   invoker  none
private.protect_operator_action        volatile   invoker  none
private.purge_copies_and_ratings       volatile   invoker  none
private.query_words                    immutable  invoker  none
private.reason_of                      immutable  invoker  authenticated service_role
private.recent_messages                volatile   invoker  none
private.reclaim_expired_holds          volatile   invoker  none
private.record_action                  volatile   invoker  none
private.record_downgrade               volatile   invoker  none
private.record_refusal                 volatile   invoker  none
private.refund_hold                    volatile   invoker  none
private.refuse_blocked                 stable     invoker  authenticated service_role
private.refuse_model                   stable     invoker  none
private.repeated_action                stable     invoker  none
private.require_account                stable     invoker  none
private.retain_ledger                  volatile   definer  none
private.return_funding                 volatile   invoker  none
private.running_query                  stable     invoker  none
private.search_query                   immutable  invoker  none
private.search_words                   immutable  invoker  none
private.set_tier_from_packs            volatile   invoker  none
private.set_updated_at                 volatile   invoker  none
private.snapshot_of                    stable     invoker  none
private.sources_of                     immutable  invoker  none
private.start_subscription             volatile   definer  none
private.stop_chat                      volatile   invoker  none
private.store_turn                     volatile   invoker  none
private.subscription_changed           volatile   invoker  none
private.sync_uses_byo_key              volatile   definer  none
private.texts_of                       immutable  invoker  none
private.time_ordered_id                volatile   invoker  none
private.unsubscribed_tier              stable     invoker  authenticated service_role
public.admit_query                     volatile   definer  service_role
public.admit_tool_call                 volatile   definer  service_role
public.announce                        volatile   definer  service_role
public.api_keys_to_rotate              stable     definer  service_role
public.apply_customer                  volatile   definer  service_role
public.apply_pack                      volatile   definer  service_role
public.apply_pending_turns             volatile   definer  service_role
public.before_user_created             stable     definer  none
public.begin_export                    volatile   definer  service_role
public.billed_items                    stable     definer  service_role
public.billing_profile                 stable     definer  service_role
public.block_user                      volatile   definer  service_role
public.can_user_query                  stable     invoker  authenticated service_role
public.chat_messages                   stable     definer  service_role
public.check_deletion                  stable     definer  service_role
public.claim_overage                   volatile   definer  service_role
public.claim_stripe_event              volatile   definer  service_role
public.cleanup_expired_conversations   volatile   definer  service_role
public.confirm_deletion                stable     definer  service_role
public.costliest_users                 stable     definer  service_role
public.count_keys_to_rotate            stable     definer  service_role
public.credit_back                     volatile   definer  service_role
public.delete_api_key                  volatile   definer  service_role
public.delete_auth_log                 volatile   definer  service_role
public.delete_conversation             volatile   definer  authenticated
public.delete_history                  volatile   definer  service_role
public.end_announcement                volatile   definer  service_role
public.expenses_of_member              stable     definer  service_role
public.expire_credits                  volatile   definer  service_role
public.explain_query                   stable     invoker  authenticated service_role
public.export_user                     stable     definer  service_role
public.find_queries                    stable     definer  service_role
public.find_users                      stable     definer  service_role
public.finish_import                   volatile   definer  service_role
public.finish_stripe_event             volatile   definer  service_role
public.follow_query                    volatile   definer  service_role
public.get_api_key                     stable     definer  service_role
public.grant_credits                   volatile   definer  service_role
public.import_communications           volatile   definer  service_role
public.import_member_expenses          volatile   definer  service_role
public.import_registrations            volatile   definer  service_role
public.import_states_of                stable     definer  service_role
public.largest_expenses                stable     definer  service_role
public.link_stripe_customer            volatile   definer  service_role
public.list_api_keys                   stable     invoker  authenticated
public.list_operations                 stable     definer  service_role
public.list_plans                      stable     invoker  service_role
public.lobbying_by_organization        stable     definer  service_role
public.lobbying_of_member              stable     definer  service_role
public.lobbying_on_bill                stable     definer  service_role
public.lobbying_on_subject             stable     definer  service_role
public.margin_report                   stable     definer  service_role
public.next_stripe_sequence            volatile   definer  service_role
public.note_action                     volatile   definer  service_role
public.note_api_key                    volatile   definer  service_role
public.note_job_run                    volatile   definer  service_role
public.note_progress                   volatile   definer  service_role
public.packs_to_compare                stable     definer  service_role
public.pause_service                   volatile   definer  service_role
public.place_overage                   volatile   definer  service_role
public.price_currency                  stable     definer  service_role
public.purge_events                    volatile   definer  service_role
public.put_api_key                     volatile   definer  service_role
public.rate_message                    volatile   definer  service_role
public.recent_lobbying                 stable     definer  service_role
public.reconcile                       stable     definer  service_role
public.reconcile_operators             stable     definer  service_role
public.release_query                   volatile   definer  service_role
public.release_stale_holds             volatile   definer  service_role
public.repair_counters                 volatile   definer  service_role
public.reset_monthly_overages          volatile   definer  service_role
public.resume_service                  volatile   definer  service_role
public.retarget_overage                volatile   definer  service_role
public.rotate_api_keys                 volatile   definer  service_role
public.service_state                   volatile   definer  service_role
public.set_limits                      volatile   definer  service_role
public.set_models                      volatile   definer  service_role
public.set_overage                     volatile   definer  authenticated
public.settle_overage                  volatile   definer  service_role
public.settle_query                    volatile   definer  service_role
public.share_conversation              volatile   definer  service_role
public.shared_conversation             stable     definer  service_role
public.sold_packs                      stable     definer  service_role
public.start_import                    volatile   definer  service_role
public.stop_query                      volatile   definer  service_role
public.subscribers                     stable     definer  service_role
public.support_summary                 stable     definer  service_role
public.track_query_usage               volatile   definer  service_role
public.unblock_user                    volatile   definer  service_role
public.unfinished_stripe_events        stable     definer  service_role
public.unsettled_overage               stable     definer  service_role
public.unshare_conversation            volatile   definer  service_role
public.update_conversation             volatile   definer  authenticated
public.usage_summary                   stable     invoker  authenticated
public.users_at_threshold              stable     definer  service_role
public.users_to_bill                   stable     definer  service_role
"""


def values(db: Db, query: str) -> list[Any]:
    """The first column of the rows of a query."""
    return [next(iter(row.values())) for row in db.execute(query.encode())]


TABLES = f"select c.oid::regclass::text from pg_class c where c.relkind in ('r', 'p') and c.relnamespace in {OURS}"


@pytest.fixture(autouse=True)
def tables_exist(db: Db) -> None:
    """The tests look for objects that break a rule. Without tables they would pass."""
    assert len(values(db, TABLES)) >= 7


def test_functions_are_exactly_those_listed_with_their_rights(db: Db) -> None:
    """Volatility, security, and the roles that may execute it. Each signature is a row."""
    found = values(
        db,
        f"""
        select format('%-37s  %-9s  %s  %s', p.pronamespace::regnamespace || '.' || p.proname,
                 case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
                 case when p.prosecdef then 'definer' else 'invoker' end,
                 coalesce((select string_agg(role, ' ' order by role)
                           from unnest('{{public,anon,authenticated,service_role}}'::text[]) role
                           where has_function_privilege(role, p.oid, 'execute')), 'none'))
        from pg_proc p where p.pronamespace in {OURS}
        """,
    )
    assert sorted(found) == FUNCTIONS.strip().splitlines()


def test_every_function_has_an_empty_search_path(db: Db) -> None:
    """Otherwise a caller could make a function use another table or operator of the same name."""
    found = values(
        db,
        f"""
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in {OURS} and not coalesce(p.proconfig, '{{}}') @> array['search_path=""']
        """,
    )
    assert found == []


def test_everything_has_a_comment(db: Db) -> None:
    """The schema, tables, views, columns, functions and types."""
    found = values(
        db,
        f"""
        select c.oid::regclass::text from pg_class c
        where c.relnamespace in {OURS} and c.relkind not in ('i', 'I', 't', 'c')
          and coalesce(obj_description(c.oid, 'pg_class'), '') = ''
        union all
        select format('%s.%s', c.oid::regclass, a.attname) from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace in {OURS} and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
          and a.attnum > 0 and not a.attisdropped and coalesce(col_description(c.oid, a.attnum), '') = ''
        union all
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in {OURS} and coalesce(obj_description(p.oid, 'pg_proc'), '') = ''
        union all
        select t.oid::regtype::text from pg_type t
        where t.typnamespace in {OURS} and t.typtype = 'd' and coalesce(obj_description(t.oid, 'pg_type'), '') = ''
        union all
        select 'private' where coalesce(obj_description('private'::regnamespace, 'pg_namespace'), '') = ''
        """,
    )
    assert found == []


def test_everything_belongs_to_postgres(db: Db) -> None:
    """A security definer function has the rights of its owner, and the owner of a table may change its policies."""
    found = values(
        db,
        f"""
        select c.oid::regclass::text from pg_class c
        where c.relnamespace in {OURS} and c.relowner <> 'postgres'::regrole
        union all
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in {OURS} and p.proowner <> 'postgres'::regrole
        union all
        select 'private' from pg_namespace n where n.nspname = 'private' and n.nspowner <> 'postgres'::regrole
        """,
    )
    assert found == []


def test_every_table_has_forced_row_level_security_and_a_policy(db: Db) -> None:
    """Without a policy no user can read a table, as intended for those listed below.
    Without force the owner could read every row."""
    assert values(db, f"{TABLES} and not (c.relrowsecurity and c.relforcerowsecurity)") == []
    assert values(db, f"{TABLES} and not exists (select from pg_policy p where p.polrelid = c.oid) order by 1") == [
        "blocked_addresses",
        "daily_costs",
        "import_states",
        "job_runs",
        "lobbying_communications",
        "lobbying_registrations",
        "lobbying_subjects",
        "member_expenses",
        "operator_actions",
        "packs",
        "pending_turns",
        "retained_invoice_items",
        "retained_usage",
        "settings",
        "stripe_events",
    ]


def test_every_policy_names_its_roles(db: Db) -> None:
    """A policy to public would apply to every role, also to future ones."""
    found = values(
        db,
        """
        select format('%s: %s', p.polrelid::regclass, p.polname) from pg_policy p
        where not p.polroles <@ array['anon', 'authenticated']::regrole[]::oid[]
        """,
    )
    assert found == []


def test_every_policy_reads_the_user_once_per_query(db: Db) -> None:
    """`(select auth.uid())` is evaluated once, `auth.uid()` for every row. Three tables have no user."""
    policies = db.execute(
        """
        select p.polrelid::regclass::text as table_name, p.polname,
               concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) as expression
        from pg_policy p
        """
    ).fetchall()
    assert [
        p["polname"] for p in policies if p["expression"].count("auth.") != p["expression"].count("SELECT auth.uid()")
    ] == []
    without_users = {p["table_name"] for p in policies if "auth.uid()" not in p["expression"]}
    assert without_users == {"announcements", "plans", "reasons"}


def test_every_policy_checks_the_filters_once_per_query(db: Db) -> None:
    """A table without the check would run regular expressions for strangers."""
    expressions = values(db, "select pg_get_expr(polqual, polrelid) from pg_policy")
    assert len(expressions) >= 10
    assert [text for text in expressions if "SELECT private.check_statement()" not in text] == []


def test_every_view_runs_with_the_rights_of_its_reader(db: Db) -> None:
    """A view without security_invoker shows every reader what its owner may see. No other kind is used."""
    found = values(
        db,
        f"""
        select c.oid::regclass::text from pg_class c
        where c.relnamespace in {OURS} and c.relkind in ('v', 'm', 'f')
          and not (c.relkind = 'v' and coalesce(c.reloptions, '{{}}') @> '{{security_invoker=true}}')
        """,
    )
    assert found == []


def test_every_table_has_id_and_created_at(db: Db) -> None:
    """`id uuid primary key`, `created_at timestamptz not null`."""
    found = values(
        db,
        f"""
        {TABLES} and not (
          exists (select from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
                  where i.indrelid = c.oid and i.indisprimary and i.indnkeyatts = 1
                    and a.attname = 'id' and a.atttypid = 'uuid'::regtype)
          and exists (select from pg_attribute a
                      where a.attrelid = c.oid and a.attname = 'created_at' and a.attnotnull
                        and a.atttypid = 'timestamptz'::regtype))
        """,
    )
    assert found == []


def test_every_user_id_references_auth_users_with_cascade(db: Db) -> None:
    """It is a foreign key to auth.users, on delete cascade, and never null."""
    found = values(
        db,
        f"""
        {TABLES} and exists (
          select from pg_attribute a where a.attrelid = c.oid and a.attname = 'user_id' and not (
            a.attnotnull and exists (
              select from pg_constraint k where k.contype = 'f' and k.conrelid = c.oid
                and k.conkey = array[a.attnum] and k.confrelid = 'auth.users'::regclass and k.confdeltype = 'c')))
        """,
    )
    assert found == []


def test_every_foreign_key_has_an_index(db: Db) -> None:
    """An index that starts with its columns, so that deleting a parent does not scan the table. It may omit nulls."""
    found = values(
        db,
        f"""
        select format('%s: %s', k.conrelid::regclass, k.conname) from pg_constraint k
        where k.contype = 'f' and k.connamespace in {OURS} and not exists (
          select from pg_index i
          where i.indrelid = k.conrelid and i.indisvalid
            and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
            and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) = (
              select format('(%I IS NOT NULL)', a.attname) from pg_attribute a
              where a.attrelid = k.conrelid and a.attnum = k.conkey[1])))
        """,
    )
    assert found == []


def test_every_constraint_has_a_descriptive_name(db: Db) -> None:
    """Checks and unique constraints start with their table or type and are not named automatically."""
    names = db.execute(
        f"""
        select k.conname, coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text) as table_name,
               case k.contype when 'c' then '_check' when 'u' then '_key' else '_excl' end as automatic
        from pg_constraint k
        where k.contype in ('c', 'u', 'x') and k.connamespace in {OURS}
        """.encode()
    ).fetchall()
    assert len(names) > 20
    assert [
        n["conname"]
        for n in names
        if n["conname"].rstrip("0123456789").endswith(n["automatic"])
        or not n["conname"].startswith(n["table_name"] + "_")
    ] == []


def test_money_is_exact(db: Db) -> None:
    """Amounts are usd, numeric(14,6), in tables, numeric in views, or whole cents. Nothing is a float."""
    money = db.execute(
        f"""
        select format('%s.%s', c.oid::regclass, a.attname) as name, c.relkind::text as kind,
               format_type(a.atttypid, a.atttypmod) as type
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace in {OURS} and c.relkind in ('r', 'p', 'v') and a.attnum > 0
          and a.attname ~ '(_usd|cost|price|amount|charges?|overage_limit)(_|$)'
        """.encode()
    ).fetchall()
    assert len(money) >= 10
    kinds = {"v": "numeric", "r": "usd", "p": "usd"}
    assert [m for m in money if m["type"] != ("integer" if m["name"].endswith("_cents") else kinds[m["kind"]])] == []
    assert values(db, "select format_type(typbasetype, typtypmod) from pg_type where oid = 'usd'::regtype") == [
        "numeric(14,6)"
    ]

    inexact = "array['float4', 'float8', 'money', '_float4', '_float8']::regtype[]::oid[]"
    found = values(
        db,
        f"""
        select format('%s.%s', c.oid::regclass, a.attname) from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace in {OURS} and a.attnum > 0 and a.atttypid = any ({inexact})
        union all
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in {OURS}
          and coalesce(p.proallargtypes, p.proargtypes) || p.prorettype && {inexact}
        """,
    )
    assert found == []
