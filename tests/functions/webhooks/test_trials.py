"""A trial gives its plan, and what it does not pay stays bounded."""

from decimal import Decimal

import pytest

from tests.billing_kit import DAY, HOUR, BillingStack, stripe_post
from tests.conftest import Person
from tests.functions.maintenance.kit import findings
from tests.functions.webhooks.kit import newest, plan_of, press_portal_button, price_id
from tests.functions.webhooks.test_discounts import invoice_totals, use_overage

pytestmark = pytest.mark.usefixtures("empty_billing", "clean_up")  # reconcile reports a limited number


def start_trial(billing: BillingStack, card_works: bool | None, missing_card: str = "create_invoice") -> Person:
    """A user to whom support gave two weeks of pro. `card_works` None: without a card."""
    user = billing.new_user()
    billing.checkout_page(user, plan="pro")  # makes the customer
    if card_works is not None:
        billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=card_works)
    params = {"trial_period_days": "14", "trial_settings[end_behavior][missing_payment_method]": missing_card}
    price = {"items[0][price]": price_id(billing, "plan_pro")}
    stripe_post(billing, "subscriptions", customer=billing.customer_id(user), **params, **price)
    assert set(billing.deliver()) == {200}
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("pro", None, "active"), [0])
    return user


def test_a_trial_gives_its_plan_and_is_paid_afterwards(billing: BillingStack) -> None:
    user = start_trial(billing, card_works=True)
    use_overage(billing, user, 41)
    billing.advance_and_deliver(11 * DAY)
    assert newest(billing, "customer.subscription.trial_will_end")
    billing.advance_and_deliver(3 * DAY + 2 * HOUR)
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("pro", None, "active"), [2999 + 102, 0])
    assert billing.subscription_row(user)["unpaid_overage_usd"] == 0
    assert findings(billing, user) == set()


@pytest.mark.parametrize(
    ("missing_card", "left", "totals"),
    [
        ("create_invoice", ("usage_only", None, "past_due"), [2999 + 102, 0]),
        ("cancel", ("free", None, "active"), [102, 0]),
        ("pause", ("pro", None, "suspended"), [102, 0]),
    ],
)
def test_a_trial_without_a_card_ends_and_its_overage_stays_owed(
    billing: BillingStack, missing_card: str, left: tuple[str, str | None, str], totals: list[int]
) -> None:
    user = start_trial(billing, None, missing_card)
    use_overage(billing, user, 41)
    billing.advance_and_deliver(14 * DAY + 2 * HOUR)
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (left, totals)
    row = billing.subscription_row(user)
    assert row["unpaid_overage_usd"] == Decimal("1.025")
    assert findings(billing, user) == set()
    billing.fake.http.post(row["open_invoice_url"], data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    assert billing.subscription_row(user)["unpaid_overage_usd"] == 0
    assert findings(billing, user) == set()


def test_a_trial_that_a_failing_card_ends_has_no_grace(billing: BillingStack) -> None:
    user = start_trial(billing, card_works=False)
    billing.advance_and_deliver(14 * DAY + 2 * HOUR)
    assert plan_of(billing, user) == ("usage_only", None, "past_due")
    billing.fake.http.post(billing.subscription_row(user)["open_invoice_url"], data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")


def test_a_paused_trial_resumes_once_it_is_paid(billing: BillingStack) -> None:
    user = start_trial(billing, None, "pause")
    billing.advance_and_deliver(14 * DAY + 2 * HOUR)
    portal = billing.call_checkout(user, "/portal", return_url="http://localhost:3000").json()["url"]
    assert billing.fake.http.post(portal, data={"action": "good_card"}).status_code == 200
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    stripe_post(billing, f"subscriptions/{subscription}/resume")
    assert set(billing.deliver()) == {200}
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("pro", None, "active"), [2999, 0])
    assert findings(billing, user) == set()


def test_a_trial_that_support_ends_is_paid_at_once(billing: BillingStack) -> None:
    user = start_trial(billing, card_works=True)
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    stripe_post(billing, f"subscriptions/{subscription}", trial_end="now")
    assert set(billing.deliver()) == {200}
    assert (plan_of(billing, user), invoice_totals(billing, user)) == (("pro", None, "active"), [2999, 0])
    press_portal_button(billing, user, "cancel")
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "canceled")
