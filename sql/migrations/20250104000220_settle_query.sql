-- How a query ends: its hold becomes one row of the ledger, charged or given back. See ..._metering.sql.


create or replace function private.end_query(
  p_hold_id uuid, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid,
  out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_charged constant boolean := p_outcome in ('answered', 'stopped');
begin
  insert into public.usage_logs as u (
    id, created_at, user_id, request_id, conversation_id, message_id, tier, funding, outcome, query_date,
    query_timestamp, period_start, credit_pack_id, quota_used, quota_limit, overage_used, overage_limit, tokens_input,
    tokens_output, cache_read_tokens, cache_write_tokens, cost_usd, provider, model, used_byo_key,
    counted_against_quota, was_overage, overage_charge)
  select
    h.id, private.clock(), h.user_id, h.request_id, p_conversation_id, p_message_id, h.tier, h.funding, p_outcome,
    h.query_date, h.created_at, h.period_start, h.credit_pack_id, h.quota_used, h.quota_limit, h.overage_used,
    h.overage_limit, coalesce((p_usage ->> 'tokens_input')::integer, 0),
    coalesce((p_usage ->> 'tokens_output')::integer, 0), coalesce((p_usage ->> 'cache_read_tokens')::integer, 0),
    coalesce((p_usage ->> 'cache_write_tokens')::integer, 0), coalesce((p_usage ->> 'cost_usd')::numeric, 0),
    coalesce(p_usage ->> 'provider', h.provider), coalesce(p_usage ->> 'model', h.model), h.funding = 'byok',
    v_charged and h.funding = 'included', v_charged and h.funding = 'overage',
    case when v_charged then h.overage_charge else 0 end
  from public.query_holds h where h.id = p_hold_id
  returning u.id, u.outcome, u.overage_charge, u.cost_usd, u.message_id, u.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key;
  delete from public.query_holds h where h.id = p_hold_id;
end
$$;
comment on function private.end_query(uuid, text, jsonb, uuid, uuid) is
  'Turns a hold into its one usage_logs row, and returns of that what matters; id is null where there is no hold. The '
  'hold is locked.';
revoke all on function private.end_query(uuid, text, jsonb, uuid, uuid)
  from public, anon, authenticated, service_role;


create or replace function private.how_it_ended(
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
comment on function private.how_it_ended(uuid) is 'How a query ended, as end_query says it. NOHLD: never admitted.';
revoke all on function private.how_it_ended(uuid) from public, anon, authenticated, service_role;


create or replace function private.give_back(
  p_hold_id uuid, p_outcome text, p_usage jsonb,
  out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_hold public.query_holds;
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));
  select * into v_hold from public.query_holds h where h.id = p_hold_id;
  select e.* into id, outcome, charged_usd, cost_usd, message_id, used_byo_key
  from private.end_query(p_hold_id, p_outcome, p_usage, null, null) e;
  if v_hold.funding = 'included' then
    update public.user_subscriptions s set
      lifetime_used = s.lifetime_used - case when p.lifetime_quota is not null then 1 else 0 end,
      quota_used = s.quota_used
                 - case when p.daily_quota is not null and s.quota_date = v_hold.query_date then 1 else 0 end
    from public.plans p
    where s.user_id = v_hold.user_id and p.tier = v_hold.tier;
  elsif v_hold.funding = 'credit' then
    -- A credit that comes back after a refund or after its pack has lapsed goes where that would have taken it.
    update public.credit_packs c set
      credits_used = c.credits_used - 1,
      credits_remaining = c.credits_remaining + case when back.to = 'remaining' then 1 else 0 end,
      credits_revoked = c.credits_revoked + case when back.to = 'revoked' then 1 else 0 end,
      credits_expired = c.credits_expired + case when back.to = 'expired' then 1 else 0 end,
      depleted_at = case when back.to <> 'remaining' then c.depleted_at end
    from (
      select k.id, case when k.credits_revoked < k.credits_to_revoke then 'revoked'
                        when k.lapsed_at is not null then 'expired'
                        else 'remaining' end as to
      from public.credit_packs k where k.id = v_hold.credit_pack_id) back
    where c.id = back.id;
  elsif v_hold.funding = 'overage' then
    update public.user_subscriptions set current_overage_amount = current_overage_amount - v_hold.overage_charge
    where user_id = v_hold.user_id and overage_period_start = v_hold.period_start;
  end if;
end
$$;
comment on function private.give_back(uuid, text, jsonb) is
  'Ends a query without a charge: the same day''s count, the same pack or the same period''s overage gets it back. '
  'Returns what end_query returns. The user is locked.';
revoke all on function private.give_back(uuid, text, jsonb) from public, anon, authenticated, service_role;


create or replace function private.keep_turn(
  p_hold public.query_holds, p_history_days integer, p_usage jsonb, p_turn jsonb, out conversation_id uuid)
language plpgsql volatile set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_chat_id constant text := p_turn ->> 'chat_id';
  v_key constant uuid := private.conversation_key(v_chat_id);
  v_tokens_input constant integer := coalesce((p_usage ->> 'tokens_input')::integer, 0);
  v_tokens_output constant integer := coalesce((p_usage ->> 'tokens_output')::integer, 0);
  v_count integer;
  v_position integer;
begin
  insert into public.conversations (id, created_at, user_id, external_id, title, context_type, context_id,
                                    context_data, expires_at, last_message_at)
  values (coalesce(v_key, private.time_ordered_id()), v_at, p_hold.user_id,
          case when v_key is null then v_chat_id end, p_turn ->> 'title',
          coalesce(p_turn -> 'context' ->> 'type', 'general'), p_turn -> 'context' ->> 'id',
          nullif(p_turn -> 'context' -> 'data', 'null'), v_at, v_at)
  on conflict do nothing;
  select c.id, c.message_count into conversation_id, v_count from public.conversations c
  where c.user_id = p_hold.user_id and (c.id = v_key or v_key is null and c.external_id = v_chat_id)
  for update;
  if conversation_id is null then
    return; -- Somebody else used this UUID first, since admission: their conversation is not touched.
  end if;

  -- A question that is asked again keeps its place, in the words it has now; what was answered before is replaced.
  select m.position into v_position from public.messages m
  where m.conversation_id = keep_turn.conversation_id and m.role = 'user'
    and m.external_id = p_turn -> 'question' ->> 'id'
  order by m.position desc limit 1;
  if v_position is null then
    v_position := v_count + 1;
    insert into public.messages (created_at, conversation_id, position, role, external_id, content)
    values (p_hold.created_at, conversation_id, v_position, 'user', p_turn -> 'question' ->> 'id',
            p_turn -> 'question' ->> 'content');
  else
    update public.messages m set content = p_turn -> 'question' ->> 'content'
    where m.conversation_id = keep_turn.conversation_id and m.position = v_position
      and m.content <> p_turn -> 'question' ->> 'content';
    delete from public.messages m where m.conversation_id = keep_turn.conversation_id and m.position > v_position;
  end if;
  insert into public.messages (id, created_at, conversation_id, position, role, content, function_calls,
                               function_results, tokens_input, tokens_output, provider, model, used_byo_key, cost_usd)
  values ((p_turn -> 'answer' ->> 'id')::uuid, v_at, conversation_id, v_position + 1, 'assistant',
          p_turn -> 'answer' ->> 'content', nullif(p_turn -> 'answer' -> 'function_calls', 'null'),
          nullif(p_turn -> 'answer' -> 'function_results', 'null'), v_tokens_input, v_tokens_output,
          coalesce(p_usage ->> 'provider', p_hold.provider), coalesce(p_usage ->> 'model', p_hold.model),
          p_hold.funding = 'byok', coalesce((p_usage ->> 'cost_usd')::numeric, 0));
  update public.conversations c set
    message_count = v_position + 1, total_tokens = c.total_tokens + v_tokens_input + v_tokens_output,
    expires_at = v_at + p_history_days * interval '1 day', last_message_at = v_at
  where c.id = conversation_id;
end
$$;
comment on function private.keep_turn(public.query_holds, integer, jsonb, jsonb) is
  'Stores a question and its answer in the conversation of the chat''s id, which the first turn creates.';
revoke all on function private.keep_turn(public.query_holds, integer, jsonb, jsonb)
  from public, anon, authenticated, service_role;


create or replace function public.settle_query(
  p_hold_id uuid, p_outcome text, p_usage jsonb default '{}', p_turn jsonb default null)
returns jsonb
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v_hold public.query_holds;
  v_ended record;
  v_history_days integer;
  v_conversation_id uuid;
begin
  if p_outcome not in ('answered', 'stopped') then
    raise invalid_parameter_value using message = 'A settled query was answered or stopped.';
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));
  if p_turn is not null then
    select * into v_hold from public.query_holds where id = p_hold_id;
    select p.history_days into v_history_days
    from public.user_subscriptions s
    join public.plans p
      on p.tier = coalesce(case when s.current_period_end <= private.clock() then s.next_tier end, s.tier)
    where s.user_id = v_hold.user_id;
    if v_history_days > 0 then
      -- Before the conversation, so that a user's deletion cannot cross us.
      perform from auth.users where id = v_hold.user_id for key share;
      v_conversation_id := private.keep_turn(v_hold, v_history_days, p_usage, p_turn);
    end if;
  end if;
  v_ended := private.end_query(
    p_hold_id, p_outcome, p_usage, v_conversation_id,
    case when v_conversation_id is not null then (p_turn -> 'answer' ->> 'id')::uuid end);
  if v_ended.id is null then
    v_ended := private.how_it_ended(p_hold_id);
  elsif v_ended.used_byo_key then
    -- The provider has answered to it, so a key that could not be checked when it was stored is valid.
    update public.user_api_keys k set last_validated_at = u.created_at, validation_error = null
    from public.usage_logs u
    where u.id = p_hold_id and k.user_id = u.user_id and k.provider = u.provider and k.is_active
      and k.last_validated_at is null and k.created_at <= u.query_timestamp;
  end if;
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text, 'cost_usd', v_ended.cost_usd::text,
    'persisted', v_ended.message_id is not null);
