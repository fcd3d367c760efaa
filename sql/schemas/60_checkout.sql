-- Plans and packs on sale, the Stripe customer of a user, and the overage settings.

create or replace function public.list_plans() returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return jsonb_build_object(
    'plans', (
      select jsonb_agg(jsonb_build_object(
        'tier', p.tier, 'name', p.name, 'currency', p.currency,
        'price_usd', p.price_usd::text, 'daily_quota', p.daily_quota,
        'lifetime_quota', p.lifetime_quota, 'overage_price_usd', p.overage_price_usd::text,
        'overage_limit_usd', p.overage_limit_usd::text, 'allows_credits', p.allows_credits,
        'allows_byok', p.allows_byok, 'history_days', p.history_days, 'models', p.models,
        'own_key_models', p.own_key_models)
        order by p.price_usd, p.lifetime_quota nulls last)
      from public.plans p),
    'packs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', k.slug, 'name', k.name, 'credits', k.credits, 'currency', k.currency,
        'price_usd', k.price_usd::text,
        'price_per_credit_usd', round(k.price_usd / k.credits, 6)::text, 'expires_after_days', k.expires_after_days)
        order by k.credits), '[]')
      from public.packs k where k.is_sold));
end
$$;
comment on function public.list_plans() is 'The response of GET /plans: plans and credit packs on sale.';
revoke all on function public.list_plans() from public, anon, authenticated, service_role;
grant execute on function public.list_plans() to service_role;


create or replace function public.billing_profile(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'email', u.email, 'stripe_customer_id', s.stripe_customer_id,
      'stripe_sequence', coalesce(s.stripe_sequence, 0), 'is_blocked', private.is_blocked(u.id),
      'refusal', (
        select jsonb_build_object('reason_code', f.reason_code, 'reason', f.reason, 'url', s.open_invoice_url)
        from private.funding_state f
        where f.user_id = u.id
          and f.reason_code in ('subscription_unpaid', 'subscription_paused', 'subscription_ended')))
    from auth.users u left join public.user_subscriptions s on s.user_id = u.id where u.id = p_user_id);
end
$$;
comment on function public.billing_profile(uuid) is
  'The e-mail address of a user for Stripe, their Stripe customer, the sequence number of its newest applied state, '
  'whether an operator has blocked the account, and why the subscription serves no query, if it does not: '
  '{reason_code, reason, url}. Null: no such user.';
revoke all on function public.billing_profile(uuid) from public, anon, authenticated, service_role;
grant execute on function public.billing_profile(uuid) to service_role;


create or replace function public.link_stripe_customer(p_user_id uuid, p_customer_id text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer_id text;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users u where u.id = p_user_id for key share;
  if not found then
    return null;
  end if;

  -- Write
  insert into public.user_subscriptions as s (user_id, stripe_customer_id) values (p_user_id, p_customer_id)
  on conflict (user_id) do update set stripe_customer_id = coalesce(s.stripe_customer_id, excluded.stripe_customer_id)
  returning s.stripe_customer_id into v_customer_id;

  -- Return
  return v_customer_id;
end
$$;
comment on function public.link_stripe_customer(uuid, text) is
  'Links a user to a Stripe customer, unless they have one. Starts a subscription on free, if they have none. Returns '
  'the customer of the user. Null: no such user.';
revoke all on function public.link_stripe_customer(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.link_stripe_customer(uuid, text) to service_role;


create or replace function private.bounded_overage_limit(
  p_limit numeric, p_ceiling numeric, p_paid numeric, p_tier text)
returns numeric
language plpgsql stable set search_path = ''
as $$
declare
  -- On a plan without overage: the lowest of the others.
  v_default constant numeric := (
    select p.overage_limit_usd from public.plans p where p.overage_limit_usd is not null
    order by p.tier <> p_tier, p.overage_limit_usd limit 1);
begin
  return case when p_limit is null and (p_ceiling >= v_default) is not false then null
              else least(coalesce(p_limit, v_default), coalesce(p_ceiling, greatest(v_default, 2 * p_paid))) end;
end
$$;
comment on function private.bounded_overage_limit(numeric, numeric, numeric, text) is
  'The overage limit to store: p_limit, or that of the plan if it is null, but at most the operators'' ceiling. '
  'Without a ceiling at most twice what the user has paid in overage, and never below the limit of the plan.';
revoke all on function private.bounded_overage_limit(numeric, numeric, numeric, text)
  from public, anon, authenticated, service_role;


create or replace function public.set_overage(p_settings jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  -- Check
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to change your overage settings.';
  elsif (p_settings ->> 'overage_limit_usd')::numeric not between 0 and 10000 then
    raise invalid_parameter_value using message = 'The overage limit must be 0 to 10,000 dollars.';
  end if;
  perform private.refuse_blocked(v_user_id);

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));

  -- Write
  update public.user_subscriptions s set
    allow_overages = coalesce((p_settings ->> 'allow_overages')::boolean, s.allow_overages),
    overage_limit = case when not p_settings ? 'overage_limit_usd' then s.overage_limit
                         else private.bounded_overage_limit(
                           (p_settings ->> 'overage_limit_usd')::numeric, s.overage_ceiling, s.paid_overage_usd,
                           s.tier) end
  where s.user_id = v_user_id;

  -- Return
  return public.usage_summary() -> 'overage';
end
$$;
comment on function public.set_overage(jsonb) is
  'Sets {allow_overages, overage_limit_usd} of the signed-in user. Missing fields stay unchanged; a limit of null '
  'restores the limit of the plan. A limit above overage_ceiling becomes the ceiling; without a ceiling, one above '
  'twice the overage that the user has paid becomes that, and at least the limit of the plan is allowed. '
  'Returns the overage object of usage_summary. BANND: the account is blocked.';
revoke all on function public.set_overage(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.set_overage(jsonb) to authenticated;
