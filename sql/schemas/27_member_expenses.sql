-- Members' expenses by quarter and category, as the House of Commons publishes them. Canadian dollars.

create table if not exists public.member_expenses (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  fiscal_year integer not null
    constraint member_expenses_fiscal_year_is_plausible check (fiscal_year between 2000 and 2200),
  quarter integer not null
    constraint member_expenses_quarter_is_one_of_four check (quarter between 1 and 4),
  name text not null
    constraint member_expenses_name_is_bounded check (char_length(name) between 1 and 200),
  constituency text not null
    constraint member_expenses_constituency_is_bounded check (char_length(constituency) <= 200),
  caucus text not null
    constraint member_expenses_caucus_is_bounded check (char_length(caucus) <= 100),
  occurrence integer not null,
  member_key text
    constraint member_expenses_member_key_is_bounded check (char_length(member_key) <= 200),
  salaries numeric(12,2) not null,
  travel numeric(12,2) not null,
  hospitality numeric(12,2) not null,
  contracts numeric(12,2) not null,
  constraint member_expenses_has_each_row_once unique (fiscal_year, quarter, name, constituency, caucus, occurrence)
);
create index if not exists member_expenses_member_key_idx
  on public.member_expenses (member_key, fiscal_year desc, quarter desc);

comment on table public.member_expenses is
  'Members'' expenses by quarter and category, Canadian dollars. A refund is negative.';
comment on column public.member_expenses.id is 'Identifies the row.';
comment on column public.member_expenses.created_at is 'When it was imported.';
comment on column public.member_expenses.fiscal_year is
  'The year in which the fiscal year ends: 2027 is April 2026 to March 2027.';
comment on column public.member_expenses.quarter is '1 is April to June.';
comment on column public.member_expenses.name is
  'As published: "Quillwater, Hon. Fern", or "Vacant" for an office without a member.';
comment on column public.member_expenses.constituency is 'The riding.';
comment on column public.member_expenses.caucus is 'The caucus, in English.';
comment on column public.member_expenses.occurrence is
  '1; or 2 and more where the file has the same name, riding and caucus again. Both rows count.';
comment on column public.member_expenses.member_key is 'private.person_key of the member. Null for a vacant office.';
comment on column public.member_expenses.salaries is 'Salaries of employees.';
comment on column public.member_expenses.travel is 'Travel.';
comment on column public.member_expenses.hospitality is 'Hospitality.';
comment on column public.member_expenses.contracts is 'Contracts and other operating costs.';

alter table public.member_expenses enable row level security;
alter table public.member_expenses force row level security;
revoke all on public.member_expenses from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them: the Speaker's Permission excludes selling the data. Functions do.
