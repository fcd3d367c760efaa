"""Sales with tax: what is granted, billed, revoked and reported is net of it, and reconcile agrees with Stripe."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest

from functions.checkout.handler import create
from functions.maintenance.margin_report import margin_report
from tests.billing_kit import DAY, STRIPE_HEADERS, BillingStack, function_with, stripe_get, stripe_post
from tests.conftest import Person
from tests.functions.checkout.kit import click
from tests.functions.maintenance.kit import findings, run
from tests.functions.test_billing import job

pytestmark = pytest.mark.usefixtures("empty_billing")  # reconcile and the report read everything that there is


@pytest.fixture(scope="module")
def taxing(billing: BillingStack) -> Iterator[httpx.Client]:
    """The checkout function with automatic tax."""
    with function_with(billing, create, STRIPE_AUTOMATIC_TAX="true") as http:
        yield http


def buy(billing: BillingStack, user: Person, taxing: httpx.Client, province: str, **what: str) -> None:
    """Buy a plan or a pack with an address in the province. All events are delivered."""
    page = click(billing, user, taxing, **what)
    assert page.status_code == 200, page.text
    answer = billing.fake.http.post(page.json()["url"], data={"way": "good_card", "province": province})
    assert answer.status_code < 400, answer.text
    assert set(billing.deliver()) == {200}


def invoices(billing: BillingStack, user: Person) -> list[tuple[int, int, str]]:
    """The total without and with tax and the status of each invoice of the user, oldest first."""
    listed = stripe_get(billing, "invoices", customer=billing.customer_id(user), limit=100)["data"]
    return [(one["total_excluding_tax"], one["total"], one["status"]) for one in reversed(listed)]


def test_a_taxed_life_reconciles_to_the_cent(billing: BillingStack, taxing: httpx.Client) -> None:
    user = billing.new_user()
    start = billing.fake.now
    month = datetime.fromtimestamp(start, UTC).date().replace(day=1)
    before = Decimal(run(billing, margin_report, month)["fees_usd"])
    buy(billing, user, taxing, "ON", plan="basic")
    assert invoices(billing, user) == [(999, 1129, "paid")]
    assert Decimal(run(billing, margin_report, month)["fees_usd"]) - before == Decimal("9.99")
    buy(billing, user, taxing, "ON", pack="pack_500")
    (bought,) = billing.packs(user)
    assert (bought["price_paid"], bought["price_per_credit"]) == (10, Decimal("0.02"))
    payment = bought["stripe_payment_intent_id"]
    assert stripe_get(billing, f"payment_intents/{payment}")["amount_received"] == 1130

    # The renewal has the overage of the period, taxed as the plan is.
    billing.add_overage(user, 40, start + DAY, start)
    billing.advance_and_deliver(32 * DAY)
    assert invoices(billing, user)[1:] == [(1099, 1129 + 113, "paid")]
    assert settled(billing, user) == ["paid"]
    assert billing.subscription_row(user)["paid_overage_usd"] == 1

    # A refund of half of what was paid, tax included, revokes half of the credits.
    stripe_post(billing, "refunds", payment_intent=payment, amount=1130 // 2)
    assert set(billing.deliver()) == {200}
    assert [one["credits_revoked"] for one in billing.packs(user)] == [250]
    stripe_post(billing, "refunds", payment_intent=payment)
    assert set(billing.deliver()) == {200}
    assert [one["credits_revoked"] for one in billing.packs(user)] == [500]

    # The end of the subscription bills the rest on an invoice of its own.
    billing.add_overage(user, 20, billing.fake.now, start + 31 * DAY)
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    billing.fake.http.delete(f"/v1/subscriptions/{subscription}", headers=STRIPE_HEADERS).raise_for_status()
    assert set(billing.deliver()) == {200}  # which makes the invoice
    assert invoices(billing, user)[2:] == [(50, 57, "paid")]
    assert set(billing.deliver()) == {200}
    assert settled(billing, user) == ["paid", "paid"]
    assert billing.subscription_row(user)["paid_overage_usd"] == Decimal("1.5")

    assert findings(billing, user) == set()
    assert billing.db.execute("select * from public.reconcile() where user_id = %s", (user.id,)).fetchall() == []


def settled(billing: BillingStack, user: Person) -> list[str | None]:
    """How each billed item of the user was settled."""
    return [one["settled_as"] for one in billing.overage_items(user)]


def test_a_lost_dispute_of_a_taxed_pack_revokes_it(billing: BillingStack, taxing: httpx.Client) -> None:
    user = billing.new_user()
    buy(billing, user, taxing, "ON", pack="pack_100")
    (bought,) = billing.packs(user)
    assert bought["price_paid"] == Decimal("2.25")
    billing.fake.control("/_disputes", charge=bought["stripe_payment_intent_id"], status="lost")
    assert set(billing.deliver()) == {200}
    assert [one["credits_revoked"] for one in billing.packs(user)] == [100]
    assert findings(billing, user) == set()


def test_a_threshold_invoice_frees_the_overage_without_its_tax(billing: BillingStack, taxing: httpx.Client) -> None:
    user = billing.new_user()
    buy(billing, user, taxing, "ON", plan="usage_only")
    billing.add_overage(user, 400, billing.fake.now, billing.fake.now)
    assert job(billing, "bill-thresholds")["invoiced"] == 1
    assert set(billing.deliver()) == {200}
    assert invoices(billing, user)[1:] == [(1000, 1130, "paid")]
    row = billing.subscription_row(user)
    assert (row["unpaid_overage_usd"], row["paid_overage_usd"]) == (0, 10)
    assert findings(billing, user) == set()
