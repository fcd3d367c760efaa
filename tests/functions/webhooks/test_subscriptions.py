"""What the events of a subscription change, from the purchase to the end."""

import pytest

from tests.billing_kit import (
    DAY,
    HOUR,
    STRIPE_HEADERS,
    BillingStack,
    stripe_get,
    stripe_post,
)
from tests.conftest import Person
from tests.functions.webhooks.kit import (
    MONTH,
    as_time,
    change_plan,
    credits_of,
    event_row,
    newest,
    outcome,
    plan_of,
    press_portal_button,
    price_id,
    send,
    stored,
    subscriber,
)

pytestmark = pytest.mark.usefixtures("clean_up")


def test_a_bought_plan_is_active_with_its_period(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="basic")
    statuses = billing.deliver()
    assert len(statuses) > 10
    assert set(statuses) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    (subscription,) = stripe_get(billing, "subscriptions", customer=billing.customer_id(user))["data"]
    (item,) = subscription["items"]["data"]
    row = billing.subscription_row(user)
    assert row["stripe_subscription_id"] == subscription["id"]
    assert row["current_period_start"] == as_time(item["current_period_start"]) == as_time(billing.fake.now)
    assert row["current_period_end"] == as_time(item["current_period_end"])
    assert (row["canceled_at"], row["past_due_since"]) == (None, None)
    assert row["stripe_sequence"] > 0


def test_the_free_of_charge_plan_is_bought_like_any_other(billing: BillingStack) -> None:
    user = subscriber(billing, "usage_only")
    assert billing.subscription_row(user)["stripe_subscription_id"]
    press_portal_button(billing, user, "plan", price=price_id(billing, "plan_basic"))
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")


def test_a_paid_tier_stays_until_the_period_ends(billing: BillingStack) -> None:
    user = subscriber(billing)
    end = billing.subscription_row(user)["current_period_end"]
    billing.fake.advance(DAY)
    change_plan(billing, user, "pro")
    assert plan_of(billing, user) == ("pro", None, "active")
    change_plan(billing, user, "basic", proration_behavior="none")
    assert plan_of(billing, user) == ("pro", "basic", "active")
    billing.advance_and_deliver(MONTH)
    assert plan_of(billing, user) == ("basic", None, "active")
    assert billing.subscription_row(user)["current_period_start"] == end


def test_a_downgrade_applies_at_the_end_of_the_period(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    end = billing.subscription_row(user)["current_period_end"]
    change_plan(billing, user, "basic", proration_behavior="none")
    assert plan_of(billing, user) == ("pro", "basic", "active")
    assert billing.subscription_row(user)["current_period_end"] == end
    billing.advance_and_deliver(MONTH)
    assert plan_of(billing, user) == ("basic", None, "active")
    assert billing.subscription_row(user)["current_period_start"] == end


def test_the_portal_invoices_upgrades_and_delays_downgrades(billing: BillingStack) -> None:
    user = subscriber(billing)
    press_portal_button(billing, user, "plan", price=price_id(billing, "plan_pro"))
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    invoices = stripe_get(billing, "invoices", customer=billing.customer_id(user))["data"]
    assert [one["total"] for one in invoices] == [2000, 999]
    press_portal_button(billing, user, "plan", price=price_id(billing, "plan_basic"))
    billing.deliver()
    assert plan_of(billing, user) == ("pro", "basic", "active")
    billing.advance_and_deliver(MONTH)
    assert plan_of(billing, user) == ("basic", None, "active")


def test_a_portal_cancellation_can_be_withdrawn_before_the_period_ends(billing: BillingStack) -> None:
    user = subscriber(billing)
    begun = billing.subscription_row(user)
    billing.fake.advance(DAY)
    press_portal_button(billing, user, "cancel")
    (subscription,) = stripe_get(billing, "subscriptions", customer=billing.customer_id(user))["data"]
    assert (subscription["cancel_at_period_end"], subscription["status"]) == (False, "active")
    assert set(billing.deliver()) == {200}
    row = billing.subscription_row(user)
    assert plan_of(billing, user) == ("basic", None, "canceled")
    assert row["canceled_at"] == as_time(billing.fake.now)
    assert row["current_period_end"] == as_time(subscription["cancel_at"]) == begun["current_period_end"]

    press_portal_button(billing, user, "resume")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    assert billing.subscription_row(user)["canceled_at"] is None

    press_portal_button(billing, user, "cancel")
    billing.deliver()
    billing.advance_and_deliver(MONTH)
    row = billing.subscription_row(user)
    assert plan_of(billing, user) == ("free", None, "active")
    gone = ("stripe_subscription_id", "current_period_start", "current_period_end", "canceled_at", "past_due_since")
    assert [row[name] for name in gone] == [None] * len(gone)
    assert row["stripe_customer_id"]


@pytest.mark.parametrize("when", ["at its end", "before its end", "later"])
def test_a_cancellation_through_the_api_counts(billing: BillingStack, when: str) -> None:
    user = subscriber(billing)
    subscription, end = (
        billing.subscription_row(user)["stripe_subscription_id"],
        billing.subscription_row(user)["current_period_end"],
    )
    at = {"before its end": billing.fake.now + 10 * DAY, "later": billing.fake.now + 40 * DAY}
    given = {"cancel_at_period_end": "true"} if when == "at its end" else {"cancel_at": str(at[when])}
    stripe_post(billing, f"subscriptions/{subscription}", **given)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active" if when == "later" else "canceled")
    assert billing.subscription_row(user)["current_period_end"] == (
        as_time(at[when]) if when == "before its end" else end
    )


def failing(billing: BillingStack) -> Person:
    """A subscriber with an unpaid renewal."""
    user = subscriber(billing)
    billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=False)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    return user


