-- The schema `private`, and the helpers that tables need for their defaults and triggers.
--
-- Rules for every file in this folder:
-- * Every state change is a function, so no role is granted insert, update or delete on a table.
-- * Row-level security is forced, so it also applies to the tables' owner, unless that role bypasses row-level
--   security by its own attribute, as `postgres` does on Supabase.
-- * Limits on single values are domains (01_domains.sql). Postgres prepares a table's check constraints again for
--   every statement that writes to it, which costs more than the write. A domain's check is prepared once a connection.
-- * Every file can run again and then changes nothing.

do $$
begin
  if current_setting('server_version_num')::integer < 150000 then
    raise feature_not_supported
      using message = format('The database needs Postgres 15 or newer, not %s.', current_setting('server_version'));
  end if;
end
$$;


create schema if not exists private;
comment on schema private is 'Helpers of the functions in public. Never exposed over the Data API.';
revoke all on schema private from public;
-- can_user_query and usage_summary run with the rights of the caller, who therefore needs these helpers.
grant usage on schema private to authenticated, service_role;


create or replace function private.time_ordered_id() returns uuid
language plpgsql volatile set search_path = ''
as $$
begin
  -- Time-ordered ids keep the newest rows of an index on few pages. Random ids scatter them over all pages.
  -- https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7
  -- PL/pgSQL, because Postgres plans a SQL function that it cannot inline again at every call.
  -- The last 19 digits of a random UUID, which are its variant and random bits.
  return (lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
          || substr(gen_random_uuid()::text, 16))::uuid;
end
$$;
comment on function private.time_ordered_id() is 'A UUID version 7: 48 bits of Unix milliseconds, then random bits.';
revoke all on function private.time_ordered_id() from public, anon, authenticated, service_role;


create or replace function private.clock() returns timestamptz
language plpgsql volatile set search_path = ''
as $$
begin
  -- Not now(): a transaction that waited for a lock past midnight must see the new day.
  return coalesce(nullif(current_setting('metering.now', true), '')::timestamptz, clock_timestamp());
end
$$;
comment on function private.clock() is
  'The current time for metering. Tests move it with the setting metering.now. No API request can set it.';
revoke all on function private.clock() from public, anon, authenticated, service_role;
grant execute on function private.clock() to authenticated, service_role;


create or replace function private.check_statement() returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  -- PostgREST writes the filters `match` and `imatch` as these operators. Some regular expressions take seconds of CPU
  -- for a text of 200 characters.
  if position(' ~ ' in current_query()) > 0 or position(' ~* ' in current_query()) > 0 then
    raise insufficient_privilege using message = 'The Data API takes no regular expressions.';
  end if;
  -- PostgREST embeds a table with a lateral join. Embedded tables multiply: messages of conversations of messages. The
  -- arguments of a function are lateral, too, but after a comma.
  if current_query() ~ ' JOIN LATERAL \(.* JOIN LATERAL \(' then
    raise insufficient_privilege using message = 'The Data API embeds one table at most.';
  end if;
  return true;
end
$$;
comment on function private.check_statement() is
  'True, or 42501 if the statement has a regular expression or embeds more than one table. Every policy for users '
  'calls it, once a statement.';
revoke all on function private.check_statement() from public, anon, authenticated, service_role;
grant execute on function private.check_statement() to authenticated;


create or replace function private.set_updated_at() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end
$$;
comment on function private.set_updated_at() is 'Trigger: sets updated_at when a row changes.';
revoke all on function private.set_updated_at() from public, anon, authenticated, service_role;
