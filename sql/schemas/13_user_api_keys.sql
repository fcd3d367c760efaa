-- Users' own provider keys, encrypted.

create table if not exists public.user_api_keys (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  provider text not null
    constraint user_api_keys_provider_is_known check (provider in ('anthropic', 'openai')),
  encrypted_key bytea not null
    constraint user_api_keys_ciphertext_is_bounded check (octet_length(encrypted_key) between 1 and 1024),
  encryption_iv bytea not null
    constraint user_api_keys_iv_is_96_bits check (octet_length(encryption_iv) = 12),
  encryption_tag bytea not null
    constraint user_api_keys_tag_is_128_bits check (octet_length(encryption_tag) = 16),
  encryption_key_id text not null,
  hint text not null
    constraint user_api_keys_hint_shows_four_characters check (char_length(hint) <= 5),
  is_active boolean not null default true,
  last_validated_at timestamptz,
  validation_error text,
  constraint user_api_keys_one_a_provider unique (user_id, provider)
);
comment on table public.user_api_keys is 'Provider keys of users, encrypted with AES-256-GCM. Never in plain text.';
comment on column public.user_api_keys.id is 'Identifies the row.';
comment on column public.user_api_keys.created_at is 'When the key was stored.';
comment on column public.user_api_keys.updated_at is 'When the row last changed.';
comment on column public.user_api_keys.user_id is 'The owner of the key.';
comment on column public.user_api_keys.provider is 'anthropic or openai.';
comment on column public.user_api_keys.encrypted_key is 'Ciphertext. Not granted to any role.';
comment on column public.user_api_keys.encryption_iv is 'The nonce, 96 random bits. Not granted to any role.';
comment on column public.user_api_keys.encryption_tag is 'The authentication tag, 128 bits. Not granted to any role.';
comment on column public.user_api_keys.encryption_key_id is 'The id of the key in the key ring that encrypted it.';
comment on column public.user_api_keys.hint is 'The last four characters, so that the owner recognises the key.';
comment on column public.user_api_keys.is_active is 'False after the provider rejected the key.';
comment on column public.user_api_keys.last_validated_at is 'When the provider last accepted the key. Null: unchecked.';
comment on column public.user_api_keys.validation_error is 'Why the provider rejected the key.';

create or replace trigger user_api_keys_set_updated_at before update on public.user_api_keys
  for each row execute function private.set_updated_at();


create or replace function private.sync_uses_byo_key() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id constant uuid := case when tg_op = 'DELETE' then old.user_id else new.user_id end;
begin
  -- Lock before counting, so that the second of two concurrent changes sees the first.
  perform from public.user_subscriptions where user_id = v_user_id for update;
  update public.user_subscriptions s set
    uses_byo_key = exists (select from public.user_api_keys k where k.user_id = v_user_id and k.is_active)
  where s.user_id = v_user_id;
  return null;
end
$$;
comment on function private.sync_uses_byo_key() is
  'Trigger: sets user_subscriptions.uses_byo_key to whether the user has an active key. Runs as its owner, because '
  'Auth deletes users.';
revoke all on function private.sync_uses_byo_key() from public, anon, authenticated, service_role;

create or replace trigger user_api_keys_sync_uses_byo_key
  after insert or delete or update of is_active on public.user_api_keys
  for each row execute function private.sync_uses_byo_key();


alter table public.user_api_keys enable row level security;
alter table public.user_api_keys force row level security;
drop policy if exists "Users read the metadata of their own keys" on public.user_api_keys;
create policy "Users read the metadata of their own keys" on public.user_api_keys
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.user_api_keys from public, anon, authenticated, service_role;
-- No role may read encrypted_key, encryption_iv or encryption_tag. Only functions return them.
grant select (id, created_at, updated_at, user_id, provider, encryption_key_id, hint, is_active, last_validated_at,
              validation_error)
  on public.user_api_keys to authenticated, service_role;
