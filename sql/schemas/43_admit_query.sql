-- How a query starts. admit_query takes the funding and creates a hold, or records the refusal.
--
-- settle_query (answered, stopped) or release_query (failed, lost) ends the hold with exactly one usage_logs row, which
-- has the id of the hold. A failed or lost query returns its funding to where it came from.
--
-- Locks. Two advisory locks are held until the end of the transaction:
-- * the user lock, uuid_hash_extended(user id, 0): no counter and no credit pack changes without it
-- * the hold lock, uuid_hash_extended(hold id, 1): no query ends without it
-- The order is: user lock, hold lock, auth.users (key share, taken by the foreign key of the first row written), other
-- rows, and the row of daily_costs last. settle_query takes only the hold lock. tests/sql/test_lock_order.py checks it.
-- Advisory locks are faster here than row locks: the longest waits for a row that changes are ten times longer.
--
-- Functions that run for every query use few statements and call few functions, because Postgres sets up each
-- statement again in each transaction.


create or replace function private.record_refusal(
  p_user_id uuid, p_request_id text, p_chat_key uuid, p_hold_id uuid, p_limit text default null)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_refusal public.query_refusals;
begin
  -- A refusal does not wait for the disk. A crash can lose only this record.
  perform set_config('synchronous_commit', 'off', true);
  insert into public.query_refusals as r (
    id, created_at, user_id, request_id, chat_key, reason, reason_code, requires_payment, resets_at, tier, quota_used,
    quota_limit, overage_used, overage_limit)
  select p_hold_id, s.now, s.user_id, p_request_id, p_chat_key,
         coalesce((select t.reason from public.reasons t where t.code = p_limit), s.reason),
         coalesce(p_limit, s.reason_code),
         s.requires_payment and p_limit is null,
         case when p_limit is null then s.resets_at
              when p_limit in ('too_many_failures', 'free_answers_off')
                then (s.quota_date + 1)::timestamp at time zone 'UTC' end,
         s.tier, s.included_used, s.quota_limit, s.overage_used, s.overage_limit
  from private.funding_state s where s.user_id = p_user_id
  on conflict (user_id, request_id, chat_key) do update set
    earlier_ids = case when r.id = excluded.id then r.earlier_ids else (array[r.id] || r.earlier_ids)[1:20] end,
    id = excluded.id, created_at = excluded.created_at, reason = excluded.reason, reason_code = excluded.reason_code,
    requires_payment = excluded.requires_payment, resets_at = excluded.resets_at, tier = excluded.tier,
    quota_used = excluded.quota_used, quota_limit = excluded.quota_limit, overage_used = excluded.overage_used,
    overage_limit = excluded.overage_limit
  returning r.* into v_refusal;
  delete from public.query_refusals r
  where r.id in (
    select oldest.id from public.query_refusals oldest where oldest.user_id = p_user_id
    order by oldest.created_at desc, oldest.id offset 50);
  return jsonb_build_object(
    'decision', 'refused', 'reason', v_refusal.reason, 'reason_code', v_refusal.reason_code,
    'requires_payment', v_refusal.requires_payment, 'resets_at', v_refusal.resets_at,
    'url', (select s.open_invoice_url from public.user_subscriptions s where s.user_id = p_user_id));
end
$$;
comment on function private.record_refusal(uuid, text, uuid, uuid, text) is
  'Records why a query is refused, and returns the refusal. p_limit: the reason, where it is a limit besides the '
  'funding. Stores the newest fifty of a user. The caller holds the user lock.';
revoke all on function private.record_refusal(uuid, text, uuid, uuid, text)
  from public, anon, authenticated, service_role;


create or replace function private.free_budget_is_spent(p_day date) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select (coalesce(sum(c.free_usd), 0) >= s.free_daily_budget_usd) is true
        or (coalesce(sum(c.total_usd), 0) >= s.platform_daily_budget_usd) is true
    from public.settings s left join public.daily_costs c on c.day = p_day
    group by s.id);
