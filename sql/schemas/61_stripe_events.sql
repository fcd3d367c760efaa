-- Stripe's webhook events: which were processed, which must be retried.

create or replace function public.claim_stripe_event(p_event_id text, p_type text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_processed_at timestamptz;
begin
  insert into public.stripe_events as e (created_at, event_id, type, attempts)
  values (private.clock(), p_event_id, p_type, 1)
  on conflict (event_id) do update set attempts = e.attempts + 1 where e.processed_at is null;
  select e.processed_at into v_processed_at from public.stripe_events e where e.event_id = p_event_id;
  return jsonb_build_object(
    'processed', v_processed_at is not null, 'sequence', nextval('private.stripe_sequence'::regclass));
end
$$;
comment on function public.claim_stripe_event(text, text) is
  'Records that processing of an event starts. Returns {processed, sequence}: whether it was processed before, and the '
  'sequence number for reading Stripe''s state now. Two processes may process one event at the same time.';
revoke all on function public.claim_stripe_event(text, text) from public, anon, authenticated, service_role;
grant execute on function public.claim_stripe_event(text, text) to service_role;


create or replace function public.next_stripe_sequence() returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return nextval('private.stripe_sequence'::regclass);
end
$$;
comment on function public.next_stripe_sequence() is
  'The sequence number for reading Stripe''s state now, without an event.';
revoke all on function public.next_stripe_sequence() from public, anon, authenticated, service_role;
grant execute on function public.next_stripe_sequence() to service_role;


create or replace function public.finish_stripe_event(
  p_event_id text, p_error text default null, p_is_final boolean default false)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.stripe_events e set
    last_error = p_error, processed_at = case when p_error is null or p_is_final then private.clock() end
  where e.event_id = p_event_id and e.processed_at is null;
end
$$;
comment on function public.finish_stripe_event(text, text, boolean) is
  'Records that the effect of an event is committed, or the exception type of the failure. p_is_final: no retry helps.';
revoke all on function public.finish_stripe_event(text, text, boolean) from public, anon, authenticated, service_role;
grant execute on function public.finish_stripe_event(text, text, boolean) to service_role;


create or replace function public.unfinished_stripe_events(p_after uuid default null, p_limit integer default 100)
returns table (id uuid, event_id text)
language sql stable security definer set search_path = ''
as $$
  select e.id, e.event_id from public.stripe_events e
  where e.processed_at is null and (p_after is null or e.id > p_after)
    -- Stripe stores an event for thirty days. An event of the last minutes may still be in progress.
    and e.created_at between private.clock() - interval '29 days' and private.clock() - interval '5 minutes'
  order by e.id limit least(p_limit, 1000)
$$;
comment on function public.unfinished_stripe_events(uuid, integer) is
  'Events whose effect is not committed, ordered by id, after p_after, at most 1,000.';
revoke all on function public.unfinished_stripe_events(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.unfinished_stripe_events(uuid, integer) to service_role;
