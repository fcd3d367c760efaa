-- Metering: who may ask, what pays for it, and how a query ends.
--
-- admit_query takes the funding and leaves a hold; settle_query (answered, stopped) or release_query (failed, lost)
-- ends the hold with exactly one usage_logs row, whose id is the hold's. A failed or lost query gives its funding
-- back where it came from.
-- There are two queues, advisory locks that are kept to the transaction's end: a user's, uuid_hash_extended(id, 0),
-- without which no counter or credit pack changes, and a hold's, uuid_hash_extended(id, 1), without which it does not
-- end. (Not row locks: waiting for a row that changes is slower, and its longest waits are ten times longer.)
-- Locks: the user's queue, the hold's queue, auth.users (key share, which the foreign key of the first row that is
-- written takes), then the rest. Settling stays out of the user's queue. tests/sql/test_lock_order.py reads it off.
-- What runs for every query is written in few statements and calls few functions: Postgres prepares each anew.


create or replace function private.period_at(
  p_start timestamptz, p_end timestamptz, p_at timestamptz, out period_start timestamptz, out period_end timestamptz)
language plpgsql immutable set search_path = ''
as $$
declare
  -- The day of the month that periods begin on: after a shorter month it is the end that shows it.
  v_anchor timestamp := case
    when extract(day from p_end at time zone 'UTC') > extract(day from p_start at time zone 'UTC') then p_end
    else p_start end at time zone 'UTC';
  v_at timestamp := p_at at time zone 'UTC';
  v_months integer;
begin
  if p_at >= p_start and p_at < p_end then
    period_start := p_start;
    period_end := p_end;
    return;
  elsif p_start is null then
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
comment on function private.period_at(timestamptz, timestamptz, timestamptz) is
  'The billing period that holds a time: the one that is given, as long as that may be; else months counted from it; '
  'without one, the calendar month, UTC.';
revoke all on function private.period_at(timestamptz, timestamptz, timestamptz)
  from public, anon, authenticated, service_role;
grant execute on function private.period_at(timestamptz, timestamptz, timestamptz) to authenticated, service_role;


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
comment on function private.reason_of(text, text) is 'The reason that admission has for a funding, in words.';
revoke all on function private.reason_of(text, text) from public, anon, authenticated, service_role;
grant execute on function private.reason_of(text, text) to authenticated, service_role;


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
    where c.user_id = p_user_id and c.credits_remaining > 0 and not c.is_frozen
      and (c.expires_at > p_at or c.expires_at is null)
    order by c.expires_at nulls last, c.created_at, c.id limit 1);
end
$$;
comment on function private.next_credit_pack(uuid, timestamptz) is
  'The pack that pays next: the soonest to expire, the oldest among equals; null where there is none.';
