-- The decision: what pays for the next query of a user, in three views, each built on the one before.
--
-- current_subscriptions  the subscription as of now: the tier in force, counters of this day and this period
-- subscription_limits    what the tier and the user allow
-- funding_state          the decision: what pays, why, and when that changes
--
-- Postgres merges the views into one plan. A lateral subquery with `offset 0` is evaluated once for each row; without
-- it the planner copies its expressions to every place that uses them.

create or replace view private.current_subscriptions with (security_invoker = true) as
select
  s.user_id, s.updated_at, clock.now, clock.midnight,
  rolled.tier, rolled.status, rolled.is_lapsed,
  p.name, case when p.paused_at is null then p.models - p.paused_providers else '{}' end as models,
  p.history_days, p.allows_byok, p.allows_credits,
  p.query_cost_limit_usd::numeric as query_cost_limit_usd, p.overage_price_usd::numeric as overage_price_usd,
  p.daily_quota as plan_daily_quota, p.lifetime_quota as plan_lifetime_quota,
  p.overage_limit_usd::numeric as plan_overage_limit,
  s.tier as stored_tier, s.stripe_subscription_id, s.allow_overages, s.uses_byo_key,
  greatest(s.past_due_since, s.paid_until) as grace_starts_at,
  rolled.period_start, s.current_period_start as stored_period_start, s.current_period_end,
  rolled.quota_date, rolled.quota_used, s.lifetime_used::integer as lifetime_used,
  rolled.failed_cost_usd, p.failed_cost_limit_usd::numeric as failed_cost_limit_usd, p.concurrent_queries,
  s.daily_quota as own_daily_quota, s.lifetime_quota as own_lifetime_quota,
  rolled.overage_period_start, rolled.overage_used, s.overage_limit::numeric as own_overage_limit,
  coalesce(s.overage_ceiling, greatest(p.overage_limit_usd, 2 * s.paid_overage_usd))::numeric as overage_ceiling,
  s.blocked_at, s.unpaid_overage_usd::numeric as unpaid_overage,
  s.open_invoice_url
from (
  select c.now, (c.now at time zone 'UTC')::date as today,
         ((c.now at time zone 'UTC')::date + 1)::timestamp at time zone 'UTC' as midnight
  from (select private.clock() as now offset 0) c
) clock
cross join public.user_subscriptions s
cross join lateral (
  select
    period.is_lapsed,
    case when period.is_lapsed then private.unsubscribed_tier(s.user_id, clock.now)
         when s.next_tier is not null and s.current_period_end <= clock.now then s.next_tier
         else s.tier end as tier,
    case when period.is_lapsed then 'active' else s.status end as status,
    case when not period.is_lapsed then s.current_period_start end as period_start,
    -- Counters only move forward: of two transactions around midnight, neither may reset the count of the other.
    greatest(s.quota_date, clock.today) as quota_date,
    case when clock.today > s.quota_date then 0 else s.quota_used end as quota_used,
    case when clock.today > s.quota_date then 0 else s.failed_cost_usd end as failed_cost_usd,
    greatest(s.overage_period_start, period.starts_at) as overage_period_start,
    case when period.starts_at > s.overage_period_start then 0 else s.current_overage_amount end as overage_used
  from (
    select canceled.is_lapsed, case
        when canceled.is_lapsed or s.current_period_start is null then date_trunc('month', clock.now, 'UTC')
        when clock.now >= s.current_period_start and clock.now < s.current_period_end then s.current_period_start
        else (private.period_at(s.current_period_start, s.current_period_end, clock.now)).period_start
      end as starts_at
    -- `is true`: an unknown period (null) has not ended.
    from (select (s.status = 'canceled' and s.current_period_end <= clock.now) is true as is_lapsed) canceled
    offset 0
  ) period
  offset 0
) rolled
join public.plans p on p.tier = rolled.tier;
comment on view private.current_subscriptions is
  'Each subscription as of now. The only place that decides which tier is in force: a canceled plan ends with its '
  'period, a downgrade starts with the next period. Until included_until, admit_query and store_turn reuse the '
  'decision, which is the stored tier. Counters are those of the current day and period.';
