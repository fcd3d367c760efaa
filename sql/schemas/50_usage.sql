-- What users see of their own metering.

create or replace function private.own_refusal() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  -- Users may not read the tables of Auth, the settings and the daily costs.
  return (
    select jsonb_build_object(
      'reason_code', t.code, 'reason', coalesce(t.reason, t.en),
      'resets_at', case when t.action = 'wait' then (s.quota_date + 1)::timestamp at time zone 'UTC' end)
    from private.funding_state s
    join auth.users u on u.id = s.user_id
    join public.reasons t on t.code = case
      when u.banned_until > s.now then 'account_blocked'
      when s.own_key_pays or s.funding is null or s.models = '{}' then null
      when s.funding = 'included' and s.is_lifetime and (u.confirmed_at is null or u.is_anonymous)
        then 'email_not_confirmed'
      when s.failed_cost_usd >= s.failed_cost_limit_usd then 'too_many_failures'
      when s.tier = 'free' and private.free_budget_is_spent(s.quota_date) then 'free_answers_off'
    end
    where s.user_id = (select auth.uid()));
end
$$;
comment on function private.own_refusal() is
  'Why admit_query would refuse the signed-in user although something pays: {reason_code, reason, resets_at}. Null: it '
  'would not. How many queries run is not considered.';
revoke all on function private.own_refusal() from public, anon, authenticated, service_role;
grant execute on function private.own_refusal() to authenticated;


