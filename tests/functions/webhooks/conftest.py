"""Fixtures of the webhook tests."""

from collections.abc import Callable, Iterator

import pytest
from stripe import HTTPClient

from infra.local.stack import Stack
from tests.billing_kit import (
    STRIPE_HEADERS,
    BillingStack,
    dropped_events,
    running_billing,
    stripe_get,
    stripe_post,
)
from tests.conftest import Person


@pytest.fixture(scope="session")
def billing(stack: Stack) -> Iterator[BillingStack]:
    """A stand-in of its own: these tests move its clock and make it fail."""
    with running_billing(stack) as billing:
        yield billing


@pytest.fixture(scope="module")
def victim(billing: BillingStack) -> Person:
    """A user who would lose their plan if an event of theirs were processed: they have no subscription at Stripe."""
    person = billing.new_user("pro")
    customer = stripe_post(billing, "customers", email="victim@example.test")["id"]
    billing.db.execute(
        "update public.user_subscriptions set stripe_customer_id = %s, stripe_subscription_id = %s where user_id = %s",
        (customer, f"sub_{person.id}", person.id),
    )
    return person


@pytest.fixture
def clean_up(billing: BillingStack) -> Iterator[None]:
    """After the test no subscription is live, no event waits for delivery, and no request fails."""
    yield
    billing.fake.http.delete("/_faults")
    with dropped_events(billing):
        for one in stripe_get(billing, "subscriptions", limit=100)["data"]:
            billing.fake.http.delete(f"/v1/subscriptions/{one['id']}", headers=STRIPE_HEADERS)
    left = stripe_get(billing, "events", delivery_success="false", limit=100)["data"]
    billing.fake.control("/_drop", ids=[event["id"] for event in left])


@pytest.fixture
def faults(billing: BillingStack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes requests to Stripe fail (see Fault). Our client retries without waiting."""
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0)
    return lambda **fault: billing.fake.control("/_faults", **fault)
