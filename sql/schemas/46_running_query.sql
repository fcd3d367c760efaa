-- Stop and resume a running answer from another process, through its hold.
--
-- On Lambda every request can reach another process. Everything stored here is deleted with the hold, so plans without
-- history store nothing.

create or replace function private.lock_holds(p_hold_ids uuid[], p_wait boolean) returns setof uuid
language plpgsql volatile set search_path = ''
as $$
begin
  if p_wait then
    return query
      select h.id from public.query_holds h where h.id = any (p_hold_ids) order by h.id for no key update;
  else
    return query
      select h.id from public.query_holds h where h.id = any (p_hold_ids) order by h.id for no key update skip locked;
  end if;
end
$$;
comment on function private.lock_holds(uuid[], boolean) is
  'Locks the rows of holds and returns their ids. Without p_wait, holds that are locked are skipped.';
revoke all on function private.lock_holds(uuid[], boolean) from public, anon, authenticated, service_role;


create or replace function public.note_progress(p_notes jsonb, p_is_closing boolean default false) returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_noted jsonb;
begin
  -- No charge depends on this, so it does not wait for the disk. A crash ends the answers too.
  perform set_config('synchronous_commit', 'off', true);
  with note as (
    select n.hold_id, n.position, n.progress
    from jsonb_to_recordset(p_notes) n (hold_id uuid, position integer, progress text)
  ), held as (
    -- Without p_is_closing, locked holds are left to the next call. With it, the one hold is waited for.
    select id from private.lock_holds(array(select n.hold_id from note n), p_wait => p_is_closing) id
  ), stored as (
    update public.query_holds h set
      -- The position makes a repeated call harmless.
      progress = case when n.progress <> '' then left(h.progress, n.position) || n.progress else h.progress end,
      is_closing = h.is_closing or p_is_closing and h.followed_to is null
    from note n
    where h.id = n.hold_id and h.id in (select id from held)
    returning h.id, h.stop_requested, h.followed_to
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'hold_id', s.id, 'stop_requested', s.stop_requested, 'followed_to', s.followed_to)), '[]')
  into v_noted from stored s;
  return v_noted;
end
$$;
comment on function public.note_progress(jsonb, boolean) is
  'Stores the new text of running queries: [{hold_id, position, progress}], where progress replaces everything from '
  'character position on. Returns [{hold_id, stop_requested, followed_to}]: whether to stop, and how far another '
  'process has read (null: none reads). p_is_closing, for one query: no process may start to read any more. Holds that '
  'are gone or locked are not returned.';
revoke all on function public.note_progress(jsonb, boolean) from public, anon, authenticated, service_role;
grant execute on function public.note_progress(jsonb, boolean) to service_role;


create or replace function private.running_query(p_user_id uuid, p_chat_id text) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select h.id from public.query_holds h
    where h.user_id = p_user_id and h.expires_at > private.clock() and not h.is_closing
      and (h.chat_id = p_chat_id or private.conversation_key(h.chat_id) = private.conversation_key(p_chat_id))
    order by h.created_at desc, h.id desc limit 1);
end
$$;
comment on function private.running_query(uuid, text) is
  'The newest running query of a chat. Null: none runs, or it is about to be settled.';
revoke all on function private.running_query(uuid, text) from public, anon, authenticated, service_role;


create or replace function public.stop_query(p_user_id uuid, p_chat_id text) returns boolean
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
begin
  update public.query_holds h set stop_requested = true where h.id = private.running_query(p_user_id, p_chat_id);
  if not found then
    perform private.require_account(p_user_id);
    return false;
  end if;
  return true;
end
$$;
comment on function public.stop_query(uuid, text) is
  'Requests that the running query of a chat stops. Returns whether there was one. NOUSR: the account has ended.';
revoke all on function public.stop_query(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.stop_query(uuid, text) to service_role;


create or replace function private.other_followers(p_followers jsonb, p_follower uuid, p_at timestamptz) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_object_agg(f.key, f.value), '{}') from jsonb_each_text(p_followers) f
    where f.key <> p_follower::text and f.value::timestamptz > p_at - interval '3 seconds');
end
$$;
comment on function private.other_followers(jsonb, uuid, timestamptz) is
  'The other clients that read an answer. One that has not asked for three seconds has left.';
revoke all on function private.other_followers(jsonb, uuid, timestamptz) from public, anon, authenticated, service_role;


create or replace function public.follow_query(
  p_user_id uuid, p_chat_id text, p_follower uuid, p_hold_id uuid default null, p_from integer default 0)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_at constant timestamptz := private.clock();
  v_hold_id constant uuid := coalesce(p_hold_id, private.running_query(p_user_id, p_chat_id));
  v_followed jsonb;
begin
  perform set_config('synchronous_commit', 'off', true);

  -- Write
  update public.query_holds h set
    followed_to = p_from,
    followers = private.other_followers(h.followers, p_follower, v_at) || jsonb_build_object(p_follower, v_at)
  where h.id = v_hold_id and h.user_id = p_user_id and h.expires_at > v_at and not h.is_closing
    and (select count(*) from jsonb_object_keys(private.other_followers(h.followers, p_follower, v_at))) < 3
  returning jsonb_build_object('hold_id', h.id, 'progress', substr(h.progress, p_from + 1)) into v_followed;
  if v_followed is null then
    select jsonb_build_object('is_full', true) into v_followed
    from public.query_holds h
    where h.id = v_hold_id and h.user_id = p_user_id and h.expires_at > v_at and not h.is_closing;
  end if;
  if v_followed is null and p_hold_id is null then
    perform private.require_account(p_user_id);
  elsif v_followed is null then
    select jsonb_build_object(
      'hold_id', u.id, 'outcome', u.outcome, 'provider', u.provider, 'model', u.model, 'funding', u.funding,
      'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output, 'cache_read_tokens', u.cache_read_tokens,
      'cache_write_tokens', u.cache_write_tokens, 'cost_usd', u.cost_usd::text,
      'charged_usd', u.overage_charge::text, 'persisted', private.is_stored(u.id, u.message_id),
      'finish_reason', u.finish_reason)
    into v_followed
    from public.usage_logs u where u.id = p_hold_id and u.user_id = p_user_id;
  end if;

  -- Return
  return v_followed;
end
$$;
comment on function public.follow_query(uuid, text, uuid, uuid, integer) is
  'The progress of the running query of a chat from character p_from on: {hold_id, progress}. Call again with the '
  'hold_id and the number of characters read so far. p_follower identifies the client: at most three read an answer at '
  'the same time, the others get {is_full}. After the query has ended: {hold_id, outcome, usage and charge}. '
  'Null: nothing runs, or the query was lost.';
revoke all on function public.follow_query(uuid, text, uuid, uuid, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.follow_query(uuid, text, uuid, uuid, integer) to service_role;
