-- What supporters read: a user at a glance, one query by any of its ids, the costliest users.

create or replace function public.find_users(p_who text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_id constant uuid := case when p_who ~ '^[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}$' then p_who::uuid end;
  v_user_id constant uuid := coalesce(
    (select u.id from auth.users u where u.id = v_id),
    (select s.user_id from public.user_subscriptions s where s.stripe_customer_id = p_who),
    (select u.user_id from public.usage_logs u where u.id = v_id),
    (select h.user_id from public.query_holds h where h.id = v_id),
    (select r.user_id from public.query_refusals r where r.id = v_id),
    (select r.user_id from public.query_refusals r where r.earlier_ids @> array[v_id] limit 1),
    (select c.user_id from public.messages m join public.conversations c on c.id = m.conversation_id where m.id = v_id),
    (select c.user_id from public.conversations c where c.id = v_id));
begin
  return (
    select coalesce(
      jsonb_agg(jsonb_build_object(
        'id', found.id, 'email', found.email, 'is_confirmed', found.confirmed_at is not null,
        'is_deleted', found.deleted_at is not null) order by found.created_at, found.id), '[]')
    from (
      select u.* from auth.users u where u.id = v_user_id
      union all
      (select u.* from auth.users u where v_user_id is null and u.email = lower(p_who) limit 20)) found);
end
$$;
comment on function public.find_users(text) is
  'The user with this id or Stripe customer, or whose request, query, message or conversation has this id. Otherwise '
  'every user with this e-mail address: an address can have several, of single sign-on or deleted softly.';
revoke all on function public.find_users(text) from public, anon, authenticated, service_role;
grant execute on function public.find_users(text) to service_role;


create or replace function private.describe_query(p_query public.usage_logs) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', p_query.id, 'request_id', p_query.request_id, 'decision', 'admitted', 'at', p_query.query_timestamp,
    'ended_at', p_query.created_at, 'tier', p_query.tier, 'funding', p_query.funding,
    'reason', private.reason_of(p_query.funding, p_query.tier), 'outcome', p_query.outcome,
    'finish_reason', p_query.finish_reason, 'is_charged', p_query.is_charged, 'provider', p_query.provider,
    'model', p_query.model, 'tokens', p_query.tokens_total, 'cost_usd', p_query.cost_usd::text,
    'charged_usd', p_query.overage_charge::text, 'quota_used', p_query.quota_used, 'quota_limit', p_query.quota_limit,
    'overage_used_usd', p_query.overage_used::text, 'overage_limit_usd', p_query.overage_limit::text,
    'credit_pack_id', p_query.credit_pack_id, 'message_id', p_query.message_id,
    'conversation_id', p_query.conversation_id,
    'invoice', (select jsonb_build_object('item', i.stripe_invoice_item_id, 'invoice', i.stripe_invoice_id,
                                          'queries', i.queries, 'amount_cents', i.amount_cents)
                from public.overage_invoice_items i where i.id = p_query.invoice_item_id),
    'reversal', (select jsonb_build_object('at', r.created_at, 'reason', a.reason, 'operator', a.operator,
                                           'cents', -g.amount_cents, 'item', g.stripe_invoice_item_id,
                                           'invoice', g.stripe_invoice_id)
                 from public.usage_reversals r
                 left join public.operator_actions a on a.id = r.id
                 left join public.overage_invoice_items g on g.id = r.invoice_item_id
                 where r.query_id = p_query.id));
end
$$;
comment on function private.describe_query(public.usage_logs) is
  'A query that ended, for supporters: decision, state at admission, outcome, cost, charge, invoice, reversal.';
revoke all on function private.describe_query(public.usage_logs) from public, anon, authenticated, service_role;


