-- Turns that are charged and not yet stored, because their conversation was locked when they were settled.

create table if not exists public.pending_turns (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  conversation_id uuid not null,
  conversation_created_at timestamptz not null,
  expires_at timestamptz not null,
  is_certain boolean not null,
  position public.message_position not null,
  replaces_to integer,
  turn jsonb not null
);
create index if not exists pending_turns_user_id_idx on public.pending_turns (user_id);
create index if not exists pending_turns_in_order_idx on public.pending_turns (conversation_id, created_at, id);

comment on table public.pending_turns is
  'Turns that are charged and not yet stored, because their conversation was locked when they were settled. The next '
  'call for the conversation or apply_pending_turns stores them, in order.';
comment on column public.pending_turns.id is
  'The query. Its usage_logs row is written in the same transaction and has its usage.';
comment on column public.pending_turns.created_at is 'When the query was answered.';
comment on column public.pending_turns.user_id is 'The user.';
comment on column public.pending_turns.conversation_id is
  'The conversation. No foreign key, because its check would wait for the lock.';
comment on column public.pending_turns.conversation_created_at is
  'Distinguishes the conversation from a later one with the same id. If it is gone, the turn is dropped.';
comment on column public.pending_turns.expires_at is 'The expires_at of the conversation after this turn.';
comment on column public.pending_turns.is_certain is
  'Whether the turn will be stored: false if the lock may have been that of a deletion.';
comment on column public.pending_turns.position is 'As in query_holds.';
comment on column public.pending_turns.replaces_to is 'As in query_holds.';
comment on column public.pending_turns.turn is 'The argument p_turn of settle_query.';

alter table public.pending_turns enable row level security;
alter table public.pending_turns force row level security;
revoke all on public.pending_turns from public, anon, authenticated, service_role;
-- No grant and no policy: only functions read and write it.
