-- The tables of the AI chat: what each row means, what it may never be, and who may see it.
--
-- Every change of state is a function (the migrations that follow), so nobody is granted insert, update or delete
-- here, except that users change three columns of their own conversations and delete them. Row-level security is forced: it holds for the
-- owner of the tables too, unless that role bypasses it by name, as `postgres` does on Supabase.
-- What a value may be is its type's (the domains below): every check constraint of a table is prepared anew for every
-- statement that writes to it, which costs more than the write; a type's is prepared once a connection.
-- Running this file again changes nothing.

create schema if not exists private;
comment on schema private is 'What the functions of public share. Never exposed over the API.';
revoke all on schema private from public;
-- can_user_query and usage_summary run with the caller's own rights, so the caller reaches what they share.
grant usage on schema private to authenticated, service_role;


-- Ids that grow with time keep the newest rows of an index on few pages, which random ids scatter over all of them.
-- https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7
create or replace function private.time_ordered_id() returns uuid
language sql volatile set search_path = ''
as $$
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
              from 1 for 6),
      52, 1), 53, 1),
    'hex')::uuid
$$;
comment on function private.time_ordered_id() is 'A UUID version 7: 48 bits of Unix milliseconds, then random bits.';
revoke all on function private.time_ordered_id() from public, anon, authenticated, service_role;


create or replace function private.clock() returns timestamptz
language plpgsql volatile set search_path = ''
as $$
begin
  -- Not now(): a transaction that waited for a lock past midnight has to see the new day.
  return coalesce(nullif(current_setting('metering.now', true), '')::timestamptz, clock_timestamp());
end
$$;
comment on function private.clock() is
  'The time that metering goes by. The setting metering.now moves it, for tests; no API request can set it.';
revoke all on function private.clock() from public, anon, authenticated, service_role;
grant execute on function private.clock() to authenticated, service_role;


-- What values may be --------------------------------------------------------------------------------------------

do $$
begin
  create domain public.usd as numeric(14,6) constraint usd_is_not_negative check (value >= 0);
  create domain public.quantity as integer constraint quantity_is_not_negative check (value >= 0);
  create domain public.request_key as text
    constraint request_key_is_bounded check (octet_length(value) between 1 and 800);
  create domain public.subscription_status as text
    constraint subscription_status_is_known check (value in ('active', 'canceled', 'suspended', 'past_due'));
  create domain public.query_funding as text
    constraint query_funding_is_known check (value in ('byok', 'included', 'credit', 'overage'));
  create domain public.query_outcome as text
    constraint query_outcome_is_known check (value in ('answered', 'stopped', 'failed', 'lost'));
exception when duplicate_object then
  null; -- This file has run before.
end
$$;
comment on domain public.usd is
  'US dollars, never negative. Six decimals hold a tenth of a thousandth of a cent, so sums are exact.';
comment on domain public.quantity is 'How many: never negative.';
comment on domain public.request_key is 'The idempotency key of a request.';
comment on domain public.subscription_status is 'How a subscription stands at Stripe.';
comment on domain public.query_funding is 'What pays for a query.';
comment on domain public.query_outcome is 'How a query ended: answered and stopped are charged, failed and lost are not.';


create or replace function private.touch() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end
$$;
comment on function private.touch() is 'Trigger: notes when a row last changed.';
revoke all on function private.touch() from public, anon, authenticated, service_role;


-- plans ---------------------------------------------------------------------------------------------------------

create table if not exists public.plans (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  tier text not null
    constraint plans_tier_is_unique unique
    constraint plans_tier_is_known check (tier in ('free', 'basic', 'pro', 'usage_only')),
  name text not null,
  price_usd public.usd not null,
  daily_quota public.quantity,
  lifetime_quota public.quantity,
  overage_price_usd public.usd
    constraint plans_overage_price_is_positive check (overage_price_usd > 0),
  overage_limit_usd public.usd,
  allows_credits boolean not null,
  allows_byok boolean not null,
  history_days public.quantity not null,
  query_cost_limit_usd public.usd not null,
  models jsonb not null
    constraint plans_models_are_lists_by_provider check (
      jsonb_typeof(models -> 'anthropic') = 'array' and jsonb_typeof(models -> 'openai') = 'array'),
  constraint plans_has_one_kind_of_quota check (num_nonnulls(daily_quota, lifetime_quota) = 1),
  constraint plans_overage_has_price_and_limit check ((overage_price_usd is null) = (overage_limit_usd is null))
);
comment on table public.plans is 'One row a tier: the single source of quotas, prices, retention and models.';
comment on column public.plans.id is 'Identifies the row.';
comment on column public.plans.created_at is 'When the plan was added.';
comment on column public.plans.tier is 'free, basic, pro or usage_only; what subscriptions refer to.';
comment on column public.plans.name is 'What people are shown.';
comment on column public.plans.price_usd is 'US dollars a month.';
comment on column public.plans.daily_quota is 'Included queries a UTC day; null where the quota is for life.';
comment on column public.plans.lifetime_quota is 'Included queries ever; null where the quota is by the day.';
comment on column public.plans.overage_price_usd is 'US dollars a query beyond the quota; null: no overage.';
comment on column public.plans.overage_limit_usd is 'The overage limit of a period until the user sets another, US dollars.';
comment on column public.plans.allows_credits is 'Whether prepaid credit packs pay for queries.';
comment on column public.plans.allows_byok is 'Whether users may bring their own provider key.';
comment on column public.plans.history_days is 'Days a conversation is kept after its last message; 0: nothing is kept.';
comment on column public.plans.query_cost_limit_usd is 'What one query may cost us at the provider, US dollars, before it is brought to an end.';
comment on column public.plans.models is 'Models by provider that the tier may use; the first of each is the default.';

insert into public.plans (tier, name, price_usd, daily_quota, lifetime_quota, overage_price_usd, overage_limit_usd,
                          allows_credits, allows_byok, history_days, query_cost_limit_usd, models)
