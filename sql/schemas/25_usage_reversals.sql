-- Reversing entries of the ledger: charges that an operator gave back.

create table if not exists public.usage_reversals (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  query_id uuid not null
    constraint usage_reversals_one_a_query unique
    references public.usage_logs (id) on delete cascade,
  funding public.query_funding not null,
  overage_charge public.usd not null,
  invoice_item_id uuid
    constraint usage_reversals_one_an_invoice_item unique
    references public.overage_invoice_items (id)
);
create index if not exists usage_reversals_user_id_idx on public.usage_reversals (user_id);

comment on table public.usage_reversals is
  'Charges that an operator gave back: one row reverses one row of usage_logs, in which only reversed_at changes.';
comment on column public.usage_reversals.id is 'Identifies the entry: the id of the action in operator_actions.';
comment on column public.usage_reversals.created_at is 'When the charge was given back.';
comment on column public.usage_reversals.user_id is 'The user.';
comment on column public.usage_reversals.query_id is 'The query.';
comment on column public.usage_reversals.funding is 'What paid for it, and got it back.';
comment on column public.usage_reversals.overage_charge is 'The overage charge that is given back, dollars.';
comment on column public.usage_reversals.invoice_item_id is
  'The item that gives the money back at Stripe. Null: the query was not on an invoice item yet, and never will be.';

alter table public.usage_reversals enable row level security;
alter table public.usage_reversals force row level security;
drop policy if exists "Users read their own reversals" on public.usage_reversals;
create policy "Users read their own reversals" on public.usage_reversals
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.usage_reversals from public, anon, authenticated, service_role;
grant select on public.usage_reversals to authenticated, service_role;
-- No insert, update or delete: credit_back writes.
