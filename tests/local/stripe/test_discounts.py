"""Coupons, promotion codes and discounts of the Stripe stand-in."""

from typing import Any

import pytest
import stripe

from tests.local.stripe.kit import DAY, HOUR, Fake, error_fields

MONTH = 31 * DAY


def coupon(fake: Fake, **more: Any) -> stripe.Coupon:
    """A coupon of half the price, once."""
    what: Any = more if {"percent_off", "amount_off"} & more.keys() else {"percent_off": 50, **more}
    return fake.v1.coupons.create(what)


def totals(fake: Fake, subscription: stripe.Subscription) -> list[int]:
    """The totals of the subscription's invoices, oldest first."""
    return [invoice.total for invoice in fake.invoices(subscription=subscription.id)[::-1]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"percent_off": 25}, [749, 999, 999]),
        ({"percent_off": 100, "duration": "repeating", "duration_in_months": 2}, [0, 0, 999]),
        ({"percent_off": 33.3, "duration": "forever"}, [666, 666, 666]),
        ({"amount_off": 300, "currency": "usd"}, [699, 999, 999]),
        ({"amount_off": 5000, "currency": "usd", "duration": "forever"}, [0, 0, 0]),
    ],
)
def test_a_discount_lowers_invoices_as_long_as_it_lasts(fake: Fake, given: Any, expected: list[int]) -> None:
    discounts: Any = [{"coupon": coupon(fake, **given).id}]
    subscription = fake.subscribe(fake.customer().id, fake.price(999).id, discounts=discounts)
    fake.advance(MONTH + 28 * DAY + HOUR)
    assert totals(fake, subscription) == expected
    assert [invoice.status for invoice in fake.invoices()] == ["paid"] * 3
    first = fake.v1.invoices.retrieve(fake.invoices()[-1].id, {"expand": ["discounts", "discounts.source.coupon"]})
    (line,) = first.lines.data
    assert (first.subtotal, line.amount) == (999, 999)
    assert line.discount_amounts is not None
    assert [one.amount for one in line.discount_amounts] == [999 - expected[0]]
    assert first.discounts
    assert not isinstance(first.discounts[0], str)


def test_an_item_that_is_not_discountable_keeps_its_price(fake: Fake) -> None:
    customer = fake.customer()
    half = coupon(fake, duration="forever")
    subscription = fake.subscribe(customer.id, fake.price(1000).id, discounts=[{"coupon": half.id}])
    item: Any = {"customer": customer.id, "currency": "usd", "amount": 200}
    exact = fake.v1.invoice_items.create({**item, "discountable": False})
    fake.v1.invoice_items.create({**item, "amount": 100})
    fake.v1.invoice_items.create({**item, "amount": -30})
    fake.advance(MONTH + HOUR)
    assert totals(fake, subscription) == [500, 500 + 200 + 50 - 30]
    lines = {line.amount: line.discount_amounts for line in fake.invoices()[0].lines.data}
    assert (lines[200], lines[-30]) == ([], [])
    assert fake.v1.invoice_items.retrieve(exact.id).discountable is False


def test_a_discount_of_the_customer_or_an_invoice_spares_exact_items(fake: Fake) -> None:
    customer = fake.customer()
    half = coupon(fake, duration="forever")
    fake.control(f"/_customers/{customer.id}/discount", coupon=half.id)
    item: Any = {"customer": customer.id, "currency": "usd"}
    fake.v1.invoice_items.create({**item, "amount": 200, "discountable": False})
    fake.v1.invoice_items.create({**item, "amount": 100})
    invoice = fake.v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    assert (invoice.subtotal, invoice.total) == (300, 250)
    changed = fake.v1.invoices.update(invoice.id, {"discounts": [{"coupon": coupon(fake, percent_off=100).id}]})
    assert changed.total == 200
    assert fake.v1.invoices.update(invoice.id, {"discounts": ""}).total == 300


