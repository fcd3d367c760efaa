"""A year of renewals for each day of the month that some months do not have, printed as a table.

The expected days are counted day by day: Stripe renews on the anchor's day, and in a shorter month on its last day.
`pytest -s` shows the tables; docs/billing.md has the one of the 31st.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.billing_kit import STRIPE_HEADERS, BillingStack, dropped_events, running_billing, stripe_get
from tests.conftest import Person
from tests.sql.metering import value

ANCHORS = [
    *(date(2027, 1, day) for day in (28, 29, 30, 31)),
    *(date(2027, 2, 28), date(2028, 1, 30), date(2028, 2, 29)),
]
RENEWED_AT = time(10, tzinfo=UTC)
PERIODS = 12
PRICE, PLAN_CENTS = Decimal("0.025"), 999
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
HEADER = [
    "| from | to | days | included | overage | invoiced at the end |",
    "| --- | --- | --- | --- | --- | --- |",
]

Row = tuple[date, date, int, int, int, Decimal]


def expected_days(anchor: date) -> list[date]:
    """The first day of each period, and the end of the last."""
    days, day = [anchor], anchor
    while len(days) <= PERIODS:
        day += DAY
        is_last = (day + DAY).day == 1
        if day.day == anchor.day or (is_last and day.day < anchor.day):
            days.append(day)
    return days


def expected_table(anchor: date, quota: int) -> list[Row]:
    """The periods: first day, last, days, included queries, queries of overage, and dollars for these."""
    days = expected_days(anchor)
    rows = []
    for number, (start, end) in enumerate(pairwise(days)):
        length = end.toordinal() - start.toordinal()
        queries = overage_queries(number)
        rows.append((start, end, length, length * quota, queries, Decimal(queries * 25 // 10) / 100))
    return rows


def overage_queries(number: int) -> int:
    """The queries of overage in a period: every second number makes half a cent, which is not charged."""
    return 40 + number


def printed(rows: list[Row]) -> list[str]:
    return [
        *HEADER,
        *(
            f"| {start} | {end} | {days} | {included:,} | {queries} | ${usd:.2f} |"
            for start, end, days, included, queries, usd in rows
        ),
    ]


def moment(day: date) -> datetime:
    return datetime.combine(day, RENEWED_AT)


@pytest.fixture(scope="module")
def billing(stack: Stack) -> Iterator[BillingStack]:
    """A stand-in whose clock stands at the first anchor."""
    with running_billing(stack, start=int(moment(ANCHORS[0]).timestamp())) as billing:
        yield billing


class Subscriber:
    """A user with the plan basic, and their periods so far."""

    def __init__(self, billing: BillingStack, anchor: date) -> None:
        self.billing, self.anchor = billing, anchor
        self.user: Person = billing.new_user()
        billing.buy(self.user, plan="basic")
        assert set(billing.deliver()) == {200}
        self.rows: list[Row] = []

    def at(self, when: datetime) -> dict[str, Any]:
        """The counters, and the period without a further event, at that time."""
        db = self.billing.db
        with db.transaction():
            value(db, "select set_config('metering.now', %s, true)", when.isoformat())
            found = db.execute(
                "select s.overage_used, s.quota_used, (private.period_at(r.current_period_start, r.current_period_end,"
                " s.now)).* from private.current_subscriptions s join public.user_subscriptions r using (user_id)"
                " where user_id = %s",
                (self.user.id,),
            ).fetchone()
        assert found is not None
        return found

    def count_included(self, start: datetime, end: datetime) -> int:
        """The included queries of a period: what is left of each day's quota at the hour of the renewal."""
        self.billing.db.execute(
            "update public.user_subscriptions set quota_used = 0, quota_date = %s where user_id = %s",
            (start.date() - DAY, self.user.id),
        )
        found = 0
        for number in range((end - start).days):
            now = start + number * DAY
            with self.billing.db.transaction():
                value(self.billing.db, "select set_config('metering.now', %s, true)", now.isoformat())
                left = "select quota_limit - included_used from private.subscription_limits where user_id = %s"
                found += value(self.billing.db, left, self.user.id)
        return found

    def use(self) -> tuple[datetime, datetime]:
        """Use overage, and seven included queries on the last day. Returns the period."""
        period = self.billing.subscription_row(self.user)
        start, end = period["current_period_start"], period["current_period_end"]
        self.included = self.count_included(start, end)
        queries = overage_queries(len(self.rows))
        self.billing.add_overage(self.user, queries, int((start + DAY).timestamp()), int(start.timestamp()))
        self.billing.db.execute(
            "update public.user_subscriptions set current_overage_amount = %s, overage_period_start = %s,"
            " quota_used = 7, quota_date = %s where user_id = %s",
            (queries * PRICE, start, end.date(), self.user.id),
        )
        return start, end

    def renew(self, event_id: str, start: datetime, end: datetime) -> None:
        """The end of the period: read it before its event, deliver the event, and add the row of the table."""
        queries = overage_queries(len(self.rows))
        midnight = self.at(datetime.combine(end.date() + DAY, time(tzinfo=UTC)))
        last, first = self.at(end - SECOND), self.at(end)
        assert (last["overage_used"], last["period_end"]) == (queries * PRICE, end)
        assert (first["overage_used"], first["period_start"]) == (0, end)
        assert (last["quota_used"], first["quota_used"], midnight["quota_used"]) == (7, 7, 0)
        assert self.billing.deliver(event_id) == [200]
        row = self.billing.subscription_row(self.user)
        assert (row["current_period_start"], row["current_period_end"]) == (end, first["period_end"])
        draft = stripe_get(self.billing, "invoices", customer=row["stripe_customer_id"], limit=1)["data"][0]
        invoiced = Decimal(draft["total"] - PLAN_CENTS) / 100
        self.rows.append((start.date(), end.date(), (end - start).days, self.included, queries, invoiced))

    def cancel(self) -> None:
        with dropped_events(self.billing):
            subscription = self.billing.subscription_row(self.user)["stripe_subscription_id"]
            path = f"/v1/subscriptions/{subscription}"
            self.billing.fake.http.delete(path, headers=STRIPE_HEADERS).raise_for_status()


