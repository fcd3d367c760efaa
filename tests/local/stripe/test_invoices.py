"""Invoice items, invoices without a subscription, refunds and disputes of the Stripe stand-in."""

from typing import Any

import pytest
import stripe

from tests.local.stripe.kit import DAY, HOUR, START, Fake, answer_errors, error_fields

# --- invoice items and standalone invoices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "quantity", "amount"), [("2.5", 3, 8), ("2.5", 400, 1000), ("2.5", 1, 3), ("0.1", 4, 0), ("-2.5", 1, -3)]
)
def test_fractions_of_a_cent_are_rounded_once(fake: Fake, unit: str, quantity: int, amount: int) -> None:
    item = fake.v1.invoice_items.create(
        {
            "customer": fake.customer().id,
            "currency": "usd",
            "unit_amount_decimal": unit,  # type: ignore[typeddict-item]
            "quantity": quantity,
        }
    )
    assert item.amount == amount
    assert item.pricing
    assert str(item.pricing.unit_amount_decimal) == unit


def test_items_are_pending_until_an_invoice_includes_them(fake: Fake) -> None:
    customer, price = fake.customer(), fake.price("2.5", interval=None, name="Queries")
    item = fake.v1.invoice_items.create(
        {
            "customer": customer.id,
            "pricing": {"price": price.id},
            "quantity": 200,
            "description": "Overage",
            "period": {"start": START, "end": START + DAY},
        }
    )
    assert (item.amount, item.invoice, item.quantity) == (500, None, 200)
    assert [item.id for item in fake.v1.invoice_items.list({"customer": customer.id, "pending": True}).data] == [
        item.id
    ]
    empty = fake.v1.invoices.create({"customer": customer.id})
    assert (empty.total, len(empty.lines.data)) == (0, 0)
    invoice = fake.v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    assert (invoice.total, invoice.status, invoice.billing_reason) == (500, "draft", "manual")
    (line,) = invoice.lines.data
    assert line.parent
    assert line.parent.invoice_item_details
    assert line.parent.invoice_item_details.invoice_item == item.id
    assert (line.description, line.quantity, line.period.end) == ("Overage", 200, START + DAY)
    assert fake.v1.invoice_items.list({"pending": True}).data == []
    assert [item.id for item in fake.v1.invoice_items.list({"invoice": invoice.id}).data] == [item.id]
    paid = fake.v1.invoices.pay(invoice.id)
    assert (paid.status, paid.amount_paid, paid.amount_remaining) == ("paid", 500, 0)
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.invoice_items.delete(item.id)
    assert error.value.code == "invoice_not_editable"


def test_item_on_a_draft_changes_its_total(fake: Fake) -> None:
    customer = fake.customer()
    invoice = fake.v1.invoices.create({"customer": customer.id})
    item = fake.v1.invoice_items.create(
        {"customer": customer.id, "invoice": invoice.id, "amount": 700, "currency": "usd"}
    )
    assert fake.v1.invoices.retrieve(invoice.id).total == 700
    fake.v1.invoice_items.update(item.id, {"quantity": 2})
    assert fake.v1.invoices.retrieve(invoice.id).total == 1400
    fake.v1.invoice_items.delete(item.id)
    assert fake.v1.invoices.retrieve(invoice.id).total == 0
    fake.v1.invoices.finalize_invoice(invoice.id)
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.invoice_items.create({"customer": customer.id, "invoice": invoice.id, "amount": 7, "currency": "usd"})
    assert error_fields(error) == (400, "invoice_not_editable", "invoice")


def test_recurring_price_is_refused_for_an_invoice_item(fake: Fake) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="one_time"):
        fake.v1.invoice_items.create({"customer": fake.customer().id, "pricing": {"price": fake.price().id}})


def make_draft(fake: Fake, customer: str, amount: int, **more: Any) -> stripe.Invoice:
    """A draft with one item."""
    fake.v1.invoice_items.create({"customer": customer, "amount": amount, "currency": "usd"})
    return fake.v1.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include", **more})


