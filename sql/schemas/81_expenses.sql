-- What the chat reads of members' expenses. Amounts are exact text, Canadian dollars.

create or replace function public.expenses_of_member(p_member text, p_limit integer default 8) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    with own as (
      select e.fiscal_year, e.quarter, min(e.name) as name, string_agg(distinct e.constituency, ', ') as constituency,
             string_agg(distinct e.caucus, ', ') as caucus, sum(e.salaries) as salaries, sum(e.travel) as travel,
             sum(e.hospitality) as hospitality, sum(e.contracts) as contracts,
             sum(e.salaries + e.travel + e.hospitality + e.contracts) as total
      from public.member_expenses e
      where e.member_key = private.person_key(p_member)
      group by e.fiscal_year, e.quarter
      order by e.fiscal_year desc, e.quarter desc
      limit least(p_limit, 40)
    )
    select coalesce(jsonb_agg(jsonb_build_object(
             'fiscal_year', o.fiscal_year, 'quarter', o.quarter, 'name', o.name, 'constituency', o.constituency,
             'caucus', o.caucus, 'salaries', o.salaries::text, 'travel', o.travel::text,
             'hospitality', o.hospitality::text, 'contracts', o.contracts::text, 'total', o.total::text,
             'rank', house.rank, 'members', house.members, 'median', house.median::text
           ) order by o.fiscal_year desc, o.quarter desc), '[]')
    from own o
    cross join lateral (
      select 1 + count(*) filter (where m.total > o.total) as rank, count(*) as members,
             round((percentile_disc(0.5) within group (order by m.total)), 2) as median
      from (
        select sum(e.salaries + e.travel + e.hospitality + e.contracts) as total
        from public.member_expenses e
        where e.fiscal_year = o.fiscal_year and e.quarter = o.quarter and e.member_key is not null
        group by e.member_key
      ) m
    ) house);
end
$$;
comment on function public.expenses_of_member(text, integer) is
  'A member''s newest quarters, with the rank of the total among all members and their median.';
revoke all on function public.expenses_of_member(text, integer) from public, anon, authenticated, service_role;
grant execute on function public.expenses_of_member(text, integer) to service_role;


create or replace function public.largest_expenses(
  p_category text, p_fiscal_year integer default null, p_quarter integer default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_fiscal_year integer := p_fiscal_year;
  v_quarter integer := p_quarter;
begin
  if v_fiscal_year is null or v_quarter is null then
    select e.fiscal_year, e.quarter into v_fiscal_year, v_quarter
    from public.member_expenses e
    where (e.fiscal_year = p_fiscal_year or p_fiscal_year is null) and (e.quarter = p_quarter or p_quarter is null)
    order by e.fiscal_year desc, e.quarter desc limit 1;
  end if;
  return (
    with amounts as (
      select min(e.name) as name, string_agg(distinct e.constituency, ', ') as constituency,
             string_agg(distinct e.caucus, ', ') as caucus,
             sum(case p_category
                   when 'salaries' then e.salaries when 'travel' then e.travel
                   when 'hospitality' then e.hospitality when 'contracts' then e.contracts
                   else e.salaries + e.travel + e.hospitality + e.contracts end) as amount
      from public.member_expenses e
      where e.fiscal_year = v_fiscal_year and e.quarter = v_quarter and e.member_key is not null
      group by e.member_key
    )
    select jsonb_build_object(
      'fiscal_year', v_fiscal_year, 'quarter', v_quarter, 'members', (select count(*) from amounts),
      'sum', coalesce((select sum(a.amount) from amounts a), 0)::text,
      'median', (select percentile_disc(0.5) within group (order by a.amount) from amounts a)::text,
      'items', coalesce((
        select jsonb_agg(jsonb_build_object('name', a.name, 'constituency', a.constituency, 'caucus', a.caucus,
                                            'amount', a.amount::text) order by a.amount desc, a.name)
        from (select b.* from amounts b order by b.amount desc, b.name limit least(p_limit, 50)) a), '[]')));
end
$$;
comment on function public.largest_expenses(text, integer, integer, integer) is
  'The members who spent most on a category (salaries, travel, hospitality, contracts, total) in a quarter; by default '
  'the newest.';
revoke all on function public.largest_expenses(text, integer, integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.largest_expenses(text, integer, integer, integer) to service_role;
