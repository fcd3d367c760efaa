"""Billing from end to end: purchases on Stripe's pages, webhooks, the database and invoices."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from stripe import StripeClient

from functions.common.billing import events
from functions.common.billing.events import HANDLED_EVENTS
from functions.common.billing.stripe_state import CustomerState, read_customer
from functions.maintenance.handler import handler, run_job
from functions.maintenance.retry_events import retry_events
from infra.local.postgres import ROOT
from tests.billing_kit import DAY, HOUR, BillingStack, environment
from tests.conftest import Person
from tests.functions.maintenance.kit import no_progress, run, today

pytestmark = pytest.mark.usefixtures("empty_billing")  # counts and compares everything that there is


def job(billing: BillingStack, name: str) -> dict[str, Any]:
    """Run a job as the command line does. Returns its counts."""
    with mock.patch.dict(os.environ, environment(billing.stack, billing.fake.url)):
        return dict(asyncio.run(run_job(name, lambda line: None, {})).counts)


def period_start(billing: BillingStack, user: Person) -> int:
    """The start of the user's period, in seconds since 1970."""
    return int(billing.subscription_row(user)["current_period_start"].timestamp())


@pytest.fixture(autouse=True)
def no_subscription_outlives_its_test(billing: BillingStack) -> Iterator[None]:
    """Moving the stand-in's clock renews every subscription, which costs most of the time of later tests."""
    yield
    billing.cancel_subscriptions()


@pytest.fixture
def subscriber(billing: BillingStack) -> Callable[[str], Person]:
    """Makes a user who has subscribed. All their events are processed."""

    def make(plan: str) -> Person:
        user = billing.new_user()
        billing.buy(user, plan=plan)
        assert set(billing.deliver()) == {200}
        return user

    return make


def test_subscription_is_bought_renewed_and_billed_with_overage(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="basic")
    assert billing.subscription_row(user)["tier"] == "free"
    assert set(billing.deliver()) == {200}
    row = billing.subscription_row(user)
    assert (row["tier"], row["status"], row["next_tier"]) == ("basic", "active", None)
    assert row["stripe_subscription_id"]
    start = period_start(billing, user)
    assert start == billing.fake.now

    billing.add_overage(user, 1, start + DAY, start)
    billing.advance_and_deliver(32 * DAY)
    (item,) = billing.overage_items(user)
    assert (item["queries"], item["amount_usd"], item["amount_cents"]) == (1, Decimal("0.025"), 2)
    invoice = billing.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert invoice.status == "paid"
    assert sorted(line.amount for line in invoice.lines.data) == [2, 999]
    (described,) = (line.description for line in invoice.lines.data if line.amount == 2)
    assert described is not None
    assert described.startswith("1 query beyond the plan × $0.025 = $0.025 (rounded down to $0.02), period from 20")
    assert period_start(billing, user) > start
    assert billing.broken_invariants() == []


