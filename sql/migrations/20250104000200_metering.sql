-- Metering: who may ask, what pays for it, and how a query ends.
--
-- admit_query takes the funding and leaves a hold; settle_query (answered, stopped) or release_query (failed, lost)
-- ends the hold with exactly one usage_logs row, whose id is the hold's. A failed or lost query gives its funding
-- back where it came from.
-- A user's metering is one queue, private.lock_user: counters and credit packs are only changed by who holds that lock.
-- Locks: the user's queue, then auth.users (key share), then what the queue guards, in any order, for only one holds
-- it. Settling stays out of the queue: auth.users, the hold, the conversation. tests/sql/test_lock_order.py reads it off.
-- What runs for every query is written in few statements and calls few functions: Postgres prepares each anew.


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
