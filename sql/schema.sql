-- What the migrations together make of the schemas public and private, as pg_dump sees it. Made by `make schema`,
-- never by hand; to be read, not to be run. Not shown: rows, owners (everything is postgres's), what the platform
-- brings, and the trigger start_subscription on auth.users.

CREATE SCHEMA private;

COMMENT ON SCHEMA private IS 'What the functions of public share. Never exposed over the API.';

CREATE DOMAIN public.quantity AS integer
	CONSTRAINT quantity_is_not_negative CHECK ((VALUE >= 0));

COMMENT ON DOMAIN public.quantity IS 'How many: never negative.';

CREATE DOMAIN public.query_funding AS text
	CONSTRAINT query_funding_is_known CHECK ((VALUE = ANY (ARRAY['byok'::text, 'included'::text, 'credit'::text, 'overage'::text])));

COMMENT ON DOMAIN public.query_funding IS 'What pays for a query.';

CREATE DOMAIN public.query_outcome AS text
	CONSTRAINT query_outcome_is_known CHECK ((VALUE = ANY (ARRAY['answered'::text, 'stopped'::text, 'failed'::text, 'lost'::text])));

COMMENT ON DOMAIN public.query_outcome IS 'How a query ended: answered and stopped are charged, failed and lost are not.';

CREATE DOMAIN public.request_key AS text
	CONSTRAINT request_key_is_bounded CHECK (((octet_length(VALUE) >= 1) AND (octet_length(VALUE) <= 800)));

COMMENT ON DOMAIN public.request_key IS 'The idempotency key of a request.';

CREATE DOMAIN public.subscription_status AS text
	CONSTRAINT subscription_status_is_known CHECK ((VALUE = ANY (ARRAY['active'::text, 'canceled'::text, 'suspended'::text, 'past_due'::text])));

COMMENT ON DOMAIN public.subscription_status IS 'How a subscription stands at Stripe.';

CREATE DOMAIN public.usd AS numeric(14,6)
	CONSTRAINT usd_is_not_negative CHECK ((VALUE >= (0)::numeric));

COMMENT ON DOMAIN public.usd IS 'US dollars, never negative. Six decimals hold a tenth of a thousandth of a cent, so sums are exact.';

CREATE FUNCTION private.check_pin() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  if not exists (
    select from public.user_subscriptions s join public.plans p on p.tier = s.tier
    where s.user_id = new.user_id and p.history_days > 0) then
    raise insufficient_privilege using message = 'Your plan keeps no conversations, so none can be pinned.';
  end if;
  return new;
end
$$;

COMMENT ON FUNCTION private.check_pin() IS 'Trigger: conversations are pinned only on plans that keep them.';

CREATE FUNCTION private.check_subscription() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  -- The grace of seven days is counted from here, whoever changes the status.
  new.past_due_since := case when new.status = 'past_due' then coalesce(new.past_due_since, now()) end;
  if (new.current_period_start is null) <> (new.current_period_end is null)
     or new.current_period_end <= new.current_period_start then
    raise check_violation using message = 'A billing period ends after it starts.';
  end if;
  return new;
end
$$;

COMMENT ON FUNCTION private.check_subscription() IS 'Trigger: notes since when a subscription is past due, and refuses a period that does not end after it starts.';

CREATE FUNCTION private.clock() RETURNS timestamp with time zone
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  -- Not now(): a transaction that waited for a lock past midnight has to see the new day.
  return coalesce(nullif(current_setting('metering.now', true), '')::timestamptz, clock_timestamp());
end
$$;

COMMENT ON FUNCTION private.clock() IS 'The time that metering goes by. The setting metering.now moves it, for tests; no API request can set it.';

CREATE FUNCTION private.conversation_key(p_chat_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $_$
  select case when p_chat_id ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_chat_id::uuid end
$_$;

COMMENT ON FUNCTION private.conversation_key(p_chat_id text) IS 'A chat''s id as the id of its conversation; null where it is not a UUID but the user''s own name for one.';

CREATE FUNCTION private.delete_conversations(p_ids uuid[]) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_longest record;
begin
  select c.id, c.message_count into v_longest from public.conversations c
  where c.id = any (p_ids) order by c.message_count desc limit 1;
  if v_longest.message_count > 250 then
    -- From its end, so that it stays one conversation until it is gone.
    delete from public.messages m
    where m.conversation_id = v_longest.id and m.position > v_longest.message_count - 250;
    update public.conversations c set message_count = c.message_count - 250 where c.id = v_longest.id;
    return 1;
  end if;
  -- One update clears both columns; a cascade would clear them one after the other, row by row.
  update public.usage_logs u set conversation_id = null, message_id = null where u.conversation_id = any (p_ids);
  delete from public.messages m where m.conversation_id = any (p_ids);
  delete from public.conversations c where c.id = any (p_ids);
  return cardinality(p_ids);
end
$$;

COMMENT ON FUNCTION private.delete_conversations(p_ids uuid[]) IS 'Deletes conversations with their messages; if one has more than 250, 250 of those and nothing else. Returns how many conversations it met. They are locked.';

CREATE FUNCTION private.describe_key(p_provider text, p_hint text, p_is_active boolean, p_last_validated_at timestamp with time zone, p_validation_error text, p_created_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  return jsonb_build_object(
    'provider', p_provider, 'hint', p_hint,
    'status', case when not p_is_active then 'invalid' when p_last_validated_at is null then 'unchecked' else 'valid' end,
    'last_validated_at', p_last_validated_at, 'validation_error', p_validation_error, 'created_at', p_created_at);
end
$$;

COMMENT ON FUNCTION private.describe_key(p_provider text, p_hint text, p_is_active boolean, p_last_validated_at timestamp with time zone, p_validation_error text, p_created_at timestamp with time zone) IS 'A stored key as its owner is shown it.';

CREATE FUNCTION private.end_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_charged constant boolean := p_outcome in ('answered', 'stopped');
begin
  insert into public.usage_logs as u (
    id, created_at, user_id, request_id, conversation_id, message_id, tier, funding, outcome, query_date,
    query_timestamp, period_start, credit_pack_id, quota_used, quota_limit, overage_used, overage_limit, tokens_input,
    tokens_output, cache_read_tokens, cache_write_tokens, cost_usd, provider, model, used_byo_key,
    counted_against_quota, was_overage, overage_charge)
  select
    h.id, private.clock(), h.user_id, h.request_id, p_conversation_id, p_message_id, h.tier, h.funding, p_outcome,
    h.query_date, h.created_at, h.period_start, h.credit_pack_id, h.quota_used, h.quota_limit, h.overage_used,
    h.overage_limit, coalesce((p_usage ->> 'tokens_input')::integer, 0),
    coalesce((p_usage ->> 'tokens_output')::integer, 0), coalesce((p_usage ->> 'cache_read_tokens')::integer, 0),
    coalesce((p_usage ->> 'cache_write_tokens')::integer, 0), coalesce((p_usage ->> 'cost_usd')::numeric, 0),
    coalesce(p_usage ->> 'provider', h.provider), coalesce(p_usage ->> 'model', h.model), h.funding = 'byok',
    v_charged and h.funding = 'included', v_charged and h.funding = 'overage',
    case when v_charged then h.overage_charge else 0 end
  from public.query_holds h where h.id = p_hold_id
  returning u.id, u.outcome, u.overage_charge, u.cost_usd, u.message_id, u.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key;
  delete from public.query_holds h where h.id = p_hold_id;
end
$$;

COMMENT ON FUNCTION private.end_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) IS 'Turns a hold into its one usage_logs row, and returns of that what matters; id is null where there is no hold. The hold is locked.';

CREATE FUNCTION private.ended(p_query_id uuid) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION private.ended(p_query_id uuid) IS 'What a request is told that was charged already: its answer, where it is kept.';

CREATE FUNCTION private.find_conversation(p_user_id uuid, p_chat_id text) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION private.find_conversation(p_user_id uuid, p_chat_id text) IS 'A user''s conversation by the chat''s id, null where it is new. NTFND where it is somebody else''s.';

CREATE FUNCTION private.give_back(p_hold_id uuid, p_outcome text, p_usage jsonb, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_hold public.query_holds;
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));
  select * into v_hold from public.query_holds h where h.id = p_hold_id;
  select e.* into id, outcome, charged_usd, cost_usd, message_id, used_byo_key
  from private.end_query(p_hold_id, p_outcome, p_usage, null, null) e;
  if v_hold.funding = 'included' then
    update public.user_subscriptions s set
      lifetime_used = s.lifetime_used - case when p.lifetime_quota is not null then 1 else 0 end,
      quota_used = s.quota_used
                 - case when p.daily_quota is not null and s.quota_date = v_hold.query_date then 1 else 0 end
    from public.plans p
    where s.user_id = v_hold.user_id and p.tier = v_hold.tier;
  elsif v_hold.funding = 'credit' then
    -- A credit that comes back after a refund or after its pack has lapsed goes where that would have taken it.
    update public.credit_packs c set
      credits_used = c.credits_used - 1,
      credits_remaining = c.credits_remaining + case when back.to = 'remaining' then 1 else 0 end,
      credits_revoked = c.credits_revoked + case when back.to = 'revoked' then 1 else 0 end,
      credits_expired = c.credits_expired + case when back.to = 'expired' then 1 else 0 end,
      depleted_at = case when back.to <> 'remaining' then c.depleted_at end
    from (
      select k.id, case when k.credits_revoked < k.credits_to_revoke then 'revoked'
                        when k.lapsed_at is not null then 'expired'
                        else 'remaining' end as to
      from public.credit_packs k where k.id = v_hold.credit_pack_id) back
    where c.id = back.id;
  elsif v_hold.funding = 'overage' then
    update public.user_subscriptions set current_overage_amount = current_overage_amount - v_hold.overage_charge
    where user_id = v_hold.user_id and overage_period_start = v_hold.period_start;
  end if;
end
$$;

COMMENT ON FUNCTION private.give_back(p_hold_id uuid, p_outcome text, p_usage jsonb, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) IS 'Ends a query without a charge: the same day''s count, the same pack or the same period''s overage gets it back. Returns what end_query returns. The user is locked.';

CREATE FUNCTION private.go_by_packs(p_user_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_tier constant text := private.unsubscribed_tier(p_user_id, private.clock());
begin
  update public.user_subscriptions s set tier = v_tier
  where s.user_id = p_user_id and s.stripe_subscription_id is null and s.status = 'active'
    and s.tier in ('free', 'usage_only') and s.tier <> v_tier;
end
$$;

COMMENT ON FUNCTION private.go_by_packs(p_user_id uuid) IS 'Puts a user without a subscription on the plan that their packs make. The user is locked.';

CREATE FUNCTION private.how_it_ended(p_hold_id uuid, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  select u.id, u.outcome, u.overage_charge, u.cost_usd, u.message_id, u.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key
  from public.usage_logs u where u.id = p_hold_id;
  if id is null then
    raise exception using errcode = 'NOHLD', message = 'There is no such query.';
  end if;
end
$$;

COMMENT ON FUNCTION private.how_it_ended(p_hold_id uuid, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) IS 'How a query ended, as end_query says it. NOHLD: never admitted.';

CREATE FUNCTION private.keep_books() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  -- In one order, so that two deletions add to the same rows one after the other.
  insert into public.retained_usage as r (
    month, tier, provider, model, funding, outcome, queries, tokens_input, tokens_output, cost_usd, overage_usd,
    credits_usd, written_off_usd)
  select date_trunc('month', u.query_date)::date, u.tier, u.provider, u.model, u.funding, u.outcome, count(*),
         sum(u.tokens_input), sum(u.tokens_output), sum(u.cost_usd), sum(u.overage_charge),
         coalesce(sum(c.price_per_credit) filter (where u.outcome in ('answered', 'stopped')), 0),
         coalesce(sum(u.overage_charge) filter (where i.stripe_invoice_item_id is null), 0)
  from public.usage_logs u
  left join public.credit_packs c on c.id = u.credit_pack_id
  left join public.overage_invoice_items i on i.id = u.invoice_item_id
  where u.user_id = old.id
  group by 1, 2, 3, 4, 5, 6
  order by 1, 2, 3, 4, 5, 6
  on conflict (month, tier, provider, model, funding, outcome) do update set
    queries = r.queries + excluded.queries, tokens_input = r.tokens_input + excluded.tokens_input,
    tokens_output = r.tokens_output + excluded.tokens_output, cost_usd = r.cost_usd + excluded.cost_usd,
    overage_usd = r.overage_usd + excluded.overage_usd, credits_usd = r.credits_usd + excluded.credits_usd,
    written_off_usd = r.written_off_usd + excluded.written_off_usd;
  insert into public.retained_invoice_items
  select i.id, i.created_at, i.period_start, i.queries, i.unit_price_usd, i.amount_usd, i.amount_cents,
         i.stripe_invoice_item_id, i.stripe_invoice_id
  from public.overage_invoice_items i where i.user_id = old.id and i.stripe_invoice_item_id is not null
  on conflict (id) do nothing;
  return old;
end
$$;

COMMENT ON FUNCTION private.keep_books() IS 'Trigger on auth.users: before a user''s rows go with them, what the books need is kept without them. Runs as its owner, because Auth may not write to public.';

CREATE TABLE public.query_holds (
    id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    request_id public.request_key NOT NULL,
    tier text NOT NULL,
    funding public.query_funding NOT NULL,
    query_date date NOT NULL,
    credit_pack_id uuid,
    overage_charge public.usd DEFAULT 0 NOT NULL,
    period_start timestamp with time zone NOT NULL,
    quota_used public.quantity NOT NULL,
    quota_limit public.quantity NOT NULL,
    overage_used public.usd NOT NULL,
    overage_limit public.usd,
    provider text NOT NULL,
    model text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    chat_id text,
    progress text DEFAULT ''::text NOT NULL,
    followed_to public.quantity,
    is_closing boolean DEFAULT false NOT NULL,
    stop_requested boolean DEFAULT false NOT NULL
);

ALTER TABLE ONLY public.query_holds FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.query_holds IS 'Queries that were admitted and have not ended. Each has taken its funding, and remembers where from.';

COMMENT ON COLUMN public.query_holds.id IS 'Identifies the query; its usage_logs row will have the same id.';

COMMENT ON COLUMN public.query_holds.created_at IS 'When it was admitted.';

COMMENT ON COLUMN public.query_holds.user_id IS 'Who asked.';

COMMENT ON COLUMN public.query_holds.request_id IS 'The idempotency key: the same request is never charged twice.';

COMMENT ON COLUMN public.query_holds.tier IS 'The user''s tier at admission.';

COMMENT ON COLUMN public.query_holds.funding IS 'What pays: byok, included, credit or overage.';

COMMENT ON COLUMN public.query_holds.query_date IS 'The UTC day of admission, whose quota it counts against.';

COMMENT ON COLUMN public.query_holds.credit_pack_id IS 'The pack that pays.';

COMMENT ON COLUMN public.query_holds.overage_charge IS 'US dollars held against the overage limit.';

COMMENT ON COLUMN public.query_holds.period_start IS 'The overage period of admission.';

COMMENT ON COLUMN public.query_holds.quota_used IS 'Included queries used just before this one, of the day or ever.';

COMMENT ON COLUMN public.query_holds.quota_limit IS 'Included queries that the plan had then, a day or ever.';

COMMENT ON COLUMN public.query_holds.overage_used IS 'US dollars of overage in the period just before this query.';

COMMENT ON COLUMN public.query_holds.overage_limit IS 'US dollars of overage that were allowed then; null: none by the plan.';

COMMENT ON COLUMN public.query_holds.provider IS 'Who is to answer.';

COMMENT ON COLUMN public.query_holds.model IS 'The model that is to answer.';

COMMENT ON COLUMN public.query_holds.expires_at IS 'After this the query is lost and its funding goes back.';

COMMENT ON COLUMN public.query_holds.chat_id IS 'The chat that it belongs to, as the client names it.';

COMMENT ON COLUMN public.query_holds.progress IS 'What has been said so far, for who resumes the answer in another process. Gone with the hold.';

COMMENT ON COLUMN public.query_holds.followed_to IS 'How far another process has read that; null: none does.';

COMMENT ON COLUMN public.query_holds.is_closing IS 'Whether the answer is about to be settled, when nobody may begin to follow it.';

COMMENT ON COLUMN public.query_holds.stop_requested IS 'Whether the user wants it to end.';

CREATE FUNCTION private.keep_turn(p_hold public.query_holds, p_history_days integer, p_usage jsonb, p_turn jsonb, OUT conversation_id uuid) RETURNS uuid
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_chat_id constant text := p_turn ->> 'chat_id';
  v_key constant uuid := private.conversation_key(v_chat_id);
  v_tokens_input constant integer := coalesce((p_usage ->> 'tokens_input')::integer, 0);
  v_tokens_output constant integer := coalesce((p_usage ->> 'tokens_output')::integer, 0);
  v_count integer;
  v_position integer;
begin
  insert into public.conversations (id, created_at, user_id, external_id, title, context_type, context_id,
                                    context_data, expires_at, last_message_at)
  values (coalesce(v_key, private.time_ordered_id()), v_at, p_hold.user_id,
          case when v_key is null then v_chat_id end, p_turn ->> 'title',
          coalesce(p_turn -> 'context' ->> 'type', 'general'), p_turn -> 'context' ->> 'id',
          nullif(p_turn -> 'context' -> 'data', 'null'), v_at, v_at)
  on conflict do nothing;
  select c.id, c.message_count into conversation_id, v_count from public.conversations c
  where c.user_id = p_hold.user_id and (c.id = v_key or v_key is null and c.external_id = v_chat_id)
  for update;
  if conversation_id is null then
    return; -- Somebody else used this UUID first, since admission: their conversation is not touched.
  end if;

  -- A question that is asked again keeps its place, in the words it has now; what was answered before is replaced.
  select m.position into v_position from public.messages m
  where m.conversation_id = keep_turn.conversation_id and m.role = 'user'
    and m.external_id = p_turn -> 'question' ->> 'id'
  order by m.position desc limit 1;
  if v_position is null then
    v_position := v_count + 1;
    insert into public.messages (created_at, conversation_id, position, role, external_id, content)
    values (p_hold.created_at, conversation_id, v_position, 'user', p_turn -> 'question' ->> 'id',
            p_turn -> 'question' ->> 'content');
  else
    update public.messages m set content = p_turn -> 'question' ->> 'content'
    where m.conversation_id = keep_turn.conversation_id and m.position = v_position
      and m.content <> p_turn -> 'question' ->> 'content';
    delete from public.messages m where m.conversation_id = keep_turn.conversation_id and m.position > v_position;
  end if;
  insert into public.messages (id, created_at, conversation_id, position, role, content, function_calls,
                               function_results, tokens_input, tokens_output, provider, model, used_byo_key, cost_usd)
  values ((p_turn -> 'answer' ->> 'id')::uuid, v_at, conversation_id, v_position + 1, 'assistant',
          p_turn -> 'answer' ->> 'content', nullif(p_turn -> 'answer' -> 'function_calls', 'null'),
          nullif(p_turn -> 'answer' -> 'function_results', 'null'), v_tokens_input, v_tokens_output,
          coalesce(p_usage ->> 'provider', p_hold.provider), coalesce(p_usage ->> 'model', p_hold.model),
          p_hold.funding = 'byok', coalesce((p_usage ->> 'cost_usd')::numeric, 0));
  update public.conversations c set
    message_count = v_position + 1, total_tokens = c.total_tokens + v_tokens_input + v_tokens_output,
    expires_at = v_at + p_history_days * interval '1 day', last_message_at = v_at
  where c.id = conversation_id;
end
$$;

COMMENT ON FUNCTION private.keep_turn(p_hold public.query_holds, p_history_days integer, p_usage jsonb, p_turn jsonb, OUT conversation_id uuid) IS 'Stores a question and its answer in the conversation of the chat''s id, which the first turn creates.';

CREATE FUNCTION private.key_provider(p_user_id uuid, p_provider text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  -- 'anthropic' sorts before 'openai', which is the order of preference.
  return (
    select min(k.provider) from public.user_api_keys k
    where k.user_id = p_user_id and k.is_active and (p_provider is null or k.provider = p_provider));
end
$$;

COMMENT ON FUNCTION private.key_provider(p_user_id uuid, p_provider text) IS 'The provider whose active key of the user''s own would be used; null where there is none.';

CREATE FUNCTION private.look_back(p_user_id uuid, p_request_id text, p_hold_id uuid, p_at timestamp with time zone) RETURNS public.query_holds
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION private.look_back(p_user_id uuid, p_request_id text, p_hold_id uuid, p_at timestamp with time zone) IS 'Gives back what a user''s lost queries hold, those that the sweep has not met yet, and returns the hold that a request has already, if any. The user is locked.';

CREATE FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  return (
    select c.id from public.credit_packs c
    where c.user_id = p_user_id and c.credits_remaining > 0 and not c.is_frozen
      and (c.expires_at > p_at or c.expires_at is null)
    order by c.expires_at nulls last, c.created_at, c.id limit 1);
end
$$;

COMMENT ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) IS 'The pack that pays next: the soonest to expire, the oldest among equals; null where there is none.';

CREATE FUNCTION private.note_downgrade() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_before constant integer := (select p.history_days from public.plans p where p.tier = old.tier);
  v_after constant integer := (select p.history_days from public.plans p where p.tier = new.tier);
begin
  new.downgraded_at := case when v_after < v_before then private.clock()
                            when v_after > v_before then null
                            else new.downgraded_at end;
  return new;
end
$$;

COMMENT ON FUNCTION private.note_downgrade() IS 'Trigger: notes when a plan becomes one that keeps conversations for fewer days. cleanup_expired_conversations() does the rest.';

CREATE FUNCTION private.note_own_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_user_id constant uuid := case when tg_op = 'DELETE' then old.user_id else new.user_id end;
begin
  -- Locked before it is counted: of two changes at once the second sees the first.
  perform from public.user_subscriptions where user_id = v_user_id for update;
  update public.user_subscriptions s set
    uses_byo_key = exists (select from public.user_api_keys k where k.user_id = v_user_id and k.is_active)
  where s.user_id = v_user_id;
  return null;
end
$$;

COMMENT ON FUNCTION private.note_own_key() IS 'Trigger: uses_byo_key says whether the user has an active key, at once. Runs as its owner: Auth deletes users.';

CREATE FUNCTION private.period_at(p_start timestamp with time zone, p_end timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) RETURNS record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $$
declare
  -- The day of the month that periods begin on: after a shorter month it is the end that shows it.
  v_anchor timestamp := case
    when extract(day from p_end at time zone 'UTC') > extract(day from p_start at time zone 'UTC') then p_end
    else p_start end at time zone 'UTC';
  v_at timestamp := p_at at time zone 'UTC';
  v_months integer;
begin
  if p_at >= p_start and p_at < p_end then
    period_start := p_start;
    period_end := p_end;
    return;
  elsif p_start is null then
    v_anchor := date_trunc('month', v_at);
  end if;
  v_months := (extract(year from v_at) - extract(year from v_anchor)) * 12
            + extract(month from v_at) - extract(month from v_anchor);
  -- Always counted from the anchor: a period that starts on the 31st returns to it after a shorter month.
  if v_anchor + v_months * interval '1 month' > v_at then
    v_months := v_months - 1;
  end if;
  period_start := (v_anchor + v_months * interval '1 month') at time zone 'UTC';
  period_end := (v_anchor + (v_months + 1) * interval '1 month') at time zone 'UTC';
end
$$;

COMMENT ON FUNCTION private.period_at(p_start timestamp with time zone, p_end timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) IS 'The billing period that holds a time: the one that is given, as long as that may be; else months counted from it; without one, the calendar month, UTC.';

CREATE FUNCTION private.reason_of(p_funding text, p_tier text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $$
begin
  return case p_funding
    when 'byok' then 'Unlimited (BYOK)'
    when 'included' then case p_tier when 'free' then 'Within free tier quota' else 'Within daily quota' end
    when 'credit' then 'Credits available'
    when 'overage' then 'Overage allowed'
  end;
end
$$;

COMMENT ON FUNCTION private.reason_of(p_funding text, p_tier text) IS 'The reason that admission has for a funding, in words.';

CREATE FUNCTION private.recent_messages(p_conversation_id uuid, p_question_id text, p_count integer, p_characters integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION private.recent_messages(p_conversation_id uuid, p_question_id text, p_count integer, p_characters integer) IS 'The newest messages of a conversation that fit into so many characters, oldest first: [{role, content, function_calls, function_results}], the latter two as long as they fit too; those before the question, if it is in it.';

CREATE FUNCTION private.refuse(p_user_id uuid, p_request_id text, p_hold_id uuid) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION private.refuse(p_user_id uuid, p_request_id text, p_hold_id uuid) IS 'Says why nothing but an own key would pay for a user''s query now, and records it: the newest fifty of a user. The user is locked.';

CREATE FUNCTION private.running_query(p_user_id uuid, p_chat_id text) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  return (
    select h.id from public.query_holds h
    where h.user_id = p_user_id and h.expires_at > private.clock() and not h.is_closing
      and (h.chat_id = p_chat_id or private.conversation_key(h.chat_id) = private.conversation_key(p_chat_id))
    order by h.created_at desc, h.id desc limit 1);
end
$$;

COMMENT ON FUNCTION private.running_query(p_user_id uuid, p_chat_id text) IS 'The newest query of a user''s chat that runs; null where none does, or its end has begun.';

CREATE FUNCTION private.sealed_key(p_user_id uuid, p_provider text) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  return (
    select jsonb_build_object(
      'id', k.id, 'encrypted_key', encode(k.encrypted_key, 'base64'), 'encryption_iv', encode(k.encryption_iv, 'base64'),
      'encryption_tag', encode(k.encryption_tag, 'base64'), 'encryption_key_id', k.encryption_key_id)
    from public.user_api_keys k where k.user_id = p_user_id and k.provider = p_provider);
end
$$;

COMMENT ON FUNCTION private.sealed_key(p_user_id uuid, p_provider text) IS 'A user''s sealed key for a provider, bytes in base64; null where there is none.';

CREATE FUNCTION private.shorten_histories() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  -- Thirty days on from the downgrade at most. A message that came later has set a date by the plan that was then in
  -- force. A pin lapses with a plan that keeps nothing, and had no date: it gets the thirty days.
  with promised as (
    select c.id, s.downgraded_at + interval '30 days' as until, p.history_days = 0 as unpins
    from public.user_subscriptions s
    join public.plans p on p.tier = s.tier
    join public.conversations c on c.user_id = s.user_id
    where s.downgraded_at is not null
      and (c.expires_at > s.downgraded_at + interval '30 days' and c.last_message_at <= s.downgraded_at
           or c.is_pinned and p.history_days = 0)
    limit 1000
    for update of c skip locked
  )
  update public.conversations c set
    expires_at = case when c.is_pinned and p.unpins then p.until else least(c.expires_at, p.until) end,
    is_pinned = c.is_pinned and not p.unpins
  from promised p where c.id = p.id;

  update public.user_subscriptions s set downgraded_at = null
  from (
    select d.id from public.user_subscriptions d
    join public.plans p on p.tier = d.tier
    where d.downgraded_at is not null and not exists (
      select from public.conversations c
      where c.user_id = d.user_id
        and (c.expires_at > d.downgraded_at + interval '30 days' and c.last_message_at <= d.downgraded_at
             or c.is_pinned and p.history_days = 0))
    limit 1000
    for update of d skip locked
  ) done
  where s.id = done.id;
end
$$;

COMMENT ON FUNCTION private.shorten_histories() IS 'Gives conversations that were promised more days than a downgrade leaves their new date, at most 1,000 a call.';

CREATE FUNCTION private.start_subscription() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  insert into public.user_subscriptions (user_id) values (new.id) on conflict (user_id) do nothing;
  return new;
end
$$;

COMMENT ON FUNCTION private.start_subscription() IS 'Trigger on auth.users: starts a subscription to free. Runs as its owner, because Auth may not write to public.';

CREATE FUNCTION private.time_ordered_id() RETURNS uuid
    LANGUAGE sql
    SET search_path TO ''
    AS $$
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
              from 1 for 6),
      52, 1), 53, 1),
    'hex')::uuid
$$;

COMMENT ON FUNCTION private.time_ordered_id() IS 'A UUID version 7: 48 bits of Unix milliseconds, then random bits.';

CREATE FUNCTION private.touch() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  new.updated_at := now();
  return new;
end
$$;

COMMENT ON FUNCTION private.touch() IS 'Trigger: notes when a row last changed.';

CREATE FUNCTION private.touch_subscription() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  new.updated_at := now();
  new.included_until := null;
  return new;
end
$$;

COMMENT ON FUNCTION private.touch_subscription() IS 'Trigger: notes when a subscription last changed, its counters aside, and that private.standing has to be asked again.';

CREATE FUNCTION private.unsubscribed_tier(p_user_id uuid, p_at timestamp with time zone) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  return case when exists (
    select from public.credit_packs c
    where c.user_id = p_user_id and c.credits_to_revoke < c.credits_purchased
      and (c.expires_at > p_at or c.expires_at is null)
  ) then 'usage_only' else 'free' end;
end
$$;

COMMENT ON FUNCTION private.unsubscribed_tier(p_user_id uuid, p_at timestamp with time zone) IS 'The plan of a user without a subscription: free, which spends no credits, or usage_only while a pack of theirs has neither expired nor gone back with its money, however much of it is used.';

CREATE FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text DEFAULT NULL::text, p_question_id text DEFAULT NULL::text, p_provider text DEFAULT NULL::text, p_model text DEFAULT NULL::text, p_hold_seconds integer DEFAULT 300, p_history_messages integer DEFAULT 40, p_history_characters integer DEFAULT 48000, p_own_key boolean DEFAULT NULL::boolean, p_providers text[] DEFAULT '{anthropic,openai}'::text[]) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    AS $$
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