def renewal_of(billing: BillingStack, customer: str) -> str:
    """The event of the draft that renewed a customer's subscription last."""
    events = stripe_get(billing, "events", type="invoice.created", limit=20)["data"]
    return str(next(one["id"] for one in events if one["data"]["object"]["customer"] == customer))


def run_years(billing: BillingStack) -> dict[date, list[Row]]:
    """The table of each anchor, from the stack."""
    starts, live, tables = list(ANCHORS), dict[Subscriber, tuple[datetime, datetime]](), {}
    while starts or live:
        now = min(end for _, end in [*live.values(), *((start, moment(start)) for start in starts[:1])])
        if int(now.timestamp()) > billing.fake.now:
            with dropped_events(billing):
                billing.fake.control("/_clock", to=int(now.timestamp()))
        for one, (start, end) in list(live.items()):
            if end != now:
                continue
            one.renew(renewal_of(billing, billing.customer_id(one.user)), start, end)
            live[one] = one.use()
            if len(one.rows) == PERIODS:
                one.cancel()
                tables[one.anchor] = one.rows
                del live[one]
        if starts and moment(starts[0]) == now:
            one = Subscriber(billing, starts.pop(0))
            live[one] = one.use()
    return tables


def test_a_year_of_renewals_equals_its_table(billing: BillingStack) -> None:
    quota = value(billing.db, "select daily_quota from public.plans where tier = 'basic'")
    tables = run_years(billing)
    for anchor in ANCHORS:
        print(f"\nSubscribed on {anchor}", *printed(tables[anchor]), sep="\n")  # noqa: T201 -- to look at
        assert tables[anchor] == expected_table(anchor, quota)
    assert billing.broken_invariants() == []
    assert "\n".join(printed(tables[date(2027, 1, 31)])) in (ROOT / "docs/billing.md").read_text()