revoke all on function private.next_credit_pack(uuid, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.next_credit_pack(uuid, timestamptz) to authenticated, service_role;


create or replace function private.unsubscribed_tier(p_user_id uuid, p_at timestamptz) returns text
language plpgsql stable set search_path = ''
as $$
begin
  return case when exists (
    select from public.credit_packs c
    where c.user_id = p_user_id and c.credits_to_revoke < c.credits_purchased
      and (c.expires_at > p_at or c.expires_at is null)
  ) then 'usage_only' else 'free' end;
end
$$;
comment on function private.unsubscribed_tier(uuid, timestamptz) is
  'The plan of a user without a subscription: free, which spends no credits, or usage_only while a pack of theirs has '
  'neither expired nor gone back with its money, however much of it is used.';
revoke all on function private.unsubscribed_tier(uuid, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.unsubscribed_tier(uuid, timestamptz) to authenticated, service_role;


create or replace function private.go_by_packs(p_user_id uuid) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_tier constant text := private.unsubscribed_tier(p_user_id, private.clock());
begin
  update public.user_subscriptions s set tier = v_tier
  where s.user_id = p_user_id and s.stripe_subscription_id is null and s.status = 'active'
    and s.tier in ('free', 'usage_only') and s.tier <> v_tier;
end
$$;
comment on function private.go_by_packs(uuid) is
  'Puts a user without a subscription on the plan that their packs make. The user is locked.';
revoke all on function private.go_by_packs(uuid) from public, anon, authenticated, service_role;


-- A lateral with `offset 0` is worked out once; without it the planner writes its expressions out wherever they are used.
create or replace view private.standing with (security_invoker = true) as
select
  s.user_id, s.updated_at, clock.now, rolled.tier, p.name, rolled.status, rolled.lapsed, p.models, p.history_days,
  p.query_cost_limit_usd::numeric as query_cost_limit_usd,
  p.allows_byok,
  terms.for_life, terms.quota_limit, terms.used, rolled.quota_date, rolled.quota_used,
  s.lifetime_used::integer as lifetime_used, rolled.current_period_start, s.current_period_end,
  rolled.overage_period_start,
  rolled.overage_used, terms.overage_limit, p.overage_price_usd::numeric as overage_price_usd,
  p.overage_price_usd is not null and s.allow_overages as allows_overage,
  terms.runs and p.allows_byok and s.uses_byo_key as own_key,
  decision.funding,
  case
    when decision.funding is not null then private.reason_of(decision.funding, p.tier)
    when not terms.runs then 'Subscription not active: ' || rolled.status
    when terms.for_life then 'Free tier quota exhausted'
    when terms.sells_overage then 'Overage limit reached'
    else 'Daily quota exceeded'
  end as reason,
  case when decision.funding is null then not terms.runs or terms.for_life or terms.is_prepaid
       else decision.funding = 'overage' end
    as requires_payment,
  case
    when not terms.runs or terms.for_life or terms.is_prepaid or decision.funding = 'credit' then null
    when decision.funding = 'included' or not terms.sells_overage then clock.midnight
    else least(
      (private.period_at(rolled.current_period_start, s.current_period_end, clock.now)).period_end,
      case when decision.funding is null and terms.quota_limit > 0 then clock.midnight end)
  end as resets_at,
  -- Everything that passing time can change: the day, the period with what ends or begins with it, the grace.
  case when decision.funding = 'included' and not terms.for_life and not s.uses_byo_key and rolled.tier = s.tier
            and not rolled.lapsed then
    least(clock.midnight, (private.period_at(s.current_period_start, s.current_period_end, clock.now)).period_end,
          case when rolled.status = 'past_due' then s.past_due_since + interval '7 days' end)
  end as included_until
from (
  select c.now, (c.now at time zone 'UTC')::date as today,
         ((c.now at time zone 'UTC')::date + 1)::timestamp at time zone 'UTC' as midnight
  from (select private.clock() as now offset 0) c
) clock
cross join public.user_subscriptions s
-- The row as it is now: a cancelled plan whose period is over has ended, a downgrade has come into force, a new day or
-- period counts from 0. Only ever forward: two transactions that straddle midnight must not reset each other's count.
cross join lateral (
  select
    began.lapsed,
    case when began.lapsed then private.unsubscribed_tier(s.user_id, clock.now)
         when s.next_tier is not null and s.current_period_end <= clock.now then s.next_tier
         else s.tier end as tier,
    case when began.lapsed then 'active' else s.status end as status,
    case when not began.lapsed then s.current_period_start end as current_period_start,
    greatest(s.quota_date, clock.today) as quota_date,
    case when clock.today > s.quota_date then 0 else s.quota_used end as quota_used,
    greatest(s.overage_period_start, began.period) as overage_period_start,
    case when began.period > s.overage_period_start then 0 else s.current_overage_amount end as overage_used
  from (
    select ended.lapsed, case
        when ended.lapsed or s.current_period_start is null then date_trunc('month', clock.now, 'UTC')
        when clock.now >= s.current_period_start and clock.now < s.current_period_end then s.current_period_start
        else (private.period_at(s.current_period_start, s.current_period_end, clock.now)).period_start
      end as period
    from (select (s.status = 'canceled' and s.current_period_end <= clock.now) is true as lapsed) ended
    offset 0
  ) began
  offset 0
) rolled
join public.plans p on p.tier = rolled.tier
cross join lateral (
  select
    p.lifetime_quota is not null as for_life,
    case when p.lifetime_quota is not null then s.lifetime_used else rolled.quota_used end as used,
    case when p.lifetime_quota is not null then coalesce(s.lifetime_quota, p.lifetime_quota)
         else coalesce(s.daily_quota, p.daily_quota) end::integer as quota_limit,
    case when p.overage_price_usd is not null then coalesce(s.overage_limit, p.overage_limit_usd) end::numeric
      as overage_limit,
    -- A cancelled plan runs to the end of its period; a failed invoice leaves seven days of what is already paid.
    -- `is true`: a period that is not known (null) refuses.
    (rolled.status = 'active'
     or rolled.status = 'canceled' and s.current_period_end > clock.now
     or rolled.status = 'past_due' and s.past_due_since + interval '7 days' > clock.now) is true as runs,
    -- Overage is only sold where there is a live subscription to invoice it on.
    p.overage_price_usd is not null and p.lifetime_quota is null and s.allow_overages
      and s.stripe_subscription_id is not null and rolled.status = 'active' and not rolled.lapsed as sells_overage,
    -- Nothing but credits can pay, and nothing starts anew by itself.
    rolled.tier = 'usage_only' and coalesce(s.daily_quota, p.daily_quota) = 0
      and (s.stripe_subscription_id is null or rolled.lapsed) as is_prepaid
  offset 0
) terms
cross join lateral (
  select case
      when not terms.runs then null
      when terms.used < terms.quota_limit then 'included'
      when p.allows_credits and private.next_credit_pack(s.user_id, clock.now) is not null then 'credit'
      when terms.sells_overage and rolled.overage_used + p.overage_price_usd <= terms.overage_limit then 'overage'
    end as funding
  offset 0
) decision;
comment on view private.standing is
  'Where each user stands now, counters rolled to today and to this period, and the one place that decides: what pays '
  'for the next query (null: nothing), why, whether it costs money or paying would help, and when that starts anew. '
  'own_key: a key of the user''s own pays before that, whatever the rest says.';
comment on column private.standing.user_id is 'Whose it is.';
comment on column private.standing.updated_at is 'When the subscription last changed, its counters aside.';
comment on column private.standing.now is 'The time that all of this is as of.';
comment on column private.standing.tier is 'The plan.';
comment on column private.standing.name is 'The plan''s name.';
comment on column private.standing.status is 'active, canceled, suspended or past_due.';
comment on column private.standing.lapsed is 'Whether a cancelled plan is over, which the row does not say yet.';
comment on column private.standing.models is 'Models by provider that the plan has.';
comment on column private.standing.history_days is 'Days that the plan keeps conversations.';
comment on column private.standing.query_cost_limit_usd is 'What one query may cost at the provider, US dollars.';
comment on column private.standing.allows_byok is 'Whether the plan allows own keys.';
comment on column private.standing.for_life is 'Whether the quota is for life, not by the day.';
comment on column private.standing.quota_limit is 'Included queries, a day or ever.';
comment on column private.standing.used is 'Of those, how many are used, holds included.';
comment on column private.standing.quota_date is 'The UTC day that quota_used counts.';
comment on column private.standing.quota_used is 'Included queries used that day.';
comment on column private.standing.lifetime_used is 'Included queries used on a lifetime quota.';
comment on column private.standing.current_period_start is 'Start of the billing period; null: calendar months, UTC.';
comment on column private.standing.current_period_end is 'End of that period, as the row says it.';
comment on column private.standing.overage_period_start is 'Start of the period that overage_used counts.';
comment on column private.standing.overage_used is 'US dollars of overage in that period, holds included.';
comment on column private.standing.overage_limit is 'US dollars of overage that are allowed a period; null: none by the plan.';
comment on column private.standing.overage_price_usd is 'US dollars a query; null: none by the plan.';
comment on column private.standing.allows_overage is 'Whether plan and user allow overage.';
comment on column private.standing.own_key is 'Whether a key of the user''s own pays.';
comment on column private.standing.funding is 'What pays for the next query, if no own key does; null: nothing.';
comment on column private.standing.reason is 'Why, in words.';
comment on column private.standing.requires_payment is 'Whether it costs money, or paying would help.';
comment on column private.standing.resets_at is 'When what pays, or what is used up, starts anew.';
comment on column private.standing.included_until is
  'Until when the day''s quota is what pays first, unless the subscription changes; null where it is not.';
revoke all on private.standing from public, anon, authenticated, service_role;
grant select on private.standing to authenticated, service_role;


create or replace function public.can_user_query(p_user_id uuid)
returns table (can_query boolean, reason text, requires_payment boolean)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if current_user = 'authenticated' and p_user_id is distinct from (select auth.uid()) then
    raise insufficient_privilege using message = 'You may only ask about yourself.';
  end if;
  return query
    select s.own_key or s.funding is not null,
           case when s.own_key then private.reason_of('byok', s.tier) else s.reason end,
           s.requires_payment and not s.own_key
    from private.standing s where s.user_id = p_user_id;
  if not found then
    return query select false, 'No subscription found', true;
  end if;
end
$$;
comment on function public.can_user_query(uuid) is
  'Whether a user''s next query would be admitted now, why, and whether it costs money or paying would help. Changes nothing.';
revoke all on function public.can_user_query(uuid) from public, anon, authenticated, service_role;
grant execute on function public.can_user_query(uuid) to authenticated, service_role;
