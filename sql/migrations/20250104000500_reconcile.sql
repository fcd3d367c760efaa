-- The invariants of metering, as one query: what it returns should not be. Then what compares the books with Stripe's,
-- what mends counters, and what the month has earned.

create or replace function public.reconcile()
returns table (invariant text, user_id uuid, subject text, expected text, found text)
-- Over a million queries it takes seconds; PostgREST gives the call the time that is set here.
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with
  -- Every query that holds or has taken its funding.
  taken as (
    select u.user_id, u.funding, u.tier, u.query_date, u.period_start, u.credit_pack_id, u.overage_charge,
           u.quota_limit, u.overage_limit
    from public.usage_logs u where u.outcome in ('answered', 'stopped')
    union all
    select h.user_id, h.funding, h.tier, h.query_date, h.period_start, h.credit_pack_id, h.overage_charge,
           h.quota_limit, h.overage_limit
    from public.query_holds h
  ),
  included as (
    select t.user_id, p.lifetime_quota is not null as for_life, case when p.lifetime_quota is null then t.query_date end as day,
           count(*) as used, max(t.quota_limit) as quota
    from taken t join public.plans p on p.tier = t.tier
    where t.funding = 'included' group by 1, 2, 3
  ),
  overage as (
    select t.user_id, t.period_start, sum(t.overage_charge) as used, max(t.overage_limit) as allowed
    from taken t where t.funding = 'overage' group by 1, 2
  ),
  credits as (
    select t.credit_pack_id, count(*) as used from taken t where t.credit_pack_id is not null group by 1
  )
  -- Limits are those in force when each query was admitted: a downgrade takes nothing back.
  select 'I1', i.user_id, coalesce(i.day::text, 'for life'), '<= ' || i.quota, i.used::text
  from included i where i.used > i.quota
  union all
  select 'I2', o.user_id, o.period_start::text, '<= ' || o.allowed, o.used::text
  from overage o where o.used > o.allowed
  union all
  select 'I3', c.user_id, c.id::text, coalesce(t.used, 0)::text || ' of ' || c.credits_purchased,
         concat_ws(' ', c.credits_used, 'used,', c.credits_remaining, 'left,', c.credits_revoked, 'revoked,',
                   c.credits_expired, 'expired')
  from public.credit_packs c left join credits t on t.credit_pack_id = c.id
  where c.credits_used <> coalesce(t.used, 0)
     or c.credits_remaining + c.credits_used + c.credits_revoked + c.credits_expired <> c.credits_purchased
  union all
  select 'I4', s.user_id, 'quota_used of ' || s.quota_date, coalesce(i.used, 0)::text, s.quota_used::text
  from public.user_subscriptions s
  left join included i on i.user_id = s.user_id and not i.for_life and i.day = s.quota_date
  where s.quota_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'lifetime_used', coalesce(i.used, 0)::text, s.lifetime_used::text
  from public.user_subscriptions s
  left join included i on i.user_id = s.user_id and i.for_life
  where s.lifetime_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'current_overage_amount of ' || s.overage_period_start, coalesce(o.used, 0)::text,
         s.current_overage_amount::text
  from public.user_subscriptions s
  left join overage o on o.user_id = s.user_id and o.period_start = s.overage_period_start
  where s.current_overage_amount <> coalesce(o.used, 0)
  union all
  select 'I4', c.user_id, 'message_count of ' || c.id, count(m.id)::text, c.message_count::text
  from public.conversations c left join public.messages m on m.conversation_id = c.id
  group by c.id having count(m.id) <> c.message_count
  union all
  select 'I5', h.user_id, h.id::text, 'ended by ' || h.expires_at, 'held'
  from public.query_holds h where h.expires_at < private.clock() - interval '1 hour'
  union all
  select 'I5', h.user_id, h.id::text, 'held or ended', 'held and ended'
  from public.query_holds h join public.usage_logs u on u.id = h.id
  union all
  select 'I5', u.user_id, u.id::text, 'charged as its funding and outcome say',
         concat_ws(' ', u.funding, u.outcome, u.overage_charge)
  from public.usage_logs u
  where u.used_byo_key <> (u.funding = 'byok')
     or u.counted_against_quota <> (u.funding = 'included' and u.outcome in ('answered', 'stopped'))
     or u.was_overage <> (u.funding = 'overage' and u.outcome in ('answered', 'stopped'))
     or u.was_overage <> (u.overage_charge > 0)
  union all
  select 'I4', s.user_id, 'uses_byo_key', (not s.uses_byo_key)::text, s.uses_byo_key::text
  from public.user_subscriptions s
  where s.uses_byo_key <> exists (select from public.user_api_keys k where k.user_id = s.user_id and k.is_active)
  union all
  -- What admission presumes has to be what it would decide.
  select 'I4', s.user_id, 'included_until', 'decided: ' || coalesce(d.funding, d.reason), s.included_until::text
  from public.user_subscriptions s
  join public.plans p on p.tier = s.tier
  join private.standing d on d.user_id = s.user_id
  where s.included_until > d.now and s.quota_used < coalesce(s.daily_quota, p.daily_quota) and p.lifetime_quota is null
    and d.included_until is null
  union all
  select 'I6', u.user_id, u.request_id, '1', count(*)::text
  from public.usage_logs u where u.outcome in ('answered', 'stopped')
  group by u.user_id, u.request_id having count(*) > 1
  union all
  select 'I6', h.user_id, h.request_id, 'charged or held', 'charged and held'
  from public.query_holds h
  join public.usage_logs u on u.user_id = h.user_id and u.request_id = h.request_id
                          and u.outcome in ('answered', 'stopped')
  union all
  select 'I7', i.user_id, i.id::text, concat_ws(' ', i.queries, 'queries,', i.amount_usd),
         concat_ws(' ', count(u.id), 'queries,', coalesce(sum(u.overage_charge), 0))
  from public.overage_invoice_items i
  left join public.usage_logs u on u.invoice_item_id = i.id and u.user_id = i.user_id and u.was_overage
                               and u.period_start = i.period_start and u.overage_charge = i.unit_price_usd
  group by i.id having count(u.id) <> i.queries
  union all
  select 'I7', u.user_id, u.id::text, 'billed on an item of its own user, period and price', i.id::text
  from public.usage_logs u
  join public.overage_invoice_items i on i.id = u.invoice_item_id
  where not u.was_overage or u.user_id <> i.user_id or u.period_start <> i.period_start
     or u.overage_charge <> i.unit_price_usd
  union all
  -- The longest period and a month: the sweep has had its time.
  select 'overdue', u.user_id, 'period of ' || u.period_start, 'billed', count(*) || ' queries not billed, ' || sum(u.overage_charge)
  from public.usage_logs u
  where u.was_overage and u.invoice_item_id is null and u.query_timestamp < private.clock() - interval '62 days'
  group by u.user_id, u.period_start
  union all
  select 'overdue', i.user_id, i.id::text, 'at Stripe', 'not there after ' || i.attempts || ' attempts'
  from public.overage_invoice_items i
  where i.stripe_invoice_item_id is null and i.created_at < private.clock() - interval '3 days'
  union all
  select 'overdue', null, e.event_id, 'dealt with', concat_ws(' ', e.type, 'failed', e.attempts, 'times:', e.last_error)
  from public.stripe_events e
  where e.processed_at is null and e.created_at < private.clock() - interval '3 days'