COMMENT ON FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text, p_question_id text, p_provider text, p_model text, p_hold_seconds integer, p_history_messages integer, p_history_characters integer, p_own_key boolean, p_providers text[]) IS 'Admits one query under the user''s lock and returns all that the turn needs: decision (admitted, refused, in_progress: another attempt at the same request runs, ended: it was charged already), funding, model, what is left, recent history, the sealed key if an own one pays, the plan''s models and cost limit. Sent again with the same hold id it returns the same hold, so a lost response can be asked for again. p_own_key: whether a key of the user''s own pays; null: if there is one. p_providers: those that the platform has an account with, the default first. NTFND: somebody else''s conversation; NOMDL: a model the plan does not have.';

CREATE FUNCTION public.api_keys_to_rotate(p_current text, p_after uuid, p_limit integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', old.id, 'user_id', old.user_id, 'provider', old.provider,
      'encrypted_key', encode(old.encrypted_key, 'base64'), 'encryption_iv', encode(old.encryption_iv, 'base64'),
      'encryption_tag', encode(old.encryption_tag, 'base64'), 'encryption_key_id', old.encryption_key_id)
      order by old.id), '[]')
    from (
      select * from public.user_api_keys k
      where k.encryption_key_id <> p_current and (k.id > p_after or p_after is null)
      order by k.id limit least(p_limit, 1000)
    ) old);
end
$$;

COMMENT ON FUNCTION public.api_keys_to_rotate(p_current text, p_after uuid, p_limit integer) IS 'Sealed keys that another than the current key of the ring sealed, by id from p_after on, at most 1,000.';

CREATE FUNCTION public.apply_customer(p_customer_id text, p_sequence bigint, p_is_deleted boolean, p_subscription jsonb) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.apply_customer(p_customer_id text, p_sequence bigint, p_is_deleted boolean, p_subscription jsonb) IS 'Makes a look at a customer at Stripe the user''s plan, unless a later one is known. p_subscription: {id, tier, paid_tiers, status, period_start, period_end, canceled_at, past_due_since}, null where none is live. The best of tier and paid_tiers holds until the period ends, then tier does, unless cancelled. Returns the user; null: nobody''s customer.';

CREATE FUNCTION public.apply_pack(p_user_id uuid, p_sequence bigint, p_payment jsonb) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.apply_pack(p_user_id uuid, p_sequence bigint, p_payment jsonb) IS 'Makes a look at the payment of a pack the user''s pack, unless a later one is known: granted once a session, when paid; refunds take back pro rata, rounded in the user''s favour, a lost dispute all, an open one freezes. p_payment: {session_id, payment_intent_id, pack, credits, paid_at, paid_cents, refunded_cents, is_disputed, is_lost}. Returns the user; null: deleted.';

CREATE FUNCTION public.begin_stripe_look() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  return nextval('private.stripe_sequence'::regclass);
end
$$;

COMMENT ON FUNCTION public.begin_stripe_look() IS 'The number of a look at Stripe that no event asked for and that begins now.';

