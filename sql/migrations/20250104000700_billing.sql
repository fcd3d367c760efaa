-- Billing: what Stripe says of a customer or a payment becomes a user's plan and packs; what the ledger says of overage
-- becomes invoice items.
--
-- Stripe is looked at, not believed: an event only says where to look. Each look has a number that is drawn before it is
-- taken (claim_stripe_event), and each row remembers the number of the look it tells of. A later look sees what an
-- earlier one saw or newer, so an older number changes nothing, in whatever order and however often events come.
-- What is applied is worked out from Stripe's state alone, never from what the row said before.


create or replace function public.list_plans() returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return jsonb_build_object(
    'plans', (
      select jsonb_agg(jsonb_build_object(
        'tier', p.tier, 'name', p.name, 'price_usd', p.price_usd::text, 'daily_quota', p.daily_quota,
        'lifetime_quota', p.lifetime_quota, 'overage_price_usd', p.overage_price_usd::text,
        'overage_limit_usd', p.overage_limit_usd::text, 'allows_credits', p.allows_credits,
        'allows_byok', p.allows_byok, 'history_days', p.history_days, 'models', p.models)
        order by p.price_usd, p.lifetime_quota nulls last)
      from public.plans p),
    'packs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', k.slug, 'name', k.name, 'credits', k.credits, 'price_usd', k.price_usd::text,
        'price_per_credit_usd', round(k.price_usd / k.credits, 6)::text, 'expires_after_days', k.expires_after_days)
        order by k.credits), '[]')
      from public.packs k where k.is_sold));
end
$$;
comment on function public.list_plans() is 'What is sold: plans and credit packs. The answer of GET /plans.';
revoke all on function public.list_plans() from public, anon, authenticated, service_role;
grant execute on function public.list_plans() to anon, authenticated, service_role;


-- Checkout ------------------------------------------------------------------------------------------------------

create or replace function public.billing_profile(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'email', u.email, 'stripe_customer_id', s.stripe_customer_id, 'stripe_sequence', s.stripe_sequence)
    from public.user_subscriptions s join auth.users u on u.id = s.user_id where s.user_id = p_user_id);
end
$$;
comment on function public.billing_profile(uuid) is
  'What Stripe is told of a user, the customer that they are there, and the newest look at it. Null: no such user.';
revoke all on function public.billing_profile(uuid) from public, anon, authenticated, service_role;
grant execute on function public.billing_profile(uuid) to service_role;


