-- What the chat reads of the registry of lobbyists.
--
-- Every function reads at most the newest 250 reports and 125 registrations that match.

create or replace function private.imported_on(p_source text) returns date
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select coalesce(s.finished_at, case when s.records is not null then s.started_at end)::date
    from public.import_states s where s.source = p_source);
end
$$;
comment on function private.imported_on(text) is
  'When a file was last imported; while a new version of it is, when that began. Null: never completely.';
revoke all on function private.imported_on(text) from public, anon, authenticated, service_role;


create or replace function private.newest_matches(
  p_table regclass, p_words text, p_starts text, p_ends text, p_query tsquery, p_since date, p_until date,
  p_limit integer)
returns uuid[]
language plpgsql stable set search_path = '' set enable_seqscan = off
as $$
declare
  v_newest constant text := format(
    'select array(
       select n.id from (select * from %1$s order by %3$I desc nulls last limit $5) n
       where n.%2$I @@ $1 and (n.%4$I >= $2 or n.%4$I is null) and (n.%3$I <= $3 or n.%3$I is null) limit $4)',
    p_table, p_words, p_starts, p_ends);
  v_found integer;
  v_ids uuid[];
begin
  -- How many rows have two words together cannot be estimated, so these steps find out instead of the planner.
  -- 1. Common words: among the newest rows, over the index of the day.
  execute v_newest into v_ids using p_query, p_since, p_until, p_limit, 8 * p_limit;
  if cardinality(v_ids) = p_limit then
    return v_ids;
  end if;
  -- 2. Rare words: all rows, over the index of the words.
  execute format(
    'with found as materialized (select t.id, t.%3$I, t.%4$I as until from %1$s t where t.%2$I @@ $1 limit $5)
     select count(*), array(
       select f.id from found f
       where (f.until >= $2 or f.until is null) and (f.%3$I <= $3 or f.%3$I is null)
       order by f.%3$I desc nulls last limit $4) from found',
    p_table, p_words, p_starts, p_ends)
  into v_found, v_ids using p_query, p_since, p_until, p_limit, 16 * p_limit;
  -- 3. Others: among more of the newest rows.
  if v_found = 16 * p_limit then
    execute v_newest into v_ids using p_query, p_since, p_until, p_limit, 40 * p_limit;
  end if;
  -- 4. Words that were common once.
  if v_found = 16 * p_limit and cardinality(v_ids) < p_limit then
    execute format(
      'select array(
         select m.id from (select * from %1$s t where t.%2$I @@ $1 offset 0) m
         where (m.%4$I >= $2 or m.%4$I is null) and (m.%3$I <= $3 or m.%3$I is null)
         order by m.%3$I desc nulls last limit $4)',
      p_table, p_words, p_starts, p_ends)
    into v_ids using p_query, p_since, p_until, p_limit;
  end if;
  return v_ids;
end
$$;
comment on function private.newest_matches(regclass, text, text, text, tsquery, date, date, integer) is
  'The newest rows of a table whose column p_words matches a query, and whose days from p_starts to p_ends overlap '
  'those from p_since to p_until. p_starts has an index, newest first.';
revoke all on function private.newest_matches(regclass, text, text, text, tsquery, date, date, integer)
  from public, anon, authenticated, service_role;


create or replace function private.lobbying_about(
  p_query tsquery, p_since date, p_until date, p_is_new boolean, p_limit integer)
returns jsonb
language plpgsql stable set search_path = '' set enable_seqscan = off
as $$
declare
  v_reports constant uuid[] := private.newest_matches(
    'public.lobbying_communications', 'words', 'communicated_on', 'communicated_on', p_query, p_since, p_until, 250);
  v_subjects constant uuid[] := private.newest_matches(
    'public.lobbying_subjects', 'words', 'starts_on', case when p_is_new then 'starts_on' else 'ends_on' end, p_query,
    p_since, p_until, 125);
