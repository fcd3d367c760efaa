"""The catalogue: what the tables plans and packs say is what Stripe sells, however often and however far it was run."""

import asyncio
import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from stripe import StripeError

from functions.common.billing.stripe_client import Account
from functions.common.errors import Internal
from functions.maintenance.publish_catalog import publish_catalog
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.billing_kit import DAY, HOUR, SITE, Town, at_stripe, change, environment, running, with_account
from tests.local.stripe_kit import KEY, SECRET
from tests.sql.metering import value

Json = dict[str, Any]
PLANS = {"plan_basic": 999, "plan_pro": 2999, "plan_usage_only": 0}
PACKS = {"pack_100": 225, "pack_500": 1000}


@pytest.fixture(scope="module")
def street(stack: Stack) -> Iterator[Town]:
    """A town of its own: here the catalogue changes."""
    with running(stack) as town:
        yield town


@pytest.fixture
def town(street: Town) -> Town:
    """The same as it began, but that nothing is sold there yet."""
    settings = street.fake.http.get("/_webhooks").json()
    street.fake.reset()
    street.fake.control("/_webhooks", url=settings["url"], secret=SECRET)
    street.fake.control("/_webhooks/mode", hold=True)
    return street


@pytest.fixture
def plans(town: Town) -> Json:
    """What list_plans says, to be changed by the test."""
    return copy.deepcopy(value(town.db, "select public.list_plans()"))


def run(town: Town, plans: Mapping[str, Any]) -> dict[str, str]:
    """Publish it, as the command does. Returns what is said of each thing."""

    async def work(account: Account) -> list[str]:
        return (await publish_catalog(account, plans))["report"]

    lines = asyncio.run(with_account(town, work))
    return {line.split()[0]: line for line in lines}


def plan(plans: Json, tier: str) -> Json:
    """A plan, to be changed."""
    found: Json = next(one for one in plans["plans"] if one["tier"] == tier)
    return found


def on_sale(town: Town) -> dict[str, Json]:
    """The active prices by their lookup keys; a price without one stands under its id."""
    found = at_stripe(town, "prices", active="true", limit=100)["data"]
    return {one["lookup_key"] or one["id"]: one for one in found}


def writes(town: Town) -> list[str]:
    """What was changed at Stripe since the journal was cleared."""
    return [one["path"] for one in town.fake.http.get("/_requests").json() if one["method"] == "POST"]


def test_the_first_run_makes_a_product_and_a_price_of_everything_that_is_sold(town: Town, plans: Json) -> None:
    lines = run(town, plans)
    assert list(lines) == ["plan_usage_only", "plan_basic", "plan_pro", "pack_100", "pack_500"]
    assert all("product created, price price_" in line for line in lines.values())
    assert "$9.99 a month" in lines["plan_basic"]
    assert "$2.25 " in lines["pack_100"]
    products = {one["id"]: one["name"] for one in at_stripe(town, "products", active="true", limit=100)["data"]}
    assert products == {
        "canadagpt_plan_usage_only": "CanadaGPT Pay as you go",
        "canadagpt_plan_basic": "CanadaGPT Basic",
        "canadagpt_plan_pro": "CanadaGPT Pro",
        "canadagpt_pack_100": "CanadaGPT 100 queries",
        "canadagpt_pack_500": "CanadaGPT 500 queries",
    }
    prices = on_sale(town)
    assert {key: price["unit_amount"] for key, price in prices.items()} == {**PLANS, **PACKS}
    assert {price["currency"] for price in prices.values()} == {"usd"}
    assert {price["tax_behavior"] for price in prices.values()} == {"exclusive"}
    for key in PLANS:
        assert (prices[key]["recurring"]["interval"], prices[key]["recurring"]["interval_count"]) == ("month", 1)
    for key in PACKS:
        assert prices[key]["recurring"] is None
    assert {key: price["product"] for key, price in prices.items()} == {key: f"canadagpt_{key}" for key in prices}


def test_a_second_run_changes_nothing(town: Town, plans: Json) -> None:
    run(town, plans)
    before = town.fake.http.get("/_state").json()
    town.fake.http.delete("/_requests")
    lines = run(town, plans)
    assert all(line.endswith("unchanged") for line in lines.values())
    assert len(lines) == 5
    assert writes(town) == []
    assert town.fake.http.get("/_state").json() == before


