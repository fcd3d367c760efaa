"""Automatic tax of the Stripe stand-in, on invoices and in Checkout."""

import pytest
import stripe

from tests.local.stripe.kit import DAY, HOUR, Fake, error_fields

AUTOMATIC: dict[str, bool] = {"enabled": True}
ONTARIO = {"country": "CA", "state": "ON"}


def test_the_settings_tell_whether_tax_can_be_collected(fake: Fake) -> None:
    settings = fake.v1.tax.settings.retrieve()
    assert (settings.status, settings.head_office and settings.head_office.address.country) == ("active", "CA")
    assert [one.country for one in fake.v1.tax.registrations.list({"status": "active"}).data] == ["CA"]
    assert fake.v1.tax.registrations.list({"status": "expired"}).data == []
    fake.control("/_tax", is_set_up=False)
    settings = fake.v1.tax.settings.retrieve()
    assert (settings.status, settings.head_office) == ("pending", None)
    assert settings.status_details.pending
    assert settings.status_details.pending.missing_fields == ["head_office"]
    assert fake.v1.tax.registrations.list().data == []


@pytest.mark.parametrize(
    ("address", "taxes"),
    [
        (ONTARIO, {"txr_hst_13": 130}),
        ({"country": "CA", "state": "QC"}, {"txr_gst": 50, "txr_qst": 100}),
        ({"country": "CA", "state": "AB"}, {"txr_gst": 50}),
        ({"country": "US", "state": "NY"}, {}),
    ],
)
def test_an_invoice_has_the_taxes_of_the_province(fake: Fake, address: dict[str, str], taxes: dict[str, int]) -> None:
    customer = fake.customer(address=address)
    subscription = fake.subscribe(customer.id, fake.price(999).id, automatic_tax=AUTOMATIC)
    (invoice,) = fake.invoices()
    found = {tax.tax_rate_details.tax_rate: tax.amount for tax in invoice.total_taxes or [] if tax.tax_rate_details}
    assert found == taxes
    assert (invoice.subtotal, invoice.total_excluding_tax) == (999, 999)
    assert invoice.amount_paid == invoice.total == 999 + sum(taxes.values())
    assert (subscription.automatic_tax.enabled, invoice.automatic_tax.status) == (True, "complete")


def test_items_of_a_renewal_are_taxed(fake: Fake) -> None:
    customer = fake.customer(address=ONTARIO)
    fake.subscribe(customer.id, fake.price(1000).id, automatic_tax=AUTOMATIC)
    fake.v1.invoice_items.create({"customer": customer.id, "currency": "usd", "amount": 100})
    fake.advance(31 * DAY + 2 * HOUR)
    renewal = fake.invoices()[0]
    assert [(line.amount, [tax.amount for tax in line.taxes or []]) for line in renewal.lines.data] == [
        (100, [13]),
        (1000, [130]),
    ]
    assert (renewal.subtotal, renewal.total, renewal.amount_paid) == (1100, 1243, 1243)


def test_an_unknown_location_stops_the_finalization(fake: Fake) -> None:
    customer = fake.customer()
    fake.v1.invoice_items.create({"customer": customer.id, "currency": "usd", "amount": 100})
    invoice = fake.v1.invoices.create(
        {"customer": customer.id, "automatic_tax": {"enabled": True}, "pending_invoice_items_behavior": "include"}
    )
    assert invoice.automatic_tax.status == "requires_location_inputs"
    assert invoice.id
    with pytest.raises(stripe.InvalidRequestError) as refused:
        fake.v1.invoices.finalize_invoice(invoice.id)
    assert error_fields(refused) == (400, "customer_tax_location_invalid", None)
    fake.v1.customers.update(customer.id, {"address": {"country": "CA", "state": "ON"}})
    assert fake.v1.invoices.finalize_invoice(invoice.id).total == 113


def test_checkout_taxes_the_address_of_the_page(fake: Fake) -> None:
    customer, price = fake.customer(works=None), fake.price(1000, None)
    session = fake.checkout(
        "payment", price.id, customer=customer.id, automatic_tax=AUTOMATIC, customer_update={"address": "auto"}
    )
    assert session.automatic_tax.status == "requires_location_inputs"
    assert (session.amount_subtotal, session.amount_total) == (1000, 1000)
    assert session.url
    assert "<option selected>ON</option>" in fake.http.get(session.url).text
    assert fake.http.post(session.url, data={"way": "good_card", "province": "QC"}).status_code == 303
    done = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent", "line_items"]})
    assert done.total_details
    assert (done.amount_subtotal, done.total_details.amount_tax, done.amount_total) == (1000, 150, 1150)
    assert isinstance(done.payment_intent, stripe.PaymentIntent)
    assert done.payment_intent.amount_received == 1150
    saved = fake.v1.customers.retrieve(customer.id).address
    assert saved
    assert saved.state == "QC"
    again = fake.checkout("payment", price.id, customer=customer.id, automatic_tax=AUTOMATIC)
    assert (again.automatic_tax.status, again.amount_total) == ("complete", 1150)


def test_checkout_needs_an_address_to_tax(fake: Fake) -> None:
    customer, price = fake.customer(works=None), fake.price(1000, None)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        fake.checkout("payment", price.id, customer=customer.id, automatic_tax=AUTOMATIC)
    assert error_fields(refused) == (400, "customer_tax_location_invalid", None)