def test_paid_invoice_is_found_by_its_payment_intent(fake: Fake) -> None:
    customer = fake.customer()
    invoice = make_draft(fake, customer.id, 500)
    opened = fake.v1.invoices.finalize_invoice(invoice.id)
    assert (opened.status, opened.amount_due, opened.number) == ("open", 500, f"{customer.invoice_prefix}-0001")
    paid = fake.v1.invoices.pay(invoice.id, {"expand": ["payments.data.payment.payment_intent"]})
    assert paid.payments
    payment = paid.payments.data[0].payment
    assert isinstance(payment.payment_intent, stripe.PaymentIntent)
    assert payment.payment_intent.status == "succeeded"
    charge = fake.v1.charges.retrieve(str(payment.payment_intent.latest_charge))
    assert (charge.amount, charge.status) == (500, "succeeded")
    found = fake.v1.invoice_payments.list(
        {"payment": {"type": "payment_intent", "payment_intent": payment.payment_intent.id}}
    )
    assert [payment.invoice for payment in found.data] == [invoice.id]
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.invoices.pay(invoice.id)
    assert error.value.code == "invoice_already_paid"


def test_declined_card_raises_and_leaves_the_invoice_open(fake: Fake) -> None:
    customer = fake.customer(works=False)
    invoice = make_draft(fake, customer.id, 500)
    with pytest.raises(stripe.CardError) as error:
        fake.v1.invoices.pay(invoice.id)
    assert (error.value.http_status, error.value.code) == (402, "card_declined")
    failed = fake.v1.invoices.retrieve(invoice.id)
    assert (failed.status, failed.attempted, failed.attempt_count) == ("open", True, 1)
    assert fake.v1.customers.retrieve(customer.id).delinquent
    fake.control(f"/_customers/{customer.id}/card", works=True)
    assert fake.v1.invoices.pay(invoice.id).status == "paid"
    assert not fake.v1.customers.retrieve(customer.id).delinquent


def test_invoice_without_a_card_cannot_be_paid(fake: Fake) -> None:
    invoice = make_draft(fake, fake.customer(works=None).id, 500)
    with pytest.raises(stripe.InvalidRequestError, match="default_payment_method"):
        fake.v1.invoices.pay(invoice.id)


def test_auto_advance_invoice_is_paid_after_an_hour(fake: Fake) -> None:
    customer = fake.customer()
    still, moving = make_draft(fake, customer.id, 500), make_draft(fake, customer.id, 600, auto_advance=True)
    assert moving.automatically_finalizes_at == START + HOUR
    fake.advance(HOUR - 1)
    assert fake.v1.invoices.retrieve(moving.id).status == "draft"
    fake.advance(1)
    assert fake.v1.invoices.retrieve(moving.id).status == "paid"
    assert fake.v1.invoices.retrieve(still.id).status == "draft"


def test_total_under_fifty_cents_goes_to_the_balance(fake: Fake) -> None:
    customer = fake.customer()
    small = fake.v1.invoices.pay(make_draft(fake, customer.id, 30).id)
    assert (small.status, small.amount_due, small.amount_paid, small.ending_balance) == ("paid", 0, 0, 30)
    assert fake.v1.customers.retrieve(customer.id).balance == 30
    assert fake.v1.charges.list().data == []
    both = fake.v1.invoices.pay(make_draft(fake, customer.id, 30).id)
    assert (both.total, both.starting_balance, both.amount_due, both.amount_paid) == (30, 30, 60, 60)
    assert fake.v1.customers.retrieve(customer.id).balance == 0


def test_credit_balance_pays_first(fake: Fake) -> None:
    customer = fake.customer(balance=-300)
    paid = fake.v1.invoices.pay(make_draft(fake, customer.id, 1000).id)
    assert (paid.total, paid.amount_due, paid.amount_paid, paid.ending_balance) == (1000, 700, 700, 0)


def test_drafts_can_be_deleted_and_open_invoices_voided(fake: Fake) -> None:
    customer = fake.customer()
    draft = make_draft(fake, customer.id, 500)
    assert fake.v1.invoices.delete(draft.id).deleted
    (item,) = fake.v1.invoice_items.list({"pending": True}).data
    assert item.amount == 500
    opened = fake.v1.invoices.finalize_invoice(make_draft(fake, customer.id, 500).id)
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.invoices.delete(opened.id)
    assert fake.v1.invoices.void_invoice(opened.id).status == "void"
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.invoices.pay(opened.id)
    lost = fake.v1.invoices.finalize_invoice(make_draft(fake, customer.id, 500).id)
    assert fake.v1.invoices.mark_uncollectible(lost.id).status == "uncollectible"
    assert {"invoice.deleted", "invoice.voided", "invoice.marked_uncollectible"} <= {*fake.event_types()}


