-- E-mail addresses of users who were blocked when their account was deleted.

create table if not exists public.blocked_addresses (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default private.clock(),
  address_hash bytea not null
    constraint blocked_addresses_are_unique unique
    constraint blocked_addresses_are_sha256 check (octet_length(address_hash) = 32),
  blocked_at timestamptz not null
);

comment on table public.blocked_addresses is
  'Addresses of users who were blocked when their account was deleted: a new account with the address is blocked too, '
  'until unblock_user. Without it, a block would end with a deletion and a new sign-up.';
comment on column public.blocked_addresses.id is 'Identifies the row.';
comment on column public.blocked_addresses.created_at is 'When the account was deleted.';
comment on column public.blocked_addresses.address_hash is 'SHA-256 of the address in lower case.';
comment on column public.blocked_addresses.blocked_at is 'When the account was blocked.';

alter table public.blocked_addresses enable row level security;
alter table public.blocked_addresses force row level security;
revoke all on public.blocked_addresses from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes it. Functions do.


create or replace function private.address_hash(p_address text) returns bytea
language plpgsql immutable set search_path = ''
as $$
begin
  return sha256(convert_to(lower(p_address), 'UTF8'));
end
$$;
comment on function private.address_hash(text) is 'The hash of an e-mail address in blocked_addresses.';
revoke all on function private.address_hash(text) from public, anon, authenticated, service_role;