comment on column private.current_subscriptions.user_id is 'The user.';
comment on column private.current_subscriptions.updated_at is 'When the subscription last changed, except counters.';
comment on column private.current_subscriptions.now is 'The time of this state.';
comment on column private.current_subscriptions.midnight is 'The end of the UTC day.';
comment on column private.current_subscriptions.tier is 'The tier in force.';
comment on column private.current_subscriptions.status is 'active, canceled, suspended or past_due.';
comment on column private.current_subscriptions.is_lapsed is
  'Whether a canceled plan has ended. The stored row does not show it until the next admission.';
comment on column private.current_subscriptions.name is 'The name of the plan.';
comment on column private.current_subscriptions.models is
  'The models of the plan by provider, without paused providers. Empty: the chat is paused.';
comment on column private.current_subscriptions.history_days is 'Days that the plan stores conversations.';
comment on column private.current_subscriptions.allows_byok is 'Whether the plan allows own keys.';
comment on column private.current_subscriptions.allows_credits is 'Whether credit packs pay on this plan.';
comment on column private.current_subscriptions.query_cost_limit_usd is 'The cost limit of one query, US dollars.';
comment on column private.current_subscriptions.overage_price_usd is 'Dollars per overage query. Null: no overage.';
comment on column private.current_subscriptions.plan_daily_quota is 'The daily quota of the plan.';
comment on column private.current_subscriptions.plan_lifetime_quota is 'The lifetime quota of the plan.';
comment on column private.current_subscriptions.plan_overage_limit is 'The default overage limit of the plan.';
comment on column private.current_subscriptions.stored_tier is 'The tier of the stored row.';
comment on column private.current_subscriptions.stripe_subscription_id is 'The live Stripe subscription.';
comment on column private.current_subscriptions.grace_starts_at is
  'When the payment failed, or later, when what was paid before ends. The seven days of grace start then.';
comment on column private.current_subscriptions.allow_overages is 'Whether the user allows overage.';
comment on column private.current_subscriptions.uses_byo_key is 'Whether the user has an active key.';
comment on column private.current_subscriptions.period_start is
  'Start of the billing period. Null: calendar months, UTC, also after a canceled plan has ended.';
comment on column private.current_subscriptions.stored_period_start is 'Start of the billing period in the stored row.';
comment on column private.current_subscriptions.current_period_end is 'End of the billing period in the stored row.';
comment on column private.current_subscriptions.quota_date is 'The UTC day that quota_used counts.';
comment on column private.current_subscriptions.quota_used is 'Included queries used on that day.';
comment on column private.current_subscriptions.lifetime_used is 'Included queries used of a lifetime quota.';
comment on column private.current_subscriptions.failed_cost_usd is
  'Our cost of failed queries on that day, US dollars.';
comment on column private.current_subscriptions.failed_cost_limit_usd is 'The limit of that cost.';
comment on column private.current_subscriptions.concurrent_queries is 'How many queries may run at the same time.';
comment on column private.current_subscriptions.own_daily_quota is 'A daily quota for this user only.';
comment on column private.current_subscriptions.own_lifetime_quota is 'A lifetime quota for this user only.';
comment on column private.current_subscriptions.overage_period_start is 'Start of the period that overage_used counts.';
comment on column private.current_subscriptions.overage_used is 'Overage in that period, dollars, holds included.';
comment on column private.current_subscriptions.own_overage_limit is 'The overage limit set by the user, dollars.';
comment on column private.current_subscriptions.overage_ceiling is
  'The most that the user may set as the overage limit, dollars (bounded_overage_limit).';
comment on column private.current_subscriptions.blocked_at is 'When an operator blocked the account. Null: never.';
comment on column private.current_subscriptions.unpaid_overage is
  'Overage of all periods that is not paid, dollars, holds included.';
comment on column private.current_subscriptions.open_invoice_url is 'The page of the oldest open invoice. Null: none.';
revoke all on private.current_subscriptions from public, anon, authenticated, service_role;
grant select on private.current_subscriptions to authenticated, service_role;


