-- What the migrations together make of the schemas public and private, as pg_dump sees it. Made by `make schema`,
-- never by hand; to be read, not to be run. Not shown: rows, owners (everything is postgres's), what the platform
-- brings, and the trigger start_subscription on auth.users.

CREATE SCHEMA private;

COMMENT ON SCHEMA private IS 'What the functions of public share. Never exposed over the API.';

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

CREATE TABLE public.plans (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    tier text NOT NULL,
    name text NOT NULL,
    price_usd numeric(14,6) NOT NULL,
    daily_quota integer,
    lifetime_quota integer,
    overage_price_usd numeric(14,6),
    overage_limit_usd numeric(14,6),
    allows_credits boolean NOT NULL,
    allows_byok boolean NOT NULL,
    history_days integer NOT NULL,
    models jsonb NOT NULL,
    CONSTRAINT plans_daily_quota_is_not_negative CHECK ((daily_quota >= 0)),
    CONSTRAINT plans_has_one_kind_of_quota CHECK ((num_nonnulls(daily_quota, lifetime_quota) = 1)),
    CONSTRAINT plans_history_days_are_not_negative CHECK ((history_days >= 0)),
    CONSTRAINT plans_lifetime_quota_is_not_negative CHECK ((lifetime_quota >= 0)),
    CONSTRAINT plans_models_are_lists_by_provider CHECK (((jsonb_typeof((models -> 'anthropic'::text)) = 'array'::text) AND (jsonb_typeof((models -> 'openai'::text)) = 'array'::text))),
    CONSTRAINT plans_overage_has_price_and_limit CHECK (((overage_price_usd IS NULL) = (overage_limit_usd IS NULL))),
    CONSTRAINT plans_overage_limit_is_not_negative CHECK ((overage_limit_usd >= (0)::numeric)),
    CONSTRAINT plans_overage_price_is_positive CHECK ((overage_price_usd > (0)::numeric)),
    CONSTRAINT plans_price_is_not_negative CHECK ((price_usd >= (0)::numeric)),
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

COMMENT ON COLUMN public.plans.models IS 'Models by provider that the tier may use; the first of each is the default.';

CREATE TABLE public.query_holds (
    id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    request_id text NOT NULL,
    tier text NOT NULL,
    funding text NOT NULL,
    query_date date NOT NULL,
    credit_pack_id uuid,
    overage_charge numeric(14,6) DEFAULT 0 NOT NULL,
    period_start timestamp with time zone NOT NULL,
    quota_used integer NOT NULL,
    quota_limit integer NOT NULL,
    overage_used numeric(14,6) NOT NULL,
    overage_limit numeric(14,6),
    provider text NOT NULL,
    model text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT query_holds_funding_says_what_is_held CHECK (
CASE funding
    WHEN 'byok'::text THEN ((credit_pack_id IS NULL) AND (overage_charge = (0)::numeric))
    WHEN 'included'::text THEN ((credit_pack_id IS NULL) AND (overage_charge = (0)::numeric))
    WHEN 'credit'::text THEN ((credit_pack_id IS NOT NULL) AND (overage_charge = (0)::numeric))
    WHEN 'overage'::text THEN ((credit_pack_id IS NULL) AND (overage_charge > (0)::numeric))
    ELSE false
END),
    CONSTRAINT query_holds_request_id_is_bounded CHECK (((octet_length(request_id) >= 1) AND (octet_length(request_id) <= 800)))
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

CREATE TABLE public.user_subscriptions (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    tier text DEFAULT 'free'::text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    stripe_customer_id text,
    stripe_subscription_id text,
    daily_quota integer,
    lifetime_quota integer,
    allow_overages boolean DEFAULT true NOT NULL,
    overage_limit numeric(14,6),
    current_overage_amount numeric(14,6) DEFAULT 0 NOT NULL,
    uses_byo_key boolean DEFAULT false NOT NULL,
    current_period_start timestamp with time zone,
    current_period_end timestamp with time zone,
    canceled_at timestamp with time zone,
    past_due_since timestamp with time zone,
    quota_date date DEFAULT ((private.clock() AT TIME ZONE 'UTC'::text))::date NOT NULL,
    quota_used integer DEFAULT 0 NOT NULL,
    lifetime_used integer DEFAULT 0 NOT NULL,
    overage_period_start timestamp with time zone DEFAULT date_trunc('month'::text, private.clock(), 'UTC'::text) NOT NULL,
    CONSTRAINT user_subscriptions_limits_and_counters_are_not_negative CHECK (((LEAST(daily_quota, lifetime_quota, quota_used, lifetime_used) >= 0) AND (LEAST(overage_limit, current_overage_amount) >= (0)::numeric))),
    CONSTRAINT user_subscriptions_period_ends_after_it_starts CHECK ((((current_period_start IS NULL) = (current_period_end IS NULL)) AND (current_period_end > current_period_start))),
    CONSTRAINT user_subscriptions_status_is_known_and_past_due_has_a_start CHECK (((status = ANY (ARRAY['active'::text, 'canceled'::text, 'suspended'::text, 'past_due'::text])) AND ((status = 'past_due'::text) = (past_due_since IS NOT NULL))))
);

ALTER TABLE ONLY public.user_subscriptions FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.user_subscriptions IS 'One row a user: the plan, its state, and the counters that admission locks and reads. Counters include holds.';

COMMENT ON COLUMN public.user_subscriptions.id IS 'Identifies the row.';

COMMENT ON COLUMN public.user_subscriptions.created_at IS 'When the user signed up.';

COMMENT ON COLUMN public.user_subscriptions.updated_at IS 'When it last changed, counters aside.';

COMMENT ON COLUMN public.user_subscriptions.user_id IS 'Whose subscription it is.';

COMMENT ON COLUMN public.user_subscriptions.tier IS 'The plan.';

COMMENT ON COLUMN public.user_subscriptions.status IS 'active, canceled, suspended or past_due.';

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

CREATE FUNCTION private.admission(p_subscription public.user_subscriptions, p_plan public.plans, p_hold public.query_holds, p_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
declare
  v_remaining integer;
  v_resets_at timestamptz;
begin
  if p_hold.funding = 'included' then
    v_remaining := greatest(0, case
      when p_plan.lifetime_quota is not null
        then coalesce(p_subscription.lifetime_quota, p_plan.lifetime_quota) - p_subscription.lifetime_used
      else coalesce(p_subscription.daily_quota, p_plan.daily_quota) - p_subscription.quota_used end);
    if p_plan.lifetime_quota is null then
      v_resets_at := (p_hold.query_date + 1)::timestamp at time zone 'UTC';
    end if;
  elsif p_hold.funding = 'credit' then
    v_remaining := (
      select sum(c.credits_remaining) from public.credit_packs c
      where c.user_id = p_hold.user_id and (c.expires_at > p_at or c.expires_at is null));
  elsif p_hold.funding = 'overage' then
    v_remaining := floor(
      (coalesce(p_subscription.overage_limit, p_plan.overage_limit_usd) - p_subscription.current_overage_amount)
      / p_plan.overage_price_usd);
    v_resets_at := (private.period_at(p_subscription.current_period_start, p_at)).period_end;
  end if;
  return jsonb_build_object(
    'decision', 'admitted', 'reason', private.reason_of(p_hold.funding, p_hold.tier), 'funding', p_hold.funding,
    'tier', p_hold.tier, 'provider', p_hold.provider, 'model', p_hold.model,
    'keeps_history', p_plan.history_days > 0, 'remaining', v_remaining, 'resets_at', v_resets_at);
end
$$;

COMMENT ON FUNCTION private.admission(p_subscription public.user_subscriptions, p_plan public.plans, p_hold public.query_holds, p_at timestamp with time zone) IS 'What an admitted query is told: what pays, who answers, how many more the same funding has, and when it starts anew.';

CREATE FUNCTION private.as_of(p_subscription public.user_subscriptions, p_at timestamp with time zone) RETURNS public.user_subscriptions
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $$
declare
  v_day date := (p_at at time zone 'UTC')::date;
  v_period_start timestamptz;
begin
  if p_subscription.status = 'canceled' and p_subscription.current_period_end <= p_at then
    p_subscription.tier := 'free';
    p_subscription.status := 'active';
    p_subscription.stripe_subscription_id := null;
    p_subscription.current_period_start := null;
    p_subscription.current_period_end := null;
  end if;
  -- Only ever forward: two transactions that straddle midnight must not reset each other's count.
  if v_day > p_subscription.quota_date then
    p_subscription.quota_date := v_day;
    p_subscription.quota_used := 0;
  end if;
  if p_subscription.current_period_start is null then
    v_period_start := date_trunc('month', p_at, 'UTC');
  elsif p_at >= p_subscription.current_period_start and p_at < p_subscription.current_period_end then
    v_period_start := p_subscription.current_period_start;
  else
    v_period_start := (private.period_at(p_subscription.current_period_start, p_at)).period_start;
  end if;
  if v_period_start > p_subscription.overage_period_start then
    p_subscription.overage_period_start := v_period_start;
    p_subscription.current_overage_amount := 0;
  end if;
  return p_subscription;
end
$$;

COMMENT ON FUNCTION private.as_of(p_subscription public.user_subscriptions, p_at timestamp with time zone) IS 'A subscription as it is at a time: a cancelled plan whose period is over is free, a new day or period counts from 0.';

CREATE FUNCTION private.conversation_key(p_chat_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $_$
  select case when p_chat_id ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_chat_id::uuid end
$_$;

COMMENT ON FUNCTION private.conversation_key(p_chat_id text) IS 'A chat''s id as the id of its conversation; null where it is not a UUID but the user''s own name for one.';

CREATE FUNCTION private.date_past_due() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  -- The grace of seven days is counted from here, whoever changes the status.
  new.past_due_since := case when new.status = 'past_due' then coalesce(new.past_due_since, now()) end;
  return new;
end
$$;

COMMENT ON FUNCTION private.date_past_due() IS 'Trigger: notes since when a subscription is past due.';

CREATE FUNCTION private.decide(p_subscription public.user_subscriptions, p_plan public.plans, p_has_key boolean, p_has_credit boolean, p_at timestamp with time zone, OUT funding text, OUT reason text, OUT requires_payment boolean, OUT resets_at timestamp with time zone) RETURNS record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $$
declare
  v_midnight constant timestamptz :=
    (((p_at at time zone 'UTC')::date + 1)::timestamp) at time zone 'UTC';
  v_overage_limit constant numeric := coalesce(p_subscription.overage_limit, p_plan.overage_limit_usd);
  v_daily_quota constant integer := coalesce(p_subscription.daily_quota, p_plan.daily_quota);
begin
  requires_payment := false;

  if p_subscription.id is null then
    reason := 'No subscription found';
    requires_payment := true;
    return;
  end if;

  -- A cancelled plan runs to the end of its period; a failed invoice leaves seven days of what is already paid.
  -- `is not true`: a period that is not known (null) refuses.
  if (
    p_subscription.status = 'active'
    or p_subscription.status = 'canceled' and p_subscription.current_period_end > p_at
    or p_subscription.status = 'past_due' and p_subscription.past_due_since + interval '7 days' > p_at
  ) is not true then
    reason := 'Subscription not active: ' || p_subscription.status;
    requires_payment := true;
    return;
  end if;

  if p_plan.allows_byok and p_has_key then
    funding := 'byok';
    reason := 'Unlimited (BYOK)';
    return;
  end if;

  if p_plan.lifetime_quota is not null then
    if p_subscription.lifetime_used < coalesce(p_subscription.lifetime_quota, p_plan.lifetime_quota) then
      funding := 'included';
      reason := 'Within free tier quota';
      return;
    end if;
  elsif p_subscription.quota_used < v_daily_quota then
    funding := 'included';
    reason := 'Within daily quota';
    resets_at := v_midnight;
    return;
  end if;

  if p_plan.allows_credits and p_has_credit then
    funding := 'credit';
    reason := 'Credits available';
    return;
  end if;

  if p_plan.lifetime_quota is not null then
    reason := 'Free tier quota exhausted';
    requires_payment := true;
    return;
  end if;

  resets_at := v_midnight;
  -- Overage is only sold where there is a live subscription to invoice it on.
  if p_plan.overage_price_usd is not null and p_subscription.allow_overages
     and p_subscription.stripe_subscription_id is not null and p_subscription.status = 'active' then
    if p_subscription.current_overage_amount + p_plan.overage_price_usd <= v_overage_limit then
      funding := 'overage';
      reason := 'Overage allowed';
      requires_payment := true;
      resets_at := (private.period_at(p_subscription.current_period_start, p_at)).period_end;
      return;
    end if;
    reason := 'Overage limit reached';
    resets_at := (private.period_at(p_subscription.current_period_start, p_at)).period_end;
    if v_daily_quota > 0 then
      resets_at := least(resets_at, v_midnight);
    end if;
    return;
  end if;

  reason := 'Daily quota exceeded';
end
$$;

COMMENT ON FUNCTION private.decide(p_subscription public.user_subscriptions, p_plan public.plans, p_has_key boolean, p_has_credit boolean, p_at timestamp with time zone, OUT funding text, OUT reason text, OUT requires_payment boolean, OUT resets_at timestamp with time zone) IS 'What pays for the next query of a subscription (as_of the same time), or why nothing does: the one place that says so.';

CREATE TABLE public.usage_logs (
    id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    request_id text NOT NULL,
    conversation_id uuid,
    message_id uuid,
    tier text NOT NULL,
    funding text NOT NULL,
    outcome text NOT NULL,
    query_date date NOT NULL,
    query_timestamp timestamp with time zone NOT NULL,
    period_start timestamp with time zone NOT NULL,
    credit_pack_id uuid,
    quota_used integer NOT NULL,
    quota_limit integer NOT NULL,
    overage_used numeric(14,6) NOT NULL,
    overage_limit numeric(14,6),
    tokens_input integer DEFAULT 0 NOT NULL,
    tokens_output integer DEFAULT 0 NOT NULL,
    tokens_total integer GENERATED ALWAYS AS ((tokens_input + tokens_output)) STORED NOT NULL,
    cache_read_tokens integer DEFAULT 0 NOT NULL,
    cache_write_tokens integer DEFAULT 0 NOT NULL,
    cost_usd numeric(14,6) DEFAULT 0 NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    used_byo_key boolean NOT NULL,
    counted_against_quota boolean NOT NULL,
    was_overage boolean NOT NULL,
    overage_charge numeric(14,6) DEFAULT 0 NOT NULL,
    CONSTRAINT usage_logs_amounts_are_not_negative CHECK (((LEAST(tokens_input, tokens_output, cache_read_tokens, cache_write_tokens) >= 0) AND (LEAST(cost_usd, overage_charge) >= (0)::numeric))),
    CONSTRAINT usage_logs_funding_and_outcome_say_what_is_charged CHECK (((funding = ANY (ARRAY['byok'::text, 'included'::text, 'credit'::text, 'overage'::text])) AND (outcome = ANY (ARRAY['answered'::text, 'stopped'::text, 'failed'::text, 'lost'::text])) AND (used_byo_key = (funding = 'byok'::text)) AND (counted_against_quota = ((funding = 'included'::text) AND (outcome = ANY (ARRAY['answered'::text, 'stopped'::text])))) AND (was_overage = ((funding = 'overage'::text) AND (outcome = ANY (ARRAY['answered'::text, 'stopped'::text])))) AND (was_overage = (overage_charge > (0)::numeric))))
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

CREATE FUNCTION private.end_query(p_hold public.query_holds, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid) RETURNS public.usage_logs
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_charged constant boolean := p_outcome in ('answered', 'stopped');
  v_ended public.usage_logs;
begin
  insert into public.usage_logs (
    id, created_at, user_id, request_id, conversation_id, message_id, tier, funding, outcome, query_date,
    query_timestamp, period_start, credit_pack_id, quota_used, quota_limit, overage_used, overage_limit, tokens_input,
    tokens_output, cache_read_tokens, cache_write_tokens, cost_usd, provider, model, used_byo_key,
    counted_against_quota, was_overage, overage_charge)
  values (
    p_hold.id, private.clock(), p_hold.user_id, p_hold.request_id, p_conversation_id, p_message_id, p_hold.tier,
    p_hold.funding, p_outcome, p_hold.query_date, p_hold.created_at, p_hold.period_start, p_hold.credit_pack_id,
    p_hold.quota_used, p_hold.quota_limit, p_hold.overage_used, p_hold.overage_limit,
    coalesce((p_usage ->> 'tokens_input')::integer, 0), coalesce((p_usage ->> 'tokens_output')::integer, 0),
    coalesce((p_usage ->> 'cache_read_tokens')::integer, 0), coalesce((p_usage ->> 'cache_write_tokens')::integer, 0),
    coalesce((p_usage ->> 'cost_usd')::numeric, 0), coalesce(p_usage ->> 'provider', p_hold.provider),
    coalesce(p_usage ->> 'model', p_hold.model), p_hold.funding = 'byok', v_charged and p_hold.funding = 'included',
    v_charged and p_hold.funding = 'overage', case when v_charged then p_hold.overage_charge else 0 end)
  returning * into v_ended;
  delete from public.query_holds where id = p_hold.id;
  return v_ended;
end
$$;

COMMENT ON FUNCTION private.end_query(p_hold public.query_holds, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid) IS 'Turns a locked hold into its one usage_logs row.';

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

CREATE FUNCTION private.give_back(p_hold public.query_holds, p_outcome text, p_usage jsonb) RETURNS public.usage_logs
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  if p_hold.funding = 'included' then
    update public.user_subscriptions s set
      lifetime_used = s.lifetime_used - case when p.lifetime_quota is not null then 1 else 0 end,
      quota_used = s.quota_used
                 - case when p.daily_quota is not null and s.quota_date = p_hold.query_date then 1 else 0 end
    from public.plans p
    where s.user_id = p_hold.user_id and p.tier = p_hold.tier;
  elsif p_hold.funding = 'credit' then
    update public.credit_packs set
      credits_remaining = credits_remaining + 1, credits_used = credits_used - 1, depleted_at = null
    where id = p_hold.credit_pack_id;
  elsif p_hold.funding = 'overage' then
    update public.user_subscriptions set current_overage_amount = current_overage_amount - p_hold.overage_charge
    where user_id = p_hold.user_id and overage_period_start = p_hold.period_start;
  end if;
  return private.end_query(p_hold, p_outcome, p_usage, null, null);
end
$$;

COMMENT ON FUNCTION private.give_back(p_hold public.query_holds, p_outcome text, p_usage jsonb) IS 'Ends a hold without a charge: the same day''s count, the same pack or the same period''s overage gets it back. The user and the hold are locked.';

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

  -- A question that is asked again keeps its place; what was answered to it before is replaced.
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
    delete from public.messages m where m.conversation_id = keep_turn.conversation_id and m.position > v_position;
  end if;
  insert into public.messages (id, created_at, conversation_id, position, role, content, tokens_input, tokens_output,
                               provider, model, used_byo_key, cost_usd)
  values ((p_turn -> 'answer' ->> 'id')::uuid, v_at, conversation_id, v_position + 1, 'assistant',
          p_turn -> 'answer' ->> 'content', v_tokens_input, v_tokens_output,
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

CREATE FUNCTION private.lock_user(p_user_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  -- A queue of its own, not the row's: waiting for a row that changes is slower, and its longest waits ten times longer.
  perform pg_advisory_xact_lock(hashtextextended(p_user_id::text, 0));
  -- What every foreign key to auth.users would lock later: taken first, a user's deletion cannot cross us.
  perform from auth.users where id = p_user_id for key share;
end
$$;

COMMENT ON FUNCTION private.lock_user(p_user_id uuid) IS 'Waits for, and until the transaction''s end keeps, the right to change a user''s counters, holds and credit packs.';

CREATE FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
begin
  return (
    select c.id from public.credit_packs c
    where c.user_id = p_user_id and c.credits_remaining > 0 and (c.expires_at > p_at or c.expires_at is null)
    order by c.expires_at nulls last, c.created_at, c.id limit 1);
end
$$;

COMMENT ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) IS 'The pack that pays next: the soonest to expire, the oldest among equals; null where there is none.';

CREATE FUNCTION private.period_at(p_anchor timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) RETURNS record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO ''
    AS $$
declare
  v_anchor timestamp := p_anchor at time zone 'UTC';
  v_at timestamp := p_at at time zone 'UTC';
  v_months integer;
begin
  if p_anchor is null then
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

COMMENT ON FUNCTION private.period_at(p_anchor timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) IS 'The monthly period that holds a time, counted from an anchor; without one, the calendar month, UTC.';

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

COMMENT ON FUNCTION private.reason_of(p_funding text, p_tier text) IS 'The reason that admission gave for a funding, in its own words.';

CREATE TABLE public.query_refusals (
    id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    user_id uuid NOT NULL,
    request_id text NOT NULL,
    reason text NOT NULL,
    requires_payment boolean NOT NULL,
    resets_at timestamp with time zone,
    tier text NOT NULL,
    quota_used integer NOT NULL,
    quota_limit integer NOT NULL,
    overage_used numeric(14,6) NOT NULL,
    overage_limit numeric(14,6),
    CONSTRAINT query_refusals_request_id_is_bounded CHECK (((char_length(request_id) >= 1) AND (char_length(request_id) <= 200)))
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

CREATE FUNCTION private.record_refusal(p_refusal public.query_refusals) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  -- Nobody waits for the disk to hear no. What a crash could forget here is only the record.
  perform set_config('synchronous_commit', 'off', true);
  insert into public.query_refusals values (p_refusal.*)
  on conflict (user_id, request_id) do update set
    created_at = excluded.created_at, reason = excluded.reason, requires_payment = excluded.requires_payment,
    resets_at = excluded.resets_at, tier = excluded.tier, quota_used = excluded.quota_used,
    quota_limit = excluded.quota_limit, overage_used = excluded.overage_used, overage_limit = excluded.overage_limit;
  delete from public.query_refusals r
  where r.id in (
    select oldest.id from public.query_refusals oldest where oldest.user_id = p_refusal.user_id
    order by oldest.created_at desc, oldest.id offset 50);
end
$$;

COMMENT ON FUNCTION private.record_refusal(p_refusal public.query_refusals) IS 'Records why a query was refused, the newest fifty of a user. The user is locked.';

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

CREATE FUNCTION private.take(p_user_id uuid, p_request_id text, p_hold_id uuid, p_provider text, p_model text, p_byok boolean, p_any_model boolean, p_hold_seconds integer) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  v_at timestamptz;
  v_seen record;
  v_subscription public.user_subscriptions;
  v_was public.user_subscriptions;
  v_plan public.plans;
  v_key_provider text;
  v_pack_id uuid;
  v_decision record;
  v_hold public.query_holds;
  v_quota_used integer;
  v_quota_limit integer;
  v_overage_limit numeric;
begin
  perform private.lock_user(p_user_id);
  v_at := private.clock();

  select
    (select h.id from public.query_holds h where h.user_id = p_user_id and h.request_id = p_request_id) as hold_id,
    (select u.id from public.usage_logs u
     where u.user_id = p_user_id and u.request_id = p_request_id and u.outcome in ('answered', 'stopped')) as ended_id,
    exists (select from public.query_holds h
            where h.user_id = p_user_id and h.expires_at <= v_at and h.id <> p_hold_id) as has_lost
  into v_seen;
  if v_seen.ended_id is not null then
    return jsonb_build_object('decision', 'ended', 'query_id', v_seen.ended_id);
  end if;
  if v_seen.has_lost then
    -- Lost queries that the sweep has not met yet give back before anything is refused.
    for v_hold in
      select * from public.query_holds h
      where h.user_id = p_user_id and h.expires_at <= v_at and h.id <> p_hold_id for update
    loop
      perform private.give_back(v_hold, 'lost', '{}');
      if v_hold.id = v_seen.hold_id then
        v_seen.hold_id := null;
      end if;
    end loop;
  end if;
  if v_seen.hold_id <> p_hold_id then
    return jsonb_build_object('decision', 'in_progress');
  end if;

  select * into v_was from public.user_subscriptions s where s.user_id = p_user_id;
  if v_was.id is null then
    select * into v_decision from private.decide(v_was, null, false, false, v_at);
    return jsonb_build_object(
      'decision', 'refused', 'reason', v_decision.reason, 'requires_payment', v_decision.requires_payment,
      'resets_at', v_decision.resets_at);
  end if;
  v_subscription := private.as_of(v_was, v_at);
  select * into v_plan from public.plans p where p.tier = v_subscription.tier;

  if v_seen.hold_id is not null then
    select * into v_hold from public.query_holds h where h.id = p_hold_id;
    return private.admission(v_subscription, v_plan, v_hold, v_at);
  end if;

  if v_plan.allows_byok and p_byok is distinct from false then
    v_key_provider := private.key_provider(p_user_id, p_provider);
  end if;
  if p_byok and v_key_provider is null then
    raise invalid_parameter_value using message = 'The user has no active key of their own that the plan allows.';
  end if;
  select * into v_decision
  from private.decide(v_subscription, v_plan, v_key_provider is not null, false, v_at);
  if v_plan.allows_credits and (v_decision.funding is null or v_decision.funding = 'overage') then
    -- Packs are only looked for where nothing else pays for the query.
    v_pack_id := private.next_credit_pack(p_user_id, v_at);
    if v_pack_id is not null then
      select * into v_decision from private.decide(v_subscription, v_plan, false, true, v_at);
    end if;
  end if;

  if v_plan.lifetime_quota is not null then
    v_quota_used := v_subscription.lifetime_used;
    v_quota_limit := coalesce(v_subscription.lifetime_quota, v_plan.lifetime_quota);
  else
    v_quota_used := v_subscription.quota_used;
    v_quota_limit := coalesce(v_subscription.daily_quota, v_plan.daily_quota);
  end if;
  if v_plan.overage_price_usd is not null then
    v_overage_limit := coalesce(v_subscription.overage_limit, v_plan.overage_limit_usd);
  end if;
  if v_decision.funding is null then
    perform private.record_refusal(row(
      p_hold_id, v_at, p_user_id, p_request_id, v_decision.reason, v_decision.requires_payment, v_decision.resets_at,
      v_plan.tier, v_quota_used, v_quota_limit, v_subscription.current_overage_amount, v_overage_limit));
    return jsonb_build_object(
      'decision', 'refused', 'reason', v_decision.reason, 'requires_payment', v_decision.requires_payment,
      'resets_at', v_decision.resets_at);
  end if;

  v_hold.id := p_hold_id;
  v_hold.created_at := v_at;
  v_hold.user_id := p_user_id;
  v_hold.request_id := p_request_id;
  v_hold.tier := v_plan.tier;
  v_hold.funding := v_decision.funding;
  v_hold.query_date := v_subscription.quota_date;
  v_hold.credit_pack_id := case when v_decision.funding = 'credit' then v_pack_id end;
  v_hold.overage_charge := case when v_decision.funding = 'overage' then v_plan.overage_price_usd else 0 end;
  v_hold.period_start := v_subscription.overage_period_start;
  v_hold.quota_used := v_quota_used;
  v_hold.quota_limit := v_quota_limit;
  v_hold.overage_used := v_subscription.current_overage_amount;
  v_hold.overage_limit := v_overage_limit;
  v_hold.provider := coalesce(p_provider, v_key_provider, 'anthropic');
  v_hold.model := coalesce(p_model, v_plan.models -> v_hold.provider ->> 0);
  v_hold.expires_at := v_at + make_interval(secs => p_hold_seconds);
  if not p_any_model and not v_plan.models -> v_hold.provider ? v_hold.model then
    raise exception using errcode = 'NOMDL', message = format(
      'The %s plan answers with these models of %s: %s.', v_plan.name, v_hold.provider,
      (select string_agg(m, ', ') from jsonb_array_elements_text(v_plan.models -> v_hold.provider) m));
  end if;
  insert into public.query_holds values (v_hold.*);

  if v_hold.funding = 'included' then
    if v_plan.lifetime_quota is not null then
      v_subscription.lifetime_used := v_subscription.lifetime_used + 1;
    else
      v_subscription.quota_used := v_subscription.quota_used + 1;
    end if;
  elsif v_hold.funding = 'credit' then
    update public.credit_packs c set
      credits_remaining = c.credits_remaining - 1, credits_used = c.credits_used + 1,
      depleted_at = case when c.credits_remaining = 1 then v_at end
    where c.id = v_pack_id;
  elsif v_hold.funding = 'overage' then
    v_subscription.current_overage_amount := v_subscription.current_overage_amount + v_hold.overage_charge;
  end if;
  if v_subscription.tier <> v_was.tier then
    -- A cancelled plan whose period is over, unless a webhook has renewed it since we looked.
    update public.user_subscriptions s set
      tier = v_subscription.tier, status = v_subscription.status, stripe_subscription_id = null,
      current_period_start = null, current_period_end = null
    where s.id = v_subscription.id and s.status = v_was.status and s.current_period_end = v_was.current_period_end;
  end if;
  update public.user_subscriptions s set
    quota_date = v_subscription.quota_date, quota_used = v_subscription.quota_used,
    lifetime_used = v_subscription.lifetime_used, overage_period_start = v_subscription.overage_period_start,
    current_overage_amount = v_subscription.current_overage_amount
  where s.id = v_subscription.id;
  return private.admission(v_subscription, v_plan, v_hold, v_at);
end
$$;

COMMENT ON FUNCTION private.take(p_user_id uuid, p_request_id text, p_hold_id uuid, p_provider text, p_model text, p_byok boolean, p_any_model boolean, p_hold_seconds integer) IS 'Admits one query: decides under the user''s lock, takes the funding and leaves the hold. decision is admitted, refused, in_progress (another attempt at the same request runs) or ended (the request was charged already).';

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

CREATE FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text DEFAULT NULL::text, p_question_id text DEFAULT NULL::text, p_provider text DEFAULT NULL::text, p_model text DEFAULT NULL::text, p_hold_seconds integer DEFAULT 300, p_history_messages integer DEFAULT 40) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_conversation_id uuid;
  v_before integer;
  v_history jsonb;
  v_taken jsonb;
begin
  if p_hold_seconds not between 1 and 3600 or p_history_messages not between 0 and 200 then
    raise invalid_parameter_value using message = 'p_hold_seconds is 1 to 3600, p_history_messages 0 to 200.';
  end if;
  if p_chat_id is not null then
    v_conversation_id := private.find_conversation(p_user_id, p_chat_id);
  end if;

  v_taken := private.take(p_user_id, p_request_id, p_hold_id, p_provider, p_model, null, false, p_hold_seconds);

  if v_taken ->> 'decision' = 'ended' then
    return (
      select jsonb_build_object(
        'decision', 'ended',
        'answer', case when m.id is not null then jsonb_build_object('id', m.id, 'content', m.content) end,
        'provider', u.provider, 'model', u.model, 'funding', u.funding,
        'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output,
        'cache_read_tokens', u.cache_read_tokens, 'cache_write_tokens', u.cache_write_tokens,
        'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text)
      from public.usage_logs u left join public.messages m on m.id = u.message_id
      where u.id = (v_taken ->> 'query_id')::uuid);
  end if;
  if v_conversation_id is null or not coalesce((v_taken -> 'keeps_history')::boolean, false) then
    return v_taken || '{"history": []}';
  end if;

  -- Asked again, a question is answered from what came before it.
  select m.position into v_before from public.messages m
  where m.conversation_id = v_conversation_id and m.role = 'user' and m.external_id = p_question_id
  order by m.position desc limit 1;
  select jsonb_agg(jsonb_build_object('role', newest.role, 'content', newest.content) order by newest.position)
  into v_history
  from (
    select m.role, m.content, m.position from public.messages m
    where m.conversation_id = v_conversation_id and (v_before is null or m.position < v_before)
    order by m.position desc limit p_history_messages
  ) newest;
  return v_taken || jsonb_build_object('history', coalesce(v_history, '[]'));
end
$$;

COMMENT ON FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text, p_question_id text, p_provider text, p_model text, p_hold_seconds integer, p_history_messages integer) IS 'Admits one query and returns all that the turn needs: decision, funding, model, recent history. Sent again with the same hold id it returns the same hold, so a lost response can be asked for again. NTFND: somebody else''s conversation; NOMDL: a model the plan does not have.';

CREATE FUNCTION public.can_user_query(p_user_id uuid) RETURNS TABLE(can_query boolean, reason text, requires_payment boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_subscription public.user_subscriptions;
  v_plan public.plans;
  v_decision record;
begin
  if current_user = 'authenticated' and p_user_id is distinct from (select auth.uid()) then
    raise insufficient_privilege using message = 'You may only ask about yourself.';
  end if;
  select * into v_subscription from public.user_subscriptions s where s.user_id = p_user_id;
  if v_subscription.id is not null then
    v_subscription := private.as_of(v_subscription, v_at);
  end if;
  select * into v_plan from public.plans p where p.tier = v_subscription.tier;
  select * into v_decision from private.decide(
    v_subscription, v_plan, private.key_provider(p_user_id, null) is not null,
    private.next_credit_pack(p_user_id, v_at) is not null, v_at);
  return query select v_decision.funding is not null, v_decision.reason, v_decision.requires_payment;
end
$$;

COMMENT ON FUNCTION public.can_user_query(p_user_id uuid) IS 'Whether a user''s next query would be admitted now, why, and whether it costs money or paying would help. Changes nothing.';

CREATE FUNCTION public.cleanup_expired_conversations() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_deleted integer;
begin
  with expired as (
    select c.id
    from public.conversations c
    -- Clearing two columns of a usage_logs row makes Postgres look at its user again: whoever is being deleted is
    -- left to that, and who is not can wait for us.
    join auth.users u on u.id = c.user_id
    join public.user_subscriptions s on s.user_id = c.user_id
    join public.plans p on p.tier = s.tier
    where c.expires_at <= v_at and not (c.is_pinned and p.history_days > 0)
    order by c.expires_at
    limit 1000
    for key share of u skip locked
    for update of c skip locked
  )
  delete from public.conversations c using expired e where c.id = e.id;
  get diagnostics v_deleted = row_count;
  return v_deleted;
end
$$;

COMMENT ON FUNCTION public.cleanup_expired_conversations() IS 'Deletes conversations past their expiry with their messages, at most 1,000 a call; returns how many. Pinned ones stay while the plan keeps history. Call it until 0.';

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

CREATE FUNCTION public.reconcile() RETURNS TABLE(invariant text, user_id uuid, subject text, expected text, found text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
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
         c.credits_used || ' used, ' || c.credits_remaining || ' left, ' || c.credits_revoked || ' revoked'
  from public.credit_packs c left join credits t on t.credit_pack_id = c.id
  where c.credits_used <> coalesce(t.used, 0)
     or c.credits_remaining + c.credits_used + c.credits_revoked <> c.credits_purchased
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
  select 'I6', u.user_id, u.request_id, '1', count(*)::text
  from public.usage_logs u where u.outcome in ('answered', 'stopped')
  group by u.user_id, u.request_id having count(*) > 1
  union all
  select 'I6', h.user_id, h.request_id, 'charged or held', 'charged and held'
  from public.query_holds h
  join public.usage_logs u on u.user_id = h.user_id and u.request_id = h.request_id
                          and u.outcome in ('answered', 'stopped')
$$;

COMMENT ON FUNCTION public.reconcile() IS 'Rows that break an invariant of metering: which, whose, where, what the ledger says and what was found. None is right.';

CREATE FUNCTION public.release_query(p_hold_id uuid, p_outcome text DEFAULT 'failed'::text, p_usage jsonb DEFAULT '{}'::jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_hold public.query_holds;
  v_ended public.usage_logs;
begin
  if p_outcome not in ('failed', 'lost') then
    raise invalid_parameter_value using message = 'A released query failed or was lost.';
  end if;
  perform private.lock_user((select h.user_id from public.query_holds h where h.id = p_hold_id));
  select * into v_hold from public.query_holds where id = p_hold_id for update;
  if v_hold.id is null then
    select * into v_ended from public.usage_logs where id = p_hold_id;
    if v_ended.id is null then
      raise exception using errcode = 'NOHLD', message = 'There is no such query.';
    end if;
  else
    v_ended := private.give_back(v_hold, p_outcome, p_usage);
  end if;
  return jsonb_build_object('outcome', v_ended.outcome, 'charged_usd', v_ended.overage_charge::text);
end
$$;

COMMENT ON FUNCTION public.release_query(p_hold_id uuid, p_outcome text, p_usage jsonb) IS 'Ends a query that is not charged and gives its funding back, once however often it is called. p_usage as in settle_query: our cost. NOHLD: never admitted.';

CREATE FUNCTION public.release_stale_holds() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_stale record;
  v_hold public.query_holds;
  v_released integer := 0;
begin
  -- At most 100 a call, so that no user waits long for a lock; users in order, so that two sweeps cannot cross.
  for v_stale in
    select oldest.id, oldest.user_id
    from (select h.id, h.user_id from public.query_holds h where h.expires_at <= v_at
          order by h.expires_at limit 100) oldest
    order by oldest.user_id, oldest.id
  loop
    perform private.lock_user(v_stale.user_id);
    select * into v_hold from public.query_holds h where h.id = v_stale.id for update;
    if v_hold.id is not null then
      perform private.give_back(v_hold, 'lost', '{}');
      v_released := v_released + 1;
    end if;
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
      and (private.period_at(s.current_period_start, v_at)).period_start > s.overage_period_start
    order by s.user_id
  loop
    perform private.lock_user(v_user_id);
    update public.user_subscriptions s set
      current_overage_amount = 0,
      overage_period_start = (private.period_at(s.current_period_start, v_at)).period_start
    where s.user_id = v_user_id
      and (private.period_at(s.current_period_start, v_at)).period_start > s.overage_period_start;
    v_reset := v_reset + case when found then 1 else 0 end;
  end loop;
  return v_reset;
end
$$;

COMMENT ON FUNCTION public.reset_monthly_overages() IS 'Starts the overage counter of every period that has ended anew; returns how many. Forgets no money.';

CREATE FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb DEFAULT '{}'::jsonb, p_turn jsonb DEFAULT NULL::jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_hold public.query_holds;
  v_ended public.usage_logs;
  v_history_days integer;
  v_conversation_id uuid;
begin
  if p_outcome not in ('answered', 'stopped') then
    raise invalid_parameter_value using message = 'A settled query was answered or stopped.';
  end if;
  -- auth.users first: see the order of locks above.
  perform from auth.users u where u.id = (select h.user_id from public.query_holds h where h.id = p_hold_id)
  for key share;
  select * into v_hold from public.query_holds where id = p_hold_id for update;
  if v_hold.id is null then
    select * into v_ended from public.usage_logs where id = p_hold_id;
    if v_ended.id is null then
      raise exception using errcode = 'NOHLD', message = 'There is no such query.';
    end if;
  else
    if p_turn is not null then
      select p.history_days into v_history_days
      from public.user_subscriptions s join public.plans p on p.tier = s.tier where s.user_id = v_hold.user_id;
      if v_history_days > 0 then
        v_conversation_id := private.keep_turn(v_hold, v_history_days, p_usage, p_turn);
      end if;
    end if;
    v_ended := private.end_query(
      v_hold, p_outcome, p_usage, v_conversation_id,
      case when v_conversation_id is not null then (p_turn -> 'answer' ->> 'id')::uuid end);
  end if;
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.overage_charge::text, 'cost_usd', v_ended.cost_usd::text,
    'persisted', v_ended.message_id is not null);
end
$$;

COMMENT ON FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_turn jsonb) IS 'Ends a query that is charged, once however often it is called. p_usage: provider, model, tokens_input, tokens_output, cache_read_tokens, cache_write_tokens, cost_usd. p_turn: chat_id, title, context {type, id, data}, question {id, content}, answer {id, content}; kept only where the plan keeps history. NOHLD: never admitted.';

CREATE FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  v_id constant uuid := private.time_ordered_id();
  v_taken jsonb;
  v_hold public.query_holds;
begin
  if not exists (select from public.conversations where id = p_conversation_id and user_id = p_user_id)
     and p_conversation_id is not null
     or not exists (select from public.messages where id = p_message_id and conversation_id = p_conversation_id)
     and p_message_id is not null then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation or message.';
  end if;
  v_taken := private.take(
    p_user_id, 'track:' || coalesce(p_message_id, v_id)::text, v_id, p_provider, p_model, p_used_byo_key, true, 60);
  if v_taken ->> 'decision' = 'ended' then
    return;
  elsif v_taken ->> 'decision' <> 'admitted' then
    raise exception using errcode = 'QUOTA', message = v_taken ->> 'reason';
  end if;
  select * into v_hold from public.query_holds where id = v_id;
  perform private.end_query(
    v_hold, 'answered',
    jsonb_build_object('tokens_input', p_tokens_input, 'tokens_output', p_tokens_output, 'cost_usd', p_cost_usd),
    p_conversation_id, p_message_id);
end
$$;

COMMENT ON FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) IS 'Admits and settles one query in one call, by the same rules as the chat; once for each message. QUOTA: refused, the message says why. NTFND: not the user''s conversation or message.';

CREATE FUNCTION public.usage_summary() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
declare
  v_at constant timestamptz := private.clock();
  v_user_id constant uuid := (select auth.uid());
  v_subscription public.user_subscriptions;
  v_plan public.plans;
  v_decision record;
  v_period record;
  v_limit integer;
  v_used integer;
  v_packs jsonb;
  v_providers jsonb;
  v_today record;
  v_month record;
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Only a signed-in user has usage.';
  end if;
  select * into v_subscription from public.user_subscriptions s where s.user_id = v_user_id;
  if v_subscription.id is null then
    raise exception using errcode = 'NTFND', message = 'There is no subscription.';
  end if;
  v_subscription := private.as_of(v_subscription, v_at);
  select * into v_plan from public.plans p where p.tier = v_subscription.tier;
  select * into v_decision from private.decide(
    v_subscription, v_plan, private.key_provider(v_user_id, null) is not null,
    private.next_credit_pack(v_user_id, v_at) is not null, v_at);
  select * into v_period from private.period_at(v_subscription.current_period_start, v_at);

  if v_plan.lifetime_quota is not null then
    v_limit := coalesce(v_subscription.lifetime_quota, v_plan.lifetime_quota);
    v_used := v_subscription.lifetime_used;
  else
    v_limit := coalesce(v_subscription.daily_quota, v_plan.daily_quota);
    v_used := v_subscription.quota_used;
  end if;

  select coalesce(jsonb_agg(jsonb_build_object(
           'id', c.id, 'purchased', c.credits_purchased, 'remaining', c.credits_remaining,
           'expires_at', c.expires_at) order by c.expires_at nulls last, c.created_at), '[]')
  into v_packs
  from public.credit_packs c
  where c.user_id = v_user_id and c.credits_remaining > 0 and (c.expires_at > v_at or c.expires_at is null);

  select coalesce(jsonb_agg(k.provider order by k.provider), '[]') into v_providers
  from public.user_api_keys k where k.user_id = v_user_id and k.is_active;

  select count(*) filter (where u.outcome in ('answered', 'stopped')) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_today
  from public.usage_logs u where u.user_id = v_user_id and u.query_date = (v_at at time zone 'UTC')::date;
  select count(*) filter (where u.outcome in ('answered', 'stopped')) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_month
  from public.usage_logs u
  where u.user_id = v_user_id and u.query_date >= (v_period.period_start at time zone 'UTC')::date
    and u.query_timestamp >= v_period.period_start;

  -- Money travels as text under names that end in _usd, so that no JSON parser makes it a float.
  return jsonb_build_object(
    'tier', v_subscription.tier,
    'status', v_subscription.status,
    'period', jsonb_build_object('start', v_period.period_start, 'end', v_period.period_end),
    'included', jsonb_build_object(
      'limit', v_limit, 'used', v_used, 'remaining', greatest(0, v_limit - v_used),
      'resets_at', case when v_plan.lifetime_quota is null
                        then (((v_at at time zone 'UTC')::date + 1)::timestamp) at time zone 'UTC' end),
    'overage', jsonb_build_object(
      'allowed', v_plan.overage_price_usd is not null and v_subscription.allow_overages,
      'price_usd', v_plan.overage_price_usd::text,
      'limit_usd', coalesce(v_subscription.overage_limit, v_plan.overage_limit_usd)::text,
      'used_usd', v_subscription.current_overage_amount::text),
    'credits', jsonb_build_object(
      'remaining', (select coalesce(sum((pack ->> 'remaining')::integer), 0) from jsonb_array_elements(v_packs) pack),
      'packs', v_packs),
    'byok', jsonb_build_object('allowed', v_plan.allows_byok, 'providers', v_providers),
    'can_query', v_decision.funding is not null,
    'reason', v_decision.reason,
    'requires_payment', v_decision.requires_payment,
    'today', jsonb_build_object('queries', v_today.queries, 'tokens', v_today.tokens,
                                'cost_usd', v_today.cost_usd::text),
    'month', jsonb_build_object('queries', v_month.queries, 'tokens', v_month.tokens,
                                'cost_usd', v_month.cost_usd::text));
end
$$;

COMMENT ON FUNCTION public.usage_summary() IS 'The signed-in user''s plan, quotas, overage, credits and use today and in this period: the answer of GET /usage.';

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
    message_count integer DEFAULT 0 NOT NULL,
    total_tokens bigint DEFAULT 0 NOT NULL,
    is_pinned boolean DEFAULT false NOT NULL,
    is_archived boolean DEFAULT false NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    last_message_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT conversations_context_id_is_bounded CHECK ((char_length(context_id) <= 200)),
    CONSTRAINT conversations_context_type_is_known CHECK ((context_type = ANY (ARRAY['general'::text, 'mp'::text, 'bill'::text, 'dashboard'::text, 'lobbying'::text, 'spending'::text]))),
    CONSTRAINT conversations_external_id_is_bounded CHECK (((char_length(external_id) >= 1) AND (char_length(external_id) <= 128))),
    CONSTRAINT conversations_message_count_is_not_negative CHECK ((message_count >= 0)),
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

COMMENT ON COLUMN public.conversations.is_pinned IS 'Kept past its expiry while the plan keeps history.';

COMMENT ON COLUMN public.conversations.is_archived IS 'Hidden from the user''s usual list.';

COMMENT ON COLUMN public.conversations.expires_at IS 'When it may be deleted; set from the plan at each message, never by the client.';

COMMENT ON COLUMN public.conversations.last_message_at IS 'When it was last answered.';

CREATE TABLE public.credit_packs (
    id uuid DEFAULT private.time_ordered_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    credits_purchased integer NOT NULL,
    credits_remaining integer NOT NULL,
    credits_used integer DEFAULT 0 NOT NULL,
    credits_revoked integer DEFAULT 0 NOT NULL,
    price_paid numeric(14,6) NOT NULL,
    price_per_credit numeric(14,6) GENERATED ALWAYS AS (round((price_paid / (credits_purchased)::numeric), 6)) STORED NOT NULL,
    stripe_payment_intent_id text,
    expires_at timestamp with time zone,
    depleted_at timestamp with time zone,
    CONSTRAINT credit_packs_credits_purchased_are_positive CHECK ((credits_purchased > 0)),
    CONSTRAINT credit_packs_credits_remaining_are_not_negative CHECK ((credits_remaining >= 0)),
    CONSTRAINT credit_packs_credits_revoked_are_not_negative CHECK ((credits_revoked >= 0)),
    CONSTRAINT credit_packs_credits_used_are_not_negative CHECK ((credits_used >= 0)),
    CONSTRAINT credit_packs_no_credit_is_lost CHECK ((((credits_remaining + credits_used) + credits_revoked) = credits_purchased)),
    CONSTRAINT credit_packs_price_paid_is_not_negative CHECK ((price_paid >= (0)::numeric))
);

ALTER TABLE ONLY public.credit_packs FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE public.credit_packs IS 'Prepaid queries. Changed only under the owner''s lock, private.lock_user.';

COMMENT ON COLUMN public.credit_packs.id IS 'Identifies the pack.';

COMMENT ON COLUMN public.credit_packs.created_at IS 'When it was bought.';

COMMENT ON COLUMN public.credit_packs.user_id IS 'Who bought it.';

COMMENT ON COLUMN public.credit_packs.credits_purchased IS 'Queries it was bought with.';

COMMENT ON COLUMN public.credit_packs.credits_remaining IS 'Queries it can still pay.';

COMMENT ON COLUMN public.credit_packs.credits_used IS 'Queries it has paid, holds included.';

COMMENT ON COLUMN public.credit_packs.credits_revoked IS 'Queries taken back by a refund or a lost dispute.';

COMMENT ON COLUMN public.credit_packs.price_paid IS 'US dollars paid for the pack.';

COMMENT ON COLUMN public.credit_packs.price_per_credit IS 'US dollars a query, to six decimals.';

COMMENT ON COLUMN public.credit_packs.stripe_payment_intent_id IS 'The payment at Stripe.';

COMMENT ON COLUMN public.credit_packs.expires_at IS 'When its remaining credits lapse; null: never.';

COMMENT ON COLUMN public.credit_packs.depleted_at IS 'When its last credit was taken.';

CREATE VIEW public.daily_quota_usage WITH (security_invoker='true') AS
 SELECT u.user_id,
    u.query_date,
    (count(*) FILTER (WHERE u.counted_against_quota))::integer AS queries_today,
    sum(u.tokens_total) AS tokens_today,
    sum(u.cost_usd) AS cost_today,
    (count(*) FILTER (WHERE u.was_overage))::integer AS overage_queries,
    sum(u.overage_charge) AS overage_charges,
    s.tier,
    COALESCE(s.daily_quota, p.daily_quota) AS daily_quota,
    s.uses_byo_key
   FROM ((public.usage_logs u
     JOIN public.user_subscriptions s ON ((s.user_id = u.user_id)))
     JOIN public.plans p ON ((p.tier = s.tier)))
  GROUP BY u.user_id, u.query_date, s.tier, s.daily_quota, p.daily_quota, s.uses_byo_key;

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
    tokens_input integer DEFAULT 0 NOT NULL,
    tokens_output integer DEFAULT 0 NOT NULL,
    tokens_total integer GENERATED ALWAYS AS ((tokens_input + tokens_output)) STORED NOT NULL,
    provider text,
    model text,
    used_byo_key boolean DEFAULT false NOT NULL,
    function_calls jsonb,
    function_results jsonb,
    cost_usd numeric(14,6) DEFAULT 0 NOT NULL,
    CONSTRAINT messages_cost_is_not_negative CHECK ((cost_usd >= (0)::numeric)),
    CONSTRAINT messages_external_id_is_bounded CHECK (((char_length(external_id) >= 1) AND (char_length(external_id) <= 128))),
    CONSTRAINT messages_position_is_positive CHECK (("position" > 0)),
    CONSTRAINT messages_role_is_known CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text, 'system'::text]))),
    CONSTRAINT messages_tokens_input_are_not_negative CHECK ((tokens_input >= 0)),
    CONSTRAINT messages_tokens_output_are_not_negative CHECK ((tokens_output >= 0))
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

COMMENT ON COLUMN public.messages.function_calls IS 'Tools the model called.';

COMMENT ON COLUMN public.messages.function_results IS 'What they gave back.';

COMMENT ON COLUMN public.messages.cost_usd IS 'What the provider charges for it, US dollars.';

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
    ADD CONSTRAINT credit_packs_stripe_payment_intent_is_unique UNIQUE (stripe_payment_intent_id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_position_is_taken_once UNIQUE (conversation_id, "position");

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

CREATE INDEX conversations_expires_at_idx ON public.conversations USING btree (expires_at);

CREATE INDEX conversations_newest_first_idx ON public.conversations USING btree (user_id, last_message_at DESC);

CREATE INDEX credit_packs_spending_order_idx ON public.credit_packs USING btree (user_id, expires_at, created_at);

CREATE INDEX query_holds_credit_pack_id_idx ON public.query_holds USING btree (credit_pack_id) WHERE (credit_pack_id IS NOT NULL);

CREATE INDEX query_holds_expires_at_idx ON public.query_holds USING btree (expires_at);

CREATE INDEX query_refusals_newest_first_idx ON public.query_refusals USING btree (user_id, created_at DESC);

CREATE UNIQUE INDEX usage_logs_a_request_is_charged_once ON public.usage_logs USING btree (user_id, request_id) WHERE (outcome = ANY (ARRAY['answered'::text, 'stopped'::text]));

CREATE INDEX usage_logs_conversation_id_idx ON public.usage_logs USING btree (conversation_id) WHERE (conversation_id IS NOT NULL);

CREATE INDEX usage_logs_credit_pack_id_idx ON public.usage_logs USING btree (credit_pack_id) WHERE (credit_pack_id IS NOT NULL);

CREATE INDEX usage_logs_message_id_idx ON public.usage_logs USING btree (message_id) WHERE (message_id IS NOT NULL);

CREATE INDEX usage_logs_user_day_idx ON public.usage_logs USING btree (user_id, query_date);

CREATE INDEX user_subscriptions_tier_idx ON public.user_subscriptions USING btree (tier);

CREATE TRIGGER conversations_touch BEFORE UPDATE ON public.conversations FOR EACH ROW EXECUTE FUNCTION private.touch();

CREATE TRIGGER user_api_keys_touch BEFORE UPDATE ON public.user_api_keys FOR EACH ROW EXECUTE FUNCTION private.touch();

CREATE TRIGGER user_subscriptions_date_past_due BEFORE INSERT OR UPDATE OF status ON public.user_subscriptions FOR EACH ROW EXECUTE FUNCTION private.date_past_due();

CREATE TRIGGER user_subscriptions_touch BEFORE UPDATE OF tier, status, stripe_customer_id, stripe_subscription_id, daily_quota, lifetime_quota, allow_overages, overage_limit, uses_byo_key, current_period_start, current_period_end, canceled_at ON public.user_subscriptions FOR EACH ROW EXECUTE FUNCTION private.touch();

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.credit_packs
    ADD CONSTRAINT credit_packs_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_conversation_id_fkey FOREIGN KEY (conversation_id) REFERENCES public.conversations(id) ON DELETE CASCADE;

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
    ADD CONSTRAINT usage_logs_message_id_fkey FOREIGN KEY (message_id) REFERENCES public.messages(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.usage_logs
    ADD CONSTRAINT usage_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.user_api_keys
    ADD CONSTRAINT user_api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_tier_fkey FOREIGN KEY (tier) REFERENCES public.plans(tier);

ALTER TABLE ONLY public.user_subscriptions
    ADD CONSTRAINT user_subscriptions_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

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

CREATE POLICY "Users update their own conversations" ON public.conversations FOR UPDATE TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

ALTER TABLE public.conversations ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.credit_packs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.plans ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.query_holds ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.query_refusals ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.usage_logs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.user_api_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.user_subscriptions ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA private TO authenticated;
GRANT USAGE ON SCHEMA private TO service_role;

REVOKE ALL ON FUNCTION private.clock() FROM PUBLIC;
GRANT ALL ON FUNCTION private.clock() TO authenticated;
GRANT ALL ON FUNCTION private.clock() TO service_role;

REVOKE ALL ON FUNCTION private.time_ordered_id() FROM PUBLIC;

GRANT SELECT ON TABLE public.plans TO anon;
GRANT SELECT ON TABLE public.plans TO authenticated;
GRANT SELECT ON TABLE public.plans TO service_role;

GRANT SELECT ON TABLE public.query_holds TO authenticated;
GRANT SELECT ON TABLE public.query_holds TO service_role;

GRANT SELECT ON TABLE public.user_subscriptions TO authenticated;
GRANT SELECT ON TABLE public.user_subscriptions TO service_role;

REVOKE ALL ON FUNCTION private.admission(p_subscription public.user_subscriptions, p_plan public.plans, p_hold public.query_holds, p_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.as_of(p_subscription public.user_subscriptions, p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.as_of(p_subscription public.user_subscriptions, p_at timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.as_of(p_subscription public.user_subscriptions, p_at timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION private.conversation_key(p_chat_id text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.date_past_due() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.decide(p_subscription public.user_subscriptions, p_plan public.plans, p_has_key boolean, p_has_credit boolean, p_at timestamp with time zone, OUT funding text, OUT reason text, OUT requires_payment boolean, OUT resets_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.decide(p_subscription public.user_subscriptions, p_plan public.plans, p_has_key boolean, p_has_credit boolean, p_at timestamp with time zone, OUT funding text, OUT reason text, OUT requires_payment boolean, OUT resets_at timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.decide(p_subscription public.user_subscriptions, p_plan public.plans, p_has_key boolean, p_has_credit boolean, p_at timestamp with time zone, OUT funding text, OUT reason text, OUT requires_payment boolean, OUT resets_at timestamp with time zone) TO service_role;

GRANT SELECT ON TABLE public.usage_logs TO authenticated;
GRANT SELECT ON TABLE public.usage_logs TO service_role;

REVOKE ALL ON FUNCTION private.end_query(p_hold public.query_holds, p_outcome text, p_usage jsonb, p_conversation_id uuid, p_message_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.find_conversation(p_user_id uuid, p_chat_id text) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.give_back(p_hold public.query_holds, p_outcome text, p_usage jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.keep_turn(p_hold public.query_holds, p_history_days integer, p_usage jsonb, p_turn jsonb, OUT conversation_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.key_provider(p_user_id uuid, p_provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.key_provider(p_user_id uuid, p_provider text) TO authenticated;
GRANT ALL ON FUNCTION private.key_provider(p_user_id uuid, p_provider text) TO service_role;

REVOKE ALL ON FUNCTION private.lock_user(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.next_credit_pack(p_user_id uuid, p_at timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION private.period_at(p_anchor timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION private.period_at(p_anchor timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) TO authenticated;
GRANT ALL ON FUNCTION private.period_at(p_anchor timestamp with time zone, p_at timestamp with time zone, OUT period_start timestamp with time zone, OUT period_end timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION private.reason_of(p_funding text, p_tier text) FROM PUBLIC;
GRANT ALL ON FUNCTION private.reason_of(p_funding text, p_tier text) TO authenticated;
GRANT ALL ON FUNCTION private.reason_of(p_funding text, p_tier text) TO service_role;

GRANT SELECT ON TABLE public.query_refusals TO authenticated;
GRANT SELECT ON TABLE public.query_refusals TO service_role;

REVOKE ALL ON FUNCTION private.record_refusal(p_refusal public.query_refusals) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.start_subscription() FROM PUBLIC;

REVOKE ALL ON FUNCTION private.take(p_user_id uuid, p_request_id text, p_hold_id uuid, p_provider text, p_model text, p_byok boolean, p_any_model boolean, p_hold_seconds integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION private.touch() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text, p_question_id text, p_provider text, p_model text, p_hold_seconds integer, p_history_messages integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.admit_query(p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text, p_question_id text, p_provider text, p_model text, p_hold_seconds integer, p_history_messages integer) TO service_role;

REVOKE ALL ON FUNCTION public.can_user_query(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.can_user_query(p_user_id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.can_user_query(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.cleanup_expired_conversations() FROM PUBLIC;
GRANT ALL ON FUNCTION public.cleanup_expired_conversations() TO service_role;

REVOKE ALL ON FUNCTION public.explain_query(p_request_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.explain_query(p_request_id text) TO authenticated;
GRANT ALL ON FUNCTION public.explain_query(p_request_id text) TO service_role;

REVOKE ALL ON FUNCTION public.reconcile() FROM PUBLIC;
GRANT ALL ON FUNCTION public.reconcile() TO service_role;

REVOKE ALL ON FUNCTION public.release_query(p_hold_id uuid, p_outcome text, p_usage jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.release_query(p_hold_id uuid, p_outcome text, p_usage jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.release_stale_holds() FROM PUBLIC;
GRANT ALL ON FUNCTION public.release_stale_holds() TO service_role;

REVOKE ALL ON FUNCTION public.reset_monthly_overages() FROM PUBLIC;
GRANT ALL ON FUNCTION public.reset_monthly_overages() TO service_role;

REVOKE ALL ON FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_turn jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.settle_query(p_hold_id uuid, p_outcome text, p_usage jsonb, p_turn jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) FROM PUBLIC;
GRANT ALL ON FUNCTION public.track_query_usage(p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer, p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric) TO service_role;

REVOKE ALL ON FUNCTION public.usage_summary() FROM PUBLIC;
GRANT ALL ON FUNCTION public.usage_summary() TO authenticated;

GRANT SELECT,DELETE ON TABLE public.conversations TO authenticated;
GRANT SELECT ON TABLE public.conversations TO service_role;

GRANT UPDATE(title) ON TABLE public.conversations TO authenticated;

GRANT UPDATE(is_pinned) ON TABLE public.conversations TO authenticated;

GRANT UPDATE(is_archived) ON TABLE public.conversations TO authenticated;

GRANT SELECT ON TABLE public.credit_packs TO authenticated;
GRANT SELECT ON TABLE public.credit_packs TO service_role;

GRANT SELECT ON TABLE public.daily_quota_usage TO authenticated;
GRANT SELECT ON TABLE public.daily_quota_usage TO service_role;

GRANT SELECT ON TABLE public.messages TO authenticated;
GRANT SELECT ON TABLE public.messages TO service_role;

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
