"""Subscription schedules of the Stripe stand-in."""

from typing import Any

import stripe

from tests.local.stripe.kit import DAY, HOUR, Fake

MONTH = 31 * DAY


def price_of(fake: Fake, subscription: stripe.Subscription) -> int | None:
    return fake.subscription(subscription.id)["items"].data[0].price.unit_amount  # type: ignore[no-any-return]


def scheduled(fake: Fake, **more: Any) -> tuple[stripe.Subscription, stripe.SubscriptionSchedule]:
    """A subscription of $29.99 that becomes one of $9.99 after its period."""
    dear, cheap = fake.price(2999), fake.price(999)
    subscription = fake.subscribe(fake.customer().id, dear.id)
    schedule = fake.v1.subscription_schedules.create({"from_subscription": subscription.id})
    phases: Any = [{"items": [{"price": price.id}]} for price in (dear, cheap)]
    return subscription, fake.v1.subscription_schedules.update(schedule.id, {"phases": phases, **more})


def test_a_schedule_changes_the_price_with_the_next_period(fake: Fake) -> None:
    subscription, schedule = scheduled(fake)
    assert [phase.end_date - phase.start_date for phase in schedule.phases] == [MONTH, 28 * DAY]
    assert fake.subscription(subscription.id).schedule == schedule.id
    fake.advance(MONTH - 1)
    assert price_of(fake, subscription) == 2999
    fake.advance(1 + HOUR)
    assert (price_of(fake, subscription), fake.invoices()[0].total) == (999, 999)
    fake.advance(28 * DAY)
    assert fake.subscription(subscription.id).schedule is None
    assert fake.v1.subscription_schedules.retrieve(schedule.id).status == "completed"


def test_a_released_schedule_changes_nothing(fake: Fake) -> None:
    subscription, schedule = scheduled(fake)
    released = fake.v1.subscription_schedules.release(schedule.id)
    assert (released.status, released.released_subscription) == ("released", subscription.id)
    fake.advance(MONTH + HOUR)
    assert (price_of(fake, subscription), fake.invoices()[0].total) == (2999, 2999)


def test_a_schedule_can_end_the_subscription(fake: Fake) -> None:
    subscription, _ = scheduled(fake, end_behavior="cancel")
    fake.advance(MONTH + 28 * DAY)
    assert fake.subscription(subscription.id).status == "canceled"
    other, schedule = scheduled(fake)
    assert fake.v1.subscription_schedules.cancel(schedule.id).status == "canceled"
    assert fake.subscription(other.id).status == "canceled"
    assert len(fake.v1.subscription_schedules.list({"customer": str(other.customer)}).data) == 1
