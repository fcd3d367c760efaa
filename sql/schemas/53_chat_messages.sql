-- A chat as its user sees it after a reload: the stored messages, and the questions that are being answered.

create or replace function public.chat_messages(
  p_user_id uuid, p_chat_id text, p_before integer default null, p_limit integer default 200,
  p_bytes integer default 4194304)
returns jsonb
-- Stable: all statements see the same snapshot, so a turn that is being settled is seen once.
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_chat_uuid constant uuid := private.conversation_key(p_chat_id);
  v_conversation_id constant uuid := private.find_conversation(p_user_id, p_chat_id, v_chat_uuid);
  v_at constant timestamptz := private.clock();
  v_page record;
  v_conversation jsonb;
begin
  with running as (
    select h.id, h.position, h.replaces_to, h.question from public.query_holds h
    where h.user_id = p_user_id and h.chat_key = coalesce(v_chat_uuid, md5(p_chat_id)::uuid) and h.expires_at > v_at
      and h.question is not null and not h.is_replaced
  ), pending as (
    select w.id, w.created_at, w.position, w.replaces_to, w.turn from public.pending_turns w
    join public.conversations c on c.id = w.conversation_id and c.created_at = w.conversation_created_at
    where w.conversation_id = v_conversation_id
  ), repeated as (
    -- Turns that replace earlier ones: those that wait in the order in which they ended, then those that run.
    select w.created_at, w.id, int4range(w.position::integer, w.replaces_to, '[]') as positions
    from pending w where w.replaces_to is not null
    union all
    select 'infinity', h.id, int4range(h.position::integer, h.replaces_to, '[]')
    from running h where h.replaces_to is not null
  ), message as (
    (select m.position::integer as position, m.role, m.id, m.external_id, m.content, m.step_ends, m.function_calls,
            m.function_results
     from public.messages m
     where m.conversation_id = v_conversation_id and (p_before is null or m.position < p_before)
       and not exists (select from repeated r where m.position::integer <@ r.positions)
     order by m.position desc limit p_limit)
    union all
    select part.position, part.role, w.id, w.turn -> 'question' ->> 'id', part.message ->> 'content',
           part.message -> 'step_ends', nullif(part.message -> 'function_calls', 'null'),
           nullif(part.message -> 'function_results', 'null')
    from pending w
    cross join lateral (values
      (w.position::integer, 'user', w.turn -> 'question'), (w.position + 1, 'assistant', w.turn -> 'answer')
    ) part (position, role, message)
    where not exists (
      select from repeated r
      where w.position::integer <@ r.positions and (r.created_at, r.id) > (w.created_at, w.id))
    union all
    select h.position, 'user', h.id, h.question ->> 'id', h.question ->> 'content', null, null, null from running h
  ), newest as (
    select m.*, sum(
        octet_length(m.content) + coalesce(octet_length(m.function_calls::text), 0)
        + coalesce(octet_length(m.function_results::text), 0)) over newest_first as size,
      row_number() over newest_first as number
    from message m where p_before is null or m.position < p_before
    window newest_first as (order by m.position desc)
  )
  select
    min(n.position) as first_position,
    coalesce(jsonb_agg(jsonb_build_object(
      'id', case when n.role = 'user' then coalesce(n.external_id, n.id::text) else n.id::text end, 'role', n.role,
      'content', n.content, 'step_ends', n.step_ends, 'function_calls', n.function_calls,
      'function_results', n.function_results, 'finish_reason', u.finish_reason, 'provider', u.provider,
      'model', u.model, 'funding', u.funding, 'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output,
      'cache_read_tokens', u.cache_read_tokens, 'cache_write_tokens', u.cache_write_tokens,
      'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text) order by n.position), '[]') as messages,
    exists (select from running) as is_running
  into v_page
  from newest n
  left join public.usage_logs u on u.id = n.id and u.user_id = p_user_id and n.role = 'assistant'
  where n.number = 1 or n.size <= p_bytes and n.number <= p_limit;
  if v_page.first_position is null and v_conversation_id is null or not v_page.is_running and exists (
       select from public.conversations c
       where c.id = v_conversation_id and c.expires_at <= v_at and not c.is_pinned) then
    perform private.require_account(p_user_id);
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.',
      hint = 'conversation_not_found';
  end if;

  select jsonb_build_object(
    'id', c.id, 'chat_id', p_chat_id, 'title', c.title, 'context_type', c.context_type, 'context_id', c.context_id,
    'is_pinned', coalesce(c.is_pinned, false), 'is_archived', coalesce(c.is_archived, false),
    'created_at', c.created_at, 'last_message_at', c.last_message_at, 'expires_at', c.expires_at,
    'is_running', v_page.is_running)
  into v_conversation
  from (values (v_conversation_id)) one (id) left join public.conversations c on c.id = one.id;
  return jsonb_build_object(
    'conversation', v_conversation, 'messages', v_page.messages,
    'before', case when exists (
      select from public.messages m
      where m.conversation_id = v_conversation_id and m.position < v_page.first_position)
      then v_page.first_position end);
end
$$;
comment on function public.chat_messages(uuid, text, integer, integer, integer) is
  'A chat of a user: {conversation, messages, before}. The newest p_limit messages that fit into p_bytes, oldest '
  'first, with what the ledger has of each answer. The question of a running answer is the last one, and is there too '
  'where nothing is stored yet. p_before: only messages before this position; "before" is its value for the page '
  'before, or null. NTFND: nothing is stored and nothing runs, the conversation has expired, or it belongs to another '
  'user. NOUSR: the account has ended.';
revoke all on function public.chat_messages(uuid, text, integer, integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.chat_messages(uuid, text, integer, integer, integer) to service_role;
