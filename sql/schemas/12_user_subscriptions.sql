-- One row a user: the plan, its status, and the counters that admission updates.

create table if not exists public.user_subscriptions (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null
    constraint user_subscriptions_one_a_user unique
    references auth.users (id) on delete cascade,
  tier text not null default 'free' references public.plans (tier),
  next_tier text references public.plans (tier),
  status public.subscription_status not null default 'active',
  stripe_customer_id text
    constraint user_subscriptions_stripe_customer_is_unique unique,
  stripe_subscription_id text
    constraint user_subscriptions_stripe_subscription_is_unique unique,
  daily_quota public.quantity,
  lifetime_quota public.quantity,
  allow_overages boolean not null default true,
  overage_limit public.usd,
  overage_ceiling public.usd,
  current_overage_amount public.usd not null default 0,
  unpaid_overage_usd public.usd not null default 0,
  owes_overage boolean not null generated always as (unpaid_overage_usd >= 0.5) stored,
  paid_overage_usd public.usd not null default 0,
  uses_byo_key boolean not null default false,
  current_period_start timestamptz,
  current_period_end timestamptz,
  canceled_at timestamptz,
  past_due_since timestamptz,
  paid_until timestamptz,
  open_invoice_url text,
  quota_date date not null default (private.clock() at time zone 'UTC')::date,
  quota_used public.quantity not null default 0,
  lifetime_used public.quantity not null default 0,
  failed_cost_usd public.usd not null default 0,
  overage_period_start timestamptz not null default date_trunc('month', private.clock(), 'UTC'),
  included_until timestamptz,
  tool_minute timestamptz,
  tool_calls public.quantity not null default 0,
  stripe_sequence bigint not null default 0,
  downgraded_at timestamptz,
  exported_at timestamptz,
  blocked_at timestamptz,
  blocked_reason text
);
create index if not exists user_subscriptions_downgraded_idx on public.user_subscriptions (user_id)
  where downgraded_at is not null;
-- For users_at_threshold, every minute. An index on the amount would make every overage query write to all indexes.
create index if not exists user_subscriptions_owing_idx on public.user_subscriptions (user_id) where owes_overage;
create index if not exists user_subscriptions_tier_idx on public.user_subscriptions (tier);
create index if not exists user_subscriptions_next_tier_idx on public.user_subscriptions (next_tier)
  where next_tier is not null;

comment on table public.user_subscriptions is
  'One row a user: the plan, its status, and the counters that admission updates. Counters include holds.';
comment on column public.user_subscriptions.id is 'Identifies the row.';
comment on column public.user_subscriptions.created_at is 'When the user signed up.';
comment on column public.user_subscriptions.updated_at is 'When the row last changed, except for its counters.';
comment on column public.user_subscriptions.user_id is 'The user.';
comment on column public.user_subscriptions.tier is 'The plan.';
comment on column public.user_subscriptions.next_tier is
  'The plan from current_period_end on, after a downgrade. Null: the same plan.';
comment on column public.user_subscriptions.status is
  'active, canceled (serves until current_period_end), suspended or past_due.';
comment on column public.user_subscriptions.stripe_customer_id is 'The Stripe customer id.';
comment on column public.user_subscriptions.stripe_subscription_id is
  'The live Stripe subscription. Overage needs one, because its invoices collect it.';
comment on column public.user_subscriptions.daily_quota is
  'A daily quota for this user only. Null: the quota of the plan.';
comment on column public.user_subscriptions.lifetime_quota is
  'A lifetime quota for this user only. Null: the quota of the plan.';
comment on column public.user_subscriptions.allow_overages is 'Whether the user allows overage, if the plan has it.';
comment on column public.user_subscriptions.overage_limit is
  'The overage limit set by the user, dollars, of a period and of unpaid_overage_usd. Null: the default of the '
  'plan.';
comment on column public.user_subscriptions.overage_ceiling is
  'The most that overage_limit may be, dollars. Only operators set it. Null: twice paid_overage_usd, and at least '
  'the default of the plan.';
comment on column public.user_subscriptions.current_overage_amount is
  'Overage in the period that starts at overage_period_start, dollars, holds included.';
comment on column public.user_subscriptions.unpaid_overage_usd is
  'Overage of all periods and subscriptions that is not paid, dollars: held, settled, on an open invoice, or on a '
  'paid one whose payment was returned.';
comment on column public.user_subscriptions.owes_overage is
  'Whether unpaid_overage_usd is an amount that Stripe charges: 50 cents or more.';
comment on column public.user_subscriptions.paid_overage_usd is
  'Overage of all periods and subscriptions on paid invoices, dollars, before rounding.';
comment on column public.user_subscriptions.uses_byo_key is 'Whether the user has an active provider key.';
comment on column public.user_subscriptions.current_period_start is
  'Start of the billing period. Null: calendar months, UTC.';
comment on column public.user_subscriptions.current_period_end is 'End of the billing period.';
comment on column public.user_subscriptions.canceled_at is 'When the user canceled.';
comment on column public.user_subscriptions.past_due_since is
  'When the payment failed that made the subscription past due.';
comment on column public.user_subscriptions.paid_until is
  'Until when the tier of a past due subscription is paid: the seven days of grace start then, if later. Null: not.';
comment on column public.user_subscriptions.open_invoice_url is
  'Stripe''s page of the oldest open invoice for a plan or for overage, also of an ended subscription. Null: none is '
  'open.';
comment on column public.user_subscriptions.quota_date is 'The UTC day that quota_used counts.';
comment on column public.user_subscriptions.quota_used is 'Included queries admitted on quota_date, holds included.';
comment on column public.user_subscriptions.lifetime_used is
  'Included queries admitted on a lifetime quota, holds included.';
