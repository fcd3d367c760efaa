"""What the events of a pack change: payment, refund and dispute."""

from decimal import Decimal

import pytest

from tests.api import Api, question
from tests.billing_kit import (
    DAY,
    BillingStack,
    stripe_get,
    stripe_post,
)
from tests.functions.webhooks.kit import (
    as_time,
    check_finished,
    credits_of,
    last_payment,
    newest,
    pack_owner,
    plan_of,
    subscriber,
)

pytestmark = pytest.mark.usefixtures("clean_up")


def test_a_paid_pack_is_granted_with_its_price(billing: BillingStack) -> None:
    user = pack_owner(billing)
    (pack,) = billing.packs(user)
    (session,) = stripe_get(billing, "checkout/sessions", customer=billing.customer_id(user))["data"]
    assert (pack["stripe_checkout_session_id"], pack["stripe_payment_intent_id"]) == (
        session["id"],
        session["payment_intent"],
    )
    assert (pack["credits_purchased"], pack["price_paid"], pack["price_per_credit"]) == (
        100,
        Decimal("2.25"),
        Decimal("0.0225"),
    )
    assert (pack["created_at"], pack["expires_at"]) == (as_time(billing.fake.now), None)
    assert plan_of(billing, user) == ("usage_only", None, "active")


def test_a_pack_does_not_change_the_plan(billing: BillingStack) -> None:
    user = subscriber(billing)
    before = billing.subscription_row(user)
    billing.buy(user, pack="pack_500")
    assert set(billing.deliver()) == {200}
    assert credits_of(billing, user) == [(500, 0, 0, False)]
    assert {**billing.subscription_row(user), "updated_at": None} == {**before, "updated_at": None}


def test_a_declined_card_buys_nothing(billing: BillingStack) -> None:
    user = billing.new_user()
    page = billing.checkout_page(user, pack="pack_100")
    assert billing.fake.http.post(page, data={"way": "bad_card"}).status_code == 402
    assert set(billing.deliver()) == {200}
    assert (billing.packs(user), plan_of(billing, user)) == ([], ("free", None, "active"))
    assert billing.fake.http.post(page, data={"way": "good_card"}).status_code == 303
    billing.deliver()
    assert credits_of(billing, user) == [(100, 0, 0, False)]


def test_a_delayed_payment_grants_the_pack_when_it_succeeds(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, "later_succeeds", pack="pack_100")
    completed = newest(billing, "checkout.session.completed")
    assert set(billing.deliver()) == {200}
    check_finished(billing, completed, attempts=1)
    assert (billing.packs(user), plan_of(billing, user)) == ([], ("free", None, "active"))
    billing.fake.advance(DAY)
    assert set(billing.deliver()) == {200}
    assert credits_of(billing, user) == [(100, 0, 0, False)]
    assert billing.packs(user)[0]["created_at"] == as_time(billing.fake.now)
    assert plan_of(billing, user) == ("usage_only", None, "active")


def test_a_failed_delayed_payment_grants_nothing(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, "later_fails", pack="pack_100")
    billing.deliver()
    billing.fake.advance(DAY)
    assert newest(billing, "checkout.session.async_payment_failed") in billing.undelivered()
    assert set(billing.deliver()) == {200}
    assert (billing.packs(user), plan_of(billing, user)) == ([], ("free", None, "active"))


def test_refunds_revoke_their_share_of_credits_rounded_down(billing: BillingStack) -> None:
    user = pack_owner(billing)
    for refunded, left in ((100, 56), (100, 12), (25, 0)):  # 44.4 and 88.9 of 100 credits, then all
        stripe_post(billing, "refunds", payment_intent=last_payment(billing, user), amount=str(refunded))
        assert set(billing.deliver()) == {200}
        assert credits_of(billing, user) == [(left, 0, 100 - left, False)]
        assert plan_of(billing, user)[0] == ("usage_only" if left else "free")
    assert billing.broken_invariants() == []


def test_a_refund_leaves_used_credits(billing: BillingStack, api: Api) -> None:
    user = pack_owner(billing)
    answer = api.chat(user, question("What is a quorum?"))
    assert answer.json()["metadata"]["funding"] == "credit"
    stripe_post(billing, "refunds", payment_intent=last_payment(billing, user))
    assert set(billing.deliver()) == {200}
    assert credits_of(billing, user) == [(0, 1, 99, False)]
    assert billing.packs(user)[0]["credits_to_revoke"] == 100
    assert plan_of(billing, user) == ("free", None, "active")


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_refund_that_fails_later_returns_the_credits(billing: BillingStack, is_counted: bool) -> None:
    user = pack_owner(billing)
    intent = last_payment(billing, user)
    kept = stripe_post(billing, "refunds", payment_intent=intent, amount="25")
    refund = stripe_post(billing, "refunds", payment_intent=intent)
    assert set(billing.deliver()) == {200}
    assert (credits_of(billing, user), plan_of(billing, user)[0]) == ([(0, 0, 100, False)], "free")
    billing.fake.control(f"/_refunds/{refund['id']}/fail", is_counted=is_counted)
    failed = newest(billing, "refund.failed")
    assert billing.deliver(failed) == [200]
    assert (credits_of(billing, user), plan_of(billing, user)[0]) == ([(89, 0, 11, False)], "usage_only")
    assert set(billing.deliver()) == {200}
    assert credits_of(billing, user) == [(89, 0, 11, False)]
    assert kept["status"] == "succeeded"


def test_a_refund_processed_before_the_payment_counts(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    stripe_post(billing, "refunds", payment_intent=last_payment(billing, user), amount="225")
    assert set(billing.deliver(*billing.undelivered()[::-1])) == {200}
    assert credits_of(billing, user) == [(0, 0, 100, False)]
    assert plan_of(billing, user) == ("free", None, "active")


@pytest.mark.parametrize(
    ("opening", "closing", "left"),
    [("needs_response", "won", 100), ("warning_needs_response", "warning_closed", 100), ("needs_response", "lost", 0)],
    ids=["won", "withdrawn", "lost"],
)
def test_a_disputed_pack_is_frozen_until_the_dispute_closes(
    billing: BillingStack, opening: str, closing: str, left: int
) -> None:
    user = pack_owner(billing)
    charge = last_payment(billing, user)
    for status in (opening, "under_review"):
        billing.fake.control("/_disputes", charge=charge, status=status)
        assert set(billing.deliver()) == {200}
        assert credits_of(billing, user) == [(100, 0, 0, True)]
    billing.fake.control("/_disputes", charge=charge, status=closing)
    assert set(billing.deliver()) == {200}
    assert credits_of(billing, user) == [(left, 0, 100 - left, False)]
    assert plan_of(billing, user)[0] == ("usage_only" if left else "free")
