"""Fixtures of the checkout tests."""

from collections.abc import Callable, Iterator

import pytest
from stripe import HTTPClient

from infra.local.stack import Stack
from tests.billing_kit import STRIPE_HEADERS, BillingStack, dropped_events, running_billing, stripe_get
from tests.conftest import Person


@pytest.fixture(scope="session")
def billing(stack: Stack) -> Iterator[BillingStack]:
    """A stand-in of its own: these tests move its clock and make it fail."""
    with running_billing(stack) as billing:
        yield billing


@pytest.fixture
def faults(billing: BillingStack) -> Iterator[Callable[..., None]]:
    """Makes requests to Stripe fail (see Fault). Faults that are left are removed after the test."""
    yield lambda **fault: billing.fake.control("/_faults", **fault)
    billing.fake.http.delete("/_faults")


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe's client retries without waiting."""
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0)


@pytest.fixture
def subscriber(billing: BillingStack) -> Iterator[Callable[[], Person]]:
    """Makes a user who has just subscribed to Basic. The subscription ends after the test, so that it never renews."""
    subscriptions = []

    def make() -> Person:
        person = billing.new_user()
        with dropped_events(billing):
            billing.buy(person, plan="basic")
        (completed,) = stripe_get(billing, "events", type="checkout.session.completed", limit=1)["data"]
        assert billing.deliver(completed["id"]) == [200]
        assert billing.subscription_row(person)["tier"] == "basic"
        subscriptions.append(billing.subscription_row(person)["stripe_subscription_id"])
        return person

    yield make
    with dropped_events(billing):
        for subscription in subscriptions:
            billing.fake.http.delete(f"/v1/subscriptions/{subscription}", headers=STRIPE_HEADERS)


@pytest.fixture(scope="module")
def buyer(billing: BillingStack) -> Person:
    """A user with a customer at Stripe, for requests that are refused."""
    user = billing.new_user()
    billing.checkout_page(user, plan="basic")
    return user
