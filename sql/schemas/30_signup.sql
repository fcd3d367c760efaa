-- Every new user starts on the free plan.

create or replace function private.start_subscription() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.user_subscriptions (user_id) values (new.id) on conflict (user_id) do nothing;
  return new;
end
$$;
comment on function private.start_subscription() is
  'Trigger on auth.users: creates a free subscription. Runs as its owner, because Auth may not write to public.';
revoke all on function private.start_subscription() from public, anon, authenticated, service_role;

create or replace trigger start_subscription after insert on auth.users
  for each row execute function private.start_subscription();

-- Users who signed up before this migration.
insert into public.user_subscriptions (user_id) select id from auth.users on conflict (user_id) do nothing;
