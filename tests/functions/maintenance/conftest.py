"""Fixtures of the tests of the jobs."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.billing_kit import DAY, BillingStack
from tests.conftest import Person


@pytest.fixture(autouse=True)
def no_subscription_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Moving the stand-in's clock renews every subscription, so those of earlier tests would cost most of the time."""
    # Before the yield, so that `billing` is torn down after this fixture.
    billing = request.getfixturevalue("billing") if "billing" in request.fixturenames else None
    yield
    if billing is not None:
        billing.cancel_subscriptions()


@pytest.fixture
def billed(billing: BillingStack) -> Person:
    """A user who subscribed, bought a pack, used forty-one queries of overage and was billed for them."""
    user = billing.new_user()
    billing.buy(user, plan="basic")
    billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 41, start + DAY, start)
    billing.db.execute(
        "update public.user_subscriptions set current_overage_amount = 41 * 0.025, overage_period_start = %s"
        " where user_id = %s",
        (datetime.fromtimestamp(start, UTC), user.id),
    )
    billing.advance_and_deliver(32 * DAY)
    assert len(billing.overage_items(user)) == 1
    return user