end
$$;
comment on function private.free_budget_is_spent(date) is
  'Whether free users are refused on a day, because they or all users together have cost as much as public.settings '
  'allows.';
revoke all on function private.free_budget_is_spent(date) from public, anon, authenticated, service_role;


create or replace function private.reclaim_expired_holds(p_user_id uuid, p_except_hold_id uuid, p_at timestamptz)
returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_expired constant uuid[] := array(
    select h.id from public.query_holds h
    where h.user_id = p_user_id and h.expires_at <= p_at and h.id <> p_except_hold_id);
  v_hold_id uuid;
begin
  -- The locks of all holds come before the first row.
  foreach v_hold_id in array v_expired loop
    perform pg_advisory_xact_lock(uuid_hash_extended(v_hold_id, 1));
  end loop;
  foreach v_hold_id in array v_expired loop
    perform private.refund_hold(v_hold_id, 'lost', '{}');
  end loop;
end
$$;
comment on function private.reclaim_expired_holds(uuid, uuid, timestamptz) is
  'Returns the funding of the expired holds of a user, except one hold. Without it, admission would have to wait for '
  'release_stale_holds. The caller holds the user lock.';
revoke all on function private.reclaim_expired_holds(uuid, uuid, timestamptz)
  from public, anon, authenticated, service_role;


create or replace function private.charged_query_response(p_query_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'decision', 'ended',
      'answer', case when m.id is not null then jsonb_build_object(
        'id', m.id, 'content', m.content, 'step_ends', m.step_ends, 'function_calls', m.function_calls,
        'function_results', m.function_results) else w.turn -> 'answer' end,
      'keeps_history', p.history_days > 0, 'provider', u.provider, 'model', u.model, 'funding', u.funding,
      'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output,
      'cache_read_tokens', u.cache_read_tokens, 'cache_write_tokens', u.cache_write_tokens,
      'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text, 'finish_reason', u.finish_reason)
    from public.usage_logs u
    join public.plans p on p.tier = u.tier
    left join public.messages m on m.id = u.message_id
    left join public.pending_turns w on w.id = u.id
    where u.id = p_query_id);
end
$$;
comment on function private.charged_query_response(uuid) is
  'The response of admit_query for a request that was charged before: the stored answer if there is one.';
revoke all on function private.charged_query_response(uuid) from public, anon, authenticated, service_role;


create or replace function private.check_question(p_digest uuid, p_earlier_digest uuid) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if p_digest <> p_earlier_digest then
    raise exception using errcode = 'CONFL', message = 'This message id was used before with other words.';
  end if;
end
$$;
comment on function private.check_question(uuid, uuid) is
  'CONFL: the question is not the one that the same request asked before. Null digests are not compared.';
revoke all on function private.check_question(uuid, uuid) from public, anon, authenticated, service_role;


create or replace function private.refuse_model(
  p_provider text, p_model text, p_models jsonb, p_is_own_key boolean)
returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_models constant text := (select string_agg(m, ', ') from jsonb_array_elements_text(p_models) m);
  v_is_sold constant boolean := exists (
    select from public.plans p
    where p.price_usd > 0 and (p.models -> p_provider ? p_model
                               or p_is_own_key and p.own_key_models -> p_provider ? p_model));
begin
  raise exception using errcode = 'NOMDL', message = 'The plan does not have this model.',
    hint = case when v_models is null then 'no_models' when v_is_sold then 'model_of_other_plan'
                else 'model_not_in_plan' end,
    detail = jsonb_build_object('provider', p_provider, 'models', v_models);
end
$$;
comment on function private.refuse_model(text, text, jsonb, boolean) is
  'NOMDL: the plan does not have the model. The hint says whether another plan has it, the detail which it has.';
revoke all on function private.refuse_model(text, text, jsonb, boolean) from public, anon, authenticated, service_role;