CREATE FUNCTION public.billed_items(p_since timestamp with time zone, p_after uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 1000) RETURNS TABLE(id uuid, created_at timestamp with time zone, user_id uuid, amount_cents integer, stripe_invoice_item_id text, stripe_invoice_id text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select i.* from (
    select o.id, o.created_at, o.user_id, o.amount_cents, o.stripe_invoice_item_id, o.stripe_invoice_id
    from public.overage_invoice_items o where o.created_at >= p_since and (p_after is null or o.id > p_after)
    union all
    select r.id, r.created_at, null, r.amount_cents, r.stripe_invoice_item_id, r.stripe_invoice_id
    from public.retained_invoice_items r where r.created_at >= p_since and (p_after is null or r.id > p_after)
  ) i
  order by i.id limit least(p_limit, 1000)
$$;

COMMENT ON FUNCTION public.billed_items(p_since timestamp with time zone, p_after uuid, p_limit integer) IS 'What we say is billed beyond the plans since a time, by id from p_after on, at most 1,000: for a comparison with Stripe. Without a user: whose user was deleted.';

CREATE FUNCTION public.billing_profile(p_user_id uuid) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  return (
    select jsonb_build_object(
      'email', u.email, 'stripe_customer_id', s.stripe_customer_id, 'stripe_sequence', s.stripe_sequence)
    from public.user_subscriptions s join auth.users u on u.id = s.user_id where s.user_id = p_user_id);
end
$$;

COMMENT ON FUNCTION public.billing_profile(p_user_id uuid) IS 'What Stripe is told of a user, the customer that they are there, and the newest look at it. Null: no such user.';

CREATE FUNCTION public.can_user_query(p_user_id uuid) RETURNS TABLE(can_query boolean, reason text, requires_payment boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  if current_user = 'authenticated' and p_user_id is distinct from (select auth.uid()) then
    raise insufficient_privilege using message = 'You may only ask about yourself.';
  end if;
  return query
    select s.own_key or s.funding is not null,
           case when s.own_key then private.reason_of('byok', s.tier) else s.reason end,
           s.requires_payment and not s.own_key
    from private.standing s where s.user_id = p_user_id;
  if not found then
    return query select false, 'No subscription found', true;
  end if;
end
$$;

COMMENT ON FUNCTION public.can_user_query(p_user_id uuid) IS 'Whether a user''s next query would be admitted now, why, and whether it costs money or paying would help. Changes nothing.';

CREATE FUNCTION public.claim_overage(p_user_id uuid, p_until timestamp with time zone, p_target jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.claim_overage(p_user_id uuid, p_until timestamp with time zone, p_target jsonb) IS 'Takes a user''s settled overage of before p_until together, one item a period and price, each query once and for all, to be put where p_target says. Returns the items that are on no invoice yet, as far as we know.';

CREATE FUNCTION public.claim_stripe_event(p_event_id text, p_type text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.claim_stripe_event(p_event_id text, p_type text) IS 'Notes that an event is being dealt with. Returns whether it has been already, and the number of the look at Stripe that begins now. Two may deal with one event at once.';

CREATE FUNCTION public.cleanup_expired_conversations() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_ids uuid[];
  v_deleted integer := 0;
begin
  with expired as (
    select c.id, c.expires_at, c.message_count
    from public.conversations c
    -- Clearing two columns of a usage_logs row makes Postgres look at its user again: whoever is being deleted is
    -- left to that, and who is not can wait for us.
    join auth.users u on u.id = c.user_id
    where c.expires_at <= v_at and not c.is_pinned
    order by c.expires_at
    limit 100
    for key share of u skip locked
    for update of c skip locked
  ), counted as (
    select e.id, row_number() over oldest as place, sum(e.message_count) over oldest as messages
    from expired e window oldest as (order by e.expires_at, e.id)
  )
  -- Always one, and as many more as make up no more than 250 messages: that is what takes the time.
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;
  if v_ids is not null then
    v_deleted := private.delete_conversations(v_ids);
  end if;
  perform private.shorten_histories(); -- last: it waits for nobody, so what it locks keeps nobody waiting for long
  return v_deleted;
end
$$;

COMMENT ON FUNCTION public.cleanup_expired_conversations() IS 'Deletes conversations past their expiry with their messages, about 250 of these a call, pinned ones excepted; returns how many conversations. Call it until 0. Those of users who changed to a lesser plan get their new date.';

CREATE FUNCTION public.count_keys_to_rotate(p_current text) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  return (select count(*) from public.user_api_keys k where k.encryption_key_id <> p_current);
end
$$;

COMMENT ON FUNCTION public.count_keys_to_rotate(p_current text) IS 'How many sealed keys another than the current key of the ring sealed.';

CREATE FUNCTION public.delete_api_key(p_user_id uuid, p_provider text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform from auth.users where id = p_user_id for key share;
  delete from public.user_api_keys k where k.user_id = p_user_id and k.provider = p_provider;
  return found;
end
$$;

COMMENT ON FUNCTION public.delete_api_key(p_user_id uuid, p_provider text) IS 'Deletes a user''s key for a provider; returns whether there was one.';

CREATE FUNCTION public.delete_history(p_user_id uuid) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_ids uuid[];
begin
  perform from auth.users where id = p_user_id for key share;
  with oldest as (
    select c.id, c.message_count from public.conversations c where c.user_id = p_user_id
    order by c.id limit 100 for update
  ), counted as (
    select o.id, row_number() over by_id as place, sum(o.message_count) over by_id as messages
    from oldest o window by_id as (order by o.id)
  )
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;
  return case when v_ids is null then 0 else private.delete_conversations(v_ids) end;
end
$$;

COMMENT ON FUNCTION public.delete_history(p_user_id uuid) IS 'Deletes a user''s conversations with their messages, about 250 of these a call; returns how many conversations. Call it until 0.';

CREATE FUNCTION public.delete_user(p_user_id uuid, p_write_off boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  if exists (select from public.user_subscriptions s
             where s.user_id = p_user_id and s.stripe_subscription_id is not null) then
    raise exception using errcode = 'OWING', message = 'The user has a subscription at Stripe, which would go on.';
  elsif not p_write_off and exists (
      select from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
      where u.user_id = p_user_id and u.was_overage and i.stripe_invoice_item_id is null) then
    raise exception using errcode = 'OWING', message = 'The user owes overage that has not been billed.';
  end if;
  -- What runs is not charged, and everything that is theirs goes with them; keep_books keeps the sums.
  delete from auth.users u where u.id = p_user_id;
  return found;
end
$$;

COMMENT ON FUNCTION public.delete_user(p_user_id uuid, p_write_off boolean) IS 'Deletes a user with everything that is theirs. The sums of the ledger stay, without them. OWING: a subscription that would go on, or overage that has not been billed, unless p_write_off. Returns whether there was such a user.';

CREATE FUNCTION public.expire_credits() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_pack record;
  v_lapsed integer := 0;
begin
  -- Admission takes nothing from them as it is. This writes it down, and ends the plan that only packs make.
  for v_pack in
    select c.id, c.user_id from public.credit_packs c
    where c.expires_at <= v_at and c.lapsed_at is null
    order by c.expires_at limit 200
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_pack.user_id, 0));
    update public.credit_packs c set credits_expired = c.credits_remaining, credits_remaining = 0, lapsed_at = v_at
    where c.id = v_pack.id and c.lapsed_at is null;
    if found then
      perform private.go_by_packs(v_pack.user_id);
      v_lapsed := v_lapsed + 1;
    end if;
  end loop;
  return v_lapsed;
end
$$;

COMMENT ON FUNCTION public.expire_credits() IS 'Writes down as expired what is left of packs past their expiry, at most 200 a call, and puts users whom no pack is left back on free; returns how many packs. Call it until 0.';

CREATE FUNCTION public.explain_query(p_request_id text) RETURNS TABLE(query_id uuid, user_id uuid, request_id text, decided_at timestamp with time zone, decision text, reason text, funding text, tier text, quota_used integer, quota_limit integer, overage_used numeric, overage_limit numeric, credit_pack_id uuid, outcome text, charged_usd numeric, cost_usd numeric, tokens_total integer, provider text, model text)
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select u.id, u.user_id, u.request_id, u.query_timestamp, 'admitted', private.reason_of(u.funding, u.tier), u.funding,
         u.tier, u.quota_used, u.quota_limit, u.overage_used, u.overage_limit, u.credit_pack_id, u.outcome,
         u.overage_charge, u.cost_usd, u.tokens_total, u.provider, u.model
  from public.usage_logs u where u.request_id = p_request_id
  union all
  select h.id, h.user_id, h.request_id, h.created_at, 'admitted', private.reason_of(h.funding, h.tier), h.funding,
         h.tier, h.quota_used, h.quota_limit, h.overage_used, h.overage_limit, h.credit_pack_id, null,
         null, null, null, h.provider, h.model
  from public.query_holds h where h.request_id = p_request_id
  union all
  select r.id, r.user_id, r.request_id, r.created_at, 'refused', r.reason, null,
         r.tier, r.quota_used, r.quota_limit, r.overage_used, r.overage_limit, null, null,
         null, null, null, null, null
  from public.query_refusals r where r.request_id = p_request_id
  order by 4
$$;

COMMENT ON FUNCTION public.explain_query(p_request_id text) IS 'Every attempt at a request: what was decided, from which state, how it ended and what it cost. outcome is null while it runs. A signed-in user is shown their own.';

CREATE FUNCTION public.export_user(p_user_id uuid, p_part text, p_after uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 1000) RETURNS TABLE(id uuid, told text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_limit constant integer := least(p_limit, 1000);
begin
  -- Text, so that no JSON parser on the way makes money a float. Columns keep the order of their table.
  case p_part
    when 'account' then
      -- By allow-list: Auth keeps password hashes and tokens beside them.
      return query select u.id, (
        select json_object_agg(a.key, a.value)::text from jsonb_each(to_jsonb(u)) a
        where a.key in ('id', 'email', 'phone', 'created_at', 'updated_at', 'last_sign_in_at', 'email_confirmed_at',
                        'raw_user_meta_data'))
      from auth.users u where u.id = p_user_id and p_after is null;
    when 'subscription' then
      return query select s.id, row_to_json(s)::text from public.user_subscriptions s
      where s.user_id = p_user_id and p_after is null;
    when 'keys' then
      -- A sealed key is of no use to anybody but us, and is nobody's to read.
      return query select k.id, row_to_json(k)::text from (
        select a.id, a.created_at, a.updated_at, a.provider, a.hint, a.is_active, a.last_validated_at, a.validation_error
        from public.user_api_keys a where a.user_id = p_user_id and p_after is null) k order by k.id;
    when 'packs' then
      return query select c.id, row_to_json(c)::text from public.credit_packs c
      where c.user_id = p_user_id and (p_after is null or c.id > p_after) order by c.id limit v_limit;
    when 'bills' then
      return query select i.id, row_to_json(i)::text from public.overage_invoice_items i
      where i.user_id = p_user_id and (p_after is null or i.id > p_after) order by i.id limit v_limit;
    when 'conversations' then
      return query select t.id, row_to_json(t)::text from (
        select c.*, (select json_agg(row_to_json(m) order by m.position) from public.messages m
                     where m.conversation_id = c.id) as messages
        from public.conversations c
        where c.user_id = p_user_id and (p_after is null or c.id > p_after) order by c.id limit v_limit) t
      order by t.id;
    when 'usage' then
      return query select u.id, row_to_json(u)::text from public.usage_logs u
      where u.user_id = p_user_id and (p_after is null or u.id > p_after) order by u.id limit v_limit;
    when 'running' then
      return query select h.id, row_to_json(h)::text from public.query_holds h
      where h.user_id = p_user_id and (p_after is null or h.id > p_after) order by h.id limit v_limit;
    when 'refusals' then
      return query select r.id, row_to_json(r)::text from public.query_refusals r
      where r.user_id = p_user_id and (p_after is null or r.id > p_after) order by r.id limit v_limit;
    else
      raise invalid_parameter_value using message = format('There is no part %L of what is held on a person.', p_part);
  end case;
end
$$;

COMMENT ON FUNCTION public.export_user(p_user_id uuid, p_part text, p_after uuid, p_limit integer) IS 'What is held on a user, a part at a time (account, subscription, keys, packs, bills, conversations with their messages, usage, running, refusals): JSON objects by id from p_after on, at most 1,000 rows. Sealed keys and passwords are not told.';

CREATE FUNCTION public.finish_stripe_event(p_event_id text, p_error text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  update public.stripe_events e set
    last_error = p_error, processed_at = case when p_error is null then private.clock() end
  where e.event_id = p_event_id and e.processed_at is null;
end
$$;

COMMENT ON FUNCTION public.finish_stripe_event(p_event_id text, p_error text) IS 'Notes that an event''s effect is committed, or the kind of failure that it ended with.';

CREATE FUNCTION public.follow_query(p_user_id uuid, p_chat_id text, p_hold_id uuid DEFAULT NULL::uuid, p_from integer DEFAULT 0) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_followed jsonb;
begin
  perform set_config('synchronous_commit', 'off', true);
  update public.query_holds h set followed_to = p_from
  where h.id = coalesce(p_hold_id, private.running_query(p_user_id, p_chat_id)) and h.user_id = p_user_id
    and h.expires_at > private.clock() and not h.is_closing
  returning jsonb_build_object('hold_id', h.id, 'progress', substr(h.progress, p_from + 1)) into v_followed;
  if v_followed is null and p_hold_id is not null then
    select jsonb_build_object(
      'hold_id', u.id, 'outcome', u.outcome, 'provider', u.provider, 'model', u.model, 'funding', u.funding,
      'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output, 'cache_read_tokens', u.cache_read_tokens,
      'cache_write_tokens', u.cache_write_tokens, 'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text,
      'persisted', u.message_id is not null)
    into v_followed
    from public.usage_logs u where u.id = p_hold_id and u.user_id = p_user_id;
  end if;
  return v_followed;
end
$$;

COMMENT ON FUNCTION public.follow_query(p_user_id uuid, p_chat_id text, p_hold_id uuid, p_from integer) IS 'What the running query of a user''s chat has said from a character on; call it again with its hold_id and the characters that are known. Once it has ended, how: outcome, usage and charge. Null where nothing runs, or where the query was lost.';

CREATE FUNCTION public.get_api_key(p_user_id uuid, p_provider text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  return private.sealed_key(p_user_id, p_provider);
end
$$;

COMMENT ON FUNCTION public.get_api_key(p_user_id uuid, p_provider text) IS 'A user''s sealed key for a provider, active or not; null where there is none.';

CREATE FUNCTION public.link_stripe_customer(p_user_id uuid, p_customer_id text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.link_stripe_customer(p_user_id uuid, p_customer_id text) IS 'Makes a user the customer at Stripe, unless they are one already; returns whom they are. Null: no such user.';

CREATE FUNCTION public.list_api_keys() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Only a signed-in user has keys.';
  end if;
  return jsonb_build_object(
    'allowed', coalesce((select s.allows_byok from private.standing s where s.user_id = v_user_id), false),
    'keys', coalesce((
      select jsonb_agg(
        private.describe_key(k.provider, k.hint, k.is_active, k.last_validated_at, k.validation_error, k.created_at)
        order by k.provider)
      from public.user_api_keys k where k.user_id = v_user_id), '[]'));
end
$$;

COMMENT ON FUNCTION public.list_api_keys() IS 'The signed-in user''s stored keys without anything of what is in them, and whether the plan allows any.';

CREATE FUNCTION public.list_plans() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.list_plans() IS 'What is sold: plans and credit packs. The answer of GET /plans.';

CREATE FUNCTION public.margin_report(p_month date) RETURNS TABLE(tier text, provider text, model text, queries bigint, overage_usd text, credits_usd text, cost_usd text, written_off_usd text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    SET statement_timeout TO '120s'
    AS $$
  with spent as (
    select u.tier, u.provider, u.model, count(*) as queries, sum(u.overage_charge) as overage,
           coalesce(sum(c.price_per_credit) filter (where u.outcome in ('answered', 'stopped')), 0) as credits,
           coalesce(sum(u.cost_usd) filter (where not u.used_byo_key), 0) as cost, 0 as written_off
    from public.usage_logs u
    left join public.credit_packs c on c.id = u.credit_pack_id
    where u.query_date >= date_trunc('month', p_month)::date
      and u.query_date < (date_trunc('month', p_month) + interval '1 month')::date
    group by 1, 2, 3
    union all
    select r.tier, r.provider, r.model, r.queries, r.overage_usd, r.credits_usd,
           case when r.funding = 'byok' then 0 else r.cost_usd end, r.written_off_usd
    from public.retained_usage r where r.month = date_trunc('month', p_month)::date
  )
  select s.tier, s.provider, s.model, sum(s.queries)::bigint, sum(s.overage)::numeric(20,6)::text,
         sum(s.credits)::numeric(20,6)::text, sum(s.cost)::numeric(20,6)::text, sum(s.written_off)::numeric(20,6)::text
  from spent s group by 1, 2, 3 order by 1, 2, 3
$$;

COMMENT ON FUNCTION public.margin_report(p_month date) IS 'A UTC month by tier and model: queries, what overage and spent credits were charged, and what the providers charge us for them (nothing for own keys), US dollars as text. Plan fees are Stripe''s to tell.';

CREATE FUNCTION public.mend_counters(p_user_id uuid) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_mended integer := 0;
  v_rows integer;
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  -- In the order of settling: a deletion has the user for itself, conversations come before subscriptions.
  perform from auth.users where id = p_user_id for key share;
  with counted as (
    select c.id, (select count(*) from public.messages m where m.conversation_id = c.id) as messages
    from public.conversations c where c.user_id = p_user_id
    order by c.id
    for update
  )
  update public.conversations c set message_count = n.messages from counted n
  where c.id = n.id and c.message_count <> n.messages;
  get diagnostics v_mended = row_count;

  -- A query moves from held to ended in one transaction, so one statement counts it once.
  with taken as (
    select u.funding, u.tier, u.query_date, u.period_start, u.overage_charge
    from public.usage_logs u where u.user_id = p_user_id and u.outcome in ('answered', 'stopped')
    union all
    select h.funding, h.tier, h.query_date, h.period_start, h.overage_charge
    from public.query_holds h where h.user_id = p_user_id
  ), counted as (
    select
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is null and t.query_date = s.quota_date) as today,
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is not null) as ever,
      coalesce(sum(t.overage_charge) filter (where t.funding = 'overage' and t.period_start = s.overage_period_start), 0)
        as overage,
      exists (select from public.user_api_keys k where k.user_id = p_user_id and k.is_active) as own_key,
      exists (select from private.standing d where d.user_id = p_user_id and d.included_until is not null) as is_included
    from public.user_subscriptions s
    left join taken t on true
    left join public.plans p on p.tier = t.tier
    where s.user_id = p_user_id
    group by s.id
  )
  update public.user_subscriptions s set
    quota_used = c.today, lifetime_used = c.ever, current_overage_amount = c.overage, uses_byo_key = c.own_key,
    included_until = case when c.is_included then s.included_until end
  from counted c
  where s.user_id = p_user_id
    and (s.quota_used, s.lifetime_used, s.current_overage_amount, s.uses_byo_key, s.included_until)
        is distinct from (c.today, c.ever, c.overage, c.own_key, case when c.is_included then s.included_until end);
  get diagnostics v_rows = row_count;
  return v_mended + v_rows;
end
$$;

COMMENT ON FUNCTION public.mend_counters(p_user_id uuid) IS 'Sets a user''s counters to what the ledger, the holds, the keys and the messages say, and ends what is presumed wrongly of their quota; returns how many rows that changed. Touches no charge, no credit and no bill.';

CREATE FUNCTION public.note_api_key(p_id uuid, p_user_id uuid, p_is_valid boolean, p_error text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v public.user_api_keys;
begin
  perform from auth.users where id = p_user_id for key share;
  update public.user_api_keys k set
    is_active = p_is_valid, last_validated_at = case when p_is_valid then private.clock() else k.last_validated_at end,
    validation_error = case when not p_is_valid then p_error end
  where k.id = p_id and k.user_id = p_user_id
  returning k.* into v;
  if not found then
    return null;
  end if;
  return private.describe_key(
    v.provider, v.hint, v.is_active, v.last_validated_at, v.validation_error, v.created_at);
end
$$;

COMMENT ON FUNCTION public.note_api_key(p_id uuid, p_user_id uuid, p_is_valid boolean, p_error text) IS 'Notes what the provider said of a key. Null where the key has been replaced or deleted since.';

CREATE FUNCTION public.note_progress(p_hold_id uuid, p_from integer, p_progress text, p_is_closing boolean DEFAULT false) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_noted jsonb;
begin
  -- Nobody is charged by it, and what a crash could forget ends with the crash.
  perform set_config('synchronous_commit', 'off', true);
  update public.query_holds h set
    -- From a position, so that a call that is sent twice is noted once.
    progress = case when p_progress <> '' then left(h.progress, p_from) || p_progress else h.progress end,
    is_closing = h.is_closing or p_is_closing and h.followed_to is null
  where h.id = p_hold_id
  returning jsonb_build_object('stop_requested', h.stop_requested, 'followed_to', h.followed_to) into v_noted;
  return v_noted;
end
$$;

COMMENT ON FUNCTION public.note_progress(p_hold_id uuid, p_from integer, p_progress text, p_is_closing boolean) IS 'Notes what a running query has said from a character on, and tells whether it is to stop and how far another process has read (null: none does; with p_is_closing none can begin to). Null where there is no such hold.';

CREATE FUNCTION public.place_overage(p_id uuid, p_invoice_item_id text, p_invoice_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  update public.overage_invoice_items i set
    stripe_invoice_item_id = p_invoice_item_id, stripe_invoice_id = coalesce(p_invoice_id, i.stripe_invoice_id)
  where i.id = p_id;
end
$$;

COMMENT ON FUNCTION public.place_overage(p_id uuid, p_invoice_item_id text, p_invoice_id text) IS 'Notes where at Stripe an overage item stands: its invoice item, and its invoice; null: it waits for one.';

CREATE FUNCTION public.purge_events() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_deleted integer;
begin
  -- Stripe sends nothing again after thirty days. Those that were never dealt with stay, for reconcile to name.
  delete from public.stripe_events e where e.id in (
    select old.id from public.stripe_events old
    where old.processed_at < private.clock() - interval '90 days'
    order by old.processed_at limit 1000 for update skip locked);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end
$$;

COMMENT ON FUNCTION public.purge_events() IS 'Deletes events from Stripe that were dealt with more than 90 days ago, at most 1,000 a call; returns how many. Call it until 0.';

CREATE FUNCTION public.put_api_key(p_id uuid, p_user_id uuid, p_provider text, p_encrypted_key text, p_encryption_iv text, p_encryption_tag text, p_encryption_key_id text, p_hint text, p_is_valid boolean) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v public.user_api_keys;
begin
  perform from auth.users where id = p_user_id for key share;
  if not coalesce((select s.allows_byok from private.standing s where s.user_id = p_user_id), false) then
    raise exception using errcode = 'NBYOK', message = 'The plan does not allow keys of the user''s own.';
  end if;
  -- A replaced key gets a new id, so that what is learnt about the old one is not said of it.
  insert into public.user_api_keys as k (
    id, created_at, user_id, provider, encrypted_key, encryption_iv, encryption_tag, encryption_key_id, hint,
    is_active, last_validated_at)
  values (
    p_id, private.clock(), p_user_id, p_provider, decode(p_encrypted_key, 'base64'),
    decode(p_encryption_iv, 'base64'), decode(p_encryption_tag, 'base64'), p_encryption_key_id, p_hint, true,
    case when p_is_valid then private.clock() end)
  on conflict (user_id, provider) do update set
    id = excluded.id, created_at = excluded.created_at, encrypted_key = excluded.encrypted_key,
    encryption_iv = excluded.encryption_iv, encryption_tag = excluded.encryption_tag,
    encryption_key_id = excluded.encryption_key_id, hint = excluded.hint, is_active = true,
    last_validated_at = excluded.last_validated_at, validation_error = null
  returning k.* into v;
  return private.describe_key(
    v.provider, v.hint, v.is_active, v.last_validated_at, v.validation_error, v.created_at);
end
$$;

COMMENT ON FUNCTION public.put_api_key(p_id uuid, p_user_id uuid, p_provider text, p_encrypted_key text, p_encryption_iv text, p_encryption_tag text, p_encryption_key_id text, p_hint text, p_is_valid boolean) IS 'Stores a sealed key, in place of the one that the user had for the provider. Bytes are base64. p_is_valid: the provider has just accepted it. NBYOK: the plan does not allow it.';

CREATE FUNCTION public.reconcile() RETURNS TABLE(invariant text, user_id uuid, subject text, expected text, found text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    SET statement_timeout TO '120s'
    AS $$
  with
  -- Every query that holds or has taken its funding.
  taken as (
    select u.user_id, u.funding, u.tier, u.query_date, u.period_start, u.credit_pack_id, u.overage_charge,
           u.quota_limit, u.overage_limit
    from public.usage_logs u where u.outcome in ('answered', 'stopped')
    union all
    select h.user_id, h.funding, h.tier, h.query_date, h.period_start, h.credit_pack_id, h.overage_charge,
           h.quota_limit, h.overage_limit
    from public.query_holds h
  ),
  included as (
    select t.user_id, p.lifetime_quota is not null as for_life, case when p.lifetime_quota is null then t.query_date end as day,
           count(*) as used, max(t.quota_limit) as quota
    from taken t join public.plans p on p.tier = t.tier
    where t.funding = 'included' group by 1, 2, 3
  ),
  overage as (
    select t.user_id, t.period_start, sum(t.overage_charge) as used, max(t.overage_limit) as allowed
    from taken t where t.funding = 'overage' group by 1, 2
  ),
  credits as (
    select t.credit_pack_id, count(*) as used from taken t where t.credit_pack_id is not null group by 1
  )
  -- Limits are those in force when each query was admitted: a downgrade takes nothing back.
  select 'I1', i.user_id, coalesce(i.day::text, 'for life'), '<= ' || i.quota, i.used::text
  from included i where i.used > i.quota
  union all
  select 'I2', o.user_id, o.period_start::text, '<= ' || o.allowed, o.used::text
  from overage o where o.used > o.allowed
  union all
  select 'I3', c.user_id, c.id::text, coalesce(t.used, 0)::text || ' of ' || c.credits_purchased,
         concat_ws(' ', c.credits_used, 'used,', c.credits_remaining, 'left,', c.credits_revoked, 'revoked,',
                   c.credits_expired, 'expired')
  from public.credit_packs c left join credits t on t.credit_pack_id = c.id
  where c.credits_used <> coalesce(t.used, 0)
     or c.credits_remaining + c.credits_used + c.credits_revoked + c.credits_expired <> c.credits_purchased
  union all
  select 'I4', s.user_id, 'quota_used of ' || s.quota_date, coalesce(i.used, 0)::text, s.quota_used::text
  from public.user_subscriptions s
  left join included i on i.user_id = s.user_id and not i.for_life and i.day = s.quota_date
  where s.quota_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'lifetime_used', coalesce(i.used, 0)::text, s.lifetime_used::text
  from public.user_subscriptions s
  left join included i on i.user_id = s.user_id and i.for_life
  where s.lifetime_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'current_overage_amount of ' || s.overage_period_start, coalesce(o.used, 0)::text,
         s.current_overage_amount::text
  from public.user_subscriptions s
  left join overage o on o.user_id = s.user_id and o.period_start = s.overage_period_start
  where s.current_overage_amount <> coalesce(o.used, 0)
  union all
  select 'I4', c.user_id, 'message_count of ' || c.id, count(m.id)::text, c.message_count::text
  from public.conversations c left join public.messages m on m.conversation_id = c.id
  group by c.id having count(m.id) <> c.message_count
  union all
  select 'I5', h.user_id, h.id::text, 'ended by ' || h.expires_at, 'held'
  from public.query_holds h where h.expires_at < private.clock() - interval '1 hour'
  union all
  select 'I5', h.user_id, h.id::text, 'held or ended', 'held and ended'
  from public.query_holds h join public.usage_logs u on u.id = h.id
  union all
  select 'I5', u.user_id, u.id::text, 'charged as its funding and outcome say',
         concat_ws(' ', u.funding, u.outcome, u.overage_charge)
  from public.usage_logs u
  where u.used_byo_key <> (u.funding = 'byok')
     or u.counted_against_quota <> (u.funding = 'included' and u.outcome in ('answered', 'stopped'))
     or u.was_overage <> (u.funding = 'overage' and u.outcome in ('answered', 'stopped'))
     or u.was_overage <> (u.overage_charge > 0)
  union all
  select 'I4', s.user_id, 'uses_byo_key', (not s.uses_byo_key)::text, s.uses_byo_key::text
  from public.user_subscriptions s
  where s.uses_byo_key <> exists (select from public.user_api_keys k where k.user_id = s.user_id and k.is_active)
  union all
  -- What admission presumes has to be what it would decide.
  select 'I4', s.user_id, 'included_until', 'decided: ' || coalesce(d.funding, d.reason), s.included_until::text
  from public.user_subscriptions s
  join public.plans p on p.tier = s.tier
  join private.standing d on d.user_id = s.user_id
  where s.included_until > d.now and s.quota_used < coalesce(s.daily_quota, p.daily_quota) and p.lifetime_quota is null
    and d.included_until is null
  union all
  select 'I6', u.user_id, u.request_id, '1', count(*)::text
  from public.usage_logs u where u.outcome in ('answered', 'stopped')
  group by u.user_id, u.request_id having count(*) > 1
  union all
  select 'I6', h.user_id, h.request_id, 'charged or held', 'charged and held'
  from public.query_holds h
  join public.usage_logs u on u.user_id = h.user_id and u.request_id = h.request_id
                          and u.outcome in ('answered', 'stopped')
  union all
  select 'I7', i.user_id, i.id::text, concat_ws(' ', i.queries, 'queries,', i.amount_usd),
         concat_ws(' ', count(u.id), 'queries,', coalesce(sum(u.overage_charge), 0))
  from public.overage_invoice_items i
  left join public.usage_logs u on u.invoice_item_id = i.id and u.user_id = i.user_id and u.was_overage
                               and u.period_start = i.period_start and u.overage_charge = i.unit_price_usd
  group by i.id having count(u.id) <> i.queries
  union all
  select 'I7', u.user_id, u.id::text, 'billed on an item of its own user, period and price', i.id::text
  from public.usage_logs u
  join public.overage_invoice_items i on i.id = u.invoice_item_id
  where not u.was_overage or u.user_id <> i.user_id or u.period_start <> i.period_start
     or u.overage_charge <> i.unit_price_usd
  union all
  -- The longest period and a month: the sweep has had its time.
  select 'overdue', u.user_id, 'period of ' || u.period_start, 'billed', count(*) || ' queries not billed, ' || sum(u.overage_charge)
  from public.usage_logs u
  where u.was_overage and u.invoice_item_id is null and u.query_timestamp < private.clock() - interval '62 days'
  group by u.user_id, u.period_start
  union all
  select 'overdue', i.user_id, i.id::text, 'at Stripe', 'not there after ' || i.attempts || ' attempts'
  from public.overage_invoice_items i
  where i.stripe_invoice_item_id is null and i.created_at < private.clock() - interval '3 days'
  union all
  select 'overdue', null, e.event_id, 'dealt with', concat_ws(' ', e.type, 'failed', e.attempts, 'times:', e.last_error)
  from public.stripe_events e
  where e.processed_at is null and e.created_at < private.clock() - interval '3 days'
$$;

COMMENT ON FUNCTION public.reconcile() IS 'Rows that break an invariant of metering, and what should have been billed or dealt with long ago (overdue): which, whose, where, what the ledger says and what was found. None is right.';

CREATE FUNCTION public.release_query(p_hold_id uuid, p_outcome text DEFAULT 'failed'::text, p_usage jsonb DEFAULT '{}'::jsonb, p_user_id uuid DEFAULT NULL::uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_ended record;
begin
  if p_outcome not in ('failed', 'lost') then
    raise invalid_parameter_value using message = 'A released query failed or was lost.';
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0)) where p_user_id is not null;
  perform pg_advisory_xact_lock(uuid_hash_extended(h.user_id, 0)) from public.query_holds h where h.id = p_hold_id;
  v_ended := private.give_back(p_hold_id, p_outcome, p_usage);
  if v_ended.id is null then
    v_ended := private.how_it_ended(p_hold_id);
  end if;
  return jsonb_build_object('outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text);
end
$$;

COMMENT ON FUNCTION public.release_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_user_id uuid) IS 'Ends a query that is not charged and gives its funding back, once however often it is called. p_usage as in settle_query: our cost. p_user_id, where the query may still be waiting to be admitted: behind it in the user''s queue. NOHLD: never admitted.';

CREATE FUNCTION public.release_stale_holds() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_stale record;
  v_ended record;
  v_released integer := 0;
begin
  -- At most 100 a call, so that no user waits long for a lock. Whoever is being served right now is left to the next.
  for v_stale in
    select oldest.id, oldest.user_id
    from (select h.id, h.user_id from public.query_holds h where h.expires_at <= v_at
          order by h.expires_at limit 100) oldest
    order by oldest.user_id, oldest.id
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_stale.user_id, 0));
    v_ended := private.give_back(v_stale.id, 'lost', '{}');
    v_released := v_released + case when v_ended.id is not null then 1 else 0 end;
  end loop;
  return v_released;
end
$$;

COMMENT ON FUNCTION public.release_stale_holds() IS 'Gives back the funding of queries whose process died, at most 100 a call; returns how many. Call it until 0.';

CREATE FUNCTION public.reset_monthly_overages() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_user_id uuid;
  v_reset integer := 0;
begin
  -- Admission does the same for whoever asks something; this is for the rest. What is owed stays in usage_logs.
  for v_user_id in
    select s.user_id from public.user_subscriptions s
    where s.current_overage_amount > 0
      and (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start > s.overage_period_start
    limit 500
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));
    update public.user_subscriptions s set
      current_overage_amount = 0,
      overage_period_start = (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start
    where s.user_id = v_user_id
      and (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start > s.overage_period_start;
    v_reset := v_reset + case when found then 1 else 0 end;
  end loop;
  return v_reset;
end
$$;

COMMENT ON FUNCTION public.reset_monthly_overages() IS 'Starts the overage counter of periods that have ended anew, at most 500 a call; returns how many. Call it until 0. Forgets no money.';

CREATE FUNCTION public.retarget_overage(p_id uuid, p_refusals integer, p_target jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  update public.overage_invoice_items i set target = p_target, refusals = i.refusals + 1
  where i.id = p_id and i.refusals = p_refusals and i.stripe_invoice_item_id is null;
end
$$;

COMMENT ON FUNCTION public.retarget_overage(p_id uuid, p_refusals integer, p_target jsonb) IS 'Sends an overage item elsewhere, once Stripe has refused its target for good: the one that p_refusals went before.';

CREATE FUNCTION public.rotate_api_keys(p_rows jsonb) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_rotated integer;
begin
  -- What has been replaced or rotated since it was read has another nonce, and is left alone.
  with resealed as (
    select k.id, r.encrypted_key, r.encryption_iv, r.encryption_tag, r.encryption_key_id
    from jsonb_to_recordset(p_rows) r (
      id uuid, old_iv text, encrypted_key text, encryption_iv text, encryption_tag text, encryption_key_id text)
    join public.user_api_keys k on k.id = r.id and k.encryption_iv = decode(r.old_iv, 'base64')
    order by k.id
    for no key update of k skip locked
  )
  update public.user_api_keys k set
    encrypted_key = decode(r.encrypted_key, 'base64'), encryption_iv = decode(r.encryption_iv, 'base64'),
    encryption_tag = decode(r.encryption_tag, 'base64'), encryption_key_id = r.encryption_key_id
  from resealed r where k.id = r.id;
  get diagnostics v_rotated = row_count;
  return v_rotated;
end
$$;

COMMENT ON FUNCTION public.rotate_api_keys(p_rows jsonb) IS 'Replaces seals: [{id, old_iv, encrypted_key, encryption_iv, encryption_tag, encryption_key_id}]. Returns how many; rows that changed since they were read, or are being changed, stay as they are.';

CREATE FUNCTION public.set_overage(p_settings jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.set_overage(p_settings jsonb) IS 'Sets the signed-in user''s {allow_overages, overage_limit_usd}, those that are given; a limit of null is the plan''s again. Returns the overage of usage_summary.';

CREATE FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb DEFAULT '{}'::jsonb, p_turn jsonb DEFAULT NULL::jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_hold public.query_holds;
  v_ended record;
  v_history_days integer;
  v_conversation_id uuid;
begin
  if p_outcome not in ('answered', 'stopped') then
    raise invalid_parameter_value using message = 'A settled query was answered or stopped.';
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));
  if p_turn is not null then
    select * into v_hold from public.query_holds where id = p_hold_id;
    select p.history_days into v_history_days
    from public.user_subscriptions s
    join public.plans p
      on p.tier = coalesce(case when s.current_period_end <= private.clock() then s.next_tier end, s.tier)
    where s.user_id = v_hold.user_id;
    if v_history_days > 0 then
      -- Before the conversation, so that a user's deletion cannot cross us.
      perform from auth.users where id = v_hold.user_id for key share;
      v_conversation_id := private.keep_turn(v_hold, v_history_days, p_usage, p_turn);
    end if;
  end if;
  v_ended := private.end_query(
    p_hold_id, p_outcome, p_usage, v_conversation_id,
    case when v_conversation_id is not null then (p_turn -> 'answer' ->> 'id')::uuid end);
  if v_ended.id is null then
    v_ended := private.how_it_ended(p_hold_id);
  elsif v_ended.used_byo_key then
    -- The provider has answered to it, so a key that could not be checked when it was stored is valid.
    update public.user_api_keys k set last_validated_at = u.created_at, validation_error = null
    from public.usage_logs u
    where u.id = p_hold_id and k.user_id = u.user_id and k.provider = u.provider and k.is_active
      and k.last_validated_at is null and k.created_at <= u.query_timestamp;
  end if;
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text, 'cost_usd', v_ended.cost_usd::text,
    'persisted', v_ended.message_id is not null);
end
$$;

COMMENT ON FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_turn jsonb) IS 'Ends a query that is charged, once however often it is called. p_usage: provider, model, tokens_input, tokens_output, cache_read_tokens, cache_write_tokens, cost_usd. p_turn: chat_id, title, context {type, id, data}, question {id, content}, answer {id, content, function_calls, function_results}; kept only where the plan keeps history. NOHLD: never admitted.';

CREATE FUNCTION public.sold_packs(p_sessions text[]) RETURNS TABLE(session_id text, user_id uuid, credits integer, price_paid_usd text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select c.stripe_checkout_session_id, c.user_id, c.credits_purchased, c.price_paid::text
  from public.credit_packs c where c.stripe_checkout_session_id = any (p_sessions[1:1000])
$$;

COMMENT ON FUNCTION public.sold_packs(p_sessions text[]) IS 'The packs that were granted for checkout sessions, at most 1,000 at once: for a comparison with Stripe.';

CREATE FUNCTION public.stop_query(p_user_id uuid, p_chat_id text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    SET enable_seqscan TO 'off'
    AS $$
begin
  update public.query_holds h set stop_requested = true where h.id = private.running_query(p_user_id, p_chat_id);
  return found;
end
$$;

COMMENT ON FUNCTION public.stop_query(p_user_id uuid, p_chat_id text) IS 'Asks the running query of a user''s chat to stop; whether there was one.';

CREATE FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_id constant uuid := private.time_ordered_id();
  v_admission jsonb;
begin
  if not exists (select from public.conversations where id = p_conversation_id and user_id = p_user_id)
     and p_conversation_id is not null
     or not exists (select from public.messages where id = p_message_id and conversation_id = p_conversation_id)
     and p_message_id is not null then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation or message.';
  end if;
  v_admission := public.admit_query(
    p_user_id, 'track:' || coalesce(p_message_id, v_id)::text, v_id, p_own_key => coalesce(p_used_byo_key, false),
    p_provider => case when p_used_byo_key then p_provider end);
  if v_admission ->> 'decision' = 'ended' then
    return;
  elsif v_admission ->> 'decision' <> 'admitted' then
    raise exception using errcode = 'QUOTA', message = v_admission ->> 'reason';
  end if;
  perform private.end_query(
    v_id, 'answered',
    jsonb_build_object('provider', p_provider, 'model', p_model, 'tokens_input', p_tokens_input,
                       'tokens_output', p_tokens_output, 'cost_usd', p_cost_usd),
    p_conversation_id, p_message_id);
end
$$;

COMMENT ON FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) IS 'Admits and settles one query in one call, by the same rules as the chat; once for each message. QUOTA: refused, the message says why. NTFND: not the user''s conversation or message.';

CREATE FUNCTION public.unfinished_stripe_events(p_after uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100) RETURNS TABLE(id uuid, event_id text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select e.id, e.event_id from public.stripe_events e
  where e.processed_at is null and (p_after is null or e.id > p_after)
    -- Stripe keeps an event for thirty days; one that is being dealt with right now is left to that.
    and e.created_at between private.clock() - interval '29 days' and private.clock() - interval '5 minutes'
  order by e.id limit least(p_limit, 1000)
$$;

COMMENT ON FUNCTION public.unfinished_stripe_events(p_after uuid, p_limit integer) IS 'Events whose effect is not committed, by id from p_after on, at most 1,000.';

CREATE FUNCTION public.usage_summary() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
declare
  v_user_id constant uuid := (select auth.uid());
  v record;
  v_can record;
  v_period record;
  v_packs jsonb;
  v_providers jsonb;
  v_today record;
  v_month record;
  v_billing jsonb;
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Only a signed-in user has usage.';
  end if;
  select * into v from private.standing s where s.user_id = v_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no subscription.';
  end if;
  select * into v_can from public.can_user_query(v_user_id);
  select * into v_period from private.period_at(v.current_period_start, v.current_period_end, v.now);

  select coalesce(jsonb_agg(jsonb_build_object(
           'id', c.id, 'purchased', c.credits_purchased, 'remaining', c.credits_remaining,
           'bought_at', c.created_at, 'expires_at', c.expires_at, 'is_frozen', c.is_frozen) order by c.expires_at nulls last, c.created_at), '[]')
  into v_packs
  from public.credit_packs c
  where c.user_id = v_user_id and c.credits_remaining > 0 and (c.expires_at > v.now or c.expires_at is null);

  select coalesce(jsonb_agg(k.provider order by k.provider), '[]') into v_providers
  from public.user_api_keys k where k.user_id = v_user_id and k.is_active;

  select count(*) filter (where u.outcome in ('answered', 'stopped')) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_today
  from public.usage_logs u where u.user_id = v_user_id and u.query_date = (v.now at time zone 'UTC')::date;
  select count(*) filter (where u.outcome in ('answered', 'stopped')) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_month
  from public.usage_logs u
  where u.user_id = v_user_id and u.query_date >= (v_period.period_start at time zone 'UTC')::date
    and u.query_timestamp >= v_period.period_start;

  select jsonb_build_object(
    'is_customer', s.stripe_customer_id is not null,
    'is_subscribed', s.stripe_subscription_id is not null and not v.lapsed,
    'ends_at', case when v.status = 'canceled' then s.current_period_end end,
    'next_tier', case when s.current_period_end > v.now then s.next_tier end,
    'past_due_since', s.past_due_since,
    'to_be_billed_usd', (
      select coalesce(sum(u.overage_charge), 0)::text from public.usage_logs u
      where u.user_id = v_user_id and u.was_overage and u.invoice_item_id is null),
    'billed', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'period_start', i.period_start, 'queries', i.queries, 'unit_price_usd', i.unit_price_usd::text,
        'amount_usd', i.amount_usd::text, 'billed_usd', (i.amount_cents / 100.0)::numeric(14,2)::text)
        order by i.period_start desc), '[]')
      from (
        select * from public.overage_invoice_items o where o.user_id = v_user_id
        order by o.period_start desc limit 12) i))
  into v_billing
  from public.user_subscriptions s where s.user_id = v_user_id;

  -- Money travels as text under names that end in _usd, so that no JSON parser makes it a float.
  return jsonb_build_object(
    'tier', v.tier,
    'status', v.status,
    'period', jsonb_build_object('start', v_period.period_start, 'end', v_period.period_end),
    'included', jsonb_build_object(
      'limit', v.quota_limit, 'used', v.used, 'remaining', greatest(0, v.quota_limit - v.used),
      'resets_at', case when not v.for_life
                        then (((v.now at time zone 'UTC')::date + 1)::timestamp) at time zone 'UTC' end),
    'overage', jsonb_build_object(
      'allowed', v.allows_overage, 'price_usd', v.overage_price_usd::text, 'limit_usd', v.overage_limit::text,
      'used_usd', v.overage_used::text),
    'credits', jsonb_build_object(
      'remaining', (
        select coalesce(sum((pack ->> 'remaining')::integer), 0) from jsonb_array_elements(v_packs) pack
        where not (pack ->> 'is_frozen')::boolean),
      'packs', v_packs),
    'byok', jsonb_build_object('allowed', v.allows_byok, 'providers', v_providers),
    'billing', v_billing,
    'can_query', v_can.can_query,
    'reason', v_can.reason,
    'requires_payment', v_can.requires_payment,
    'today', jsonb_build_object('queries', v_today.queries, 'tokens', v_today.tokens,
                                'cost_usd', v_today.cost_usd::text),
    'month', jsonb_build_object('queries', v_month.queries, 'tokens', v_month.tokens,
                                'cost_usd', v_month.cost_usd::text));
end
$$;

COMMENT ON FUNCTION public.usage_summary() IS 'The signed-in user''s plan, quotas, overage, credits, bills and use today and in this period: the answer of GET /usage.';

CREATE FUNCTION public.users_to_bill(p_after uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100) RETURNS TABLE(user_id uuid, stripe_customer_id text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

COMMENT ON FUNCTION public.users_to_bill(p_after uuid, p_limit integer) IS 'Users with overage of an ended period that is on no invoice, by id from p_after on, at most 1,000.';

CREATE TABLE public.plans (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    tier text NOT NULL,
    name text NOT NULL,
    price_usd public.usd NOT NULL,
    daily_quota public.quantity,
    lifetime_quota public.quantity,
    overage_price_usd public.usd,
    overage_limit_usd public.usd,
    allows_credits boolean NOT NULL,
    allows_byok boolean NOT NULL,
    history_days public.quantity NOT NULL,
    query_cost_limit_usd public.usd NOT NULL,
    models jsonb NOT NULL,
    CONSTRAINT plans_has_one_kind_of_quota CHECK ((num_nonnulls(daily_quota, lifetime_quota) = 1)),
    CONSTRAINT plans_models_are_lists_by_provider CHECK (((jsonb_typeof((models -> 'anthropic'::text)) = 'array'::text) AND (jsonb_typeof((models -> 'openai'::text)) = 'array'::text))),
    CONSTRAINT plans_overage_has_price_and_limit CHECK (((overage_price_usd IS NULL) = (overage_limit_usd IS NULL))),
    CONSTRAINT plans_overage_price_is_positive CHECK (((overage_price_usd)::numeric > (0)::numeric)),
    CONSTRAINT plans_tier_is_known CHECK ((tier = ANY (ARRAY['free'::text, 'basic'::text, 'pro'::text, 'usage_only'::text])))
);

ALTER TABLE ONLY public.plans FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.plans IS 'One row a tier: the single source of quotas, prices, retention and models.';

COMMENT ON COLUMN public.plans.id IS 'Identifies the row.';

COMMENT ON COLUMN public.plans.created_at IS 'When the plan was added.';

COMMENT ON COLUMN public.plans.tier IS 'free, basic, pro or usage_only; what subscriptions refer to.';

COMMENT ON COLUMN public.plans.name IS 'What people are shown.';

COMMENT ON COLUMN public.plans.price_usd IS 'US dollars a month.';

COMMENT ON COLUMN public.plans.daily_quota IS 'Included queries a UTC day; null where the quota is for life.';

COMMENT ON COLUMN public.plans.lifetime_quota IS 'Included queries ever; null where the quota is by the day.';

COMMENT ON COLUMN public.plans.overage_price_usd IS 'US dollars a query beyond the quota; null: no overage.';

COMMENT ON COLUMN public.plans.overage_limit_usd IS 'The overage limit of a period until the user sets another, US dollars.';

COMMENT ON COLUMN public.plans.allows_credits IS 'Whether prepaid credit packs pay for queries.';

COMMENT ON COLUMN public.plans.allows_byok IS 'Whether users may bring their own provider key.';

COMMENT ON COLUMN public.plans.history_days IS 'Days a conversation is kept after its last message; 0: nothing is kept.';

COMMENT ON COLUMN public.plans.query_cost_limit_usd IS 'What one query may cost us at the provider, US dollars, before it is brought to an end.';

COMMENT ON COLUMN public.plans.models IS 'Models by provider that the tier may use; the first of each is the default.';

CREATE TABLE public.user_subscriptions (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    tier text DEFAULT 'free'::text NOT NULL,
    next_tier text,
    status public.subscription_status DEFAULT 'active'::text NOT NULL,
    stripe_customer_id text,
    stripe_subscription_id text,
    daily_quota public.quantity,
    lifetime_quota public.quantity,
    allow_overages boolean DEFAULT true NOT NULL,
    overage_limit public.usd,
    current_overage_amount public.usd DEFAULT 0 NOT NULL,
    uses_byo_key boolean DEFAULT false NOT NULL,
    current_period_start timestamp with time zone,
    current_period_end timestamp with time zone,
    canceled_at timestamp with time zone,
    past_due_since timestamp with time zone,
    quota_date date DEFAULT ((private.clock() AT TIME ZONE 'UTC'::text))::date NOT NULL,
    quota_used public.quantity DEFAULT 0 NOT NULL,
    lifetime_used public.quantity DEFAULT 0 NOT NULL,
    overage_period_start timestamp with time zone DEFAULT date_trunc('month'::text, private.clock(), 'UTC'::text) NOT NULL,
    included_until timestamp with time zone,
    stripe_sequence bigint DEFAULT 0 NOT NULL,
    downgraded_at timestamp with time zone
);

ALTER TABLE ONLY public.user_subscriptions FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.user_subscriptions IS 'One row a user: the plan, its state, and the counters that admission locks and reads. Counters include holds.';

COMMENT ON COLUMN public.user_subscriptions.id IS 'Identifies the row.';

COMMENT ON COLUMN public.user_subscriptions.created_at IS 'When the user signed up.';

COMMENT ON COLUMN public.user_subscriptions.updated_at IS 'When it last changed, counters aside.';

COMMENT ON COLUMN public.user_subscriptions.user_id IS 'Whose subscription it is.';

COMMENT ON COLUMN public.user_subscriptions.tier IS 'The plan.';

COMMENT ON COLUMN public.user_subscriptions.next_tier IS 'The plan from current_period_end on, after a downgrade; null: the same.';

COMMENT ON COLUMN public.user_subscriptions.status IS 'active, canceled (until current_period_end), suspended or past_due.';

COMMENT ON COLUMN public.user_subscriptions.stripe_customer_id IS 'The customer at Stripe.';

COMMENT ON COLUMN public.user_subscriptions.stripe_subscription_id IS 'The live subscription at Stripe; overage needs one to be invoiced on.';

COMMENT ON COLUMN public.user_subscriptions.daily_quota IS 'A daily quota of this user''s own; null: the plan''s.';

COMMENT ON COLUMN public.user_subscriptions.lifetime_quota IS 'A lifetime quota of this user''s own; null: the plan''s.';

COMMENT ON COLUMN public.user_subscriptions.allow_overages IS 'Whether the user allows overage, where the plan does.';

COMMENT ON COLUMN public.user_subscriptions.overage_limit IS 'US dollars of overage a period that the user allows; null: the plan''s.';

COMMENT ON COLUMN public.user_subscriptions.current_overage_amount IS 'US dollars of overage in the period of overage_period_start, holds included.';

COMMENT ON COLUMN public.user_subscriptions.uses_byo_key IS 'Whether the user has an active key of their own.';

COMMENT ON COLUMN public.user_subscriptions.current_period_start IS 'Start of the billing period; null: calendar months, UTC.';

COMMENT ON COLUMN public.user_subscriptions.current_period_end IS 'End of the billing period.';

COMMENT ON COLUMN public.user_subscriptions.canceled_at IS 'When the user cancelled.';

COMMENT ON COLUMN public.user_subscriptions.past_due_since IS 'When the invoice failed that made the subscription past due.';

COMMENT ON COLUMN public.user_subscriptions.quota_date IS 'The UTC day that quota_used counts.';

COMMENT ON COLUMN public.user_subscriptions.quota_used IS 'Included queries admitted on quota_date, holds included.';

COMMENT ON COLUMN public.user_subscriptions.lifetime_used IS 'Included queries admitted on a lifetime quota, holds included.';

COMMENT ON COLUMN public.user_subscriptions.overage_period_start IS 'Start of the period that current_overage_amount belongs to.';

COMMENT ON COLUMN public.user_subscriptions.included_until IS 'Until then the day''s quota pays for the next query, while it lasts: private.standing has said so. Null: it has to be asked.';

COMMENT ON COLUMN public.user_subscriptions.stripe_sequence IS 'The newest look at the customer at Stripe that the row tells of: an older one changes nothing.';

COMMENT ON COLUMN public.user_subscriptions.downgraded_at IS 'When the plan became one that keeps conversations for fewer days; null once their dates have been shortened.';

CREATE VIEW private.standing WITH (security_invoker='true') AS
 SELECT s.user_id,
    s.updated_at,
    clock.now,
    rolled.tier,
    p.name,
    rolled.status,
    rolled.lapsed,
    p.models,
    p.history_days,
    (p.query_cost_limit_usd)::numeric AS query_cost_limit_usd,
    p.allows_byok,
    terms.for_life,
    terms.quota_limit,
    terms.used,
    rolled.quota_date,
    rolled.quota_used,
    (s.lifetime_used)::integer AS lifetime_used,
    rolled.current_period_start,
    s.current_period_end,
    rolled.overage_period_start,
    rolled.overage_used,
    terms.overage_limit,
    (p.overage_price_usd)::numeric AS overage_price_usd,
    ((p.overage_price_usd IS NOT NULL) AND s.allow_overages) AS allows_overage,
    (terms.runs AND p.allows_byok AND s.uses_byo_key) AS own_key,
    decision.funding,
        CASE
            WHEN (decision.funding IS NOT NULL) THEN private.reason_of(decision.funding, p.tier)
            WHEN (NOT terms.runs) THEN ('Subscription not active: '::text || rolled.status)
            WHEN terms.for_life THEN 'Free tier quota exhausted'::text
            WHEN terms.sells_overage THEN 'Overage limit reached'::text
            ELSE 'Daily quota exceeded'::text
        END AS reason,
        CASE
            WHEN (decision.funding IS NULL) THEN ((NOT terms.runs) OR terms.for_life OR terms.is_prepaid)
            ELSE (decision.funding = 'overage'::text)
        END AS requires_payment,
        CASE
            WHEN ((NOT terms.runs) OR terms.for_life OR terms.is_prepaid OR (decision.funding = 'credit'::text)) THEN NULL::timestamp with time zone
            WHEN ((decision.funding = 'included'::text) OR (NOT terms.sells_overage)) THEN clock.midnight
            ELSE LEAST((private.period_at(rolled.current_period_start, s.current_period_end, clock.now)).period_end,
            CASE
                WHEN ((decision.funding IS NULL) AND (terms.quota_limit > 0)) THEN clock.midnight
                ELSE NULL::timestamp with time zone
            END)
        END AS resets_at,
        CASE
            WHEN ((decision.funding = 'included'::text) AND (NOT terms.for_life) AND (NOT s.uses_byo_key) AND (rolled.tier = s.tier) AND (NOT rolled.lapsed)) THEN LEAST(clock.midnight, (private.period_at(s.current_period_start, s.current_period_end, clock.now)).period_end,
            CASE
                WHEN (rolled.status = 'past_due'::text) THEN (s.past_due_since + '7 days'::interval)
                ELSE NULL::timestamp with time zone
            END)
            ELSE NULL::timestamp with time zone
        END AS included_until
   FROM (((((( SELECT c.now,
            ((c.now AT TIME ZONE 'UTC'::text))::date AS today,
            (((((c.now AT TIME ZONE 'UTC'::text))::date + 1))::timestamp without time zone AT TIME ZONE 'UTC'::text) AS midnight
           FROM ( SELECT private.clock() AS now
                 OFFSET 0) c) clock
     CROSS JOIN public.user_subscriptions s)
     CROSS JOIN LATERAL ( SELECT began.lapsed,
                CASE
                    WHEN began.lapsed THEN private.unsubscribed_tier(s.user_id, clock.now)
                    WHEN ((s.next_tier IS NOT NULL) AND (s.current_period_end <= clock.now)) THEN s.next_tier
                    ELSE s.tier
                END AS tier,
                CASE
                    WHEN began.lapsed THEN 'active'::text
                    ELSE (s.status)::text
                END AS status,
                CASE
                    WHEN (NOT began.lapsed) THEN s.current_period_start
                    ELSE NULL::timestamp with time zone
                END AS current_period_start,
            GREATEST(s.quota_date, clock.today) AS quota_date,
                CASE
                    WHEN (clock.today > s.quota_date) THEN 0
                    ELSE (s.quota_used)::integer
                END AS quota_used,
            GREATEST(s.overage_period_start, began.period) AS overage_period_start,
                CASE
                    WHEN (began.period > s.overage_period_start) THEN (0)::numeric
                    ELSE (s.current_overage_amount)::numeric
                END AS overage_used
           FROM ( SELECT ended.lapsed,
                        CASE
                            WHEN (ended.lapsed OR (s.current_period_start IS NULL)) THEN date_trunc('month'::text, clock.now, 'UTC'::text)
                            WHEN ((clock.now >= s.current_period_start) AND (clock.now < s.current_period_end)) THEN s.current_period_start
                            ELSE (private.period_at(s.current_period_start, s.current_period_end, clock.now)).period_start
                        END AS period
                   FROM ( SELECT ((((s.status)::text = 'canceled'::text) AND (s.current_period_end <= clock.now)) IS TRUE) AS lapsed) ended
                 OFFSET 0) began
         OFFSET 0) rolled)
     JOIN public.plans p ON ((p.tier = rolled.tier)))
     CROSS JOIN LATERAL ( SELECT (p.lifetime_quota IS NOT NULL) AS for_life,
                CASE
                    WHEN (p.lifetime_quota IS NOT NULL) THEN (s.lifetime_used)::integer
                    ELSE rolled.quota_used
                END AS used,
            (
                CASE
                    WHEN (p.lifetime_quota IS NOT NULL) THEN COALESCE(s.lifetime_quota, p.lifetime_quota)
                    ELSE COALESCE(s.daily_quota, p.daily_quota)
                END)::integer AS quota_limit,
                CASE
                    WHEN (p.overage_price_usd IS NOT NULL) THEN (COALESCE(s.overage_limit, p.overage_limit_usd))::numeric
                    ELSE NULL::numeric
                END AS overage_limit,
            (((rolled.status = 'active'::text) OR ((rolled.status = 'canceled'::text) AND (s.current_period_end > clock.now)) OR ((rolled.status = 'past_due'::text) AND ((s.past_due_since + '7 days'::interval) > clock.now))) IS TRUE) AS runs,
            ((p.overage_price_usd IS NOT NULL) AND (p.lifetime_quota IS NULL) AND s.allow_overages AND (s.stripe_subscription_id IS NOT NULL) AND (rolled.status = 'active'::text) AND (NOT rolled.lapsed)) AS sells_overage,
            ((rolled.tier = 'usage_only'::text) AND ((COALESCE(s.daily_quota, p.daily_quota))::integer = 0) AND ((s.stripe_subscription_id IS NULL) OR rolled.lapsed)) AS is_prepaid
         OFFSET 0) terms)
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (NOT terms.runs) THEN NULL::text
                    WHEN (terms.used < terms.quota_limit) THEN 'included'::text
                    WHEN (p.allows_credits AND (private.next_credit_pack(s.user_id, clock.now) IS NOT NULL)) THEN 'credit'::text
                    WHEN (terms.sells_overage AND ((rolled.overage_used + (p.overage_price_usd)::numeric) <= terms.overage_limit)) THEN 'overage'::text
                    ELSE NULL::text
                END AS funding
         OFFSET 0) decision);

COMMENT ON VIEW private.standing IS 'Where each user stands now, counters rolled to today and to this period, and the one place that decides: what pays for the next query (null: nothing), why, whether it costs money or paying would help, and when that starts anew. own_key: a key of the user''s own pays before that, whatever the rest says.';

COMMENT ON COLUMN private.standing.user_id IS 'Whose it is.';

COMMENT ON COLUMN private.standing.updated_at IS 'When the subscription last changed, its counters aside.';

COMMENT ON COLUMN private.standing.now IS 'The time that all of this is as of.';

COMMENT ON COLUMN private.standing.tier IS 'The plan.';

COMMENT ON COLUMN private.standing.name IS 'The plan''s name.';

COMMENT ON COLUMN private.standing.status IS 'active, canceled, suspended or past_due.';

COMMENT ON COLUMN private.standing.lapsed IS 'Whether a cancelled plan is over, which the row does not say yet.';

COMMENT ON COLUMN private.standing.models IS 'Models by provider that the plan has.';

COMMENT ON COLUMN private.standing.history_days IS 'Days that the plan keeps conversations.';

COMMENT ON COLUMN private.standing.query_cost_limit_usd IS 'What one query may cost at the provider, US dollars.';

COMMENT ON COLUMN private.standing.allows_byok IS 'Whether the plan allows own keys.';

COMMENT ON COLUMN private.standing.for_life IS 'Whether the quota is for life, not by the day.';

COMMENT ON COLUMN private.standing.quota_limit IS 'Included queries, a day or ever.';

COMMENT ON COLUMN private.standing.used IS 'Of those, how many are used, holds included.';

COMMENT ON COLUMN private.standing.quota_date IS 'The UTC day that quota_used counts.';

COMMENT ON COLUMN private.standing.quota_used IS 'Included queries used that day.';

COMMENT ON COLUMN private.standing.lifetime_used IS 'Included queries used on a lifetime quota.';

COMMENT ON COLUMN private.standing.current_period_start IS 'Start of the billing period; null: calendar months, UTC.';

COMMENT ON COLUMN private.standing.current_period_end IS 'End of that period, as the row says it.';

COMMENT ON COLUMN private.standing.overage_period_start IS 'Start of the period that overage_used counts.';

COMMENT ON COLUMN private.standing.overage_used IS 'US dollars of overage in that period, holds included.';

COMMENT ON COLUMN private.standing.overage_limit IS 'US dollars of overage that are allowed a period; null: none by the plan.';

COMMENT ON COLUMN private.standing.overage_price_usd IS 'US dollars a query; null: none by the plan.';

COMMENT ON COLUMN private.standing.allows_overage IS 'Whether plan and user allow overage.';

COMMENT ON COLUMN private.standing.own_key IS 'Whether a key of the user''s own pays.';

COMMENT ON COLUMN private.standing.funding IS 'What pays for the next query, if no own key does; null: nothing.';

COMMENT ON COLUMN private.standing.reason IS 'Why, in words.';

COMMENT ON COLUMN private.standing.requires_payment IS 'Whether it costs money, or paying would help.';

COMMENT ON COLUMN private.standing.resets_at IS 'When what pays, or what is used up, starts anew.';

COMMENT ON COLUMN private.standing.included_until IS 'Until when the day''s quota is what pays first, unless the subscription changes; null where it is not.';

CREATE SEQUENCE private.stripe_sequence
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

COMMENT ON SEQUENCE private.stripe_sequence IS 'Numbers each look at Stripe before it is taken, so that of two the later one can be told.';

CREATE TABLE public.conversations (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    external_id text,
    title text,
    context_type text DEFAULT 'general'::text NOT NULL,
    context_id text,
    context_data jsonb,
    message_count public.quantity DEFAULT 0 NOT NULL,
    total_tokens bigint DEFAULT 0 NOT NULL,
    is_pinned boolean DEFAULT false NOT NULL,
    is_archived boolean DEFAULT false NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    last_message_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT conversations_context_id_is_bounded CHECK ((char_length(context_id) <= 200)),
    CONSTRAINT conversations_context_type_is_known CHECK ((context_type = ANY (ARRAY['general'::text, 'mp'::text, 'bill'::text, 'dashboard'::text, 'lobbying'::text, 'spending'::text]))),
    CONSTRAINT conversations_external_id_is_bounded CHECK (((char_length(external_id) >= 1) AND (char_length(external_id) <= 128))),
    CONSTRAINT conversations_title_is_bounded CHECK ((char_length(title) <= 200)),
    CONSTRAINT conversations_total_tokens_are_not_negative CHECK ((total_tokens >= 0))
);

ALTER TABLE ONLY public.conversations FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.conversations IS 'What users of a plan with history talked about. Other plans leave no row here.';

COMMENT ON COLUMN public.conversations.id IS 'Identifies the conversation; the chat''s id where that is a UUID.';

COMMENT ON COLUMN public.conversations.created_at IS 'When its first message was answered.';

COMMENT ON COLUMN public.conversations.updated_at IS 'When the row last changed.';

COMMENT ON COLUMN public.conversations.user_id IS 'Whose conversation it is.';

COMMENT ON COLUMN public.conversations.external_id IS 'The chat''s id where that is not a UUID: the user''s own name for it.';

COMMENT ON COLUMN public.conversations.title IS 'What lists show; starts as the beginning of the first question.';

COMMENT ON COLUMN public.conversations.context_type IS 'The kind of page the user was on.';

COMMENT ON COLUMN public.conversations.context_id IS 'What that page was about.';

COMMENT ON COLUMN public.conversations.context_data IS 'What the client said about it.';

COMMENT ON COLUMN public.conversations.message_count IS 'Messages in it; the position of the last one.';

COMMENT ON COLUMN public.conversations.total_tokens IS 'Tokens of all its queries, replaced answers included.';

COMMENT ON COLUMN public.conversations.is_pinned IS 'Kept past its expiry. Lapses with a plan that keeps no history.';

COMMENT ON COLUMN public.conversations.is_archived IS 'Hidden from the user''s usual list.';

COMMENT ON COLUMN public.conversations.expires_at IS 'When it may be deleted, unless it is pinned; set from the plan at each message, never by the client.';

COMMENT ON COLUMN public.conversations.last_message_at IS 'When it was last answered.';

CREATE TABLE public.credit_packs (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    credits_purchased integer NOT NULL,
    credits_remaining public.quantity NOT NULL,
    credits_used public.quantity DEFAULT 0 NOT NULL,
    credits_revoked public.quantity DEFAULT 0 NOT NULL,
    credits_to_revoke public.quantity DEFAULT 0 NOT NULL,
    credits_expired public.quantity DEFAULT 0 NOT NULL,
    is_frozen boolean DEFAULT false NOT NULL,
    price_paid public.usd NOT NULL,
    price_per_credit public.usd GENERATED ALWAYS AS (round(((price_paid)::numeric / (credits_purchased)::numeric), 6)) STORED NOT NULL,
    stripe_payment_intent_id text,
    stripe_checkout_session_id text,
    stripe_sequence bigint DEFAULT 0 NOT NULL,
    expires_at timestamp with time zone,
    depleted_at timestamp with time zone,
    lapsed_at timestamp with time zone,
    CONSTRAINT credit_packs_credits_purchased_are_positive CHECK ((credits_purchased > 0)),
    CONSTRAINT credit_packs_no_credit_is_lost CHECK ((((((credits_remaining)::integer + (credits_used)::integer) + (credits_revoked)::integer) + (credits_expired)::integer) = credits_purchased))
);

ALTER TABLE ONLY public.credit_packs FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.credit_packs IS 'Prepaid queries. Changed only in the owner''s queue.';

COMMENT ON COLUMN public.credit_packs.id IS 'Identifies the pack.';

COMMENT ON COLUMN public.credit_packs.created_at IS 'When it was bought.';

COMMENT ON COLUMN public.credit_packs.user_id IS 'Who bought it.';

COMMENT ON COLUMN public.credit_packs.credits_purchased IS 'Queries it was bought with.';

COMMENT ON COLUMN public.credit_packs.credits_remaining IS 'Queries it can still pay.';

COMMENT ON COLUMN public.credit_packs.credits_used IS 'Queries it has paid, holds included.';

COMMENT ON COLUMN public.credit_packs.credits_revoked IS 'Queries taken back by a refund or a lost dispute: of those due, what was left.';

COMMENT ON COLUMN public.credit_packs.credits_to_revoke IS 'Queries that refunds and a lost dispute are worth. What was used before stays used.';

COMMENT ON COLUMN public.credit_packs.credits_expired IS 'Queries that were left when it lapsed.';

COMMENT ON COLUMN public.credit_packs.is_frozen IS 'Whether the payment is disputed: until that is settled the pack pays for nothing.';

COMMENT ON COLUMN public.credit_packs.price_paid IS 'US dollars paid for the pack.';

COMMENT ON COLUMN public.credit_packs.price_per_credit IS 'US dollars a query, to six decimals.';

COMMENT ON COLUMN public.credit_packs.stripe_payment_intent_id IS 'The payment at Stripe.';

COMMENT ON COLUMN public.credit_packs.stripe_checkout_session_id IS 'The checkout session at Stripe that it was bought in: granted once for each.';

COMMENT ON COLUMN public.credit_packs.stripe_sequence IS 'The newest look at the payment at Stripe that the row tells of: an older one changes nothing.';

COMMENT ON COLUMN public.credit_packs.expires_at IS 'When its remaining credits lapse; null: never.';

COMMENT ON COLUMN public.credit_packs.depleted_at IS 'When its last credit was taken; null while some are left.';

COMMENT ON COLUMN public.credit_packs.lapsed_at IS 'When what was left of it was written down as expired. It pays for nothing from expires_at on.';

CREATE TABLE public.usage_logs (
    id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    request_id public.request_key NOT NULL,
    conversation_id uuid,
    message_id uuid,
    tier text NOT NULL,
    funding public.query_funding NOT NULL,
    outcome public.query_outcome NOT NULL,
    query_date date NOT NULL,
    query_timestamp timestamp with time zone NOT NULL,
    period_start timestamp with time zone NOT NULL,
    credit_pack_id uuid,
    quota_used public.quantity NOT NULL,
    quota_limit public.quantity NOT NULL,
    overage_used public.usd NOT NULL,
    overage_limit public.usd,
    tokens_input public.quantity DEFAULT 0 NOT NULL,
    tokens_output public.quantity DEFAULT 0 NOT NULL,
    tokens_total integer GENERATED ALWAYS AS (((tokens_input)::integer + (tokens_output)::integer)) STORED NOT NULL,
    cache_read_tokens public.quantity DEFAULT 0 NOT NULL,
    cache_write_tokens public.quantity DEFAULT 0 NOT NULL,
    cost_usd public.usd DEFAULT 0 NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    used_byo_key boolean NOT NULL,
    counted_against_quota boolean NOT NULL,
    was_overage boolean NOT NULL,
    overage_charge public.usd DEFAULT 0 NOT NULL,
    invoice_item_id uuid
);

ALTER TABLE ONLY public.usage_logs FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.usage_logs IS 'The ledger: one row for every admitted query that ended, however it ended.';

COMMENT ON COLUMN public.usage_logs.id IS 'Identifies the query; its hold had the same id, so it can only end once.';

COMMENT ON COLUMN public.usage_logs.created_at IS 'When it ended.';

COMMENT ON COLUMN public.usage_logs.user_id IS 'Who asked.';

COMMENT ON COLUMN public.usage_logs.request_id IS 'The idempotency key.';

COMMENT ON COLUMN public.usage_logs.conversation_id IS 'The conversation, while it is kept.';

COMMENT ON COLUMN public.usage_logs.message_id IS 'The answer, while it is kept.';

COMMENT ON COLUMN public.usage_logs.tier IS 'The user''s tier at admission.';

COMMENT ON COLUMN public.usage_logs.funding IS 'What paid: byok, included, credit or overage.';

COMMENT ON COLUMN public.usage_logs.outcome IS 'answered, stopped (both charged), failed or lost (both not charged).';

COMMENT ON COLUMN public.usage_logs.query_date IS 'The UTC day of admission.';

COMMENT ON COLUMN public.usage_logs.query_timestamp IS 'When it was admitted.';

COMMENT ON COLUMN public.usage_logs.period_start IS 'The overage period of admission.';

COMMENT ON COLUMN public.usage_logs.credit_pack_id IS 'The pack that paid, or got its credit back.';

COMMENT ON COLUMN public.usage_logs.quota_used IS 'Included queries used just before this one was admitted, of the day or ever.';

COMMENT ON COLUMN public.usage_logs.quota_limit IS 'Included queries that the plan had then, a day or ever.';

COMMENT ON COLUMN public.usage_logs.overage_used IS 'US dollars of overage in the period just before this query was admitted.';

COMMENT ON COLUMN public.usage_logs.overage_limit IS 'US dollars of overage that were allowed then; null: none by the plan.';

COMMENT ON COLUMN public.usage_logs.tokens_input IS 'Tokens the model read, cached ones included.';

COMMENT ON COLUMN public.usage_logs.tokens_output IS 'Tokens the model wrote.';

COMMENT ON COLUMN public.usage_logs.tokens_total IS 'Both.';

COMMENT ON COLUMN public.usage_logs.cache_read_tokens IS 'Of tokens_input, those read from the provider''s cache.';

COMMENT ON COLUMN public.usage_logs.cache_write_tokens IS 'Of tokens_input, those written to the provider''s cache.';

COMMENT ON COLUMN public.usage_logs.cost_usd IS 'What the provider charges for the query, US dollars.';

COMMENT ON COLUMN public.usage_logs.provider IS 'Who answered.';

COMMENT ON COLUMN public.usage_logs.model IS 'The model that answered.';

COMMENT ON COLUMN public.usage_logs.used_byo_key IS 'Whether the user''s own key paid the provider.';

COMMENT ON COLUMN public.usage_logs.counted_against_quota IS 'Whether it used up one included query.';

COMMENT ON COLUMN public.usage_logs.was_overage IS 'Whether the user is charged for it beyond the plan.';

COMMENT ON COLUMN public.usage_logs.overage_charge IS 'What the user is charged for it, US dollars.';

COMMENT ON COLUMN public.usage_logs.invoice_item_id IS 'The invoice item that bills it; null: nothing to bill, or its period has not ended.';

CREATE VIEW public.daily_quota_usage WITH (security_invoker='true') AS
 SELECT u.user_id,
    u.query_date,
    (count(*) FILTER (WHERE u.counted_against_quota))::integer AS queries_today,
    sum(u.tokens_total) AS tokens_today,
    sum((u.cost_usd)::numeric) AS cost_today,
    (count(*) FILTER (WHERE u.was_overage))::integer AS overage_queries,
    sum((u.overage_charge)::numeric) AS overage_charges,
    s.tier,
        CASE
            WHEN (NOT s.for_life) THEN s.quota_limit
            ELSE NULL::integer
        END AS daily_quota,
    k.uses_byo_key
   FROM ((public.usage_logs u
     JOIN private.standing s ON ((s.user_id = u.user_id)))
     JOIN public.user_subscriptions k ON ((k.user_id = u.user_id)))
  GROUP BY u.user_id, u.query_date, s.tier, s.for_life, s.quota_limit, k.uses_byo_key;

COMMENT ON VIEW public.daily_quota_usage IS 'What each user used on each UTC day, from the ledger. Shows a user their own rows only.';

COMMENT ON COLUMN public.daily_quota_usage.user_id IS 'Whose usage it is.';

COMMENT ON COLUMN public.daily_quota_usage.query_date IS 'The UTC day.';

COMMENT ON COLUMN public.daily_quota_usage.queries_today IS 'Ended queries of that day that count against the quota.';

COMMENT ON COLUMN public.daily_quota_usage.tokens_today IS 'Tokens of all queries of that day.';

COMMENT ON COLUMN public.daily_quota_usage.cost_today IS 'What the providers charge for them, US dollars.';

COMMENT ON COLUMN public.daily_quota_usage.overage_queries IS 'Queries of that day charged as overage.';

COMMENT ON COLUMN public.daily_quota_usage.overage_charges IS 'What the user is charged for them, US dollars.';

COMMENT ON COLUMN public.daily_quota_usage.tier IS 'The user''s tier now.';

COMMENT ON COLUMN public.daily_quota_usage.daily_quota IS 'The user''s daily quota now; null where the quota is for life.';

COMMENT ON COLUMN public.daily_quota_usage.uses_byo_key IS 'Whether the user has an active key of their own now.';

CREATE TABLE public.messages (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    conversation_id uuid NOT NULL,
    "position" integer NOT NULL,
    role text NOT NULL,
    external_id text,
    content text NOT NULL,
    tokens_input public.quantity DEFAULT 0 NOT NULL,
    tokens_output public.quantity DEFAULT 0 NOT NULL,
    tokens_total integer GENERATED ALWAYS AS (((tokens_input)::integer + (tokens_output)::integer)) STORED NOT NULL,
    provider text,
    model text,
    used_byo_key boolean DEFAULT false NOT NULL,
    function_calls jsonb,
    function_results jsonb,
    cost_usd public.usd DEFAULT 0 NOT NULL,
    CONSTRAINT messages_external_id_is_bounded CHECK (((char_length(external_id) >= 1) AND (char_length(external_id) <= 128))),
    CONSTRAINT messages_position_is_positive CHECK (("position" > 0)),
    CONSTRAINT messages_role_is_known CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text, 'system'::text])))
);

