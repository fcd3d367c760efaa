-- When the jobs run: pg_cron calls the functions of the same names, where the platform has it. Its clock is UTC.
-- Where it is missing this file schedules nothing and says so; it can run again once pg_cron is there.

do $migration$
declare
  -- A block at top level, because it may commit, which a procedure that sets its search_path may not.
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
    -- After each batch, so that nobody waits for a lock longer than one takes.
    commit;
    v_took := clock_timestamp() - v_began;
    -- Supabase ends a statement of postgres after two minutes. What is left waits for the next run.
    exit when v_done = 0 or clock_timestamp() + 5 * v_took > v_end;
    -- Most of the time is the users'.
    perform pg_sleep_for(4 * v_took);
  end loop;
end
$job$
$command$;
  -- pg_cron keeps every run for ever. Other people's runs are theirs.
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
    raise notice 'pg_cron is not available: no job is scheduled, and holds, conversations and credits that expire stay '
      'until something else calls the functions.';
    return;
  end if;

  create extension if not exists pg_cron with schema pg_catalog;
  -- By name: a job that is there already is made to be this one.
  for v_name, v_schedule in
    values
      ('release-stale-holds', '*/5 * * * *'),
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
  raise notice 'pg_cron cannot be used in this database (%): no job is scheduled. Run this file again once it can.', sqlerrm;
end
$migration$;
