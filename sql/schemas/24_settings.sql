-- Settings that operators change while the product runs: one row.

create table if not exists public.settings (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  is_only_row boolean not null default true
    constraint settings_has_one_row unique
    constraint settings_row_is_the_only_one check (is_only_row),
  free_daily_budget_usd public.usd,
  platform_daily_budget_usd public.usd,
  sign_ups_paused_at timestamptz
);
comment on table public.settings is 'Settings that operators change with SQL, in one row. They apply at once.';
comment on column public.settings.id is 'Identifies the row.';
comment on column public.settings.created_at is 'When the row was added.';
comment on column public.settings.is_only_row is 'Always true: there is one row.';
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

alter table public.settings enable row level security;
alter table public.settings force row level security;
revoke all on public.settings from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Operators are postgres.
