"""Fixtures of the tests of the jobs."""

from datetime import UTC, datetime

import pytest

from tests.billing_kit import DAY, BillingStack
from tests.conftest import Person
from tests.functions.maintenance.kit import user_with_overage


@pytest.fixture
def billed(billing: BillingStack) -> Person:
    """A user who subscribed, bought a pack, used forty-one queries of overage and was billed for them."""
    user, start = user_with_overage(billing)
    billing.db.execute(
        "update public.user_subscriptions set current_overage_amount = 41 * 0.025, overage_period_start = %s"
        " where user_id = %s",
        (datetime.fromtimestamp(start, UTC), user.id),
    )
    billing.advance_and_deliver(32 * DAY)
    assert len(billing.overage_items(user)) == 1
    return user
