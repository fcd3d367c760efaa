-- Holds: queries that were admitted and have not ended.

create table if not exists public.query_holds (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  chat_key uuid,
  question_digest uuid,
  tier text not null,
  funding public.query_funding not null,
  query_date date not null,
  credit_pack_id uuid references public.credit_packs (id) on delete cascade,
  overage_charge public.usd not null default 0,
  period_start timestamptz not null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  provider text not null,
  model text not null,
  expires_at timestamptz not null,
  chat_id text,
  conversation_id uuid,
  position public.message_position,
  replaces_to integer,
  question jsonb,
  is_replaced boolean not null default false,
  progress text not null default '',
  followed_to public.quantity,
  followers jsonb not null default '{}',
  is_closing boolean not null default false,
  stop_requested boolean not null default false,
  constraint query_holds_one_a_request unique nulls not distinct (user_id, request_id, chat_key)
);
create index if not exists query_holds_expires_at_idx on public.query_holds (expires_at);
create index if not exists query_holds_credit_pack_id_idx on public.query_holds (credit_pack_id)
  where credit_pack_id is not null;

comment on table public.query_holds is
  'Queries that were admitted and have not ended. Each has taken its funding and records from where.';
comment on column public.query_holds.id is 'Identifies the query. Its usage_logs row gets the same id.';
comment on column public.query_holds.created_at is 'When the query was admitted.';
comment on column public.query_holds.user_id is 'The user.';
comment on column public.query_holds.request_id is
  'With chat_key the idempotency key: the same request is never charged twice.';
comment on column public.query_holds.chat_key is
  'The chat: its id if that is a UUID, otherwise its MD5. Null: the query has no chat.';
comment on column public.query_holds.question_digest is
  'The start of the SHA-256 of the question. Null: the request id identifies the question.';
comment on column public.query_holds.tier is 'The tier of the user at admission.';
comment on column public.query_holds.funding is 'What pays: byok, included, credit or overage.';
comment on column public.query_holds.query_date is
  'The UTC day of admission. The query counts against the quota of that day.';
comment on column public.query_holds.credit_pack_id is 'The credit pack that pays.';
comment on column public.query_holds.overage_charge is 'The amount held against the overage limit, dollars.';
comment on column public.query_holds.period_start is 'The overage period of admission.';
comment on column public.query_holds.quota_used is 'Included queries used before this one, of the day or in total.';
comment on column public.query_holds.quota_limit is 'The quota at that time, per day or in total.';
comment on column public.query_holds.overage_used is 'Overage in the period before this query, dollars.';
comment on column public.query_holds.overage_limit is
  'The overage limit at that time, dollars. Null: the plan had no overage.';
comment on column public.query_holds.provider is 'The provider chosen at admission.';
comment on column public.query_holds.model is 'The model chosen at admission.';
comment on column public.query_holds.expires_at is 'After this time the query is lost and its funding is returned.';
comment on column public.query_holds.chat_id is 'The chat id, as the client sent it.';
comment on column public.query_holds.conversation_id is
  'The conversation at admission. Null: it was new. No foreign key, because the user may delete the conversation.';
comment on column public.query_holds.position is
  'The position of the question in its conversation. Given at admission, so that messages are in the order of asking.';
comment on column public.query_holds.replaces_to is
  'The question was asked before: messages from position to here are replaced. Null: it is new.';
comment on column public.query_holds.question is
  'The question, {id, content}, for clients that load the chat while it is answered. Deleted with the hold.';
comment on column public.query_holds.is_replaced is
  'Whether a later query replaces this one, which is then not stored.';
comment on column public.query_holds.progress is
  'The stream so far, for clients that resume the answer in another process. Deleted with the hold.';
comment on column public.query_holds.followed_to is
  'How many characters of progress another process has read. Null: no process reads it.';
comment on column public.query_holds.followers is
  'When each client that reads the answer in another process last did: {id: time}.';
comment on column public.query_holds.is_closing is
  'Whether settlement is about to start. From then on no process may start to follow the answer.';
comment on column public.query_holds.stop_requested is 'Whether the user asked to stop the answer.';

alter table public.query_holds enable row level security;
alter table public.query_holds force row level security;
drop policy if exists "Users read their own holds" on public.query_holds;
create policy "Users read their own holds" on public.query_holds
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.query_holds from public, anon, authenticated, service_role;
grant select on public.query_holds to authenticated, service_role;
