-- The tiers: quotas, prices, retention and models. One row a tier.
-- The rows are part of this file. A later change of them is written by hand into a migration.

create table if not exists public.plans (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  tier text not null
    constraint plans_tier_is_unique unique
    constraint plans_tier_is_known check (tier in ('free', 'basic', 'pro', 'usage_only')),
  name text not null,
  currency public.currency not null default 'usd'
    constraint plans_currency_is_that_of_all_prices references public.settings (currency) on update cascade,
  price_usd public.usd not null
    constraint plans_price_is_one_that_stripe_charges check (price_usd = round(price_usd, 2)),
  daily_quota public.quantity,
  lifetime_quota public.quantity,
  overage_price_usd public.usd
    constraint plans_overage_price_is_positive check (overage_price_usd > 0),
  overage_limit_usd public.usd,
  overage_threshold_usd public.usd
    constraint plans_overage_threshold_is_positive check (overage_threshold_usd > 0),
  allows_credits boolean not null,
  allows_byok boolean not null,
  history_days public.quantity not null,
  query_cost_limit_usd public.usd not null,
  failed_cost_limit_usd public.usd not null,
  concurrent_queries integer not null
    constraint plans_concurrent_queries_are_positive check (concurrent_queries > 0),
  models jsonb not null
    constraint plans_models_are_lists_by_provider check (
      (jsonb_typeof(models -> 'anthropic') = 'array' and jsonb_typeof(models -> 'openai') = 'array'
       and not jsonb_path_exists(models, 'strict $.*[*] ? (@.type() != "string" || @ == "")', '{}', true)) is true),
  own_key_models jsonb not null default '{"anthropic": [], "openai": []}'
    constraint plans_own_key_models_are_lists_by_provider check (
      (jsonb_typeof(own_key_models -> 'anthropic') = 'array' and jsonb_typeof(own_key_models -> 'openai') = 'array'
       and not jsonb_path_exists(own_key_models, 'strict $.*[*] ? (@.type() != "string" || @ == "")', '{}', true))
      is true),
  paused_at timestamptz,
  paused_providers text[] not null default '{}',
  overage_repriced_at timestamptz,
  constraint plans_has_one_kind_of_quota check (num_nonnulls(daily_quota, lifetime_quota) = 1),
  constraint plans_overage_has_price_and_limit check ((overage_price_usd is null) = (overage_limit_usd is null))
);
create index if not exists plans_currency_idx on public.plans (currency);
comment on table public.plans is 'One row a tier: the single source of quotas, prices, retention and models.';
comment on column public.plans.id is 'Identifies the row.';
comment on column public.plans.created_at is 'When the plan was added.';
comment on column public.plans.tier is 'free, basic, pro or usage_only. Subscriptions refer to it.';
comment on column public.plans.name is 'The name that users see.';
comment on column public.plans.currency is
  'The currency of price_usd and the overage columns, that of all plans and packs. Costs are always US dollars.';
comment on column public.plans.price_usd is 'The price a month, in the currency.';
comment on column public.plans.daily_quota is 'Included queries per UTC day. Null if the quota is a lifetime quota.';
comment on column public.plans.lifetime_quota is 'Included queries in total. Null if the quota is daily.';
comment on column public.plans.overage_price_usd is
  'The price of a query beyond the quota, in the currency. Null: no overage.';
comment on column public.plans.overage_limit_usd is
  'The default overage limit, in the currency: of a period, and of what a user owes over all periods. Users may set '
  'their own.';
comment on column public.plans.overage_threshold_usd is
  'What a user may owe in overage until it is invoiced within the period, in the currency. Null: the limit.';
comment on column public.plans.allows_credits is 'Whether prepaid credit packs pay for queries.';
comment on column public.plans.allows_byok is 'Whether users may use their own provider key.';
comment on column public.plans.history_days is
  'Days a conversation is stored after its last message. 0: nothing is stored.';
comment on column public.plans.query_cost_limit_usd is
  'The most that one query may cost us at the provider, US dollars. docs/pricing.md has its reason.';
comment on column public.plans.failed_cost_limit_usd is
  'What a user''s failed queries may cost us at the provider per UTC day, US dollars. From then on the user is refused '
  'until midnight, except on an own key.';
comment on column public.plans.concurrent_queries is 'How many queries of a user may run at the same time.';
comment on column public.plans.models is
  'The models of the tier by provider: {anthropic: [...], openai: [...]}. The first is the default.';
comment on column public.plans.own_key_models is
  'Further models by provider, for queries that an own key pays for: too dear for the price of the plan.';
comment on column public.plans.paused_at is
  'Since when an operator has paused the chat. Null: it runs. Here, because admit_query reads this row anyway.';
comment on column public.plans.paused_providers is
  'The providers that an operator has paused. Their models are left out.';
comment on column public.plans.overage_repriced_at is
  'When overage_price_usd last changed. reconcile compares the overage since then with it. Null: never.';

create or replace function private.note_overage_price() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  new.overage_repriced_at := private.clock();
  return new;
end
$$;
comment on function private.note_overage_price() is 'Trigger: records when overage_price_usd changes.';
revoke all on function private.note_overage_price() from public, anon, authenticated, service_role;

create or replace trigger plans_note_overage_price before update on public.plans
  for each row when (old.overage_price_usd is distinct from new.overage_price_usd)
  execute function private.note_overage_price();

insert into public.plans (tier, name, price_usd, daily_quota, lifetime_quota, overage_price_usd, overage_limit_usd,
                          allows_credits, allows_byok, history_days, query_cost_limit_usd, failed_cost_limit_usd,
                          concurrent_queries, models, own_key_models)
values
  ('free', 'Free', 0, null, 10, null, null, false, false, 0, 0.01, 0.02, 1,
   '{"anthropic": ["claude-haiku-5-5"], "openai": ["gpt-6-luna"]}', default),
  ('basic', 'Basic', 9.99, 15, null, 0.025, 10, true, true, 30, 0.03, 0.05, 3,
   '{"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}', default),
  ('pro', 'Pro', 29.99, 40, null, 0.025, 10, true, true, 90, 0.035, 0.2, 3,
   '{"anthropic": ["claude-sonnet-5-5", "claude-haiku-5-5"], "openai": ["gpt-6-sol", "gpt-6-luna"]}',
   '{"anthropic": ["claude-opus-5-5"], "openai": ["gpt-6-astra"]}'),
  ('usage_only', 'Pay as you go', 0, 0, null, 0.025, 10, true, true, 0, 0.03, 0.05, 3,
   '{"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}', default)
on conflict (tier) do nothing;

alter table public.plans enable row level security;
alter table public.plans force row level security;
drop policy if exists "Signed-in users read the plans" on public.plans;
create policy "Signed-in users read the plans" on public.plans
  for select to authenticated using ((select private.check_statement()));
revoke all on public.plans from public, anon, authenticated, service_role;
-- usage_summary and can_user_query read them with the rights of the user. Visitors get them from GET /plans.
grant select on public.plans to authenticated, service_role;
