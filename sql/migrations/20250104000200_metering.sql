-- Metering: who may ask, what pays for it, and how a query ends.
--
-- admit_query takes the funding and leaves a hold; settle_query (answered, stopped) or release_query (failed, lost)
-- ends the hold with exactly one usage_logs row, whose id is the hold's. A failed or lost query gives its funding
-- back where it came from.
-- A user's metering is one queue, private.lock_user: counters and credit packs are only changed by who holds that lock.
-- Locks are taken in one order, so no two functions can wait for each other: the user's queue, auth.users (key share),
-- query_holds, user_subscriptions, credit_packs, conversations.
-- What runs for every query is written in few statements and calls few functions: each costs as much as the disk.


create or replace function private.clock() returns timestamptz
language plpgsql volatile set search_path = ''
as $$
begin
  -- Not now(): a transaction that waited for a lock past midnight has to see the new day.
  return coalesce(nullif(current_setting('metering.now', true), '')::timestamptz, clock_timestamp());
end
$$;
comment on function private.clock() is
  'The time that metering goes by. The setting metering.now moves it, for tests; no API request can set it.';
revoke all on function private.clock() from public, anon, authenticated, service_role;
grant execute on function private.clock() to authenticated, service_role;


create or replace function private.period_at(
  p_anchor timestamptz, p_at timestamptz, out period_start timestamptz, out period_end timestamptz)
language plpgsql immutable set search_path = ''
as $$
declare
  v_anchor timestamp := p_anchor at time zone 'UTC';
  v_at timestamp := p_at at time zone 'UTC';
  v_months integer;
begin
  if p_anchor is null then
    v_anchor := date_trunc('month', v_at);
  end if;
  v_months := (extract(year from v_at) - extract(year from v_anchor)) * 12
            + extract(month from v_at) - extract(month from v_anchor);
  -- Always counted from the anchor: a period that starts on the 31st returns to it after a shorter month.
  if v_anchor + v_months * interval '1 month' > v_at then
    v_months := v_months - 1;
  end if;
  period_start := (v_anchor + v_months * interval '1 month') at time zone 'UTC';
  period_end := (v_anchor + (v_months + 1) * interval '1 month') at time zone 'UTC';
end
$$;
comment on function private.period_at(timestamptz, timestamptz) is
  'The monthly period that holds a time, counted from an anchor; without one, the calendar month, UTC.';
