-- Overage on Stripe's invoices, from our ledger.

create table if not exists public.overage_invoice_items (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  period_start timestamptz not null,
  queries integer not null
    constraint overage_invoice_items_queries_are_not_zero check (queries <> 0),
  unit_price_usd public.usd not null,
  gives_back_cents public.quantity,
  amount_usd public.usd not null generated always as (abs(queries) * unit_price_usd) stored,
  amount_cents integer not null generated always as (
    coalesce(-gives_back_cents::integer, floor(queries * unit_price_usd * 100))) stored,
  attempts public.quantity not null default 0,
  target jsonb not null,
  refusals public.quantity not null default 0,
  stripe_invoice_item_id text
    constraint overage_invoice_items_stripe_invoice_item_is_unique unique,
  stripe_invoice_id text,
  settled_as text
    constraint overage_invoice_items_have_a_known_settlement
    check (settled_as in ('paid', 'credited', 'void', 'returned')),
  stripe_sequence bigint not null default 0,
  constraint overage_invoice_items_negative_ones_give_back check ((queries < 0) = (gives_back_cents is not null))
);
create index if not exists overage_invoice_items_user_id_idx on public.overage_invoice_items (user_id);
create index if not exists overage_invoice_items_created_at_idx on public.overage_invoice_items (created_at);
create index if not exists overage_invoice_items_open_idx on public.overage_invoice_items (user_id)
  where stripe_invoice_item_id is null or stripe_invoice_id is null;

comment on table public.overage_invoice_items is
  'Overage that is billed: one row per period and price, to which usage_logs.invoice_item_id refers. Of a charge that '
  'is given back after that: one row with queries -1, to which usage_reversals.invoice_item_id refers.';
comment on column public.overage_invoice_items.id is
  'Identifies the item, also at Stripe: metadata overage_invoice_item.';
comment on column public.overage_invoice_items.created_at is 'When the queries were collected into this item.';
comment on column public.overage_invoice_items.user_id is 'The user who is billed.';
comment on column public.overage_invoice_items.period_start is 'Start of the overage period of the queries.';
comment on column public.overage_invoice_items.queries is 'The number of queries. Negative: given back.';
comment on column public.overage_invoice_items.gives_back_cents is
  'Of an item that gives back: cents. They are what the query made of the amount of its item, which was rounded.';
comment on column public.overage_invoice_items.unit_price_usd is 'Dollars per query.';
comment on column public.overage_invoice_items.amount_usd is 'The exact amount, dollars, never negative.';
comment on column public.overage_invoice_items.amount_cents is
  'The amount for Stripe, cents. Rounded down in favour of the user. No other place rounds. Negative: given back.';
comment on column public.overage_invoice_items.attempts is
  'How many times the item was sent to Stripe. From the second attempt on, an existing item is searched first.';
comment on column public.overage_invoice_items.target is
  'Parameters of the Stripe request: {"invoice": id} for a draft, {} for the next invoice of the customer. Stored, so '
  'that concurrent attempts send the same request.';
comment on column public.overage_invoice_items.refusals is 'How many targets Stripe has permanently refused.';
comment on column public.overage_invoice_items.stripe_invoice_item_id is
  'The Stripe invoice item. Null: not known to exist yet.';
comment on column public.overage_invoice_items.stripe_invoice_id is
  'The Stripe invoice that has the item. Null: the item waits for one.';
comment on column public.overage_invoice_items.settled_as is
  'How the debt ended: its invoice was paid, or voided. Credited: the customer''s balance at Stripe paid some of it, '
  'which raises no limit. Returned: it was paid, and the payment was refunded or disputed, so the user owes it again. '
  'Null: the user owes it.';
comment on column public.overage_invoice_items.stripe_sequence is
  'The sequence number of the newest state of the invoice applied here. Older states are ignored.';

alter table public.overage_invoice_items enable row level security;
alter table public.overage_invoice_items force row level security;
drop policy if exists "Users read what they are billed" on public.overage_invoice_items;
create policy "Users read what they are billed" on public.overage_invoice_items
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.overage_invoice_items from public, anon, authenticated, service_role;
grant select on public.overage_invoice_items to authenticated, service_role;
