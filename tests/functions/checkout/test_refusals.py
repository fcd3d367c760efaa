"""Requests that checkout refuses, and malformed settings."""

import uuid
from typing import Any

import pytest

from functions.checkout.settings import CheckoutSettings
from functions.common.settings import SettingsError, load
from tests.billing_kit import (
    SITE,
    BillingStack,
    environment,
    stripe_get,
)
from tests.conftest import Person
from tests.functions.checkout.kit import URLS, clear_requests, click, failed, page_of, stripe_requests


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"plan": "basic", "pack": "pack_100"}, "body"),
        ({"plan": None, "pack": None}, "body"),
        ({"plan": "free"}, "plan"),
        ({"plan": "PRO"}, "plan"),
        ({"plan": 1}, "plan"),
        ({"pack": "x" * 65}, "pack"),
        ({"plan": "basic", "success_url": None}, "success_url"),
        ({"plan": "basic", "cancel_url": 3}, "cancel_url"),
        ({"plan": "basic", "cancel_url": f"{SITE}/{'x' * 2000}"}, "cancel_url"),
    ],
    ids=["neither", "both", "two nulls", "the free plan", "another plan", "a number", "a long pack", "no return URL",
         "not text", "a long URL"],
)  # fmt: skip
def test_an_invalid_field_is_named(billing: BillingStack, body: dict[str, Any], field: str) -> None:
    user = billing.new_user()
    clear_requests(billing)
    response = click(billing, user, **body)
    assert failed(response) == (422, "invalid_request")
    assert [one["field"] for one in response.json()["error"]["fields"]] == [field]
    assert stripe_requests(billing) == []
    assert billing.subscription_row(user)["stripe_customer_id"] is None


@pytest.mark.parametrize(("method", "path"), [("POST", "/checkout"), ("POST", "/portal"), ("PATCH", "/overage")])
def test_a_body_that_is_not_json_is_refused(billing: BillingStack, method: str, path: str) -> None:
    user = billing.new_user()
    for body in (b"", b"{", b"\xff", b'{"plan": NaN}'):
        response = billing.checkout.request(method, path, content=body, headers=user.headers)
        assert failed(response) == (400, "invalid_json")
    response = billing.checkout.request(method, path, content=b"[]", headers=user.headers)
    assert failed(response) == (422, "invalid_request")


@pytest.mark.parametrize("pack", ["pack_7", "", "PACK_100", "plan_basic", "basic"])
def test_an_unknown_pack_is_not_found(billing: BillingStack, pack: str) -> None:
    user = billing.new_user()
    clear_requests(billing)
    assert failed(click(billing, user, pack=pack)) == (404, "not_found")
    assert stripe_requests(billing) == []


def test_a_withdrawn_pack_is_not_found(billing: BillingStack) -> None:
    user, slug = billing.new_user(), f"pack_{uuid.uuid4().hex[:8]}"
    billing.db.execute(
        "insert into public.packs (slug, name, credits, price_usd, is_sold) values (%s, 'Old', 7, 1, false)", (slug,)
    )
    try:
        assert failed(click(billing, user, pack=slug)) == (404, "not_found")
        assert slug not in billing.checkout.get("/plans").text
    finally:
        billing.db.execute("delete from public.packs where slug = %s", (slug,))


OTHER_ORIGINS = {
    "another host": "https://evil.example/",
    "our host as the user name": "https://shop.example@evil.example/",
    "our host and port as the user name": "https://shop.example:443@evil.example/",
    "another host as the user name": "https://evil.example@shop.example/",
    "our host as a prefix": "https://shop.example.evil.example/",
    "our host with a suffix": "https://shop.examples/",
    "a subdomain of our host": "https://www.shop.example/",
    "our host in its path": "https://evil.example/https://shop.example/",
    "our host in its query": "https://evil.example?https://shop.example/",
    "our host in its fragment": "https://evil.example#https://shop.example/",
    "a backslash for a slash": "https://evil.example\\@shop.example/",
    "a backslash after our host": "https://shop.example\\@evil.example/",
    "backslashes for both": "https:\\\\shop.example/",
    "one slash": "https:/shop.example/",
    "three slashes": "https:///shop.example/",
    "another scheme": "http://shop.example/",
    "a scheme of an app": "shop.example://shop.example/",
    "another port": "https://shop.example:8443/",
    "another port of this machine": "http://localhost:3001/",
    "an uppercase host": "https://SHOP.EXAMPLE/",
    "a script": "javascript:alert(1)//https://shop.example/",
    "a script with our host": "javascript://shop.example/%0aalert(1)",
    "data": "data:text/html,https://shop.example/",
    "no scheme": "//shop.example/",
    "a path": "/done",
    "empty": "",
    "a space before": " https://shop.example/",
    "a tab in our host": "https://shop.ex\tample/",
    "a line break": "https://shop.example/\nhttps://evil.example/",
    "a Cyrillic letter": "https://shоp.example/",
    "a full-width dot": "https://shop．example/",
    "an open bracket": "https://[shop.example/",
    "a dot after our host": "https://shop.example./",
    "an encoded slash": "https://shop.example%2f@evil.example/",
}


