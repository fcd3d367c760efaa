-- A query that runs: what it has said so far, and whether it is to stop, for processes other than the one that runs it.
--
-- A function's every request may meet another process, so stopping and resuming an answer go through its hold. All of
-- it is gone with the hold: plans without history keep nothing.


create or replace function public.note_progress(
  p_hold_id uuid, p_from integer, p_progress text, p_is_closing boolean default false)
returns jsonb
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v_noted jsonb;
begin
  -- Nobody is charged by it, and what a crash could forget ends with the crash.
  perform set_config('synchronous_commit', 'off', true);
  update public.query_holds h set
    -- From a position, so that a call that is sent twice is noted once.
    progress = case when p_progress <> '' then left(h.progress, p_from) || p_progress else h.progress end,
    is_closing = h.is_closing or p_is_closing and h.followed_to is null
  where h.id = p_hold_id
  returning jsonb_build_object('stop_requested', h.stop_requested, 'followed_to', h.followed_to) into v_noted;
  return v_noted;
end
$$;
comment on function public.note_progress(uuid, integer, text, boolean) is
  'Notes what a running query has said from a character on, and tells whether it is to stop and how far another process '
  'has read (null: none does; with p_is_closing none can begin to). Null where there is no such hold.';
revoke all on function public.note_progress(uuid, integer, text, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.note_progress(uuid, integer, text, boolean) to service_role;


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
  'The newest query of a user''s chat that runs; null where none does, or its end has begun.';
revoke all on function private.running_query(uuid, text) from public, anon, authenticated, service_role;


create or replace function public.stop_query(p_user_id uuid, p_chat_id text) returns boolean
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off
as $$
begin
  update public.query_holds h set stop_requested = true where h.id = private.running_query(p_user_id, p_chat_id);
  return found;
end
$$;
comment on function public.stop_query(uuid, text) is
  'Asks the running query of a user''s chat to stop; whether there was one.';
revoke all on function public.stop_query(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.stop_query(uuid, text) to service_role;


create or replace function public.follow_query(
  p_user_id uuid, p_chat_id text, p_hold_id uuid default null, p_from integer default 0)
returns jsonb
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v_followed jsonb;
begin
  perform set_config('synchronous_commit', 'off', true);
  update public.query_holds h set followed_to = p_from
  where h.id = coalesce(p_hold_id, private.running_query(p_user_id, p_chat_id)) and h.user_id = p_user_id
    and h.expires_at > private.clock() and not h.is_closing
  returning jsonb_build_object('hold_id', h.id, 'progress', substr(h.progress, p_from + 1)) into v_followed;
  if v_followed is null and p_hold_id is not null then
    select jsonb_build_object(
      'hold_id', u.id, 'outcome', u.outcome, 'provider', u.provider, 'model', u.model, 'funding', u.funding,
      'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output, 'cache_read_tokens', u.cache_read_tokens,
      'cache_write_tokens', u.cache_write_tokens, 'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text,
      'persisted', u.message_id is not null)
    into v_followed
    from public.usage_logs u where u.id = p_hold_id and u.user_id = p_user_id;
  end if;
  return v_followed;
end
$$;
comment on function public.follow_query(uuid, text, uuid, integer) is
  'What the running query of a user''s chat has said from a character on; call it again with its hold_id and the '
  'characters that are known. Once it has ended, how: outcome, usage and charge. Null where nothing runs, or where the '
  'query was lost.';
revoke all on function public.follow_query(uuid, text, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.follow_query(uuid, text, uuid, integer) to service_role;