end
$$;
comment on function public.settle_query(uuid, text, jsonb, jsonb) is
  'Ends a query that is charged, once however often it is called. p_usage: provider, model, tokens_input, '
  'tokens_output, cache_read_tokens, cache_write_tokens, cost_usd. p_turn: chat_id, title, context {type, id, data}, '
  'question {id, content}, answer {id, content, function_calls, function_results}; kept only where the plan keeps history. NOHLD: never admitted.';
revoke all on function public.settle_query(uuid, text, jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.settle_query(uuid, text, jsonb, jsonb) to service_role;


create or replace function public.release_query(
  p_hold_id uuid, p_outcome text default 'failed', p_usage jsonb default '{}', p_user_id uuid default null)
returns jsonb
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v_ended record;
begin
  if p_outcome not in ('failed', 'lost') then
    raise invalid_parameter_value using message = 'A released query failed or was lost.';
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0)) where p_user_id is not null;
  perform pg_advisory_xact_lock(uuid_hash_extended(h.user_id, 0)) from public.query_holds h where h.id = p_hold_id;
  v_ended := private.give_back(p_hold_id, p_outcome, p_usage);
  if v_ended.id is null then
    v_ended := private.how_it_ended(p_hold_id);
  end if;
  return jsonb_build_object('outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text);
end
$$;
comment on function public.release_query(uuid, text, jsonb, uuid) is
  'Ends a query that is not charged and gives its funding back, once however often it is called. p_usage as in '
  'settle_query: our cost. p_user_id, where the query may still be waiting to be admitted: behind it in the user''s '
  'queue. NOHLD: never admitted.';
revoke all on function public.release_query(uuid, text, jsonb, uuid) from public, anon, authenticated, service_role;
grant execute on function public.release_query(uuid, text, jsonb, uuid) to service_role;


create or replace function public.release_stale_holds() returns integer
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v_at constant timestamptz := private.clock();
  v_stale record;
  v_ended record;
  v_released integer := 0;
begin
  -- At most 100 a call, so that no user waits long for a lock. Whoever is being served right now is left to the next.
  for v_stale in
    select oldest.id, oldest.user_id
    from (select h.id, h.user_id from public.query_holds h where h.expires_at <= v_at
          order by h.expires_at limit 100) oldest
    order by oldest.user_id, oldest.id
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_stale.user_id, 0));
    v_ended := private.give_back(v_stale.id, 'lost', '{}');
    v_released := v_released + case when v_ended.id is not null then 1 else 0 end;
  end loop;
  return v_released;
