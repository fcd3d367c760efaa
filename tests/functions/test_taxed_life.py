"""Sales with tax in both currencies: what is granted, billed, revoked and reported is net of it, and in the currency of
the prices; reconcile agrees with Stripe."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from unittest import mock

import httpx
import pytest

from functions.checkout.handler import create
from functions.maintenance.margin_report import margin_report
from functions.maintenance.reconcile import reconcile
from functions.maintenance.support.commands import main
from tests.billing_kit import (
    DAY,
    SITE,
    STRIPE_HEADERS,
    BillingStack,
    environment,
    function_with,
    publish,
    stripe_get,
    stripe_post,
)
from tests.conftest import Person
from tests.functions.checkout.kit import click
from tests.functions.maintenance.kit import findings, no_progress, run, today
from tests.functions.test_billing import job
from tests.sql.metering import value

pytestmark = pytest.mark.usefixtures("empty_billing")  # reconcile and the report read everything that there is


RATE = Decimal("0.72")


@pytest.fixture(scope="module", params=["cad", "usd"], autouse=True)
def currency(billing: BillingStack, empty_billing: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """All prices are in it."""
    change = "update public.settings set currency = %s, usd_per_unit = %s"
    if request.param == "cad":
        billing.empty()  # the currency changes only before the first sale
        billing.db.execute(change, ("cad", RATE))
        publish(billing)
    yield request.param
    if request.param == "cad":
        billing.empty()
        billing.db.execute(change, ("usd", 1))
        publish(billing)


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


def invoices(billing: BillingStack, user: Person, currency: str) -> list[tuple[int, int, str]]:
    """The total without and with tax and the status of each invoice of the user, oldest first."""
    listed = stripe_get(billing, "invoices", customer=billing.customer_id(user), limit=100)["data"]
    assert {one["currency"] for one in listed} == {currency}
    return [(one["total_excluding_tax"], one["total"], one["status"]) for one in reversed(listed)]


def test_a_taxed_life_reconciles_to_the_cent(billing: BillingStack, taxing: httpx.Client, currency: str) -> None:
    user = billing.new_user()
    start = billing.fake.now
    month = datetime.fromtimestamp(start, UTC).date().replace(day=1)
    before = Decimal(run(billing, margin_report, month)["fees_usd"])
    buy(billing, user, taxing, "ON", plan="basic")
    assert invoices(billing, user, currency) == [(999, 1129, "paid")]
    fees = Decimal(run(billing, margin_report, month)["fees_usd"]) - before
    assert fees == Decimal("9.99") * (RATE if currency == "cad" else 1)
    buy(billing, user, taxing, "ON", pack="pack_500")
    (bought,) = billing.packs(user)
    assert (bought["price_paid"], bought["price_per_credit"]) == (10, Decimal("0.02"))
    payment = bought["stripe_payment_intent_id"]
    assert stripe_get(billing, f"payment_intents/{payment}")["amount_received"] == 1130

    # The renewal has the overage of the period, taxed as the plan is.
    billing.add_overage(user, 40, start + DAY, start)
    billing.advance_and_deliver(32 * DAY)
    assert invoices(billing, user, currency)[1:] == [(1099, 1129 + 113, "paid")]
    (renewal,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), limit=1)["data"]
    (line,) = (line for line in renewal["lines"]["data"] if line["amount"] == 100)
    price = line["pricing"]["price_details"]["price"]
    assert stripe_get(billing, f"prices/{price}")["tax_behavior"] == "exclusive"
    sign = "CA$" if currency == "cad" else "$"
    assert line["description"].startswith(f"40 queries beyond the plan × {sign}0.025 = {sign}1.00, period from ")
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
    assert invoices(billing, user, currency)[2:] == [(50, 57, "paid")]
    assert set(billing.deliver()) == {200}
    assert settled(billing, user) == ["paid", "paid"]
    assert billing.subscription_row(user)["paid_overage_usd"] == Decimal("1.5")

    assert findings(billing, user) == set()
    assert billing.db.execute("select * from public.reconcile() where user_id = %s", (user.id,)).fetchall() == []
    check_support_commands(billing, user, currency)


def check_support_commands(billing: BillingStack, user: Person, currency: str) -> None:
    """What the user pays has the sign of the currency. Costs are US dollars."""
    query = value(billing.db, "select id::text from public.usage_logs where user_id = %s limit 1", user.id)
    environ = {**environment(billing.stack, billing.fake.url), "OPERATOR": "Ada"}
    commands = ["show", f"why {query}", "limit --overage 5 --reason x", f"credit-back {query} --reason x --yes"]
    for command in commands:
        with mock.patch.dict(os.environ, environ), contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["user", user.id, *command.split()]) == 0
        costs = r"cost \$[\d.]+|unpaid failures today: \$[\d.]+ of \$[\d.]+"
        signs = set(re.findall(r"[A-Z]*\$", re.sub(costs, "", out.getvalue())))
        assert signs == {"CA$" if currency == "cad" else "$"}, command


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


def test_a_threshold_invoice_frees_the_overage_without_its_tax(
    billing: BillingStack, taxing: httpx.Client, currency: str
) -> None:
    user = billing.new_user()
    buy(billing, user, taxing, "ON", plan="usage_only")
    billing.add_overage(user, 400, billing.fake.now, billing.fake.now)
    assert job(billing, "bill-thresholds")["invoiced"] == 1
    assert set(billing.deliver()) == {200}
    assert invoices(billing, user, currency)[1:] == [(1000, 1130, "paid")]
    row = billing.subscription_row(user)
    assert (row["unpaid_overage_usd"], row["paid_overage_usd"]) == (0, 10)
    assert findings(billing, user) == set()


def test_money_in_another_currency_is_found(billing: BillingStack, currency: str) -> None:
    """A plan and a pack, sold past our checkout."""
    user = billing.new_user()
    billing.checkout_page(user, pack="pack_100")  # makes the customer
    customer, other = billing.customer_id(user), "usd" if currency == "cad" else "cad"
    billing.fake.control(f"/_customers/{customer}/card", works=True)
    price = {"currency": other, "unit_amount": 999, "product": "canadagpt_plan_basic", "recurring[interval]": "month"}
    price_id = stripe_post(billing, "prices", **price)["id"]
    plan = stripe_post(billing, "subscriptions", customer=customer, **{"items[0][price]": price_id})["id"]
    stripe_post(billing, f"prices/{price_id}", active="false")
    line = {"currency": other, "unit_amount": 225, "product": "canadagpt_pack_100"}
    pack = stripe_post(
        billing,
        "checkout/sessions",
        mode="payment",
        customer=customer,
        success_url=SITE,
        **{f"line_items[0][price_data][{name}]": part for name, part in line.items()},
        **{"line_items[0][quantity]": 1, "metadata[user_id]": user.id, "metadata[pack]": "pack_100"},
        **{"metadata[credits]": 100},
    )
    billing.fake.http.post(pack["url"], data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    found = run(billing, reconcile, today(billing), no_progress)["findings"]
    about = {(one["kind"], one["subject"], one["found"]) for one in found if one["user_id"] == user.id}
    assert about == {("currency", plan, other), ("currency", pack["id"], other)}
