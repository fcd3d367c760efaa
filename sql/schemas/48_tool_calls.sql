-- Calls of the tools by users' own assistants, over the Model Context Protocol. They are limited, and cost no query.

create or replace function public.admit_tool_call(
  p_user_id uuid, p_calls_a_minute integer, p_session_id uuid default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_minute timestamptz;
  v_account record;
  v_limits record;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  v_minute := date_trunc('minute', private.clock());

  -- Check the account, as admit_query does
  select u.confirmed_at is not null and not u.is_anonymous as is_confirmed,
         (u.banned_until > private.clock()) is true as is_banned,
         p_session_id is null or exists (
           select from auth.sessions t
           where t.id = p_session_id and t.user_id = u.id and (t.not_after <= private.clock()) is not true)
           as has_session
  into v_account
  from auth.users u where u.id = p_user_id and u.deleted_at is null;
  if not found or not v_account.has_session then
    raise exception using errcode = 'NOUSR', message = 'The account or the session has ended.';
  elsif v_account.is_banned then
    raise exception using errcode = 'BANND', message = 'The account is banned.';
  end if;

  -- Decide
  select s.is_serving, s.is_lifetime, s.blocked_at into v_limits
  from private.subscription_limits s where s.user_id = p_user_id;
  if not found then
    return jsonb_build_object(
      'decision', 'refused', 'reason', 'No subscription found', 'reason_code', 'no_subscription',
      'requires_payment', true, 'resets_at', null);
  elsif v_limits.blocked_at is not null then
    raise exception using errcode = 'BANND', message = 'The account is blocked.';
  elsif not v_limits.is_serving then
    return (
      select jsonb_build_object(
        'decision', 'refused', 'reason', s.reason, 'reason_code', s.reason_code,
        'requires_payment', s.requires_payment, 'resets_at', s.resets_at, 'url', u.open_invoice_url)
      from private.funding_state s join public.user_subscriptions u on u.user_id = s.user_id
      where s.user_id = p_user_id);
  elsif v_limits.is_lifetime and not v_account.is_confirmed then
    raise exception using errcode = 'NCONF', message = 'Free calls need a confirmed account.';
  end if;

  -- Count. A crash may forget a count, so nothing waits for the disk.
  perform set_config('synchronous_commit', 'off', true);
  update public.user_subscriptions s set
    tool_minute = v_minute,
    tool_calls = case when s.tool_minute = v_minute then s.tool_calls + 1 else 1 end
  where s.user_id = p_user_id and (s.tool_minute is distinct from v_minute or s.tool_calls < p_calls_a_minute);
  if not found then
    return jsonb_build_object(
      'decision', 'refused', 'reason', 'Too many tool calls', 'reason_code', 'too_many_tool_calls',
      'requires_payment', false, 'resets_at', v_minute + interval '1 minute');
  end if;

  -- Return
  return jsonb_build_object('decision', 'admitted');
end
$$;
comment on function public.admit_tool_call(uuid, integer, uuid) is
  'Counts a call of a tool by the user''s own assistant: {decision: admitted}. {decision: refused, reason, '
  'reason_code, requires_payment, resets_at} if the subscription does not serve or p_calls_a_minute are reached. '
  'p_session_id: of the access token. NOUSR: the account or session has ended. BANND: it is banned or blocked. NCONF: '
  'free and not confirmed.';
revoke all on function public.admit_tool_call(uuid, integer, uuid) from public, anon, authenticated, service_role;
grant execute on function public.admit_tool_call(uuid, integer, uuid) to service_role;
