-- What the scheduler calls. Every function does a bounded part, so that nobody waits long for a lock, and says how much
-- that was: called again until it says 0. Each may run twice, or beside itself.


-- Users -----------------------------------------------------------------------------------------------------------

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
  'Starts the overage counter of periods that have ended anew, at most 500 a call; returns how many. Call it until 0. '
  'Forgets no money.';
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
  -- Admission takes nothing from them as it is. This writes it down, and ends the plan that only packs make.
  for v_pack in
    select c.id, c.user_id from public.credit_packs c
    where c.expires_at <= v_at and c.lapsed_at is null
    order by c.expires_at limit 200
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_pack.user_id, 0));
    update public.credit_packs c set credits_expired = c.credits_remaining, credits_remaining = 0, lapsed_at = v_at
    where c.id = v_pack.id and c.lapsed_at is null;
    if found then
      perform private.go_by_packs(v_pack.user_id);
      v_lapsed := v_lapsed + 1;
    end if;
  end loop;
  return v_lapsed;
end
$$;
comment on function public.expire_credits() is
  'Writes down as expired what is left of packs past their expiry, at most 200 a call, and puts users whom no pack is '
  'left back on free; returns how many packs. Call it until 0.';
revoke all on function public.expire_credits() from public, anon, authenticated, service_role;
grant execute on function public.expire_credits() to service_role;


-- Conversations ---------------------------------------------------------------------------------------------------

create or replace function private.shorten_histories() returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- Thirty days on from the downgrade at most. A message that came later has set a date by the plan that was then in
  -- force. A pin lapses with a plan that keeps nothing, and had no date: it gets the thirty days.
  with promised as (
    select c.id, s.downgraded_at + interval '30 days' as until, p.history_days = 0 as unpins
    from public.user_subscriptions s
    join public.plans p on p.tier = s.tier
    join public.conversations c on c.user_id = s.user_id
    where s.downgraded_at is not null
      and (c.expires_at > s.downgraded_at + interval '30 days' and c.last_message_at <= s.downgraded_at
           or c.is_pinned and p.history_days = 0)
    limit 1000
    for update of c skip locked
  )
  update public.conversations c set
    expires_at = case when c.is_pinned and p.unpins then p.until else least(c.expires_at, p.until) end,
    is_pinned = c.is_pinned and not p.unpins
  from promised p where c.id = p.id;

  update public.user_subscriptions s set downgraded_at = null
  from (
    select d.id from public.user_subscriptions d
    join public.plans p on p.tier = d.tier
    where d.downgraded_at is not null and not exists (
      select from public.conversations c
      where c.user_id = d.user_id
        and (c.expires_at > d.downgraded_at + interval '30 days' and c.last_message_at <= d.downgraded_at
             or c.is_pinned and p.history_days = 0))
    limit 1000
    for update of d skip locked
  ) done
  where s.id = done.id;
end
$$;
comment on function private.shorten_histories() is
  'Gives conversations that were promised more days than a downgrade leaves their new date, at most 1,000 a call.';
revoke all on function private.shorten_histories() from public, anon, authenticated, service_role;


create or replace function private.delete_conversations(p_ids uuid[]) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_longest record;
begin
  select c.id, c.message_count into v_longest from public.conversations c
  where c.id = any (p_ids) order by c.message_count desc limit 1;
  if v_longest.message_count > 250 then
    -- From its end, so that it stays one conversation until it is gone.
    delete from public.messages m
    where m.conversation_id = v_longest.id and m.position > v_longest.message_count - 250;
    update public.conversations c set message_count = c.message_count - 250 where c.id = v_longest.id;
    return 1;
  end if;
  -- One update clears both columns; a cascade would clear them one after the other, row by row.
  update public.usage_logs u set conversation_id = null, message_id = null where u.conversation_id = any (p_ids);
  delete from public.messages m where m.conversation_id = any (p_ids);
  delete from public.conversations c where c.id = any (p_ids);
  return cardinality(p_ids);
end
$$;
comment on function private.delete_conversations(uuid[]) is
  'Deletes conversations with their messages; if one has more than 250, 250 of those and nothing else. Returns how many '
  'conversations it met. They are locked.';
revoke all on function private.delete_conversations(uuid[]) from public, anon, authenticated, service_role;


create or replace function public.cleanup_expired_conversations() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_ids uuid[];
  v_deleted integer := 0;
begin
  with expired as (
    select c.id, c.expires_at, c.message_count
    from public.conversations c
    -- Clearing two columns of a usage_logs row makes Postgres look at its user again: whoever is being deleted is
    -- left to that, and who is not can wait for us.
    join auth.users u on u.id = c.user_id
    where c.expires_at <= v_at and not c.is_pinned
    order by c.expires_at
    limit 100
    for key share of u skip locked
    for update of c skip locked
  ), counted as (
    select e.id, row_number() over oldest as place, sum(e.message_count) over oldest as messages
    from expired e window oldest as (order by e.expires_at, e.id)
  )
  -- Always one, and as many more as make up no more than 250 messages: that is what takes the time.
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;
  if v_ids is not null then
    v_deleted := private.delete_conversations(v_ids);
  end if;
  perform private.shorten_histories(); -- last: it waits for nobody, so what it locks keeps nobody waiting for long
  return v_deleted;
end
$$;
comment on function public.cleanup_expired_conversations() is
  'Deletes conversations past their expiry with their messages, about 250 of these a call, pinned ones excepted; '
  'returns how many conversations. Call it until 0. Those of users who changed to a lesser plan get their new date.';
revoke all on function public.cleanup_expired_conversations() from public, anon, authenticated, service_role;
grant execute on function public.cleanup_expired_conversations() to service_role;


-- Events ----------------------------------------------------------------------------------------------------------

create or replace function public.purge_events() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_deleted integer;
begin
  -- Stripe sends nothing again after thirty days. Those that were never dealt with stay, for reconcile to name.
  delete from public.stripe_events e where e.id in (
    select old.id from public.stripe_events old
    where old.processed_at < private.clock() - interval '90 days'
    order by old.processed_at limit 1000 for update skip locked);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end
$$;
comment on function public.purge_events() is
  'Deletes events from Stripe that were dealt with more than 90 days ago, at most 1,000 a call; returns how many. Call '
  'it until 0.';
revoke all on function public.purge_events() from public, anon, authenticated, service_role;
grant execute on function public.purge_events() to service_role;