def test_a_failed_payment_is_past_due_until_paid(billing: BillingStack) -> None:
    user = failing(billing)
    invoice = stripe_get(billing, "invoices", customer=billing.customer_id(user), limit=1)["data"][0]
    assert (invoice["status"], invoice["billing_reason"]) == ("open", "subscription_cycle")
    due = as_time(invoice["status_transitions"]["finalized_at"])
    assert plan_of(billing, user) == ("basic", None, "past_due")
    assert billing.subscription_row(user)["past_due_since"] == due
    assert billing.subscription_row(user)["open_invoice_url"] == invoice["hosted_invoice_url"]
    billing.advance_and_deliver(4 * DAY)
    assert stripe_get(billing, f"invoices/{invoice['id']}")["attempt_count"] == 2
    assert plan_of(billing, user) == ("basic", None, "past_due")
    assert billing.subscription_row(user)["past_due_since"] == due
    assert billing.fake.http.post(f"/i/{invoice['id']}", data={"way": "good_card"}).status_code == 200
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    row = billing.subscription_row(user)
    assert (row["past_due_since"], row["open_invoice_url"]) == (None, None)


def test_late_events_do_not_revive_an_unpaid_plan(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="basic")
    created = newest(billing, "customer.subscription.created")
    billing.deliver(*[one for one in billing.undelivered() if one != created])
    assert plan_of(billing, user) == ("basic", None, "active")
    billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=False)
    billing.fake.control("/_drop", ids=[created])
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    (failure,) = [one["id"] for one in stripe_get(billing, "events", type="invoice.payment_failed")["data"]][:1]
    billing.advance_and_deliver(20 * DAY)
    assert plan_of(billing, user) == ("free", None, "active")
    ended = billing.subscription_row(user)
    for late in (created, failure):
        billing.deliver(late)
    again = {**stored(billing, created), "id": f"{created}_again"}
    assert outcome(send(billing, again)) == "processed"
    row = billing.subscription_row(user)
    kept = ("tier", "status", "stripe_customer_id", "stripe_subscription_id", "past_due_since", "current_period_end")
    assert [row[name] for name in kept] == [ended[name] for name in kept]
    assert event_row(billing, created) is not None


def test_a_late_end_event_keeps_the_new_subscription(billing: BillingStack) -> None:
    user = subscriber(billing)
    old = billing.subscription_row(user)["stripe_subscription_id"]
    billing.fake.http.delete(f"/v1/subscriptions/{old}", headers=STRIPE_HEADERS)
    ended = newest(billing, "customer.subscription.deleted")
    billing.buy(user, plan="pro")
    billing.deliver(*[one for one in billing.undelivered() if one != ended])
    assert plan_of(billing, user) == ("pro", None, "active")
    assert billing.deliver(ended) == [200]
    assert plan_of(billing, user) == ("pro", None, "active")
    assert billing.subscription_row(user)["stripe_subscription_id"] != old


def test_a_customer_deleted_at_stripe_keeps_their_credits(billing: BillingStack) -> None:
    user = subscriber(billing)
    billing.buy(user, pack="pack_100")
    billing.deliver()
    late = billing.make_event("customer.subscription.updated", {"customer": billing.customer_id(user)})
    assert (
        billing.fake.http.delete(f"/v1/customers/{billing.customer_id(user)}", headers=STRIPE_HEADERS).status_code
        == 200
    )
    assert set(billing.deliver()) == {200}
    row = billing.subscription_row(user)
    assert plan_of(billing, user) == ("usage_only", None, "active")
    assert (row["stripe_customer_id"], row["stripe_subscription_id"]) == (None, None)
    assert credits_of(billing, user) == [(100, 0, 0, False)]
    assert outcome(send(billing, late)) == "processed"
    assert billing.subscription_row(user) == row