ALTER TABLE ONLY public.messages FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.messages IS 'The questions and answers of a conversation, in order of position.';

COMMENT ON COLUMN public.messages.id IS 'Identifies the message; for an answer, the id that the client was given.';

COMMENT ON COLUMN public.messages.created_at IS 'When it was stored.';

COMMENT ON COLUMN public.messages.conversation_id IS 'The conversation it belongs to.';

COMMENT ON COLUMN public.messages."position" IS '1 is the first of the conversation.';

COMMENT ON COLUMN public.messages.role IS 'Who said it: user, assistant or system.';

COMMENT ON COLUMN public.messages.external_id IS 'The id that the client gave the user''s message.';

COMMENT ON COLUMN public.messages.content IS 'The text.';

COMMENT ON COLUMN public.messages.tokens_input IS 'Tokens the model read for this answer, cached ones included.';

COMMENT ON COLUMN public.messages.tokens_output IS 'Tokens the model wrote.';

COMMENT ON COLUMN public.messages.tokens_total IS 'Both.';

COMMENT ON COLUMN public.messages.provider IS 'Who answered: anthropic or openai.';

COMMENT ON COLUMN public.messages.model IS 'The model that answered.';

COMMENT ON COLUMN public.messages.used_byo_key IS 'Whether the user''s own key paid the provider.';