comment on column public.user_subscriptions.failed_cost_usd is
  'Our cost of the failed and lost queries of quota_date at the providers, US dollars, except on own keys.';
comment on column public.user_subscriptions.overage_period_start is
  'Start of the period that current_overage_amount counts.';
comment on column public.user_subscriptions.included_until is
  'Until this time admission reuses its last decision, which was: the daily quota pays. Null: decide again.';
comment on column public.user_subscriptions.tool_minute is
  'The minute that tool_calls counts. Null: the user''s own assistant has called no tool yet.';
comment on column public.user_subscriptions.tool_calls is
  'Calls of tools by the user''s own assistant in tool_minute.';
comment on column public.user_subscriptions.downgraded_at is
  'When the plan changed to one that stores history for fewer days. Null once expires_at has been shortened.';
comment on column public.user_subscriptions.exported_at is
  'When the user last downloaded their data. At most once a minute. Null: never.';
comment on column public.user_subscriptions.stripe_sequence is
  'The sequence number of the newest state of the Stripe customer applied here. Older states are ignored.';
comment on column public.user_subscriptions.blocked_at is
  'When an operator blocked the account. Null: it is not blocked. Nothing that reads Stripe writes it.';
comment on column public.user_subscriptions.blocked_reason is 'Why an operator blocked it. The user may read this.';

create or replace function private.check_subscription() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  -- The grace period of seven days starts here, for every way in which the status changes.
  new.past_due_since := case when new.status = 'past_due' then coalesce(new.past_due_since, private.clock()) end;
  if (new.current_period_start is null) <> (new.current_period_end is null)
     or new.current_period_end <= new.current_period_start then
    raise check_violation using message = 'A billing period must end after it starts.';
  elsif (new.blocked_at is null) <> (new.blocked_reason is null) then
    raise check_violation using message = 'A block has a time and a reason.';
  end if;
  return new;
end
$$;
comment on function private.check_subscription() is
  'Trigger: sets past_due_since, and rejects a period that does not end after it starts and a block without a reason.';
revoke all on function private.check_subscription() from public, anon, authenticated, service_role;

create or replace trigger user_subscriptions_check
  before insert or update of status, past_due_since, current_period_start, current_period_end, blocked_at,
                             blocked_reason
  on public.user_subscriptions for each row execute function private.check_subscription();


create or replace function private.record_downgrade() returns trigger
language plpgsql volatile set search_path = ''
as $$
declare
  v_days_before constant integer := (select p.history_days from public.plans p where p.tier = old.tier);
  v_days_after constant integer := (select p.history_days from public.plans p where p.tier = new.tier);
begin
  new.downgraded_at := case when v_days_after < v_days_before then private.clock()
                            when v_days_after > v_days_before then null
                            else new.downgraded_at end;
  return new;
end
$$;
comment on function private.record_downgrade() is
  'Trigger: sets downgraded_at when the new plan stores history for fewer days. cleanup_expired_conversations() then '
  'shortens expires_at.';
revoke all on function private.record_downgrade() from public, anon, authenticated, service_role;

create or replace trigger user_subscriptions_record_downgrade
  before update of tier on public.user_subscriptions for each row when (old.tier <> new.tier)
  execute function private.record_downgrade();


create or replace function private.subscription_changed() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  new.updated_at := now();
  new.included_until := null;
  return new;
end
$$;
comment on function private.subscription_changed() is
  'Trigger: sets updated_at and makes admission decide again when anything but the counters changes.';
revoke all on function private.subscription_changed() from public, anon, authenticated, service_role;

-- Every column that private.funding_state reads, except the counters, which change with every query.
create or replace trigger user_subscriptions_changed
  before update of tier, next_tier, status, stripe_customer_id, stripe_subscription_id, daily_quota, lifetime_quota,
                   allow_overages, overage_limit, uses_byo_key, current_period_start, current_period_end, canceled_at,
                   past_due_since, paid_until, blocked_at
  on public.user_subscriptions for each row execute function private.subscription_changed();


create or replace function private.is_blocked(p_user_id uuid) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (select from public.user_subscriptions s where s.user_id = p_user_id and s.blocked_at is not null)
      or exists (select from auth.users u where u.id = p_user_id and u.banned_until > private.clock());
end
$$;
comment on function private.is_blocked(uuid) is
  'Whether an operator has blocked the account, here or, for some time, in Supabase Auth. Runs as its owner, because '
  'users may not read auth.users.';
revoke all on function private.is_blocked(uuid) from public, anon, authenticated, service_role;
grant execute on function private.is_blocked(uuid) to authenticated, service_role;


create or replace function private.refuse_blocked(p_user_id uuid) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if private.is_blocked(p_user_id) then
    raise exception using errcode = 'BANND', message = 'The account is blocked.';
  end if;
end
$$;
comment on function private.refuse_blocked(uuid) is
  'BANND: an operator has blocked the account, here or in Supabase Auth.';
revoke all on function private.refuse_blocked(uuid) from public, anon, authenticated, service_role;
grant execute on function private.refuse_blocked(uuid) to authenticated, service_role;


create or replace function private.require_account(p_user_id uuid) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if not exists (select from auth.users u where u.id = p_user_id and u.deleted_at is null) then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
end
$$;
comment on function private.require_account(uuid) is
  'NOUSR: the account has ended. Functions that have found nothing call it, because a token outlives its account.';
revoke all on function private.require_account(uuid) from public, anon, authenticated, service_role;


alter table public.user_subscriptions enable row level security;
alter table public.user_subscriptions force row level security;
drop policy if exists "Users read their own subscription" on public.user_subscriptions;
create policy "Users read their own subscription" on public.user_subscriptions
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.user_subscriptions from public, anon, authenticated, service_role;
grant select on public.user_subscriptions to authenticated, service_role;
