"""A plan gives what has been paid for it."""

from datetime import timedelta
from decimal import Decimal

import pytest

from functions.common.billing.paid_plans import CHEAPEST_FIRST
from tests.billing_kit import DAY, HOUR, SITE, STRIPE_HEADERS, BillingStack, stripe_get, stripe_post
from tests.conftest import Person
from tests.functions.maintenance.kit import findings
from tests.functions.webhooks.kit import (
    MONTH,
    as_time,
    change_plan,
    clear_requests,
    newest,
    plan_of,
    price_id,
    stripe_requests,
    subscriber,
)
from tests.sql.metering import admit, value

pytestmark = pytest.mark.usefixtures("empty_billing", "clean_up")  # reconcile reports a limited number


def break_cards(billing: BillingStack, user: Person) -> None:
    """Let every payment of the user fail."""
    billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=False)


def renew(billing: BillingStack, user: Person) -> None:
    """Move the clock to the end of the period: the renewal is a draft."""
    end = billing.subscription_row(user)["current_period_end"]
    billing.advance_and_deliver(int(end.timestamp()) - billing.fake.now)


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
    assert plan_of(billing, user) == ("usage_only", None, "active")
    billing.fake.control(f"/_refunds/{refund['id']}/fail", is_counted=is_counted)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", "basic", "active")


