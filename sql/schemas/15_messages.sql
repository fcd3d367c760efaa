-- The messages of conversations.

create table if not exists public.messages (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  conversation_id uuid not null references public.conversations (id) on delete cascade,
  position public.message_position not null,
  role public.message_role not null,
  external_id public.client_id,
  content text not null,
  step_ends jsonb,
  tokens_input public.quantity not null default 0,
  tokens_output public.quantity not null default 0,
  tokens_total integer not null default 0,
  provider text,
  model text,
  used_byo_key boolean not null default false,
  function_calls jsonb,
  function_results jsonb,
  finish_reason public.finish_reason,
  cost_usd public.usd not null default 0,
  constraint messages_position_is_taken_once unique (conversation_id, position)
);
comment on table public.messages is 'The questions and answers of a conversation, ordered by position.';
comment on column public.messages.id is 'Identifies the message. For an answer: the message id in the stream.';
comment on column public.messages.created_at is 'When the message was stored.';
comment on column public.messages.conversation_id is 'The conversation.';
comment on column public.messages.position is 'The place in the conversation, from 1.';
comment on column public.messages.role is 'The author: user, assistant or system.';
comment on column public.messages.external_id is 'The id of a user message in the client.';
comment on column public.messages.content is 'The text.';
comment on column public.messages.step_ends is
  'The number of characters of content at the end of each step of an answer. Null: it is one step.';
comment on column public.messages.tokens_input is 'Input tokens of this answer, cached ones included.';
comment on column public.messages.tokens_output is 'Output tokens.';
comment on column public.messages.tokens_total is 'Input and output tokens.';
comment on column public.messages.provider is 'The provider that answered: anthropic or openai.';
comment on column public.messages.model is 'The model that answered.';
comment on column public.messages.used_byo_key is 'Whether the user''s own key paid.';
comment on column public.messages.function_calls is
  'Tool calls: [{id, name, input, step, at}]. at: the number of characters of content before the call.';
comment on column public.messages.function_results is
  'Tool results in the same order: [{id, output or error, sources: [{url, title}]}].';
comment on column public.messages.finish_reason is 'Why the answer ended.';
comment on column public.messages.cost_usd is 'The cost at the provider, US dollars.';

alter table public.messages enable row level security;
alter table public.messages force row level security;
drop policy if exists "Users read the messages of their own conversations" on public.messages;
create policy "Users read the messages of their own conversations" on public.messages
  for select to authenticated using (
    (select private.check_statement()) and exists (
      select from public.conversations c
      where c.id = messages.conversation_id and c.user_id = (select auth.uid())));
revoke all on public.messages from public, anon, authenticated, service_role;
grant select on public.messages to authenticated, service_role;