create or replace view private.subscription_limits with (security_invoker = true) as
select
  s.user_id, s.updated_at, s.now, s.midnight, s.tier, s.status, s.is_lapsed, s.name, s.models, s.history_days,
  s.allows_byok, s.allows_credits, s.query_cost_limit_usd, s.overage_price_usd, s.stored_tier, s.grace_starts_at,
  s.uses_byo_key, s.period_start, s.stored_period_start, s.current_period_end, s.quota_date, s.quota_used,
  s.lifetime_used, s.failed_cost_usd, s.failed_cost_limit_usd, s.concurrent_queries, s.overage_period_start,
  s.overage_used, s.overage_price_usd is not null and s.allow_overages as allows_overage,
  limits.is_lifetime, limits.quota_limit, limits.included_used, limits.overage_limit,
  limits.is_serving, limits.can_use_overage, limits.is_billed, limits.resets_daily, s.overage_ceiling, s.blocked_at,
  s.unpaid_overage, s.open_invoice_url
from private.current_subscriptions s
cross join lateral (
  select
    s.plan_lifetime_quota is not null as is_lifetime,
    case when s.plan_lifetime_quota is not null then s.lifetime_used else s.quota_used end as included_used,
    case when s.plan_lifetime_quota is not null then coalesce(s.own_lifetime_quota, s.plan_lifetime_quota)
         else coalesce(s.own_daily_quota, s.plan_daily_quota) end::integer as quota_limit,
    case when s.overage_price_usd is not null then coalesce(s.own_overage_limit, s.plan_overage_limit) end
      as overage_limit,
    -- A canceled plan serves until its period ends. A failed payment leaves seven days of grace,
    -- after the end of what was paid before.
    -- `is true`: an unknown time (null) refuses.
    s.blocked_at is null and (
     s.status = 'active'
     or s.status = 'canceled' and s.current_period_end > s.now
     or s.status = 'past_due' and s.grace_starts_at + interval '7 days' > s.now) is true as is_serving,
    -- Overage needs a live subscription, whose invoices collect it.
    s.overage_price_usd is not null and s.plan_lifetime_quota is null and s.allow_overages
      and s.stripe_subscription_id is not null and s.status = 'active' and not s.is_lapsed as can_use_overage,
    s.stripe_subscription_id is not null and not s.is_lapsed as is_billed,
    (s.plan_daily_quota > 0 or s.own_daily_quota > 0) is true as resets_daily
  offset 0
) limits;
comment on view private.subscription_limits is 'current_subscriptions with the limits of the plan and of the user.';
comment on column private.subscription_limits.user_id is 'As in current_subscriptions.';
comment on column private.subscription_limits.updated_at is 'As in current_subscriptions.';
comment on column private.subscription_limits.now is 'As in current_subscriptions.';
comment on column private.subscription_limits.midnight is 'As in current_subscriptions.';
comment on column private.subscription_limits.tier is 'As in current_subscriptions.';
comment on column private.subscription_limits.status is 'As in current_subscriptions.';
comment on column private.subscription_limits.is_lapsed is 'As in current_subscriptions.';
comment on column private.subscription_limits.name is 'As in current_subscriptions.';
comment on column private.subscription_limits.models is 'As in current_subscriptions.';
comment on column private.subscription_limits.history_days is 'As in current_subscriptions.';
comment on column private.subscription_limits.allows_byok is 'As in current_subscriptions.';
comment on column private.subscription_limits.allows_credits is 'As in current_subscriptions.';
comment on column private.subscription_limits.query_cost_limit_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.overage_price_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.stored_tier is 'As in current_subscriptions.';
comment on column private.subscription_limits.grace_starts_at is 'As in current_subscriptions.';
comment on column private.subscription_limits.uses_byo_key is 'As in current_subscriptions.';
comment on column private.subscription_limits.period_start is 'As in current_subscriptions.';
comment on column private.subscription_limits.stored_period_start is 'As in current_subscriptions.';
comment on column private.subscription_limits.current_period_end is 'As in current_subscriptions.';
comment on column private.subscription_limits.quota_date is 'As in current_subscriptions.';
comment on column private.subscription_limits.quota_used is 'As in current_subscriptions.';
comment on column private.subscription_limits.lifetime_used is 'As in current_subscriptions.';
comment on column private.subscription_limits.failed_cost_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.failed_cost_limit_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.concurrent_queries is 'As in current_subscriptions.';
comment on column private.subscription_limits.overage_period_start is 'As in current_subscriptions.';
comment on column private.subscription_limits.overage_used is 'As in current_subscriptions.';
comment on column private.subscription_limits.allows_overage is 'Whether the plan and the user allow overage.';
comment on column private.subscription_limits.is_lifetime is 'Whether the quota is a lifetime quota, not a daily one.';
comment on column private.subscription_limits.quota_limit is 'The quota: included queries per day or in total.';
comment on column private.subscription_limits.included_used is 'Included queries used, holds included.';
comment on column private.subscription_limits.overage_limit is
  'The limit of overage_used and of unpaid_overage, dollars. Null: the plan has no overage.';
