-- The credit packs that are sold.

create table if not exists public.packs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  slug text not null
    constraint packs_slug_is_unique unique
    constraint packs_slug_is_a_lookup_key check (slug ~ '^pack_[a-z0-9_]{1,40}$'),
  name text not null,
  credits integer not null
    constraint packs_credits_are_positive check (credits > 0),
  currency public.currency not null default 'usd'
    constraint packs_currency_is_that_of_all_prices references public.settings (currency) on update cascade,
  price_usd public.usd not null
    constraint packs_price_is_one_that_stripe_charges check (price_usd >= 0.5 and price_usd = round(price_usd, 2)),
  expires_after_days integer
    constraint packs_expiry_is_positive check (expires_after_days > 0),
  is_sold boolean not null default true
);
create index if not exists packs_currency_idx on public.packs (currency);
comment on table public.packs is 'The credit packs that are sold: the single source of sizes and prices.';
comment on column public.packs.id is 'Identifies the row.';
comment on column public.packs.created_at is 'When the pack was added.';
comment on column public.packs.slug is 'The id in POST /checkout, and the lookup key of the price at Stripe.';
comment on column public.packs.name is 'The name that users see.';
comment on column public.packs.credits is 'Queries that the pack pays for.';
comment on column public.packs.currency is 'The currency of price_usd, that of all plans and packs.';
comment on column public.packs.price_usd is 'The price in the currency, whole cents.';
comment on column public.packs.expires_after_days is 
  'Days until unused credits expire. Null: never. To change it, sell another pack: reconcile compares sold ones with '
  'it.';
comment on column public.packs.is_sold is 'False: the pack is no longer sold. Packs that users have bought stay valid.';

insert into public.packs (slug, name, credits, price_usd)
values ('pack_100', '100 queries', 100, 2.25), ('pack_500', '500 queries', 500, 10)
on conflict (slug) do nothing;

alter table public.packs enable row level security;
alter table public.packs force row level security;
revoke all on public.packs from public, anon, authenticated, service_role;
-- Not to anon and authenticated, and no policy: GET /plans has the packs.
grant select on public.packs to service_role;