create or replace function private.paused_provider(p_tier text, p_provider text, p_model text, p_chosen text)
returns text
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select paused.provider from public.plans p, unnest(p.paused_providers) paused (provider)
    where p.tier = p_tier
      and (paused.provider = p_chosen
           or p_provider is null and (p.models -> paused.provider || (p.own_key_models -> paused.provider)) ? p_model)
    order by paused.provider = p_chosen desc limit 1);
end
$$;
comment on function private.paused_provider(text, text, text, text) is
  'The paused provider that a question needs: the chosen one, or the one of a model that was named without its '
  'provider. Null: none.';
revoke all on function private.paused_provider(text, text, text, text) from public, anon, authenticated, service_role;


create or replace function private.encrypted_key(p_user_id uuid, p_provider text) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'id', k.id, 'encrypted_key', encode(k.encrypted_key, 'base64'),
      'encryption_iv', encode(k.encryption_iv, 'base64'), 'encryption_tag', encode(k.encryption_tag, 'base64'),
      'encryption_key_id', k.encryption_key_id)
    from public.user_api_keys k where k.user_id = p_user_id and k.provider = p_provider);
end
$$;
comment on function private.encrypted_key(uuid, text) is
  'The encrypted key of a user for a provider: {id, encrypted_key, encryption_iv, encryption_tag, encryption_key_id}, '
  'bytes in base64. Null: no key.';
revoke all on function private.encrypted_key(uuid, text) from public, anon, authenticated, service_role;


do $$
begin
  create type private.admission_state as (
    now timestamptz, tier text, name text, models jsonb, history_days integer, query_cost_limit_usd numeric,
    is_lifetime boolean, quota_limit integer, included_used integer, quota_date date,
    overage_period_start timestamptz, overage_used numeric, overage_limit numeric, own_key_pays boolean, funding text,
    is_lapsed boolean, quota_used integer, lifetime_used integer, period_start timestamptz,
    current_period_end timestamptz, overage_price_usd numeric, included_until timestamptz, updated_at timestamptz,
    failed_cost_usd numeric, failed_cost_limit_usd numeric, concurrent_queries integer, running_queries integer,
    running_hold_id uuid, charged_query_id uuid, blocked_at timestamptz, unpaid_overage numeric);
exception when duplicate_object then
  null; -- This file has run before.
end
$$;
comment on type private.admission_state is
  'What admit_query decides from: columns of private.funding_state, and the earlier attempts of the same request.';
comment on column private.admission_state.now is 'As in private.funding_state.';
comment on column private.admission_state.tier is 'As in private.funding_state.';
comment on column private.admission_state.name is 'As in private.funding_state.';
comment on column private.admission_state.models is 'As in private.funding_state.';
comment on column private.admission_state.history_days is 'As in private.funding_state.';
comment on column private.admission_state.query_cost_limit_usd is 'As in private.funding_state.';
comment on column private.admission_state.is_lifetime is 'As in private.funding_state.';
comment on column private.admission_state.quota_limit is 'As in private.funding_state.';
comment on column private.admission_state.included_used is 'As in private.funding_state, before this query.';
comment on column private.admission_state.quota_date is 'As in private.funding_state.';
comment on column private.admission_state.overage_period_start is 'As in private.funding_state.';
comment on column private.admission_state.overage_used is 'As in private.funding_state, before this query.';
comment on column private.admission_state.overage_limit is 'As in private.funding_state.';
comment on column private.admission_state.own_key_pays is 'As in private.funding_state.';
comment on column private.admission_state.funding is 'As in private.funding_state.';
comment on column private.admission_state.is_lapsed is 'As in private.funding_state.';
comment on column private.admission_state.quota_used is 'As in private.funding_state.';
comment on column private.admission_state.lifetime_used is 'As in private.funding_state.';
comment on column private.admission_state.period_start is 'As in private.funding_state.';
comment on column private.admission_state.current_period_end is 'As in private.funding_state.';
comment on column private.admission_state.overage_price_usd is 'As in private.funding_state.';
comment on column private.admission_state.included_until is 'As in private.funding_state.';
comment on column private.admission_state.updated_at is 'As in private.funding_state.';
comment on column private.admission_state.failed_cost_usd is 'As in private.funding_state.';
comment on column private.admission_state.failed_cost_limit_usd is 'As in private.funding_state.';
comment on column private.admission_state.concurrent_queries is 'As in private.funding_state.';
comment on column private.admission_state.running_queries is 'Holds of the user that have not expired.';
comment on column private.admission_state.running_hold_id is 'The hold of the same request. Null: it does not run.';
comment on column private.admission_state.charged_query_id is 'The charged query of the same request. Null: none.';
comment on column private.admission_state.blocked_at is 'As in private.funding_state.';
comment on column private.admission_state.unpaid_overage is 'As in private.funding_state, before this query.';