create or replace function private.describe_hold(p_hold public.query_holds) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', p_hold.id, 'request_id', p_hold.request_id, 'decision', 'admitted', 'at', p_hold.created_at,
    'tier', p_hold.tier, 'funding', p_hold.funding, 'reason', private.reason_of(p_hold.funding, p_hold.tier),
    'provider', p_hold.provider, 'model', p_hold.model, 'quota_used', p_hold.quota_used,
    'quota_limit', p_hold.quota_limit, 'overage_used_usd', p_hold.overage_used::text,
    'overage_limit_usd', p_hold.overage_limit::text, 'expires_at', p_hold.expires_at,
    'is_expired', p_hold.expires_at <= private.clock(), 'stop_requested', p_hold.stop_requested);
end
$$;
comment on function private.describe_hold(public.query_holds) is 'A query that runs, for supporters.';
revoke all on function private.describe_hold(public.query_holds) from public, anon, authenticated, service_role;


create or replace function private.describe_refusal(p_refusal public.query_refusals) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return to_jsonb(p_refusal) - 'user_id' - 'chat_key' - 'created_at' - 'overage_used' - 'overage_limit'
    || jsonb_build_object(
      'decision', 'refused', 'at', p_refusal.created_at, 'overage_used_usd', p_refusal.overage_used::text,
      'overage_limit_usd', p_refusal.overage_limit::text);
end
$$;
comment on function private.describe_refusal(public.query_refusals) is 'A refused query, for supporters.';
revoke all on function private.describe_refusal(public.query_refusals) from public, anon, authenticated, service_role;


