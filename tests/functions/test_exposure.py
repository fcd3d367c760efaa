"""A dishonest payer: cards that Checkout accepts and that pay nothing. What such a user can owe is bounded."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.billing_kit import DAY, HOUR, STRIPE_HEADERS, BillingStack, dropped_events, stripe_get, stripe_post
from tests.conftest import Person
from tests.functions.checkout.kit import click, set_overage
from tests.functions.test_billing import job
from tests.functions.webhooks.kit import MONTH, newest, price_id
from tests.sql.metering import admit, at, settle, value

LIMIT = Decimal(10)


@pytest.fixture(autouse=True)
def real_clock(billing: BillingStack) -> Iterator[None]:
    """The clock of the database is set in each test, and no subscription outlives it."""
    yield
    at(billing.db, "")
    billing.cancel_subscriptions()


def break_cards(billing: BillingStack, user: Person, *, works: bool = False) -> None:
    """Let every card of the user fail, or work again."""
    billing.fake.control(f"/_customers/{billing.customer_id(user)}/card", works=works)


def new_payer(billing: BillingStack) -> Person:
    """A user who pays as they go."""
    user = billing.new_user()
    billing.buy(user, plan="usage_only")
    assert set(billing.deliver()) == {200}
    return user


def ask_until_refused(billing: BillingStack, user: Person) -> dict[str, Any]:
    """Ask at the time of Stripe's clock. Returns the refusal."""
    at(billing.db, datetime.fromtimestamp(billing.fake.now, UTC).isoformat())
    for _ in range(500):
        asked = admit(billing.db, user.id)
        if asked["decision"] != "admitted":
            return asked
        settle(billing.db, asked["hold_id"])
    raise AssertionError("500 queries, and no limit")


def ask(billing: BillingStack, user: Person, queries: int) -> None:
    """Ask so many queries at the time of Stripe's clock."""
    at(billing.db, datetime.fromtimestamp(billing.fake.now, UTC).isoformat())
    for _ in range(queries):
        settle(billing.db, admit(billing.db, user.id)["hold_id"])


def exposure(billing: BillingStack, user: Person) -> tuple[Decimal, Decimal]:
    """What is not paid, and what is paid, US dollars."""
    row = billing.subscription_row(user)
    return row["unpaid_overage_usd"], row["paid_overage_usd"]


def owed(billing: BillingStack, user: Person) -> Decimal:
    """All overage of the user in the ledger, billed or not."""
    total: Decimal = value(
        billing.db, "select coalesce(sum(overage_charge), 0) from public.usage_logs where user_id = %s", user.id
    )
    return total


def subscribe(billing: BillingStack, user: Person, plan: str = "usage_only") -> None:
    """Subscribe with a card that passes the check of $0, on a page that was opened before, and break the card."""
    stripe_post(
        billing,
        "subscriptions",
        customer=billing.customer_id(user),
        **{"items[0][price]": price_id(billing, f"plan_{plan}")},
    )
    break_cards(billing, user)
    assert set(billing.deliver()) == {200}


def cancel(billing: BillingStack, user: Person) -> None:
    """Cancel the subscription now. All events are delivered."""
    subscription = billing.subscription_row(user)["stripe_subscription_id"]
    billing.fake.http.delete(f"/v1/subscriptions/{subscription}", headers=STRIPE_HEADERS).raise_for_status()
    assert set(billing.deliver()) == {200}


