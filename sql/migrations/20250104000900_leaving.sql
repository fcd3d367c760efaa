-- The right to know and to leave: everything that is held on a person, and its end.


create or replace function public.export_user(
  p_user_id uuid, p_part text, p_after uuid default null, p_limit integer default 1000)
returns table (id uuid, told text)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit constant integer := least(p_limit, 1000);
begin
  -- Text, so that no JSON parser on the way makes money a float. Columns keep the order of their table.
  case p_part
    when 'account' then
      -- By allow-list: Auth keeps password hashes and tokens beside them.
      return query select u.id, (
        select json_object_agg(a.key, a.value)::text from jsonb_each(to_jsonb(u)) a
        where a.key in ('id', 'email', 'phone', 'created_at', 'updated_at', 'last_sign_in_at', 'email_confirmed_at',
                        'raw_user_meta_data'))
      from auth.users u where u.id = p_user_id and p_after is null;
    when 'subscription' then
      return query select s.id, row_to_json(s)::text from public.user_subscriptions s
      where s.user_id = p_user_id and p_after is null;
    when 'keys' then
      -- A sealed key is of no use to anybody but us, and is nobody's to read.
      return query select k.id, row_to_json(k)::text from (
        select a.id, a.created_at, a.updated_at, a.provider, a.hint, a.is_active, a.last_validated_at, a.validation_error
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
    when 'running' then
      return query select h.id, row_to_json(h)::text from public.query_holds h
      where h.user_id = p_user_id and (p_after is null or h.id > p_after) order by h.id limit v_limit;
    when 'refusals' then
      return query select r.id, row_to_json(r)::text from public.query_refusals r
      where r.user_id = p_user_id and (p_after is null or r.id > p_after) order by r.id limit v_limit;
    else
      raise invalid_parameter_value using message = format('There is no part %L of what is held on a person.', p_part);
  end case;
end
$$;
comment on function public.export_user(uuid, text, uuid, integer) is
  'What is held on a user, a part at a time (account, subscription, keys, packs, bills, conversations with their messages, '
  'usage, running, refusals): JSON objects by id from p_after on, at most 1,000 rows. Sealed keys and passwords are not told.';
revoke all on function public.export_user(uuid, text, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.export_user(uuid, text, uuid, integer) to service_role;


create or replace function private.keep_books() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  -- In one order, so that two deletions add to the same rows one after the other.
  insert into public.retained_usage as r (
    month, tier, provider, model, funding, outcome, queries, tokens_input, tokens_output, cost_usd, overage_usd,
    credits_usd, written_off_usd)
  select date_trunc('month', u.query_date)::date, u.tier, u.provider, u.model, u.funding, u.outcome, count(*),
         sum(u.tokens_input), sum(u.tokens_output), sum(u.cost_usd), sum(u.overage_charge),
         coalesce(sum(c.price_per_credit) filter (where u.outcome in ('answered', 'stopped')), 0),
         coalesce(sum(u.overage_charge) filter (where i.stripe_invoice_item_id is null), 0)
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
  insert into public.retained_invoice_items
  select i.id, i.created_at, i.period_start, i.queries, i.unit_price_usd, i.amount_usd, i.amount_cents,
         i.stripe_invoice_item_id, i.stripe_invoice_id
  from public.overage_invoice_items i where i.user_id = old.id and i.stripe_invoice_item_id is not null
  on conflict (id) do nothing;
  return old;
end
$$;
comment on function private.keep_books() is
  'Trigger on auth.users: before a user''s rows go with them, what the books need is kept without them. Runs as its '
  'owner, because Auth may not write to public.';
revoke all on function private.keep_books() from public, anon, authenticated, service_role;

create or replace trigger keep_books before delete on auth.users
  for each row execute function private.keep_books();


create or replace function public.delete_history(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  perform from auth.users where id = p_user_id for key share;
  with oldest as (
    select c.id, c.message_count from public.conversations c where c.user_id = p_user_id
    order by c.id limit 100 for update
  ), counted as (
    select o.id, row_number() over by_id as place, sum(o.message_count) over by_id as messages
    from oldest o window by_id as (order by o.id)
  )
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;
  return case when v_ids is null then 0 else private.delete_conversations(v_ids) end;
end
$$;
comment on function public.delete_history(uuid) is
  'Deletes a user''s conversations with their messages, about 250 of these a call; returns how many conversations. Call '
  'it until 0.';
revoke all on function public.delete_history(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_history(uuid) to service_role;


create or replace function public.delete_user(p_user_id uuid, p_write_off boolean default false) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  if exists (select from public.user_subscriptions s
             where s.user_id = p_user_id and s.stripe_subscription_id is not null) then
    raise exception using errcode = 'OWING', message = 'The user has a subscription at Stripe, which would go on.';
  elsif not p_write_off and exists (
      select from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
      where u.user_id = p_user_id and u.was_overage and i.stripe_invoice_item_id is null) then
    raise exception using errcode = 'OWING', message = 'The user owes overage that has not been billed.';
  end if;
  -- What runs is not charged, and everything that is theirs goes with them; keep_books keeps the sums.
  delete from auth.users u where u.id = p_user_id;
  return found;
end
$$;
comment on function public.delete_user(uuid, boolean) is
  'Deletes a user with everything that is theirs. The sums of the ledger stay, without them. OWING: a subscription that '
  'would go on, or overage that has not been billed, unless p_write_off. Returns whether there was such a user.';
revoke all on function public.delete_user(uuid, boolean) from public, anon, authenticated, service_role;
grant execute on function public.delete_user(uuid, boolean) to service_role;