values
  ('free', 'Free', 0, null, 10, null, null, false, false, 0, 0.05,
   '{"anthropic": ["claude-haiku-5-5"], "openai": ["gpt-6-luna"]}'),
  ('basic', 'Basic', 9.99, 15, null, 0.025, 10, true, true, 30, 0.15,
   '{"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}'),
  ('pro', 'Pro', 29.99, 40, null, 0.025, 10, true, true, 90, 0.5,
   '{"anthropic": ["claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"], "openai": ["gpt-6-sol", "gpt-6-luna", "gpt-6-astra"]}'),
  ('usage_only', 'Pay as you go', 0, 0, null, 0.025, 10, true, true, 0, 0.15,
   '{"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}')
on conflict (tier) do nothing;

alter table public.plans enable row level security;
alter table public.plans force row level security;
drop policy if exists "Anyone may read the plans" on public.plans;
create policy "Anyone may read the plans" on public.plans for select to anon, authenticated using (true);
revoke all on public.plans from public, anon, authenticated, service_role;
grant select on public.plans to anon, authenticated, service_role;


-- user_subscriptions --------------------------------------------------------------------------------------------

create table if not exists public.user_subscriptions (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null
    constraint user_subscriptions_one_a_user unique
    references auth.users (id) on delete cascade,
  tier text not null default 'free' references public.plans (tier),
  next_tier text references public.plans (tier),
  status public.subscription_status not null default 'active',
  stripe_customer_id text
    constraint user_subscriptions_stripe_customer_is_unique unique,
  stripe_subscription_id text
    constraint user_subscriptions_stripe_subscription_is_unique unique,
  daily_quota public.quantity,
  lifetime_quota public.quantity,
  allow_overages boolean not null default true,
  overage_limit public.usd,
  current_overage_amount public.usd not null default 0,
  uses_byo_key boolean not null default false,
  current_period_start timestamptz,
  current_period_end timestamptz,
  canceled_at timestamptz,
  past_due_since timestamptz,
  quota_date date not null default (private.clock() at time zone 'UTC')::date,
  quota_used public.quantity not null default 0,
  lifetime_used public.quantity not null default 0,
  overage_period_start timestamptz not null default date_trunc('month', private.clock(), 'UTC'),
  included_until timestamptz,
  stripe_sequence bigint not null default 0,
  downgraded_at timestamptz
);
create index if not exists user_subscriptions_downgraded_idx on public.user_subscriptions (user_id)
  where downgraded_at is not null;
create index if not exists user_subscriptions_tier_idx on public.user_subscriptions (tier);
create index if not exists user_subscriptions_next_tier_idx on public.user_subscriptions (next_tier)
  where next_tier is not null;

comment on table public.user_subscriptions is
  'One row a user: the plan, its state, and the counters that admission locks and reads. Counters include holds.';
comment on column public.user_subscriptions.id is 'Identifies the row.';
comment on column public.user_subscriptions.created_at is 'When the user signed up.';
comment on column public.user_subscriptions.updated_at is 'When it last changed, counters aside.';
comment on column public.user_subscriptions.user_id is 'Whose subscription it is.';
comment on column public.user_subscriptions.tier is 'The plan.';
comment on column public.user_subscriptions.next_tier is 'The plan from current_period_end on, after a downgrade; null: the same.';
comment on column public.user_subscriptions.status is 'active, canceled (until current_period_end), suspended or past_due.';
comment on column public.user_subscriptions.stripe_customer_id is 'The customer at Stripe.';
comment on column public.user_subscriptions.stripe_subscription_id is 'The live subscription at Stripe; overage needs one to be invoiced on.';
comment on column public.user_subscriptions.daily_quota is 'A daily quota of this user''s own; null: the plan''s.';
comment on column public.user_subscriptions.lifetime_quota is 'A lifetime quota of this user''s own; null: the plan''s.';
comment on column public.user_subscriptions.allow_overages is 'Whether the user allows overage, where the plan does.';
comment on column public.user_subscriptions.overage_limit is 'US dollars of overage a period that the user allows; null: the plan''s.';
comment on column public.user_subscriptions.current_overage_amount is 'US dollars of overage in the period of overage_period_start, holds included.';
comment on column public.user_subscriptions.uses_byo_key is 'Whether the user has an active key of their own.';
comment on column public.user_subscriptions.current_period_start is 'Start of the billing period; null: calendar months, UTC.';
comment on column public.user_subscriptions.current_period_end is 'End of the billing period.';
comment on column public.user_subscriptions.canceled_at is 'When the user cancelled.';
comment on column public.user_subscriptions.past_due_since is 'When the invoice failed that made the subscription past due.';
comment on column public.user_subscriptions.quota_date is 'The UTC day that quota_used counts.';
comment on column public.user_subscriptions.quota_used is 'Included queries admitted on quota_date, holds included.';
comment on column public.user_subscriptions.lifetime_used is 'Included queries admitted on a lifetime quota, holds included.';
comment on column public.user_subscriptions.overage_period_start is 'Start of the period that current_overage_amount belongs to.';
comment on column public.user_subscriptions.included_until is 'Until then the day''s quota pays for the next query, while it lasts: private.standing has said so. Null: it has to be asked.';
comment on column public.user_subscriptions.downgraded_at is 'When the plan became one that keeps conversations for fewer days; null once their dates have been shortened.';
comment on column public.user_subscriptions.stripe_sequence is 'The newest look at the customer at Stripe that the row tells of: an older one changes nothing.';

create or replace function private.check_subscription() returns trigger
language plpgsql set search_path = ''
as $$
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
comment on function private.check_subscription() is
  'Trigger: notes since when a subscription is past due, and refuses a period that does not end after it starts.';
revoke all on function private.check_subscription() from public, anon, authenticated, service_role;

