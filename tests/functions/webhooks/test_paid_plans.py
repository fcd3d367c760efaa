"""A plan gives what has been paid for it."""

import pytest

from tests.billing_kit import DAY, HOUR, SITE, BillingStack, stripe_get, stripe_post
from tests.conftest import Person
from tests.functions.maintenance.kit import findings
from tests.functions.webhooks.kit import MONTH, as_time, newest, plan_of, price_id, subscriber

pytestmark = pytest.mark.usefixtures("empty_billing", "clean_up")  # reconcile reports a limited number


def change_plan(billing: BillingStack, user: Person, plan: str, **more: str) -> None:
    """Change the plan as Stripe's API and support do: at once, invoiced with prorations. All events are delivered."""
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    (item,) = stripe_get(billing, f"subscriptions/{subscription}")["items"]["data"]
    price = {"items[0][id]": item["id"], "items[0][price]": price_id(billing, f"plan_{plan}")}
    stripe_post(billing, f"subscriptions/{subscription}", **{"proration_behavior": "always_invoice", **price, **more})
    assert set(billing.deliver()) == {200}


def break_cards(billing: BillingStack, user: Person) -> None:
    """Let every payment of the user fail."""
    billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=False)


def plan_payment(billing: BillingStack, user: Person) -> str:
    """The payment of the user's first invoice."""
    charges = stripe_get(billing, "charges", customer=billing.customer_id(user))["data"]
    return str(charges[-1]["payment_intent"])


