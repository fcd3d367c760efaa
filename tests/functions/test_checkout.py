"""Checkout: what is sold, pages to pay on, the portal, overage settings. Many clicks are one customer and one page."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from stripe import HTTPClient

from functions.checkout import checkout
from functions.checkout.handler import create
from functions.checkout.settings import CheckoutSettings
from functions.common.billing import stripe_client
from functions.common.database import Database
from functions.common.errors import AppError, PaymentUnavailable
from functions.common.observe import ALLOWED
from functions.common.settings import SettingsError, load
from infra.local.stack import Stack
from tests.api import Api, question
from tests.billing_kit import (
    AS_US,
    DAY,
    HOUR,
    SITE,
    Town,
    another,
    at_stripe,
    change,
    environment,
    log_of,
    running,
    unheard,
)
from tests.conftest import Person
from tests.local.stripe_kit import KEY, SECRET

URLS = {"success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}
CENTS = {"basic": 999, "pro": 2999, "usage_only": 0, "pack_100": 225, "pack_500": 1000}
STEPS = {
    "the customer": ("POST", "/v1/customers"),
    "the price": ("GET", "/v1/prices"),
    "the pages there are": ("GET", "/v1/checkout/sessions"),
    "what they have subscribed to": ("GET", "/v1/customers/"),
    "the page": ("POST", "/v1/checkout/sessions"),
}
UNAVAILABLE = (503, "payment_unavailable")
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def town(stack: Stack) -> Iterator[Town]:
    """A town of its own: here Stripe fails and time passes."""
    with running(stack) as town:
        yield town


@pytest.fixture
def faults(town: Town) -> Iterator[Callable[..., None]]:
    """Lets requests to Stripe fail: see Fault. What is left over is gone after the test."""
    yield lambda **fault: town.fake.control("/_faults", **fault)
    town.fake.http.delete("/_faults")


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe's client repeats itself without waiting."""
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0)


def click(town: Town, person: Person, http: httpx.Client | None = None, **body: Any) -> httpx.Response:
    """POST /checkout."""
    return (http or town.checkout).post("/checkout", json={**URLS, **body}, headers=person.headers)


def shown(response: httpx.Response) -> dict[str, str]:
    """The page that a click was answered with."""
    assert response.status_code == 200, response.text
    page: dict[str, str] = response.json()
    assert set(page) == {"url", "session_id"}
    return page