create or replace function private.note_downgrade() returns trigger
language plpgsql set search_path = ''
as $$
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
comment on function private.note_downgrade() is
  'Trigger: notes when a plan becomes one that keeps conversations for fewer days. cleanup_expired_conversations() does the rest.';
revoke all on function private.note_downgrade() from public, anon, authenticated, service_role;

create or replace function private.touch_subscription() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := now();
  new.included_until := null;
  return new;
end
$$;
comment on function private.touch_subscription() is
  'Trigger: notes when a subscription last changed, its counters aside, and that private.standing has to be asked again.';
revoke all on function private.touch_subscription() from public, anon, authenticated, service_role;

-- Every column that private.standing reads but the counters, which change with every query.
create or replace trigger user_subscriptions_touch
  before update of tier, next_tier, status, stripe_customer_id, stripe_subscription_id, daily_quota, lifetime_quota,
                   allow_overages, overage_limit, uses_byo_key, current_period_start, current_period_end, canceled_at,
                   past_due_since
  on public.user_subscriptions for each row execute function private.touch_subscription();
create or replace trigger user_subscriptions_note_downgrade
  before update of tier on public.user_subscriptions for each row when (old.tier <> new.tier)
  execute function private.note_downgrade();
create or replace trigger user_subscriptions_check
  before insert or update of status, past_due_since, current_period_start, current_period_end
  on public.user_subscriptions for each row execute function private.check_subscription();

alter table public.user_subscriptions enable row level security;
alter table public.user_subscriptions force row level security;
drop policy if exists "Users read their own subscription" on public.user_subscriptions;
create policy "Users read their own subscription" on public.user_subscriptions
  for select to authenticated using (user_id = (select auth.uid()));
revoke all on public.user_subscriptions from public, anon, authenticated, service_role;
grant select on public.user_subscriptions to authenticated, service_role;


-- user_api_keys -------------------------------------------------------------------------------------------------

create table if not exists public.user_api_keys (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  provider text not null
    constraint user_api_keys_provider_is_known check (provider in ('anthropic', 'openai')),
  encrypted_key bytea not null
    constraint user_api_keys_ciphertext_is_bounded check (octet_length(encrypted_key) between 1 and 1024),
  encryption_iv bytea not null
    constraint user_api_keys_iv_is_96_bits check (octet_length(encryption_iv) = 12),
  encryption_tag bytea not null
    constraint user_api_keys_tag_is_128_bits check (octet_length(encryption_tag) = 16),
  encryption_key_id text not null,
  hint text not null
    constraint user_api_keys_hint_shows_four_characters check (char_length(hint) <= 5),
  is_active boolean not null default true,
  last_validated_at timestamptz,
  validation_error text,
  constraint user_api_keys_one_a_provider unique (user_id, provider)
);
comment on table public.user_api_keys is 'Keys that users brought, encrypted with AES-256-GCM. No plain text, ever.';
comment on column public.user_api_keys.id is 'Identifies the row.';
comment on column public.user_api_keys.created_at is 'When the key was stored.';
comment on column public.user_api_keys.updated_at is 'When the row last changed.';
comment on column public.user_api_keys.user_id is 'Whose key it is.';
comment on column public.user_api_keys.provider is 'anthropic or openai.';
comment on column public.user_api_keys.encrypted_key is 'Ciphertext. Not granted to any role.';
comment on column public.user_api_keys.encryption_iv is 'The nonce, 96 random bits. Not granted to any role.';
comment on column public.user_api_keys.encryption_tag is 'The authentication tag, 128 bits. Not granted to any role.';
comment on column public.user_api_keys.encryption_key_id is 'Which key of the ring encrypted it.';
comment on column public.user_api_keys.hint is 'The last four characters, for people to recognise it.';
comment on column public.user_api_keys.is_active is 'False once the provider rejected it.';
comment on column public.user_api_keys.last_validated_at is 'When the provider last accepted it; null: unchecked.';
comment on column public.user_api_keys.validation_error is 'Why the provider rejected it.';

create or replace trigger user_api_keys_touch before update on public.user_api_keys
  for each row execute function private.touch();

create or replace function private.note_own_key() returns trigger
language plpgsql security definer set search_path = ''
as $$
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
comment on function private.note_own_key() is 'Trigger: uses_byo_key says whether the user has an active key, at once. Runs as its owner: Auth deletes users.';
revoke all on function private.note_own_key() from public, anon, authenticated, service_role;

create or replace trigger user_api_keys_note_own_key
  after insert or delete or update of is_active on public.user_api_keys
  for each row execute function private.note_own_key();

alter table public.user_api_keys enable row level security;
alter table public.user_api_keys force row level security;
drop policy if exists "Users read about their own keys" on public.user_api_keys;
create policy "Users read about their own keys" on public.user_api_keys
  for select to authenticated using (user_id = (select auth.uid()));
revoke all on public.user_api_keys from public, anon, authenticated, service_role;
-- Neither role is granted encrypted_key, encryption_iv or encryption_tag: only functions hand them out.
grant select (id, created_at, updated_at, user_id, provider, encryption_key_id, hint, is_active, last_validated_at,
              validation_error)
  on public.user_api_keys to authenticated, service_role;


-- conversations -------------------------------------------------------------------------------------------------

create table if not exists public.conversations (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  external_id text
    constraint conversations_external_id_is_bounded check (char_length(external_id) between 1 and 128),
  title text
    constraint conversations_title_is_bounded check (char_length(title) <= 200),
  context_type text not null default 'general'
    constraint conversations_context_type_is_known check (
      context_type in ('general', 'mp', 'bill', 'dashboard', 'lobbying', 'spending')),
  context_id text
    constraint conversations_context_id_is_bounded check (char_length(context_id) <= 200),
  context_data jsonb,
  message_count public.quantity not null default 0,
  total_tokens bigint not null default 0
    constraint conversations_total_tokens_are_not_negative check (total_tokens >= 0),
  is_pinned boolean not null default false,
  is_archived boolean not null default false,
  expires_at timestamptz not null,
  last_message_at timestamptz not null default now(),
  constraint conversations_external_id_is_the_users_own unique (user_id, external_id)
);
create index if not exists conversations_newest_first_idx
  on public.conversations (user_id, last_message_at desc);
