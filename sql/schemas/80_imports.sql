-- Imports of public data. Each call is one bounded batch in one transaction; the position moves with it, so that an
-- import that was killed continues. A batch that changes nothing writes nothing but the position.

create or replace function public.start_import(p_source text, p_digest text, p_again boolean default false)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_state public.import_states;
begin
  insert into public.import_states as s (source, digest, started_at) values (p_source, p_digest, now())
  on conflict (source) do update set
    digest = excluded.digest, position = null, validator = null, started_at = excluded.started_at, finished_at = null
  where s.digest <> excluded.digest or (p_again and s.finished_at is not null);
  select s.* into strict v_state from public.import_states s where s.source = p_source;
  return jsonb_build_object('position', v_state.position, 'is_finished', v_state.finished_at is not null);
end
$$;
comment on function public.start_import(text, text, boolean) is
  'Begins or continues the import of a file with this digest. Returns {"position", "is_finished"}. p_again: also of a '
  'file that was imported completely.';
revoke all on function public.start_import(text, text, boolean) from public, anon, authenticated, service_role;
grant execute on function public.start_import(text, text, boolean) to service_role;


create or replace function public.finish_import(
  p_source text, p_digest text, p_validator text, p_records integer, p_sizes jsonb, p_position text
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  -- Another position: another run has begun again with this file, and has not stored all of it.
  perform from public.import_states s
  where s.source = p_source and s.digest = p_digest
    and (s.finished_at is not null or s.position is not distinct from p_position)
  for update;
  if not found then
    return jsonb_build_object('is_current', false);
  end if;
  -- Write
  update public.import_states s set
    validator = p_validator, records = p_records, sizes = p_sizes, finished_at = now(), position = null
  where s.source = p_source and (
    s.finished_at is null
    or (s.validator, s.records, s.sizes) is distinct from (p_validator, p_records, p_sizes));
  return jsonb_build_object('is_current', true);
end
$$;
comment on function public.finish_import(text, text, text, integer, jsonb, text) is
  'Records that a file was imported completely, up to p_position. Returns {"is_current"}: false, and nothing is '
  'recorded, where another run has begun meanwhile.';
revoke all on function public.finish_import(text, text, text, integer, jsonb, text)
  from public, anon, authenticated, service_role;
grant execute on function public.finish_import(text, text, text, integer, jsonb, text) to service_role;


create or replace function public.import_states_of(p_prefix text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return coalesce((
    select jsonb_object_agg(s.source, jsonb_build_object(
      'digest', s.digest, 'validator', s.validator, 'records', s.records, 'sizes', s.sizes,
      'is_finished', s.finished_at is not null))
    from (select * from public.import_states i where starts_with(i.source, p_prefix) order by i.source limit 1000) s
  ), '{}');
end
$$;
comment on function public.import_states_of(text) is
  'The imports whose name starts with a text: {source: {"digest", "validator", "records", ...}}.';
revoke all on function public.import_states_of(text) from public, anon, authenticated, service_role;
grant execute on function public.import_states_of(text) to service_role;


create or replace function public.import_member_expenses(
  p_fiscal_year integer, p_quarter integer, p_last_digest text, p_digest text, p_rows jsonb, p_is_complete boolean
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_source constant text := format('expenses-%s-%s', p_fiscal_year, p_quarter);
  v_written integer;
  v_deleted integer := 0;
begin
  if jsonb_array_length(p_rows) > 2000 then
    raise exception using errcode = '22023', message = 'A quarter has at most 2,000 rows.';
  end if;
  -- Lock
  insert into public.import_states (source, digest, started_at) values (v_source, p_digest, now())
  on conflict (source) do nothing;
  if not found then
    -- A call that is repeated finds its own digest.
    perform from public.import_states s
    where s.source = v_source and (s.digest = p_digest or s.digest = p_last_digest) for update;
    if not found then
      return jsonb_build_object('is_current', false, 'written', 0, 'deleted', 0);
    end if;
  end if;
  -- Write
  insert into public.member_expenses as e (
    fiscal_year, quarter, name, constituency, caucus, occurrence, member_key, salaries, travel, hospitality, contracts)
  select p_fiscal_year, p_quarter, r.name, r.constituency, r.caucus, r.occurrence,
         case when private.fold(r.name) <> 'vacant' then private.person_key(r.name) end,
         r.salaries, r.travel, r.hospitality, r.contracts
  from jsonb_to_recordset(p_rows) r (
    name text, constituency text, caucus text, occurrence integer, salaries numeric, travel numeric,
    hospitality numeric, contracts numeric)
  -- A row that cannot be read may be one of a member with several: then it is not known which ones the others are.
  where p_is_complete or not exists (
    select from public.member_expenses o
    where o.fiscal_year = p_fiscal_year and o.quarter = p_quarter
      and (o.name, o.constituency, o.caucus) = (r.name, r.constituency, r.caucus)
      and o.occurrence > (
        select max(f.occurrence)
        from jsonb_to_recordset(p_rows) f (name text, constituency text, caucus text, occurrence integer)
        where (f.name, f.constituency, f.caucus) = (r.name, r.constituency, r.caucus)))
  on conflict (fiscal_year, quarter, name, constituency, caucus, occurrence) do update set
    member_key = excluded.member_key, salaries = excluded.salaries, travel = excluded.travel,
    hospitality = excluded.hospitality, contracts = excluded.contracts
  where (e.member_key, e.salaries, e.travel, e.hospitality, e.contracts)
    is distinct from
    (excluded.member_key, excluded.salaries, excluded.travel, excluded.hospitality, excluded.contracts);
  get diagnostics v_written = row_count;
  -- A file with a row that cannot be read is not known to be complete: what it seems to lack stays.
  if p_is_complete then
    delete from public.member_expenses e
    where e.fiscal_year = p_fiscal_year and e.quarter = p_quarter and not exists (
      select from jsonb_to_recordset(p_rows) r (name text, constituency text, caucus text, occurrence integer)
      where (r.name, r.constituency, r.caucus, r.occurrence) = (e.name, e.constituency, e.caucus, e.occurrence));
    get diagnostics v_deleted = row_count;
  end if;
  update public.import_states s set
    digest = p_digest, records = jsonb_array_length(p_rows), started_at = now(), finished_at = now()
  where s.source = v_source
    and (s.digest, s.records) is distinct from (p_digest, jsonb_array_length(p_rows));
  return jsonb_build_object('is_current', true, 'written', v_written, 'deleted', v_deleted);
end
$$;
comment on function public.import_member_expenses(integer, integer, text, text, jsonb, boolean) is
  'Makes a quarter''s rows those of the file. Returns {"is_current", "written", "deleted"}. p_last_digest: of the file '
  'that the caller found to be the last; where it is not, nothing is written and is_current is false. p_is_complete: '
  'whether every row of the file could be read; if not, nothing is deleted. 22023: too many rows.';
revoke all on function public.import_member_expenses(integer, integer, text, text, jsonb, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.import_member_expenses(integer, integer, text, text, jsonb, boolean) to service_role;


create or replace function public.import_registrations(
  p_digest text, p_after text, p_through text, p_rows jsonb, p_deletes boolean
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_written integer;
  v_subjects integer;
  v_deleted integer := 0;
begin
  if jsonb_array_length(p_rows) > 2000 then
    raise exception using errcode = '22023', message = 'A batch has at most 2,000 rows.';
  end if;
  -- Lock
  perform from public.import_states s where s.source = 'lobbying-registrations' and s.digest = p_digest for update;
  if not found then
    return jsonb_build_object('is_current', false, 'written', 0, 'deleted', 0);
  end if;
  -- Write
  insert into public.lobbying_registrations as g (
    number, newest_id, versions, kind, client_number, organization_en, organization_fr, firm, registrant,
    first_effective_on, effective_on, ends_on, institutions)
  select r.number, r.newest_id, r.versions, r.kind, r.client_number, r.organization_en, r.organization_fr, r.firm,
         r.registrant, r.first_effective_on, r.effective_on, r.ends_on, r.institutions
  from jsonb_to_recordset(p_rows) r (
    number text, newest_id bigint, versions integer, kind integer, client_number text, organization_en text,
    organization_fr text, firm text, registrant text, first_effective_on date, effective_on date, ends_on date,
    institutions text[])
  -- Equal rows are left out here, because the words of a row are computed before a conflict is found.
  where not exists (
    select from public.lobbying_registrations g where g.number = r.number
      and (g.newest_id, g.versions, g.kind, g.client_number, g.organization_en, g.organization_fr, g.firm,
           g.registrant, g.first_effective_on, g.effective_on, g.ends_on, g.institutions)
        is not distinct from
        (r.newest_id, r.versions, r.kind, r.client_number, r.organization_en, r.organization_fr, r.firm,
         r.registrant, r.first_effective_on, r.effective_on, r.ends_on, r.institutions))
  order by r.number
  on conflict (number) do update set
    newest_id = excluded.newest_id, versions = excluded.versions, kind = excluded.kind,
    client_number = excluded.client_number, organization_en = excluded.organization_en,
    organization_fr = excluded.organization_fr, firm = excluded.firm, registrant = excluded.registrant,
    first_effective_on = excluded.first_effective_on, effective_on = excluded.effective_on,
    ends_on = excluded.ends_on, institutions = excluded.institutions
  where p_deletes or (
    excluded.versions >= g.versions and cardinality(excluded.institutions) >= cardinality(g.institutions));
  get diagnostics v_written = row_count;

  insert into public.lobbying_subjects as s (
    registration_id, description, subjects_en, subjects_fr, starts_on, ends_on)
  select g.id, t.description, t.subjects_en, t.subjects_fr, t.starts_on, t.ends_on
  from jsonb_to_recordset(p_rows) r (number text, versions integer, subjects jsonb)
  join public.lobbying_registrations g on g.number = r.number and (p_deletes or r.versions >= g.versions)
  cross join lateral jsonb_to_recordset(r.subjects) t (
    description text, subjects_en text[], subjects_fr text[], starts_on date, ends_on date)
  where not exists (
    select from public.lobbying_subjects s
    where s.registration_id = g.id and s.description_md5 = md5(t.description)::uuid
      and (s.subjects_en, s.subjects_fr, s.starts_on, s.ends_on)
        is not distinct from (t.subjects_en, t.subjects_fr, t.starts_on, t.ends_on))
  on conflict (registration_id, description_md5) do update set
    subjects_en = excluded.subjects_en, subjects_fr = excluded.subjects_fr, starts_on = excluded.starts_on,
    ends_on = excluded.ends_on
  where p_deletes or cardinality(excluded.subjects_en) >= cardinality(s.subjects_en);
  get diagnostics v_subjects = row_count;

  if p_deletes then
    delete from public.lobbying_subjects s
    using jsonb_to_recordset(p_rows) r (number text, subjects jsonb)
    join public.lobbying_registrations g on g.number = r.number
    where s.registration_id = g.id and not exists (
      select from jsonb_to_recordset(r.subjects) t (description text)
      where md5(t.description)::uuid = s.description_md5);
    -- Registrations between the keys of the batch that the file no longer has. At most 500: the caller calls again.
    delete from public.lobbying_registrations g where g.id in (
      select old.id from public.lobbying_registrations old
      where (p_after is null or old.number > p_after) and (p_through is null or old.number <= p_through)
        and not exists (select from jsonb_to_recordset(p_rows) r (number text) where r.number = old.number)
      limit 500);
    get diagnostics v_deleted = row_count;
  end if;
  -- Not where another run of this file is at another position.
  update public.import_states s set position = p_through
  where s.source = 'lobbying-registrations' and v_deleted < 500 and p_through is not null and s.finished_at is null
    and s.position is not distinct from p_after;
  return jsonb_build_object('is_current', true, 'written', v_written + v_subjects, 'deleted', v_deleted);
end
$$;
comment on function public.import_registrations(text, text, text, jsonb, boolean) is
  'Makes the registrations with numbers after p_after and up to p_through those of p_rows, with their subjects. '
  'Without p_deletes, for a file with a row that cannot be read, nothing is deleted or replaced by less. Returns '
  '{"is_current", "written", "deleted"}; call it again while 500 were deleted. Where another file is being imported, '
  'nothing is written and is_current is false. 22023: too many rows.';
revoke all on function public.import_registrations(text, text, text, jsonb, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.import_registrations(text, text, text, jsonb, boolean) to service_role;


create or replace function public.import_communications(
  p_digest text, p_after bigint, p_through bigint, p_rows jsonb, p_deletes boolean
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_written integer;
  v_deleted integer := 0;
begin
  if jsonb_array_length(p_rows) > 2000 then
    raise exception using errcode = '22023', message = 'A batch has at most 2,000 rows.';
  end if;
  -- Lock
  perform from public.import_states s where s.source = 'lobbying-communications' and s.digest = p_digest for update;
  if not found then
    return jsonb_build_object('is_current', false, 'written', 0, 'deleted', 0);
  end if;
  -- Write
  insert into public.lobbying_communications as c (
    number, communicated_on, posted_on, kind, client_number, organization_en, organization_fr, registrant,
    is_superseded, officials, official_keys, description, subjects_en, subjects_fr)
  select r.number, r.communicated_on, r.posted_on, r.kind, r.client_number, r.organization_en, r.organization_fr,
         r.registrant, r.is_superseded, r.officials,
         array_remove(array(select distinct private.person_key(o ->> 'name') from jsonb_array_elements(r.officials) o),
                      null),
         r.description, r.subjects_en, r.subjects_fr
  from jsonb_to_recordset(p_rows) r (
    number bigint, communicated_on date, posted_on date, kind integer, client_number text, organization_en text,
    organization_fr text, registrant text, is_superseded boolean, officials jsonb, description text,
    subjects_en text[], subjects_fr text[])
  -- Equal rows are left out here, because the words of a row are computed before a conflict is found.
  where not exists (
    select from public.lobbying_communications c where c.number = r.number
      and (c.communicated_on, c.posted_on, c.kind, c.client_number, c.organization_en, c.organization_fr, c.registrant,
           c.is_superseded, c.officials, c.description, c.subjects_en, c.subjects_fr)
        is not distinct from
        (r.communicated_on, r.posted_on, r.kind, r.client_number, r.organization_en, r.organization_fr, r.registrant,
         r.is_superseded, r.officials, r.description, r.subjects_en, r.subjects_fr))
  order by r.number
  on conflict (number) do update set
    communicated_on = excluded.communicated_on, posted_on = excluded.posted_on, kind = excluded.kind,
    client_number = excluded.client_number, organization_en = excluded.organization_en,
    organization_fr = excluded.organization_fr, registrant = excluded.registrant,
    is_superseded = excluded.is_superseded, officials = excluded.officials, official_keys = excluded.official_keys,
    description = excluded.description, subjects_en = excluded.subjects_en, subjects_fr = excluded.subjects_fr
  where p_deletes or (
    jsonb_array_length(excluded.officials) >= jsonb_array_length(c.officials)
    and cardinality(excluded.subjects_en) >= cardinality(c.subjects_en)
    and char_length(excluded.description) >= char_length(c.description)
    and excluded.is_superseded >= c.is_superseded);
  get diagnostics v_written = row_count;
  if p_deletes then
    -- Reports between the keys of the batch that the file no longer has. At most 500: the caller calls again.
    delete from public.lobbying_communications c where c.id in (
      select old.id from public.lobbying_communications old
      where (p_after is null or old.number > p_after) and (p_through is null or old.number <= p_through)
        and not exists (select from jsonb_to_recordset(p_rows) r (number bigint) where r.number = old.number)
      limit 500);
    get diagnostics v_deleted = row_count;
  end if;
  -- Not where another run of this file is at another position.
  update public.import_states s set position = p_through
  where s.source = 'lobbying-communications' and v_deleted < 500 and p_through is not null and s.finished_at is null
    and s.position is not distinct from p_after::text;
  return jsonb_build_object('is_current', true, 'written', v_written, 'deleted', v_deleted);
end
$$;
comment on function public.import_communications(text, bigint, bigint, jsonb, boolean) is
  'Makes the reports with numbers after p_after and up to p_through those of p_rows. Without p_deletes, for a file '
  'with a row that cannot be read, nothing is deleted or replaced by less. Returns {"is_current", "written", '
  '"deleted"}; call it again while 500 were deleted. Where another file is being imported, nothing is written and '
  'is_current is false. 22023: too many rows.';
revoke all on function public.import_communications(text, bigint, bigint, jsonb, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.import_communications(text, bigint, bigint, jsonb, boolean) to service_role;
