-- The ledger: one row for every query that ended.

create table if not exists public.usage_logs (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  chat_key uuid,
  question_digest uuid,
  conversation_id uuid references public.conversations (id) on delete set null,
  message_id uuid references public.messages (id) on delete set null,
  tier text not null,
  funding public.query_funding not null,
  outcome public.query_outcome not null,
  finish_reason public.finish_reason,
  is_charged boolean not null,
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
  tokens_total integer not null default 0,
  cache_read_tokens public.quantity not null default 0,
  cache_write_tokens public.quantity not null default 0,
  cost_usd public.usd not null default 0,
  provider text not null,
  model text not null,
  used_byo_key boolean not null,
  counted_against_quota boolean not null,
  was_overage boolean not null,
  overage_charge public.usd not null default 0,
  invoice_item_id uuid references public.overage_invoice_items (id),
  reversed_at timestamptz
);
create index if not exists usage_logs_user_day_idx on public.usage_logs (user_id, query_date);
create unique index if not exists usage_logs_a_request_is_charged_once
  on public.usage_logs (user_id, request_id, chat_key) nulls not distinct where is_charged;
create index if not exists usage_logs_conversation_id_idx on public.usage_logs (conversation_id)
  where conversation_id is not null;
create index if not exists usage_logs_message_id_idx on public.usage_logs (message_id)
  where message_id is not null;
create index if not exists usage_logs_credit_pack_id_idx on public.usage_logs (credit_pack_id)
  where credit_pack_id is not null;
create index if not exists usage_logs_invoice_item_id_idx on public.usage_logs (invoice_item_id)
  where invoice_item_id is not null;
create index if not exists usage_logs_not_billed_idx on public.usage_logs (user_id, query_timestamp)
  where was_overage and invoice_item_id is null and reversed_at is null;

comment on table public.usage_logs is 'The ledger: one row for every admitted query that ended, with any outcome.';
comment on column public.usage_logs.id is
  'Identifies the query. Equal to the id of its hold, so a query ends only once.';
comment on column public.usage_logs.created_at is 'When the query ended.';
comment on column public.usage_logs.user_id is 'The user.';
comment on column public.usage_logs.request_id is 'With chat_key the idempotency key.';
comment on column public.usage_logs.chat_key is 'As in query_holds. It identifies the chat without its name.';
comment on column public.usage_logs.question_digest is 'As in query_holds.';
comment on column public.usage_logs.conversation_id is 'The conversation, while it is stored.';
comment on column public.usage_logs.message_id is 'The answer, while it is stored.';
comment on column public.usage_logs.tier is 'The tier of the user at admission.';
comment on column public.usage_logs.funding is 'What paid: byok, included, credit or overage.';
comment on column public.usage_logs.outcome is 'answered, stopped, failed or lost.';
comment on column public.usage_logs.finish_reason is 'Why the answer ended. Null: it failed or was lost.';
comment on column public.usage_logs.is_charged is 'Whether the outcome is charged.';
comment on column public.usage_logs.query_date is 'The UTC day of admission.';
comment on column public.usage_logs.query_timestamp is 'When the query was admitted.';
comment on column public.usage_logs.period_start is 'The overage period of admission.';
comment on column public.usage_logs.credit_pack_id is 'The credit pack that paid, or that got its credit back.';
comment on column public.usage_logs.quota_used is
  'Included queries used before this one was admitted, of the day or in total.';
comment on column public.usage_logs.quota_limit is 'The quota at that time, per day or in total.';
comment on column public.usage_logs.overage_used is 'Overage in the period before this query was admitted, dollars.';
comment on column public.usage_logs.overage_limit is
  'The overage limit at that time, dollars. Null: the plan had no overage.';
comment on column public.usage_logs.tokens_input is 'Input tokens, cached ones included.';
comment on column public.usage_logs.tokens_output is 'Output tokens.';
comment on column public.usage_logs.tokens_total is 'Input and output tokens.';
comment on column public.usage_logs.cache_read_tokens is 'Input tokens that were read from the provider''s cache.';
comment on column public.usage_logs.cache_write_tokens is 'Input tokens that were written to the provider''s cache.';
comment on column public.usage_logs.cost_usd is 'The cost at the provider, US dollars.';
comment on column public.usage_logs.provider is 'The provider that answered.';
comment on column public.usage_logs.model is 'The model that answered.';
comment on column public.usage_logs.used_byo_key is 'Whether the user''s own key paid.';
comment on column public.usage_logs.counted_against_quota is 'Whether the query used one included query.';
comment on column public.usage_logs.was_overage is 'Whether the query is charged as overage.';
comment on column public.usage_logs.overage_charge is 'The overage charge, dollars.';
comment on column public.usage_logs.invoice_item_id is
  'The invoice item that bills the query. Null: nothing to bill, or the period has not ended.';
comment on column public.usage_logs.reversed_at is
  'When an operator gave the charge back. usage_reversals has the reversing entry. Null: it stands.';

alter table public.usage_logs enable row level security;
alter table public.usage_logs force row level security;
drop policy if exists "Users read their own usage" on public.usage_logs;
create policy "Users read their own usage" on public.usage_logs
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.usage_logs from public, anon, authenticated, service_role;
grant select on public.usage_logs to authenticated, service_role;
