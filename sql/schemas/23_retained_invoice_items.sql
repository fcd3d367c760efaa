-- Invoice items of deleted users.

create table if not exists public.retained_invoice_items (
  id uuid primary key,
  created_at timestamptz not null,
  period_start timestamptz not null,
  queries integer not null,
  unit_price_usd public.usd not null,
  amount_usd public.usd not null,
  amount_cents integer not null,
  stripe_invoice_item_id text,
  stripe_invoice_id text
);
create index if not exists retained_invoice_items_created_at_idx on public.retained_invoice_items (created_at);
comment on table public.retained_invoice_items is
  'Rows of overage_invoice_items of deleted users. Stripe still has their invoices.';
comment on column public.retained_invoice_items.id is 'Identifies the item, also at Stripe.';
comment on column public.retained_invoice_items.created_at is 'When the queries were collected into the item.';
comment on column public.retained_invoice_items.period_start is 'Start of the overage period.';
comment on column public.retained_invoice_items.queries is 'The number of queries. Negative: given back.';
comment on column public.retained_invoice_items.unit_price_usd is 'Dollars per query.';
comment on column public.retained_invoice_items.amount_usd is 'The exact amount, dollars.';
comment on column public.retained_invoice_items.amount_cents is 'The amount for Stripe, cents.';
comment on column public.retained_invoice_items.stripe_invoice_item_id is 'The Stripe invoice item.';
comment on column public.retained_invoice_items.stripe_invoice_id is 'The Stripe invoice.';

alter table public.retained_invoice_items enable row level security;
alter table public.retained_invoice_items force row level security;
revoke all on public.retained_invoice_items from public, anon, authenticated, service_role;
grant select on public.retained_invoice_items to service_role;
