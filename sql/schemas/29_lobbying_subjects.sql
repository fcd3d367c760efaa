-- The registry of lobbyists: what the registrations are about.

create table if not exists public.lobbying_subjects (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  registration_id uuid not null references public.lobbying_registrations (id) on delete cascade,
  description text not null
    constraint lobbying_subjects_description_is_bounded check (char_length(description) <= 4000),
  description_md5 uuid generated always as (md5(description)::uuid) stored,
  subjects_en text[] not null,
  subjects_fr text[] not null,
  starts_on date,
  ends_on date,
  words tsvector generated always as (
    private.search_words(
      description || ' ' || private.join_texts(subjects_en) || ' ' || private.join_texts(subjects_fr))) stored,
  constraint lobbying_subjects_description_once_per_registration unique (registration_id, description_md5)
);
create index if not exists lobbying_subjects_words_idx on public.lobbying_subjects using gin (words);
create index if not exists lobbying_subjects_newest_first_idx on public.lobbying_subjects (starts_on desc nulls last);

comment on table public.lobbying_subjects is
  'What registrations are about. Versions of a registration repeat their texts; a text is one row here.';
comment on column public.lobbying_subjects.id is 'Identifies the row.';
comment on column public.lobbying_subjects.created_at is 'When it was imported.';
comment on column public.lobbying_subjects.registration_id is 'The registration.';
comment on column public.lobbying_subjects.description is
  'The registrant''s text; empty where only subjects were ticked.';
comment on column public.lobbying_subjects.description_md5 is 'Of the description, for the unique constraint.';
comment on column public.lobbying_subjects.subjects_en is 'The registry''s subjects, in English.';
comment on column public.lobbying_subjects.subjects_fr is 'The registry''s subjects, in French.';
comment on column public.lobbying_subjects.starts_on is 'The first day of the first version with this text.';
comment on column public.lobbying_subjects.ends_on is 'The last day of the last version with this text. Null: active.';
comment on column public.lobbying_subjects.words is 'The words of the description and the subjects, for search.';

alter table public.lobbying_subjects enable row level security;
alter table public.lobbying_subjects force row level security;
revoke all on public.lobbying_subjects from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.
