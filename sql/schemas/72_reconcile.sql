-- The invariants of metering as one query, which returns violations, and the repair of counters.

create or replace view private.conversation_tokens with (security_invoker = true) as
select u.conversation_id, sum(u.tokens_total) as tokens
from public.usage_logs u
-- track_query_usage names a conversation whose totals it leaves as they are.
where u.conversation_id is not null and not (u.chat_key is null and u.request_id like 'track:%')
group by u.conversation_id;
comment on view private.conversation_tokens is 'The tokens of the stored queries of each conversation.';
comment on column private.conversation_tokens.conversation_id is 'The conversation.';
comment on column private.conversation_tokens.tokens is 'Tokens of its queries, those of replaced answers included.';
revoke all on private.conversation_tokens from public, anon, authenticated, service_role;


create or replace view private.overage_owed_again with (security_invoker = true) as
select u.user_id, sum(u.overage_charge) as owed
from public.usage_logs u join public.overage_invoice_items i on i.id = u.invoice_item_id
where u.reversed_at is not null and i.settled_as = 'returned'
group by u.user_id;
comment on view private.overage_owed_again is
  'Overage that was given back, and whose payment was returned after that.';
comment on column private.overage_owed_again.user_id is 'The user.';
comment on column private.overage_owed_again.owed is 'Its amount, dollars.';
revoke all on private.overage_owed_again from public, anon, authenticated, service_role;


