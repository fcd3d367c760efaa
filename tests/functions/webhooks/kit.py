"""Shared by the webhook tests: signing and sending events, and what they changed."""

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.billing_kit import DAY, SITE, BillingStack, dropped_events, stripe_get, stripe_post
from tests.conftest import Person
from tests.local.stripe.kit import SECRET

UNAVAILABLE = (503, "payment_unavailable")
MONTH = 31 * DAY
Json = dict[str, Any]


def signature(body: bytes, at: int, secret: str = SECRET, scheme: str = "v1") -> str:
    """A Stripe-Signature header."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},{scheme}={digest}"


def now() -> int:
    """The real time, which signatures need."""
    return int(time.time())


def post(billing: BillingStack, body: bytes, signed: str | None, http: httpx.Client | None = None) -> httpx.Response:
    """POST any body with any signature, as anybody on the internet can."""
    headers = {} if signed is None else {"stripe-signature": signed.encode("latin-1")}
    address = "/webhooks/stripe" if http else f"{billing.webhooks_url}/webhooks/stripe"
    return (http or billing.fake.http).post(address, content=body, headers=headers)


def send(billing: BillingStack, event: Json, http: httpx.Client | None = None) -> httpx.Response:
    """POST an event as Stripe sends it."""
    body = json.dumps(event).encode()
    return post(billing, body, signature(body, now()), http)


def outcome(response: httpx.Response) -> str:
    """The outcome of an acknowledged event."""
    assert response.status_code == 200, response.text
    (item,) = response.json().items()
    assert item[0] == "outcome"
    return str(item[1])


def failed(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error."""
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"]


def stripe_requests(billing: BillingStack) -> list[str]:
    """The paths of the API requests to Stripe since `clear_requests`."""
    return [one["path"] for one in billing.fake.http.get("/_requests").json() if one["path"].startswith("/v1/")]


def clear_requests(billing: BillingStack) -> None:
    """Clear the stand-in's list of requests."""
    billing.fake.http.delete("/_requests")


def event_row(billing: BillingStack, event_id: str) -> Json | None:
    """The event's row of stripe_events."""
    return billing.db.execute("select * from public.stripe_events where event_id = %s", (event_id,)).fetchone()


def check_finished(billing: BillingStack, event_id: str, attempts: int) -> None:
    """The event was processed after that number of attempts."""
    row = event_row(billing, event_id)
    assert row is not None
    assert (row["attempts"], row["last_error"]) == (attempts, None)
    assert row["processed_at"] is not None


def newest(billing: BillingStack, kind: str) -> str:
    """The id of the last event of a type."""
    return str(stripe_get(billing, "events", type=kind, limit=1)["data"][0]["id"])


def stored(billing: BillingStack, event_id: str) -> Json:
    """An event as Stripe stored it."""
    return stripe_get(billing, f"events/{event_id}")


def subscriber(billing: BillingStack, plan: str = "basic") -> Person:
    """A user who has subscribed. We processed one event of many."""
    person = billing.new_user()
    with dropped_events(billing):
        billing.buy(person, plan=plan)
    assert billing.deliver(newest(billing, "checkout.session.completed")) == [200]
    assert plan_of(billing, person) == (plan, None, "active")
    return person


def plan_of(billing: BillingStack, person: Person) -> tuple[str, str | None, str]:
    """The user's tier, their tier of the next period, and the status."""
    row = billing.subscription_row(person)
    return row["tier"], row["next_tier"], row["status"]


def press_portal_button(billing: BillingStack, person: Person, action: str, **more: str) -> None:
    """Press a button of the portal, for the user's subscription."""
    url = billing.call_checkout(person, "/portal", return_url=SITE).json()["url"]
    (subscription,) = stripe_get(billing, "subscriptions", customer=billing.customer_id(person))["data"]
    assert billing.fake.http.post(url, data={"action": f"{action}:{subscription['id']}", **more}).status_code == 200


def price_id(billing: BillingStack, key: str) -> str:
    """The price with that lookup key."""
    (found,) = stripe_get(billing, "prices", **{"lookup_keys[0]": key})["data"]
    return str(found["id"])


def last_payment(billing: BillingStack, person: Person) -> str:
    """The payment intent of the pack that the user bought last."""
    found = stripe_get(billing, "checkout/sessions", customer=billing.customer_id(person), limit=1)
    return str(found["data"][0]["payment_intent"])


def as_time(seconds: int) -> datetime:
    """A Unix time of Stripe as the database returns it."""
    return datetime.fromtimestamp(seconds, UTC)


def pack_owner(billing: BillingStack) -> Person:
    """A user who has bought a pack of 100. We processed the events."""
    person = billing.new_user()
    billing.buy(person, pack="pack_100")
    assert set(billing.deliver()) == {200}
    assert credits_of(billing, person) == [(100, 0, 0, False)]
    return person


def credits_of(billing: BillingStack, person: Person) -> list[tuple[int, int, int, bool]]:
    """The user's packs: remaining, used, revoked, frozen."""
    names = ("credits_remaining", "credits_used", "credits_revoked", "is_frozen")
    return [tuple(pack[name] for name in names) for pack in billing.packs(person)]  # type: ignore[misc]


def change_plan(billing: BillingStack, user: Person, plan: str, **more: str) -> None:
    """Change the plan as Stripe's API and support do: at once, invoiced with prorations. All events are delivered."""
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    (item,) = stripe_get(billing, f"subscriptions/{subscription}")["items"]["data"]
    price = {"items[0][id]": item["id"], "items[0][price]": price_id(billing, f"plan_{plan}")}
    stripe_post(billing, f"subscriptions/{subscription}", **{"proration_behavior": "always_invoice", **price, **more})
    assert set(billing.deliver()) == {200}
