"""Checkout in both modes and the billing portal of the Stripe stand-in."""

import re
from typing import Any

import pytest
import stripe

from tests.local.stripe.kit import DAY, HOUR, START, Fake

MONTH = 31 * DAY  # January, which starts at START


# --- Checkout --------------------------------------------------------------------------------------------------------


def buttons(page: str) -> list[str]:
    return re.findall(r"<button[^>]*>([^<]+)</button>", page)


def test_checkout_page_shows_items_and_buttons(fake: Fake) -> None:
    session = fake.checkout("subscription", fake.price(999, name="Basic & more").id)
    assert session.url
    page = fake.http.get(session.url)
    assert "1 × Basic &amp; more" in page.text
    assert "$9.99 USD / month" in page.text
    assert buttons(page.text) == [
        "Pay with a good card",
        "Pay with a card that fails",
        "Pay with a card whose bank asks, and confirm",
        "Pay later (async), succeeds",
        "Pay later (async), fails",
        "Leave without paying",
    ]


def test_checkout_starts_a_subscription(fake: Fake) -> None:
    customer, price = fake.customer(works=None), fake.price(999)
    session = fake.checkout(
        "subscription",
        price.id,
        customer=customer.id,
        client_reference_id="user-1",
        metadata={"kind": "plan"},
        subscription_data={"metadata": {"user": "1"}},
    )
    assert (session.status, session.payment_status, session.subscription) == ("open", "unpaid", None)
    assert session.id.startswith("cs_test_")
    answer = fake.press(session, "good_card")
    assert (answer.status_code, answer.headers["location"]) == (303, f"http://shop.test/done?session={session.id}")
    done = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription", "line_items", "customer"]})
    assert (done.status, done.payment_status, done.client_reference_id) == ("complete", "paid", "user-1")
    assert isinstance(done.subscription, stripe.Subscription)
    assert (done.subscription.status, done.subscription.customer) == ("active", customer.id)
    assert done.subscription.metadata.to_dict() == {"user": "1"}
    assert done.line_items
    assert done.line_items.data[0].price
    assert done.line_items.data[0].price.id == price.id
    assert done.subscription.default_payment_method
    settings = fake.v1.customers.retrieve(customer.id).invoice_settings
    assert settings
    assert settings.default_payment_method is None
    events = fake.event_types()
    assert events[-1] == "checkout.session.completed"
    assert {"customer.subscription.created", "invoice.paid", "charge.succeeded", "payment_intent.succeeded"} <= {
        *events
    }
    assert fake.press(session, "good_card").status_code == 410
    assert fake.v1.checkout.sessions.list({"customer": customer.id, "status": "complete"}).data[0].id == session.id
    fake.advance(MONTH + HOUR)
    assert fake.invoices()[0].status == "paid"


def test_adaptive_pricing_is_on_unless_the_session_says_no(fake: Fake) -> None:
    price = fake.price(999)
    for more, enabled in (({}, True), ({"adaptive_pricing": {"enabled": False}}, False)):
        pricing = fake.checkout("subscription", price.id, **more).adaptive_pricing
        assert pricing
        assert pricing.enabled is enabled


def test_checkout_of_a_free_subscription_takes_no_payment(fake: Fake) -> None:
    session = fake.checkout("subscription", fake.price(0).id, customer_email="new@example.test")
    assert session.url
    assert buttons(fake.http.get(session.url).text)[0] == "Subscribe with a good card"
    assert fake.press(session, "good_card").status_code == 303
    done = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["customer"]})
    assert done.payment_status == "no_payment_required"
    assert isinstance(done.customer, stripe.Customer)
    assert done.customer.email == "new@example.test"
    assert fake.v1.charges.list().data == []


def test_declined_card_leaves_the_session_open(fake: Fake) -> None:
    for mode, price in (("subscription", fake.price(999)), ("payment", fake.price(500, interval=None))):
        session = fake.checkout(mode, price.id)
        answer = fake.press(session, "bad_card")
        assert answer.status_code == 402
        assert "Your card was declined." in answer.text
        assert fake.v1.checkout.sessions.retrieve(session.id).status == "open"
        assert fake.event_types()[-1] == "payment_intent.payment_failed"
        assert fake.press(session, "good_card").status_code == 303
    assert len(fake.v1.subscriptions.list().data) == 1
    assert len([charge for charge in fake.v1.charges.list().data if charge.paid]) == 2


