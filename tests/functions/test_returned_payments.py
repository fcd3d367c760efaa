"""Overage whose payment was refunded or disputed is owed again, and bounds what the user may ask."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.billing_kit import DAY, BillingStack, stripe_get, stripe_post
from tests.conftest import Person
from tests.functions.checkout.kit import set_overage
from tests.functions.test_billing import job
from tests.functions.test_exposure import (
    LIMIT,
    ask_until_refused,
    break_cards,
    cancel,
    findings,
    open_invoice,
    owed,
    subscribe,
)
from tests.functions.webhooks.kit import MONTH, change_plan, newest, plan_of
from tests.sql.metering import action, at, value

HALF = LIMIT / 2


@pytest.fixture(autouse=True)
def real_clock(billing: BillingStack) -> Iterator[None]:
    """The clock of the database is set in each test, and no subscription outlives it."""
    yield
    at(billing.db, "")
    billing.cancel_subscriptions()


def overage_payer(billing: BillingStack) -> tuple[Person, str]:
    """A user who has reached the limit, paid, and raised the limit. Returns the payment as well."""
    user = billing.new_user()
    billing.buy(user, plan="usage_only")
    assert set(billing.deliver()) == {200}
    ask_until_refused(billing, user)
    job(billing, "bill-thresholds")
    assert set(billing.deliver()) == {200}
    assert set_overage(billing, user, '{"overage_limit_usd": 20}').json()["limit_usd"] == 2 * LIMIT
    return user, payment_of(billing, user)


def payment_of(billing: BillingStack, user: Person) -> str:
    """The user's newest payment."""
    return str(stripe_get(billing, "charges", customer=billing.customer_id(user))["data"][0]["payment_intent"])


def exposure(billing: BillingStack, user: Person) -> tuple[Decimal, Decimal, Decimal | None]:
    """What is not paid, what is paid, and the limit, US dollars."""
    row = billing.subscription_row(user)
    return row["unpaid_overage_usd"], row["paid_overage_usd"], row["overage_limit"]


def dispute(billing: BillingStack, payment: str, status: str) -> None:
    """Open or close a dispute. All events are delivered, newest first."""
    billing.fake.control("/_disputes", charge=payment, status=status)
    assert set(billing.deliver(*reversed(billing.undelivered()))) == {200}


def give_back(billing: BillingStack, user: Person, count: int) -> Decimal:
    """Give back queries. Returns what they were charged."""
    rows = billing.db.execute(
        "select id::text, overage_charge from public.usage_logs where user_id = %s limit %s", (user.id, count)
    ).fetchall()
    for row in rows:
        assert "refused" not in value(billing.db, "select public.credit_back(%s, %s)", row["id"], action())
    return sum((row["overage_charge"] for row in rows), Decimal(0))


def refusal(billing: BillingStack, user: Person) -> dict[str, Any]:
    """The refusal of the next query."""
    before = owed(billing, user)
    refused = ask_until_refused(billing, user)
    assert owed(billing, user) == before
    return refused


@pytest.mark.parametrize("way", ["dispute", "refund"])
def test_a_returned_payment_is_owed_until_it_pays_again(billing: BillingStack, way: str) -> None:
    user, payment = overage_payer(billing)
    assert exposure(billing, user) == (0, LIMIT, 2 * LIMIT)
    if way == "dispute":
        dispute(billing, payment, "needs_response")
    else:
        refund = stripe_post(billing, "refunds", payment_intent=payment)["id"]
        assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == (LIMIT, 0, LIMIT)
    assert refusal(billing, user)["reason_code"] == "overage_returned"
    assert set_overage(billing, user, '{"overage_limit_usd": 20}').json()["limit_usd"] == LIMIT
    assert findings(billing, user) == []

    if way == "dispute":
        dispute(billing, payment, "won")
    else:
        billing.fake.control(f"/_refunds/{refund}/fail", is_counted=True)
        assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == (0, LIMIT, LIMIT)
    set_overage(billing, user, '{"overage_limit_usd": 20}')
    ask_until_refused(billing, user)
    assert owed(billing, user) == 2 * LIMIT
    assert findings(billing, user) == []


