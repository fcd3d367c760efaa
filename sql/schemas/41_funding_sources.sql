-- What can pay for a query besides the quota: own keys and credit packs.

create or replace function private.own_key_provider(p_user_id uuid, p_provider text) returns text
language plpgsql stable set search_path = ''
as $$
begin
  -- 'anthropic' sorts before 'openai', which is the order of preference.
  return (
    select min(k.provider) from public.user_api_keys k
    where k.user_id = p_user_id and k.is_active and (p_provider is null or k.provider = p_provider));
end
$$;
comment on function private.own_key_provider(uuid, text) is
  'The provider of the active key of a user that would be used. p_provider null: any provider. Null: no such key.';
revoke all on function private.own_key_provider(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.own_key_provider(uuid, text) to authenticated, service_role;


create or replace function private.next_credit_pack(p_user_id uuid, p_at timestamptz) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select c.id from public.credit_packs c
    where c.user_id = p_user_id and c.credits_remaining > 0 and not c.is_frozen
      and (c.expires_at > p_at or c.expires_at is null)
    order by c.expires_at nulls last, c.created_at, c.id limit 1);
end
$$;
comment on function private.next_credit_pack(uuid, timestamptz) is
  'The credit pack that pays next: the first to expire, then the oldest. Null: none can pay.';
revoke all on function private.next_credit_pack(uuid, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.next_credit_pack(uuid, timestamptz) to authenticated, service_role;


create or replace function private.unsubscribed_tier(p_user_id uuid, p_at timestamptz) returns text
language plpgsql stable set search_path = ''
as $$
begin
  return case when exists (
    select from public.credit_packs c
    where c.user_id = p_user_id and c.credits_to_revoke < c.credits_purchased
      and (c.expires_at > p_at or c.expires_at is null)
  ) then 'usage_only' else 'free' end;
end
$$;
comment on function private.unsubscribed_tier(uuid, timestamptz) is
  'The tier of a user without a subscription: usage_only while a credit pack has neither expired nor been fully '
  'refunded, even if all its credits are spent; otherwise free.';
revoke all on function private.unsubscribed_tier(uuid, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.unsubscribed_tier(uuid, timestamptz) to authenticated, service_role;


create or replace function private.set_tier_from_packs(p_user_id uuid) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_tier constant text := private.unsubscribed_tier(p_user_id, private.clock());
begin
  update public.user_subscriptions s set tier = v_tier
  where s.user_id = p_user_id and s.stripe_subscription_id is null and s.status = 'active'
    and s.tier in ('free', 'usage_only') and s.tier <> v_tier;
end
$$;
comment on function private.set_tier_from_packs(uuid) is
  'Sets the tier of a user without a subscription to what their credit packs allow. The caller holds the user lock.';
revoke all on function private.set_tier_from_packs(uuid) from public, anon, authenticated, service_role;


create or replace function private.reason_of(p_funding text, p_tier text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case p_funding
    when 'byok' then 'Unlimited (BYOK)'
    when 'included' then case p_tier when 'free' then 'Within free tier quota' else 'Within daily quota' end
    when 'credit' then 'Credits available'
    when 'overage' then 'Overage allowed'
  end;
end
$$;
comment on function private.reason_of(text, text) is 'The reason text for an admitted query with this funding.';
revoke all on function private.reason_of(text, text) from public, anon, authenticated, service_role;
grant execute on function private.reason_of(text, text) to authenticated, service_role;
