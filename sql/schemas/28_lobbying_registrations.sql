-- The registry of lobbyists: registrations. Every search is of one index.

create table if not exists public.lobbying_registrations (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  number text collate "C" not null
    constraint lobbying_registrations_number_is_unique unique
    constraint lobbying_registrations_number_is_bounded check (char_length(number) between 1 and 60),
  newest_id bigint not null,
  versions integer not null
    constraint lobbying_registrations_versions_is_positive check (versions > 0),
  kind integer,
  client_number text
    constraint lobbying_registrations_client_number_is_bounded check (char_length(client_number) <= 60),
  organization_en text not null
    constraint lobbying_registrations_organization_en_is_bounded check (char_length(organization_en) <= 500),
  organization_fr text not null
    constraint lobbying_registrations_organization_fr_is_bounded check (char_length(organization_fr) <= 500),
  firm text
    constraint lobbying_registrations_firm_is_bounded check (char_length(firm) <= 500),
  registrant text
    constraint lobbying_registrations_registrant_is_bounded check (char_length(registrant) <= 200),
  first_effective_on date,
  effective_on date,
  ends_on date,
  institutions text[] not null,
  organization_words tsvector generated always as (
    private.search_words(organization_en || ' ' || organization_fr || ' ' || coalesce(firm, ''))) stored
);
create index if not exists lobbying_registrations_organization_words_idx
  on public.lobbying_registrations using gin (organization_words);
create index if not exists lobbying_registrations_newest_first_idx
  on public.lobbying_registrations (effective_on desc nulls last);

comment on table public.lobbying_registrations is
  'Registrations to lobby. The registry publishes every version of a registration; a row is the newest one.';
comment on column public.lobbying_registrations.id is 'Identifies the row.';
comment on column public.lobbying_registrations.created_at is 'When it was imported.';
comment on column public.lobbying_registrations.number is 'The registration''s number without its version.';
comment on column public.lobbying_registrations.newest_id is 'The registry''s id of the newest version.';
comment on column public.lobbying_registrations.versions is 'How many versions were published.';
comment on column public.lobbying_registrations.kind is
  '1 consultant, 2 in-house of a corporation, 3 in-house of an organization.';
comment on column public.lobbying_registrations.client_number is 'The registry''s number of the client.';
comment on column public.lobbying_registrations.organization_en is
  'The client, organization or corporation; in French where it has no English name.';
comment on column public.lobbying_registrations.organization_fr is
  'The same in French; in English where it has no French name.';
comment on column public.lobbying_registrations.firm is 'The firm of a consultant.';
comment on column public.lobbying_registrations.registrant is 'The person who registered.';
comment on column public.lobbying_registrations.first_effective_on is 'The first day of the first version.';
comment on column public.lobbying_registrations.effective_on is 'The first day of the newest version.';
comment on column public.lobbying_registrations.ends_on is 'The last day of the newest version. Null: active.';
comment on column public.lobbying_registrations.institutions is
  'The institutions to be lobbied, of the newest version.';
comment on column public.lobbying_registrations.organization_words is 'The words of the names, for search.';

alter table public.lobbying_registrations enable row level security;
alter table public.lobbying_registrations force row level security;
revoke all on public.lobbying_registrations from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.
