-- Settings that operators change while the product runs: one row.

create table if not exists public.settings (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  is_only_row boolean not null default true
    constraint settings_has_one_row unique
    constraint settings_row_is_the_only_one check (is_only_row),
  currency public.currency not null default 'usd'
    constraint settings_currency_is_unique unique,
  usd_per_unit numeric(12,6) not null default 1
    constraint settings_rate_is_positive check (usd_per_unit > 0),
  free_daily_budget_usd public.usd,
  platform_daily_budget_usd public.usd,
  sign_ups_paused_at timestamptz,
  constraint settings_rate_of_us_dollars_is_one check ((currency = 'usd') = (usd_per_unit = 1))
);
comment on table public.settings is 'Settings that operators change with SQL, in one row. They apply at once.';
comment on column public.settings.id is 'Identifies the row.';
comment on column public.settings.created_at is 'When the row was added.';
comment on column public.settings.is_only_row is 'Always true: there is one row.';
comment on column public.settings.currency is
  'The currency of all prices: plans and packs refer to it. It can change until the first charge.';
comment on column public.settings.usd_per_unit is
  'US dollars for one unit of the currency, to compare income with our cost. The reports use it, no charge does.';
comment on column public.settings.free_daily_budget_usd is
  'What all free users together may cost us at the providers per UTC day, US dollars. From then on free users are '
  'refused until midnight. Null: no limit.';
comment on column public.settings.platform_daily_budget_usd is
  'What all users together may cost us at the providers per UTC day, US dollars. From then on free users are refused '
  'until midnight; all others are not. Null: no limit.';
comment on column public.settings.sign_ups_paused_at is
  'Since when an operator has paused sign-ups. Null: everyone may sign up.';

insert into public.settings (free_daily_budget_usd, platform_daily_budget_usd) values (20, 200)
on conflict (is_only_row) do nothing;

create or replace function private.keep_currency() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if exists (select from public.user_subscriptions s where s.stripe_subscription_id is not null)
     or exists (select from public.usage_logs u where u.overage_charge > 0)
     or exists (select from public.query_holds h where h.overage_charge > 0)
     or exists (select from public.credit_packs c where c.price_paid > 0)
     or exists (select from public.retained_usage r where r.overage_usd > 0 or r.credits_usd > 0)
     or exists (select from public.retained_invoice_items)
  then
    raise check_violation using
      message = 'The currency cannot change: there are subscriptions or charges in ' || old.currency || '.';
  end if;
  return new;
end
$$;
comment on function private.keep_currency() is
  'Trigger: refuses another currency once something was sold, because amounts are stored without their currency.';
revoke all on function private.keep_currency() from public, anon, authenticated, service_role;

create or replace trigger settings_keep_currency before update on public.settings
  for each row when (old.currency is distinct from new.currency) execute function private.keep_currency();

alter table public.settings enable row level security;
alter table public.settings force row level security;
revoke all on public.settings from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Operators are postgres.