create or replace function public.find_queries(p_user_id uuid, p_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_id constant uuid := case when p_id ~ '^[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}$' then p_id::uuid end;
  v_client_id text := p_id;
  v_chat_key uuid;
begin
  -- A stored message of the user has the id that their client gave it, which is unique in its chat only.
  select m.external_id, coalesce(md5(c.external_id)::uuid, c.id) into v_client_id, v_chat_key
  from public.messages m join public.conversations c on c.id = m.conversation_id
  where m.id = v_id and c.user_id = p_user_id and m.role = 'user';
  v_client_id := coalesce(v_client_id, p_id);
  return (
    with attempt as (
      select u.id, u.request_id, u.chat_key, u.query_timestamp as at, v_id in (u.id, u.message_id) as is_exact
      from public.usage_logs u where u.user_id = p_user_id
      union all
      select h.id, h.request_id, h.chat_key, h.created_at, h.id = v_id
      from public.query_holds h where h.user_id = p_user_id
      union all
      select r.id, r.request_id, r.chat_key, r.created_at, r.id = v_id or v_id = any (r.earlier_ids)
      from public.query_refusals r where r.user_id = p_user_id
    ), found as (
      -- The attempts at the request that the id names. Only an id that names none is a client's, which edits and
      -- repetitions have in their request id.
      select a.id, a.at, a.is_exact is true as is_exact from attempt a
      where exists (
              select from attempt e
              where e.is_exact and e.request_id = a.request_id and e.chat_key is not distinct from a.chat_key)
         or not exists (select from attempt e where e.is_exact)
            and (v_chat_key is null or a.chat_key = v_chat_key)
            and strpos(':' || a.request_id || ':', ':' || v_client_id || ':') > 0
      order by is_exact desc, a.at desc, a.id limit 50
    )
    select coalesce(
      jsonb_agg(described.query || jsonb_build_object('is_exact', f.is_exact) order by f.at, f.id), '[]')
    from found f
    cross join lateral (
      select private.describe_query(u) as query from public.usage_logs u where u.id = f.id
      union all select private.describe_hold(h) from public.query_holds h where h.id = f.id
      union all select private.describe_refusal(r) from public.query_refusals r where r.id = f.id) described);
end
$$;
comment on function public.find_queries(uuid, text) is
  'Every attempt at the query that an id belongs to, oldest first. is_exact: the id is that of this attempt or of its '
  'answer. Without such an attempt: the attempts, edits and repetitions of the user''s own message with this id, which '
  'several chats can have. At most 50: the exact and the newest.';
revoke all on function public.find_queries(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.find_queries(uuid, text) to service_role;


create or replace function public.support_summary(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_state private.funding_state;
  v_can record;
begin
  select * into v_state from private.funding_state s where s.user_id = p_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such user.',
      hint = 'user_not_found';
  end if;
  select * into v_can from public.can_user_query(p_user_id);
  return jsonb_build_object(
    'account', (
      select jsonb_build_object(
        'id', u.id, 'email', u.email, 'created_at', u.created_at, 'confirmed_at', u.confirmed_at,
        'last_sign_in_at', u.last_sign_in_at, 'banned_until', u.banned_until, 'is_anonymous', u.is_anonymous)
      from auth.users u where u.id = p_user_id),
    'subscription', (
      select jsonb_build_object(
        'stored_tier', s.tier, 'next_tier', s.next_tier, 'status', s.status, 'customer', s.stripe_customer_id,
        'subscription', s.stripe_subscription_id, 'period_start', s.current_period_start,
        'period_end', s.current_period_end, 'canceled_at', s.canceled_at, 'past_due_since', s.past_due_since,
        'paid_until', s.paid_until, 'blocked_at', s.blocked_at, 'blocked_reason', s.blocked_reason,
        'daily_quota', s.daily_quota, 'lifetime_quota', s.lifetime_quota,
        'overage_ceiling_usd', s.overage_ceiling::text)
      from public.user_subscriptions s where s.user_id = p_user_id),
    'next', jsonb_build_object(
      'can_query', v_can.can_query, 'reason', v_can.reason,
      'reason_code', case when v_can.reason = 'Chat paused' then 'chat_paused' else v_state.reason_code end,
      'funding', case when v_state.own_key_pays then 'byok' else v_state.funding end, 'tier', v_state.tier,
      'plan', v_state.name, 'is_lifetime', v_state.is_lifetime,
      'resets_at', case when v_can.reason <> 'Chat paused' then v_state.resets_at end,
      'used', v_state.included_used, 'limit', v_state.quota_limit, 'overage_used_usd', v_state.overage_used::text,
      'overage_limit_usd', v_state.overage_limit::text, 'allows_overage', v_state.allows_overage,
      'failed_cost_usd', v_state.failed_cost_usd::text, 'failed_cost_limit_usd', v_state.failed_cost_limit_usd::text,
      'concurrent_queries', v_state.concurrent_queries),
    'running', (
      select coalesce(jsonb_agg(private.describe_hold(h) order by h.created_at), '[]')
      from public.query_holds h where h.user_id = p_user_id),
    'packs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', c.id, 'bought_at', c.created_at, 'bought', c.credits_purchased, 'remaining', c.credits_remaining,
        'used', c.credits_used, 'revoked', c.credits_revoked, 'expired', c.credits_expired,
        'expires_at', c.expires_at, 'is_frozen', c.is_frozen, 'price_usd', c.price_paid::text,
        'payment', c.stripe_payment_intent_id) order by c.created_at desc), '[]')
      from (select * from public.credit_packs k where k.user_id = p_user_id order by k.created_at desc limit 20) c),
    'bills', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'period_start', i.period_start, 'queries', i.queries, 'amount_cents', i.amount_cents,
        'item', i.stripe_invoice_item_id, 'invoice', i.stripe_invoice_id) order by i.created_at desc), '[]')
      from (select * from public.overage_invoice_items o where o.user_id = p_user_id
            order by o.created_at desc limit 12) i),
    'to_be_billed_usd', (
      select coalesce(sum(u.overage_charge), 0)::text from public.usage_logs u
      where u.user_id = p_user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null),
    'keys', (
      select coalesce(jsonb_agg(
        private.describe_key(k.provider, k.hint, k.is_active, k.last_validated_at, k.validation_error, k.created_at)
        order by k.provider), '[]')
      from public.user_api_keys k where k.user_id = p_user_id),
    'conversations', (select count(*) from public.conversations c where c.user_id = p_user_id),
    'queries', (
      select coalesce(jsonb_agg(
        private.describe_query(u.query) order by (u.query).query_date desc, (u.query).created_at desc), '[]')
      from (select l as query from public.usage_logs l where l.user_id = p_user_id
            order by l.query_date desc, l.created_at desc limit 5) u),
    'refusals', (
      select coalesce(jsonb_agg(private.describe_refusal(r.refusal) order by (r.refusal).created_at desc), '[]')
      from (select q as refusal from public.query_refusals q where q.user_id = p_user_id
            order by q.created_at desc limit 5) r),
    'actions', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'at', a.created_at, 'operator', a.operator, 'action', a.action, 'subject', a.subject, 'reason', a.reason)
        order by a.created_at desc), '[]')
      from (select * from public.operator_actions o where o.subject_user_id = p_user_id
            order by o.created_at desc limit 10) a));
