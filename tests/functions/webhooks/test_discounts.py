"""Coupons and promotion codes: what they make cheaper, and that overage stays exact."""

from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest

from functions.checkout.handler import create
from tests.billing_kit import DAY, HOUR, SITE, BillingStack, function_with, stripe_get, stripe_post
from tests.conftest import Person
from tests.functions.maintenance.kit import findings
from tests.functions.webhooks.kit import MONTH, change_plan, credits_of, last_payment, newest, plan_of, subscriber

pytestmark = pytest.mark.usefixtures("empty_billing", "clean_up")  # reconcile reports a limited number


@pytest.fixture(scope="module")
def checkout(billing: BillingStack) -> Iterator[httpx.Client]:
    """The checkout function with promotion codes."""
    with function_with(billing, create, STRIPE_PROMOTION_CODES="true") as http:
        yield http


def coupon(billing: BillingStack, **more: str | int) -> str:
    return str(stripe_post(billing, "coupons", **more)["id"])


def buy_with_code(billing: BillingStack, checkout: httpx.Client, user: Person, coupon_id: str, **what: str) -> None:
    """Buy a plan or a pack with a promotion code of the coupon. All events are delivered, twice."""
    promotion = {"promotion[type]": "coupon", "promotion[coupon]": coupon_id}
    code = stripe_post(billing, "promotion_codes", **promotion)["code"]
    body = {**what, "success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}
    page = checkout.post("/checkout", json=body, headers=user.headers).json()["url"]
    assert billing.fake.http.post(page, data={"way": "good_card", "code": code}).status_code == 303
    events = billing.undelivered()
    assert set(billing.deliver()) == {200}
    assert set(billing.deliver(*events)) == {200}


def use_overage(billing: BillingStack, user: Person, queries: int) -> None:
    """Overage of the current period, counted as admission counts it."""
    start = billing.subscription_row(user)["current_period_start"]
    billing.add_overage(user, queries, int(start.timestamp()) + DAY, int(start.timestamp()))
    billing.db.execute(
        "update public.user_subscriptions set current_overage_amount = %s * 0.025, overage_period_start = %s"
        " where user_id = %s",
        (queries, start, user.id),
    )


def invoice_totals(billing: BillingStack, user: Person) -> list[int]:
    """The totals of the user's invoices, newest first."""
    return [one["total"] for one in stripe_get(billing, "invoices", customer=billing.customer_id(user))["data"]]


def test_a_free_month_gives_the_plan_and_charges_its_overage(billing: BillingStack, checkout: httpx.Client) -> None:
    user = billing.new_user()
    free = coupon(billing, percent_off=100, duration="repeating", duration_in_months=2)
    buy_with_code(billing, checkout, user, free, plan="basic")
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("basic", None, "active"), [0])
    use_overage(billing, user, 41)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("basic", None, "active"), [102, 0])
    assert billing.overage_items(user)[0]["settled_as"] == "paid"
    assert billing.subscription_row(user)["paid_overage_usd"] == Decimal("1.025")
    billing.advance_and_deliver(MONTH)
    assert invoice_totals(billing, user) == [999, 102, 0]
    assert findings(billing, user) == set()


@pytest.mark.parametrize("where", ["subscription", "customer", "invoice"])
def test_no_discount_lowers_overage(billing: BillingStack, where: str) -> None:
    user = subscriber(billing)
    half = coupon(billing, percent_off=50, duration="forever")
    row = billing.subscription_row(user)
    if where == "subscription":
        stripe_post(billing, f"subscriptions/{row['stripe_subscription_id']}", **{"discounts[0][coupon]": half})
    if where == "customer":
        billing.fake.control(f"/_customers/{row['stripe_customer_id']}/discount", coupon=half)
    assert set(billing.deliver()) <= {200}
    use_overage(billing, user, 41)
    billing.fake.advance(MONTH)
    billing.deliver(newest(billing, "invoice.created"))
    draft = stripe_get(billing, "invoices", customer=row["stripe_customer_id"])["data"][0]
    if where == "invoice":
        stripe_post(billing, f"invoices/{draft['id']}", **{"discounts[0][coupon]": half})
    billing.advance_and_deliver(2 * HOUR)
    assert invoice_totals(billing, user)[0] == 499 + 102
    assert findings(billing, user) == set()


def test_overage_that_was_made_discountable_is_found(billing: BillingStack) -> None:
    user = subscriber(billing)
    use_overage(billing, user, 41)
    billing.fake.advance(MONTH)
    billing.deliver(newest(billing, "invoice.created"))
    assert set(billing.deliver()) == {200}
    assert findings(billing, user) == set()
    item = billing.overage_items(user)[0]["stripe_invoice_item_id"]
    stripe_post(billing, f"invoiceitems/{item}", discountable="true")
    assert findings(billing, user) == {"item differs"}


def test_a_downgrade_of_a_discounted_plan_ends_it(billing: BillingStack) -> None:
    """The credit is as low as the payment was."""
    user = subscriber(billing, "usage_only")
    half = coupon(billing, percent_off=50, duration="forever")
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    stripe_post(billing, f"subscriptions/{subscription}", **{"discounts[0][coupon]": half})
    change_plan(billing, user, "pro")
    assert plan_of(billing, user) == ("pro", None, "active")
    billing.fake.advance(10 * DAY)
    change_plan(billing, user, "basic")
    assert plan_of(billing, user) == ("basic", None, "active")
    assert findings(billing, user) == set()


def test_a_nearly_free_month_gives_the_plan(billing: BillingStack, checkout: httpx.Client) -> None:
    user = billing.new_user()
    buy_with_code(billing, checkout, user, coupon(billing, amount_off=998, currency="usd"), plan="basic")
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("basic", None, "active"), [1])
    change_plan(billing, user, "usage_only", proration_behavior="none")
    assert plan_of(billing, user) == ("basic", "usage_only", "active")


def test_a_discounted_pack_is_refunded_by_what_was_paid(billing: BillingStack, checkout: httpx.Client) -> None:
    user = billing.new_user()
    buy_with_code(billing, checkout, user, coupon(billing, amount_off=100, currency="usd"), pack="pack_100")
    assert billing.packs(user)[0]["price_paid"] == Decimal("1.25")
    assert findings(billing, user) == set()
    stripe_post(billing, "refunds", payment_intent=last_payment(billing, user), amount="50")
    assert findings(billing, user) == {"pack refund"}
    assert set(billing.deliver()) == {200}
    assert credits_of(billing, user) == [(60, 0, 40, False)]
    assert findings(billing, user) == set()
    billing.db.execute("update public.credit_packs set price_paid = 2.25 where user_id = %s", (user.id,))
    assert findings(billing, user) == {"pack differs"}


def test_a_free_pack_is_granted_once_and_compared(billing: BillingStack, checkout: httpx.Client) -> None:
    user = billing.new_user()
    buy_with_code(billing, checkout, user, coupon(billing, percent_off=100), pack="pack_100")
    assert (credits_of(billing, user), plan_of(billing, user)[0]) == ([(100, 0, 0, False)], "usage_only")
    (pack,) = billing.packs(user)
    assert (pack["price_paid"], pack["stripe_payment_intent_id"]) == (0, None)
    assert findings(billing, user) == set()
    billing.db.execute("delete from public.credit_packs where user_id = %s", (user.id,))
    assert findings(billing, user) == {"pack missing", "plan differs"}  # and pay as you go without a pack
