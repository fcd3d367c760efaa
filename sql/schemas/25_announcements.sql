-- Sentences that operators show to users: notices, and why something is paused.

create table if not exists public.announcements (
  id uuid primary key,
  created_at timestamptz not null default now(),
  kind text not null
    constraint announcements_kind_is_known check (
      kind in ('notice', 'chat_paused', 'provider_paused', 'sign_ups_paused')),
  provider text
    constraint announcements_provider_is_known check (provider in ('anthropic', 'openai')),
  en text not null
    constraint announcements_en_is_bounded check (en ~ '\S' and char_length(en) <= 500),
  fr text not null
    constraint announcements_fr_is_bounded check (fr ~ '\S' and char_length(fr) <= 500),
  starts_at timestamptz not null,
  ends_at timestamptz,
  constraint announcements_end_after_they_start check (ends_at is null or ends_at >= starts_at),
  constraint announcements_provider_is_paused check ((kind = 'provider_paused') = (provider is not null))
);

comment on table public.announcements is 'Sentences that operators show to users, in both languages.';
comment on column public.announcements.id is 'Identifies the announcement: the id of the action in operator_actions.';
comment on column public.announcements.created_at is 'When it was written.';
comment on column public.announcements.kind is
  'notice, or what is paused while it is shown: chat_paused, provider_paused or sign_ups_paused.';
comment on column public.announcements.provider is 'The provider that is paused.';
comment on column public.announcements.en is 'The sentence in English.';
comment on column public.announcements.fr is 'The sentence in French.';
comment on column public.announcements.starts_at is 'From when on it is shown.';
comment on column public.announcements.ends_at is 'Until when it is shown. Null: until an operator ends it.';

alter table public.announcements enable row level security;
alter table public.announcements force row level security;
drop policy if exists "Signed-in users read the current announcements" on public.announcements;
create policy "Signed-in users read the current announcements" on public.announcements
  for select to authenticated
  using (
    starts_at <= (select private.clock()) and (ends_at is null or ends_at > (select private.clock()))
    and (select private.check_statement()));
revoke all on public.announcements from public, anon, authenticated, service_role;
grant select on public.announcements to authenticated, service_role;
-- No insert, update or delete: announce, pause_service and their opposites write.


create or replace function private.pause_sentence(p_kind text, p_provider text default null) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object('en', a.en, 'fr', a.fr) from public.announcements a
    where a.kind = p_kind and a.provider is not distinct from p_provider and a.ends_at is null
    order by a.starts_at desc limit 1);
end
$$;
comment on function private.pause_sentence(text, text) is
  'The sentence that users read while something is paused: {en, fr}. Null: it is not paused.';
revoke all on function private.pause_sentence(text, text) from public, anon, authenticated, service_role;