def test_prorations_are_net_of_the_discount(fake: Fake) -> None:
    customer, basic, pro = fake.customer(), fake.price(1000), fake.price(3100)
    half = coupon(fake, duration="forever")
    subscription = fake.subscribe(customer.id, pro.id, discounts=[{"coupon": half.id}])
    fake.advance(DAY)
    change: Any = {"items": [{"id": subscription["items"].data[0].id, "price": basic.id}]}
    fake.v1.subscriptions.update(subscription.id, {**change, "proration_behavior": "always_invoice"})
    credit, charge = sorted(line.amount for line in fake.invoices()[0].lines.data)
    assert (credit, charge) == (-1500, 484)
    assert fake.invoices()[0].total == credit + charge


def test_a_promotion_code_lowers_a_checkout(fake: Fake) -> None:
    third = coupon(fake, amount_off=100, currency="usd", max_redemptions=1)
    code = fake.v1.promotion_codes.create({"code": "LESS", "promotion": {"type": "coupon", "coupon": third.id}})
    assert [one.id for one in fake.v1.promotion_codes.list({"code": "less"}).data] == [code.id]
    session = fake.checkout("payment", fake.price(300, interval=None).id, allow_promotion_codes=True)
    assert session.url
    assert "Promotion code" in fake.http.get(session.url).text
    wrong = fake.http.post(session.url, data={"way": "good_card", "code": "MORE"})
    assert (wrong.status_code, "This code is invalid." in wrong.text) == (400, True)
    assert fake.http.post(session.url, data={"way": "good_card", "code": "less"}).status_code == 303
    paid = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert paid.total_details
    assert (paid.amount_subtotal, paid.amount_total, paid.total_details.amount_discount) == (300, 200, 100)
    assert isinstance(paid.payment_intent, stripe.PaymentIntent)
    assert paid.payment_intent.amount == 200
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.checkout("payment", fake.price(300, interval=None).id, discounts=[{"promotion_code": code.id}])
    assert error_fields(error) == (400, "coupon_expired", "coupon")


@pytest.mark.parametrize(("percent", "amounts"), [(50, [150]), (100, [])])
def test_a_code_after_a_declined_card_lowers_the_payment(fake: Fake, percent: int, amounts: list[int]) -> None:
    coupon = fake.v1.coupons.create({"percent_off": percent})
    code = fake.v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}}).code
    session = fake.checkout("payment", fake.price(300, interval=None).id, allow_promotion_codes=True)
    assert fake.press(session, "bad_card").status_code == 402
    assert session.url
    assert fake.http.post(session.url, data={"way": "good_card", "code": code}).status_code == 303
    assert [one.amount for one in fake.v1.charges.list().data if one.paid] == amounts
    assert (fake.v1.checkout.sessions.retrieve(session.id).payment_intent is None) == (percent == 100)


def test_a_fully_discounted_order_has_no_payment(fake: Fake) -> None:
    free = coupon(fake, percent_off=100)
    session = fake.checkout("payment", fake.price(300, interval=None).id, discounts=[{"coupon": free.id}])
    assert (session.amount_total, session.payment_status) == (0, "no_payment_required")
    assert fake.press(session, "good_card").status_code == 303
    done = fake.v1.checkout.sessions.retrieve(session.id)
    assert (done.status, done.payment_status, done.payment_intent) == ("complete", "no_payment_required", None)


def test_a_code_starts_a_discounted_subscription(fake: Fake) -> None:
    free = coupon(fake, percent_off=100)
    fake.v1.promotion_codes.create({"code": "GIFT", "promotion": {"type": "coupon", "coupon": free.id}})
    session = fake.checkout("subscription", fake.price(999).id, allow_promotion_codes=True)
    assert session.url
    assert fake.http.post(session.url, data={"way": "good_card", "code": "GIFT"}).status_code == 303
    done = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription"]})
    assert isinstance(done.subscription, stripe.Subscription)
    assert (done.subscription.status, done.subscription.discounts) == ("active", [])
    assert totals(fake, done.subscription) == [0]
    fake.advance(MONTH + HOUR)
    assert totals(fake, done.subscription) == [0, 999]


@pytest.mark.parametrize(
    "given",
    [{"percent_off": 101}, {"percent_off": 10, "amount_off": 5}, {"amount_off": 5}, {"duration": "repeating"}, {}],
)
def test_an_invalid_coupon_is_refused(fake: Fake, given: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.coupons.create(given)
