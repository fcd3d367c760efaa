"""The complete matrix of grants on schemas, tables and columns."""

import psycopg
import pytest

from tests.conftest import Connect
from tests.sql.metering import Db

ROLES = ("anon", "authenticated", "service_role")

# Functions change the state, so no role may insert, update or delete. anon may read nothing.
# test_row_level_security.py tests which rows a role sees.
GRANTS = """
schema private                 anon           nothing
schema private                 authenticated  usage
schema private                 service_role   usage
schema public                  anon           usage
schema public                  authenticated  usage
schema public                  service_role   usage
private.conversation_tokens    anon           nothing
private.conversation_tokens    authenticated  nothing
private.conversation_tokens    service_role   nothing
private.current_subscriptions  anon           nothing
private.current_subscriptions  authenticated  select
private.current_subscriptions  service_role   select
private.funding_state          anon           nothing
private.funding_state          authenticated  select
private.funding_state          service_role   select
private.overage_owed_again     anon           nothing
private.overage_owed_again     authenticated  nothing
private.overage_owed_again     service_role   nothing
private.stripe_packs           anon           nothing
private.stripe_packs           authenticated  nothing
private.stripe_packs           service_role   nothing
private.stripe_sequence        anon           nothing
private.stripe_sequence        authenticated  nothing
private.stripe_sequence        service_role   nothing
private.subscription_limits    anon           nothing
private.subscription_limits    authenticated  select
private.subscription_limits    service_role   select
public.announcements           anon           nothing
public.announcements           authenticated  select
public.announcements           service_role   select
public.blocked_addresses       anon           nothing
public.blocked_addresses       authenticated  nothing
public.blocked_addresses       service_role   nothing
public.conversations           anon           nothing
public.conversations           authenticated  select
public.conversations           service_role   select
public.credit_packs            anon           nothing
public.credit_packs            authenticated  select
public.credit_packs            service_role   select
public.daily_costs             anon           nothing
public.daily_costs             authenticated  nothing
public.daily_costs             service_role   nothing
public.daily_quota_usage       anon           nothing
public.daily_quota_usage       authenticated  select
public.daily_quota_usage       service_role   select
public.import_states           anon           nothing
public.import_states           authenticated  nothing
public.import_states           service_role   nothing
public.job_runs                anon           nothing
public.job_runs                authenticated  nothing
public.job_runs                service_role   nothing
public.lobbying_communications anon           nothing
public.lobbying_communications authenticated  nothing
public.lobbying_communications service_role   nothing
public.lobbying_registrations  anon           nothing
public.lobbying_registrations  authenticated  nothing
public.lobbying_registrations  service_role   nothing
public.lobbying_subjects       anon           nothing
public.lobbying_subjects       authenticated  nothing
public.lobbying_subjects       service_role   nothing
public.member_expenses         anon           nothing
public.member_expenses         authenticated  nothing
public.member_expenses         service_role   nothing
public.message_feedback        anon           nothing
public.message_feedback        authenticated  select
public.message_feedback        service_role   select
public.messages                anon           nothing
public.messages                authenticated  select
public.messages                service_role   select
public.operator_actions        anon           nothing
public.operator_actions        authenticated  nothing
public.operator_actions        service_role   nothing
public.overage_invoice_items   anon           nothing
public.overage_invoice_items   authenticated  select
public.overage_invoice_items   service_role   select
public.packs                   anon           nothing
public.packs                   authenticated  nothing
public.packs                   service_role   select
public.pending_turns           anon           nothing
public.pending_turns           authenticated  nothing
public.pending_turns           service_role   nothing
public.plans                   anon           nothing
public.plans                   authenticated  select
public.plans                   service_role   select
public.query_holds             anon           nothing
public.query_holds             authenticated  select
public.query_holds             service_role   select
public.query_refusals          anon           nothing
public.query_refusals          authenticated  select
public.query_refusals          service_role   select
public.reasons                 anon           nothing
public.reasons                 authenticated  select
public.reasons                 service_role   select
public.retained_invoice_items  anon           nothing
public.retained_invoice_items  authenticated  nothing
public.retained_invoice_items  service_role   select
public.retained_usage          anon           nothing
public.retained_usage          authenticated  nothing
public.retained_usage          service_role   select
public.settings                anon           nothing
public.settings                authenticated  nothing
public.settings                service_role   nothing
public.shared_conversations    anon           nothing
public.shared_conversations    authenticated  select
public.shared_conversations    service_role   select
public.stripe_events           anon           nothing
public.stripe_events           authenticated  nothing
public.stripe_events           service_role   select
public.usage_logs              anon           nothing
public.usage_logs              authenticated  select
public.usage_logs              service_role   select
public.usage_reversals         anon           nothing
public.usage_reversals         authenticated  select
public.usage_reversals         service_role   select
public.user_api_keys           anon           nothing
public.user_api_keys           authenticated  select(KEYS)
public.user_api_keys           service_role   select(KEYS)
public.user_subscriptions      anon           nothing
public.user_subscriptions      authenticated  select
public.user_subscriptions      service_role   select
"""
KEYS = (
    "created_at, encryption_key_id, hint, id, is_active, last_validated_at, provider, updated_at, user_id, "
    "validation_error"
)
SECRET = ("encrypted_key", "encryption_iv", "encryption_tag")


