"""reconcile: subscriptions in every state that Stripe has are no findings, and cost no requests of their own."""

import re

import pytest

from functions.maintenance.bill_overages import bill_overages
from functions.maintenance.reconcile import reconcile
from tests.billing_kit import DAY, HOUR, BillingStack, stripe_post
from tests.conftest import Person
from tests.functions.maintenance.kit import findings as findings_about
from tests.functions.maintenance.kit import no_progress, run, today
from tests.functions.test_exposure import break_cards
from tests.functions.webhooks.kit import (
    change_plan,
    clear_requests,
    plan_of,
    press_portal_button,
    price_id,
    stripe_requests,
)
from tests.functions.webhooks.test_discounts import coupon, use_overage

pytestmark = pytest.mark.usefixtures("empty_billing")


def subscriber(billing: BillingStack, plan: str) -> Person:
    user = billing.new_user()
    billing.buy(user, plan=plan)
    assert set(billing.deliver()) == {200}
    return user


def subscription(billing: BillingStack, user: Person) -> str:
    return f"subscriptions/{billing.subscription_row(user)['stripe_subscription_id']}"


def trial(billing: BillingStack, days: int) -> Person:
    user = billing.new_user()
    billing.checkout_page(user, plan="pro")  # makes the customer
    break_cards(billing, user)
    price = {"items[0][price]": price_id(billing, "plan_pro")}
    customer = billing.customer_id(user)
    stripe_post(billing, "subscriptions", customer=customer, trial_period_days=days, **price)
    return user


def findings(billing: BillingStack) -> list[dict[str, str]]:
    found: list[dict[str, str]] = run(billing, reconcile, today(billing), no_progress)["findings"]
    return found


def test_no_state_of_a_subscription_is_a_finding(billing: BillingStack) -> None:
    renewed, downgrading, ending, discounted, owing, paused, failing, upgraded = (
        subscriber(billing, plan) for plan in ("pro", "pro", "basic", "pro", "usage_only", "pro", "basic", "basic")
    )
    trying, tried = trial(billing, 60), trial(billing, 25)
    billing.buy(renewed, pack="pack_100")
    press_portal_button(billing, downgrading, "plan", price=price_id(billing, "plan_basic"))
    press_portal_button(billing, ending, "cancel")
    stripe_post(
        billing,
        subscription(billing, discounted),
        **{"discounts[0][coupon]": coupon(billing, percent_off=50, duration="forever")},
    )
    change_plan(billing, upgraded, "pro", proration_behavior="create_prorations")
    assert findings(billing) == []
    for tier, kinds in (("pro", {"plan differs"}), ("basic", set())):  # what was paid decides, also while it is active
        billing.db.execute("update public.user_subscriptions set tier = %s where user_id = %s", (tier, upgraded.id))
        assert findings_about(billing, upgraded) == kinds

    # The renewal, before its events have arrived.
    for user in (owing, failing):
        break_cards(billing, user)
    stripe_post(billing, subscription(billing, paused), **{"pause_collection[behavior]": "keep_as_draft"})
    assert set(billing.deliver()) == {200}
    billing.advance_and_deliver(30 * DAY)
    use_overage(billing, owing, 400)
    run(billing, bill_overages, no_progress, at_threshold=True)
    assert set(billing.deliver()) == {200}
    billing.fake.advance(DAY)
    assert {one["user_id"] for one in findings(billing)} <= {ending.id, paused.id}  # their status changes with it
    assert set(billing.deliver()) == {200}
    assert findings(billing) == []
    billing.advance_and_deliver(2 * HOUR)
    assert [plan_of(billing, user) for user in (renewed, downgrading, ending, discounted, owing)] == [
        ("pro", None, "active"), ("basic", None, "active"), ("free", None, "active"), ("pro", None, "active"),
        ("usage_only", None, "active"),
    ]  # fmt: skip
    assert [plan_of(billing, user) for user in (paused, failing, upgraded, trying, tried)] == [
        ("pro", None, "past_due"), ("basic", None, "past_due"), ("pro", None, "active"), ("pro", None, "active"),
        ("usage_only", None, "past_due"),
    ]  # fmt: skip
    clear_requests(billing)
    assert findings(billing) == []
    read = {path.rpartition("/")[2] for path in stripe_requests(billing) if re.match("/v1/customers/", path)}
    assert read == {billing.customer_id(user) for user in (paused, tried)}
    billing.db.execute(
        "update public.user_subscriptions set paid_until = current_period_end where user_id = %s", (failing.id,)
    )
    assert [(one["kind"], one["user_id"]) for one in findings(billing)] == [("plan differs", failing.id)]


@pytest.mark.parametrize("paid_by", ["nothing", "a balance", "a later invoice"])
def test_overage_that_is_wrongly_counted_as_paid_is_found(billing: BillingStack, paid_by: str) -> None:
    user = subscriber(billing, "pro" if paid_by == "a balance" else "usage_only")
    break_cards(billing, user)
    queries = 19 if paid_by == "a later invoice" else 400  # Stripe does not charge less than 50 cents
    if paid_by == "a balance":
        change_plan(billing, user, "usage_only")
    use_overage(billing, user, queries)
    if paid_by == "a later invoice":
        billing.fake.v1.subscriptions.cancel(billing.subscription_row(user)["stripe_subscription_id"])
        assert set(billing.deliver()) == {200}
    run(billing, bill_overages, no_progress, at_threshold=paid_by != "a later invoice")
    assert set(billing.deliver()) <= {200}
    assert findings_about(billing, user) == set()
    billing.db.execute("update public.overage_invoice_items set settled_as = 'paid' where user_id = %s", (user.id,))
    billing.db.execute(
        "update public.user_subscriptions set unpaid_overage_usd = 0, paid_overage_usd = %s * 0.025 where user_id = %s",
        (queries, user.id),
    )
    assert findings_about(billing, user) == {"overage payment"}
