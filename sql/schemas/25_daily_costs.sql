-- What the day's queries cost us at the providers, for the daily budgets in public.settings.
--
-- The sums are spread over 32 rows. Each connection adds to one of them, so queries that end at the same time hardly
-- ever wait for each other. The rows exist from the start and go on to the next day by themselves.

create table if not exists public.daily_costs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  shard integer not null
    constraint daily_costs_shard_is_unique unique,
  day date not null,
  free_usd public.usd not null default 0,
  total_usd public.usd not null default 0
) with (fillfactor = 25); -- room for new versions of the rows on their page
comment on table public.daily_costs is
  'Our cost of the queries of a UTC day at the providers, spread over 32 rows: the sum over the rows of the day.';
comment on column public.daily_costs.id is 'Identifies the row.';
comment on column public.daily_costs.created_at is 'When the row was added.';
comment on column public.daily_costs.shard is 'Numbers the rows from 0.';
comment on column public.daily_costs.day is 'The UTC day that the row counts: the admission of its queries.';
comment on column public.daily_costs.free_usd is 'The cost of free users, US dollars.';
comment on column public.daily_costs.total_usd is 'The cost of all users, except on their own keys, US dollars.';

insert into public.daily_costs (shard, day)
select shard, (private.clock() at time zone 'UTC')::date from generate_series(0, 31) shard
on conflict (shard) do nothing;

alter table public.daily_costs enable row level security;
alter table public.daily_costs force row level security;
revoke all on public.daily_costs from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.
