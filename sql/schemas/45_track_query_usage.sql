-- Metering for callers that answer queries themselves.

create or replace function public.track_query_usage(
  p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer,
  p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id constant uuid := private.time_ordered_id();
  v_admission jsonb;
  v_hold public.query_holds;
  v_conversation_id uuid;
begin
  -- Check
  if not exists (select from public.conversations where id = p_conversation_id and user_id = p_user_id)
     and p_conversation_id is not null
     or not exists (select from public.messages where id = p_message_id and conversation_id = p_conversation_id)
     and p_message_id is not null then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation or message.';
  end if;

  -- Take
  v_admission := public.admit_query(
    p_user_id, 'track:' || coalesce(p_message_id, v_id)::text, v_id, p_own_key => coalesce(p_used_byo_key, false),
    p_provider => case when p_used_byo_key then p_provider end);
  if v_admission ->> 'decision' = 'ended' then
    return;
  elsif v_admission ->> 'decision' <> 'admitted' then
    raise exception using errcode = 'QUOTA', message = v_admission ->> 'reason';
  end if;

  -- Charge. A conversation that is being deleted is left out: the check of the foreign key would wait for its lock.
  select h.* into v_hold from public.query_holds h where h.id = v_id;
  select c.id into v_conversation_id from public.conversations c
  where c.id = p_conversation_id for key share skip locked;
  perform private.close_hold(
    v_hold, private.clock(), 'answered', p_is_charged => true,
    p_usage => jsonb_build_object(
      'provider', p_provider, 'model', p_model, 'tokens_input', p_tokens_input, 'tokens_output', p_tokens_output,
      'cost_usd', p_cost_usd),
    p_conversation_id => v_conversation_id,
    p_message_id => case when v_conversation_id is not null then p_message_id end);
  if v_hold.funding <> 'byok' then
    perform private.add_daily_cost(v_hold, p_cost_usd);
  end if;
end
$$;
comment on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric) is
  'Admits and settles one query in one call, by the same rules as the chat. A message is charged once. QUOTA: refused, '
  'with the reason as the message. NTFND: the conversation or message does not belong to the user.';
revoke all on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric)
  from public, anon, authenticated, service_role;
grant execute on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric)
  to service_role;
