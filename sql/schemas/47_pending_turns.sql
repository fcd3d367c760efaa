-- Stores turns whose conversation was locked when they were settled. A lock on a conversation must not delay a charge.
--
-- A turn is stored once: the row is deleted in the transaction that stores it, under the lock of the conversation.

create or replace function private.postpone_turn(
  p_hold public.query_holds, p_conversation_id uuid, p_at timestamptz, p_expires_at timestamptz, p_turn jsonb)
returns boolean
language plpgsql volatile set search_path = ''
as $$
declare
  v_is_certain boolean;
begin
  -- This lock fails beside a deletion and succeeds beside an update. While it is held, no deletion can start.
  perform from public.conversations c where c.id = p_conversation_id for key share skip locked;
  v_is_certain := found;
  insert into public.pending_turns (
    id, created_at, user_id, conversation_id, conversation_created_at, expires_at, is_certain, position, replaces_to,
    turn)
  select p_hold.id, p_at, p_hold.user_id, c.id, c.created_at, p_expires_at, v_is_certain,
         coalesce(p_hold.position, private.next_position(c.id)), p_hold.replaces_to, p_turn
  from public.conversations c where c.id = p_conversation_id and c.user_id = p_hold.user_id;
  return found and v_is_certain;
end
$$;
comment on function private.postpone_turn(public.query_holds, uuid, timestamptz, timestamptz, jsonb) is
  'Leaves a turn for later, unless the conversation does not exist or belongs to another user. Returns whether it is '
  'certain to be stored. Waits for no lock.';
revoke all on function private.postpone_turn(public.query_holds, uuid, timestamptz, timestamptz, jsonb)
  from public, anon, authenticated, service_role;


create or replace function private.is_stored(p_query_id uuid, p_message_id uuid) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return p_message_id is not null
    or exists (select from public.pending_turns w where w.id = p_query_id and w.is_certain);
end
$$;
comment on function private.is_stored(uuid, uuid) is
  'Whether the turn of an ended query is stored or certain to be. p_message_id: that of its usage_logs row.';
revoke all on function private.is_stored(uuid, uuid) from public, anon, authenticated, service_role;


create or replace function private.apply_pending_turns(p_conversation_id uuid) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_is_locked boolean;
  v_done integer;
  v_pending record;
  v_hold public.query_holds;
begin
  -- Lock
  perform from auth.users u
  where u.id in (select w.user_id from public.pending_turns w where w.conversation_id = p_conversation_id)
  for key share;
  perform from public.conversations c where c.id = p_conversation_id for no key update skip locked;
  v_is_locked := found;

  -- Drop
  delete from public.pending_turns w
  where w.conversation_id = p_conversation_id and not exists (
    select from public.conversations c where c.id = w.conversation_id and c.created_at = w.conversation_created_at);
  get diagnostics v_done = row_count;
  if not v_is_locked then
    return v_done; -- The next call stores them.
  end if;

  -- Store, at most 20, because each is as much work as a settlement.
  for v_pending in
    select w.id, w.turn, w.created_at, w.expires_at, w.user_id, w.conversation_id, w.position, w.replaces_to,
           u.query_timestamp, u.funding, u.provider, u.model, u.tokens_input, u.tokens_output, u.cost_usd
    from public.pending_turns w join public.usage_logs u on u.id = w.id
    where w.conversation_id = p_conversation_id
    order by w.created_at, w.id limit 20
  loop
    v_hold.id := v_pending.id;
    v_hold.created_at := v_pending.query_timestamp;
    v_hold.user_id := v_pending.user_id;
    v_hold.conversation_id := v_pending.conversation_id;
    v_hold.position := v_pending.position;
    v_hold.replaces_to := v_pending.replaces_to;
    v_hold.funding := v_pending.funding;
    v_hold.provider := v_pending.provider;
    v_hold.model := v_pending.model;
    begin
      perform private.store_turn(
        v_hold, v_pending.created_at,
        jsonb_build_object('tokens_input', v_pending.tokens_input, 'tokens_output', v_pending.tokens_output,
                           'cost_usd', v_pending.cost_usd::text),
        v_pending.turn, v_pending.expires_at);
      update public.usage_logs u set
        conversation_id = v_pending.conversation_id, message_id = (v_pending.turn -> 'answer' ->> 'id')::uuid
      where u.id = v_pending.id;
    exception when data_exception or integrity_constraint_violation then
      raise warning 'The turn of query % cannot be stored: %', v_pending.id, sqlerrm;
    end;
    delete from public.pending_turns w where w.id = v_pending.id;
    v_done := v_done + 1;
  end loop;
  return v_done;
end
$$;
comment on function private.apply_pending_turns(uuid) is
  'Stores the pending turns of a conversation in order, at most 20, if it is not locked. Drops those of a deleted '
  'conversation. Returns how many it stored or dropped.';
revoke all on function private.apply_pending_turns(uuid) from public, anon, authenticated, service_role;


create or replace function public.apply_pending_turns() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_pending record;
  v_done integer := 0;
begin
  -- At most 20 turns of one conversation and 100 conversations. Users that are being deleted are left out.
  for v_pending in
    select oldest.user_id, oldest.conversation_id
    from (select w.user_id, w.conversation_id from public.pending_turns w order by w.created_at, w.id limit 100) oldest
    group by oldest.user_id, oldest.conversation_id
    order by oldest.user_id, oldest.conversation_id
  loop
    perform from auth.users u where u.id = v_pending.user_id for key share skip locked;
    continue when not found;
    v_done := v_done + private.apply_pending_turns(v_pending.conversation_id);
  end loop;
  return v_done;
end
$$;
comment on function public.apply_pending_turns() is
  'Stores turns that are charged and not yet stored, those of at most 100 conversations. Locked conversations are left '
  'to the next call. Returns how many it stored or dropped. Call until 0.';
revoke all on function public.apply_pending_turns() from public, anon, authenticated, service_role;
grant execute on function public.apply_pending_turns() to service_role;