end
$$;
comment on function public.release_stale_holds() is
  'Gives back the funding of queries whose process died, at most 100 a call; returns how many. Call it until 0.';
revoke all on function public.release_stale_holds() from public, anon, authenticated, service_role;
grant execute on function public.release_stale_holds() to service_role;


create or replace function public.track_query_usage(
  p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer,
  p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id constant uuid := private.time_ordered_id();
  v_admission jsonb;
begin
  if not exists (select from public.conversations where id = p_conversation_id and user_id = p_user_id)
     and p_conversation_id is not null
     or not exists (select from public.messages where id = p_message_id and conversation_id = p_conversation_id)
     and p_message_id is not null then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation or message.';
  end if;
  v_admission := public.admit_query(
    p_user_id, 'track:' || coalesce(p_message_id, v_id)::text, v_id, p_own_key => coalesce(p_used_byo_key, false),
    p_provider => case when p_used_byo_key then p_provider end);
  if v_admission ->> 'decision' = 'ended' then
    return;
  elsif v_admission ->> 'decision' <> 'admitted' then
    raise exception using errcode = 'QUOTA', message = v_admission ->> 'reason';
  end if;
  perform private.end_query(
    v_id, 'answered',
    jsonb_build_object('provider', p_provider, 'model', p_model, 'tokens_input', p_tokens_input,
                       'tokens_output', p_tokens_output, 'cost_usd', p_cost_usd),
    p_conversation_id, p_message_id);
end
$$;
comment on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric) is
  'Admits and settles one query in one call, by the same rules as the chat; once for each message. QUOTA: refused, '
  'the message says why. NTFND: not the user''s conversation or message.';
revoke all on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric)
  from public, anon, authenticated, service_role;
grant execute on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric)
  to service_role;