$$;
comment on function public.reconcile() is
  'Rows that break an invariant of metering, and what should have been billed or dealt with long ago (overdue): which, '
  'whose, where, what the ledger says and what was found. None is right.';
revoke all on function public.reconcile() from public, anon, authenticated, service_role;
grant execute on function public.reconcile() to service_role;


create or replace function public.mend_counters(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_mended integer := 0;
  v_rows integer;
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  -- In the order of settling: a deletion has the user for itself, conversations come before subscriptions.
  perform from auth.users where id = p_user_id for key share;
  with counted as (
    select c.id, (select count(*) from public.messages m where m.conversation_id = c.id) as messages
    from public.conversations c where c.user_id = p_user_id
    order by c.id
    for update
  )
  update public.conversations c set message_count = n.messages from counted n
  where c.id = n.id and c.message_count <> n.messages;
  get diagnostics v_mended = row_count;

  -- A query moves from held to ended in one transaction, so one statement counts it once.
  with taken as (
    select u.funding, u.tier, u.query_date, u.period_start, u.overage_charge
    from public.usage_logs u where u.user_id = p_user_id and u.outcome in ('answered', 'stopped')
    union all
    select h.funding, h.tier, h.query_date, h.period_start, h.overage_charge
    from public.query_holds h where h.user_id = p_user_id
  ), counted as (
    select
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is null and t.query_date = s.quota_date) as today,
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is not null) as ever,
      coalesce(sum(t.overage_charge) filter (where t.funding = 'overage' and t.period_start = s.overage_period_start), 0)
        as overage,
      exists (select from public.user_api_keys k where k.user_id = p_user_id and k.is_active) as own_key,
      exists (select from private.standing d where d.user_id = p_user_id and d.included_until is not null) as is_included
    from public.user_subscriptions s
    left join taken t on true
    left join public.plans p on p.tier = t.tier
    where s.user_id = p_user_id
    group by s.id
  )
  update public.user_subscriptions s set
    quota_used = c.today, lifetime_used = c.ever, current_overage_amount = c.overage, uses_byo_key = c.own_key,
    included_until = case when c.is_included then s.included_until end
  from counted c
  where s.user_id = p_user_id
    and (s.quota_used, s.lifetime_used, s.current_overage_amount, s.uses_byo_key, s.included_until)
        is distinct from (c.today, c.ever, c.overage, c.own_key, case when c.is_included then s.included_until end);
  get diagnostics v_rows = row_count;
  return v_mended + v_rows;