begin
  return (
    with reports as (
      select c.number, c.organization_en, c.organization_fr, c.communicated_on, c.description
      from public.lobbying_communications c where c.id = any (v_reports)
    ), subjects as (
      select s.description, s.starts_on, s.ends_on, s.registration_id
      from public.lobbying_subjects s where s.id = any (v_subjects)
    ), registered as (
      select g.organization_en, g.organization_fr, s.description, s.starts_on, s.ends_on, g.client_number, g.newest_id
      from subjects s join public.lobbying_registrations g on g.id = s.registration_id
    ), organizations as (
      select coalesce(r.name, g.name) as name, coalesce(r.name_fr, g.name_fr) as name_fr,
             coalesce(r.reports, 0) as reports, r.last_report_on, r.last_report, r.said,
             coalesce(g.registrations, 0) as registrations, coalesce(g.is_active, false) as is_active,
             g.client_number, g.newest_id, g.registered
      from (
        select organization_en as name, min(organization_fr) as name_fr, count(*) as reports,
               max(communicated_on) as last_report_on,
               (array_agg(number order by communicated_on desc))[1] as last_report,
               (array_agg(left(description, 500) order by communicated_on desc) filter (where description <> ''))[1]
                 as said
        from reports group by organization_en
      ) r
      full join (
        select organization_en as name, min(organization_fr) as name_fr, count(distinct newest_id) as registrations,
               bool_or(ends_on is null) as is_active,
               (array_agg(client_number order by starts_on desc nulls last))[1] as client_number,
               (array_agg(newest_id order by starts_on desc nulls last))[1] as newest_id,
               (array_agg(left(description, 500) order by starts_on desc nulls last)
                 filter (where description <> ''))[1] as registered
        from registered group by organization_en
      ) g on g.name = r.name
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'),
      'reports', (select count(*) from reports), 'subjects', (select count(*) from subjects),
      'organizations', (select count(*) from organizations),
      'items', coalesce((
        select jsonb_agg(to_jsonb(o) order by o.reports desc, o.registrations desc, o.name)
        from (select p.* from organizations p order by p.reports desc, p.registrations desc, p.name
              limit least(p_limit, 50)) o), '[]')));
end
$$;
comment on function private.lobbying_about(tsquery, date, date, boolean, integer) is
  'The organizations whose reports or registrations match a query between two days, those with most reports first. '
  'p_is_new: not the registrations that began before.';
revoke all on function private.lobbying_about(tsquery, date, date, boolean, integer)
  from public, anon, authenticated, service_role;


