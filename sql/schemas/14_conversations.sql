-- Conversations of users whose plan stores history.

create table if not exists public.conversations (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  external_id public.client_id,
  title public.short_text,
  context_type public.conversation_context not null default 'general',
  context_id public.short_text,
  context_data jsonb,
  message_count public.quantity not null default 0,
  total_tokens public.token_count not null default 0,
  is_pinned boolean not null default false,
  is_archived boolean not null default false,
  expires_at timestamptz not null,
  last_message_at timestamptz not null default now(),
  constraint conversations_external_id_is_the_users_own unique (user_id, external_id)
);
create index if not exists conversations_newest_first_idx
  on public.conversations (user_id, last_message_at desc);
create index if not exists conversations_expires_at_idx on public.conversations (expires_at) where not is_pinned;

comment on table public.conversations is 'Conversations of users whose plan stores history. Other plans store nothing.';
comment on column public.conversations.id is 'Identifies the conversation. Equal to the chat id if that is a UUID.';
comment on column public.conversations.created_at is 'When its first message was answered.';
comment on column public.conversations.updated_at is 'When the row last changed.';
comment on column public.conversations.user_id is 'The owner of the conversation.';
comment on column public.conversations.external_id is 'The chat id if that is not a UUID. Unique for each user.';
comment on column public.conversations.title is 'The title in lists. Starts as the beginning of the first question.';
comment on column public.conversations.context_type is 'The kind of page the user was on.';
comment on column public.conversations.context_id is 'The id of the record that the page shows.';
comment on column public.conversations.context_data is 'Data of the page, from the client.';
comment on column public.conversations.message_count is
  'The number of messages, equal to the position of the last one.';
comment on column public.conversations.total_tokens is 'Tokens of all its queries, replaced answers included.';
comment on column public.conversations.is_pinned is
  'Pinned conversations are stored past expires_at. A plan without history removes the pin.';
comment on column public.conversations.is_archived is 'Hidden from the default list.';
comment on column public.conversations.expires_at is
  'When the conversation may be deleted, unless it is pinned. Set from the plan at each message, never by a client.';
comment on column public.conversations.last_message_at is 'When the last message was answered.';

-- settle_query sets updated_at itself, because that costs less than the trigger.
create or replace trigger conversations_set_updated_at
  before update on public.conversations for each row when (new.updated_at = old.updated_at)
  execute function private.set_updated_at();


create or replace function private.check_pin() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  if not exists (
    select from private.current_subscriptions s where s.user_id = new.user_id and s.history_days > 0) then
    raise insufficient_privilege using message = 'Your plan stores no conversations, so none can be pinned.';
  end if;
  return new;
end
$$;
comment on function private.check_pin() is 'Trigger: rejects pinning on plans that store no history.';
revoke all on function private.check_pin() from public, anon, authenticated, service_role;

create or replace trigger conversations_check_pin
  before update of is_pinned on public.conversations for each row when (new.is_pinned and not old.is_pinned)
  execute function private.check_pin();


alter table public.conversations enable row level security;
alter table public.conversations force row level security;
drop policy if exists "Users read their own conversations" on public.conversations;
create policy "Users read their own conversations" on public.conversations
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.conversations from public, anon, authenticated, service_role;
grant select on public.conversations to authenticated, service_role;
-- No update or delete: update_conversation and delete_conversation write (52_conversations.sql).