create or replace function public.usage_summary() returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
  v_state private.funding_state;
  v_can record;
  v_refusal jsonb;
  v_period record;
  v_packs jsonb;
  v_credits record;
  v_alerts jsonb;
  v_own_key_models jsonb;
  v_currency text;
  v_announcements jsonb;
  v_providers jsonb;
  v_today record;
  v_month record;
  v_billing jsonb;
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to see your usage.';
  end if;
  select * into v_state from private.funding_state s where s.user_id = v_user_id;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  select * into v_can from public.can_user_query(v_user_id);
  v_refusal := private.own_refusal();
  select * into v_period from private.period_at(v_state.period_start, v_state.current_period_end, v_state.now);

  select coalesce(jsonb_agg(jsonb_build_object(
           'id', c.id, 'purchased', c.credits_purchased, 'remaining', c.credits_remaining,
           'bought_at', c.created_at, 'expires_at', c.expires_at, 'is_frozen', c.is_frozen)
           order by c.expires_at nulls last, c.created_at), '[]')
  into v_packs
  from public.credit_packs c
  where c.user_id = v_user_id and c.credits_remaining > 0 and (c.expires_at > v_state.now or c.expires_at is null);

  -- Packs that were used up before this period say nothing about what is left.
  select sum(c.credits_purchased - c.credits_remaining)::numeric as used, sum(c.credits_purchased)::numeric as bought
  into v_credits
  from public.credit_packs c
  where c.user_id = v_user_id and not c.is_frozen and (c.expires_at > v_state.now or c.expires_at is null)
    and (c.credits_remaining > 0 or c.depleted_at >= v_period.period_start);

  select coalesce(jsonb_agg(jsonb_build_object(
           'kind', a.kind, 'percent', case when a.used + a.next > a.available then 100 else 80 end)
           order by a.place), '[]')
  into v_alerts
  from (values
    (1, 'included', v_state.included_used::numeric, 1, v_state.quota_limit::numeric),
    (2, 'overage', v_state.overage_used, v_state.overage_price_usd,
     case when v_state.allows_overage then v_state.overage_limit end),
    (3, 'credits', v_credits.used, 1, v_credits.bought)) a (place, kind, used, next, available)
  where a.available > 0 and (a.used >= 0.8 * a.available or a.used + a.next > a.available);

  -- The policy of the table shows users the current ones.
  select coalesce(jsonb_agg(jsonb_build_object(
           'kind', a.kind, 'provider', a.provider, 'en', a.en, 'fr', a.fr, 'starts_at', a.starts_at,
           'ends_at', a.ends_at) order by a.starts_at desc, a.id), '[]')
  into v_announcements from public.announcements a;

  select p.own_key_models, p.currency into v_own_key_models, v_currency
  from public.plans p where p.tier = v_state.tier;

  select coalesce(jsonb_agg(k.provider order by k.provider), '[]') into v_providers
  from public.user_api_keys k where k.user_id = v_user_id and k.is_active;

  select count(*) filter (where u.is_charged and u.reversed_at is null) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_today
  from public.usage_logs u where u.user_id = v_user_id and u.query_date = (v_state.now at time zone 'UTC')::date;
  select count(*) filter (where u.is_charged and u.reversed_at is null) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_month
  from public.usage_logs u
  where u.user_id = v_user_id and u.query_date >= (v_period.period_start at time zone 'UTC')::date
    and u.query_timestamp >= v_period.period_start;

  select jsonb_build_object(
    'is_customer', s.stripe_customer_id is not null,
    'is_subscribed', s.stripe_subscription_id is not null and not v_state.is_lapsed,
    'ends_at', case when v_state.status = 'canceled' then s.current_period_end end,
    'next_tier', case when s.current_period_end > v_state.now then s.next_tier end,
    'past_due_since', s.past_due_since,
    'currency', v_currency,
    'to_be_billed_usd', (
      select coalesce(sum(u.overage_charge), 0)::text from public.usage_logs u
      where u.user_id = v_user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null),
    'billed', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'period_start', i.period_start, 'queries', i.queries, 'unit_price_usd', i.unit_price_usd::text,
        'amount_usd', i.amount_usd::text, 'billed_usd', (i.amount_cents / 100.0)::numeric(14,2)::text)
        order by i.period_start desc), '[]')
      from (
        select * from public.overage_invoice_items o where o.user_id = v_user_id
        order by o.period_start desc limit 12) i))
  into v_billing
  from public.user_subscriptions s where s.user_id = v_user_id;

  -- Amounts are text under names that end in _usd, so that no JSON parser turns them into floats.
  return jsonb_build_object(
    'tier', v_state.tier,
    'status', v_state.status,
    'period', jsonb_build_object('start', v_period.period_start, 'end', v_period.period_end),
    'included', jsonb_build_object(
      'limit', v_state.quota_limit, 'used', v_state.included_used,
      'remaining', greatest(0, v_state.quota_limit - v_state.included_used),
      'resets_at', case when not v_state.is_lifetime
                        then (((v_state.now at time zone 'UTC')::date + 1)::timestamp) at time zone 'UTC' end),
    'overage', jsonb_build_object(
      'allowed', v_state.allows_overage, 'currency', v_currency, 'price_usd', v_state.overage_price_usd::text,
      'limit_usd', v_state.overage_limit::text,
      'used_usd', v_state.overage_used::text),
    'credits', jsonb_build_object(
      'remaining', (
        select coalesce(sum((pack ->> 'remaining')::integer), 0) from jsonb_array_elements(v_packs) pack
        where not (pack ->> 'is_frozen')::boolean),
      'packs', v_packs),
    'byok', jsonb_build_object('allowed', v_state.allows_byok, 'providers', v_providers),
    'models', v_state.models,
    'own_key_models', v_own_key_models,
    'keeps_history', v_state.history_days > 0,
    'history_days', v_state.history_days,
    'concurrent_queries', v_state.concurrent_queries,
    'alerts', v_alerts,
    'announcements', v_announcements,
    'billing', v_billing,
    'can_query', v_can.can_query and v_refusal is null,
    'reason', coalesce(v_refusal ->> 'reason', v_can.reason),
    'reason_code', coalesce(
      v_refusal ->> 'reason_code',
      case when v_can.reason = 'Chat paused' then 'chat_paused'
           when v_state.own_key_pays then 'own_key' else v_state.reason_code end),
    'resets_at', case when v_refusal is not null then v_refusal -> 'resets_at'
                      when not v_state.own_key_pays and v_can.reason <> 'Chat paused'
                        then to_jsonb(v_state.resets_at) end,
    'requires_payment', v_can.requires_payment and v_refusal is null,
    'today', jsonb_build_object('queries', v_today.queries, 'tokens', v_today.tokens,
                                'cost_usd', v_today.cost_usd::text),
    'month', jsonb_build_object('queries', v_month.queries, 'tokens', v_month.tokens,
                                'cost_usd', v_month.cost_usd::text));