def open_invoice(billing: BillingStack, user: Person) -> dict[str, Any]:
    """The one open invoice of the user."""
    (found,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
    invoice: dict[str, Any] = found
    return invoice


def findings(billing: BillingStack, user: Person) -> list[dict[str, Any]]:
    """What reconcile finds about the user."""
    return billing.db.execute("select * from public.reconcile() where user_id = %s", (user.id,)).fetchall()


def test_subscribing_again_opens_no_new_credit(billing: BillingStack) -> None:
    user = new_payer(billing)
    break_cards(billing, user)
    for time in range(3):
        assert set_overage(billing, user, '{"overage_limit_usd": 10000}').json()["limit_usd"] == 10
        refusal = ask_until_refused(billing, user)
        assert owed(billing, user) == LIMIT
        if time:
            assert (refusal["reason_code"], refusal["requires_payment"]) == ("overage_unpaid", True)
            assert refusal["url"] == open_invoice(billing, user)["hosted_invoice_url"]
        cancel(billing, user)
        assert open_invoice(billing, user)["amount_due"] == 1000
        refused = click(billing, user, plan="usage_only")
        error = refused.json()["error"]
        assert (refused.status_code, error["reason_code"], error["action"]) == (402, "invoice_open", "pay_invoice")
        assert error["url"] == open_invoice(billing, user)["hosted_invoice_url"]
        billing.fake.advance(DAY)
        subscribe(billing, user)
    assert ask_until_refused(billing, user)["reason_code"] == "overage_unpaid"
    assert owed(billing, user) == LIMIT
    assert findings(billing, user) == []


def test_overage_at_the_limit_is_invoiced_and_paying_frees_it(billing: BillingStack) -> None:
    user = new_payer(billing)
    break_cards(billing, user)
    assert ask_until_refused(billing, user)["reason_code"] == "overage_ceiling_reached"
    for _ in range(2):
        job(billing, "bill-thresholds")
        billing.deliver()
    invoice = open_invoice(billing, user)
    assert invoice["amount_due"] == 1000
    refusal = ask_until_refused(billing, user)
    assert (refusal["reason_code"], refusal["url"]) == ("overage_unpaid", invoice["hosted_invoice_url"])

    billing.fake.http.post(invoice["hosted_invoice_url"], data={"way": "good_card"})
    paid = newest(billing, "invoice.paid")
    assert billing.deliver(paid, paid) == [200, 200]
    row = billing.subscription_row(user)
    assert (row["unpaid_overage_usd"], row["paid_overage_usd"], row["open_invoice_url"]) == (0, LIMIT, None)
    # The limit of the period is reached as well. A user may owe twice what they have paid.
    assert ask_until_refused(billing, user)["reason_code"] == "overage_limit_reached"
    assert set_overage(billing, user, '{"overage_limit_usd": 10000}').json()["limit_usd"] == 20
    ask_until_refused(billing, user)
    assert owed(billing, user) == 2 * LIMIT
    # Less is unpaid than the limit, but the period is at it.
    break_cards(billing, user, works=True)
    job(billing, "bill-thresholds")
    assert set(billing.deliver()) == {200}
    assert billing.subscription_row(user)["paid_overage_usd"] == 2 * LIMIT
    assert set_overage(billing, user, '{"overage_limit_usd": 10000}').json()["limit_usd"] == 40
    assert admit(billing.db, user.id)["decision"] == "admitted"
    assert findings(billing, user) == []


def test_an_item_that_missed_its_invoice_is_invoiced_later(billing: BillingStack) -> None:
    user = new_payer(billing)
    ask_until_refused(billing, user)
    billing.fake.control("/_faults", path="/v1/invoices", method="POST", status=402, times=10)
    try:
        job(billing, "bill-thresholds")
    finally:
        billing.fake.http.delete("/_faults")
    (item,) = billing.overage_items(user)
    assert (item["stripe_invoice_item_id"] is None, item["stripe_invoice_id"]) == (False, None)
    job(billing, "bill-thresholds")
    assert set(billing.deliver()) == {200}
    assert billing.subscription_row(user)["paid_overage_usd"] == LIMIT


@pytest.mark.parametrize("is_paid", [True, False])
def test_overage_on_an_unpaid_first_invoice_stays_owed(billing: BillingStack, is_paid: bool) -> None:
    """Stripe puts waiting items on the first invoice, and voids it after 23 hours."""
    user = new_payer(billing)
    ask_until_refused(billing, user)
    billing.fake.control("/_faults", path="/v1/invoices", method="POST", status=402, times=10)
    try:
        job(billing, "bill-thresholds")
    finally:
        billing.fake.http.delete("/_faults")
    ended = billing.subscription_row(user)["stripe_subscription_id"]
    customer = billing.customer_id(user)
    with dropped_events(billing):
        billing.fake.http.delete(f"/v1/subscriptions/{ended}", headers=STRIPE_HEADERS).raise_for_status()
        plan = {"items[0][price]": price_id(billing, "plan_basic"), "payment_behavior": "default_incomplete"}
        new = stripe_post(billing, "subscriptions", customer=customer, **plan)
    job(billing, "bill-thresholds")
    invoice = open_invoice(billing, user)
    assert (invoice["id"], invoice["amount_due"]) == (new["latest_invoice"], 1000 + 999)
    error = click(billing, user, plan="usage_only").json()["error"]
    assert (error["reason_code"], error["url"]) == ("invoice_open", invoice["hosted_invoice_url"])
    if is_paid:
        billing.fake.http.post(error["url"], data={"way": "good_card"})
        assert set(billing.deliver()) == {200}
    else:
        billing.advance_and_deliver(DAY)
        assert stripe_get(billing, f"invoices/{invoice['id']}")["status"] == "void"
    assert exposure(billing, user) == ((0, LIMIT) if is_paid else (LIMIT, 0))
    assert findings(billing, user) == []


@pytest.mark.parametrize("is_paid", [True, False])
def test_a_total_that_stripe_does_not_charge_stays_owed(billing: BillingStack, is_paid: bool) -> None:
    """Below 50 cents Stripe adds it to the balance. The next invoice collects it; voided, that gives it back."""
    user = new_payer(billing)
    ask(billing, user, 19)
    cancel(billing, user)
    small = Decimal("0.475")
    assert stripe_get(billing, f"customers/{billing.customer_id(user)}")["balance"] == 47
    assert exposure(billing, user) == (small, 0)
    billing.fake.advance(DAY)
    subscribe(billing, user)
    ask_until_refused(billing, user)
    assert owed(billing, user) == LIMIT
    job(billing, "bill-thresholds")
    billing.deliver()
    invoice = open_invoice(billing, user)
    assert invoice["amount_due"] == 952 + 47  # 952.5 cents are rounded down
    assert exposure(billing, user) == (LIMIT, 0)
    if is_paid:
        billing.fake.http.post(invoice["hosted_invoice_url"], data={"way": "good_card"})
    else:
        stripe_post(billing, f"invoices/{invoice['id']}/void")
    assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == ((0, LIMIT - small) if is_paid else (small, 0))
    assert findings(billing, user) == []


def test_paying_at_the_threshold_frees_without_any_event(billing: BillingStack) -> None:
    user = new_payer(billing)
    ask_until_refused(billing, user)
    with dropped_events(billing):
        job(billing, "bill-thresholds")
    assert exposure(billing, user) == (0, LIMIT)
    assert findings(billing, user) == []


@pytest.fixture
def low_threshold(billing: BillingStack) -> Iterator[None]:
    """usage_only is invoiced from $2 on."""
    change = "update public.plans set overage_threshold_usd = %s where tier = 'usage_only'"
    billing.db.execute(change, (2,))
    yield
    billing.db.execute(change, (None,))


@pytest.mark.usefixtures("low_threshold")
def test_an_open_invoice_is_followed_by_one_more_at_the_limit(billing: BillingStack) -> None:
    """A card that fails is not charged for every 50 cents."""
    user = new_payer(billing)
    break_cards(billing, user)

    def invoiced() -> list[int]:
        with dropped_events(billing):
            job(billing, "bill-thresholds")
        found = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="open")["data"]
        return [one["amount_due"] for one in found]

    for _ in range(4):
        ask(billing, user, 80)
        assert invoiced() == [200]
    ask_until_refused(billing, user)
    assert invoiced() == invoiced() == [800, 200]
    assert owed(billing, user) == LIMIT


