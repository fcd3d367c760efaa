-- Every new user starts on the free plan.

create or replace function private.start_subscription() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if exists (select from public.settings s where s.sign_ups_paused_at is not null) then
    raise exception using errcode = 'PAUSE', message = 'Sign-ups are paused.';
  end if;
  insert into public.user_subscriptions (user_id, blocked_at, blocked_reason)
  select new.id, b.blocked_at, case when b.blocked_at is not null then 'Blocked before its deletion' end
  from (select private.address_hash(new.email) as hash) address
  left join public.blocked_addresses b on b.address_hash = address.hash
  on conflict (user_id) do nothing;
  return new;
end
$$;
comment on function private.start_subscription() is
  'Trigger on auth.users: creates a free subscription, which is blocked if the address was blocked when its account '
  'was deleted. Runs as its owner, because Auth may not write to public. PAUSE: an operator has paused sign-ups.';
revoke all on function private.start_subscription() from public, anon, authenticated, service_role;

create or replace trigger start_subscription after insert on auth.users
  for each row execute function private.start_subscription();

-- Users who signed up before this migration.
insert into public.user_subscriptions (user_id) select id from auth.users on conflict (user_id) do nothing;


create or replace function public.before_user_created(event jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_language constant text := event -> 'user' -> 'user_metadata' ->> 'language';
  v_sentence constant jsonb := private.pause_sentence('sign_ups_paused');
begin
  if exists (select from public.settings s where s.sign_ups_paused_at is not null) then
    return jsonb_build_object('error', jsonb_build_object(
      'http_code', 403,
      'message', coalesce(v_sentence ->> case v_language when 'fr' then 'fr' else 'en' end, 'Sign-ups are paused.')));
  end if;
  return '{}'::jsonb;
end
$$;
comment on function public.before_user_created(jsonb) is
  'Auth hook Before User Created: while sign-ups are paused, refuses them with the operator''s sentence, in French if '
  'the metadata of the new user have the language fr. Without the hook the trigger refuses them with an error of the '
  'database. https://supabase.com/docs/guides/auth/auth-hooks/before-user-created-hook';
revoke all on function public.before_user_created(jsonb) from public, anon, authenticated, service_role;
do $$
begin
  grant execute on function public.before_user_created(jsonb) to supabase_auth_admin;
exception when undefined_object then
  null; -- Not Supabase.
end
$$;