create or replace function public.admit_query(
  p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text default null, p_question_id text default null,
  p_provider text default null, p_model text default null, p_hold_seconds integer default 300,
  p_history_messages integer default 40, p_history_bytes integer default 48000, p_own_key boolean default null,
  p_providers text[] default '{anthropic,openai}', p_question_digest uuid default null,
  p_session_id uuid default null, p_waits boolean default false, p_question jsonb default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_state private.admission_state;
  v_now timestamptz;
  v_chat_uuid constant uuid := private.conversation_key(p_chat_id);
  v_chat_key constant uuid := coalesce(v_chat_uuid, md5(p_chat_id)::uuid);
  v_request_id text := p_request_id;
  v_is_busy boolean := false; -- whether another query of the chat runs; only the full path admits beside one
  v_place record;
  v_position integer;
  v_replaces_to integer;
  v_is_confirmed boolean;
  v_banned_until timestamptz;
  v_has_session boolean;
  v_is_released boolean;
  v_is_counted boolean;
  v_is_reclaimed boolean := false;
  v_hold public.query_holds;
  v_key_provider text;
  v_provider text;
  v_model text;
  v_paused text;
  v_pack_id uuid;
  v_charge numeric := 0.0;
  v_limit text;
  v_taken integer := 0;
  v_conversation_id uuid;
  v_key jsonb;
  v_history jsonb := '[]'::jsonb;
  v_remaining integer;
  v_resets_at timestamptz;
begin
  -- Check the arguments
  if (p_hold_seconds between 1 and 3600 and p_history_messages between 0 and 200) is not true then
    raise invalid_parameter_value using message = 'p_hold_seconds is 1 to 3600, p_history_messages 0 to 200.';
  end if;
  if p_chat_id is not null then
    v_conversation_id := private.find_conversation(p_user_id, p_chat_id, v_chat_uuid);
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  v_now := private.clock();

  -- Identify the request
  if v_request_id is null then
    v_request_id := concat_ws(
      ':', 'regenerate', private.newest_answer(p_user_id, v_chat_key)::text, p_question_id);
  end if;

  -- Decide, fast path: reuse the last decision, which was that the daily quota pays. Counts the query. Whatever is
  -- wrong is left to the full path.
  update public.user_subscriptions s set quota_used = s.quota_used + 1
  from public.plans p
  where s.user_id = p_user_id and s.included_until > v_now and p.tier = s.tier
    and s.quota_used < coalesce(s.daily_quota, p.daily_quota) and p.lifetime_quota is null
    and s.failed_cost_usd < p.failed_cost_limit_usd
    and p.paused_at is null
    and p.models - p.paused_providers -> coalesce(p_provider, p_providers[1]) @> coalesce(to_jsonb(p_model), '[]')
    and (
      select count(*) filter (where h.expires_at > v_now) < p.concurrent_queries
         and count(*) filter (where h.chat_key = v_chat_key and h.expires_at > v_now
                              or h.request_id = v_request_id and h.chat_key is not distinct from v_chat_key) = 0
      from public.query_holds h where h.user_id = p_user_id)
    and not exists (
      select from public.usage_logs u
      where u.user_id = p_user_id and u.request_id = v_request_id and u.chat_key is not distinct from v_chat_key
        and u.is_charged)
    and not exists (select from public.query_refusals r where r.id = p_hold_id and r.reason = 'Timed out')
    and exists (
      select from auth.users a
      where a.id = p_user_id and a.deleted_at is null and (a.banned_until > v_now) is not true)
    and (p_session_id is null or exists (
      select from auth.sessions t
      where t.id = p_session_id and t.user_id = p_user_id and (t.not_after <= v_now) is not true))
  returning
    v_now, s.tier, p.name, p.models - p.paused_providers, p.history_days, p.query_cost_limit_usd,
    false, coalesce(s.daily_quota, p.daily_quota), s.quota_used - 1, s.quota_date,
    s.overage_period_start, s.current_overage_amount,
    case when p.overage_price_usd is not null then coalesce(s.overage_limit, p.overage_limit_usd) end,
    false, 'included'
  into v_state.now, v_state.tier, v_state.name, v_state.models, v_state.history_days, v_state.query_cost_limit_usd,
    v_state.is_lifetime, v_state.quota_limit, v_state.included_used, v_state.quota_date,
    v_state.overage_period_start, v_state.overage_used,
    v_state.overage_limit, v_state.own_key_pays, v_state.funding;
  v_is_counted := found;

  -- Check the account. A token is valid until it expires; Auth's tables show that its user or its session has ended.
  if not v_is_counted then
    select u.confirmed_at is not null and not u.is_anonymous, u.banned_until,
           exists (
             select from auth.sessions t
             where t.id = p_session_id and t.user_id = u.id and (t.not_after <= v_now) is not true),
           exists (select from public.query_refusals r where r.id = p_hold_id and r.reason = 'Timed out')
    into v_is_confirmed, v_banned_until, v_has_session, v_is_released
    from auth.users u where u.id = p_user_id and u.deleted_at is null;
    if not found or p_session_id is not null and not v_has_session then
      raise exception using errcode = 'NOUSR', message = 'The account or the session has ended.';
    elsif v_banned_until > v_now then
      raise exception using errcode = 'BANND', message = 'The account is banned.';
    elsif v_is_released then
      raise exception using errcode = 'LATER', message = 'The caller gave up, and released this query.';
    end if;
  end if;

  -- Decide, full path. A new request that the quota pays for is decided by the first read. Otherwise expired holds are
  -- reclaimed first, and the state is read again.
  while not v_is_counted loop
    select
      s.now, s.tier, s.name, s.models, s.history_days, s.query_cost_limit_usd,
      s.is_lifetime, s.quota_limit, s.included_used, s.quota_date,
      s.overage_period_start, s.overage_used, s.overage_limit, s.own_key_pays, s.funding,
      s.is_lapsed, s.quota_used, s.lifetime_used, s.period_start,
      s.current_period_end, s.overage_price_usd, s.included_until, s.updated_at,
      s.failed_cost_usd, s.failed_cost_limit_usd, s.concurrent_queries,
      (select count(*) from public.query_holds h where h.user_id = p_user_id and h.expires_at > s.now),
      (select h.id from public.query_holds h
       where h.user_id = p_user_id and h.request_id = v_request_id and h.chat_key is not distinct from v_chat_key),
      (select u.id from public.usage_logs u
       where u.user_id = p_user_id and u.request_id = v_request_id and u.chat_key is not distinct from v_chat_key
         and u.is_charged),
      s.blocked_at, s.unpaid_overage
    into v_state from private.funding_state s where s.user_id = p_user_id;
    if not found then
      return jsonb_build_object(
        'decision', 'refused', 'reason', 'No subscription found', 'reason_code', 'no_subscription',
        'requires_payment', true, 'resets_at', null);
    elsif v_state.blocked_at is not null then
      raise exception using errcode = 'BANND', message = 'The account is blocked.';
    elsif v_state.charged_query_id is not null then
      perform private.check_question(p_question_digest, u.question_digest)
      from public.usage_logs u where u.id = v_state.charged_query_id;
      return private.charged_query_response(v_state.charged_query_id);
    end if;
    exit when v_is_reclaimed or v_state.funding = 'included' and v_state.running_hold_id is null;
    perform private.reclaim_expired_holds(p_user_id, p_hold_id, v_state.now);
    v_is_reclaimed := true;
  end loop;

  if v_state.running_hold_id is not null then
    -- The same request runs already.
    select * into v_hold from public.query_holds h where h.id = v_state.running_hold_id;
    perform private.check_question(p_question_digest, v_hold.question_digest);
    if v_state.running_hold_id <> p_hold_id then
      return jsonb_build_object('decision', 'in_progress');
    end if;
    v_state.funding := v_hold.funding;
    v_state.tier := v_hold.tier;
    v_provider := v_hold.provider;
    v_model := v_hold.model;
    v_position := v_hold.position;
    v_replaces_to := v_hold.replaces_to;
  else
    if v_state.models = '{}' then
      return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id, 'chat_paused')
             || jsonb_build_object('sentence', coalesce(
               private.pause_sentence('chat_paused'),
               private.pause_sentence('provider_paused', coalesce(p_provider, p_providers[1]))));
    end if;

    -- Choose the funding
    if v_state.own_key_pays and p_own_key is distinct from false then
      v_key_provider := private.own_key_provider(p_user_id, p_provider);
      if p_provider is null and not v_state.models ? v_key_provider then
        -- That provider is paused. Another own key may pay.
        v_key_provider := coalesce(
          private.own_key_provider(p_user_id, (select min(k) from jsonb_object_keys(v_state.models) k)),
          v_key_provider);
      end if;
    end if;
    if v_key_provider is not null then
      v_state.funding := 'byok';
    elsif p_own_key then
      raise invalid_parameter_value using message = 'The user has no active key of their own that the plan allows.';
    elsif v_state.funding is null then
      return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id);
    elsif v_state.funding = 'credit' then
      v_pack_id := private.next_credit_pack(p_user_id, v_state.now);
    elsif v_state.funding = 'included' and v_state.is_lifetime and not v_is_confirmed then
      raise exception using errcode = 'NCONF', message = 'Free queries need a confirmed account.';
    elsif v_state.funding = 'overage' then
      v_charge := v_state.overage_price_usd;
    end if;

    -- Check the limits besides the funding. The fast path has checked them: it admits no free user.
    if not v_is_counted then
      if v_state.running_queries > 0 then
        v_is_busy := exists (
          select from public.query_holds h
          where h.user_id = p_user_id and h.chat_key = v_chat_key and h.expires_at > v_now and h.id <> p_hold_id);
      end if;
      v_limit := case
        when v_state.funding <> 'byok' and v_state.failed_cost_usd >= v_state.failed_cost_limit_usd
          then 'too_many_failures'
        when v_state.tier = 'free' and private.free_budget_is_spent(v_state.quota_date)
          then 'free_answers_off'
        when v_state.running_queries >= v_state.concurrent_queries and not (v_is_busy and p_waits)
          then 'too_many_queries'
      end;
      if v_limit is not null then
        return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id, v_limit);
      end if;
    end if;

    -- Choose the model
    v_provider := coalesce(
      p_provider, v_key_provider, case when not v_state.models ? p_providers[1] then p_providers[2] end,
      p_providers[1]);
    if v_key_provider is not null then
      select jsonb_set(
        v_state.models, array[v_provider], (v_state.models -> v_provider) || (p.own_key_models -> v_provider))
      into v_state.models from public.plans p where p.tier = v_state.tier;
    end if;
    v_model := coalesce(p_model, v_state.models -> v_provider ->> 0);
    if v_model is null and p_provider is null and v_key_provider is null then
      -- The plan has no models of the default provider.
      v_provider := coalesce(
        (select p.provider from unnest(p_providers) with ordinality p (provider, place)
         where v_state.models -> p.provider ->> 0 is not null order by p.place limit 1),
        v_provider);
      v_model := v_state.models -> v_provider ->> 0;
    end if;
    if v_key_provider is null and (v_provider = any (p_providers)) is not true then
      raise exception using errcode = 'NOMDL', message = 'The platform has no account with this provider.',
        hint = 'provider_not_available', detail = jsonb_build_object('provider', v_provider);
    elsif (v_state.models -> v_provider ? v_model) is not true then
      -- Not on the fast path, which has counted: it admits no model but one of the plan.
      v_paused := private.paused_provider(v_state.tier, p_provider, p_model, v_provider);
      if v_paused is not null then
        return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id, 'provider_paused')
               || jsonb_build_object(
                 'provider', v_paused, 'sentence', private.pause_sentence('provider_paused', v_paused));
      end if;
      perform private.refuse_model(v_provider, v_model, v_state.models -> v_provider, v_key_provider is not null);
    end if;

    -- Wait for the running answer of the chat
    if v_is_busy and p_waits then
      perform private.stop_chat(p_user_id, v_chat_key, v_now);
      return jsonb_build_object('decision', 'waiting');
    end if;

    -- Take the funding
    if v_chat_key is not null then
      v_place := private.place_question(p_user_id, v_chat_key, v_conversation_id, p_question_id, p_hold_id);
      v_position := v_place.question_position;
      v_replaces_to := v_place.replaces_to;
    end if;
    insert into public.query_holds (
      id, created_at, user_id, request_id, chat_key, question_digest, tier, funding, query_date, credit_pack_id,
      overage_charge, period_start, quota_used, quota_limit, overage_used, overage_limit, provider, model, expires_at,
      chat_id, conversation_id, position, replaces_to, question)
    values (
      p_hold_id, v_state.now, p_user_id, v_request_id, v_chat_key, p_question_digest, v_state.tier, v_state.funding,
      v_state.quota_date, v_pack_id, v_charge, v_state.overage_period_start, v_state.included_used,
      v_state.quota_limit, v_state.overage_used, v_state.overage_limit, v_provider, v_model,
      v_state.now + make_interval(secs => p_hold_seconds), p_chat_id, v_conversation_id,
      v_position, v_replaces_to, p_question);
    if v_replaces_to is not null and v_is_busy then
      -- After the insert, which locks auth.users
      update public.query_holds h set is_replaced = true
      where h.user_id = p_user_id and h.chat_key = v_chat_key and h.id <> p_hold_id
        and h.position between v_position and v_replaces_to;
    end if;
    if not v_is_counted then
      if v_state.is_lapsed then
        -- The canceled plan has ended, unless a webhook has renewed it since the state was read.
        update public.user_subscriptions s set
          tier = v_state.tier, next_tier = null, status = 'active', stripe_subscription_id = null,
          current_period_start = null, current_period_end = null
        where s.user_id = p_user_id and s.status = 'canceled' and s.current_period_end <= v_state.now;
      end if;
      update public.user_subscriptions s set
        quota_date = v_state.quota_date,
        quota_used = v_state.quota_used
          + case when v_state.funding = 'included' and not v_state.is_lifetime then 1 else 0 end,
        lifetime_used = v_state.lifetime_used
          + case when v_state.funding = 'included' and v_state.is_lifetime then 1 else 0 end,
        failed_cost_usd = v_state.failed_cost_usd,
        overage_period_start = v_state.overage_period_start,
        current_overage_amount = v_state.overage_used + v_charge,
        unpaid_overage_usd = s.unpaid_overage_usd + v_charge,
        -- Not if the plan changed since the state was read: webhooks do not take the user lock for that.
        included_until = case when s.updated_at = v_state.updated_at then v_state.included_until end
      where s.user_id = p_user_id;
      if v_pack_id is not null then
        update public.credit_packs c set
          credits_remaining = c.credits_remaining - 1, credits_used = c.credits_used + 1,
          depleted_at = case when c.credits_remaining = 1 then v_state.now end
        where c.id = v_pack_id;
      end if;
    end if;
    v_taken := 1;
  end if;

  -- Return
  if v_state.funding = 'byok' then
    v_key := private.encrypted_key(p_user_id, v_provider);
  elsif v_state.funding = 'included' then
    v_remaining := greatest(0, v_state.quota_limit - v_state.included_used - v_taken);
    v_resets_at := case when not v_state.is_lifetime then (v_state.quota_date + 1)::timestamp at time zone 'UTC' end;
  elsif v_state.funding = 'credit' then
    v_remaining := (
      select sum(c.credits_remaining) from public.credit_packs c
      where c.user_id = p_user_id and not c.is_frozen and (c.expires_at > v_state.now or c.expires_at is null));
  elsif v_state.funding = 'overage' then
    v_remaining := floor((v_state.overage_limit - greatest(v_state.overage_used, v_state.unpaid_overage) - v_charge)
                         / v_state.overage_price_usd);
    v_resets_at := (private.period_at(v_state.period_start, v_state.current_period_end, v_state.now)).period_end;
  end if;
  if v_conversation_id is not null and v_state.history_days > 0 then
    -- A repeated question is answered from the messages before it.
    v_history := private.recent_messages(
      v_conversation_id, case when v_replaces_to is not null then v_position end, p_history_messages, p_history_bytes);
  end if;
  return jsonb_build_object(
    'decision', 'admitted', 'funding', v_state.funding, 'tier', v_state.tier, 'provider', v_provider, 'model', v_model,
    'keeps_history', v_state.history_days > 0, 'remaining', v_remaining, 'resets_at', v_resets_at, 'history', v_history,
    'key', v_key, 'models', v_state.models, 'cost_limit_usd', v_state.query_cost_limit_usd::text);
