"""Billing from end to end: bought on Stripe's pages, told by its webhooks, seen in the database and on invoices."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest

from functions.maintenance.handler import handler, run_job
from infra.local.postgres import ROOT
from tests.billing_kit import DAY, HOUR, Town, environment
from tests.conftest import Person


def job(town: Town, name: str) -> dict[str, Any]:
    """A job, as the command line runs it."""
    with mock.patch.dict(os.environ, environment(town.stack, town.fake.url)):
        return asyncio.run(run_job(name, lambda line: None, {}))


def start_of(town: Town, user: Person) -> int:
    """When the period began."""
    return int(town.row(user)["current_period_start"].timestamp())


@pytest.fixture
def subscriber(town: Town) -> Callable[[str], Person]:
    """Makes somebody who has subscribed, and whose events have been dealt with."""

    def make(plan: str) -> Person:
        user = town.person()
        town.buy(user, plan=plan)
        assert set(town.deliver()) == {200}
        return user

    return make


def test_a_subscription_is_bought_renewed_and_billed_with_its_overage(town: Town) -> None:
    user = town.person()
    town.buy(user, plan="basic")
    assert town.row(user)["tier"] == "free"
    assert set(town.deliver()) == {200}
    row = town.row(user)
    assert (row["tier"], row["status"], row["next_tier"]) == ("basic", "active", None)
    assert row["stripe_subscription_id"]
    start = start_of(town, user)
    assert start == town.fake.now

    town.overage(user, 1, start + DAY, start)
    town.happen(32 * DAY)
    (item,) = town.items(user)
    assert (item["queries"], item["amount_usd"], item["amount_cents"]) == (1, Decimal("0.025"), 2)
    invoice = town.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert invoice.status == "paid"
    assert sorted(line.amount for line in invoice.lines.data) == [2, 999]
    (described,) = (line.description for line in invoice.lines.data if line.amount == 2)
    assert described is not None
    assert described.startswith("1 query beyond the plan × $0.025 = $0.025 (rounded down to $0.02), period from 20")
    assert start_of(town, user) > start
    assert town.reconcile() == []


def test_what_missed_the_draft_waits_for_the_next_invoice_and_is_billed_once(
    town: Town, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("pro")
    start = start_of(town, user)
    town.overage(user, 3, start + DAY, start)
    town.fake.advance(32 * DAY)
    held = town.undelivered()
    town.fake.advance(4 * DAY)  # finalized without us
    assert town.deliver(*held, *town.undelivered())
    (item,) = town.items(user)
    assert (item["amount_cents"], item["stripe_invoice_id"]) == (7, None)
    assert job(town, "bill-overages")["failed"] == 0
    assert town.items(user)[0]["stripe_invoice_id"] is None
    town.happen(31 * DAY)
    assert job(town, "bill-overages")["failed"] == 0
    (item,) = town.items(user)
    invoice = town.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert sorted(line.amount for line in invoice.lines.data) == [7, 2999]
    assert town.reconcile() == []


def test_a_cancelled_plan_ends_and_the_rest_of_its_overage_is_invoiced_alone(
    town: Town, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("usage_only")
    start = start_of(town, user)
    assert town.row(user)["tier"] == "usage_only"
    town.overage(user, 41, start + DAY, start)
    subscription = town.row(user)["stripe_subscription_id"]
    town.fake.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    town.deliver()
    assert (town.row(user)["status"], town.row(user)["tier"]) == ("canceled", "usage_only")
    town.happen(33 * DAY)
    row = town.row(user)
    assert (row["tier"], row["status"], row["stripe_subscription_id"]) == ("free", "active", None)
    (item,) = town.items(user)
    assert item["amount_cents"] == 102
    invoice = town.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert (invoice.status, invoice.amount_paid, [line.amount for line in invoice.lines.data]) == ("paid", 102, [102])
    assert job(town, "bill-overages") == {"users": 0, "placed": 0, "invoiced": 0, "failed": 0, "failed_ids": []}


def test_overage_that_no_event_told_of_is_found_by_the_sweep(town: Town, subscriber: Callable[[str], Person]) -> None:
    user = subscriber("basic")
    start = start_of(town, user)
    town.fake.v1.subscriptions.cancel(town.row(user)["stripe_subscription_id"])
    town.deliver()
    town.overage(user, 40, start + HOUR, start)  # a query that was running then, and was settled later
    assert job(town, "bill-overages")["placed"] == 1
    (item,) = town.items(user)
    invoice = town.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert (invoice.status, invoice.total) == ("draft", 100)
    assert invoice.auto_advance


def test_an_upgrade_takes_effect_at_once_and_a_downgrade_with_the_next_period(
    town: Town, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("basic")
    subscription = town.fake.subscription(town.row(user)["stripe_subscription_id"])
    prices = {key: town.fake.v1.prices.list({"lookup_keys": [f"plan_{key}"]}).data[0].id for key in ("basic", "pro")}
    item = subscription["items"].data[0].id

    def change(plan: str, **more: Any) -> None:
        items: Any = [{"id": item, "price": prices[plan]}]
        town.fake.v1.subscriptions.update(subscription.id, {"items": items, **more})
        assert set(town.deliver()) == {200}

    change("pro", proration_behavior="always_invoice")
    assert (town.row(user)["tier"], town.row(user)["next_tier"]) == ("pro", None)
    change("basic")
    assert (town.row(user)["tier"], town.row(user)["next_tier"]) == ("pro", "basic")
    town.happen(32 * DAY)
    assert (town.row(user)["tier"], town.row(user)["next_tier"]) == ("basic", None)


def test_a_pack_is_granted_once_frozen_while_disputed_and_taken_back(town: Town) -> None:
    user = town.person()
    town.buy(user, pack="pack_100")
    events = town.undelivered()
    assert set(town.deliver(*events, *reversed(events))) == {200}
    (pack,) = town.packs(user)
    assert (pack["credits_remaining"], pack["price_paid"], pack["is_frozen"]) == (100, Decimal("2.25"), False)
    assert town.row(user)["tier"] == "usage_only"
    intent = pack["stripe_payment_intent_id"]
    town.fake.control("/_disputes", charge=intent)
    town.deliver()
    assert town.packs(user)[0]["is_frozen"]
    town.fake.control("/_disputes", charge=intent, status="lost")
    town.deliver()
    (pack,) = town.packs(user)
    assert (pack["credits_remaining"], pack["credits_revoked"]) == (0, 100)
    assert town.row(user)["tier"] == "free"


def test_events_that_failed_or_never_came_are_dealt_with_by_the_sweep(town: Town) -> None:
    failed, dropped = town.person(), town.person()
    town.buy(failed, plan="pro")
    town.fake.control("/_faults", method="GET", path=f"/v1/customers/{town.customer(failed)}", status=500, times=99)
    assert 503 in town.deliver()
    assert town.row(failed)["tier"] == "free"
    town.fake.http.delete("/_faults")
    town.buy(dropped, plan="basic")
    town.fake.control("/_drop", ids=town.undelivered())
    town.db.execute("update public.stripe_events set created_at = created_at - interval '10 minutes'")
    counts = job(town, "retry-events")
    assert counts["failed"] == 0
    assert counts["processed"] >= 2
    assert town.row(failed)["tier"] == "pro"
    unfinished = town.db.execute("select event_id from public.stripe_events where processed_at is null").fetchall()
    assert {row["event_id"] for row in unfinished}.isdisjoint(
        event["id"] for event in town.fake.http.get("/_events").json()
    )


def test_the_jobs_run_as_a_command_and_as_lambda_calls_them(town: Town) -> None:
    known = environment(town.stack, town.fake.url)
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


def test_what_waits_for_an_invoice_outlives_the_subscription_that_it_was_used_under(
    town: Town, subscriber: Callable[[str], Person]
) -> None:
    user = subscriber("basic")
    start = start_of(town, user)
    town.overage(user, 40, start + DAY, start)
    town.fake.advance(32 * DAY)
    missed = town.undelivered()
    town.fake.advance(4 * DAY)  # the draft is final before we hear of it
    assert set(town.deliver(*missed)) == {200}
    town.fake.v1.subscriptions.cancel(town.row(user)["stripe_subscription_id"])
    town.fake.control("/_drop", ids=town.undelivered())
    town.buy(user, plan="basic")
    assert set(town.deliver()) == {200}
    town.happen(32 * DAY)
    assert job(town, "bill-overages")["failed"] == 0
    (item,) = town.items(user)
    assert item["stripe_invoice_id"] is not None
    assert 100 in [line.amount for line in town.fake.v1.invoices.retrieve(item["stripe_invoice_id"]).lines.data]
