-- The chat of a query: its conversation, what the model reads of it, and the place of a question. For admit_query.

create or replace function private.conversation_key(p_chat_id text) returns uuid
language plpgsql immutable set search_path = ''
as $$
begin
  return case when p_chat_id ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_chat_id::uuid end;
end
$$;
comment on function private.conversation_key(text) is
  'The conversation id for a chat id that is a UUID. Null for any other chat id, which is an external_id.';
revoke all on function private.conversation_key(text) from public, anon, authenticated, service_role;


create or replace function private.find_conversation(p_user_id uuid, p_chat_id text, p_chat_uuid uuid)
returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  v_owner uuid;
  v_id uuid;
begin
  if p_chat_uuid is null then
    select id into v_id from public.conversations where user_id = p_user_id and external_id = p_chat_id;
    return v_id;
  end if;
  select id, user_id into v_id, v_owner from public.conversations where id = p_chat_uuid;
  if v_owner <> p_user_id then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.',
      hint = 'conversation_not_found';
  end if;
  return v_id;
end
$$;
comment on function private.find_conversation(uuid, text, uuid) is
  'The id of the conversation of a chat. Null if it is new. p_chat_uuid: conversation_key() of the chat id. NTFND: it '
  'belongs to another user.';
revoke all on function private.find_conversation(uuid, text, uuid) from public, anon, authenticated, service_role;


create or replace function private.recent_messages(
  p_conversation_id uuid, p_before integer, p_count integer, p_bytes integer)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_has_pending boolean;
  v_pending jsonb := '[]'::jsonb;
  v_pending_size integer := 0;
  v_replaced int4multirange;
  v_stored jsonb;
begin
  v_has_pending := exists (select from public.pending_turns w where w.conversation_id = p_conversation_id);
  if v_has_pending then
    perform private.apply_pending_turns(p_conversation_id);
    v_has_pending := exists (select from public.pending_turns w where w.conversation_id = p_conversation_id);
  end if;
  if v_has_pending then
    -- The conversation is locked. Its pending turns are its newest messages, and replace others.
    v_replaced := (
      select range_agg(int4range(w.position::integer, w.replaces_to, '[]'))
      from public.pending_turns w
      where w.conversation_id = p_conversation_id and w.replaces_to is not null);
    select
      coalesce(jsonb_agg(jsonb_build_object('role', part.role, 'content', part.content,
                                            'finish_reason', part.finish_reason)
                         order by turn.created_at, turn.id, part.role desc), '[]'),
      coalesce(max(turn.size), 0)::integer
    into v_pending, v_pending_size
    from (
      select w.created_at, w.id, w.turn,
             sum(octet_length(w.turn -> 'question' ->> 'content') + octet_length(w.turn -> 'answer' ->> 'content'))
               over (order by w.created_at desc, w.id desc) as size
      from public.pending_turns w
      where w.conversation_id = p_conversation_id and (p_before is null or w.position < p_before)
        and not exists (
          select from public.pending_turns q
          where q.conversation_id = w.conversation_id and (q.created_at, q.id) > (w.created_at, w.id)
            and w.position between q.position and q.replaces_to)
      order by w.created_at desc, w.id desc limit p_count / 2
    ) turn
    cross join lateral (values
      ('user', turn.turn -> 'question' ->> 'content', null),
      ('assistant', turn.turn -> 'answer' ->> 'content', turn.turn -> 'answer' ->> 'finish_reason')
    ) part (role, content, finish_reason)
    where turn.size <= p_bytes;
  end if;

  v_stored := (
    select jsonb_agg(
      case when sized.size_with_results <= p_bytes - v_pending_size
           then jsonb_build_object('role', sized.role, 'content', sized.content,
                                   'finish_reason', sized.finish_reason, 'step_ends', sized.step_ends,
                                   'function_calls', sized.function_calls,
                                   'function_results', sized.function_results)
           else jsonb_build_object('role', sized.role, 'content', sized.content,
                                   'finish_reason', sized.finish_reason) end
      order by sized.position)
    from (
      select newest.*, sum(octet_length(newest.content)) over newest_first as size,
             sum(octet_length(newest.content) + coalesce(octet_length(newest.function_calls::text), 0)
                 + coalesce(octet_length(newest.function_results::text), 0))
               over newest_first as size_with_results
      from (
        select m.role, m.content, m.finish_reason, m.step_ends, m.function_calls, m.function_results, m.position
        from public.messages m
        where m.conversation_id = p_conversation_id and m.position < coalesce(p_before, 2147483647)
          and (v_replaced is null or not m.position::integer <@ v_replaced)
        order by m.position desc limit p_count - jsonb_array_length(v_pending)
      ) newest
      window newest_first as (order by newest.position desc)
    ) sized
    where sized.size <= p_bytes - v_pending_size);
  return case when v_has_pending or v_stored is null then coalesce(v_stored, '[]') || v_pending else v_stored end;
