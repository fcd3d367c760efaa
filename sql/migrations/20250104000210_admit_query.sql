-- How a query begins: the funding is taken and a hold is left, or the refusal is recorded. See ..._metering.sql.


create or replace function private.refuse(p_user_id uuid, p_request_id text, p_hold_id uuid) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_refusal public.query_refusals;
begin
  -- Nobody waits for the disk to hear no. What a crash could forget here is only the record.
  perform set_config('synchronous_commit', 'off', true);
  insert into public.query_refusals as r (
    id, created_at, user_id, request_id, reason, requires_payment, resets_at, tier, quota_used, quota_limit,
    overage_used, overage_limit)
  select p_hold_id, s.now, s.user_id, p_request_id, s.reason, s.requires_payment, s.resets_at, s.tier, s.used,
         s.quota_limit, s.overage_used, s.overage_limit
  from private.standing s where s.user_id = p_user_id
  on conflict (user_id, request_id) do update set
    created_at = excluded.created_at, reason = excluded.reason, requires_payment = excluded.requires_payment,
    resets_at = excluded.resets_at, tier = excluded.tier, quota_used = excluded.quota_used,
    quota_limit = excluded.quota_limit, overage_used = excluded.overage_used, overage_limit = excluded.overage_limit
  returning r.* into v_refusal;
  delete from public.query_refusals r
  where r.id in (
    select oldest.id from public.query_refusals oldest where oldest.user_id = p_user_id
    order by oldest.created_at desc, oldest.id offset 50);
  return jsonb_build_object(
    'decision', 'refused', 'reason', v_refusal.reason, 'requires_payment', v_refusal.requires_payment,
    'resets_at', v_refusal.resets_at);
end
$$;
comment on function private.refuse(uuid, text, uuid) is
  'Says why nothing but an own key would pay for a user''s query now, and records it: the newest fifty of a user. The '
  'user is locked.';
revoke all on function private.refuse(uuid, text, uuid) from public, anon, authenticated, service_role;


create or replace function private.look_back(p_user_id uuid, p_request_id text, p_hold_id uuid, p_at timestamptz)
returns public.query_holds
language plpgsql volatile set search_path = ''
as $$
declare
  v_lost uuid;
  v_earlier public.query_holds;
begin
  for v_lost in
    select h.id from public.query_holds h where h.user_id = p_user_id and h.expires_at <= p_at and h.id <> p_hold_id
  loop
    perform private.give_back(v_lost, 'lost', '{}');
  end loop;
  select * into v_earlier from public.query_holds h where h.user_id = p_user_id and h.request_id = p_request_id;
  return v_earlier;
end
$$;
comment on function private.look_back(uuid, text, uuid, timestamptz) is
  'Gives back what a user''s lost queries hold, those that the sweep has not met yet, and returns the hold that a '
  'request has already, if any. The user is locked.';
revoke all on function private.look_back(uuid, text, uuid, timestamptz)
  from public, anon, authenticated, service_role;


create or replace function private.ended(p_query_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'decision', 'ended',
      'answer', case when m.id is not null then jsonb_build_object(
        'id', m.id, 'content', m.content, 'function_calls', m.function_calls,
        'function_results', m.function_results) end,
      'keeps_history', p.history_days > 0, 'provider', u.provider, 'model', u.model, 'funding', u.funding,
      'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output,
      'cache_read_tokens', u.cache_read_tokens, 'cache_write_tokens', u.cache_write_tokens,
      'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text)
    from public.usage_logs u
    join public.plans p on p.tier = u.tier
    left join public.messages m on m.id = u.message_id
    where u.id = p_query_id);
end
$$;
comment on function private.ended(uuid) is
  'What a request is told that was charged already: its answer, where it is kept.';
revoke all on function private.ended(uuid) from public, anon, authenticated, service_role;


create or replace function private.conversation_key(p_chat_id text) returns uuid
language sql immutable set search_path = ''
as $$
  select case when p_chat_id ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_chat_id::uuid end
$$;
comment on function private.conversation_key(text) is
  'A chat''s id as the id of its conversation; null where it is not a UUID but the user''s own name for one.';
