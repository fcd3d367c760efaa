-- Stripe's state becomes plans and credit packs.
--
-- An event is only a reason to read Stripe's current state. Each read takes a sequence number before it starts
-- (claim_stripe_event), and each row stores the number of the state that was applied to it. A state with a higher
-- number is at least as new, so a lower number is ignored: the order and the number of events do not matter. The
-- result depends only on Stripe's state, never on the earlier content of the row.

create or replace function public.apply_customer(
  p_customer_id text, p_sequence bigint, p_is_deleted boolean, p_subscription jsonb,
  p_open_invoice_url text default null)
returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid;
  v_tier text;
begin
  -- Lock
  select s.user_id into v_user_id from public.user_subscriptions s where s.stripe_customer_id = p_customer_id;
  if v_user_id is null then
    return null;
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));

  -- Decide
  if p_subscription is null then
    v_tier := private.unsubscribed_tier(v_user_id, private.clock());
  else
    select p.tier into strict v_tier from public.plans p
    where p.tier = p_subscription ->> 'tier' or p_subscription -> 'paid_tiers' ? p.tier
    order by p.price_usd desc limit 1;
  end if;

  -- Write
  update public.user_subscriptions s set
    tier = v_tier,
    next_tier = case when p_subscription ->> 'status' <> 'canceled'
                     then nullif(p_subscription ->> 'tier', v_tier) end,
    status = coalesce(p_subscription ->> 'status', 'active'),
    stripe_customer_id = case when not p_is_deleted then s.stripe_customer_id end,
    stripe_subscription_id = p_subscription ->> 'id',
    current_period_start = (p_subscription ->> 'period_start')::timestamptz,
    current_period_end = (p_subscription ->> 'period_end')::timestamptz,
    canceled_at = (p_subscription ->> 'canceled_at')::timestamptz,
    past_due_since = (p_subscription ->> 'past_due_since')::timestamptz,
    paid_until = (p_subscription ->> 'paid_until')::timestamptz,
    open_invoice_url = p_open_invoice_url,
    stripe_sequence = p_sequence
  where s.user_id = v_user_id and s.stripe_customer_id = p_customer_id and s.stripe_sequence < p_sequence;

  -- Return
  return v_user_id;
end
$$;
comment on function public.apply_customer(text, bigint, boolean, jsonb, text) is
  'Applies the state of a Stripe customer to the subscription of their user, unless a newer state was applied. '
  'p_subscription: {id, tier, paid_tiers, status, period_start, period_end, canceled_at, past_due_since, '
  'paid_until}. Null: no live subscription. p_open_invoice_url: of the oldest invoice of ours that can be paid. The '
  'most expensive of tier and paid_tiers is in force until the period ends, then tier, unless canceled. Returns the '
  'user. Null: no user has this customer.';
revoke all on function public.apply_customer(text, bigint, boolean, jsonb, text)
  from public, anon, authenticated, service_role;
grant execute on function public.apply_customer(text, bigint, boolean, jsonb, text) to service_role;


create or replace function public.apply_pack(p_user_id uuid, p_sequence bigint, p_payment jsonb) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_session_id constant text := p_payment ->> 'session_id';
  v_credits constant integer := (p_payment ->> 'credits')::integer;
  v_paid_at constant timestamptz := (p_payment ->> 'paid_at')::timestamptz;
  v_to_revoke integer;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  if not found then
    return null;
  end if;

  -- Decide
  v_to_revoke := case
    when (p_payment ->> 'is_lost')::boolean then v_credits
    -- Of a pack that cost nothing, nothing is refunded.
    else coalesce(floor(
      v_credits * (p_payment ->> 'refunded_cents')::numeric / nullif((p_payment ->> 'paid_cents')::numeric, 0)), 0) end;

  -- Write
  if v_paid_at is not null then
    insert into public.credit_packs (
      created_at, user_id, credits_purchased, credits_remaining, price_paid, stripe_payment_intent_id,
      stripe_checkout_session_id, expires_at)
    select v_paid_at, p_user_id, v_credits, v_credits, (p_payment ->> 'price_cents')::numeric / 100,
           p_payment ->> 'payment_intent_id', v_session_id,
           v_paid_at + (select k.expires_after_days * interval '1 day' from public.packs k
                        where k.slug = p_payment ->> 'pack')
    on conflict (stripe_checkout_session_id) do nothing;
  end if;
  -- Revoke the credits that were refunded, as far as they are not spent. A running query that fails later adds its
  -- credit.
  update public.credit_packs c set
    credits_to_revoke = v_to_revoke,
    credits_revoked = least(v_to_revoke, c.credits_purchased - c.credits_used),
    credits_remaining = case when c.lapsed_at is null then unspent.credits else 0 end,
    credits_expired = case when c.lapsed_at is null then 0 else unspent.credits end,
    depleted_at = case when c.lapsed_at is null and unspent.credits > 0 then null else c.depleted_at end,
    is_frozen = (p_payment ->> 'is_disputed')::boolean,
    stripe_sequence = p_sequence
  from (select k.id, greatest(0, k.credits_purchased - k.credits_used - v_to_revoke) as credits
        from public.credit_packs k where k.stripe_checkout_session_id = v_session_id) unspent
  where c.id = unspent.id and c.user_id = p_user_id and c.stripe_sequence < p_sequence;
  if found then
    perform private.set_tier_from_packs(p_user_id);
  end if;

  -- Return
  return p_user_id;
end
$$;
comment on function public.apply_pack(uuid, bigint, jsonb) is
  'Applies the state of the payment of a pack, unless a newer state was applied. A paid session grants one pack. A '
  'refund revokes credits pro rata, rounded in favour of the user; a lost dispute revokes all; an open dispute freezes '
  'the pack. p_payment: {session_id, payment_intent_id, pack, credits, paid_at, price_cents (without tax), '
  'paid_cents and refunded_cents (with tax), is_disputed, is_lost}. Returns the user. Null: the user was deleted.';
revoke all on function public.apply_pack(uuid, bigint, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_pack(uuid, bigint, jsonb) to service_role;
