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
      'unit_price_usd', i.unit_price_usd::text, 'amount_usd', i.amount_usd::text, 'amount_cents', i.amount_cents,
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