revoke all on function private.conversation_key(text) from public, anon, authenticated, service_role;


create or replace function private.find_conversation(p_user_id uuid, p_chat_id text) returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  v_key constant uuid := private.conversation_key(p_chat_id);
  v_owner uuid;
  v_id uuid;
begin
  if v_key is null then
    select id into v_id from public.conversations where user_id = p_user_id and external_id = p_chat_id;
    return v_id;
  end if;
  select id, user_id into v_id, v_owner from public.conversations where id = v_key;
  if v_owner <> p_user_id then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.';
  end if;
  return v_id;
end
$$;
comment on function private.find_conversation(uuid, text) is
  'A user''s conversation by the chat''s id, null where it is new. NTFND where it is somebody else''s.';
revoke all on function private.find_conversation(uuid, text) from public, anon, authenticated, service_role;


create or replace function private.sealed_key(p_user_id uuid, p_provider text) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'id', k.id, 'encrypted_key', encode(k.encrypted_key, 'base64'), 'encryption_iv', encode(k.encryption_iv, 'base64'),
      'encryption_tag', encode(k.encryption_tag, 'base64'), 'encryption_key_id', k.encryption_key_id)
    from public.user_api_keys k where k.user_id = p_user_id and k.provider = p_provider);
end
$$;
comment on function private.sealed_key(uuid, text) is
  'A user''s sealed key for a provider, bytes in base64; null where there is none.';
revoke all on function private.sealed_key(uuid, text) from public, anon, authenticated, service_role;


create or replace function private.recent_messages(
  p_conversation_id uuid, p_question_id text, p_count integer, p_characters integer)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_before integer;
begin
  -- Asked again, a question is answered from what came before it.
  select m.position into v_before from public.messages m
  where m.conversation_id = p_conversation_id and m.role = 'user' and m.external_id = p_question_id
  order by m.position desc limit 1;
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object('role', sized.role, 'content', sized.content)
          || case when sized.with_results <= p_characters
                  then jsonb_build_object('function_calls', sized.function_calls,
                                          'function_results', sized.function_results)
                  else '{}' end
        order by sized.position),
      '[]')
    from (
      select newest.*, sum(char_length(newest.content)) over newest_first as characters,
             sum(char_length(newest.content) + coalesce(char_length(newest.function_results::text), 0))
               over newest_first as with_results
      from (
        select m.role, m.content, m.function_calls, m.function_results, m.position from public.messages m
        where m.conversation_id = p_conversation_id and (v_before is null or m.position < v_before)
        order by m.position desc limit p_count
      ) newest
      window newest_first as (order by newest.position desc)
    ) sized
    where sized.characters <= p_characters);
end
$$;
comment on function private.recent_messages(uuid, text, integer, integer) is
  'The newest messages of a conversation that fit into so many characters, oldest first: [{role, content, '
  'function_calls, function_results}], the latter two as long as they fit too; those before the question, if it is in it.';
revoke all on function private.recent_messages(uuid, text, integer, integer)
  from public, anon, authenticated, service_role;


create or replace function public.admit_query(
  p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text default null, p_question_id text default null,
  p_provider text default null, p_model text default null, p_hold_seconds integer default 300,
  p_history_messages integer default 40, p_history_characters integer default 48000, p_own_key boolean default null,
  p_providers text[] default '{anthropic,openai}')
returns jsonb
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v record;
  v_now timestamptz;
  v_is_counted boolean;
  v_looked_back boolean := false;
  v_hold public.query_holds;
  v_key_provider text;
  v_provider text;
  v_model text;
  v_pack_id uuid;
  v_charge numeric := 0.0;
  v_taken integer := 0;
  v_conversation_id uuid;
  v_key jsonb;
  v_history jsonb := '[]'::jsonb;
  v_remaining integer;
  v_resets_at timestamptz;
