-- Stripe's webhook events, and the sequence that orders reads of Stripe's state.

create sequence if not exists private.stripe_sequence;
comment on sequence private.stripe_sequence is
  'Numbers each read of Stripe''s state before it starts. Of two states, the one with the higher number is newer.';
revoke all on sequence private.stripe_sequence from public, anon, authenticated, service_role;

create table if not exists public.stripe_events (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  event_id text not null
    constraint stripe_events_one_an_event unique,
  type text not null,
  attempts public.quantity not null default 0,
  last_error text,
  processed_at timestamptz
);
create index if not exists stripe_events_not_processed_idx on public.stripe_events (created_at)
  where processed_at is null;
create index if not exists stripe_events_processed_at_idx on public.stripe_events (processed_at);
comment on table public.stripe_events is
  'Stripe webhook events of the types that we use, and whether they have been processed.';
comment on column public.stripe_events.id is 'Identifies the row.';
comment on column public.stripe_events.created_at is 'When the event was first delivered.';
comment on column public.stripe_events.event_id is 'The Stripe event id.';
comment on column public.stripe_events.type is 'The Stripe event type.';
comment on column public.stripe_events.attempts is 'How many times processing was started.';
comment on column public.stripe_events.last_error is 'The exception type of the last failed attempt. Null: no failure.';
comment on column public.stripe_events.processed_at is
  'When the effect of the event was committed. Null: a redelivery or retry-events will process it.';

alter table public.stripe_events enable row level security;
alter table public.stripe_events force row level security;
revoke all on public.stripe_events from public, anon, authenticated, service_role;
grant select on public.stripe_events to service_role;