end
$$;
comment on function public.mend_counters(uuid) is
  'Sets a user''s counters to what the ledger, the holds, the keys and the messages say, and ends what is presumed wrongly '
  'of their quota; returns how many rows that changed. Touches no charge, no credit and no bill.';
revoke all on function public.mend_counters(uuid) from public, anon, authenticated, service_role;
grant execute on function public.mend_counters(uuid) to service_role;


create or replace function public.billed_items(p_since timestamptz, p_after uuid default null, p_limit integer default 1000)
returns table (
  id uuid, created_at timestamptz, user_id uuid, amount_cents integer, stripe_invoice_item_id text, stripe_invoice_id text)
language sql stable security definer set search_path = ''
as $$
  select i.* from (
    select o.id, o.created_at, o.user_id, o.amount_cents, o.stripe_invoice_item_id, o.stripe_invoice_id
    from public.overage_invoice_items o where o.created_at >= p_since and (p_after is null or o.id > p_after)
    union all
    select r.id, r.created_at, null, r.amount_cents, r.stripe_invoice_item_id, r.stripe_invoice_id
    from public.retained_invoice_items r where r.created_at >= p_since and (p_after is null or r.id > p_after)
  ) i
  order by i.id limit least(p_limit, 1000)
$$;
comment on function public.billed_items(timestamptz, uuid, integer) is
  'What we say is billed beyond the plans since a time, by id from p_after on, at most 1,000: for a comparison with Stripe. '
  'Without a user: whose user was deleted.';
revoke all on function public.billed_items(timestamptz, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.billed_items(timestamptz, uuid, integer) to service_role;


create or replace function public.sold_packs(p_sessions text[])
returns table (session_id text, user_id uuid, credits integer, price_paid_usd text)
language sql stable security definer set search_path = ''
as $$
  select c.stripe_checkout_session_id, c.user_id, c.credits_purchased, c.price_paid::text
  from public.credit_packs c where c.stripe_checkout_session_id = any (p_sessions[1:1000])
$$;
comment on function public.sold_packs(text[]) is
  'The packs that were granted for checkout sessions, at most 1,000 at once: for a comparison with Stripe.';
revoke all on function public.sold_packs(text[]) from public, anon, authenticated, service_role;
grant execute on function public.sold_packs(text[]) to service_role;


create or replace function public.margin_report(p_month date)
returns table (
  tier text, provider text, model text, queries bigint, overage_usd text, credits_usd text, cost_usd text, written_off_usd text)
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with spent as (
    select u.tier, u.provider, u.model, count(*) as queries, sum(u.overage_charge) as overage,
           coalesce(sum(c.price_per_credit) filter (where u.outcome in ('answered', 'stopped')), 0) as credits,
           coalesce(sum(u.cost_usd) filter (where not u.used_byo_key), 0) as cost, 0 as written_off
    from public.usage_logs u
    left join public.credit_packs c on c.id = u.credit_pack_id
    where u.query_date >= date_trunc('month', p_month)::date
      and u.query_date < (date_trunc('month', p_month) + interval '1 month')::date
    group by 1, 2, 3
    union all
    select r.tier, r.provider, r.model, r.queries, r.overage_usd, r.credits_usd,
           case when r.funding = 'byok' then 0 else r.cost_usd end, r.written_off_usd
    from public.retained_usage r where r.month = date_trunc('month', p_month)::date
  )
  select s.tier, s.provider, s.model, sum(s.queries)::bigint, sum(s.overage)::numeric(20,6)::text,
         sum(s.credits)::numeric(20,6)::text, sum(s.cost)::numeric(20,6)::text, sum(s.written_off)::numeric(20,6)::text
  from spent s group by 1, 2, 3 order by 1, 2, 3
$$;
comment on function public.margin_report(date) is
  'A UTC month by tier and model: queries, what overage and spent credits were charged, and what the providers charge us '
  'for them (nothing for own keys), US dollars as text. Plan fees are Stripe''s to tell.';
revoke all on function public.margin_report(date) from public, anon, authenticated, service_role;
grant execute on function public.margin_report(date) to service_role;
