-- Users' own provider keys: stored and returned encrypted, and only for the service role.
--
-- Every change locks auth.users first (key share), as metering does. Otherwise it could deadlock with a deletion of the
-- user: the trigger for uses_byo_key locks the key and then the subscription, a deletion does the opposite.


create or replace function private.describe_key(
  p_provider text, p_hint text, p_is_active boolean, p_last_validated_at timestamptz, p_validation_error text,
  p_created_at timestamptz)
returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'provider', p_provider, 'hint', p_hint,
    'status', case when not p_is_active then 'invalid' when p_last_validated_at is null then 'unchecked'
                   else 'valid' end,
    'last_validated_at', p_last_validated_at, 'validation_error', p_validation_error, 'created_at', p_created_at);
end
$$;
comment on function private.describe_key(text, text, boolean, timestamptz, text, timestamptz) is
  'The metadata of a key, as its owner sees it.';
revoke all on function private.describe_key(text, text, boolean, timestamptz, text, timestamptz)
  from public, anon, authenticated, service_role;
grant execute on function private.describe_key(text, text, boolean, timestamptz, text, timestamptz)
  to authenticated, service_role;


create or replace function public.list_api_keys() returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
  v_allowed boolean;
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to see your keys.';
  end if;
  select s.allows_byok into v_allowed from private.funding_state s where s.user_id = v_user_id;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  perform private.refuse_blocked(v_user_id);
  return jsonb_build_object(
    'allowed', v_allowed,
    'keys', coalesce((
      select jsonb_agg(
        private.describe_key(k.provider, k.hint, k.is_active, k.last_validated_at, k.validation_error, k.created_at)
        order by k.provider)
      from public.user_api_keys k where k.user_id = v_user_id), '[]'));
end
$$;
comment on function public.list_api_keys() is
  'The metadata of the signed-in user''s keys, and whether the plan allows own keys: {allowed, keys: [...]}. '
  'NOUSR: the account has ended. BANND: it is blocked.';
revoke all on function public.list_api_keys() from public, anon, authenticated, service_role;
grant execute on function public.list_api_keys() to authenticated;


create or replace function public.put_api_key(
  p_id uuid, p_user_id uuid, p_provider text, p_encrypted_key text, p_encryption_iv text, p_encryption_tag text,
  p_encryption_key_id text, p_hint text, p_is_valid boolean)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.user_api_keys;
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Decide
  perform private.refuse_blocked(p_user_id);
  if not coalesce((select s.allows_byok from private.funding_state s where s.user_id = p_user_id), false) then
    raise exception using errcode = 'NBYOK', message = 'The plan does not allow own keys.';
  end if;

  -- Write
  -- A replaced key gets a new id, so that results of checks of the old key are not recorded for the new one.
  insert into public.user_api_keys as k (
    id, created_at, user_id, provider, encrypted_key, encryption_iv, encryption_tag, encryption_key_id, hint,
    is_active, last_validated_at)
  values (
    p_id, private.clock(), p_user_id, p_provider, decode(p_encrypted_key, 'base64'),
    decode(p_encryption_iv, 'base64'), decode(p_encryption_tag, 'base64'), p_encryption_key_id, p_hint, true,
    case when p_is_valid then private.clock() end)
  on conflict (user_id, provider) do update set
    id = excluded.id, created_at = excluded.created_at, encrypted_key = excluded.encrypted_key,
    encryption_iv = excluded.encryption_iv, encryption_tag = excluded.encryption_tag,
    encryption_key_id = excluded.encryption_key_id, hint = excluded.hint, is_active = true,
    last_validated_at = excluded.last_validated_at, validation_error = null
  returning k.* into v_key;

  -- Return
  return private.describe_key(
    v_key.provider, v_key.hint, v_key.is_active, v_key.last_validated_at, v_key.validation_error, v_key.created_at);
end
$$;
comment on function public.put_api_key(uuid, uuid, text, text, text, text, text, text, boolean) is
  'Stores an encrypted key and replaces the previous key of the user for this provider. Bytes are base64. p_is_valid: '
  'the provider has just accepted the key. Returns its metadata. NBYOK: the plan does not allow own keys. BANND: '
  'the account is blocked.';