COMMENT ON COLUMN public.messages.function_calls IS 'Tools the model called: [{id, name, input, step, at}]; at: how many characters of the text came before.';

COMMENT ON COLUMN public.messages.function_results IS 'What they gave back, in the same order: [{id, output or error, sources: [{url, title}]}].';

COMMENT ON COLUMN public.messages.cost_usd IS 'What the provider charges for it, US dollars.';

CREATE TABLE public.overage_invoice_items (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    period_start timestamp with time zone NOT NULL,
    queries integer NOT NULL,
    unit_price_usd public.usd NOT NULL,
    amount_usd public.usd GENERATED ALWAYS AS (((queries)::numeric * (unit_price_usd)::numeric)) STORED NOT NULL,
    amount_cents integer GENERATED ALWAYS AS (floor((((queries)::numeric * (unit_price_usd)::numeric) * (100)::numeric))) STORED NOT NULL,
    attempts public.quantity DEFAULT 0 NOT NULL,
    target jsonb NOT NULL,
    refusals public.quantity DEFAULT 0 NOT NULL,
    stripe_invoice_item_id text,
    stripe_invoice_id text,
    CONSTRAINT overage_invoice_items_queries_are_positive CHECK ((queries > 0))
);

ALTER TABLE ONLY public.overage_invoice_items FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.overage_invoice_items IS 'What users are billed beyond their plans: one row a period and price, for the usage_logs rows that refer to it.';