end
$$;
comment on function private.recent_messages(uuid, integer, integer, integer) is
  'The newest messages of a conversation that fit into p_bytes, oldest first: [{role, content, finish_reason, '
  'step_ends, function_calls, function_results}]. Steps, calls and results are left out of messages where they do not '
  'fit. p_before: only messages before this position. Pending turns are stored first, or read if the conversation is '
  'locked.';
revoke all on function private.recent_messages(uuid, integer, integer, integer)
  from public, anon, authenticated, service_role;


create or replace function private.newest_answer(p_user_id uuid, p_chat_key uuid) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  -- Among the newest 100 queries of the user, because no index has the chat.
  return (
    select newest.id
    from (
      select u.id, u.chat_key, u.is_charged, u.query_timestamp from public.usage_logs u where u.user_id = p_user_id
      order by u.query_date desc, u.query_timestamp desc limit 100) newest
    where newest.chat_key = p_chat_key and newest.is_charged
    order by newest.query_timestamp desc limit 1);
end
$$;
comment on function private.newest_answer(uuid, uuid) is
  'The newest charged query of a chat, whose id is that of its answer. Null: none among the newest 100 of the user.';
revoke all on function private.newest_answer(uuid, uuid) from public, anon, authenticated, service_role;


create or replace function private.stop_chat(p_user_id uuid, p_chat_key uuid, p_at timestamptz) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update public.query_holds h set stop_requested = true
  where h.user_id = p_user_id and h.chat_key = p_chat_key and h.expires_at > p_at;
end
$$;
comment on function private.stop_chat(uuid, uuid, timestamptz) is
  'Requests that all running queries of a chat stop. The caller holds the user lock.';
revoke all on function private.stop_chat(uuid, uuid, timestamptz) from public, anon, authenticated, service_role;


create or replace function private.place_question(
  p_user_id uuid, p_chat_key uuid, p_conversation_id uuid, p_question_id text, p_hold_id uuid,
  out question_position integer, out replaces_to integer)
language plpgsql stable set search_path = ''
as $$
begin
  -- As private.next_position, inlined because it runs for every query.
  question_position := greatest(
    (select max(m.position) + 1 from public.messages m where m.conversation_id = p_conversation_id),
    (select max(w.position) + 2 from public.pending_turns w where w.conversation_id = p_conversation_id),
    (select max(h.position) + 2 from public.query_holds h
     where h.user_id = p_user_id and h.chat_key = p_chat_key and h.id <> p_hold_id),
    1);
  if p_question_id is null or p_conversation_id is null then
    return;
  end if;

  -- A repeated question keeps its place. What was asked since is replaced.
  select repeated.position, question_position - 1 into question_position, replaces_to
  from (
    (select m.position from public.messages m
     where m.conversation_id = p_conversation_id and m.role = 'user' and m.external_id = p_question_id
     order by m.position desc limit 1)
    union all
    select w.position from public.pending_turns w
    where w.conversation_id = p_conversation_id and w.turn -> 'question' ->> 'id' = p_question_id
    union all
    select question_position) repeated (position)
  order by repeated.position limit 1;
  if place_question.replaces_to < question_position then
    replaces_to := null; -- the question is new
  end if;
end
$$;
comment on function private.place_question(uuid, uuid, uuid, text, uuid) is
  'The position of a question: after everything asked in its chat so far, or that of the same question if it was asked '
  'before. Then messages up to replaces_to are replaced. The caller holds the user lock.';
revoke all on function private.place_question(uuid, uuid, uuid, text, uuid)
  from public, anon, authenticated, service_role;