revoke all on function private.period_at(timestamptz, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.period_at(timestamptz, timestamptz) to authenticated, service_role;


create or replace function private.as_of(p_subscription public.user_subscriptions, p_at timestamptz)
returns public.user_subscriptions
language plpgsql immutable set search_path = ''
as $$
declare
  v_day date := (p_at at time zone 'UTC')::date;
  v_period_start timestamptz;
begin
  if p_subscription.status = 'canceled' and p_subscription.current_period_end <= p_at then
    p_subscription.tier := 'free';
    p_subscription.status := 'active';
    p_subscription.stripe_subscription_id := null;
    p_subscription.current_period_start := null;
    p_subscription.current_period_end := null;
  end if;
  -- Only ever forward: two transactions that straddle midnight must not reset each other's count.
  if v_day > p_subscription.quota_date then
    p_subscription.quota_date := v_day;
    p_subscription.quota_used := 0;
  end if;
  if p_subscription.current_period_start is null then
    v_period_start := date_trunc('month', p_at, 'UTC');
  elsif p_at >= p_subscription.current_period_start and p_at < p_subscription.current_period_end then
    v_period_start := p_subscription.current_period_start;
  else
    v_period_start := (private.period_at(p_subscription.current_period_start, p_at)).period_start;
  end if;
  if v_period_start > p_subscription.overage_period_start then
    p_subscription.overage_period_start := v_period_start;
    p_subscription.current_overage_amount := 0;
  end if;
  return p_subscription;
end
$$;
comment on function private.as_of(public.user_subscriptions, timestamptz) is
  'A subscription as it is at a time: a cancelled plan whose period is over is free, a new day or period counts from 0.';
revoke all on function private.as_of(public.user_subscriptions, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.as_of(public.user_subscriptions, timestamptz) to authenticated, service_role;


create or replace function private.decide(
  p_subscription public.user_subscriptions, p_plan public.plans, p_has_key boolean, p_has_credit boolean,
  p_at timestamptz, out funding text, out reason text, out requires_payment boolean, out resets_at timestamptz)
language plpgsql immutable set search_path = ''
as $$
declare
  v_midnight constant timestamptz :=
    (((p_at at time zone 'UTC')::date + 1)::timestamp) at time zone 'UTC';
  v_overage_limit constant numeric := coalesce(p_subscription.overage_limit, p_plan.overage_limit_usd);
  v_daily_quota constant integer := coalesce(p_subscription.daily_quota, p_plan.daily_quota);
begin
  requires_payment := false;

  if p_subscription.id is null then
    reason := 'No subscription found';
    requires_payment := true;
    return;
  end if;

  -- A cancelled plan runs to the end of its period; a failed invoice leaves seven days of what is already paid.
  -- `is not true`: a period that is not known (null) refuses.
  if (
    p_subscription.status = 'active'
    or p_subscription.status = 'canceled' and p_subscription.current_period_end > p_at
    or p_subscription.status = 'past_due' and p_subscription.past_due_since + interval '7 days' > p_at
  ) is not true then
    reason := 'Subscription not active: ' || p_subscription.status;
    requires_payment := true;
    return;
  end if;

  if p_plan.allows_byok and p_has_key then
    funding := 'byok';
    reason := 'Unlimited (BYOK)';
    return;
  end if;

  if p_plan.lifetime_quota is not null then
    if p_subscription.lifetime_used < coalesce(p_subscription.lifetime_quota, p_plan.lifetime_quota) then
      funding := 'included';
      reason := 'Within free tier quota';
      return;
    end if;
  elsif p_subscription.quota_used < v_daily_quota then
    funding := 'included';
    reason := 'Within daily quota';
    resets_at := v_midnight;
    return;
  end if;

  if p_plan.allows_credits and p_has_credit then
    funding := 'credit';
    reason := 'Credits available';
    return;
  end if;

  if p_plan.lifetime_quota is not null then
    reason := 'Free tier quota exhausted';
    requires_payment := true;
    return;
  end if;

  resets_at := v_midnight;
  -- Overage is only sold where there is a live subscription to invoice it on.
  if p_plan.overage_price_usd is not null and p_subscription.allow_overages
     and p_subscription.stripe_subscription_id is not null and p_subscription.status = 'active' then
    if p_subscription.current_overage_amount + p_plan.overage_price_usd <= v_overage_limit then
      funding := 'overage';
      reason := 'Overage allowed';
      requires_payment := true;
      resets_at := (private.period_at(p_subscription.current_period_start, p_at)).period_end;
      return;
    end if;
    reason := 'Overage limit reached';
    resets_at := (private.period_at(p_subscription.current_period_start, p_at)).period_end;
    if v_daily_quota > 0 then
      resets_at := least(resets_at, v_midnight);
    end if;
    return;
  end if;

  reason := 'Daily quota exceeded';
end
$$;
comment on function private.decide(public.user_subscriptions, public.plans, boolean, boolean, timestamptz) is
  'What pays for the next query of a subscription (as_of the same time), or why nothing does: the one place that says so.';
revoke all on function private.decide(public.user_subscriptions, public.plans, boolean, boolean, timestamptz)
  from public, anon, authenticated, service_role;
grant execute on function private.decide(public.user_subscriptions, public.plans, boolean, boolean, timestamptz)
  to authenticated, service_role;


create or replace function private.key_provider(p_user_id uuid, p_provider text) returns text
language plpgsql stable set search_path = ''
as $$
begin
  -- 'anthropic' sorts before 'openai', which is the order of preference.
  return (
    select min(k.provider) from public.user_api_keys k
    where k.user_id = p_user_id and k.is_active and (p_provider is null or k.provider = p_provider));
end
$$;
comment on function private.key_provider(uuid, text) is
  'The provider whose active key of the user''s own would be used; null where there is none.';
revoke all on function private.key_provider(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.key_provider(uuid, text) to authenticated, service_role;


create or replace function private.next_credit_pack(p_user_id uuid, p_at timestamptz) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select c.id from public.credit_packs c
    where c.user_id = p_user_id and c.credits_remaining > 0 and (c.expires_at > p_at or c.expires_at is null)
    order by c.expires_at nulls last, c.created_at, c.id limit 1);
end
$$;
comment on function private.next_credit_pack(uuid, timestamptz) is
  'The pack that pays next: the soonest to expire, the oldest among equals; null where there is none.';
revoke all on function private.next_credit_pack(uuid, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.next_credit_pack(uuid, timestamptz) to authenticated, service_role;


create or replace function public.can_user_query(p_user_id uuid)
returns table (can_query boolean, reason text, requires_payment boolean)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_subscription public.user_subscriptions;
  v_plan public.plans;
  v_decision record;
begin
  if current_user = 'authenticated' and p_user_id is distinct from (select auth.uid()) then
    raise insufficient_privilege using message = 'You may only ask about yourself.';
  end if;
  select * into v_subscription from public.user_subscriptions s where s.user_id = p_user_id;
  if v_subscription.id is not null then
    v_subscription := private.as_of(v_subscription, v_at);
  end if;
  select * into v_plan from public.plans p where p.tier = v_subscription.tier;
  select * into v_decision from private.decide(
    v_subscription, v_plan, private.key_provider(p_user_id, null) is not null,
    private.next_credit_pack(p_user_id, v_at) is not null, v_at);
  return query select v_decision.funding is not null, v_decision.reason, v_decision.requires_payment;
end
$$;
comment on function public.can_user_query(uuid) is
  'Whether a user''s next query would be admitted now, why, and whether it costs money or paying would help. Changes nothing.';
revoke all on function public.can_user_query(uuid) from public, anon, authenticated, service_role;
grant execute on function public.can_user_query(uuid) to authenticated, service_role;


create or replace function private.end_query(
  p_hold public.query_holds, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid)
returns public.usage_logs
language plpgsql volatile set search_path = ''
as $$
declare
  v_charged constant boolean := p_outcome in ('answered', 'stopped');
  v_ended public.usage_logs;
begin
  insert into public.usage_logs (
    id, created_at, user_id, request_id, conversation_id, message_id, tier, funding, outcome, query_date,
    query_timestamp, period_start, credit_pack_id, quota_used, quota_limit, overage_used, overage_limit, tokens_input,
    tokens_output, cache_read_tokens, cache_write_tokens, cost_usd, provider, model, used_byo_key,
    counted_against_quota, was_overage, overage_charge)
  values (
    p_hold.id, private.clock(), p_hold.user_id, p_hold.request_id, p_conversation_id, p_message_id, p_hold.tier,
    p_hold.funding, p_outcome, p_hold.query_date, p_hold.created_at, p_hold.period_start, p_hold.credit_pack_id,
    p_hold.quota_used, p_hold.quota_limit, p_hold.overage_used, p_hold.overage_limit,
    coalesce((p_usage ->> 'tokens_input')::integer, 0), coalesce((p_usage ->> 'tokens_output')::integer, 0),
    coalesce((p_usage ->> 'cache_read_tokens')::integer, 0), coalesce((p_usage ->> 'cache_write_tokens')::integer, 0),
    coalesce((p_usage ->> 'cost_usd')::numeric, 0), coalesce(p_usage ->> 'provider', p_hold.provider),
    coalesce(p_usage ->> 'model', p_hold.model), p_hold.funding = 'byok', v_charged and p_hold.funding = 'included',
    v_charged and p_hold.funding = 'overage', case when v_charged then p_hold.overage_charge else 0 end)
  returning * into v_ended;
  delete from public.query_holds where id = p_hold.id;
  return v_ended;
end
$$;
comment on function private.end_query(public.query_holds, text, jsonb, uuid, uuid) is
  'Turns a locked hold into its one usage_logs row.';
revoke all on function private.end_query(public.query_holds, text, jsonb, uuid, uuid)
  from public, anon, authenticated, service_role;


create or replace function private.give_back(p_hold public.query_holds, p_outcome text, p_usage jsonb)
returns public.usage_logs
language plpgsql volatile set search_path = ''
as $$
begin
  if p_hold.funding = 'included' then
    update public.user_subscriptions s set
      lifetime_used = s.lifetime_used - case when p.lifetime_quota is not null then 1 else 0 end,
      quota_used = s.quota_used
                 - case when p.daily_quota is not null and s.quota_date = p_hold.query_date then 1 else 0 end
    from public.plans p
    where s.user_id = p_hold.user_id and p.tier = p_hold.tier;
  elsif p_hold.funding = 'credit' then
    update public.credit_packs set
      credits_remaining = credits_remaining + 1, credits_used = credits_used - 1, depleted_at = null
    where id = p_hold.credit_pack_id;
  elsif p_hold.funding = 'overage' then
    update public.user_subscriptions set current_overage_amount = current_overage_amount - p_hold.overage_charge
    where user_id = p_hold.user_id and overage_period_start = p_hold.period_start;
  end if;
  return private.end_query(p_hold, p_outcome, p_usage, null, null);
end
$$;
comment on function private.give_back(public.query_holds, text, jsonb) is
  'Ends a hold without a charge: the same day''s count, the same pack or the same period''s overage gets it back. '
  'The user and the hold are locked.';
revoke all on function private.give_back(public.query_holds, text, jsonb)
  from public, anon, authenticated, service_role;


create or replace function private.lock_user(p_user_id uuid) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- A queue of its own, not the row's: waiting for a row that changes is slower, and its longest waits ten times longer.
  perform pg_advisory_xact_lock(hashtextextended(p_user_id::text, 0));
  -- What every foreign key to auth.users would lock later: taken first, a user's deletion cannot cross us.
  perform from auth.users where id = p_user_id for key share;
end
$$;
comment on function private.lock_user(uuid) is
  'Waits for, and until the transaction''s end keeps, the right to change a user''s counters, holds and credit packs.';
revoke all on function private.lock_user(uuid) from public, anon, authenticated, service_role;


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

  -- A question that is asked again keeps its place; what was answered to it before is replaced.
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
    delete from public.messages m where m.conversation_id = keep_turn.conversation_id and m.position > v_position;
  end if;
  insert into public.messages (id, created_at, conversation_id, position, role, content, tokens_input, tokens_output,
                               provider, model, used_byo_key, cost_usd)
  values ((p_turn -> 'answer' ->> 'id')::uuid, v_at, conversation_id, v_position + 1, 'assistant',
          p_turn -> 'answer' ->> 'content', v_tokens_input, v_tokens_output,
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
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold public.query_holds;
  v_ended public.usage_logs;
  v_history_days integer;
  v_conversation_id uuid;
begin
  if p_outcome not in ('answered', 'stopped') then
    raise invalid_parameter_value using message = 'A settled query was answered or stopped.';
  end if;
  -- auth.users first: see the order of locks above.
  perform from auth.users u where u.id = (select h.user_id from public.query_holds h where h.id = p_hold_id)
  for key share;
  select * into v_hold from public.query_holds where id = p_hold_id for update;
  if v_hold.id is null then
    select * into v_ended from public.usage_logs where id = p_hold_id;
    if v_ended.id is null then
      raise exception using errcode = 'NOHLD', message = 'There is no such query.';
    end if;
  else
    if p_turn is not null then
      select p.history_days into v_history_days
      from public.user_subscriptions s join public.plans p on p.tier = s.tier where s.user_id = v_hold.user_id;
      if v_history_days > 0 then
        v_conversation_id := private.keep_turn(v_hold, v_history_days, p_usage, p_turn);
      end if;
    end if;
    v_ended := private.end_query(
      v_hold, p_outcome, p_usage, v_conversation_id,
      case when v_conversation_id is not null then (p_turn -> 'answer' ->> 'id')::uuid end);
  end if;
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.overage_charge::text, 'cost_usd', v_ended.cost_usd::text,
    'persisted', v_ended.message_id is not null);
end
$$;
comment on function public.settle_query(uuid, text, jsonb, jsonb) is
  'Ends a query that is charged, once however often it is called. p_usage: provider, model, tokens_input, '
  'tokens_output, cache_read_tokens, cache_write_tokens, cost_usd. p_turn: chat_id, title, context {type, id, data}, '
  'question {id, content}, answer {id, content}; kept only where the plan keeps history. NOHLD: never admitted.';
revoke all on function public.settle_query(uuid, text, jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.settle_query(uuid, text, jsonb, jsonb) to service_role;


create or replace function public.release_query(
  p_hold_id uuid, p_outcome text default 'failed', p_usage jsonb default '{}')
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold public.query_holds;
  v_ended public.usage_logs;
begin
  if p_outcome not in ('failed', 'lost') then
    raise invalid_parameter_value using message = 'A released query failed or was lost.';
  end if;
  perform private.lock_user((select h.user_id from public.query_holds h where h.id = p_hold_id));
  select * into v_hold from public.query_holds where id = p_hold_id for update;
  if v_hold.id is null then
    select * into v_ended from public.usage_logs where id = p_hold_id;
    if v_ended.id is null then
      raise exception using errcode = 'NOHLD', message = 'There is no such query.';
    end if;
  else
    v_ended := private.give_back(v_hold, p_outcome, p_usage);
  end if;
  return jsonb_build_object('outcome', v_ended.outcome, 'charged_usd', v_ended.overage_charge::text);
end
$$;
comment on function public.release_query(uuid, text, jsonb) is
  'Ends a query that is not charged and gives its funding back, once however often it is called. p_usage as in '
  'settle_query: our cost. NOHLD: never admitted.';
revoke all on function public.release_query(uuid, text, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.release_query(uuid, text, jsonb) to service_role;


create or replace function public.release_stale_holds() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_stale record;
  v_hold public.query_holds;
  v_released integer := 0;
begin
  -- At most 100 a call, so that no user waits long for a lock; users in order, so that two sweeps cannot cross.
  for v_stale in
    select oldest.id, oldest.user_id
    from (select h.id, h.user_id from public.query_holds h where h.expires_at <= v_at
          order by h.expires_at limit 100) oldest
    order by oldest.user_id, oldest.id
  loop
    perform private.lock_user(v_stale.user_id);
    select * into v_hold from public.query_holds h where h.id = v_stale.id for update;
    if v_hold.id is not null then
      perform private.give_back(v_hold, 'lost', '{}');
      v_released := v_released + 1;
    end if;
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
  v_taken jsonb;
  v_hold public.query_holds;
begin
  if not exists (select from public.conversations where id = p_conversation_id and user_id = p_user_id)
     and p_conversation_id is not null
     or not exists (select from public.messages where id = p_message_id and conversation_id = p_conversation_id)
     and p_message_id is not null then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation or message.';
  end if;
  v_taken := private.take(
    p_user_id, 'track:' || coalesce(p_message_id, v_id)::text, v_id, p_provider, p_model, p_used_byo_key, true, 60);
  if v_taken ->> 'decision' = 'ended' then
    return;
  elsif v_taken ->> 'decision' <> 'admitted' then
    raise exception using errcode = 'QUOTA', message = v_taken ->> 'reason';
  end if;
  select * into v_hold from public.query_holds where id = v_id;
  perform private.end_query(
    v_hold, 'answered',
    jsonb_build_object('tokens_input', p_tokens_input, 'tokens_output', p_tokens_output, 'cost_usd', p_cost_usd),
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
