-- Copies of conversations that everybody with the link can read.

create table if not exists public.shared_conversations (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default private.clock(),
  user_id uuid not null references auth.users (id) on delete cascade,
  conversation_id uuid not null
    constraint shared_conversations_one_for_each_conversation unique
    references public.conversations (id) on delete cascade,
  token text not null
    constraint shared_conversations_token_is_unique unique
    constraint shared_conversations_token_is_unguessable check (char_length(token) between 32 and 64),
  snapshot jsonb not null,
  expires_at timestamptz not null
);
create index if not exists shared_conversations_user_id_idx on public.shared_conversations (user_id);
create index if not exists shared_conversations_expires_at_idx on public.shared_conversations (expires_at);

comment on table public.shared_conversations is
  'Copies of conversations that everybody with the token can read. Deleted with the conversation, when the user stops '
  'sharing, and after expires_at.';
comment on column public.shared_conversations.id is 'Identifies the copy.';
comment on column public.shared_conversations.created_at is 'When the conversation was first shared.';
comment on column public.shared_conversations.updated_at is 'When the copy was made.';
comment on column public.shared_conversations.user_id is 'The owner of the conversation.';
comment on column public.shared_conversations.conversation_id is 'The conversation.';
comment on column public.shared_conversations.token is 'The secret part of the link. It gives the right to read.';
comment on column public.shared_conversations.snapshot is
  'The title and the messages at that time: texts and sources, without tools, tokens and costs.';
comment on column public.shared_conversations.expires_at is
  'Until when it can be read: the expiry of the conversation when it was shared.';

alter table public.shared_conversations enable row level security;
alter table public.shared_conversations force row level security;
drop policy if exists "Users read what they share" on public.shared_conversations;
create policy "Users read what they share" on public.shared_conversations
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.shared_conversations from public, anon, authenticated, service_role;
grant select on public.shared_conversations to authenticated, service_role;
-- No grant to anon: visitors read through shared_conversation. No insert, update or delete: functions write.
