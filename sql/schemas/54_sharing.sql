-- Sharing a copy of a conversation with everybody who has the link.

create or replace function private.sources_of(p_function_results jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'type', 'source-url', 'sourceId', 'source-' || s.number, 'url', s.url, 'title', s.title) order by s.number), '[]')
    from (
      select row_number() over (order by min(array[r.place, o.place])) as number, o.source ->> 'url' as url,
             (array_agg(o.source ->> 'title' order by r.place, o.place))[1] as title
      from jsonb_array_elements(p_function_results) with ordinality r (result, place),
           jsonb_array_elements(coalesce(r.result -> 'sources', '[]')) with ordinality o (source, place)
      group by o.source ->> 'url') s);
end
$$;
comment on function private.sources_of(jsonb) is
  'The sources in messages.function_results as parts of a UIMessage, each URL once, in the order of their first use.';
revoke all on function private.sources_of(jsonb) from public, anon, authenticated, service_role;


create or replace function private.texts_of(p_content text, p_step_ends jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object('type', 'text', 'text', t.text) order by t.number), '[]')
    from (
      select s.number, substr(p_content, s.starts + 1, s.ends - s.starts) as text
      from (
        select e.number, e.ends::integer as ends, coalesce(lag(e.ends::integer) over (order by e.number), 0) as starts
        from jsonb_array_elements_text(coalesce(p_step_ends, jsonb_build_array(char_length(p_content))))
          with ordinality e (ends, number)) s) t
    where t.text <> '');
end
$$;
comment on function private.texts_of(text, jsonb) is
  'The texts of the steps of a message as parts of a UIMessage. A message without step_ends has one text.';
revoke all on function private.texts_of(text, jsonb) from public, anon, authenticated, service_role;


create or replace function private.snapshot_of(p_conversation_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  -- Message ids are positions: the stored ids are those of queries.
  return (
    select jsonb_agg(jsonb_build_object(
      'id', m.position::text, 'role', m.role,
      'metadata', jsonb_build_object('created_at', m.created_at, 'finish_reason', m.finish_reason),
      'parts', private.texts_of(m.content, m.step_ends) || private.sources_of(m.function_results)) order by m.position)
    from public.messages m where m.conversation_id = p_conversation_id);
end
$$;
comment on function private.snapshot_of(uuid) is
  'The messages of a conversation as UIMessages of the AI SDK with their texts and sources only. Null: it has none.';
revoke all on function private.snapshot_of(uuid) from public, anon, authenticated, service_role;


create or replace function public.share_conversation(p_user_id uuid, p_chat_id text, p_token text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_conversation public.conversations;
  v_snapshot jsonb;
  v_shared jsonb;
begin
  -- Lock
  perform from auth.users u where u.id = p_user_id for key share;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  perform private.refuse_blocked(p_user_id);
  select * into v_conversation from public.conversations c
  where c.id = private.find_conversation(p_user_id, p_chat_id, private.conversation_key(p_chat_id)) for key share;

  -- Decide
  v_snapshot := jsonb_build_object(
    'title', v_conversation.title, 'messages', private.snapshot_of(v_conversation.id));
  if v_snapshot -> 'messages' = 'null' or v_conversation.expires_at <= v_at and not v_conversation.is_pinned then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.',
      hint = 'conversation_not_found';
  elsif octet_length(v_snapshot::text) > 1000000 then
    raise exception using errcode = 'TOBIG', message = 'The conversation is over a megabyte.',
      hint = 'conversation_too_large';
  end if;

  -- Write
  -- A second call makes a new copy under the same token, so that links that were sent stay valid.
  insert into public.shared_conversations as s (user_id, conversation_id, token, snapshot, expires_at)
  -- After a downgrade everything ends within thirty days, also what is pinned: see cleanup_expired_conversations.
  select p_user_id, v_conversation.id, p_token, v_snapshot,
         least(case when not v_conversation.is_pinned then v_conversation.expires_at
                    when p.history_days > 0 then v_at + make_interval(days => p.history_days)
                    else v_at + interval '30 days' end,
               s.downgraded_at + interval '30 days')
  from private.current_subscriptions p
  join public.user_subscriptions s on s.user_id = p.user_id
  where p.user_id = p_user_id
  on conflict (conversation_id) do update set
    -- A link that has expired stays so.
    token = case when s.expires_at > v_at then s.token else excluded.token end,
    snapshot = excluded.snapshot, updated_at = excluded.updated_at, expires_at = excluded.expires_at
  returning jsonb_build_object('token', s.token, 'expires_at', s.expires_at) into v_shared;

  -- Return
  return v_shared;
end
$$;
comment on function public.share_conversation(uuid, text, text) is
  'Shares a copy of a conversation of the user: {token, expires_at}. A shared one gets a new copy and keeps its '
  'token. p_token: for a new one. It expires with the conversation, or, if that is pinned, after the days that the '
  'plan stores conversations; after a downgrade within thirty days. NTFND: not a stored conversation of the user. '
  'TOBIG: it is over a megabyte. NOUSR: the account has ended. BANND: it is blocked.';
revoke all on function public.share_conversation(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.share_conversation(uuid, text, text) to service_role;


create or replace function public.unshare_conversation(p_user_id uuid, p_chat_id text) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from public.shared_conversations s
  where s.user_id = p_user_id
    and s.conversation_id = private.find_conversation(p_user_id, p_chat_id, private.conversation_key(p_chat_id));
  if not found then
    perform private.require_account(p_user_id);
    return false;
  end if;
  return true;
end
$$;
comment on function public.unshare_conversation(uuid, text) is
  'Stops sharing a conversation of the user and deletes the copy. Returns whether it was shared. NTFND: it belongs to '
  'another user.';
revoke all on function public.unshare_conversation(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.unshare_conversation(uuid, text) to service_role;


create or replace function public.shared_conversation(p_token text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select s.snapshot || jsonb_build_object('shared_at', s.updated_at, 'expires_at', s.expires_at)
    from public.shared_conversations s
    where s.token = p_token and s.expires_at > (select private.clock()) and not private.is_blocked(s.user_id));
end
$$;
comment on function public.shared_conversation(text) is
  'A shared conversation: {title, messages, shared_at, expires_at}. Null: not shared, expired, or of a user '
  'whom an operator has blocked.';
revoke all on function public.shared_conversation(text) from public, anon, authenticated, service_role;
grant execute on function public.shared_conversation(text) to service_role;