def test_a_price_that_changes_is_a_new_one_for_those_who_buy_from_now_on(town: Town, plans: Json) -> None:
    run(town, plans)
    user, later = town.person(), town.person()
    town.buy(user, plan="basic")
    town.deliver()
    old = on_sale(town)["plan_basic"]
    waiting = town.page(later, plan="basic")

    plan(plans, "basic")["price_usd"] = "12.500000"
    lines = run(town, plans)
    new = on_sale(town)["plan_basic"]
    assert (new["unit_amount"], new["product"]) == (1250, "canadagpt_plan_basic")
    assert new["id"] != old["id"]
    assert {key: one["unit_amount"] for key, one in on_sale(town).items()} == {**PLANS, **PACKS, "plan_basic": 1250}
    retired = at_stripe(town, f"prices/{old['id']}")
    assert (retired["active"], retired["lookup_key"], retired["unit_amount"]) == (False, None, 999)
    assert f"price {new['id']} created, price {old['id']} retired" in lines["plan_basic"]
    assert all(line.endswith("unchanged") for key, line in lines.items() if key != "plan_basic")

    town.happen(31 * DAY + 2 * HOUR)
    (subscription,) = at_stripe(town, "subscriptions", customer=town.customer(user))["data"]
    assert [item["price"]["id"] for item in subscription["items"]["data"]] == [old["id"]]
    paid = at_stripe(town, "invoices", customer=town.customer(user), status="paid")["data"]
    assert [invoice["total"] for invoice in paid] == [999, 999]
    row = town.row(user)
    assert (row["tier"], row["status"], row["current_period_start"].timestamp()) == (
        "basic",
        "active",
        subscription["items"]["data"][0]["current_period_start"],
    )

    page = town.page(later, plan="basic")
    assert page != waiting
    assert town.fake.http.get(waiting).status_code == 410
    session = at_stripe(town, "checkout/sessions", customer=town.customer(later), status="open")["data"][0]
    assert (session["amount_total"], session["success_url"]) == (1250, f"{SITE}/done")


@pytest.mark.parametrize(
    ("key", "cents"), [("plan_usage_only", 100), ("pack_100", 250)], ids=["a plan of no price", "a pack"]
)
def test_every_kind_of_price_may_change_and_change_back(town: Town, plans: Json, key: str, cents: int) -> None:
    first = copy.deepcopy(plans)
    run(town, plans)
    thing = plan(plans, "usage_only") if key == "plan_usage_only" else plans["packs"][0]
    thing["price_usd"] = str(cents / 100)
    run(town, plans)
    assert on_sale(town)[key]["unit_amount"] == cents
    run(town, first)
    assert {name: one["unit_amount"] for name, one in on_sale(town).items()} == {**PLANS, **PACKS}
    town.fake.http.delete("/_requests")
    run(town, first)
    assert writes(town) == []


def test_a_name_that_changes_and_a_product_that_was_put_away_are_put_right(town: Town, plans: Json) -> None:
    run(town, plans)
    prices = on_sale(town)
    change(town, "products/canadagpt_pack_500", active="false")
    plan(plans, "pro")["name"] = "Professional"
    lines = run(town, plans)
    assert lines["plan_pro"].endswith("product updated")
    assert lines["pack_500"].endswith("product updated")
    assert at_stripe(town, "products/canadagpt_plan_pro")["name"] == "CanadaGPT Professional"
    assert at_stripe(town, "products/canadagpt_pack_500")["active"] is True
    assert on_sale(town) == prices


def test_a_price_of_ours_that_somebody_altered_at_stripe_is_made_anew(town: Town, plans: Json) -> None:
    run(town, plans)
    prices = on_sale(town)
    change(town, f"prices/{prices['pack_100']['id']}", active="false")
    change(town, f"prices/{prices['plan_pro']['id']}", lookup_key="mine")
    stray = change(town, "prices", product="canadagpt_plan_basic", currency="usd", unit_amount="1")["id"]
    lines = run(town, plans)
    assert {key: price["unit_amount"] for key, price in on_sale(town).items()} == {**PLANS, **PACKS}
    assert lines["plan_basic"].endswith(f"price {stray} retired")
    assert lines["plan_usage_only"].endswith("unchanged")
    assert at_stripe(town, f"prices/{prices['plan_pro']['id']}")["active"] is False


