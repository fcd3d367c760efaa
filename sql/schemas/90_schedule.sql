-- The schedule of the jobs, if pg_cron is available. Each job calls the function of the same name. Times are UTC.
-- Without pg_cron this file schedules nothing and raises a notice. It can run again once pg_cron is available.

do $migration$
declare
  -- A top-level block, because it may commit. A procedure that sets search_path may not.
  v_work constant text := $command$
do $job$
declare
  v_end constant timestamptz := clock_timestamp() + interval '100 seconds';
  v_began timestamptz;
  v_took interval;
  v_done integer;
begin
  loop
    v_began := clock_timestamp();
    v_done := public.%I();
    -- Commit after each batch, so that no lock is held longer than one batch takes.
    commit;
    v_took := clock_timestamp() - v_began;
    -- Supabase cancels a statement after two minutes. The next run does the rest.
    exit when v_done = 0 or clock_timestamp() + 5 * v_took > v_end;
    -- Leave four fifths of the time to users.
    perform pg_sleep_for(4 * v_took);
  end loop;
end
$job$
$command$;
  -- pg_cron never deletes its log. Delete only the runs of these jobs.
  v_purge constant text := $command$
delete from cron.job_run_details
where runid in (
  select r.runid
  from cron.job_run_details r
  join cron.job j on j.jobid = r.jobid
  where j.jobname = any (%L::text[]) and coalesce(r.end_time, r.start_time) < now() - interval '14 days'
  order by r.runid
  limit 10000
)
$command$;
  v_names text[] := array['purge-job-runs'];
  v_name text;
  v_schedule text;
begin
  if not exists (select from pg_available_extensions where name = 'pg_cron') then
    raise notice 'pg_cron is not available, so no job is scheduled. Expired holds, conversations and credits stay '
      'until something else calls the functions.';
    return;
  end if;

  create extension if not exists pg_cron with schema pg_catalog;
  -- cron.schedule replaces a job of the same name.
  for v_name, v_schedule in
    values
      ('release-stale-holds', '* * * * *'),
      ('apply-pending-turns', '*/5 * * * *'),
      ('reset-monthly-overages', '0 0 1 * *'),
      ('expire-credits', '10 0 * * *'),
      ('cleanup-expired-conversations', '0 2 * * *'),
      ('purge-events', '0 3 * * *')
  loop
    perform cron.schedule(v_name, v_schedule, format(v_work, replace(v_name, '-', '_')));
    v_names := v_names || v_name;
  end loop;
  perform cron.schedule('purge-job-runs', '30 3 * * *', format(v_purge, v_names));
exception when others then
  raise notice 'pg_cron cannot be used in this database (%), so no job is scheduled. Run this file again once it can.',
    sqlerrm;
end
$migration$;
