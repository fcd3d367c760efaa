-- Credit packs that users bought.

create table if not exists public.credit_packs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  credits_purchased integer not null
    constraint credit_packs_credits_purchased_are_positive check (credits_purchased > 0),
  credits_remaining public.quantity not null,
  credits_used public.quantity not null default 0,
  credits_revoked public.quantity not null default 0,
  credits_to_revoke public.quantity not null default 0,
  credits_expired public.quantity not null default 0,
  is_frozen boolean not null default false,
  price_paid public.usd not null,
  price_per_credit public.usd not null generated always as (round(price_paid / credits_purchased, 6)) stored,
  stripe_payment_intent_id text
    constraint credit_packs_stripe_payment_intent_is_unique unique,
  stripe_checkout_session_id text
    constraint credit_packs_stripe_checkout_session_is_unique unique,
  stripe_sequence bigint not null default 0,
  expires_at timestamptz,
  depleted_at timestamptz,
  lapsed_at timestamptz,
  constraint credit_packs_no_credit_is_lost check (
    credits_remaining + credits_used + credits_revoked + credits_expired = credits_purchased)
);
create index if not exists credit_packs_to_lapse_idx on public.credit_packs (expires_at)
  where expires_at is not null and lapsed_at is null;
create index if not exists credit_packs_created_at_idx on public.credit_packs (created_at);
create index if not exists credit_packs_spending_order_idx
  on public.credit_packs (user_id, expires_at, created_at);

comment on table public.credit_packs is 'Prepaid queries. Changed only under the user lock of the owner.';
comment on column public.credit_packs.id is 'Identifies the pack.';
comment on column public.credit_packs.created_at is 'When the pack was bought.';
comment on column public.credit_packs.user_id is 'The owner of the pack.';
comment on column public.credit_packs.credits_purchased is 'Credits bought.';
comment on column public.credit_packs.credits_remaining is 'Credits left.';
comment on column public.credit_packs.credits_used is 'Credits spent, holds included.';
comment on column public.credit_packs.credits_revoked is
  'Credits taken back after a refund or a lost dispute: at most those that were left.';
comment on column public.credit_packs.credits_to_revoke is
  'Credits that refunds and a lost dispute are worth. Credits spent before stay spent.';
comment on column public.credit_packs.credits_expired is 'Credits that were left when the pack expired.';
comment on column public.credit_packs.is_frozen is 'Whether the payment is disputed. A frozen pack pays for nothing.';
comment on column public.credit_packs.price_paid is 'Dollars paid for the pack, without tax.';
comment on column public.credit_packs.price_per_credit is 'Dollars per credit, to six decimals.';
comment on column public.credit_packs.stripe_payment_intent_id is 'The Stripe payment intent.';
comment on column public.credit_packs.stripe_checkout_session_id is
  'The Stripe checkout session. A session grants at most one pack.';
comment on column public.credit_packs.stripe_sequence is
  'The sequence number of the newest state of the payment applied here. Older states are ignored.';
comment on column public.credit_packs.expires_at is 'When the remaining credits expire. Null: never.';
comment on column public.credit_packs.depleted_at is 'When the last credit was taken. Null while credits are left.';
comment on column public.credit_packs.lapsed_at is
  'When the remaining credits were recorded as expired. The pack pays for nothing from expires_at on.';

alter table public.credit_packs enable row level security;
alter table public.credit_packs force row level security;
drop policy if exists "Users read their own credit packs" on public.credit_packs;
create policy "Users read their own credit packs" on public.credit_packs
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.credit_packs from public, anon, authenticated, service_role;
grant select on public.credit_packs to authenticated, service_role;
