-- The ledger of deleted users, as sums without any user.

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
  'The ledger of deleted users as monthly sums, for accounting. Contains no user data.';
comment on column public.retained_usage.id is 'Identifies the row.';
comment on column public.retained_usage.created_at is 'When the first of these users was deleted.';
comment on column public.retained_usage.month is 'The first day of the UTC month of admission.';
comment on column public.retained_usage.tier is 'The tier at admission, as in usage_logs.';
comment on column public.retained_usage.provider is 'The provider that answered.';
comment on column public.retained_usage.model is 'The model that answered.';
comment on column public.retained_usage.funding is 'What paid.';
comment on column public.retained_usage.outcome is 'How the queries ended.';
comment on column public.retained_usage.queries is 'The number of queries.';
comment on column public.retained_usage.tokens_input is 'Input tokens.';
comment on column public.retained_usage.tokens_output is 'Output tokens.';
comment on column public.retained_usage.cost_usd is 'The cost at the provider, US dollars.';
comment on column public.retained_usage.overage_usd is 'Overage charges, dollars.';
comment on column public.retained_usage.credits_usd is 'The price of the credits spent, dollars.';
comment on column public.retained_usage.written_off_usd is 'The part of overage_usd that was never billed.';

alter table public.retained_usage enable row level security;
alter table public.retained_usage force row level security;
revoke all on public.retained_usage from public, anon, authenticated, service_role;
grant select on public.retained_usage to service_role;
