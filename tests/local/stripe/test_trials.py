"""Trials of the Stripe stand-in."""

from typing import Any

import pytest
import stripe

from tests.local.stripe.kit import DAY, HOUR, Fake


def start(fake: Fake, works: bool | None, behavior: str = "create_invoice", days: int = 14) -> stripe.Subscription:
    """A subscription of $9.99 with a trial."""
    settings: Any = {"end_behavior": {"missing_payment_method": behavior}}
    return fake.subscribe(fake.customer(works).id, fake.price(999).id, trial_period_days=days, trial_settings=settings)


def test_a_trial_is_a_first_period_of_nothing(fake: Fake) -> None:
    subscription = start(fake, works=True)
    item = subscription["items"].data[0]
    assert (subscription.status, subscription.trial_end) == ("trialing", item.current_period_end)
    (first,) = fake.invoices()
    assert (first.status, first.total, first.lines.data[0].amount) == ("paid", 0, 0)
    fake.advance(11 * DAY - 1)
    assert "customer.subscription.trial_will_end" not in fake.event_types()
    fake.advance(1)
    assert "customer.subscription.trial_will_end" in fake.event_types()
    fake.advance(3 * DAY + HOUR)
    renewed = fake.subscription(subscription.id)
    assert (renewed.status, renewed.billing_cycle_anchor) == ("active", subscription.trial_end)
    assert [(one.billing_reason, one.amount_paid) for one in fake.invoices()] == [
        ("subscription_cycle", 999),
        ("subscription_create", 0),
    ]
    assert renewed["items"].data[0].current_period_end == subscription.trial_end + 31 * DAY  # type: ignore[operator]


@pytest.mark.parametrize(
    ("behavior", "status", "event"),
    [
        ("create_invoice", "past_due", "invoice.payment_failed"),
        ("cancel", "canceled", "customer.subscription.deleted"),
        ("pause", "paused", "customer.subscription.paused"),
    ],
)
def test_a_trial_without_a_card_ends_as_its_settings_say(fake: Fake, behavior: str, status: str, event: str) -> None:
    subscription = start(fake, None, behavior)
    fake.advance(14 * DAY + HOUR)
    assert fake.subscription(subscription.id).status == status
    assert event in fake.event_types()
    assert len(fake.invoices()) == (2 if behavior == "create_invoice" else 1)


def test_a_paused_subscription_resumes_when_its_invoice_is_paid(fake: Fake) -> None:
    subscription = start(fake, None, "pause")
    fake.advance(40 * DAY)
    fake.control(f"/_customers/{subscription.customer}/card", works=True)
    resumed = fake.v1.subscriptions.resume(subscription.id)
    assert (resumed.status, resumed.billing_cycle_anchor) == ("active", fake.now)
    assert fake.invoices()[0].amount_paid == 999
    assert "customer.subscription.resumed" in fake.event_types()


def test_a_trial_can_end_now(fake: Fake) -> None:
    subscription = start(fake, works=True)
    fake.advance(DAY)
    ended = fake.v1.subscriptions.update(subscription.id, {"trial_end": "now"})
    assert (ended.status, ended.trial_end, fake.invoices()[0].amount_paid) == ("active", fake.now, 999)


@pytest.mark.parametrize("more", [{"trial_end": 1}, {"trial_period_days": 731}])
def test_an_impossible_trial_is_refused(fake: Fake, more: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        fake.subscribe(fake.customer().id, fake.price(999).id, **more)
