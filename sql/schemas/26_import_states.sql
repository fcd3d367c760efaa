-- How far each file of public data was imported, so that an import that was killed continues, and an unchanged file is
-- not imported again.

create table if not exists public.import_states (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  source text not null
    constraint import_states_source_is_unique unique
    constraint import_states_source_is_bounded check (char_length(source) between 1 and 100),
  digest text not null
    constraint import_states_digest_is_bounded check (char_length(digest) between 1 and 100),
  position text
    constraint import_states_position_is_bounded check (char_length(position) <= 100),
  validator text
    constraint import_states_validator_is_bounded check (char_length(validator) <= 300),
  records integer
    constraint import_states_records_is_not_negative check (records >= 0),
  sizes jsonb
    constraint import_states_sizes_is_an_object check (jsonb_typeof(sizes) = 'object'),
  started_at timestamptz not null,
  finished_at timestamptz
);
comment on table public.import_states is 'How far each file of public data was imported.';
comment on column public.import_states.id is 'Identifies the row.';
comment on column public.import_states.created_at is 'When the file was first imported.';
comment on column public.import_states.source is
  'The file: lobbying-registrations, or a quarter such as expenses-2026-1.';
comment on column public.import_states.digest is 'Of the file that is being imported, or was imported last.';
comment on column public.import_states.position is
  'The key of the last imported record. An interrupted import continues after it. Null before the first batch.';
comment on column public.import_states.validator is
  'The ETag or the date of the file that was imported completely. The next run asks whether the file has changed.';
comment on column public.import_states.records is 'How many records the last complete import read.';
comment on column public.import_states.sizes is
  'How many records of the last complete import had a value, by column. A file with far fewer is not believed.';
comment on column public.import_states.started_at is 'When the import of this content began.';
comment on column public.import_states.finished_at is 'When it was complete. Null while it is not.';

alter table public.import_states enable row level security;
alter table public.import_states force row level security;
revoke all on public.import_states from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.
