"""The Stripe stand-in is checked through the client that will trust it, the real StripeClient: here the API itself.

Every answer that passes through that client is compared with Stripe's own description (stripe_kit.py).
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from infra.local.stripe import API_VERSION
from infra.local.stripe.clock import add_interval, next_period_end
from infra.local.stripe.endpoints import ENDPOINTS
from tests.local.stripe_kit import DAY, HOUR, START, Checking, Fake, operation, problems_of, running


@pytest.fixture(scope="module")
def served() -> Iterator[Fake]:
    with running() as fake:
        yield fake


@pytest.fixture
def fake(served: Fake) -> Fake:
    served.reset()
    return served


def refused(error: pytest.ExceptionInfo[stripe.StripeError]) -> tuple[Any, ...]:
    """Status, code and parameter of a refusal."""
    assert error.value.error is not None
    return error.value.http_status, error.value.code, error.value.error.param


# --- the manners of the API ------------------------------------------------------------------------------------------


def test_the_version_is_the_clients_own() -> None:
    assert stripe.api_version == API_VERSION


def test_every_endpoint_is_one_of_stripes() -> None:
    for endpoint in ENDPOINTS:
        assert operation(endpoint.method.lower(), re.sub(r"\{\w+\}", "some_id", endpoint.path))


def test_every_parameter_is_one_of_the_clients_types() -> None:
    from infra.local.stripe.forms import fields_of

    for endpoint in ENDPOINTS:
        known, _ = fields_of(endpoint.param_type)
        assert {use.partition(".")[0] for use in endpoint.supported} - known.keys() <= {"expand", "created"}, (
            endpoint.path
        )


@pytest.mark.parametrize("key", ["sk_test_other", ""])
def test_a_wrong_key_is_refused(fake: Fake, key: str) -> None:
    answer = fake.http.get("/v1/customers", headers={"authorization": f"Bearer {key}".strip()})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(stripe.AuthenticationError):
        fake.connect("sk_test_other").v1.customers.list()


def test_a_key_may_be_a_basic_username_as_with_curl(fake: Fake) -> None:
    assert fake.http.get("/v1/customers", auth=("sk_test_local", "")).status_code == 200


def test_another_version_is_refused(fake: Fake) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=re.escape(API_VERSION)):
        fake.v1.customers.list(options={"stripe_version": "2024-06-20"})


def test_answers_carry_their_request_id_and_version(fake: Fake) -> None:
    customer = fake.v1.customers.create({})
    response = customer.last_response
    assert response
    assert response.request_id
    assert response.request_id.startswith("req_")
    assert response.headers["stripe-version"] == API_VERSION


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda v1: v1.customers.create({"emial": "x"}), (400, "parameter_unknown", "emial")),
        (
            lambda v1: v1.subscriptions.create({"customer": "c", "items": [{"prize": "p"}]}),
            (400, "parameter_unknown", "items[0][prize]"),
        ),
        (lambda v1: v1.prices.create({"unit_amount": 5}), (400, "parameter_missing", "currency")),
        (lambda v1: v1.prices.create({"currency": "usd", "unit_amount": 5}), (400, "parameter_missing", "product")),
        (lambda v1: v1.products.create({}), (400, "parameter_missing", "name")),
        (lambda v1: v1.subscriptions.create({}), (400, "parameter_missing", "customer")),
        (lambda v1: v1.checkout.sessions.create({}), (400, "parameter_missing", "mode")),
        (lambda v1: v1.invoices.create({}), (400, "parameter_missing", "customer")),
        (lambda v1: v1.refunds.create({}), (400, "parameter_missing", "payment_intent")),
        (lambda v1: v1.customers.create({"balance": "much"}), (400, "parameter_invalid_integer", "balance")),
        (lambda v1: v1.customers.create({"email": ""}), (400, "parameter_invalid_empty", "email")),
        (lambda v1: v1.invoices.list({"status": "lost"}), (400, None, "status")),
        (lambda v1: v1.invoices.create({"customer": "c", "auto_advance": "maybe"}), (400, None, "auto_advance")),
        (lambda v1: v1.subscriptions.create({"items": "p"}), (400, None, "items")),
        (lambda v1: v1.customers.list({"limit": 101}), (400, None, "limit")),
        (lambda v1: v1.customers.create({"tax_exempt": "reverse"}), (400, "not_in_this_stand_in", "tax_exempt")),
        (
            lambda v1: v1.checkout.sessions.create({"subscription_data": {"trial_period_days": 3}}),
            (400, "not_in_this_stand_in", "subscription_data.trial_period_days"),
        ),
        (lambda v1: v1.customers.retrieve("cus_0"), (404, "resource_missing", "id")),
        (lambda v1: v1.subscriptions.update("sub_0", {}), (404, "resource_missing", "id")),
        (lambda v1: v1.subscriptions.create({"customer": "cus_0"}), (404, "resource_missing", "customer")),
        (lambda v1: v1.customers.list({"starting_after": "cus_0"}), (404, "resource_missing", "starting_after")),
        (lambda v1: v1.customers.list({"expand": ["data.email"]}), (400, None, "expand")),
        (lambda v1: v1.coupons.list(), (404, None, None)),
    ],
)
def test_a_request_that_stripe_would_refuse_is_refused_in_its_words(
    fake: Fake, call: Any, expected: tuple[Any, ...]
) -> None:
    fake.v1.customers.create({"email": "x@example.test"})
    with pytest.raises(stripe.InvalidRequestError) as error:
        call(fake.v1)
    assert refused(error) == expected


# --- idempotency -----------------------------------------------------------------------------------------------------


def test_a_repeated_key_is_answered_with_the_first_answer(fake: Fake) -> None:
    first = fake.v1.customers.create({"email": "a@example.test"}, {"idempotency_key": "k1"})
    again = fake.v1.customers.create({"email": "a@example.test"}, {"idempotency_key": "k1"})
    assert again.id == first.id
    assert first.last_response
    assert again.last_response
    assert "idempotent-replayed" not in first.last_response.headers
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert len(fake.v1.customers.list().data) == 1


def test_a_key_with_other_parameters_is_refused(fake: Fake) -> None:
    fake.v1.customers.create({"email": "a@example.test"}, {"idempotency_key": "k1"})
    with pytest.raises(stripe.IdempotencyError) as error:
        fake.v1.customers.create({"email": "b@example.test"}, {"idempotency_key": "k1"})
    assert error.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError):
        fake.v1.products.create({"name": "a"}, {"idempotency_key": "k1"})


def test_a_key_is_forgotten_after_a_day(fake: Fake) -> None:
    first = fake.v1.customers.create({}, {"idempotency_key": "k1"})
    fake.advance(DAY)
    assert fake.v1.customers.create({}, {"idempotency_key": "k1"}).id != first.id


def test_a_refusal_is_remembered_once_work_has_begun_and_not_before(fake: Fake) -> None:
    customer = fake.customer(works=False)
    fake.v1.invoice_items.create({"customer": customer.id, "amount": 500, "currency": "usd"})
    invoice = fake.v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            fake.v1.invoices.pay(invoice.id, {}, {"idempotency_key": "k1"})
    assert fake.happened().count("invoice.payment_failed") == 1
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.products.create({}, {"idempotency_key": "k2"})
    assert fake.v1.products.create({"name": "now"}, {"idempotency_key": "k2"}).name == "now"


async def test_a_key_in_use_is_refused_with_409(fake: Fake) -> None:
    fake.control("/_faults", method="POST", path="/v1/customers", seconds=0.5)
    http = Checking()
    client = fake.connect(http=http)
    options: Any = {"idempotency_key": "k1"}
    results = await asyncio.gather(
        *(client.v1.customers.create_async({}, options) for _ in range(2)), return_exceptions=True
    )
    (error,) = [one for one in results if isinstance(one, stripe.StripeError)]
    assert error.error
    assert (error.http_status, error.error.code) == (409, "idempotency_key_in_use")
    assert len(fake.v1.customers.list().data) == 1
    await http.close_async()


@pytest.mark.parametrize("lost", [False, True])
def test_a_retry_by_the_client_itself_happens_once(fake: Fake, lost: bool) -> None:
    """A failure before the work, and one after it: the client sends the same key again."""
    fake.control("/_faults", method="POST", path="/v1/customers", status=503, lost=lost)
    http = Checking(allow_sync_methods=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stripe.HTTPClient, "_sleep_time_seconds", lambda *_, **__: 0)
        fake.connect(http=http, retries=2).v1.customers.create({"email": "a@example.test"})
    http.close()
    assert len(fake.v1.customers.list().data) == 1
    first, second = [one for one in fake.http.get("/_requests").json() if one["method"] == "POST"]
    assert (first["status"], second["status"]) == (503, 200)
    assert first["idempotency_key"] == second["idempotency_key"]


# --- customers, products, prices -------------------------------------------------------------------------------------


def test_customers_live_as_they_do_at_stripe(fake: Fake) -> None:
    v1 = fake.v1
    made = v1.customers.create({"email": "a@example.test", "name": "Ada", "metadata": {"user": "1", "old": "x"}})
    assert (made.email, made.name, made.created, made.livemode) == ("a@example.test", "Ada", START, False)
    changed = v1.customers.update(made.id, {"name": "Lovelace", "metadata": {"user": "2", "old": ""}})
    assert changed.name == "Lovelace"
    assert changed.metadata
    assert changed.metadata.to_dict() == {"user": "2"}
    assert v1.customers.update(made.id, {"metadata": ""}).to_dict()["metadata"] == {}
    v1.customers.create({"email": "b@example.test"})
    assert [one.id for one in v1.customers.list({"email": "a@example.test"}).data] == [made.id]
    v1.customers.update(made.id, {"metadata": {"user": "2"}})
    assert [one.id for one in v1.customers.search({"query": "metadata['user']:'2'"}).data] == [made.id]
    assert [one.id for one in v1.customers.search({"query": 'email:"a@example.test" AND name:"x"'}).data] == []
    assert v1.customers.delete(made.id).deleted
    assert v1.customers.retrieve(made.id).deleted
    with pytest.raises(stripe.InvalidRequestError):
        v1.customers.update(made.id, {"name": "x"})
    assert fake.happened()[0] == "customer.created"
    assert fake.happened()[-1] == "customer.deleted"


def test_an_update_tells_what_it_replaced(fake: Fake) -> None:
    customer = fake.v1.customers.create({"email": "a@example.test", "metadata": {"a": "1", "b": "2"}})
    fake.v1.customers.update(customer.id, {"email": "b@example.test", "metadata": {"a": "3"}})
    fake.v1.customers.update(customer.id, {"email": "b@example.test"})  # nothing changes, nothing happens
    (event,) = fake.v1.events.list({"type": "customer.updated"}).data
    data = event.data.to_dict()
    assert data["previous_attributes"] == {"email": "a@example.test", "metadata": {"a": "1"}}
    assert data["object"]["email"] == "b@example.test"


def test_lists_are_walked_page_by_page_newest_first(fake: Fake) -> None:
    ids = [fake.v1.customers.create({"name": str(number)}).id for number in range(7)]
    first = fake.v1.customers.list({"limit": 3})
    assert [one.id for one in first.data] == ids[:3:-1]
    assert first.has_more
    second = fake.v1.customers.list({"limit": 3, "starting_after": first.data[-1].id})
    assert [one.id for one in second.data] == ids[3:0:-1]
    back = fake.v1.customers.list({"limit": 2, "ending_before": second.data[-1].id})
    assert [one.id for one in back.data] == [ids[3], ids[2]]
    assert [one.id for one in fake.v1.customers.list({"limit": 3}).auto_paging_iter()] == ids[::-1]
    assert not fake.v1.customers.list({"created": {"gt": START}}).data
    assert len(fake.v1.customers.list({"created": START, "limit": 100}).data) == 7


async def test_the_async_client_works_alike(fake: Fake) -> None:
    http = Checking()
    v1 = fake.connect(http=http).v1
    for number in range(3):
        await v1.customers.create_async({"name": str(number)})
    page = await v1.customers.list_async({"limit": 2})
    assert [one.name async for one in page.auto_paging_iter()] == ["2", "1", "0"]
    await http.close_async()


def test_a_price_is_found_by_its_lookup_key_which_can_move(fake: Fake) -> None:
    first = fake.price(999, lookup_key="basic")
    with pytest.raises(stripe.InvalidRequestError, match="already uses that lookup key"):
        fake.price(1099, lookup_key="basic")
    second = fake.price(1099, lookup_key="basic", transfer_lookup_key=True)
    other = fake.price(2999, lookup_key="pro")
    found = fake.v1.prices.list({"lookup_keys": ["basic", "pro"], "expand": ["data.product"]}).data
    assert [(one.id, one.unit_amount) for one in found] == [(other.id, 2999), (second.id, 1099)]
    assert isinstance(found[0].product, stripe.Product)
    assert fake.v1.prices.retrieve(first.id).lookup_key is None
    assert fake.v1.prices.update(first.id, {"active": False}).active is False
    assert [one.id for one in fake.v1.prices.list({"active": False}).data] == [first.id]


def test_a_price_may_be_a_fraction_of_a_cent(fake: Fake) -> None:
    price = fake.price("2.50", interval=None)
    assert (price.unit_amount, str(price.unit_amount_decimal), price.type) == (None, "2.5", "one_time")
    whole = fake.price(1000)
    assert (whole.unit_amount, str(whole.unit_amount_decimal), whole.type) == (1000, "1000", "recurring")


def test_products_can_be_changed_and_have_the_id_they_were_given(fake: Fake) -> None:
    product = fake.v1.products.create({"id": "prod_basic", "name": "Basic"})
    assert product.id == "prod_basic"
    assert fake.v1.products.update("prod_basic", {"name": "Base", "active": False}).name == "Base"
    assert fake.v1.products.list({"active": True}).data == []
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        fake.v1.products.create({"id": "prod_basic", "name": "Basic"})


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


def test_items_wait_until_an_invoice_takes_them(fake: Fake) -> None:
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
    assert [one.id for one in fake.v1.invoice_items.list({"customer": customer.id, "pending": True}).data] == [item.id]
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
    assert [one.id for one in fake.v1.invoice_items.list({"invoice": invoice.id}).data] == [item.id]
    paid = fake.v1.invoices.pay(invoice.id)
    assert (paid.status, paid.amount_paid, paid.amount_remaining) == ("paid", 500, 0)
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.invoice_items.delete(item.id)
    assert error.value.code == "invoice_not_editable"


def test_an_item_on_a_draft_changes_what_it_comes_to(fake: Fake) -> None:
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
    assert refused(error) == (400, "invoice_not_editable", "invoice")


def test_a_recurring_price_is_no_invoice_item(fake: Fake) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="one_time"):
        fake.v1.invoice_items.create({"customer": fake.customer().id, "pricing": {"price": fake.price().id}})


def billed(fake: Fake, customer: str, amount: int, **more: Any) -> stripe.Invoice:
    """A draft over an amount."""
    fake.v1.invoice_items.create({"customer": customer, "amount": amount, "currency": "usd"})
    return fake.v1.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include", **more})


def test_an_invoice_is_paid_through_a_payment_intent_that_can_be_found(fake: Fake) -> None:
    customer = fake.customer()
    invoice = billed(fake, customer.id, 500)
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
    assert [one.invoice for one in found.data] == [invoice.id]
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.invoices.pay(invoice.id)
    assert error.value.code == "invoice_already_paid"


def test_a_declined_card_is_a_card_error_and_leaves_the_invoice_open(fake: Fake) -> None:
    customer = fake.customer(works=False)
    invoice = billed(fake, customer.id, 500)
    with pytest.raises(stripe.CardError) as error:
        fake.v1.invoices.pay(invoice.id)
    assert (error.value.http_status, error.value.code) == (402, "card_declined")
    failed = fake.v1.invoices.retrieve(invoice.id)
    assert (failed.status, failed.attempted, failed.attempt_count) == ("open", True, 1)
    assert fake.v1.customers.retrieve(customer.id).delinquent
    fake.control(f"/_customers/{customer.id}/card", works=True)
    assert fake.v1.invoices.pay(invoice.id).status == "paid"
    assert not fake.v1.customers.retrieve(customer.id).delinquent


def test_without_a_card_there_is_nothing_to_pay_with(fake: Fake) -> None:
    invoice = billed(fake, fake.customer(works=None).id, 500)
    with pytest.raises(stripe.InvalidRequestError, match="default_payment_method"):
        fake.v1.invoices.pay(invoice.id)


def test_an_invoice_advances_by_itself_an_hour_later_if_it_may(fake: Fake) -> None:
    customer = fake.customer()
    still, moving = billed(fake, customer.id, 500), billed(fake, customer.id, 600, auto_advance=True)
    assert moving.automatically_finalizes_at == START + HOUR
    fake.advance(HOUR - 1)
    assert fake.v1.invoices.retrieve(moving.id).status == "draft"
    fake.advance(1)
    assert fake.v1.invoices.retrieve(moving.id).status == "paid"
    assert fake.v1.invoices.retrieve(still.id).status == "draft"


def test_less_than_fifty_cents_is_not_charged_but_owed(fake: Fake) -> None:
    customer = fake.customer()
    small = fake.v1.invoices.pay(billed(fake, customer.id, 30).id)
    assert (small.status, small.amount_due, small.amount_paid, small.ending_balance) == ("paid", 0, 0, 30)
    assert fake.v1.customers.retrieve(customer.id).balance == 30
    assert fake.v1.charges.list().data == []
    both = fake.v1.invoices.pay(billed(fake, customer.id, 30).id)
    assert (both.total, both.starting_balance, both.amount_due, both.amount_paid) == (30, 30, 60, 60)
    assert fake.v1.customers.retrieve(customer.id).balance == 0


def test_a_credit_balance_pays_first(fake: Fake) -> None:
    customer = fake.customer(balance=-300)
    paid = fake.v1.invoices.pay(billed(fake, customer.id, 1000).id)
    assert (paid.total, paid.amount_due, paid.amount_paid, paid.ending_balance) == (1000, 700, 700, 0)


def test_drafts_can_be_deleted_and_open_invoices_voided(fake: Fake) -> None:
    customer = fake.customer()
    draft = billed(fake, customer.id, 500)
    assert fake.v1.invoices.delete(draft.id).deleted
    (item,) = fake.v1.invoice_items.list({"pending": True}).data
    assert item.amount == 500
    opened = fake.v1.invoices.finalize_invoice(billed(fake, customer.id, 500).id)
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.invoices.delete(opened.id)
    assert fake.v1.invoices.void_invoice(opened.id).status == "void"
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.invoices.pay(opened.id)
    lost = fake.v1.invoices.finalize_invoice(billed(fake, customer.id, 500).id)
    assert fake.v1.invoices.mark_uncollectible(lost.id).status == "uncollectible"
    assert {"invoice.deleted", "invoice.voided", "invoice.marked_uncollectible"} <= {*fake.happened()}


def test_an_invoice_can_be_paid_elsewhere(fake: Fake) -> None:
    opened = fake.v1.invoices.finalize_invoice(billed(fake, fake.customer().id, 500).id)
    paid = fake.v1.invoices.pay(opened.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_paid_off_stripe) == ("paid", 500)
    assert fake.v1.charges.list().data == []


# --- refunds and disputes --------------------------------------------------------------------------------------------


def charged(fake: Fake, amount: int = 1000) -> stripe.Charge:
    fake.v1.invoices.pay(billed(fake, fake.customer().id, amount).id)
    return fake.v1.charges.list({"limit": 1}).data[0]


def test_a_refund_may_be_partial_until_nothing_is_left(fake: Fake) -> None:
    charge = charged(fake)
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
    assert [one.amount for one in expanded.refunds.data] == [700, 300]
    assert [one.id for one in fake.v1.refunds.list({"charge": charge.id}).data] == [rest.id, first.id]


@pytest.mark.parametrize("outcome", ["won", "lost"])
def test_a_dispute_is_opened_and_ended_by_the_bank(fake: Fake, outcome: str) -> None:
    charge = charged(fake)
    dispute = fake.control("/_disputes", charge=charge.id)
    assert problems_of("get", f"/v1/disputes/{dispute['id']}", 200, dispute) == []
    assert (dispute["status"], dispute["amount"]) == ("needs_response", 1000)
    assert fake.v1.charges.retrieve(charge.id).disputed
    with pytest.raises(stripe.InvalidRequestError) as error:
        fake.v1.refunds.create({"charge": charge.id})
    assert error.value.code == "charge_disputed"
    fake.control("/_disputes", charge=str(charge.payment_intent), status=outcome)
    assert fake.v1.disputes.retrieve(dispute["id"]).status == outcome
    assert [one.id for one in fake.v1.disputes.list({"charge": charge.id}).data] == [dispute["id"]]
    events = [one for one in fake.happened() if one.startswith("charge.dispute")]
    assert events[0] == "charge.dispute.created"
    assert "charge.dispute.closed" in events
    assert ("charge.dispute.funds_reinstated" in events) is (outcome == "won")


def test_a_dispute_may_come_already_lost(fake: Fake) -> None:
    fake.control("/_disputes", charge=charged(fake).id, status="lost")
    events = [one for one in fake.happened() if one in ("charge.dispute.created", "charge.dispute.closed")]
    assert events == ["charge.dispute.created", "charge.dispute.closed"]


# --- the calendar ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "interval", "ends"),
    [
        ("2026-01-31", "month", ["2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]),
        ("2024-01-30", "month", ["2024-02-29", "2024-03-30"]),
        ("2024-02-29", "year", ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
        ("2026-12-31", "day", ["2027-01-01", "2027-01-02"]),
        ("2026-01-01", "week", ["2026-01-08", "2026-01-15"]),
    ],
)
def test_periods_are_counted_from_the_anchor(anchor: str, interval: str, ends: list[str]) -> None:
    from datetime import UTC, datetime

    def at(day: str) -> int:
        return int(datetime.fromisoformat(f"{day}T08:30:00").replace(tzinfo=UTC).timestamp())

    found, start = [], at(anchor)
    for _ in ends:
        start = next_period_end(at(anchor), interval, 1, start)
        found.append(datetime.fromtimestamp(start, UTC).date().isoformat())
    assert found == ends
    assert add_interval(at("2026-11-30"), "month", 3) == at("2027-02-28")
    assert next_period_end(at("2026-01-31"), "month", 3, at("2026-04-30")) == at("2026-07-31")


# --- the control surface ---------------------------------------------------------------------------------------------


def test_ids_are_the_same_on_every_run_and_never_used_twice() -> None:
    with running(seed="same") as first:
        one = first.v1.customers.create({})
        assert (one.id, first.v1.customers.create({}).id) == ("cus_same00000001", "cus_same00000002")
        first.reset()
        assert first.v1.customers.create({}).id == "cus_same00000003"
        assert first.http.get("/_state").json()["customer"][0]["id"] == "cus_same00000003"
        with pytest.raises(stripe.InvalidRequestError):
            first.v1.customers.retrieve(one.id)


def test_time_goes_only_forward(fake: Fake) -> None:
    assert fake.now == START
    assert fake.control("/_clock", to=START + 5) == {"now": START + 5}
    for wrong in ({"to": START}, {"advance": -1}, {}, {"advance": 1, "to": START + 9}, {"forward": 1}):
        assert fake.http.post("/_clock", json=wrong).status_code == 400


def test_a_clock_that_runs_goes_on_from_where_it_was_moved_to() -> None:
    with running(start=None) as fake:
        before = fake.now
        assert fake.advance(40 * DAY) in range(before + 40 * DAY, before + 40 * DAY + 5)
        assert fake.now >= before + 40 * DAY


def test_a_clock_that_runs_lets_things_happen_by_themselves() -> None:
    with running(start=None) as fake:
        subscription = fake.subscribe(fake.customer().id, fake.price().id)
        ended = subscription["items"].data[0].current_period_end
        fake.control("/_clock", to=ended - 1)
        for _ in range(100):
            if fake.subscription(subscription.id)["items"].data[0].current_period_end > ended:
                return
            time.sleep(0.1)
        raise AssertionError("the renewal never came")


def test_the_state_survives_a_restart_where_a_file_is_named(tmp_path: Path) -> None:
    kept: Any = {"state_path": str(tmp_path / "stripe.json"), "seed": ""}
    with running(**kept) as fake:
        customer, price = fake.customer(), fake.price(999, lookup_key="basic")
        subscription = fake.subscribe(customer.id, price.id)
        fake.v1.customers.create({}, {"idempotency_key": "k1"})
    with running(**{**kept, "start": START + 31 * DAY + HOUR}) as fake:
        assert fake.subscription(subscription.id).status == "active"
        assert len(fake.v1.customers.list().data) == 2
        fake.v1.customers.create({}, {"idempotency_key": "k1"})
        fake.advance(HOUR)
        assert [one.status for one in fake.invoices()] == ["paid", "paid"]
        fresh = fake.v1.customers.create({})
        assert fresh.id not in (customer.id, "cus_t00000001")
        assert json.loads((tmp_path / "stripe.json").read_text())


def test_the_home_page_shows_what_exists_and_lets_time_pass(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer().id, fake.price().id)
    page = fake.http.get("/")
    assert subscription.id in page.text
    assert "customer.subscription.created" in page.text
    answer = fake.http.post("/", data={"advance": str(31 * DAY)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert fake.now == START + 31 * DAY
    assert isinstance(answer, httpx.Response)