comment on column private.subscription_limits.is_serving is 'Whether the status lets queries through.';
comment on column private.subscription_limits.can_use_overage is
  'Whether overage can pay: plan and user allow it, and a live subscription can invoice it.';
comment on column private.subscription_limits.is_billed is 'Whether there is a live subscription at Stripe.';
comment on column private.subscription_limits.resets_daily is
  'Whether the plan or the user has a daily quota that is not zero.';
comment on column private.subscription_limits.overage_ceiling is 'As in current_subscriptions.';
comment on column private.subscription_limits.blocked_at is 'As in current_subscriptions.';
comment on column private.subscription_limits.unpaid_overage is 'As in current_subscriptions.';
comment on column private.subscription_limits.open_invoice_url is 'As in current_subscriptions.';
revoke all on private.subscription_limits from public, anon, authenticated, service_role;
grant select on private.subscription_limits to authenticated, service_role;


create or replace view private.funding_state with (security_invoker = true) as
select
  s.user_id, s.updated_at, s.now, s.tier, s.name, s.status, s.is_lapsed, s.models, s.history_days,
  s.query_cost_limit_usd, s.allows_byok, s.is_lifetime, s.quota_limit, s.included_used, s.quota_date, s.quota_used,
  s.lifetime_used, s.failed_cost_usd, s.failed_cost_limit_usd, s.concurrent_queries, s.period_start,
  s.current_period_end, s.overage_period_start, s.overage_used, s.overage_limit, s.overage_price_usd, s.allows_overage,
  s.is_serving and s.allows_byok and s.uses_byo_key as own_key_pays,
  decision.funding,
  case
    when decision.funding is not null then private.reason_of(decision.funding, s.tier)
    when s.blocked_at is not null then 'Account blocked'
    when not s.is_serving then 'Subscription not active: ' || s.status
    when s.is_lifetime then 'Free tier quota exhausted'
    when s.can_use_overage then 'Overage limit reached'
    else 'Daily quota exceeded'
  end as reason,
  case when decision.funding is null then refusal.reason_code in (
         'subscription_unpaid', 'subscription_paused', 'subscription_ended', 'free_quota_used', 'credits_used',
         'payment_failed', 'overage_unpaid')
       else decision.funding = 'overage' end as requires_payment,
  case
    when decision.funding = 'included' and not s.is_lifetime
      or refusal.reason_code in ('daily_quota_used', 'daily_quota_used_overage_off', 'no_quota')
      or refusal.reason_code = 'overage_off' and s.resets_daily then s.midnight
    when decision.funding = 'overage'
      or refusal.reason_code in ('overage_limit_reached', 'overage_ceiling_reached', 'overage_returned',
                                 'overage_without_invoice') then least(
      case when decision.funding = 'overage'
                or refusal.reason_code not in ('overage_returned', 'overage_without_invoice')
                and s.overage_used + s.overage_price_usd > s.overage_limit
           then (private.period_at(s.period_start, s.current_period_end, s.now)).period_end end,
      case when decision.funding is null and s.quota_limit > 0 then s.midnight end)
  end as resets_at,
  -- Everything that time alone can change: the day, the period and what starts or ends with it, the grace period.
  case when decision.funding = 'included' and not s.is_lifetime and not s.uses_byo_key and s.tier = s.stored_tier
            and not s.is_lapsed then
    least(s.midnight, (private.period_at(s.stored_period_start, s.current_period_end, s.now)).period_end,
          case when s.status = 'past_due' then s.grace_starts_at + interval '7 days' end)
  end as included_until,
  case
    when decision.funding is null then refusal.reason_code
    when decision.funding = 'included' and s.is_lifetime then 'free_quota'
    when decision.funding = 'included' then 'daily_quota'
    when decision.funding = 'credit' then 'credits'
    else decision.funding
  end as reason_code,
  s.blocked_at, s.unpaid_overage