def test_an_uncollectible_invoice_can_be_paid(billing: BillingStack) -> None:
    user = new_payer(billing)
    break_cards(billing, user)
    ask_until_refused(billing, user)
    job(billing, "bill-thresholds")
    billing.deliver()
    invoice = open_invoice(billing, user)
    stripe_post(billing, f"invoices/{invoice['id']}/mark_uncollectible")
    assert set(billing.deliver()) == {200}
    refused = ask_until_refused(billing, user)
    assert (refused["reason_code"], refused["url"]) == ("overage_unpaid", invoice["hosted_invoice_url"])
    error = click(billing, user, plan="basic").json()["error"]
    assert (error["reason_code"], error["url"]) == ("invoice_open", invoice["hosted_invoice_url"])
    billing.fake.http.post(refused["url"], data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == (0, LIMIT)
    assert billing.subscription_row(user)["open_invoice_url"] is None
    assert findings(billing, user) == []


def test_overage_of_a_deleted_customer_is_for_support(billing: BillingStack) -> None:
    user = new_payer(billing)
    break_cards(billing, user)
    ask_until_refused(billing, user)
    job(billing, "bill-thresholds")
    billing.deliver()
    customer = billing.customer_id(user)
    billing.fake.http.delete(f"/v1/customers/{customer}", headers=STRIPE_HEADERS).raise_for_status()
    assert set(billing.deliver()) == {200}
    billing.buy(user, plan="usage_only")
    assert set(billing.deliver()) == {200}

    def refusal(age: int) -> dict[str, Any]:
        made_at = datetime.fromtimestamp(billing.fake.now - age, UTC)
        changed = "update public.overage_invoice_items set created_at = %s where user_id = %s"
        billing.db.execute(changed, (made_at, user.id))
        return ask_until_refused(billing, user)

    assert refusal(0)["reason_code"] == "overage_ceiling_reached"
    refused = refusal(2 * DAY)
    assert (refused["reason_code"], refused["resets_at"]) == ("overage_without_invoice", None)
    assert owed(billing, user) == LIMIT


def test_a_voided_invoice_is_neither_owed_nor_paid(billing: BillingStack) -> None:
    user = new_payer(billing)
    break_cards(billing, user)
    billing.db.execute("update public.user_subscriptions set overage_limit = 0.5 where user_id = %s", (user.id,))
    ask_until_refused(billing, user)
    job(billing, "bill-thresholds")
    billing.deliver()
    stripe_post(billing, f"invoices/{open_invoice(billing, user)['id']}/void")
    assert set(billing.deliver()) == {200}
    row = billing.subscription_row(user)
    assert (row["unpaid_overage_usd"], row["paid_overage_usd"], row["open_invoice_url"]) == (0, 0, None)
    assert findings(billing, user) == []


def test_an_unpaid_renewal_bounds_the_next_period(billing: BillingStack) -> None:
    user = new_payer(billing)
    break_cards(billing, user)
    ask_until_refused(billing, user)
    billing.advance_and_deliver(32 * DAY)
    assert ask_until_refused(billing, user)["reason_code"] == "payment_failed"
    cancel(billing, user)
    subscribe(billing, user)
    refusal = ask_until_refused(billing, user)
    assert (refusal["reason_code"], refusal["url"]) == (
        "overage_unpaid",
        open_invoice(billing, user)["hosted_invoice_url"],
    )
    assert owed(billing, user) == LIMIT
    assert findings(billing, user) == []


def chat(billing: BillingStack, user: Person) -> tuple[int, dict[str, Any]]:
    """Ask over HTTP. Returns the status and the error, or the metadata."""
    question = {"id": str(uuid.uuid4()), "role": "user", "parts": [{"type": "text", "text": "Who sits for Ottawa?"}]}
    answer = httpx.post(
        f"{billing.stack.info['functions_url']}/chat",
        json={"id": str(uuid.uuid4()), "messages": [question], "trigger": "submit-message"},
        headers={**user.headers, "accept": "application/json"},
        timeout=60,
    )
    body = answer.json()
    return answer.status_code, body["metadata"] if answer.status_code == 200 else body["error"]


def test_each_refusal_before_and_after_paying_names_what_helps(billing: BillingStack) -> None:
    user = new_payer(billing)
    break_cards(billing, user)
    at(billing.db, "")  # the clock of the chat
    while (asked := admit(billing.db, user.id))["decision"] == "admitted":
        settle(billing.db, asked["hold_id"])

    status, refused = chat(billing, user)
    assert (status, refused["reason_code"], refused["action"]) == (429, "overage_ceiling_reached", "wait")
    job(billing, "bill-thresholds")
    assert set(billing.deliver()) == {200}
    status, refused = chat(billing, user)
    assert (status, refused["reason_code"], refused["action"]) == (402, "overage_unpaid", "pay_invoice")
    billing.fake.http.post(refused["url"], data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    # The limit of the period, which the user may raise to twice what they have paid.
    status, refused = chat(billing, user)
    assert (status, refused["reason_code"], refused["action"]) == (429, "overage_limit_reached", "raise_limit")
    assert set_overage(billing, user, '{"overage_limit_usd": 10.025}').status_code == 200
    status, answered = chat(billing, user)
    assert (status, answered["funding"]) == (200, "overage")
    status, refused = chat(billing, user)
    assert (status, refused["reason_code"], refused["action"]) == (429, "overage_limit_reached", "raise_limit")
    assert set_overage(billing, user, '{"overage_limit_usd": 10000}').json()["limit_usd"] == 20
    assert chat(billing, user)[0] == 200
    assert findings(billing, user) == []


def test_paying_what_the_last_period_left_frees_the_next_query(billing: BillingStack) -> None:
    at(billing.db, datetime.fromtimestamp(billing.fake.now, UTC).isoformat())  # a period never starts earlier
    user = new_payer(billing)
    break_cards(billing, user)
    ask_until_refused(billing, user)
    end = int(billing.subscription_row(user)["current_period_end"].timestamp())
    billing.fake.control("/_clock", to=end + HOUR // 2)
    # The invoice is a draft. The limit is the highest that the user may set.
    assert ask_until_refused(billing, user)["reason_code"] == "overage_ceiling_reached"
    billing.advance_and_deliver(2 * HOUR)
    refused = ask_until_refused(billing, user)
    assert (refused["reason_code"], owed(billing, user)) == ("payment_failed", LIMIT)
    billing.fake.http.post(open_invoice(billing, user)["hosted_invoice_url"], data={"way": "good_card"})
    assert set(billing.deliver()) == {200}
    ask_until_refused(billing, user)
    assert owed(billing, user) == 2 * LIMIT
    assert findings(billing, user) == []


def test_overage_that_a_bank_asks_about_is_confirmed_on_its_page(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, "confirmed_card", plan="usage_only")
    assert set(billing.deliver()) == {200}
    ask_until_refused(billing, user)
    job(billing, "bill-thresholds")
    assert set(billing.deliver()) == {200}
    refused = ask_until_refused(billing, user)
    assert (refused["reason_code"], refused["url"]) == (
        "overage_unpaid",
        open_invoice(billing, user)["hosted_invoice_url"],
    )
    billing.fake.http.post(refused["url"], data={"way": "confirm"})
    assert set(billing.deliver()) == {200}
    row = billing.subscription_row(user)
    assert (row["unpaid_overage_usd"], row["paid_overage_usd"], row["open_invoice_url"]) == (0, LIMIT, None)
    assert findings(billing, user) == []


def test_overage_stored_after_its_invoice_was_paid_is_settled(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 40, start + DAY, start)
    billing.fake.advance(MONTH)
    draft = newest(billing, "invoice.created")
    billing.fake.control("/_faults", method="POST", path="/v1/invoiceitems", status=429, lost=True)
    assert billing.deliver(draft) == [503]
    (invoice,) = stripe_get(billing, "invoices", customer=billing.customer_id(user), status="draft")["data"]
    for step in ("finalize", "pay"):
        stripe_post(billing, f"invoices/{invoice['id']}/{step}")
    assert billing.deliver(newest(billing, "invoice.paid")) == [200]
    assert billing.subscription_row(user)["paid_overage_usd"] == 0
    assert billing.deliver(draft) == [200]
    row = billing.subscription_row(user)
    assert (row["unpaid_overage_usd"], row["paid_overage_usd"]) == (0, 1)