end
$$;
comment on function public.admit_query(
  uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[], uuid, uuid, boolean, jsonb) is
  'Admits one query under the user lock, and returns everything that the turn needs: decision, funding, tier, '
  'provider, model, keeps_history, remaining, resets_at, recent history, the encrypted key if an own key pays, the '
  'models of the plan, cost_limit_usd. decision is admitted; refused, with reason, reason_code, requires_payment, '
  'resets_at and url (of the unpaid invoice); '
  'in_progress: another attempt at the same request runs; waiting: with p_waits, another query of the chat runs, and '
  'was requested to stop; ended: the request was charged before. Called again with the '
  'same hold id it returns the same hold, so a lost response can be requested again. p_own_key: whether an own key '
  'pays; null: if there is one. p_providers: providers that the platform has an account with, the default first. '
  'p_question_digest: of the question, where the request id does not identify it. p_session_id: of the '
  'token. p_request_id null: regenerates the newest answer. p_question_id: of a question that may have been asked '
  'before. p_question: {id, content}, for chat_messages while the query runs. CONFL: the same request asked another '
  'question before. NTFND: the conversation belongs to another user. '
  'NOMDL: the plan does not have the model. NOUSR: the account or the session has ended. BANND: the account is banned '
  'or blocked. NCONF: the free quota would pay, and the account is anonymous or not confirmed. LATER: release_query '
  'was called first.';
revoke all on function public.admit_query(
  uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[], uuid, uuid, boolean, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function public.admit_query(
  uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[], uuid, uuid, boolean, jsonb)
  to service_role;