def test_invoice_can_be_paid_out_of_band(fake: Fake) -> None:
    opened = fake.v1.invoices.finalize_invoice(make_draft(fake, fake.customer().id, 500).id)
    paid = fake.v1.invoices.pay(opened.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_paid_off_stripe) == ("paid", 500)
    assert fake.v1.charges.list().data == []
    assert payments_of(fake, opened.id) == [("canceled", "payment_intent"), ("paid", "payment_record")]


def test_invoice_can_be_paid_by_a_charge_without_a_payment_intent(fake: Fake) -> None:
    opened = fake.v1.invoices.finalize_invoice(make_draft(fake, fake.customer().id, 500).id)
    fake.control(f"/_invoices/{opened.id}/payment", kind="charge")
    paid = fake.v1.invoices.retrieve(opened.id)
    assert (paid.status, paid.amount_paid, paid.amount_paid_off_stripe) == ("paid", 500, 0)
    assert payments_of(fake, opened.id) == [("canceled", "payment_intent"), ("paid", "charge")]


def payments_of(fake: Fake, invoice_id: str) -> list[tuple[str, str]]:
    """The status and the type of each payment, oldest first. Each has the key of its type only."""
    listed = [one.to_dict() for one in fake.v1.invoice_payments.list({"invoice": invoice_id}).data]
    assert all(one["payment"].keys() == {"type", one["payment"]["type"]} for one in listed)
    return sorted((one["status"], one["payment"]["type"]) for one in listed)


# --- refunds and disputes --------------------------------------------------------------------------------------------


def make_charge(fake: Fake, amount: int = 1000) -> stripe.Charge:
    fake.v1.invoices.pay(make_draft(fake, fake.customer().id, amount).id)
    return fake.v1.charges.list({"limit": 1}).data[0]


def test_charge_is_refunded_in_parts_until_nothing_is_left(fake: Fake) -> None:
    charge = make_charge(fake)
    first = fake.v1.refunds.create({"charge": charge.id, "amount": 300, "reason": "requested_by_customer"})
    assert (first.amount, first.status, first.payment_intent) == (300, "succeeded", charge.payment_intent)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        fake.v1.refunds.create({"charge": charge.id, "amount": 701})
    rest = fake.v1.refunds.create({"payment_intent": str(charge.payment_intent)})
    assert rest.amount == 700
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.refunds.create({"charge": charge.id})
    assert error.value.code == "charge_already_refunded"
    part, whole = fake.v1.events.list({"type": "charge.refunded"}).data[::-1]
    assert part.data.to_dict()["previous_attributes"] == {"amount_refunded": 0}
    assert part.data.object["refunded"] is False
    assert whole.data.to_dict()["previous_attributes"] == {"amount_refunded": 300, "refunded": False}
    assert whole.data.object["amount_refunded"] == 1000
    expanded = fake.v1.charges.retrieve(charge.id, {"expand": ["refunds"]})
    assert expanded.refunds
    assert [refund.amount for refund in expanded.refunds.data] == [700, 300]
    assert [refund.id for refund in fake.v1.refunds.list({"charge": charge.id}).data] == [rest.id, first.id]


@pytest.mark.parametrize("outcome", ["won", "lost"])
def test_bank_opens_and_closes_a_dispute(fake: Fake, outcome: str) -> None:
    charge = make_charge(fake)
    dispute = fake.control("/_disputes", charge=charge.id)
    assert answer_errors("get", f"/v1/disputes/{dispute['id']}", 200, dispute) == []
    assert (dispute["status"], dispute["amount"]) == ("needs_response", 1000)
    assert fake.v1.charges.retrieve(charge.id).disputed
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.refunds.create({"charge": charge.id})
    assert error.value.code == "charge_disputed"
    fake.control("/_disputes", charge=str(charge.payment_intent), status=outcome)
    assert fake.v1.disputes.retrieve(dispute["id"]).status == outcome
    assert [dispute.id for dispute in fake.v1.disputes.list({"charge": charge.id}).data] == [dispute["id"]]
    events = [kind for kind in fake.event_types() if kind.startswith("charge.dispute")]
    assert events[0] == "charge.dispute.created"
    assert "charge.dispute.closed" in events
    assert ("charge.dispute.funds_reinstated" in events) is (outcome == "won")


def test_dispute_can_open_already_lost(fake: Fake) -> None:
    fake.control("/_disputes", charge=make_charge(fake).id, status="lost")
    events = [kind for kind in fake.event_types() if kind in ("charge.dispute.created", "charge.dispute.closed")]
    assert events == ["charge.dispute.created", "charge.dispute.closed"]
