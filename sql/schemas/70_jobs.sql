-- Scheduled jobs. Each call does a bounded batch, so that no user waits long for a lock, and returns how much it did:
-- call until 0. A job may run twice, or at the same time as itself.

create or replace function public.reset_monthly_overages() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_user_id uuid;
  v_reset integer := 0;
begin
  -- Admission does the same for users who ask something. The amount owed stays in usage_logs.
  for v_user_id in
    select s.user_id from public.user_subscriptions s
    where s.current_overage_amount > 0
      and (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start > s.overage_period_start
    limit 500
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));
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
  'Resets the overage counter of ended periods, at most 500 per call. Returns how many. Call until 0. The amounts owed '
  'stay in usage_logs.';
revoke all on function public.reset_monthly_overages() from public, anon, authenticated, service_role;
grant execute on function public.reset_monthly_overages() to service_role;


create or replace function public.expire_credits() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_pack record;
  v_lapsed integer := 0;
begin
  -- Admission ignores expired packs already. This records the expiry and updates the tier.
  for v_pack in
    select c.id, c.user_id from public.credit_packs c
    where c.expires_at <= v_at and c.lapsed_at is null
    order by c.expires_at limit 200
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_pack.user_id, 0));
    update public.credit_packs c set credits_expired = c.credits_remaining, credits_remaining = 0, lapsed_at = v_at
    where c.id = v_pack.id and c.lapsed_at is null;
    if found then
      perform private.set_tier_from_packs(v_pack.user_id);
      v_lapsed := v_lapsed + 1;
    end if;
  end loop;
  return v_lapsed;
end
$$;
comment on function public.expire_credits() is
  'Records the remaining credits of expired packs as expired, at most 200 packs per call, and returns users without '
  'another pack to the free tier. Returns how many packs. Call until 0.';
revoke all on function public.expire_credits() from public, anon, authenticated, service_role;
grant execute on function public.expire_credits() to service_role;


create or replace function public.purge_events() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_deleted integer;
begin
  -- Stripe redelivers nothing after thirty days. Unprocessed events stay, so that reconcile reports them.
  delete from public.stripe_events e where e.id in (
    select old.id from public.stripe_events old
    where old.processed_at < private.clock() - interval '90 days'
    order by old.processed_at limit 1000 for update skip locked);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end
$$;
comment on function public.purge_events() is
  'Deletes Stripe events that were processed more than 90 days ago, at most 1,000 per call. Returns how many. Call '
  'until 0.';
revoke all on function public.purge_events() from public, anon, authenticated, service_role;
grant execute on function public.purge_events() to service_role;
