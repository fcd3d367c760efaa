"""The billing portal and the overage settings."""

import json
import uuid
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest

from tests.api import Api, question
from tests.billing_kit import (
    SITE,
    BillingStack,
    stripe_get,
)
from tests.conftest import Person
from tests.functions.checkout.kit import (
    clear_requests,
    failed,
    set_overage,
    stripe_requests,
)


def test_a_user_without_purchases_has_no_portal(billing: BillingStack) -> None:
    user = billing.new_user()
    clear_requests(billing)
    assert failed(billing.call_checkout(user, "/portal", return_url=SITE)) == (404, "not_found")
    assert stripe_requests(billing) == []


def test_the_portal_shows_only_the_users_own_subscription(
    billing: BillingStack, subscriber: Callable[[], Person]
) -> None:
    user = subscriber()
    response = billing.call_checkout(user, "/portal", return_url=f"{SITE}/account")
    assert response.status_code == 200
    assert set(response.json()) == {"url"}
    assert "Basic" in billing.fake.http.get(response.json()["url"]).text
    back = billing.fake.http.post(response.json()["url"], data={"action": "back"})
    assert back.headers["location"] == f"{SITE}/account"
    other = billing.new_user()
    billing.checkout_page(other, plan="basic")
    assert (
        "CanadaGPT"
        not in billing.fake.http.get(billing.call_checkout(other, "/portal", return_url=SITE).json()["url"]).text
    )


def test_the_portal_has_the_published_configuration(billing: BillingStack, subscriber: Callable[[], Person]) -> None:
    url = billing.call_checkout(subscriber(), "/portal", return_url=SITE).json()["url"]
    (configuration,) = stripe_get(billing, "billing_portal/configurations")["data"]
    sessions = billing.fake.http.get("/_state").json()["billing_portal.session"]
    used = {session["id"]: session["configuration"] for session in sessions}
    assert used[url.rsplit("/", 1)[1]] == configuration["id"]


def test_the_portal_needs_a_return_url(billing: BillingStack, buyer: Person) -> None:
    for body in ({}, {"return_url": None}, {"return_url": f"{SITE}/{'x' * 2000}"}):
        response = billing.call_checkout(buyer, "/portal", **body)
        assert failed(response) == (422, "invalid_request")
        assert [one["field"] for one in response.json()["error"]["fields"]] == ["return_url"]


@pytest.mark.parametrize(
    ("body", "allowed", "limit"),
    [
        ('{"allow_overages": false}', False, "7.5"),
        ('{"overage_limit_usd": 25.25}', True, "25.25"),
        ('{"allow_overages": false, "overage_limit_usd": 0}', False, "0"),
        ('{"overage_limit_usd": null}', True, "10"),
        ('{"overage_limit_usd": 10000}', True, "10000"),
        ('{"overage_limit_usd": 0.000001}', True, "0.000001"),
        ('{"overage_limit_usd": 9999.999999}', True, "9999.999999"),
        ('{"overage_limit_usd": 0.1}', True, "0.1"),
        ('{"allow_overages": null}', True, "7.5"),
        ("{}", True, "7.5"),
    ],
)
def test_overage_settings_change_only_the_given_fields(
    billing: BillingStack, api: Api, body: str, allowed: bool, limit: str
) -> None:
    user, other = (billing.new_user("basic", overage_limit="7.5", overage_ceiling="10000") for _ in range(2))
    response = set_overage(billing, user, body)
    assert response.status_code == 200
    overage = json.loads(response.text, parse_float=Decimal)
    assert overage == {
        "allowed": allowed,
        "currency": "usd",
        "price_usd": Decimal("0.025"),
        "limit_usd": Decimal(limit),
        "used_usd": 0,
    }
    assert response.json() == api.usage(user)["overage"]
    assert api.usage(other)["overage"]["limit_usd"] == 7.5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"overage_limit_usd": -1}', "overage_limit_usd"),
        ('{"overage_limit_usd": -0.000001}', "overage_limit_usd"),
        ('{"overage_limit_usd": 10001}', "overage_limit_usd"),
        ('{"overage_limit_usd": 10000.000001}', "overage_limit_usd"),
        ('{"overage_limit_usd": 0.0000001}', "overage_limit_usd"),
        ('{"overage_limit_usd": "NaN"}', "overage_limit_usd"),
        ('{"overage_limit_usd": "Infinity"}', "overage_limit_usd"),
        ('{"overage_limit_usd": "ten"}', "overage_limit_usd"),
        ('{"overage_limit_usd": [1]}', "overage_limit_usd"),
        ('{"allow_overages": "perhaps"}', "allow_overages"),
        ('{"allow_overages": false, "tier": "pro"}', "tier"),
        ('{"allow_overages": false, "current_overage_amount": 0}', "current_overage_amount"),
    ],
)
def test_invalid_overage_settings_are_named_and_change_nothing(billing: BillingStack, body: str, field: str) -> None:
    user = billing.new_user("basic", overage_limit="7.5")
    before = billing.subscription_row(user)
    response = set_overage(billing, user, body)
    assert failed(response) == (422, "invalid_request")
    assert [one["field"] for one in response.json()["error"]["fields"]] == [field]
    assert billing.subscription_row(user) == before


def test_the_next_query_uses_the_new_overage_settings(billing: BillingStack, api: Api) -> None:
    user = billing.new_user("basic", stripe_subscription_id=uuid.uuid4().hex, quota_used=15, overage_limit="0.025")

    def ask() -> httpx.Response:
        return api.chat(user, question("What is a quorum?"))

    set_overage(billing, user, '{"allow_overages": false}')
    assert failed(ask()) == (429, "quota_exhausted")
    set_overage(billing, user, '{"allow_overages": true}')
    assert ask().json()["metadata"]["funding"] == "overage"
    assert failed(ask()) == (429, "overage_limit_reached")
    overage = set_overage(billing, user, '{"overage_limit_usd": 0.05}').json()
    assert (overage["limit_usd"], overage["used_usd"]) == (0.05, 0.025)
    assert ask().json()["metadata"]["funding"] == "overage"
    assert failed(ask()) == (429, "overage_limit_reached")
