"""The price list and the checkout pages."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from stripe import HTTPClient

from functions.checkout.handler import create
from functions.common.database import Database
from functions.maintenance.__main__ import main
from tests.billing_kit import (
    DAY,
    HOUR,
    SITE,
    BillingStack,
    environment,
    function_with,
    stripe_get,
)
from tests.conftest import Person
from tests.functions.checkout.kit import (
    STEPS,
    Eventually,
    clear_requests,
    click,
    customers,
    failed,
    page_of,
    pages,
    press_button,
    stripe_requests,
)

CENTS = {"basic": 999, "pro": 2999, "usage_only": 0, "pack_100": 225, "pack_500": 1000}


def test_plans_returns_exact_prices_without_sign_in(billing: BillingStack) -> None:
    response = billing.checkout.get("/plans")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, max-age=300"
    small = {"anthropic": ["claude-haiku-5-5"], "openai": ["gpt-6-luna"]}
    middle = {"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}
    large = {"anthropic": ["claude-sonnet-5-5", "claude-haiku-5-5"], "openai": ["gpt-6-sol", "gpt-6-luna"]}
    more = {"anthropic": ["claude-opus-5-5"], "openai": ["gpt-6-astra"]}
    nothing: dict[str, list[str]] = {"anthropic": [], "openai": []}
    overage = {"overage_price_usd": "0.025", "overage_limit_usd": "10"}
    none, usd = dict.fromkeys(overage), {"currency": "usd"}
    # parse_float and parse_int return the text of each number, so that every digit is compared.
    assert json.loads(response.text, parse_float=str, parse_int=str) == {
        "plans": [
            {"tier": "free", "name": "Free", **usd, "price_usd": "0", "daily_quota": None, "lifetime_quota": "10",
             **none, "allows_credits": False, "allows_byok": False, "history_days": "0", "models": small,
             "own_key_models": nothing},
            {"tier": "usage_only", "name": "Pay as you go", **usd, "price_usd": "0", "daily_quota": "0",
             "lifetime_quota": None, **overage, "allows_credits": True, "allows_byok": True, "history_days": "0",
             "models": middle, "own_key_models": nothing},
            {"tier": "basic", "name": "Basic", **usd, "price_usd": "9.99", "daily_quota": "15", "lifetime_quota": None,
             **overage, "allows_credits": True, "allows_byok": True, "history_days": "30", "models": middle,
             "own_key_models": nothing},
            {"tier": "pro", "name": "Pro", **usd, "price_usd": "29.99", "daily_quota": "40", "lifetime_quota": None,
             **overage, "allows_credits": True, "allows_byok": True, "history_days": "90", "models": large,
             "own_key_models": more},
        ],
        "packs": [
            {"id": "pack_100", "name": "100 queries", "credits": "100", **usd, "price_usd": "2.25",
             "price_per_credit_usd": "0.0225", "expires_after_days": None},
            {"id": "pack_500", "name": "500 queries", "credits": "500", **usd, "price_usd": "10",
             "price_per_credit_usd": "0.02", "expires_after_days": None},
        ],
    }  # fmt: skip


def test_plans_is_the_same_for_every_caller(billing: BillingStack) -> None:
    user = billing.new_user("pro")
    clear_requests(billing)
    answers = {
        billing.checkout.get("/plans", headers=headers).text
        for headers in ({}, user.headers, {"authorization": "Bearer x"})
    }
    assert len(answers) == 1
    assert stripe_requests(billing) == []


@pytest.mark.parametrize("plan", ["basic", "pro", "usage_only"])
def test_checkout_of_a_plan_creates_a_subscription_page(billing: BillingStack, plan: str) -> None:
    user = billing.new_user()
    page = page_of(click(billing, user, plan=plan))
    session = stripe_get(billing, f"checkout/sessions/{page['session_id']}")
    assert (session["status"], session["url"], session["mode"]) == ("open", page["url"], "subscription")
    assert (session["customer"], session["client_reference_id"]) == (billing.customer_id(user), user.id)
    assert session["metadata"].items() >= {"user_id": user.id, "plan": plan}.items()
    assert (session["success_url"], session["cancel_url"]) == (f"{SITE}/done", f"{SITE}/left")
    assert session["payment_method_collection"] == "always"
    assert session["adaptive_pricing"] == {"enabled": False}
    (line,) = stripe_get(billing, f"checkout/sessions/{page['session_id']}/line_items")["data"]
    assert (line["price"]["lookup_key"], line["price"]["product"]) == (f"plan_{plan}", f"canadagpt_plan_{plan}")
    assert (line["quantity"], line["amount_total"]) == (1, CENTS[plan])
    customer = stripe_get(billing, f"customers/{billing.customer_id(user)}")
    assert (customer["email"], customer["metadata"]) == (user.email, {"user_id": user.id})
    billing.buy(user, plan=plan)
    (subscription,) = stripe_get(billing, "subscriptions", customer=customer["id"])["data"]
    assert subscription["metadata"] == {"user_id": user.id}
    assert subscription["default_payment_method"]


@pytest.mark.parametrize(("pack", "credits"), [("pack_100", 100), ("pack_500", 500)])
def test_checkout_of_a_pack_records_what_was_sold(billing: BillingStack, pack: str, credits: int) -> None:  # noqa: A002
    user = billing.new_user()
    page = page_of(click(billing, user, pack=pack))
    session = stripe_get(billing, f"checkout/sessions/{page['session_id']}")
    assert (session["status"], session["url"], session["mode"]) == ("open", page["url"], "payment")
    assert (session["customer"], session["client_reference_id"]) == (billing.customer_id(user), user.id)
    assert session["adaptive_pricing"] == {"enabled": False}
    sold = {"user_id": user.id, "pack": pack, "credits": str(credits)}
    assert session["metadata"].items() >= sold.items()
    (line,) = stripe_get(billing, f"checkout/sessions/{page['session_id']}/line_items")["data"]
    assert (line["price"]["lookup_key"], line["quantity"], line["amount_total"]) == (pack, 1, CENTS[pack])
    billing.buy(user, pack=pack)
    payment = stripe_get(billing, f"checkout/sessions/{page['session_id']}")["payment_intent"]
    assert stripe_get(billing, f"payment_intents/{payment}")["metadata"] == sold


def test_the_buyer_returns_to_the_requested_urls(billing: BillingStack) -> None:
    user = billing.new_user()
    page = page_of(click(billing, user, pack="pack_100", success_url=f"{SITE}/thanks?session={{CHECKOUT_SESSION_ID}}"))
    left = billing.fake.http.post(page["url"], data={"way": "leave"})
    paid = billing.fake.http.post(page["url"], data={"way": "good_card"})
    assert left.headers["location"] == f"{SITE}/left"
    assert paid.headers["location"] == f"{SITE}/thanks?session={page['session_id']}"


def test_a_user_without_an_email_address_can_buy(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.db.execute("update auth.users set email = null where id = %s", (user.id,))
    page_of(click(billing, user, plan="basic"))
    assert stripe_get(billing, f"customers/{billing.customer_id(user)}")["email"] is None


def test_automatic_tax_is_requested_where_it_is_enabled(billing: BillingStack) -> None:
    user = billing.new_user()
    with function_with(billing, create, STRIPE_AUTOMATIC_TAX="true") as http:
        page = page_of(click(billing, user, http, plan="basic"))
    assert stripe_get(billing, f"checkout/sessions/{page['session_id']}")["automatic_tax"]["enabled"] is True


def test_sixty_concurrent_clicks_create_one_customer_and_one_page(
    billing: BillingStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Database.call.__kwdefaults__, "timeout_s", 60)  # speed is not tested here
    user = billing.new_user()
    together = threading.Barrier(60)

    def one(_: int) -> httpx.Response:
        together.wait()
        return click(billing, user, plan="basic")

    with ThreadPoolExecutor(60) as threads:
        answers = [page_of(response) for response in threads.map(one, range(60))]
    assert len({answer["session_id"] for answer in answers}) == 1
    assert len({answer["url"] for answer in answers}) == 1
    assert customers(billing, user) == [billing.customer_id(user)]
    assert pages(billing, user) == [answers[0]["session_id"]]


@pytest.mark.parametrize("step", ["the customer", "the page"])
def test_a_click_during_a_slow_request_gets_the_same_page(
    billing: BillingStack,
    faults: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    step: str,
) -> None:
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0.3)
    user, asks = billing.new_user(), STEPS[step]
    clear_requests(billing)
    faults(method=asks[0], path=asks[1], seconds=0.2)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(click, billing, user, plan="basic")
        eventually(lambda: asks in stripe_requests(billing))
        second = page_of(click(billing, user, plan="basic"))
        assert page_of(first.result()) == second
    assert customers(billing, user) == [billing.customer_id(user)]
    assert pages(billing, user) == [second["session_id"]]


def test_a_second_click_returns_the_page_while_it_is_open(billing: BillingStack) -> None:
    user = billing.new_user()
    page = page_of(click(billing, user, plan="basic"))
    billing.fake.advance(HOUR)
    assert page_of(click(billing, user, plan="basic")) == page
    billing.fake.advance(DAY)
    assert pages(billing, user) == []
    second = page_of(click(billing, user, plan="basic"))
    assert pages(billing, user) == [second["session_id"]] != [page["session_id"]]
    assert customers(billing, user) == [billing.customer_id(user)]


@pytest.mark.parametrize(
    "second",
    [{"plan": "pro"}, {"plan": "basic", "cancel_url": f"{SITE}/elsewhere"}],
    ids=["another plan", "another cancel URL"],
)
def test_a_new_subscription_page_closes_the_previous_one(billing: BillingStack, second: dict[str, str]) -> None:
    user = billing.new_user()
    pack = page_of(click(billing, user, pack="pack_100"))
    first = page_of(click(billing, user, plan="basic"))
    other = page_of(click(billing, user, **second))
    assert pages(billing, user) == [other["session_id"], pack["session_id"]]
    assert pages(billing, user, "expired") == [first["session_id"]]
    assert billing.fake.http.post(first["url"], data={"way": "good_card"}).status_code == 410
    latest = page_of(click(billing, user, plan="basic"))
    assert latest["session_id"] not in (first["session_id"], other["session_id"])
    assert pages(billing, user) == [latest["session_id"], pack["session_id"]]


def test_concurrent_requests_for_two_plans_leave_one_open_page(
    billing: BillingStack, faults: Callable[..., None], eventually: Eventually
) -> None:
    user = billing.new_user()
    page_of(click(billing, user, pack="pack_100"))  # creates the customer
    clear_requests(billing)
    faults(method="POST", path="/v1/checkout/sessions", seconds=0.3)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(click, billing, user, plan="basic")
        eventually(lambda: ("POST", "/v1/checkout/sessions") in stripe_requests(billing))
        page_of(click(billing, user, plan="pro"))
        page_of(slow.result())
    found = [stripe_get(billing, f"checkout/sessions/{page}") for page in pages(billing, user)]
    assert len([one for one in found if one["mode"] == "subscription"]) == 1


def test_pack_pages_stay_open_beside_each_other(billing: BillingStack) -> None:
    user = billing.new_user()
    first = page_of(click(billing, user, pack="pack_100"))
    billing.buy(user, pack="pack_100")
    assert pages(billing, user, "complete") == [first["session_id"]]
    second = page_of(click(billing, user, pack="pack_100"))
    large = page_of(click(billing, user, pack="pack_500"))
    assert pages(billing, user) == [large["session_id"], second["session_id"]]


def test_a_page_from_before_a_pack_changed_is_not_returned(billing: BillingStack) -> None:
    """It would grant the number of credits that it was opened with."""
    user = billing.new_user()
    first = page_of(click(billing, user, pack="pack_100"))
    billing.db.execute("update public.packs set credits = 120 where slug = 'pack_100'")
    try:
        second = page_of(click(billing, user, pack="pack_100"))
    finally:
        billing.db.execute("update public.packs set credits = 100 where slug = 'pack_100'")
    assert second["session_id"] != first["session_id"]
    assert stripe_get(billing, f"checkout/sessions/{second['session_id']}")["metadata"]["credits"] == "120"


def test_a_block_closes_open_pages(billing: BillingStack, monkeypatch: pytest.MonkeyPatch) -> None:
    user = billing.new_user()
    page = page_of(click(billing, user, pack="pack_100"))
    for name, text in environment(billing.stack, billing.fake.url).items():
        monkeypatch.setenv(name, text)
    assert main(["user", user.id, "block", "--reason", "Spam"]) == 0
    assert pages(billing, user, "expired") == [page["session_id"]]
    assert failed(click(billing, user, pack="pack_100")) == (403, "account_blocked")


def test_each_user_has_their_own_customer_and_page(billing: BillingStack) -> None:
    users = [billing.new_user(), billing.new_user()]
    sold = [page_of(click(billing, user, plan="basic")) for user in users]
    assert sold[0]["session_id"] != sold[1]["session_id"]
    assert billing.customer_id(users[0]) != billing.customer_id(users[1])
    assert [customers(billing, user) for user in users] == [[billing.customer_id(user)] for user in users]
    assert [pages(billing, user) for user in users] == [[page["session_id"]] for page in sold]


def past_due(billing: BillingStack, user: Person) -> None:
    billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=False)
    billing.advance_and_deliver(32 * DAY)
    assert billing.subscription_row(user)["status"] == "past_due"
    # Stripe's clock is behind the database's, where the days of grace would be over: a pack could not be used.
    assert failed(click(billing, user, pack="pack_100")) == (402, "payment_required")
    billing.db.execute("update public.user_subscriptions set past_due_since = now() where user_id = %s", (user.id,))


def canceled(billing: BillingStack, user: Person) -> None:
    url = billing.call_checkout(user, "/portal", return_url=SITE).json()["url"]
    press_button(billing, url, f"cancel:{billing.subscription_row(user)['stripe_subscription_id']}")
    billing.deliver()
    assert (billing.subscription_row(user)["status"], billing.subscription_row(user)["tier"]) == ("canceled", "basic")


def test_a_subscriber_with_an_open_invoice_is_sent_to_it(
    billing: BillingStack, subscriber: Callable[[], Person]
) -> None:
    user = subscriber()
    past_due(billing, user)
    (invoice,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
    for plan in ("basic", "pro", "usage_only"):
        refused = click(billing, user, plan=plan)
        error = refused.json()["error"]
        assert (refused.status_code, error["reason_code"], error["action"]) == (402, "invoice_open", "pay_invoice")
        assert error["url"] == invoice["hosted_invoice_url"]
    assert pages(billing, user) == []
    billing.fake.http.post(invoice["hosted_invoice_url"], data={"way": "good_card"})
    assert page_of(click(billing, user, plan="pro"))["session_id"].startswith("bps_")


@pytest.mark.parametrize("then", [None, canceled], ids=["active", "canceled, still running"])
def test_a_subscriber_is_sent_to_the_portal(
    billing: BillingStack, subscriber: Callable[[], Person], then: Callable[[BillingStack, Person], None] | None
) -> None:
    user = subscriber()
    if then:
        then(billing, user)
    for plan in ("basic", "pro", "usage_only"):
        page = page_of(click(billing, user, plan=plan))
        assert page["session_id"].startswith("bps_")
        assert urlsplit(page["url"]).path == f"/p/session/{page['session_id']}"
        back = billing.fake.http.post(page["url"], data={"action": "back"})
        assert back.headers["location"] == f"{SITE}/left"
    assert pages(billing, user) == []
    page_of(click(billing, user, pack="pack_100"))
    assert len(pages(billing, user)) == 1


def test_a_subscription_counts_before_its_event_arrives(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="usage_only")
    assert billing.subscription_row(user)["stripe_subscription_id"] is None
    assert page_of(click(billing, user, plan="basic"))["session_id"].startswith("bps_")


def test_checkout_sells_a_plan_after_a_subscription_ended(
    billing: BillingStack, subscriber: Callable[[], Person]
) -> None:
    user = subscriber()
    canceled(billing, user)
    billing.advance_and_deliver(32 * DAY)
    assert billing.subscription_row(user)["tier"] == "free"
    page = page_of(click(billing, user, plan="pro"))
    assert pages(billing, user) == [page["session_id"]]