create or replace function public.lobbying_on_subject(
  p_words text, p_since date default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.lobbying_about(
    private.search_query(p_words),
    coalesce(p_since, (select max(c.communicated_on) from public.lobbying_communications c) - 730, '-infinity'),
    'infinity', false, p_limit);
end
$$;
comment on function public.lobbying_on_subject(text, date, integer) is
  'The organizations that lobbied on all these words, since a day; by default in the two years before the newest '
  'report.';
revoke all on function public.lobbying_on_subject(text, date, integer) from public, anon, authenticated, service_role;
grant execute on function public.lobbying_on_subject(text, date, integer) to service_role;


create or replace function public.lobbying_on_bill(
  p_number text, p_titles text[], p_since date, p_until date default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.lobbying_about(
    private.bill_query(p_number, p_titles), p_since, coalesce(p_until, 'infinity'), true, p_limit);
end
$$;
comment on function public.lobbying_on_bill(text, text[], date, date, integer) is
  'The organizations that lobbied on a bill: texts with its number and two words of a title, since its introduction.';
revoke all on function public.lobbying_on_bill(text, text[], date, date, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.lobbying_on_bill(text, text[], date, date, integer) to service_role;


create or replace function public.lobbying_by_organization(
  p_organization text, p_since date default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v_query constant tsquery := private.search_query(p_organization);
  v_reports constant uuid[] := private.newest_matches(
    'public.lobbying_communications', 'organization_words', 'communicated_on', 'communicated_on', v_query,
    coalesce(p_since, '-infinity'), 'infinity', 250);
begin
  return (
    with reports as (
      select c.number, c.organization_en, c.organization_fr, c.communicated_on, c.officials, c.subjects_en,
             c.subjects_fr, c.description
      from public.lobbying_communications c where c.id = any (v_reports)
    ), registrations as (
      select g.* from public.lobbying_registrations g
      where g.organization_words @@ v_query and (g.ends_on >= p_since or g.ends_on is null or p_since is null)
      order by g.effective_on desc nulls last limit 125
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'),
      'reports', (select count(*) from reports), 'registrations', (select count(*) from registrations),
      'active_registrations', (select count(*) from registrations where ends_on is null),
      'names', coalesce((
        select jsonb_agg(jsonb_build_object('name', n.name, 'name_fr', n.name_fr) order by n.mentions desc, n.name)
        from (
          select a.name, min(a.name_fr) as name_fr, count(*) as mentions from (
            select organization_en as name, organization_fr as name_fr from reports
            union all select organization_en, organization_fr from registrations
          ) a group by a.name order by count(*) desc, a.name limit 10) n), '[]'),
      'items', coalesce((
        select jsonb_agg(jsonb_build_object(
                 'number', r.number, 'organization_en', r.organization_en, 'organization_fr', r.organization_fr,
                 'communicated_on', r.communicated_on, 'officials', r.officials, 'subjects_en', r.subjects_en,
                 'subjects_fr', r.subjects_fr, 'description', left(r.description, 500)
               ) order by r.communicated_on desc, r.number desc)
        from (select * from reports order by communicated_on desc, number desc limit least(p_limit, 50)) r), '[]'),
      'registered', coalesce((
        select jsonb_agg(jsonb_build_object(
                 'newest_id', g.newest_id, 'client_number', g.client_number, 'organization_en', g.organization_en,
                 'organization_fr', g.organization_fr, 'firm', g.firm, 'registrant', g.registrant,
                 'first_effective_on', g.first_effective_on, 'ends_on', g.ends_on,
                 'description', (select left(s.description, 500) from public.lobbying_subjects s
                                 where s.registration_id = g.id and s.description <> ''
                                 order by s.starts_on desc nulls last limit 1)
               ) order by g.ends_on is null desc, g.effective_on desc nulls last)
        from (select * from registrations order by ends_on is null desc, effective_on desc nulls last limit 5) g
      ), '[]')));
end
$$;
comment on function public.lobbying_by_organization(text, date, integer) is
  'The newest reports and the registrations of organizations whose name has all these words, since a day. '
  'Registrations are also found by the name of the consultant''s firm.';
revoke all on function public.lobbying_by_organization(text, date, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.lobbying_by_organization(text, date, integer) to service_role;


create or replace function public.lobbying_of_member(p_member text, p_limit integer default 10) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan
as $$
declare
  v_key constant text := private.person_key(p_member);
begin
  return (
    with reports as (
      select c.number, c.organization_en, c.organization_fr, c.communicated_on, c.officials, c.subjects_en,
             c.subjects_fr, c.description
      from public.lobbying_communications c
      where c.official_keys @> array[v_key] and not c.is_superseded
      order by c.communicated_on desc limit 250
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'),
      'reports', (select count(*) from reports),
      'organizations', coalesce((
        select jsonb_agg(to_jsonb(o) order by o.reports desc, o.name) from (
          select organization_en as name, min(organization_fr) as name_fr, count(*) as reports,
                 max(communicated_on) as last_report_on
          from reports group by organization_en order by count(*) desc, organization_en limit least(p_limit, 50)
        ) o), '[]'),
      'items', coalesce((
        select jsonb_agg(jsonb_build_object(
                 'number', r.number, 'organization_en', r.organization_en, 'organization_fr', r.organization_fr,
                 'communicated_on', r.communicated_on, 'subjects_en', r.subjects_en, 'subjects_fr', r.subjects_fr,
                 'description', left(r.description, 500),
                 'officials', (select coalesce(jsonb_agg(o), '[]') from jsonb_array_elements(r.officials) o
                               where private.person_key(o ->> 'name') = v_key)
               ) order by r.communicated_on desc, r.number desc)
        from (select * from reports order by communicated_on desc, number desc limit least(p_limit, 50)) r), '[]')));
end
$$;
comment on function public.lobbying_of_member(text, integer) is
  'Who lobbied a person: the newest reports that name them, and the organizations with most of these.';
revoke all on function public.lobbying_of_member(text, integer) from public, anon, authenticated, service_role;
grant execute on function public.lobbying_of_member(text, integer) to service_role;


create or replace function public.recent_lobbying(p_limit integer default 10) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan
as $$
declare
  v_until constant date := (
    select c.communicated_on from public.lobbying_communications c
    order by c.communicated_on desc nulls last limit 1);
begin
  return (
    with reports as (
      select c.organization_en, c.organization_fr, c.communicated_on
      from public.lobbying_communications c
      where c.communicated_on > v_until - 30 and not c.is_superseded
      order by c.communicated_on desc nulls last limit 20000
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'), 'since', v_until - 29, 'until', v_until,
      'reports', (select count(*) from reports),
      'items', coalesce((
        select jsonb_agg(to_jsonb(o) order by o.reports desc, o.name) from (
          select organization_en as name, min(organization_fr) as name_fr, count(*) as reports,
                 max(communicated_on) as last_report_on
          from reports group by organization_en order by count(*) desc, organization_en limit least(p_limit, 50)
        ) o), '[]')));
end
$$;
comment on function public.recent_lobbying(integer) is
  'The organizations with most reports in the thirty days up to the newest report.';
revoke all on function public.recent_lobbying(integer) from public, anon, authenticated, service_role;
grant execute on function public.recent_lobbying(integer) to service_role;
