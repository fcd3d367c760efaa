"""reconcile: planted differences are found, and only counters are repaired."""

import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from decimal import Decimal

import pytest

from functions.maintenance.bill_overages import bill_overages
from functions.maintenance.reconcile import reconcile
from tests.billing_kit import (
    DAY,
    STRIPE_HEADERS,
    BillingStack,
    stripe_get,
    stripe_post,
)
from tests.conftest import Person
from tests.functions.maintenance.kit import command, findings, findings_of_each, no_progress, run, today
from tests.sql.metering import action, admit, value

pytestmark = pytest.mark.usefixtures("empty_billing")  # counts and compares everything that there is


FULL = bool(os.environ.get("PROVE"))
ROWS = 1_000_000 if FULL else 20_000


def test_correct_billing_has_no_findings(billing: BillingStack, billed: Person) -> None:
    assert findings(billing, billed) == set()


def double_item(billing: BillingStack, user: Person) -> None:
    (item,) = billing.overage_items(user)
    params = {"metadata[overage_invoice_item]": str(item["id"]), "currency": "usd", "amount": item["amount_cents"]}
    stripe_post(billing, "invoiceitems", customer=billing.customer_id(user), **params)


def sql(statement: str) -> Callable[[BillingStack, Person], None]:
    """Damages the rows of a user."""
    return lambda billing, user: (billing.db.execute(statement.encode(), (user.id,)), None)[1]


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (double_item, {"item doubled"}),
        (sql("update public.overage_invoice_items set stripe_invoice_item_id = 'ii_gone' where user_id = %s"),
         {"item differs"}),
        (sql("update public.overage_invoice_items set stripe_invoice_id = 'in_other' where user_id = %s"),
         {"item differs"}),
        # The row then has another amount than the item at Stripe.
        (sql("update public.overage_invoice_items set queries = 40 where user_id = %s"), {"item differs", "I7"}),
        (sql("delete from public.usage_logs where ctid = (select min(ctid) from public.usage_logs where user_id = %s)"),
         {"I4", "I7"}),
        (sql("update public.credit_packs set credits_purchased = 99, credits_remaining = 99 where user_id = %s"),
         {"pack differs"}),
        (sql("update public.credit_packs set credits_used = 1, credits_remaining = 99 where user_id = %s"), {"I3"}),
        (sql("delete from public.credit_packs where user_id = %s"), {"pack missing"}),
        (sql("update public.user_subscriptions set quota_used = quota_used + 1 where user_id = %s"), {"I4"}),
    ],
)  # fmt: skip
def test_every_planted_difference_is_found(
    billing: BillingStack, billed: Person, damage: Callable[[BillingStack, Person], None], kinds: set[str]
) -> None:
    damage(billing, billed)
    assert findings(billing, billed) == kinds


def test_charges_that_were_given_back_reduce_the_next_invoice(billing: BillingStack, billed: Person) -> None:
    """Three of 41 queries, which were 102 cents: 38 are 95. The command was killed, so the job places the items."""
    queries = billing.db.execute("select id::text from public.usage_logs where user_id = %s limit 3", (billed.id,))
    for query in queries.fetchall():
        assert "refused" not in value(billing.db, "select public.credit_back(%s, %s)", query["id"], action())
    assert run(billing, bill_overages, no_progress)["placed"] == 3
    given = [item for item in billing.overage_items(billed) if item["queries"] < 0]
    assert (len(given), sum(item["amount_cents"] for item in given)) == (3, 95 - 102)
    assert findings(billing, billed) == set()
    billing.advance_and_deliver(31 * DAY)
    (last,) = stripe_get(billing, "invoices", customer=billing.customer_id(billed), limit=1)["data"]
    assert last["total"] == 999 + 95 - 102
    (described,) = (line["description"] for line in last["lines"]["data"] if line["amount"] == -3)
    assert described.startswith("1 query beyond the plan given back = -$0.03, period from ")
    assert run(billing, bill_overages, no_progress)["placed"] == 0
    assert findings(billing, billed) == set()
    sql("update public.overage_invoice_items set gives_back_cents = 9 where queries < 0 and user_id = %s")(
        billing, billed
    )
    assert findings(billing, billed) == {"I7", "item differs"}


def test_an_invoice_item_without_a_row_is_found(billing: BillingStack) -> None:
    user, our_id = billing.new_user(), str(uuid.uuid4())
    billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    params = {"metadata[overage_invoice_item]": our_id, "currency": "usd", "amount": 5}
    item = stripe_post(billing, "invoiceitems", customer=billing.customer_id(user), **params)
    unknown = [
        one for one in run(billing, reconcile, today(billing), no_progress)["findings"] if one["subject"] == our_id
    ]
    assert [(one["kind"], one["found"]) for one in unknown] == [("item unknown", item["id"])]
    billing.fake.http.delete(f"/v1/invoiceitems/{item['id']}", headers=STRIPE_HEADERS).raise_for_status()


def test_an_invoice_item_deleted_at_stripe_is_found(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 41, start + DAY, start)
    billing.fake.advance(32 * DAY)
    billing.fake.advance(4 * DAY)  # finalized before we process its event, so the item waits for the next invoice
    assert set(billing.deliver()) == {200}
    (item,) = billing.overage_items(user)
    assert findings(billing, user) <= {"I4"}
    billing.fake.http.delete(
        f"/v1/invoiceitems/{item['stripe_invoice_item_id']}", headers=STRIPE_HEADERS
    ).raise_for_status()
    assert findings(billing, user) >= {"item missing"}