from private.subscription_limits s
cross join lateral (
  select case
      when not s.is_serving then null
      when s.included_used < s.quota_limit then 'included'
      when s.allows_credits and private.next_credit_pack(s.user_id, s.now) is not null then 'credit'
      when s.can_use_overage and greatest(s.overage_used, s.unpaid_overage) + s.overage_price_usd <= s.overage_limit
        then 'overage'
    end as funding
  offset 0
) decision
-- What the user can do decides between reasons with the same text. docs/error_codes.md lists them.
cross join lateral (
  select case
      when decision.funding is not null then null
      when s.blocked_at is not null then 'account_blocked'
      when not s.is_serving and s.is_billed and s.status <> 'canceled'
        then case when s.open_invoice_url is null then 'subscription_paused' else 'subscription_unpaid' end
      when not s.is_serving then 'subscription_ended'
      when s.is_lifetime then 'free_quota_used'
      when s.can_use_overage and s.open_invoice_url is not null
           and s.unpaid_overage + s.overage_price_usd > s.overage_limit then 'overage_unpaid'
      when s.can_use_overage and s.unpaid_overage + s.overage_price_usd > s.overage_ceiling and exists (
        select from public.overage_invoice_items i where i.user_id = s.user_id and i.settled_as = 'returned')
        then 'overage_returned'
      -- No later invoice collects it: its own is settled, or was deleted with its customer. A draft takes an hour. A
      -- total below 50 cents is on the balance, which the next invoice collects.
      when s.can_use_overage and s.unpaid_overage + s.overage_price_usd > s.overage_ceiling and exists (
        select from public.overage_invoice_items i
        where i.user_id = s.user_id and i.settled_as is null and i.stripe_invoice_id is not null
          and i.amount_cents >= 50 and i.created_at < s.now - interval '1 day')
        then 'overage_without_invoice'
      when s.can_use_overage and greatest(s.overage_used, s.unpaid_overage) + s.overage_price_usd > s.overage_ceiling
        then 'overage_ceiling_reached'
      when s.can_use_overage then 'overage_limit_reached'
      when s.quota_limit = 0 and s.is_billed and s.status = 'past_due' then 'payment_failed'
      when s.is_billed and s.status = 'active' and not s.allows_overage
           and s.overage_used + s.overage_price_usd <= s.overage_limit
        then case when s.quota_limit > 0 then 'daily_quota_used_overage_off' else 'overage_off' end
      when s.quota_limit > 0 then 'daily_quota_used'
      when s.resets_daily then 'no_quota'
      else 'credits_used'
    end as reason_code
) refusal;
comment on view private.funding_state is
  'The decision for the next query of each user: what pays, the reason, whether it costs money or a payment would '
  'help, and when that resets. If own_key_pays, an own key pays before everything else.';