revoke all on function public.put_api_key(uuid, uuid, text, text, text, text, text, text, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.put_api_key(uuid, uuid, text, text, text, text, text, text, boolean) to service_role;


create or replace function public.get_api_key(p_user_id uuid, p_provider text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_key constant jsonb := private.encrypted_key(p_user_id, p_provider);
begin
  perform private.refuse_blocked(p_user_id);
  if v_key is null then
    perform private.require_account(p_user_id);
  end if;
  return v_key;
end
$$;
comment on function public.get_api_key(uuid, text) is
  'The encrypted key of a user for a provider, active or not. Null: no key. BANND: the account is blocked. NOUSR: it '
  'has ended.';
revoke all on function public.get_api_key(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.get_api_key(uuid, text) to service_role;


create or replace function public.note_api_key(p_id uuid, p_user_id uuid, p_is_valid boolean, p_error text)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.user_api_keys;
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Write
  update public.user_api_keys k set
    is_active = p_is_valid,
    last_validated_at = case when p_is_valid then private.clock() else k.last_validated_at end,
    validation_error = case when not p_is_valid then p_error end
  where k.id = p_id and k.user_id = p_user_id
  returning k.* into v_key;

  -- Return
  if not found then
    return null;
  end if;
  return private.describe_key(
    v_key.provider, v_key.hint, v_key.is_active, v_key.last_validated_at, v_key.validation_error, v_key.created_at);
end
$$;
comment on function public.note_api_key(uuid, uuid, boolean, text) is
  'Records whether the provider accepted a key, and returns its metadata. Null: the key was replaced or deleted.';
revoke all on function public.note_api_key(uuid, uuid, boolean, text) from public, anon, authenticated, service_role;
grant execute on function public.note_api_key(uuid, uuid, boolean, text) to service_role;


create or replace function public.delete_api_key(p_user_id uuid, p_provider text) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Write
  delete from public.user_api_keys k where k.user_id = p_user_id and k.provider = p_provider;

  -- Return
  if not found then
    perform private.require_account(p_user_id);
    return false;
  end if;
  return true;
end
$$;
comment on function public.delete_api_key(uuid, text) is
  'Deletes the key of a user for a provider. Returns whether there was one. NOUSR: the account has ended.';
revoke all on function public.delete_api_key(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.delete_api_key(uuid, text) to service_role;


create or replace function public.api_keys_to_rotate(p_current text, p_after uuid, p_limit integer) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', old.id, 'user_id', old.user_id, 'provider', old.provider,
      'encrypted_key', encode(old.encrypted_key, 'base64'), 'encryption_iv', encode(old.encryption_iv, 'base64'),
      'encryption_tag', encode(old.encryption_tag, 'base64'), 'encryption_key_id', old.encryption_key_id)
      order by old.id), '[]')
    from (
      select * from public.user_api_keys k
      where k.encryption_key_id <> p_current and (k.id > p_after or p_after is null)
      order by k.id limit least(p_limit, 1000)
    ) old);
end
$$;
comment on function public.api_keys_to_rotate(text, uuid, integer) is
  'Keys that are not encrypted with the current key of the key ring, ordered by id, after p_after, at most 1,000.';
revoke all on function public.api_keys_to_rotate(text, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.api_keys_to_rotate(text, uuid, integer) to service_role;


create or replace function public.count_keys_to_rotate(p_current text) returns integer
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (select count(*) from public.user_api_keys k where k.encryption_key_id <> p_current);
end
$$;
comment on function public.count_keys_to_rotate(text) is
  'The number of keys that are not encrypted with the current key of the key ring.';
revoke all on function public.count_keys_to_rotate(text) from public, anon, authenticated, service_role;
grant execute on function public.count_keys_to_rotate(text) to service_role;


create or replace function public.rotate_api_keys(p_rows jsonb) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_rotated integer;
begin
  -- A key that was replaced or rotated since it was read has another nonce. It is skipped.
  with reencrypted as (
    select k.id, r.encrypted_key, r.encryption_iv, r.encryption_tag, r.encryption_key_id
    from jsonb_to_recordset(p_rows) r (
      id uuid, old_iv text, encrypted_key text, encryption_iv text, encryption_tag text, encryption_key_id text)
    join public.user_api_keys k on k.id = r.id and k.encryption_iv = decode(r.old_iv, 'base64')
    order by k.id
    for no key update of k skip locked
  )
  update public.user_api_keys k set
    encrypted_key = decode(r.encrypted_key, 'base64'), encryption_iv = decode(r.encryption_iv, 'base64'),
    encryption_tag = decode(r.encryption_tag, 'base64'), encryption_key_id = r.encryption_key_id
  from reencrypted r where k.id = r.id;
  get diagnostics v_rotated = row_count;
  return v_rotated;
end
$$;
comment on function public.rotate_api_keys(jsonb) is
  'Replaces ciphertexts: [{id, old_iv, encrypted_key, encryption_iv, encryption_tag, encryption_key_id}]. Returns how '
  'many. Skips keys that changed since they were read, or that are locked.';
revoke all on function public.rotate_api_keys(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.rotate_api_keys(jsonb) to service_role;