COMMENT ON COLUMN public.overage_invoice_items.id IS 'Identifies it, also at Stripe: metadata overage_invoice_item.';

COMMENT ON COLUMN public.overage_invoice_items.created_at IS 'When its queries were taken together.';

COMMENT ON COLUMN public.overage_invoice_items.user_id IS 'Who is billed.';

COMMENT ON COLUMN public.overage_invoice_items.period_start IS 'The overage period of its queries.';

COMMENT ON COLUMN public.overage_invoice_items.queries IS 'How many queries it bills.';

COMMENT ON COLUMN public.overage_invoice_items.unit_price_usd IS 'US dollars a query.';

COMMENT ON COLUMN public.overage_invoice_items.amount_usd IS 'US dollars, exactly.';

COMMENT ON COLUMN public.overage_invoice_items.amount_cents IS 'US cents that Stripe is told: rounded down, in the user''s favour, here and nowhere else.';

COMMENT ON COLUMN public.overage_invoice_items.attempts IS 'How often it was taken to Stripe. From the second time on, what is there already is looked for.';

COMMENT ON COLUMN public.overage_invoice_items.target IS 'Where Stripe is asked to put it: {"invoice"}, a draft; {}: the customer''s next invoice takes it. Settled here, so that all who ask at once ask the same.';