create index if not exists conversations_expires_at_idx on public.conversations (expires_at) where not is_pinned;

comment on table public.conversations is 'What users of a plan with history talked about. Other plans leave no row here.';
comment on column public.conversations.id is 'Identifies the conversation; the chat''s id where that is a UUID.';
comment on column public.conversations.created_at is 'When its first message was answered.';
comment on column public.conversations.updated_at is 'When the row last changed.';
comment on column public.conversations.user_id is 'Whose conversation it is.';
comment on column public.conversations.external_id is 'The chat''s id where that is not a UUID: the user''s own name for it.';
comment on column public.conversations.title is 'What lists show; starts as the beginning of the first question.';
comment on column public.conversations.context_type is 'The kind of page the user was on.';
comment on column public.conversations.context_id is 'What that page was about.';
comment on column public.conversations.context_data is 'What the client said about it.';
comment on column public.conversations.message_count is 'Messages in it; the position of the last one.';
comment on column public.conversations.total_tokens is 'Tokens of all its queries, replaced answers included.';
comment on column public.conversations.is_pinned is 'Kept past its expiry. Lapses with a plan that keeps no history.';
comment on column public.conversations.is_archived is 'Hidden from the user''s usual list.';
comment on column public.conversations.expires_at is 'When it may be deleted, unless it is pinned; set from the plan at each message, never by the client.';
comment on column public.conversations.last_message_at is 'When it was last answered.';

create or replace trigger conversations_touch before update on public.conversations
  for each row execute function private.touch();

create or replace function private.check_pin() returns trigger
language plpgsql set search_path = ''
as $$
begin
  if not exists (
    select from public.user_subscriptions s join public.plans p on p.tier = s.tier
    where s.user_id = new.user_id and p.history_days > 0) then
    raise insufficient_privilege using message = 'Your plan keeps no conversations, so none can be pinned.';
  end if;
  return new;
end
$$;
comment on function private.check_pin() is 'Trigger: conversations are pinned only on plans that keep them.';
revoke all on function private.check_pin() from public, anon, authenticated, service_role;

create or replace trigger conversations_check_pin
  before update of is_pinned on public.conversations for each row when (new.is_pinned and not old.is_pinned)
  execute function private.check_pin();

alter table public.conversations enable row level security;
alter table public.conversations force row level security;
drop policy if exists "Users read their own conversations" on public.conversations;
create policy "Users read their own conversations" on public.conversations
  for select to authenticated using (user_id = (select auth.uid()));
drop policy if exists "Users update their own conversations" on public.conversations;
create policy "Users update their own conversations" on public.conversations
  for update to authenticated using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
drop policy if exists "Users delete their own conversations" on public.conversations;
create policy "Users delete their own conversations" on public.conversations
  for delete to authenticated using (user_id = (select auth.uid()));
revoke all on public.conversations from public, anon, authenticated, service_role;
grant select on public.conversations to authenticated, service_role;
grant update (title, is_pinned, is_archived) on public.conversations to authenticated;
grant delete on public.conversations to authenticated;


-- messages ------------------------------------------------------------------------------------------------------

create table if not exists public.messages (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  conversation_id uuid not null references public.conversations (id) on delete cascade,
  position integer not null
    constraint messages_position_is_positive check (position > 0),
  role text not null
    constraint messages_role_is_known check (role in ('user', 'assistant', 'system')),
  external_id text
    constraint messages_external_id_is_bounded check (char_length(external_id) between 1 and 128),
  content text not null,
  tokens_input public.quantity not null default 0,
  tokens_output public.quantity not null default 0,
  tokens_total integer not null generated always as (tokens_input + tokens_output) stored,
  provider text,
  model text,
  used_byo_key boolean not null default false,
  function_calls jsonb,
  function_results jsonb,
  cost_usd public.usd not null default 0,
  constraint messages_position_is_taken_once unique (conversation_id, position)
);
comment on table public.messages is 'The questions and answers of a conversation, in order of position.';
comment on column public.messages.id is 'Identifies the message; for an answer, the id that the client was given.';
comment on column public.messages.created_at is 'When it was stored.';
comment on column public.messages.conversation_id is 'The conversation it belongs to.';
comment on column public.messages.position is '1 is the first of the conversation.';
comment on column public.messages.role is 'Who said it: user, assistant or system.';
comment on column public.messages.external_id is 'The id that the client gave the user''s message.';
comment on column public.messages.content is 'The text.';
comment on column public.messages.tokens_input is 'Tokens the model read for this answer, cached ones included.';
comment on column public.messages.tokens_output is 'Tokens the model wrote.';
comment on column public.messages.tokens_total is 'Both.';
comment on column public.messages.provider is 'Who answered: anthropic or openai.';
comment on column public.messages.model is 'The model that answered.';
comment on column public.messages.used_byo_key is 'Whether the user''s own key paid the provider.';
comment on column public.messages.function_calls is 'Tools the model called: [{id, name, input, step, at}]; at: how many characters of the text came before.';
comment on column public.messages.function_results is 'What they gave back, in the same order: [{id, output or error, sources: [{url, title}]}].';
comment on column public.messages.cost_usd is 'What the provider charges for it, US dollars.';

alter table public.messages enable row level security;
alter table public.messages force row level security;
drop policy if exists "Users read the messages of their own conversations" on public.messages;
create policy "Users read the messages of their own conversations" on public.messages
  for select to authenticated using (
    exists (select from public.conversations c
            where c.id = messages.conversation_id and c.user_id = (select auth.uid())));
revoke all on public.messages from public, anon, authenticated, service_role;
grant select on public.messages to authenticated, service_role;