begin
  if p_hold_seconds not between 1 and 3600 or p_history_messages not between 0 and 200 then
    raise invalid_parameter_value using message = 'p_hold_seconds is 1 to 3600, p_history_messages 0 to 200.';
  end if;
  if p_chat_id is not null then
    v_conversation_id := private.find_conversation(p_user_id, p_chat_id);
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  v_now := private.clock();

  -- Mostly the day's quota pays as it did for the query before, which need not be decided again. (Types as below.)
  update public.user_subscriptions s set quota_used = s.quota_used + 1
  from public.plans p
  where s.user_id = p_user_id and s.included_until > v_now and p.tier = s.tier
    and s.quota_used < coalesce(s.daily_quota, p.daily_quota) and p.lifetime_quota is null
    and not exists (select from public.query_holds h where h.user_id = p_user_id and h.request_id = p_request_id)
    and not exists (
      select from public.usage_logs u
      where u.user_id = p_user_id and u.request_id = p_request_id and u.outcome in ('answered', 'stopped'))
  returning
    v_now as now, s.tier, p.name, p.models, p.history_days, p.query_cost_limit_usd::numeric as query_cost_limit_usd,
    false as for_life, coalesce(s.daily_quota, p.daily_quota)::integer as quota_limit, s.quota_used - 1 as used,
    s.quota_date, s.overage_period_start, s.current_overage_amount::numeric as overage_used,
    case when p.overage_price_usd is not null then coalesce(s.overage_limit, p.overage_limit_usd) end::numeric
      as overage_limit, false as own_key, 'included'::text as funding
  into v;
  v_is_counted := found;

  -- Else mostly one look is enough: a new request that is included. If not, lost queries give back first, and we look
  -- again.
  while not v_is_counted loop
    select
      s.now, s.lapsed, s.tier, s.name, s.models, s.history_days, s.query_cost_limit_usd, s.for_life, s.quota_limit, s.used, s.quota_date,
      s.quota_used, s.lifetime_used, s.current_period_start, s.current_period_end, s.overage_period_start, s.overage_used, s.overage_limit,
      s.overage_price_usd, s.own_key, s.funding, s.included_until, s.updated_at,
      (select h.id from public.query_holds h where h.user_id = p_user_id and h.request_id = p_request_id) as held_id,
      (select u.id from public.usage_logs u
       where u.user_id = p_user_id and u.request_id = p_request_id and u.outcome in ('answered', 'stopped')) as ended_id
    into v from private.standing s where s.user_id = p_user_id;
    if not found then
      return jsonb_build_object(
        'decision', 'refused', 'reason', 'No subscription found', 'requires_payment', true, 'resets_at', null);
    elsif v.ended_id is not null then
      return private.ended(v.ended_id);
    end if;
    exit when v_looked_back or v.funding = 'included' and v.held_id is null;
    v_hold := private.look_back(p_user_id, p_request_id, p_hold_id, v.now);
    v_looked_back := true;
  end loop;
  if v_hold.id <> p_hold_id then
    return jsonb_build_object('decision', 'in_progress');
  elsif v_hold.id is not null then
    v.funding := v_hold.funding;
    v.tier := v_hold.tier;
    v_provider := v_hold.provider;
    v_model := v_hold.model;
  else
    if v.own_key and p_own_key is distinct from false then
      v_key_provider := private.key_provider(p_user_id, p_provider);
    end if;
    if v_key_provider is not null then
      v.funding := 'byok';
    elsif p_own_key then
      raise invalid_parameter_value using message = 'The user has no active key of their own that the plan allows.';
    elsif v.funding is null then
      return private.refuse(p_user_id, p_request_id, p_hold_id);
    elsif v.funding = 'credit' then
      v_pack_id := private.next_credit_pack(p_user_id, v.now);
    elsif v.funding = 'overage' then
      v_charge := v.overage_price_usd;
    end if;
    v_provider := coalesce(p_provider, v_key_provider, p_providers[1]);
    v_model := coalesce(p_model, v.models -> v_provider ->> 0);
    if v_key_provider is null and (v_provider = any (p_providers)) is not true then
      raise exception using errcode = 'NOMDL', message = format('Models of %s are not available here.', v_provider);
    elsif (v.models -> v_provider ? v_model) is not true then
      raise exception using errcode = 'NOMDL', message = format(
        'The %s plan answers with these models of %s: %s.', v.name, v_provider,
        (select string_agg(m, ', ') from jsonb_array_elements_text(v.models -> v_provider) m));
    end if;

    insert into public.query_holds values (
      p_hold_id, v.now, p_user_id, p_request_id, v.tier, v.funding, v.quota_date, v_pack_id, v_charge,
      v.overage_period_start, v.used, v.quota_limit, v.overage_used, v.overage_limit, v_provider, v_model,
      v.now + make_interval(secs => p_hold_seconds), p_chat_id);
    if not v_is_counted then
      if v.lapsed then
        -- A cancelled plan whose period is over, unless a webhook has renewed it since we looked.
        update public.user_subscriptions s set
          tier = v.tier, next_tier = null, status = 'active', stripe_subscription_id = null,
          current_period_start = null, current_period_end = null
        where s.user_id = p_user_id and s.status = 'canceled' and s.current_period_end <= v.now;
      end if;
      update public.user_subscriptions s set
        quota_date = v.quota_date,
        quota_used = v.quota_used + case when v.funding = 'included' and not v.for_life then 1 else 0 end,
        lifetime_used = v.lifetime_used + case when v.funding = 'included' and v.for_life then 1 else 0 end,
        overage_period_start = v.overage_period_start,
        current_overage_amount = v.overage_used + v_charge,
        -- Not if the plan has changed since we looked: that does not wait for the user's queue.
        included_until = case when s.updated_at = v.updated_at then v.included_until end
      where s.user_id = p_user_id;
      if v_pack_id is not null then
        update public.credit_packs c set
          credits_remaining = c.credits_remaining - 1, credits_used = c.credits_used + 1,
          depleted_at = case when c.credits_remaining = 1 then v.now end
        where c.id = v_pack_id;
      end if;
    end if;
    v_taken := 1;
  end if;

  if v.funding = 'byok' then
    v_key := private.sealed_key(p_user_id, v_provider);
  elsif v.funding = 'included' then
    v_remaining := greatest(0, v.quota_limit - v.used - v_taken);
    v_resets_at := case when not v.for_life then (v.quota_date + 1)::timestamp at time zone 'UTC' end;
  elsif v.funding = 'credit' then
    v_remaining := (
      select sum(c.credits_remaining) from public.credit_packs c
      where c.user_id = p_user_id and not c.is_frozen and (c.expires_at > v.now or c.expires_at is null));
  elsif v.funding = 'overage' then
    v_remaining := floor((v.overage_limit - v.overage_used - v_charge) / v.overage_price_usd);
    v_resets_at := (private.period_at(v.current_period_start, v.current_period_end, v.now)).period_end;
  end if;
  if v_conversation_id is not null and v.history_days > 0 then
    v_history := private.recent_messages(
      v_conversation_id, p_question_id, p_history_messages, p_history_characters);
  end if;
  return jsonb_build_object(
    'decision', 'admitted', 'funding', v.funding, 'tier', v.tier, 'provider', v_provider, 'model', v_model,
    'keeps_history', v.history_days > 0, 'remaining', v_remaining, 'resets_at', v_resets_at, 'history', v_history,
    'key', v_key, 'models', v.models, 'cost_limit_usd', v.query_cost_limit_usd::text);
end
$$;
comment on function
  public.admit_query(uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[]) is
  'Admits one query under the user''s lock and returns all that the turn needs: decision (admitted, refused, '
  'in_progress: another attempt at the same request runs, ended: it was charged already), funding, model, what is '
  'left, recent history, the sealed key if an own one pays, the plan''s models and cost limit. Sent again with the same hold id it returns the same hold, so a lost response can be asked '
  'for again. p_own_key: whether a key of the user''s own pays; null: if there is one. p_providers: those that the '
  'platform has an account with, the default first. NTFND: somebody else''s '
  'conversation; NOMDL: a model the plan does not have.';
revoke all on function
  public.admit_query(uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[])
  from public, anon, authenticated, service_role;
grant execute on function
  public.admit_query(uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[]) to service_role;
