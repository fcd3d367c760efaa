-- Export and deletion of all data of a user.

create or replace function public.begin_export(p_user_id uuid) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
begin
  -- An export takes seconds of a process that other users wait for.
  update public.user_subscriptions s set exported_at = v_at
  where s.user_id = p_user_id and (s.exported_at <= v_at - interval '1 minute' or s.exported_at is null);
  if found then
    return true;
  elsif not exists (select from public.user_subscriptions s where s.user_id = p_user_id) then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  return false;
end
$$;
comment on function public.begin_export(uuid) is
  'Whether the user may download their data now: once a minute. NOUSR: the account has ended.';
revoke all on function public.begin_export(uuid) from public, anon, authenticated, service_role;
grant execute on function public.begin_export(uuid) to service_role;


create or replace function public.export_user(
  p_user_id uuid, p_part text, p_after uuid default null, p_limit integer default 1000)
returns table (id uuid, record text)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit constant integer := least(p_limit, 1000);
begin
  -- Text, so that no JSON parser turns amounts into floats. Columns keep the order of their table.
  case p_part
    when 'account' then
      -- An allow-list, because auth.users also has password hashes and tokens.
      return query select u.id, (
        select json_object_agg(a.key, a.value)::text from jsonb_each(to_jsonb(u)) a
        where a.key in ('id', 'email', 'phone', 'created_at', 'updated_at', 'last_sign_in_at', 'email_confirmed_at',
                        'raw_user_meta_data'))
      from auth.users u where u.id = p_user_id and p_after is null;
    when 'subscription' then
      return query select s.id, row_to_json(s)::text from public.user_subscriptions s
      where s.user_id = p_user_id and p_after is null;
    when 'keys' then
      -- Without the ciphertext, which only this service can decrypt.
      return query select k.id, row_to_json(k)::text from (
        select a.id, a.created_at, a.updated_at, a.provider, a.hint, a.is_active, a.last_validated_at,
               a.validation_error
        from public.user_api_keys a where a.user_id = p_user_id and p_after is null) k order by k.id;
    when 'packs' then
      return query select c.id, row_to_json(c)::text from public.credit_packs c
      where c.user_id = p_user_id and (p_after is null or c.id > p_after) order by c.id limit v_limit;
    when 'bills' then
      return query select i.id, row_to_json(i)::text from public.overage_invoice_items i
      where i.user_id = p_user_id and (p_after is null or i.id > p_after) order by i.id limit v_limit;
    when 'conversations' then
      return query select t.id, row_to_json(t)::text from (
        select c.*, (select json_agg(row_to_json(m) order by m.position) from public.messages m
                     where m.conversation_id = c.id) as messages
        from public.conversations c
        where c.user_id = p_user_id and (p_after is null or c.id > p_after) order by c.id limit v_limit) t
      order by t.id;
    when 'usage' then
      return query select u.id, row_to_json(u)::text from public.usage_logs u
      where u.user_id = p_user_id and (p_after is null or u.id > p_after) order by u.id limit v_limit;
    when 'reversals' then
      return query select r.id, row_to_json(r)::text from public.usage_reversals r
      where r.user_id = p_user_id and (p_after is null or r.id > p_after) order by r.id limit v_limit;
    when 'operator_actions' then
      -- Without the operator, who is another person.
      return query select a.id, row_to_json(a)::text from (
        select o.id, o.created_at, o.action, o.reason, o.subject, o.before, o.after
        from public.operator_actions o
        where o.subject_user_id = p_user_id and (p_after is null or o.id > p_after) order by o.id limit v_limit) a
      order by a.id;
    when 'running' then
      return query select h.id, row_to_json(h)::text from public.query_holds h
      where h.user_id = p_user_id and (p_after is null or h.id > p_after) order by h.id limit v_limit;
    when 'pending' then
      return query select w.id, row_to_json(w)::text from public.pending_turns w
      where w.user_id = p_user_id and (p_after is null or w.id > p_after) order by w.id limit v_limit;
    when 'feedback' then
      return query select f.id, row_to_json(f)::text from public.message_feedback f
      where f.user_id = p_user_id and (p_after is null or f.id > p_after) order by f.id limit v_limit;
    when 'shared' then
      return query select s.id, row_to_json(s)::text from public.shared_conversations s
      where s.user_id = p_user_id and (p_after is null or s.id > p_after) order by s.id limit v_limit;
    when 'refusals' then
      return query select r.id, row_to_json(r)::text from public.query_refusals r
      where r.user_id = p_user_id and (p_after is null or r.id > p_after) order by r.id limit v_limit;
    else
      raise invalid_parameter_value using message = format('There is no export part %L.', p_part);
  end case;