create or replace function public.reconcile()
returns table (invariant text, user_id uuid, subject text, expected text, found text)
-- A million queries take seconds. PostgREST applies this time-out to the call.
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with
  -- Every query that has taken funding: charged and not given back, or held.
  taken as (
    select u.user_id, u.funding, u.tier, u.query_date, u.period_start, u.credit_pack_id, u.overage_charge,
           u.quota_limit, u.overage_limit, i.settled_as
    from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
    where u.is_charged and u.reversed_at is null
    union all
    select h.user_id, h.funding, h.tier, h.query_date, h.period_start, h.credit_pack_id, h.overage_charge,
           h.quota_limit, h.overage_limit, null
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
  exposure as (
    select t.user_id, coalesce(sum(t.overage_charge) filter (where t.settled_as is null), 0) as admitted,
           coalesce(sum(t.overage_charge) filter (where coalesce(t.settled_as, 'returned') = 'returned'), 0) as unpaid,
           coalesce(sum(t.overage_charge) filter (where t.settled_as = 'paid'), 0) as paid,
           max(t.overage_limit) filter (where t.settled_as is null) as allowed
    from taken t where t.funding = 'overage' group by 1
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
  select 'I2', o.user_id, 'not paid, of all periods', '<= ' || o.allowed, o.admitted::text
  -- A payment that was returned is owed beyond the limit, which was kept at each admission.
  from exposure o where o.admitted > o.allowed
  union all
  select 'I3', c.user_id, c.id::text, coalesce(t.used, 0)::text || ' of ' || c.credits_purchased,
         concat_ws(' ', c.credits_used, 'used,', c.credits_remaining, 'left,', c.credits_revoked, 'revoked,',
                   c.credits_expired, 'expired')
  from public.credit_packs c left join credits t on t.credit_pack_id = c.id
  where c.credits_used <> coalesce(t.used, 0)
     or c.credits_remaining + c.credits_used + c.credits_revoked + c.credits_expired <> c.credits_purchased
  union all
  select 'I3', c.user_id, c.id::text, concat('credits until ', c.expires_at), 'expired at ' || c.lapsed_at
  from public.credit_packs c where c.lapsed_at < coalesce(c.expires_at, 'infinity')
  union all
  -- The pack of a query is its user's. A row that left its pack also breaks the sum above.
  select 'I3', u.user_id, u.id::text, 'a pack of the user, if credits pay',
         concat_ws(' ', u.funding, coalesce(c.id::text, 'without a pack'), 'of ' || c.user_id)
  from public.usage_logs u left join public.credit_packs c on c.id = u.credit_pack_id
  where u.is_charged and ((u.funding = 'credit') <> (c.id is not null) or u.user_id <> c.user_id)
  union all
  -- Only queries that were admitted after the price last changed: a query in progress keeps the old one.
  select 'price', u.user_id, u.id::text, coalesce(p.overage_price_usd::text, 'no overage'), u.overage_charge::text
  from public.usage_logs u join public.plans p on p.tier = u.tier
  where u.was_overage and u.reversed_at is null and u.overage_charge is distinct from p.overage_price_usd
    and (p.overage_repriced_at is null or u.query_timestamp > p.overage_repriced_at + interval '1 day')
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
  select 'I4', s.user_id, 'unpaid_overage_usd and paid_overage_usd',
         concat_ws(' and ', coalesce(o.unpaid, 0) + coalesce(a.owed, 0), coalesce(o.paid, 0)),
         concat_ws(' and ', s.unpaid_overage_usd, s.paid_overage_usd)
  from public.user_subscriptions s
  left join exposure o on o.user_id = s.user_id
  left join private.overage_owed_again a on a.user_id = s.user_id
  where s.unpaid_overage_usd <> coalesce(o.unpaid, 0) + coalesce(a.owed, 0)
     or s.paid_overage_usd <> coalesce(o.paid, 0)
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
  select 'I4', c.user_id, 'total_tokens of ' || c.id, coalesce(t.tokens, 0)::text, c.total_tokens::text
  from public.conversations c left join private.conversation_tokens t on t.conversation_id = c.id
  where c.total_tokens <> coalesce(t.tokens, 0)
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
    select c.id, (select count(*) from public.messages m where m.conversation_id = c.id) as messages,
           coalesce((select t.tokens from private.conversation_tokens t where t.conversation_id = c.id), 0) as tokens
    from public.conversations c where c.user_id = p_user_id
    order by c.id
    for update
  )
  update public.conversations c set message_count = n.messages, total_tokens = n.tokens from counted n
  where c.id = n.id and (c.message_count, c.total_tokens) <> (n.messages, n.tokens);
  get diagnostics v_repaired = row_count;

  -- A query moves from query_holds to usage_logs in one transaction, so one statement counts it exactly once.
  with taken as (
    select u.funding, u.tier, u.query_date, u.period_start, u.overage_charge, i.settled_as
    from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
    where u.user_id = p_user_id and u.is_charged and u.reversed_at is null
    union all
    select h.funding, h.tier, h.query_date, h.period_start, h.overage_charge, null
    from public.query_holds h where h.user_id = p_user_id
  ), counted as (
    select
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is null and t.query_date = s.quota_date)
        as today,
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is not null) as ever,
      coalesce(sum(t.overage_charge) filter (
        where t.funding = 'overage' and t.period_start = s.overage_period_start), 0) as overage,
      coalesce(sum(t.overage_charge) filter (
        where t.funding = 'overage' and coalesce(t.settled_as, 'returned') = 'returned'), 0)
        + coalesce((select a.owed from private.overage_owed_again a where a.user_id = p_user_id), 0) as unpaid,
      coalesce(sum(t.overage_charge) filter (where t.funding = 'overage' and t.settled_as = 'paid'), 0) as paid,
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
    unpaid_overage_usd = c.unpaid, paid_overage_usd = c.paid, uses_byo_key = c.own_key,
    included_until = case when c.is_included then s.included_until end
  from counted c
  where s.user_id = p_user_id
    and (s.failed_cost_usd, s.quota_used, s.lifetime_used, s.current_overage_amount, s.unpaid_overage_usd,
         s.paid_overage_usd, s.uses_byo_key, s.included_until)
        is distinct from (c.failed_cost, c.today, c.ever, c.overage, c.unpaid, c.paid, c.own_key,
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


create or replace function public.reconcile_operators()
returns table (invariant text, user_id uuid, subject text, expected text, found text)
language sql stable security definer set search_path = '' set statement_timeout = '30s'
as $$
  with latest as (
    select distinct on (a.subject_user_id, a.kind) a.subject_user_id as user_id, a.kind, a.action, a.after
    from (
      select o.subject_user_id, o.created_at, o.id, o.action, o.after,
             case when o.action = 'limit' then 'limit' else 'block' end as kind
      from public.operator_actions o
      where o.subject_user_id is not null and o.action in ('limit', 'block', 'unblock')) a
    order by a.subject_user_id, a.kind, a.created_at desc, a.id desc
  )
  select 'operator', s.user_id, 'block', coalesce(l.action, 'none'), case when s.blocked_at is null then 'not blocked'
                                                                          else 'blocked since ' || s.blocked_at end
  from public.user_subscriptions s left join latest l on l.user_id = s.user_id and l.kind = 'block'
  where (s.blocked_at is not null) <> (l.action is not distinct from 'block')
  union all
  -- Not overage_limit, which the user may change within bounds.
  select 'operator', s.user_id, 'limits', coalesce(recorded.limits, 'none'), set_now.limits
  from public.user_subscriptions s
  left join latest l on l.user_id = s.user_id and l.kind = 'limit'
  cross join lateral (select concat_ws(', ', s.daily_quota || ' a day', s.lifetime_quota || ' ever',
                                       '$' || s.overage_ceiling || ' at most') as limits) set_now
  cross join lateral (select concat_ws(', ', (l.after ->> 'daily_quota') || ' a day',
                                       (l.after ->> 'lifetime_quota') || ' ever',
                                       '$' || (l.after ->> 'overage_ceiling_usd') || ' at most') as limits) recorded
  where set_now.limits <> recorded.limits
  union all
  -- At most the ceiling, without one twice what was paid or the default of a plan, or what an operator set.
  select 'operator', s.user_id, 'overage limit', '<= ' || bound.allowed, s.overage_limit::text
  from public.user_subscriptions s
  left join latest l on l.user_id = s.user_id and l.kind = 'limit'
  cross join (select max(p.overage_limit_usd) as default_limit from public.plans p) d
  cross join lateral (select greatest(
    coalesce(s.overage_ceiling, greatest(d.default_limit, 2 * s.paid_overage_usd)),
    (l.after ->> 'overage_limit_usd')::numeric) as allowed) bound
  where s.overage_limit > bound.allowed
  union all
  select 'operator', a.subject_user_id, 'grant ' || a.id,
         (a.after ->> 'credits') || ' credits until ' || coalesce(a.after ->> 'expires_at', 'ever'),
         coalesce(concat_ws(' ', c.credits_purchased, 'credits of ' || c.user_id, 'until',
                            coalesce(c.expires_at::text, 'ever')), 'no pack')
  from public.operator_actions a left join public.credit_packs c on c.id = a.id
  where a.action = 'grant' and a.subject_user_id is not null
    and (c.user_id, c.credits_purchased, c.expires_at)
        is distinct from (a.subject_user_id, (a.after ->> 'credits')::integer, (a.after ->> 'expires_at')::timestamptz)
  union all
  select 'operator', coalesce(a.subject_user_id, r.user_id), 'credit back ' || coalesce(a.id, r.id),
         coalesce('reversed: ' || a.subject, 'an action'), coalesce('reversed: ' || r.query_id, 'no reversal')
  from (select * from public.operator_actions o where o.action = 'credit back' and o.subject_user_id is not null) a
  full join public.usage_reversals r on r.id = a.id
  where r.query_id::text is distinct from a.subject
$$;
comment on function public.reconcile_operators() is
  'Differences between what operators changed and operator_actions: blocks, limits, granted packs and credits back, '
  'each without its record, or recorded and not there, and overage limits beyond what a user may set. Columns as '
  'reconcile.';
revoke all on function public.reconcile_operators() from public, anon, authenticated, service_role;
grant execute on function public.reconcile_operators() to service_role;


create or replace function public.subscribers(
  p_after uuid default null, p_limit integer default 1000, p_user_id uuid default null)
returns table (
  user_id uuid, stripe_customer_id text, stripe_sequence bigint, stripe_subscription_id text, tier text,
  next_tier text, status text, period_start timestamptz, period_end timestamptz, canceled_at timestamptz,
  past_due_since timestamptz, paid_until timestamptz, open_invoice_url text, unsubscribed_tier text)
language sql stable security definer set search_path = ''
as $$
  select s.user_id, s.stripe_customer_id, s.stripe_sequence, s.stripe_subscription_id, s.tier, s.next_tier, s.status,
         s.current_period_start, s.current_period_end, s.canceled_at, s.past_due_since, s.paid_until,
         s.open_invoice_url,
         -- expire-credits ends pay as you go within a day after the pack has expired.
         private.unsubscribed_tier(
           s.user_id, private.clock() - case when s.tier = 'usage_only' then interval '2 days' else interval '0' end)
  from public.user_subscriptions s
  -- Bounds of the index: a page does not read the pages before it.
  where s.user_id >= coalesce(p_after, p_user_id, '00000000-0000-0000-0000-000000000000')
    and s.user_id <= coalesce(p_user_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') and s.user_id is distinct from p_after
    and (s.stripe_customer_id is not null or s.stripe_subscription_id is not null or s.tier <> 'free')
  order by s.user_id limit least(p_limit, 1000)
$$;
comment on function public.subscribers(uuid, integer, uuid) is
  'Users with a Stripe customer or another plan than free, to compare with Stripe, ordered by id, after p_after, at '
  'most 1,000. unsubscribed_tier: the plan that they have without a subscription. p_user_id: only that user.';
revoke all on function public.subscribers(uuid, integer, uuid) from public, anon, authenticated, service_role;
grant execute on function public.subscribers(uuid, integer, uuid) to service_role;


create or replace view private.stripe_packs with (security_invoker = true) as
select
  c.id, c.created_at, c.user_id, c.stripe_checkout_session_id as session_id, c.stripe_payment_intent_id as payment_id,
  c.credits_purchased as credits, c.credits_remaining as credits_left,
  c.price_paid::numeric as price_paid_usd, c.credits_to_revoke as to_revoke,
  c.is_frozen,
  exists (select from public.operator_actions a where a.id = c.id and a.action = 'grant') as is_recorded, c.expires_at
from public.credit_packs c;
comment on view private.stripe_packs is 'Credit packs with what is compared with their payments at Stripe.';
comment on column private.stripe_packs.id is 'The pack.';
comment on column private.stripe_packs.created_at is 'When it was paid.';
comment on column private.stripe_packs.user_id is 'The owner.';
comment on column private.stripe_packs.session_id is 'The checkout session. Null: the pack was not bought.';
comment on column private.stripe_packs.payment_id is 'The payment intent.';
comment on column private.stripe_packs.credits is 'The credits bought.';
comment on column private.stripe_packs.credits_left is 'The credits left.';
comment on column private.stripe_packs.price_paid_usd is 'The price, dollars.';
comment on column private.stripe_packs.to_revoke is 'Credits that refunds and a lost dispute are worth.';
comment on column private.stripe_packs.is_frozen is 'Whether a dispute is open.';
comment on column private.stripe_packs.is_recorded is 'Whether an operator granted it, with a record.';
comment on column private.stripe_packs.expires_at is 'When the credits left expire. Null: never.';
revoke all on private.stripe_packs from public, anon, authenticated, service_role;


create or replace function public.packs_to_compare(
  p_since timestamptz, p_after uuid default null, p_limit integer default 1000)
returns table (
  id uuid, created_at timestamptz, user_id uuid, session_id text, payment_id text, credits integer,
  price_paid_usd text, to_revoke integer, is_frozen boolean, is_recorded boolean, expires_at timestamptz)
language sql stable security definer set search_path = ''
as $$
  -- `greatest`: the time of a row that was written by hand may be -infinity.
  select s.id, greatest(s.created_at, '2000-01-01Z'), s.user_id, s.session_id, s.payment_id, s.credits,
         s.price_paid_usd::text, s.to_revoke, s.is_frozen, s.is_recorded, s.expires_at
  from private.stripe_packs s
  where (s.created_at >= p_since or s.credits_left > 0)
    and s.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
  order by s.id limit least(p_limit, 1000)
$$;
comment on function public.packs_to_compare(timestamptz, uuid, integer) is
  'Credit packs since a time, and older ones with credits left, ordered by id, after p_after, at most 1,000, to '
  'compare with Stripe.';
revoke all on function public.packs_to_compare(timestamptz, uuid, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.packs_to_compare(timestamptz, uuid, integer) to service_role;


create or replace function public.sold_packs(p_sessions text[] default '{}', p_payments text[] default '{}')
returns table (
  id uuid, created_at timestamptz, user_id uuid, session_id text, payment_id text, credits integer,
  price_paid_usd text, to_revoke integer, is_frozen boolean, is_recorded boolean, expires_at timestamptz)
language sql stable security definer set search_path = ''
as $$
  select s.id, greatest(s.created_at, '2000-01-01Z'), s.user_id, s.session_id, s.payment_id, s.credits,
         s.price_paid_usd::text, s.to_revoke, s.is_frozen, s.is_recorded, s.expires_at
  from private.stripe_packs s
  where s.session_id = any (p_sessions[1:1000]) or s.payment_id = any (p_payments[1:1000])
$$;
comment on function public.sold_packs(text[], text[]) is
  'The credit packs of checkout sessions and payment intents, at most 1,000 of each, to compare with Stripe.';
revoke all on function public.sold_packs(text[], text[]) from public, anon, authenticated, service_role;
grant execute on function public.sold_packs(text[], text[]) to service_role;
