"""publish-catalog: Stripe sells what the tables plans and packs contain, also after repeated and interrupted runs."""

import asyncio
import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from stripe import StripeError

from functions.common.billing.catalog import PORTAL_KEY
from functions.common.billing.events import HANDLED_EVENTS
from functions.common.billing.stripe_client import Account
from functions.common.errors import Internal
from functions.maintenance.publish_catalog import publish_catalog
from functions.maintenance.stripe_settings import portal_features
from infra.local.stack import Stack
from tests.billing_kit import (
    DAY,
    HOUR,
    SITE,
    BillingStack,
    running_billing,
    stripe_get,
    stripe_post,
    with_stripe_client,
)
from tests.functions.maintenance.kit import command
from tests.local.stripe.kit import KEY, SECRET
from tests.sql.metering import value

Json = dict[str, Any]
PLANS = {"plan_basic": 999, "plan_pro": 2999, "plan_usage_only": 0}
PACKS = {"pack_100": 225, "pack_500": 1000}


@pytest.fixture(scope="module")
def shared_billing(stack: Stack) -> Iterator[BillingStack]:
    """A stand-in of its own: these tests change the catalogue."""
    with running_billing(stack) as billing:
        yield billing


@pytest.fixture
def billing(shared_billing: BillingStack) -> BillingStack:
    """The stand-in without a catalogue."""
    shared_billing.fake.reset()
    shared_billing.fake.control("/_webhooks", url=endpoint_url(shared_billing), secret=SECRET)
    shared_billing.fake.control("/_webhooks/mode", hold=True)
    return shared_billing


@pytest.fixture
def plans(billing: BillingStack) -> Json:
    """A copy of list_plans that the test may change."""
    return copy.deepcopy(value(billing.db, "select public.list_plans()"))


def endpoint_url(billing: BillingStack) -> str:
    """The URL of our endpoint."""
    return f"{billing.webhooks_url}/webhooks/stripe"


def run(billing: BillingStack, plans: Mapping[str, Any]) -> dict[str, str]:
    """Publish the plans. Returns the report's lines by lookup key."""

    async def work(account: Account) -> list[str]:
        return (await publish_catalog(account, plans, webhooks_url=endpoint_url(billing)))["report"]

    lines = asyncio.run(with_stripe_client(billing, work))
    return {line.split()[0]: line for line in lines}


def plan(plans: Json, tier: str) -> Json:
    """One plan of the copy."""
    found: Json = next(one for one in plans["plans"] if one["tier"] == tier)
    return found


def on_sale(billing: BillingStack) -> dict[str, Json]:
    """The active prices by lookup key, or by id without one."""
    found = stripe_get(billing, "prices", active="true", limit=100)["data"]
    return {one["lookup_key"] or one["id"]: one for one in found}


def writes(billing: BillingStack) -> list[str]:
    """The paths of the POST requests to Stripe since the list was cleared."""
    return [one["path"] for one in billing.fake.http.get("/_requests").json() if one["method"] == "POST"]


def test_the_first_run_creates_all_products_and_prices(billing: BillingStack, plans: Json) -> None:
    lines = run(billing, plans)
    assert list(lines) == ["plan_usage_only", "plan_basic", "plan_pro", "pack_100", "pack_500", "portal", "webhooks"]
    assert all("product created, price price_" in lines[key] for key in (*PLANS, *PACKS))
    assert lines["portal"].endswith(" created")
    assert "$9.99 a month" in lines["plan_basic"]
    assert "$2.25 " in lines["pack_100"]
    products = {one["id"]: one["name"] for one in stripe_get(billing, "products", active="true", limit=100)["data"]}
    assert products == {
        "canadagpt_plan_usage_only": "CanadaGPT Pay as you go",
        "canadagpt_plan_basic": "CanadaGPT Basic",
        "canadagpt_plan_pro": "CanadaGPT Pro",
        "canadagpt_pack_100": "CanadaGPT 100 queries",
        "canadagpt_pack_500": "CanadaGPT 500 queries",
    }
    prices = on_sale(billing)
    assert {key: price["unit_amount"] for key, price in prices.items()} == {**PLANS, **PACKS}
    assert {price["currency"] for price in prices.values()} == {"usd"}
    assert {price["tax_behavior"] for price in prices.values()} == {"exclusive"}
    for key in PLANS:
        assert (prices[key]["recurring"]["interval"], prices[key]["recurring"]["interval_count"]) == ("month", 1)
    for key in PACKS:
        assert prices[key]["recurring"] is None
    assert {key: price["product"] for key, price in prices.items()} == {key: f"canadagpt_{key}" for key in prices}