comment on column private.funding_state.user_id is 'The user.';
comment on column private.funding_state.updated_at is 'When the subscription last changed, except counters.';
comment on column private.funding_state.now is 'The time of this state.';
comment on column private.funding_state.tier is 'The tier in force.';
comment on column private.funding_state.name is 'The name of the plan.';
comment on column private.funding_state.status is 'active, canceled, suspended or past_due.';
comment on column private.funding_state.is_lapsed is 'Whether a canceled plan has ended.';
comment on column private.funding_state.models is 'The models of the plan by provider.';
comment on column private.funding_state.history_days is 'Days that the plan stores conversations.';
comment on column private.funding_state.query_cost_limit_usd is 'The cost limit of one query, US dollars.';
comment on column private.funding_state.allows_byok is 'Whether the plan allows own keys.';
comment on column private.funding_state.is_lifetime is 'Whether the quota is a lifetime quota, not a daily one.';
comment on column private.funding_state.quota_limit is 'The quota: included queries per day or in total.';
comment on column private.funding_state.included_used is 'Included queries used, holds included.';
comment on column private.funding_state.quota_date is 'The UTC day that quota_used counts.';
comment on column private.funding_state.quota_used is 'Included queries used on that day.';
comment on column private.funding_state.lifetime_used is 'Included queries used of a lifetime quota.';
comment on column private.funding_state.failed_cost_usd is
  'Our cost of failed queries on quota_date, US dollars, except on own keys.';
comment on column private.funding_state.failed_cost_limit_usd is
  'The limit of that cost. From then on only own keys pay until the next day.';
comment on column private.funding_state.concurrent_queries is 'How many queries may run at the same time.';
comment on column private.funding_state.period_start is 'Start of the billing period. Null: calendar months, UTC.';
comment on column private.funding_state.current_period_end is 'End of the billing period in the stored row.';
comment on column private.funding_state.overage_period_start is 'Start of the period that overage_used counts.';
comment on column private.funding_state.overage_used is 'Overage in that period, dollars, holds included.';
comment on column private.funding_state.overage_limit is
  'The limit of overage_used and of unpaid_overage, dollars. Null: no overage.';
comment on column private.funding_state.overage_price_usd is 'Dollars per overage query. Null: no overage.';
comment on column private.funding_state.allows_overage is 'Whether the plan and the user allow overage.';
comment on column private.funding_state.own_key_pays is 'Whether an own key pays for the next query.';
comment on column private.funding_state.funding is 'What pays for the next query if no own key does. Null: nothing.';
comment on column private.funding_state.reason is 'The reason, as can_user_query returns it.';
comment on column private.funding_state.requires_payment is 'Whether it costs money, or a payment would help.';
comment on column private.funding_state.resets_at is 'When the quota or limit that decides resets. Null: never.';
comment on column private.funding_state.included_until is
  'Until when the daily quota pays first, unless the subscription changes. Null: it does not pay first.';
comment on column private.funding_state.reason_code is 'The reason as a code of public.reasons.';
comment on column private.funding_state.blocked_at is 'When an operator blocked the account. Null: never.';
comment on column private.funding_state.unpaid_overage is
  'Overage of all periods that is not paid, dollars, holds included.';
revoke all on private.funding_state from public, anon, authenticated, service_role;
grant select on private.funding_state to authenticated, service_role;


create or replace function public.can_user_query(p_user_id uuid)
returns table (can_query boolean, reason text, requires_payment boolean)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if current_user = 'authenticated' and p_user_id is distinct from (select auth.uid()) then
    raise insufficient_privilege using message = 'You may only ask about yourself.';
  end if;
  return query
    select (s.own_key_pays or s.funding is not null) and not paused.is_paused,
           case when paused.is_paused then 'Chat paused'
                when s.own_key_pays then private.reason_of('byok', s.tier) else s.reason end,
           s.requires_payment and not s.own_key_pays and not paused.is_paused
    from private.funding_state s
    cross join lateral (select s.models = '{}' and s.blocked_at is null as is_paused) paused
    where s.user_id = p_user_id;
  if not found then
    return query select false, 'No subscription found', true;
  end if;
end
$$;
comment on function public.can_user_query(uuid) is
  'Whether something pays for the next query of a user now, the reason, and whether it costs money or a payment would '
  'help. False while the chat or every provider is paused. admit_query may still refuse it: too many queries run, or '
  'a budget of the day is spent. Read-only.';
revoke all on function public.can_user_query(uuid) from public, anon, authenticated, service_role;
grant execute on function public.can_user_query(uuid) to authenticated, service_role;