-- packs ---------------------------------------------------------------------------------------------------------

create table if not exists public.packs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  slug text not null
    constraint packs_slug_is_unique unique
    constraint packs_slug_is_a_lookup_key check (slug ~ '^pack_[a-z0-9_]{1,40}$'),
  name text not null,
  credits integer not null
    constraint packs_credits_are_positive check (credits > 0),
  price_usd public.usd not null
    constraint packs_price_is_one_that_stripe_charges check (price_usd >= 0.5 and price_usd = round(price_usd, 2)),
  expires_after_days integer
    constraint packs_expiry_is_positive check (expires_after_days > 0),
  is_sold boolean not null default true
);
comment on table public.packs is 'The credit packs that are sold: the single source of their sizes and prices.';
comment on column public.packs.id is 'Identifies the row.';
comment on column public.packs.created_at is 'When the pack was added.';
comment on column public.packs.slug is 'What POST /checkout calls it; its lookup key at Stripe.';
comment on column public.packs.name is 'What people are shown.';
comment on column public.packs.credits is 'Queries that it pays for.';
comment on column public.packs.price_usd is 'US dollars, whole cents.';
comment on column public.packs.expires_after_days is 'Days after which what is left of it lapses; null: never.';
comment on column public.packs.is_sold is 'False: nobody can buy it any more; what was bought stays.';

insert into public.packs (slug, name, credits, price_usd)
values ('pack_100', '100 queries', 100, 2.25), ('pack_500', '500 queries', 500, 10)
on conflict (slug) do nothing;

alter table public.packs enable row level security;
alter table public.packs force row level security;
drop policy if exists "Anyone may read the packs" on public.packs;
create policy "Anyone may read the packs" on public.packs for select to anon, authenticated using (true);
revoke all on public.packs from public, anon, authenticated, service_role;
grant select on public.packs to anon, authenticated, service_role;


-- credit_packs --------------------------------------------------------------------------------------------------

create table if not exists public.credit_packs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  credits_purchased integer not null
    constraint credit_packs_credits_purchased_are_positive check (credits_purchased > 0),
  credits_remaining public.quantity not null,
  credits_used public.quantity not null default 0,
  credits_revoked public.quantity not null default 0,
  credits_to_revoke public.quantity not null default 0,
  credits_expired public.quantity not null default 0,
  is_frozen boolean not null default false,
  price_paid public.usd not null,
  price_per_credit public.usd not null generated always as (round(price_paid / credits_purchased, 6)) stored,
  stripe_payment_intent_id text
    constraint credit_packs_stripe_payment_intent_is_unique unique,
  stripe_checkout_session_id text
    constraint credit_packs_stripe_checkout_session_is_unique unique,
  stripe_sequence bigint not null default 0,
  expires_at timestamptz,
  depleted_at timestamptz,
  lapsed_at timestamptz,
  constraint credit_packs_no_credit_is_lost check (
    credits_remaining + credits_used + credits_revoked + credits_expired = credits_purchased)
);
create index if not exists credit_packs_to_lapse_idx on public.credit_packs (expires_at)
  where expires_at is not null and lapsed_at is null;
create index if not exists credit_packs_spending_order_idx
  on public.credit_packs (user_id, expires_at, created_at);

comment on table public.credit_packs is 'Prepaid queries. Changed only in the owner''s queue.';
comment on column public.credit_packs.id is 'Identifies the pack.';
comment on column public.credit_packs.created_at is 'When it was bought.';
comment on column public.credit_packs.user_id is 'Who bought it.';
comment on column public.credit_packs.credits_purchased is 'Queries it was bought with.';
comment on column public.credit_packs.credits_remaining is 'Queries it can still pay.';
comment on column public.credit_packs.credits_used is 'Queries it has paid, holds included.';
comment on column public.credit_packs.credits_revoked is 'Queries taken back by a refund or a lost dispute: of those due, what was left.';
comment on column public.credit_packs.credits_to_revoke is 'Queries that refunds and a lost dispute are worth. What was used before stays used.';
comment on column public.credit_packs.credits_expired is 'Queries that were left when it lapsed.';
comment on column public.credit_packs.is_frozen is 'Whether the payment is disputed: until that is settled the pack pays for nothing.';
comment on column public.credit_packs.price_paid is 'US dollars paid for the pack.';
comment on column public.credit_packs.price_per_credit is 'US dollars a query, to six decimals.';
comment on column public.credit_packs.stripe_payment_intent_id is 'The payment at Stripe.';
comment on column public.credit_packs.stripe_checkout_session_id is 'The checkout session at Stripe that it was bought in: granted once for each.';
comment on column public.credit_packs.stripe_sequence is 'The newest look at the payment at Stripe that the row tells of: an older one changes nothing.';
comment on column public.credit_packs.expires_at is 'When its remaining credits lapse; null: never.';
comment on column public.credit_packs.depleted_at is 'When its last credit was taken; null while some are left.';
comment on column public.credit_packs.lapsed_at is 'When what was left of it was written down as expired. It pays for nothing from expires_at on.';

alter table public.credit_packs enable row level security;
alter table public.credit_packs force row level security;
drop policy if exists "Users read their own credit packs" on public.credit_packs;
create policy "Users read their own credit packs" on public.credit_packs
  for select to authenticated using (user_id = (select auth.uid()));
revoke all on public.credit_packs from public, anon, authenticated, service_role;
grant select on public.credit_packs to authenticated, service_role;


-- query_holds ---------------------------------------------------------------------------------------------------

create table if not exists public.query_holds (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  tier text not null,
  funding public.query_funding not null,
  query_date date not null,
  credit_pack_id uuid references public.credit_packs (id) on delete cascade,
  overage_charge public.usd not null default 0,
  period_start timestamptz not null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  provider text not null,
  model text not null,
  expires_at timestamptz not null,
  chat_id text,
  progress text not null default '',
  followed_to public.quantity,
  is_closing boolean not null default false,
  stop_requested boolean not null default false,
  constraint query_holds_one_a_request unique (user_id, request_id)
);
create index if not exists query_holds_expires_at_idx on public.query_holds (expires_at);
create index if not exists query_holds_credit_pack_id_idx on public.query_holds (credit_pack_id)
  where credit_pack_id is not null;