@pytest.mark.parametrize("kind", ["payment_record", "charge"])
def test_overage_paid_without_a_payment_intent_is_paid(billing: BillingStack, kind: str) -> None:
    user = billing.new_user()
    billing.buy(user, plan="usage_only")
    assert set(billing.deliver()) == {200}
    ask_until_refused(billing, user)
    customer = billing.customer_id(user)
    billing.fake.control(f"/_customers/{customer}/card", works=False)
    job(billing, "bill-thresholds")
    (unpaid,) = stripe_get(billing, "invoices", customer=customer, status="open")["data"]
    billing.fake.control(f"/_invoices/{unpaid['id']}/payment", kind=kind)
    assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == (0, LIMIT, None)
    assert findings(billing, user) == []


def test_a_lost_dispute_opens_no_new_credit(billing: BillingStack) -> None:
    user, payment = overage_payer(billing)
    dispute(billing, payment, "lost")
    cancel(billing, user)
    with pytest.raises(psycopg.Error, match="payment was returned"):
        value(billing.db, "select public.check_deletion(%s)", user.id)
    value(billing.db, "select public.check_deletion(%s, true)", user.id)
    billing.fake.advance(MONTH)
    subscribe(billing, user)
    refused = refusal(billing, user)
    assert (refused["reason_code"], refused["resets_at"]) == ("overage_returned", None)
    query = value(billing.db, "select min(id::text) from public.usage_logs where user_id = %s", user.id)
    assert value(billing.db, "select public.credit_back(%s, %s)", query, action()).keys() == {"refused"}
    limits = '{"overage_limit_usd": 11}'
    value(billing.db, "select public.set_limits(%s, %s, %s)", user.id, limits, action())
    ask_until_refused(billing, user)
    assert owed(billing, user) == LIMIT + 1
    # Processed again, nothing changes.
    closed = newest(billing, "charge.dispute.closed")
    before = billing.subscription_row(user)
    assert billing.deliver(closed, closed) == [200, 200]
    assert exposure(billing, user) == (before["unpaid_overage_usd"], 0, before["overage_limit"])
    assert findings(billing, user) == []


def test_queries_given_back_before_a_dispute_are_owed_as_well(billing: BillingStack) -> None:
    """Their credit is at Stripe, and the bank returns their payment, too."""
    user, payment = overage_payer(billing)
    given_back = give_back(billing, user, 4)
    # The limit, which was raised to twice what is paid, falls.
    assert exposure(billing, user) == (0, LIMIT - given_back, 2 * (LIMIT - given_back))
    assert findings(billing, user) == []
    dispute(billing, payment, "needs_response")
    assert exposure(billing, user) == (LIMIT, 0, LIMIT)
    assert refusal(billing, user)["reason_code"] == "overage_returned"
    assert findings(billing, user) == []
    value(billing.db, "select public.repair_counters(%s)", user.id)
    assert exposure(billing, user) == (LIMIT, 0, LIMIT)
    dispute(billing, payment, "won")
    assert exposure(billing, user) == (0, LIMIT - given_back, LIMIT)
    assert findings(billing, user) == []


def test_giving_back_keeps_a_limit_that_support_set(billing: BillingStack) -> None:
    user, _ = overage_payer(billing)
    limits = '{"overage_limit_usd": 50}'
    value(billing.db, "select public.set_limits(%s, %s, %s)", user.id, limits, action())
    given_back = give_back(billing, user, 1)
    assert exposure(billing, user) == (0, LIMIT - given_back, 50)


def credited_user(billing: BillingStack) -> tuple[Person, str]:
    """A user who paid for pro, changed to usage_only with a credit, and used it for $10 of overage. Returns the payment
    for pro as well."""
    user = billing.new_user()
    billing.buy(user, plan="pro")
    assert set(billing.deliver()) == {200}
    payment = payment_of(billing, user)
    change_plan(billing, user, "usage_only")
    ask_until_refused(billing, user)
    job(billing, "bill-thresholds")
    assert set(billing.deliver()) == {200}
    return user, payment