@pytest.mark.parametrize(("plan", "left"), [("basic", "basic"), ("usage_only", "usage_only")])
def test_an_upgrade_that_is_never_paid_gives_nothing(billing: BillingStack, plan: str, left: str) -> None:
    user = subscriber(billing, plan)
    billing.fake.advance(DAY)
    break_cards(billing, user)
    change_plan(billing, user, "pro")
    assert plan_of(billing, user) == (left, None, "past_due")
    url = billing.subscription_row(user)["open_invoice_url"]
    billing.fake.http.post(url, data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")


def test_an_unpaid_renewal_keeps_the_plan_for_its_grace(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    assert plan_of(billing, user) == ("pro", None, "past_due")


@pytest.mark.parametrize("kind", ["payment_record", "charge"])
def test_a_renewal_paid_without_a_payment_intent_is_paid(billing: BillingStack, kind: str) -> None:
    user = subscriber(billing, "pro")
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    (unpaid,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
    billing.fake.control(f"/_invoices/{unpaid['id']}/payment", kind=kind)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    assert findings(billing, user) == set()


def test_past_due_counts_from_the_oldest_unpaid_invoice(billing: BillingStack) -> None:
    user = subscriber(billing, "basic")
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    first = billing.subscription_row(user)
    billing.fake.advance(2 * DAY)
    change_plan(billing, user, "pro")
    second = billing.subscription_row(user)
    assert len(stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]) == 2
    assert second["past_due_since"] == first["past_due_since"]
    assert second["open_invoice_url"] == first["open_invoice_url"]


def test_an_immediate_downgrade_with_credit_ends_the_dear_plan(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    billing.fake.advance(10 * DAY)
    change_plan(billing, user, "basic")
    assert plan_of(billing, user) == ("basic", None, "active")
    billing.fake.advance(DAY)
    change_plan(billing, user, "pro")
    change_plan(billing, user, "basic", proration_behavior="none")
    assert plan_of(billing, user) == ("pro", "basic", "active")


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_refunded_plan_is_not_paid_until_the_refund_fails(billing: BillingStack, is_counted: bool) -> None:
    user = subscriber(billing, "pro")
    change_plan(billing, user, "basic", proration_behavior="none")
    assert plan_of(billing, user) == ("pro", "basic", "active")
    refund = stripe_post(billing, "refunds", payment_intent=plan_payment(billing, user))
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    billing.fake.control(f"/_refunds/{refund['id']}/fail", is_counted=is_counted)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", "basic", "active")


def test_partial_refunds_keep_a_plan_until_nothing_is_left(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    change_plan(billing, user, "basic", proration_behavior="none")
    payment = plan_payment(billing, user)
    for amount, left in ((1, ("pro", "basic")), (2997, ("pro", "basic")), (1, ("basic", None))):
        stripe_post(billing, "refunds", payment_intent=payment, amount=amount)
        assert set(billing.deliver()) == {200}
        assert plan_of(billing, user) == (*left, "active")
    assert findings(billing, user) == set()


def test_a_lost_dispute_of_a_plan_ends_it(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    payment = plan_payment(billing, user)
    billing.fake.control("/_disputes", charge=payment, status="needs_response")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    billing.fake.control("/_disputes", charge=payment, status="lost")
    closed = newest(billing, "charge.dispute.closed")
    assert set(billing.deliver(closed, closed)) == {200}
    assert plan_of(billing, user) == ("free", None, "active")
    assert set(billing.deliver()) <= {200}
    assert stripe_get(billing, "subscriptions", customer=billing.customer_id(user))["data"] == []
    assert findings(billing, user) == set()


def test_a_paused_collection_serves_no_longer_than_its_grace(billing: BillingStack) -> None:
    user = subscriber(billing, "basic")
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    stripe_post(billing, f"subscriptions/{subscription}", **{"pause_collection[behavior]": "keep_as_draft"})
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    row = billing.subscription_row(user)
    assert plan_of(billing, user) == ("basic", None, "past_due")
    assert row["past_due_since"] == row["current_period_start"]


def test_the_plan_is_found_behind_another_product(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    customer = billing.customer_id(user)
    product = stripe_post(billing, "products", name="Newsletter")["id"]
    price = stripe_post(
        billing, "prices", product=product, currency="usd", unit_amount=500, **{"recurring[interval]": "month"}
    )["id"]
    billing.fake.control(f"/_customers/{customer}/card", works=True)
    plan = price_id(billing, "plan_pro")
    made = stripe_post(
        billing, "subscriptions", customer=customer, **{"items[0][price]": price, "items[1][price]": plan}
    )
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    assert billing.subscription_row(user)["current_period_end"] == as_time(
        made["items"]["data"][1]["current_period_end"]
    )


def first_plan_with_3ds(billing: BillingStack) -> tuple[Person, str]:
    """A user whose bank asks about the first payment of their plan. Returns the subscription as well."""
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    customer = billing.customer_id(user)
    billing.fake.control(f"/_customers/{customer}/card", works=True, asks=True)
    plan = {"items[0][price]": price_id(billing, "plan_pro")}
    made = stripe_post(billing, "subscriptions", customer=customer, **plan)
    assert made["status"] == "incomplete"
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("usage_only", None, "active")
    row = billing.subscription_row(user)
    assert (row["stripe_subscription_id"], row["open_invoice_url"]) == (None, None)
    return user, str(made["id"])


def test_an_unconfirmed_first_payment_gives_nothing(billing: BillingStack) -> None:
    user, subscription = first_plan_with_3ds(billing)
    billing.fake.advance(DAY)
    assert set(billing.deliver()) == {200}
    assert stripe_get(billing, f"subscriptions/{subscription}")["status"] == "incomplete_expired"
    assert plan_of(billing, user) == ("usage_only", None, "active")
    assert findings(billing, user) == set()


def test_a_confirmed_first_payment_starts_the_plan(billing: BillingStack) -> None:
    user, _ = first_plan_with_3ds(billing)
    (invoice,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
    billing.fake.http.post(invoice["hosted_invoice_url"], data={"way": "confirm"})
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    assert findings(billing, user) == set()


def test_a_renewal_with_3ds_waits_for_its_confirmation(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, "confirmed_card", plan="basic")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    assert plan_of(billing, user) == ("basic", None, "past_due")
    url = billing.subscription_row(user)["open_invoice_url"]
    # The days of grace are over for the database, whose clock is ahead of Stripe's.
    refused = billing.call_checkout(user, "/checkout", pack="pack_100", success_url=SITE, cancel_url=SITE)
    error = refused.json()["error"]
    assert (refused.status_code, error["reason_code"], error["action"]) == (402, "subscription_unpaid", "pay_invoice")
    assert error["url"] == url
    billing.fake.http.post(url, data={"way": "confirm"})
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    assert findings(billing, user) == set()