def test_partial_refunds_keep_a_plan_until_nothing_is_left(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    change_plan(billing, user, "basic", proration_behavior="none")
    payment = plan_payment(billing, user)
    for amount, left in ((1, ("pro", "basic")), (2997, ("pro", "basic")), (1, ("usage_only", None))):
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
    refused = billing.call_checkout(user, "/checkout", pack="pack_100", success_url=SITE, cancel_url=SITE)
    error = refused.json()["error"]
    assert (refused.status_code, error["reason_code"]) == (402, "subscription_paused")
    assert error["action"] == "contact_support"


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


def test_a_full_refund_of_an_active_plan_ends_it(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    payment = plan_payment(billing, user)
    stripe_post(billing, "refunds", payment_intent=payment, amount=2998)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    refund = stripe_post(billing, "refunds", payment_intent=payment)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("usage_only", None, "active")
    with billing.db.transaction(force_rollback=True):
        assert admit(billing.db, user.id)["funding"] == "overage"
    assert findings(billing, user) == set()
    billing.fake.control(f"/_refunds/{refund['id']}/fail", is_counted=True)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")


def test_a_refunded_month_is_not_replaced_by_the_one_before(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    (newer, _) = stripe_get(billing, "charges", customer=billing.customer_id(user))["data"]
    stripe_post(billing, "refunds", payment_intent=newer["payment_intent"])
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("usage_only", None, "active")
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    assert plan_of(billing, user) == ("pro", None, "active")


def test_a_refunded_upgrade_leaves_the_plan_before_it(billing: BillingStack) -> None:
    user = subscriber(billing)
    billing.fake.advance(10 * DAY)
    change_plan(billing, user, "pro")
    (upgrade, _) = stripe_get(billing, "charges", customer=billing.customer_id(user))["data"]
    stripe_post(billing, "refunds", payment_intent=upgrade["payment_intent"])
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    # Support then switches back, which gives the credit of the upgrade as well.
    change_plan(billing, user, "basic")
    assert plan_of(billing, user) == ("basic", None, "active")


def test_a_refund_before_an_upgrade_leaves_what_was_paid_after(billing: BillingStack) -> None:
    user = subscriber(billing)
    change_plan(billing, user, "pro")
    stripe_post(billing, "refunds", payment_intent=plan_payment(billing, user))
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    assert findings(billing, user) == set()


@pytest.mark.parametrize("to", ["basic", "usage_only"])
def test_a_downgrade_with_a_pending_credit_ends_the_dear_plan(billing: BillingStack, to: str) -> None:
    user = subscriber(billing, "pro")
    billing.fake.advance(10 * DAY)
    change_plan(billing, user, to, proration_behavior="create_prorations")
    assert plan_of(billing, user) == (to, None, "active")
    assert findings(billing, user) == set()
    billing.fake.advance(DAY)
    change_plan(billing, user, "pro", proration_behavior="create_prorations")
    assert plan_of(billing, user) == ("pro", None, "active")
    change_plan(billing, user, to, proration_behavior="create_prorations")
    billing.advance_and_deliver(MONTH)
    assert plan_of(billing, user) == (to, None, "active")


@pytest.mark.parametrize("behavior", ["create_prorations", "none"])
def test_an_upgrade_gives_nothing_before_it_is_invoiced(billing: BillingStack, behavior: str) -> None:
    user = subscriber(billing)
    billing.fake.advance(10 * DAY)
    change_plan(billing, user, "pro", proration_behavior=behavior)
    assert plan_of(billing, user) == ("basic", None, "active")
    assert findings(billing, user) == set()
    change_plan(billing, user, "basic", proration_behavior=behavior)
    assert plan_of(billing, user) == ("basic", None, "active")
    change_plan(billing, user, "pro", proration_behavior=behavior)
    renew(billing, user)
    assert plan_of(billing, user) == ("basic", None, "active")
    billing.advance_and_deliver(2 * HOUR)
    assert plan_of(billing, user) == ("pro", None, "active")


def test_a_credit_for_what_was_not_paid_pays_nothing(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    assert plan_of(billing, user) == ("pro", None, "past_due")
    change_plan(billing, user, "basic", proration_behavior="create_prorations")
    assert plan_of(billing, user) == ("basic", None, "past_due")
    row = billing.subscription_row(user)
    assert row["paid_until"] == row["current_period_start"]


@pytest.mark.parametrize("plan", ["basic", "pro"])
def test_a_renewal_that_waits_for_its_payment_keeps_the_plan(billing: BillingStack, plan: str) -> None:
    user = subscriber(billing, plan)
    renew(billing, user)
    (draft,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="draft")["data"]
    assert draft["auto_advance"]
    assert plan_of(billing, user) == (plan, None, "active")
    billing.fake.control(f"/_invoices/{draft['id']}/finalization", fails=True)
    billing.advance_and_deliver(2 * HOUR)
    assert plan_of(billing, user) == (plan, None, "active")
    renew(billing, user)
    assert plan_of(billing, user) == ("usage_only", None, "active")
    billing.fake.control(f"/_invoices/{draft['id']}/finalization", fails=False)
    stripe_post(billing, f"invoices/{draft['id']}/finalize")
    stripe_post(billing, f"invoices/{draft['id']}/pay")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == (plan, None, "active")


def test_a_renewal_that_is_forgiven_is_not_paid(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    (invoice,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
    stripe_post(billing, f"invoices/{invoice['id']}/void")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("usage_only", None, "active")


def test_a_renewal_paid_outside_stripe_is_paid(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    (invoice,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
    stripe_post(billing, f"invoices/{invoice['id']}/pay", paid_out_of_band="true")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")


def test_a_first_payment_that_is_processing_gives_the_plan(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, "later_succeeds", plan="pro")
    assert set(billing.deliver()) == {200}
    (invoice,) = stripe_get(billing, "invoices", customer=billing.customer_id(user))["data"]
    assert invoice["status"] == "open"
    assert plan_of(billing, user) == ("pro", None, "active")


def test_a_new_price_of_a_plan_keeps_it(billing: BillingStack) -> None:
    user = subscriber(billing, "basic")
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    (item,) = stripe_get(billing, f"subscriptions/{subscription}")["items"]["data"]
    product = item["price"]["product"]
    dearer = {"product": product, "currency": "usd", "unit_amount": "1299", "recurring[interval]": "month"}
    price = stripe_post(billing, "prices", **dearer)["id"]
    change = {"items[0][id]": item["id"], "items[0][price]": price, "proration_behavior": "none"}
    stripe_post(billing, f"subscriptions/{subscription}", **change)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    break_cards(billing, user)
    renew(billing, user)
    assert plan_of(billing, user) == ("basic", None, "active")
    billing.advance_and_deliver(2 * HOUR)
    assert plan_of(billing, user) == ("basic", None, "past_due")


def test_a_failed_upgrade_leaves_the_paid_plan_until_its_end(billing: BillingStack) -> None:
    user = subscriber(billing)
    break_cards(billing, user)
    change_plan(billing, user, "pro")
    row = billing.subscription_row(user)
    assert plan_of(billing, user) == ("basic", None, "past_due")
    assert row["paid_until"] == row["current_period_end"]
    assert row["past_due_since"] < row["current_period_start"] + timedelta(days=1)
    refused = (row["current_period_end"] + timedelta(days=7)).isoformat()
    for time, decision in ((row["current_period_end"].isoformat(), "admitted"), (refused, "refused")):
        with billing.db.transaction(force_rollback=True):
            value(billing.db, "select set_config('metering.now', %s, true)", time)
            assert admit(billing.db, user.id)["decision"] == decision


def test_a_discount_in_the_middle_of_a_period_changes_nothing_paid(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    billing.fake.advance(10 * DAY)
    half = stripe_post(billing, "coupons", percent_off=50, duration="forever")["id"]
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    stripe_post(billing, f"subscriptions/{subscription}", **{"discounts[0][coupon]": half})
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    change_plan(billing, user, "basic")
    assert plan_of(billing, user) == ("basic", None, "active")
    free = stripe_post(billing, "coupons", percent_off=100, duration="forever")["id"]
    stripe_post(billing, f"subscriptions/{subscription}", **{"discounts[0][coupon]": free})
    change_plan(billing, user, "pro")
    assert plan_of(billing, user) == ("pro", None, "active")


def test_the_order_of_the_plans_is_that_of_their_prices(billing: BillingStack) -> None:
    listed = billing.db.execute("select tier from public.plans where tier <> 'free' order by price_usd").fetchall()
    assert tuple(row["tier"] for row in listed) == CHEAPEST_FIRST


@pytest.mark.parametrize(("plan", "lists"), [("pro", [*["invoices"] * 3, "charges"]), ("usage_only", ["invoices"] * 3)])
def test_an_event_of_a_plan_reads_stripe_rarely(billing: BillingStack, plan: str, lists: list[str]) -> None:
    user = subscriber(billing, plan)
    event = newest(billing, "invoice.paid")
    clear_requests(billing)
    assert billing.deliver(event) == [200]
    read = [path.removeprefix("/v1/") for path in stripe_requests(billing)]
    assert read == [f"customers/{billing.customer_id(user)}", *lists]


@pytest.mark.parametrize(
    ("plan", "upgrade", "status", "way"),
    [("pro", None, "open", "retries"), ("basic", "pro", "open", "support"), ("pro", None, "uncollectible", "support")],
)
def test_an_unpaid_plan_that_has_ended_is_not_charged(
    billing: BillingStack, plan: str, upgrade: str | None, status: str, way: str
) -> None:
    user = subscriber(billing, plan)
    break_cards(billing, user)
    if upgrade:
        change_plan(billing, user, upgrade)
    else:
        billing.advance_and_deliver(MONTH + 2 * HOUR)
    customer = billing.customer_id(user)
    (invoice,) = stripe_get(billing, "invoices", customer=customer, status="open")["data"]
    if status == "uncollectible":
        stripe_post(billing, f"invoices/{invoice['id']}/mark_uncollectible")
    (subscription,) = stripe_get(billing, "subscriptions", customer=customer)["data"]
    if way == "retries":
        billing.fake.advance(30 * DAY)
    else:
        billing.fake.http.delete(f"/v1/subscriptions/{subscription['id']}", headers=STRIPE_HEADERS).raise_for_status()
    assert stripe_get(billing, f"subscriptions/{subscription['id']}")["status"] == "canceled"
    # Checkout does not wait for the event.
    billing.checkout_page(user, plan=plan)
    assert set(billing.deliver()) == {200}
    assert stripe_get(billing, f"invoices/{invoice['id']}")["status"] == "void"
    assert plan_of(billing, user) == ("free", None, "active")
    assert billing.subscription_row(user)["open_invoice_url"] is None
    assert findings(billing, user) == set()


def test_overage_beside_an_ended_plan_stays_owed(billing: BillingStack) -> None:
    user = subscriber(billing, "basic")
    row = billing.subscription_row(user)
    billing.add_overage(user, 100, billing.fake.now, int(row["current_period_start"].timestamp()))
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    billing.advance_and_deliver(30 * DAY)
    (invoice,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
    assert plan_of(billing, user) == ("free", None, "active")
    row = billing.subscription_row(user)
    assert (row["open_invoice_url"], row["unpaid_overage_usd"]) == (invoice["hosted_invoice_url"], Decimal("2.5"))
    billing.fake.http.post(invoice["hosted_invoice_url"], data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    assert billing.subscription_row(user)["unpaid_overage_usd"] == 0
    assert findings(billing, user) == set()