def test_grants_are_exactly_those_listed(db: Db) -> None:
    """Every relation and column, every privilege of Postgres, for the three roles of the API."""
    verbs = ["select", "insert", "update", "delete", "truncate", "references", "trigger", "usage"]
    verbs += ["maintain"] if db.info.server_version >= 170_000 else []
    found = db.execute(
        """
        with relation as (
          select c.oid, c.relkind, format('%%s.%%s', c.relnamespace::regnamespace, c.relname) as name
          from pg_class c
          where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
            and c.relkind not in ('i', 'I', 't', 'c')
        ), granted as (
          select r.name, role, verb, case
            when verb = 'usage' then
              case when r.relkind = 'S' and has_sequence_privilege(role, r.oid, verb) then verb end
            when has_table_privilege(role, r.oid, verb) then verb
            when verb in ('select', 'insert', 'update', 'references') then (
              select format('%%s(%%s)', verb, string_agg(a.attname, ', ' order by a.attname collate "C"))
              from pg_attribute a
              where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
                and has_column_privilege(role, r.oid, a.attnum, verb)
              having count(*) > 0)
            end as may
          from relation r, unnest(%(roles)s::text[]) role, unnest(%(verbs)s::text[]) verb
        ), schema_granted as (
          select format('schema %%s', schema) as name, role, verb,
                 case when has_schema_privilege(role, schema, verb) then verb end as may
          from unnest('{public,private}'::text[]) schema, unnest(%(roles)s::text[]) role,
               unnest('{usage,create}'::text[]) verb
        )
        select name, role,
               coalesce(string_agg(may, ', ' order by may ~ '\\(', array_position(%(verbs)s, verb)), 'nothing') as may
        from (table granted union all table schema_granted) all_grants
        group by name, role order by name like 'schema %%' desc, name collate "C", role
        """,
        {"roles": list(ROLES), "verbs": verbs},
    ).fetchall()
    lines = [f"{row['name']:<30} {row['role']:<14} {row['may']}" for row in found]
    assert lines == GRANTS.replace("KEYS", KEYS).strip().splitlines()


def test_only_postgres_can_read_encrypted_keys(db: Db) -> None:
    """Of all roles, only the owner, the superuser, and pg_read_all_data, of which no API role is a member."""
    readers = db.execute(
        """
        select r.rolname from pg_roles r
        where exists (select from unnest(%s::text[]) secret
                      where has_column_privilege(r.oid, 'public.user_api_keys', secret, 'select'))
        order by r.rolname
        """,
        (list(SECRET),),
    ).fetchall()
    assert [row["rolname"] for row in readers] == ["pg_read_all_data", "postgres", "supabase_admin"]


@pytest.mark.parametrize("column", [*SECRET, "*"])
@pytest.mark.parametrize("role", ROLES)
def test_selecting_an_encrypted_key_is_refused(connect: Connect, role: str, column: str) -> None:
    """Also if no row matches, and among other columns."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table user_api_keys"):
        connect(role).execute(f"select {column} from public.user_api_keys")
