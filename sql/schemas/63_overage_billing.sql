-- The ledger's overage becomes Stripe invoice items.

create or replace function public.claim_overage(p_user_id uuid, p_until timestamptz, p_target jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;

  -- Take
  -- Skip locked rows, whose conversation is being deleted: waiting for one while holding others could deadlock. The
  -- next call bills them.
  with due as (
    select u.id, u.period_start, u.overage_charge
    from public.usage_logs u
    where u.user_id = p_user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null
      and u.query_timestamp < p_until
    for no key update skip locked
  ), made as (
    insert into public.overage_invoice_items as i (created_at, user_id, period_start, queries, unit_price_usd, target)
    select private.clock(), p_user_id, d.period_start, count(*), d.overage_charge, p_target from due d
    group by d.period_start, d.overage_charge
    order by d.period_start, d.overage_charge
    returning i.id, i.period_start, i.unit_price_usd
  )
  update public.usage_logs u set invoice_item_id = m.id
  from due d join made m on m.period_start = d.period_start and m.unit_price_usd = d.overage_charge
  where u.id = d.id;
  update public.overage_invoice_items i set attempts = i.attempts + 1
  where i.user_id = p_user_id and i.stripe_invoice_item_id is null;

  -- Return
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', i.id, 'created_at', i.created_at, 'period_start', i.period_start, 'queries', i.queries,
      'currency', (select s.currency from public.settings s), 'unit_price_usd', i.unit_price_usd::text,
      'amount_usd', i.amount_usd::text, 'amount_cents', i.amount_cents,
      'attempts', i.attempts, 'target', i.target, 'refusals', i.refusals,
      'stripe_invoice_item_id', i.stripe_invoice_item_id) order by i.period_start, i.id), '[]')
    from public.overage_invoice_items i
    where i.user_id = p_user_id and (i.stripe_invoice_item_id is null or i.stripe_invoice_id is null));
end
$$;
comment on function public.claim_overage(uuid, timestamptz, jsonb) is
  'Collects the settled overage of a user before p_until into invoice items, one per period and price. Each query is '
  'collected once, and one that was given back not at all. p_target: parameters of the Stripe request. Returns the '
  'items that are not known to be on an invoice, those that give back included.';