end
$$;
comment on function public.usage_summary() is
  'The response of GET /usage for the signed-in user: what the plan allows, quotas, overage, credits, bills, usage '
  'today and in this period, and alerts: [{kind, percent}] for the quota, the overage limit and the credits of which '
  '80 or 100 percent are used. announcements: [{kind, provider, en, fr, starts_at, ends_at}], newest first.';
revoke all on function public.usage_summary() from public, anon, authenticated, service_role;
grant execute on function public.usage_summary() to authenticated;


create or replace function public.explain_query(p_request_id text)
returns table (
  query_id uuid, user_id uuid, request_id text, decided_at timestamptz, decision text, reason text, funding text,
  tier text, quota_used integer, quota_limit integer, overage_used numeric, overage_limit numeric,
  credit_pack_id uuid, outcome text, charged_usd numeric, cost_usd numeric, tokens_total integer, provider text,
  model text)
language sql stable security invoker set search_path = ''
as $$
  select u.id, u.user_id, u.request_id, u.query_timestamp, 'admitted', private.reason_of(u.funding, u.tier),
         u.funding, u.tier, u.quota_used, u.quota_limit, u.overage_used, u.overage_limit, u.credit_pack_id, u.outcome,
         u.overage_charge, u.cost_usd, u.tokens_total, u.provider, u.model
  from public.usage_logs u where u.request_id = p_request_id
  union all
  select h.id, h.user_id, h.request_id, h.created_at, 'admitted', private.reason_of(h.funding, h.tier), h.funding,
         h.tier, h.quota_used, h.quota_limit, h.overage_used, h.overage_limit, h.credit_pack_id, null,
         null, null, null, h.provider, h.model
  from public.query_holds h where h.request_id = p_request_id
  union all
  select r.id, r.user_id, r.request_id, r.created_at, 'refused', r.reason, null,
         r.tier, r.quota_used, r.quota_limit, r.overage_used, r.overage_limit, null, null,
         null, null, null, null, null
  from public.query_refusals r where r.request_id = p_request_id
  order by 4
$$;
comment on function public.explain_query(text) is
  'Every attempt at a request: the decision, the state it was made from, the outcome, the charge and the cost. outcome '
  'is null while the query runs. Signed-in users see only their own requests.';
revoke all on function public.explain_query(text) from public, anon, authenticated, service_role;
grant execute on function public.explain_query(text) to authenticated, service_role;


create or replace view public.daily_quota_usage with (security_invoker = true) as
select
  u.user_id,
  u.query_date,
  count(*) filter (where u.counted_against_quota and u.reversed_at is null)::integer as queries_today,
  sum(u.tokens_total)::bigint as tokens_today,
  sum(u.cost_usd) as cost_today,
  count(*) filter (where u.was_overage and u.reversed_at is null)::integer as overage_queries,
  coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0) as overage_charges,
  s.tier,
  case when not s.is_lifetime then s.quota_limit end as daily_quota,
  k.uses_byo_key
from public.usage_logs u
join private.funding_state s on s.user_id = u.user_id
join public.user_subscriptions k on k.user_id = u.user_id
group by u.user_id, u.query_date, s.tier, s.is_lifetime, s.quota_limit, k.uses_byo_key;
comment on view public.daily_quota_usage is
  'The usage of each user on each UTC day, from the ledger, without charges that were given back. Users see only their '
  'own rows.';
comment on column public.daily_quota_usage.user_id is 'The user.';
comment on column public.daily_quota_usage.query_date is 'The UTC day.';
comment on column public.daily_quota_usage.queries_today is 'Ended queries of the day that count against the quota.';
comment on column public.daily_quota_usage.tokens_today is 'Tokens of all queries of the day.';
comment on column public.daily_quota_usage.cost_today is 'The cost of these queries at the providers, US dollars.';
comment on column public.daily_quota_usage.overage_queries is 'Queries of the day that are charged as overage.';
comment on column public.daily_quota_usage.overage_charges is 'The overage charges of the day, dollars.';
comment on column public.daily_quota_usage.tier is 'The current tier of the user.';
comment on column public.daily_quota_usage.daily_quota is
  'The current daily quota. Null if the quota is a lifetime quota.';
comment on column public.daily_quota_usage.uses_byo_key is 'Whether the user has an active provider key now.';
revoke all on public.daily_quota_usage from public, anon, authenticated, service_role;
grant select on public.daily_quota_usage to authenticated, service_role;
