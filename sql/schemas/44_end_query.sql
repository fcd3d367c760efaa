-- How a query ends: its hold becomes one row of the ledger, which is charged or refunded. Locks: 43_admit_query.sql.

create or replace function private.close_hold(
  p_hold public.query_holds, p_at timestamptz, p_outcome text, p_is_charged boolean, p_usage jsonb,
  p_conversation_id uuid, p_message_id uuid,
  out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_tokens_input constant integer := coalesce((p_usage ->> 'tokens_input')::integer, 0);
  v_tokens_output constant integer := coalesce((p_usage ->> 'tokens_output')::integer, 0);
begin
  if p_hold.id is null then
    return;
  end if;
  insert into public.usage_logs as u (
    id, created_at, user_id, request_id, chat_key, question_digest, conversation_id, message_id, tier, funding,
    outcome, is_charged, finish_reason, query_date, query_timestamp, period_start, credit_pack_id, quota_used,
    quota_limit, overage_used, overage_limit, tokens_input, tokens_output, tokens_total, cache_read_tokens,
    cache_write_tokens, cost_usd, provider, model, used_byo_key, counted_against_quota, was_overage, overage_charge)
  values (
    p_hold.id, p_at, p_hold.user_id, p_hold.request_id, p_hold.chat_key, p_hold.question_digest, p_conversation_id,
    p_message_id, p_hold.tier, p_hold.funding, p_outcome, p_is_charged,
    case when p_is_charged then p_usage ->> 'finish_reason' end, p_hold.query_date, p_hold.created_at,
    p_hold.period_start, p_hold.credit_pack_id, p_hold.quota_used, p_hold.quota_limit, p_hold.overage_used,
    p_hold.overage_limit,
    v_tokens_input, v_tokens_output, v_tokens_input + v_tokens_output,
    coalesce((p_usage ->> 'cache_read_tokens')::integer, 0), coalesce((p_usage ->> 'cache_write_tokens')::integer, 0),
    coalesce((p_usage ->> 'cost_usd')::numeric, 0), coalesce(p_usage ->> 'provider', p_hold.provider),
    coalesce(p_usage ->> 'model', p_hold.model), p_hold.funding = 'byok',
    p_is_charged and p_hold.funding = 'included', p_is_charged and p_hold.funding = 'overage',
    case when p_is_charged then p_hold.overage_charge else 0 end)
  returning u.id, u.outcome, u.overage_charge, u.cost_usd, u.message_id, u.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key;
  delete from public.query_holds h where h.id = p_hold.id;
end
$$;
comment on function private.close_hold(public.query_holds, timestamptz, text, boolean, jsonb, uuid, uuid) is
  'Replaces a hold by its usage_logs row, and returns columns of that row. Without a hold, id is null. The caller has '
  'read the hold under the hold lock. p_is_charged is private.is_charged(p_outcome), which the caller knows already.';
revoke all on function private.close_hold(public.query_holds, timestamptz, text, boolean, jsonb, uuid, uuid)
  from public, anon, authenticated, service_role;


create or replace function private.ended_query(
  p_hold_id uuid, out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql stable set search_path = ''
as $$
begin
  select u.id, u.outcome, u.overage_charge, u.cost_usd, u.message_id, u.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key
  from public.usage_logs u where u.id = p_hold_id;
  if id is null then
    raise exception using errcode = 'NOHLD', message = 'There is no such query.';
  end if;
end
$$;
comment on function private.ended_query(uuid) is
  'The usage_logs row of a query that has ended, with the columns of close_hold. NOHLD: the query was never admitted.';
revoke all on function private.ended_query(uuid) from public, anon, authenticated, service_role;


create or replace function private.add_daily_cost(p_hold public.query_holds, p_cost_usd numeric) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if p_cost_usd > 0 then
    update public.daily_costs c set
      day = p_hold.query_date,
      free_usd = case when c.day = p_hold.query_date then c.free_usd else 0 end
               + case when p_hold.tier = 'free' then p_cost_usd else 0 end,
      total_usd = case when c.day = p_hold.query_date then c.total_usd else 0 end + p_cost_usd
    where c.shard = pg_backend_pid() % 32 and c.day <= p_hold.query_date;
  end if;
end
$$;
comment on function private.add_daily_cost(public.query_holds, numeric) is
  'Adds what a query has cost us to the sums of its day. Call it last, because the row stays locked until the end of '
  'the transaction.';
revoke all on function private.add_daily_cost(public.query_holds, numeric)
  from public, anon, authenticated, service_role;


create or replace function private.return_funding(
  p_hold public.query_holds, p_failed_cost_usd numeric, p_is_settled boolean default false)
returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if p_hold.funding <> 'byok' then
    update public.user_subscriptions s set
      lifetime_used = s.lifetime_used
        - case when p_hold.funding = 'included' and p.lifetime_quota is not null then 1 else 0 end,
      quota_used = s.quota_used
        - case when p_hold.funding = 'included' and p.daily_quota is not null and s.quota_date = p_hold.query_date
               then 1 else 0 end,
      current_overage_amount = s.current_overage_amount
        - case when s.overage_period_start = p_hold.period_start then p_hold.overage_charge else 0 end,
      unpaid_overage_usd = s.unpaid_overage_usd - case when p_is_settled then 0 else p_hold.overage_charge end,
      failed_cost_usd = s.failed_cost_usd + case when s.quota_date = p_hold.query_date then p_failed_cost_usd else 0 end
    from public.plans p
    where s.user_id = p_hold.user_id and p.tier = p_hold.tier;
  end if;
  if p_hold.funding = 'credit' then
    -- After a refund of the pack, or after it expired, a returned credit counts as revoked or expired.
    update public.credit_packs c set
      credits_used = c.credits_used - 1,
      credits_remaining = c.credits_remaining + case when returned.counts_as = 'remaining' then 1 else 0 end,
      credits_revoked = c.credits_revoked + case when returned.counts_as = 'revoked' then 1 else 0 end,
      credits_expired = c.credits_expired + case when returned.counts_as = 'expired' then 1 else 0 end,
      depleted_at = case when returned.counts_as <> 'remaining' then c.depleted_at end
    from (
      select k.id, case when k.credits_revoked < k.credits_to_revoke then 'revoked'
                        when k.lapsed_at is not null then 'expired'
                        else 'remaining' end as counts_as
      from public.credit_packs k where k.id = p_hold.credit_pack_id) returned
    where c.id = returned.id;
  end if;
end
$$;
comment on function private.return_funding(public.query_holds, numeric, boolean) is
  'Returns the funding of a query to the same day, credit pack or overage period. p_failed_cost_usd: what it has cost '
  'us, if it failed. p_is_settled: its overage was paid or voided, so the user does not owe it. The caller holds the '
  'user lock.';
revoke all on function private.return_funding(public.query_holds, numeric, boolean)
  from public, anon, authenticated, service_role;


create or replace function private.refund_hold(
  p_hold_id uuid, p_outcome text, p_usage jsonb,
  out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_hold public.query_holds;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));

  -- End the query
  select * into v_hold from public.query_holds h where h.id = p_hold_id;
  select e.id, e.outcome, e.charged_usd, e.cost_usd, e.message_id, e.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key
  from private.close_hold(v_hold, private.clock(), p_outcome, p_is_charged => false, p_usage => p_usage,
                          p_conversation_id => null, p_message_id => null) e;

  -- Return the funding, and count what the query has cost us
  perform private.return_funding(v_hold, cost_usd);
  if v_hold.funding <> 'byok' then
    perform private.add_daily_cost(v_hold, cost_usd);
  end if;
end
$$;
comment on function private.refund_hold(uuid, text, jsonb) is
  'Ends a query without a charge and returns its funding to the same day, credit pack or overage period. Returns what '
  'close_hold returns. The caller holds the user lock.';
revoke all on function private.refund_hold(uuid, text, jsonb) from public, anon, authenticated, service_role;


create or replace function private.next_position(p_conversation_id uuid) returns integer
language plpgsql stable set search_path = ''
as $$
begin
  return greatest(
    (select max(m.position) + 1 from public.messages m where m.conversation_id = p_conversation_id),
    (select max(w.position) + 2 from public.pending_turns w where w.conversation_id = p_conversation_id),
    1);
end
$$;
comment on function private.next_position(uuid) is
  'The position after the stored messages and the pending turns of a conversation.';
revoke all on function private.next_position(uuid) from public, anon, authenticated, service_role;


create or replace function private.store_turn(
  p_hold public.query_holds, p_at timestamptz, p_usage jsonb, p_turn jsonb, p_expires_at timestamptz default null,
  out conversation_id uuid, out is_certain boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_chat_id constant text := p_turn ->> 'chat_id';
  v_answer constant jsonb := p_turn -> 'answer';
  v_chat_uuid uuid;
  v_tokens_input constant integer := coalesce((p_usage ->> 'tokens_input')::integer, 0);
  v_tokens_output constant integer := coalesce((p_usage ->> 'tokens_output')::integer, 0);
  v_plan record;
  v_expires_at timestamptz := p_expires_at;
  v_id uuid := p_hold.conversation_id;
  v_position integer := p_hold.position; -- of the question
  v_question_id uuid;
  v_asked_at timestamptz;
  v_replaced integer := 0;
  v_has_pending boolean := false;
begin
  if p_hold.is_replaced then
    return;
  end if;
  if v_expires_at is null then
    -- Read the plan in force, which is the stored one until included_until. Lock the user before the conversation, as
    -- a deletion of the user does.
    select (select p.history_days from public.plans p where p.tier = s.tier) as history_days,
           (select u.id from auth.users u where u.id = s.user_id for key share) as locked_user_id,
           exists (select from public.pending_turns w where w.user_id = s.user_id) as has_pending
    into v_plan
    from public.user_subscriptions s where s.user_id = p_hold.user_id and s.included_until > p_at;
    if not found then
      select s.history_days, (select u.id from auth.users u where u.id = s.user_id for key share) as locked_user_id,
             exists (select from public.pending_turns w where w.user_id = s.user_id) as has_pending
      into v_plan
      from private.current_subscriptions s where s.user_id = p_hold.user_id;
    end if;
    if (v_plan.history_days > 0) is not true then
      return; -- The plan stores no history, or the query has ended.
    end if;
    v_expires_at := p_at + v_plan.history_days * interval '1 day';
    v_has_pending := v_plan.has_pending;
  end if;

  if v_id is null then
    v_chat_uuid := private.conversation_key(v_chat_id);
    v_id := v_chat_uuid;
  end if;

  -- Update the conversation if it is not locked, or create it. The second attempt: another turn created it at the same
  -- time.
  for v_attempt in 1 .. 2 loop
    if v_id is null then
      select c.id into v_id from public.conversations c
      where c.user_id = p_hold.user_id and c.external_id = v_chat_id;
    end if;
    if v_id is not null then
      if v_has_pending then
        perform private.apply_pending_turns(v_id);
        exit when exists (select from public.pending_turns w where w.conversation_id = v_id); -- keep the order
      end if;
      update public.conversations c set
        updated_at = now(), message_count = c.message_count + 2,
        total_tokens = c.total_tokens + v_tokens_input + v_tokens_output,
        expires_at = v_expires_at, last_message_at = p_at
      where c.id = (
        select f.id from public.conversations f
        where f.id = v_id and f.user_id = p_hold.user_id for no key update skip locked)
      returning c.id into conversation_id;
      exit when found or p_hold.conversation_id is not null;
    end if;
    -- The condition: `on conflict` would wait for the lock of an existing row.
    insert into public.conversations (
      id, created_at, user_id, external_id, title, context_type, context_id, context_data, message_count,
      total_tokens, expires_at, last_message_at)
    select
      coalesce(v_chat_uuid, private.time_ordered_id()), p_at, p_hold.user_id,
      case when v_chat_uuid is null then v_chat_id end, p_turn ->> 'title',
      coalesce(p_turn -> 'context' ->> 'type', 'general'), p_turn -> 'context' ->> 'id',
      nullif(p_turn -> 'context' -> 'data', 'null'), 2, v_tokens_input + v_tokens_output, v_expires_at, p_at
    where not exists (select from public.conversations c where c.id = v_id)
    on conflict do nothing
    returning id into conversation_id;
    exit when found;
  end loop;
  if conversation_id is null then
    -- The conversation is locked. Or the user deleted it while the answer ran, or another user used this UUID first,
    -- after admission: then nothing is stored.
    is_certain := private.postpone_turn(p_hold, v_id, p_at, v_expires_at, p_turn);
    return;
  end if;
  is_certain := true;

  -- A repeated question keeps its id and its time. Its answer and what followed when it was repeated are replaced.
  if p_hold.replaces_to is not null then
    select m.id, m.created_at into v_question_id, v_asked_at from public.messages m
    where m.conversation_id = store_turn.conversation_id and m.position = v_position;
    delete from public.messages m
    where m.conversation_id = store_turn.conversation_id and m.position between v_position and p_hold.replaces_to;
    get diagnostics v_replaced = row_count;
    update public.conversations c set message_count = c.message_count - v_replaced
    where c.id = store_turn.conversation_id;
  elsif v_position is null then
    v_position := private.next_position(conversation_id); -- the query was admitted without a chat
  end if;

  -- Store the question and the answer
  insert into public.messages (
    id, created_at, conversation_id, position, role, external_id, content, step_ends, function_calls,
    function_results, finish_reason, tokens_input, tokens_output, tokens_total, provider, model, used_byo_key, cost_usd)
  values
    (coalesce(v_question_id, private.time_ordered_id()), coalesce(v_asked_at, p_hold.created_at), conversation_id,
     v_position, 'user', p_turn -> 'question' ->> 'id', p_turn -> 'question' ->> 'content', null, null, null, null, 0,
     0, 0, null, null, false, 0),
    ((v_answer ->> 'id')::uuid, p_at, conversation_id, v_position + 1, 'assistant', null, v_answer ->> 'content',
     v_answer -> 'step_ends', nullif(v_answer -> 'function_calls', 'null'),
     nullif(v_answer -> 'function_results', 'null'), v_answer ->> 'finish_reason', v_tokens_input, v_tokens_output,
     v_tokens_input + v_tokens_output,
     coalesce(p_usage ->> 'provider', p_hold.provider), coalesce(p_usage ->> 'model', p_hold.model),
     p_hold.funding = 'byok', coalesce((p_usage ->> 'cost_usd')::numeric, 0));
end
$$;
comment on function private.store_turn(public.query_holds, timestamptz, jsonb, jsonb, timestamptz) is
  'Stores a question and its answer in the conversation of the chat id. The first turn creates the conversation. '
  'Returns its id, and whether the turn is certain to be stored. conversation_id null: it is postponed because the '
  'conversation is locked or earlier turns wait; or not stored, because the plan in force stores no history, a later '
  'query replaces it, the conversation was deleted since admission, or the UUID belongs to another user. Waits for no '
  'lock of the conversation. p_expires_at: for a postponed turn, whose plan was read before.';
revoke all on function private.store_turn(public.query_holds, timestamptz, jsonb, jsonb, timestamptz)
  from public, anon, authenticated, service_role;


create or replace function public.settle_query(
  p_hold_id uuid, p_outcome text, p_usage jsonb default '{}', p_turn jsonb default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_hold public.query_holds;
  v_at timestamptz;
  v_stored record;
  v_ended record;
  v_conversation_id uuid;
  v_is_certain boolean;
begin
  if private.is_charged(p_outcome) is not true then
    raise invalid_parameter_value using message = 'p_outcome must be answered or stopped.';
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));

  v_at := private.clock();

  -- Store the turn
  select h.* into v_hold from public.query_holds h where h.id = p_hold_id;
  if p_turn is not null then
    v_stored := private.store_turn(v_hold, v_at, p_usage, p_turn);
    v_conversation_id := v_stored.conversation_id;
    v_is_certain := v_stored.is_certain;
  end if;

  -- Charge
  v_ended := private.close_hold(
    v_hold, v_at, p_outcome, p_is_charged => true, p_usage => p_usage, p_conversation_id => v_conversation_id,
    p_message_id => case when v_conversation_id is not null then (p_turn -> 'answer' ->> 'id')::uuid end);
  if v_ended.id is null then
    v_ended := private.ended_query(p_hold_id);
    v_is_certain := private.is_stored(p_hold_id, v_ended.message_id);
  elsif v_ended.used_byo_key then
    -- The provider has answered with this key. A key that was stored unchecked is therefore valid.
    update public.user_api_keys k set last_validated_at = u.created_at, validation_error = null
    from public.usage_logs u
    where u.id = p_hold_id and k.user_id = u.user_id and k.provider = u.provider and k.is_active
      and k.last_validated_at is null and k.created_at <= u.query_timestamp;
  else
    -- As private.add_daily_cost, inlined because it runs for every query.
    update public.daily_costs c set
      day = v_hold.query_date,
      free_usd = case when c.day = v_hold.query_date then c.free_usd else 0 end
               + case when v_hold.tier = 'free' then v_ended.cost_usd else 0 end,
      total_usd = case when c.day = v_hold.query_date then c.total_usd else 0 end + v_ended.cost_usd
    where c.shard = pg_backend_pid() % 32 and c.day <= v_hold.query_date;
  end if;

  -- Return
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text, 'cost_usd', v_ended.cost_usd::text,
    'persisted', v_is_certain is true);
