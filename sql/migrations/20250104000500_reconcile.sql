-- The invariants of metering, as one query: what it returns should not be.

create or replace function public.reconcile()
returns table (invariant text, user_id uuid, subject text, expected text, found text)
language sql stable security definer set search_path = ''
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
         c.credits_used || ' used, ' || c.credits_remaining || ' left, ' || c.credits_revoked || ' revoked'
  from public.credit_packs c left join credits t on t.credit_pack_id = c.id
  where c.credits_used <> coalesce(t.used, 0)
     or c.credits_remaining + c.credits_used + c.credits_revoked <> c.credits_purchased
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
$$;
comment on function public.reconcile() is
  'Rows that break an invariant of metering: which, whose, where, what the ledger says and what was found. None is right.';
revoke all on function public.reconcile() from public, anon, authenticated, service_role;
grant execute on function public.reconcile() to service_role;