def failed(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error."""
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"]


def customers(town: Town, person: Person) -> list[str]:
    """Everybody at Stripe who is this person."""
    found = at_stripe(town, "customers/search", query=f"metadata['user_id']:'{person.id}'", limit=100)
    return [one["id"] for one in found["data"]]


def pages(town: Town, person: Person, status: str = "open") -> list[str]:
    """Their checkout sessions of a status, newest first."""
    found = at_stripe(town, "checkout/sessions", customer=town.customer(person), status=status, limit=100)
    return [one["id"] for one in found["data"]]


def asked(town: Town) -> list[tuple[str, str]]:
    """What Stripe was asked since that was forgotten."""
    return [(one["method"], one["path"]) for one in town.fake.http.get("/_requests").json()]


def forget(town: Town) -> None:
    """Let Stripe forget what it was asked."""
    town.fake.http.delete("/_requests")


def press(town: Town, url: str, action: str, **more: str) -> None:
    """A button of the portal."""
    assert town.fake.http.post(url, data={"action": action, **more}).status_code == 200


@pytest.fixture
def subscriber(town: Town) -> Iterator[Callable[[], Person]]:
    """Makes somebody who has just subscribed to Basic. It is over after the test, so that time need not renew it."""
    subscriptions = []

    def make() -> Person:
        person = town.person()
        with unheard(town):
            town.buy(person, plan="basic")
        (completed,) = at_stripe(town, "events", type="checkout.session.completed", limit=1)["data"]
        assert town.deliver(completed["id"]) == [200]
        assert town.row(person)["tier"] == "basic"
        subscriptions.append(town.row(person)["stripe_subscription_id"])
        return person

    yield make
    with unheard(town):
        for subscription in subscriptions:
            town.fake.http.delete(f"/v1/subscriptions/{subscription}", headers=AS_US)


# What is sold -----------------------------------------------------------------------------------------------------


def test_anyone_may_read_what_is_sold_to_the_last_digit(town: Town) -> None:
    response = town.checkout.get("/plans")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, max-age=300"
    small = {"anthropic": ["claude-haiku-5-5"], "openai": ["gpt-6-luna"]}
    middle = {"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}
    large = {
        "anthropic": ["claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"],
        "openai": ["gpt-6-sol", "gpt-6-luna", "gpt-6-astra"],
    }
    overage = {"overage_price_usd": "0.025", "overage_limit_usd": "10"}
    none = dict.fromkeys(overage)
    # Numbers are compared as they are written: parse_float and parse_int give texts.
    assert json.loads(response.text, parse_float=str, parse_int=str) == {
        "plans": [
            {"tier": "free", "name": "Free", "price_usd": "0", "daily_quota": None, "lifetime_quota": "10", **none,
             "allows_credits": False, "allows_byok": False, "history_days": "0", "models": small},
            {"tier": "usage_only", "name": "Pay as you go", "price_usd": "0", "daily_quota": "0",
             "lifetime_quota": None, **overage, "allows_credits": True, "allows_byok": True, "history_days": "0",
             "models": middle},
            {"tier": "basic", "name": "Basic", "price_usd": "9.99", "daily_quota": "15", "lifetime_quota": None,
             **overage, "allows_credits": True, "allows_byok": True, "history_days": "30", "models": middle},
            {"tier": "pro", "name": "Pro", "price_usd": "29.99", "daily_quota": "40", "lifetime_quota": None,
             **overage, "allows_credits": True, "allows_byok": True, "history_days": "90", "models": large},
        ],
        "packs": [
            {"id": "pack_100", "name": "100 queries", "credits": "100", "price_usd": "2.25",
             "price_per_credit_usd": "0.0225", "expires_after_days": None},
            {"id": "pack_500", "name": "500 queries", "credits": "500", "price_usd": "10",
             "price_per_credit_usd": "0.02", "expires_after_days": None},
        ],
    }  # fmt: skip


def test_what_is_sold_is_the_same_whoever_asks_and_stripe_is_not_asked(town: Town) -> None:
    user = town.person("pro")
    forget(town)
    answers = {
        town.checkout.get("/plans", headers=headers).text
        for headers in ({}, user.headers, {"authorization": "Bearer x"})
    }
    assert len(answers) == 1
    assert asked(town) == []


# A page to pay on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["basic", "pro", "usage_only"])
def test_a_plan_is_sold_on_a_page_of_the_users_own(town: Town, plan: str) -> None:
    user = town.person()
    page = shown(click(town, user, plan=plan))
    session = at_stripe(town, f"checkout/sessions/{page['session_id']}")
    assert (session["status"], session["url"], session["mode"]) == ("open", page["url"], "subscription")
    assert (session["customer"], session["client_reference_id"]) == (town.customer(user), user.id)
    assert session["metadata"].items() >= {"user_id": user.id, "plan": plan}.items()
    assert (session["success_url"], session["cancel_url"]) == (f"{SITE}/done", f"{SITE}/left")
    assert session["payment_method_collection"] == "always"
    (line,) = at_stripe(town, f"checkout/sessions/{page['session_id']}/line_items")["data"]
    assert (line["price"]["lookup_key"], line["price"]["product"]) == (f"plan_{plan}", f"canadagpt_plan_{plan}")
    assert (line["quantity"], line["amount_total"]) == (1, CENTS[plan])
    customer = at_stripe(town, f"customers/{town.customer(user)}")
    assert (customer["email"], customer["metadata"]) == (user.email, {"user_id": user.id})
    town.buy(user, plan=plan)
    (subscription,) = at_stripe(town, "subscriptions", customer=customer["id"])["data"]
    assert subscription["metadata"] == {"user_id": user.id}
    assert subscription["default_payment_method"]


@pytest.mark.parametrize(("pack", "credits"), [("pack_100", 100), ("pack_500", 500)])
def test_a_pack_is_sold_on_a_page_that_says_what_was_sold(town: Town, pack: str, credits: int) -> None:  # noqa: A002
    user = town.person()
    page = shown(click(town, user, pack=pack))
    session = at_stripe(town, f"checkout/sessions/{page['session_id']}")
    assert (session["status"], session["url"], session["mode"]) == ("open", page["url"], "payment")
    assert (session["customer"], session["client_reference_id"]) == (town.customer(user), user.id)
    sold = {"user_id": user.id, "pack": pack, "credits": str(credits)}
    assert session["metadata"].items() >= sold.items()
    (line,) = at_stripe(town, f"checkout/sessions/{page['session_id']}/line_items")["data"]
    assert (line["price"]["lookup_key"], line["quantity"], line["amount_total"]) == (pack, 1, CENTS[pack])
    town.buy(user, pack=pack)
    payment = at_stripe(town, f"checkout/sessions/{page['session_id']}")["payment_intent"]
    assert at_stripe(town, f"payment_intents/{payment}")["metadata"] == sold


def test_the_buyer_comes_back_to_where_the_page_was_asked_for(town: Town) -> None:
    user = town.person()
    page = shown(click(town, user, pack="pack_100", success_url=f"{SITE}/thanks?session={{CHECKOUT_SESSION_ID}}"))
    left = town.fake.http.post(page["url"], data={"way": "leave"})
    paid = town.fake.http.post(page["url"], data={"way": "good_card"})
    assert left.headers["location"] == f"{SITE}/left"
    assert paid.headers["location"] == f"{SITE}/thanks?session={page['session_id']}"


def test_somebody_without_an_address_can_buy(town: Town) -> None:
    user = town.person()
    town.db.execute("update auth.users set email = null where id = %s", (user.id,))
    shown(click(town, user, plan="basic"))
    assert at_stripe(town, f"customers/{town.customer(user)}")["email"] is None


def test_where_automatic_tax_is_switched_on_stripe_is_asked_for_it(town: Town) -> None:
    user = town.person()
    forget(town)
    with another(town, create, STRIPE_AUTOMATIC_TAX="true") as http:
        click(town, user, http, plan="basic")  # the stand-in refuses: it has no tax
    last = town.fake.http.get("/_requests").json()[-1]
    assert (last["method"], last["path"]) == ("POST", "/v1/checkout/sessions")
    assert last["params"]["automatic_tax"] == {"enabled": "true"}
    assert last["params"]["customer_update"] == {"address": "auto"}


def test_sixty_clicks_at_once_are_one_customer_and_one_page(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Database.call.__kwdefaults__, "timeout_s", 60)  # how fast they are answered is another matter
    user = town.person()
    together = threading.Barrier(60)

    def one(_: int) -> httpx.Response:
        together.wait()
        return click(town, user, plan="basic")

    with ThreadPoolExecutor(60) as threads:
        answers = [shown(response) for response in threads.map(one, range(60))]
    assert len({answer["session_id"] for answer in answers}) == 1
    assert len({answer["url"] for answer in answers}) == 1
    assert customers(town, user) == [town.customer(user)]
    assert pages(town, user) == [answers[0]["session_id"]]


@pytest.mark.parametrize("step", ["the customer", "the page"])
def test_a_click_while_stripe_is_still_busy_with_the_one_before_waits_for_the_same_page(
    town: Town, faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch, eventually: Eventually, step: str
) -> None:
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0.3)
    user, asks = town.person(), STEPS[step]
    forget(town)
    faults(method=asks[0], path=asks[1], seconds=0.2)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(click, town, user, plan="basic")
        eventually(lambda: asks in asked(town))
        second = shown(click(town, user, plan="basic"))
        assert shown(first.result()) == second
    assert customers(town, user) == [town.customer(user)]
    assert pages(town, user) == [second["session_id"]]


def test_a_second_click_leads_to_the_same_page_for_as_long_as_that_is_open(town: Town) -> None:
    user = town.person()
    page = shown(click(town, user, plan="basic"))
    town.fake.advance(HOUR)
    assert shown(click(town, user, plan="basic")) == page
    town.fake.advance(DAY)
    assert pages(town, user) == []
    anew = shown(click(town, user, plan="basic"))
    assert pages(town, user) == [anew["session_id"]] != [page["session_id"]]
    assert customers(town, user) == [town.customer(user)]


@pytest.mark.parametrize(
    "second",
    [{"plan": "pro"}, {"plan": "basic", "cancel_url": f"{SITE}/elsewhere"}],
    ids=["another plan", "another way back"],
)
def test_another_page_to_subscribe_on_closes_the_one_before(town: Town, second: dict[str, str]) -> None:
    user = town.person()
    pack = shown(click(town, user, pack="pack_100"))
    first = shown(click(town, user, plan="basic"))
    other = shown(click(town, user, **second))
    assert pages(town, user) == [other["session_id"], pack["session_id"]]
    assert pages(town, user, "expired") == [first["session_id"]]
    assert town.fake.http.post(first["url"], data={"way": "good_card"}).status_code == 410
    anew = shown(click(town, user, plan="basic"))
    assert anew["session_id"] not in (first["session_id"], other["session_id"])
    assert pages(town, user) == [anew["session_id"], pack["session_id"]]


def test_two_plans_asked_for_at_once_leave_one_page_to_subscribe_on(
    town: Town, faults: Callable[..., None], eventually: Eventually
) -> None:
    user = town.person()
    shown(click(town, user, pack="pack_100"))  # so that they have a customer
    forget(town)
    faults(method="POST", path="/v1/checkout/sessions", seconds=0.3)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(click, town, user, plan="basic")
        eventually(lambda: ("POST", "/v1/checkout/sessions") in asked(town))
        shown(click(town, user, plan="pro"))
        shown(slow.result())
    found = [at_stripe(town, f"checkout/sessions/{page}") for page in pages(town, user)]
    assert len([one for one in found if one["mode"] == "subscription"]) == 1


def test_a_pack_can_be_bought_again_and_packs_leave_each_others_pages_open(town: Town) -> None:
    user = town.person()
    first = shown(click(town, user, pack="pack_100"))
    town.buy(user, pack="pack_100")
    assert pages(town, user, "complete") == [first["session_id"]]
    second = shown(click(town, user, pack="pack_100"))
    large = shown(click(town, user, pack="pack_500"))
    assert pages(town, user) == [large["session_id"], second["session_id"]]


def test_different_users_are_different_customers(town: Town) -> None:
    users = [town.person(), town.person()]
    sold = [shown(click(town, user, plan="basic")) for user in users]
    assert sold[0]["session_id"] != sold[1]["session_id"]
    assert town.customer(users[0]) != town.customer(users[1])
    assert [customers(town, user) for user in users] == [[town.customer(user)] for user in users]
    assert [pages(town, user) for user in users] == [[page["session_id"]] for page in sold]


# Who has a subscription already -----------------------------------------------------------------------------------


def past_due(town: Town, user: Person) -> None:
    town.fake.control(f"/_customers/{town.customer(user)}/card", works=False)
    town.happen(32 * DAY)
    assert town.row(user)["status"] == "past_due"


def canceled(town: Town, user: Person) -> None:
    url = town.post(user, "/portal", return_url=SITE).json()["url"]
    press(town, url, f"cancel:{town.row(user)['stripe_subscription_id']}")
    town.deliver()
    assert (town.row(user)["status"], town.row(user)["tier"]) == ("canceled", "basic")


@pytest.mark.parametrize("then", [None, past_due, canceled], ids=["active", "past due", "canceled, still running"])
def test_who_has_a_subscription_is_led_to_the_portal(
    town: Town, subscriber: Callable[[], Person], then: Callable[[Town, Person], None] | None
) -> None:
    user = subscriber()
    if then:
        then(town, user)
    for plan in ("basic", "pro", "usage_only"):
        page = shown(click(town, user, plan=plan))
        assert page["session_id"].startswith("bps_")
        assert urlsplit(page["url"]).path == f"/p/session/{page['session_id']}"
        back = town.fake.http.post(page["url"], data={"action": "back"})
        assert back.headers["location"] == f"{SITE}/left"
    assert pages(town, user) == []
    shown(click(town, user, pack="pack_100"))
    assert len(pages(town, user)) == 1


def test_a_subscription_that_we_have_not_heard_of_yet_counts(town: Town) -> None:
    user = town.person()
    town.buy(user, plan="usage_only")
    assert town.row(user)["stripe_subscription_id"] is None
    assert shown(click(town, user, plan="basic"))["session_id"].startswith("bps_")


def test_after_a_subscription_has_ended_there_is_a_page_again(town: Town, subscriber: Callable[[], Person]) -> None:
    user = subscriber()
    canceled(town, user)
    town.happen(32 * DAY)
    assert town.row(user)["tier"] == "free"
    page = shown(click(town, user, plan="pro"))
    assert pages(town, user) == [page["session_id"]]


# What is refused --------------------------------------------------------------------------------------------------


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
    ids=["neither", "both", "two nulls", "the free plan", "another plan", "a number", "a long pack", "no way back",
         "no text", "a long URL"],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_named(town: Town, body: dict[str, Any], field: str) -> None:
    user = town.person()
    forget(town)
    response = click(town, user, **body)
    assert failed(response) == (422, "invalid_request")
    assert [one["field"] for one in response.json()["error"]["fields"]] == [field]
    assert asked(town) == []
    assert town.row(user)["stripe_customer_id"] is None


@pytest.mark.parametrize(("method", "path"), [("POST", "/checkout"), ("POST", "/portal"), ("PATCH", "/overage")])
def test_what_is_no_json_is_refused(town: Town, method: str, path: str) -> None:
    user = town.person()
    for body in (b"", b"{", b"\xff", b'{"plan": NaN}'):
        response = town.checkout.request(method, path, content=body, headers=user.headers)
        assert failed(response) == (400, "invalid_json")
    response = town.checkout.request(method, path, content=b"[]", headers=user.headers)
    assert failed(response) == (422, "invalid_request")


@pytest.mark.parametrize("pack", ["pack_7", "", "PACK_100", "plan_basic", "basic"])
def test_there_is_no_page_for_a_pack_that_is_not_sold(town: Town, pack: str) -> None:
    user = town.person()
    forget(town)
    assert failed(click(town, user, pack=pack)) == (404, "not_found")
    assert asked(town) == []


def test_a_pack_that_is_no_longer_sold_is_not_sold(town: Town) -> None:
    user, slug = town.person(), f"pack_{uuid.uuid4().hex[:8]}"
    town.db.execute(
        "insert into public.packs (slug, name, credits, price_usd, is_sold) values (%s, 'Old', 7, 1, false)", (slug,)
    )
    try:
        assert failed(click(town, user, pack=slug)) == (404, "not_found")
        assert slug not in town.checkout.get("/plans").text
    finally:
        town.db.execute("delete from public.packs where slug = %s", (slug,))


ELSEWHERE = {
    "another host": "https://evil.example/",
    "our host as its user": "https://shop.example@evil.example/",
    "our host and port as its user": "https://shop.example:443@evil.example/",
    "a user at our host": "https://evil.example@shop.example/",
    "our host as its beginning": "https://shop.example.evil.example/",
    "our host and more": "https://shop.examples/",
    "a host below ours": "https://www.shop.example/",
    "our host in its path": "https://evil.example/https://shop.example/",
    "our host in its query": "https://evil.example?https://shop.example/",
    "our host in its fragment": "https://evil.example#https://shop.example/",
    "a backslash for a slash": "https://evil.example\\@shop.example/",
    "a backslash behind our host": "https://shop.example\\@evil.example/",
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
    "nothing": "",
    "a space before": " https://shop.example/",
    "a tab in our host": "https://shop.ex\tample/",
    "a line's end": "https://shop.example/\nhttps://evil.example/",
    "another alphabet": "https://shоp.example/",
    "a wide dot": "https://shop．example/",
    "an open bracket": "https://[shop.example/",
    "a dot behind our host": "https://shop.example./",
    "an encoded slash": "https://shop.example%2f@evil.example/",
}


@pytest.fixture(scope="module")
def wanderer(town: Town) -> Person:
    """Somebody who may have bought something, and whose requests are all refused."""
    user = town.person()
    town.page(user, plan="basic")
    return user


@pytest.mark.parametrize("url", ELSEWHERE.values(), ids=ELSEWHERE)
def test_nobody_is_sent_back_to_anywhere_else(town: Town, wanderer: Person, url: str) -> None:
    forget(town)
    for path, body in (
        ("/checkout", {"plan": "pro", "success_url": url, "cancel_url": url}),
        ("/portal", {"return_url": url}),
    ):
        response = town.post(wanderer, path, **body)
        assert failed(response) == (422, "invalid_request")
        assert response.json()["error"]["fields"] == [
            {"field": field, "message": "must be on an allowed origin"} for field in body if field != "plan"
        ]
    assert asked(town) == []


@pytest.mark.parametrize("field", URLS)
@pytest.mark.parametrize("what", [{"plan": "basic"}, {"pack": "pack_100"}], ids=["plan", "pack"])
def test_one_way_that_leads_elsewhere_is_enough(town: Town, what: dict[str, str], field: str) -> None:
    user = town.person()
    forget(town)
    response = click(town, user, **what, **{field: "https://evil.example/"})
    assert [one["field"] for one in response.json()["error"]["fields"]] == [field]
    assert asked(town) == []
    assert town.row(user)["stripe_customer_id"] is None


@pytest.mark.parametrize(
    "url", [SITE, f"{SITE}/a/b?c=d&e=%2F#f", "http://localhost:3000/done", f"{SITE}?next=https://evil.example"]
)
def test_everything_on_an_allowed_origin_is_a_way_back(town: Town, wanderer: Person, url: str) -> None:
    page = shown(click(town, wanderer, plan="basic", success_url=url, cancel_url=url))
    session = at_stripe(town, f"checkout/sessions/{page['session_id']}")
    assert (session["success_url"], session["cancel_url"]) == (url, url)
    assert town.post(wanderer, "/portal", return_url=url).status_code == 200


ROUTES = {
    "/checkout": ("POST", {"plan": "basic", **URLS}),
    "/portal": ("POST", {"return_url": SITE}),
    "/overage": ("PATCH", {"allow_overages": False}),
}


@pytest.mark.parametrize("path", ROUTES)
def test_who_is_nobody_is_told_so_first(town: Town, path: str) -> None:
    method, body = ROUTES[path]
    user = town.person()
    forget(town)
    anonymous = {"authorization": f"Bearer {town.stack.info['anon_key']}"}
    for headers in (
        {},
        anonymous,
        {"authorization": f"Bearer {user.token}x"},
        {"authorization": f"Basic {user.token}"},
    ):
        assert failed(town.checkout.request(method, path, json=body, headers=headers)) == (401, "unauthenticated")
        assert failed(town.checkout.request(method, path, content=b"{", headers=headers)) == (401, "unauthenticated")
    assert asked(town) == []


def test_who_is_gone_buys_nothing(town: Town) -> None:
    user = town.person()
    town.db.execute("delete from auth.users where id = %s", (user.id,))
    forget(town)
    assert failed(click(town, user, plan="basic")) == (404, "not_found")
    assert failed(click(town, user, pack="pack_100")) == (404, "not_found")
    assert failed(town.post(user, "/portal", return_url=SITE)) == (404, "not_found")
    assert asked(town) == []


# Stripe fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "status"), [*((step, 500) for step in STEPS), ("the customer", 503), ("the page", 429), ("the price", 401)]
)
def test_where_stripe_fails_nothing_is_charged_and_a_later_click_works(
    town: Town, faults: Callable[..., None], no_pause: None, step: str, status: int
) -> None:
    method, path = STEPS[step]
    user = town.person()
    faults(method=method, path=path, status=status, times=3)
    response = click(town, user, plan="basic")
    assert failed(response) == UNAVAILABLE
    assert response.json()["error"]["message"] == PaymentUnavailable.message
    town.fake.http.delete("/_faults")
    page = shown(click(town, user, plan="basic"))
    assert customers(town, user) == [town.customer(user)]
    assert pages(town, user) == [page["session_id"]]


@pytest.mark.parametrize("step", ["the customer", "what they have subscribed to", "the page"])
def test_a_failure_of_stripes_that_passes_is_nobodys_business(
    town: Town, faults: Callable[..., None], no_pause: None, step: str
) -> None:
    method, path = STEPS[step]
    user = town.person()
    faults(method=method, path=path, status=500, times=2)
    page = shown(click(town, user, plan="basic"))
    assert customers(town, user) == [town.customer(user)]
    assert pages(town, user) == [page["session_id"]]


@pytest.mark.parametrize("retries", [0, 2], ids=["by the next click", "at once"])
@pytest.mark.parametrize("step", ["the customer", "the page"])
def test_what_stripe_did_without_saying_so_is_found_and_not_done_twice(
    town: Town, faults: Callable[..., None], no_pause: None, monkeypatch: pytest.MonkeyPatch, step: str, retries: int
) -> None:
    monkeypatch.setattr(stripe_client, "RETRIES", retries)
    method, path = STEPS[step]
    user = town.person()
    faults(method=method, path=path, status=500, lost=True)
    with another(town, create) as http:
        first = click(town, user, http, plan="basic")
    assert first.status_code == (200 if retries else 503)
    page = shown(click(town, user, plan="basic"))
    assert customers(town, user) == [town.customer(user)]
    assert pages(town, user) == [page["session_id"]]


@pytest.mark.parametrize(
    ("step", "limit"),
    [
        ("the customer", (stripe_client, "TIMEOUT_S")),
        ("the page", (stripe_client, "TIMEOUT_S")),
        ("the page", (checkout, "TIMEOUT_S")),
    ],
    ids=["with the customer", "with the page", "on the whole"],
)
def test_where_stripe_is_too_slow_a_later_click_works(
    town: Town,
    faults: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    step: str,
    limit: tuple[Any, str],
) -> None:
    monkeypatch.setattr(*limit, 0.2)
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    method, path = STEPS[step]
    user = town.person()
    faults(method=method, path=path, seconds=0.5)
    with another(town, create) as http:
        assert failed(click(town, user, http, plan="basic")) == UNAVAILABLE
    monkeypatch.undo()
    answers: list[httpx.Response] = []

    def works() -> bool:
        """Once Stripe is done with the first: the same again is refused until then."""
        answers.append(click(town, user, plan="basic"))
        return answers[-1].status_code == 200

    eventually(works)
    assert customers(town, user) == [town.customer(user)]
    assert pages(town, user) == [shown(answers[-1])["session_id"]]


@pytest.mark.parametrize(
    "changed",
    [{"STRIPE_API_BASE": "http://127.0.0.1:9"}, {"STRIPE_SECRET_KEY": "sk_test_another"}],
    ids=["out of reach", "a wrong key"],
)
def test_where_stripe_does_not_answer_us_nothing_is_charged_and_nothing_told(
    town: Town, no_pause: None, changed: dict[str, str]
) -> None:
    user, known = town.person(), town.person()
    town.page(known, plan="basic")
    with another(town, create, **changed) as http:
        answers = [
            click(town, user, http, plan="basic"),
            click(town, user, http, pack="pack_100"),
            click(town, known, http, plan="pro"),
            http.post("/portal", json={"return_url": SITE}, headers=known.headers),
        ]
        assert http.get("/plans").status_code == 200
    for answer in answers:
        assert failed(answer) == UNAVAILABLE
        assert answer.json()["error"] == {
            "code": "payment_unavailable",
            "message": PaymentUnavailable.message,
            "request_id": answer.headers["x-request-id"],
        }
    assert town.row(user)["stripe_customer_id"] is None
    assert len(pages(town, known)) == 1


def test_without_a_catalogue_it_is_a_fault_of_ours(town: Town) -> None:
    user = town.person()
    (price,) = at_stripe(town, "prices", **{"lookup_keys[0]": "plan_pro"})["data"]
    change(town, f"prices/{price['id']}", active="false")
    try:
        response = click(town, user, plan="pro")
    finally:
        change(town, f"prices/{price['id']}", active="true")
    assert failed(response) == (500, "internal")
    assert response.json()["error"] == {
        "code": "internal",
        "message": AppError.message,
        "request_id": response.headers["x-request-id"],
    }
    assert pages(town, user) == []
    shown(click(town, user, plan="pro"))


# One customer a user ----------------------------------------------------------------------------------------------


def test_a_customer_that_was_made_but_not_noted_is_found_again(town: Town) -> None:
    user = town.person()
    made = town.fake.http.post(
        "/v1/customers",
        data={"metadata[user_id]": user.id},
        headers={**AS_US, "idempotency-key": f"customer:{user.id}:0"},
    ).json()["id"]
    page = shown(click(town, user, plan="basic"))
    assert town.customer(user) == made
    town.db.execute("update public.user_subscriptions set stripe_customer_id = null where user_id = %s", (user.id,))
    assert shown(click(town, user, plan="basic")) == page
    assert customers(town, user) == [town.customer(user)] == [made]


def test_a_customer_that_was_made_but_not_noted_is_found_again_under_a_new_address(
    town: Town, faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    user = town.person()
    faults(method="POST", path="/v1/customers", status=500, lost=True)
    with another(town, create) as http:
        assert failed(click(town, user, http, plan="basic")) == UNAVAILABLE
    town.db.execute("update auth.users set email = 'new-' || email where id = %s", (user.id,))
    shown(click(town, user, plan="basic"))
    assert customers(town, user) == [town.customer(user)]


def test_who_was_deleted_at_stripe_becomes_a_new_customer(town: Town, subscriber: Callable[[], Person]) -> None:
    user = subscriber()
    old = town.customer(user)
    assert town.fake.http.delete(f"/v1/customers/{old}", headers=AS_US).status_code == 200
    town.deliver()
    assert (town.row(user)["stripe_customer_id"], town.row(user)["tier"]) == (None, "free")
    assert failed(town.post(user, "/portal", return_url=SITE)) == (404, "not_found")
    page = shown(click(town, user, plan="pro"))
    assert town.customer(user) != old
    assert customers(town, user) == [town.customer(user)]
    assert pages(town, user) == [page["session_id"]]


# The portal -------------------------------------------------------------------------------------------------------


def test_who_has_never_bought_anything_has_no_portal(town: Town) -> None:
    user = town.person()
    forget(town)
    assert failed(town.post(user, "/portal", return_url=SITE)) == (404, "not_found")
    assert asked(town) == []


def test_the_portal_is_the_users_own_and_leads_back(town: Town, subscriber: Callable[[], Person]) -> None:
    user = subscriber()
    response = town.post(user, "/portal", return_url=f"{SITE}/account")
    assert response.status_code == 200
    assert set(response.json()) == {"url"}
    assert "Basic" in town.fake.http.get(response.json()["url"]).text
    back = town.fake.http.post(response.json()["url"], data={"action": "back"})
    assert back.headers["location"] == f"{SITE}/account"
    other = town.person()
    town.page(other, plan="basic")
    assert "CanadaGPT" not in town.fake.http.get(town.post(other, "/portal", return_url=SITE).json()["url"]).text


def test_a_portal_without_a_way_back_is_refused(town: Town, wanderer: Person) -> None:
    for body in ({}, {"return_url": None}, {"return_url": f"{SITE}/{'x' * 2000}"}):
        response = town.post(wanderer, "/portal", **body)
        assert failed(response) == (422, "invalid_request")
        assert [one["field"] for one in response.json()["error"]["fields"]] == ["return_url"]


# Overage ----------------------------------------------------------------------------------------------------------


def set_overage(town: Town, person: Person, body: str) -> httpx.Response:
    """PATCH /overage, with numbers as they are written."""
    return town.checkout.patch("/overage", content=body.encode(), headers=person.headers)


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
def test_the_overage_settings_that_are_given_change_and_the_answer_is_the_overage_of_usage(
    town: Town, api: Api, body: str, allowed: bool, limit: str
) -> None:
    user, other = town.person("basic", overage_limit="7.5"), town.person("basic", overage_limit="7.5")
    response = set_overage(town, user, body)
    assert response.status_code == 200
    overage = json.loads(response.text, parse_float=Decimal)
    assert overage == {"allowed": allowed, "price_usd": Decimal("0.025"), "limit_usd": Decimal(limit), "used_usd": 0}
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
def test_overage_settings_that_cannot_be_are_named_and_change_nothing(town: Town, body: str, field: str) -> None:
    user = town.person("basic", overage_limit="7.5")
    before = town.row(user)
    response = set_overage(town, user, body)
    assert failed(response) == (422, "invalid_request")
    assert [one["field"] for one in response.json()["error"]["fields"]] == [field]
    assert town.row(user) == before


def test_the_next_query_heeds_the_overage_settings(town: Town, api: Api) -> None:
    user = town.person("basic", stripe_subscription_id=uuid.uuid4().hex, quota_used=15, overage_limit="0.025")

    def ask() -> httpx.Response:
        return api.chat(user, question("What is a quorum?"))

    set_overage(town, user, '{"allow_overages": false}')
    assert failed(ask()) == (429, "quota_exhausted")
    set_overage(town, user, '{"allow_overages": true}')
    assert ask().json()["metadata"]["funding"] == "overage"
    assert failed(ask()) == (429, "overage_limit_reached")
    overage = set_overage(town, user, '{"overage_limit_usd": 0.05}').json()
    assert (overage["limit_usd"], overage["used_usd"]) == (0.05, 0.025)
    assert ask().json()["metadata"]["funding"] == "overage"
    assert failed(ask()) == (429, "overage_limit_reached")


# What is told -----------------------------------------------------------------------------------------------------


def test_the_log_tells_what_happened_and_nothing_of_whom_or_where(
    town: Town, faults: Callable[..., None], no_pause: None, eventually: Eventually
) -> None:
    user = town.person()
    with log_of("checkout") as lines:
        page = shown(click(town, user, plan="basic"))
        click(town, user, plan="basic", success_url="https://evil.example/canary")
        click(town, user, pack="canary")
        portal = town.post(user, "/portal", return_url=SITE).json()["url"]
        set_overage(town, user, '{"canary": 1}')
        faults(method="GET", path="/v1/prices", status=503, times=3)
        click(town, user, plan="pro")
        with another(town, create, STRIPE_SECRET_KEY="sk_test_canary") as http:
            click(town, user, http, plan="pro")
        town.checkout.get("/plans?canary", headers={"authorization": "Bearer canary"})
        eventually(lambda: len([line for line in lines() if line["message"] == "request"]) == 8)
        written = lines()
    told = [line for line in written if line["message"] == "request"]
    assert [(line["status"], line.get("code")) for line in told] == [
        (200, None),
        (422, "invalid_request"),
        (404, "not_found"),
        (200, None),
        (422, "invalid_request"),
        UNAVAILABLE,
        UNAVAILABLE,
        (200, None),
    ]
    assert [line.get("user_id") for line in told] == [user.id] * 7 + [None]
    assert [line["route"] for line in told[-2:]] == ["/checkout", "/plans"]
    failures = [line for line in written if line["message"] == "stripe failed"]
    assert [(line["level"], line["upstream_status"]) for line in failures] == [("ERROR", 503), ("ERROR", 401)]
    assert {line["error_type"] for line in failures} == {"APIError", "AuthenticationError"}
    assert {name for line in written for name in line} <= ALLOWED
    text = json.dumps(written)
    secret = [KEY, SECRET, user.token, town.stack.info["service_role_key"], town.stack.info["anon_key"]]
    private = [user.email, town.customer(user), page["session_id"], page["url"], portal, "://", SITE, "canary"]
    assert [one for one in secret + private if one in text] == []


# Settings ---------------------------------------------------------------------------------------------------------


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
def test_settings_that_cannot_be_are_named_without_their_value(town: Town, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} ") as told:
        load(CheckoutSettings, {**environment(town.stack, town.fake.url), name: value})
    assert value not in str(told.value).replace("https://example.org", "")


def test_origins_are_read_without_their_last_slash(town: Town) -> None:
    known = {**environment(town.stack, town.fake.url), "ALLOWED_ORIGINS": " https://a.example/ ,http://localhost:3000"}
    assert load(CheckoutSettings, known).allowed_origins == {"https://a.example", "http://localhost:3000"}