end
$$;
comment on function public.settle_query(uuid, text, jsonb, jsonb) is
  'Ends a query that is charged. Repeated calls charge once. p_usage: {provider, model, tokens_input, tokens_output, '
  'cache_read_tokens, cache_write_tokens, cost_usd, finish_reason}. p_turn: {chat_id, title, context {type, id, data}, '
  'question {id, content}, answer {id, content, step_ends, function_calls, function_results, finish_reason}}, stored '
  'only if the plan stores history. A turn whose conversation is locked waits in pending_turns: the charge waits for '
  'no user. Returns {outcome, charged_usd, cost_usd, persisted}; persisted: the turn is stored or certain to be. '
  'NOHLD: the query was never admitted.';
revoke all on function public.settle_query(uuid, text, jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.settle_query(uuid, text, jsonb, jsonb) to service_role;


create or replace function public.release_query(
  p_hold_id uuid, p_outcome text default 'failed', p_usage jsonb default '{}', p_user_id uuid default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_ended record;
begin
  -- Check
  if (p_outcome in ('failed', 'lost')) is not true then
    raise invalid_parameter_value using message = 'p_outcome must be failed or lost.';
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0)) where p_user_id is not null;
  perform pg_advisory_xact_lock(uuid_hash_extended(h.user_id, 0)) from public.query_holds h where h.id = p_hold_id;

  -- Write
  v_ended := private.refund_hold(p_hold_id, p_outcome, p_usage);
  if v_ended.id is null and p_user_id is not null
     and not exists (select from public.usage_logs u where u.id = p_hold_id) then
    -- The admission may still be on its way. It will find this refusal and take nothing.
    perform private.record_refusal(p_user_id, p_hold_id::text, null, p_hold_id, 'unavailable')
    where not exists (select from public.query_refusals r where r.id = p_hold_id);
    return jsonb_build_object('outcome', 'failed', 'charged_usd', '0', 'persisted', false);
  elsif v_ended.id is null then
    v_ended := private.ended_query(p_hold_id);
  end if;

  -- Return
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text, 'persisted', v_ended.message_id is not null);
end
$$;
comment on function public.release_query(uuid, text, jsonb, uuid) is
  'Ends a query that is not charged and returns its funding. Repeated calls do it once. p_usage as in settle_query: '
  'our cost. p_user_id is needed if the query may still be waiting for admission: the release then waits behind it, or '
  'an admission that comes later takes nothing. '
  'Returns {outcome, charged_usd, persisted}. NOHLD: the query was never admitted.';