comment on table public.query_holds is
  'Queries that were admitted and have not ended. Each has taken its funding, and remembers where from.';
comment on column public.query_holds.id is 'Identifies the query; its usage_logs row will have the same id.';
comment on column public.query_holds.created_at is 'When it was admitted.';
comment on column public.query_holds.user_id is 'Who asked.';
comment on column public.query_holds.request_id is 'The idempotency key: the same request is never charged twice.';
comment on column public.query_holds.tier is 'The user''s tier at admission.';
comment on column public.query_holds.funding is 'What pays: byok, included, credit or overage.';
comment on column public.query_holds.query_date is 'The UTC day of admission, whose quota it counts against.';
comment on column public.query_holds.credit_pack_id is 'The pack that pays.';
comment on column public.query_holds.overage_charge is 'US dollars held against the overage limit.';
comment on column public.query_holds.period_start is 'The overage period of admission.';
comment on column public.query_holds.quota_used is 'Included queries used just before this one, of the day or ever.';
comment on column public.query_holds.quota_limit is 'Included queries that the plan had then, a day or ever.';
comment on column public.query_holds.overage_used is 'US dollars of overage in the period just before this query.';
comment on column public.query_holds.overage_limit is 'US dollars of overage that were allowed then; null: none by the plan.';
comment on column public.query_holds.provider is 'Who is to answer.';
comment on column public.query_holds.model is 'The model that is to answer.';
comment on column public.query_holds.expires_at is 'After this the query is lost and its funding goes back.';
comment on column public.query_holds.chat_id is 'The chat that it belongs to, as the client names it.';
comment on column public.query_holds.progress is 'What has been said so far, for who resumes the answer in another process. Gone with the hold.';
comment on column public.query_holds.followed_to is 'How far another process has read that; null: none does.';
comment on column public.query_holds.is_closing is 'Whether the answer is about to be settled, when nobody may begin to follow it.';
comment on column public.query_holds.stop_requested is 'Whether the user wants it to end.';

alter table public.query_holds enable row level security;
alter table public.query_holds force row level security;
drop policy if exists "Users read their own holds" on public.query_holds;
create policy "Users read their own holds" on public.query_holds
  for select to authenticated using (user_id = (select auth.uid()));
revoke all on public.query_holds from public, anon, authenticated, service_role;
grant select on public.query_holds to authenticated, service_role;


-- overage_invoice_items -----------------------------------------------------------------------------------------

create table if not exists public.overage_invoice_items (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  period_start timestamptz not null,
  queries integer not null
    constraint overage_invoice_items_queries_are_positive check (queries > 0),
  unit_price_usd public.usd not null,
  amount_usd public.usd not null generated always as (queries * unit_price_usd) stored,
  amount_cents integer not null generated always as (floor(queries * unit_price_usd * 100)) stored,
  attempts public.quantity not null default 0,
  target jsonb not null,
  refusals public.quantity not null default 0,
  stripe_invoice_item_id text
    constraint overage_invoice_items_stripe_invoice_item_is_unique unique,
  stripe_invoice_id text
);
create index if not exists overage_invoice_items_user_id_idx on public.overage_invoice_items (user_id);
create index if not exists overage_invoice_items_created_at_idx on public.overage_invoice_items (created_at);
create index if not exists overage_invoice_items_open_idx on public.overage_invoice_items (user_id)
  where stripe_invoice_item_id is null or stripe_invoice_id is null;

comment on table public.overage_invoice_items is
  'What users are billed beyond their plans: one row a period and price, for the usage_logs rows that refer to it.';
comment on column public.overage_invoice_items.id is 'Identifies it, also at Stripe: metadata overage_invoice_item.';
comment on column public.overage_invoice_items.created_at is 'When its queries were taken together.';
comment on column public.overage_invoice_items.user_id is 'Who is billed.';
comment on column public.overage_invoice_items.period_start is 'The overage period of its queries.';
comment on column public.overage_invoice_items.queries is 'How many queries it bills.';
comment on column public.overage_invoice_items.unit_price_usd is 'US dollars a query.';
comment on column public.overage_invoice_items.amount_usd is 'US dollars, exactly.';
comment on column public.overage_invoice_items.amount_cents is 'US cents that Stripe is told: rounded down, in the user''s favour, here and nowhere else.';
comment on column public.overage_invoice_items.attempts is 'How often it was taken to Stripe. From the second time on, what is there already is looked for.';
comment on column public.overage_invoice_items.target is 'Where Stripe is asked to put it: {"invoice"}, a draft; {}: the customer''s next invoice takes it. Settled here, so that all who ask at once ask the same.';
comment on column public.overage_invoice_items.refusals is 'How many targets Stripe has refused for good.';
comment on column public.overage_invoice_items.stripe_invoice_item_id is 'The invoice item at Stripe; null: not there yet, as far as we know.';
comment on column public.overage_invoice_items.stripe_invoice_id is 'The invoice that it stands on; null: it waits for one.';

alter table public.overage_invoice_items enable row level security;
alter table public.overage_invoice_items force row level security;
drop policy if exists "Users read what they are billed" on public.overage_invoice_items;
create policy "Users read what they are billed" on public.overage_invoice_items
  for select to authenticated using (user_id = (select auth.uid()));
revoke all on public.overage_invoice_items from public, anon, authenticated, service_role;
grant select on public.overage_invoice_items to authenticated, service_role;


-- usage_logs ----------------------------------------------------------------------------------------------------

