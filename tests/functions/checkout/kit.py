"""Shared by the checkout tests: clicks, pages and customers."""

from collections.abc import Callable
from typing import Any

import httpx

from tests.billing_kit import SITE, BillingStack, stripe_get
from tests.conftest import Person

URLS = {"success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}
# The requests that one click makes.
STEPS = {
    "the customer": ("POST", "/v1/customers"),
    "the price": ("GET", "/v1/prices"),
    "the open pages": ("GET", "/v1/checkout/sessions"),
    "the subscriptions": ("GET", "/v1/customers/"),
    "the page": ("POST", "/v1/checkout/sessions"),
}
UNAVAILABLE = (503, "payment_unavailable")
Eventually = Callable[[Callable[[], bool]], None]


def click(billing: BillingStack, person: Person, http: httpx.Client | None = None, **body: Any) -> httpx.Response:
    """POST /checkout."""
    return (http or billing.checkout).post("/checkout", json={**URLS, **body}, headers=person.headers)


def page_of(response: httpx.Response) -> dict[str, str]:
    """The page in a successful response."""
    assert response.status_code == 200, response.text
    page: dict[str, str] = response.json()
    assert set(page) == {"url", "session_id"}
    return page


def failed(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error."""
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"]


def customers(billing: BillingStack, person: Person) -> list[str]:
    """All customers at Stripe that name this user."""
    found = stripe_get(billing, "customers/search", query=f"metadata['user_id']:'{person.id}'", limit=100)
    return [one["id"] for one in found["data"]]


def pages(billing: BillingStack, person: Person, status: str = "open") -> list[str]:
    """The user's checkout sessions with a status, newest first."""
    found = stripe_get(billing, "checkout/sessions", customer=billing.customer_id(person), status=status, limit=100)
    return [one["id"] for one in found["data"]]


def stripe_requests(billing: BillingStack) -> list[tuple[str, str]]:
    """The requests to Stripe since `clear_requests`."""
    return [(one["method"], one["path"]) for one in billing.fake.http.get("/_requests").json()]


def clear_requests(billing: BillingStack) -> None:
    """Clear the stand-in's list of requests."""
    billing.fake.http.delete("/_requests")


def press_button(billing: BillingStack, url: str, action: str, **more: str) -> None:
    """Press a button of the portal."""
    assert billing.fake.http.post(url, data={"action": action, **more}).status_code == 200


def set_overage(billing: BillingStack, person: Person, body: str) -> httpx.Response:
    """PATCH /overage. The body is text, so that numbers keep their digits."""
    return billing.checkout.patch("/overage", content=body.encode(), headers=person.headers)