end
$$;
comment on function public.support_summary(uuid) is
  'A user at a glance, for supporters: account, subscription, what pays next and why, running queries, packs, bills, '
  'keys without their content, the newest queries, refusals and actions of operators. NTFND: no such user.';
revoke all on function public.support_summary(uuid) from public, anon, authenticated, service_role;
grant execute on function public.support_summary(uuid) to service_role;


create or replace function public.costliest_users(p_days integer default 7, p_limit integer default 20)
returns table (
  user_id uuid, email text, tier text, queries bigint, failed bigint, cost_usd text, overage_usd text, credits_usd text)
-- It reads the ledger of some days. PostgREST applies this time-out to the call.
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with spent as (
    select u.user_id, count(*) as queries, count(*) filter (where not u.is_charged) as failed,
           coalesce(sum(u.cost_usd) filter (where not u.used_byo_key), 0) as cost,
           coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0) as overage,
           coalesce(sum(c.price_per_credit) filter (where u.is_charged and u.reversed_at is null), 0) as credits
    from public.usage_logs u left join public.credit_packs c on c.id = u.credit_pack_id
    where u.query_date > (private.clock() at time zone 'UTC')::date - p_days
    group by u.user_id
    order by cost desc, u.user_id
    limit least(p_limit, 1000)
  )
  select s.user_id, a.email::text, k.tier, s.queries, s.failed, s.cost::numeric(20,6)::text,
         s.overage::numeric(20,6)::text, s.credits::numeric(20,6)::text
  from spent s
  join public.user_subscriptions k on k.user_id = s.user_id
  join auth.users a on a.id = s.user_id
  order by s.cost desc, s.user_id
$$;
comment on function public.costliest_users(integer, integer) is
  'The users who have cost us most at the providers in the newest days, in US dollars, with what they paid for queries '
  'in that time, in the currency of the prices, as text. Plan fees are only at Stripe. At most 1,000.';
revoke all on function public.costliest_users(integer, integer) from public, anon, authenticated, service_role;
grant execute on function public.costliest_users(integer, integer) to service_role;


create or replace function public.list_operations() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.pauses() || jsonb_build_object(
    'announcements', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', a.id, 'kind', a.kind, 'provider', a.provider, 'en', a.en, 'fr', a.fr, 'starts_at', a.starts_at,
        'ends_at', a.ends_at) order by a.starts_at), '[]')
      from public.announcements a where a.ends_at is null or a.ends_at > private.clock()),
    'plans', (
      select jsonb_agg(jsonb_build_object(
        'tier', p.tier, 'models', p.models, 'own_key_models', p.own_key_models,
        'query_cost_limit_usd', p.query_cost_limit_usd::text) order by p.price_usd, p.tier)
      from public.plans p));
end
$$;
comment on function public.list_operations() is
  'What is paused, the announcements that are shown or will be, and the models and cost limits of the plans.';
revoke all on function public.list_operations() from public, anon, authenticated, service_role;
grant execute on function public.list_operations() to service_role;