def test_checkout_takes_a_one_time_payment(fake: Fake) -> None:
    session = fake.checkout(
        "payment",
        fake.price(500, interval=None).id,
        client_reference_id="user-1",
        payment_intent_data={"metadata": {"pack": "small"}},
        line_items=[{"price": fake.price(500, interval=None).id, "quantity": 2}],
    )
    assert (session.amount_total, session.payment_intent, session.customer) == (1000, None, None)
    fake.press(session, "good_card")
    done = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent.latest_charge"]})
    assert (done.status, done.payment_status, done.invoice) == ("complete", "paid", None)
    assert isinstance(done.payment_intent, stripe.PaymentIntent)
    assert done.payment_intent.metadata.to_dict() == {"pack": "small"}
    charge = done.payment_intent.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.amount, charge.metadata.to_dict()) == (1000, {"pack": "small"})
    found = fake.v1.checkout.sessions.list({"payment_intent": done.payment_intent.id}).data
    assert [session.id for session in found] == [session.id]
    fake.v1.refunds.create({"payment_intent": done.payment_intent.id, "amount": 400})
    assert fake.v1.charges.retrieve(charge.id).amount_refunded == 400


@pytest.mark.parametrize("succeeds", [True, False])
def test_delayed_payment_settles_a_day_later(fake: Fake, succeeds: bool) -> None:
    session = fake.checkout("payment", fake.price(500, interval=None).id)
    assert fake.press(session, "later_succeeds" if succeeds else "later_fails").status_code == 303
    waiting = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
    assert isinstance(waiting.payment_intent, stripe.PaymentIntent)
    assert waiting.payment_intent.status == "processing"
    fake.advance(DAY)
    done = fake.v1.checkout.sessions.retrieve(session.id)
    assert done.payment_status == ("paid" if succeeds else "unpaid")
    outcome = "succeeded" if succeeds else "failed"
    assert fake.event_types()[-1] == f"checkout.session.async_payment_{outcome}"
    assert ("charge.succeeded" in fake.event_types()) is succeeds


@pytest.mark.parametrize("succeeds", [True, False])
def test_delayed_payment_decides_the_status_of_the_subscription(fake: Fake, succeeds: bool) -> None:
    session = fake.checkout("subscription", fake.price(999).id)
    fake.press(session, "later_succeeds" if succeeds else "later_fails")
    waiting = fake.v1.checkout.sessions.retrieve(session.id)
    subscription = fake.subscription(str(waiting.subscription))
    assert (waiting.payment_status, subscription.status) == ("unpaid", "active")
    fake.advance(DAY)
    assert fake.subscription(subscription.id).status == ("active" if succeeds else "past_due")
    assert fake.invoices()[0].status == ("paid" if succeeds else "open")


def test_leaving_redirects_and_the_session_expires_after_a_day(fake: Fake) -> None:
    session = fake.checkout("payment", fake.price(500, interval=None).id)
    assert fake.press(session, "leave").headers["location"] == "http://shop.test/left"
    assert fake.v1.checkout.sessions.retrieve(session.id).status == "open"
    fake.advance(DAY)
    assert fake.v1.checkout.sessions.retrieve(session.id).status == "expired"
    assert fake.event_types()[-1] == "checkout.session.expired"
    answer = fake.press(session, "good_card")
    assert answer.status_code == 410
    assert "expired" in answer.text
    assert fake.http.get("/c/pay/cs_test_0").status_code == 404


def test_only_an_open_session_can_be_expired(fake: Fake) -> None:
    session = fake.checkout("payment", fake.price(500, interval=None).id, expires_at=START + HOUR)
    assert fake.v1.checkout.sessions.expire(session.id).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="Only Checkout Sessions"):
        fake.v1.checkout.sessions.expire(session.id)
    fake.advance(DAY)
    assert fake.event_types().count("checkout.session.expired") == 1


@pytest.mark.parametrize(
    ("mode", "interval", "amount", "more", "words"),
    [
        ("payment", "month", 999, {}, "payment` mode but passed a recurring price"),
        ("subscription", None, 999, {}, "at least one recurring price"),
        ("payment", None, 49, {}, "at least \\$0.50"),
        ("payment", None, 500, {"subscription_data": {"metadata": {"a": "b"}}}, "can not pass `subscription_data`"),
        ("payment", None, 500, {"success_url": "/done"}, "Not a valid URL"),
        ("payment", None, 500, {"expires_at": START + 60}, "between 30 minutes and 24 hours"),
    ],
)
def test_invalid_session_is_refused(
    fake: Fake, mode: str, interval: str | None, amount: int, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=words):
        fake.checkout(mode, fake.price(amount, interval=interval).id, **more)


# --- the portal ------------------------------------------------------------------------------------------------------


