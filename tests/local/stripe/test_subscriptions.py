"""Subscriptions of the Stripe stand-in over time: they renew, fail, recover, end and change plan."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.local.stripe.kit import DAY, HOUR, START, Fake

MONTH = 31 * DAY  # January, which starts at START


def period(subscription: stripe.Subscription) -> tuple[str, str]:
    item = subscription["items"].data[0]
    return day(item.current_period_start), day(item.current_period_end)


def day(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def parent(invoice: stripe.Invoice) -> str:
    """The id of the subscription of an invoice."""
    assert invoice.parent
    assert invoice.parent.subscription_details
    return str(invoice.parent.subscription_details.subscription)


def move_to(fake: Fake, year: int, month: int, date: int, hour: int = 0) -> None:
    fake.control("/_clock", to=int(datetime(year, month, date, hour, tzinfo=UTC).timestamp()))


# --- renewals --------------------------------------------------------------------------------------------------------


def test_subscription_starts_paid_and_renews_monthly(fake: Fake) -> None:
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
    assert [invoice.amount_paid for invoice in fake.invoices(subscription=subscription.id)] == [999, 999, 999]
    assert period(fake.subscription(subscription.id)) == ("2026-03-01", "2026-04-01")
    assert len(fake.v1.charges.list({"customer": customer.id}).data) == 3


def test_moving_a_year_at_once_runs_in_order(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer().id, fake.price(999).id)
    fake.advance(365 * DAY + HOUR)
    invoices = fake.invoices(subscription=subscription.id)
    assert [invoice.status for invoice in invoices] == ["paid"] * 13
    assert [day(invoice.created)[5:7] for invoice in invoices[::-1]] == [f"{month:02}" for month in (*range(1, 13), 1)]
    times = [event["created"] for event in fake.http.get("/_events").json()]
    assert times == sorted(times)


def test_anchor_on_the_last_day_stays_last(fake: Fake) -> None:
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


def test_item_can_be_added_to_a_renewal_draft(fake: Fake) -> None:
    """As the webhooks function does after `invoice.created`."""
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


def test_free_subscription_renews_and_bills_invoice_items(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(0).id)
    assert subscription.status == "active"
    assert [(invoice.status, invoice.total) for invoice in fake.invoices()] == [("paid", 0)]
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
    assert [(invoice.status, invoice.total) for invoice in fake.invoices()] == [("paid", 0), ("paid", 250), ("paid", 0)]
    assert len(fake.v1.charges.list().data) == 1


def test_free_subscription_needs_no_card(fake: Fake) -> None:
    customer = fake.customer(works=None)
    assert fake.subscribe(customer.id, fake.price(0).id).status == "active"
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        fake.subscribe(customer.id, fake.price(999).id)


# --- payments that fail ----------------------------------------------------------------------------------------------


def test_failed_renewal_is_past_due_until_a_retry_succeeds(fake: Fake) -> None:
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
    assert fake.event_types().count("invoice.payment_failed") == 2


def test_past_due_invoice_can_be_paid_manually(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.control(f"/_customers/{customer.id}/card", works=False)
    fake.advance(MONTH + HOUR)
    fake.control(f"/_customers/{customer.id}/card", works=True)
    fake.v1.invoices.pay(str(fake.subscription(subscription.id).latest_invoice))
    assert fake.subscription(subscription.id).status == "active"


def test_unpaid_subscription_is_canceled_after_the_last_retry(fake: Fake) -> None:
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


def test_failed_first_payment_leaves_the_subscription_incomplete_for_a_day(fake: Fake) -> None:
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


def test_cancel_at_period_end_takes_effect_at_period_end(fake: Fake) -> None:
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
    assert fake.event_types()[-1] == "customer.subscription.deleted"
    assert fake.v1.subscriptions.list().data == []
    assert [subscription.id for subscription in fake.v1.subscriptions.list({"status": "canceled"}).data] == [
        subscription.id
    ]


def test_cancel_at_can_be_in_a_later_period(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer().id, fake.price(999).id, cancel_at=START + MONTH + 5 * DAY)
    fake.advance(MONTH + 5 * DAY - 1)
    assert fake.subscription(subscription.id).status == "active"
    fake.advance(1)
    assert fake.subscription(subscription.id).status == "canceled"


def test_immediate_cancellation_is_final(fake: Fake) -> None:
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


def test_items_after_the_end_go_on_a_standalone_invoice(fake: Fake) -> None:
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


def test_deleting_a_customer_cancels_their_subscriptions(fake: Fake) -> None:
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)
    fake.v1.customers.delete(customer.id)
    assert fake.subscription(subscription.id).status == "canceled"
    assert fake.event_types()[-2:] == ["customer.subscription.deleted", "customer.deleted"]


# --- changes of plan -------------------------------------------------------------------------------------------------


def halfway(fake: Fake, price: stripe.Price) -> stripe.Subscription:
    """A subscription in the middle of its first period."""
    subscription = fake.subscribe(fake.customer().id, price.id)
    fake.advance(MONTH // 2)
    return subscription


def change(fake: Fake, subscription: stripe.Subscription, price: stripe.Price, **more: Any) -> stripe.Subscription:
    item = subscription["items"].data[0].id
    return fake.v1.subscriptions.update(subscription.id, {"items": [{"id": item, "price": price.id}], **more})


def test_price_change_is_prorated_on_the_next_invoice(fake: Fake) -> None:
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


def test_price_change_can_be_invoiced_now_or_not_prorated(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, basic)
    change(fake, subscription, pro, proration_behavior="always_invoice")
    invoice = fake.invoices()[0]
    assert (invoice.status, invoice.billing_reason, invoice.total) == ("paid", "subscription_update", 1000)
    change(fake, fake.subscription(subscription.id), basic, proration_behavior="none")
    assert fake.v1.invoice_items.list({"pending": True}).data == []
    fake.advance(MONTH)
    assert fake.invoices()[0].total == 999


def test_downgrade_leaves_a_credit_balance(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, pro)
    change(fake, subscription, basic, proration_behavior="always_invoice")
    invoice = fake.invoices()[0]
    assert (invoice.total, invoice.amount_due, invoice.ending_balance) == (-1000, 0, -1000)
    fake.advance(MONTH - MONTH // 2 + HOUR)
    renewal = fake.invoices()[0]
    assert (renewal.total, renewal.amount_due, renewal.ending_balance) == (999, 0, -1)


def test_change_from_free_to_paid_starts_a_charged_period(fake: Fake) -> None:
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


def test_upgrade_with_a_declined_card_can_be_refused(fake: Fake) -> None:
    basic, pro = fake.price(999), fake.price(2999)
    subscription = halfway(fake, basic)
    fake.control(f"/_customers/{subscription.customer}/card", works=False)
    with pytest.raises(stripe.CardError):
        change(fake, subscription, pro, proration_behavior="always_invoice", payment_behavior="error_if_incomplete")
    assert fake.subscription(subscription.id)["items"].data[0].price.id == basic.id
    change(fake, subscription, pro, proration_behavior="always_invoice")
    assert fake.subscription(subscription.id).status == "past_due"


def test_price_without_an_item_id_adds_a_second_item(fake: Fake) -> None:
    """A common mistake of clients has the same effect as at Stripe."""
    subscription = halfway(fake, fake.price(999))
    other = fake.price(2999)
    changed = fake.v1.subscriptions.update(subscription.id, {"items": [{"price": other.id}]})
    assert [item.price.unit_amount for item in changed["items"].data] == [999, 2999]


def test_prorations_are_invoiced_at_period_end_and_dropped_at_cancellation(fake: Fake) -> None:
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


# --- 3-D Secure ------------------------------------------------------------------------------------------------------


def test_a_first_payment_with_3ds_starts_when_confirmed(fake: Fake) -> None:
    customer, price = fake.customer(), fake.price(999)
    card = fake.v1.payment_methods.attach("pm_card_authenticationRequired", {"customer": customer.id})
    params: Any = {
        "customer": customer.id,
        "items": [{"price": price.id}],
        "default_payment_method": card.id,
        "expand": ["latest_invoice.payments"],
    }
    with pytest.raises(stripe.CardError):
        fake.v1.subscriptions.create({**params, "payment_behavior": "error_if_incomplete"})
    subscription = fake.v1.subscriptions.create(params)
    invoice = subscription.latest_invoice
    assert isinstance(invoice, stripe.Invoice)
    assert invoice.payments
    intent_id = str(invoice.payments.data[0].payment.payment_intent)
    intent = fake.v1.payment_intents.retrieve(intent_id)
    assert intent.next_action
    assert (subscription.status, intent.status, intent.latest_charge) == ("incomplete", "requires_action", None)
    with pytest.raises(stripe.CardError) as refused:
        fake.v1.invoices.pay(str(invoice.id))
    assert refused.value.code == "invoice_payment_intent_requires_action"
    assert {"invoice.payment_action_required", "payment_intent.requires_action"} <= {*fake.event_types()}
    assert invoice.hosted_invoice_url
    assert "Confirm the payment" in fake.http.get(invoice.hosted_invoice_url).text
    fake.http.post(invoice.hosted_invoice_url, data={"way": "confirm"})
    assert fake.subscription(subscription.id).status == "active"
    paid = fake.v1.payment_intents.retrieve(intent_id)
    assert (paid.status, paid.next_action) == ("succeeded", None)


def test_a_renewal_with_3ds_is_past_due_until_confirmed(fake: Fake) -> None:
    session = fake.checkout("subscription", fake.price(999).id)
    fake.press(session, "confirmed_card")
    subscription = fake.v1.subscriptions.list().data[0]
    assert subscription.status == "active"
    fake.advance(MONTH + HOUR)
    assert fake.subscription(subscription.id).status == "past_due"
    invoice = fake.invoices()[0]
    assert invoice.hosted_invoice_url
    fake.http.post(invoice.hosted_invoice_url, data={"way": "confirm"})
    assert fake.subscription(subscription.id).status == "active"


def test_a_customer_has_subscriptions_in_one_currency(fake: Fake) -> None:
    customer = fake.customer()
    first = fake.subscribe(customer.id, fake.price(999).id)
    canadian = fake.price(1299, currency="cad").id
    message = "cannot combine currencies on a single customer.* with currency usd"
    with pytest.raises(stripe.InvalidRequestError, match=message):
        fake.subscribe(customer.id, canadian)
    with pytest.raises(stripe.InvalidRequestError, match=message):
        fake.checkout("subscription", canadian, customer=customer.id)
    fake.checkout("payment", fake.price(1000, None, currency="cad").id, customer=customer.id)
    fake.v1.subscriptions.cancel(first.id)
    fake.subscribe(customer.id, canadian)
    assert fake.v1.customers.retrieve(customer.id).currency == fake.invoices()[0].currency == "cad"