def test_overage_paid_from_a_balance_raises_no_limit(billing: BillingStack) -> None:
    user, _ = credited_user(billing)
    assert stripe_get(billing, f"customers/{billing.customer_id(user)}")["balance"] == 1000 - 2999
    assert exposure(billing, user) == (0, 0, None)
    assert set_overage(billing, user, '{"overage_limit_usd": 20}').json()["limit_usd"] == LIMIT
    given_back = give_back(billing, user, 1)
    assert exposure(billing, user) == (0, 0, LIMIT)
    assert (given_back, findings(billing, user)) == (Decimal("0.025"), [])


def test_overage_paid_from_a_returned_balance_is_owed_again(billing: BillingStack) -> None:
    user, payment = credited_user(billing)
    billing.fake.advance(DAY)
    change_plan(billing, user, "pro")  # the balance pays some of it
    stripe_post(billing, "refunds", payment_intent=payment_of(billing, user))
    assert set(billing.deliver()) == {200}
    # What was paid later is not behind the balance.
    assert exposure(billing, user) == (0, 0, None)
    change_plan(billing, user, "usage_only")
    dispute(billing, payment, "needs_response")
    assert exposure(billing, user) == (LIMIT, 0, None)
    assert refusal(billing, user)["reason_code"] == "overage_returned"
    dispute(billing, payment, "won")
    assert exposure(billing, user) == (0, 0, None)
    stripe_post(billing, "refunds", payment_intent=payment)
    assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == (LIMIT, 0, None)
    assert findings(billing, user) == []


@pytest.mark.parametrize("amount", [None, 500])
def test_only_a_full_refund_of_a_mixed_invoice_returns_overage(billing: BillingStack, amount: int | None) -> None:
    user = billing.new_user()
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, int(HALF / Decimal("0.025")), start + DAY, start)
    billing.advance_and_deliver(MONTH + DAY)
    assert exposure(billing, user) == (0, HALF, None)
    payment = payment_of(billing, user)
    assert stripe_get(billing, f"payment_intents/{payment}")["amount"] == 999 + 500
    stripe_post(billing, "refunds", payment_intent=payment, **({"amount": amount} if amount else {}))
    assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == ((0, HALF, None) if amount else (HALF, 0, None))
    assert plan_of(billing, user) == ("basic" if amount else "usage_only", None, "active")
    assert findings(billing, user) == []


@pytest.mark.parametrize("is_voided", [True, False])
def test_a_credit_for_an_unpaid_upgrade_pays_no_overage(billing: BillingStack, is_voided: bool) -> None:
    user = billing.new_user()
    billing.buy(user, plan="usage_only")
    assert set(billing.deliver()) == {200}
    ask_until_refused(billing, user)
    break_cards(billing, user)
    change_plan(billing, user, "pro")
    unpaid = open_invoice(billing, user)
    change_plan(billing, user, "usage_only")
    job(billing, "bill-thresholds")
    assert set(billing.deliver()) == {200}
    assert stripe_get(billing, f"customers/{billing.customer_id(user)}")["balance"] == 1000 - 2999
    if is_voided:
        stripe_post(billing, f"invoices/{unpaid['id']}/void")
    assert set(billing.deliver()) <= {200}
    assert exposure(billing, user) == (LIMIT, 0, None)
    assert findings(billing, user) == []
    if not is_voided:
        billing.fake.http.post(unpaid["hosted_invoice_url"], data={"way": "good_card"})
        assert set(billing.deliver()) == {200}
        assert exposure(billing, user) == (0, 0, None)


def test_overage_offset_by_a_credit_of_its_invoice_is_not_paid(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="pro")
    assert set(billing.deliver()) == {200}
    payment = payment_of(billing, user)
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, int(HALF / Decimal("0.025")), start + DAY, start)
    change_plan(billing, user, "usage_only", proration_behavior="create_prorations")
    billing.advance_and_deliver(MONTH + DAY)
    assert stripe_get(billing, f"customers/{billing.customer_id(user)}")["balance"] < 0
    assert exposure(billing, user) == (0, 0, None)
    assert [one["settled_as"] for one in billing.overage_items(user)] == ["credited"]
    stripe_post(billing, "refunds", payment_intent=payment)
    assert set(billing.deliver()) == {200}
    assert exposure(billing, user) == (HALF, 0, None)
    assert findings(billing, user) == []
