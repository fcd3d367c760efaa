"""Failures of Stripe during a click, and customers that exist already."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from functions.checkout import checkout
from functions.checkout.handler import create
from functions.common.billing import stripe_client
from functions.common.errors import Internal, PaymentUnavailable
from functions.common.observe import ALLOWED
from tests.billing_kit import (
    SITE,
    STRIPE_HEADERS,
    BillingStack,
    captured_log,
    function_with,
    stripe_get,
    stripe_post,
)
from tests.conftest import Person
from tests.functions.checkout.kit import (
    STEPS,
    UNAVAILABLE,
    Eventually,
    click,
    customers,
    failed,
    page_of,
    pages,
    set_overage,
)
from tests.local.stripe.kit import KEY, SECRET


@pytest.mark.parametrize(
    ("step", "status"), [*((step, 500) for step in STEPS), ("the customer", 503), ("the page", 429), ("the price", 401)]
)
def test_a_click_works_after_a_failure_of_stripe(
    billing: BillingStack, faults: Callable[..., None], no_pause: None, step: str, status: int
) -> None:
    method, path = STEPS[step]
    user = billing.new_user()
    faults(method=method, path=path, status=status, times=3)
    response = click(billing, user, plan="basic")
    assert failed(response) == UNAVAILABLE
    assert response.json()["error"]["message"] == PaymentUnavailable().sentence("en")
    billing.fake.http.delete("/_faults")
    page = page_of(click(billing, user, plan="basic"))
    assert customers(billing, user) == [billing.customer_id(user)]
    assert pages(billing, user) == [page["session_id"]]


@pytest.mark.parametrize("step", ["the customer", "the subscriptions", "the page"])
def test_a_short_failure_of_stripe_is_retried(
    billing: BillingStack, faults: Callable[..., None], no_pause: None, step: str
) -> None:
    method, path = STEPS[step]
    user = billing.new_user()
    faults(method=method, path=path, status=500, times=2)
    page = page_of(click(billing, user, plan="basic"))
    assert customers(billing, user) == [billing.customer_id(user)]
    assert pages(billing, user) == [page["session_id"]]


@pytest.mark.parametrize("retries", [0, 2], ids=["by the next click", "by a retry"])
@pytest.mark.parametrize("step", ["the customer", "the page"])
def test_a_lost_response_of_stripe_creates_nothing_twice(
    billing: BillingStack,
    faults: Callable[..., None],
    no_pause: None,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    retries: int,
) -> None:
    monkeypatch.setattr(stripe_client, "RETRIES", retries)
    method, path = STEPS[step]
    user = billing.new_user()
    faults(method=method, path=path, status=500, lost=True)
    with function_with(billing, create) as http:
        first = click(billing, user, http, plan="basic")
    assert first.status_code == (200 if retries else 503)
    page = page_of(click(billing, user, plan="basic"))
    assert customers(billing, user) == [billing.customer_id(user)]
    assert pages(billing, user) == [page["session_id"]]


@pytest.mark.parametrize(
    ("step", "limit"),
    [
        ("the customer", (stripe_client, "TIMEOUT_S")),
        ("the page", (stripe_client, "TIMEOUT_S")),
        ("the page", (checkout, "TIMEOUT_S")),
    ],
    ids=["customer", "page", "whole request"],
)
def test_a_click_works_after_stripe_timed_out(
    billing: BillingStack,
    faults: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    step: str,
    limit: tuple[Any, str],
) -> None:
    monkeypatch.setattr(*limit, 0.2)
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    method, path = STEPS[step]
    user = billing.new_user()
    faults(method=method, path=path, seconds=0.5)
    with function_with(billing, create) as http:
        assert failed(click(billing, user, http, plan="basic")) == UNAVAILABLE
    monkeypatch.undo()
    answers: list[httpx.Response] = []

    def works() -> bool:
        """Stripe refuses the same request until the first one has ended."""
        answers.append(click(billing, user, plan="basic"))
        return answers[-1].status_code == 200

    eventually(works)
    assert customers(billing, user) == [billing.customer_id(user)]
    assert pages(billing, user) == [page_of(answers[-1])["session_id"]]


@pytest.mark.parametrize(
    "changed",
    [{"STRIPE_API_BASE": "http://127.0.0.1:9"}, {"STRIPE_SECRET_KEY": "sk_test_another"}],
    ids=["out of reach", "a wrong key"],
)
def test_an_unreachable_stripe_changes_and_reveals_nothing(
    billing: BillingStack, no_pause: None, changed: dict[str, str]
) -> None:
    user, known = billing.new_user(), billing.new_user()
    billing.checkout_page(known, plan="basic")
    with function_with(billing, create, **changed) as http:
        answers = [
            click(billing, user, http, plan="basic"),
            click(billing, user, http, pack="pack_100"),
            click(billing, known, http, plan="pro"),
            http.post("/portal", json={"return_url": SITE}, headers=known.headers),
        ]
        assert http.get("/plans").status_code == 200
    for answer in answers:
        assert failed(answer) == UNAVAILABLE
        assert answer.json()["error"] == {
            "code": "payment_unavailable",
            "message": PaymentUnavailable().sentence("en"),
            "reason_code": "payment_unavailable",
            "action": "wait",
            "resets_at": None,
            "request_id": answer.headers["x-request-id"],
        }
    assert billing.subscription_row(user)["stripe_customer_id"] is None
    assert len(pages(billing, known)) == 1


def test_a_missing_price_is_an_internal_error(billing: BillingStack) -> None:
    user = billing.new_user()
    (price,) = stripe_get(billing, "prices", **{"lookup_keys[0]": "plan_pro"})["data"]
    stripe_post(billing, f"prices/{price['id']}", active="false")
    try:
        response = click(billing, user, plan="pro")
    finally:
        stripe_post(billing, f"prices/{price['id']}", active="true")
    assert failed(response) == (500, "internal")
    assert response.json()["error"] == {
        "code": "internal",
        "message": Internal().sentence("en"),
        "reason_code": "internal",
        "action": "contact_support",
        "request_id": response.headers["x-request-id"],
    }
    assert pages(billing, user) == []
    page_of(click(billing, user, plan="pro"))


@pytest.mark.parametrize(
    ("sold", "table", "name"),
    [({"plan": "pro"}, "public.plans", "tier = 'pro'"), ({"pack": "pack_100"}, "public.packs", "slug = 'pack_100'")],
    ids=["plan", "pack"],
)
def test_a_price_that_is_not_the_shown_one_is_not_sold(
    billing: BillingStack, subscriber: Callable[[], Person], sold: dict[str, str], table: str, name: str
) -> None:
    """Also not on a page that was opened before. A subscriber still reaches the portal."""
    user, known = billing.new_user(), subscriber()
    page = page_of(click(billing, user, **sold))
    billing.db.execute(f"update {table} set price_usd = price_usd + 1 where {name}".encode())
    try:
        response = click(billing, user, **sold)
        assert failed(response) == UNAVAILABLE
        assert "price" in response.json()["error"]["message"]
        assert pages(billing, user) == [page["session_id"]]
        if "plan" in sold:
            assert page_of(click(billing, known, **sold))["session_id"].startswith("bps_")
    finally:
        billing.db.execute(f"update {table} set price_usd = price_usd - 1 where {name}".encode())
    assert page_of(click(billing, user, **sold)) == page


def test_a_customer_that_was_not_stored_is_reused(billing: BillingStack) -> None:
    user = billing.new_user()
    made = billing.fake.http.post(
        "/v1/customers",
        data={"metadata[user_id]": user.id},
        headers={**STRIPE_HEADERS, "idempotency-key": f"customer:{user.id}:0"},
    ).json()["id"]
    page = page_of(click(billing, user, plan="basic"))
    assert billing.customer_id(user) == made
    billing.db.execute("update public.user_subscriptions set stripe_customer_id = null where user_id = %s", (user.id,))
    assert page_of(click(billing, user, plan="basic")) == page
    assert customers(billing, user) == [billing.customer_id(user)] == [made]


def test_a_customer_is_reused_after_the_email_address_changed(
    billing: BillingStack, faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    user = billing.new_user()
    faults(method="POST", path="/v1/customers", status=500, lost=True)
    with function_with(billing, create) as http:
        assert failed(click(billing, user, http, plan="basic")) == UNAVAILABLE
    billing.db.execute("update auth.users set email = 'new-' || email where id = %s", (user.id,))
    page_of(click(billing, user, plan="basic"))
    assert customers(billing, user) == [billing.customer_id(user)]


def test_a_customer_deleted_at_stripe_is_replaced(billing: BillingStack, subscriber: Callable[[], Person]) -> None:
    user = subscriber()
    old = billing.customer_id(user)
    assert billing.fake.http.delete(f"/v1/customers/{old}", headers=STRIPE_HEADERS).status_code == 200
    billing.deliver()
    assert (billing.subscription_row(user)["stripe_customer_id"], billing.subscription_row(user)["tier"]) == (
        None,
        "free",
    )
    assert failed(billing.call_checkout(user, "/portal", return_url=SITE)) == (404, "not_found")
    page = page_of(click(billing, user, plan="basic"))  # as on the customer's first page
    assert billing.customer_id(user) != old
    assert customers(billing, user) == [billing.customer_id(user)]
    assert pages(billing, user) == [page["session_id"]]


def test_the_checkout_log_contains_no_private_data(
    billing: BillingStack, faults: Callable[..., None], no_pause: None, eventually: Eventually
) -> None:
    user = billing.new_user()
    with captured_log("checkout") as lines:
        page = page_of(click(billing, user, plan="basic"))
        click(billing, user, plan="basic", success_url="https://evil.example/canary")
        click(billing, user, pack="canary")
        portal = billing.call_checkout(user, "/portal", return_url=SITE).json()["url"]
        set_overage(billing, user, '{"canary": 1}')
        faults(method="GET", path="/v1/prices", status=503, times=3)
        click(billing, user, plan="pro")
        with function_with(billing, create, STRIPE_SECRET_KEY="sk_test_canary") as http:
            click(billing, user, http, plan="pro")
        billing.checkout.get("/plans?canary", headers={"authorization": "Bearer canary"})
        eventually(lambda: len([line for line in lines() if line["message"] == "request"]) == 8)
        written = lines()
    requests = [line for line in written if line["message"] == "request"]
    assert [(line["status"], line.get("code")) for line in requests] == [
        (200, None),
        (422, "invalid_request"),
        (404, "not_found"),
        (200, None),
        (422, "invalid_request"),
        UNAVAILABLE,
        UNAVAILABLE,
        (200, None),
    ]
    assert [line.get("user_id") for line in requests] == [user.id] * 7 + [None]
    assert [line["route"] for line in requests[-2:]] == ["/checkout", "/plans"]
    failures = [line for line in written if line["message"] == "stripe failed"]
    assert [(line["level"], line["upstream_status"]) for line in failures] == [("ERROR", 503), ("ERROR", 401)]
    assert {line["error_type"] for line in failures} == {"APIError", "AuthenticationError"}
    assert {name for line in written for name in line} <= ALLOWED
    text = json.dumps(written)
    secret = [KEY, SECRET, user.token, billing.stack.info["secret_key"], billing.stack.info["publishable_key"]]
    private = [user.email, billing.customer_id(user), page["session_id"], page["url"], portal, "://", SITE, "canary"]
    assert [one for one in secret + private if one in text] == []


def test_a_subscription_in_another_currency_refuses_a_plan(billing: BillingStack) -> None:
    """Of something else that the account sells. Packs are no subscriptions, and are sold."""
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    other = billing.fake.price(500, currency="cad", name="Something else")
    customer = billing.customer_id(user)
    billing.fake.control(f"/_customers/{customer}/card", works=True)
    theirs = stripe_post(billing, "subscriptions", customer=customer, **{"items[0][price]": other.id})["id"]
    assert click(billing, user, pack="pack_500").status_code == 200
    refused = click(billing, user, plan="basic")
    error = refused.json()["error"]
    assert failed(refused) == UNAVAILABLE
    assert (error["reason_code"], error["action"]) == ("currency_differs", "contact_support")
    billing.fake.v1.subscriptions.cancel(theirs)
    assert click(billing, user, plan="basic").status_code == 200


def test_an_invoice_item_in_another_currency_refuses_a_plan_until_it_is_gone(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    item = stripe_post(billing, "invoiceitems", customer=billing.customer_id(user), currency="cad", amount=500)["id"]
    refused = click(billing, user, plan="basic")
    assert (failed(refused), refused.json()["error"]["reason_code"]) == (UNAVAILABLE, "currency_differs")
    with function_with(billing, create, STRIPE_PROMOTION_CODES="true") as http:  # other parameters of the page
        refused = click(billing, user, http, plan="basic")
        assert refused.json()["error"]["reason_code"] == "currency_differs"
    billing.fake.v1.invoice_items.delete(item)
    assert click(billing, user, plan="basic").status_code == 200
