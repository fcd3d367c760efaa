-- What operators change for one user. Each function records its action in operator_actions in the same transaction.
-- p_action is {id, operator, reason}; a repeated id changes nothing and returns the first result, {before, after}.

create or replace function private.operator_columns(p_user_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_columns jsonb;
begin
  select jsonb_build_object(
    'blocked_at', s.blocked_at, 'blocked_reason', s.blocked_reason, 'daily_quota', s.daily_quota,
    'lifetime_quota', s.lifetime_quota, 'overage_limit_usd', s.overage_limit::text,
    'overage_ceiling_usd', s.overage_ceiling::text)
  into v_columns from public.user_subscriptions s where s.user_id = p_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such user.',
      hint = 'user_not_found';
  end if;
  return v_columns;
end
$$;
comment on function private.operator_columns(uuid) is
  'The columns of a subscription that operators set, for operator_actions. NTFND: no such user.';
revoke all on function private.operator_columns(uuid) from public, anon, authenticated, service_role;


create or replace function public.block_user(p_user_id uuid, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.operator_columns(p_user_id);

  -- Write
  update public.user_subscriptions s set
    blocked_at = coalesce(s.blocked_at, private.clock()), blocked_reason = p_action ->> 'reason'
  where s.user_id = p_user_id;
  -- A locked hold is being ended.
  update public.query_holds h set stop_requested = true
  where h.id in (select r.id from public.query_holds r where r.user_id = p_user_id for no key update skip locked);

  -- Return
  return private.record_action(
    p_action, 'block', p_user_id, null, v_before, private.operator_columns(p_user_id));
end
$$;
comment on function public.block_user(uuid, jsonb) is
  'Blocks a user until unblock_user, whatever their subscription at Stripe is, and stops their running answers. NTFND: '
  'no such user.';
revoke all on function public.block_user(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.block_user(uuid, jsonb) to service_role;


create or replace function public.unblock_user(p_user_id uuid, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.operator_columns(p_user_id);

  -- Write
  update public.user_subscriptions s set blocked_at = null, blocked_reason = null where s.user_id = p_user_id;
  delete from public.blocked_addresses b
  where b.address_hash = (select private.address_hash(u.email) from auth.users u where u.id = p_user_id);

  -- Return
  return private.record_action(
    p_action, 'unblock', p_user_id, null, v_before, private.operator_columns(p_user_id));
end
$$;
comment on function public.unblock_user(uuid, jsonb) is
  'Ends the block of a user, and of their address after a deletion. NTFND: no such user.';
revoke all on function public.unblock_user(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.unblock_user(uuid, jsonb) to service_role;


create or replace function public.set_limits(p_user_id uuid, p_limits jsonb, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
begin
  -- Check
  if (p_limits ->> 'daily_quota')::integer not between 0 and 10000
     or (p_limits ->> 'lifetime_quota')::integer not between 0 and 10000
     or (p_limits ->> 'overage_limit_usd')::numeric not between 0 and 10000
     or (p_limits ->> 'overage_ceiling_usd')::numeric not between 0 and 10000 then
    raise invalid_parameter_value using message = 'A limit must be 0 to 10,000.';
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.operator_columns(p_user_id);

  -- Write
  update public.user_subscriptions s set
    daily_quota = case when p_limits ? 'daily_quota' then (p_limits ->> 'daily_quota')::integer
                       else s.daily_quota end,
    lifetime_quota = case when p_limits ? 'lifetime_quota' then (p_limits ->> 'lifetime_quota')::integer
                          else s.lifetime_quota end,
    overage_ceiling = case when p_limits ? 'overage_ceiling_usd' then (p_limits ->> 'overage_ceiling_usd')::numeric
                           else s.overage_ceiling end,
    -- Not bounded by what the user has paid.
    overage_limit = private.bounded_overage_limit(
      case when p_limits ? 'overage_limit_usd' then (p_limits ->> 'overage_limit_usd')::numeric
           else s.overage_limit end,
      case when p_limits ? 'overage_ceiling_usd' then (p_limits ->> 'overage_ceiling_usd')::numeric
           else s.overage_ceiling end,
      'Infinity', s.tier)
  where s.user_id = p_user_id;

  -- Return
  return private.record_action(
    p_action, 'limit', p_user_id, null, v_before, private.operator_columns(p_user_id));
end
$$;
comment on function public.set_limits(uuid, jsonb, jsonb) is
  'Sets limits of one user: {daily_quota, lifetime_quota, overage_limit_usd, overage_ceiling_usd}. Missing fields stay '
  'unchanged; null restores what the plan says. The user may change overage_limit_usd again, up to the ceiling, or '
  'without one up to twice what they have paid in overage. NTFND: no such user.';
revoke all on function public.set_limits(uuid, jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.set_limits(uuid, jsonb, jsonb) to service_role;


create or replace function public.grant_credits(
  p_user_id uuid, p_credits integer, p_expires_at timestamptz, p_action jsonb)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_tier text;
  v_tier_after text;
begin
  -- Check
  if p_credits not between 1 and 10000 or p_expires_at <= private.clock() then
    return jsonb_build_object('refused', 'Grant 1 to 10,000 credits that expire in the future or never.');
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  select s.tier into v_tier from public.user_subscriptions s where s.user_id = p_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such user.',
      hint = 'user_not_found';
  end if;

  -- Write
  insert into public.credit_packs (
    id, created_at, user_id, credits_purchased, credits_remaining, price_paid, expires_at)
  values ((p_action ->> 'id')::uuid, private.clock(), p_user_id, p_credits, p_credits, 0, p_expires_at);
  perform private.set_tier_from_packs(p_user_id);
  select s.tier into v_tier_after from public.user_subscriptions s where s.user_id = p_user_id;

  -- Return
  return private.record_action(
    p_action, 'grant', p_user_id, p_action ->> 'id', jsonb_build_object('tier', v_tier),
    jsonb_build_object('tier', v_tier_after, 'credits', p_credits, 'expires_at', p_expires_at));
end
$$;
comment on function public.grant_credits(uuid, integer, timestamptz, jsonb) is
  'Gives a user a credit pack without a payment. p_expires_at null: it never expires. A free user becomes usage_only, '
  'because free spends no credits. NTFND: no such user.';
revoke all on function public.grant_credits(uuid, integer, timestamptz, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function public.grant_credits(uuid, integer, timestamptz, jsonb) to service_role;


create or replace function public.credit_back(p_query_id uuid, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id constant uuid := (p_action ->> 'id')::uuid;
  v_at constant timestamptz := private.clock();
  v_done jsonb;
  v_query public.usage_logs;
  v_hold public.query_holds;
  v_item_id uuid;
  v_cents integer := 0;
  v_is_usable boolean;
  v_settled_as text;
begin
  -- Lock
  select * into v_query from public.usage_logs u where u.id = p_query_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no ended query with this id.',
      hint = 'query_not_found';
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(v_query.user_id, 0));
  perform from auth.users where id = v_query.user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;

  -- Decide
  select * into v_query from public.usage_logs u where u.id = p_query_id for no key update;
  if not found or not v_query.is_charged or v_query.used_byo_key then
    return jsonb_build_object('refused', 'Nothing was charged for this query.');
  elsif v_query.reversed_at is not null then
    return jsonb_build_object('refused', 'The charge of this query was given back before.');
  end if;
  select i.settled_as into v_settled_as from public.overage_invoice_items i where i.id = v_query.invoice_item_id;
  if v_settled_as = 'returned' then
    return jsonb_build_object('refused', 'The payment of this query was refunded or disputed at Stripe.');
  elsif v_settled_as = 'void' then
    return jsonb_build_object('refused', 'The invoice of this query was voided, so nothing was paid for it.');
  elsif v_query.invoice_item_id is not null and v_settled_as is null then
    -- If it were voided later, the user would keep what was given back, and would have paid nothing.
    return jsonb_build_object('refused', 'The invoice of this query is not paid yet. Give it back after the payment.');
  end if;

  -- Return the funding
  update public.usage_logs u set reversed_at = v_at where u.id = p_query_id;
  v_hold.user_id := v_query.user_id;
  v_hold.tier := v_query.tier;
  v_hold.funding := v_query.funding;
  v_hold.query_date := v_query.query_date;
  v_hold.period_start := v_query.period_start;
  v_hold.overage_charge := v_query.overage_charge;
  v_hold.credit_pack_id := v_query.credit_pack_id;
  perform private.return_funding(v_hold, 0, v_settled_as is not null);
  if v_settled_as = 'paid' then
    update public.user_subscriptions s set
      paid_overage_usd = s.paid_overage_usd - v_query.overage_charge,
      -- Not a higher limit, which an operator has set.
      overage_limit = case when s.overage_limit = private.bounded_overage_limit(
                             s.overage_limit, s.overage_ceiling, s.paid_overage_usd, s.tier)
                           then private.bounded_overage_limit(
                             s.overage_limit, s.overage_ceiling, s.paid_overage_usd - v_query.overage_charge, s.tier)
                           else s.overage_limit end
    where s.user_id = v_query.user_id;
  end if;

  -- Give back what was billed: the difference that the query made to the rounded amount of its item.
  if v_query.invoice_item_id is not null then
    insert into public.overage_invoice_items as g (
      created_at, user_id, period_start, queries, unit_price_usd, gives_back_cents, target)
    select v_at, i.user_id, i.period_start, -1, i.unit_price_usd,
           floor((i.queries - given.back) * i.unit_price_usd * 100)
             - floor((i.queries - given.back - 1) * i.unit_price_usd * 100),
           '{}'
    from public.overage_invoice_items i
    cross join lateral (
      select count(*) as back from public.usage_reversals r
      join public.usage_logs u on u.id = r.query_id where u.invoice_item_id = i.id) given
    where i.id = v_query.invoice_item_id
    returning g.id, g.gives_back_cents into v_item_id, v_cents;
  end if;
  insert into public.usage_reversals (id, created_at, user_id, query_id, funding, overage_charge, invoice_item_id)
  values (v_id, v_at, v_query.user_id, p_query_id, v_query.funding, v_query.overage_charge, v_item_id);

  -- Return
  v_is_usable := case v_query.funding
    when 'included' then exists (
      select from private.current_subscriptions s
      where s.user_id = v_query.user_id and s.tier = v_query.tier
        and (s.plan_lifetime_quota is not null or v_query.query_date = (v_at at time zone 'UTC')::date))
    when 'credit' then exists (
      select from public.credit_packs c
      join private.current_subscriptions s on s.user_id = c.user_id
      where c.id = v_query.credit_pack_id and c.credits_remaining > 0 and not c.is_frozen
        and (c.expires_at > v_at or c.expires_at is null) and s.allows_credits)
    else true end;
  return private.record_action(
    p_action, 'credit back', v_query.user_id, p_query_id::text,
    jsonb_build_object('funding', v_query.funding, 'charged_usd', v_query.overage_charge::text),
    jsonb_build_object('is_usable', v_is_usable, 'invoice_item_id', v_item_id, 'cents', v_cents));
end
$$;
comment on function public.credit_back(uuid, jsonb) is
  'Gives the charge of a query back: its funding returns to the same day, credit pack or overage period, with a '
  'reversing entry in usage_reversals. Overage that was paid gets an item that gives back its share, and no longer '
  'counts as paid: the limit falls to what the user may set, unless an operator set more; '
  'bill-overages places it at Stripe. Returns {before, after}; after has is_usable (false: that day, pack or plan is '
  'over), invoice_item_id and cents. Or {refused}, with a sentence: nothing was charged, it was given back before, or '
  'its payment was returned, or its invoice is not paid. '
  'NTFND: no ended query has this id.';
revoke all on function public.credit_back(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.credit_back(uuid, jsonb) to service_role;


create or replace function public.note_action(p_user_id uuid, p_name text, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));

  -- Write
  return coalesce(
    private.repeated_action(p_action), private.record_action(p_action, p_name, p_user_id, null, '{}', '{}'));
end
$$;
comment on function public.note_action(uuid, text, jsonb) is
  'Records what an operator is about to do for a user outside the database: an export, a deletion, an e-mail.';
revoke all on function public.note_action(uuid, text, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.note_action(uuid, text, jsonb) to service_role;