def test_a_second_run_changes_nothing(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    before = billing.fake.http.get("/_state").json()
    billing.fake.http.delete("/_requests")
    lines = run(billing, plans)
    assert all(line.endswith("unchanged") for line in lines.values())
    assert len(lines) == 7
    assert writes(billing) == []
    assert billing.fake.http.get("/_state").json() == before


def test_a_changed_price_applies_to_new_buyers_only(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    user, later = billing.new_user(), billing.new_user()
    billing.buy(user, plan="basic")
    billing.deliver()
    old = on_sale(billing)["plan_basic"]
    waiting = billing.checkout_page(later, plan="basic")

    plan(plans, "basic")["price_usd"] = "12.500000"
    lines = run(billing, plans)
    new = on_sale(billing)["plan_basic"]
    assert (new["unit_amount"], new["product"]) == (1250, "canadagpt_plan_basic")
    assert new["id"] != old["id"]
    assert {key: one["unit_amount"] for key, one in on_sale(billing).items()} == {**PLANS, **PACKS, "plan_basic": 1250}
    retired = stripe_get(billing, f"prices/{old['id']}")
    assert (retired["active"], retired["lookup_key"], retired["unit_amount"]) == (False, None, 999)
    assert f"price {new['id']} created, price {old['id']} retired" in lines["plan_basic"]
    assert lines["portal"].endswith(" subscription_update.products")
    assert all(line.endswith("unchanged") for key, line in lines.items() if key not in ("plan_basic", "portal"))

    billing.advance_and_deliver(31 * DAY + 2 * HOUR)
    (subscription,) = stripe_get(billing, "subscriptions", customer=billing.customer_id(user))["data"]
    assert [item["price"]["id"] for item in subscription["items"]["data"]] == [old["id"]]
    paid = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="paid")["data"]
    assert [invoice["total"] for invoice in paid] == [999, 999]
    row = billing.subscription_row(user)
    assert (row["tier"], row["status"], row["current_period_start"].timestamp()) == (
        "basic",
        "active",
        subscription["items"]["data"][0]["current_period_start"],
    )

    billing.db.execute("update public.plans set price_usd = 12.5 where tier = 'basic'")
    try:
        page = billing.checkout_page(later, plan="basic")
    finally:
        billing.db.execute("update public.plans set price_usd = 9.99 where tier = 'basic'")
    assert page != waiting
    assert billing.fake.http.get(waiting).status_code == 410
    session = stripe_get(billing, "checkout/sessions", customer=billing.customer_id(later), status="open")["data"][0]
    assert (session["amount_total"], session["success_url"]) == (1250, f"{SITE}/done")


@pytest.mark.parametrize(
    ("key", "cents"), [("plan_usage_only", 100), ("pack_100", 250)], ids=["a plan of $0", "a pack"]
)
def test_plan_and_pack_prices_change_and_change_back(billing: BillingStack, plans: Json, key: str, cents: int) -> None:
    first = copy.deepcopy(plans)
    run(billing, plans)
    thing = plan(plans, "usage_only") if key == "plan_usage_only" else plans["packs"][0]
    thing["price_usd"] = str(cents / 100)
    run(billing, plans)
    assert on_sale(billing)[key]["unit_amount"] == cents
    run(billing, first)
    assert {name: one["unit_amount"] for name, one in on_sale(billing).items()} == {**PLANS, **PACKS}
    billing.fake.http.delete("/_requests")
    run(billing, first)
    assert writes(billing) == []


@pytest.mark.parametrize("key", ["plan_basic", "pack_100"])
def test_a_default_price_is_replaced_before_it_is_retired(billing: BillingStack, plans: Json, key: str) -> None:
    run(billing, plans)
    old = on_sale(billing)[key]["id"]
    stripe_post(billing, f"products/canadagpt_{key}", default_price=old)
    assert run(billing, plans)[key].endswith("unchanged")
    thing = plan(plans, "basic") if key == "plan_basic" else plans["packs"][0]
    thing["price_usd"] = "11.990000"
    lines = run(billing, plans)
    new = on_sale(billing)[key]["id"]
    assert lines[key].endswith(f"price {new} created, default price changed, price {old} retired")
    assert stripe_get(billing, f"products/canadagpt_{key}")["default_price"] == new
    assert stripe_get(billing, f"prices/{old}")["active"] is False
    assert all(line.endswith("unchanged") for line in run(billing, plans).values())


def test_another_default_price_is_a_difference(billing: BillingStack, plans: Json) -> None:
    """It is what Stripe's own pages sell."""
    run(billing, plans)
    params = {"product": "canadagpt_plan_pro", "currency": "usd", "unit_amount": "100"}
    stray = stripe_post(billing, "prices", **params)["id"]
    stripe_post(billing, "products/canadagpt_plan_pro", default_price=stray)
    checked = command(billing, "publish-catalog", "--check")
    assert checked.returncode == 1
    assert f"default price changed, price {stray} retired" in checked.stdout
    run(billing, plans)
    assert stripe_get(billing, f"prices/{stray}")["active"] is False


def test_the_portal_sells_the_new_price_before_the_old_one_is_retired(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    old = on_sale(billing)["plan_basic"]["id"]
    plan(plans, "basic")["price_usd"] = "11.990000"
    billing.fake.control("/_faults", method="POST", path=f"/v1/prices/{old}", status=400)
    with pytest.raises(StripeError):
        run(billing, plans)
    new = next(price["id"] for price in on_sale(billing).values() if price["unit_amount"] == 1199)
    products = {one["product"]: one["prices"] for one in portal_settings(billing)["subscription_update"]["products"]}
    assert products["canadagpt_plan_basic"] == [new]


def test_changed_names_and_archived_products_are_corrected(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    prices = on_sale(billing)
    stripe_post(billing, "products/canadagpt_pack_500", active="false")
    plan(plans, "pro")["name"] = "Professional"
    lines = run(billing, plans)
    assert lines["plan_pro"].endswith("product updated")
    assert lines["pack_500"].endswith("product updated")
    assert stripe_get(billing, "products/canadagpt_plan_pro")["name"] == "CanadaGPT Professional"
    assert stripe_get(billing, "products/canadagpt_pack_500")["active"] is True
    assert on_sale(billing) == prices


def test_a_price_altered_at_stripe_is_created_again(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    prices = on_sale(billing)
    stripe_post(billing, f"prices/{prices['pack_100']['id']}", active="false")
    stripe_post(billing, f"prices/{prices['plan_pro']['id']}", lookup_key="mine")
    stray = stripe_post(billing, "prices", product="canadagpt_plan_basic", currency="usd", unit_amount="1")["id"]
    lines = run(billing, plans)
    assert {key: price["unit_amount"] for key, price in on_sale(billing).items()} == {**PLANS, **PACKS}
    assert lines["plan_basic"].endswith(f"price {stray} retired")
    assert lines["plan_usage_only"].endswith("unchanged")
    assert stripe_get(billing, f"prices/{prices['plan_pro']['id']}")["active"] is False


@pytest.mark.parametrize("behavior", [{"tax_behavior": "inclusive"}, {}], ids=["inclusive", "the account's default"])
def test_a_price_that_may_include_its_tax_is_replaced(
    billing: BillingStack, plans: Json, behavior: dict[str, str]
) -> None:
    run(billing, plans)
    params = {"product": "canadagpt_pack_500", "currency": "usd", "unit_amount": "1000", "lookup_key": "pack_500"}
    other = stripe_post(billing, "prices", **params, **behavior, transfer_lookup_key="true")["id"]
    run(billing, plans)
    assert stripe_get(billing, f"prices/{other}")["active"] is False
    assert on_sale(billing)["pack_500"]["tax_behavior"] == "exclusive"


def test_products_that_are_not_ours_stay_unchanged(billing: BillingStack, plans: Json) -> None:
    product = stripe_post(billing, "products", name="A mug")["id"]
    price = stripe_post(billing, "prices", product=product, currency="cad", unit_amount="1500", lookup_key="mug")
    run(billing, plans)
    assert stripe_get(billing, f"prices/{price['id']}") == price
    assert stripe_get(billing, f"products/{product}")["name"] == "A mug"


def test_a_price_with_a_fraction_of_a_cent_is_refused(billing: BillingStack, plans: Json) -> None:
    plans["packs"][0]["price_usd"] = "2.255000"
    with pytest.raises(Internal, match=r"whole cents, not 2\.255"):
        run(billing, plans)
    assert writes(billing) == []


INTERRUPTIONS = {
    "before the first product": ("", "/v1/products", False),
    "before its price": ("", "/v1/prices", False),
    "with a lost response for its price": ("", "/v1/prices", True),
    "before a name": ("basic", "/v1/products/", False),
    "before another price": ("basic", "/v1/prices", False),
    "before the portal has the price": ("basic", "/v1/billing_portal/configurations/", False),
    "with a lost response for another price": ("basic", "/v1/prices", True),
    "before the old one is retired": ("basic", "/v1/prices/{old}", False),
}


@pytest.mark.parametrize(("changed", "path", "lost"), INTERRUPTIONS.values(), ids=INTERRUPTIONS)
def test_the_next_run_completes_an_interrupted_run(
    billing: BillingStack, plans: Json, changed: str, path: str, lost: bool
) -> None:
    expected = {**PLANS, **PACKS}
    if changed:
        run(billing, plans)
        plan(plans, changed).update(price_usd="12.00", name="Fundamental")
        expected["plan_basic"] = 1200
        path = path.format(old=on_sale(billing)["plan_basic"]["id"])
    billing.fake.control("/_faults", method="POST", path=path, status=403, lost=lost)
    with pytest.raises(StripeError):
        run(billing, plans)
    assert billing.fake.http.get("/_faults").json() == []
    run(billing, plans)
    assert {key: price["unit_amount"] for key, price in on_sale(billing).items()} == expected
    assert len(stripe_get(billing, "prices", limit=100)["data"]) == len(expected) + bool(changed)
    assert len(stripe_get(billing, "products", limit=100)["data"]) == len(expected)
    assert stripe_get(billing, "products/canadagpt_plan_basic")["name"] == (
        "CanadaGPT Fundamental" if changed else "CanadaGPT Basic"
    )
    billing.fake.http.delete("/_requests")
    assert all(line.endswith("unchanged") for line in run(billing, plans).values())
    assert writes(billing) == []


# The settings -----------------------------------------------------------------------------------------------------


def portal_settings(billing: BillingStack) -> Json:
    """The features of the only portal configuration."""
    (found,) = stripe_get(billing, "billing_portal/configurations", active="true")["data"]
    features: Json = found["features"]
    return features


def test_the_portal_switches_only_between_our_plans(billing: BillingStack, plans: Json) -> None:
    stripe_post(billing, "billing_portal/configurations", **{"features[invoice_history][enabled]": "true"})
    other = stripe_get(billing, "billing_portal/configurations")["data"][0]["id"]
    run(billing, plans)
    stripe_post(billing, f"billing_portal/configurations/{other}", active="false")
    features, prices = portal_settings(billing), on_sale(billing)
    assert {one["product"]: one["prices"] for one in features["subscription_update"]["products"]} == {
        prices[key]["product"]: [prices[key]["id"]] for key in PLANS
    }
    assert features["subscription_update"]["proration_behavior"] == "always_invoice"
    assert features["subscription_update"]["schedule_at_period_end"]["conditions"] == [
        {"type": "decreasing_item_amount"}
    ]
    assert features["subscription_cancel"]["mode"] == "at_period_end"
    assert features["payment_method_update"]["enabled"]


def test_changed_settings_are_checked_and_corrected(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    configuration = stripe_get(billing, "billing_portal/configurations")["data"][0]["id"]
    (endpoint,) = stripe_get(billing, "webhook_endpoints")["data"]
    before = portal_settings(billing)
    changes = {"features[subscription_cancel][mode]": "immediately", "features[subscription_cancel][enabled]": "true"}
    stripe_post(billing, f"billing_portal/configurations/{configuration}", **changes)
    params = {"enabled_events[0]": "invoice.paid", "enabled_events[1]": "payout.paid", "disabled": "true"}
    stripe_post(billing, f"webhook_endpoints/{endpoint['id']}", **params)
    billing.fake.http.delete("/_requests")

    checked = command(billing, "publish-catalog", "--check")
    assert (checked.returncode, writes(billing)) == (1, [])
    assert json.loads(checked.stdout.splitlines()[-1]) == {"products": 5, "changed": 0, "differences": 2}
    assert "subscription_cancel.mode" in checked.stdout
    assert "refund.failed" in checked.stdout

    run(billing, plans)
    assert portal_settings(billing) == before
    (endpoint,) = stripe_get(billing, "webhook_endpoints")["data"]
    assert endpoint["status"] == "enabled"
    assert set(endpoint["enabled_events"]) == {*HANDLED_EVENTS, "payout.paid"}
    assert command(billing, "publish-catalog", "--check").returncode == 0


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"[billing_cycle_anchor]": "now"}, "subscription_update.billing_cycle_anchor"),
        ({"[trial_update_behavior]": "continue_trial"}, "subscription_update.trial_update_behavior"),
        ({"[products][0][adjustable_quantity][enabled]": "true"}, "subscription_update.products"),
    ],
)
def test_every_rule_of_a_change_of_plan_is_checked(
    billing: BillingStack, plans: Json, changed: dict[str, str], line: str
) -> None:
    run(billing, plans)
    before = portal_settings(billing)
    (configuration,) = stripe_get(billing, "billing_portal/configurations")["data"]
    update = {**changed}
    if line.endswith("products"):
        for number, product in enumerate(before["subscription_update"]["products"]):
            update |= {f"[products][{number}][product]": product["product"]}
            update |= {f"[products][{number}][prices][0]": product["prices"][0]}
    params = {f"features[subscription_update]{name}": text for name, text in update.items()}
    stripe_post(billing, f"billing_portal/configurations/{configuration['id']}", **params)
    assert portal_settings(billing) != before
    assert run(billing, plans)["portal"].split()[1:] == [line]
    assert portal_settings(billing) == before


def test_a_rule_that_is_null_has_its_default(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    features = portal_features(
        {price["product"]: price["id"] for key, price in on_sale(billing).items() if key in PLANS}
    )
    del features["subscription_update"]["billing_cycle_anchor"]
    (first,) = stripe_get(billing, "billing_portal/configurations")["data"]
    stripe_post(billing, f"billing_portal/configurations/{first['id']}", active="false")
    made: Any = {"features": features, "metadata": {PORTAL_KEY: "true"}}
    billing.fake.v1.billing_portal.configurations.create(made)
    assert portal_settings(billing)["subscription_update"]["billing_cycle_anchor"] is None
    assert run(billing, plans)["portal"].endswith("unchanged")


@pytest.mark.parametrize("version", ["2019-02-19", "2025-02-24.acacia"])
def test_an_endpoint_of_an_old_version_is_a_difference(billing: BillingStack, plans: Json, version: str) -> None:
    """Stripe cannot change the version of an endpoint."""
    run(billing, plans)
    url = "https://old.example/webhooks/stripe"
    stripe_post(billing, "webhook_endpoints", url=url, api_version=version, **{"enabled_events[0]": "*"})
    command(billing, "publish-catalog", "--webhooks-url", url)
    checked = command(billing, "publish-catalog", "--check")
    assert checked.returncode == 1
    assert f"of version {version}: create another endpoint" in checked.stdout


def test_tax_is_checked_where_it_is_collected(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)

    def check(**settings: str) -> tuple[int, list[str]]:
        done = command(billing, "publish-catalog", "--check", **settings)
        return done.returncode, [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line[:4] == "tax "]

    assert check() == (0, [])
    assert check(STRIPE_AUTOMATIC_TAX="true") == (0, ["unchanged"])
    billing.fake.control("/_faults", method="GET", path="/v1/tax/settings", status=403)
    assert check(STRIPE_AUTOMATIC_TAX="true") == (1, ["cannot be read: allow the key to read Tax"])
    billing.fake.control("/_tax", is_set_up=False)
    assert check(STRIPE_AUTOMATIC_TAX="true") == (1, ["pending, without head_office, no registration is active"])
    assert check() == (0, [])


def test_other_endpoints_stay_as_they_are(billing: BillingStack, plans: Json) -> None:
    """Also at the same path, and our own if an operator disabled it."""
    params = {"url": "https://shop.example/webhooks/stripe", "enabled_events[0]": "payout.paid"}
    other = stripe_post(billing, "webhook_endpoints", **params)["id"]
    other = stripe_post(billing, f"webhook_endpoints/{other}", disabled="true")
    assert run(billing, plans)["webhooks"].endswith("not marked as ours")
    assert command(billing, "publish-catalog", "--check").returncode == 0
    (own,) = (one["id"] for one in stripe_get(billing, "webhook_endpoints")["data"] if one["id"] != other["id"])
    stripe_post(billing, f"webhook_endpoints/{own}", disabled="true")
    assert f"enable it with --webhooks-url {endpoint_url(billing)}" in command(billing, "publish-catalog").stdout
    found = {one["id"]: one for one in stripe_get(billing, "webhook_endpoints")["data"]}
    assert found[own]["status"] == "disabled"
    assert run(billing, plans)["webhooks"].endswith("disabled")
    assert found.pop(other["id"]) == other


def test_a_new_endpoint_takes_the_place_of_the_old_one(billing: BillingStack, plans: Json) -> None:
    run(billing, plans)
    url = "https://new.example/webhooks/stripe"
    new = stripe_post(billing, "webhook_endpoints", url=url, **{"enabled_events[0]": "invoice.paid"})["id"]
    done = command(billing, "publish-catalog", "--webhooks-url", f"{url}/")
    assert f"{endpoint_url(billing)} is no longer ours" in done.stdout
    found = {one["id"]: one for one in stripe_get(billing, "webhook_endpoints")["data"]}
    assert set(found.pop(new)["enabled_events"]) == {*HANDLED_EVENTS}
    assert [one["metadata"] for one in found.values()] == [{}]
    assert command(billing, "publish-catalog", "--check").returncode == 0


def test_check_names_what_is_missing_and_writes_nothing(billing: BillingStack) -> None:
    billing.fake.control("/_webhooks", url="")
    checked = command(billing, "publish-catalog", "--check")
    assert (checked.returncode, writes(billing)) == (1, [])
    assert json.loads(checked.stdout.splitlines()[-1])["differences"] == 7
    assert "none is ours: use --webhooks-url" in checked.stdout


# The command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_line_for_each_product(billing: BillingStack) -> None:
    done = command(billing, "publish-catalog", "--webhooks-url", endpoint_url(billing))
    assert done.returncode == 0
    assert done.stderr.startswith("publish-catalog: done in ")
    prices = on_sale(billing)
    *lines, counts = done.stdout.splitlines()
    assert json.loads(counts) == {"products": 5, "changed": 7, "differences": 0}
    assert [line.split() for line in lines[5:]] == [["portal", "created"], ["webhooks", "not", "marked", "as", "ours"]]
    assert lines[:5] == [
        f"{key:<16} {amount:<16} product created, price {prices[key]['id']} created"
        for key, amount in {
            "plan_usage_only": "$0.00 a month",
            "plan_basic": "$9.99 a month",
            "plan_pro": "$29.99 a month",
            "pack_100": "$2.25",
            "pack_500": "$10.00",
        }.items()
    ]


def test_a_failing_command_prints_one_sentence_without_secrets(billing: BillingStack) -> None:
    other_key = "sk_test_canary_of_another_account"
    no_key = command(billing, "publish-catalog", STRIPE_SECRET_KEY="")
    wrong_key = command(billing, "publish-catalog", STRIPE_SECRET_KEY=other_key)
    assert no_key.stderr == "publish-catalog: STRIPE_SECRET_KEY is missing.\n"
    assert "Invalid API Key" in wrong_key.stderr
    for done in (no_key, wrong_key):
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("publish-catalog: ")
        assert done.stderr.count("\n") == 1
        assert not [secret for secret in (KEY, other_key) if secret in done.stderr]
    assert writes(billing) == []