def test_what_is_not_ours_is_left_alone(town: Town, plans: Json) -> None:
    product = change(town, "products", name="A mug")["id"]
    price = change(town, "prices", product=product, currency="cad", unit_amount="1500", lookup_key="mug")
    run(town, plans)
    assert at_stripe(town, f"prices/{price['id']}") == price
    assert at_stripe(town, f"products/{product}")["name"] == "A mug"


def test_a_price_that_is_no_whole_cents_is_refused_before_anything_is_made(town: Town, plans: Json) -> None:
    plans["packs"][0]["price_usd"] = "2.255000"
    with pytest.raises(Internal, match=r"whole cents, not \$2\.255"):
        run(town, plans)
    assert writes(town) == []


ENDS = {
    "before the first product": ("", "/v1/products", False),
    "before its price": ("", "/v1/prices", False),
    "with a price unheard of": ("", "/v1/prices", True),
    "before a name": ("basic", "/v1/products/", False),
    "before another price": ("basic", "/v1/prices", False),
    "with another price unheard of": ("basic", "/v1/prices", True),
    "before the old one is retired": ("basic", "/v1/prices/{old}", False),
}


@pytest.mark.parametrize(("changed", "path", "lost"), ENDS.values(), ids=ENDS)
def test_a_run_that_ends_anywhere_is_finished_by_the_next(
    town: Town, plans: Json, changed: str, path: str, lost: bool
) -> None:
    expected = {**PLANS, **PACKS}
    if changed:
        run(town, plans)
        plan(plans, changed).update(price_usd="12.00", name="Fundamental")
        expected["plan_basic"] = 1200
        path = path.format(old=on_sale(town)["plan_basic"]["id"])
    town.fake.control("/_faults", method="POST", path=path, status=403, lost=lost)
    with pytest.raises(StripeError):
        run(town, plans)
    assert town.fake.http.get("/_faults").json() == []
    run(town, plans)
    assert {key: price["unit_amount"] for key, price in on_sale(town).items()} == expected
    assert len(at_stripe(town, "prices", limit=100)["data"]) == len(expected) + bool(changed)
    assert len(at_stripe(town, "products", limit=100)["data"]) == len(expected)
    assert at_stripe(town, "products/canadagpt_plan_basic")["name"] == (
        "CanadaGPT Fundamental" if changed else "CanadaGPT Basic"
    )
    town.fake.http.delete("/_requests")
    assert all(line.endswith("unchanged") for line in run(town, plans).values())
    assert writes(town) == []


# The command ------------------------------------------------------------------------------------------------------


def command(town: Town, **changed: str) -> "subprocess.Popen[str]":
    """`python -m functions.maintenance publish-catalog`, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "functions.maintenance", "publish-catalog"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment(town.stack, town.fake.url), **changed},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its exit status, and what it said and complained of."""
    with process:
        said, complained = process.communicate(timeout=60)
    return process.returncode, said, complained


def test_the_command_prints_a_line_for_each_thing(town: Town) -> None:
    status, said, complained = ended(command(town))
    assert (status, complained.startswith("publish-catalog: done in ")) == (0, True)
    prices = on_sale(town)
    *lines, counts = said.splitlines()
    assert json.loads(counts) == {"products": 5, "changed": 5}
    assert lines == [
        f"{key:<16} {amount:<16} product created, price {prices[key]['id']} created"
        for key, amount in {
            "plan_usage_only": "$0.00 a month",
            "plan_basic": "$9.99 a month",
            "plan_pro": "$29.99 a month",
            "pack_100": "$2.25",
            "pack_500": "$10.00",
        }.items()
    ]


def test_the_command_that_cannot_do_its_work_says_why_in_a_sentence(town: Town) -> None:
    another = "sk_test_canary_of_another_account"
    processes = {
        "no key": command(town, STRIPE_SECRET_KEY=""),
        "another key": command(town, STRIPE_SECRET_KEY=another),
    }
    told = {name: ended(process) for name, process in processes.items()}
    assert {(status, said) for status, said, _ in told.values()} == {(1, "")}
    complaints = {name: complained for name, (*_, complained) in told.items()}
    assert complaints["no key"] == "publish-catalog: STRIPE_SECRET_KEY is missing.\n"
    assert "Invalid API Key" in complaints["another key"]
    for complained in complaints.values():
        assert complained.startswith("publish-catalog: ")
        assert complained.count("\n") == 1
        assert not [secret for secret in (KEY, another) if secret in complained]
    assert writes(town) == []