def test_late_overage_is_billed_once_on_the_next_invoice(
    billing: BillingStack, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("pro")
    start = period_start(billing, user)
    billing.add_overage(user, 3, start + DAY, start)
    billing.fake.advance(32 * DAY)
    held = billing.undelivered()
    billing.fake.advance(4 * DAY)  # finalized before the events are delivered
    assert billing.deliver(*held, *billing.undelivered())
    (item,) = billing.overage_items(user)
    assert (item["amount_cents"], item["stripe_invoice_id"]) == (7, None)
    assert job(billing, "bill-overages")["failed"] == 0
    assert billing.overage_items(user)[0]["stripe_invoice_id"] is None
    billing.advance_and_deliver(31 * DAY)
    assert job(billing, "bill-overages")["failed"] == 0
    (item,) = billing.overage_items(user)
    invoice = billing.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert sorted(line.amount for line in invoice.lines.data) == [7, 2999]
    assert billing.broken_invariants() == []


def test_overage_of_an_ended_plan_gets_its_own_invoice(
    billing: BillingStack, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("usage_only")
    start = period_start(billing, user)
    assert billing.subscription_row(user)["tier"] == "usage_only"
    billing.add_overage(user, 41, start + DAY, start)
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    billing.fake.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    billing.deliver()
    assert (billing.subscription_row(user)["status"], billing.subscription_row(user)["tier"]) == (
        "canceled",
        "usage_only",
    )
    billing.advance_and_deliver(33 * DAY)
    row = billing.subscription_row(user)
    assert (row["tier"], row["status"], row["stripe_subscription_id"]) == ("free", "active", None)
    (item,) = billing.overage_items(user)
    assert item["amount_cents"] == 102
    invoice = billing.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert (invoice.status, invoice.amount_paid, [line.amount for line in invoice.lines.data]) == ("paid", 102, [102])
    assert job(billing, "bill-overages") == {"users": 0, "placed": 0, "invoiced": 0, "failed": 0, "failed_ids": []}


def test_bill_overages_bills_overage_that_no_event_billed(
    billing: BillingStack, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("basic")
    start = period_start(billing, user)
    billing.fake.v1.subscriptions.cancel(billing.subscription_row(user)["stripe_subscription_id"])
    billing.deliver()
    billing.add_overage(user, 40, start + HOUR, start)  # settled after the subscription ended
    assert job(billing, "bill-overages")["placed"] == 1
    (item,) = billing.overage_items(user)
    invoice = billing.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert (invoice.status, invoice.total) == ("paid", 100)


def test_upgrades_apply_immediately_and_downgrades_at_the_next_period(
    billing: BillingStack, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("basic")
    subscription = billing.fake.subscription(billing.subscription_row(user)["stripe_subscription_id"])
    prices = {key: billing.fake.v1.prices.list({"lookup_keys": [f"plan_{key}"]}).data[0].id for key in ("basic", "pro")}
    item = subscription["items"].data[0].id

    def change(plan: str, **more: Any) -> None:
        items: Any = [{"id": item, "price": prices[plan]}]
        billing.fake.v1.subscriptions.update(subscription.id, {"items": items, **more})
        assert set(billing.deliver()) == {200}

    change("pro", proration_behavior="always_invoice")
    assert (billing.subscription_row(user)["tier"], billing.subscription_row(user)["next_tier"]) == ("pro", None)
    change("basic", proration_behavior="none")
    assert (billing.subscription_row(user)["tier"], billing.subscription_row(user)["next_tier"]) == ("pro", "basic")
    billing.advance_and_deliver(32 * DAY)
    assert (billing.subscription_row(user)["tier"], billing.subscription_row(user)["next_tier"]) == ("basic", None)


def test_pack_is_granted_once_frozen_by_a_dispute_and_revoked(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    events = billing.undelivered()
    assert set(billing.deliver(*events, *reversed(events))) == {200}
    (pack,) = billing.packs(user)
    assert (pack["credits_remaining"], pack["price_paid"], pack["is_frozen"]) == (100, Decimal("2.25"), False)
    assert billing.subscription_row(user)["tier"] == "usage_only"
    intent = pack["stripe_payment_intent_id"]
    billing.fake.control("/_disputes", charge=intent)
    billing.deliver()
    assert billing.packs(user)[0]["is_frozen"]
    billing.fake.control("/_disputes", charge=intent, status="lost")
    billing.deliver()
    (pack,) = billing.packs(user)
    assert (pack["credits_remaining"], pack["credits_revoked"]) == (0, 100)
    assert billing.subscription_row(user)["tier"] == "free"


def test_retry_events_processes_failed_and_dropped_events(billing: BillingStack) -> None:
    failed, dropped = billing.new_user(), billing.new_user()
    billing.buy(failed, plan="pro")
    billing.fake.control(
        "/_faults", method="GET", path=f"/v1/customers/{billing.customer_id(failed)}", status=500, times=99
    )
    assert 503 in billing.deliver()
    assert billing.subscription_row(failed)["tier"] == "free"
    billing.fake.http.delete("/_faults")
    billing.buy(dropped, plan="basic")
    billing.fake.control("/_drop", ids=billing.undelivered())
    billing.db.execute("update public.stripe_events set created_at = created_at - interval '10 minutes'")
    billing.fake.http.delete("/_requests")
    counts = job(billing, "retry-events")
    assert counts["failed"] == 0
    assert counts["processed"] >= 2
    asked = [one["params"] for one in billing.fake.http.get("/_requests").json() if one["path"] == "/v1/events"]
    assert {kind for params in asked for kind in params["types"].values()} == HANDLED_EVENTS
    assert billing.subscription_row(failed)["tier"] == "pro"
    unfinished = billing.db.execute("select event_id from public.stripe_events where processed_at is null").fetchall()
    assert {row["event_id"] for row in unfinished}.isdisjoint(
        event["id"] for event in billing.fake.http.get("/_events").json()
    )


def test_retry_events_goes_on_after_an_unexpected_failure(
    billing: BillingStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = billing.new_user(), billing.new_user()
    for user in (other, broken):  # the newest are retried first
        billing.buy(user, plan="basic")
    billing.fake.control("/_drop", ids=billing.undelivered())

    async def fail_for_one(stripe: StripeClient, customer_id: str) -> CustomerState:
        if customer_id == billing.customer_id(broken):
            raise KeyError("mode")
        return await read_customer(stripe, customer_id)

    monkeypatch.setattr(events, "read_customer", fail_for_one)
    assert run(billing, retry_events, today(billing), no_progress)["failed"] >= 1
    assert (tier(billing, broken), tier(billing, other)) == ("free", "basic")
    monkeypatch.undo()
    assert run(billing, retry_events, today(billing), no_progress)["failed"] == 0
    assert tier(billing, broken) == "basic"


def tier(billing: BillingStack, user: Person) -> str:
    """The user's tier."""
    return str(billing.subscription_row(user)["tier"])


def test_retry_events_gives_up_what_can_never_work(billing: BillingStack) -> None:
    for name in ("evt_expired", "evt_of_another_account"):
        billing.db.execute(
            "insert into public.stripe_events (created_at, event_id, type, attempts, last_error)"
            " values (now() - interval '1 day', %s, 'invoice.paid', 1, 'APIError')",
            (name,),
        )
    assert job(billing, "retry-events")["gone"] == 2
    assert job(billing, "retry-events")["gone"] == 0


def test_jobs_run_as_a_command_and_as_a_lambda_event(billing: BillingStack) -> None:
    known = environment(billing.stack, billing.fake.url)
    done = subprocess.run(
        [sys.executable, "-m", "functions.maintenance", "bill-overages"],
        env={**os.environ, **known},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["failed"] == 0
    with mock.patch.dict(os.environ, known):
        assert handler({"job": "retry-events"}, None)["failed"] == 0


def test_a_later_subscription_bills_overage_of_the_cancelled_one(
    billing: BillingStack, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("basic")
    start = period_start(billing, user)
    billing.add_overage(user, 40, start + DAY, start)
    billing.fake.advance(32 * DAY)
    missed = billing.undelivered()
    billing.fake.advance(4 * DAY)  # finalized before its event is delivered
    assert set(billing.deliver(*missed)) == {200}
    billing.fake.v1.subscriptions.cancel(billing.subscription_row(user)["stripe_subscription_id"])
    billing.fake.control("/_drop", ids=billing.undelivered())
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    billing.advance_and_deliver(32 * DAY)
    assert job(billing, "bill-overages")["failed"] == 0
    (item,) = billing.overage_items(user)
    assert item["stripe_invoice_id"] is not None
    assert 100 in [line.amount for line in billing.fake.v1.invoices.retrieve(item["stripe_invoice_id"]).lines.data]
