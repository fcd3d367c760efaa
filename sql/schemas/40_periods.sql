-- Billing periods.

create or replace function private.period_at(
  p_start timestamptz, p_end timestamptz, p_at timestamptz, out period_start timestamptz, out period_end timestamptz)
language plpgsql immutable set search_path = ''
as $$
declare
  -- The day of the month on which periods start. A period from 28 February to 31 March has its day, 31, in its end.
  v_anchor timestamp := case
    when extract(day from p_end at time zone 'UTC') > extract(day from p_start at time zone 'UTC') then p_end
    else p_start end at time zone 'UTC';
  v_at timestamp := p_at at time zone 'UTC';
  v_months integer;
begin
  if p_at >= p_start and p_at < p_end then
    period_start := p_start;
    period_end := p_end;
    return;
  elsif p_start is null then
    v_anchor := date_trunc('month', v_at);
  end if;
  v_months := (extract(year from v_at) - extract(year from v_anchor)) * 12
            + extract(month from v_at) - extract(month from v_anchor);
  -- Count from the anchor, so that a period that starts on the 31st returns to the 31st after a shorter month.
  if v_anchor + v_months * interval '1 month' > v_at then
    v_months := v_months - 1;
  end if;
  period_start := (v_anchor + v_months * interval '1 month') at time zone 'UTC';
  period_end := (v_anchor + (v_months + 1) * interval '1 month') at time zone 'UTC';
end
$$;
comment on function private.period_at(timestamptz, timestamptz, timestamptz) is
  'The billing period that contains p_at: the given period if it does, otherwise a period a number of months before or '
  'after it. Without a given period: the calendar month, UTC.';
revoke all on function private.period_at(timestamptz, timestamptz, timestamptz)
  from public, anon, authenticated, service_role;
grant execute on function private.period_at(timestamptz, timestamptz, timestamptz) to authenticated, service_role;