end
$$;
comment on function public.export_user(uuid, text, uuid, integer) is
  'One part of the data of a user: account, subscription, keys, packs, bills, conversations with their messages, '
  'pending, usage, reversals, operator_actions, running, feedback, shared or refusals. JSON objects ordered by id, '
  'after p_after, at most 1,000 rows. Without ciphertexts and passwords.';
revoke all on function public.export_user(uuid, text, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.export_user(uuid, text, uuid, integer) to service_role;


create or replace function private.retain_ledger() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Ordered, so that two concurrent deletions lock the same rows in the same order.
  insert into public.retained_usage as r (
    month, tier, provider, model, funding, outcome, queries, tokens_input, tokens_output, cost_usd, overage_usd,
    credits_usd, written_off_usd)
  select date_trunc('month', u.query_date)::date, u.tier, u.provider, u.model, u.funding, u.outcome, count(*),
         sum(u.tokens_input), sum(u.tokens_output), sum(u.cost_usd),
         coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0),
         coalesce(sum(c.price_per_credit) filter (where u.is_charged and u.reversed_at is null), 0),
         coalesce(sum(u.overage_charge) filter (where i.stripe_invoice_item_id is null and u.reversed_at is null), 0)
  from public.usage_logs u
  left join public.credit_packs c on c.id = u.credit_pack_id
  left join public.overage_invoice_items i on i.id = u.invoice_item_id
  where u.user_id = old.id
  group by 1, 2, 3, 4, 5, 6
  order by 1, 2, 3, 4, 5, 6
  on conflict (month, tier, provider, model, funding, outcome) do update set
    queries = r.queries + excluded.queries, tokens_input = r.tokens_input + excluded.tokens_input,
    tokens_output = r.tokens_output + excluded.tokens_output, cost_usd = r.cost_usd + excluded.cost_usd,
    overage_usd = r.overage_usd + excluded.overage_usd, credits_usd = r.credits_usd + excluded.credits_usd,
    written_off_usd = r.written_off_usd + excluded.written_off_usd;
  insert into public.retained_invoice_items (
    id, created_at, period_start, queries, unit_price_usd, amount_usd, amount_cents, stripe_invoice_item_id,
    stripe_invoice_id)
  select i.id, i.created_at, i.period_start, i.queries, i.unit_price_usd, i.amount_usd, i.amount_cents,
         i.stripe_invoice_item_id, i.stripe_invoice_id
  from public.overage_invoice_items i where i.user_id = old.id and i.stripe_invoice_item_id is not null
  on conflict (id) do nothing;
  insert into public.blocked_addresses (address_hash, blocked_at)
  select private.address_hash(old.email), s.blocked_at
  from public.user_subscriptions s
  where s.user_id = old.id and s.blocked_at is not null and old.email is not null
  on conflict (address_hash) do nothing;
  return old;
end
$$;
comment on function private.retain_ledger() is
  'Trigger on auth.users: before a user is deleted, stores the sums of their ledger and their invoice items for '
  'accounting, without the user. Runs as its owner, because Auth may not write to public.';
revoke all on function private.retain_ledger() from public, anon, authenticated, service_role;

create or replace trigger retain_ledger before delete on auth.users
  for each row execute function private.retain_ledger();


create or replace function private.forget_deletion() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Auth logs the deletion, with the e-mail address, before it deletes the user. delete_auth_log removes older entries.
  delete from auth.audit_log_entries l
  where l.created_at > now() - interval '1 hour'
    and old.id::text in (l.payload ->> 'actor_id', l.payload -> 'traits' ->> 'user_id');
  return null;
