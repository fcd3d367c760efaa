-- What operators did: one row for every change that a person made with the support commands. Append-only.

create table if not exists public.operator_actions (
  id uuid primary key,
  created_at timestamptz not null default now(),
  operator text not null
    constraint operator_actions_operator_is_bounded check (operator ~ '\S' and char_length(operator) <= 200),
  action text not null,
  reason text not null
    constraint operator_actions_reason_is_bounded check (reason ~ '\S' and char_length(reason) <= 500),
  subject_user_id uuid references auth.users (id) on delete set null,
  subject text,
  before jsonb not null,
  after jsonb not null
);
create index if not exists operator_actions_subject_user_id_idx
  on public.operator_actions (subject_user_id, created_at desc) where subject_user_id is not null;

comment on table public.operator_actions is
  'Changes that operators made, with the reason and the values before and after. Rows are never changed or deleted. If '
  'the user is deleted, their rows lose the user, the subject, the reason and the values.';
comment on column public.operator_actions.id is
  'Identifies the action. The command chooses it, so that a repeated call changes nothing again.';
comment on column public.operator_actions.created_at is 'When it was done.';
comment on column public.operator_actions.operator is 'Who did it.';
comment on column public.operator_actions.action is 'What was done: block, grant, pause chat, …';
comment on column public.operator_actions.reason is 'Why, in the words of the operator.';
comment on column public.operator_actions.subject_user_id is
  'The user. Null: it is about no user, or they were deleted.';
comment on column public.operator_actions.subject is 'What else it is about: a query, a plan, an announcement.';
comment on column public.operator_actions.before is 'The values before.';
comment on column public.operator_actions.after is 'The values after.';

create or replace function private.protect_operator_action() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' and old.subject_user_id is not null and new.subject_user_id is null
     and not exists (select from auth.users u where u.id = old.subject_user_id) then
    -- The user has been deleted. The operator, the time and the kind of action stay.
    old.subject_user_id := null;
    old.subject := null;
    old.reason := 'The user was deleted.';
    old.before := '{}';
    old.after := '{}';
    return old;
  end if;
  raise insufficient_privilege using message = 'Rows of operator_actions are never changed or deleted.';
end
$$;
comment on function private.protect_operator_action() is
  'Trigger: rejects every change of operator_actions, except that a deleted user leaves their rows.';
revoke all on function private.protect_operator_action() from public, anon, authenticated, service_role;

create or replace trigger operator_actions_are_append_only before update or delete on public.operator_actions
  for each row execute function private.protect_operator_action();
create or replace trigger operator_actions_are_not_truncated before truncate on public.operator_actions
  for each statement execute function private.protect_operator_action();

alter table public.operator_actions enable row level security;
alter table public.operator_actions force row level security;
revoke all on public.operator_actions from public, anon, authenticated, service_role;
-- No grant and no policy: only functions read and write it.


create or replace function private.repeated_action(p_action jsonb) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object('before', a.before, 'after', a.after)
    from public.operator_actions a where a.id = (p_action ->> 'id')::uuid);
end
$$;
comment on function private.repeated_action(jsonb) is
  'The result of an operator''s action that was done before. Null: it was not. The caller holds the lock of what the '
  'action changes.';
revoke all on function private.repeated_action(jsonb) from public, anon, authenticated, service_role;


create or replace function private.record_action(
  p_action jsonb, p_name text, p_user_id uuid, p_subject text, p_before jsonb, p_after jsonb)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
begin
  insert into public.operator_actions (
    id, created_at, operator, action, reason, subject_user_id, subject, before, after)
  values (
    (p_action ->> 'id')::uuid, private.clock(), p_action ->> 'operator', p_name, p_action ->> 'reason', p_user_id,
    p_subject, p_before, p_after);
  return jsonb_build_object('before', p_before, 'after', p_after);
end
$$;
comment on function private.record_action(jsonb, text, uuid, text, jsonb, jsonb) is
  'Records an action of an operator, and returns {before, after}. p_action: {id, operator, reason}. Every function '
  'that an operator calls records its action in the same transaction.';
revoke all on function private.record_action(jsonb, text, uuid, text, jsonb, jsonb)
  from public, anon, authenticated, service_role;
