-- What the scheduler calls. Every function may run twice, or beside itself.

create or replace function public.reset_monthly_overages() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_user_id uuid;
  v_reset integer := 0;
begin
  -- Admission does the same for whoever asks something; this is for the rest. What is owed stays in usage_logs.
  for v_user_id in
    select s.user_id from public.user_subscriptions s
    where s.current_overage_amount > 0
      and (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start > s.overage_period_start
    order by s.user_id
  loop
    perform pg_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));
    update public.user_subscriptions s set
      current_overage_amount = 0,
      overage_period_start = (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start
    where s.user_id = v_user_id
      and (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start > s.overage_period_start;
    v_reset := v_reset + case when found then 1 else 0 end;
  end loop;
  return v_reset;
end
$$;
comment on function public.reset_monthly_overages() is
  'Starts the overage counter of every period that has ended anew; returns how many. Forgets no money.';
revoke all on function public.reset_monthly_overages() from public, anon, authenticated, service_role;
grant execute on function public.reset_monthly_overages() to service_role;


create or replace function public.cleanup_expired_conversations() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_deleted integer;
begin
  with expired as (
    select c.id
    from public.conversations c
    -- Clearing two columns of a usage_logs row makes Postgres look at its user again: whoever is being deleted is
    -- left to that, and who is not can wait for us.
    join auth.users u on u.id = c.user_id
    join public.user_subscriptions s on s.user_id = c.user_id
    join public.plans p on p.tier = s.tier
    where c.expires_at <= v_at and not (c.is_pinned and p.history_days > 0)
    order by c.expires_at
    limit 1000
    for key share of u skip locked
    for update of c skip locked
  )
  delete from public.conversations c using expired e where c.id = e.id;
  get diagnostics v_deleted = row_count;
  return v_deleted;
end
$$;
comment on function public.cleanup_expired_conversations() is
  'Deletes conversations past their expiry with their messages, at most 1,000 a call; returns how many. Pinned ones '
  'stay while the plan keeps history. Call it until 0.';
revoke all on function public.cleanup_expired_conversations() from public, anon, authenticated, service_role;
grant execute on function public.cleanup_expired_conversations() to service_role;