create or replace function public.link_stripe_customer(p_user_id uuid, p_customer_id text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer_id text;
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  update public.user_subscriptions s set stripe_customer_id = coalesce(s.stripe_customer_id, p_customer_id)
  where s.user_id = p_user_id
  returning s.stripe_customer_id into v_customer_id;
  return v_customer_id;
end
$$;
comment on function public.link_stripe_customer(uuid, text) is
  'Makes a user the customer at Stripe, unless they are one already; returns whom they are. Null: no such user.';
revoke all on function public.link_stripe_customer(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.link_stripe_customer(uuid, text) to service_role;


create or replace function public.set_overage(p_settings jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Only a signed-in user has overage settings.';
  elsif (p_settings ->> 'overage_limit_usd')::numeric not between 0 and 10000 then
    raise invalid_parameter_value using message = 'The overage limit is 0 to 10,000 US dollars.';
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));
  update public.user_subscriptions s set
    allow_overages = coalesce((p_settings ->> 'allow_overages')::boolean, s.allow_overages),
    overage_limit = case when p_settings ? 'overage_limit_usd' then (p_settings ->> 'overage_limit_usd')::numeric
                         else s.overage_limit end
  where s.user_id = v_user_id;
  return public.usage_summary() -> 'overage';
end
$$;
comment on function public.set_overage(jsonb) is
  'Sets the signed-in user''s {allow_overages, overage_limit_usd}, those that are given; a limit of null is the plan''s '
  'again. Returns the overage of usage_summary.';
revoke all on function public.set_overage(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.set_overage(jsonb) to authenticated;


-- Events --------------------------------------------------------------------------------------------------------

create or replace function public.claim_stripe_event(p_event_id text, p_type text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_processed_at timestamptz;
begin
  insert into public.stripe_events as e (created_at, event_id, type, attempts)
  values (private.clock(), p_event_id, p_type, 1)
  on conflict (event_id) do update set attempts = e.attempts + 1 where e.processed_at is null;
  select e.processed_at into v_processed_at from public.stripe_events e where e.event_id = p_event_id;
  return jsonb_build_object(
    'processed', v_processed_at is not null, 'sequence', nextval('private.stripe_sequence'::regclass));
end
$$;
comment on function public.claim_stripe_event(text, text) is
  'Notes that an event is being dealt with. Returns whether it has been already, and the number of the look at Stripe '
  'that begins now. Two may deal with one event at once.';
revoke all on function public.claim_stripe_event(text, text) from public, anon, authenticated, service_role;
grant execute on function public.claim_stripe_event(text, text) to service_role;


create or replace function public.begin_stripe_look() returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return nextval('private.stripe_sequence'::regclass);
end
$$;
comment on function public.begin_stripe_look() is 'The number of a look at Stripe that no event asked for and that begins now.';
revoke all on function public.begin_stripe_look() from public, anon, authenticated, service_role;
grant execute on function public.begin_stripe_look() to service_role;


create or replace function public.finish_stripe_event(p_event_id text, p_error text default null) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.stripe_events e set
    last_error = p_error, processed_at = case when p_error is null then private.clock() end
  where e.event_id = p_event_id and e.processed_at is null;
end
$$;
comment on function public.finish_stripe_event(text, text) is
  'Notes that an event''s effect is committed, or the kind of failure that it ended with.';
revoke all on function public.finish_stripe_event(text, text) from public, anon, authenticated, service_role;
grant execute on function public.finish_stripe_event(text, text) to service_role;


create or replace function public.unfinished_stripe_events(p_after uuid default null, p_limit integer default 100)
returns table (id uuid, event_id text)
language sql stable security definer set search_path = ''
as $$
  select e.id, e.event_id from public.stripe_events e
  where e.processed_at is null and (p_after is null or e.id > p_after)
    -- Stripe keeps an event for thirty days; one that is being dealt with right now is left to that.
    and e.created_at between private.clock() - interval '29 days' and private.clock() - interval '5 minutes'
  order by e.id limit least(p_limit, 1000)
$$;
comment on function public.unfinished_stripe_events(uuid, integer) is
  'Events whose effect is not committed, by id from p_after on, at most 1,000.';
revoke all on function public.unfinished_stripe_events(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.unfinished_stripe_events(uuid, integer) to service_role;


-- Subscriptions and packs ---------------------------------------------------------------------------------------

create or replace function public.apply_customer(
  p_customer_id text, p_sequence bigint, p_is_deleted boolean, p_subscription jsonb)
returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid;
  v_tier text;
begin
  select s.user_id into v_user_id from public.user_subscriptions s where s.stripe_customer_id = p_customer_id;
  if v_user_id is null then
    return null;
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));
  if p_subscription is null then
    v_tier := private.unsubscribed_tier(v_user_id, private.clock());
  else
    select p.tier into strict v_tier from public.plans p
    where p.tier = p_subscription ->> 'tier' or p_subscription -> 'paid_tiers' ? p.tier
    order by p.price_usd desc limit 1;
  end if;
  update public.user_subscriptions s set
    tier = v_tier,
    next_tier = case when p_subscription ->> 'status' <> 'canceled' then nullif(p_subscription ->> 'tier', v_tier) end,
    status = coalesce(p_subscription ->> 'status', 'active'),
    stripe_customer_id = case when not p_is_deleted then s.stripe_customer_id end,
    stripe_subscription_id = p_subscription ->> 'id',
    current_period_start = (p_subscription ->> 'period_start')::timestamptz,
    current_period_end = (p_subscription ->> 'period_end')::timestamptz,
    canceled_at = (p_subscription ->> 'canceled_at')::timestamptz,
    past_due_since = (p_subscription ->> 'past_due_since')::timestamptz,
    stripe_sequence = p_sequence
  where s.user_id = v_user_id and s.stripe_customer_id = p_customer_id and s.stripe_sequence < p_sequence;
  return v_user_id;
end
$$;
comment on function public.apply_customer(text, bigint, boolean, jsonb) is
  'Makes a look at a customer at Stripe the user''s plan, unless a later one is known. p_subscription: {id, tier, '
  'paid_tiers, status, period_start, period_end, canceled_at, past_due_since}, null where none is live. The best of '
  'tier and paid_tiers holds until the period ends, then tier does, unless cancelled. Returns the user; null: nobody''s customer.';
revoke all on function public.apply_customer(text, bigint, boolean, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_customer(text, bigint, boolean, jsonb) to service_role;


create or replace function public.apply_pack(p_user_id uuid, p_sequence bigint, p_payment jsonb) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_session_id constant text := p_payment ->> 'session_id';
  v_credits constant integer := (p_payment ->> 'credits')::integer;
  v_paid_at constant timestamptz := (p_payment ->> 'paid_at')::timestamptz;
  v_due integer;
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  if not found then
    return null;
  end if;
  v_due := case
    when (p_payment ->> 'is_lost')::boolean then v_credits
    else floor(v_credits * (p_payment ->> 'refunded_cents')::numeric / (p_payment ->> 'paid_cents')::numeric) end;
  if v_paid_at is not null then
    insert into public.credit_packs (
      created_at, user_id, credits_purchased, credits_remaining, price_paid, stripe_payment_intent_id,
      stripe_checkout_session_id, expires_at)
    select v_paid_at, p_user_id, v_credits, v_credits, (p_payment ->> 'paid_cents')::numeric / 100,
           p_payment ->> 'payment_intent_id', v_session_id,
           v_paid_at + (select k.expires_after_days * interval '1 day' from public.packs k where k.slug = p_payment ->> 'pack')
    on conflict (stripe_checkout_session_id) do nothing;
  end if;
  -- Taken back is what is due of what has not been used; a query that is running and fails gives its credit to it.
  update public.credit_packs c set
    credits_to_revoke = v_due,
    credits_revoked = least(v_due, c.credits_purchased - c.credits_used),
    credits_remaining = case when c.lapsed_at is null then unspent.credits else 0 end,
    credits_expired = case when c.lapsed_at is null then 0 else unspent.credits end,
    depleted_at = case when c.lapsed_at is null and unspent.credits > 0 then null else c.depleted_at end,
    is_frozen = (p_payment ->> 'is_disputed')::boolean,
    stripe_sequence = p_sequence
  from (select k.id, greatest(0, k.credits_purchased - k.credits_used - v_due) as credits
        from public.credit_packs k where k.stripe_checkout_session_id = v_session_id) unspent
  where c.id = unspent.id and c.user_id = p_user_id and c.stripe_sequence < p_sequence;
  if found then
    perform private.go_by_packs(p_user_id);
  end if;
  return p_user_id;
end
$$;
comment on function public.apply_pack(uuid, bigint, jsonb) is
  'Makes a look at the payment of a pack the user''s pack, unless a later one is known: granted once a session, when '
  'paid; refunds take back pro rata, rounded in the user''s favour, a lost dispute all, an open one freezes. p_payment: '
  '{session_id, payment_intent_id, pack, credits, paid_at, paid_cents, refunded_cents, is_disputed, is_lost}. Returns '
  'the user; null: deleted.';
revoke all on function public.apply_pack(uuid, bigint, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_pack(uuid, bigint, jsonb) to service_role;


-- Overage -------------------------------------------------------------------------------------------------------

create or replace function public.claim_overage(p_user_id uuid, p_until timestamptz, p_target jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  -- Rows that are locked (a conversation of theirs is being deleted) are left to the next time: whoever waits for one
  -- while it holds others could wait for ever.
  with due as (
    select u.id, u.period_start, u.overage_charge
    from public.usage_logs u
    where u.user_id = p_user_id and u.was_overage and u.invoice_item_id is null and u.query_timestamp < p_until
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
  'Takes a user''s settled overage of before p_until together, one item a period and price, each query once and for '
  'all, to be put where p_target says. Returns the items that are on no invoice yet, as far as we know.';
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
  'Sends an overage item elsewhere, once Stripe has refused its target for good: the one that p_refusals went before.';
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
  'Notes where at Stripe an overage item stands: its invoice item, and its invoice; null: it waits for one.';
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
           where u.user_id = s.user_id and u.was_overage and u.invoice_item_id is null
             and (s.stripe_subscription_id is null or u.query_timestamp < s.current_period_start
                  or s.current_period_end <= private.clock()))
         or exists (
           select from public.overage_invoice_items i
           where i.user_id = s.user_id and (i.stripe_invoice_item_id is null or i.stripe_invoice_id is null)))
  order by s.user_id limit least(p_limit, 1000)
$$;
comment on function public.users_to_bill(uuid, integer) is
  'Users with overage of an ended period that is on no invoice, by id from p_after on, at most 1,000.';
revoke all on function public.users_to_bill(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.users_to_bill(uuid, integer) to service_role;