def test_portal_cancels_and_resumes(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    session = fake.v1.billing_portal.sessions.create(
        {"customer": customer.id, "return_url": "http://shop.test/account"}
    )
    page = fake.http.get(session.url)
    assert "$9.99 USD / month" in page.text
    fake.http.post(session.url, data={"action": f"cancel:{subscription.id}"})
    ending = fake.subscription(subscription.id)
    assert (ending.cancel_at_period_end, ending.cancel_at) == (False, START + MONTH)
    assert "Don’t cancel subscription" in fake.http.get(session.url).text
    fake.http.post(session.url, data={"action": f"resume:{subscription.id}"})
    assert fake.subscription(subscription.id).cancel_at is None
    fake.http.post(session.url, data={"action": f"cancel:{subscription.id}"})
    fake.advance(MONTH)
    assert fake.subscription(subscription.id).status == "canceled"
    answer = fake.http.post(session.url, data={"action": "back"})
    assert answer.headers["location"] == "http://shop.test/account"


def test_portal_changes_plan_and_card(fake: Fake) -> None:
    customer, basic, pro = fake.customer(), fake.price(999), fake.price(2999, name="Pro")
    subscription = fake.subscribe(customer.id, basic.id)
    session = fake.v1.billing_portal.sessions.create({"customer": customer.id})
    assert "Pro: $29.99 USD / month" in fake.http.get(session.url).text
    fake.http.post(session.url, data={"action": f"plan:{subscription.id}", "price": pro.id})
    assert fake.subscription(subscription.id)["items"].data[0].price.id == pro.id
    fake.http.post(session.url, data={"action": "bad_card"})
    fake.advance(MONTH + HOUR)
    assert fake.subscription(subscription.id).status == "past_due"
    fake.http.post(session.url, data={"action": "good_card"})
    invoice = fake.invoices()[0]
    assert f"/i/{invoice.id}" in fake.http.get(session.url).text
    assert invoice.hosted_invoice_url
    assert "Thank you" in fake.http.post(invoice.hosted_invoice_url, data={"way": "good_card"}).text
    assert fake.subscription(subscription.id).status == "active"
    assert fake.http.get("/p/session/bps_0").status_code == 404


def test_portal_obeys_its_configuration(fake: Fake) -> None:
    customer, basic, pro, other = fake.customer(), fake.price(999), fake.price(2999, name="Pro"), fake.price(500)
    products = [{"product": str(price.product), "prices": [price.id]} for price in (basic, pro)]
    with pytest.raises(stripe.InvalidRequestError, match="is not of the product"):
        fake.v1.billing_portal.configurations.create(
            {"features": {"subscription_update": {"enabled": True, "default_allowed_updates": ["price"],
                                                  "products": [{**products[0], "prices": [pro.id]}]}}}
        )  # fmt: skip
    made = fake.v1.billing_portal.configurations.create({
        "features": {
            "payment_method_update": {"enabled": True},
            "subscription_update": {
                "enabled": True, "default_allowed_updates": ["price"], "products": products,
                "proration_behavior": "always_invoice",
                "schedule_at_period_end": {"conditions": [{"type": "decreasing_item_amount"}]},
            },
        },
        "metadata": {"name": "ours"},
    })  # fmt: skip
    subscription = fake.subscribe(customer.id, basic.id)
    session = fake.v1.billing_portal.sessions.create({"customer": customer.id, "configuration": made.id})

    def price_after(action: str, price: str = "") -> str:
        fake.http.post(session.url, data={"action": f"{action}:{subscription.id}", "price": price})
        return fake.subscription(subscription.id)["items"].data[0].price.id

    assert price_after("plan", other.id) == basic.id
    price_after("cancel")
    assert fake.subscription(subscription.id).cancel_at is None
    assert price_after("plan", pro.id) == pro.id
    assert [invoice.total for invoice in fake.invoices()] == [2000, 999]
    assert price_after("plan", basic.id) == pro.id
    fake.advance(MONTH)
    assert fake.subscription(subscription.id)["items"].data[0].price.id == basic.id
    changed = fake.v1.billing_portal.configurations.update(
        made.id, {"active": False, "features": {"subscription_cancel": {"enabled": True}}}
    )
    assert changed.features.subscription_cancel.enabled
    assert changed.features.subscription_update == made.features.subscription_update
    assert fake.v1.billing_portal.configurations.retrieve(made.id).active is False
    assert [one.id for one in fake.v1.billing_portal.configurations.list({"active": False}).data] == [made.id]
    with pytest.raises(stripe.InvalidRequestError, match="not active"):
        fake.v1.billing_portal.sessions.create({"customer": customer.id, "configuration": made.id})


def test_portal_refuses_subscriptions_of_other_customers(fake: Fake) -> None:
    price = fake.price(999)
    other = fake.subscribe(fake.customer().id, price.id)
    session = fake.v1.billing_portal.sessions.create({"customer": fake.customer().id})
    assert "has ended" in fake.http.post(session.url, data={"action": f"cancel:{other.id}"}).text
    assert fake.subscription(other.id).cancel_at is None