create table if not exists public.usage_logs (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  conversation_id uuid references public.conversations (id) on delete set null,
  message_id uuid references public.messages (id) on delete set null,
  tier text not null,
  funding public.query_funding not null,
  outcome public.query_outcome not null,
  query_date date not null,
  query_timestamp timestamptz not null,
  period_start timestamptz not null,
  credit_pack_id uuid references public.credit_packs (id) on delete set null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  tokens_input public.quantity not null default 0,
  tokens_output public.quantity not null default 0,
  tokens_total integer not null generated always as (tokens_input + tokens_output) stored,
  cache_read_tokens public.quantity not null default 0,
  cache_write_tokens public.quantity not null default 0,
  cost_usd public.usd not null default 0,
  provider text not null,
  model text not null,
  used_byo_key boolean not null,
  counted_against_quota boolean not null,
  was_overage boolean not null,
  overage_charge public.usd not null default 0,
  invoice_item_id uuid references public.overage_invoice_items (id)
);
create index if not exists usage_logs_user_day_idx on public.usage_logs (user_id, query_date);
create unique index if not exists usage_logs_a_request_is_charged_once
  on public.usage_logs (user_id, request_id) where outcome in ('answered', 'stopped');
create index if not exists usage_logs_conversation_id_idx on public.usage_logs (conversation_id)
  where conversation_id is not null;
create index if not exists usage_logs_message_id_idx on public.usage_logs (message_id)
  where message_id is not null;
create index if not exists usage_logs_credit_pack_id_idx on public.usage_logs (credit_pack_id)
  where credit_pack_id is not null;
create index if not exists usage_logs_invoice_item_id_idx on public.usage_logs (invoice_item_id)
  where invoice_item_id is not null;
create index if not exists usage_logs_not_billed_idx on public.usage_logs (user_id, query_timestamp)
  where was_overage and invoice_item_id is null;

comment on table public.usage_logs is 'The ledger: one row for every admitted query that ended, however it ended.';
comment on column public.usage_logs.id is 'Identifies the query; its hold had the same id, so it can only end once.';
comment on column public.usage_logs.created_at is 'When it ended.';
comment on column public.usage_logs.user_id is 'Who asked.';
comment on column public.usage_logs.request_id is 'The idempotency key.';
comment on column public.usage_logs.conversation_id is 'The conversation, while it is kept.';
comment on column public.usage_logs.message_id is 'The answer, while it is kept.';
comment on column public.usage_logs.tier is 'The user''s tier at admission.';
comment on column public.usage_logs.funding is 'What paid: byok, included, credit or overage.';
comment on column public.usage_logs.outcome is 'answered, stopped (both charged), failed or lost (both not charged).';
comment on column public.usage_logs.query_date is 'The UTC day of admission.';
comment on column public.usage_logs.query_timestamp is 'When it was admitted.';
comment on column public.usage_logs.period_start is 'The overage period of admission.';
comment on column public.usage_logs.credit_pack_id is 'The pack that paid, or got its credit back.';
comment on column public.usage_logs.quota_used is 'Included queries used just before this one was admitted, of the day or ever.';
comment on column public.usage_logs.quota_limit is 'Included queries that the plan had then, a day or ever.';
comment on column public.usage_logs.overage_used is 'US dollars of overage in the period just before this query was admitted.';
comment on column public.usage_logs.overage_limit is 'US dollars of overage that were allowed then; null: none by the plan.';
comment on column public.usage_logs.tokens_input is 'Tokens the model read, cached ones included.';
comment on column public.usage_logs.tokens_output is 'Tokens the model wrote.';
comment on column public.usage_logs.tokens_total is 'Both.';
comment on column public.usage_logs.cache_read_tokens is 'Of tokens_input, those read from the provider''s cache.';
comment on column public.usage_logs.cache_write_tokens is 'Of tokens_input, those written to the provider''s cache.';
comment on column public.usage_logs.cost_usd is 'What the provider charges for the query, US dollars.';
comment on column public.usage_logs.provider is 'Who answered.';
comment on column public.usage_logs.model is 'The model that answered.';
comment on column public.usage_logs.used_byo_key is 'Whether the user''s own key paid the provider.';
comment on column public.usage_logs.counted_against_quota is 'Whether it used up one included query.';
comment on column public.usage_logs.was_overage is 'Whether the user is charged for it beyond the plan.';
comment on column public.usage_logs.overage_charge is 'What the user is charged for it, US dollars.';
comment on column public.usage_logs.invoice_item_id is 'The invoice item that bills it; null: nothing to bill, or its period has not ended.';

alter table public.usage_logs enable row level security;
alter table public.usage_logs force row level security;
drop policy if exists "Users read their own usage" on public.usage_logs;
create policy "Users read their own usage" on public.usage_logs
  for select to authenticated using (user_id = (select auth.uid()));
revoke all on public.usage_logs from public, anon, authenticated, service_role;
grant select on public.usage_logs to authenticated, service_role;


-- query_refusals ------------------------------------------------------------------------------------------------

create table if not exists public.query_refusals (
  id uuid primary key,
  created_at timestamptz not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  reason text not null,
  requires_payment boolean not null,
  resets_at timestamptz,
  tier text not null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  constraint query_refusals_one_a_request unique (user_id, request_id)
);
create index if not exists query_refusals_newest_first_idx on public.query_refusals (user_id, created_at desc);

comment on table public.query_refusals is
  'Queries that were refused, the newest fifty of each user: why, and from which state. Nothing was taken for them.';
comment on column public.query_refusals.id is 'Identifies the attempt.';
comment on column public.query_refusals.created_at is 'When it was last refused.';
comment on column public.query_refusals.user_id is 'Who asked.';
comment on column public.query_refusals.request_id is 'The idempotency key of the request.';
comment on column public.query_refusals.reason is 'Why, in the words of can_user_query.';
comment on column public.query_refusals.requires_payment is 'Whether paying would have helped.';
comment on column public.query_refusals.resets_at is 'When it would be admitted without anyone''s doing; null: never.';
comment on column public.query_refusals.tier is 'The user''s tier then.';
comment on column public.query_refusals.quota_used is 'Included queries used then, of the day or ever.';
comment on column public.query_refusals.quota_limit is 'Included queries that the plan had then, a day or ever.';
comment on column public.query_refusals.overage_used is 'US dollars of overage in the period then.';
comment on column public.query_refusals.overage_limit is 'US dollars of overage that were allowed then; null: none by the plan.';