COMMENT ON COLUMN public.overage_invoice_items.refusals IS 'How many targets Stripe has refused for good.';

COMMENT ON COLUMN public.overage_invoice_items.stripe_invoice_item_id IS 'The invoice item at Stripe; null: not there yet, as far as we know.';

COMMENT ON COLUMN public.overage_invoice_items.stripe_invoice_id IS 'The invoice that it stands on; null: it waits for one.';

CREATE TABLE public.packs (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    slug text NOT NULL,
    name text NOT NULL,
    credits integer NOT NULL,
    price_usd public.usd NOT NULL,
    expires_after_days integer,
    is_sold boolean DEFAULT true NOT NULL,
    CONSTRAINT packs_credits_are_positive CHECK ((credits > 0)),
    CONSTRAINT packs_expiry_is_positive CHECK ((expires_after_days > 0)),
    CONSTRAINT packs_price_is_one_that_stripe_charges CHECK ((((price_usd)::numeric >= 0.5) AND ((price_usd)::numeric = round((price_usd)::numeric, 2)))),
    CONSTRAINT packs_slug_is_a_lookup_key CHECK ((slug ~ '^pack_[a-z0-9_]{1,40}$'::text))
);

ALTER TABLE ONLY public.packs FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.packs IS 'The credit packs that are sold: the single source of their sizes and prices.';

COMMENT ON COLUMN public.packs.id IS 'Identifies the row.';

COMMENT ON COLUMN public.packs.created_at IS 'When the pack was added.';

COMMENT ON COLUMN public.packs.slug IS 'What POST /checkout calls it; its lookup key at Stripe.';

COMMENT ON COLUMN public.packs.name IS 'What people are shown.';

COMMENT ON COLUMN public.packs.credits IS 'Queries that it pays for.';

COMMENT ON COLUMN public.packs.price_usd IS 'US dollars, whole cents.';

COMMENT ON COLUMN public.packs.expires_after_days IS 'Days after which what is left of it lapses; null: never.';

COMMENT ON COLUMN public.packs.is_sold IS 'False: nobody can buy it any more; what was bought stays.';

CREATE TABLE public.query_refusals (
    id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    user_id uuid NOT NULL,
    request_id public.request_key NOT NULL,
    reason text NOT NULL,
    requires_payment boolean NOT NULL,
    resets_at timestamp with time zone,
    tier text NOT NULL,
    quota_used public.quantity NOT NULL,
    quota_limit public.quantity NOT NULL,
    overage_used public.usd NOT NULL,
    overage_limit public.usd
);

ALTER TABLE ONLY public.query_refusals FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.query_refusals IS 'Queries that were refused, the newest fifty of each user: why, and from which state. Nothing was taken for them.';

COMMENT ON COLUMN public.query_refusals.id IS 'Identifies the attempt.';

COMMENT ON COLUMN public.query_refusals.created_at IS 'When it was last refused.';

COMMENT ON COLUMN public.query_refusals.user_id IS 'Who asked.';

COMMENT ON COLUMN public.query_refusals.request_id IS 'The idempotency key of the request.';

COMMENT ON COLUMN public.query_refusals.reason IS 'Why, in the words of can_user_query.';

COMMENT ON COLUMN public.query_refusals.requires_payment IS 'Whether paying would have helped.';

COMMENT ON COLUMN public.query_refusals.resets_at IS 'When it would be admitted without anyone''s doing; null: never.';

COMMENT ON COLUMN public.query_refusals.tier IS 'The user''s tier then.';

COMMENT ON COLUMN public.query_refusals.quota_used IS 'Included queries used then, of the day or ever.';

COMMENT ON COLUMN public.query_refusals.quota_limit IS 'Included queries that the plan had then, a day or ever.';

COMMENT ON COLUMN public.query_refusals.overage_used IS 'US dollars of overage in the period then.';

COMMENT ON COLUMN public.query_refusals.overage_limit IS 'US dollars of overage that were allowed then; null: none by the plan.';

CREATE TABLE public.retained_invoice_items (
    id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    period_start timestamp with time zone NOT NULL,
    queries integer NOT NULL,
    unit_price_usd public.usd NOT NULL,
    amount_usd public.usd NOT NULL,
    amount_cents integer NOT NULL,
    stripe_invoice_item_id text,
    stripe_invoice_id text
);

ALTER TABLE ONLY public.retained_invoice_items FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.retained_invoice_items IS 'overage_invoice_items of users who were deleted: Stripe still has the invoices that they stand on.';

COMMENT ON COLUMN public.retained_invoice_items.id IS 'As it was; also at Stripe.';

COMMENT ON COLUMN public.retained_invoice_items.created_at IS 'As it was.';

COMMENT ON COLUMN public.retained_invoice_items.period_start IS 'As it was.';

COMMENT ON COLUMN public.retained_invoice_items.queries IS 'As it was.';

COMMENT ON COLUMN public.retained_invoice_items.unit_price_usd IS 'As it was.';

COMMENT ON COLUMN public.retained_invoice_items.amount_usd IS 'As it was.';

COMMENT ON COLUMN public.retained_invoice_items.amount_cents IS 'As it was.';

COMMENT ON COLUMN public.retained_invoice_items.stripe_invoice_item_id IS 'As it was.';

COMMENT ON COLUMN public.retained_invoice_items.stripe_invoice_id IS 'As it was.';

CREATE TABLE public.retained_usage (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    month date NOT NULL,
    tier text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    funding public.query_funding NOT NULL,
    outcome public.query_outcome NOT NULL,
    queries bigint NOT NULL,
    tokens_input bigint NOT NULL,
    tokens_output bigint NOT NULL,
    cost_usd public.usd NOT NULL,
    overage_usd public.usd NOT NULL,
    credits_usd public.usd NOT NULL,
    written_off_usd public.usd NOT NULL
);

ALTER TABLE ONLY public.retained_usage FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.retained_usage IS 'The ledger of users who were deleted, as sums that name nobody: what the books need of it.';

COMMENT ON COLUMN public.retained_usage.id IS 'Identifies the row.';

COMMENT ON COLUMN public.retained_usage.created_at IS 'When the first of its users was deleted.';

COMMENT ON COLUMN public.retained_usage.month IS 'The first day of the UTC month of admission.';

COMMENT ON COLUMN public.retained_usage.tier IS 'As in usage_logs, like the columns that follow.';

COMMENT ON COLUMN public.retained_usage.provider IS 'Who answered.';

COMMENT ON COLUMN public.retained_usage.model IS 'The model that answered.';

COMMENT ON COLUMN public.retained_usage.funding IS 'What paid.';

COMMENT ON COLUMN public.retained_usage.outcome IS 'How the queries ended.';

COMMENT ON COLUMN public.retained_usage.queries IS 'How many.';

COMMENT ON COLUMN public.retained_usage.tokens_input IS 'Tokens that the model read.';

COMMENT ON COLUMN public.retained_usage.tokens_output IS 'Tokens that the model wrote.';

COMMENT ON COLUMN public.retained_usage.cost_usd IS 'What the provider charged, US dollars.';

COMMENT ON COLUMN public.retained_usage.overage_usd IS 'What was charged as overage, US dollars.';

COMMENT ON COLUMN public.retained_usage.credits_usd IS 'What the credits that paid had cost, US dollars.';

COMMENT ON COLUMN public.retained_usage.written_off_usd IS 'Of overage_usd, what never came to Stripe.';

CREATE TABLE public.stripe_events (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    attempts public.quantity DEFAULT 0 NOT NULL,
    last_error text,
    processed_at timestamp with time zone
);

ALTER TABLE ONLY public.stripe_events FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.stripe_events IS 'Webhook events from Stripe that mean something here, and whether they have been dealt with.';

COMMENT ON COLUMN public.stripe_events.id IS 'Identifies the row.';

COMMENT ON COLUMN public.stripe_events.created_at IS 'When it was first delivered.';

COMMENT ON COLUMN public.stripe_events.event_id IS 'The event''s id at Stripe.';

COMMENT ON COLUMN public.stripe_events.type IS 'What happened, in Stripe''s words.';

COMMENT ON COLUMN public.stripe_events.attempts IS 'How often dealing with it was begun.';

COMMENT ON COLUMN public.stripe_events.last_error IS 'The kind of failure that the last attempt ended with; null: none, or none yet.';

COMMENT ON COLUMN public.stripe_events.processed_at IS 'When its effect was committed; null: another delivery or the sweep has to.';

CREATE TABLE public.user_api_keys (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    provider text NOT NULL,
    encrypted_key bytea NOT NULL,
    encryption_iv bytea NOT NULL,
    encryption_tag bytea NOT NULL,
    encryption_key_id text NOT NULL,
    hint text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    last_validated_at timestamp with time zone,
    validation_error text,
    CONSTRAINT user_api_keys_ciphertext_is_bounded CHECK (((octet_length(encrypted_key) >= 1) AND (octet_length(encrypted_key) <= 1024))),
    CONSTRAINT user_api_keys_hint_shows_four_characters CHECK ((char_length(hint) <= 5)),
    CONSTRAINT user_api_keys_iv_is_96_bits CHECK ((octet_length(encryption_iv) = 12)),
    CONSTRAINT user_api_keys_provider_is_known CHECK ((provider = ANY (ARRAY['anthropic'::text, 'openai'::text]))),
    CONSTRAINT user_api_keys_tag_is_128_bits CHECK ((octet_length(encryption_tag) = 16))
);

ALTER TABLE ONLY public.user_api_keys FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.user_api_keys IS 'Keys that users brought, encrypted with AES-256-GCM. No plain text, ever.';

COMMENT ON COLUMN public.user_api_keys.id IS 'Identifies the row.';

COMMENT ON COLUMN public.user_api_keys.created_at IS 'When the key was stored.';

COMMENT ON COLUMN public.user_api_keys.updated_at IS 'When the row last changed.';

COMMENT ON COLUMN public.user_api_keys.user_id IS 'Whose key it is.';

COMMENT ON COLUMN public.user_api_keys.provider IS 'anthropic or openai.';

COMMENT ON COLUMN public.user_api_keys.encrypted_key IS 'Ciphertext. Not granted to any role.';

COMMENT ON COLUMN public.user_api_keys.encryption_iv IS 'The nonce, 96 random bits. Not granted to any role.';

COMMENT ON COLUMN public.user_api_keys.encryption_tag IS 'The authentication tag, 128 bits. Not granted to any role.';

COMMENT ON COLUMN public.user_api_keys.encryption_key_id IS 'Which key of the ring encrypted it.';

COMMENT ON COLUMN public.user_api_keys.hint IS 'The last four characters, for people to recognise it.';

COMMENT ON COLUMN public.user_api_keys.is_active IS 'False once the provider rejected it.';

COMMENT ON COLUMN public.user_api_keys.last_validated_at IS 'When the provider last accepted it; null: unchecked.';

COMMENT ON COLUMN public.user_api_keys.validation_error IS 'Why the provider rejected it.';

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_external_id_is_the_users_own UNIQUE (user_id, external_id);

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.credit_packs
    ADD CONSTRAINT credit_packs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.credit_packs
    ADD CONSTRAINT credit_packs_stripe_checkout_session_is_unique UNIQUE (stripe_checkout_session_id);

