"""The Stripe stand-in over time, through the real StripeClient: subscriptions that renew, fail, recover and end,
Checkout in both modes, the portal. The clock stands still and is moved.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.local.stripe_kit import DAY, HOUR, START, Fake, running

MONTH = 31 * DAY  # January's, and START is its first second


@pytest.fixture(scope="module")
def served() -> Iterator[Fake]:
    with running() as fake:
        yield fake


@pytest.fixture
def fake(served: Fake) -> Fake:
    served.reset()
    return served


def period(subscription: stripe.Subscription) -> tuple[str, str]:
    item = subscription["items"].data[0]
    return day(item.current_period_start), day(item.current_period_end)


def day(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def parent(invoice: stripe.Invoice) -> str:
    """The subscription of an invoice, where this version has it."""
    assert invoice.parent
    assert invoice.parent.subscription_details
    return str(invoice.parent.subscription_details.subscription)


def move_to(fake: Fake, year: int, month: int, date: int, hour: int = 0) -> None:
    fake.control("/_clock", to=int(datetime(year, month, date, hour, tzinfo=UTC).timestamp()))


# --- renewals --------------------------------------------------------------------------------------------------------


def test_a_subscription_begins_paid_and_renews_every_month(fake: Fake) -> None:
    customer, price = fake.customer(), fake.price(999)
    subscription = fake.subscribe(customer.id, price.id, metadata={"user": "1"}, expand=["latest_invoice"])
    assert (subscription.status, period(subscription)) == ("active", ("2026-01-01", "2026-02-01"))
    first = subscription.latest_invoice
    assert isinstance(first, stripe.Invoice)
    assert (first.status, first.billing_reason, first.amount_paid) == ("paid", "subscription_create", 999)
    assert (first.period_start, first.period_end, first.lines.data[0].period.end) == (START, START, START + MONTH)
    assert parent(first) == subscription.id

    fake.advance(MONTH - 1)
    assert len(fake.invoices()) == 1
    fake.advance(1)
    renewed = fake.subscription(subscription.id)
    assert (renewed.status, period(renewed)) == ("active", ("2026-02-01", "2026-03-01"))
    draft = fake.invoices()[0]
    assert (draft.status, draft.billing_reason, draft.auto_advance) == ("draft", "subscription_cycle", True)
    assert (day(draft.period_start), day(draft.period_end)) == ("2026-01-01", "2026-02-01")
    assert day(draft.lines.data[0].period.start) == "2026-02-01"
    assert draft.automatically_finalizes_at == START + MONTH + HOUR
    assert draft.id == renewed.latest_invoice
    fake.advance(HOUR - 1)
    assert fake.v1.invoices.retrieve(draft.id).status == "draft"
    fake.advance(1)
    assert fake.v1.invoices.retrieve(draft.id).status == "paid"

    move_to(fake, 2026, 3, 1, 1)
    assert [one.amount_paid for one in fake.invoices(subscription=subscription.id)] == [999, 999, 999]
    assert period(fake.subscription(subscription.id)) == ("2026-03-01", "2026-04-01")
    assert len(fake.v1.charges.list({"customer": customer.id}).data) == 3


def test_a_year_in_one_step_happens_in_order(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer().id, fake.price(999).id)
    fake.advance(365 * DAY + HOUR)
    invoices = fake.invoices(subscription=subscription.id)
    assert [one.status for one in invoices] == ["paid"] * 13
    assert [day(one.created)[5:7] for one in invoices[::-1]] == [f"{month:02}" for month in (*range(1, 13), 1)]
    times = [event["created"] for event in fake.http.get("/_events").json()]
    assert times == sorted(times)


def test_the_last_day_of_a_month_stays_the_last(fake: Fake) -> None:
    move_to(fake, 2026, 1, 31)
    subscription = fake.subscribe(fake.customer().id, fake.price(999).id)
    assert period(subscription) == ("2026-01-31", "2026-02-28")
    move_to(fake, 2026, 3, 1)
    assert period(fake.subscription(subscription.id)) == ("2026-02-28", "2026-03-31")
    move_to(fake, 2026, 4, 2)
    assert period(fake.subscription(subscription.id)) == ("2026-03-31", "2026-04-30")


def test_pending_items_are_on_the_renewal_invoice(fake: Fake) -> None:
    customer, overage = fake.customer(), fake.price("2.5", interval=None, name="Queries")
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    other = fake.subscribe(customer.id, fake.price(100, interval="year").id)
    ours: Any = {"customer": customer.id, "pricing": {"price": overage.id}, "quantity": 200}
    item = fake.v1.invoice_items.create({**ours, "subscription": subscription.id})
    theirs = fake.v1.invoice_items.create({**ours, "subscription": other.id})
    fake.advance(MONTH + HOUR)
    invoice = fake.invoices(subscription=subscription.id)[0]
    assert (invoice.status, invoice.total, invoice.amount_paid) == ("paid", 1499, 1499)
    assert [line.amount for line in invoice.lines.data] == [500, 999]
    assert fake.v1.invoice_items.retrieve(item.id).invoice == invoice.id
    assert fake.v1.invoice_items.retrieve(theirs.id).invoice is None


def test_an_item_can_be_put_on_the_draft_within_its_hour(fake: Fake) -> None:
    """What a shop does when it hears invoice.created."""
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.advance(MONTH)
    draft = fake.invoices()[0]
    item: Any = {"customer": customer.id, "invoice": draft.id, "currency": "usd", "unit_amount_decimal": "2.5"}
    made = fake.v1.invoice_items.create({**item, "quantity": 40})
    assert made.parent
    assert made.parent.subscription_details
    assert made.parent.subscription_details.subscription == subscription.id
    assert fake.v1.invoices.retrieve(draft.id).total == 1099
    fake.advance(HOUR)
    assert fake.v1.invoices.retrieve(draft.id).amount_paid == 1099
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.invoice_items.create({**item, "quantity": 1})
    assert error.value.code == "invoice_not_editable"


def test_a_free_subscription_renews_and_bills_what_is_on_its_invoice(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(0).id)
    assert subscription.status == "active"
    assert [(one.status, one.total) for one in fake.invoices()] == [("paid", 0)]
    fake.advance(MONTH)
    draft = fake.invoices()[0]
    fake.v1.invoice_items.create(
        {
            "customer": customer.id,
            "invoice": draft.id,
            "currency": "usd",
            "amount": 250,
            "subscription": subscription.id,
        }
    )
    fake.advance(HOUR)
    paid = fake.v1.invoices.retrieve(draft.id)
    assert (paid.status, paid.total, paid.amount_paid) == ("paid", 250, 250)
    fake.advance(28 * DAY)
    assert [(one.status, one.total) for one in fake.invoices()] == [("paid", 0), ("paid", 250), ("paid", 0)]
    assert len(fake.v1.charges.list().data) == 1


def test_a_free_subscription_needs_no_card(fake: Fake) -> None:
    customer = fake.customer(works=None)
    assert fake.subscribe(customer.id, fake.price(0).id).status == "active"
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        fake.subscribe(customer.id, fake.price(999).id)


# --- payments that fail ----------------------------------------------------------------------------------------------


def test_a_failed_renewal_is_past_due_until_a_retry_is_paid(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.control(f"/_customers/{customer.id}/card", works=False)
    fake.advance(MONTH + HOUR)
    assert fake.subscription(subscription.id).status == "past_due"
    failed = fake.invoices()[0]
    assert (failed.status, failed.attempt_count, failed.amount_remaining) == ("open", 1, 999)
    assert failed.next_payment_attempt == START + MONTH + HOUR + 3 * DAY
    fake.advance(3 * DAY)
    assert fake.v1.invoices.retrieve(failed.id).attempt_count == 2
    fake.control(f"/_customers/{customer.id}/card", works=True)
    fake.advance(5 * DAY)
    paid = fake.v1.invoices.retrieve(failed.id)
    assert (paid.status, paid.attempt_count) == ("paid", 3)
    assert fake.subscription(subscription.id).status == "active"
    updates = fake.v1.events.list({"type": "customer.subscription.updated", "limit": 100}).data[::-1]
    changes = [
        (before["status"], event.data.object["status"])
        for event in updates
        if "status" in (before := event.data.to_dict()["previous_attributes"])
    ]
    assert changes == [("incomplete", "active"), ("active", "past_due"), ("past_due", "active")]
    assert fake.happened().count("invoice.payment_failed") == 2


def test_a_past_due_invoice_can_be_paid_by_hand(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.control(f"/_customers/{customer.id}/card", works=False)
    fake.advance(MONTH + HOUR)
    fake.control(f"/_customers/{customer.id}/card", works=True)
    fake.v1.invoices.pay(str(fake.subscription(subscription.id).latest_invoice))
    assert fake.subscription(subscription.id).status == "active"


def test_a_subscription_that_is_never_paid_is_canceled(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.control(f"/_customers/{customer.id}/card", works=False)
    fake.advance(MONTH + HOUR + 15 * DAY - 1)
    assert fake.subscription(subscription.id).status == "past_due"
    fake.advance(1)
    ended = fake.subscription(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", fake.now)
    assert ended.cancellation_details
    assert ended.cancellation_details.reason == "payment_failed"
    (invoice,) = fake.invoices(status="open")
    assert (invoice.attempt_count, invoice.auto_advance) == (4, False)
    fake.advance(90 * DAY)
    assert len(fake.invoices()) == 2


def test_a_first_payment_that_fails_leaves_it_incomplete_for_a_day(fake: Fake) -> None:
    price = fake.price(999)
    customer = fake.customer(works=False)
    with pytest.raises(stripe.CardError):
        fake.subscribe(customer.id, price.id, payment_behavior="error_if_incomplete")
    assert fake.v1.subscriptions.list({"status": "all"}).data == []
    late = fake.subscribe(customer.id, price.id)
    assert late.status == "incomplete"
    fake.control(f"/_customers/{customer.id}/card", works=True)
    fake.v1.invoices.pay(str(late.latest_invoice))
    assert fake.subscription(late.id).status == "active"
    fake.control(f"/_customers/{customer.id}/card", works=False)
    never = fake.subscribe(customer.id, price.id)
    fake.advance(23 * HOUR)
    assert fake.subscription(never.id).status == "incomplete_expired"
    assert fake.v1.invoices.retrieve(str(never.latest_invoice)).status == "void"


# --- endings ---------------------------------------------------------------------------------------------------------


def test_canceled_at_period_end_it_runs_until_then(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer().id, fake.price(999).id)
    fake.advance(DAY)
    asked = fake.v1.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    assert (asked.status, asked.cancel_at_period_end) == ("active", True)
    assert (asked.cancel_at, asked.canceled_at) == (START + MONTH, START + DAY)
    back = fake.v1.subscriptions.update(subscription.id, {"cancel_at_period_end": False})
    assert (back.cancel_at_period_end, back.cancel_at, back.canceled_at) == (False, None, None)
    fake.v1.subscriptions.update(subscription.id, {"cancel_at": "min_period_end"})
    fake.advance(MONTH - DAY - 1)
    assert fake.subscription(subscription.id).status == "active"
    fake.advance(1)
    ended = fake.subscription(subscription.id)
    assert (ended.status, ended.ended_at, ended.canceled_at) == ("canceled", START + MONTH, START + DAY)
    assert len(fake.invoices()) == 1
    assert fake.happened()[-1] == "customer.subscription.deleted"
    assert fake.v1.subscriptions.list().data == []
    assert [one.id for one in fake.v1.subscriptions.list({"status": "canceled"}).data] == [subscription.id]


def test_a_time_to_cancel_may_be_within_a_later_period(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer().id, fake.price(999).id, cancel_at=START + MONTH + 5 * DAY)
    fake.advance(MONTH + 5 * DAY - 1)
    assert fake.subscription(subscription.id).status == "active"
    fake.advance(1)
    assert fake.subscription(subscription.id).status == "canceled"


def test_canceled_now_it_ends_now_and_stays_ended(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    ended = fake.v1.subscriptions.cancel(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", START)
    for change in ({"cancel_at_period_end": False}, {"items": [{"price": "p"}]}):
        with pytest.raises(stripe.InvalidRequestError):
            fake.v1.subscriptions.update(subscription.id, change)  # type: ignore[arg-type]
    fake.v1.subscriptions.update(subscription.id, {"metadata": {"note": "kept"}})
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.subscriptions.cancel(subscription.id)
    assert (error.value.http_status, error.value.code) == (404, "resource_missing")
    fake.advance(60 * DAY)
    assert len(fake.invoices()) == 1


def test_what_is_owed_after_the_end_goes_on_a_standalone_invoice(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.v1.invoice_items.create({"customer": customer.id, "amount": 500, "currency": "usd"})
    fake.v1.subscriptions.cancel(subscription.id)
    late: Any = {"customer": customer.id, "amount": 300, "currency": "usd"}
    with pytest.raises(stripe.InvalidRequestError, match="has ended"):
        fake.v1.invoice_items.create({**late, "subscription": subscription.id})
    fake.v1.invoice_items.create(late)
    fake.advance(40 * DAY)
    assert len(fake.v1.invoice_items.list({"pending": True}).data) == 2
    invoice = fake.v1.invoices.create(
        {"customer": customer.id, "auto_advance": True, "pending_invoice_items_behavior": "include"}
    )
    assert (invoice.total, invoice.parent) == (800, None)
    fake.advance(HOUR)
    assert fake.v1.invoices.retrieve(invoice.id).status == "paid"


def test_deleting_a_customer_ends_what_they_had(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.v1.customers.delete(customer.id)
    assert fake.subscription(subscription.id).status == "canceled"
    assert fake.happened()[-2:] == ["customer.subscription.deleted", "customer.deleted"]


# --- changes of plan -------------------------------------------------------------------------------------------------


def halfway(fake: Fake, price: stripe.Price) -> stripe.Subscription:
    """A subscription in the exact middle of its January."""
    subscription = fake.subscribe(fake.customer().id, price.id)
    fake.advance(MONTH // 2)
    return subscription


def change(fake: Fake, subscription: stripe.Subscription, price: stripe.Price, **more: Any) -> stripe.Subscription:
    item = subscription["items"].data[0].id
    return fake.v1.subscriptions.update(subscription.id, {"items": [{"id": item, "price": price.id}], **more})


def test_a_change_of_price_is_prorated_on_the_next_invoice(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, basic)
    changed = change(fake, subscription, pro)
    assert changed["items"].data[0].price.id == pro.id
    assert period(changed) == period(subscription)
    credit, debit = fake.v1.invoice_items.list({"pending": True}).data[::-1]
    assert (credit.amount, credit.proration, debit.amount) == (-500, True, 1500)
    assert len(fake.invoices()) == 1
    fake.advance(MONTH - MONTH // 2 + HOUR)
    invoice = fake.invoices()[0]
    assert (invoice.total, invoice.amount_paid) == (2999 + 1000, 3999)


def test_a_change_may_be_invoiced_at_once_or_not_prorated(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, basic)
    change(fake, subscription, pro, proration_behavior="always_invoice")
    invoice = fake.invoices()[0]
    assert (invoice.status, invoice.billing_reason, invoice.total) == ("paid", "subscription_update", 1000)
    change(fake, fake.subscription(subscription.id), basic, proration_behavior="none")
    assert fake.v1.invoice_items.list({"pending": True}).data == []
    fake.advance(MONTH)
    assert fake.invoices()[0].total == 999


def test_a_downgrade_leaves_a_credit_for_later(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, pro)
    change(fake, subscription, basic, proration_behavior="always_invoice")
    invoice = fake.invoices()[0]
    assert (invoice.total, invoice.amount_due, invoice.ending_balance) == (-1000, 0, -1000)
    fake.advance(MONTH - MONTH // 2 + HOUR)
    renewal = fake.invoices()[0]
    assert (renewal.total, renewal.amount_due, renewal.ending_balance) == (999, 0, -1)


def test_from_free_to_paid_a_period_begins_and_is_charged_now(fake: Fake) -> None:
    free, pro = fake.price(0), fake.price(2999)
    subscription = fake.subscribe(fake.customer().id, free.id)
    fake.advance(10 * DAY)
    changed = change(fake, subscription, pro)
    assert period(changed) == ("2026-01-11", "2026-02-11")
    invoice = fake.invoices()[0]
    assert (invoice.status, invoice.total, changed.latest_invoice) == ("paid", 2999, invoice.id)
    fake.advance(MONTH + HOUR)
    assert period(fake.subscription(subscription.id)) == ("2026-02-11", "2026-03-11")
    assert len(fake.invoices()) == 3


def test_an_upgrade_that_cannot_be_paid_can_be_refused_whole(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, basic)
    fake.control(f"/_customers/{subscription.customer}/card", works=False)
    with pytest.raises(stripe.CardError):
        change(fake, subscription, pro, proration_behavior="always_invoice", payment_behavior="error_if_incomplete")
    assert fake.subscription(subscription.id)["items"].data[0].price.id == basic.id
    change(fake, subscription, pro, proration_behavior="always_invoice")
    assert fake.subscription(subscription.id).status == "past_due"


def test_a_price_without_an_item_id_is_added_beside_the_old_one(fake: Fake) -> None:
    """The classic mistake must look here as it does at Stripe."""
    subscription = halfway(fake, fake.price(999))
    other = fake.price(2999)
    changed = fake.v1.subscriptions.update(subscription.id, {"items": [{"price": other.id}]})
    assert [item.price.unit_amount for item in changed["items"].data] == [999, 2999]


def test_prorations_are_left_when_it_ends_with_its_period_and_gone_when_it_ends_now(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, basic)
    change(fake, subscription, pro, cancel_at_period_end=True)
    fake.advance(MONTH)
    last = fake.invoices()[0]
    assert (last.total, last.status) == (1000, "paid")
    again = fake.subscribe(str(subscription.customer), basic.id)
    fake.advance(10 * DAY)
    change(fake, again, pro)
    fake.v1.subscriptions.cancel(again.id)
    assert fake.v1.invoice_items.list({"pending": True}).data == []


# --- Checkout --------------------------------------------------------------------------------------------------------


def buttons(page: str) -> list[str]:
    return re.findall(r"<button[^>]*>([^<]+)</button>", page)


def test_the_checkout_page_shows_what_is_bought_and_how_one_may_leave(fake: Fake) -> None:
    session = fake.checkout("subscription", fake.price(999, name="Basic & more").id)
    assert session.url
    page = fake.http.get(session.url)
    assert "1 × Basic &amp; more" in page.text
    assert "$9.99 USD / month" in page.text
    assert buttons(page.text) == [
        "Pay with a good card",
        "Pay with a card that fails",
        "Pay later (async), succeeds",
        "Pay later (async), fails",
        "Leave without paying",
    ]


def test_a_subscription_is_bought(fake: Fake) -> None:
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
    answer = fake.leave(session, "good_card")
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
    events = fake.happened()
    assert events[-1] == "checkout.session.completed"
    assert {"customer.subscription.created", "invoice.paid", "charge.succeeded", "payment_intent.succeeded"} <= {
        *events
    }
    assert fake.leave(session, "good_card").status_code == 410
    assert fake.v1.checkout.sessions.list({"customer": customer.id, "status": "complete"}).data[0].id == session.id
    fake.advance(MONTH + HOUR)
    assert fake.invoices()[0].status == "paid"


def test_a_free_subscription_is_taken_without_a_payment(fake: Fake) -> None:
    session = fake.checkout("subscription", fake.price(0).id, customer_email="new@example.test")
    assert session.url
    assert buttons(fake.http.get(session.url).text)[0] == "Subscribe with a good card"
    assert fake.leave(session, "good_card").status_code == 303
    done = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["customer"]})
    assert done.payment_status == "no_payment_required"
    assert isinstance(done.customer, stripe.Customer)
    assert done.customer.email == "new@example.test"
    assert fake.v1.charges.list().data == []


def test_a_declined_card_leaves_the_session_open(fake: Fake) -> None:
    for mode, price in (("subscription", fake.price(999)), ("payment", fake.price(500, interval=None))):
        session = fake.checkout(mode, price.id)
        answer = fake.leave(session, "bad_card")
        assert answer.status_code == 402
        assert "Your card was declined." in answer.text
        assert fake.v1.checkout.sessions.retrieve(session.id).status == "open"
        assert fake.happened()[-1] == "payment_intent.payment_failed"
        assert fake.leave(session, "good_card").status_code == 303
    assert len(fake.v1.subscriptions.list().data) == 1
    assert len([one for one in fake.v1.charges.list().data if one.paid]) == 2


def test_a_pack_is_bought(fake: Fake) -> None:
    session = fake.checkout(
        "payment",
        fake.price(500, interval=None).id,
        client_reference_id="user-1",
        payment_intent_data={"metadata": {"pack": "small"}},
        line_items=[{"price": fake.price(500, interval=None).id, "quantity": 2}],
    )
    assert (session.amount_total, session.payment_intent, session.customer) == (1000, None, None)
    fake.leave(session, "good_card")
    done = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent.latest_charge"]})
    assert (done.status, done.payment_status, done.invoice) == ("complete", "paid", None)
    assert isinstance(done.payment_intent, stripe.PaymentIntent)
    assert done.payment_intent.metadata.to_dict() == {"pack": "small"}
    charge = done.payment_intent.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.amount, charge.metadata.to_dict()) == (1000, {"pack": "small"})
    found = fake.v1.checkout.sessions.list({"payment_intent": done.payment_intent.id}).data
    assert [one.id for one in found] == [session.id]
    fake.v1.refunds.create({"payment_intent": done.payment_intent.id, "amount": 400})
    assert fake.v1.charges.retrieve(charge.id).amount_refunded == 400


@pytest.mark.parametrize("comes", [True, False])
def test_a_delayed_payment_completes_unpaid_and_settles_a_day_later(fake: Fake, comes: bool) -> None:
    session = fake.checkout("payment", fake.price(500, interval=None).id)
    assert fake.leave(session, "later_succeeds" if comes else "later_fails").status_code == 303
    waiting = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
    assert isinstance(waiting.payment_intent, stripe.PaymentIntent)
    assert waiting.payment_intent.status == "processing"
    fake.advance(DAY)
    done = fake.v1.checkout.sessions.retrieve(session.id)
    assert done.payment_status == ("paid" if comes else "unpaid")
    outcome = "succeeded" if comes else "failed"
    assert fake.happened()[-1] == f"checkout.session.async_payment_{outcome}"
    assert ("charge.succeeded" in fake.happened()) is comes


@pytest.mark.parametrize("comes", [True, False])
def test_a_delayed_payment_of_a_subscription(fake: Fake, comes: bool) -> None:
    session = fake.checkout("subscription", fake.price(999).id)
    fake.leave(session, "later_succeeds" if comes else "later_fails")
    waiting = fake.v1.checkout.sessions.retrieve(session.id)
    subscription = fake.subscription(str(waiting.subscription))
    assert (waiting.payment_status, subscription.status) == ("unpaid", "active")
    fake.advance(DAY)
    assert fake.subscription(subscription.id).status == ("active" if comes else "past_due")
    assert fake.invoices()[0].status == ("paid" if comes else "open")


def test_leaving_goes_back_and_the_page_lasts_a_day(fake: Fake) -> None:
    session = fake.checkout("payment", fake.price(500, interval=None).id)
    assert fake.leave(session, "leave").headers["location"] == "http://shop.test/left"
    assert fake.v1.checkout.sessions.retrieve(session.id).status == "open"
    fake.advance(DAY)
    assert fake.v1.checkout.sessions.retrieve(session.id).status == "expired"
    assert fake.happened()[-1] == "checkout.session.expired"
    answer = fake.leave(session, "good_card")
    assert answer.status_code == 410
    assert "expired" in answer.text
    assert fake.http.get("/c/pay/cs_test_0").status_code == 404


def test_a_session_can_be_expired_while_it_is_open(fake: Fake) -> None:
    session = fake.checkout("payment", fake.price(500, interval=None).id, expires_at=START + HOUR)
    assert fake.v1.checkout.sessions.expire(session.id).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="Only Checkout Sessions"):
        fake.v1.checkout.sessions.expire(session.id)
    fake.advance(DAY)
    assert fake.happened().count("checkout.session.expired") == 1


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
def test_a_session_that_stripe_would_refuse_is_refused(
    fake: Fake, mode: str, interval: str | None, amount: int, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=words):
        fake.checkout(mode, fake.price(amount, interval=interval).id, **more)


# --- the portal ------------------------------------------------------------------------------------------------------


def test_the_portal_cancels_by_time_and_resumes(fake: Fake) -> None:
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


def test_the_portal_changes_plan_and_card(fake: Fake) -> None:
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


def test_the_portal_touches_nobody_elses_subscription(fake: Fake) -> None:
    price = fake.price(999)
    other = fake.subscribe(fake.customer().id, price.id)
    session = fake.v1.billing_portal.sessions.create({"customer": fake.customer().id})
    assert "has ended" in fake.http.post(session.url, data={"action": f"cancel:{other.id}"}).text
    assert fake.subscription(other.id).cancel_at is None