end
$$;
comment on function private.forget_deletion() is
  'Trigger on auth.users: deletes what Auth logged about a deleted user in the last hour, the deletion included. Runs '
  'as its owner, in the transaction that deletes the user.';
revoke all on function private.forget_deletion() from public, anon, authenticated, service_role;

create or replace trigger forget_deletion after delete on auth.users
  for each row execute function private.forget_deletion();


create or replace function public.delete_history(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Decide
  with oldest as (
    select c.id, c.message_count from public.conversations c where c.user_id = p_user_id
    order by c.id limit 100 for update
  ), counted as (
    select o.id, row_number() over by_id as place, sum(o.message_count) over by_id as messages
    from oldest o window by_id as (order by o.id)
  )
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;

  -- Write
  return case when v_ids is null then 0 else private.delete_conversations(v_ids) end;
end
$$;
comment on function public.delete_history(uuid) is
  'Deletes conversations of a user with their messages, about 250 messages per call. Returns how many conversations it '
  'processed. Call until 0.';
revoke all on function public.delete_history(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_history(uuid) to service_role;


create or replace function public.check_deletion(p_user_id uuid, p_write_off boolean default false) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if exists (select from public.user_subscriptions s
             where s.user_id = p_user_id and s.stripe_subscription_id is not null) then
    raise exception using errcode = 'OWING', message = 'The user still has a subscription at Stripe.',
      hint = 'subscription_live';
  elsif not p_write_off and exists (
      select from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
      where u.user_id = p_user_id and u.was_overage and i.stripe_invoice_item_id is null
        and u.reversed_at is null) then
    raise exception using errcode = 'OWING', message = 'The user owes overage that has not been billed.',
      hint = 'overage_owed';
  elsif not p_write_off and exists (
      select from public.overage_invoice_items i where i.user_id = p_user_id and i.settled_as = 'returned') then
    raise exception using errcode = 'OWING', message = 'The user owes overage whose payment was returned.',
      hint = 'overage_owed';
  end if;
end
$$;
comment on function public.check_deletion(uuid, boolean) is
  'Whether a user may be deleted now, through the admin API of Auth: the foreign keys then delete all their rows, and '
  'retain_ledger stores the sums. Without a subscription no query is charged as overage any more. OWING: they still '
  'have a subscription, or p_write_off is false and overage is not billed or its payment was returned.';
revoke all on function public.check_deletion(uuid, boolean) from public, anon, authenticated, service_role;
grant execute on function public.check_deletion(uuid, boolean) to service_role;


create or replace function public.confirm_deletion(p_user_id uuid, p_session_id uuid, p_confirm text) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_name text;
begin
  select coalesce(nullif(u.email, ''), u.id::text) into v_name
  from auth.users u
  where u.id = p_user_id and (p_session_id is null or exists (
    select from auth.sessions t
    where t.id = p_session_id and t.user_id = u.id and (t.not_after <= private.clock()) is not true));
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account or the session has ended.';
  end if;
  return lower(p_confirm) = lower(v_name);
end
$$;
comment on function public.confirm_deletion(uuid, uuid, text) is
  'Whether p_confirm is the e-mail address of the user, in any case, or the id of a user without one. p_session_id: of '
  'the access token. NOUSR: the account or the session has ended.';
revoke all on function public.confirm_deletion(uuid, uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.confirm_deletion(uuid, uuid, text) to service_role;


create or replace function public.delete_auth_log(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  -- Auth writes a log with e-mail addresses. It has no index for this search.
  delete from auth.audit_log_entries l using (
    select e.id from auth.audit_log_entries e
    where p_user_id::text in (e.payload ->> 'actor_id', e.payload -> 'traits' ->> 'user_id')
    limit 1000 for update skip locked) found
  where l.id = found.id;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function public.delete_auth_log(uuid) is
  'Deletes what Supabase Auth logged about a user in the database, at most 1,000 entries. Returns how many. Call until '
  '0.';
revoke all on function public.delete_auth_log(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_auth_log(uuid) to service_role;
