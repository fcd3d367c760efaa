"""A downgrade that the portal or support schedules for the end of the period."""

import pytest

from tests.billing_kit import HOUR, BillingStack, stripe_post
from tests.functions.maintenance.kit import findings
from tests.functions.webhooks.kit import MONTH, plan_of, press_portal_button, price_id, subscriber
from tests.functions.webhooks.test_discounts import invoice_totals, use_overage
from tests.functions.webhooks.test_paid_plans import break_cards

pytestmark = pytest.mark.usefixtures("empty_billing", "clean_up")  # reconcile reports a limited number


def test_a_scheduled_downgrade_is_known_and_follows(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    press_portal_button(billing, user, "plan", price=price_id(billing, "plan_basic"))
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", "basic", "active")
    assert findings(billing, user) == set()
    use_overage(billing, user, 41)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("basic", None, "active"), [999 + 102, 2999])
    assert findings(billing, user) == set()


def test_a_scheduled_downgrade_can_be_taken_back(billing: BillingStack) -> None:
    user = subscriber(billing, "pro")
    for plan, following in (("basic", "basic"), ("usage_only", "usage_only")):
        press_portal_button(billing, user, "plan", price=price_id(billing, f"plan_{plan}"))
        assert set(billing.deliver()) == {200}
        assert plan_of(billing, user) == ("pro", following, "active")
    press_portal_button(billing, user, "cancel")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "canceled")


def test_a_schedule_that_support_makes_and_changes_is_known(billing: BillingStack) -> None:
    """Stripe sends events of the schedule alone."""
    user = subscriber(billing, "pro")
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    schedule = stripe_post(billing, "subscription_schedules", from_subscription=subscription)["id"]
    for plan, following in (("basic", "basic"), ("usage_only", "usage_only"), ("pro", None)):
        prices = {"phases[0][items][0][price]": "plan_pro", "phases[1][items][0][price]": f"plan_{plan}"}
        phases = {name: price_id(billing, key) for name, key in prices.items()}
        stripe_post(billing, f"subscription_schedules/{schedule}", **phases)
        assert set(billing.deliver()) == {200}
        assert plan_of(billing, user) == ("pro", following, "active")


def test_a_scheduled_upgrade_gives_nothing_before_it_is_paid(billing: BillingStack) -> None:
    user = subscriber(billing, "basic")
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    schedule = stripe_post(billing, "subscription_schedules", from_subscription=subscription)["id"]
    prices = {
        f"phases[{number}][items][0][price]": price_id(billing, f"plan_{plan}")
        for number, plan in enumerate(("basic", "pro"))
    }
    stripe_post(billing, f"subscription_schedules/{schedule}", **prices)
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("basic", None, "active")
    break_cards(billing, user)
    billing.advance_and_deliver(MONTH + 2 * HOUR)
    assert plan_of(billing, user) == ("basic", None, "past_due")
