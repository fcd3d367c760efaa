-- The invariants of metering as one query, which returns violations, and the repair of counters.

create or replace function public.reconcile()
returns table (invariant text, user_id uuid, subject text, expected text, found text)
-- A million queries take seconds. PostgREST applies this time-out to the call.
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with
  -- Every query that has taken funding: charged and not given back, or held.
  taken as (
    select u.user_id, u.funding, u.tier, u.query_date, u.period_start, u.credit_pack_id, u.overage_charge,
           u.quota_limit, u.overage_limit
    from public.usage_logs u where u.is_charged and u.reversed_at is null
    union all
    select h.user_id, h.funding, h.tier, h.query_date, h.period_start, h.credit_pack_id, h.overage_charge,
           h.quota_limit, h.overage_limit
    from public.query_holds h
  ),
  included as (
    select t.user_id, p.lifetime_quota is not null as is_lifetime,
           case when p.lifetime_quota is null then t.query_date end as day,
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
  -- The limits are those at the admission of each query, because a downgrade revokes nothing.
  select 'I1', i.user_id, coalesce(i.day::text, 'lifetime'), '<= ' || i.quota, i.used::text
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
  left join included i on i.user_id = s.user_id and not i.is_lifetime and i.day = s.quota_date
  where s.quota_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'lifetime_used', coalesce(i.used, 0)::text, s.lifetime_used::text
  from public.user_subscriptions s
  left join included i on i.user_id = s.user_id and i.is_lifetime
  where s.lifetime_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'current_overage_amount of ' || s.overage_period_start, coalesce(o.used, 0)::text,
         s.current_overage_amount::text
  from public.user_subscriptions s
  left join overage o on o.user_id = s.user_id and o.period_start = s.overage_period_start
  where s.current_overage_amount <> coalesce(o.used, 0)
  union all
  select 'I4', s.user_id, 'failed_cost_usd of ' || s.quota_date, coalesce(f.cost, 0)::text, s.failed_cost_usd::text
  from public.user_subscriptions s
  left join (
    select u.user_id, u.query_date, sum(u.cost_usd) as cost
    from public.usage_logs u where not u.is_charged and not u.used_byo_key group by 1, 2
  ) f on f.user_id = s.user_id and f.query_date = s.quota_date
  where s.failed_cost_usd <> coalesce(f.cost, 0)
  union all
  -- Deleted users have left the ledger. What they have cost stays counted.
  select 'I4', null, 'daily_costs of ' || counted.day, '>= ' || concat_ws(' and ', spent.free, spent.total),
         concat_ws(' and ', counted.free, counted.total)
  from (
    select c.day, sum(c.free_usd) as free, sum(c.total_usd) as total
    from public.daily_costs c group by c.day order by c.day desc limit 1
  ) counted
  cross join lateral (
    select coalesce(sum(u.cost_usd) filter (where u.tier = 'free'), 0) as free, coalesce(sum(u.cost_usd), 0) as total
    from public.usage_logs u where u.query_date = counted.day and not u.used_byo_key
  ) spent
  where counted.free < spent.free or counted.total < spent.total
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
  select 'I5', w.user_id, w.id::text, 'a charged query whose turn is not stored',
         concat_ws(' ', u.outcome, u.message_id)
  from public.pending_turns w left join public.usage_logs u on u.id = w.id
  where u.is_charged is not true or u.message_id is not null
  union all
  select 'overdue', w.user_id, 'turn of ' || w.id, 'stored', 'pending since ' || w.created_at
  from public.pending_turns w where w.created_at < private.clock() - interval '1 hour'
  union all
  select 'I5', u.user_id, u.id::text, 'charged as its funding and outcome say',
         concat_ws(' ', u.funding, u.outcome, u.overage_charge)
  from public.usage_logs u
  where u.used_byo_key <> (u.funding = 'byok')
     or u.counted_against_quota <> (u.funding = 'included' and u.is_charged)
     or u.was_overage <> (u.funding = 'overage' and u.is_charged)
     or u.was_overage <> (u.overage_charge > 0)
     or u.is_charged <> private.is_charged(u.outcome)
     or u.tokens_total <> u.tokens_input + u.tokens_output
  union all
  select 'I5', u.user_id, u.id::text, 'reversed if usage_reversals has its entry',
         concat_ws(' ', u.funding, u.overage_charge, u.reversed_at, r.funding, r.overage_charge)
  from public.usage_logs u left join public.usage_reversals r on r.query_id = u.id
  where (u.reversed_at is null) <> (r.id is null) or r.id is not null and (
    not u.is_charged or (u.user_id, u.funding, u.overage_charge) <> (r.user_id, r.funding, r.overage_charge))
  union all
  select 'I5', c.user_id, m.id::text, (m.tokens_input + m.tokens_output)::text, m.tokens_total::text
  from public.messages m join public.conversations c on c.id = m.conversation_id
  where m.tokens_total <> m.tokens_input + m.tokens_output
  union all
  select 'I4', s.user_id, 'uses_byo_key', (not s.uses_byo_key)::text, s.uses_byo_key::text
  from public.user_subscriptions s
  where s.uses_byo_key <> exists (select from public.user_api_keys k where k.user_id = s.user_id and k.is_active)
  union all
  -- The decision that admission reuses must be the one that it would make.
  select 'I4', s.user_id, 'included_until', 'decided: ' || coalesce(d.funding, d.reason), s.included_until::text
  from public.user_subscriptions s
  join public.plans p on p.tier = s.tier
  join private.funding_state d on d.user_id = s.user_id
  where s.included_until > d.now and s.quota_used < coalesce(s.daily_quota, p.daily_quota)
    and p.lifetime_quota is null and d.included_until is null
  union all
  select 'I6', u.user_id, u.request_id, '1', count(*)::text
  from public.usage_logs u where u.is_charged
  group by u.user_id, u.request_id, u.chat_key having count(*) > 1
  union all
  select 'I6', h.user_id, h.request_id, 'charged or held', 'charged and held'
  from public.query_holds h
  join public.usage_logs u on u.user_id = h.user_id and u.request_id = h.request_id
                          and u.chat_key is not distinct from h.chat_key
                          and u.is_charged
  union all
  select 'I7', i.user_id, i.id::text, concat_ws(' ', i.queries, 'queries,', i.amount_usd),
         concat_ws(' ', count(u.id), 'queries,', coalesce(sum(u.overage_charge), 0))
  from public.overage_invoice_items i
  left join public.usage_logs u on u.invoice_item_id = i.id and u.user_id = i.user_id and u.was_overage
                               and u.period_start = i.period_start and u.overage_charge = i.unit_price_usd
  where i.queries > 0
  group by i.id having count(u.id) <> i.queries
  union all
  select 'I7', i.user_id, i.id::text, 'gives back one query of ' || i.unit_price_usd,
         coalesce(r.overage_charge::text, 'reverses nothing')
  from public.overage_invoice_items i left join public.usage_reversals r on r.invoice_item_id = i.id
  where i.queries < 0 and (i.queries, i.user_id, i.unit_price_usd) is distinct from (-1, r.user_id, r.overage_charge)
  union all
  -- What is left of an item after its queries were given back is rounded as if they had never been on it.
  select 'I7', i.user_id, i.id::text,
         'gives back ' || i.amount_cents - floor((i.queries - count(*)) * i.unit_price_usd * 100) || ' cents',
         concat(sum(g.gives_back_cents))
  from public.usage_reversals r
  join public.usage_logs u on u.id = r.query_id
  join public.overage_invoice_items i on i.id = u.invoice_item_id
  left join public.overage_invoice_items g on g.id = r.invoice_item_id
  group by i.id
  having count(g.id) <> count(*)
      or sum(g.gives_back_cents) <> i.amount_cents - floor((i.queries - count(*)) * i.unit_price_usd * 100)
  union all
  select 'I7', u.user_id, u.id::text, 'billed on an item of its own user, period and price', i.id::text
  from public.usage_logs u
  join public.overage_invoice_items i on i.id = u.invoice_item_id
  where not u.was_overage or u.user_id <> i.user_id or u.period_start <> i.period_start
     or u.overage_charge <> i.unit_price_usd
  union all
  -- 62 days: the longest period, and a month in which bill-overages should have billed it.
  select 'overdue', u.user_id, 'period of ' || u.period_start, 'billed',
         count(*) || ' queries not billed, ' || sum(u.overage_charge)
  from public.usage_logs u
  where u.was_overage and u.invoice_item_id is null and u.reversed_at is null
    and u.query_timestamp < private.clock() - interval '62 days'
  group by u.user_id, u.period_start
  union all
  select 'overdue', i.user_id, i.id::text, 'at Stripe', 'not there after ' || i.attempts || ' attempts'
  from public.overage_invoice_items i
  where i.stripe_invoice_item_id is null and i.created_at < private.clock() - interval '3 days'
  union all
  select 'overdue', null, e.event_id, 'processed',
         concat_ws(' ', e.type, 'failed', e.attempts, 'times:', e.last_error)
  from public.stripe_events e
  where e.processed_at is null and e.created_at < private.clock() - interval '3 days'
$$;
comment on function public.reconcile() is
  'Violations of the invariants of metering, and work that is overdue (bills, events): the invariant, the user, the '
  'subject, the expected value from the ledger, and the value found. No rows: everything is consistent.';
revoke all on function public.reconcile() from public, anon, authenticated, service_role;
grant execute on function public.reconcile() to service_role;


create or replace function public.repair_counters(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_repaired integer := 0;
  v_rows integer;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  -- In the order of settlement: the user, then conversations, then the subscription.
  perform from auth.users where id = p_user_id for key share;

  -- Write
  with counted as (
    select c.id, (select count(*) from public.messages m where m.conversation_id = c.id) as messages
    from public.conversations c where c.user_id = p_user_id
    order by c.id
    for update
  )
  update public.conversations c set message_count = n.messages from counted n
  where c.id = n.id and c.message_count <> n.messages;
  get diagnostics v_repaired = row_count;

  -- A query moves from query_holds to usage_logs in one transaction, so one statement counts it exactly once.
  with taken as (
    select u.funding, u.tier, u.query_date, u.period_start, u.overage_charge
    from public.usage_logs u where u.user_id = p_user_id and u.is_charged and u.reversed_at is null
    union all
    select h.funding, h.tier, h.query_date, h.period_start, h.overage_charge
    from public.query_holds h where h.user_id = p_user_id
  ), counted as (
    select
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is null and t.query_date = s.quota_date)
        as today,
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is not null) as ever,
      coalesce(sum(t.overage_charge) filter (
        where t.funding = 'overage' and t.period_start = s.overage_period_start), 0) as overage,
      (select coalesce(sum(u.cost_usd), 0) from public.usage_logs u
       where u.user_id = p_user_id and u.query_date = s.quota_date and not u.is_charged and not u.used_byo_key)
        as failed_cost,
      exists (select from public.user_api_keys k where k.user_id = p_user_id and k.is_active) as own_key,
      exists (select from private.funding_state d where d.user_id = p_user_id and d.included_until is not null)
        as is_included
    from public.user_subscriptions s
    left join taken t on true
    left join public.plans p on p.tier = t.tier
    where s.user_id = p_user_id
    group by s.id
  )
  update public.user_subscriptions s set
    quota_used = c.today, lifetime_used = c.ever, failed_cost_usd = c.failed_cost, current_overage_amount = c.overage,
    uses_byo_key = c.own_key, included_until = case when c.is_included then s.included_until end
  from counted c
  where s.user_id = p_user_id
    and (s.failed_cost_usd, s.quota_used, s.lifetime_used, s.current_overage_amount, s.uses_byo_key, s.included_until)
        is distinct from (c.failed_cost, c.today, c.ever, c.overage, c.own_key,
                          case when c.is_included then s.included_until end);
  get diagnostics v_rows = row_count;
  return v_repaired + v_rows;
end
$$;
comment on function public.repair_counters(uuid) is
  'Sets the counters of a user to the values of the ledger, holds, keys and messages, and clears a wrong '
  'included_until. Returns how many rows changed. Changes no charge, credit or bill.';
revoke all on function public.repair_counters(uuid) from public, anon, authenticated, service_role;
grant execute on function public.repair_counters(uuid) to service_role;