revoke all on function public.claim_overage(uuid, timestamptz, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.claim_overage(uuid, timestamptz, jsonb) to service_role;


create or replace function public.retarget_overage(p_id uuid, p_refusals integer, p_target jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.overage_invoice_items i set target = p_target, refusals = i.refusals + 1
  where i.id = p_id and i.refusals = p_refusals and i.stripe_invoice_item_id is null;
end
$$;
comment on function public.retarget_overage(uuid, integer, jsonb) is
  'Changes the target of an item after Stripe permanently refused it. p_refusals: the refusals before this one, so '
  'that a repeated call changes nothing.';
revoke all on function public.retarget_overage(uuid, integer, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.retarget_overage(uuid, integer, jsonb) to service_role;


create or replace function public.place_overage(p_id uuid, p_invoice_item_id text, p_invoice_id text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.overage_invoice_items i set
    stripe_invoice_item_id = p_invoice_item_id, stripe_invoice_id = coalesce(p_invoice_id, i.stripe_invoice_id)
  where i.id = p_id;
end
$$;
comment on function public.place_overage(uuid, text, text) is
  'Records the Stripe invoice item and the invoice of an item. Invoice null: the item waits for one.';
revoke all on function public.place_overage(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.place_overage(uuid, text, text) to service_role;


create or replace function public.users_to_bill(p_after uuid default null, p_limit integer default 100)
returns table (user_id uuid, stripe_customer_id text)
language sql stable security definer set search_path = ''
as $$
  select s.user_id, s.stripe_customer_id
  from public.user_subscriptions s
  where (p_after is null or s.user_id > p_after) and s.stripe_customer_id is not null
    and (exists (
           select from public.usage_logs u
           where u.user_id = s.user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null
             and (s.stripe_subscription_id is null or u.query_timestamp < s.current_period_start
                  or s.current_period_end <= private.clock()))
         or exists (
           select from public.overage_invoice_items i
           where i.user_id = s.user_id and (i.stripe_invoice_item_id is null or i.stripe_invoice_id is null)))
  order by s.user_id limit least(p_limit, 1000)
$$;
comment on function public.users_to_bill(uuid, integer) is
  'Users with overage of an ended period that is on no invoice, ordered by id, after p_after, at most 1,000.';
revoke all on function public.users_to_bill(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.users_to_bill(uuid, integer) to service_role;


create or replace function public.users_at_threshold(p_after uuid default null, p_limit integer default 100)
returns table (user_id uuid, stripe_customer_id text)
language sql stable security definer set search_path = ''
as $$
  select s.user_id, s.stripe_customer_id
  from public.user_subscriptions s
  join public.plans p on p.tier = s.tier
  where s.owes_overage and (p_after is null or s.user_id > p_after) and s.stripe_customer_id is not null
    -- The next query would exceed it, or the limit of the period. `case`: the ledger is read for such users only. An
    -- item without an invoice is left by a run that failed in between.
    and case when s.unpaid_overage_usd + p.overage_price_usd > least(
                    -- Not another charge to the card that did not pay the last one, until the limit is reached.
                    case when s.open_invoice_url is null then p.overage_threshold_usd end,
                    coalesce(s.overage_limit, p.overage_limit_usd))
                  or s.current_overage_amount + p.overage_price_usd > coalesce(s.overage_limit, p.overage_limit_usd)
             then 0.5 <= (
               select coalesce(sum(u.overage_charge), 0) from public.usage_logs u
               where u.user_id = s.user_id and u.was_overage and u.invoice_item_id is null
                 and u.reversed_at is null) + (
               select coalesce(sum(i.queries * i.unit_price_usd), 0) from public.overage_invoice_items i
               where i.user_id = s.user_id and i.stripe_invoice_id is null) end
  order by s.user_id limit least(p_limit, 1000)
$$;
comment on function public.users_at_threshold(uuid, integer) is
  'Users who owe as much overage as the threshold of their plan or their limit allows, or whose period is at the '
  'limit, and of which some is on no invoice, ordered by id, after p_after, at most 1,000. While an invoice of theirs '
  'is open, the threshold is the limit.';
revoke all on function public.users_at_threshold(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.users_at_threshold(uuid, integer) to service_role;


create or replace function public.unsettled_overage(p_user_id uuid, p_invoice_id text default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', i.id, 'stripe_invoice_item_id', i.stripe_invoice_item_id, 'stripe_invoice_id', i.stripe_invoice_id,
      'settled_as', i.settled_as) order by i.id), '[]')
    from public.overage_invoice_items i
    where i.user_id = p_user_id and i.queries > 0 and i.stripe_invoice_item_id is not null
      and (i.settled_as is null
           or p_invoice_id is not null
              and (i.stripe_invoice_id = p_invoice_id or i.settled_as in ('credited', 'returned'))));
end
$$;
comment on function public.unsettled_overage(uuid, text) is
  'The invoice items of a user at Stripe that are not settled: {id, stripe_invoice_item_id, stripe_invoice_id, '
  'settled_as}. p_invoice_id: an invoice whose payment has changed. Then also its items, and those that are credited '
  'or returned, because the payment may have paid for a credit.';
revoke all on function public.unsettled_overage(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.unsettled_overage(uuid, text) to service_role;


create or replace function public.settle_overage(p_user_id uuid, p_sequence bigint, p_items jsonb) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_settled integer;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));

  -- Write
  -- A payment may be returned, and a return may fail or a dispute be won, so an older state must not win.
  with settled as (
    update public.overage_invoice_items i set settled_as = p_items ->> i.id::text, stripe_sequence = p_sequence
    from public.overage_invoice_items before
    where before.id = i.id and i.user_id = p_user_id and i.queries > 0 and p_items ? i.id::text
      and i.stripe_sequence < p_sequence
    returning i.id, before.settled_as as settled_before, i.settled_as
  ), amounts as (
    select count(distinct d.id) as items,
           coalesce(sum(u.overage_charge * (
             (d.settled_as = 'returned')::integer
             - (coalesce(d.settled_before, 'returned') = 'returned')::integer)), 0) as unpaid,
           -- What was given back was paid before, and is owed as well if the payment is returned after that: the
           -- credit at Stripe stays.
           coalesce(sum(u.overage_charge * (
             (d.settled_as = 'paid')::integer - coalesce(d.settled_before = 'paid', false)::integer))
             filter (where u.reversed_at is null), 0) as paid
    from settled d
    left join public.usage_logs u on u.invoice_item_id = d.id
    where d.settled_as is distinct from d.settled_before
  ), counted as (
    update public.user_subscriptions s set
      unpaid_overage_usd = s.unpaid_overage_usd + a.unpaid, paid_overage_usd = s.paid_overage_usd + a.paid,
      -- The limit was set up to twice what had been paid.
      overage_limit = case when a.paid < 0 and s.overage_limit is not null
                           then private.bounded_overage_limit(
                             s.overage_limit, s.overage_ceiling, s.paid_overage_usd + a.paid, s.tier)
                           else s.overage_limit end
    from amounts a
    where s.user_id = p_user_id and a.items > 0
  )
  select a.items into v_settled from amounts a;

  -- Return
  return v_settled;
end
$$;
comment on function public.settle_overage(uuid, bigint, jsonb) is
  'Records how invoice items of a user were settled: {id: paid, credited, void or returned}, unless a newer state was '
  'recorded. What was returned is owed again, with the queries that were given back; the rest is not owed from then '
  'on. Only what was paid counts as paid; when that falls, the limit falls to what the user may set. p_sequence: drawn '
  'before the state was read. Returns how many changed.';
revoke all on function public.settle_overage(uuid, bigint, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.settle_overage(uuid, bigint, jsonb) to service_role;
