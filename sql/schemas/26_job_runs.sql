-- When each scheduled job last succeeded, so that one that no longer runs is noticed.

create table if not exists public.job_runs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  job text not null
    constraint job_runs_job_is_unique unique
    constraint job_runs_job_is_bounded check (char_length(job) between 1 and 100),
  finished_at timestamptz not null
);
comment on table public.job_runs is 'When each scheduled job of the maintenance function last succeeded.';
comment on column public.job_runs.id is 'Identifies the row.';
comment on column public.job_runs.created_at is 'When the row was added.';
comment on column public.job_runs.job is 'The name of the job, such as reconcile.';
comment on column public.job_runs.finished_at is
  'When it last ended without an error. Before its first end: when the row was added.';

alter table public.job_runs enable row level security;
alter table public.job_runs force row level security;
revoke all on public.job_runs from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.
