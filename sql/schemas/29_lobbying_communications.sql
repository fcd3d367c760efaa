-- The registry of lobbyists: reports of communications with officials.
--
-- Every search is of one index: words of a text or a name (GIN on tsvector 'simple', in both languages), a person's
-- key (GIN on an array), a date (B-tree).

create table if not exists public.lobbying_communications (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  number bigint not null
    constraint lobbying_communications_number_is_unique unique,
  communicated_on date not null,
  posted_on date,
  kind integer,
  client_number text
    constraint lobbying_communications_client_number_is_bounded check (char_length(client_number) <= 60),
  organization_en text not null
    constraint lobbying_communications_organization_en_is_bounded check (char_length(organization_en) <= 500),
  organization_fr text not null
    constraint lobbying_communications_organization_fr_is_bounded check (char_length(organization_fr) <= 500),
  registrant text
    constraint lobbying_communications_registrant_is_bounded check (char_length(registrant) <= 200),
  is_superseded boolean not null,
  officials jsonb not null,
  official_keys text[] not null,
  description text not null
    constraint lobbying_communications_description_is_bounded check (char_length(description) <= 4000),
  subjects_en text[] not null,
  subjects_fr text[] not null,
  -- Superseded reports are not found.
  words tsvector generated always as (
    case when not is_superseded then private.search_words(
      description || ' ' || private.join_texts(subjects_en) || ' ' || private.join_texts(subjects_fr)) end) stored,
  organization_words tsvector generated always as (
    case when not is_superseded then private.search_words(organization_en || ' ' || organization_fr) end) stored
);
create index if not exists lobbying_communications_communicated_on_idx
  on public.lobbying_communications (communicated_on desc nulls last);
create index if not exists lobbying_communications_words_idx on public.lobbying_communications using gin (words);
create index if not exists lobbying_communications_organization_words_idx
  on public.lobbying_communications using gin (organization_words);
create index if not exists lobbying_communications_official_keys_idx
  on public.lobbying_communications using gin (official_keys);

comment on table public.lobbying_communications is
  'Reports of oral, arranged communications between lobbyists and senior officials.';
comment on column public.lobbying_communications.id is 'Identifies the row.';
comment on column public.lobbying_communications.created_at is 'When it was imported.';
comment on column public.lobbying_communications.number is 'The registry''s number of the report.';
comment on column public.lobbying_communications.communicated_on is 'The day of the communication.';
comment on column public.lobbying_communications.posted_on is 'When the registry published the report.';
comment on column public.lobbying_communications.kind is
  '1 consultant, 2 in-house of a corporation, 3 in-house of an organization.';
comment on column public.lobbying_communications.client_number is 'The registry''s number of the client.';
comment on column public.lobbying_communications.organization_en is
  'Who lobbied; in French where it has no English name.';
comment on column public.lobbying_communications.organization_fr is
  'The same in French; in English where it has no French name.';
comment on column public.lobbying_communications.registrant is 'The person responsible for the report.';
comment on column public.lobbying_communications.is_superseded is 'Whether a later report replaces this one.';
comment on column public.lobbying_communications.officials is
  'The officials: a list of {"name", "title", "institution"}.';
comment on column public.lobbying_communications.official_keys is 'private.person_key of each official.';
comment on column public.lobbying_communications.description is 'What it was about; empty before October 2024.';
comment on column public.lobbying_communications.subjects_en is 'The registry''s subjects, in English.';
comment on column public.lobbying_communications.subjects_fr is 'The registry''s subjects, in French.';
comment on column public.lobbying_communications.words is 'The words of the description and the subjects, for search.';
comment on column public.lobbying_communications.organization_words is 'The words of the names, for search.';

alter table public.lobbying_communications enable row level security;
alter table public.lobbying_communications force row level security;
revoke all on public.lobbying_communications from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.
