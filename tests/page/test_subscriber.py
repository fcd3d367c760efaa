"""A free user buys a plan in a real browser, asks more than it includes, and is billed exactly for that."""

from collections.abc import Callable
from typing import Any

import httpx
from playwright.sync_api import Page, expect

from infra.local.stack import Stack
from tests.api import Api, question
from tests.conftest import Person

DAY = 86400


def test_a_new_subscriber_is_invoiced_for_one_overage_query(
    stack: Stack,
    api: Api,
    sign_up: Callable[[str], Person],
    page_of: Callable[..., Page],
    eventually: Callable[..., None],
) -> None:
    user = sign_up("free")
    site = stack.info["functions_url"]
    purchase = {"plan": "basic", "success_url": f"{site}/?paid={{CHECKOUT_SESSION_ID}}", "cancel_url": f"{site}/"}
    checkout = api.http.post("/checkout", json=purchase, headers=user.headers).json()
    page = page_of(None, checkout["url"])
    expect(page.locator("body")).to_contain_text("$9.99 USD / month")

    page.get_by_role("button", name="Pay with a good card", exact=True).click()
    page.wait_for_url(f"{site}/?paid={checkout['session_id']}")
    eventually(lambda: api.usage(user)["tier"] == "basic")

    fundings = [api.chat(user, question("Briefly")).json()["metadata"]["funding"] for _ in range(16)]
    assert fundings == ["included"] * 15 + ["overage"]
    assert api.usage(user)["billing"]["to_be_billed_usd"] == 0.025

    with httpx.Client(base_url=stack.info["stripe_url"], timeout=60) as stripe:
        stripe.post("/_clock", json={"advance": 32 * DAY}).raise_for_status()
        bill = api.usage(user)["billing"]
        assert bill["to_be_billed_usd"] == 0
        (billed,) = bill["billed"]
        assert (billed["queries"], billed["amount_usd"], billed["billed_usd"]) == (1, 0.025, 0.02)
        invoice = invoice_of(stripe, user)
    assert (invoice["status"], invoice["total"]) == ("paid", 999 + 2)
    page.goto(invoice["hosted_invoice_url"])
    shown = page.inner_text("body")
    assert "CanadaGPT Basic" in shown
    assert "$9.99" in shown
    assert "1 query beyond the plan × $0.025 = $0.025 (rounded down to $0.02)" in shown
    assert "$10.01" in shown


def invoice_of(stripe: httpx.Client, user: Person) -> dict[str, Any]:
    """The user's newest invoice."""
    key = {"authorization": "Bearer sk_test_local"}
    customers = stripe.get("/v1/customers", params={"email": user.email}, headers=key).json()["data"]
    (customer,) = (one["id"] for one in customers)
    invoices = stripe.get("/v1/invoices", params={"customer": customer}, headers=key).json()["data"]
    newest: dict[str, Any] = invoices[0]
    return newest
