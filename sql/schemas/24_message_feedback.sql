-- Users' ratings of answers.

create table if not exists public.message_feedback (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default private.clock(),
  user_id uuid not null references auth.users (id) on delete cascade,
  query_id uuid not null
    constraint message_feedback_one_for_each_answer unique
    references public.usage_logs (id) on delete cascade,
  rating text not null
    constraint message_feedback_rating_is_known check (rating in ('up', 'down')),
  comment text
    constraint message_feedback_comment_is_bounded check (char_length(comment) between 1 and 2000)
);
create index if not exists message_feedback_user_id_idx on public.message_feedback (user_id);
create index if not exists message_feedback_updated_at_idx on public.message_feedback (updated_at);

comment on table public.message_feedback is
  'Ratings of answers, on every plan. Deleted with the conversation, and 90 days after the last change.';
comment on column public.message_feedback.id is 'Identifies the rating.';
comment on column public.message_feedback.created_at is 'When the answer was first rated.';
comment on column public.message_feedback.updated_at is 'When the rating last changed.';
comment on column public.message_feedback.user_id is 'The user who asked and rated.';
comment on column public.message_feedback.query_id is
  'The query that produced the answer. Equal to the message id in the stream.';
comment on column public.message_feedback.rating is 'up or down.';
comment on column public.message_feedback.comment is 'What the user wrote about the answer.';

alter table public.message_feedback enable row level security;
alter table public.message_feedback force row level security;
drop policy if exists "Users read their own ratings" on public.message_feedback;
create policy "Users read their own ratings" on public.message_feedback
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.message_feedback from public, anon, authenticated, service_role;
grant select on public.message_feedback to authenticated, service_role;
-- No insert, update or delete: rate_message writes.
