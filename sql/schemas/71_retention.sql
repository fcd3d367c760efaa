-- Retention: conversations expire, and a downgrade shortens expires_at.

create or replace function private.apply_downgrades() returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- At most thirty days after the downgrade. Messages after the downgrade have set expires_at from the new plan. A plan
  -- without history also removes pins; formerly pinned conversations get the thirty days.
  with affected as (
    select c.id, s.downgraded_at + interval '30 days' as until, p.history_days = 0 as removes_pin
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
    expires_at = case when c.is_pinned and a.removes_pin then a.until else least(c.expires_at, a.until) end,
    is_pinned = c.is_pinned and not a.removes_pin
  from affected a where c.id = a.id;

  update public.user_subscriptions s set downgraded_at = null
  from (
    select d.id from public.user_subscriptions d
    join public.plans p on p.tier = d.tier
    where d.downgraded_at is not null and not exists (
      select from public.conversations c
      where c.user_id = d.user_id
        and (c.expires_at > d.downgraded_at + interval '30 days' and c.last_message_at <= d.downgraded_at
             or c.is_pinned and p.history_days = 0))
      -- Storing one of these sets the expires_at of the plan before.
      and not exists (select from public.pending_turns w where w.user_id = d.user_id)
    limit 1000
    for update of d skip locked
  ) done
  where s.id = done.id;
end
$$;
comment on function private.apply_downgrades() is
  'Shortens expires_at of the conversations of downgraded users, at most 1,000 per call.';
revoke all on function private.apply_downgrades() from public, anon, authenticated, service_role;


create or replace function private.delete_conversations(p_ids uuid[]) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_longest record;
begin
  delete from public.pending_turns w where w.conversation_id = any (p_ids);

  -- Decide
  select c.id, c.message_count into v_longest from public.conversations c
  where c.id = any (p_ids) order by c.message_count desc limit 1;
  if v_longest.message_count > 250 then
    -- Delete from the end, so that the rest stays a valid conversation.
    delete from public.messages m
    where m.conversation_id = v_longest.id and m.position >= (
      select n.position from public.messages n where n.conversation_id = v_longest.id
      order by n.position desc offset 249 limit 1);
    update public.conversations c set message_count = c.message_count - 250 where c.id = v_longest.id;
    return 1;
  end if;

  -- Write
  delete from public.message_feedback f using public.usage_logs u
  where u.conversation_id = any (p_ids) and f.query_id = u.id;
  -- One update clears both columns. A cascade would clear each of them separately, row by row.
  update public.usage_logs u set conversation_id = null, message_id = null where u.conversation_id = any (p_ids);
  delete from public.messages m where m.conversation_id = any (p_ids);
  delete from public.conversations c where c.id = any (p_ids);

  -- Return
  return cardinality(p_ids);
end
$$;
comment on function private.delete_conversations(uuid[]) is
  'Deletes conversations with their messages. If one has more than 250 messages: deletes 250 of those and nothing '
  'else. Returns how many conversations it processed. The caller has locked them.';
revoke all on function private.delete_conversations(uuid[]) from public, anon, authenticated, service_role;


create or replace function private.purge_copies_and_ratings(p_at timestamptz) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_copies integer;
  v_ratings integer;
begin
  delete from public.shared_conversations s using (
    select e.id from public.shared_conversations e where e.expires_at <= p_at
    order by e.expires_at limit 50 for update skip locked) expired
  where s.id = expired.id;
  get diagnostics v_copies = row_count;
  delete from public.message_feedback f using (
    select e.id from public.message_feedback e where e.updated_at <= p_at - interval '90 days'
    order by e.updated_at limit 500 for update skip locked) expired
  where f.id = expired.id;
  get diagnostics v_ratings = row_count;
  return v_copies + v_ratings;
end
$$;
comment on function private.purge_copies_and_ratings(timestamptz) is
  'Deletes shared copies past their expiry, at most 50, and ratings of answers after 90 days, at most 500. Returns how '
  'many.';
revoke all on function private.purge_copies_and_ratings(timestamptz)
  from public, anon, authenticated, service_role;


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
    -- An update of usage_logs checks the foreign key to the user. So lock the user first, and skip users that are being
    -- deleted.
    join auth.users u on u.id = c.user_id
    where c.expires_at <= v_at and not c.is_pinned
      -- The running answer and the pending turn extend the expiry.
      and not exists (select from public.query_holds h where h.conversation_id = c.id)
      and not exists (select from public.pending_turns w where w.conversation_id = c.id)
    order by c.expires_at
    limit 100
    for key share of u skip locked
    for update of c skip locked
  ), counted as (
    select e.id, row_number() over oldest as place, sum(e.message_count) over oldest as messages
    from expired e window oldest as (order by e.expires_at, e.id)
  )
  -- At least one conversation, and more while they have at most 250 messages in total, which determine the duration.
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;
  if v_ids is not null then
    v_deleted := private.delete_conversations(v_ids);
  end if;
  -- Last: these skip locked rows, so their own locks are held only briefly.
  v_deleted := v_deleted + private.purge_copies_and_ratings(v_at);
  perform private.apply_downgrades();
  return v_deleted;
end
$$;
comment on function public.cleanup_expired_conversations() is
  'Deletes expired conversations with their messages, about 250 messages per call, except pinned ones and those with a '
  'running answer or a pending turn, and expired copies and ratings. Also shortens expires_at after downgrades. '
  'Returns how many conversations, copies and ratings it processed. Call until 0.';
revoke all on function public.cleanup_expired_conversations() from public, anon, authenticated, service_role;
grant execute on function public.cleanup_expired_conversations() to service_role;
