-- Refused queries, for support and explain_query.

create table if not exists public.query_refusals (
  id uuid primary key,
  created_at timestamptz not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  chat_key uuid,
  reason text not null,
  reason_code text not null,
  requires_payment boolean not null,
  resets_at timestamptz,
  tier text not null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  earlier_ids uuid[] not null default '{}', -- record_refusal keeps at most 20
  constraint query_refusals_one_a_request unique nulls not distinct (user_id, request_id, chat_key)
);
create index if not exists query_refusals_newest_first_idx on public.query_refusals (user_id, created_at desc);
create index if not exists query_refusals_earlier_ids_idx on public.query_refusals using gin (earlier_ids);

comment on table public.query_refusals is
  'Refused queries with the reason and the state at that time: the newest fifty of each user. They took no funding.';
comment on column public.query_refusals.id is 'Identifies the attempt.';
comment on column public.query_refusals.earlier_ids is
  'The ids of earlier attempts at the request, the newest first, at most 20: users were shown them.';
comment on column public.query_refusals.created_at is 'When the request was last refused.';
comment on column public.query_refusals.user_id is 'The user.';
comment on column public.query_refusals.request_id is 'With chat_key the idempotency key of the request.';
comment on column public.query_refusals.chat_key is 'As in query_holds.';
comment on column public.query_refusals.reason is 'The reason, as can_user_query returns it.';
comment on column public.query_refusals.reason_code is 'The reason as a code of public.reasons.';
comment on column public.query_refusals.requires_payment is 'Whether a payment would have helped.';
comment on column public.query_refusals.resets_at is 'When the limit resets. Null: it does not reset.';
comment on column public.query_refusals.tier is 'The tier of the user at that time.';
comment on column public.query_refusals.quota_used is 'Included queries used at that time, of the day or in total.';
comment on column public.query_refusals.quota_limit is 'The quota at that time, per day or in total.';
comment on column public.query_refusals.overage_used is 'Overage in the period at that time, dollars.';
comment on column public.query_refusals.overage_limit is
  'The overage limit at that time, dollars. Null: the plan had no overage.';

alter table public.query_refusals enable row level security;
alter table public.query_refusals force row level security;
drop policy if exists "Users read their own refusals" on public.query_refusals;
create policy "Users read their own refusals" on public.query_refusals
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.query_refusals from public, anon, authenticated, service_role;
grant select on public.query_refusals to authenticated, service_role;
