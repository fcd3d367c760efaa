-- What users change of their own conversations. No role of the Data API writes to the tables: a filter or an embedded
-- resource of such a request runs for as long as its author likes while the row stays locked. These functions return
-- nothing, so a request can add nothing to them.

create or replace function public.update_conversation(
  p_id uuid, p_title text default null, p_is_pinned boolean default null, p_is_archived boolean default null)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  -- Check
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to change a conversation.';
  elsif char_length(p_title) not between 1 and 200 then
    raise invalid_parameter_value using message = 'A title must have 1 to 200 characters.';
  end if;

  -- Write
  update public.conversations c set
    title = coalesce(p_title, c.title), is_pinned = coalesce(p_is_pinned, c.is_pinned),
    is_archived = coalesce(p_is_archived, c.is_archived)
  where c.id = p_id and c.user_id = v_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.';
  end if;
end
$$;
comment on function public.update_conversation(uuid, text, boolean, boolean) is
  'Changes the title, pin and archive mark of a conversation of the signed-in user. Null leaves a value as it is. '
  'NTFND: not a conversation of the user.';
revoke all on function public.update_conversation(uuid, text, boolean, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.update_conversation(uuid, text, boolean, boolean) to authenticated;


create or replace function public.delete_conversation(p_id uuid) returns void
-- Ten thousand messages take 0.4 s. PostgREST applies this time-out to the call.
language plpgsql volatile security definer set search_path = '' set statement_timeout = '10s'
as $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  -- Check
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to delete a conversation.';
  end if;

  -- Lock
  perform from auth.users u where u.id = v_user_id for key share;
  perform from public.conversations c where c.id = p_id and c.user_id = v_user_id for update;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.';
  end if;

  -- Write
  while exists (select from public.conversations c where c.id = p_id) loop
    perform private.delete_conversations(array[p_id]);
  end loop;
end
$$;
comment on function public.delete_conversation(uuid) is
  'Deletes a conversation of the signed-in user with its messages. The ledger keeps the charges. NTFND: not a '
  'conversation of the user.';
revoke all on function public.delete_conversation(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_conversation(uuid) to authenticated;