def add_old_queries(billing: BillingStack, users: list[Person], rows: int) -> None:
    """Insert old queries of the users, outside every day and period that a counter covers."""
    billing.db.execute(
        "insert into public.usage_logs (id, created_at, user_id, request_id, tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, tokens_input, tokens_output,"
        " tokens_total, cost_usd, provider, model, used_byo_key, is_charged, counted_against_quota, was_overage)"
        " select gen_random_uuid(), at, (%(users)s::uuid[])[n %% %(count)s + 1], 'many ' || n, 'pro', 'included',"
        " 'answered', at::date, at, date_trunc('month', at), 1, 40, 0, 100, 20, 120, 0.000123, 'anthropic', 'm', false,"
        " true, true, false from generate_series(1, %(rows)s) n,"
        " lateral (select '2025-12-31Z'::timestamptz - n / %(count)s / 20 * interval '1 day' as at) t",
        {"users": [user.id for user in users], "count": len(users), "rows": rows},
    )
    billing.db.execute("analyze public.usage_logs")


@pytest.mark.prove
def test_every_difference_is_found_among_many_queries(billing: BillingStack, capfd: pytest.CaptureFixture[str]) -> None:
    others = [billing.new_user("pro") for _ in range(200)]
    lost, off, charged, missing, doubling, short = six = [billing.new_user() for _ in range(6)]
    for user in six:
        billing.buy(user, plan="basic")
    billing.buy(short, pack="pack_100")
    assert set(billing.deliver()) == {200}
    for user in (charged, missing, doubling):
        start = int(billing.subscription_row(user)["current_period_start"].timestamp())
        billing.add_overage(user, 41, start + DAY, start)
    billing.fake.advance(36 * DAY)  # finalized before we process their events
    assert set(billing.deliver()) == {200}
    billing.db.execute(
        "update public.user_subscriptions s set current_overage_amount = 1.025, overage_period_start = u.period_start"
        " from public.usage_logs u where u.user_id = s.user_id and u.was_overage and s.user_id = any(%s)",
        ([user.id for user in (charged, missing, doubling)],),
    )
    add_old_queries(billing, [*others, *six], ROWS)
    assert findings_of_each(billing, six) == [set()] * len(six)

    admit(billing.db, lost.id)
    billing.db.execute(
        "update public.query_holds set expires_at = now() - interval '2 hours' where user_id = %s", (lost.id,)
    )
    billing.db.execute("update public.user_subscriptions set quota_used = quota_used + 1 where user_id = %s", (off.id,))
    billing.db.execute(
        "insert into public.usage_logs (id, created_at, user_id, request_id, tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key,"
        " is_charged, counted_against_quota, was_overage, overage_charge, invoice_item_id)"
        " select gen_random_uuid(), created_at, user_id, request_id || ' again', tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key,"
        " is_charged, counted_against_quota, was_overage, overage_charge, invoice_item_id"
        " from public.usage_logs where user_id = %s and was_overage limit 1",
        (charged.id,),
    )
    (item,) = billing.overage_items(missing)
    billing.fake.http.delete(
        f"/v1/invoiceitems/{item['stripe_invoice_item_id']}", headers=STRIPE_HEADERS
    ).raise_for_status()
    double_item(billing, doubling)
    billing.db.execute(
        "update public.credit_packs set credits_purchased = 99, credits_remaining = 99 where user_id = %s", (short.id,)
    )
    began = time.monotonic()
    found = findings_of_each(billing, six)
    took = time.monotonic() - began
    assert found == [{"I5"}, {"I4"}, {"I4", "I7"}, {"item missing"}, {"item doubled"}, {"pack differs"}]
    if FULL:
        with capfd.disabled():
            sys.stderr.write(f"reconcile over {ROWS:,} queries: {took:.1f} s\n")
    billing.db.execute("delete from auth.users where id = any(%s)", ([one.id for one in others],))


def test_fix_repairs_counters_and_never_money(billing: BillingStack, billed: Person) -> None:
    columns = "quota_used = 3, lifetime_used = 7, current_overage_amount = 9, uses_byo_key = true"
    billing.db.execute(f"update public.user_subscriptions set {columns} where user_id = %s", (billed.id,))
    billing.db.execute(
        "update public.credit_packs set credits_used = 1, credits_remaining = 99 where user_id = %s", (billed.id,)
    )
    billing.db.execute("update public.overage_invoice_items set queries = 40 where user_id = %s", (billed.id,))
    assert findings(billing, billed) == {"I3", "I4", "I7", "item differs"}
    assert findings(billing, billed, fix=True) == {"I3", "I7", "item differs"}
    row, (pack,), (item,) = billing.subscription_row(billed), billing.packs(billed), billing.overage_items(billed)
    assert [row[name] for name in ("quota_used", "lifetime_used", "uses_byo_key")] == [0, 0, False]
    assert row["current_overage_amount"] in (Decimal(0), Decimal("1.025"))  # depends on the period of the row
    assert (pack["credits_used"], item["queries"]) == (1, 40)


def test_the_command_reports_differences_and_fails(billing: BillingStack, billed: Person) -> None:
    billing.db.execute(
        "update public.user_subscriptions set quota_used = quota_used + 1 where user_id = %s", (billed.id,)
    )
    done = command(billing, "reconcile")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(
        re.match(r" +\d+  I4: a counter that differs from the ledger: `reconcile --fix` corrects it", line)
        for line in lines
    )
    assert any(f"(user {billed.id})" in line for line in lines)
    assert json.loads(lines[-1])["differences"] >= 1
    assert json.loads(command(billing, "reconcile", "--fix").stdout.splitlines()[-1])["repaired"] >= 1
    assert billing.subscription_row(billed)["quota_used"] == 0
