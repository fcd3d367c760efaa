-- What users say about answers.

create or replace function public.rate_message(
  p_user_id uuid, p_message_id uuid, p_rating text, p_comment text default null)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform from auth.users u where u.id = p_user_id for key share;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;

  -- Decide
  if not exists (select from public.usage_logs u where u.id = p_message_id and u.user_id = p_user_id) then
    raise exception using errcode = 'NTFND', message = 'There is no such answer.';
  end if;

  -- Write
  if p_rating is null then
    delete from public.message_feedback f where f.query_id = p_message_id;
    return;
  end if;
  insert into public.message_feedback (user_id, query_id, rating, comment)
  values (p_user_id, p_message_id, p_rating, p_comment)
  on conflict (query_id) do update set
    rating = excluded.rating, comment = excluded.comment, updated_at = excluded.updated_at;
end
$$;
comment on function public.rate_message(uuid, uuid, text, text) is
  'Stores the rating of an answer, up or down, with a comment, in place of the one before. Null removes both. '
  'p_message_id: the message id in the stream, which is the id of the query, on every plan. NTFND: not an answer to '
  'the user. NOUSR: the account has ended.';
revoke all on function public.rate_message(uuid, uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.rate_message(uuid, uuid, text, text) to service_role;