revoke all on function public.release_query(uuid, text, jsonb, uuid) from public, anon, authenticated, service_role;
grant execute on function public.release_query(uuid, text, jsonb, uuid) to service_role;


create or replace function public.release_stale_holds() returns integer
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_at constant timestamptz := private.clock();
  v_stale record;
  v_locked uuid[] := array[]::uuid[];
  v_hold_id uuid;
  v_id uuid;
  v_released integer := 0;
begin
  -- Lock
  -- At most 100 per call, so that no user waits long for a lock. Users whose lock is taken are left to the next call.
  for v_stale in
    select oldest.id, oldest.user_id
    from (select h.id, h.user_id from public.query_holds h where h.expires_at <= v_at
          order by h.expires_at limit 100) oldest
    order by oldest.user_id, oldest.id
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_stale.user_id, 0));
    -- The locks of all holds come before the first row.
    perform pg_advisory_xact_lock(uuid_hash_extended(v_stale.id, 1));
    v_locked := v_locked || v_stale.id;
  end loop;

  -- End the queries
  foreach v_hold_id in array v_locked loop
    v_id := (private.refund_hold(v_hold_id, 'lost', '{}')).id;
    v_released := v_released + case when v_id is not null then 1 else 0 end;
  end loop;
  return v_released;
end
$$;
comment on function public.release_stale_holds() is
  'Returns the funding of expired holds, whose process died: at most 100 per call. Returns how many. Call until 0.';
revoke all on function public.release_stale_holds() from public, anon, authenticated, service_role;
grant execute on function public.release_stale_holds() to service_role;