@pytest.mark.parametrize("url", OTHER_ORIGINS.values(), ids=OTHER_ORIGINS)
def test_return_urls_on_other_origins_are_refused(billing: BillingStack, buyer: Person, url: str) -> None:
    clear_requests(billing)
    for path, body in (
        ("/checkout", {"plan": "pro", "success_url": url, "cancel_url": url}),
        ("/portal", {"return_url": url}),
    ):
        response = billing.call_checkout(buyer, path, **body)
        assert failed(response) == (422, "invalid_request")
        assert response.json()["error"]["fields"] == [
            {"field": field, "message": "must be on an allowed origin"} for field in body if field != "plan"
        ]
    assert stripe_requests(billing) == []


@pytest.mark.parametrize("field", URLS)
@pytest.mark.parametrize("what", [{"plan": "basic"}, {"pack": "pack_100"}], ids=["plan", "pack"])
def test_one_wrong_return_url_is_enough_to_refuse(billing: BillingStack, what: dict[str, str], field: str) -> None:
    user = billing.new_user()
    clear_requests(billing)
    response = click(billing, user, **what, **{field: "https://evil.example/"})
    assert [one["field"] for one in response.json()["error"]["fields"]] == [field]
    assert stripe_requests(billing) == []
    assert billing.subscription_row(user)["stripe_customer_id"] is None


@pytest.mark.parametrize(
    "url", [SITE, f"{SITE}/a/b?c=d&e=%2F#f", "http://localhost:3000/done", f"{SITE}?next=https://evil.example"]
)
def test_every_url_on_an_allowed_origin_is_accepted(billing: BillingStack, buyer: Person, url: str) -> None:
    page = page_of(click(billing, buyer, plan="basic", success_url=url, cancel_url=url))
    session = stripe_get(billing, f"checkout/sessions/{page['session_id']}")
    assert (session["success_url"], session["cancel_url"]) == (url, url)
    assert billing.call_checkout(buyer, "/portal", return_url=url).status_code == 200


ROUTES = {
    "/checkout": ("POST", {"plan": "basic", **URLS}),
    "/portal": ("POST", {"return_url": SITE}),
    "/overage": ("PATCH", {"allow_overages": False}),
}


@pytest.mark.parametrize("path", ROUTES)
def test_authentication_is_checked_before_the_body(billing: BillingStack, path: str) -> None:
    method, body = ROUTES[path]
    user = billing.new_user()
    clear_requests(billing)
    anonymous = {"authorization": f"Bearer {billing.stack.info['publishable_key']}"}
    for headers in (
        {},
        anonymous,
        {"authorization": f"Bearer {user.token}x"},
        {"authorization": f"Basic {user.token}"},
    ):
        assert failed(billing.checkout.request(method, path, json=body, headers=headers)) == (401, "unauthenticated")
        assert failed(billing.checkout.request(method, path, content=b"{", headers=headers)) == (401, "unauthenticated")
    assert stripe_requests(billing) == []


def test_a_deleted_user_cannot_buy(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.db.execute("delete from auth.users where id = %s", (user.id,))
    clear_requests(billing)
    assert failed(click(billing, user, plan="basic")) == (401, "unauthenticated")
    assert failed(click(billing, user, pack="pack_100")) == (401, "unauthenticated")
    assert failed(billing.call_checkout(user, "/portal", return_url=SITE)) == (401, "unauthenticated")
    assert stripe_requests(billing) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_ORIGINS", "https://shop.example/path"),
        ("ALLOWED_ORIGINS", "shop.example"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://shop.example,"),
        ("ALLOWED_ORIGINS", "ftp://shop.example"),
        ("STRIPE_SECRET_KEY", "pk_test_canary"),
        ("STRIPE_AUTOMATIC_TAX", "perhaps"),
    ],
)
def test_invalid_settings_are_named_without_their_value(billing: BillingStack, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} ") as caught:
        load(CheckoutSettings, {**environment(billing.stack, billing.fake.url), name: value})
    assert value not in str(caught.value).replace("https://example.org", "")


def test_a_trailing_slash_of_an_origin_is_ignored(billing: BillingStack) -> None:
    known = {
        **environment(billing.stack, billing.fake.url),
        "ALLOWED_ORIGINS": " https://a.example/ ,http://localhost:3000",
    }
    assert load(CheckoutSettings, known).allowed_origins == {"https://a.example", "http://localhost:3000"}
