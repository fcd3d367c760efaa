-- How a query begins: the funding is taken and a hold is left, or the refusal is recorded. See ..._metering.sql.


create or replace function private.record_refusal(p_refusal public.query_refusals) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- Nobody waits for the disk to hear no. What a crash could forget here is only the record.
  perform set_config('synchronous_commit', 'off', true);
  insert into public.query_refusals values (p_refusal.*)
  on conflict (user_id, request_id) do update set
    created_at = excluded.created_at, reason = excluded.reason, requires_payment = excluded.requires_payment,
    resets_at = excluded.resets_at, tier = excluded.tier, quota_used = excluded.quota_used,
    quota_limit = excluded.quota_limit, overage_used = excluded.overage_used, overage_limit = excluded.overage_limit;
  delete from public.query_refusals r
  where r.id in (
    select oldest.id from public.query_refusals oldest where oldest.user_id = p_refusal.user_id
    order by oldest.created_at desc, oldest.id offset 50);
end
$$;
comment on function private.record_refusal(public.query_refusals) is
  'Records why a query was refused, the newest fifty of a user. The user is locked.';
revoke all on function private.record_refusal(public.query_refusals) from public, anon, authenticated, service_role;


create or replace function private.reason_of(p_funding text, p_tier text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case p_funding
    when 'byok' then 'Unlimited (BYOK)'
    when 'included' then case p_tier when 'free' then 'Within free tier quota' else 'Within daily quota' end
    when 'credit' then 'Credits available'
    when 'overage' then 'Overage allowed'
  end;
end
$$;
comment on function private.reason_of(text, text) is 'The reason that admission gave for a funding, in its own words.';
revoke all on function private.reason_of(text, text) from public, anon, authenticated, service_role;
grant execute on function private.reason_of(text, text) to authenticated, service_role;


create or replace function private.admission(
  p_subscription public.user_subscriptions, p_plan public.plans, p_hold public.query_holds, p_at timestamptz)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_remaining integer;
  v_resets_at timestamptz;
begin
  if p_hold.funding = 'included' then
    v_remaining := greatest(0, case
      when p_plan.lifetime_quota is not null
        then coalesce(p_subscription.lifetime_quota, p_plan.lifetime_quota) - p_subscription.lifetime_used
      else coalesce(p_subscription.daily_quota, p_plan.daily_quota) - p_subscription.quota_used end);
    if p_plan.lifetime_quota is null then
      v_resets_at := (p_hold.query_date + 1)::timestamp at time zone 'UTC';
    end if;
  elsif p_hold.funding = 'credit' then
    v_remaining := (
      select sum(c.credits_remaining) from public.credit_packs c
      where c.user_id = p_hold.user_id and (c.expires_at > p_at or c.expires_at is null));
  elsif p_hold.funding = 'overage' then
    v_remaining := floor(
      (coalesce(p_subscription.overage_limit, p_plan.overage_limit_usd) - p_subscription.current_overage_amount)
      / p_plan.overage_price_usd);
    v_resets_at := (private.period_at(p_subscription.current_period_start, p_at)).period_end;
  end if;
  return jsonb_build_object(
    'decision', 'admitted', 'reason', private.reason_of(p_hold.funding, p_hold.tier), 'funding', p_hold.funding,
    'tier', p_hold.tier, 'provider', p_hold.provider, 'model', p_hold.model,
    'keeps_history', p_plan.history_days > 0, 'remaining', v_remaining, 'resets_at', v_resets_at);
end
$$;
comment on function private.admission(public.user_subscriptions, public.plans, public.query_holds, timestamptz) is
  'What an admitted query is told: what pays, who answers, how many more the same funding has, and when it starts anew.';
revoke all on function private.admission(public.user_subscriptions, public.plans, public.query_holds, timestamptz)
  from public, anon, authenticated, service_role;


create or replace function private.take(
  p_user_id uuid, p_request_id text, p_hold_id uuid, p_provider text, p_model text, p_byok boolean,
  p_any_model boolean, p_hold_seconds integer)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_at timestamptz;
  v_seen record;
  v_subscription public.user_subscriptions;
  v_was public.user_subscriptions;
  v_plan public.plans;
  v_key_provider text;
  v_pack_id uuid;
  v_decision record;
  v_hold public.query_holds;
  v_quota_used integer;
  v_quota_limit integer;
  v_overage_limit numeric;
begin
  perform private.lock_user(p_user_id);
  v_at := private.clock();

  select
    (select h.id from public.query_holds h where h.user_id = p_user_id and h.request_id = p_request_id) as hold_id,
    (select u.id from public.usage_logs u
     where u.user_id = p_user_id and u.request_id = p_request_id and u.outcome in ('answered', 'stopped')) as ended_id,
    exists (select from public.query_holds h
            where h.user_id = p_user_id and h.expires_at <= v_at and h.id <> p_hold_id) as has_lost
  into v_seen;
  if v_seen.ended_id is not null then
    return jsonb_build_object('decision', 'ended', 'query_id', v_seen.ended_id);
  end if;
  if v_seen.has_lost then
    -- Lost queries that the sweep has not met yet give back before anything is refused.
    for v_hold in
      select * from public.query_holds h
      where h.user_id = p_user_id and h.expires_at <= v_at and h.id <> p_hold_id for update
    loop
      perform private.give_back(v_hold, 'lost', '{}');
      if v_hold.id = v_seen.hold_id then
        v_seen.hold_id := null;
      end if;
    end loop;
  end if;
  if v_seen.hold_id <> p_hold_id then
    return jsonb_build_object('decision', 'in_progress');
  end if;

  select * into v_was from public.user_subscriptions s where s.user_id = p_user_id;
  if v_was.id is null then
    select * into v_decision from private.decide(v_was, null, false, false, v_at);
    return jsonb_build_object(
      'decision', 'refused', 'reason', v_decision.reason, 'requires_payment', v_decision.requires_payment,
      'resets_at', v_decision.resets_at);
  end if;
  v_subscription := private.as_of(v_was, v_at);
  select * into v_plan from public.plans p where p.tier = v_subscription.tier;

  if v_seen.hold_id is not null then
    select * into v_hold from public.query_holds h where h.id = p_hold_id;
    return private.admission(v_subscription, v_plan, v_hold, v_at);
  end if;

  if v_plan.allows_byok and p_byok is distinct from false then
    v_key_provider := private.key_provider(p_user_id, p_provider);
  end if;
  if p_byok and v_key_provider is null then
    raise invalid_parameter_value using message = 'The user has no active key of their own that the plan allows.';
  end if;
  select * into v_decision
  from private.decide(v_subscription, v_plan, v_key_provider is not null, false, v_at);
  if v_plan.allows_credits and (v_decision.funding is null or v_decision.funding = 'overage') then
    -- Packs are only looked for where nothing else pays for the query.
    v_pack_id := private.next_credit_pack(p_user_id, v_at);
    if v_pack_id is not null then
      select * into v_decision from private.decide(v_subscription, v_plan, false, true, v_at);
    end if;
  end if;

  if v_plan.lifetime_quota is not null then
    v_quota_used := v_subscription.lifetime_used;
    v_quota_limit := coalesce(v_subscription.lifetime_quota, v_plan.lifetime_quota);
  else
    v_quota_used := v_subscription.quota_used;
    v_quota_limit := coalesce(v_subscription.daily_quota, v_plan.daily_quota);
  end if;
  if v_plan.overage_price_usd is not null then
    v_overage_limit := coalesce(v_subscription.overage_limit, v_plan.overage_limit_usd);
  end if;
  if v_decision.funding is null then
    perform private.record_refusal(row(
      p_hold_id, v_at, p_user_id, p_request_id, v_decision.reason, v_decision.requires_payment, v_decision.resets_at,
      v_plan.tier, v_quota_used, v_quota_limit, v_subscription.current_overage_amount, v_overage_limit));
    return jsonb_build_object(
      'decision', 'refused', 'reason', v_decision.reason, 'requires_payment', v_decision.requires_payment,
      'resets_at', v_decision.resets_at);
  end if;

  v_hold.id := p_hold_id;
  v_hold.created_at := v_at;
  v_hold.user_id := p_user_id;
  v_hold.request_id := p_request_id;
  v_hold.tier := v_plan.tier;
  v_hold.funding := v_decision.funding;
  v_hold.query_date := v_subscription.quota_date;
  v_hold.credit_pack_id := case when v_decision.funding = 'credit' then v_pack_id end;
  v_hold.overage_charge := case when v_decision.funding = 'overage' then v_plan.overage_price_usd else 0 end;
  v_hold.period_start := v_subscription.overage_period_start;
  v_hold.quota_used := v_quota_used;
  v_hold.quota_limit := v_quota_limit;
  v_hold.overage_used := v_subscription.current_overage_amount;
  v_hold.overage_limit := v_overage_limit;
  v_hold.provider := coalesce(p_provider, v_key_provider, 'anthropic');
  v_hold.model := coalesce(p_model, v_plan.models -> v_hold.provider ->> 0);
  v_hold.expires_at := v_at + make_interval(secs => p_hold_seconds);
  if not p_any_model and not v_plan.models -> v_hold.provider ? v_hold.model then
    raise exception using errcode = 'NOMDL', message = format(
      'The %s plan answers with these models of %s: %s.', v_plan.name, v_hold.provider,
      (select string_agg(m, ', ') from jsonb_array_elements_text(v_plan.models -> v_hold.provider) m));
  end if;
  insert into public.query_holds values (v_hold.*);

  if v_hold.funding = 'included' then
    if v_plan.lifetime_quota is not null then
      v_subscription.lifetime_used := v_subscription.lifetime_used + 1;
    else
      v_subscription.quota_used := v_subscription.quota_used + 1;
    end if;
  elsif v_hold.funding = 'credit' then
    update public.credit_packs c set
      credits_remaining = c.credits_remaining - 1, credits_used = c.credits_used + 1,
      depleted_at = case when c.credits_remaining = 1 then v_at end
    where c.id = v_pack_id;
  elsif v_hold.funding = 'overage' then
    v_subscription.current_overage_amount := v_subscription.current_overage_amount + v_hold.overage_charge;
  end if;
  if v_subscription.tier <> v_was.tier then
    -- A cancelled plan whose period is over, unless a webhook has renewed it since we looked.
    update public.user_subscriptions s set
      tier = v_subscription.tier, status = v_subscription.status, stripe_subscription_id = null,
      current_period_start = null, current_period_end = null
    where s.id = v_subscription.id and s.status = v_was.status and s.current_period_end = v_was.current_period_end;
  end if;
  update public.user_subscriptions s set
    quota_date = v_subscription.quota_date, quota_used = v_subscription.quota_used,
    lifetime_used = v_subscription.lifetime_used, overage_period_start = v_subscription.overage_period_start,
    current_overage_amount = v_subscription.current_overage_amount
  where s.id = v_subscription.id;
  return private.admission(v_subscription, v_plan, v_hold, v_at);
end
$$;
comment on function private.take(uuid, text, uuid, text, text, boolean, boolean, integer) is
  'Admits one query: decides under the user''s lock, takes the funding and leaves the hold. decision is admitted, '
  'refused, in_progress (another attempt at the same request runs) or ended (the request was charged already).';
revoke all on function private.take(uuid, text, uuid, text, text, boolean, boolean, integer)
  from public, anon, authenticated, service_role;


create or replace function private.conversation_key(p_chat_id text) returns uuid
language sql immutable set search_path = ''
as $$
  select case when p_chat_id ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_chat_id::uuid end
$$;
comment on function private.conversation_key(text) is
  'A chat''s id as the id of its conversation; null where it is not a UUID but the user''s own name for one.';
revoke all on function private.conversation_key(text) from public, anon, authenticated, service_role;


create or replace function private.find_conversation(p_user_id uuid, p_chat_id text) returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  v_key constant uuid := private.conversation_key(p_chat_id);
  v_owner uuid;
  v_id uuid;
begin
  if v_key is null then
    select id into v_id from public.conversations where user_id = p_user_id and external_id = p_chat_id;
    return v_id;
  end if;
  select id, user_id into v_id, v_owner from public.conversations where id = v_key;
  if v_owner <> p_user_id then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.';
  end if;
  return v_id;
end
$$;
comment on function private.find_conversation(uuid, text) is
  'A user''s conversation by the chat''s id, null where it is new. NTFND where it is somebody else''s.';
revoke all on function private.find_conversation(uuid, text) from public, anon, authenticated, service_role;


create or replace function public.admit_query(
  p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text default null, p_question_id text default null,
  p_provider text default null, p_model text default null, p_hold_seconds integer default 300,
  p_history_messages integer default 40)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_conversation_id uuid;
  v_before integer;
  v_history jsonb;
  v_taken jsonb;
begin
  if p_hold_seconds not between 1 and 3600 or p_history_messages not between 0 and 200 then
    raise invalid_parameter_value using message = 'p_hold_seconds is 1 to 3600, p_history_messages 0 to 200.';
  end if;
  if p_chat_id is not null then
    v_conversation_id := private.find_conversation(p_user_id, p_chat_id);
  end if;

  v_taken := private.take(p_user_id, p_request_id, p_hold_id, p_provider, p_model, null, false, p_hold_seconds);

  if v_taken ->> 'decision' = 'ended' then
    return (
      select jsonb_build_object(
        'decision', 'ended',
        'answer', case when m.id is not null then jsonb_build_object('id', m.id, 'content', m.content) end,
        'provider', u.provider, 'model', u.model, 'funding', u.funding,
        'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output,
        'cache_read_tokens', u.cache_read_tokens, 'cache_write_tokens', u.cache_write_tokens,
        'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text)
      from public.usage_logs u left join public.messages m on m.id = u.message_id
      where u.id = (v_taken ->> 'query_id')::uuid);
  end if;
  if v_conversation_id is null or not coalesce((v_taken -> 'keeps_history')::boolean, false) then
    return v_taken || '{"history": []}';
  end if;

  -- Asked again, a question is answered from what came before it.
  select m.position into v_before from public.messages m
  where m.conversation_id = v_conversation_id and m.role = 'user' and m.external_id = p_question_id
  order by m.position desc limit 1;
  select jsonb_agg(jsonb_build_object('role', newest.role, 'content', newest.content) order by newest.position)
  into v_history
  from (
    select m.role, m.content, m.position from public.messages m
    where m.conversation_id = v_conversation_id and (v_before is null or m.position < v_before)
    order by m.position desc limit p_history_messages
  ) newest;
  return v_taken || jsonb_build_object('history', coalesce(v_history, '[]'));
end
$$;
comment on function public.admit_query(uuid, text, uuid, text, text, text, text, integer, integer) is
  'Admits one query and returns all that the turn needs: decision, funding, model, recent history. Sent again with '
  'the same hold id it returns the same hold, so a lost response can be asked for again. NTFND: somebody else''s '
  'conversation; NOMDL: a model the plan does not have.';
revoke all on function public.admit_query(uuid, text, uuid, text, text, text, text, integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.admit_query(uuid, text, uuid, text, text, text, text, integer, integer) to service_role;