ALTER TABLE ONLY public.credit_packs
    ADD CONSTRAINT credit_packs_stripe_payment_intent_is_unique UNIQUE (stripe_payment_intent_id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_position_is_taken_once UNIQUE (conversation_id, "position");

ALTER TABLE ONLY public.overage_invoice_items
    ADD CONSTRAINT overage_invoice_items_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.overage_invoice_items
    ADD CONSTRAINT overage_invoice_items_stripe_invoice_item_is_unique UNIQUE (stripe_invoice_item_id);

ALTER TABLE ONLY public.packs
    ADD CONSTRAINT packs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.packs
    ADD CONSTRAINT packs_slug_is_unique UNIQUE (slug);

ALTER TABLE ONLY public.plans
    ADD CONSTRAINT plans_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.plans
    ADD CONSTRAINT plans_tier_is_unique UNIQUE (tier);

ALTER TABLE ONLY public.query_holds
    ADD CONSTRAINT query_holds_one_a_request UNIQUE (user_id, request_id);

ALTER TABLE ONLY public.query_holds
    ADD CONSTRAINT query_holds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.query_refusals
    ADD CONSTRAINT query_refusals_one_a_request UNIQUE (user_id, request_id);

ALTER TABLE ONLY public.query_refusals
    ADD CONSTRAINT query_refusals_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.retained_invoice_items
    ADD CONSTRAINT retained_invoice_items_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.retained_usage
    ADD CONSTRAINT retained_usage_one_a_kind UNIQUE (month, tier, provider, model, funding, outcome);

ALTER TABLE ONLY public.retained_usage
    ADD CONSTRAINT retained_usage_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.stripe_events
    ADD CONSTRAINT stripe_events_one_an_event UNIQUE (event_id);

ALTER TABLE ONLY public.stripe_events
    ADD CONSTRAINT stripe_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.usage_logs
    ADD CONSTRAINT usage_logs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.user_api_keys
    ADD CONSTRAINT user_api_keys_one_a_provider UNIQUE (user_id, provider);

ALTER TABLE ONLY public.user_api_keys
    ADD CONSTRAINT user_api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_one_a_user UNIQUE (user_id);

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_stripe_customer_is_unique UNIQUE (stripe_customer_id);

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_stripe_subscription_is_unique UNIQUE (stripe_subscription_id);

CREATE INDEX conversations_expires_at_idx ON public.conversations USING btree (expires_at) WHERE (NOT is_pinned);

CREATE INDEX conversations_newest_first_idx ON public.conversations USING btree (user_id, last_message_at DESC);

CREATE INDEX credit_packs_spending_order_idx ON public.credit_packs USING btree (user_id, expires_at, created_at);

CREATE INDEX credit_packs_to_lapse_idx ON public.credit_packs USING btree (expires_at) WHERE ((expires_at IS NOT NULL) AND (lapsed_at IS NULL));

CREATE INDEX overage_invoice_items_created_at_idx ON public.overage_invoice_items USING btree (created_at);

CREATE INDEX overage_invoice_items_open_idx ON public.overage_invoice_items USING btree (user_id) WHERE ((stripe_invoice_item_id IS NULL) OR (stripe_invoice_id IS NULL));

CREATE INDEX overage_invoice_items_user_id_idx ON public.overage_invoice_items USING btree (user_id);

CREATE INDEX query_holds_credit_pack_id_idx ON public.query_holds USING btree (credit_pack_id) WHERE (credit_pack_id IS NOT NULL);

CREATE INDEX query_holds_expires_at_idx ON public.query_holds USING btree (expires_at);

CREATE INDEX query_refusals_newest_first_idx ON public.query_refusals USING btree (user_id, created_at DESC);

CREATE INDEX retained_invoice_items_created_at_idx ON public.retained_invoice_items USING btree (created_at);

CREATE INDEX stripe_events_not_processed_idx ON public.stripe_events USING btree (created_at) WHERE (processed_at IS NULL);

CREATE INDEX stripe_events_processed_at_idx ON public.stripe_events USING btree (processed_at);

CREATE UNIQUE INDEX usage_logs_a_request_is_charged_once ON public.usage_logs USING btree (user_id, request_id) WHERE ((outcome)::text = ANY (ARRAY['answered'::text, 'stopped'::text]));

CREATE INDEX usage_logs_conversation_id_idx ON public.usage_logs USING btree (conversation_id) WHERE (conversation_id IS NOT NULL);

CREATE INDEX usage_logs_credit_pack_id_idx ON public.usage_logs USING btree (credit_pack_id) WHERE (credit_pack_id IS NOT NULL);

CREATE INDEX usage_logs_invoice_item_id_idx ON public.usage_logs USING btree (invoice_item_id) WHERE (invoice_item_id IS NOT NULL);

CREATE INDEX usage_logs_message_id_idx ON public.usage_logs USING btree (message_id) WHERE (message_id IS NOT NULL);

CREATE INDEX usage_logs_not_billed_idx ON public.usage_logs USING btree (user_id, query_timestamp) WHERE (was_overage AND (invoice_item_id IS NULL));

CREATE INDEX usage_logs_user_day_idx ON public.usage_logs USING btree (user_id, query_date);

CREATE INDEX user_subscriptions_downgraded_idx ON public.user_subscriptions USING btree (user_id) WHERE (downgraded_at IS NOT NULL);

CREATE INDEX user_subscriptions_next_tier_idx ON public.user_subscriptions USING btree (next_tier) WHERE (next_tier IS NOT NULL);

CREATE INDEX user_subscriptions_tier_idx ON public.user_subscriptions USING btree (tier);

CREATE TRIGGER conversations_check_pin BEFORE UPDATE OF is_pinned ON public.conversations FOR EACH ROW WHEN ((new.is_pinned AND (NOT old.is_pinned))) EXECUTE FUNCTION private.check_pin();

CREATE TRIGGER conversations_touch BEFORE UPDATE ON public.conversations FOR EACH ROW EXECUTE FUNCTION private.touch();

CREATE TRIGGER user_api_keys_note_own_key AFTER INSERT OR DELETE OR UPDATE OF is_active ON public.user_api_keys FOR EACH ROW EXECUTE FUNCTION private.note_own_key();

CREATE TRIGGER user_api_keys_touch BEFORE UPDATE ON public.user_api_keys FOR EACH ROW EXECUTE FUNCTION private.touch();

CREATE TRIGGER user_subscriptions_check BEFORE INSERT OR UPDATE OF status, past_due_since, current_period_start, current_period_end ON public.user_subscriptions FOR EACH ROW EXECUTE FUNCTION private.check_subscription();

CREATE TRIGGER user_subscriptions_note_downgrade BEFORE UPDATE OF tier ON public.user_subscriptions FOR EACH ROW WHEN ((old.tier <> new.tier)) EXECUTE FUNCTION private.note_downgrade();

CREATE TRIGGER user_subscriptions_touch BEFORE UPDATE OF tier, next_tier, status, stripe_customer_id, stripe_subscription_id, daily_quota, lifetime_quota, allow_overages, overage_limit, uses_byo_key, current_period_start, current_period_end, canceled_at, past_due_since ON public.user_subscriptions FOR EACH ROW EXECUTE FUNCTION private.touch_subscription();

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.credit_packs
    ADD CONSTRAINT credit_packs_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_conversation_id_fkey FOREIGN KEY (conversation_id) REFERENCES public.conversations(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.overage_invoice_items
    ADD CONSTRAINT overage_invoice_items_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.query_holds
    ADD CONSTRAINT query_holds_credit_pack_id_fkey FOREIGN KEY (credit_pack_id) REFERENCES public.credit_packs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.query_holds
    ADD CONSTRAINT query_holds_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.query_refusals
    ADD CONSTRAINT query_refusals_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.usage_logs
    ADD CONSTRAINT usage_logs_conversation_id_fkey FOREIGN KEY (conversation_id) REFERENCES public.conversations(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.usage_logs
    ADD CONSTRAINT usage_logs_credit_pack_id_fkey FOREIGN KEY (credit_pack_id) REFERENCES public.credit_packs(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.usage_logs
    ADD CONSTRAINT usage_logs_invoice_item_id_fkey FOREIGN KEY (invoice_item_id) REFERENCES public.overage_invoice_items(id);

ALTER TABLE ONLY public.usage_logs
    ADD CONSTRAINT usage_logs_message_id_fkey FOREIGN KEY (message_id) REFERENCES public.messages(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.usage_logs
    ADD CONSTRAINT usage_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.user_api_keys
    ADD CONSTRAINT user_api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_next_tier_fkey FOREIGN KEY (next_tier) REFERENCES public.plans(tier);

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_tier_fkey FOREIGN KEY (tier) REFERENCES public.plans(tier);

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

CREATE POLICY "Anyone may read the packs" ON public.packs FOR SELECT TO anon, authenticated USING (true);

CREATE POLICY "Anyone may read the plans" ON public.plans FOR SELECT TO anon, authenticated USING (true);

CREATE POLICY "Users delete their own conversations" ON public.conversations FOR DELETE TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read about their own keys" ON public.user_api_keys FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read the messages of their own conversations" ON public.messages FOR SELECT TO authenticated USING ((EXISTS ( SELECT
   FROM public.conversations c
  WHERE ((c.id = messages.conversation_id) AND (c.user_id = ( SELECT auth.uid() AS uid))))));

CREATE POLICY "Users read their own conversations" ON public.conversations FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read their own credit packs" ON public.credit_packs FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read their own holds" ON public.query_holds FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read their own refusals" ON public.query_refusals FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read their own subscription" ON public.user_subscriptions FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read their own usage" ON public.usage_logs FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users read what they are billed" ON public.overage_invoice_items FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "Users update their own conversations" ON public.conversations FOR UPDATE TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

ALTER TABLE public.conversations ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credit_packs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.overage_invoice_items ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.packs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.plans ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.query_holds ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.query_refusals ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.retained_invoice_items ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.retained_usage ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.stripe_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.usage_logs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.user_api_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.user_subscriptions ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA private TO authenticated;
GRANT USAGE ON SCHEMA private TO service_role;

REVOKE ALL ON FUNCTION private.check_pin() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.check_subscription() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.clock() FROM PUBLIC;
GRANT ALL ON FUNCTION private.clock() TO authenticated;
GRANT ALL ON FUNCTION private.clock() TO service_role;

REVOKE ALL ON FUNCTION private.conversation_key(p_chat_id text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.delete_conversations(p_ids uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.describe_key(p_provider text, p_hint text, p_is_active boolean, p_last_validated_at timestamp with time zone, p_validation_error text, p_created_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.describe_key(p_provider text, p_hint text, p_is_active boolean, p_last_validated_at timestamp with time zone, p_validation_error text, p_created_at timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.describe_key(p_provider text, p_hint text, p_is_active boolean, p_last_validated_at timestamp with time zone, p_validation_error text, p_created_at timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION private.end_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.ended(p_query_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.find_conversation(p_user_id uuid, p_chat_id text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.give_back(p_hold_id uuid, p_outcome text, p_usage jsonb, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.go_by_packs(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.how_it_ended(p_hold_id uuid, OUT id uuid, OUT outcome text, OUT charged_usd numeric, OUT cost_usd numeric, OUT message_id uuid, OUT used_byo_key boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.keep_books() FROM PUBLIC;

GRANT SELECT ON TABLE public.query_holds TO authenticated;
GRANT SELECT ON TABLE public.query_holds TO service_role;

REVOKE ALL ON FUNCTION private.keep_turn(p_hold public.query_holds, p_history_days integer, p_usage jsonb, p_turn jsonb, OUT conversation_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.key_provider(p_user_id uuid, p_provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.key_provider(p_user_id uuid, p_provider text) TO authenticated;
GRANT ALL ON FUNCTION private.key_provider(p_user_id uuid, p_provider text) TO service_role;

REVOKE ALL ON FUNCTION private.look_back(p_user_id uuid, p_request_id text, p_hold_id uuid, p_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION private.note_downgrade() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.note_own_key() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.period_at(p_start timestamp with time zone, p_end timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.period_at(p_start timestamp with time zone, p_end timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.period_at(p_start timestamp with time zone, p_end timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION private.reason_of(p_funding text, p_tier text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.reason_of(p_funding text, p_tier text) TO authenticated;
GRANT ALL ON FUNCTION private.reason_of(p_funding text, p_tier text) TO service_role;

REVOKE ALL ON FUNCTION private.recent_messages(p_conversation_id uuid, p_question_id text, p_count integer, p_characters integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.refuse(p_user_id uuid, p_request_id text, p_hold_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.running_query(p_user_id uuid, p_chat_id text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.sealed_key(p_user_id uuid, p_provider text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.shorten_histories() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.start_subscription() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.time_ordered_id() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.touch() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.touch_subscription() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.unsubscribed_tier(p_user_id uuid, p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.unsubscribed_tier(p_user_id uuid, p_at timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.unsubscribed_tier(p_user_id uuid, p_at timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text, p_question_id text, p_provider text, p_model text, p_hold_seconds integer, p_history_messages integer, p_history_characters integer, p_own_key boolean, p_providers text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text, p_question_id text, p_provider text, p_model text, p_hold_seconds integer, p_history_messages integer, p_history_characters integer, p_own_key boolean, p_providers text[]) TO service_role;

REVOKE ALL ON FUNCTION public.api_keys_to_rotate(p_current text, p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.api_keys_to_rotate(p_current text, p_after uuid, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION public.apply_customer(p_customer_id text, p_sequence bigint, p_is_deleted boolean, p_subscription jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.apply_customer(p_customer_id text, p_sequence bigint, p_is_deleted boolean, p_subscription jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.apply_pack(p_user_id uuid, p_sequence bigint, p_payment jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.apply_pack(p_user_id uuid, p_sequence bigint, p_payment jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.begin_stripe_look() FROM PUBLIC;
GRANT ALL ON FUNCTION public.begin_stripe_look() TO service_role;

REVOKE ALL ON FUNCTION public.billed_items(p_since timestamp with time zone, p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.billed_items(p_since timestamp with time zone, p_after uuid, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION public.billing_profile(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.billing_profile(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.can_user_query(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.can_user_query(p_user_id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.can_user_query(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.claim_overage(p_user_id uuid, p_until timestamp with time zone, p_target jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.claim_overage(p_user_id uuid, p_until timestamp with time zone, p_target jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.claim_stripe_event(p_event_id text, p_type text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.claim_stripe_event(p_event_id text, p_type text) TO service_role;

REVOKE ALL ON FUNCTION public.cleanup_expired_conversations() FROM PUBLIC;
GRANT ALL ON FUNCTION public.cleanup_expired_conversations() TO service_role;

REVOKE ALL ON FUNCTION public.count_keys_to_rotate(p_current text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.count_keys_to_rotate(p_current text) TO service_role;

REVOKE ALL ON FUNCTION public.delete_api_key(p_user_id uuid, p_provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.delete_api_key(p_user_id uuid, p_provider text) TO service_role;

REVOKE ALL ON FUNCTION public.delete_history(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.delete_history(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.delete_user(p_user_id uuid, p_write_off boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.delete_user(p_user_id uuid, p_write_off boolean) TO service_role;

REVOKE ALL ON FUNCTION public.expire_credits() FROM PUBLIC;
GRANT ALL ON FUNCTION public.expire_credits() TO service_role;

REVOKE ALL ON FUNCTION public.explain_query(p_request_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.explain_query(p_request_id text) TO authenticated;
GRANT ALL ON FUNCTION public.explain_query(p_request_id text) TO service_role;

REVOKE ALL ON FUNCTION public.export_user(p_user_id uuid, p_part text, p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.export_user(p_user_id uuid, p_part text, p_after uuid, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION public.finish_stripe_event(p_event_id text, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.finish_stripe_event(p_event_id text, p_error text) TO service_role;

REVOKE ALL ON FUNCTION public.follow_query(p_user_id uuid, p_chat_id text, p_hold_id uuid, p_from integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.follow_query(p_user_id uuid, p_chat_id text, p_hold_id uuid, p_from integer) TO service_role;

REVOKE ALL ON FUNCTION public.get_api_key(p_user_id uuid, p_provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.get_api_key(p_user_id uuid, p_provider text) TO service_role;

REVOKE ALL ON FUNCTION public.link_stripe_customer(p_user_id uuid, p_customer_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.link_stripe_customer(p_user_id uuid, p_customer_id text) TO service_role;

REVOKE ALL ON FUNCTION public.list_api_keys() FROM PUBLIC;
GRANT ALL ON FUNCTION public.list_api_keys() TO authenticated;

REVOKE ALL ON FUNCTION public.list_plans() FROM PUBLIC;
GRANT ALL ON FUNCTION public.list_plans() TO anon;
GRANT ALL ON FUNCTION public.list_plans() TO authenticated;
GRANT ALL ON FUNCTION public.list_plans() TO service_role;

REVOKE ALL ON FUNCTION public.margin_report(p_month date) FROM PUBLIC;
GRANT ALL ON FUNCTION public.margin_report(p_month date) TO service_role;

REVOKE ALL ON FUNCTION public.mend_counters(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.mend_counters(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.note_api_key(p_id uuid, p_user_id uuid, p_is_valid boolean, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.note_api_key(p_id uuid, p_user_id uuid, p_is_valid boolean, p_error text) TO service_role;

REVOKE ALL ON FUNCTION public.note_progress(p_hold_id uuid, p_from integer, p_progress text, p_is_closing boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.note_progress(p_hold_id uuid, p_from integer, p_progress text, p_is_closing boolean) TO service_role;

REVOKE ALL ON FUNCTION public.place_overage(p_id uuid, p_invoice_item_id text, p_invoice_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.place_overage(p_id uuid, p_invoice_item_id text, p_invoice_id text) TO service_role;

REVOKE ALL ON FUNCTION public.purge_events() FROM PUBLIC;
GRANT ALL ON FUNCTION public.purge_events() TO service_role;

REVOKE ALL ON FUNCTION public.put_api_key(p_id uuid, p_user_id uuid, p_provider text, p_encrypted_key text, p_encryption_iv text, p_encryption_tag text, p_encryption_key_id text, p_hint text, p_is_valid boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.put_api_key(p_id uuid, p_user_id uuid, p_provider text, p_encrypted_key text, p_encryption_iv text, p_encryption_tag text, p_encryption_key_id text, p_hint text, p_is_valid boolean) TO service_role;

REVOKE ALL ON FUNCTION public.reconcile() FROM PUBLIC;
GRANT ALL ON FUNCTION public.reconcile() TO service_role;

REVOKE ALL ON FUNCTION public.release_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.release_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.release_stale_holds() FROM PUBLIC;
GRANT ALL ON FUNCTION public.release_stale_holds() TO service_role;

REVOKE ALL ON FUNCTION public.reset_monthly_overages() FROM PUBLIC;
GRANT ALL ON FUNCTION public.reset_monthly_overages() TO service_role;

REVOKE ALL ON FUNCTION public.retarget_overage(p_id uuid, p_refusals integer, p_target jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.retarget_overage(p_id uuid, p_refusals integer, p_target jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.rotate_api_keys(p_rows jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.rotate_api_keys(p_rows jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.set_overage(p_settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.set_overage(p_settings jsonb) TO authenticated;

REVOKE ALL ON FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_turn jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_turn jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.sold_packs(p_sessions text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.sold_packs(p_sessions text[]) TO service_role;

REVOKE ALL ON FUNCTION public.stop_query(p_user_id uuid, p_chat_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.stop_query(p_user_id uuid, p_chat_id text) TO service_role;

REVOKE ALL ON FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) FROM PUBLIC;
GRANT ALL ON FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) TO service_role;

REVOKE ALL ON FUNCTION public.unfinished_stripe_events(p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.unfinished_stripe_events(p_after uuid, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION public.usage_summary() FROM PUBLIC;
GRANT ALL ON FUNCTION public.usage_summary() TO authenticated;

REVOKE ALL ON FUNCTION public.users_to_bill(p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.users_to_bill(p_after uuid, p_limit integer) TO service_role;

GRANT SELECT ON TABLE public.plans TO anon;
GRANT SELECT ON TABLE public.plans TO authenticated;
GRANT SELECT ON TABLE public.plans TO service_role;

GRANT SELECT ON TABLE public.user_subscriptions TO authenticated;
GRANT SELECT ON TABLE public.user_subscriptions TO service_role;

GRANT SELECT ON TABLE private.standing TO authenticated;
GRANT SELECT ON TABLE private.standing TO service_role;

GRANT SELECT,DELETE ON TABLE public.conversations TO authenticated;
GRANT SELECT ON TABLE public.conversations TO service_role;

GRANT UPDATE(title) ON TABLE public.conversations TO authenticated;

GRANT UPDATE(is_pinned) ON TABLE public.conversations TO authenticated;

GRANT UPDATE(is_archived) ON TABLE public.conversations TO authenticated;

GRANT SELECT ON TABLE public.credit_packs TO authenticated;
GRANT SELECT ON TABLE public.credit_packs TO service_role;

GRANT SELECT ON TABLE public.usage_logs TO authenticated;
GRANT SELECT ON TABLE public.usage_logs TO service_role;

GRANT SELECT ON TABLE public.daily_quota_usage TO authenticated;
GRANT SELECT ON TABLE public.daily_quota_usage TO service_role;

GRANT SELECT ON TABLE public.messages TO authenticated;
GRANT SELECT ON TABLE public.messages TO service_role;

GRANT SELECT ON TABLE public.overage_invoice_items TO authenticated;
GRANT SELECT ON TABLE public.overage_invoice_items TO service_role;

GRANT SELECT ON TABLE public.packs TO anon;
GRANT SELECT ON TABLE public.packs TO authenticated;
GRANT SELECT ON TABLE public.packs TO service_role;

GRANT SELECT ON TABLE public.query_refusals TO authenticated;
GRANT SELECT ON TABLE public.query_refusals TO service_role;

GRANT SELECT ON TABLE public.retained_invoice_items TO service_role;

GRANT SELECT ON TABLE public.retained_usage TO service_role;

GRANT SELECT ON TABLE public.stripe_events TO service_role;

GRANT SELECT(id) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(id) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(created_at) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(created_at) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(updated_at) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(updated_at) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(user_id) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(user_id) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(provider) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(provider) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(encryption_key_id) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(encryption_key_id) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(hint) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(hint) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(is_active) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(is_active) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(last_validated_at) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(last_validated_at) ON TABLE public.user_api_keys TO service_role;

GRANT SELECT(validation_error) ON TABLE public.user_api_keys TO authenticated;
GRANT SELECT(validation_error) ON TABLE public.user_api_keys TO service_role;
