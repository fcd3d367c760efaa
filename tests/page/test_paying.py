"""Journeys of people who pay, and of those who cannot: plans, credits, overage, own keys, a block, a failed payment."""

import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import psycopg
from playwright.sync_api import Page, expect

from infra.local.stack import STRIPE_KEY, Stack
from tests.api import Api, question
from tests.conftest import Person
from tests.page.kit import Watch
from tests.page.reader import answer, ask, close_dialog, meter, ready, refusal, sign_up_on
from tests.sql.metering import action

PageOf = Callable[..., Page]
NewPerson = Callable[..., Person]
Check = Callable[[Page], None]
Picture = Callable[[Page, str], None]
Db = psycopg.Connection[dict[str, Any]]


def test_a_newcomer_uses_the_free_questions_and_buys_credits(
    page_of: PageOf, api: Api, stack: Stack, watch: Watch, axe: Check, picture: Picture
) -> None:
    """The page and each function are on origins of their own, as on AWS."""
    page = page_of(site=stack.info["page_url"])
    axe(page)
    user = sign_up_on(page)
    ask(page, "What is Bill C-5?")
    ready(page)
    expect(answer(page)).to_contain_text("Bill C-5")
    expect(meter(page)).to_contain_text("9 of 10 free questions left")
    for _ in range(8):
        assert api.chat(user, question("Briefly")).status_code == 200
    ask(page, "What is a quorum?")
    ready(page)
    expect(meter(page)).to_contain_text("0 of 10 free questions left")

    watch.expect("/chat", 402)
    ask(page, "And one more?")
    expect(refusal(page).locator(".primary")).to_have_count(1)
    axe(page)
    picture(page, "refusal")
    page.get_by_role("button", name="FR · Français").click()
    refusal_in_french = page.get_by_role("region", name="Sans réponse")
    expect(refusal_in_french).to_contain_text("Vous avez utilisé toutes vos requêtes gratuites.")
    expect(refusal_in_french).not_to_contain_text("queries")
    picture(page, "refusal-in-french")
    page.get_by_role("button", name="EN · English").click()
    refusal(page).get_by_role("button", name="See the plans").click()
    page.get_by_role("button", name="Buy 100 credits").click()
    expect(page.get_by_role("button", name="Pay with a good card")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Pay with a good card").click()
    expect(page.get_by_role("status").filter(has_text="Done: your account is up to date.")).to_be_visible()
    close_dialog(page)
    expect(meter(page)).to_contain_text("100 credits")
    ask(page, "And one more?")
    ready(page)
    expect(meter(page)).to_contain_text("99 credits")


def test_overage_stops_at_its_limit_until_the_user_raises_it(
    page_of: PageOf, person: NewPerson, watch: Watch, axe: Check, picture: Picture
) -> None:
    page = page_of(
        person(
            "usage_only",
            stripe_subscription_id=f"sub_{uuid.uuid4()}",
            allow_overages=False,
            overage_limit=Decimal("0.05"),
        )
    )
    watch.expect("/chat", 429)
    ask(page, "What is a quorum?")
    refusal(page).get_by_role("button", name="Turn on paying per question").click()
    ready(page)
    expect(meter(page)).to_contain_text("of $0.05 this month")
    ask(page, "And a vote?")
    ready(page)
    ask(page, "And a bill?")
    refusal(page).get_by_role("button", name="Raise the limit").click()
    expect(page.get_by_label("Limit a month, in US dollars")).to_be_focused()
    axe(page)
    picture(page, "overage-limit")
    page.get_by_label("Limit a month, in US dollars").fill("10")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Saved: paying per question is on, up to $10.00 a month.")).to_be_visible()
    close_dialog(page)
    ask(page, "And a bill?")
    ready(page)
    expect(meter(page)).to_contain_text("of $10.00 this month")


def test_an_own_key_is_unlimited_until_its_provider_rejects_it(
    page_of: PageOf, person: NewPerson, stack: Stack, watch: Watch, axe: Check, picture: Picture
) -> None:
    page = page_of(person("basic"), "/#keys", site=stack.info["page_url"])
    page.get_by_label("Your Anthropic key").fill(f"sk-own-{uuid.uuid4()}")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The key is stored.")).to_be_visible()
    axe(page)
    picture(page, "own-key")
    close_dialog(page)
    expect(meter(page)).to_have_text("Your key · unlimited")
    ask(page, "What is a quorum?")
    ready(page)

    watch.expect("/chat", 422)
    ask(page, "And now? [fault:status 401]")
    refusal(page).get_by_role("button", name="Check your keys").click()
    expect(page.get_by_text("Anthropic no longer accepts this key")).to_be_visible()
    picture(page, "own-key-rejected")
    page.get_by_role("button", name="Delete (Anthropic)").click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(page.get_by_text("The key is deleted.")).to_be_visible()
    close_dialog(page)
    expect(meter(page)).to_contain_text("15 of 15 left today")


def test_a_blocked_user_is_told_whom_to_ask(
    page_of: PageOf, person: NewPerson, stack_db: Db, watch: Watch, axe: Check, picture: Picture
) -> None:
    user = person("pro")
    page = page_of(user)
    expect(meter(page)).to_contain_text("40 of 40 left today")
    stack_db.execute("select public.block_user(%s, %s)", (user.id, action()))
    watch.expect("/chat", 403)
    ask(page, "What is a quorum?")
    expect(refusal(page)).to_contain_text("blocked")
    expect(refusal(page)).to_contain_text("request id")
    expect(meter(page)).to_have_text("Account blocked")
    axe(page)
    picture(page, "blocked")


def test_a_subscriber_pays_the_invoice_that_failed(
    page_of: PageOf, sign_up: Callable[[str], Person], stack: Stack, axe: Check, picture: Picture
) -> None:
    user = sign_up("free")
    page = page_of(user, "/#plans")
    page.get_by_role("button", name="Choose Basic").click()
    page.get_by_role("button", name="Pay with a good card").click()
    expect(page.get_by_role("heading", name="Your plan: Basic")).to_be_visible()
    fail_payment(stack, user)
    page.reload()
    close_dialog(page)
    notice = page.get_by_role("region", name="Notices")
    expect(notice).to_contain_text("failed")
    axe(page)
    picture(page, "past-due")
    notice.get_by_role("button", name="Pay the invoice").click()
    page.get_by_role("link", name="Pay $").first.click()
    page.get_by_role("button", name="Pay with a good card").click()
    expect(page.get_by_text("Thank you, it is paid.")).to_be_visible()
    page.goto("/")
    expect(meter(page)).to_contain_text("left today")
    expect(notice).to_have_count(0)


def fail_payment(stack: Stack, user: Person) -> None:
    """The user's card no longer works, and an upgrade cannot be paid."""
    headers = {"authorization": f"Bearer {STRIPE_KEY}"}
    with httpx.Client(base_url=stack.info["stripe_url"], headers=headers, timeout=60) as stripe:
        (customer,) = stripe.get("/v1/customers", params={"email": user.email}).json()["data"]
        stripe.post(f"/_customers/{customer['id']}/card", content=json.dumps({"works": False})).raise_for_status()
        (subscription,) = stripe.get("/v1/subscriptions", params={"customer": customer["id"]}).json()["data"]
        (price,) = stripe.get("/v1/prices", params={"lookup_keys[0]": "plan_pro"}).json()["data"]
        change = {"items[0][id]": subscription["items"]["data"][0]["id"], "items[0][price]": price["id"]}
        change["proration_behavior"] = "always_invoice"
        stripe.post(f"/v1/subscriptions/{subscription['id']}", data=change).raise_for_status()
        stripe.post("/_settle").raise_for_status()