alter table public.query_refusals enable row level security;
alter table public.query_refusals force row level security;
drop policy if exists "Users read their own refusals" on public.query_refusals;
create policy "Users read their own refusals" on public.query_refusals
  for select to authenticated using (user_id = (select auth.uid()));
revoke all on public.query_refusals from public, anon, authenticated, service_role;
grant select on public.query_refusals to authenticated, service_role;


-- stripe_events -------------------------------------------------------------------------------------------------

create sequence if not exists private.stripe_sequence;
comment on sequence private.stripe_sequence is
  'Numbers each look at Stripe before it is taken, so that of two the later one can be told.';
revoke all on sequence private.stripe_sequence from public, anon, authenticated, service_role;

create table if not exists public.stripe_events (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  event_id text not null
    constraint stripe_events_one_an_event unique,
  type text not null,
  attempts public.quantity not null default 0,
  last_error text,
  processed_at timestamptz
);
create index if not exists stripe_events_not_processed_idx on public.stripe_events (created_at)
  where processed_at is null;
create index if not exists stripe_events_processed_at_idx on public.stripe_events (processed_at);
comment on table public.stripe_events is 'Webhook events from Stripe that mean something here, and whether they have been dealt with.';
comment on column public.stripe_events.id is 'Identifies the row.';
comment on column public.stripe_events.created_at is 'When it was first delivered.';
comment on column public.stripe_events.event_id is 'The event''s id at Stripe.';
comment on column public.stripe_events.type is 'What happened, in Stripe''s words.';
comment on column public.stripe_events.attempts is 'How often dealing with it was begun.';
comment on column public.stripe_events.last_error is 'The kind of failure that the last attempt ended with; null: none, or none yet.';
comment on column public.stripe_events.processed_at is 'When its effect was committed; null: another delivery or the sweep has to.';

alter table public.stripe_events enable row level security;
alter table public.stripe_events force row level security;
revoke all on public.stripe_events from public, anon, authenticated, service_role;
grant select on public.stripe_events to service_role;


-- retained books -----------------------------------------------------------------------------------------------

create table if not exists public.retained_usage (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  month date not null,
  tier text not null,
  provider text not null,
  model text not null,
  funding public.query_funding not null,
  outcome public.query_outcome not null,
  queries bigint not null,
  tokens_input bigint not null,
  tokens_output bigint not null,
  cost_usd public.usd not null,
  overage_usd public.usd not null,
  credits_usd public.usd not null,
  written_off_usd public.usd not null,
  constraint retained_usage_one_a_kind unique (month, tier, provider, model, funding, outcome)
);
comment on table public.retained_usage is
  'The ledger of users who were deleted, as sums that name nobody: what the books need of it.';
comment on column public.retained_usage.id is 'Identifies the row.';
comment on column public.retained_usage.created_at is 'When the first of its users was deleted.';
comment on column public.retained_usage.month is 'The first day of the UTC month of admission.';
comment on column public.retained_usage.tier is 'As in usage_logs, like the columns that follow.';
comment on column public.retained_usage.provider is 'Who answered.';
comment on column public.retained_usage.model is 'The model that answered.';
comment on column public.retained_usage.funding is 'What paid.';
comment on column public.retained_usage.outcome is 'How the queries ended.';
comment on column public.retained_usage.queries is 'How many.';
comment on column public.retained_usage.tokens_input is 'Tokens that the model read.';
comment on column public.retained_usage.tokens_output is 'Tokens that the model wrote.';
comment on column public.retained_usage.cost_usd is 'What the provider charged, US dollars.';
comment on column public.retained_usage.overage_usd is 'What was charged as overage, US dollars.';
comment on column public.retained_usage.credits_usd is 'What the credits that paid had cost, US dollars.';
comment on column public.retained_usage.written_off_usd is 'Of overage_usd, what never came to Stripe.';

alter table public.retained_usage enable row level security;
alter table public.retained_usage force row level security;
revoke all on public.retained_usage from public, anon, authenticated, service_role;
grant select on public.retained_usage to service_role;

create table if not exists public.retained_invoice_items (
  id uuid primary key,
  created_at timestamptz not null,
  period_start timestamptz not null,
  queries integer not null,
  unit_price_usd public.usd not null,
  amount_usd public.usd not null,
  amount_cents integer not null,
  stripe_invoice_item_id text,
  stripe_invoice_id text
);
create index if not exists retained_invoice_items_created_at_idx on public.retained_invoice_items (created_at);
comment on table public.retained_invoice_items is
  'overage_invoice_items of users who were deleted: Stripe still has the invoices that they stand on.';
comment on column public.retained_invoice_items.id is 'As it was; also at Stripe.';
comment on column public.retained_invoice_items.created_at is 'As it was.';
comment on column public.retained_invoice_items.period_start is 'As it was.';
comment on column public.retained_invoice_items.queries is 'As it was.';
comment on column public.retained_invoice_items.unit_price_usd is 'As it was.';
comment on column public.retained_invoice_items.amount_usd is 'As it was.';
comment on column public.retained_invoice_items.amount_cents is 'As it was.';
comment on column public.retained_invoice_items.stripe_invoice_item_id is 'As it was.';
comment on column public.retained_invoice_items.stripe_invoice_id is 'As it was.';

alter table public.retained_invoice_items enable row level security;
alter table public.retained_invoice_items force row level security;
revoke all on public.retained_invoice_items from public, anon, authenticated, service_role;
grant select on public.retained_invoice_items to service_role;
