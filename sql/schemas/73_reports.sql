-- Reports for operators: what we billed and sold, to compare with Stripe, and the margin of a month.

create or replace function public.billed_items(
  p_since timestamptz, p_after uuid default null, p_limit integer default 1000)
returns table (
  id uuid, created_at timestamptz, user_id uuid, amount_cents integer, stripe_invoice_item_id text,
  stripe_invoice_id text, settled_as text)
language sql stable security definer set search_path = ''
as $$
  select i.* from (
    select o.id, o.created_at, o.user_id, o.amount_cents, o.stripe_invoice_item_id, o.stripe_invoice_id, o.settled_as
    from public.overage_invoice_items o where o.created_at >= p_since and (p_after is null or o.id > p_after)
    union all
    select r.id, r.created_at, null::uuid, r.amount_cents, r.stripe_invoice_item_id, r.stripe_invoice_id, null
    from public.retained_invoice_items r where r.created_at >= p_since and (p_after is null or r.id > p_after)
  ) i
  order by i.id limit least(p_limit, 1000)
$$;
comment on function public.billed_items(timestamptz, uuid, integer) is
  'Billed overage items since a time, ordered by id, after p_after, at most 1,000, to compare with Stripe. user_id '
  'null: the user was deleted.';
revoke all on function public.billed_items(timestamptz, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.billed_items(timestamptz, uuid, integer) to service_role;


create or replace function public.price_currency() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object('currency', s.currency, 'usd_per_unit', s.usd_per_unit::text) from public.settings s
$$;
comment on function public.price_currency() is
  'The currency of all prices, and US dollars for one unit of it: {currency, usd_per_unit}.';
revoke all on function public.price_currency() from public, anon, authenticated, service_role;
grant execute on function public.price_currency() to service_role;


create or replace function public.margin_report(p_month date)
returns table (
  tier text, provider text, model text, queries bigint, overage_usd text, credits_usd text, cost_usd text,
  written_off_usd text)
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with spent as (
    select u.tier, u.provider, u.model, count(*) as queries,
           coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0) as overage,
           coalesce(sum(c.price_per_credit) filter (where u.is_charged and u.reversed_at is null), 0) as credits,
           coalesce(sum(u.cost_usd) filter (where not u.used_byo_key), 0) as cost, 0 as written_off
    from public.usage_logs u
    left join public.credit_packs c on c.id = u.credit_pack_id
    where u.query_date >= date_trunc('month', p_month)::date
      and u.query_date < (date_trunc('month', p_month) + interval '1 month')::date
    group by 1, 2, 3
    union all
    select r.tier, r.provider, r.model, r.queries, r.overage_usd, r.credits_usd,
           case when r.funding = 'byok' then 0 else r.cost_usd end, r.written_off_usd
    from public.retained_usage r where r.month = date_trunc('month', p_month)::date
  )
  select s.tier, s.provider, s.model, sum(s.queries)::bigint, sum(s.overage)::numeric(20,6)::text,
         sum(s.credits)::numeric(20,6)::text, sum(s.cost)::numeric(20,6)::text,
         sum(s.written_off)::numeric(20,6)::text
  from spent s group by 1, 2, 3 order by 1, 2, 3
$$;
comment on function public.margin_report(date) is
  'A UTC month by tier, provider and model: queries, overage charges, spent credits, and our cost at the providers '
  '(zero for own keys), as text, without charges that were given back. Overage and credits are in the currency of '
  'the prices, cost in US dollars. Plan fees are only at Stripe.';
revoke all on function public.margin_report(date) from public, anon, authenticated, service_role;
grant execute on function public.margin_report(date) to service_role;


create or replace function public.note_job_run(p_job text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.job_runs (job, finished_at) values (p_job, private.clock())
  on conflict (job) do update set finished_at = greatest(job_runs.finished_at, excluded.finished_at);
end
$$;
comment on function public.note_job_run(text) is 'Records that a scheduled job ended without an error.';
revoke all on function public.note_job_run(text) from public, anon, authenticated, service_role;
grant execute on function public.note_job_run(text) to service_role;


create or replace function public.service_state(p_jobs text[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
begin
  -- A job that has never run counts from the first question about it.
  insert into public.job_runs (job, finished_at) select job, v_at from unnest(p_jobs) job
  on conflict (job) do nothing;

  return (
    select jsonb_build_object(
      'job_ages', (
        select coalesce(jsonb_object_agg(r.job, floor(extract(epoch from v_at - r.finished_at))::integer), '{}')
        from public.job_runs r where r.job = any (p_jobs)),
      'turns_pending', (
        select count(*) from public.pending_turns w where w.created_at < v_at - interval '15 minutes'),
      'holds_overdue', (
        select count(*) from public.query_holds h where h.expires_at < v_at - interval '5 minutes'),
      'free_budget_percent', floor(100 * spent.free / nullif(s.free_daily_budget_usd, 0))::integer,
      'platform_budget_percent', floor(100 * spent.total / nullif(s.platform_daily_budget_usd, 0))::integer)
    from public.settings s
    cross join (
      select coalesce(sum(c.free_usd), 0) as free, coalesce(sum(c.total_usd), 0) as total
      from public.daily_costs c where c.day = (v_at at time zone 'UTC')::date) spent);
end
$$;
comment on function public.service_state(text[]) is
  'What an operator is alarmed about: {job_ages, turns_pending, holds_overdue, free_budget_percent, '
  'platform_budget_percent}. job_ages: seconds since each of the jobs succeeded. turns_pending: charged turns that are '
  'not stored after fifteen minutes. holds_overdue: holds five minutes past their expiry. The percentages are of the '
  'day''s budgets, null without a budget.';
revoke all on function public.service_state(text[]) from public, anon, authenticated, service_role;
grant execute on function public.service_state(text[]) to service_role;
